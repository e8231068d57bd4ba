//! What becomes of the trail when a whole deployment is built anew.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use syntha::keys::make_key_file;
use syntha::store::{Batch, Keyspace, Op, Scan, Store, Timestamp};
use syntha::trail::link::Kind;
use syntha::trail::verify::{TrustedKeys, Verdict, Verifier};
use syntha::{
    Audit, AuditAction, AuditQuery, AuditScope, Encryption, ErrorKind, HostAuthority, Kek, Migration, UserId,
    UserManager, restore_all, seal_folder, unseal_folder,
};

use crate::audit::{actions, audited, entries, is_clean, of};
use crate::backup::{everything, fill, stopped, unlocked};

/// An audited folder with users of every kind, one of them with a pruned trail. Gives the keys of its log.
async fn made(data: &Path, sealed: bool) -> String {
    if !sealed {
        make_key_file(data.with_file_name("data.key")).unwrap();
    }
    let (users, host) = audited(data, sealed).await;
    for user in ["alice", "bob", "carol", "pruned"] {
        fill(&users, &host, user).await;
    }
    users.create("never-wrote").await.unwrap();
    users.erase("bob").await.unwrap();
    users.erase("carol").await.unwrap();
    users.recreate("carol").await.unwrap();
    fill(&users, &host, "carol").await;
    let pruned = users.audit().unwrap().prune(&UserId::new("pruned").unwrap(), 5).await.unwrap();
    assert_eq!((pruned.links, pruned.first), (4, 5));
    assert!(is_clean(&users, &AuditScope::All, true).await);
    let keys = users.audit().unwrap().keys().await.unwrap();
    users.shutdown().await.unwrap();
    keys
}

fn key(data: &Path) -> Encryption {
    Encryption::new(Kek::file(data.with_file_name("data.key")))
}

async fn seal(data: &Path) -> syntha::Result<syntha::MigrationReport> {
    seal_folder(data, key(data), Migration::new(), |_| {}).await
}

async fn unseal(data: &Path) -> syntha::Result<syntha::MigrationReport> {
    unseal_folder(data, key(data), Migration::new(), |_| {}).await
}

/// The files beside the data whose names begin and end so.
fn beside(data: &Path, start: &str, end: &str) -> Vec<PathBuf> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut found: Vec<_> = std::fs::read_dir(data.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| name(path).starts_with(start) && name(path).ends_with(end))
        .collect();
    found.sort();
    found
}

fn judged(trail: &Path, keys: &str) -> Verdict {
    let mut verifier =
        Verifier::new(TrustedKeys::parse(keys).unwrap()).scope(syntha::trail::verify::Scope::All);
    verifier.read(Cursor::new(std::fs::read(trail).unwrap())).unwrap();
    verifier.finish().verdict()
}

/// Every chain is whole, is in the log to its end, and is what the data is.
async fn check_whole(users: &UserManager) {
    assert!(is_clean(users, &AuditScope::All, true).await);
    let report = users.audit().unwrap().verify(&AuditScope::All, false).await.unwrap();
    assert!(report.trail.users.len() >= 4);
    for user in &report.trail.users {
        assert_eq!(user.anchored_to, Some(user.to), "{user:?}");
    }
}

/// The users' trails tell of before, and go on.
async fn check_goes_on(users: &UserManager, host: &HostAuthority, events: bool) {
    let told = entries(users, &of("alice"), AuditQuery::new()).await;
    let restored = told.iter().filter(|entry| entry.kind == Kind::Restore).count();
    assert!(restored > 0);
    let pushes = actions(users, &of("alice"), AuditQuery::new().action(AuditAction::Push)).await.len();
    if events {
        assert_eq!(pushes, 4, "{told:?}");
    } else {
        assert!(told.iter().any(|entry| entry.closed && entry.event.is_none()));
    }
    let first = entries(users, &of("pruned"), AuditQuery::new()).await[0].seq;
    assert_eq!(first, 5);
    let session = users.open(host, "alice").await.unwrap();
    session.agent("writer").unwrap().push("later", 1).await.unwrap();
    session.end();
    let now = actions(users, &of("alice"), AuditQuery::new().action(AuditAction::Push)).await.len();
    assert_eq!(now, pushes + 1);
    check_whole(users).await;
}

