//! A store that writes down in which order it is asked, and answers when the test lets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use syntha::sqlite::{SqliteConfig, SqliteStore};
use syntha::store::{
    At, Batch, BatchId, Capabilities, Changes, Commit, CreateMode, DeploymentKey, Erased, Fence, ImportMode,
    Keyspace, MemoryStore, Outcome, Record, RecordId, Result, Scan, SelfCheck, Snapshot, Stamp, Store,
    UserState, UserStore, UserTag,
};
use syntha::store::{Page, UserId};
use tokio::sync::Semaphore;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Open,
    Commit,
    Read,
    Snapshot,
}

#[derive(Debug)]
struct Notes {
    asked: Mutex<Vec<(Asked, UserTag)>>,
    holds: AtomicBool,
    gate: Semaphore,
}

impl Notes {
    async fn note(&self, asked: Asked, tag: UserTag) {
        self.asked.lock().push((asked, tag));
        if self.holds.load(Ordering::Acquire) {
            self.gate.acquire().await.unwrap().forget();
        }
    }
}

/// The real store, and its order.
#[derive(Clone, Debug)]
pub(crate) struct Ordered {
    inner: Arc<dyn Store>,
    notes: Arc<Notes>,
    key: Arc<Key>,
}

struct Key(DeploymentKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Ordered {
    fn over(inner: Arc<dyn Store>, key: DeploymentKey) -> Self {
        let notes = Notes { asked: Mutex::default(), holds: AtomicBool::new(false), gate: Semaphore::new(0) };
        Self { inner, notes: Arc::new(notes), key: Arc::new(Key(key)) }
    }

    pub(crate) fn memory() -> Self {
        let store = MemoryStore::new().unwrap();
        let key = store.deployment_key().clone();
        Self::over(Arc::new(store), key)
    }

    pub(crate) async fn sqlite(folder: &std::path::Path) -> Self {
        let store = SqliteStore::open(SqliteConfig::new(folder)).await.unwrap();
        let key = store.deployment_key().clone();
        Self::over(Arc::new(store), key)
    }

    pub(crate) fn key(&self) -> DeploymentKey {
        self.key.0.clone()
    }

    pub(crate) fn tag(&self, user: &str) -> UserTag {
        self.key.0.tag(&UserId::new(user).unwrap())
    }

    /// From now on nothing is answered, and what was asked before is forgotten.
    pub(crate) fn hold(&self) {
        self.notes.asked.lock().clear();
        self.notes.holds.store(true, Ordering::Release);
    }

    pub(crate) fn let_go(&self) {
        self.notes.holds.store(false, Ordering::Release);
        self.notes.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// Who was asked for, in order.
    pub(crate) fn asked(&self, what: Asked) -> Vec<UserTag> {
        self.notes.asked.lock().iter().filter(|(asked, _)| *asked == what).map(|(_, tag)| *tag).collect()
    }

    fn user(&self, inner: Arc<dyn UserStore>, tag: UserTag) -> Arc<dyn UserStore> {
        Arc::new(OrderedUser { inner, notes: Arc::clone(&self.notes), tag })
    }
}

#[async_trait]
impl Store for Ordered {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        // Nobody else has it.
        capabilities.exclusive = true;
        capabilities
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        let (made, commit) = self.inner.create(user, first, mode).await?;
        Ok((self.user(made, user), commit))
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        self.notes.note(Asked::Open, user).await;
        Ok(self.user(self.inner.open(user).await?, user))
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
        self.inner.deployment().await
    }

    async fn verify(&self) -> Result<SelfCheck> {
        self.inner.verify().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct OrderedUser {
    inner: Arc<dyn UserStore>,
    notes: Arc<Notes>,
    tag: UserTag,
}

#[async_trait]
impl UserStore for OrderedUser {
    async fn state(&self) -> Result<UserState> {
        self.inner.state().await
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.inner.is_at(stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        self.notes.note(Asked::Read, self.tag).await;
        self.inner.read(space, ids).await
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        self.inner.scan(scan).await
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        self.notes.note(Asked::Commit, self.tag).await;
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
        self.notes.note(Asked::Snapshot, self.tag).await;
        self.inner.snapshot().await
    }
}
