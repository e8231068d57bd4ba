//! Each public change makes its event, in the very link of its commit.

use std::io::Cursor;
use std::time::Duration;

use syntha_audit::link::Kind;
use syntha_mesh::{Expected, Grant, Guard, InteractionLog, MeshConfig, Message, Role, Topic};
use syntha_store::{Action, Verdict};

use crate::bed::{Bed, Found, Names, entries_put};

type Wanted<'a> = (Action, Verdict, Option<&'a str>, Option<&'a str>, u64);

/// What was committed since the last look: one link, with these events.
struct Look {
    links: usize,
    names: Names,
}

impl Look {
    async fn one(&mut self, bed: &Bed, what: &str, wanted: &[Wanted<'_>]) -> Found {
        let links = bed.links().await;
        let new = &links[self.links..];
        self.links = links.len();
        let [(link, events)] = new else { return Err(format!("{what}: {} links", new.len())) };
        if link.kind != Kind::Change {
            return Err(format!("{what}: a link of another kind"));
        }
        if events.len() != wanted.len() {
            return Err(format!("{what}: {events:?}"));
        }
        for (event, (action, verdict, agent, target, count)) in events.iter().zip(wanted) {
            let is = event.action == *action
                && event.verdict == *verdict
                && self.names.is(event.agent.as_ref(), *agent)
                && self.names.is(event.target.as_ref(), *target)
                && event.count == *count
                && event.rule.is_none();
            if !is {
                return Err(format!("{what}: {event:?}"));
            }
        }
        Ok(())
    }
}

const fn done<'a>(action: Action, agent: Option<&'a str>, target: Option<&'a str>) -> Wanted<'a> {
    (action, Verdict::Done, agent, target, 1)
}

const fn many(action: Action, target: Option<&str>, count: u64) -> Wanted<'_> {
    (action, Verdict::Done, None, target, count)
}

