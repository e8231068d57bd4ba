//! Sealing and unsealing a folder.

use std::path::{Path, PathBuf};

use syntha::keys::make_key_file;
use syntha::sqlite::{SqliteConfig, SqliteStore};
use syntha::store::{Batch, Keyspace, Op, Scan, Store, Timestamp};
use syntha::{
    Encryption, ErrorKind, Kek, Migration, MigrationReport, SecretBytes, UserManager, UserProgress,
    seal_folder, unseal_folder,
};

use crate::archives::{plain, sealed};
use crate::backup::{everything, fill, stopped, unlocked};
use crate::erasure::with_keychain;

/// A plain folder with users of every kind, and a key.
async fn made() -> (tempfile::TempDir, PathBuf) {
    let (folder, data) = super::data();
    make_key_file(folder.path().join("data.key")).unwrap();
    let (users, host) = plain(&data).await;
    for number in 0..12 {
        fill(&users, &host, &format!("user-{number}")).await;
    }
    users.create("never-wrote").await.unwrap();
    users.erase("user-3").await.unwrap();
    users.erase("user-4").await.unwrap();
    users.recreate("user-4").await.unwrap();
    fill(&users, &host, "user-4").await;
    users.shutdown().await.unwrap();
    (folder, data)
}

fn key(data: &Path) -> Encryption {
    Encryption::new(Kek::file(data.with_file_name("data.key")))
}

async fn seal(data: &Path) -> syntha::Result<MigrationReport> {
    seal_folder(data, key(data), Migration::new(), |_| {}).await
}

async fn unseal(data: &Path) -> syntha::Result<MigrationReport> {
    unseal_folder(data, key(data), Migration::new(), |_| {}).await
}

/// Whether a text is in any file of a folder.
fn holds(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, text);
        }
        std::fs::read(path).unwrap().windows(text.len()).any(|part| part == text.as_bytes())
    })
}

async fn versions(users: &UserManager, host: &syntha::HostAuthority) -> Vec<u64> {
    let mesh = users.open(host, "user-1").await.unwrap();
    let mut found: Vec<_> = mesh
        .entries(&syntha::Filter::default())
        .await
        .unwrap()
        .iter()
        .map(|entry| entry.version().0)
        .collect();
    found.sort_unstable();
    found
}

#[tokio::test]
async fn a_folder_is_sealed_and_unsealed_with_everything_in_it() {
    let (_folder, data) = made().await;
    let (users, host) = plain(&data).await;
    let before = everything(&users, &host).await;
    let (versions_before, tag) = (versions(&users, &host).await, users.tag("user-1").unwrap());
    assert_eq!(seal(&data).await.unwrap_err().kind(), ErrorKind::Locked, "it is open");
    users.shutdown().await.unwrap();
    drop(host);
    assert!(holds(&data, "user-11"));

    let mut seen = 0;
    let report =
        seal_folder(&data, key(&data), Migration::new(), |at: UserProgress| seen = at.done).await.unwrap();
    let old = data.with_file_name("data.plain");
    // Who was opened has a trail that says so, and so data.
    let opened = u64::from(cfg!(feature = "audit"));
    assert_eq!((report.users, report.old.as_deref()), (11 + opened, Some(&*old)));
    assert!(report.records > 11 && seen == 11 + opened && holds(&old, "user-11"));
    assert!(!holds(&data, "user-11") && !data.join("deployment.key").exists());
    let (users, host) = sealed(&data).await;
    assert_eq!(everything(&users, &host).await, before);
    assert_eq!((versions(&users, &host).await, users.tag("user-1").unwrap()), (versions_before, tag));
    assert_eq!(users.open(&host, "user-3").await.unwrap_err().kind(), ErrorKind::Erased);
    users.recreate("user-3").await.unwrap();
    fill(&users, &host, "user-3").await;
    let before = everything(&users, &host).await;
    users.shutdown().await.unwrap();
    drop(host);

    assert_eq!(seal(&data).await.unwrap().users, 0, "it is done, and says so again");
    let how = Migration::new().remove_old();
    assert_eq!(seal_folder(&data, key(&data), how, |_| {}).await.unwrap().old, None);
    assert!(!old.exists());
    assert_eq!(seal(&data).await.unwrap_err().kind(), ErrorKind::Invalid, "it is sealed already");

    assert_eq!(unseal(&data).await.unwrap().users, 12 + opened);
    assert!(holds(&data, "user-11") && data.with_file_name("data.sealed").exists());
    let (users, host) = plain(&data).await;
    assert_eq!(everything(&users, &host).await, before);
    users.shutdown().await.unwrap();
    drop(host);
    assert_eq!(unseal(&data).await.unwrap().users, 0);
}

