//! How much memory the cached values of many meshes take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::mesh::Mesh;

/// The bytes of values that all meshes of one configuration keep in memory. Who owns them is told when they are too many, and says which
/// mesh gives some up: see [`Mesh::shrink_cache`].
#[derive(Debug)]
pub struct CacheBudget {
    limit: usize,
    floor: usize,
    used: AtomicUsize,
    over: Notify,
}

impl CacheBudget {
    /// A budget in bytes, and what every mesh keeps of it whatever others do, as long as it has no more than its own
    /// [`cache_bytes`](crate::MeshConfig::cache_bytes).
    #[must_use]
    pub fn new(limit: usize, floor: usize) -> Self {
        Self { limit, floor, used: AtomicUsize::new(0), over: Notify::new() }
    }

    /// The bytes that there may be.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// What every mesh keeps, in bytes.
    #[must_use]
    pub const fn floor(&self) -> usize {
        self.floor
    }

    /// The bytes that there are.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Waits until there are too many. May be dropped at any time.
    pub async fn over(&self) {
        loop {
            let told = self.over.notified();
            if self.used() > self.limit {
                return;
            }
            told.await;
        }
    }

    /// What a mesh may keep just now: no more than before, or its floor, while there is a quarter too much and who was told has not acted yet.
    fn most(&self, own: usize, before: usize) -> usize {
        let pressed = self.used() > self.limit.saturating_add(self.limit / 4);
        if pressed { own.min(self.floor.max(before)) } else { own }
    }
}

/// One index's part of a budget. What it told of goes with it.
#[derive(Debug, Default)]
pub(crate) struct Account {
    budget: Option<Arc<CacheBudget>>,
    told: usize,
}

impl Account {
    pub(crate) const fn new(budget: Option<Arc<CacheBudget>>) -> Self {
        Self { budget, told: 0 }
    }

    /// What the index may keep, which kept so much before.
    pub(crate) fn most(&self, own: usize, before: usize) -> usize {
        self.budget.as_ref().map_or(own, |budget| budget.most(own, before))
    }

    /// Tells how much is kept now.
    pub(crate) fn tell(&mut self, bytes: usize) {
        let Some(budget) = &self.budget else { return };
        if bytes > self.told {
            let added = bytes - self.told;
            let before = budget.used.fetch_add(added, Ordering::AcqRel);
            if before.saturating_add(added) > budget.limit {
                budget.over.notify_one();
            }
        } else if bytes < self.told {
            budget.used.fetch_sub(self.told - bytes, Ordering::AcqRel);
        }
        self.told = bytes;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.tell(0);
    }
}

impl Mesh {
    /// How many bytes of values this mesh keeps in memory.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.core.index.read().cached_bytes()
    }

    /// Forgets cached values, those that were not asked for lately first, until no more than so many bytes are kept. Says how many are.
    pub fn shrink_cache(&self, bytes: usize) -> usize {
        let mut index = self.core.index.write();
        index.shrink(bytes);
        index.cached_bytes()
    }
}
