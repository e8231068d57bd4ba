//! Deployments that this process has open, so that the same data opened twice is the same deployment.

/// Deployments on stores of the host's own: the same store opened twice is the same deployment, never a second one beside it.
pub(crate) mod stores {
    use std::sync::{Arc, LazyLock, Weak};

    use syntha_mesh::MeshConfig;
    use syntha_store::{DeploymentKey, Store};
    use tokio::sync::Mutex;

    use crate::deployment::{Base, Deployment};
    use crate::error::Result;
    use crate::fairness::Running;
    use crate::layers::Layers;
    use crate::turns::Turns;

    type Known = (Weak<dyn Store>, Weak<Deployment>);

    static STORES: LazyLock<Mutex<Vec<Known>>> = LazyLock::new(Mutex::default);

    pub(crate) async fn open(
        store: Arc<dyn Store>,
        key: DeploymentKey,
        mesh: MeshConfig,
        layers: Layers,
        running: Running,
    ) -> Result<Arc<Deployment>> {
        let mut stores = STORES.lock().await;
        stores.retain(|(_, deployment)| deployment.strong_count() > 0);
        let same = |(known, _): &&Known| std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(&store));
        if let Some(deployment) = stores.iter().find(same).and_then(|(_, deployment)| deployment.upgrade()) {
            return Ok(deployment);
        }
        let known = Arc::downgrade(&store);
        let base = Base::of(store, &key, layers).await?;
        let deployment = Deployment::new(base, key, mesh, Turns::Alone, running).await?.started();
        stores.push((known, Arc::downgrade(&deployment)));
        Ok(deployment)
    }
}

/// Stores of this process by folder, so that the same folder opened twice is the same store.
#[cfg(feature = "sqlite")]
pub(crate) mod folders {
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::sync::{Arc, LazyLock, Weak};

    use syntha_mesh::MeshConfig;
    use syntha_sqlite::{Mode, SqliteConfig, SqliteStore, Synchronous};
    use tokio::sync::Mutex;

    use crate::deployment::{Base, Deployment};
    use crate::error::{Error, ErrorKind, Result};
    use crate::fairness::Running;
    use crate::layers::Layers;
    use crate::turns::Turns;

    /// What a second opener must want as well: who else may have the folder, and how durable a commit is.
    type Access = (Mode, Synchronous);

    type Known = (Weak<Deployment>, Access);

    static FOLDERS: LazyLock<Mutex<HashMap<PathBuf, Known>>> = LazyLock::new(Mutex::default);

    /// The folder's deployment, opened if it is not yet. The first opener's configuration holds; another mode or durability is
    /// refused.
    pub(crate) async fn open(
        config: SqliteConfig,
        mesh: MeshConfig,
        layers: Layers,
        running: Running,
    ) -> Result<Arc<Deployment>> {
        let mut folders = FOLDERS.lock().await;
        folders.retain(|_, (deployment, _)| deployment.strong_count() > 0);
        let name = std::path::absolute(config.folder())
            .map_err(|_| Error::new(ErrorKind::Invalid, "the data folder's path can't be made absolute"))?;
        let (mode, name) = (config.chosen_mode(), name.canonicalize().unwrap_or(name));
        let wanted = (mode, config.chosen_synchronous());
        if let Some((deployment, opened)) =
            folders.get(&name).and_then(|(deployment, opened)| Some((deployment.upgrade()?, *opened)))
        {
            // INVARIANT: a reader of an exclusive deployment asks nobody, so nobody may be let in beside it who is not asked either.
            if opened != wanted {
                return Err(other_mode());
            }
            // INVARIANT: who has no key, or another one, gets nothing that is open already.
            #[cfg(feature = "encryption")]
            crate::encryption::sqlite::prove(&deployment.sealed, &name, layers.sealing).await?;
            return Ok(deployment);
        }
        let config = config.owner_groups(running.groups.clone());
        let (files, base) = released(config, layers).await?;
        let key = files.deployment_key().clone();
        let turns = if mode == Mode::Shared { Turns::Shared(files) } else { Turns::Alone };
        let deployment = Deployment::new(base, key, mesh, turns, running).await?.started();
        let name = name.canonicalize().unwrap_or(name);
        folders.insert(name, (Arc::downgrade(&deployment), wanted));
        Ok(deployment)
    }

