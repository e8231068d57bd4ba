//! Audiences, topics, agents and their permissions.

use syntha_mesh::{ErrorKind, Expected, Role, Topic};

use super::{assert_unseen, assert_usage, checks, keys, kind};
use crate::harness::Bed;

checks![
    audience_is_whom_it_names,
    audience_topic_is_resolved_when_read,
    audience_hidden_and_absent_are_one_answer,
    audience_hidden_is_not_overwritten,
    audience_hidden_is_not_removed,
    audience_host_sees_everything,
    agent_registered_again_is_another,
    agent_forgotten_hears_nothing,
    agent_forgotten_ends_its_handle,
    agent_of_a_refused_push_is_not_registered,
    agent_is_registered_once,
    topic_unsubscribed_is_unheard,
    topic_registering_replaces,
    topic_discovery_counts_subscribers,
    topic_deleted_takes_its_own,
    topic_deleted_is_unheard,
    permission_to_post_binds,
    permission_to_read_binds,
    permission_survives_a_reopen,
];

async fn audience_is_whom_it_names(mut bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("all", 1).await.unwrap();
    ann.push("for-ben", 2).agents(["ben"]).await.unwrap();
    ann.push("on-topic", 3).topic("news").await.unwrap();
    ann.push("both", 4).topic("news").agents(["ben"]).await.unwrap();
    ann.push("nobody", 5).restricted().await.unwrap();
    mesh.agent("cat").unwrap().subscribe(["news"]).await.unwrap();
    for _ in 0..2 {
        let mesh = bed.mesh("a").await;
        let seen = async |agent: &str| keys(&mesh.agent(agent).unwrap()).await;
        assert_eq!(seen("ann").await, ["all"]);
        assert_eq!(seen("ben").await, ["all", "both", "for-ben"]);
        assert_eq!(seen("cat").await, ["all", "both", "on-topic"]);
        assert_eq!(seen("stranger").await, ["all"]);
        assert_unseen(&mesh.agent("stranger").unwrap(), "both").await;
        bed.reopen().await;
    }
}

async fn audience_topic_is_resolved_when_read(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (ann, ben) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    ann.push("k", 1).topic("news").await.unwrap();
    assert_unseen(&ben, "k").await;
    ben.subscribe(["news"]).await.unwrap();
    assert_eq!(ben.get::<u8>("k").await.unwrap(), Some(1));
    ben.unsubscribe(["news"]).await.unwrap();
    assert_unseen(&ben, "k").await;
}

async fn audience_hidden_and_absent_are_one_answer(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (ann, eve) = (mesh.agent("ann").unwrap(), mesh.agent("eve").unwrap());
    ann.push("hidden", 1).agents(["ann"]).await.unwrap();
    let texts = async |key: &str| {
        let version = ann.entry("hidden").await.unwrap().unwrap().version();
        format!(
            "{:?} {:?} {:?} {:?} {:?}",
            eve.entry(key).await.unwrap(),
            eve.get::<u8>(key).await.unwrap(),
            eve.remove(key, None).await,
            eve.remove(key, Some(Expected::Absent)).await,
            eve.remove(key, Some(version.into())).await,
        )
    };
    assert_eq!(texts("hidden").await, texts("absent").await);
    assert_eq!(ann.get::<u8>("hidden").await.unwrap(), Some(1));
}

async fn audience_hidden_is_not_overwritten(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (ann, ben, eve) =
        (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap(), mesh.agent("eve").unwrap());
    ann.push("k", 1).agents(["ben"]).await.unwrap();
    assert_eq!(kind(eve.push("k", 2).await), ErrorKind::Denied);
    assert_eq!(kind(eve.batch().push("k", 2).push("own", 2).commit().await), ErrorKind::Denied);
    assert_eq!(ben.get::<u8>("k").await.unwrap(), Some(1));
    ann.push("k", 3).agents(["ben"]).await.expect("its author may");
    ben.push("k", 4).agents(["ben"]).await.expect("who sees it may");
}

async fn audience_hidden_is_not_removed(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (ann, eve) = (mesh.agent("ann").unwrap(), mesh.agent("eve").unwrap());
    ann.push("k", 1).agents(["ben"]).await.unwrap();
    assert!(!eve.remove("k", None).await.unwrap());
    eve.batch().remove("k").commit().await.unwrap();
    assert_eq!(mesh.agent("ben").unwrap().get::<u8>("k").await.unwrap(), Some(1));
    assert!(ann.remove("k", None).await.expect("its author may"));
}

async fn audience_host_sees_everything(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.agent("ann").unwrap().push("k", 1).restricted().await.unwrap();
    assert_eq!(mesh.value("k").await.unwrap().unwrap().json(), "1");
    mesh.push("k", 2).await.unwrap();
    assert_eq!(mesh.value("k").await.unwrap().unwrap().author(), None);
    assert!(mesh.remove("k").await.unwrap());
}

