//! Commits and their links.

use std::sync::Arc;

use bytes::Bytes;
use syntha_audit::link::{Kind, Trace};
use syntha_store::{
    Batch, ChainHead, CreateMode, Epoch, ErrorKind, Expect, Keyspace, Note, Op, Stamp, Timestamp, Usage,
    Version,
};

use super::{Trail, checks, event, events, filled, text};
use crate::harness::Bed;
use crate::store::{SPACE, batch, id, kind, put, seq};

checks![
    audit_commit_makes_one_link,
    audit_rewrite_is_chained,
    audit_chain_verifies_from_genesis,
    audit_handles_make_one_chain,
    audit_conflict_leaves_no_link,
    audit_keyspace_is_closed,
    audit_begins_over_what_is_there,
];

/// A batch of each kind of operation, and of none.
pub(super) fn batches() -> Vec<Batch> {
    let expires = Some(Timestamp(1_800_000_012_345));
    let with =
        |space, id, body: &str, expires| Op::Put { space, id, head: text("head"), body: text(body), expires };
    let usage = Usage { contexts: 3, agents: 1, context_bytes: 9, history_bytes: 2 };
    let mut noted = batch().usage(usage);
    noted.note = Some(Note::new(b"above").unwrap());
    vec![
        batch().op(with(SPACE, id("k"), "1", expires)).op(with(SPACE, id("empty"), "", None)),
        (0..4).fold(batch(), |batch, n| batch.op(with(Keyspace::History, seq("thread", n), "message", None))),
        batch().op(Op::PutHead { space: SPACE, id: id("k"), head: text("other head"), expires: None }),
        put(batch(), "k", "2").delete(Keyspace::History, seq("thread", 1)).delete(SPACE, id("absent")),
        batch()
            .op(with(Keyspace::History, seq("thread", 9), "kept", expires))
            .op(Op::DeleteName { space: Keyspace::History, name: text("thread") }),
        batch().op(with(Keyspace::Agents, id("a"), "agent", None)).op(with(
            Keyspace::Meta,
            id("m"),
            "meta",
            None,
        )),
        batch().op(Op::Clear { space: Keyspace::Agents }).op(with(Keyspace::Agents, id("b"), "agent", None)),
        noted,
    ]
}

/// Whether a trace is of this kind of operation.
fn is_of(trace: &Trace, op: &Op) -> bool {
    match (trace, op) {
        (Trace::Put { .. }, Op::Put { .. })
        | (Trace::PutHead { .. }, Op::PutHead { .. })
        | (Trace::Rewrite { .. }, Op::Rewrite { .. })
        | (Trace::Delete { .. }, Op::Delete { .. }) => true,
        (Trace::DeleteName { space, .. } | Trace::Clear { space }, _) => *space == op.space().code(),
        _ => false,
    }
}

async fn audit_commit_makes_one_link(bed: Bed) {
    let user = bed.user("a").await;
    let made = Trail::of(&bed, "a").await;
    assert_eq!((made.links.len(), made.last().kind), (1, Kind::Create));
    made.assert_whole();
    for (n, batch) in batches().into_iter().enumerate() {
        let (id, ops, time) = (batch.id, batch.ops.clone(), batch.time);
        let commit = user.commit(batch).await.unwrap();
        let trail = Trail::of(&bed, "a").await;
        assert_eq!(trail.links.len(), n + 2, "one link for one commit");
        let link = trail.last();
        assert_eq!((link.kind, link.batch, link.at, link.events), (Kind::Change, id, time, 0));
        assert_eq!((link.epoch, link.life), (commit.stamp.epoch, commit.stamp.incarnation));
        assert_eq!(link.changes.len(), ops.len(), "a trace for each operation");
        assert!(link.changes.iter().zip(&ops).all(|(trace, op)| is_of(trace, op)), "in their order");
        assert_eq!(commit.chain, trail.state.chain);
        trail.assert_whole();
    }
}

