//! Watches through the facade: a user who has not written yet, a session's end, an erase, a restore, a shutdown.

use std::io::Cursor;
use std::sync::Arc;

use syntha::store::MemoryStore;
use syntha::{MeshErrorKind, Session, UserManager, Watch, WatchConfig, WatchEvent};
use tokio::task::JoinHandle;

use crate::{data, open};

/// The kind of the error that a watch ends with, read by a task.
fn end(mut watch: Watch) -> JoinHandle<MeshErrorKind> {
    tokio::spawn(async move {
        loop {
            if let Err(error) = watch.next().await.unwrap() {
                assert!(watch.next().await.is_none());
                return error.kind();
            }
        }
    })
}

/// The same for an agent of a session.
async fn watch(session: &Session) -> JoinHandle<MeshErrorKind> {
    let mut watch = session.agent("a").unwrap().watch(WatchConfig::new()).await.unwrap();
    watch.next().await.unwrap().unwrap();
    end(watch)
}

#[tokio::test]
async fn a_watch_sees_the_first_write_of_a_new_user() {
    let (_folder, data) = data();
    let store = Arc::new(MemoryStore::new().unwrap());
    let key = store.deployment_key().clone();
    for (users, host) in
        [open(&data).await, UserManager::builder().store(store as _, key).open().await.unwrap()]
    {
        let session = users.create_user_session(&host, "alice").await.unwrap();
        let agent = session.agent("a").unwrap();
        let mut watch = agent.watch(WatchConfig::new()).await.unwrap();
        let first = watch.next().await.unwrap().unwrap();
        assert!(matches!(first, WatchEvent::Snapshot(entries) if entries.is_empty()));
        for n in 0..5 {
            agent.push("k", n).await.unwrap();
            let event = watch.next().await.unwrap().unwrap();
            assert!(matches!(event, WatchEvent::Put(entry) if entry.value::<i32>().unwrap() == n));
        }
    }
}

#[tokio::test]
async fn a_watch_ends_with_whatever_it_belongs_to() {
    let (_folder, data) = data();
    let (users, host) = open(&data).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let other = users.create_user_session(&host, "alice").await.unwrap();
    let bob = users.create_user_session(&host, "bob").await.unwrap();
    session.agent("a").unwrap().push("k", 1).await.unwrap();
    let (first, second, stays) = (watch(&session).await, watch(&other).await, watch(&bob).await);
    session.end();
    assert_eq!(first.await.unwrap(), MeshErrorKind::SessionEnded);
    let mut archive = Vec::new();
    users.backup("alice", &mut archive).await.unwrap();
    users.restore("alice", Cursor::new(archive)).await.unwrap();
    assert_eq!(second.await.unwrap(), MeshErrorKind::Gone);
    let third = watch(&users.open(&host, "alice").await.unwrap()).await;
    users.erase("alice").await.unwrap();
    assert_eq!(third.await.unwrap(), MeshErrorKind::Gone);
    assert!(!stays.is_finished());
    users.shutdown().await.unwrap();
    assert_eq!(stays.await.unwrap(), MeshErrorKind::Gone);
}