async fn agent_registered_again_is_another(mut bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (ann, ben) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    ann.push("letter", 1).agents(["ben"]).await.unwrap();
    ben.push("own", 1).agents(["ann"]).await.unwrap();
    assert_eq!(ben.get::<u8>("letter").await.unwrap(), Some(1));
    assert!(mesh.unregister_agent("ben").await.unwrap());
    assert_unseen(&mesh.agent("ben").unwrap(), "letter").await;
    assert!(mesh.register_agent("ben").await.unwrap());
    for _ in 0..2 {
        let mesh = bed.mesh("a").await;
        let ben = mesh.agent("ben").unwrap();
        assert_unseen(&ben, "letter").await;
        assert!(!ben.remove("own", None).await.unwrap(), "the author of that name was another");
        assert_eq!(kind(ben.push("letter", 2).await), ErrorKind::Denied);
        bed.reopen().await;
    }
}

async fn agent_forgotten_hears_nothing(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ben = mesh.agent("ben").unwrap();
    ben.subscribe(["t"]).await.unwrap();
    mesh.agent("ann").unwrap().push("k", 1).topic("t").await.unwrap();
    mesh.unregister_agent("ben").await.unwrap();
    assert!(!mesh.unregister_agent("ben").await.unwrap());
    let ben = mesh.agent("ben").unwrap();
    assert_unseen(&ben, "k").await;
    assert!(ben.topics().await.unwrap().is_empty());
    assert!(mesh.subscribers("t").await.unwrap().is_empty());
    mesh.register_agent("ben").await.unwrap();
    assert_unseen(&ben, "k").await;
}

/// The handle of an agent that was unregistered neither comes back without its limits nor becomes its successor.
async fn agent_forgotten_ends_its_handle(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.push("finance", 1).topic("money").await.unwrap();
    let minted_before = mesh.agent("m").unwrap();
    minted_before.push("own", 1).await.unwrap();
    mesh.set_post_permissions("m", Some(vec![])).await.unwrap();
    mesh.set_read_permissions("m", Some(vec![])).await.unwrap();
    let handles = [minted_before.clone(), minted_before, mesh.agent("m").unwrap()];
    mesh.unregister_agent("m").await.unwrap();
    for again in [false, true] {
        if again {
            mesh.register_agent("m").await.unwrap();
            mesh.push("mail", 1).agents(["m"]).await.unwrap();
        }
        for handle in &handles {
            assert_eq!(kind(handle.subscribe(["money"]).await), ErrorKind::Gone);
            assert_eq!(kind(handle.push("new", 1).await), ErrorKind::Gone);
            assert_eq!(kind(handle.batch().push("new", 1).commit().await), ErrorKind::Gone);
            assert_eq!(kind(handle.get::<u8>("mail").await), ErrorKind::Gone);
            assert_eq!(kind(handle.get_many(&["mail"]).await), ErrorKind::Gone);
            assert_eq!(kind(handle.remove("own", None).await), ErrorKind::Gone);
            assert_eq!(kind(handle.discover().await), ErrorKind::Gone);
            assert_eq!(kind(handle.delete_topic("money").await), ErrorKind::Gone);
        }
    }
    assert_eq!(mesh.agent("m").unwrap().get::<u8>("mail").await.unwrap(), Some(1));
}

/// An operation that is refused leaves no agents behind.
async fn agent_of_a_refused_push_is_not_registered(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let names = (0..40).map(|n| format!("{}{n}", "a".repeat(200)));
    assert_eq!(kind(mesh.agent("ann").unwrap().push("k", 1).agents(names).await), ErrorKind::LimitExceeded);
    mesh.push("other", 1).await.unwrap();
    assert!(mesh.agents().await.unwrap().is_empty());
    assert_usage(&mesh).await;
}

async fn agent_is_registered_once(bed: Bed) {
    let mesh = bed.mesh("a").await;
    assert!(mesh.register_agent("ann").await.unwrap());
    assert!(!mesh.register_agent("ann").await.unwrap());
    mesh.agent("ann").unwrap().push("k", 1).agents(["ben", "ann"]).await.unwrap();
    let names: Vec<_> = mesh.agents().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["ann", "ben"]);
    assert_usage(&mesh).await;
}

async fn topic_unsubscribed_is_unheard(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    let report = ann.subscribe(["x", "y", "x"]).await.unwrap();
    assert_eq!((report.changed.len(), report.topics.len()), (2, 2));
    let report = ann.subscribe(["y", "z"]).await.unwrap();
    assert_eq!((report.changed.len(), report.unchanged.len(), report.topics.len()), (1, 1, 3));
    let report = ann.unsubscribe(["y", "never"]).await.unwrap();
    assert_eq!((report.changed.len(), report.unchanged.len(), report.topics.len()), (1, 1, 2));
    mesh.push("k", 1).topic("y").await.unwrap();
    assert_unseen(&ann, "k").await;
    assert!(mesh.subscribers("y").await.unwrap().is_empty());
}

