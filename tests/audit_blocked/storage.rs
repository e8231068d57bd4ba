//! A store that fails as real ones do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use syntha_store::{
    At, Batch, BatchId, Capabilities, Changes, Commit, CreateMode, Erased, Error, ErrorKind, Fence,
    ImportMode, Keyspace, Outcome, Page, Record, RecordId, Result, Scan, SelfCheck, Snapshot, Stamp, Store,
    UserState, UserStore, UserTag,
};

use crate::Random;

/// How long a commit takes that is slow: longer than any caller waits.
const SLOW: Duration = Duration::from_secs(9);

/// What shall go wrong, and what did.
#[derive(Debug)]
pub(crate) struct Weather {
    random: Random,
    pub(crate) is_bad: bool,
    pub(crate) failed: u64,
    /// Commits that were made and answered with `Unknown`.
    pub(crate) unseen: u64,
}

impl Weather {
    pub(crate) fn new(seed: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { random: Random(seed), is_bad: false, failed: 0, unseen: 0 }))
    }

    fn next(&mut self) -> Fate {
        if !self.is_bad {
            return Fate::Done;
        }
        let fate = match self.random.below(24) {
            0 => Fate::Refused(ErrorKind::StorageFull),
            1 => Fate::Refused(ErrorKind::Unavailable),
            2 => Fate::Refused(ErrorKind::Unknown),
            3 => Fate::Unseen,
            4 if self.random.below(4) == 0 => Fate::Slow,
            _ => return Fate::Done,
        };
        self.failed += 1;
        fate
    }
}

#[derive(Clone, Copy)]
enum Fate {
    Done,
    Refused(ErrorKind),
    /// Done, and the answer is lost.
    Unseen,
    Slow,
}

/// A store under a weather.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) weather: Arc<Mutex<Weather>>,
}

impl Faulty {
    fn user(&self, inner: Arc<dyn UserStore>) -> Arc<dyn UserStore> {
        Arc::new(FaultyUser { inner, weather: Arc::clone(&self.weather) })
    }
}

#[async_trait]
impl Store for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        let (made, commit) = self.inner.create(user, first, mode).await?;
        Ok((self.user(made), commit))
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        Ok(self.user(self.inner.open(user).await?))
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.inner.fence(user, at, fence).await
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        self.inner.erase(user).await
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        self.inner.import(user, snapshot, mode).await
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        self.inner.list(after, limit).await
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        Ok(self.user(self.inner.deployment().await?))
    }

    async fn verify(&self) -> Result<SelfCheck> {
        self.inner.verify().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct FaultyUser {
    inner: Arc<dyn UserStore>,
    weather: Arc<Mutex<Weather>>,
}

#[async_trait]
impl UserStore for FaultyUser {
    async fn state(&self) -> Result<UserState> {
        self.inner.state().await
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.inner.is_at(stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        self.inner.read(space, ids).await
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        self.inner.scan(scan).await
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        let fate = self.weather.lock().next();
        match fate {
            Fate::Done => self.inner.commit(batch).await,
            Fate::Refused(kind) => Err(Error::new(kind, "the store was told to fail")),
            Fate::Unseen => {
                self.inner.commit(batch).await?;
                self.weather.lock().unseen += 1;
                Err(Error::new(ErrorKind::Unknown, "the store was told to lose its answer"))
            }
            Fate::Slow => {
                tokio::time::sleep(SLOW).await;
                self.inner.commit(batch).await
            }
        }
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        // Whoever lost an answer may not get the second one either.
        let fate = self.weather.lock().next();
        match fate {
            Fate::Refused(kind) => Err(Error::new(kind, "the store was told to fail")),
            _ => self.inner.outcome(batch, since).await,
        }
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        self.inner.changes(since, limit).await
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        self.inner.changed(since).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.inner.snapshot().await
    }
}
