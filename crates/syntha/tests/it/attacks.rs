//! What an attacker's reading of the facade found, each kept as a test.

use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use syntha::sqlite::{SqliteConfig, Synchronous};
use syntha::store::{
    Batch, Capabilities, Commit, CreateMode, DeploymentKey, Erased, Fence, ImportMode, MemoryStore, Result,
    SelfCheck, Snapshot, Stamp, Store, UserStore, UserTag,
};
use syntha::{ContextMesh, ErrorKind, UserManager};

use crate::{data, open};

/// The reference, and a user's data takes long to be made.
#[derive(Debug)]
struct Slow(MemoryStore);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Slow {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        self.0.create(user, first, mode).await
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        self.0.open(user).await
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.0.fence(user, at, fence).await
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        self.0.erase(user).await
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        self.0.import(user, snapshot, mode).await
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        self.0.list(after, limit).await
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        self.0.deployment().await
    }

    async fn verify(&self) -> Result<SelfCheck> {
        self.0.verify().await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

/// A first write that is under way while its user is erased brings nobody back.
#[tokio::test]
async fn an_erase_beside_a_first_write_is_final() {
    let store = Arc::new(Slow(MemoryStore::new().unwrap()));
    let key = store.0.deployment_key().clone();
    let (users, host) = UserManager::builder().store(Arc::clone(&store) as _, key).open().await.unwrap();
    for (round, again) in [false, true, true].into_iter().enumerate() {
        if again {
            users.recreate("alice").await.unwrap();
        }
        let session = users.create_user_session(&host, "alice").await.unwrap();
        let agent = session.agent("a").unwrap();
        let push = tokio::spawn(agent.push("k", 1).into_future());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        users.erase("alice").await.unwrap();
        drop(push.await.unwrap());
        assert!(agent.entry("k").await.is_err(), "an erased user answers");
        assert!(agent.push("late", 1).await.is_err());
        assert!(store.open(users.tag("alice").unwrap()).await.is_err(), "round {round}: the data is back");
        let refused = users.create_user_session(&host, "alice").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Erased);
    }
}

/// A caller who gives up on an erase or a restore leaves no user half-way: what is acknowledged later stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_erase_or_restore_ends_all_the_same() {
    for polls in 0..16 {
        let (_folder, data) = data();
        let (users, host) = open(&data).await;
        for user in ["erased", "restored"] {
            let session = users.create_user_session(&host, user).await.unwrap();
            session.push("old", 1).await.unwrap();
        }
        let mut archive = Vec::new();
        users.backup("restored", &mut archive).await.unwrap();
        drop_after(polls, users.erase("erased")).await;
        drop_after(polls, users.restore("restored", std::io::Cursor::new(archive))).await;
        let mut kept = Vec::new();
        for user in ["erased", "restored"] {
            match users.create_user_session(&host, user).await {
                Ok(session) => {
                    session.push("new", 2).await.unwrap();
                    kept.push(user);
                }
                Err(error) => assert_eq!((user, error.kind()), ("erased", ErrorKind::Erased)),
            }
        }
        users.shutdown().await.unwrap();
        let (users, host) = open(&data).await;
        for user in kept {
            let session = users.open(&host, user).await.unwrap();
            assert!(session.value("new").await.unwrap().is_some(), "{user} after {polls} polls");
            assert!(session.value("old").await.unwrap().is_some(), "{user} after {polls} polls");
        }
    }
}

async fn drop_after<T>(polls: usize, work: impl Future<Output = T>) {
    let mut work = std::pin::pin!(work);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        work.as_mut().poll(context).map(drop)
    })
    .await;
}

#[tokio::test]
async fn no_handle_answers_after_a_shutdown() {
    let (_folder, data) = data();
    let (users, host) = open(&data).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let agent = session.agent("a").unwrap();
    agent.push("secret", 1).await.unwrap();
    users.shutdown().await.unwrap();
    assert!(agent.get::<u8>("secret").await.is_err());
    assert!(agent.push("late", 1).await.is_err());
    assert!(session.stats().await.is_err());
}

