//! Everything out of a backup and a key.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use syntha::keys::make_key_file;
use syntha::{
    BackupReport, Encryption, ErrorKind, HostAuthority, Kek, Message, RestoreReport, SecretBytes, SkipReason,
    Topic, UserManager, UserProgress, restore_all,
};
use tokio::sync::Notify;

use crate::archives::{exported, plain, sealed};
use crate::erasure::{copy, with_keychain};

/// Gives a user something of each kind.
pub(crate) async fn fill(users: &UserManager, host: &HostAuthority, user: &str) {
    let session = users.create_user_session(host, user).await.unwrap();
    let agent = session.agent("writer").unwrap();
    agent.push("who", user).await.unwrap();
    agent.push("again", 1).await.unwrap();
    agent.push("again", 2).await.unwrap();
    agent.push("removed", 3).await.unwrap();
    agent.remove("removed", None).await.unwrap();
    session.register_agent("reader").await.unwrap();
    let topics = Some(vec![Topic::new("news").unwrap()]);
    session.set_read_permissions("reader", topics).await.unwrap();
    let thread = agent.thread("talk").unwrap();
    for text in ["hello", user] {
        thread.append(Message::user(text)).await.unwrap();
    }
}

/// What every user has, by name.
pub(crate) async fn everything(users: &UserManager, host: &HostAuthority) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in users.list(None, 1_000).await.unwrap() {
        let session = users.open(host, &entry.user).await.unwrap();
        found.insert(entry.user.as_str().to_owned(), exported(&session).await);
    }
    found
}

/// Runs until a number of users is done, and drops the work there.
pub(crate) async fn stopped<T>(
    after: u64,
    work: impl AsyncFnOnce(&mut (dyn FnMut(UserProgress) + Send)) -> T,
) -> bool {
    let notify = Notify::new();
    let mut progress = |at: UserProgress| {
        if at.done == after {
            notify.notify_one();
        }
    };
    tokio::select! {
        biased;
        () = notify.notified() => true,
        _ = work(&mut progress) => false,
    }
}

/// What was dropped lets go of its files a moment later.
pub(crate) async fn unlocked<T>(mut work: impl AsyncFnMut() -> syntha::Result<T>) -> T {
    for _ in 0..1_000 {
        match work().await {
            Err(error) if error.kind() == ErrorKind::Locked => {
                tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap();
            }
            done => return done.unwrap(),
        }
    }
    work().await.unwrap()
}

struct Made {
    folder: tempfile::TempDir,
    backup: PathBuf,
    before: BTreeMap<String, String>,
    report: BackupReport,
}

