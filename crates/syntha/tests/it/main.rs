//! The facade on real files.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test prints its row of evidence")]
#![cfg(feature = "sqlite")]

#[cfg(feature = "identity")]
mod accounts;
#[cfg(all(feature = "identity", feature = "audit", feature = "encryption"))]
mod accounts_whole;
mod archives;
mod attacks;
#[cfg(feature = "audit")]
mod audit;
#[cfg(feature = "audit")]
mod audit_default;
#[cfg(feature = "audit")]
mod audit_deployment;
#[cfg(feature = "audit")]
mod audit_lost;
#[cfg(feature = "audit")]
mod audit_start;
#[cfg(feature = "audit")]
mod audit_whole;
mod backup;
mod encryption_attacks;
mod erasure;
mod history_attacks;
mod limits;
mod migration;
#[cfg(all(feature = "postgres", feature = "identity", feature = "audit", feature = "encryption"))]
mod postgres;
mod watch;

use std::io::Cursor;
use std::path::PathBuf;

use syntha::{ContextMesh, ErrorKind, HostAuthority, UserManager};

fn data() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

async fn open(data: &PathBuf) -> (UserManager, HostAuthority) {
    UserManager::builder().sqlite(data).open().await.unwrap()
}

#[tokio::test]
async fn users_are_made_listed_and_found_again() {
    let (_folder, data) = data();
    let (users, host) = open(&data).await;
    for user in ["alice", "bob", "carol"] {
        users.create(user).await.unwrap();
        let session = users.open(&host, user).await.unwrap();
        session.agent("a").unwrap().push("who", user).await.unwrap();
    }
    assert_eq!(users.create("bob").await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(users.open(&host, "dave").await.unwrap_err().kind(), ErrorKind::NotFound);
    users.shutdown().await.unwrap();
    let (users, host) = open(&data).await;
    let mut names: Vec<_> =
        users.list(None, 10).await.unwrap().iter().map(|entry| entry.user.as_str().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["alice", "bob", "carol"]);
    let first = users.list(None, 1).await.unwrap();
    assert_eq!(users.list(Some(first[0].tag), 10).await.unwrap().len(), 2);
    for user in names {
        let session = users.create_user_session(&host, user.as_str()).await.unwrap();
        assert_eq!(session.agent("a").unwrap().get::<String>("who").await.unwrap(), Some(user));
    }
}

#[tokio::test]
async fn an_erased_user_stays_erased_until_recreated() {
    let (_folder, data) = data();
    let (users, host) = open(&data).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let agent = session.agent("a").unwrap();
    agent.push("k", 1).await.unwrap();
    let mut archive = Vec::new();
    users.backup("alice", &mut archive).await.unwrap();
    assert!(users.erase("alice").await.unwrap().removed);
    assert!(agent.push("late", 1).await.is_err());
    assert!(users.list(None, 10).await.unwrap().is_empty());
    let again = users.create_user_session(&host, "alice").await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Erased);
    assert_eq!(
        users.restore("alice", Cursor::new(archive.clone())).await.unwrap_err().kind(),
        ErrorKind::Erased
    );
    users.shutdown().await.unwrap();
    let (users, host) = open(&data).await;
    assert_eq!(users.open(&host, "alice").await.unwrap_err().kind(), ErrorKind::Erased);
    users.recreate("alice").await.unwrap();
    let session = users.open(&host, "alice").await.unwrap();
    assert_eq!(session.size().await.unwrap(), 0);
    assert!(agent.push("late", 1).await.is_err(), "a handle of the old life stays dead");
    assert_eq!(users.erase("nobody").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_archive_goes_back_into_its_own_user() {
    let (_folder, data) = data();
    let (users, host) = open(&data).await;
    let alice = users.create_user_session(&host, "alice").await.unwrap().agent("a").unwrap();
    users.create("bob").await.unwrap();
    alice.push("k", "old").await.unwrap();
    let mut archive = Vec::new();
    users.backup("alice", &mut archive).await.unwrap();
    alice.push("k", "new").await.unwrap();
    assert_eq!(
        users.restore("bob", Cursor::new(archive.clone())).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let cut = &archive[..archive.len() / 2];
    assert_eq!(
        users.restore("alice", Cursor::new(cut.to_vec())).await.unwrap_err().kind(),
        ErrorKind::Tampered
    );
    assert_eq!(alice.get::<String>("k").await.unwrap().as_deref(), Some("new"));
    users.restore("alice", Cursor::new(archive.clone())).await.unwrap();
    assert!(alice.push("k", "late").await.is_err());
    let alice = users.open(&host, "alice").await.unwrap().agent("a").unwrap();
    assert_eq!(alice.get::<String>("k").await.unwrap().as_deref(), Some("old"));
}

#[tokio::test]
async fn a_session_takes_its_handles_with_it() {
    let (_folder, data) = data();
    let (users, host) = open(&data).await;
    let first = users.create_user_session(&host, "alice").await.unwrap();
    let second = users.create_user_session(&host, "alice").await.unwrap();
    let (clone, other) = (first.agent("a").unwrap(), second.agent("a").unwrap());
    clone.push("k", 1).await.unwrap();
    first.end();
    assert!(clone.get::<u8>("k").await.is_err());
    assert!((**first).clone().agent("b").unwrap().push("k", 2).await.is_err(), "a clone ends too");
    assert_eq!(other.get::<u8>("k").await.unwrap(), Some(1));
}

#[tokio::test]
async fn one_folder_is_one_store_and_a_manager_owns_it() {
    let (_folder, data) = data();
    let one = ContextMesh::open(&data, "alice").await.unwrap();
    let two = ContextMesh::open(&data, "alice").await.unwrap();
    one.agent("a").unwrap().push("k", 1).await.unwrap();
    assert_eq!(two.agent("a").unwrap().get::<u8>("k").await.unwrap(), Some(1));
    let kept = one.agent("a").unwrap();
    drop((one, two));
    assert_eq!(kept.get::<u8>("k").await.unwrap(), Some(1), "a handle keeps the folder open");
    drop(kept);
    let (_users, _host) = open(&data).await;
    assert_eq!(ContextMesh::open(&data, "alice").await.unwrap_err().kind(), ErrorKind::Locked);
    let second = UserManager::builder().sqlite(&data).open().await.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Locked);
    let (_elsewhere, other) = self::data();
    let (_, foreign) = open(&other).await;
    let denied = _users.create_user_session(&foreign, "alice").await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied);
}
