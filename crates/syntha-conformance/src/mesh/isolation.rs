//! Two users, and one user's lives and sessions.

use std::fmt::Write as _;
use std::time::Duration;

use syntha_mesh::{ErrorKind, Expected, Filter, Guard, Mesh};
use syntha_store::{Batch, CreateMode, ImportMode, Version};

use super::{assert_unseen, checks, erase, keys, kind};
use crate::harness::{Bed, START};

checks![
    isolation_of_the_same_names,
    isolation_of_the_same_history,
    isolation_of_topics_and_agents,
    isolation_of_hostile_pairs,
    isolation_of_an_erase,
    isolation_of_errors_and_debug,
    life_erased_takes_no_late_write,
    life_erased_answers_no_read,
    life_recreated_is_empty,
    life_restored_ends_old_handles,
    session_ended_ends_every_handle,
    session_ended_leaves_the_others,
];

/// A mesh that keeps almost nothing in memory, so that reads go through to the store.
async fn cold(bed: &Bed, user: &str) -> Mesh {
    bed.mesh_with(user, |config| config.cache_bytes = 0).await
}

async fn isolation_of_the_same_names(mut bed: Bed) {
    for user in ["alice", "bob"] {
        let agent = bed.mesh(user).await.agent("agent").unwrap();
        agent.push("k", user).await.unwrap();
        agent.push("t", user).topic("topic").await.unwrap();
    }
    for _ in 0..2 {
        for user in ["alice", "bob", "alice"] {
            let agent = cold(&bed, user).await.agent("agent").unwrap();
            agent.subscribe(["topic"]).await.unwrap();
            for entry in agent.all(&Filter::new()).await.unwrap() {
                assert_eq!(entry.value::<String>().unwrap(), user);
            }
            assert_eq!(keys(&agent).await, ["k", "t"]);
        }
        bed.reopen().await;
    }
}

/// The same operations give the same keys and versions, so that only the user tells the values apart.
async fn isolation_of_the_same_history(bed: Bed) {
    let (alice, bob) = (cold(&bed, "alice").await, cold(&bed, "bob").await);
    let (alice, bob) = (alice.agent("agent").unwrap(), bob.agent("agent").unwrap());
    for n in 0..6 {
        let key = format!("k{}", n % 3);
        let (first, second) = (alice.push(&*key, format!("alice-{n}")), bob.push(&*key, format!("bob-{n}")));
        let (first, second) = tokio::join!(first.into_future(), second.into_future());
        assert_eq!(first.unwrap().version, second.unwrap().version);
        for (agent, user) in [(&alice, "alice"), (&bob, "bob"), (&alice, "alice")] {
            assert_eq!(agent.get::<String>(&*key).await.unwrap().unwrap(), format!("{user}-{n}"));
        }
    }
}

async fn isolation_of_topics_and_agents(bed: Bed) {
    let (alice, bob) = (bed.mesh("alice").await, bed.mesh("bob").await);
    alice.agent("agent").unwrap().subscribe(["topic", "own"]).await.unwrap();
    alice.set_post_permissions("agent", Some(vec![])).await.unwrap();
    assert!(bob.topics().await.unwrap().is_empty() && bob.agents().await.unwrap().is_empty());
    assert!(bob.subscribers("topic").await.unwrap().is_empty());
    let agent = bob.agent("agent").unwrap();
    agent.push("k", 1).topic("topic").await.unwrap();
    assert!(keys(&alice.agent("agent").unwrap()).await.is_empty());
    assert_eq!(bob.delete_topic("own").await.unwrap_err().kind(), ErrorKind::NotFound);
    bob.clear().await.unwrap();
    bob.unregister_agent("agent").await.unwrap();
    assert_eq!(alice.agent("agent").unwrap().topics().await.unwrap().len(), 2);
    assert_eq!(alice.stats().await.unwrap().agents, 1);
}

