//! What agents remove is kept, and the host brings it back.

use std::time::Duration;

use syntha_mesh::{
    Act, Agent, Deed, ErrorKind, Filter, Grant, Guard, Mesh, Resource, Role, SessionGrants, UndoOverwrites,
    UndoState, Undoable, Undone,
};
use syntha_store::{CreateMode, Keyspace, Record, RecordId, Rule, Scan};

use super::{assert_unseen, assert_usage, checks, erase, keys, kind};
use crate::harness::Bed;

checks![
    undo_restores_an_entry_as_it_was,
    undo_restores_a_topic,
    undo_of_two_topics_in_any_order,
    undo_of_a_batch_is_one,
    undo_gives_subscriptions_back,
    undo_restores_what_was_written_over,
    undo_refuses_what_was_written_since,
    undo_leaves_what_has_changed_since,
    undo_counts_until_its_end,
    undo_ends_with_its_window,
    undo_keeps_nothing_beyond_its_time,
    undo_is_the_hosts,
    undo_survives_a_reopen,
    undo_ends_with_a_purge,
    undo_ends_with_a_clear_and_an_erasure,
    undo_keeps_nothing_of_the_hosts,
    undo_is_bounded,
    undo_lists_by_pages,
    undo_of_racing_callers_is_done_once,
];

const DAY: Duration = Duration::from_secs(24 * 3_600);
const GRACE: Duration = Duration::from_secs(60);

async fn acts(mesh: &Mesh) -> Vec<Undoable> {
    mesh.undo_list(None, 1_000).await.unwrap().acts
}

/// The only thing that can be undone.
async fn the_act(mesh: &Mesh) -> Undoable {
    let mut acts = acts(mesh).await;
    assert_eq!(acts.len(), 1);
    acts.remove(0)
}

async fn undo_all(mesh: &Mesh) -> Vec<Undone> {
    let mut undone = Vec::new();
    for act in acts(mesh).await {
        undone.push(mesh.undo(act.id).await.unwrap());
    }
    undone
}

/// Every entry's and agent's record but for versions, in order.
async fn stored(bed: &Bed) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>, Option<u64>)> {
    let store = bed.open("a").await;
    let mut found = Vec::new();
    for space in [Keyspace::Context, Keyspace::Agents] {
        for (head, body) in store.scan(Scan::records(space, 1_000)).await.unwrap().value.records {
            let (name, expires) = (head.id.name().to_vec(), head.expires.map(|at| at.0));
            found.push((name, head.head.to_vec(), body.unwrap().to_vec(), expires));
        }
    }
    found.sort();
    found
}

/// How many records are kept.
async fn kept(bed: &Bed) -> usize {
    let store = bed.open("a").await;
    store.scan(Scan::heads(Keyspace::Undo, 1_000)).await.unwrap().value.records.len()
}

async fn admin(mesh: &Mesh) -> Agent {
    mesh.set_role("root", Role::Admin).await.unwrap();
    mesh.agent("root").unwrap()
}

