//! Data that was lost or tampered with, and an archive that takes its place: the trail goes on, and says what is gone.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use syntha::store::{Batch, Keyspace, Op, Scan, Store, Timestamp};
use syntha::trail::leaf::LeafKind;
use syntha::trail::link::Kind;
use syntha::trail::trail::{Item, TrailReader};
use syntha::trail::verify::{Checkpoint, Problem, Scope, TrustedKeys, Verdict, Verifier};
use syntha::{
    AuditAction, AuditQuery, AuditScope, AuditVerdict, ErrorKind, HostAuthority, Restore, UserManager,
};

use crate::audit::{actions, audited, entries, is_clean, of};
use crate::erasure::with_keychain;

fn how() -> Restore {
    Restore::new().archived_permissions()
}

async fn push(users: &UserManager, host: &HostAuthority, value: u64) {
    let session = users.create_user_session(host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", value).await.unwrap();
    session.flush_audit().await.unwrap();
    session.end();
}

async fn read(users: &UserManager, host: &HostAuthority) -> Option<u64> {
    let session = users.open(host, "alice").await.unwrap();
    session.agent("a").unwrap().get::<u64>("k").await.unwrap()
}

/// An audited folder whose user has an archive of the value 1 and the value 2 now, and everything in the log. Gives the archive.
async fn made(data: &Path, sealed: bool) -> Vec<u8> {
    let (users, host) = audited(data, sealed).await;
    push(&users, &host, 1).await;
    let mut archive = Vec::new();
    users.backup("alice", &mut archive).await.unwrap();
    push(&users, &host, 2).await;
    users.create("bob").await.unwrap();
    users.shutdown().await.unwrap();
    archive
}

/// The same with an archive that is no single piece.
async fn large(data: &Path, sealed: bool) -> Vec<u8> {
    let (users, host) = audited(data, sealed).await;
    push(&users, &host, 1).await;
    let session = users.open(&host, "alice").await.unwrap();
    for number in 0..200 {
        session.agent("a").unwrap().push(format!("large-{number}"), "x".repeat(8_000)).await.unwrap();
    }
    session.end();
    let mut archive = Vec::new();
    users.backup("alice", &mut archive).await.unwrap();
    push(&users, &host, 2).await;
    users.shutdown().await.unwrap();
    archive
}

/// What is done to the user's data behind the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// A link is deleted.
    Cut,
    /// The data is not there.
    Taken,
    /// The file is no database any more.
    Overwritten,
}

async fn damage(data: &Path, sealed: bool, done: Done) {
    let (users, host) = audited(data, sealed).await;
    let tag = users.tag("alice").unwrap();
    users.shutdown().await.unwrap();
    drop(host);
    let name = tag.to_string();
    let folder = data.join("users").join(&name[..1]).join(&name[1..2]);
    let file = |ending: &str| folder.join(format!("{name}.db{ending}"));
    match done {
        Done::Taken => {
            for ending in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(file(ending));
            }
        }
        Done::Overwritten => std::fs::write(file(""), vec![7; 8192]).unwrap(),
        Done::Cut => {
            let key = deployment_key(data, sealed).await;
            let config = syntha::sqlite::SqliteConfig::new(data);
            let config = match key {
                Some(key) => config.deployment_key(key),
                None => config,
            };
            let below = syntha::sqlite::SqliteStore::open(config).await.unwrap();
            let user = below.open(tag).await.unwrap();
            let links =
                user.scan(Scan::heads(Keyspace::Audit, 1).name("").reverse()).await.unwrap().value.records;
            let last = links.last().unwrap().0.id.clone();
            let cut = Op::Delete { space: Keyspace::Audit, id: last };
            user.commit(Batch::new(Timestamp(0)).unwrap().op(cut)).await.unwrap();
            drop(user);
            below.close().await.unwrap();
        }
    }
}

async fn deployment_key(data: &Path, sealed: bool) -> Option<syntha::store::DeploymentKey> {
    if !sealed {
        return None;
    }
    with_keychain(data.parent().unwrap(), async |keychain, _| Some(keychain.deployment_key().clone())).await
}

