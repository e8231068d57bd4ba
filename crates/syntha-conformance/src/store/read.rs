//! State, reads, scans, changes and snapshots.

use bytes::Bytes;
use syntha_store::{
    Changes, Epoch, ErrorKind, Incarnation, Keyspace, Note, Op, RecordId, Scan, Stamp, Timestamp,
};

use super::{SPACE, batch, checks, id, kind, put, record_body, seq};
use crate::harness::Bed;

checks![
    state_follows_commits,
    state_next_expiry,
    state_keeps_the_note,
    state_time_never_falls,
    read_in_order_of_ids,
    read_says_when,
    read_binary_names,
    read_stays_in_space,
    scan_pages_are_complete,
    scan_by_name,
    scan_from_is_exclusive,
    scan_heads_have_no_bodies,
    scan_limit_checked,
    scan_says_when,
    changes_lists_what_changed,
    changes_never_misses_a_delete,
    changes_other_life_too_old,
    changes_never_splits_a_commit,
    is_at_false_when_behind,
    is_at_false_after_the_life,
    changed_returns_at_once_when_behind,
    changed_wakes_on_commit,
    snapshot_is_one_moment,
];

async fn state_follows_commits(bed: Bed) {
    let user = bed.user("a").await;
    let first = user.state().await.unwrap();
    let mut next = put(batch(), "k", "1");
    let seq = if bed.audited() { first.chain.seq + 1 } else { 3 };
    if !bed.audited() {
        next.chain = Some(syntha_store::ChainHead { seq, head: [4; 32] });
    }
    let commit = user.commit(next).await.unwrap();
    let state = user.state().await.unwrap();
    assert_eq!((state.stamp, state.chain), (commit.stamp, commit.chain));
    assert_eq!(state.stamp.epoch.0, first.stamp.epoch.0 + 1);
    assert_eq!((state.chain.seq, state.time), (seq, Timestamp(10)));
}

async fn state_next_expiry(bed: Bed) {
    let user = bed.user("a").await;
    let next = async || user.state().await.unwrap().next_expiry;
    // A layer may round it up by less than a minute.
    let is = |next: Option<Timestamp>, at: u64| next.is_some_and(|next| (at..at + 60_000).contains(&next.0));
    assert_eq!(next().await, None);
    for (name, at) in [("a", 3_000_100), ("b", 1_000_100), ("c", 2_000_100)] {
        let (head, body) = (Bytes::new(), Bytes::new());
        let op = Op::Put { space: SPACE, id: id(name), head, body, expires: Some(Timestamp(at)) };
        user.commit(batch().op(op)).await.unwrap();
        let read = user.read(SPACE, &[id(name)]).await.unwrap().value;
        assert_eq!(read[0].as_ref().unwrap().head.expires, Some(Timestamp(at)));
    }
    assert!(is(next().await, 1_000_100));
    user.commit(batch().delete(SPACE, id("b"))).await.unwrap();
    assert!(is(next().await, 2_000_100));
    let op = Op::PutHead { space: SPACE, id: id("c"), head: Bytes::new(), expires: None };
    user.commit(batch().op(op)).await.unwrap();
    assert!(is(next().await, 3_000_100));
}

async fn state_keeps_the_note(mut bed: Bed) {
    let user = bed.user("a").await;
    assert_eq!(user.state().await.unwrap().note, Note::NONE);
    for text in [&b"a note"[..], b"", &[9; 64]] {
        let before = user.state().await.unwrap().stamp.epoch;
        let mut next = batch();
        next.note = Some(Note::new(text).unwrap());
        let commit = user.commit(next).await.unwrap();
        assert!(commit.stamp.epoch > before, "a note is data");
        user.commit(put(batch(), "k", "1")).await.unwrap();
        assert_eq!(user.state().await.unwrap().note.as_bytes(), text);
    }
    let mut next = batch();
    next.note = Some(Note::new(&[1; 65]).unwrap());
    assert_eq!(kind(user.commit(next).await), ErrorKind::LimitExceeded);
    drop(user);
    bed.reopen().await;
    assert_eq!(bed.open("a").await.state().await.unwrap().note.as_bytes(), [9; 64]);
}

async fn state_time_never_falls(bed: Bed) {
    let user = bed.user("a").await;
    for (time, expected) in [(50, 50), (20, 50), (60, 60)] {
        let mut next = put(batch(), "k", "1");
        next.time = Timestamp(time);
        user.commit(next).await.unwrap();
        assert_eq!(user.state().await.unwrap().time, Timestamp(expected));
    }
}