/// Each state of the module's table, for both ways.
#[tokio::test]
async fn a_stop_in_any_state_goes_on() {
    let (_folder, data) = made().await;
    let (users, host) = plain(&data).await;
    let mut before = everything(&users, &host).await;
    users.shutdown().await.unwrap();
    drop(host);
    let path = |ending: &str| data.with_file_name(format!("data{ending}"));

    for (way, building, old) in [("seal", ".sealing", ".plain"), ("unseal", ".unsealing", ".sealed")] {
        let run = async || if way == "seal" { seal(&data).await } else { unseal(&data).await };
        let open = async || if way == "seal" { plain(&data).await } else { sealed(&data).await };
        let opened = async || if way == "seal" { sealed(&data).await } else { plain(&data).await };
        // In the middle of 1.
        let begun = stopped(5, async |progress| match way {
            "seal" => seal_folder(&data, key(&data), Migration::new(), progress).await,
            _ => unseal_folder(&data, key(&data), Migration::new(), progress).await,
        });
        assert!(begun.await, "{way}");
        assert!(path(building).exists() && !path(old).exists());
        // The old folder works on: what was carried over is old by then, and one of its users is erased.
        let (users, host) = unlocked(async || {
            let builder = UserManager::builder().sqlite(&data);
            let builder = if way == "seal" { builder.plain() } else { builder.encryption(key(&data)) };
            builder.open().await
        })
        .await;
        for entry in users.list(None, 100).await.unwrap() {
            let session = users.open(&host, &entry.user).await.unwrap();
            session.agent("writer").unwrap().push("since", way).await.unwrap();
        }
        let (gone, again) = if way == "seal" { ("user-5", "user-6") } else { ("user-7", "user-8") };
        let gone_tag = users.tag(gone).unwrap();
        users.erase(gone).await.unwrap();
        users.erase(again).await.unwrap();
        users.recreate(again).await.unwrap();
        fill(&users, &host, again).await;
        before = everything(&users, &host).await;
        users.shutdown().await.unwrap();
        drop(host);
        // From 2 to the end.
        run().await.unwrap();
        let (users, host) = opened().await;
        assert_eq!(everything(&users, &host).await, before, "{way}");
        assert_eq!(users.open(&host, gone).await.unwrap_err().kind(), ErrorKind::Erased);
        assert!(!file(&data, gone_tag).exists(), "what was carried over is gone as well");
        users.shutdown().await.unwrap();
        drop(host);
        // 2, with all: as if it had stopped before the first rename, and so before the key was put aside.
        std::fs::rename(&data, path(building)).unwrap();
        std::fs::rename(path(old), &data).unwrap();
        put_key_back(&data);
        let (users, host) = open().await;
        assert_eq!(everything(&users, &host).await, before, "{way}: the old one is whole");
        users.shutdown().await.unwrap();
        drop(host);
        run().await.unwrap();
        // 3: between the two renames. Nobody begins anew there.
        std::fs::rename(&data, path(building)).unwrap();
        for builder in [UserManager::builder().sqlite(&data), UserManager::builder().sqlite(&data).plain()] {
            assert_eq!(builder.open().await.unwrap_err().kind(), ErrorKind::Denied, "{way}");
        }
        assert!(!data.exists(), "{way}");
        run().await.unwrap();
        // 4.
        assert!(!path(building).exists() && path(old).exists());
        let (users, host) = opened().await;
        assert_eq!(everything(&users, &host).await, before, "{way}");
        users.shutdown().await.unwrap();
        drop(host);
        std::fs::remove_dir_all(path(old)).unwrap();
    }
    assert!(!before.is_empty());
}

