//! What an attacker's reading of the facade found, each kept as a test.

use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use syntha::store::{DeploymentKey, MemoryStore};
use syntha::{ContextMesh, ErrorKind, Filter, UserManager};

use crate::{data, open};

/// A first write that is queued while its user is erased brings nobody back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erase_beside_a_first_write_is_final() {
    let (_folder, data) = data();
    let (users, host) = open(&data).await;
    for number in 0..60 {
        let user = format!("user-{number}");
        let session = users.create_user_session(&host, user.as_str()).await.unwrap();
        let agent = session.agent("a").unwrap();
        let pushes: Vec<_> =
            (0..3).map(|n| tokio::spawn(agent.push(format!("k{n}"), n).into_future())).collect();
        for _ in 0..number % 5 {
            tokio::task::yield_now().await;
        }
        users.erase(user.as_str()).await.unwrap();
        for push in pushes {
            drop(push.await.unwrap());
        }
        assert!(agent.entry("k0").await.is_err(), "an erased user answers");
        let again = users.create_user_session(&host, user.as_str()).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Erased);
        if number % 2 == 0 {
            users.recreate(user.as_str()).await.unwrap();
            let new = users.open(&host, user.as_str()).await.unwrap();
            assert!(agent.push("late", 1).await.is_err());
            assert!(new.entries(&Filter::new()).await.unwrap().is_empty());
        }
    }
    users.shutdown().await.unwrap();
    let (users, host) = open(&data).await;
    for number in 0..60 {
        match users.open(&host, format!("user-{number}")).await {
            Ok(session) => assert_eq!((number % 2, session.size().await.unwrap()), (0, 0)),
            Err(error) => assert_eq!((number % 2, error.kind()), (1, ErrorKind::Erased)),
        }
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
