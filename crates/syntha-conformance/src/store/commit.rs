//! Commits and their outcomes.

use std::sync::Arc;

use bytes::Bytes;
use syntha_store::{
    Action, BatchId, ChainHead, Changes, Epoch, ErrorKind, Event, Events, Expect, HEAD_BYTES, Incarnation,
    Keyspace, OUTCOMES_KEPT, Op, Outcome, Scan, Stamp, Timestamp, Usage, UserStore, Version, Writer,
};

use super::{SPACE, batch, checks, id, kind, put, record_body, seq};
use crate::harness::Bed;

checks![
    commit_applies_every_op,
    commit_stale_stamp_conflicts,
    commit_stale_version_conflicts,
    commit_stale_chain_conflicts,
    commit_is_atomic,
    commit_version_is_epoch,
    commit_put_head_keeps_body,
    commit_rewrite_changes_bytes_alone,
    commit_audit_raises_no_epoch,
    commit_usage_is_absolute,
    commit_same_id_twice_invalid,
    commit_over_limit_refused,
    commit_empty_invalid,
    commit_deployment_space_refused,
    commit_racing_writers_admit_one,
    commit_other_life_gone,
    outcome_of_committed,
    outcome_of_refused,
    outcome_forgets_after_many,
];

async fn version(user: &dyn UserStore, name: &str) -> Option<Version> {
    let read = user.read(SPACE, &[id(name)]).await.unwrap();
    read.value[0].as_ref().map(|record| record.head.version)
}

async fn commit_applies_every_op(bed: Bed) {
    let user = bed.user("a").await;
    let mut next = put(put(batch(), "keep", "1"), "gone", "2");
    for n in 0..3 {
        next = next.put(SPACE, seq("thread", n), "", "").put(Keyspace::Agents, seq("agent", n), "", "");
    }
    user.commit(next).await.unwrap();
    let next = put(batch(), "keep", "3")
        .delete(SPACE, id("gone"))
        .delete(SPACE, id("never there"))
        .op(Op::DeleteName { space: SPACE, name: Bytes::from_static(b"thread") })
        .put(SPACE, seq("thread", 9), "", "")
        .op(Op::Clear { space: Keyspace::Agents })
        .put(Keyspace::Agents, id("new"), "", "");
    user.commit(next).await.unwrap();
    let ids = async |space| -> Vec<_> {
        let page = user.scan(Scan::heads(space, 99)).await.unwrap().value;
        let mut ids: Vec<_> = page.records.into_iter().map(|(head, _)| head.id).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(SPACE).await, [id("keep"), seq("thread", 9), id("who")]);
    assert_eq!(ids(Keyspace::Agents).await, [id("new")]);
    assert_eq!(record_body(&*user, "keep").await.as_deref(), Some("3"));
}

async fn commit_stale_stamp_conflicts(bed: Bed) {
    let user = bed.user("a").await;
    let stale = user.state().await.unwrap().stamp;
    let fresh = user.commit(put(batch(), "k", "1")).await.unwrap().stamp;
    let late = put(batch(), "k", "2").expect(Expect::Stamp(stale));
    assert_eq!(kind(user.commit(late).await), ErrorKind::Conflict);
    let early = Stamp { epoch: Epoch(fresh.epoch.0 + 1), ..fresh };
    assert_eq!(
        kind(user.commit(put(batch(), "k", "2").expect(Expect::Stamp(early))).await),
        ErrorKind::Conflict
    );
    assert_eq!(record_body(&*user, "k").await.as_deref(), Some("1"));
    user.commit(put(batch(), "k", "2").expect(Expect::Stamp(fresh))).await.unwrap();
}

async fn commit_stale_version_conflicts(bed: Bed) {
    let user = bed.user("a").await;
    let first = user.commit(put(batch(), "k", "1")).await.unwrap().version;
    let second = user.commit(put(batch(), "k", "2")).await.unwrap().version;
    let expect = |name: &str, version| Expect::Version { space: SPACE, id: id(name), version };
    for wrong in [expect("k", Some(first)), expect("k", None), expect("absent", Some(second))] {
        let late = put(batch(), "k", "late").expect(wrong);
        assert_eq!(kind(user.commit(late).await), ErrorKind::Conflict);
    }
    assert_eq!(record_body(&*user, "k").await.as_deref(), Some("2"));
    let right = put(batch(), "k", "3").expect(expect("k", Some(second))).expect(expect("absent", None));
    user.commit(right).await.unwrap();
}