pub(crate) async fn each_change_has_its_event(config: MeshConfig) -> Found {
    let clock = std::sync::Arc::new(syntha_mesh::ManualClock::new(syntha_store::Timestamp(1_000_000)));
    let mut config = config;
    config.clock = std::sync::Arc::clone(&clock) as _;
    let bed = Bed::new(config).await;
    let (mesh, ann) = (&bed.mesh, bed.mesh.agent("ann").unwrap());
    let mut look = Look { links: bed.links().await.len(), names: Names::default() };
    let (by, topic) = (Some("ann"), |name| Topic::new(name).unwrap());
    ann.push("k", 1).topic("t").await.unwrap();
    look.one(&bed, "push", &[done(Action::Push, by, Some("k"))]).await?;
    mesh.push("h", 1).ttl(Duration::from_secs(60)).await.unwrap();
    look.one(&bed, "push by the host", &[done(Action::Push, None, Some("h"))]).await?;
    mesh.grant("ann", Grant::prefix("h").unwrap().delete()).await.unwrap();
    look.one(&bed, "grant", &[done(Action::Permit, None, Some("ann"))]).await?;
    ann.batch().push("k2", 2).remove("h").push_with("k3", 3, |push| push.topic("t")).commit().await.unwrap();
    let batch = [
        done(Action::Push, by, Some("k2")),
        done(Action::Remove, by, Some("h")),
        done(Action::Push, by, Some("k3")),
    ];
    look.one(&bed, "batch", &batch).await?;
    mesh.batch().push("h2", 2).remove("absent").commit().await.unwrap();
    let batch =
        [done(Action::Push, None, Some("h2")), (Action::Remove, Verdict::Nothing, None, Some("absent"), 1)];
    look.one(&bed, "batch by the host", &batch).await?;
    let read = mesh.entries(&syntha_mesh::Filter::new()).await.unwrap();
    let version = read.iter().find(|entry| entry.key() == "k2").unwrap().version();
    bed.mesh.flush_audit().await.unwrap();
    look.links = bed.links().await.len();
    ann.remove("k2", Some(Expected::Version(version))).await.unwrap();
    look.one(&bed, "remove", &[done(Action::Remove, by, Some("k2"))]).await?;
    mesh.remove("h2").await.unwrap();
    look.one(&bed, "remove by the host", &[done(Action::Remove, None, Some("h2"))]).await?;
    mesh.register_agent("ben").await.unwrap();
    look.one(&bed, "register", &[done(Action::Register, None, Some("ben"))]).await?;
    ann.subscribe(["t", "u"]).await.unwrap();
    let topics = [done(Action::Subscribe, by, Some("t")), done(Action::Subscribe, by, Some("u"))];
    look.one(&bed, "subscribe", &topics).await?;
    ann.unsubscribe(["u"]).await.unwrap();
    look.one(&bed, "unsubscribe", &[done(Action::Unsubscribe, by, Some("u"))]).await?;
    mesh.register_agent_topics("ben", ["t"]).await.unwrap();
    look.one(&bed, "subscribe by the host", &[done(Action::Subscribe, Some("ben"), Some("t"))]).await?;
    mesh.register_agent_topics("cid", Vec::<Topic>::new()).await.unwrap();
    look.one(&bed, "register with no topic", &[done(Action::Subscribe, Some("cid"), None)]).await?;
    mesh.set_post_permissions("ben", Some(vec![topic("t")])).await.unwrap();
    look.one(&bed, "post", &[done(Action::Permit, None, Some("ben"))]).await?;
    mesh.set_read_permissions("ben", Some(vec![topic("t")])).await.unwrap();
    look.one(&bed, "read", &[done(Action::Permit, None, Some("ben"))]).await?;
    mesh.set_role("ann", Role::Admin).await.unwrap();
    look.one(&bed, "role", &[done(Action::Permit, None, Some("ann"))]).await?;
    // Two entries and two subscribers.
    ann.delete_topic("t").await.unwrap();
    let deleted = (Action::DeleteTopic, Verdict::Done, by, Some("t"), 4);
    look.one(&bed, "delete a topic", std::slice::from_ref(&deleted)).await?;
    undo(&bed, &mut look).await?;
    mesh.push("on v", 1).topic("v").await.unwrap();
    look.links += 1;
    mesh.delete_topic("v").await.unwrap();
    look.one(&bed, "delete a topic by the host", &[many(Action::DeleteTopic, Some("v"), 1)]).await?;
    mesh.unregister_agent("ben").await.unwrap();
    look.one(&bed, "unregister", &[done(Action::Unregister, None, Some("ben"))]).await?;
    history(&bed, &mut look).await?;
    mesh.push("short", 1).ttl(Duration::from_secs(1)).await.unwrap();
    look.links += 1;
    clock.advance(Duration::from_secs(3_600));
    mesh.sweep().await.unwrap();
    look.one(&bed, "sweep", &[many(Action::Sweep, None, 1)]).await?;
    mesh.push("k", 1).await.unwrap();
    look.links += 1;
    let mut export = Vec::new();
    mesh.export(&mut export, |_| {}).await.unwrap();
    bed.mesh.flush_audit().await.unwrap();
    look.links = bed.links().await.len();
    mesh.clear().await.unwrap();
    look.one(&bed, "clear", &[many(Action::Clear, None, 1)]).await?;
    mesh.import(Cursor::new(export), |_| {}).await.unwrap();
    look.one(&bed, "import", &[many(Action::Import, None, 1)]).await
}

/// After an agent removed an entry and, last, deleted a topic.
async fn undo(bed: &Bed, look: &mut Look) -> Found {
    let (mesh, ann) = (&bed.mesh, bed.mesh.agent("ann").unwrap());
    let acts = mesh.undo_list(None, 9).await.unwrap().acts;
    mesh.undo_keys(acts[0].id).await.unwrap().unwrap();
    bed.mesh.flush_audit().await.unwrap();
    look.links = bed.links().await.len();
    mesh.undo(acts[0].id).await.unwrap();
    let undone = [
        done(Action::Undo, None, Some("k")),
        done(Action::Undo, None, Some("k3")),
        many(Action::Undo, Some("t"), 2),
    ];
    look.one(bed, "undo", &undone).await?;
    ann.delete_topic("t").await.unwrap();
    look.links += 1;
    assert!(mesh.undo_purge(acts[1].id).await.unwrap());
    look.one(bed, "purge", &[done(Action::PurgeUndo, None, None)]).await?;
    assert_eq!(mesh.undo_purge_all().await.unwrap(), 2);
    look.one(bed, "purge all", &[many(Action::PurgeUndo, None, 2)]).await
}