/// Ids that meet when they are joined, cut, folded or matched carelessly.
async fn isolation_of_hostile_pairs(bed: Bed) {
    let pairs = [
        ("a", "A"),
        ("a", "a "),
        ("a:b", "a"),
        ("a/b", "a"),
        ("a%", "ab"),
        ("a_", "ab"),
        ("*", "?"),
        ("..", "."),
        ("../bob", "bob"),
        ("deployment", "deployment.db"),
        ("user' OR '1'='1", "user"),
        ("\u{df}", "ss"),
        ("i", "\u{131}"),
        ("admin", "\u{430}dmin"),
        ("null", "undefined"),
    ];
    for (number, (one, two)) in pairs.into_iter().enumerate() {
        let (first, second) = (cold(&bed, one).await, cold(&bed, two).await);
        let (first, second) = (first.agent("x").unwrap(), second.agent("x").unwrap());
        let key = format!("k{number}");
        first.push(&*key, one).await.unwrap();
        assert_eq!(second.get::<String>(&*key).await.unwrap(), None, "{one} and {two}");
        second.push(&*key, two).await.unwrap();
        assert_eq!(first.get::<String>(&*key).await.unwrap().as_deref(), Some(one), "{one} and {two}");
    }
    // An agent and an operation id that run together in careless joins.
    let mesh = bed.mesh("joins").await;
    let joins = [("a", "b:c"), ("a:b", "c"), ("a", "b\u{a0}c"), ("a\u{a0}b", "c")];
    for (number, (agent, operation)) in joins.into_iter().enumerate() {
        let push = mesh.agent(agent).unwrap().push(format!("k{number}"), number);
        push.operation(operation).await.unwrap();
    }
    assert_eq!(mesh.size().await.unwrap(), 4);
}

async fn isolation_of_an_erase(bed: Bed) {
    let (alice, bob) = (bed.mesh("alice").await, bed.mesh("bob").await);
    for (mesh, user) in [(&alice, "alice"), (&bob, "bob")] {
        mesh.agent("agent").unwrap().push("k", user).await.unwrap();
    }
    erase(&*bed.store(), bed.tag("alice")).await;
    for bob in [bob, cold(&bed, "bob").await] {
        let agent = bob.agent("agent").unwrap();
        assert_eq!(agent.get::<String>("k").await.unwrap().as_deref(), Some("bob"));
        agent.push("k", "bob").await.unwrap();
    }
}

async fn isolation_of_errors_and_debug(bed: Bed) {
    let mesh = bed.mesh("alice").await;
    let (agent, eve) = (mesh.agent("CANARY-agent").unwrap(), mesh.agent("CANARY-eve").unwrap());
    let version = agent.push("CANARY-key", "CANARY-value").topic("CANARY-topic").await.unwrap().version;
    mesh.set_read_permissions("CANARY-eve", Some(vec![])).await.unwrap();
    mesh.set_post_permissions("CANARY-eve", Some(vec![])).await.unwrap();
    let errors = [
        eve.push("CANARY-key", "CANARY-value").await.unwrap_err(),
        eve.push("CANARY-other", 1).topic("CANARY-topic").await.unwrap_err(),
        eve.subscribe(["CANARY-topic"]).await.unwrap_err(),
        agent.push("CANARY-key", 1).if_version(Expected::Absent).await.unwrap_err(),
        agent.remove("CANARY-key", Some(Expected::Version(Version(u64::MAX)))).await.unwrap_err(),
        mesh.delete_topic("CANARY-none").await.unwrap_err(),
        agent.push("CANARY\u{0}key", 1).await.unwrap_err(),
        agent.batch().push("CANARY-key", 1).push("CANARY-key", 1).commit().await.unwrap_err(),
    ];
    let mut text = String::new();
    for error in &errors {
        let _ = write!(text, "{error} {error:?}");
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let _ = write!(text, "{cause} {cause:?}");
            source = cause.source();
        }
    }
    let entry = mesh.value("CANARY-key").await.unwrap().unwrap();
    let push = agent.push("CANARY-key", "CANARY-value").topic("CANARY-topic").if_version(version);
    let _ = write!(text, "{mesh:?} {agent:?} {entry:?} {push:?} {:?}", agent.batch().push("CANARY-key", 1));
    assert!(!text.contains("CANARY"), "{text}");
}

async fn life_erased_takes_no_late_write(bed: Bed) {
    for alone in [false, true] {
        let mesh = if alone { bed.only_mesh("a").await } else { bed.mesh("a").await };
        let agent = mesh.agent("ann").unwrap();
        agent.push("k", 1).await.unwrap();
        erase(&*bed.store(), bed.tag("a")).await;
        assert_eq!(kind(agent.push("late", 1).await), ErrorKind::Gone);
        let first = Batch::new(START).unwrap();
        bed.store().create(bed.tag("a"), first, CreateMode::Recreate).await.unwrap();
        assert_eq!(kind(agent.push("late", 1).await), ErrorKind::Gone);
        assert_eq!(kind(agent.batch().push("late", 1).remove("k").commit().await), ErrorKind::Gone);
        assert_eq!(bed.mesh("a").await.stats().await.unwrap().entries, 0);
    }
}

