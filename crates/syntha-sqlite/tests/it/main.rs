//! The SQLite backend on real files. Hostile paths stay inside temporary folders.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod contract;
mod files;
mod links;
mod lives;
mod shared;
mod turns;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use syntha_sqlite::{SqliteConfig, SqliteStore};
use syntha_store::{Batch, CreateMode, Keyspace, RecordId, Store, Timestamp, UserId, UserStore, UserTag};

struct Bed {
    folder: tempfile::TempDir,
    store: SqliteStore,
}

impl Bed {
    async fn new() -> Self {
        Self::with(|config| config).await
    }

    async fn with(configure: impl FnOnce(SqliteConfig) -> SqliteConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store =
            SqliteStore::open(configure(SqliteConfig::new(folder.path().join("data")))).await.unwrap();
        Self { folder, store }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn reopen(self) -> Self {
        self.store.close().await.unwrap();
        let Self { folder, store } = self;
        drop(store);
        let store = SqliteStore::open(SqliteConfig::new(folder.path().join("data"))).await.unwrap();
        Self { folder, store }
    }

    /// Ends without closing, as a process that dies does.
    async fn crash(self) -> Self {
        let Self { folder, store } = self;
        drop(store);
        let store = SqliteStore::open(SqliteConfig::new(folder.path().join("data"))).await.unwrap();
        Self { folder, store }
    }

    fn tag(&self, name: &str) -> UserTag {
        self.store.deployment_key().tag(&UserId::new(name).unwrap())
    }

    async fn user(&self, name: &str) -> Arc<dyn UserStore> {
        let first = put("name", name.as_bytes());
        self.store.create(self.tag(name), first, CreateMode::New).await.unwrap().0
    }

    fn file(&self, name: &str) -> PathBuf {
        let tag = self.tag(name).to_string();
        self.root().join("users").join(&tag[0..1]).join(&tag[1..2]).join(format!("{tag}.db"))
    }

    /// Every byte under the root.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut folders = vec![self.root()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { bytes.extend(std::fs::read(path).unwrap()) }
            }
        }
        bytes
    }
}

fn id(name: &str) -> RecordId {
    RecordId::new(Bytes::copy_from_slice(name.as_bytes()), 0).unwrap()
}

fn put(name: &str, body: &[u8]) -> Batch {
    Batch::new(Timestamp(7)).unwrap().put(Keyspace::Context, id(name), "head", Bytes::copy_from_slice(body))
}

async fn get(user: &dyn UserStore, name: &str) -> Option<Vec<u8>> {
    let read = user.read(Keyspace::Context, &[id(name)]).await.unwrap();
    read.value.into_iter().next().flatten().map(|record| record.body.to_vec())
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn mode(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o777
}