async fn undo_restores_an_entry_as_it_was(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let root = admin(&mesh).await;
    mesh.set_trusted("ann", true).await.unwrap();
    mesh.set_only_trusted("boss", true).await.unwrap();
    let ann = mesh.agent("ann").unwrap();
    root.subscribe(["t"]).await.unwrap();
    ann.push("plan", "first").await.unwrap();
    bed.clock().advance(Duration::from_secs(1));
    let hour = Duration::from_secs(3_600);
    ann.push("plan", serde_json::json!({ "b": [1.50, " x "], "a": null }))
        .agents(["boss", "ben"])
        .topic("t")
        .ttl(hour)
        .await
        .unwrap();
    mesh.push("other", 1).await.unwrap();
    let (before, usage) = (stored(&bed).await, mesh.usage().await.unwrap().1);
    let version = mesh.value("plan").await.unwrap().unwrap().version();
    bed.clock().advance(Duration::from_secs(9));
    assert!(root.remove("plan", None).await.unwrap());
    for agent in ["root", "ann", "boss", "ben"] {
        assert_unseen(&mesh.agent(agent).unwrap(), "plan").await;
    }
    assert!(mesh.value("plan").await.unwrap().is_none());
    assert_ne!(stored(&bed).await, before);
    let act = the_act(&mesh).await;
    assert_eq!((act.did, &*act.by, &*act.on), (Deed::Remove, "root", "plan"));
    assert_eq!((act.at.0, act.until.0 - act.at.0), (bed.clock_now(), 24 * 3_600_000));
    assert_eq!((act.entries, act.parted, act.subscribers), (1, 0, 0));
    let all = mesh.undo_keys(act.id).await.unwrap().unwrap();
    assert_eq!((&*all[0].key, all[0].state), ("plan", UndoState::Kept));
    bed.clock().advance(Duration::from_secs(9));
    let undone = mesh.undo(act.id).await.unwrap();
    assert_eq!((undone.entries, undone.expired, undone.left), (1, 0, 0));
    assert_eq!(stored(&bed).await, before, "value, author, trust, audience, times and end are as they were");
    assert_eq!(mesh.usage().await.unwrap().1, usage);
    assert_usage(&mesh).await;
    let entry = mesh.agent("boss").unwrap().entry("plan").await.unwrap().unwrap();
    assert!(entry.version() > version, "whoever expects the old version has not seen that it was away");
    assert!(ann.remove("plan", None).await.expect("its author is its author again"));
    assert_unseen(&mesh.agent("stranger").unwrap(), "plan").await;
    assert_eq!(kind(mesh.undo(act.id).await), ErrorKind::NotFound, "it is used up");
}

async fn undo_restores_a_topic(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let root = admin(&mesh).await;
    let (ann, ben) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    ann.subscribe(["b", "t", "z"]).await.unwrap();
    ben.subscribe(["t"]).await.unwrap();
    for n in 0..20 {
        ann.push(format!("alone{n}"), n).topic("t").await.unwrap();
    }
    ann.push("named", 1).agents(["ben"]).topic("t").await.unwrap();
    mesh.push("three", 1).topics(["b", "t", "z"]).await.unwrap();
    mesh.push("none", 1).topic("z").await.unwrap();
    let (before, usage) = (stored(&bed).await, mesh.usage().await.unwrap().1);
    let report = root.delete_topic("t").await.unwrap();
    assert_eq!((report.entries_deleted, report.entries_kept, report.subscribers), (20, 2, 2));
    assert_eq!(keys(&ben).await, ["named"]);
    assert_eq!(mesh.usage().await.unwrap().1, usage);
    assert_usage(&mesh).await;
    let act = the_act(&mesh).await;
    assert_eq!((act.did, &*act.on), (Deed::DeleteTopic, "t"));
    assert_eq!((act.entries, act.parted, act.subscribers), (20, 2, 2));
    let undone = mesh.undo(act.id).await.unwrap();
    assert_eq!((undone.entries, undone.rejoined, undone.subscribers, undone.left), (20, 2, 2, 0));
    assert_eq!(stored(&bed).await, before);
    assert_eq!(keys(&ben).await.len(), 22);
    assert_usage(&mesh).await;
    assert_eq!(kept(&bed).await, 0);
}

async fn undo_of_two_topics_in_any_order(bed: Bed) {
    for latest_first in [true, false] {
        let mesh = bed.mesh("a").await;
        let root = admin(&mesh).await;
        mesh.agent("ann").unwrap().subscribe(["t", "u"]).await.unwrap();
        mesh.push("both", 1).topics(["t", "u"]).await.unwrap();
        mesh.push("named", 1).agents(["ann"]).topics(["t", "u"]).await.unwrap();
        let before = stored(&bed).await;
        root.delete_topic("t").await.unwrap();
        root.delete_topic("u").await.unwrap();
        assert!(mesh.value("both").await.unwrap().is_none());
        let mut acts = acts(&mesh).await;
        if !latest_first {
            // What is away can't be put on a topic again, so the first act's part of it is left.
            acts.reverse();
            assert_eq!(mesh.undo(acts[0].id).await.unwrap().left, 1);
            assert_eq!(mesh.undo(acts[1].id).await.unwrap().entries, 1);
            assert_eq!(mesh.value("named").await.unwrap().unwrap().audience().topics.len(), 2);
            mesh.clear().await.unwrap();
            continue;
        }
        for act in acts {
            mesh.undo(act.id).await.unwrap();
        }
        assert_eq!(stored(&bed).await, before);
        mesh.clear().await.unwrap();
    }
}

