//! Sealed archives, and what a restore keeps.

use std::io::Cursor;
use std::path::Path;

use syntha::keys::make_key_file;
use syntha::{ErrorKind, HostAuthority, Kek, Mesh, Restore, SecretBytes, UserManager};

pub(crate) async fn plain(data: &Path) -> (UserManager, HostAuthority) {
    UserManager::builder().sqlite(data).plain().open().await.unwrap()
}

pub(crate) async fn sealed(data: &Path) -> (UserManager, HostAuthority) {
    UserManager::builder().sqlite(data).open().await.unwrap()
}

/// Everything that a user has, as text.
pub(crate) async fn exported(mesh: &Mesh) -> String {
    let mut out = Vec::new();
    mesh.export(&mut out, |_| {}).await.unwrap();
    String::from_utf8(out).unwrap()
}

pub(crate) async fn backup(users: &UserManager, user: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    let info = users.backup(user, &mut archive).await.unwrap();
    assert_eq!(info.bytes, archive.len() as u64);
    archive
}

async fn refused(users: &UserManager, user: &str, archive: &[u8]) -> ErrorKind {
    users.restore(user, Cursor::new(archive.to_vec())).await.unwrap_err().kind()
}

#[tokio::test]
async fn a_sealed_archive_holds_nothing_readable_and_goes_back() {
    let (_folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("the-key-of-it", "a secret value").await.unwrap();
    let before = exported(&session).await;
    let archive = backup(&users, "alice").await;
    assert!(archive.starts_with(b"syntha-sealed"));
    for text in ["secret value", "the-key-of-it", "syntha-archive"] {
        assert!(!archive.windows(text.len()).any(|part| part == text.as_bytes()), "{text}");
    }
    session.agent("a").unwrap().push("later", 1).await.unwrap();
    users.restore("alice", Cursor::new(archive)).await.unwrap();
    let session = users.open(&host, "alice").await.unwrap();
    assert_eq!(exported(&session).await, before);
}

#[tokio::test]
async fn an_archive_opens_for_its_user_in_its_deployment_alone() {
    let (_folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    for user in ["alice", "bob"] {
        let session = users.create_user_session(&host, user).await.unwrap();
        session.agent("a").unwrap().push("k", user).await.unwrap();
    }
    let archive = backup(&users, "alice").await;
    assert_eq!(refused(&users, "bob", &archive).await, ErrorKind::Invalid);
    // Who writes another owner into the head has no key for it.
    let bob = backup(&users, "bob").await;
    let mut forged = archive.clone();
    forged[37..69].copy_from_slice(&bob[37..69]);
    assert_eq!(refused(&users, "bob", &forged).await, ErrorKind::Denied);
    for at in [20, 100, 200, archive.len() - 1] {
        let mut changed = archive.clone();
        changed[at] ^= 1;
        let kind = refused(&users, "alice", &changed).await;
        assert!(matches!(
            kind,
            ErrorKind::Denied | ErrorKind::Tampered | ErrorKind::Invalid | ErrorKind::Storage
        ));
    }
    for end in [10, 60, archive.len() - 1] {
        let kind = refused(&users, "alice", &archive[..end]).await;
        assert!(matches!(kind, ErrorKind::Tampered | ErrorKind::Denied), "{end}: {kind:?}");
    }
    let longer = [&archive[..], b"x"].concat();
    assert_eq!(refused(&users, "alice", &longer).await, ErrorKind::Tampered);
    let session = users.open(&host, "alice").await.unwrap();
    assert_eq!(session.agent("a").unwrap().get::<String>("k").await.unwrap().as_deref(), Some("alice"));
    let (_elsewhere, other) = super::data();
    let (others, _host) = sealed(&other).await;
    others.create("alice").await.unwrap();
    assert_eq!(refused(&others, "alice", &archive).await, ErrorKind::Invalid);
}

#[tokio::test]
async fn plain_and_sealed_data_take_their_own_archives() {
    let (folder, data) = super::data();
    let key = folder.path().join("key");
    make_key_file(&key).unwrap();
    let (users, host) = plain(&data).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", "plain").await.unwrap();
    let archive = backup(&users, "alice").await;
    assert!(archive.starts_with(b"syntha-archive"));
    let before = exported(&session).await;

    // The same tags, sealed: a store of the host's own.
    let tags = std::fs::read(data.join("deployment.key")).unwrap();
    let tags = syntha::store::DeploymentKey::from_bytes(tags.try_into().unwrap());
    let store = std::sync::Arc::new(syntha::store::MemoryStore::with_key(tags.clone()).unwrap());
    let (sealed, host) =
        UserManager::builder().store(store, tags).encryption(Kek::file(&key)).open().await.unwrap();
    assert_eq!(refused(&sealed, "alice", &archive).await, ErrorKind::Denied);
    sealed.restore_plain("alice", Cursor::new(archive.clone())).await.unwrap();
    let session = sealed.open(&host, "alice").await.unwrap();
    assert_eq!(exported(&session).await, before);

    let other = backup(&sealed, "alice").await;
    assert!(other.starts_with(b"syntha-sealed"));
    for how in [Restore::new(), Restore::new().plain()] {
        let error = users.restore_with("alice", Cursor::new(other.clone()), how).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
    let error = sealed.restore_plain("alice", Cursor::new(other)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    users.restore("alice", Cursor::new(archive)).await.unwrap();
}

#[tokio::test]
async fn an_erasure_takes_the_archives_with_it() {
    let (_folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", "old").await.unwrap();
    let archive = backup(&users, "alice").await;
    // A restore begins a new life with new data keys. The archive is of the root.
    users.restore("alice", Cursor::new(archive.clone())).await.unwrap();
    users.restore("alice", Cursor::new(archive.clone())).await.unwrap();
    users.erase("alice").await.unwrap();
    assert_eq!(refused(&users, "alice", &archive).await, ErrorKind::Erased);
    users.recreate("alice").await.unwrap();
    assert_eq!(refused(&users, "alice", &archive).await, ErrorKind::Denied);
    let session = users.open(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", "new").await.unwrap();
    assert_eq!(refused(&users, "alice", &archive).await, ErrorKind::Denied);
    assert_eq!(session.agent("a").unwrap().get::<String>("k").await.unwrap().as_deref(), Some("new"));
}

#[tokio::test]
async fn a_restore_loosens_no_permission() {
    let (_folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    let mesh = users.create_user_session(&host, "alice").await.unwrap();
    let topics = |names: &[&str]| {
        Some(names.iter().map(|name| syntha::Topic::new(*name).unwrap()).collect::<Vec<_>>())
    };
    for name in ["open", "narrowed", "widened", "gone"] {
        mesh.register_agent(name).await.unwrap();
    }
    mesh.set_post_permissions("narrowed", topics(&["x", "y"])).await.unwrap();
    mesh.set_read_permissions("widened", topics(&["x"])).await.unwrap();
    let before = exported(&mesh).await;
    let archive = backup(&users, "alice").await;
    mesh.set_post_permissions("open", topics(&["x"])).await.unwrap();
    mesh.set_post_permissions("narrowed", topics(&["y", "z"])).await.unwrap();
    mesh.set_read_permissions("widened", None).await.unwrap();
    mesh.unregister_agent("gone").await.unwrap();

    users.restore("alice", Cursor::new(archive.clone())).await.unwrap();
    let mesh = users.open(&host, "alice").await.unwrap();
    let text = exported(&mesh).await;
    let line = |name: &str| {
        let of = format!("\"name\":\"{name}\"");
        text.lines().find(|line| line.contains(&of)).unwrap().to_owned()
    };
    assert!(line("open").contains("\"post\":[\"x\"]"), "{text}");
    assert!(line("narrowed").contains("\"post\":[\"y\"]"), "{text}");
    assert!(line("widened").contains("\"read\":[\"x\"]"), "{text}");
    assert!(!line("gone").contains("post"), "{text}");

    let how = Restore::new().archived_permissions();
    users.restore_with("alice", Cursor::new(archive), how).await.unwrap();
    assert_eq!(exported(&users.open(&host, "alice").await.unwrap()).await, before);
}

#[tokio::test]
async fn permissions_that_cannot_be_read_are_not_loosened_either() {
    let (_folder, data) = super::data();
    let (users, host) = plain(&data).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", 1).await.unwrap();
    let archive = backup(&users, "alice").await;
    let tag = users.tag("alice").unwrap().to_string();
    users.shutdown().await.unwrap();
    let file = data.join("users").join(&tag[..1]).join(&tag[1..2]).join(format!("{tag}.db"));
    std::fs::write(&file, vec![7; 8192]).unwrap();
    let (users, host) = plain(&data).await;
    assert_eq!(refused(&users, "alice", &archive).await, ErrorKind::Corrupt);
    let how = Restore::new().archived_permissions();
    users.restore_with("alice", Cursor::new(archive), how).await.unwrap();
    let session = users.open(&host, "alice").await.unwrap();
    assert_eq!(session.agent("a").unwrap().get::<u8>("k").await.unwrap(), Some(1));
}

#[tokio::test]
async fn an_export_under_a_passphrase_opens_with_it_alone() {
    let (_folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    let alice = users.create_user_session(&host, "alice").await.unwrap();
    alice.agent("a").unwrap().push("k", "a secret value").await.unwrap();
    let passphrase = SecretBytes::new(*b"correct horse battery staple");
    let mut file = Vec::new();
    let exported = alice.export_sealed(&passphrase, &mut file, |_| {}).await.unwrap();
    assert_eq!(exported.entries, 1);
    assert!(file.starts_with(b"syntha-sealed"));
    let wrong = SecretBytes::new(*b"incorrect horse battery staple");
    let error = syntha::open_export(&wrong, Cursor::new(file.clone())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let archive = backup(&users, "alice").await;
    let error = syntha::open_export(&passphrase, Cursor::new(archive)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let source = syntha::open_export(&passphrase, Cursor::new(file.clone())).await.unwrap();
    let bob = users.create_user_session(&host, "bob").await.unwrap();
    bob.import(source, |_| {}).await.unwrap();
    assert_eq!(self::exported(&bob).await, self::exported(&alice).await);
    file.truncate(file.len() - 1);
    let source = syntha::open_export(&passphrase, Cursor::new(file)).await.unwrap();
    let carol = users.create_user_session(&host, "carol").await.unwrap();
    carol.import(source, |_| {}).await.unwrap_err();
}
