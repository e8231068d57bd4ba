use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use syntha_store::{Timestamp, UserId};

use crate::clock::Time;
use crate::error::{Error, ErrorKind, Result};
use crate::rows::SecretRow;
use crate::scopes::Scopes;
use crate::secret::{SecretId, SecretKind};

type Hook = Box<dyn FnOnce() + Send>;

/// What a host keeps for each session or token that is in use: whose it is, what it may do, and whether it still holds.
///
/// [`check`](Self::check) is cheap and is called before each operation. Clones are of one lease and end together.
#[derive(Clone)]
pub struct Lease(pub(crate) Arc<Held>);

pub(crate) struct Held {
    time: Arc<Time>,
    /// How long it may go without being confirmed, in milliseconds.
    bound: u64,
    pub(crate) user: UserId,
    pub(crate) kind: SecretKind,
    pub(crate) id: SecretId,
    agent: Option<Arc<str>>,
    expires: u64,
    idle: Option<u64>,
    scopes: AtomicU8,
    ended: AtomicBool,
    /// When it was last used, here or elsewhere.
    pub(crate) used: AtomicU64,
    /// The boot time of the question whose answer confirmed it last.
    confirmed: AtomicU64,
    hooks: Mutex<Vec<Hook>>,
}

impl Lease {
    /// `asked`: the boot time before what it is made from was read.
    pub(crate) fn new(
        time: &Arc<Time>,
        bound: u64,
        user: &UserId,
        (kind, id): (SecretKind, SecretId),
        row: &SecretRow,
        scopes: Scopes,
        asked: u64,
    ) -> Self {
        Self(Arc::new(Held {
            time: Arc::clone(time),
            bound,
            user: user.clone(),
            kind,
            id,
            agent: row.agent.as_deref().map(Into::into),
            expires: row.expires,
            idle: row.idle,
            scopes: AtomicU8::new(scopes.bits()),
            ended: AtomicBool::new(false),
            used: AtomicU64::new(row.used.max(time.now())),
            confirmed: AtomicU64::new(asked),
            hooks: Mutex::default(),
        }))
    }

    /// Whether it holds now. Reads no store and waits for nothing. It counts as a use.
    ///
    /// # Errors
    ///
    /// `Denied` once it has ended, by revocation or by time; it never holds again. `Stale` if it was not confirmed within its bound (a
    /// second): ask [`Identity::confirm`](crate::Identity::confirm).
    pub fn check(&self) -> Result<()> {
        let held = &self.0;
        let now = held.time.now();
        if held.is_over(now) {
            held.end();
        }
        if held.ended.load(Ordering::Acquire) {
            return Err(Error::secret());
        }
        if held.time.boot().saturating_sub(held.confirmed.load(Ordering::Acquire)) > held.bound {
            let message = "the session was not confirmed in the last second, confirm it";
            return Err(Error::new(ErrorKind::Stale, message));
        }
        held.used.fetch_max(now, Ordering::AcqRel);
        Ok(())
    }

    /// Whose data it opens.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.0.user
    }

    /// What it may do now. It may become less, never more.
    #[must_use]
    pub fn scopes(&self) -> Scopes {
        Scopes::stored(self.0.scopes.load(Ordering::Acquire)).unwrap_or_default()
    }

    /// The name of the one agent that it may act as; `None` for the user.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        self.0.agent.as_deref()
    }

    /// Whether it is a token's or a session's.
    #[must_use]
    pub fn kind(&self) -> SecretKind {
        self.0.kind
    }

    /// What the token or session is called.
    #[must_use]
    pub fn id(&self) -> SecretId {
        self.0.id
    }

    /// When it ends at the latest.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        Timestamp(self.0.expires)
    }

    /// Calls this when the lease ends: at once if it has ended. It runs on whichever thread notices, and must not wait.
    pub fn on_end(&self, hook: impl FnOnce() + Send + 'static) {
        let mut hooks = self.0.hooks.lock();
        // Under the lock, so that an end at the same moment either sees the hook or is seen.
        if self.0.ended.load(Ordering::Acquire) {
            drop(hooks);
            hook();
        } else {
            hooks.push(Box::new(hook));
        }
    }
}

impl Held {
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        let hooks = std::mem::take(&mut *self.hooks.lock());
        hooks.into_iter().for_each(|hook| hook());
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn is_over(&self, now: u64) -> bool {
        let unused = now.saturating_sub(self.used.load(Ordering::Acquire));
        now >= self.expires || self.idle.is_some_and(|idle| unused >= idle)
    }

    /// It may do no more than this.
    pub(crate) fn narrow(&self, scopes: Scopes) {
        self.scopes.fetch_and(scopes.bits(), Ordering::AcqRel);
    }

    /// It was found to hold, by what was read after `asked`.
    pub(crate) fn confirm(&self, scopes: Scopes, asked: u64) {
        self.narrow(scopes);
        self.confirmed.fetch_max(asked, Ordering::AcqRel);
    }
}

/// Shows what it is of, not whose.
impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("kind", &self.0.kind)
            .field("id", &self.0.id)
            .field("scopes", &self.scopes())
            .field("ended", &self.0.is_ended())
            .finish_non_exhaustive()
    }
}