async fn life_erased_answers_no_read(bed: Bed) {
    let (shared, only) = (bed.mesh("a").await, bed.only_mesh("b").await);
    for (mesh, user) in [(&shared, "a"), (&only, "b")] {
        mesh.agent("ann").unwrap().push("k", 1).await.unwrap();
        erase(&*bed.store(), bed.tag(user)).await;
    }
    // A mesh that reads from memory alone is told by whoever erases.
    assert!(only.clone().retire() || only.is_retired());
    for mesh in [shared, only] {
        let agent = mesh.agent("ann").unwrap();
        assert_eq!(kind(agent.get::<u8>("k").await), ErrorKind::Gone);
        assert_eq!(kind(agent.keys(&Filter::new()).await), ErrorKind::Gone);
        assert_eq!(kind(mesh.value("k").await), ErrorKind::Gone);
        assert_eq!(kind(mesh.stats().await), ErrorKind::Gone);
    }
}

async fn life_recreated_is_empty(bed: Bed) {
    let old = bed.mesh("a").await;
    old.agent("ann").unwrap().subscribe(["t"]).await.unwrap();
    old.agent("ann").unwrap().push("k", 1).operation("op").await.unwrap();
    erase(&*bed.store(), bed.tag("a")).await;
    let first = Batch::new(START).unwrap();
    bed.store().create(bed.tag("a"), first, CreateMode::Recreate).await.unwrap();
    let new = bed.mesh("a").await;
    assert!(new.agents().await.unwrap().is_empty() && new.topics().await.unwrap().is_empty());
    let agent = new.agent("ann").unwrap();
    assert_unseen(&agent, "k").await;
    agent.push("k", 2).operation("op").await.expect("the operation was another life's");
    assert_eq!(agent.get::<u8>("k").await.unwrap(), Some(2));
}

async fn life_restored_ends_old_handles(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    let before = agent.push("k", "old").await.unwrap().version;
    let mut snapshot = bed.open("a").await.snapshot().await.unwrap();
    agent.push("k", "new").await.unwrap();
    bed.store().import(bed.tag("a"), &mut *snapshot, ImportMode::Replace).await.unwrap();
    assert_eq!(kind(agent.push("k", "late").await), ErrorKind::Gone);
    assert_eq!(kind(agent.get::<String>("k").await), ErrorKind::Gone);
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    let entry = agent.entry("k").await.unwrap().unwrap();
    assert_eq!((entry.json(), entry.version()), ("\"old\"", before));
    assert!(agent.push("k", "next").await.unwrap().version > before);
}

async fn session_ended_ends_every_handle(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (guard, revoker) = Guard::new();
    let session = mesh.guarded(guard);
    let agent = session.agent("ann").unwrap();
    agent.push("k", 1).await.unwrap();
    let (clone, push, batch) = (agent.clone(), agent.push("late", 1), agent.batch().push("late", 1));
    revoker.revoke();
    assert_eq!(kind(agent.get::<u8>("k").await), ErrorKind::SessionEnded);
    assert_eq!(kind(clone.all(&Filter::new()).await), ErrorKind::SessionEnded);
    assert_eq!(kind(clone.discover().await), ErrorKind::SessionEnded);
    assert_eq!(kind(clone.subscribe(["t"]).await), ErrorKind::SessionEnded);
    assert_eq!(kind(push.await), ErrorKind::SessionEnded);
    assert_eq!(kind(batch.commit().await), ErrorKind::SessionEnded);
    assert_eq!(kind(session.stats().await), ErrorKind::SessionEnded);
    assert_eq!(kind(session.sweep().await), ErrorKind::SessionEnded);
    let (inner, _) = Guard::new();
    assert_eq!(kind(session.guarded(inner).stats().await), ErrorKind::SessionEnded, "a session in a session");
    assert!(!session.retire(), "a session can't end the mesh for the others");
    assert_eq!(kind(session.clone().agent("new").unwrap().push("late", 1).await), ErrorKind::SessionEnded);
    assert_eq!(mesh.size().await.unwrap(), 1);
}

async fn session_ended_leaves_the_others(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ((one, revoker), (two, _)) = (Guard::new(), Guard::new());
    let (one, two) = (mesh.guarded(one), mesh.guarded(two));
    one.agent("ann").unwrap().push("k", 1).ttl(Duration::from_secs(60)).await.unwrap();
    revoker.revoke();
    assert_eq!(two.agent("ann").unwrap().get::<u8>("k").await.unwrap(), Some(1));
}