async fn read_in_order_of_ids(bed: Bed) {
    let user = bed.user("a").await;
    user.commit(put(put(batch(), "x", "1"), "y", "2")).await.unwrap();
    let read = user.read(SPACE, &[id("y"), id("absent"), id("x"), id("y")]).await.unwrap().value;
    let bodies: Vec<_> =
        read.iter().map(|record| record.as_ref().map(|record| record.body.to_vec())).collect();
    assert_eq!(bodies, [Some(b"2".to_vec()), None, Some(b"1".to_vec()), Some(b"2".to_vec())]);
    assert!(user.read(SPACE, &[]).await.unwrap().value.is_empty());
}

async fn read_says_when(bed: Bed) {
    let user = bed.user("a").await;
    for _ in 0..2 {
        let commit = user.commit(put(batch(), "k", "1")).await.unwrap();
        assert_eq!(user.read(SPACE, &[id("k")]).await.unwrap().stamp, commit.stamp);
    }
}

async fn read_binary_names(bed: Bed) {
    let user = bed.user("a").await;
    let all: Vec<u8> = (0..=255).collect();
    let names: [&[u8]; 5] = [b"", b"\0", b"\0\0", &all, b"'; DROP TABLE record; --"];
    for name in names {
        let id = RecordId::new(name.to_vec(), 0).unwrap();
        user.commit(batch().put(SPACE, id.clone(), name.to_vec(), name.to_vec())).await.unwrap();
    }
    for name in names {
        let id = RecordId::new(name.to_vec(), 0).unwrap();
        let read = user.read(SPACE, std::slice::from_ref(&id)).await.unwrap().value;
        let record = read[0].as_ref().unwrap();
        assert_eq!((&record.head.id, &record.head.head[..], &record.body[..]), (&id, name, name));
    }
}

async fn read_stays_in_space(bed: Bed) {
    let user = bed.user("a").await;
    user.commit(batch().put(Keyspace::Agents, id("k"), "", "agent")).await.unwrap();
    assert_eq!(record_body(&*user, "k").await, None);
    let page = user.scan(Scan::records(SPACE, 99)).await.unwrap().value;
    assert_eq!(page.records.len(), 1);
}

/// Pages of a size, all together.
async fn pages(bed: &Bed, scan: impl Fn() -> Scan) -> Vec<RecordId> {
    let user = bed.open("a").await;
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let page = user
            .scan(match from.take() {
                Some(from) => scan().from(from),
                None => scan(),
            })
            .await
            .unwrap()
            .value;
        found.extend(page.records.iter().map(|(head, _)| head.id.clone()));
        from = page.next();
        if from.is_none() {
            return found;
        }
    }
}

async fn scan_pages_are_complete(bed: Bed) {
    let user = bed.user("a").await;
    let mut expected = vec![id("who")];
    let mut next = batch();
    for n in 0..10_u64 {
        for id in [seq("many", n), seq(&format!("name-{n}"), 7)] {
            expected.push(id.clone());
            next = next.put(SPACE, id, "", "");
        }
    }
    user.commit(next.put(Keyspace::History, id("other"), "", "")).await.unwrap();
    // Names come in an order of the store's own, which is the same for every page; a name's records by their sequence numbers.
    let order = pages(&bed, || Scan::heads(SPACE, 100)).await;
    let many = order.iter().position(|id| id.name() == "many").unwrap();
    assert_eq!(order[many..many + 10], (0..10).map(|n| seq("many", n)).collect::<Vec<_>>());
    let mut found = order.clone();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert!(
        bed.store().capabilities().sealed || order == expected,
        "what is not sealed comes in order of names"
    );
    for size in [1, 2, 3, 7, 100] {
        assert_eq!(pages(&bed, || Scan::heads(SPACE, size)).await, order, "pages of {size}");
        let mut back = pages(&bed, || Scan::heads(SPACE, size).reverse()).await;
        back.reverse();
        assert_eq!(back, order, "pages of {size} in reverse");
    }
}

async fn scan_by_name(bed: Bed) {
    let user = bed.user("a").await;
    let mut next = batch();
    for n in 0..5 {
        next = next.put(SPACE, seq("thread", n), "", "").put(SPACE, seq("thread2", n), "", "");
        next = next.put(SPACE, seq("threa", n), "", "");
    }
    user.commit(next).await.unwrap();
    let expected: Vec<_> = (0..5).map(|n| seq("thread", n)).collect();
    for size in [1, 2, 9] {
        assert_eq!(pages(&bed, || Scan::heads(SPACE, size).name("thread")).await, expected);
        let mut back = pages(&bed, || Scan::heads(SPACE, size).name("thread").reverse()).await;
        back.reverse();
        assert_eq!(back, expected);
    }
}

