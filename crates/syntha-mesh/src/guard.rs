use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Says whether the session that handles belong to is still alive. Every handle carries one and asks it on every call,
/// so that a handle that was cloned out of a session ends with it.
#[derive(Clone)]
pub struct Guard {
    ended: Arc<AtomicBool>,
    /// The guard of the handle that this one was made from: a session can't be left by starting another in it.
    outer: Option<Arc<Self>>,
    /// Dropped with the last handle.
    #[allow(dead_code, reason = "it is held, never read")]
    kept: Option<Arc<dyn Any + Send + Sync>>,
}

/// Ends the session of a [`Guard`].
#[derive(Clone)]
pub struct Revoker(Arc<AtomicBool>);

impl Guard {
    /// A guard and what ends it.
    #[must_use]
    pub fn new() -> (Self, Revoker) {
        let ended = Arc::new(AtomicBool::new(false));
        (Self { ended: Arc::clone(&ended), outer: None, kept: None }, Revoker(ended))
    }

    /// The same guard, which keeps something alive as long as a handle of the session is.
    #[must_use]
    pub fn keeping(mut self, kept: Arc<dyn Any + Send + Sync>) -> Self {
        self.kept = Some(kept);
        self
    }

    pub(crate) fn within(mut self, outer: &Self) -> Self {
        self.outer = Some(Arc::new(outer.clone()));
        self
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.outer.as_ref().is_some_and(|outer| outer.has_ended())
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
    /// Ends the session: every call after this one fails.
    pub fn revoke(&self) {
        self.0.store(true, Ordering::Release);
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