    /// Opens the files. What was dropped without being closed gives the folder up a moment later, when the last commit's task has ended.
    async fn released(config: SqliteConfig, layers: Layers) -> Result<(Arc<SqliteStore>, Base)> {
        let mut tries = 0;
        loop {
            match files(config.clone(), layers.clone()).await {
                Err(error) if tries < TRIES && is_own(&error) => tries += 1,
                opened => return opened,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether it is this process that has the folder.
    fn is_own(error: &Error) -> bool {
        let own = format!("process {}", std::process::id());
        let mut cause = std::error::Error::source(error);
        while let Some(source) = cause {
            if source.to_string() == own {
                return error.kind() == ErrorKind::Locked;
            }
            cause = source.source();
        }
        false
    }

    /// Together one second.
    const TRIES: u32 = 100;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

    #[cfg(feature = "encryption")]
    async fn files(config: SqliteConfig, layers: Layers) -> Result<(Arc<SqliteStore>, Base)> {
        let opened = crate::encryption::sqlite::open(config, layers).await?;
        let base = match opened.sealed {
            Some(sealed) => Base::sealed(opened.trailed, sealed),
            None => Base::plain(opened.trailed),
        };
        Ok((opened.files, base))
    }

    #[cfg(not(feature = "encryption"))]
    async fn files(config: SqliteConfig, layers: Layers) -> Result<(Arc<SqliteStore>, Base)> {
        let folder = std::path::absolute(config.folder())
            .map_err(|_| Error::new(ErrorKind::Invalid, "the data folder's path can't be made absolute"))?;
        let reads = config.chosen_mode() == Mode::Beside;
        let files = Arc::new(SqliteStore::open(config).await?);
        let place = crate::layers::Place { folder: Some(&folder), reads };
        let key = files.deployment_key();
        let trailed = layers.auditing.over(Arc::clone(&files) as _, key, place).await?;
        Ok((Arc::clone(&files), Base::plain(trailed)))
    }

    const fn other_mode() -> Error {
        Error::new(
            ErrorKind::Locked,
            "this process has the data folder open in another mode or durability, open it in the same or drop what is open",
        )
    }

    /// Forgets a deployment that was closed.
    pub(crate) async fn forget(closed: &Arc<Deployment>) {
        let mut folders = FOLDERS.lock().await;
        folders.retain(|_, (deployment, _)| !std::ptr::eq(deployment.as_ptr(), Arc::as_ptr(closed)));
    }
}

/// Databases of this process by the folder of their keys, so that the same one opened twice is the same deployment.
#[cfg(feature = "postgres")]
pub(crate) mod databases {
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::sync::{Arc, LazyLock, Weak};

    use syntha_mesh::MeshConfig;
    use syntha_postgres::Mode;
    use tokio::sync::Mutex;

    use crate::database::{self, Postgres};
    use crate::deployment::Deployment;
    use crate::error::{Error, ErrorKind, Result};
    use crate::fairness::Running;
    use crate::layers::Layers;
    use crate::turn_lock::TurnLock;
    use crate::turns::Turns;

    /// What a second opener must want as well.
    type Access = (Arc<str>, Mode);

    type Known = (Weak<Deployment>, Access);

    static DATABASES: LazyLock<Mutex<HashMap<PathBuf, Known>>> = LazyLock::new(Mutex::default);

    pub(crate) async fn open(
        config: &Postgres,
        mesh: MeshConfig,
        layers: Layers,
        running: Running,
    ) -> Result<Arc<Deployment>> {
        let mut databases = DATABASES.lock().await;
        databases.retain(|_, (deployment, _)| deployment.strong_count() > 0);
        let name = database::absolute(config.state())?;
        let name = name.canonicalize().unwrap_or(name);
        let wanted = (Arc::clone(config.url()), config.chosen_mode());
        if let Some((deployment, opened)) =
            databases.get(&name).and_then(|(deployment, opened)| Some((deployment.upgrade()?, opened)))
        {
            if *opened != wanted {
                return Err(Error::new(
                    ErrorKind::Locked,
                    "this process has the state folder's deployment open by another URL or in another mode, drop what is open",
                ));
            }
            // INVARIANT: who has no key, or another one, gets nothing that is open already.
            #[cfg(feature = "encryption")]
            crate::encryption::sqlite::prove(&deployment.sealed, &name.join("data"), layers.sealing).await?;
            return Ok(deployment);
        }
        let opened = database::open(config, layers).await?;
        let turns = Turns::Database(TurnLock::new(Arc::clone(config.url())));
        let deployment = Deployment::new(opened.base, opened.key, mesh, turns, running).await?.started();
        databases.insert(name, (Arc::downgrade(&deployment), wanted));
        Ok(deployment)
    }

    /// Forgets a deployment that was closed.
    pub(crate) async fn forget(closed: &Arc<Deployment>) {
        let mut databases = DATABASES.lock().await;
        databases.retain(|_, (deployment, _)| !std::ptr::eq(deployment.as_ptr(), Arc::as_ptr(closed)));
    }
}
