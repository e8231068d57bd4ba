//! Records of another time than the rest.

use std::sync::Arc;

use syntha_store::{Batch, ErrorKind, Keyspace, Op, RecordId, Timestamp, UserStore};

use super::attacker::{Forged, ForgedUser, Raw, drained};
use super::{Filled, answers, checks, kind, open_forged, seq, text};
use crate::harness::Bed;

checks![
    sealed_agent_rolled_back_is_noticed,
    sealed_agent_deleted_is_noticed,
    sealed_agent_added_from_before_is_noticed,
    sealed_ledger_rolled_back_is_noticed,
    sealed_accounts_rolled_back_are_noticed,
    sealed_snapshot_rolled_back_is_noticed,
    sealed_note_of_before_is_refused,
    sealed_roster_follows_every_write,
    sealed_version_above_the_epoch,
];

/// Two times of a space that holds what is watched over.
struct Times {
    before: Raw,
    now: Raw,
    changed: (Keyspace, RecordId),
    removed: (Keyspace, RecordId),
}

impl Times {
    /// Writes a space's records, and changes and removes some of them.
    async fn of(user: &dyn UserStore, below: &dyn UserStore, space: Keyspace) -> Self {
        let put = |name: &str, body: &str| Op::Put {
            space,
            id: seq(name, 0),
            head: text("head"),
            body: text(body),
            expires: None,
        };
        let batch = || Batch::new(Timestamp(10)).unwrap();
        user.commit(batch().op(put("stays", "1"))).await.unwrap();
        user.commit(batch().op(put("changes", "1"))).await.unwrap();
        let first = Raw::of(below).await;
        user.commit(batch().op(put("goes", "1"))).await.unwrap();
        let before = Raw::of(below).await;
        user.commit(batch().op(put("changes", "2")).delete(space, seq("goes", 0))).await.unwrap();
        let now = Raw::of(below).await;
        let of = |raw: &Raw, not: &Raw, than: &dyn Fn(&(Keyspace, RecordId)) -> bool| {
            let mut found = raw.records.keys().filter(|place| place.0 == space && than(place));
            let one = found.next().unwrap().clone();
            assert!(found.next().is_none() && !not.records.is_empty());
            one
        };
        let changed = of(&now, &before, &|place| now.records[place] != before.records[place]);
        let removed = of(&before, &first, &|place| !now.records.contains_key(place));
        Self { before, now, changed, removed }
    }

    fn rolled_back(&self) -> Raw {
        let mut raw = self.now.clone();
        raw.records.insert(self.changed.clone(), self.before.records[&self.changed].clone());
        raw
    }

    fn deleted(&self) -> Raw {
        let mut raw = self.now.clone();
        raw.records.remove(&self.changed).unwrap();
        raw
    }

    fn added(&self) -> Raw {
        let mut raw = self.now.clone();
        raw.records.insert(self.removed.clone(), self.before.records[&self.removed].clone());
        raw
    }

    /// The same, with the note of before as well.
    fn with_note_of_before(&self, mut raw: Raw) -> Raw {
        raw.state.note = self.before.state.note;
        raw
    }

    /// All three, and the records of before with the note of now.
    fn all(&self) -> [Raw; 4] {
        let mut mixed = self.before.clone();
        mixed.state = self.now.state;
        [self.rolled_back(), self.deleted(), self.added(), mixed]
    }
}

async fn times(bed: &Bed, user: &str, space: Keyspace) -> Times {
    let handle = bed.user(user).await;
    let below = bed.below().open(bed.tag(user)).await.unwrap();
    Times::of(&*handle, &*below, space).await
}

async fn assert_noticed(bed: &Bed, forge: impl Fn(&Times) -> Raw) {
    for (user, space) in [("a", Keyspace::Agents), ("b", Keyspace::Meta)] {
        let times = times(bed, user, space).await;
        let tag = bed.tag(user);
        open_forged(bed, tag, times.now.clone()).await.unwrap();
        open_forged(bed, tag, times.before.clone()).await.unwrap();
        let raw = forge(&times);
        assert_eq!(kind(open_forged(bed, tag, raw.clone()).await), ErrorKind::Tampered, "{space:?}");
        let raw = times.with_note_of_before(raw);
        assert_eq!(kind(open_forged(bed, tag, raw).await), ErrorKind::Tampered, "{space:?}, with its note");
    }
}

async fn sealed_agent_rolled_back_is_noticed(bed: Bed) {
    assert_noticed(&bed, Times::rolled_back).await;
}

async fn sealed_agent_deleted_is_noticed(bed: Bed) {
    assert_noticed(&bed, Times::deleted).await;
}

async fn sealed_agent_added_from_before_is_noticed(bed: Bed) {
    assert_noticed(&bed, Times::added).await;
}

async fn sealed_ledger_rolled_back_is_noticed(bed: Bed) {
    let deployment = bed.store().deployment().await.unwrap();
    let below = bed.below().deployment().await.unwrap();
    assert_deployment_noticed(&bed, Times::of(&*deployment, &*below, Keyspace::Ledger).await).await;
}

/// Also in a space of their own, which the layers below take for a user's.
async fn sealed_accounts_rolled_back_are_noticed(bed: Bed) {
    let deployment = bed.store().deployment().await.unwrap();
    let below = bed.below().deployment().await.unwrap();
    for space in [Keyspace::Accounts, Keyspace::Tokens, Keyspace::Sessions] {
        assert_deployment_noticed(&bed, Times::of(&*deployment, &*below, space).await).await;
    }
}

