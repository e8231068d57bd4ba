use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use event_listener::{Event, EventListener};
use syntha_store::Rule;

use crate::bounds::Seat;
use crate::error::{Error, ErrorKind, Result};
use crate::names::AgentName;
use crate::session_grants::SessionGrants;

/// What a session hangs on outside of the mesh, such as a token: asked on every call of every handle, so it waits for nothing.
pub trait Standing: Send + Sync {
    /// What the session may do now, at most; or that it may do nothing.
    ///
    /// # Errors
    ///
    /// [`Lapsed`].
    fn ask(&self) -> Result<SessionGrants, Lapsed>;
}

/// Why a session that has not been ended may do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lapsed {
    /// It has ended.
    Ended,
    /// Nobody could say lately whether it still holds. It may hold again.
    Unconfirmed,
}

/// Says whether the session that handles belong to is still alive. Every handle carries one and asks it on every call,
/// so that a handle that was cloned out of a session ends with it.
#[derive(Clone)]
pub struct Guard {
    end: Arc<End>,
    /// The guard of the handle that this one was made from: a session can't be left by starting another in it.
    outer: Option<Arc<Self>>,
    /// What the audit trail calls the session.
    number: Option<u64>,
    /// What handles of the session may do.
    grants: SessionGrants,
    /// The one agent that may do anything; `None` for the host and every agent.
    only: Option<AgentName>,
    standing: Option<Arc<dyn Standing>>,
    /// Dropped with the last handle.
    #[allow(dead_code, reason = "it is held, never read")]
    kept: Option<Arc<dyn Any + Send + Sync>>,
    /// The session's place among its user's, until it ends or its last handle is dropped.
    #[allow(dead_code, reason = "it is held, never read")]
    seat: Option<Arc<Seat>>,
}

/// Ends the session of a [`Guard`].
#[derive(Clone)]
pub struct Revoker(Arc<End>);

/// Whether a session has ended, and who waits for it.
#[derive(Default)]
struct End {
    ended: AtomicBool,
    event: Event,
    /// Weak: whoever can end the session keeps it from nothing.
    seat: OnceLock<Weak<Seat>>,
}

impl Guard {
    /// A guard and what ends it.
    #[must_use]
    pub fn new() -> (Self, Revoker) {
        let end = Arc::new(End::default());
        // In 53 bits, so that every reader of JSON keeps it (RFC 8259, section 6).
        let number = getrandom::u64().ok().map(|number| number >> 11);
        (Self { end: Arc::clone(&end), number, ..Self::none() }, Revoker(end))
    }

    /// Of no session: a mesh's own.
    pub(crate) fn none() -> Self {
        Self {
            end: Arc::default(),
            outer: None,
            number: None,
            grants: SessionGrants::ALL,
            only: None,
            standing: None,
            kept: None,
            seat: None,
        }
    }

    /// The session's number in the audit trail: random, below 2^53. `None` if the system had no random source when the guard was made.
    #[must_use]
    pub const fn session(&self) -> Option<u64> {
        self.number
    }

    /// The same guard, which keeps something alive as long as a handle of the session is.
    #[must_use]
    pub fn keeping(mut self, kept: Arc<dyn Any + Send + Sync>) -> Self {
        self.kept = Some(kept);
        self
    }

    /// The same guard, whose session has a place among those that its user may have open: [`Mesh::seat`](crate::Mesh::seat). It gives it up
    /// when it ends, or with its last handle.
    #[must_use]
    pub fn seated(mut self, seat: Seat) -> Self {
        let seat = Arc::new(seat);
        // One end has one seat: a second guard of it keeps its own as long as its handles are there.
        let _ = self.end.seat.set(Arc::downgrade(&seat));
        self.seat = Some(seat);
        self
    }

    /// The same guard, whose handles may do only this. Without it they may do everything; again only takes away.
    #[must_use]
    pub const fn with_grants(mut self, grants: SessionGrants) -> Self {
        self.grants = self.grants.common(grants);
        self
    }

    /// The same guard, whose calls are refused unless one agent makes them: the host's own calls too, by the rule `session-grants`.
    #[must_use]
    pub fn only(mut self, agent: AgentName) -> Self {
        self.only = Some(agent);
        self
    }

    /// The same guard, which also holds only while something outside does, and lets its handles do no more than that says.
    #[must_use]
    pub fn while_standing(mut self, standing: Arc<dyn Standing>) -> Self {
        self.standing = Some(standing);
        self
    }

    /// What its handles may do now.
    #[must_use]
    pub fn grants(&self) -> SessionGrants {
        let mut grants = self.grants;
        let mut guard = Some(self);
        while let Some(one) = guard {
            if let Some(standing) = &one.standing {
                grants = grants.common(standing.ask().unwrap_or(SessionGrants::NONE));
            }
            guard = one.outer.as_deref();
        }
        grants
    }

    /// What may be done by the agent, or by the host: nothing if the session is another agent's.
    pub(crate) fn grants_for(&self, agent: Option<&str>) -> SessionGrants {
        let mut guard = Some(self);
        while let Some(one) = guard {
            if one.only.as_ref().is_some_and(|only| agent != Some(only.as_str())) {
                return SessionGrants::NONE;
            }
            guard = one.outer.as_deref();
        }
        self.grants()
    }

    #[cfg(feature = "faults")]
    pub(crate) fn unbound(mut self) -> Self {
        self.only = None;
        self
    }

    #[cfg(feature = "faults")]
    pub(crate) fn unasked(mut self) -> Self {
        self.standing = None;
        self
    }

    #[cfg(feature = "faults")]
    pub(crate) fn ungranted(mut self) -> Self {
        self.grants = SessionGrants::ALL;
        (self.only, self.standing) = (None, None);
        self
    }

    pub(crate) fn within(mut self, outer: &Self) -> Self {
        // INVARIANT: a session in a session may do what both may.
        self.grants = self.grants.common(outer.grants);
        self.outer = Some(Arc::new(outer.clone()));
        self
    }

    /// Why it may do nothing now. An end outweighs what nobody could say.
    fn lapsed(&self) -> Option<Lapsed> {
        if self.end.ended.load(Ordering::Acquire) {
            return Some(Lapsed::Ended);
        }
        let own = self.standing.as_ref().and_then(|standing| standing.ask().err());
        if own == Some(Lapsed::Ended) {
            return own;
        }
        self.outer.as_ref().and_then(|outer| outer.lapsed()).or(own)
    }

    /// One for each session that ends what this guard guards. Whoever listens asks [`check`](Self::check) after that.
    pub(crate) fn listen(&self) -> Vec<EventListener> {
        let (mut listeners, mut guard) = (Vec::new(), Some(self));
        while let Some(one) = guard {
            listeners.push(one.end.event.listen());
            guard = one.outer.as_deref();
        }
        listeners
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.lapsed() {
            None => Ok(()),
            Some(Lapsed::Ended) => {
                Err(Error::new(ErrorKind::SessionEnded, "the session has ended, ask for a new one"))
            }
            Some(Lapsed::Unconfirmed) => {
                let message = "whether the session still holds could not be asked for lately, try again";
                Err(Error::new(ErrorKind::Busy, message).by(Rule::Session))
            }
        }
    }
}

impl Revoker {
    /// Ends the session: every call after this one fails, and a watch that waits wakes and ends.
    pub fn revoke(&self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.event.notify(usize::MAX);
        if let Some(seat) = self.0.seat.get().and_then(Weak::upgrade) {
            seat.give_up();
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard(ended: {})", self.end.ended.load(Ordering::Acquire))
    }
}

impl fmt::Debug for Revoker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revoker")
    }
}