#[tokio::test]
async fn a_sealed_folder_keeps_its_trail_and_an_unsealed_one_too() {
    let (_folder, data) = super::data();
    let old = made(&data, false).await;
    let (users, host) = audited(&data, false).await;
    let before = everything(&users, &host).await;
    users.shutdown().await.unwrap();
    drop(host);

    // Who was opened has a trail that says so, and so data.
    assert_eq!(seal(&data).await.unwrap().users, 4);
    let keys = beside(&data, "data.audit.key.before-", "");
    assert_eq!(keys.len(), 1);
    assert!(!data.with_file_name("data.audit.key").exists());
    let trails = beside(&data, "data.audit.before-", ".trail");
    assert_eq!((trails.len(), judged(&trails[0], &old)), (1, Verdict::Clean));
    let (users, host) = UserManager::builder().sqlite(&data).open().await.unwrap();
    check_whole(&users).await;
    assert_eq!(everything(&users, &host).await, before);
    check_goes_on(&users, &host, true).await;
    let second = users.audit().unwrap().keys().await.unwrap();
    assert_ne!(second, old);
    users.shutdown().await.unwrap();
    drop(host);
    assert_eq!(seal(&data).await.unwrap().users, 0, "it is done, and says so again");
    assert!(data.with_file_name("data.audit.key").exists(), "the new key stays");
    seal_folder(&data, key(&data), Migration::new().remove_old(), |_| {}).await.unwrap();

    assert_eq!(unseal(&data).await.unwrap().users, 4);
    let trails = beside(&data, "data.audit.before-", ".trail");
    assert_eq!(trails.len(), 2);
    assert_eq!(judged(&trails[1], &second), Verdict::Clean);
    assert_ne!(judged(&trails[1], &old), Verdict::Clean, "it is another key's");
    let (users, host) = UserManager::builder().sqlite(&data).plain().open().await.unwrap();
    check_goes_on(&users, &host, false).await;
    users.shutdown().await.unwrap();
    drop(host);

    // What was closed opens again.
    std::fs::remove_dir_all(data.with_file_name("data.sealed")).unwrap();
    seal(&data).await.unwrap();
    let (users, _host) = UserManager::builder().sqlite(&data).open().await.unwrap();
    let told = entries(&users, &of("alice"), AuditQuery::new()).await;
    assert!(told.iter().all(|entry| !entry.closed));
    assert_eq!(actions(&users, &of("alice"), AuditQuery::new().action(AuditAction::Push)).await.len(), 6);
    check_whole(&users).await;
    users.shutdown().await.unwrap();
}

