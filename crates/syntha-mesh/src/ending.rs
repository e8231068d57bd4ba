//! How a mesh ends in order, and what its keeper asks without telling the trail.

use std::sync::atomic::Ordering;
use std::time::Duration;

use syntha_store::Stamp;

use crate::change::Change;
use crate::error::ErrorKind;
use crate::mesh::Mesh;
use crate::writer;

/// Between two tries to get into a queue that is full.
const PAUSE: Duration = Duration::from_millis(1);

impl Mesh {
    /// Takes nothing new on from now on, for whoever holds a handle (`Gone`), and waits until every write that was asked for before was
    /// written or refused. Before the mesh is [retired](Self::retire). It has no deadline and may be dropped at any time; the mesh goes on to
    /// take nothing on. Only a handle that no session was given can do it; says whether it did.
    pub async fn finish(&self) -> bool {
        if !self.is_owner() {
            return false;
        }
        self.core.closing.store(true, Ordering::Release);
        // It waits behind everything else.
        while let Err(error) = writer::write(&self.core, Change::Flush).await {
            if !matches!(error.kind(), ErrorKind::Busy | ErrorKind::Unknown) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        true
    }

    /// Whether the audit trail or the log of interactions is still to be told of something, which is lost if this mesh goes and its store fails.
    #[must_use]
    pub fn has_untold(&self) -> bool {
        self.core.trail.as_ref().is_some_and(|trail| !trail.is_empty()) || !self.core.reads.lock().is_empty()
    }

    /// Where the data that this mesh knows stands.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.core.index.read().stamp
    }
}
