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
        (Self { ended: Arc::clone(&ended), kept: None }, Revoker(ended))
    }

    /// The same guard, which keeps something alive as long as a handle of the session is.
    #[must_use]
    pub fn keeping(mut self, kept: Arc<dyn Any + Send + Sync>) -> Self {
        self.kept = Some(kept);
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.ended.load(Ordering::Acquire) {
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
        write!(f, "Guard(ended: {})", self.ended.load(Ordering::Acquire))
    }
}

impl fmt::Debug for Revoker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revoker")
    }
}