async fn undo_of_a_batch_is_one(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let root = admin(&mesh).await;
    for key in ["k1", "k2", "k3"] {
        mesh.push(key, key).await.unwrap();
    }
    root.push("own", "first").await.unwrap();
    let before = stored(&bed).await;
    root.batch()
        .remove("k1")
        .push("new", 1)
        .remove("k3")
        .remove("own")
        .remove("absent")
        .commit()
        .await
        .unwrap();
    let act = the_act(&mesh).await;
    assert_eq!((act.did, act.entries, &*act.on), (Deed::Batch, 3, "k1"));
    // A batch that fails keeps nothing.
    mesh.set_post_permissions("root", Some(vec![])).await.unwrap();
    let failing = root.batch().remove("k2").push_with("x", 1, |push| push.topic("t"));
    assert_eq!(kind(failing.commit().await), ErrorKind::Denied);
    mesh.set_post_permissions("root", None).await.unwrap();
    assert_eq!(the_act(&mesh).await, act);
    assert_usage(&mesh).await;
    assert_eq!(mesh.undo(act.id).await.unwrap().entries, 3);
    mesh.remove("new").await.unwrap();
    assert_eq!(stored(&bed).await, before);
}

async fn undo_gives_subscriptions_back(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.set_role("mod", Role::Moderator).await.unwrap();
    let (mod_, ann) = (mesh.agent("mod").unwrap(), mesh.agent("ann").unwrap());
    ann.subscribe(["a", "b", "c"]).await.unwrap();
    mesh.agent("ben").unwrap().subscribe(["b"]).await.unwrap();
    let before = stored(&bed).await;
    mod_.unsubscribe_agent("ann", ["b", "c", "d"]).await.unwrap();
    mod_.unsubscribe_agent("ben", ["b"]).await.unwrap();
    mod_.unsubscribe_agent("ben", ["b"]).await.unwrap();
    let all = acts(&mesh).await;
    assert_eq!(
        all.iter().map(|act| (act.did, &*act.on)).collect::<Vec<_>>(),
        [(Deed::Unsubscribe, "ben"), (Deed::Unsubscribe, "ann")]
    );
    assert_eq!(undo_all(&mesh).await.len(), 2);
    assert_eq!(stored(&bed).await, before);
    // Another agent of the same name is not the one that was subscribed.
    mod_.unsubscribe_agent("ann", ["a"]).await.unwrap();
    mesh.unregister_agent("ann").await.unwrap();
    mesh.register_agent("ann").await.unwrap();
    let undone = undo_all(&mesh).await;
    assert_eq!((undone[0].subscribers, undone[0].left), (0, 1));
    assert!(mesh.agent("ann").unwrap().topics().await.unwrap().is_empty());
    // What an agent does to itself it undoes itself.
    mesh.agent("ben").unwrap().unsubscribe(["b"]).await.unwrap();
    assert!(acts(&mesh).await.is_empty());
}