/// The log's leaves of a user.
async fn leaves(users: &UserManager) -> Vec<(LeafKind, u64)> {
    let tag = users.tag("alice").unwrap();
    let mut file = Vec::new();
    users.audit().unwrap().export(&AuditScope::All, false, &mut file).await.unwrap();
    let mut reader = TrailReader::new(&file[..]);
    let mut found = Vec::new();
    while let Some(line) = reader.line().unwrap() {
        if let Some(Item::Leaf { leaf, .. }) = line.item
            && leaf.owner == *tag.as_bytes()
        {
            found.push((leaf.kind, leaf.chain.seq));
        }
    }
    found
}

async fn problems(users: &UserManager, scope: &AuditScope) -> Vec<Problem> {
    let report = users.audit().unwrap().verify(scope, true).await.unwrap();
    assert!(report.data.iter().all(|(_, data)| data.is_clean()), "{report:?}");
    report.trail.all().map(|finding| finding.problem).collect()
}

#[tokio::test]
async fn an_archive_takes_the_place_of_what_was_tampered_with() {
    for (sealed, done) in [
        (true, Done::Cut),
        (false, Done::Cut),
        (true, Done::Taken),
        (false, Done::Taken),
        (true, Done::Overwritten),
        (false, Done::Overwritten),
    ] {
        let (_folder, data): (_, PathBuf) = super::data();
        let archive = made(&data, sealed).await;
        damage(&data, sealed, done).await;
        let (users, host) = audited(&data, sealed).await;
        let said = format!("{done:?}, sealed: {sealed}");
        let refused = users.open(&host, "alice").await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::Tampered | ErrorKind::Corrupt), "{said}: {refused:?}");
        // The present permissions can't be kept, and nobody loosens them unasked.
        let refused = users.restore("alice", Cursor::new(archive.clone())).await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::Tampered | ErrorKind::Corrupt), "{said}: {refused:?}");
        users.restore_with("alice", Cursor::new(archive.clone()), how()).await.expect(&said);
        assert_eq!(read(&users, &host).await, Some(1), "{said}");
        push(&users, &host, 3).await;
        // The log names the end of what was lost, and the chain begins again with the archive's.
        let told = leaves(&users).await;
        let lost: Vec<_> = told.iter().filter(|(kind, _)| *kind == LeafKind::Lost).collect();
        assert_eq!(lost.len(), 1, "{said}: {told:?}");
        assert!(!told.iter().any(|(kind, _)| *kind == LeafKind::Erased), "{said}: {told:?}");
        let chain = entries(&users, &of("alice"), AuditQuery::new()).await;
        assert!(chain.iter().any(|entry| entry.kind == Kind::Restore), "{said}");
        // Nobody is told that all is well.
        for scope in [AuditScope::All, of("alice")] {
            assert_eq!(problems(&users, &scope).await, [Problem::Lost], "{said}");
        }
        assert!(problems(&users, &AuditScope::Deployment).await.is_empty());
        let restored = AuditQuery::new().action(AuditAction::Restore).verdict(AuditVerdict::Done);
        assert_eq!(actions(&users, &AuditScope::Deployment, restored).await.len(), 1, "{said}");
        users.shutdown().await.unwrap();
        drop(host);
        // The next process finds it so too, and another restore is none of lost data.
        let (users, host) = audited(&data, sealed).await;
        assert_eq!(read(&users, &host).await, Some(3), "{said}");
        users.restore("alice", Cursor::new(archive)).await.expect(&said);
        push(&users, &host, 4).await;
        assert_eq!(problems(&users, &AuditScope::All).await, [Problem::Lost], "{said}");
        users.shutdown().await.unwrap();
    }
}