/// The key that signed the old folder's audit log, which was put aside last.
fn put_key_back(data: &Path) {
    let names = std::fs::read_dir(data.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let is_old = |path: &PathBuf| path.to_str().unwrap().contains("data.audit.key.before-");
    let aside = names.filter(is_old).max();
    assert_eq!(aside.is_some(), cfg!(feature = "audit"));
    if let Some(aside) = aside {
        std::fs::rename(aside, data.with_file_name("data.audit.key")).unwrap();
    }
}

fn file(data: &Path, tag: syntha::UserTag) -> PathBuf {
    let stem = tag.to_string();
    data.join("users").join(&stem[..1]).join(&stem[1..2]).join(format!("{stem}.db"))
}

/// A copy that is not equal is found by its bytes, and made again.
#[tokio::test]
async fn every_record_is_compared() {
    let (_folder, data) = made().await;
    let (users, host) = plain(&data).await;
    let before = everything(&users, &host).await;
    users.shutdown().await.unwrap();
    drop(host);
    seal(&data).await.unwrap();
    std::fs::remove_dir_all(data.with_file_name("data.plain")).unwrap();
    let whole = async |progress: &mut (dyn FnMut(UserProgress) + Send)| {
        unseal_folder(&data, key(&data), Migration::new(), progress).await
    };
    assert!(stopped(11, whole).await);
    let building = unlocked(async || {
        Ok(SqliteStore::open(SqliteConfig::new(data.with_file_name("data.unsealing"))).await?)
    })
    .await;
    let users = building.list(None, 100).await.unwrap();
    let user = building.open(users[3]).await.unwrap();
    let page = user.scan(Scan::records(Keyspace::Context, 1)).await.unwrap().value;
    let (head, body) = page.records.into_iter().next().unwrap();
    let (id, version, body) = (head.id, head.version, vec![b'7'; body.unwrap().len()].into());
    let change = Op::Rewrite { space: Keyspace::Context, id, version, head: head.head, body };
    user.commit(Batch::new(Timestamp(0)).unwrap().op(change)).await.unwrap();
    building.close().await.unwrap();
    drop((user, building));
    unlocked(async || unseal(&data).await).await;
    let (users, host) = plain(&data).await;
    assert_eq!(everything(&users, &host).await, before);
}

/// What lies beside by chance is not taken for the old folder.
#[tokio::test]
async fn a_folder_of_other_data_is_not_removed() {
    let (_folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    users.shutdown().await.unwrap();
    drop(host);
    let beside = data.with_file_name("data.plain");
    let (users, host) = plain(&beside).await;
    users.shutdown().await.unwrap();
    drop(host);
    let how = Migration::new().remove_old();
    let error = seal_folder(&data, key(&data), how, |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(beside.exists());
}

#[tokio::test]
async fn a_user_erased_while_unsealed_has_no_keys_when_sealed_again() {
    let (folder, data) = made().await;
    seal(&data).await.unwrap();
    let (users, host) = sealed(&data).await;
    let mut archive = Vec::new();
    users.backup("user-1", &mut archive).await.unwrap();
    let tag = users.tag("user-1").unwrap();
    users.shutdown().await.unwrap();
    drop(host);
    std::fs::remove_dir_all(data.with_file_name("data.plain")).unwrap();
    unseal(&data).await.unwrap();
    let (users, host) = plain(&data).await;
    assert_eq!(
        users.restore("user-1", std::io::Cursor::new(archive.clone())).await.unwrap_err().kind(),
        ErrorKind::Denied
    );
    users.erase("user-1").await.unwrap();
    users.shutdown().await.unwrap();
    drop(host);
    // The old folder of the change before is in the way until it is removed.
    std::fs::remove_dir_all(data.with_file_name("data.sealed")).unwrap();
    seal(&data).await.unwrap();
    with_keychain(folder.path(), async |keychain, _| assert!(!keychain.archives(tag).await.has_key())).await;
    let (users, _host) = sealed(&data).await;
    users.recreate("user-1").await.unwrap();
    let error = users.restore("user-1", std::io::Cursor::new(archive)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn what_cannot_be_carried_over_stops_it_and_changes_nothing() {
    let (folder, data) = made().await;
    let error =
        seal_folder(folder.path().join("nothing"), key(&data), Migration::new(), |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(unseal(&data).await.unwrap_err().kind(), ErrorKind::Invalid, "it is not sealed");

    // The keystore of other data.
    let (_elsewhere, other) = super::data();
    let (users, host) = sealed(&other).await;
    users.shutdown().await.unwrap();
    drop(host);
    let foreign = Encryption::new(Kek::file(other.with_file_name("data.key")))
        .keystore(other.with_file_name("data.keys"));
    let error = seal_folder(&data, foreign, Migration::new(), |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);

    // A user who holds the key.
    unlocked(async || seal(&data).await).await;
    let (users, host) = sealed(&data).await;
    let tag = users.tag("user-1").unwrap();
    let before = everything(&users, &host).await;
    users.shutdown().await.unwrap();
    drop(host);
    std::fs::remove_dir_all(data.with_file_name("data.plain")).unwrap();
    let passphrase = SecretBytes::new(*b"correct horse battery staple");
    with_keychain(folder.path(), async |keychain, _| keychain.hold_key(tag, &passphrase).await.unwrap())
        .await;
    assert_eq!(unseal(&data).await.unwrap_err().kind(), ErrorKind::KeyUnavailable);
    assert!(!data.with_file_name("data.sealed").exists());
    with_keychain(folder.path(), async |keychain, _| {
        keychain.unlock(tag, &passphrase).await.unwrap();
        keychain.give_back_key(tag).await.unwrap();
    })
    .await;
    unlocked(async || unseal(&data).await).await;
    let (users, host) = plain(&data).await;
    assert_eq!(everything(&users, &host).await, before);
}