async fn undo_restores_what_was_written_over(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.undo_overwrites = UndoOverwrites::OfOthers).await;
    let (ann, eve) = (mesh.agent("ann").unwrap(), mesh.agent("eve").unwrap());
    ann.push("k", "of ann").agents(["eve"]).await.unwrap();
    eve.push("new", 1).await.unwrap();
    eve.push("new", 2).await.unwrap();
    let before = stored(&bed).await;
    bed.clock().advance(Duration::from_secs(1));
    eve.push("k", "of eve").await.unwrap();
    assert_usage(&mesh).await;
    let act = the_act(&mesh).await;
    assert_eq!((act.did, act.entries), (Deed::Overwrite, 1));
    assert_eq!(mesh.undo_keys(act.id).await.unwrap().unwrap()[0].state, UndoState::Kept);
    assert_eq!(mesh.undo(act.id).await.unwrap().entries, 1);
    assert_eq!(stored(&bed).await, before);
    // Twice: the second time over its own.
    eve.push("k", "of eve").await.unwrap();
    bed.clock().advance(Duration::from_secs(1));
    eve.push("k", "again").await.unwrap();
    let act = the_act(&mesh).await;
    assert_eq!(mesh.undo_keys(act.id).await.unwrap().unwrap()[0].state, UndoState::Taken);
    assert_eq!(kind(mesh.undo(act.id).await), ErrorKind::Conflict);
    mesh.remove("k").await.unwrap();
    mesh.undo(act.id).await.unwrap();
    assert_eq!(stored(&bed).await, before);
    assert_usage(&mesh).await;
    mesh.push("k", "of the host").await.unwrap();
    assert!(acts(&mesh).await.is_empty(), "the host's own word is final");
    mesh.remove("k").await.unwrap();
    // All: one undo after the other, the latest first, leads back to the first value.
    let mesh = bed.mesh_with("a", |config| config.undo_overwrites = UndoOverwrites::All).await;
    let (ann, eve) = (mesh.agent("ann").unwrap(), mesh.agent("eve").unwrap());
    ann.push("k", "of ann").agents(["eve"]).await.unwrap();
    let before = stored(&bed).await;
    for value in ["one", "two", "three"] {
        eve.push("k", value).await.unwrap();
    }
    assert_usage(&mesh).await;
    let undone = undo_all(&mesh).await;
    assert_eq!(undone.iter().map(|one| one.entries).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(stored(&bed).await, before);
    assert_usage(&mesh).await;
}

async fn undo_refuses_what_was_written_since(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let root = admin(&mesh).await;
    mesh.push("k", "old").topic("t").await.unwrap();
    mesh.push("l", "old").topic("t").await.unwrap();
    mesh.agent("ann").unwrap().subscribe(["t"]).await.unwrap();
    let first = stored(&bed).await;
    root.delete_topic("t").await.unwrap();
    bed.clock().advance(Duration::from_secs(1));
    mesh.push("k", "new").await.unwrap();
    let (before, kept_before) = (stored(&bed).await, kept(&bed).await);
    let act = the_act(&mesh).await;
    let error = mesh.undo(act.id).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Conflict, false));
    assert_eq!((stored(&bed).await, kept(&bed).await), (before, kept_before), "nothing happened");
    assert_eq!(the_act(&mesh).await, act);
    assert_usage(&mesh).await;
    let states: Vec<_> = mesh
        .undo_keys(act.id)
        .await
        .unwrap()
        .unwrap()
        .iter()
        .map(|one| (one.key.to_string(), one.state))
        .collect();
    assert_eq!(states, [("k".to_owned(), UndoState::Taken), ("l".to_owned(), UndoState::Kept)]);
    assert_eq!(mesh.value("k").await.unwrap().unwrap().json(), "\"new\"");
    mesh.remove("k").await.unwrap();
    assert_eq!(mesh.undo(act.id).await.unwrap().entries, 2);
    assert_eq!(stored(&bed).await, first);
    // What has expired is in nobody's way.
    assert!(!root.remove("k", None).await.unwrap(), "it does not see it");
    root.subscribe(["t"]).await.unwrap();
    root.remove("k", None).await.unwrap();
    mesh.push("k", "short").ttl(Duration::from_secs(1)).await.unwrap();
    bed.clock().advance(Duration::from_secs(1));
    undo_all(&mesh).await;
    assert_eq!(mesh.value("k").await.unwrap().unwrap().json(), "\"old\"");
    assert_usage(&mesh).await;
}