async fn assert_deployment_noticed(bed: &Bed, times: Times) {
    bed.over(Forged::deployment(times.now.clone())).deployment().await.unwrap();
    for raw in times.all() {
        for raw in [raw.clone(), times.with_note_of_before(raw)] {
            let opened = bed.over(Forged::deployment(raw)).deployment().await;
            assert_eq!(kind(opened), ErrorKind::Tampered);
        }
    }
    // A space that was emptied, note and all, is no new one.
    let mut empty = times.now.clone();
    empty.records.clear();
    assert_eq!(kind(bed.over(Forged::deployment(empty)).deployment().await), ErrorKind::Tampered);
}

async fn sealed_snapshot_rolled_back_is_noticed(bed: Bed) {
    let times = times(&bed, "a", Keyspace::Agents).await;
    let tag = bed.tag("a");
    for (raw, good) in times.all().into_iter().map(|raw| (raw, false)).chain([(times.now.clone(), true)]) {
        // Scans show what is there, and a snapshot something else.
        let user = ForgedUser { owner: Some(tag), raw: times.now.clone(), snapshot: Some(raw) };
        let user = bed.over(Arc::new(Forged::of(tag, user))).open(tag).await.unwrap();
        let drained = drained(&*user).await;
        if good {
            drained.unwrap();
        } else {
            assert_eq!(kind(drained), ErrorKind::Tampered);
        }
    }
}

async fn sealed_note_of_before_is_refused(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    let user = bed.open("a").await;
    // Nothing of the roster changes here, so nothing but the note's own age tells.
    user.commit(Batch::new(Timestamp(10)).unwrap().put(Keyspace::Context, seq("new", 0), "", "1"))
        .await
        .unwrap();
    let now = Raw::of_user(&*bed.below(), filled.tag).await;
    let note = |of: &Raw, note: &Raw| {
        let mut raw = of.clone();
        raw.state.note = note.state.note;
        raw
    };
    for raw in [note(&now, &filled.raw), note(&filled.raw, &now)] {
        assert_eq!(kind(open_forged(&bed, filled.tag, raw).await), ErrorKind::Tampered);
    }
    // The real store takes any note; a commit of the attacker's does not make it new.
    let below = bed.below().open(filled.tag).await.unwrap();
    for note in [now.state.note, filled.raw.state.note] {
        let mut batch = Batch::new(Timestamp(10)).unwrap();
        (batch.note, batch.sealed) = (Some(note), true);
        below.commit(batch).await.unwrap();
        assert_eq!(kind(bed.store().open(filled.tag).await), ErrorKind::Tampered);
        assert_eq!(kind(user.state().await), ErrorKind::Tampered);
        let late = Batch::new(Timestamp(10)).unwrap().put(Keyspace::Context, seq("late", 0), "", "1");
        assert_eq!(kind(user.commit(late).await), ErrorKind::Tampered);
    }
}

async fn sealed_roster_follows_every_write(mut bed: Bed) {
    let user = bed.user("a").await;
    let batch = || Batch::new(Timestamp(10)).unwrap();
    let space = Keyspace::Agents;
    let head = |name: &str| Op::PutHead { space, id: seq(name, 0), head: text("new"), expires: None };
    let fill =
        |n: u32| (0..n).fold(batch(), |batch, n| batch.put(space, seq(&format!("agent {n}"), 0), "", "1"));
    let name = text("many");
    let steps = [
        fill(20),
        fill(10),
        batch().op(head("agent 3")).delete(space, seq("agent 4", 0)).delete(space, seq("absent", 0)),
        (0..5).fold(batch(), |batch, n| batch.put(space, seq("many", n), "", "1")),
        batch().op(Op::DeleteName { space, name: name.clone() }).put(space, seq("many", 2), "", "2"),
        batch().op(Op::DeleteName { space, name }).op(Op::Clear { space }).put(
            space,
            seq("agent 5", 0),
            "",
            "3",
        ),
        batch().op(Op::Clear { space }),
        fill(3).put(Keyspace::Meta, seq("mesh", 0), "", "1"),
        batch().put(Keyspace::Context, seq("k", 0), "", "1"),
    ];
    for (n, step) in steps.into_iter().enumerate() {
        let user = if n % 2 == 0 { Arc::clone(&user) } else { bed.open("a").await };
        user.commit(step).await.unwrap();
        let raw = Raw::of_user(&*bed.below(), bed.tag("a")).await;
        let opened = open_forged(&bed, bed.tag("a"), raw).await.unwrap();
        drained(&*opened).await.unwrap();
    }
    drop(user);
    bed.reopen().await;
    drained(&*bed.open("a").await).await.unwrap();
}

async fn sealed_version_above_the_epoch(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    // The user as it was, with one record of later.
    let called = (Keyspace::Context, "again", 0);
    let place = filled.place(called);
    let mut raw = filled.before.clone();
    raw.records.insert(place.clone(), filled.raw.records[&place].clone());
    let user = open_forged(&bed, filled.tag, raw).await.unwrap();
    let ways = answers(&*user, called).await;
    assert!(ways.iter().all(|answer| *answer == Some(ErrorKind::Tampered)), "{ways:?}");
    assert_eq!(kind(drained(&*user).await), ErrorKind::Tampered);
    // An agent of later is noticed when the user is opened.
    let place = filled.place((Keyspace::Agents, "again", 0));
    let mut raw = filled.before.clone();
    raw.records.insert(place.clone(), filled.raw.records[&place].clone());
    assert_eq!(kind(open_forged(&bed, filled.tag, raw).await), ErrorKind::Tampered);
}