async fn commit_stale_chain_conflicts(bed: Bed) {
    let user = bed.user("a").await;
    if bed.audited() {
        // The layer moves the chain by itself, and nobody else does.
        let seq = user.state().await.unwrap().chain.seq;
        let next = |expected| put(batch(), "k", "1").expect(Expect::Chain(expected));
        assert_eq!(user.commit(next(seq)).await.unwrap().chain.seq, seq + 1);
        assert_eq!(kind(user.commit(next(seq)).await), ErrorKind::Conflict);
        assert_eq!(user.state().await.unwrap().chain.seq, seq + 1);
        user.commit(next(seq + 1)).await.unwrap();
        let mut own = put(batch(), "k", "2");
        own.chain = Some(ChainHead { seq: seq + 3, head: [1; 32] });
        assert_eq!(kind(user.commit(own).await), ErrorKind::Invalid);
        return;
    }
    let chained = |seq, expected| {
        let mut next = put(batch(), "k", "1").expect(Expect::Chain(expected));
        next.chain = Some(ChainHead { seq, head: [1; 32] });
        next
    };
    user.commit(chained(1, 0)).await.unwrap();
    assert_eq!(kind(user.commit(chained(1, 0)).await), ErrorKind::Conflict);
    assert_eq!(user.state().await.unwrap().chain.seq, 1);
    user.commit(chained(2, 1)).await.unwrap();
}

async fn commit_is_atomic(bed: Bed) {
    let user = bed.user("a").await;
    let before = user.state().await.unwrap();
    let torn = put(put(batch(), "x", "1"), "who", "changed")
        .usage(Usage { contexts: 9, ..Usage::default() })
        .op(Op::PutHead { space: SPACE, id: id("absent"), head: Bytes::new(), expires: None });
    assert_eq!(kind(user.commit(torn).await), ErrorKind::Conflict);
    let stale = Stamp { epoch: Epoch(before.stamp.epoch.0 - 1), ..before.stamp };
    let torn = put(put(batch(), "x", "1"), "who", "changed").expect(Expect::Stamp(stale));
    assert_eq!(kind(user.commit(torn).await), ErrorKind::Conflict);
    assert_eq!(user.state().await.unwrap(), before);
    assert_eq!(record_body(&*user, "x").await, None);
    assert_eq!(record_body(&*user, "who").await.as_deref(), Some("a"));
}

async fn commit_version_is_epoch(mut bed: Bed) {
    let user = bed.user("a").await;
    let mut last = Version(0);
    for n in 0..4 {
        let commit = user.commit(put(batch(), "k", &n.to_string())).await.unwrap();
        assert_eq!(commit.version.0, commit.stamp.epoch.0);
        assert_eq!(version(&*user, "k").await, Some(commit.version));
        assert!(commit.version > last);
        last = commit.version;
        let gone = user.commit(batch().delete(SPACE, id("k"))).await.unwrap();
        assert!(gone.version > last);
        last = gone.version;
    }
    drop(user);
    bed.reopen().await;
    let user = bed.open("a").await;
    assert!(user.commit(put(batch(), "k", "1")).await.unwrap().version > last);
}

async fn commit_put_head_keeps_body(bed: Bed) {
    let user = bed.user("a").await;
    let first = user.commit(put(batch(), "k", "body")).await.unwrap().version;
    let op = Op::PutHead { space: SPACE, id: id("k"), head: Bytes::from_static(b"new head"), expires: None };
    let second = user.commit(batch().op(op)).await.unwrap().version;
    let read = user.read(SPACE, &[id("k")]).await.unwrap().value;
    let record = read[0].as_ref().unwrap();
    assert_eq!((&record.head.head[..], &record.body[..]), (&b"new head"[..], &b"body"[..]));
    assert_eq!((record.head.version, record.head.body_version), (second, first));
}