async fn undo_leaves_what_has_changed_since(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let root = admin(&mesh).await;
    for key in ["same", "rewritten", "removed", "wider"] {
        mesh.push(key, "secret").agents(["ben"]).topic("t").await.unwrap();
    }
    root.delete_topic("t").await.unwrap();
    // The clock has not moved: only what was written tells.
    mesh.push("rewritten", "secreT").agents(["ben"]).await.unwrap();
    mesh.push("wider", "secret").agents(["ben", "cid"]).await.unwrap();
    mesh.remove("removed").await.unwrap();
    let undone = undo_all(&mesh).await;
    assert_eq!((undone[0].rejoined, undone[0].left, undone[0].entries), (1, 3, 0));
    let ann = mesh.agent("ann").unwrap();
    ann.subscribe(["t"]).await.unwrap();
    assert_eq!(keys(&ann).await, ["same"], "the topic hears nothing that was not addressed to it");
    assert_usage(&mesh).await;
}

async fn undo_counts_until_its_end(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let root = admin(&mesh).await;
    mesh.push("k", "value").await.unwrap();
    mesh.push("l", "value").topic("t").await.unwrap();
    mesh.push("stays", 1).await.unwrap();
    let usage = mesh.usage().await.unwrap().1;
    root.remove("k", None).await.unwrap();
    root.delete_topic("t").await.unwrap();
    let stats = mesh.stats().await.unwrap();
    assert_eq!((stats.entries, stats.kept, stats.bytes), (1, 2, usage.context_bytes));
    assert_eq!(mesh.usage().await.unwrap().1, usage, "it counts as long as it is kept");
    assert_usage(&mesh).await;
    bed.clock().advance(DAY);
    assert_eq!(mesh.usage().await.unwrap().1, usage);
    bed.clock().advance(GRACE);
    assert_eq!(mesh.sweep().await.unwrap().deleted, 4, "two entries of two calls");
    let after = mesh.usage().await.unwrap().1;
    assert_eq!((after.contexts, after.context_bytes), (1, 6));
    assert_eq!((kept(&bed).await, mesh.sweep().await.unwrap().deleted), (0, 0));
    assert_usage(&mesh).await;
}

async fn undo_ends_with_its_window(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.undo_window = Duration::from_secs(10)).await;
    let root = admin(&mesh).await;
    mesh.push("k", 1).await.unwrap();
    root.remove("k", None).await.unwrap();
    let act = the_act(&mesh).await;
    bed.clock().advance(Duration::from_millis(9_999));
    mesh.sweep().await.unwrap();
    assert_eq!(the_act(&mesh).await, act);
    bed.clock().advance(Duration::from_millis(1));
    assert!(acts(&mesh).await.is_empty(), "before any sweep");
    assert!(mesh.undo_keys(act.id).await.unwrap().is_none());
    assert_eq!(kind(mesh.undo(act.id).await), ErrorKind::NotFound);
    assert!(mesh.value("k").await.unwrap().is_none());
    bed.clock().advance(GRACE);
    mesh.sweep().await.unwrap();
    assert_eq!(kept(&bed).await, 0);
    // Zero keeps nothing.
    let mesh = bed.mesh_with("a", |config| config.undo_window = Duration::ZERO).await;
    mesh.push("k", 1).await.unwrap();
    assert!(mesh.agent("root").unwrap().remove("k", None).await.unwrap());
    assert_eq!((kept(&bed).await, mesh.usage().await.unwrap().1.contexts), (0, 0));
}

async fn undo_keeps_nothing_beyond_its_time(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let root = admin(&mesh).await;
    mesh.push("long", "CANARY").topic("t").await.unwrap();
    mesh.push("short", "CANARY").topic("t").ttl(Duration::from_secs(10)).await.unwrap();
    root.delete_topic("t").await.unwrap();
    let act = the_act(&mesh).await;
    assert_eq!((kept(&bed).await, act.entries), (3, 2));
    bed.clock().advance(Duration::from_secs(10));
    let states: Vec<_> = mesh.undo_keys(act.id).await.unwrap().unwrap().iter().map(|one| one.state).collect();
    assert_eq!(states, [UndoState::Kept, UndoState::Expired]);
    bed.clock().advance(GRACE);
    assert_eq!(mesh.sweep().await.unwrap().deleted, 1);
    assert_eq!((kept(&bed).await, the_act(&mesh).await.entries), (2, 1));
    assert_usage(&mesh).await;
    assert_eq!(mesh.sweep().await.unwrap().deleted, 0);
    let undone = mesh.undo(act.id).await.unwrap();
    assert_eq!((undone.entries, undone.expired), (1, 1));
    assert!(mesh.value("short").await.unwrap().is_none());
    assert_usage(&mesh).await;
    // Expired, and not swept yet.
    mesh.push("short", 1).ttl(Duration::from_secs(10)).await.unwrap();
    root.remove("short", None).await.unwrap();
    bed.clock().advance(Duration::from_secs(10));
    assert_eq!((undo_all(&mesh).await[0].expired, kept(&bed).await), (1, 0));
    assert_eq!(mesh.usage().await.unwrap().1.contexts, 1);
}

