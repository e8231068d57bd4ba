//! Every on-disk format that was ever released has a folder here, and every later build opens it.
//!
//! `SYNTHA_BLESS=formats` makes the folder of the present format if there is none. One that is there is never made again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use syntha::{Audit, AuditScope, Builder, ErrorKind, Filter, MeshErrorKind, Topic, UserManager};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("formats").join(name)
}

async fn make(builder: Builder, root: &Path, archive: &Path) {
    let (users, host) = builder.open().await.unwrap();
    for user in ["alice", "bob", "carol"] {
        let session = users.create_user_session(&host, user).await.unwrap();
        let (writer, reader) = (session.agent("Writer").unwrap(), session.agent("Reader").unwrap());
        reader.subscribe(["news"]).await.unwrap();
        writer.push("who", user).await.unwrap();
        writer.push("who", json!({ "name": user, "é": [1, null, "\u{1f600}"] })).await.unwrap();
        writer.push("on-topic", 1).topic("news").await.unwrap();
        writer.push("for-reader", 2).agents(["Reader"]).await.unwrap();
        writer.push("brief", 3).ttl(Duration::from_millis(1)).await.unwrap();
        writer.push("gone", 4).operation("op-1").await.unwrap();
        writer.remove("gone", None).await.unwrap();
        session.set_post_permissions("Writer", Some(vec![Topic::new("news").unwrap()])).await.unwrap();
    }
    let mut file = std::fs::File::create(archive).unwrap();
    users.backup("alice", &mut file).await.unwrap();
    users.erase("carol").await.unwrap();
    users.create("dave").await.unwrap();
    users.shutdown().await.unwrap();
    std::fs::remove_file(root.join("lock")).unwrap();
}

/// A copy with the rights that a data folder has; a checkout does not keep them.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, PermissionsExt::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
            std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).unwrap();
        }
    }
}

/// Every format's folder with an archive of it; the last one is the present format's.
const FORMATS: &[(&str, &str)] = &[
    ("sqlite-1", "archive-1.syntha"),
    ("sqlite-2", "archive-1-of-sqlite-2.syntha"),
    ("sqlite-3", "archive-2.syntha"),
    ("sqlite-4", "archive-2-of-sqlite-4.syntha"),
];

#[tokio::test]
async fn formats_of_old_are_opened_and_written() {
    let (present, archive) = FORMATS.last().unwrap();
    if std::env::var("SYNTHA_BLESS").is_ok_and(|what| what == "formats") && !folder(present).exists() {
        make(
            UserManager::builder().sqlite(folder(present)).plain().no_audit(),
            &folder(present),
            &folder(archive),
        )
        .await;
    }
    for (root, archive) in FORMATS {
        let temporary = tempfile::tempdir().unwrap();
        copy(&folder(root), &temporary.path().join("data"));
        opens(&temporary.path().join("data"), &folder(archive)).await;
    }
}

/// Every sealed format's folder, in which are a data folder, its keystore and its key, and an archive of it.
const SEALED: &[(&str, &str)] = &[("sealed-1", "sealed-archive-1.syntha")];

#[tokio::test]
async fn formats_of_old_are_opened_sealed() {
    let (present, archive) = SEALED.last().unwrap();
    if std::env::var("SYNTHA_BLESS").is_ok_and(|what| what == "formats") && !folder(present).exists() {
        let data = folder(present).join("data");
        make(UserManager::builder().sqlite(&data), &data, &folder(archive)).await;
        std::fs::remove_file(folder(present).join("data.keys/lock")).unwrap();
    }
    for (root, archive) in SEALED {
        let temporary = tempfile::tempdir().unwrap();
        let place = temporary.path().join("place");
        copy(&folder(root), &place);
        opens(&place.join("data"), &folder(archive)).await;
    }
}

/// Every format of a folder that is sealed and has a trail, with its keystore and keys, and an archive of it.
const AUDITED: &[(&str, &str)] = &[
    // Of SQLite format 3 and 4.
    ("audited-1", "audited-archive-1.syntha"),
    ("audited-2", "audited-archive-2.syntha"),
];

#[tokio::test]
async fn formats_of_old_are_opened_audited() {
    let (present, archive) = AUDITED.last().unwrap();
    if std::env::var("SYNTHA_BLESS").is_ok_and(|what| what == "formats") && !folder(present).exists() {
        let data = folder(present).join("data");
        make(UserManager::builder().sqlite(&data).audit(Audit::default()), &data, &folder(archive)).await;
        std::fs::remove_file(folder(present).join("data.keys/lock")).unwrap();
    }
    for (root, archive) in AUDITED {
        let temporary = tempfile::tempdir().unwrap();
        let place = temporary.path().join("place");
        copy(&folder(root), &place);
        let data = place.join("data");
        let links = trail_is_whole(&data).await;
        opens(&data, &folder(archive)).await;
        assert!(trail_is_whole(&data).await > links);
    }
}

/// Verifies every trail, with the data. Gives how many links there are.
async fn trail_is_whole(data: &Path) -> u64 {
    let (users, _host) = UserManager::builder().sqlite(data).open().await.unwrap();
    let report = users.audit().unwrap().verify(&AuditScope::All, true).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    users.shutdown().await.unwrap();
    report.trail.users.iter().map(|user| user.to).sum()
}

async fn opens(data: &Path, archive: &Path) {
    let (users, host) = UserManager::builder().sqlite(data).open().await.unwrap();
    let mut names: Vec<_> =
        users.list(None, 10).await.unwrap().iter().map(|entry| entry.user.as_str().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["alice", "bob", "dave"]);
    assert_eq!(users.open(&host, "carol").await.unwrap_err().kind(), ErrorKind::Erased);
    for user in ["alice", "bob"] {
        let session = users.open(&host, user).await.unwrap();
        let reader = session.agent("Reader").unwrap();
        let keys: Vec<_> =
            reader.keys(&Filter::new()).await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(keys, ["for-reader", "on-topic", "who"]);
        assert_eq!(reader.get::<Value>("who").await.unwrap().unwrap()["name"], user);
        let writer = session.agent("Writer").unwrap();
        let refused = writer.push("x", 1).topic("other").await.unwrap_err();
        assert_eq!(refused.kind(), MeshErrorKind::Denied);
        let entry = writer.entry("who").await.unwrap().unwrap();
        let pushed = writer.push("who", "new").if_version(entry.version()).await.unwrap();
        assert!(pushed.version > entry.version());
    }
    users.restore("alice", std::fs::File::open(archive).unwrap()).await.unwrap();
    let reader = users.open(&host, "alice").await.unwrap().agent("Reader").unwrap();
    assert_eq!(reader.get::<Value>("who").await.unwrap().unwrap()["name"], "alice");
    users.verify().await.unwrap();
    users.shutdown().await.unwrap();
    // What was made of the old folder is opened again, and kept what was written.
    let (users, host) = UserManager::builder().sqlite(data).open().await.unwrap();
    let writer = users.open(&host, "bob").await.unwrap().agent("Writer").unwrap();
    assert_eq!(writer.get::<String>("who").await.unwrap().unwrap(), "new");
    assert!(writer.remove("who", None).await.unwrap());
    users.shutdown().await.unwrap();
}