async fn audit_rewrite_is_chained(bed: Bed) {
    let user = filled(&bed, "a").await;
    let before = user.state().await.unwrap();
    let version = user.read(SPACE, &[id("k")]).await.unwrap().value[0].as_ref().unwrap().head.version;
    let rewrite =
        Op::Rewrite { space: SPACE, id: id("k"), version, head: text("again"), body: text("again") };
    let commit = user.commit(batch().op(rewrite)).await.unwrap();
    assert_eq!((commit.stamp, commit.chain.seq), (before.stamp, before.chain.seq + 1));
    let trail = Trail::of(&bed, "a").await;
    assert!(matches!(trail.last().changes[..], [Trace::Rewrite { .. }]));
    assert_eq!(trail.last().kind, Kind::Change);
    trail.assert_whole();
}

async fn audit_chain_verifies_from_genesis(mut bed: Bed) {
    let user = filled(&bed, "a").await;
    drop(user);
    bed.reopen().await;
    let user = bed.open("a").await;
    user.commit(put(batch(), "after", "1")).await.unwrap();
    let trail = Trail::of(&bed, "a").await;
    trail.assert_whole();
    assert_eq!(trail.links.len(), batches().len() + 2);
    assert_eq!(trail.end(), user.state().await.unwrap().chain);
    // Two users' chains have nothing in common, from their first link on.
    bed.user("b").await;
    let other = Trail::of(&bed, "b").await;
    other.assert_whole();
    assert_ne!(other.key, trail.key);
}

async fn audit_handles_make_one_chain(bed: Bed) {
    let handles = [bed.user("a").await, bed.open("a").await];
    let mut count = 1;
    for round in 0..3 {
        for handle in &handles {
            handle.commit(batch().events(events(&[event("x", "k")]))).await.unwrap();
            handle.commit(put(batch(), "k", &round.to_string())).await.unwrap();
            count += 2;
        }
    }
    // By turns, without anything that raises an epoch in between.
    for handle in [0, 1, 0, 1, 1, 0] {
        handles[handle].commit(batch().events(events(&[event("x", "k")]))).await.unwrap();
        count += 1;
    }
    let trail = Trail::of(&bed, "a").await;
    assert_eq!(trail.links.len(), count);
    trail.assert_whole();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let handle = Arc::clone(&handles[n % 2]);
        tasks.spawn(async move {
            let alone = batch().events(events(&[event("x", "k")]));
            let next = if n < 4 { alone } else { put(batch(), &format!("k{n}"), "1") };
            handle.commit(next).await.map(drop).map_err(|error| error.kind())
        });
    }
    assert!(tasks.join_all().await.iter().all(Result::is_ok));
    let trail = Trail::of(&bed, "a").await;
    assert_eq!(trail.links.len(), count + 8);
    trail.assert_whole();
}

async fn audit_conflict_leaves_no_link(bed: Bed) {
    let user = filled(&bed, "a").await;
    let before = user.state().await.unwrap();
    let stale = Stamp { epoch: Epoch(before.stamp.epoch.0 - 1), ..before.stamp };
    let absent = Expect::Version { space: SPACE, id: id("k"), version: None };
    let other = Expect::Version { space: SPACE, id: id("absent"), version: Some(Version(1)) };
    let refused = [
        (put(batch(), "k", "late").expect(Expect::Stamp(stale)), ErrorKind::Conflict),
        (put(batch(), "k", "late").expect(absent), ErrorKind::Conflict),
        (put(batch(), "k", "late").expect(other), ErrorKind::Conflict),
        (
            put(batch(), "k", "late")
                .expect(Expect::Chain(before.chain.seq - 1))
                .events(events(&[event("x", "k")])),
            ErrorKind::Conflict,
        ),
        (
            batch().op(Op::PutHead { space: SPACE, id: id("absent"), head: Bytes::new(), expires: None }),
            ErrorKind::Conflict,
        ),
        (put(put(batch(), "k", "1"), "k", "2"), ErrorKind::Invalid),
        (batch(), ErrorKind::Invalid),
    ];
    for (batch, why) in refused {
        assert_eq!(kind(user.commit(batch).await), why);
        assert_eq!(user.state().await.unwrap(), before);
    }
    Trail::of(&bed, "a").await.assert_whole();
    user.commit(put(batch(), "k", "3")).await.unwrap();
    Trail::of(&bed, "a").await.assert_whole();
}

