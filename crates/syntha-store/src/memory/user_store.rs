use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use event_listener::Event;
use parking_lot::{Mutex, MutexGuard};

use super::store::closed;
use crate::batch::{Batch, BatchId};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::keyspace::Keyspace;
use crate::record::{Record, RecordId};
use crate::state::{Fence, Incarnation, Stamp, UserState};
use crate::store::{At, Changes, Commit, Outcome, Page, Scan, Snapshot, UserStore};
use crate::user::UserTag;

pub(super) struct Space {
    pub(super) data: Mutex<Image>,
    pub(super) event: Event,
}

impl Space {
    pub(super) fn new(data: Image) -> Self {
        Self { data: Mutex::new(data), event: Event::new() }
    }

    pub(super) fn wipe(&self, fence: Fence) {
        self.data.lock().wipe(fence);
        self.event.notify(usize::MAX);
    }
}

pub(super) struct MemoryUser {
    space: Arc<Space>,
    owner: Option<UserTag>,
    incarnation: Incarnation,
    closed: Arc<AtomicBool>,
}

impl MemoryUser {
    pub(super) fn new(space: Arc<Space>, owner: Option<UserTag>, closed: Arc<AtomicBool>) -> Self {
        let incarnation = space.data.lock().stamp().incarnation;
        Self { space, owner, incarnation, closed }
    }

    fn data(&self) -> Result<MutexGuard<'_, Image>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        let data = self.space.data.lock();
        data.live(self.incarnation)?;
        Ok(data)
    }
}

impl fmt::Debug for MemoryUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryUser").field("owner", &self.owner).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserStore for MemoryUser {
    async fn state(&self) -> Result<UserState> {
        Ok(self.data()?.state())
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.data().is_ok_and(|data| data.stamp() == stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        let data = self.data()?;
        let value = ids.iter().map(|id| data.read(space, id)).collect();
        Ok(At { stamp: data.stamp(), value })
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        scan.validate()?;
        let data = self.data()?;
        Ok(At { stamp: data.stamp(), value: data.scan(&scan) })
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        let commit = self.data()?.commit(batch)?;
        self.space.event.notify(usize::MAX);
        Ok(commit)
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        Ok(self.data()?.outcome(batch, since))
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        Ok(self.data()?.changes(since, limit))
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        loop {
            let listener = self.space.event.listen();
            let stamp = self.data()?.stamp();
            if stamp != since {
                return Ok(stamp);
            }
            listener.await;
        }
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let owner = self
            .owner
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "the deployment's own space has no archive"))?;
        Ok(self.data()?.snapshot(owner))
    }
}
