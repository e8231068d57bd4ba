//! The deployment's own chain, and its own records beside it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{ConnectOptions, Connection, Row};
use syntha::store::Keyspace;
use syntha::{Audit, AuditScope, HostAuthority, UserManager};

use crate::audit::is_clean;

/// Sealed or not, and by one process alone or with others.
const FORMS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

async fn open(data: &Path, (sealed, shared): (bool, bool)) -> syntha::Result<(UserManager, HostAuthority)> {
    let builder = UserManager::builder();
    let builder = if shared { builder.sqlite_shared(data) } else { builder.sqlite(data) };
    let builder = if sealed { builder } else { builder.plain() };
    builder.audit(Audit::default()).open().await
}

/// The deployment's file as somebody has it who may write the folder.
async fn file(data: &Path) -> sqlx::SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("deployment.db"));
    options.connect().await.unwrap()
}

/// What is done to a row.
#[derive(Clone, Copy, Debug)]
enum Change {
    PutBack,
    Removed,
    Doubled,
    Changed,
}

type Stored = (i64, Vec<u8>, Vec<u8>, i64, i64);

/// The rows of a keyspace: their number, name, body and versions.
async fn rows(db: &mut sqlx::SqliteConnection, space: Keyspace) -> Vec<Stored> {
    let query = "SELECT row, name, body, version, body_version FROM record WHERE space = ? ORDER BY name";
    let rows = sqlx::query(query).bind(i64::from(space.code())).fetch_all(db).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect()
}

async fn change(data: &Path, space: Keyspace, old: &[Stored], sealed: bool, change: Change) {
    let mut db = file(data).await;
    let now = rows(&mut db, space).await;
    let of = |stored: &&Stored| old.iter().any(|old| old.1 == stored.1 && old.3 < stored.3);
    let (row, name, ..) = now.iter().find(of).unwrap().clone();
    let (_, _, body, version, body_version) = old.iter().find(|old| old.1 == name).unwrap().clone();
    match change {
        Change::PutBack => {
            let query = "UPDATE record SET body = ?, version = ?, body_version = ? WHERE row = ?";
            sqlx::query(query).bind(body).bind(version).bind(body_version).bind(row).execute(&mut db).await
        }
        Change::Removed => sqlx::query("DELETE FROM record WHERE row = ?").bind(row).execute(&mut db).await,
        Change::Doubled => {
            let query = "INSERT INTO record SELECT NULL, space, ?, seq, version, body_version, expires, owner, \
                         head, body FROM record WHERE row = ?";
            let mut other = name;
            *other.last_mut().unwrap() ^= 1;
            sqlx::query(query).bind(other).bind(row).execute(&mut db).await
        }
        Change::Changed => {
            let body = match space {
                _ if sealed => [&body[..], &[0]].concat(),
                Keyspace::Directory => br#"{"v":1,"user":"eve"}"#.to_vec(),
                _ => br#"{"v":1,"done":true,"at":1}"#.to_vec(),
            };
            sqlx::query("UPDATE record SET body = ? WHERE row = ?").bind(body).bind(row).execute(&mut db).await
        }
    }
    .unwrap();
    db.close().await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let there = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &there);
        } else {
            std::fs::copy(&path, &there).unwrap();
        }
    }
}