/// Fifty users, of whom one is erased, one made again, and one never wrote; a backup; and nothing else left but the key.
async fn made(open: impl AsyncFn(&Path) -> (UserManager, HostAuthority)) -> Made {
    let (folder, data) = super::data();
    let backup = folder.path().join("backup");
    let (users, host) = open(&data).await;
    for number in 0..50 {
        fill(&users, &host, &format!("user-{number}")).await;
    }
    users.erase("user-7").await.unwrap();
    users.erase("user-8").await.unwrap();
    users.recreate("user-8").await.unwrap();
    let session = users.open(&host, "user-8").await.unwrap();
    session.agent("a").unwrap().push("who", "another one").await.unwrap();
    let before = everything(&users, &host).await;
    // Nobody opens this one: where there is a trail, who was opened has data.
    users.create("never-wrote").await.unwrap();
    let report = users.backup_all(&backup, |_| {}).await.unwrap();
    users.shutdown().await.unwrap();
    for ending in ["", ".keys"] {
        let path = folder.path().join(format!("data{ending}"));
        if path.exists() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    Made { folder, backup, before, report }
}

fn key_of(made: &Made) -> Encryption {
    Encryption::new(Kek::file(made.folder.path().join("data.key")))
}

/// What came back is what was there.
async fn check_all(made: &Made, users: &UserManager, host: &HostAuthority) {
    let mut after = everything(users, host).await;
    assert!(after.remove("never-wrote").is_some());
    assert_eq!(after, made.before);
}

async fn restored(made: &Made, encryption: Option<Encryption>) -> (PathBuf, RestoreReport) {
    let place = made.folder.path().join("elsewhere");
    let report = restore_all(&made.backup, &place, encryption, |_| {}).await.unwrap();
    assert!(!made.folder.path().join("elsewhere.restoring").exists());
    assert!(!made.folder.path().join("elsewhere.restoring.json").exists());
    (place, report)
}

#[tokio::test]
async fn fifty_users_come_back_from_a_backup_and_a_key_file() {
    let made = made(async |data| sealed(data).await).await;
    assert_eq!((made.report.users, made.report.archives, made.report.sealed), (50, 49, true));
    assert!(made.report.skipped.is_empty());
    for entry in std::fs::read_dir(&made.backup).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // The trail is no sealed file: its details are sealed, and the rest tells no name.
        let is_trail = entry.file_name() == "audit.trail";
        assert!(is_trail || std::fs::read(entry.path()).unwrap().starts_with(b"syntha-sealed"));
    }
    let (place, report) = restored(&made, Some(key_of(&made))).await;
    assert_eq!((report.restored, report.empty, report.erased), (49, 1, 1));
    assert!(report.skipped.is_empty() && report.lost.is_empty() && report.locked.is_empty());
    let open = || UserManager::builder().sqlite(&place).encryption(key_of(&made)).open();
    let (users, host) = open().await.unwrap();
    check_all(&made, &users, &host).await;
    assert_eq!(users.open(&host, "user-7").await.unwrap_err().kind(), ErrorKind::Erased);
    // What is restored is a deployment like any other.
    let mut archive = Vec::new();
    users.backup("user-1", &mut archive).await.unwrap();
    users.restore("user-1", Cursor::new(archive)).await.unwrap();
    users.erase("user-1").await.unwrap();
    users.shutdown().await.unwrap();
    drop(host);
    let (users, host) = open().await.unwrap();
    assert_eq!(users.open(&host, "user-1").await.unwrap_err().kind(), ErrorKind::Erased);
}