async fn topic_registering_replaces(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.subscribe(["x", "y"]).await.unwrap();
    mesh.register_agent_topics("ann", ["y", "z"]).await.unwrap();
    let topics: Vec<_> = ann.topics().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(topics, ["y", "z"]);
}

async fn topic_discovery_counts_subscribers(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.agent("ann").unwrap().subscribe(["x", "y"]).await.unwrap();
    mesh.agent("ben").unwrap().subscribe(["y"]).await.unwrap();
    mesh.push("k", 1).topic("silent").await.unwrap();
    let found = mesh.agent("cat").unwrap().discover().await.unwrap();
    let found: Vec<_> = found.iter().map(|info| (&*info.topic, info.subscribers.len())).collect();
    assert_eq!(found, [("y", 2), ("x", 1), ("silent", 0)]);
}

async fn topic_deleted_takes_its_own(mut bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.subscribe(["x", "y"]).await.unwrap();
    ann.push("only", 1).topic("x").await.unwrap();
    ann.push("two", 2).topics(["x", "y"]).await.unwrap();
    ann.push("named", 3).topic("x").agents(["ann"]).await.unwrap();
    ann.push("other", 4).await.unwrap();
    let report = mesh.delete_topic("x").await.unwrap();
    assert_eq!((report.entries_deleted, report.entries_kept, report.subscribers), (1, 2, 1));
    for _ in 0..2 {
        let mesh = bed.mesh("a").await;
        assert_eq!(keys(&mesh.agent("ann").unwrap()).await, ["named", "other", "two"]);
        assert_eq!(mesh.agent("ann").unwrap().get::<u8>("two").await.unwrap(), Some(2));
        assert_usage(&mesh).await;
        bed.reopen().await;
    }
}

async fn topic_deleted_is_unheard(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.subscribe(["x"]).await.unwrap();
    assert_eq!(kind(ann.delete_topic("x").await), ErrorKind::Denied);
    mesh.set_role("ann", Role::Admin).await.unwrap();
    ann.delete_topic("x").await.unwrap();
    assert_eq!(kind(ann.delete_topic("x").await), ErrorKind::NotFound);
    mesh.push("k", 1).topic("x").await.unwrap();
    assert_unseen(&ann, "k").await;
}

async fn permission_to_post_binds(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    mesh.set_post_permissions("ann", Some(vec![Topic::new("news").unwrap()])).await.unwrap();
    ann.push("a", 1).topic("news").await.unwrap();
    assert_eq!(kind(ann.push("b", 1).topic("other").await), ErrorKind::Denied);
    assert_eq!(kind(ann.push("b", 1).topics(["news", "other"]).await), ErrorKind::Denied);
    let batch = ann.batch().push("c", 1).push_with("b", 1, |push| push.topic("other"));
    assert_eq!(kind(batch.commit().await), ErrorKind::Denied);
    assert_eq!(mesh.size().await.unwrap(), 1);
    mesh.set_post_permissions("ann", None).await.unwrap();
    ann.push("b", 1).topic("other").await.unwrap();
}

async fn permission_to_read_binds(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    mesh.push("k", 1).topic("news").await.unwrap();
    mesh.set_read_permissions("ann", Some(vec![])).await.unwrap();
    let refused = [ann.subscribe(["news"]).await, ann.subscribe(["absent"]).await];
    let [real, absent] = refused.map(|result| format!("{:?}", result.unwrap_err()));
    assert_eq!(real, absent, "a forbidden and an absent topic are one answer");
    assert!(ann.discover().await.unwrap().is_empty());
    mesh.push("shown", 1).topic("news").agents(["ann"]).await.unwrap();
    assert!(ann.keys_by_topic().await.unwrap().iter().all(|(_, topics)| topics.is_empty()));
    mesh.set_read_permissions("ann", None).await.unwrap();
    ann.subscribe(["news"]).await.unwrap();
    assert_eq!(ann.get::<u8>("k").await.unwrap(), Some(1));
    mesh.set_read_permissions("ann", Some(vec![])).await.unwrap();
    assert_unseen(&ann, "k").await;
}

async fn permission_survives_a_reopen(mut bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.set_post_permissions("ann", Some(vec![])).await.unwrap();
    mesh.set_read_permissions("ann", Some(vec![])).await.unwrap();
    bed.reopen().await;
    let ann = bed.mesh("a").await.agent("ann").unwrap();
    assert_eq!(kind(ann.push("k", 1).topic("t").await), ErrorKind::Denied);
    assert_eq!(kind(ann.subscribe(["t"]).await), ErrorKind::NotFound);
}