async fn history(bed: &Bed, look: &mut Look) -> Found {
    let (mesh, ann) = (&bed.mesh, bed.mesh.agent("ann").unwrap());
    let by = Some("ann");
    let thread = ann.thread("c").unwrap();
    thread.create_for(["ann"]).await.unwrap();
    look.one(bed, "create", &[done(Action::CreateThread, by, Some("c"))]).await?;
    mesh.thread("d").unwrap().create().await.unwrap();
    look.one(bed, "create by the host", &[done(Action::CreateThread, None, Some("d"))]).await?;
    thread.append(Message::user("hello").id("1")).await.unwrap();
    look.one(bed, "append", &[done(Action::Append, by, Some("c"))]).await?;
    // One of the two is there already.
    thread.append_all([Message::user("hello").id("1"), Message::user("more")]).await.unwrap();
    look.one(bed, "append all", &[done(Action::Append, by, Some("c"))]).await?;
    let chat = Cursor::new("{\"role\":\"user\",\"content\":\"a\"}\n{\"role\":\"user\",\"content\":\"b\"}\n");
    mesh.thread("d").unwrap().import_chat(chat, |_| {}).await.unwrap();
    look.one(bed, "import a chat", &[many(Action::Append, Some("d"), 2)]).await?;
    mesh.redact_message("c", 1).await.unwrap();
    look.one(bed, "redact", &[done(Action::Redact, None, Some("c"))]).await?;
    mesh.delete_thread("c").await.unwrap();
    look.one(bed, "delete a thread", &[done(Action::DeleteThread, None, Some("c"))]).await?;
    mesh.delete_thread("d").await.unwrap();
    look.links += 1;
    Ok(())
}

#[tokio::test]
async fn each_change_has_its_event_in_the_link_of_its_commit() {
    each_change_has_its_event(MeshConfig::default()).await.unwrap();
}

#[tokio::test]
async fn the_interaction_log_adds_no_event() {
    let mut config = MeshConfig::default();
    config.interactions = InteractionLog::All;
    let bed = Bed::new(config).await;
    bed.mesh.push("k", 1).await.unwrap();
    bed.mesh.agent("ann").unwrap().get::<u8>("k").await.unwrap().unwrap();
    bed.mesh.interactions(None, 10).await.unwrap();
    let actions: Vec<_> = bed.flushed().await.iter().map(|event| event.action).collect();
    assert_eq!(actions, [Action::Push, Action::Read, Action::ReadInteractions]);
}

#[tokio::test]
async fn an_event_says_the_version_before_and_the_size() {
    let bed = Bed::new(MeshConfig::default()).await;
    let first = bed.mesh.push("k", "12345").await.unwrap();
    let second = bed.mesh.push("k", "1").await.unwrap();
    bed.mesh.remove("k").await.unwrap();
    let events = bed.events().await;
    let told: Vec<_> = events.iter().map(|event| (event.version, event.bytes)).collect();
    assert_eq!(told, [(None, 7), (Some(first.version.0), 3), (Some(second.version.0), 0)]);
    assert!(events.iter().all(|event| event.session.is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_share_a_commit_have_an_event_each() {
    let bed = Bed::new(MeshConfig::default()).await;
    let mut waiting = Vec::new();
    for number in 0..256 {
        let mesh = bed.mesh.clone();
        waiting.push(tokio::spawn(async move { mesh.push(format!("key {number}"), number).await.unwrap() }));
    }
    for one in waiting {
        one.await.unwrap();
    }
    let links = bed.links().await;
    assert!(links.len() < 256, "nothing was committed together");
    for (link, events) in &links {
        assert_eq!(entries_put(link), events.len());
    }
    assert_eq!(bed.count(Action::Push, Verdict::Done).await, 256);
}

#[tokio::test]
async fn an_event_carries_its_session() {
    let bed = Bed::new(MeshConfig::default()).await;
    let ((one, _ends), (two, _ends_too)) = (Guard::new(), Guard::new());
    let (first, second) = (one.session().unwrap(), two.session().unwrap());
    assert_ne!(first, second);
    assert!(first < 1 << 53 && second < 1 << 53);
    bed.mesh.guarded(one).push("k", 1).await.unwrap();
    let other = bed.mesh.guarded(two);
    other.agent("ann").unwrap().get::<u8>("k").await.unwrap();
    other.agent("ann").unwrap().push("k", 2).await.unwrap();
    let sessions: Vec<_> = bed.flushed().await.iter().map(|event| event.session.unwrap()).collect();
    assert_eq!(sessions, [first, second, second]);
}

#[tokio::test]
async fn a_store_without_a_trail_is_told_nothing() {
    let bed = Bed::new(MeshConfig::default()).await;
    let store = std::sync::Arc::clone(&bed.store) as std::sync::Arc<dyn syntha_store::UserStore>;
    let mesh = syntha_mesh::Mesh::open(store, false, MeshConfig::default()).await.unwrap();
    mesh.push("k", 1).await.unwrap();
    mesh.value("k").await.unwrap().unwrap();
    mesh.flush_audit().await.unwrap();
    assert!(bed.events().await.is_empty());
}
