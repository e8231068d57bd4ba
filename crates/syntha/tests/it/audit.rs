//! The trail of a deployment on real files, from the host's side.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use syntha::store::{Batch, CreateMode, Keyspace, Op, RecordId, Scan, Store, Timestamp};
use syntha::trail::{Behaviour, Delivery, MemorySink};
use syntha::{
    Audit, AuditAction, AuditEntry, AuditQuery, AuditScope, AuditVerdict, ErrorKind, Filter, HostAuthority,
    MeshErrorKind, UserId, UserManager,
};
use syntha_mesh::AuditPolicy;

pub(crate) async fn audited(data: &Path, sealed: bool) -> (UserManager, HostAuthority) {
    let builder = UserManager::builder().sqlite(data).audit(Audit::default());
    let builder = if sealed { builder } else { builder.plain() };
    builder.open().await.unwrap()
}

pub(crate) fn of(user: &str) -> AuditScope {
    AuditScope::User(UserId::new(user).unwrap())
}

pub(crate) async fn entries(users: &UserManager, scope: &AuditScope, query: AuditQuery) -> Vec<AuditEntry> {
    let trail = users.audit().unwrap();
    let (mut all, mut query) = (Vec::new(), query);
    loop {
        let page = trail.entries(scope, &query).await.unwrap();
        all.extend(page.entries);
        match page.next {
            Some(next) => query = query.after(next),
            None => return all,
        }
    }
}

/// What was done, in order, as far as it has an event.
pub(crate) async fn actions(users: &UserManager, scope: &AuditScope, query: AuditQuery) -> Vec<AuditAction> {
    let entries = entries(users, scope, query).await;
    entries.iter().filter_map(|entry| entry.event.as_ref().map(|event| event.action)).collect()
}

pub(crate) async fn is_clean(users: &UserManager, scope: &AuditScope, data: bool) -> bool {
    let report = users.audit().unwrap().verify(scope, data).await.unwrap();
    assert!(report.is_clean(), "{:?} {:?}", report.trail.all().collect::<Vec<_>>(), report.data);
    true
}

#[tokio::test]
async fn a_trail_tells_what_was_done_and_verifies() {
    for sealed in [true, false] {
        let (_folder, data) = super::data();
        let (users, host) = audited(&data, sealed).await;
        for user in ["alice", "bob"] {
            let session = users.create_user_session(&host, user).await.unwrap();
            let agent = session.agent("scout").unwrap();
            agent.push("plan", user).await.unwrap();
            assert_eq!(agent.get::<String>("plan").await.unwrap().as_deref(), Some(user));
            agent.get::<String>("absent").await.unwrap();
            agent.all(&Filter::new()).await.unwrap();
            session.end();
        }
        users.shutdown().await.unwrap();
        let (users, _host) = audited(&data, sealed).await;
        let told = actions(&users, &of("alice"), AuditQuery::new()).await;
        for action in [AuditAction::OpenSession, AuditAction::Push, AuditAction::Read] {
            assert!(told.contains(&action), "{action:?} of {told:?}");
        }
        let pushes =
            entries(&users, &of("bob"), AuditQuery::new().agent("scout").action(AuditAction::Push)).await;
        assert_eq!(pushes.len(), 1, "{pushes:?}");
        let event = pushes[0].event.as_ref().unwrap();
        assert_eq!((event.verdict, event.bytes), (AuditVerdict::Done, 5));
        assert!(pushes[0].records > 0 && pushes[0].epoch > 0);
        assert!(entries(&users, &of("bob"), AuditQuery::new().agent("nobody")).await.is_empty());
        let deployment = actions(&users, &AuditScope::Deployment, AuditQuery::new()).await;
        for action in
            [AuditAction::OpenRun, AuditAction::CreateUser, AuditAction::CloseRun, AuditAction::ReadAudit]
        {
            assert!(deployment.contains(&action), "{action:?} of {deployment:?}");
        }
        assert!(!deployment.contains(&AuditAction::Gap));
        for scope in [of("alice"), AuditScope::Deployment, AuditScope::All] {
            assert!(is_clean(&users, &scope, true).await, "{scope:?}");
        }
        // Neither names nor values leave the store with a trail.
        let mut file = Vec::new();
        let report = users.audit().unwrap().export(&AuditScope::All, false, &mut file).await.unwrap();
        assert_eq!(report.chains, 3);
        assert!(report.checkpoint.is_some());
        let text = String::from_utf8(file).unwrap();
        let decoded = details(&text);
        for name in ["scout", "plan", "alice", "bob"] {
            assert!(!text.contains(name) && !decoded.contains(name), "{name}");
        }
        users.shutdown().await.unwrap();
    }
}

