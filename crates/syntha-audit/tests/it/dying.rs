//! A store whose process dies: after so many commits none is made any more. Others go first before each step, as they do on a disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use syntha_audit::AuditedStore;
use syntha_store::{
    At, Batch, BatchId, Capabilities, Changes, Commit, CreateMode, Epoch, Erased, Error, ErrorKind, Expect,
    Fence, ImportMode, Keyspace, MemoryStore, Outcome, Page, Record, RecordId, Result, Scan, SelfCheck,
    Snapshot, Stamp, Store, StoredRecord, UserState, UserStore, UserTag,
};

use crate::{Memory, batch, tag};

#[derive(Debug)]
pub(crate) struct Dying {
    inner: MemoryStore,
    left: Arc<AtomicU64>,
    /// The most records that an import was given at once, and how many in all.
    pub(crate) most: Arc<AtomicU64>,
    pub(crate) all: Arc<AtomicU64>,
}

impl Dying {
    pub(crate) fn new(inner: MemoryStore, commits: u64) -> Self {
        Self { inner, left: Arc::new(AtomicU64::new(commits)), most: Arc::default(), all: Arc::default() }
    }

    fn user(&self, inner: Arc<dyn UserStore>) -> Arc<dyn UserStore> {
        Arc::new(DyingUser { inner, left: Arc::clone(&self.left) })
    }
}

/// A snapshot in chunks of 64 records, as a backend reads it from a file, which says how many were handed on at once.
struct Chunked {
    inner: Box<dyn Snapshot>,
    waiting: Vec<StoredRecord>,
}

#[async_trait]
impl Snapshot for Chunked {
    fn owner(&self) -> UserTag {
        self.inner.owner()
    }

    fn state(&self) -> UserState {
        self.inner.state()
    }

    fn life(&self) -> Option<syntha_store::Incarnation> {
        self.inner.life()
    }

    fn follows(&self) -> Option<syntha_store::ChainHead> {
        self.inner.follows()
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        while self.waiting.is_empty() {
            match self.inner.next().await? {
                Some(chunk) => self.waiting = chunk,
                None => return Ok(None),
            }
        }
        let rest = self.waiting.split_off(self.waiting.len().min(64));
        Ok(Some(std::mem::replace(&mut self.waiting, rest)))
    }
}

struct Counting<'a> {
    inner: &'a mut dyn Snapshot,
    most: &'a AtomicU64,
    all: &'a AtomicU64,
}

#[async_trait]
impl Snapshot for Counting<'_> {
    fn owner(&self) -> UserTag {
        self.inner.owner()
    }

    fn state(&self) -> UserState {
        self.inner.state()
    }

    fn life(&self) -> Option<syntha_store::Incarnation> {
        self.inner.life()
    }

    fn follows(&self) -> Option<syntha_store::ChainHead> {
        self.inner.follows()
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        let chunk = self.inner.next().await?;
        let length = chunk.as_ref().map_or(0, Vec::len) as u64;
        self.most.fetch_max(length, Ordering::Relaxed);
        self.all.fetch_add(length, Ordering::Relaxed);
        Ok(chunk)
    }
}

#[async_trait]
impl Store for Dying {
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
        let mut counting = Counting { inner: snapshot, most: &self.most, all: &self.all };
        self.inner.import(user, &mut counting, mode).await
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
struct DyingUser {
    inner: Arc<dyn UserStore>,
    left: Arc<AtomicU64>,
}

#[async_trait]
impl UserStore for DyingUser {
    async fn state(&self) -> Result<UserState> {
        self.inner.state().await
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.inner.is_at(stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        tokio::task::yield_now().await;
        self.inner.read(space, ids).await
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        tokio::task::yield_now().await;
        self.inner.scan(scan).await
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_err() {
            return Err(Error::new(ErrorKind::Unavailable, "the process is dead"));
        }
        tokio::task::yield_now().await;
        self.inner.commit(batch).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        self.inner.outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        self.inner.changes(since, limit).await
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        self.inner.changed(since).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(Chunked { inner: self.inner.snapshot().await?, waiting: Vec::new() }))
    }
}

/// A process that begins a chain between another one's look at where it ends and the read of its key.
#[tokio::test]
async fn a_chain_that_another_process_begins_meanwhile_goes_on() {
    let bed = Memory::new();
    bed.raw().create(tag(1), batch("first"), CreateMode::New).await.unwrap();
    let early = AuditedStore::new(Arc::new(bed.raw()), bed.deployment()).unwrap();
    let late = AuditedStore::new(Arc::new(Dying::new(bed.raw(), u64::MAX)), bed.deployment()).unwrap();
    // What the first commit of a process does besides is done.
    late.create(tag(2), batch("other"), CreateMode::New).await.unwrap();
    let (early, late) = (early.open(tag(1)).await.unwrap(), late.open(tag(1)).await.unwrap());
    // In this order: the late one has looked when it waits for its first read.
    let (second, first) = tokio::join!(late.commit(batch("second")), early.commit(batch("first again")));
    let (first, second) = (first.unwrap().chain, second.unwrap().chain);
    assert_eq!(second.seq, first.seq + 1);
    // And one that expects the state from before is told that it moved, not that it was tampered with.
    let expecting =
        batch("third").expect(Expect::Stamp(Stamp { epoch: Epoch(1), ..late.state().await.unwrap().stamp }));
    assert_eq!(late.commit(expecting).await.unwrap_err().kind(), ErrorKind::Conflict);
}