async fn undo_is_the_hosts(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let root = admin(&mesh).await;
    let ann = mesh.agent("ann").unwrap();
    mesh.push("k", "CANARY").await.unwrap();
    ann.push("own", "CANARY").await.unwrap();
    assert!(root.remove("k", None).await.unwrap());
    assert!(ann.remove("own", None).await.unwrap());
    mesh.grant("root", Grant::prefix("").unwrap().read().write().delete()).await.unwrap();
    for key in ["k", "own"] {
        assert_unseen(&ann, key).await;
        assert_unseen(&root, key).await;
    }
    // Not by the names of its records either.
    for act in acts(&mesh).await {
        assert_unseen(&root, &act.id.to_string()).await;
    }
    assert_unseen(&root, "act").await;
    let decision = mesh.explain("root", Act::Undo, &Resource::Mesh).await.unwrap();
    assert_eq!((decision.allowed, decision.rule), (false, Rule::Host));
    let act = acts(&mesh).await.remove(0);
    let given = |grants| mesh.guarded(Guard::new().0.with_grants(grants));
    let reader = given(SessionGrants::READ);
    assert_eq!(reader.undo_list(None, 9).await.unwrap().acts.len(), 2);
    assert_eq!(kind(reader.undo(act.id).await), ErrorKind::Denied);
    assert_eq!(kind(reader.undo_purge(act.id).await), ErrorKind::Denied);
    let writer = given(SessionGrants::WRITE);
    assert_eq!(kind(writer.undo_list(None, 9).await), ErrorKind::Denied);
    assert_eq!(kind(writer.undo_keys(act.id).await), ErrorKind::Denied);
    assert_eq!(kind(writer.undo_purge_all().await), ErrorKind::Denied);
    let (guard, revoker) = Guard::new();
    let ended = mesh.guarded(guard);
    revoker.revoke();
    assert_eq!(kind(ended.undo_list(None, 9).await), ErrorKind::SessionEnded);
    assert_eq!(kind(ended.undo(act.id).await), ErrorKind::SessionEnded);
    assert_eq!(writer.undo(act.id).await.unwrap().entries, 1);
    // Another user's mesh has none of it.
    let other = bed.mesh("b").await;
    let act = the_act(&mesh).await;
    assert!(acts(&other).await.is_empty());
    assert_eq!(kind(other.undo(act.id).await), ErrorKind::NotFound);
    let mut export = Vec::new();
    mesh.export(&mut export, |_| {}).await.unwrap();
    assert!(!String::from_utf8(export).unwrap().contains("\"k\""), "an export has what is there");
}

async fn undo_survives_a_reopen(mut bed: Bed) {
    let mesh = bed.mesh("a").await;
    let root = admin(&mesh).await;
    mesh.push("k", 1).agents(["ann"]).await.unwrap();
    mesh.push("l", 1).await.unwrap();
    let (before, usage) = (stored(&bed).await, mesh.usage().await.unwrap().1);
    root.remove("l", None).await.unwrap();
    mesh.grant("root", Grant::prefix("").unwrap().delete()).await.unwrap();
    root.remove("k", None).await.unwrap();
    mesh.revoke("root", Grant::prefix("").unwrap().delete()).await.unwrap();
    let all = acts(&mesh).await;
    bed.crash().await;
    let mesh = bed.mesh("a").await;
    assert_eq!(acts(&mesh).await, all);
    assert_eq!(mesh.usage().await.unwrap().1, usage);
    undo_all(&mesh).await;
    assert_eq!(stored(&bed).await, before);
    bed.reopen().await;
    let mesh = bed.mesh("a").await;
    assert!(acts(&mesh).await.is_empty());
    assert_eq!(mesh.usage().await.unwrap().1, usage);
    assert_usage(&mesh).await;
    assert_unseen(&mesh.agent("ben").unwrap(), "k").await;
}