/// The texts and details of a trail's links, as far as they are text.
fn details(trail: &str) -> String {
    let mut found = String::new();
    for line in trail.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for member in ["text", "details"] {
            if let Some(text) = line[member].as_str() {
                let bytes = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
                found.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }
    found
}

#[tokio::test]
async fn what_is_changed_behind_the_trail_is_found() {
    let (_folder, data) = super::data();
    let (users, host) = audited(&data, false).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", 1).await.unwrap();
    session.agent("a").unwrap().push("l", 2).await.unwrap();
    let tag = users.tag("alice").unwrap();
    assert!(is_clean(&users, &of("alice"), true).await);
    users.shutdown().await.unwrap();
    // A record is written again with other bytes, as somebody who has the file can: no epoch moves.
    let below = syntha::sqlite::SqliteStore::open(syntha::sqlite::SqliteConfig::new(&data)).await.unwrap();
    let user = below.open(tag).await.unwrap();
    let page = user.scan(Scan::records(Keyspace::Context, 1)).await.unwrap().value;
    let (head, _) = page.records[0].clone();
    let change = Op::Rewrite {
        space: Keyspace::Context,
        id: head.id.clone(),
        version: head.version,
        head: head.head.clone(),
        body: "9".into(),
    };
    user.commit(Batch::new(Timestamp(0)).unwrap().op(change)).await.unwrap();
    below.close().await.unwrap();
    let (users, _host) = audited(&data, false).await;
    let report = users.audit().unwrap().verify(&of("alice"), true).await.unwrap();
    assert!(!report.is_clean());
    assert!(report.data[0].1.findings.len() == 1, "{report:?}");
    assert!(is_clean(&users, &of("alice"), false).await, "the trail itself is whole");
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn data_with_a_trail_is_not_written_past_it() {
    let (_folder, data) = super::data();
    let (users, host) = audited(&data, true).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", 1).await.unwrap();
    users.shutdown().await.unwrap();
    let refused = UserManager::builder().sqlite(&data).no_audit().open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    // Who says nothing goes on with it.
    let (users, host) = UserManager::builder().sqlite(&data).open().await.unwrap();
    let session = users.open(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", 2).await.unwrap();
    assert_eq!(actions(&users, &of("alice"), AuditQuery::new().action(AuditAction::Push)).await.len(), 2);
    assert!(is_clean(&users, &AuditScope::All, true).await);
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn data_from_before_begins_its_trail_with_what_is_there() {
    for sealed in [true, false] {
        let (_folder, data) = super::data();
        let builder = UserManager::builder().sqlite(&data).no_audit();
        let builder = if sealed { builder } else { builder.plain() };
        let (users, host) = builder.open().await.unwrap();
        let session = users.create_user_session(&host, "alice").await.unwrap();
        for key in ["k", "l", "m"] {
            session.agent("a").unwrap().push(key, 1).await.unwrap();
        }
        users.shutdown().await.unwrap();
        let (users, host) = audited(&data, sealed).await;
        let session = users.open(&host, "alice").await.unwrap();
        session.agent("a").unwrap().push("k", 2).await.unwrap();
        assert!(is_clean(&users, &AuditScope::All, true).await);
        let first = entries(&users, &of("alice"), AuditQuery::new().limit(1)).await.remove(0);
        assert_eq!((first.kind, first.seq), (syntha::trail::link::Kind::Snapshot, 1));
        assert!(first.records >= 3);
        users.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_restore_goes_on_with_the_trail_and_an_erasure_ends_it() {
    for sealed in [true, false] {
        let (_folder, data) = super::data();
        let (users, host) = audited(&data, sealed).await;
        let session = users.create_user_session(&host, "alice").await.unwrap();
        session.agent("a").unwrap().push("k", 1).await.unwrap();
        let mut archive = Vec::new();
        users.backup("alice", &mut archive).await.unwrap();
        session.agent("a").unwrap().push("k", 2).await.unwrap();
        session.flush_audit().await.unwrap();
        let before = entries(&users, &of("alice"), AuditQuery::new()).await.last().unwrap().seq;
        users.restore("alice", Cursor::new(archive.clone())).await.unwrap();
        let session = users.open(&host, "alice").await.unwrap();
        assert_eq!(session.agent("a").unwrap().get::<u64>("k").await.unwrap(), Some(1));
        let after = entries(&users, &of("alice"), AuditQuery::new().after(before)).await;
        assert_eq!(after[0].kind, syntha::trail::link::Kind::Restore);
        assert!(is_clean(&users, &AuditScope::All, true).await);
        // What was done before the restore is told still.
        assert_eq!(actions(&users, &of("alice"), AuditQuery::new().action(AuditAction::Push)).await.len(), 2);
        let mut trail = Vec::new();
        users.audit().unwrap().export(&of("alice"), false, &mut trail).await.unwrap();
        users.erase("alice").await.unwrap();
        assert!(is_clean(&users, &AuditScope::All, true).await);
        let deployment = actions(&users, &AuditScope::Deployment, AuditQuery::new()).await;
        for action in [AuditAction::Backup, AuditAction::Restore, AuditAction::EraseUser] {
            assert!(deployment.contains(&action), "{action:?} of {deployment:?}");
        }
        users.recreate("alice").await.unwrap();
        let session = users.open(&host, "alice").await.unwrap();
        session.agent("a").unwrap().push("k", 3).await.unwrap();
        assert!(is_clean(&users, &AuditScope::All, true).await);
        // The trail that was taken away verifies still.
        let keys = users.audit().unwrap().keys().await.unwrap();
        let keys = syntha::trail::verify::TrustedKeys::parse(&keys).unwrap();
        let mut verifier = syntha::trail::verify::Verifier::new(keys);
        verifier.read(Cursor::new(trail)).unwrap();
        assert_eq!(verifier.finish().verdict(), syntha::trail::verify::Verdict::Clean);
        users.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn refused_sessions_stand_in_the_deployments_trail_and_in_no_users() {
    let (_folder, data) = super::data();
    let (users, host) = audited(&data, true).await;
    users.create("alice").await.unwrap();
    for _ in 0..3 {
        assert_eq!(users.open(&host, "mallory").await.unwrap_err().kind(), ErrorKind::NotFound);
    }
    users.shutdown().await.unwrap();
    let (users, _host) = audited(&data, true).await;
    let query = AuditQuery::new().action(AuditAction::OpenSession).verdict(AuditVerdict::Denied);
    let refused = entries(&users, &AuditScope::Deployment, query).await;
    assert_eq!(refused.iter().map(|entry| entry.event.as_ref().unwrap().count).sum::<u64>(), 3);
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn nothing_is_done_while_nobody_takes_the_trail() {
    let (_folder, data) = super::data();
    let sink = MemorySink::new("outside");
    let audit =
        Audit::new(AuditPolicy::Writes).sink(Arc::new(sink.clone())).bounds(40, Duration::from_secs(600));
    let (users, host) = UserManager::builder().sqlite(&data).audit(audit).open().await.unwrap();
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let agent = session.agent("a").unwrap();
    agent.push("k", 0).await.unwrap();
    sink.behave(Behaviour::Fail);
    let mut done = 0;
    let refused = loop {
        match agent.push("k", done + 1).await {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
        assert!(done < 50, "past the bound");
    };
    assert_eq!(refused.kind(), MeshErrorKind::AuditUnavailable);
    assert_eq!(agent.get::<u64>("k").await.unwrap(), Some(done), "what was refused was not done");
    sink.behave(Behaviour::Take);
    let mut tries = 0;
    while agent.push("k", 100).await.is_err() {
        tries += 1;
        assert!(tries < 600, "it goes on once somebody takes the trail");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    users.shutdown().await.unwrap();
    let mut seqs: Vec<u64> = sink
        .taken()
        .into_iter()
        .filter_map(|delivery| match delivery {
            Delivery::Link { owner, seq, .. } if owner != [0; 32] => Some(seq),
            _ => None,
        })
        .collect();
    seqs.sort_unstable();
    seqs.dedup();
    assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
    assert!(seqs.len() as u64 >= done + 2);
}

#[tokio::test]
async fn a_process_that_ended_without_a_word_leaves_a_gap() {
    let (_folder, data) = super::data();
    let (users, host) = audited(&data, true).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", 1).await.unwrap();
    drop((session, host, users));
    let (users, _host) = UserManager::builder().sqlite(&data).open().await.unwrap();
    let deployment = actions(&users, &AuditScope::Deployment, AuditQuery::new()).await;
    assert!(deployment.contains(&AuditAction::Gap), "{deployment:?}");
    let gaps = entries(&users, &AuditScope::Deployment, AuditQuery::new().action(AuditAction::Gap)).await;
    let bounds: Vec<_> = gaps.iter().filter_map(|gap| gap.event.as_ref().map(|event| event.count)).collect();
    assert_eq!(bounds, [10_000], "the bound that the page states");
    assert!(is_clean(&users, &AuditScope::All, true).await);
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_user_who_is_made_below_is_no_user() {
    let (_folder, data) = super::data();
    let (users, _host) = audited(&data, false).await;
    let tag = users.tag("eve").unwrap();
    users.shutdown().await.unwrap();
    let below = syntha::sqlite::SqliteStore::open(syntha::sqlite::SqliteConfig::new(&data)).await.unwrap();
    let id = RecordId::new("k", 0).unwrap();
    let first = Batch::new(Timestamp(0)).unwrap().put(Keyspace::Context, id, "", "1");
    below.create(tag, first, CreateMode::New).await.unwrap();
    below.close().await.unwrap();
    let (users, _host) = audited(&data, false).await;
    let report = users.audit().unwrap().verify(&AuditScope::All, true).await.unwrap();
    assert!(!report.is_clean(), "data without a chain");
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_log_whose_key_is_not_there_gets_no_new_one() {
    let (_folder, data) = super::data();
    let (users, host) = audited(&data, true).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", 1).await.unwrap();
    users.shutdown().await.unwrap();
    let (key, away) = (data.with_extension("audit.key"), data.with_extension("away"));
    std::fs::rename(&key, &away).unwrap();
    let refused = UserManager::builder().sqlite(&data).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(!key.exists(), "nothing is made");
    std::fs::rename(&away, &key).unwrap();
    let (users, _host) = audited(&data, true).await;
    assert!(is_clean(&users, &AuditScope::All, true).await);
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_erased_users_last_entries_are_delivered_first() {
    for sealed in [true, false] {
        let (_folder, data) = super::data();
        let sink = MemorySink::new("outside");
        let audit = Audit::new(AuditPolicy::Writes).sink(Arc::new(sink.clone()));
        let builder = UserManager::builder().sqlite(&data).audit(audit);
        let builder = if sealed { builder } else { builder.plain() };
        let (users, host) = builder.open().await.unwrap();
        let tag = users.tag("alice").unwrap();
        let session = users.create_user_session(&host, "alice").await.unwrap();
        for value in 0..5 {
            session.agent("a").unwrap().push("k", value).await.unwrap();
        }
        // Within the second in which nothing is logged yet.
        users.erase("alice").await.unwrap();
        let taken = sink.taken();
        let delivered = taken
            .iter()
            .filter(|delivery| matches!(delivery, Delivery::Link { owner, .. } if owner == tag.as_bytes()));
        assert!(delivered.count() >= 5, "sealed: {sealed}");
        users.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_trail_is_not_taken_off_by_another_folder_in_its_place() {
    let (_folder, data) = super::data();
    let (users, host) = audited(&data, false).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", 1).await.unwrap();
    users.shutdown().await.unwrap();
    std::fs::rename(&data, data.with_extension("away")).unwrap();
    let (users, _host) = UserManager::builder().sqlite(&data).plain().no_audit().open().await.unwrap();
    users.shutdown().await.unwrap();
    let refused = UserManager::builder().sqlite(&data).plain().open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    // Nor for who asks for one: the key is of another deployment's log.
    let refused =
        UserManager::builder().sqlite(&data).plain().audit(Audit::default()).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
}
