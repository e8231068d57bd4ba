use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Says whether the session that handles belong to is still alive. Every handle carries one and asks it on every call,
/// so that a handle that was cloned out of a session ends with it.
#[derive(Clone)]
pub struct Guard(Arc<AtomicBool>);

/// Ends the session of a [`Guard`].
#[derive(Clone)]
pub struct Revoker(Arc<AtomicBool>);

impl Guard {
    /// A guard and what ends it.
    #[must_use]
    pub fn new() -> (Self, Revoker) {
        let ended = Arc::new(AtomicBool::new(false));
        (Self(Arc::clone(&ended)), Revoker(ended))
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Acquire) {
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
        write!(f, "Guard(ended: {})", self.0.load(Ordering::Acquire))
    }
}

impl fmt::Debug for Revoker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revoker")
    }
}
