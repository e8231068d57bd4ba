use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::user_store::{MemoryUser, Space};
use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::state::{Fence, Incarnation, Stamp};
use crate::store::{
    Capabilities, Commit, CreateMode, Erased, ImportMode, SelfCheck, Snapshot, Store, UserStore,
};
use crate::user::{DeploymentKey, UserTag};

/// The contract in memory: the reference that every backend is compared with, and a store for tests.
///
/// Data lives as long as one handle does. [`reopen`](Self::reopen) gives an independent handle on the same data,
/// as a second process would have.
pub struct MemoryStore {
    shared: Arc<Shared>,
    closed: Arc<AtomicBool>,
}

struct Shared {
    key: DeploymentKey,
    users: Mutex<Users>,
    deployment: Arc<Space>,
}

#[derive(Default)]
struct Users {
    present: BTreeMap<UserTag, Arc<Space>>,
    erased: BTreeSet<UserTag>,
}

impl MemoryStore {
    /// An empty store with a new deployment key.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source.
    pub fn new() -> Result<Self> {
        Self::with_key(DeploymentKey::generate()?)
    }

    /// An empty store with a deployment key of the caller's.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source.
    pub fn with_key(key: DeploymentKey) -> Result<Self> {
        let deployment = Arc::new(Space::new(Image::new(Incarnation::random()?, true)));
        let shared = Shared { key, users: Mutex::default(), deployment };
        Ok(Self { shared: Arc::new(shared), closed: Arc::default() })
    }

    /// An independent handle on the same data, open even if this one is closed.
    #[must_use]
    pub fn reopen(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), closed: Arc::default() }
    }

    /// The key that users' tags are derived with.
    #[must_use]
    pub fn deployment_key(&self) -> &DeploymentKey {
        &self.shared.key
    }

    fn users(&self) -> Result<parking_lot::MutexGuard<'_, Users>> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(self.shared.users.lock()) }
    }

    fn handle(&self, space: &Arc<Space>, owner: Option<UserTag>) -> Arc<dyn UserStore> {
        Arc::new(MemoryUser::new(Arc::clone(space), owner, Arc::clone(&self.closed)))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("users", &self.shared.users.lock().present.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("memory", false, false, true)
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        let mut data = Image::new(first.life.map_or_else(Incarnation::random, Ok)?, false);
        let mut users = self.users()?;
        if let Some(present) = users.present.get(&user)
            && present.data.lock().fence() != Some(Fence::Erased)
        {
            return Err(Error::new(ErrorKind::AlreadyExists, "the user is there already, open it"));
        }
        let fenced = users.present.contains_key(&user);
        if (fenced || users.erased.contains(&user)) && mode == CreateMode::New {
            return Err(erased());
        }
        let commit = data.commit_first(first)?;
        let space = Arc::new(Space::new(data));
        if let Some(old) = users.present.insert(user, Arc::clone(&space)) {
            old.wipe(Fence::Erased);
        }
        users.erased.remove(&user);
        drop(users);
        Ok((self.handle(&space, Some(user)), commit))
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        let users = self.users()?;
        if users.erased.contains(&user) {
            return Err(erased());
        }
        let space = users.present.get(&user).ok_or_else(not_found)?;
        match space.data.lock().fence() {
            None => {}
            Some(Fence::Erased) => return Err(erased()),
            Some(_) => {
                let moved = "the user was moved or is being restored, open it where it lives now";
                return Err(Error::new(ErrorKind::Gone, moved));
            }
        }
        Ok(self.handle(space, Some(user)))
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        let users = self.users()?;
        let space = Arc::clone(users.present.get(&user).ok_or_else(not_found)?);
        drop(users);
        let stamp = {
            let mut data = space.data.lock();
            let stamp = data.stamp();
            if at.is_some_and(|at| at != stamp) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "the user's data moved on, reload and try again",
                ));
            }
            data.set_fence(fence);
            stamp
        };
        space.event.notify(usize::MAX);
        Ok(stamp)
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        let mut users = self.users()?;
        let Some(space) = users.present.remove(&user) else {
            return if users.erased.contains(&user) { Ok(Erased::new(false, 0)) } else { Err(not_found()) };
        };
        users.erased.insert(user);
        drop(users);
        space.wipe(Fence::Erased);
        Ok(Erased::new(true, 1))
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        if snapshot.owner() != user {
            return Err(Error::new(ErrorKind::Invalid, "the snapshot is of another user"));
        }
        drop(self.users()?);
        let mut records = Vec::new();
        while let Some(chunk) = snapshot.next().await? {
            records.extend(chunk);
        }
        let state = snapshot.state();
        let mut users = self.users()?;
        if users.erased.contains(&user) {
            return Err(erased());
        }
        let step = {
            let old = users.present.get(&user).map(|space| space.data.lock());
            Image::imported(old.as_deref(), state, snapshot.life(), snapshot.follows(), records, mode)?
        };
        let (Some(image), stamp) = step else { return Err(not_found()) };
        let space = Arc::new(Space::new(image));
        let old = users.present.insert(user, space);
        drop(users);
        if let Some(old) = old {
            old.wipe(Fence::Restoring);
        }
        Ok(stamp)
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        let users = self.users()?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let there = |space: &Space| !matches!(space.data.lock().fence(), Some(Fence::Erased | Fence::Moved));
        Ok(users
            .present
            .range((from, Bound::Unbounded))
            .filter(|(_, space)| there(space))
            .map(|(tag, _)| *tag)
            .take(limit)
            .collect())
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        drop(self.users()?);
        Ok(self.handle(&self.shared.deployment, None))
    }

    async fn verify(&self) -> Result<SelfCheck> {
        drop(self.users()?);
        let deployment = self.deployment().await?.state().await?.stamp.incarnation;
        let users = self.users()?;
        let distinct: BTreeSet<_> =
            users.present.values().map(|space| space.data.lock().stamp().incarnation).collect();
        if distinct.len() != users.present.len() || distinct.contains(&deployment) {
            return Err(Error::new(ErrorKind::Corrupt, "two users share one space"));
        }
        Ok(SelfCheck::new(vec!["one space a user"]))
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        for space in self.shared.users.lock().present.values() {
            space.event.notify(usize::MAX);
        }
        self.shared.deployment.event.notify(usize::MAX);
        Ok(())
    }
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the store was closed, open it again")
}

fn erased() -> Error {
    Error::new(
        ErrorKind::Erased,
        "the user was erased, only an explicit recreate makes one of that name again",
    )
}

fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such user, create it first")
}