async fn commit_rewrite_changes_bytes_alone(bed: Bed) {
    let user = bed.user("a").await;
    let at = Some(Timestamp(1_700_000_000_000));
    let (head, body) = (Bytes::from_static(b"head"), Bytes::from_static(b"body"));
    user.commit(batch().op(Op::Put { space: SPACE, id: id("k"), head, body, expires: at })).await.unwrap();
    let (head, expires) = (Bytes::from_static(b"head 2"), at);
    user.commit(batch().op(Op::PutHead { space: SPACE, id: id("k"), head, expires })).await.unwrap();
    let read = async || user.read(SPACE, &[id("k")]).await.unwrap().value.remove(0).unwrap();
    let (before, state) = (read().await, user.state().await.unwrap());
    let rewrite = |name: &str, version| {
        let (head, body) = (Bytes::from_static(b"other head"), Bytes::from_static(b"other body"));
        batch().op(Op::Rewrite { space: SPACE, id: id(name), version, head, body })
    };
    let commit = user.commit(rewrite("k", before.head.version)).await.unwrap();
    assert_eq!(commit.stamp, state.stamp);
    let mut expected = before.clone();
    expected.head.head = Bytes::from_static(b"other head");
    expected.body = syntha_store::Body(Bytes::from_static(b"other body"));
    assert_eq!(read().await, expected);
    assert_eq!(user.state().await.unwrap().stamp, state.stamp);
    // Who knew the state before knows it still.
    user.commit(put(batch(), "l", "1").expect(Expect::Stamp(state.stamp))).await.unwrap();
    if let Changes::Delta(delta) = user.changes(state.stamp, 99).await.unwrap() {
        assert!(delta.heads.iter().all(|(_, head)| head.id == id("l")));
    }
    for (name, version) in [("k", before.head.body_version), ("absent", before.head.version)] {
        let spoiled = rewrite(name, version).put(SPACE, id("m"), "", "");
        assert_eq!(kind(user.commit(spoiled).await), ErrorKind::Conflict);
    }
    assert_eq!(read().await, expected);
    assert_eq!(record_body(&*user, "m").await, None);
}

async fn commit_audit_raises_no_epoch(bed: Bed) {
    let user = bed.user("a").await;
    let before = user.state().await.unwrap();
    let mut flush = batch().put(Keyspace::Audit, seq("", 1), "", "event");
    flush.chain = Some(ChainHead { seq: 1, head: [2; 32] });
    if bed.audited() {
        // The layer writes the records, of events that it is given.
        assert_eq!(kind(user.commit(flush).await), ErrorKind::Invalid);
        flush = batch().events(Events::Clear(vec![Event::new(Timestamp(10), Action::Read)]));
    }
    let moved = before.chain.seq + 1;
    let commit = user.commit(flush).await.unwrap();
    assert_eq!((commit.stamp, commit.chain.seq), (before.stamp, moved));
    let after = user.state().await.unwrap();
    assert_eq!((after.stamp, after.chain.seq), (before.stamp, moved));
    user.commit(put(batch(), "k", "1").expect(Expect::Stamp(before.stamp))).await.unwrap();
    // Nor does the first commit of the deployment's own space.
    let space = bed.store().deployment().await.unwrap();
    let before = space.state().await.unwrap().stamp;
    let first = if bed.audited() {
        batch().events(Events::Clear(vec![Event::new(Timestamp(10), Action::Read)]))
    } else {
        batch().put(Keyspace::Audit, seq("", 1), "", "event")
    };
    assert_eq!(space.commit(first).await.unwrap().stamp, before);
    assert_eq!(bed.store().deployment().await.unwrap().state().await.unwrap().stamp, before);
}

async fn commit_usage_is_absolute(bed: Bed) {
    let user = bed.user("a").await;
    let usage = |contexts| Usage { contexts, agents: 2, context_bytes: 3, history_bytes: 4 };
    for contexts in [5, 1, 7] {
        user.commit(put(batch(), "k", "1").usage(usage(contexts))).await.unwrap();
        assert_eq!(user.state().await.unwrap().usage, usage(contexts));
    }
    user.commit(put(batch(), "k", "2")).await.unwrap();
    assert_eq!(user.state().await.unwrap().usage, usage(7));
}