async fn undo_ends_with_a_purge(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let root = admin(&mesh).await;
    for key in ["k", "l", "m", "n"] {
        mesh.push(key, "CANARY").await.unwrap();
        root.remove(key, None).await.unwrap();
    }
    let first = acts(&mesh).await.remove(3);
    assert_eq!(&*first.on, "k");
    assert!(mesh.undo_purge(first.id).await.unwrap());
    assert!(!mesh.undo_purge(first.id).await.unwrap());
    assert_eq!(kind(mesh.undo(first.id).await), ErrorKind::NotFound);
    assert_usage(&mesh).await;
    assert_eq!((acts(&mesh).await.len(), kept(&bed).await), (3, 6));
    assert_eq!(mesh.undo_purge_all().await.unwrap(), 3);
    assert_eq!((kept(&bed).await, mesh.usage().await.unwrap().1.contexts), (0, 0));
    assert_eq!(mesh.undo_purge_all().await.unwrap(), 0);
}

async fn undo_ends_with_a_clear_and_an_erasure(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let root = admin(&mesh).await;
    for key in ["k", "l"] {
        mesh.push(key, "CANARY-kept").await.unwrap();
    }
    root.remove("k", None).await.unwrap();
    assert_eq!(mesh.clear().await.unwrap(), 1);
    assert_eq!((kept(&bed).await, mesh.usage().await.unwrap().1.context_bytes), (0, 0));
    mesh.push("k", "CANARY-kept").await.unwrap();
    root.remove("k", None).await.unwrap();
    assert_eq!(kept(&bed).await, 2);
    let (act, tag) = (the_act(&mesh).await, bed.tag("a"));
    erase(&*bed.store(), tag).await;
    assert_eq!(kind(mesh.undo(act.id).await), ErrorKind::Gone);
    assert_eq!(kind(mesh.undo_list(None, 9).await), ErrorKind::Gone);
    for (name, bytes) in bed.files().await {
        assert!(!bytes.windows(11).any(|window| window == b"CANARY-kept"), "{name}");
    }
    let first = syntha_store::Batch::new(crate::harness::START).unwrap();
    bed.store().create(tag, first, CreateMode::Recreate).await.unwrap();
    let mesh = bed.mesh("a").await;
    assert!(acts(&mesh).await.is_empty());
    assert_eq!(kind(mesh.undo(act.id).await), ErrorKind::NotFound);
    assert_eq!(kept(&bed).await, 0);
}

async fn undo_keeps_nothing_of_the_hosts(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.subscribe(["t", "u"]).await.unwrap();
    mesh.push("k", 1).topic("t").await.unwrap();
    mesh.push("l", 1).await.unwrap();
    mesh.push("m", 1).await.unwrap();
    mesh.push("l", 2).await.unwrap();
    mesh.remove("l").await.unwrap();
    mesh.batch().remove("m").commit().await.unwrap();
    mesh.delete_topic("t").await.unwrap();
    mesh.unregister_agent("ann").await.unwrap();
    assert!(acts(&mesh).await.is_empty());
    let usage = mesh.usage().await.unwrap().1;
    assert_eq!((kept(&bed).await, usage.contexts, usage.context_bytes), (0, 0, 0));
}

