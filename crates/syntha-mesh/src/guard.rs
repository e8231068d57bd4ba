use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_listener::{Event, EventListener};

use crate::error::{Error, ErrorKind, Result};
use crate::session_grants::SessionGrants;

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
    /// Dropped with the last handle.
    #[allow(dead_code, reason = "it is held, never read")]
    kept: Option<Arc<dyn Any + Send + Sync>>,
}

/// Ends the session of a [`Guard`].
#[derive(Clone)]
pub struct Revoker(Arc<End>);

/// Whether a session has ended, and who waits for it.
#[derive(Default)]
struct End {
    ended: AtomicBool,
    event: Event,
}

impl Guard {
    /// A guard and what ends it.
    #[must_use]
    pub fn new() -> (Self, Revoker) {
        let end = Arc::new(End::default());
        // In 53 bits, so that every reader of JSON keeps it (RFC 8259, section 6).
        let number = getrandom::u64().ok().map(|number| number >> 11);
        (
            Self { end: Arc::clone(&end), outer: None, number, grants: SessionGrants::ALL, kept: None },
            Revoker(end),
        )
    }

    /// Of no session: a mesh's own.
    pub(crate) fn none() -> Self {
        Self { end: Arc::default(), outer: None, number: None, grants: SessionGrants::ALL, kept: None }
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

    /// The same guard, whose handles may do only this. Without it they may do everything; again only takes away.
    #[must_use]
    pub const fn with_grants(mut self, grants: SessionGrants) -> Self {
        self.grants = self.grants.common(grants);
        self
    }

    /// What its handles may do.
    #[must_use]
    pub const fn grants(&self) -> SessionGrants {
        self.grants
    }

    #[cfg(feature = "faults")]
    pub(crate) const fn ungranted(mut self) -> Self {
        self.grants = SessionGrants::ALL;
        self
    }

    pub(crate) fn within(mut self, outer: &Self) -> Self {
        // INVARIANT: a session in a session may do what both may.
        self.grants = self.grants.common(outer.grants);
        self.outer = Some(Arc::new(outer.clone()));
        self
    }

    fn has_ended(&self) -> bool {
        self.end.ended.load(Ordering::Acquire) || self.outer.as_ref().is_some_and(|outer| outer.has_ended())
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
        if self.has_ended() {
            Err(Error::new(ErrorKind::SessionEnded, "the session has ended, ask for a new one"))
        } else {
            Ok(())
        }
    }
}

impl Revoker {
    /// Ends the session: every call after this one fails, and a watch that waits wakes and ends.
    pub fn revoke(&self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.event.notify(usize::MAX);
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard(ended: {})", self.has_ended())
    }
}

impl fmt::Debug for Revoker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revoker")
    }
}