/// What was done in the old folder between two calls is in the trail of the new one.
#[tokio::test]
async fn a_seal_that_was_stopped_loses_no_entry() {
    let (_folder, data) = super::data();
    made(&data, false).await;
    let work = async |progress: &mut (dyn FnMut(syntha::UserProgress) + Send)| {
        seal_folder(&data, key(&data), Migration::new(), progress).await
    };
    assert!(stopped(2, work).await);
    let open = async || UserManager::builder().sqlite(&data).plain().audit(Audit::default()).open().await;
    let (users, host) = unlocked(open).await;
    for user in ["alice", "carol", "pruned"] {
        let session = users.open(&host, user).await.unwrap();
        // Nothing of the data changes.
        assert_eq!(session.agent("writer").unwrap().get::<u64>("again").await.unwrap(), Some(2));
        session.flush_audit().await.unwrap();
        session.end();
    }
    users.shutdown().await.unwrap();
    drop(host);
    unlocked(async || seal(&data).await).await;
    let (users, _host) = UserManager::builder().sqlite(&data).open().await.unwrap();
    for user in ["alice", "carol", "pruned"] {
        let reads = actions(&users, &of(user), AuditQuery::new().action(AuditAction::Read)).await;
        assert!(!reads.is_empty(), "{user}");
    }
    check_whole(&users).await;
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn nothing_is_sealed_whose_log_nobody_can_compare() {
    let (_folder, data) = super::data();
    made(&data, false).await;
    let (key_file, away) = (data.with_file_name("data.audit.key"), data.with_file_name("elsewhere"));
    std::fs::rename(&key_file, &away).unwrap();
    assert_eq!(seal(&data).await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(!data.with_file_name("data.sealing").exists() && !data.with_file_name("data.plain").exists());
    let how = Migration::new().audit_key(&away);
    assert_eq!(seal_folder(&data, key(&data), how, |_| {}).await.unwrap().users, 3);
    assert!(!away.exists() && beside(&data, "elsewhere.before-", "").len() == 1);
    let audit = Audit::default().key_file(&away);
    let (users, _host) = UserManager::builder().sqlite(&data).audit(audit).open().await.unwrap();
    check_whole(&users).await;
    users.shutdown().await.unwrap();
}

/// A link of a user's that is taken away behind the store is not carried over as if it had never been.
#[tokio::test]
async fn a_trail_that_was_changed_is_not_carried_over() {
    let (_folder, data) = super::data();
    made(&data, false).await;
    let (users, _host) = audited(&data, false).await;
    let tag = users.tag("alice").unwrap();
    users.shutdown().await.unwrap();
    let below = syntha::sqlite::SqliteStore::open(syntha::sqlite::SqliteConfig::new(&data)).await.unwrap();
    let user = below.open(tag).await.unwrap();
    let links = user.scan(Scan::heads(Keyspace::Audit, 3).name("")).await.unwrap().value.records;
    let id = links[2].0.id.clone();
    let cut = Op::Delete { space: Keyspace::Audit, id };
    user.commit(Batch::new(Timestamp(0)).unwrap().op(cut)).await.unwrap();
    drop(user);
    below.close().await.unwrap();
    assert_eq!(seal(&data).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(data.exists() && !data.with_file_name("data.plain").exists());
    assert!(data.with_file_name("data.audit.key").exists());
}

#[tokio::test]
async fn a_restored_deployment_keeps_its_trail() {
    for is_sealed in [true, false] {
        let (_folder, data) = super::data();
        let old = made(&data, is_sealed).await;
        let (users, host) = audited(&data, is_sealed).await;
        let before = everything(&users, &host).await;
        users.shutdown().await.unwrap();
        drop(host);
        let (users, host) = audited(&data, is_sealed).await;
        let copy = data.with_file_name("copy");
        users.backup_all(&copy, |_| {}).await.unwrap();
        assert_eq!(judged(&copy.join("audit.trail"), &old), Verdict::Clean);
        users.shutdown().await.unwrap();
        drop(host);

        let (_elsewhere, new) = super::data();
        let key = || is_sealed.then(|| Encryption::new(Kek::file(data.with_file_name("data.key"))));
        // The key of a deployment that was there before.
        std::fs::copy(data.with_file_name("data.audit.key"), new.with_file_name("data.audit.key")).unwrap();
        let work = async |progress: &mut (dyn FnMut(syntha::UserProgress) + Send)| {
            restore_all(&copy, &new, key(), progress).await
        };
        assert!(stopped(1, work).await);
        let report = unlocked(async || restore_all(&copy, &new, key(), |_| {}).await).await;
        assert_eq!((report.restored, report.erased), (4, 1));
        assert_eq!(beside(&new, "data.audit.key", "").len(), 1, "the one that was put aside");
        let trails = beside(&new, "data.audit.before-", ".trail");
        assert_eq!((trails.len(), judged(&trails[0], &old)), (1, Verdict::Clean));
        let builder = UserManager::builder().sqlite(&new);
        let builder = match key() {
            Some(key) => builder.encryption(key),
            None => builder.plain(),
        };
        let (users, host) = builder.open().await.unwrap();
        check_whole(&users).await;
        assert_eq!(everything(&users, &host).await, before);
        check_goes_on(&users, &host, true).await;
        assert!(new.with_file_name("data.audit.key").exists());
        users.shutdown().await.unwrap();
    }
}

/// Reading beside the process that signs: everything is shown and verified, and nothing is written.
#[tokio::test]
async fn a_trail_is_read_beside_its_holder() {
    for is_sealed in [true, false] {
        let (_folder, data) = super::data();
        made(&data, is_sealed).await;
        let (users, host) = audited(&data, is_sealed).await;
        let session = users.open(&host, "alice").await.unwrap();
        session.agent("writer").unwrap().push("k", 1).await.unwrap();
        let size = users.audit().unwrap().checkpoint().await.unwrap().head.size;
        let exe = std::env::current_exe().unwrap();
        let child = std::process::Command::new(exe)
            .args(["audit_whole::beside_child", "--exact", "--nocapture"])
            .env("SYNTHA_BESIDE", &data)
            .env("SYNTHA_BESIDE_SEALED", is_sealed.to_string())
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        session.agent("writer").unwrap().push("k", 2).await.unwrap();
        assert!(users.audit().unwrap().checkpoint().await.unwrap().head.size > size);
        check_whole(&users).await;
        users.shutdown().await.unwrap();
    }
}

/// The other process of the test above; by itself it does nothing.
#[tokio::test]
async fn beside_child() {
    let Some(data) = std::env::var_os("SYNTHA_BESIDE") else { return };
    let builder = UserManager::builder().sqlite_beside(&data);
    let is_sealed = std::env::var("SYNTHA_BESIDE_SEALED").unwrap() == "true";
    let (users, _host) = if is_sealed { builder } else { builder.plain() }.open().await.unwrap();
    assert!(is_clean(&users, &AuditScope::All, true).await);
    let pushes = actions(&users, &of("alice"), AuditQuery::new().action(AuditAction::Push)).await;
    assert_eq!(pushes.len(), 5);
    let trail = users.audit().unwrap();
    let report = trail.export(&AuditScope::All, false, std::io::sink()).await.unwrap();
    assert!(report.leaves > 0 && report.checkpoint.is_some());
    assert_eq!(trail.rotate_signer().await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(trail.prune(&UserId::new("alice").unwrap(), 3).await.is_err());
    let reads = actions(&users, &AuditScope::Deployment, AuditQuery::new()).await;
    assert!(!reads.is_empty());
    users.shutdown().await.unwrap();
}

/// Between the renames: the old key is still in its place, and what is to be done with it is written down.
#[tokio::test]
async fn a_seal_that_was_stopped_at_its_end_puts_the_key_aside() {
    let (_folder, data) = super::data();
    made(&data, false).await;
    seal(&data).await.unwrap();
    let (aside, key_file) =
        (beside(&data, "data.audit.key.before-", "").remove(0), data.with_file_name("data.audit.key"));
    std::fs::rename(&data, data.with_file_name("data.sealing")).unwrap();
    std::fs::rename(&aside, &key_file).unwrap();
    let pending = [key_file.to_str().unwrap(), aside.to_str().unwrap()].join("\0");
    std::fs::write(data.with_file_name("data.audit.pending"), pending).unwrap();
    let refused = UserManager::builder().sqlite(&data).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    // One rename further, the old key refuses to sign a log that it does not know.
    std::fs::rename(data.with_file_name("data.sealing"), &data).unwrap();
    let refused = UserManager::builder().sqlite(&data).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Tampered);
    assert_eq!(seal(&data).await.unwrap().users, 0);
    assert!(aside.exists() && !key_file.exists() && !data.with_file_name("data.audit.pending").exists());
    let (users, _host) = UserManager::builder().sqlite(&data).open().await.unwrap();
    check_whole(&users).await;
    users.shutdown().await.unwrap();
}