async fn audit_keyspace_is_closed(bed: Bed) {
    let user = filled(&bed, "a").await;
    let before = user.state().await.unwrap();
    let (space, version) = (Keyspace::Audit, Version(before.stamp.epoch.0));
    let last = || seq("", before.chain.seq);
    let ops = [
        Op::Put { space, id: last(), head: Bytes::new(), body: text("x"), expires: None },
        Op::Put {
            space,
            id: seq("", before.chain.seq + 1),
            head: Bytes::new(),
            body: text("x"),
            expires: None,
        },
        Op::Put { space, id: seq("key", 0), head: Bytes::new(), body: text("x"), expires: None },
        Op::PutHead { space, id: last(), head: text("x"), expires: None },
        Op::Rewrite { space, id: last(), version, head: Bytes::new(), body: text("x") },
        Op::Delete { space, id: last() },
        Op::DeleteName { space, name: Bytes::new() },
        Op::Clear { space },
    ];
    let deployment = bed.store().deployment().await.unwrap();
    deployment.commit(batch().put(Keyspace::Ledger, id("row"), "", "value")).await.unwrap();
    for op in ops {
        for wrong in [batch().op(op.clone()), put(batch(), "k", "1").op(op.clone())] {
            assert_eq!(kind(user.commit(wrong).await), ErrorKind::Invalid, "{op:?}");
        }
        assert_eq!(kind(deployment.commit(batch().op(op.clone())).await), ErrorKind::Invalid, "{op:?}");
        let made = bed.store().create(bed.tag("b"), put(batch(), "who", "b").op(op), CreateMode::New).await;
        assert_eq!(kind(made), ErrorKind::Invalid);
    }
    let mut chained = put(batch(), "k", "1");
    chained.chain = Some(ChainHead { seq: before.chain.seq + 1, head: [1; 32] });
    assert_eq!(kind(user.commit(chained.clone()).await), ErrorKind::Invalid);
    assert_eq!(kind(bed.store().create(bed.tag("b"), chained, CreateMode::New).await), ErrorKind::Invalid);
    assert_eq!(kind(bed.store().open(bed.tag("b")).await), ErrorKind::NotFound);
    assert_eq!(user.state().await.unwrap(), before);
    Trail::of(&bed, "a").await.assert_whole();
}

async fn audit_begins_over_what_is_there(mut bed: Bed) {
    let tag = bed.tag("a");
    // Written before there was a trail: by the same layers, without the one that keeps it.
    let without = if bed.store().capabilities().sealed { bed.over(bed.bare()) } else { bed.bare() };
    let (user, _) = without.create(tag, put(batch(), "who", "a"), CreateMode::New).await.unwrap();
    for batch in batches() {
        user.commit(batch).await.unwrap();
    }
    drop(user);
    bed.reopen().await;
    let user = bed.open("a").await;
    assert_eq!(bed.who("a").await.as_deref(), Some("a"));
    let commit = user.commit(put(batch(), "k", "3")).await.unwrap();
    let trail = Trail::of(&bed, "a").await;
    let kinds: Vec<_> = trail.links.iter().map(|link| link.kind).collect();
    assert_eq!((kinds, commit.chain.seq), (vec![Kind::Snapshot, Kind::Change], 2));
    assert!(trail.links[0].changes.iter().all(|trace| matches!(trace, Trace::Held { .. })));
    assert_eq!(trail.links[0].epoch.0 + 1, commit.stamp.epoch.0);
    trail.assert_whole();
}