async fn commit_same_id_twice_invalid(bed: Bed) {
    let user = bed.user("a").await;
    for twice in [put(put(batch(), "k", "1"), "k", "2"), put(batch(), "k", "1").delete(SPACE, id("k"))] {
        assert_eq!(kind(user.commit(twice).await), ErrorKind::Invalid);
    }
    assert_eq!(record_body(&*user, "k").await, None);
}

async fn commit_over_limit_refused(bed: Bed) {
    let user = bed.user("a").await;
    let sized = |bytes| batch().put(SPACE, id("k"), vec![1; bytes], "");
    assert_eq!(kind(user.commit(sized(HEAD_BYTES + 1)).await), ErrorKind::LimitExceeded);
    assert_eq!(version(&*user, "k").await, None);
    user.commit(sized(HEAD_BYTES)).await.unwrap();
}

async fn commit_empty_invalid(bed: Bed) {
    let user = bed.user("a").await;
    let before = user.state().await.unwrap();
    assert_eq!(kind(user.commit(batch()).await), ErrorKind::Invalid);
    assert_eq!(user.state().await.unwrap(), before);
}

async fn commit_deployment_space_refused(bed: Bed) {
    let user = bed.user("a").await;
    for space in Keyspace::all().filter(|space| space.writer() == Writer::Manager) {
        let wrong = put(batch(), "k", "1").put(space, id("row"), "", "");
        assert_eq!(kind(user.commit(wrong).await), ErrorKind::Invalid);
    }
    assert_eq!(record_body(&*user, "k").await, None);
}

async fn commit_racing_writers_admit_one(bed: Bed) {
    let user = bed.user("a").await;
    for round in 0..5 {
        let stamp = user.state().await.unwrap().stamp;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..8 {
            let user = if n % 2 == 0 { Arc::clone(&user) } else { bed.open("a").await };
            let next = put(batch(), "k", &format!("{round}-{n}")).expect(Expect::Stamp(stamp));
            tasks.spawn(async move { user.commit(next).await.map(|_| n).map_err(|error| error.kind()) });
        }
        let (won, lost): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        assert!(lost.iter().all(|result| *result == Err(ErrorKind::Conflict)));
        assert_eq!(record_body(&*user, "k").await, Some(format!("{round}-{}", won[0].unwrap())));
    }
}

async fn commit_other_life_gone(bed: Bed) {
    let user = bed.user("a").await;
    let Stamp { incarnation, epoch } = user.state().await.unwrap().stamp;
    let other = Stamp { incarnation: Incarnation(incarnation.0 ^ 1), epoch };
    assert_eq!(kind(user.commit(put(batch(), "k", "1").expect(Expect::Stamp(other))).await), ErrorKind::Gone);
}

async fn outcome_of_committed(mut bed: Bed) {
    let user = bed.user("a").await;
    let since = user.state().await.unwrap().stamp;
    let next = put(batch(), "k", "1");
    let batch_id = next.id;
    let stamp = user.commit(next).await.unwrap().stamp;
    user.commit(put(batch(), "k", "2")).await.unwrap();
    assert_eq!(user.outcome(batch_id, since).await.unwrap(), Outcome::Committed(stamp));
    drop(user);
    bed.reopen().await;
    assert_eq!(bed.open("a").await.outcome(batch_id, since).await.unwrap(), Outcome::Committed(stamp));
}

async fn outcome_of_refused(bed: Bed) {
    let user = bed.user("a").await;
    let since = user.state().await.unwrap().stamp;
    user.commit(put(batch(), "k", "1")).await.unwrap();
    let late = put(batch(), "k", "2").expect(Expect::Stamp(since));
    let refused = late.id;
    user.commit(late).await.unwrap_err();
    for never in [refused, BatchId(42)] {
        assert_eq!(user.outcome(never, since).await.unwrap(), Outcome::Not);
    }
}

async fn outcome_forgets_after_many(bed: Bed) {
    let user = bed.user("a").await;
    let since = user.state().await.unwrap().stamp;
    for n in 0..=OUTCOMES_KEPT {
        user.commit(put(batch(), "k", &n.to_string())).await.unwrap();
    }
    assert_eq!(user.outcome(BatchId(42), since).await.unwrap(), Outcome::Forgotten);
    let now = user.state().await.unwrap().stamp;
    assert_eq!(user.outcome(BatchId(42), now).await.unwrap(), Outcome::Not);
}
