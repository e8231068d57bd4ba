//! A store, its directory, and the meshes that are open on it: one of each for a process.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use syntha_mesh::{Mesh, MeshConfig};
use syntha_store::{
    Batch, CreateMode, DeploymentKey, ErrorKind as StoreErrorKind, ImportMode, Snapshot, Store, UserId,
    UserTag,
};
use tokio::sync::Mutex as AsyncMutex;

use crate::directory::Directory;
use crate::error::{Error, ErrorKind, Result};

/// What every handle on one deployment shares.
pub(crate) struct Deployment {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) directory: Directory,
    key: DeploymentKey,
    config: MeshConfig,
    users: Mutex<HashMap<UserTag, Arc<AsyncMutex<Option<Mesh>>>>>,
    /// A user manager owns it, and nobody gets in beside.
    managed: AtomicBool,
}

impl Deployment {
    pub(crate) async fn new(store: Arc<dyn Store>, key: DeploymentKey, config: MeshConfig) -> Result<Self> {
        let directory = Directory::new(store.deployment().await?);
        let deployment =
            Self { store, directory, key, config, users: Mutex::default(), managed: AtomicBool::new(false) };
        deployment.resume().await?;
        Ok(deployment)
    }

    /// Takes it for a manager; `false` if one has it.
    pub(crate) fn manage(&self) -> bool {
        !self.managed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn release(&self) {
        self.managed.store(false, Ordering::Release);
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn is_managed(&self) -> bool {
        self.managed.load(Ordering::Acquire)
    }

    pub(crate) fn tag(&self, user: &UserId) -> UserTag {
        self.key.tag(user)
    }

    /// The user's mesh: opened once, then shared. Other users' meshes open meanwhile.
    pub(crate) async fn mesh(&self, user: &UserId, create: bool) -> Result<Mesh> {
        let tag = self.tag(user);
        let place = self.place(tag);
        let mut place = place.lock().await;
        if let Some(mesh) = &*place {
            return Ok(mesh.clone());
        }
        let opened = match self.store.open(tag).await {
            Err(error) if create && error.kind() == StoreErrorKind::NotFound => {
                self.make(user, tag, CreateMode::New).await?
            }
            opened => opened?,
        };
        let exclusive = self.store.capabilities().exclusive;
        let mesh = Mesh::open(opened, exclusive, self.config.clone()).await?;
        *place = Some(mesh.clone());
        Ok(mesh)
    }

    pub(crate) async fn create(&self, user: &UserId, mode: CreateMode) -> Result<()> {
        let tag = self.tag(user);
        let place = self.place(tag);
        let mut place = place.lock().await;
        self.make(user, tag, mode).await?;
        *place = None;
        Ok(())
    }

    /// Erases a user: intent in the ledger, data, then name and intent's end in one commit. Resumed at the next start.
    pub(crate) async fn erase(&self, user: &UserId) -> Result<bool> {
        let tag = self.tag(user);
        let place = self.place(tag);
        let mut place = place.lock().await;
        // A user who never was leaves no intent behind.
        match self.store.open(tag).await {
            Err(error) if error.kind() == StoreErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        *place = None;
        self.directory.intend_erasure(tag, self.config.clock.wall()).await?;
        let erased = self.store.erase(tag).await?;
        self.directory.finish_erasure(tag, self.config.clock.wall()).await?;
        Ok(erased.removed)
    }

    pub(crate) async fn restore(
        &self,
        user: &UserId,
        snapshot: &mut dyn Snapshot,
        mode: ImportMode,
    ) -> Result<()> {
        let tag = self.tag(user);
        let place = self.place(tag);
        let mut place = place.lock().await;
        self.store.import(tag, snapshot, mode).await?;
        *place = None;
        self.directory.confirm(user, tag).await
    }

    /// Forgets the meshes and closes the store.
    pub(crate) async fn close(&self) -> Result<()> {
        self.users.lock().clear();
        Ok(self.store.close().await?)
    }

    async fn make(
        &self,
        user: &UserId,
        tag: UserTag,
        mode: CreateMode,
    ) -> Result<Arc<dyn syntha_store::UserStore>> {
        // Looked at first, so that a refused create leaves the row of the user who is there as it is.
        match self.store.open(tag).await {
            Ok(_) => return Err(Error::new(ErrorKind::AlreadyExists, "the user is there already")),
            Err(error) => match error.kind() {
                StoreErrorKind::NotFound => {}
                StoreErrorKind::Erased if mode == CreateMode::Recreate => {}
                _ => return Err(error.into()),
            },
        }
        self.directory.announce(user, tag).await?;
        let (opened, _) = self.store.create(tag, Batch::new(self.config.clock.wall())?, mode).await?;
        self.directory.confirm(user, tag).await?;
        Ok(opened)
    }

    fn place(&self, tag: UserTag) -> Arc<AsyncMutex<Option<Mesh>>> {
        Arc::clone(self.users.lock().entry(tag).or_default())
    }

    /// Ends what a process that died had begun.
    async fn resume(&self) -> Result<()> {
        for tag in self.directory.unfinished_erasures().await? {
            match self.store.erase(tag).await {
                Err(error) if error.kind() != StoreErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            self.directory.finish_erasure(tag, self.config.clock.wall()).await?;
        }
        let mut after = None;
        loop {
            let page = self.directory.page(after, 1_000).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.tag);
            for (entry, _) in page.iter().filter(|(_, pending)| *pending) {
                match self.store.open(entry.tag).await {
                    Ok(_) => self.directory.confirm(&entry.user, entry.tag).await?,
                    Err(error) => match error.kind() {
                        StoreErrorKind::NotFound | StoreErrorKind::Erased => {
                            self.directory.remove(entry.tag).await?
                        }
                        // A damaged or refused file keeps its row; the user's own open says what is wrong.
                        _ => {}
                    },
                }
            }
        }
    }
}

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deployment").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Stores of this process by folder, so that the same folder opened twice is the same store.
#[cfg(feature = "sqlite")]
pub(crate) mod registry {
    use std::collections::HashMap;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, LazyLock, Weak};

    use syntha_mesh::MeshConfig;
    use syntha_sqlite::{SqliteConfig, SqliteStore};
    use tokio::sync::Mutex;

    use super::Deployment;
    use crate::error::{Error, ErrorKind, Result};

    static FOLDERS: LazyLock<Mutex<HashMap<PathBuf, Weak<Deployment>>>> = LazyLock::new(Mutex::default);

    /// The folder's deployment, opened if it is not yet. The first opener's configuration holds.
    pub(crate) async fn open(
        config: SqliteConfig,
        folder: &Path,
        mesh: MeshConfig,
    ) -> Result<Arc<Deployment>> {
        let mut folders = FOLDERS.lock().await;
        folders.retain(|_, deployment| deployment.strong_count() > 0);
        let name = std::path::absolute(folder)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the data folder's path can't be made absolute"))?;
        let name = name.canonicalize().unwrap_or(name);
        if let Some(deployment) = folders.get(&name).and_then(Weak::upgrade) {
            return Ok(deployment);
        }
        let store = SqliteStore::open(config).await?;
        let key = store.deployment_key().clone();
        let deployment = Arc::new(Deployment::new(Arc::new(store), key, mesh).await?);
        let name = name.canonicalize().unwrap_or(name);
        folders.insert(name, Arc::downgrade(&deployment));
        Ok(deployment)
    }

    /// Forgets a deployment that was closed.
    pub(crate) async fn forget(closed: &Arc<Deployment>) {
        FOLDERS.lock().await.retain(|_, deployment| !std::ptr::eq(deployment.as_ptr(), Arc::as_ptr(closed)));
    }
}
