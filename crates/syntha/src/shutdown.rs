//! How a deployment ends: nothing new is taken on, what is under way ends, and what could not is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use syntha_store::UserTag;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::deployment::{Deployment, Place};
use crate::error::{Error, ErrorKind, Result};

/// What came of a shutdown.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Shutdown {
    /// Users whose work did not come to its end in time, in the order of their tags. Whether their last writes happened is not known to who
    /// waits for them; what was acknowledged stands.
    pub unfinished: Vec<UserTag>,
    /// What could not be told to a trail, or closed in order.
    pub failed: Option<Error>,
}

impl Shutdown {
    /// Whether everything that was under way has ended.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.unfinished.is_empty() && self.failed.is_none()
    }
}

/// How long closing the files may take beyond the deadline for what is under way.
const CLOSING: Duration = Duration::from_secs(5);

impl Deployment {
    /// Ends every mesh and closes the store. What is under way has until the deadline.
    pub(crate) async fn close(self: &Arc<Self>, within: Duration) -> Shutdown {
        let deadline = Instant::now() + within;
        self.closed.store(true, Ordering::Release);
        self.keeper.stop();
        let places: Vec<_> = self.users.lock().drain().collect();
        let mut ending = JoinSet::new();
        for (tag, place) in &places {
            let (tag, place) = (*tag, Arc::clone(place));
            ending.spawn(async move { (tag, end(&place).await) });
        }
        let mut told: Result<()> = Ok(());
        let mut waiting: std::collections::BTreeSet<_> = places.iter().map(|(tag, _)| *tag).collect();
        while let Ok(Some(ended)) = timeout_at(deadline, ending.join_next()).await {
            let Ok((tag, ended)) = ended else { continue };
            waiting.remove(&tag);
            told = told.and(ended);
        }
        ending.shutdown().await;
        // INVARIANT: whoever is late ends all the same: nothing is done for a deployment that was shut down.
        for (_, place) in places {
            if let Ok(mut open) = place.open.try_lock()
                && let Some(opened) = open.take()
            {
                opened.mesh.retire();
            }
        }
        let unfinished: Vec<_> = waiting.into_iter().collect();
        let deployment = Arc::clone(self);
        // A task of its own: a file that is held by late work is closed when that ends, whoever waits for it.
        let closing = tokio::spawn(async move { deployment.close_files(told).await });
        let until = deadline.max(Instant::now()) + CLOSING;
        let failed = match timeout_at(until, closing).await {
            Ok(Ok(closed)) => closed.err(),
            Ok(Err(_)) => {
                Some(Error::new(ErrorKind::Storage, "the runtime ended meanwhile, open the data again"))
            }
            // Who holds a file is told of already.
            Err(_) if !unfinished.is_empty() => None,
            Err(_) => Some(Error::new(
                ErrorKind::Storage,
                "the files could not be closed in time, they are closed when what holds them ends",
            )),
        };
        Shutdown { unfinished, failed }
    }

    async fn close_files(&self, told: Result<()>) -> Result<()> {
        #[cfg(feature = "audit")]
        let told = if self.tells() { told.and(self.tell_refusals().await) } else { told };
        #[cfg(feature = "audit")]
        let told = told.and(self.end_run().await);
        let closed = self.store.close().await;
        told?;
        Ok(closed?)
    }
}

/// Ends one user's mesh: what waits is written, and told.
async fn end(place: &Place) -> Result<()> {
    let mut open = place.open.lock().await;
    let Some(opened) = open.as_ref() else { return Ok(()) };
    opened.mesh.finish().await;
    // What can't be written down now is lost, and the trail says that this run did not end in order.
    let told = opened.mesh.flush_audit().await;
    opened.mesh.retire();
    *open = None;
    Ok(told?)
}