async fn scan_from_is_exclusive(bed: Bed) {
    let user = bed.user("a").await;
    user.commit(put(put(put(batch(), "b", ""), "d", ""), "f", "")).await.unwrap();
    let scan = async |scan: Scan| -> Vec<RecordId> {
        let page = user.scan(scan).await.unwrap().value;
        page.records.into_iter().map(|(head, _)| head.id).collect()
    };
    let order = scan(Scan::heads(SPACE, 9)).await;
    assert_eq!(order.len(), 4);
    assert!(bed.store().capabilities().sealed || order.is_sorted());
    for (place, from) in order.iter().enumerate() {
        assert_eq!(scan(Scan::heads(SPACE, 9).from(from.clone())).await, order[place + 1..]);
        let mut back = scan(Scan::heads(SPACE, 9).from(from.clone()).reverse()).await;
        back.reverse();
        assert_eq!(back, order[..place]);
    }
    // What is not there has a place all the same: where it would come, and where it came.
    for absent in ["a", "c", "z"] {
        let after = scan(Scan::heads(SPACE, 9).from(id(absent))).await;
        let mut before = scan(Scan::heads(SPACE, 9).from(id(absent)).reverse()).await;
        before.reverse();
        assert_eq!([before.clone(), after].concat(), order, "from {absent}");
        user.commit(put(batch(), absent, "")).await.unwrap();
        assert_eq!(scan(Scan::heads(SPACE, 9)).await[before.len()], id(absent));
        user.commit(batch().delete(SPACE, id(absent))).await.unwrap();
    }
}

async fn scan_heads_have_no_bodies(bed: Bed) {
    let user = bed.user("a").await;
    let heads = user.scan(Scan::heads(SPACE, 9)).await.unwrap().value;
    assert_eq!((&heads.records[0].0.head[..], &heads.records[0].1), (&b"head"[..], &None));
    let records = user.scan(Scan::records(SPACE, 9)).await.unwrap().value;
    assert_eq!(records.records[0].1.as_deref(), Some(&b"a"[..]));
}

async fn scan_limit_checked(bed: Bed) {
    let user = bed.user("a").await;
    for limit in [0, syntha_store::BATCH_OPS + 1] {
        assert_eq!(kind(user.scan(Scan::heads(SPACE, limit)).await), ErrorKind::Invalid);
    }
}

async fn scan_says_when(bed: Bed) {
    let user = bed.user("a").await;
    let commit = user.commit(put(batch(), "k", "1")).await.unwrap();
    assert_eq!(user.scan(Scan::heads(SPACE, 9)).await.unwrap().stamp, commit.stamp);
}

async fn changes_lists_what_changed(bed: Bed) {
    let user = bed.user("a").await;
    let since = user.state().await.unwrap().stamp;
    let Changes::Delta(none) = user.changes(since, 9).await.unwrap() else { panic!("nothing was deleted") };
    assert!(none.heads.is_empty() && none.deleted.is_empty() && !none.more && none.at == since);
    user.commit(put(batch(), "k", "1")).await.unwrap();
    let commit = user.commit(batch().put(Keyspace::Agents, id("k"), "", "")).await.unwrap();
    let Changes::Delta(delta) = user.changes(since, 9).await.unwrap() else { panic!("nothing was deleted") };
    let mut spaces: Vec<_> = delta.heads.iter().map(|(space, head)| (*space, head.id.clone())).collect();
    spaces.sort();
    assert_eq!(spaces, [(SPACE, id("k")), (Keyspace::Agents, id("k"))]);
    assert_eq!((delta.at, delta.more), (commit.stamp, false));
}

async fn changes_never_misses_a_delete(bed: Bed) {
    let user = bed.user("a").await;
    user.commit(put(put(batch(), "x", "1"), "y", "2")).await.unwrap();
    let since = user.state().await.unwrap().stamp;
    user.commit(batch().delete(SPACE, id("x"))).await.unwrap();
    let after = user.commit(batch().op(Op::Clear { space: SPACE })).await.unwrap().stamp;
    if let Changes::Delta(delta) = user.changes(since, 9).await.unwrap() {
        let mut gone: Vec<_> = delta.deleted.into_iter().map(|(_, id)| id).collect();
        gone.sort_unstable();
        assert_eq!(gone, [id("who"), id("x"), id("y")]);
    }
    let Changes::Delta(none) = user.changes(after, 9).await.unwrap() else {
        panic!("nothing happened since")
    };
    assert!(none.heads.is_empty() && none.deleted.is_empty());
}