#[tokio::test]
async fn a_row_of_the_deployments_own_that_was_changed_is_found() {
    for form in FORMS {
        let folder = tempfile::tempdir().unwrap();
        let (base, whole) = (folder.path().join("base"), folder.path().join("whole"));
        std::fs::create_dir(&base).unwrap();
        let data = base.join("data");
        let (users, _host) = open(&data, form).await.unwrap();
        for user in ["alice", "carol"] {
            users.create(user).await.unwrap();
        }
        users.erase("carol").await.unwrap();
        users.recreate("carol").await.unwrap();
        users.shutdown().await.unwrap();
        let mut db = file(&data).await;
        let (directory, ledger) =
            (rows(&mut db, Keyspace::Directory).await, rows(&mut db, Keyspace::Ledger).await);
        db.close().await.unwrap();
        // A second life, so that both keyspaces have a row with an older one.
        let (users, _host) = open(&data, form).await.unwrap();
        users.erase("carol").await.unwrap();
        users.recreate("carol").await.unwrap();
        users.shutdown().await.unwrap();
        copy(&base, &whole);
        for (space, old) in [(Keyspace::Directory, &directory), (Keyspace::Ledger, &ledger)] {
            for what in [Change::PutBack, Change::Removed, Change::Doubled, Change::Changed] {
                std::fs::remove_dir_all(&base).unwrap();
                copy(&whole, &base);
                change(&data, space, old, form.0, what).await;
                let (users, _host) = match open(&data, form).await {
                    Ok(opened) => opened,
                    // Of sealed data, the ledger's seal and roster are looked at first.
                    Err(error) => {
                        let kinds = [syntha::ErrorKind::Corrupt, syntha::ErrorKind::Tampered];
                        assert!(
                            form.0 && kinds.contains(&error.kind()),
                            "{form:?} {space:?} {what:?}: {error}"
                        );
                        continue;
                    }
                };
                for scope in [AuditScope::All, AuditScope::Deployment] {
                    let report = users.audit().unwrap().verify(&scope, true).await.unwrap();
                    let found = report.deployment.as_ref().unwrap();
                    assert!(!report.is_clean(), "{form:?} {space:?} {what:?}");
                    let of_space =
                        |place: Option<syntha::trail::link::Place>| place.unwrap().space == space.code();
                    assert!(found.findings.iter().all(|finding| of_space(finding.place)), "{found:?}");
                }
                users.shutdown().await.unwrap();
            }
        }
    }
}

/// Users come, go and come again while the trail is verified: none of it is a difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_meanwhile_is_no_difference() {
    for form in FORMS {
        let (_folder, data) = super::data();
        let (users, _host) = open(&data, form).await.unwrap();
        for number in 0..1_200 {
            users.create(format!("there-{number}")).await.unwrap();
        }
        let (users, ended) = (Arc::new(users), Arc::new(AtomicBool::new(false)));
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (users, ended) = (Arc::clone(&users), Arc::clone(&ended));
                tokio::spawn(async move {
                    let mut written = 0;
                    while !ended.load(Ordering::Relaxed) {
                        let user = format!("{}-{writer}", written % 7);
                        if users.erase(user.as_str()).await.is_ok() {
                            users.recreate(user.as_str()).await.unwrap();
                        } else {
                            users.create(user.as_str()).await.unwrap();
                        }
                        written += 1;
                    }
                    written
                })
            })
            .collect();
        for _ in 0..12 {
            assert!(is_clean(&users, &AuditScope::Deployment, true).await);
        }
        ended.store(true, Ordering::Relaxed);
        let mut written = 0;
        for writer in writers {
            written += writer.await.unwrap();
        }
        assert!(written > 12, "{written}");
        let report = users.audit().unwrap().verify(&AuditScope::All, true).await.unwrap();
        assert!(report.is_clean() && report.deployment.unwrap().records > 1_200);
        Arc::try_unwrap(users).unwrap().shutdown().await.unwrap();
    }
}