/// The report says from where on links are lost; an auditor whose kept checkpoint covers the loss was told before.
#[tokio::test]
async fn an_auditor_is_told_of_a_loss_once() {
    let (_folder, data) = super::data();
    let archive = made(&data, true).await;
    damage(&data, true, Done::Cut).await;
    let (users, host) = audited(&data, true).await;
    users.restore_with("alice", Cursor::new(archive), how()).await.unwrap();
    push(&users, &host, 3).await;
    let trail = users.audit().unwrap();
    let (mut file, keys) = (Vec::new(), TrustedKeys::parse(&trail.keys().await.unwrap()).unwrap());
    let kept = trail.export(&AuditScope::All, false, &mut file).await.unwrap().checkpoint.unwrap().note;
    let known = Checkpoint::parse(&kept, &keys).unwrap();
    let judge = |known: Option<Checkpoint>| {
        let mut verifier = Verifier::new(keys.clone()).scope(Scope::All).known(known);
        verifier.read(Cursor::new(file.clone())).unwrap();
        verifier.finish()
    };
    let report = judge(None);
    assert_eq!(report.verdict(), Verdict::Bad);
    let found = report.findings[0];
    let tag = users.tag("alice").unwrap();
    assert_eq!((found.problem, found.owner), (Problem::Lost, Some(*tag.as_bytes())));
    let lost = leaves(&users).await.into_iter().find(|(kind, _)| *kind == LeafKind::Lost).unwrap().1;
    assert!(found.seq.unwrap() <= lost && found.until == Some(lost), "{found:?}");
    assert_eq!(judge(Some(known)).verdict(), Verdict::Clean);
    users.shutdown().await.unwrap();
}

/// Nothing is lost where the archive has every link that the log has.
#[tokio::test]
async fn an_archive_of_the_last_moment_loses_nothing() {
    for done in [Done::Cut, Done::Taken, Done::Overwritten] {
        let (_folder, data) = super::data();
        made(&data, false).await;
        let (users, host) = audited(&data, false).await;
        push(&users, &host, 5).await;
        users.shutdown().await.unwrap();
        drop(host);
        // Nobody opens the user any more.
        let (users, host) = audited(&data, false).await;
        let mut archive = Vec::new();
        users.backup("alice", &mut archive).await.unwrap();
        users.shutdown().await.unwrap();
        drop(host);
        damage(&data, false, done).await;
        let (users, host) = audited(&data, false).await;
        users.restore_with("alice", Cursor::new(archive), how()).await.unwrap();
        assert_eq!(read(&users, &host).await, Some(5));
        assert!(is_clean(&users, &AuditScope::All, true).await, "{done:?}");
        assert!(leaves(&users).await.iter().all(|(kind, _)| *kind == LeafKind::Head), "{done:?}");
        users.shutdown().await.unwrap();
    }
}

/// A restore that fails changes nothing, and the log says nothing of an end.
#[tokio::test]
async fn a_restore_that_fails_is_logged_as_no_end() {
    for (sealed, done) in [(false, Done::Taken), (true, Done::Taken), (false, Done::Cut)] {
        let (_folder, data) = super::data();
        let archive = large(&data, sealed).await;
        damage(&data, sealed, done).await;
        let (users, host) = audited(&data, sealed).await;
        // It breaks off far behind its head.
        let cut = archive[..archive.len() - 4_000].to_vec();
        users.restore_with("alice", Cursor::new(cut), how()).await.unwrap_err();
        assert!(users.open(&host, "alice").await.is_err(), "{done:?}");
        let failed = AuditQuery::new().action(AuditAction::Restore).verdict(AuditVerdict::Failed);
        assert_eq!(actions(&users, &AuditScope::Deployment, failed).await.len(), 1);
        users.shutdown().await.unwrap();
        drop(host);
        let (users, host) = audited(&data, sealed).await;
        users.restore_with("alice", Cursor::new(archive), how()).await.unwrap();
        let told = leaves(&users).await;
        let ends: Vec<_> =
            told.iter().filter(|(kind, _)| *kind != LeafKind::Head).map(|(kind, _)| *kind).collect();
        assert_eq!(ends, [LeafKind::Lost], "{told:?}");
        assert_eq!(read(&users, &host).await, Some(1));
        users.shutdown().await.unwrap();
    }
}