#[tokio::test]
async fn one_store_has_one_manager_and_one_key() {
    let store = Arc::new(MemoryStore::new().unwrap());
    let key = store.deployment_key().clone();
    let build = |key: DeploymentKey| UserManager::builder().store(Arc::clone(&store) as _, key).open();
    let (users, old) = build(key.clone()).await.unwrap();
    users.create("alice").await.unwrap();
    assert_eq!(build(key.clone()).await.unwrap_err().kind(), ErrorKind::Locked);
    drop(users);
    assert_eq!(
        build(key.clone()).await.unwrap_err().kind(),
        ErrorKind::Locked,
        "its authority is still held"
    );
    drop(old);
    let other = DeploymentKey::from_bytes([9; 32]);
    assert_eq!(build(other).await.unwrap_err().kind(), ErrorKind::Denied);
    let (users, host) = build(key).await.unwrap();
    assert!(users.open(&host, "alice").await.is_ok());
}

#[tokio::test]
async fn a_manager_does_not_begin_beside_open_meshes() {
    let (_folder, data) = data();
    let mesh = ContextMesh::open(&data, "alice").await.unwrap();
    let refused = UserManager::builder().sqlite(&data).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    drop(mesh);
    open(&data).await;
}

/// One user's refused file stops that user's erasure, and nobody else.
#[tokio::test]
async fn an_erasure_that_fails_stops_nobody_else() {
    let (_folder, data) = data();
    let (users, host) = open(&data).await;
    for user in ["alice", "bob"] {
        users.create_user_session(&host, user).await.unwrap().push("who", user).await.unwrap();
    }
    let tag = users.tag("alice").unwrap();
    users.shutdown().await.unwrap();
    let file = find(&data, &format!("{tag}.db")).unwrap();
    let second = data.join("second-name");
    std::fs::hard_link(&file, &second).unwrap();
    let (users, host) = open(&data).await;
    assert_eq!(users.erase("alice").await.unwrap_err().kind(), ErrorKind::Denied);
    drop((users, host));
    let (users, host) = open(&data).await;
    assert_eq!(users.unfinished_erasures().await.unwrap(), [tag]);
    assert_eq!(users.create_user_session(&host, "alice").await.unwrap_err().kind(), ErrorKind::Erased);
    assert_eq!(users.open(&host, "bob").await.unwrap().size().await.unwrap(), 1);
    drop((users, host));
    std::fs::remove_file(second).unwrap();
    let (users, _host) = open(&data).await;
    assert!(users.unfinished_erasures().await.unwrap().is_empty() && !file.exists());
}

fn find(folder: &Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) }
    })
}

/// Attack 9: whoever opens the folder a second time in this process can't get in by another mode.
#[tokio::test]
async fn a_second_opener_of_another_mode_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mesh = ContextMesh::open(&data, "alice").await.unwrap();
    let shared = ContextMesh::open_shared(&data, "alice").await.unwrap_err();
    assert_eq!(shared.kind(), ErrorKind::Locked);
    assert!(shared.to_string().contains("another mode"), "{shared}");
    for builder in [UserManager::builder().sqlite_shared(&data), UserManager::builder().sqlite_beside(&data)]
    {
        assert_eq!(builder.open().await.unwrap_err().kind(), ErrorKind::Locked);
    }
    let weaker = SqliteConfig::new(&data).synchronous(Synchronous::Normal);
    let weaker = UserManager::builder().sqlite_with(weaker).open().await;
    assert_eq!(
        weaker.unwrap_err().kind(),
        ErrorKind::Locked,
        "nobody gets another durability than was asked for"
    );
    drop(mesh);
    let shared = ContextMesh::open_shared(&data, "alice").await.unwrap();
    assert_eq!(ContextMesh::open(&data, "alice").await.unwrap_err().kind(), ErrorKind::Locked);
    ContextMesh::open_shared(&data, "bob").await.unwrap().push("key", 1).await.unwrap();
    shared.push("key", 2).await.unwrap();
}
