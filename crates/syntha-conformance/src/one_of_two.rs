use std::sync::Arc;

use async_trait::async_trait;
use syntha_store::{
    Batch, Capabilities, Commit, CreateMode, Erased, Fence, ImportMode, Result, SelfCheck, Snapshot, Stamp,
    Store, UserStore, UserTag,
};

/// One of the stores; closing it closes the other as well, because a check has one store.
#[derive(Debug)]
pub(crate) struct OneOfTwo {
    pub(crate) used: Arc<dyn Store>,
    pub(crate) other: Arc<dyn Store>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for OneOfTwo {
    fn capabilities(&self) -> Capabilities {
        self.used.capabilities()
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        self.used.create(user, first, mode).await
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        self.used.open(user).await
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.used.fence(user, at, fence).await
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        self.used.erase(user).await
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        self.used.import(user, snapshot, mode).await
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        self.used.list(after, limit).await
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        self.used.deployment().await
    }

    async fn verify(&self) -> Result<SelfCheck> {
        self.used.verify().await
    }

    async fn close(&self) -> Result<()> {
        self.used.close().await?;
        self.other.close().await
    }
}
