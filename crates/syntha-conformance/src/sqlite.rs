use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use syntha_sqlite::{Fault, Mode, SqliteConfig, SqliteStore};
use syntha_store::{DeploymentKey, Store};

use crate::harness::{Harness, Instance};
use crate::one_of_two::OneOfTwo;

/// The SQLite backend in a temporary folder, whole or with a planted fault.
#[derive(Clone, Copy, Debug)]
pub struct SqliteHarness {
    /// The fault, if any.
    pub fault: Option<(&'static str, Fault)>,
}

struct SqliteInstance {
    config: SqliteConfig,
    root: PathBuf,
    store: Arc<SqliteStore>,
    _folder: tempfile::TempDir,
}

#[async_trait]
impl Harness for SqliteHarness {
    fn name(&self) -> &'static str {
        self.fault.map_or("sqlite", |(name, _)| name)
    }

    async fn fresh(&self) -> Box<dyn Instance> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        std::fs::create_dir(&root).unwrap();
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o700)).unwrap();
        let mut config = SqliteConfig::new(&root).connections(8);
        if let Some((_, fault)) = self.fault {
            config = config.fault(fault);
        }
        let store = Arc::new(SqliteStore::open(config.clone()).await.unwrap());
        Box::new(SqliteInstance { config, root, store, _folder: folder })
    }
}

#[async_trait]
impl Instance for SqliteInstance {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as _
    }

    fn key(&self) -> DeploymentKey {
        self.store.deployment_key().clone()
    }

    fn below(&self) -> Option<Arc<dyn Store>> {
        None
    }

    async fn reopen(&mut self) {
        self.store.close().await.unwrap();
        self.store = Arc::new(SqliteStore::open(self.config.clone()).await.unwrap());
    }

    async fn crash(&mut self) {
        // The files as they lie there. The index of a write-ahead log is made anew by who opens it next.
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        copy(&self.root, &root);
        self.config = self.config.clone().root(&root);
        self.store = Arc::new(SqliteStore::open(self.config.clone()).await.unwrap());
        (self.root, self._folder) = (root, folder);
    }

    async fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        collect(&self.root, &mut files);
        files
    }
}

/// The SQLite backend as several processes have it: two stores on one folder, which share nothing but the files and are handed
/// out in turn, so that one handle of a user is not of the other's store.
#[derive(Clone, Copy, Debug)]
pub struct SharedSqliteHarness {
    /// The fault, if any.
    pub fault: Option<(&'static str, Fault)>,
}

struct SharedSqliteInstance {
    config: SqliteConfig,
    root: PathBuf,
    stores: [Arc<SqliteStore>; 2],
    turn: AtomicUsize,
    _folder: tempfile::TempDir,
}

async fn two(config: &SqliteConfig) -> [Arc<SqliteStore>; 2] {
    let first = SqliteStore::open(config.clone()).await.unwrap();
    [Arc::new(first), Arc::new(SqliteStore::open(config.clone()).await.unwrap())]
}

#[async_trait]
impl Harness for SharedSqliteHarness {
    fn name(&self) -> &'static str {
        self.fault.map_or("sqlite-shared", |(name, _)| name)
    }

    async fn fresh(&self) -> Box<dyn Instance> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        let mut config = SqliteConfig::new(&root).connections(8).mode(Mode::Shared);
        if let Some((_, fault)) = self.fault {
            config = config.fault(fault);
        }
        let (stores, turn) = (two(&config).await, AtomicUsize::new(0));
        Box::new(SharedSqliteInstance { config, root, stores, turn, _folder: folder })
    }
}

#[async_trait]
impl Instance for SharedSqliteInstance {
    fn store(&self) -> Arc<dyn Store> {
        let [even, odd] = &self.stores;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let [used, other] = if turn.is_multiple_of(2) { [even, odd] } else { [odd, even] };
        Arc::new(OneOfTwo { used: Arc::clone(used) as _, other: Arc::clone(other) as _ })
    }

    fn key(&self) -> DeploymentKey {
        self.stores[0].deployment_key().clone()
    }

    fn below(&self) -> Option<Arc<dyn Store>> {
        None
    }

    async fn reopen(&mut self) {
        for store in &self.stores {
            store.close().await.unwrap();
        }
        self.stores = two(&self.config).await;
    }

    async fn crash(&mut self) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        copy(&self.root, &root);
        self.config = self.config.clone().root(&root);
        self.stores = two(&self.config).await;
        (self.root, self._folder) = (root, folder);
    }

    async fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        collect(&self.root, &mut files);
        files
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, PermissionsExt::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if entry.is_dir() {
            copy(&entry, &to.join(name));
        } else if !name.to_string_lossy().ends_with("-shm") {
            std::fs::copy(&entry, to.join(name)).unwrap();
        }
    }
}

fn collect(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else {
            into.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}