#[tokio::test]
async fn a_passphrase_is_enough() {
    let kek = || Kek::passphrase(SecretBytes::new(*b"correct horse battery staple"));
    let (folder, data) = super::data();
    let backup = folder.path().join("backup");
    let (users, host) = UserManager::builder().sqlite(&data).encryption(kek()).open().await.unwrap();
    for user in ["alice", "bob"] {
        fill(&users, &host, user).await;
    }
    let before = everything(&users, &host).await;
    users.backup_all(&backup, |_| {}).await.unwrap();
    users.shutdown().await.unwrap();
    drop(host);
    let place = folder.path().join("elsewhere");
    let wrong = Kek::passphrase(SecretBytes::new(*b"incorrect horse battery staple"));
    let error = restore_all(&backup, &place, Some(wrong.into()), |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    restore_all(&backup, &place, Some(kek().into()), |_| {}).await.unwrap();
    let (users, host) = UserManager::builder().sqlite(&place).encryption(kek()).open().await.unwrap();
    assert_eq!(everything(&users, &host).await, before);
}

#[tokio::test]
async fn a_plain_backup_says_so_and_comes_back() {
    let made = made(async |data| plain(data).await).await;
    assert_eq!((made.report.archives, made.report.sealed), (49, false));
    let error = restore_all(&made.backup, made.folder.path().join("x"), Some(key_of(&made)), |_| {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let (place, report) = restored(&made, None).await;
    assert!(!report.sealed);
    let (users, host) = plain(&place).await;
    check_all(&made, &users, &host).await;
    assert_eq!(users.open(&host, "user-7").await.unwrap_err().kind(), ErrorKind::Erased);
}

#[tokio::test]
async fn a_backup_and_a_restore_go_on_where_they_were_stopped() {
    let (folder, data) = super::data();
    let backup = folder.path().join("backup");
    let (users, host) = sealed(&data).await;
    for number in 0..20 {
        fill(&users, &host, &format!("user-{number:02}")).await;
    }
    assert!(stopped(10, async |progress| users.backup_all(&backup, progress).await).await);
    assert!(backup.join("unfinished").exists());
    let place = folder.path().join("elsewhere");
    let key = || Some(Encryption::new(Kek::file(folder.path().join("data.key"))));
    let error = restore_all(&backup, &place, key(), |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "it is not whole");
    let kept: Vec<_> = names(&backup).into_iter().filter(|name| name.ends_with(".sealed")).collect();
    assert!(kept.len() >= 10);
    // Sealing is randomized: an archive written again has other bytes. (A file's inode number would
    // not tell: the next file may get the number of one removed a moment ago.)
    let bytes_of = |name: &str| std::fs::read(backup.join(name)).unwrap();
    // Users whose archives are there are erased, erased and made again, and restored.
    let tags: BTreeMap<String, String> = users
        .list(None, 100)
        .await
        .unwrap()
        .iter()
        .map(|entry| (format!("{}.sealed", entry.tag), entry.user.as_str().to_owned()))
        .collect();
    let mut archive = Vec::new();
    users.backup(tags[&kept[2]].as_str(), &mut archive).await.unwrap();
    users.erase(tags[&kept[0]].as_str()).await.unwrap();
    users.erase(tags[&kept[1]].as_str()).await.unwrap();
    users.recreate(tags[&kept[1]].as_str()).await.unwrap();
    fill(&users, &host, &tags[&kept[1]]).await;
    users.restore(tags[&kept[2]].as_str(), Cursor::new(archive)).await.unwrap();
    let first: Vec<Vec<u8>> = kept.iter().map(|name| bytes_of(name)).collect();
    let report = users.backup_all(&backup, |_| {}).await.unwrap();
    assert_eq!((report.users, report.archives), (19, 19));
    assert!(!backup.join(&kept[0]).exists(), "an erased user's archive is gone from the backup");
    let same = |number: usize| bytes_of(&kept[number]) == first[number];
    assert!(!same(1) && !same(2), "another life's archive is written again");
    assert!((3..kept.len()).all(same), "the others are kept");
    let again = users.backup_all(&backup, |_| {}).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Invalid, "a whole backup is not written over");
    let before = everything(&users, &host).await;
    users.shutdown().await.unwrap();
    drop(host);

    assert!(stopped(8, async |progress| restore_all(&backup, &place, key(), progress).await).await);
    assert!(!place.exists(), "no half of a deployment has its name");
    let report = unlocked(async || restore_all(&backup, &place, key(), |_| {}).await).await;
    assert_eq!((report.restored, report.empty, report.erased), (19, 0, 1));
    let (users, host) =
        UserManager::builder().sqlite(&place).encryption(key().unwrap()).open().await.unwrap();
    assert_eq!(everything(&users, &host).await, before);
    users.shutdown().await.unwrap();
    drop(host);
    let error = restore_all(&backup, &place, key(), |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "there is data");
}

#[tokio::test]
async fn a_changed_backup_restores_nothing() {
    let (folder, data) = super::data();
    let backup = folder.path().join("backup");
    let (users, host) = sealed(&data).await;
    for user in ["alice", "bob"] {
        fill(&users, &host, user).await;
    }
    users.backup_all(&backup, |_| {}).await.unwrap();
    let key = || Some(Encryption::new(Kek::file(folder.path().join("data.key"))));
    for name in names(&backup) {
        let changed = folder.path().join(format!("changed-{name}"));
        copy(&backup, &changed);
        let mut bytes = std::fs::read(changed.join(&name)).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(changed.join(&name), bytes).unwrap();
        let place = folder.path().join(format!("place-{name}"));
        let error = restore_all(&changed, &place, key(), |_| {}).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Tampered), "{name}: {error:?}");
        std::fs::remove_file(changed.join(&name)).unwrap();
        assert!(restore_all(&changed, &place, key(), |_| {}).await.is_err(), "{name}");
        assert!(!place.exists());
    }
    // Another backup's file in the place of this one's: a list that is sealed knows.
    let second = folder.path().join("second");
    users.erase("alice").await.unwrap();
    users.backup_all(&second, |_| {}).await.unwrap();
    std::fs::copy(backup.join("keystore.sealed"), second.join("keystore.sealed")).unwrap();
    let place = folder.path().join("place");
    let error = restore_all(&second, &place, key(), |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let other = folder.path().join("other.key");
    make_key_file(&other).unwrap();
    let other = Encryption::new(Kek::file(other));
    let error = restore_all(&backup, &place, Some(other), |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(restore_all(&backup, &place, None, |_| {}).await.unwrap_err().kind(), ErrorKind::Invalid);
}

/// An older keystore beside a younger ledger: who is erased in the ledger gets neither keys nor data.
#[tokio::test]
async fn an_erased_user_is_not_restored_whatever_the_keys() {
    let (folder, data) = super::data();
    let (users, host) = plain(&data).await;
    for user in ["alice", "bob"] {
        fill(&users, &host, user).await;
    }
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    users.backup_all(&first, |_| {}).await.unwrap();
    let tag = users.tag("alice").unwrap();
    users.erase("alice").await.unwrap();
    users.backup_all(&second, |_| {}).await.unwrap();
    // A plain list can be written by anybody; the ledger is asked all the same.
    let name = format!("{tag}.archive");
    std::fs::copy(first.join(&name), second.join(&name)).unwrap();
    let text = |folder: &Path| std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text(&second)).unwrap();
    let older: serde_json::Value = serde_json::from_str(&text(&first)).unwrap();
    let entry = older["files"].as_array().unwrap().iter().find(|file| file["name"] == *name).unwrap();
    manifest["files"].as_array_mut().unwrap().push(entry.clone());
    std::fs::write(second.join("manifest.json"), manifest.to_string()).unwrap();
    let place = folder.path().join("place");
    let report = restore_all(&second, &place, None, |_| {}).await.unwrap();
    assert_eq!((report.restored, report.erased), (1, 1));
    let (users, host) = plain(&place).await;
    assert_eq!(users.open(&host, "alice").await.unwrap_err().kind(), ErrorKind::Erased);
    drop(users.open(&host, "bob").await.unwrap());
}

#[tokio::test]
async fn users_whose_data_cannot_be_read_are_named() {
    let (folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    for user in ["alice", "bob", "carol"] {
        fill(&users, &host, user).await;
    }
    let (alice, bob) = (users.tag("alice").unwrap(), users.tag("bob").unwrap());
    users.shutdown().await.unwrap();
    drop(host);
    let passphrase = SecretBytes::new(*b"correct horse battery staple");
    with_keychain(folder.path(), async |keychain, _| keychain.hold_key(alice, &passphrase).await.unwrap())
        .await;
    let stem = bob.to_string();
    let file = data.join("users").join(&stem[..1]).join(&stem[1..2]).join(format!("{stem}.db"));
    std::fs::write(&file, vec![7; 8192]).unwrap();
    let (users, host) = sealed(&data).await;
    let backup = folder.path().join("backup");
    let report = users.backup_all(&backup, |_| {}).await.unwrap();
    assert_eq!((report.users, report.archives), (3, 1));
    let mut skipped: Vec<_> = report.skipped.iter().map(|skipped| (skipped.tag, skipped.why)).collect();
    skipped.sort_unstable_by_key(|(tag, _)| *tag != alice);
    assert_eq!(skipped, [(alice, SkipReason::Locked), (bob, SkipReason::Damaged)]);
    users.shutdown().await.unwrap();
    drop(host);
    let key = Encryption::new(Kek::file(folder.path().join("data.key")));
    let report = restore_all(&backup, folder.path().join("place"), Some(key), |_| {}).await.unwrap();
    assert_eq!((report.restored, report.skipped.len()), (1, 2));
}

#[tokio::test]
async fn a_lost_keystore_comes_back_from_its_copy() {
    let (folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    fill(&users, &host, "alice").await;
    let mut copy = Vec::new();
    // The deployment's own space and one user: a root and a life each; and the header.
    assert_eq!(users.backup_keys(&mut copy).await.unwrap(), 5);
    let before = everything(&users, &host).await;
    users.shutdown().await.unwrap();
    drop(host);
    let keys = folder.path().join("data.keys");
    std::fs::remove_dir_all(&keys).unwrap();
    let error = UserManager::builder().sqlite(&data).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let kek = Kek::file(folder.path().join("data.key"));
    let mut cut = copy.clone();
    cut.truncate(copy.len() - 1);
    let error = syntha::restore_keys(Cursor::new(cut), &keys, &kek).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tampered);
    assert_eq!(syntha::restore_keys(Cursor::new(copy.clone()), &keys, &kek).await.unwrap(), 5);
    let error = syntha::restore_keys(Cursor::new(copy), &keys, &kek).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let (users, host) = sealed(&data).await;
    assert_eq!(everything(&users, &host).await, before);
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