async fn changes_other_life_too_old(bed: Bed) {
    let user = bed.user("a").await;
    let Stamp { incarnation, epoch } = user.state().await.unwrap().stamp;
    let other = Stamp { incarnation: Incarnation(incarnation.0 ^ 1), epoch };
    assert_eq!(user.changes(other, 9).await.unwrap(), Changes::TooOld);
}

async fn changes_never_splits_a_commit(bed: Bed) {
    let user = bed.user("a").await;
    let mut since = user.state().await.unwrap().stamp;
    for round in 0..3 {
        let mut next = batch();
        for n in 0..5 {
            next = put(next, &format!("{round}-{n}"), "1");
        }
        user.commit(next).await.unwrap();
    }
    let mut found = Vec::new();
    loop {
        let Changes::Delta(delta) = user.changes(since, 2).await.unwrap() else {
            panic!("nothing was deleted")
        };
        assert_eq!(delta.heads.len() % 5, 0, "half a commit");
        found.extend(delta.heads.into_iter().map(|(_, head)| head.id));
        since = delta.at;
        if !delta.more {
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 15);
    assert_eq!(since, user.state().await.unwrap().stamp);
}

async fn is_at_false_when_behind(bed: Bed) {
    let user = bed.user("a").await;
    let other = bed.open("a").await;
    for n in 0..20 {
        let (reader, writer) = if n % 2 == 0 { (&user, &other) } else { (&other, &user) };
        let before = reader.state().await.unwrap().stamp;
        let after = writer.commit(put(batch(), "k", &n.to_string())).await.unwrap().stamp;
        assert!(!reader.is_at(before) && !writer.is_at(before), "commit {n}");
        assert_eq!(reader.state().await.unwrap().stamp, after);
        let foreign = Stamp { incarnation: syntha_store::Incarnation(7), ..after };
        assert!(!reader.is_at(foreign));
    }
}

async fn is_at_false_after_the_life(bed: Bed) {
    for (name, fence) in [("a", Some(syntha_store::Fence::Moved)), ("b", None)] {
        let user = bed.user(name).await;
        let stamp = user.state().await.unwrap().stamp;
        match fence {
            Some(fence) => drop(bed.store().fence(bed.tag(name), None, fence).await.unwrap()),
            None => drop(bed.store().erase(bed.tag(name)).await.unwrap()),
        }
        assert!(!user.is_at(stamp), "{name}");
    }
    let user = bed.user("c").await;
    let mut snapshot = user.snapshot().await.unwrap();
    let stamp = user.state().await.unwrap().stamp;
    bed.store().import(bed.tag("c"), &mut *snapshot, syntha_store::ImportMode::Replace).await.unwrap();
    assert!(!user.is_at(stamp));
}

async fn changed_returns_at_once_when_behind(bed: Bed) {
    let user = bed.user("a").await;
    let now = user.state().await.unwrap().stamp;
    let behind = Stamp { epoch: Epoch(now.epoch.0 - 1), ..now };
    assert_eq!(user.changed(behind).await.unwrap(), now);
}

async fn changed_wakes_on_commit(bed: Bed) {
    let user = bed.user("a").await;
    let other = bed.open("a").await;
    let mut since = user.state().await.unwrap().stamp;
    for n in 0..20 {
        let (waiter, writer) = (user.changed(since), other.commit(put(batch(), "k", &n.to_string())));
        let (woken, commit) = tokio::join!(waiter, writer);
        since = commit.unwrap().stamp;
        assert_eq!(woken.unwrap(), since);
    }
}

async fn snapshot_is_one_moment(bed: Bed) {
    let user = bed.user("a").await;
    user.commit(put(batch(), "k", "before")).await.unwrap();
    let stamp = user.state().await.unwrap().stamp;
    let mut snapshot = user.snapshot().await.unwrap();
    user.commit(put(put(batch(), "k", "after"), "new", "1")).await.unwrap();
    assert_eq!((snapshot.state().stamp, snapshot.owner()), (stamp, bed.tag("a")));
    let mut bodies = Vec::new();
    while let Some(mut chunk) = snapshot.next().await.unwrap() {
        chunk.retain(|stored| !bed.audited() || stored.space != Keyspace::Audit);
        bodies
            .extend(chunk.into_iter().map(|stored| String::from_utf8(stored.record.body.to_vec()).unwrap()));
    }
    bodies.sort_unstable();
    assert_eq!(bodies, ["a", "before"]);
}