/// An agent that would delete more than can be kept deletes nothing.
async fn undo_is_bounded(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.cache_bytes = 1 << 16).await;
    let root = admin(&mesh).await;
    let large = "x".repeat(1 << 20).split_off(100);
    for n in 0..33 {
        mesh.push(format!("k{n}"), &large).topic("t").await.unwrap();
    }
    root.subscribe(["t"]).await.unwrap();
    let usage = mesh.usage().await.unwrap().1;
    assert_eq!(kind(root.delete_topic("t").await), ErrorKind::LimitExceeded);
    let mut batch = root.batch();
    for n in 0..33 {
        batch = batch.remove(format!("k{n}"));
    }
    mesh.push("note", 1).await.unwrap();
    assert_eq!(kind(batch.commit().await), ErrorKind::LimitExceeded);
    assert_eq!(mesh.size().await.unwrap(), 34);
    mesh.remove("k0").await.unwrap();
    assert_eq!(root.delete_topic("t").await.unwrap().entries_deleted, 32);
    assert_eq!(undo_all(&mesh).await[0].entries, 32);
    assert_eq!(mesh.usage().await.unwrap().1.contexts, usage.contexts);
    assert_eq!(mesh.delete_topic("t").await.expect("the host may").entries_deleted, 32);
}

async fn undo_lists_by_pages(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    // In one commit as far as they go, so that several acts share a version.
    for n in 0..30 {
        ann.push(format!("k{n:02}"), n).await.unwrap();
    }
    let removals: Vec<_> = (0..30)
        .map(|n| {
            let ann = ann.clone();
            tokio::spawn(async move { ann.remove(format!("k{n:02}"), None).await })
        })
        .collect();
    for removal in removals {
        assert!(removal.await.unwrap().unwrap());
    }
    let all = acts(&mesh).await;
    assert_eq!(all.len(), 30);
    assert!(all.is_sorted_by(|one, next| one.id > next.id), "the latest first");
    let (mut paged, mut before) = (Vec::new(), None);
    loop {
        let page = mesh.undo_list(before, 7).await.unwrap();
        paged.extend(page.acts.clone());
        before = page.acts.last().map(|act| act.id);
        if !page.more {
            break;
        }
        assert_eq!(page.acts.len(), 7);
    }
    assert_eq!(paged, all);
    assert_eq!(kind(mesh.undo_list(None, 0).await), ErrorKind::Invalid);
    assert_eq!(kind(mesh.undo_list(None, 1_001).await), ErrorKind::Invalid);
    let id = all[3].id;
    assert_eq!(id.to_string().parse::<syntha_mesh::UndoId>().unwrap(), id);
    assert_eq!(kind("+1".parse::<syntha_mesh::UndoId>()), ErrorKind::Invalid);
    assert_usage(&mesh).await;
    undo_all(&mesh).await;
    assert_eq!(mesh.entries(&Filter::new()).await.unwrap().len(), 30);
    assert_usage(&mesh).await;
}

/// Two handles, and calls that meet in one commit.
async fn undo_of_racing_callers_is_done_once(bed: Bed) {
    let (mesh, other) = (bed.mesh("a").await, bed.mesh("a").await);
    let root = admin(&mesh).await;
    mesh.push("k", "old").await.unwrap();
    let record = |record: Record| (record.head.head.clone(), record.body.0);
    let read = || async {
        let id = RecordId::new("k", 0).unwrap();
        let found = bed.open("a").await.read(Keyspace::Context, &[id]).await.unwrap().value;
        found.into_iter().next().flatten().map(record)
    };
    let before = read().await;
    other.agent("root").unwrap().remove("k", None).await.unwrap();
    let act = the_act(&mesh).await;
    let (one, two) = tokio::join!(mesh.undo(act.id), mesh.undo(act.id));
    assert_eq!((one.is_ok(), kind(two)), (true, ErrorKind::NotFound), "it is undone once");
    assert_eq!(read().await, before);
    let (one, two) = tokio::join!(root.remove("k", None), async { mesh.push("l", 1).await });
    assert!(one.unwrap() && two.is_ok());
    let act = the_act(&mesh).await;
    let (pushed, undone) = tokio::join!(async { other.push("k", "new").await }, mesh.undo(act.id));
    pushed.unwrap();
    // Either of them was first.
    match undone {
        Ok(_) => assert_eq!(mesh.value("k").await.unwrap().unwrap().json(), "\"new\""),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
    }
    assert_eq!(mesh.value("k").await.unwrap().unwrap().json(), "\"new\"");
    assert_usage(&mesh).await;
}
