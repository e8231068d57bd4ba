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

use crate::directory::{Directory, Standing, erased};
use crate::error::{Error, ErrorKind, Result};
use crate::newborn::Newborn;

/// What every handle on one deployment shares.
pub(crate) struct Deployment {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) directory: Directory,
    key: DeploymentKey,
    config: MeshConfig,
    users: Mutex<HashMap<UserTag, Arc<Place>>>,
    /// A user manager owns it, and nobody gets in beside.
    managed: AtomicBool,
}

/// Where a user's mesh is while it is open.
#[derive(Default)]
struct Place {
    mesh: AsyncMutex<Option<Mesh>>,
    /// Asked for since idle meshes were last dropped.
    used: AtomicBool,
}

/// How many users' meshes are kept before those that nobody holds are dropped: 4 KiB each, if they hold ten entries.
const MESHES_KEPT: usize = 16_384;

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
        place.used.store(true, Ordering::Relaxed);
        let mut mesh = place.mesh.lock().await;
        if let Some(mesh) = &*mesh {
            return Ok(mesh.clone());
        }
        let (opened, mode) = match self.store.open(tag).await {
            Ok(opened) => (Some(opened), CreateMode::New),
            Err(error) => match error.kind() {
                StoreErrorKind::NotFound => (None, CreateMode::New),
                StoreErrorKind::Erased => (None, CreateMode::Recreate),
                _ => return Err(error.into()),
            },
        };
        let opened = match opened {
            Some(opened) => opened,
            None => {
                self.enter(user, tag, create && mode == CreateMode::New).await?;
                Arc::new(Newborn::new(Arc::clone(&self.store), tag, mode)?)
            }
        };
        let exclusive = self.store.capabilities().exclusive;
        let opened = Mesh::open(opened, exclusive, self.config.clone()).await?;
        *mesh = Some(opened.clone());
        Ok(opened)
    }

    /// Sees to it that a user who has no data is there: admitted before, or now.
    async fn enter(&self, user: &UserId, tag: UserTag, create: bool) -> Result<()> {
        if create {
            return match self.directory.admit(user, tag, false).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
                admitted => admitted,
            };
        }
        self.enter_known(tag).await
    }

    async fn enter_known(&self, tag: UserTag) -> Result<()> {
        match self.directory.standing(tag).await? {
            Standing::There => Ok(()),
            Standing::Absent => Err(not_found()),
            Standing::Erased => Err(erased()),
        }
    }

    /// Makes a user. The user's data is made with the first write.
    pub(crate) async fn create(&self, user: &UserId, mode: CreateMode) -> Result<()> {
        let tag = self.tag(user);
        let place = self.place(tag);
        let _held = place.mesh.lock().await;
        self.directory.admit(user, tag, mode == CreateMode::Recreate).await
    }

    /// Erases a user: intent in the ledger, data, then name and intent's end in one commit. Resumed at the next start.
    pub(crate) async fn erase(&self, user: &UserId) -> Result<bool> {
        let tag = self.tag(user);
        let place = self.place(tag);
        let mut mesh = place.mesh.lock().await;
        // A user who never was leaves no intent behind.
        if self.directory.standing(tag).await? == Standing::Absent {
            return Err(not_found());
        }
        if let Some(mesh) = mesh.take() {
            mesh.retire();
        }
        self.directory.intend_erasure(tag, self.config.clock.wall()).await?;
        let removed = self.destroy(tag).await?;
        self.directory.finish_erasure(tag, self.config.clock.wall()).await?;
        Ok(removed)
    }

    pub(crate) async fn restore(
        &self,
        user: &UserId,
        snapshot: &mut dyn Snapshot,
        mode: ImportMode,
    ) -> Result<()> {
        let tag = self.tag(user);
        let place = self.place(tag);
        let mut mesh = place.mesh.lock().await;
        // INVARIANT: the name is written before the data, so that no data is there which no list shows.
        let new = self.directory.standing(tag).await? == Standing::Absent;
        if new {
            self.directory.admit(user, tag, false).await?;
        } else {
            self.bear(tag).await?;
        }
        if let Err(error) = self.store.import(tag, snapshot, mode).await {
            if new {
                self.directory.remove(tag).await?;
            }
            return Err(error.into());
        }
        if let Some(mesh) = mesh.take() {
            mesh.retire();
        }
        Ok(())
    }

    /// The user's data as of one commit.
    pub(crate) async fn snapshot(&self, user: &UserId) -> Result<Box<dyn Snapshot>> {
        let tag = self.tag(user);
        self.bear(tag).await?;
        let opened = self.store.open(tag).await?;
        Ok(opened.snapshot().await?)
    }

    /// Forgets the meshes and closes the store.
    pub(crate) async fn close(&self) -> Result<()> {
        self.users.lock().clear();
        Ok(self.store.close().await?)
    }

    /// Makes the data of a user who is there and has not written yet.
    async fn bear(&self, tag: UserTag) -> Result<()> {
        let mode = match self.store.open(tag).await {
            Err(error) if error.kind() == StoreErrorKind::NotFound => CreateMode::New,
            Err(error) if error.kind() == StoreErrorKind::Erased => CreateMode::Recreate,
            _ => return Ok(()),
        };
        self.enter_known(tag).await?;
        match self.store.create(tag, Batch::new(self.config.clock.wall())?, mode).await {
            Err(error) if error.kind() != StoreErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn destroy(&self, tag: UserTag) -> Result<bool> {
        match self.store.erase(tag).await {
            Ok(erased) => Ok(erased.removed),
            // The user never wrote.
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The user's place. Meshes that nobody holds are dropped when there are many.
    fn place(&self, tag: UserTag) -> Arc<Place> {
        let mut users = self.users.lock();
        if users.len() >= MESHES_KEPT && !users.contains_key(&tag) {
            drop_idle(&mut users);
        }
        Arc::clone(users.entry(tag).or_default())
    }

    /// Ends what a process that died had begun.
    async fn resume(&self) -> Result<()> {
        for tag in self.directory.unfinished_erasures().await? {
            self.destroy(tag).await?;
            self.directory.finish_erasure(tag, self.config.clock.wall()).await?;
        }
        Ok(())
    }
}

/// Drops meshes that no handle and no write keeps: those that were not asked for since the last time, and if these are few, all.
fn drop_idle(users: &mut HashMap<UserTag, Arc<Place>>) {
    let before = users.len();
    for all in [false, true] {
        // INVARIANT: places are handed out under the lock that is held here, so what nobody holds now stays so.
        users.retain(|_, place| {
            let held =
                Arc::strong_count(place) > 1 || place.mesh.try_lock().map_or(true, |mesh| is_held(&mesh));
            held || (!all && place.used.swap(false, Ordering::Relaxed))
        });
        if users.len() < before / 8 * 7 {
            break;
        }
    }
}

fn is_held(mesh: &Option<Mesh>) -> bool {
    mesh.as_ref().is_some_and(Mesh::is_shared)
}

const fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such user, create it first")
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
    use std::path::PathBuf;
    use std::sync::{Arc, LazyLock, Weak};

    use syntha_mesh::MeshConfig;
    use syntha_sqlite::{SqliteConfig, SqliteStore};
    use tokio::sync::Mutex;

    use super::Deployment;
    use crate::error::{Error, ErrorKind, Result};

    static FOLDERS: LazyLock<Mutex<HashMap<PathBuf, Weak<Deployment>>>> = LazyLock::new(Mutex::default);

    /// The folder's deployment, opened if it is not yet. The first opener's configuration holds.
    pub(crate) async fn open(config: SqliteConfig, mesh: MeshConfig) -> Result<Arc<Deployment>> {
        let mut folders = FOLDERS.lock().await;
        folders.retain(|_, deployment| deployment.strong_count() > 0);
        let name = std::path::absolute(config.folder())
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
