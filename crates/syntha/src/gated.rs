//! The outermost layer, for users' meshes: every call that costs others something waits for its user's turn. The deployment's own spaces, and
//! what the host does with users' data, pass it by.

use std::sync::Arc;

use async_trait::async_trait;
use syntha_store::{
    At, Batch, BatchId, Capabilities, Changes, Commit, CreateMode, Erased, FairKey, Fence, ImportMode,
    Keyspace, Outcome, Page, Record, RecordId, Result, Scan, SelfCheck, Snapshot, Stamp, Store, UserState,
    UserStore, UserTag,
};

use crate::fairness::{Line, Lines};

/// A store whose users stand in line.
///
/// INVARIANT: no call holds one turn while it waits for another, so nobody waits in a circle.
#[derive(Debug)]
pub(crate) struct GatedStore {
    inner: Arc<dyn Store>,
    lines: Lines,
}

/// One user's side.
#[derive(Debug)]
struct GatedUser {
    inner: Arc<dyn UserStore>,
    lines: Lines,
    key: FairKey,
}

impl GatedStore {
    pub(crate) const fn new(inner: Arc<dyn Store>, lines: Lines) -> Self {
        Self { inner, lines }
    }

    fn user(&self, inner: Arc<dyn UserStore>, key: FairKey) -> Arc<dyn UserStore> {
        Arc::new(GatedUser { inner, lines: self.lines.clone(), key })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for GatedStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        let key = self.lines.key(user);
        let _turn = self.lines.turn(Line::Open, key).await?;
        let (made, commit) = self.inner.create(user, first, mode).await?;
        Ok((self.user(made, key), commit))
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        let key = self.lines.key(user);
        let _turn = self.lines.turn(Line::Open, key).await?;
        Ok(self.user(self.inner.open(user).await?, key))
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.inner.fence(user, at, fence).await
    }

    // What ends a user is never refused for others.
    async fn erase(&self, user: UserTag) -> Result<Erased> {
        self.inner.erase(user).await
    }

    // Restores have their line above.
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

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserStore for GatedUser {
    async fn state(&self) -> Result<UserState> {
        let _turn = self.lines.turn(Line::Read, self.key).await?;
        self.inner.state().await
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.inner.is_at(stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        let _turn = self.lines.turn(Line::Read, self.key).await?;
        self.inner.read(space, ids).await
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        let _turn = self.lines.turn(Line::Read, self.key).await?;
        self.inner.scan(scan).await
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        let _turn = self.lines.turn(Line::Commit, self.key).await?;
        self.inner.commit(batch).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        // Who does not know whether something was done is not sent away.
        self.inner.outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        let _turn = self.lines.turn(Line::Read, self.key).await?;
        self.inner.changes(since, limit).await
    }

    // It waits for others' commits, and must hold nothing meanwhile.
    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        self.inner.changed(since).await
    }

    // Backups have their line above.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.inner.snapshot().await
    }
}
