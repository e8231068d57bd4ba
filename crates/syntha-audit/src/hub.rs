//! What all users' chains of one store share: what was committed and is not in the log yet, and who takes it from there.

use std::collections::HashMap;
use std::fmt;

use parking_lot::Mutex;
use syntha_store::{ChainHead, Incarnation, Result};

/// A user's tag, or zeros for the deployment's own space.
pub(crate) type Owner = [u8; 32];

/// Where a chain ends that has moved since it was last logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) life: Incarnation,
    pub(crate) chain: ChainHead,
}

/// Told of every commit.
#[derive(Default)]
pub(crate) struct Hub {
    moved: Mutex<HashMap<Owner, Moved>>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("moved", &self.moved.lock().len()).finish()
    }
}

impl Hub {
    /// Whether an owner's next commit is taken.
    ///
    /// # Errors
    ///
    /// `AuditUnavailable` while those who take entries are too far behind.
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "nobody takes entries yet")]
    pub(crate) fn admit(&self, _owner: &Owner) -> Result<()> {
        Ok(())
    }

    /// A commit has moved an owner's chain.
    pub(crate) fn moved(&self, owner: &Owner, life: Incarnation, chain: ChainHead) {
        let mut moved = self.moved.lock();
        let at = moved.entry(*owner).or_insert(Moved { life, chain });
        if at.life != life || at.chain.seq < chain.seq {
            *at = Moved { life, chain };
        }
    }
}
