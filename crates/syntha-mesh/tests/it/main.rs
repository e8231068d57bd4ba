//! The mesh over the in-memory reference.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod audience;
mod time;
mod write;

use std::sync::Arc;

use syntha_mesh::{ManualClock, Mesh, MeshConfig};
use syntha_store::{Batch, CreateMode, MemoryStore, Store, Timestamp, UserId};

const START: Timestamp = Timestamp(1_700_000_000_000);

struct Bed {
    store: MemoryStore,
    clock: Arc<ManualClock>,
    mesh: Mesh,
}

impl Bed {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(configure: impl FnOnce(&mut MeshConfig)) -> Self {
        let store = MemoryStore::new().unwrap();
        let clock = Arc::new(ManualClock::new(START));
        let mut config = MeshConfig::default();
        config.clock = Arc::clone(&clock) as _;
        configure(&mut config);
        let tag = store.deployment_key().tag(&UserId::new("alice").unwrap());
        let (user, _) = store.create(tag, Batch::new(START).unwrap(), CreateMode::New).await.unwrap();
        let mesh = Mesh::open(user, false, config).await.unwrap();
        Self { store, clock, mesh }
    }

    /// The same user's mesh as another process would open it.
    async fn again(&self) -> Mesh {
        let store = self.store.reopen();
        let tag = store.deployment_key().tag(&UserId::new("alice").unwrap());
        let mut config = MeshConfig::default();
        config.clock = Arc::clone(&self.clock) as _;
        Mesh::open(store.open(tag).await.unwrap(), false, config).await.unwrap()
    }
}
