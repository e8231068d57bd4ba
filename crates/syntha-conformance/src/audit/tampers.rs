//! Somebody who writes below the layer.

use bytes::Bytes;
use syntha_store::{Batch, ChainHead, ErrorKind, Keyspace, Op, Timestamp, UserStore};

use super::{Trail, checks, event, events, filled, text};
use crate::harness::Bed;
use crate::store::{SPACE, batch, id, kind, put, seq};

checks![
    audit_last_link_dropped_is_noticed,
    audit_row_of_before_is_noticed,
    audit_change_without_link_is_noticed,
    audit_deployment_is_checked_too,
    audit_record_put_back_differs,
];

/// Writes below all layers, whatever the layers say.
pub(super) async fn write_below(user: &dyn UserStore, ops: Vec<Op>, chain: Option<ChainHead>) {
    let mut batch = Batch::new(Timestamp(0)).unwrap();
    (batch.ops, batch.chain, batch.sealed) = (ops, chain, true);
    user.commit(batch).await.unwrap();
}

async fn assert_opens_not(bed: &Bed, user: &str) {
    assert_eq!(kind(bed.store().open(bed.tag(user)).await), ErrorKind::Tampered, "{user}");
}

async fn audit_last_link_dropped_is_noticed(bed: Bed) {
    let space = Keyspace::Audit;
    // The last link is of a change, or of events alone.
    for (user, alone, count) in [("a", false, 1), ("b", true, 1), ("c", true, 3), ("d", false, u64::MAX)] {
        let handle = filled(&bed, user).await;
        if alone {
            handle.commit(batch().events(events(&[event("agent", "k")]))).await.unwrap();
        }
        let end = handle.state().await.unwrap().chain.seq;
        bed.open(user).await;
        let ops = if count > end {
            vec![Op::Clear { space }]
        } else {
            (end + 1 - count..=end).map(|n| Op::Delete { space, id: seq("", n) }).collect()
        };
        write_below(&*bed.bare().open(bed.tag(user)).await.unwrap(), ops, None).await;
        assert_opens_not(&bed, user).await;
    }
    // Without the key nothing goes on.
    filled(&bed, "e").await;
    let without = vec![Op::DeleteName { space, name: text("key") }];
    write_below(&*bed.bare().open(bed.tag("e")).await.unwrap(), without, None).await;
    let refused = match bed.store().open(bed.tag("e")).await {
        Ok(user) => kind(user.commit(put(batch(), "k", "1")).await),
        Err(error) => error.kind(),
    };
    assert_eq!(refused, ErrorKind::Tampered);
}

async fn audit_row_of_before_is_noticed(bed: Bed) {
    for (user, alone) in [("a", false), ("b", true)] {
        let handle = filled(&bed, user).await;
        if alone {
            handle.commit(batch().events(events(&[event("agent", "k")]))).await.unwrap();
        }
        let mut trail = Trail::of(&bed, user).await;
        trail.links.pop();
        trail.stored.pop();
        write_below(&*bed.bare().open(bed.tag(user)).await.unwrap(), Vec::new(), Some(trail.end())).await;
        assert_opens_not(&bed, user).await;
    }
    filled(&bed, "c").await;
    write_below(&*bed.bare().open(bed.tag("c")).await.unwrap(), Vec::new(), Some(ChainHead::default())).await;
    assert_opens_not(&bed, "c").await;
}

async fn audit_change_without_link_is_noticed(bed: Bed) {
    let put = Op::Put { space: SPACE, id: id("x"), head: Bytes::new(), body: text("x"), expires: None };
    for (user, op) in [("a", put), ("b", Op::Delete { space: SPACE, id: id("x") })] {
        filled(&bed, user).await;
        write_below(&*bed.bare().open(bed.tag(user)).await.unwrap(), vec![op], None).await;
        assert_opens_not(&bed, user).await;
    }
}

async fn audit_deployment_is_checked_too(bed: Bed) {
    let space = bed.store().deployment().await.unwrap();
    space.commit(batch().put(Keyspace::Ledger, id("row"), "", "value")).await.unwrap();
    let end = space.state().await.unwrap().chain.seq;
    drop(bed.store().deployment().await.unwrap());
    let drop_last = vec![Op::Delete { space: Keyspace::Audit, id: seq("", end) }];
    write_below(&*bed.bare().deployment().await.unwrap(), drop_last, None).await;
    assert_eq!(kind(bed.store().deployment().await), ErrorKind::Tampered);
}

async fn audit_record_put_back_differs(bed: Bed) {
    let user = filled(&bed, "a").await;
    let old = Trail::of(&bed, "a").await;
    user.commit(put(put(batch(), "k", "newer"), "who", "newer")).await.unwrap();
    let new = Trail::of(&bed, "a").await;
    new.assert_whole();
    let below = bed.bare().open(bed.tag("a")).await.unwrap();
    let rewrite = |at: &(Keyspace, syntha_store::RecordId), head: Bytes, body: Bytes| {
        let version = new.records[at].head.version;
        vec![Op::Rewrite { space: at.0, id: at.1.clone(), version, head, body }]
    };
    let mut put_back = 0;
    for (at, record) in &new.records {
        let mut others = vec![([&record.head.head[..], b"x"].concat().into(), record.body.0.clone())];
        others.push((record.head.head.clone(), [&record.body[..], b"x"].concat().into()));
        if let Some(before) = old.records.get(at).filter(|before| before.body != record.body) {
            others.push((before.head.head.clone(), before.body.0.clone()));
            put_back += 1;
        }
        for (head, body) in others {
            write_below(&*below, rewrite(at, head, body), None).await;
            let now = Trail::of(&bed, "a").await;
            // The chain is as it was, and leads elsewhere.
            assert_eq!(now.end(), now.state.chain);
            let (due, stands) = (now.leads_to(), now.stands());
            let differ: Vec<_> = due.iter().filter(|(place, kept)| stands.get(place) != Some(kept)).collect();
            assert_eq!(differ.len(), 1, "in that record alone");
            assert_eq!(*differ[0].0, now.place(at.0, &at.1));
        }
        write_below(&*below, rewrite(at, record.head.head.clone(), record.body.0.clone()), None).await;
    }
    assert_eq!(put_back, 2);
    Trail::of(&bed, "a").await.assert_whole();
}
