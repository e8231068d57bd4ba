//! The lock under which files come and go in a folder that several processes have open.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use syntha_store::{Error, ErrorKind, Result};

use crate::error::from_io;

/// Held as long as a clone of it is: so work on another thread keeps it when its caller goes. A process that dies gives it up.
#[derive(Clone, Debug)]
pub(crate) struct Lives(#[allow(dead_code, reason = "it is held, never read")] Option<Arc<File>>);

/// How a [`Lives`] is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// To open files: beside others who do.
    Opening,
    /// To make, replace or remove files: alone.
    Changing,
}

/// How long somebody waits for the lock. Who holds it writes and syncs a file or two.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

impl Lives {
    /// What somebody holds who needs no lock.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Takes the lock. `make`: the lock's file too, if it is not there; without it nothing is locked then.
    pub(crate) async fn take(path: &Path, hold: Hold, make: bool) -> Result<Self> {
        if !make && path.symlink_metadata().is_err() {
            return Ok(Self(None));
        }
        // INVARIANT: each taker opens the file anew, so that the lock keeps takers of one process apart as well.
        let file = crate::files::open_private(path, make)?;
        let taken = || match hold {
            Hold::Opening => file.try_lock_shared(),
            Hold::Changing => file.try_lock(),
        };
        let mut waited = Duration::ZERO;
        loop {
            match taken() {
                Ok(()) => return Ok(Self(Some(Arc::new(file)))),
                Err(TryLockError::WouldBlock) if waited < PATIENCE => {
                    tokio::time::sleep(PAUSE).await;
                    waited += PAUSE;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        ErrorKind::Busy,
                        "another process makes or removes a user's files for long, try again",
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(from_io(error)),
            }
        }
    }
}