/// However many names are made up, the trail grows by a few entries, and nobody is left out of the counts.
#[tokio::test]
async fn refused_sessions_of_many_names_are_bounded() {
    let (_folder, data) = super::data();
    let (users, host) = open(&data, (true, false)).await.unwrap();
    users.create("alice").await.unwrap();
    let began = std::time::Instant::now();
    for number in 0..1_500 {
        let refused = users.open(&host, format!("mallory-{number}")).await.unwrap_err();
        assert_eq!(refused.kind(), syntha::ErrorKind::NotFound);
    }
    users.shutdown().await.unwrap();
    let intervals = began.elapsed().as_secs() as usize / 10 + 1;
    let (users, _host) = open(&data, (true, false)).await.unwrap();
    let query = syntha::AuditQuery::new()
        .action(syntha::AuditAction::OpenSession)
        .verdict(syntha::AuditVerdict::Denied);
    let refused = crate::audit::entries(&users, &AuditScope::Deployment, query).await;
    let events: Vec<_> = refused.iter().map(|entry| entry.event.as_ref().unwrap()).collect();
    assert_eq!(events.iter().map(|event| event.count).sum::<u64>(), 1_500);
    let named = events.iter().filter(|event| event.target.is_some()).count();
    assert!(named <= 16 * intervals && events.len() <= 18 * intervals, "{named} of {}", events.len());
    let mut links: Vec<u64> = refused.iter().map(|entry| entry.seq).collect();
    links.dedup();
    assert!(links.len() <= 2 * intervals, "{links:?}");
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_deployments_own_trail_is_pruned() {
    for form in FORMS {
        let (_folder, data) = super::data();
        let (users, _host) = open(&data, form).await.unwrap();
        for number in 0..30 {
            users.create(format!("user-{number}")).await.unwrap();
        }
        users.erase("user-3").await.unwrap();
        let trail = users.audit().unwrap();
        let pruned = trail.prune_deployment(20).await.unwrap();
        assert_eq!((pruned.links, pruned.first), (19, 20));
        users.create("later").await.unwrap();
        assert!(is_clean(&users, &AuditScope::All, true).await);
        users.shutdown().await.unwrap();
        let (users, _host) = open(&data, form).await.unwrap();
        assert!(is_clean(&users, &AuditScope::All, true).await);
        assert!(is_clean(&users, &AuditScope::Deployment, true).await);
        let told = crate::audit::entries(&users, &AuditScope::Deployment, syntha::AuditQuery::new()).await;
        assert_eq!(told[0].seq, 20);
        let of = |action| told.iter().any(|entry| entry.event.as_ref().is_some_and(|of| of.action == action));
        assert!(of(syntha::AuditAction::PruneAudit) && of(syntha::AuditAction::EraseUser));
        assert_eq!(users.list(None, 100).await.unwrap().len(), 30);
        users.shutdown().await.unwrap();
    }
}

/// A user's trail is full: the user is refused, the trail says how much there is, and it goes on when it is pruned.
#[tokio::test]
async fn a_full_trail_refuses_its_user_until_it_is_pruned() {
    for sealed in [true, false] {
        let (_folder, data) = super::data();
        let builder = UserManager::builder().sqlite(&data).audit(Audit::default().trail_limit(64 * 1024));
        let builder = if sealed { builder } else { builder.plain() };
        let (users, host) = builder.open().await.unwrap();
        let alice = users.create_user_session(&host, "alice").await.unwrap();
        let agent = alice.agent("a").unwrap();
        let refused = loop {
            match agent.push("k", "value").await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), syntha::MeshErrorKind::AuditUnavailable);
        let of = |user| syntha::UserId::new(user).unwrap();
        let trail = users.audit().unwrap();
        let size = trail.size(&of("alice")).await.unwrap().unwrap();
        assert!(size.is_tight() && size.bytes <= size.limit, "{size:?}");
        // What is shorter than the push may still fit.
        let mut tries = 0;
        let read = loop {
            match agent.get::<String>("k").await {
                Ok(_) => {
                    let _ = alice.flush_audit().await;
                }
                Err(error) => break error,
            }
            tries += 1;
            assert!(tries < 50, "it is read past the limit");
        };
        assert_eq!(read.kind(), syntha::MeshErrorKind::AuditUnavailable);
        assert!(users.create_user_session(&host, "alice").await.is_err());
        let bob = users.create_user_session(&host, "bob").await.unwrap();
        bob.agent("a").unwrap().push("k", "value").await.unwrap();
        assert!(!trail.size(&of("bob")).await.unwrap().unwrap().is_tight());
        users.create("carol").await.unwrap();
        assert_eq!(trail.size(&of("carol")).await.unwrap(), None, "carol has not written");
        let last = crate::audit::entries(&users, &crate::audit::of("alice"), syntha::AuditQuery::new()).await;
        trail.prune(&of("alice"), last.last().unwrap().seq).await.unwrap();
        agent.push("k", "value").await.unwrap();
        assert_eq!(agent.get::<String>("k").await.unwrap().as_deref(), Some("value"));
        alice.flush_audit().await.unwrap();
        assert!(is_clean(&users, &AuditScope::All, true).await);
        users.shutdown().await.unwrap();
    }
}

/// What is told of reads is committed, too: no commit of this process comes between a restore and what it looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_is_not_disturbed_by_what_is_told_of_reads() {
    let (_folder, data) = super::data();
    let (users, host) =
        UserManager::builder().sqlite(&data).plain().audit(syntha::AuditPolicy::Strict).open().await.unwrap();
    users.open(&host, "alice").await.unwrap_err();
    for _ in 0..20 {
        let session = users.create_user_session(&host, "alice").await.unwrap();
        let agent = session.agent("a").unwrap();
        for number in 0..20 {
            agent.push(format!("k{number}"), number).await.unwrap();
        }
        let mut archive = Vec::new();
        users.backup("alice", &mut archive).await.unwrap();
        let reader = tokio::spawn(async move { while agent.get::<u8>("k1").await.is_ok() {} });
        users.restore("alice", std::io::Cursor::new(archive)).await.unwrap();
        reader.await.unwrap();
    }
    users.shutdown().await.unwrap();
}
