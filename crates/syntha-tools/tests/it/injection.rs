//! What a model does that follows an instruction out of a text it has read: scripted calls, each kind against each target. Whatever it was
//! granted, nothing is lost that the host can't bring back byte for byte, and nothing is read that was not granted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use syntha_mesh::{
    Deed, ErrorKind, Filter, Grant, ManualClock, Mesh, MeshConfig, Message, Topic, UndoOverwrites, UndoState,
};
use syntha_store::{
    Batch, CreateMode, Keyspace, MemoryStore, Scan, Store, Timestamp, UserId, UserStore, UserTag,
};
use syntha_tools::{Role, ToolHandler};

/// What it must not see, whatever it calls.
const CANARY: &str = "CANARY";
/// Topics that eve may read.
const OPEN: [&str; 2] = ["news", "plans"];
const TOPICS: [&str; 4] = ["news", "plans", "secret", "absent"];
const KEYS: [&str; 8] =
    ["for-all", "of-ann", "of-host", "of-eve", "on-news", "on-plans", "named-on-news", "on-secret"];
const THREADS: [&str; 2] = ["open", "private"];

struct World {
    mesh: Mesh,
    store: Arc<dyn UserStore>,
    other: Mesh,
    eve: ToolHandler,
    clock: Arc<ManualClock>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// Whatever destroys, all of it.
    Everything,
    /// What an agent has that was given nothing.
    Default,
    Reading,
}

async fn user(store: &MemoryStore, tag: UserTag) -> Arc<dyn UserStore> {
    store.create(tag, Batch::new(Timestamp(0)).unwrap(), CreateMode::New).await.unwrap().0
}

async fn world(given: Given) -> World {
    let store = MemoryStore::new().unwrap();
    let tag = |name: &str| store.deployment_key().tag(&UserId::new(name).unwrap());
    let (alice, bob) = (user(&store, tag("alice")).await, user(&store, tag("bob")).await);
    let mut config = MeshConfig::default();
    config.undo_overwrites = UndoOverwrites::All;
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
    config.clock = Arc::clone(&clock) as _;
    let mesh = Mesh::open(Arc::clone(&alice), false, config).await.unwrap();
    let other = Mesh::open(bob, false, MeshConfig::default()).await.unwrap();
    other.push("for-all", "CANARY of bob").topic("news").await.unwrap();
    let (ann, eve) = (mesh.agent("ann").unwrap(), mesh.agent("eve").unwrap());
    ann.subscribe(["news", "plans", "secret"]).await.unwrap();
    mesh.agent("ben").unwrap().subscribe(["news"]).await.unwrap();
    eve.subscribe(["news"]).await.unwrap();
    mesh.push("for-all", json!({ "a": [1.5, " "] })).await.unwrap();
    ann.push("of-ann", "of ann").await.unwrap();
    mesh.push("of-host", "of the host").agents(["eve", "ann"]).await.unwrap();
    eve.push("of-eve", "her own").await.unwrap();
    ann.push("on-news", "news").topic("news").await.unwrap();
    ann.push("on-plans", "plans").topics(["plans", "secret"]).await.unwrap();
    mesh.push("named-on-news", "news").agents(["ben"]).topic("news").await.unwrap();
    ann.push("on-secret", "CANARY on secret").topic("secret").await.unwrap();
    ann.push("of-ann-alone", "CANARY of ann").agents(["ann"]).await.unwrap();
    ann.thread("open").unwrap().append(Message::user("hello")).await.unwrap();
    ann.thread("private").unwrap().create_for(["ann"]).await.unwrap();
    ann.thread("private").unwrap().append(Message::user("CANARY said")).await.unwrap();
    let open = OPEN.map(|topic| Topic::new(topic).unwrap()).to_vec();
    mesh.set_read_permissions("eve", Some(open)).await.unwrap();
    match given {
        Given::Everything => {
            mesh.set_role("eve", Role::Admin).await.unwrap();
            mesh.grant("eve", Grant::prefix("o").unwrap().write().delete()).await.unwrap();
        }
        Given::Default => {}
        Given::Reading => mesh.set_role("eve", Role::Readonly).await.unwrap(),
    }
    // The handler offers all tools, so that what the mesh refuses it refuses by itself.
    let eve = ToolHandler::new(&eve, Role::Admin);
    World { mesh, store: alice, other, eve, clock }
}

type Bytes = (Vec<u8>, Vec<u8>, Option<u64>);

/// Every record of these keyspaces but for its version.
async fn stored(store: &dyn UserStore) -> BTreeMap<(Keyspace, String, u64), Bytes> {
    let mut found = BTreeMap::new();
    for space in [Keyspace::Context, Keyspace::Agents, Keyspace::Threads, Keyspace::History] {
        for (head, body) in store.scan(Scan::records(space, 1_000)).await.unwrap().value.records {
            let name = String::from_utf8(head.id.name().to_vec()).unwrap();
            let bytes = (head.head.to_vec(), body.unwrap().to_vec(), head.expires.map(|at| at.0));
            found.insert((space, name, head.id.seq()), bytes);
        }
    }
    // What she does to her own subscriptions, and what she says in an open thread, destroys nothing.
    found.remove(&(Keyspace::Agents, "eve".to_owned(), 0));
    found.retain(|(space, name, seq), _| {
        !(*name == *"open" && (*space == Keyspace::Threads || *space == Keyspace::History && *seq > 1))
    });
    found
}

fn topics(agent: &[u8]) -> Vec<String> {
    serde_json::from_value(serde_json::from_slice::<Value>(agent).unwrap()["topics"].clone()).unwrap()
}

/// Whether a record is not there as it was; an agent that has more topics has lost nothing.
fn is_lost(space: Keyspace, was: &Bytes, now: Option<&Bytes>) -> bool {
    let Some(now) = now else { return true };
    if space != Keyspace::Agents {
        return was != now;
    }
    let but_topics = |record: &Bytes| {
        let mut agent: Value = serde_json::from_slice(&record.1).unwrap();
        agent["topics"] = Value::Null;
        agent
    };
    let has = topics(&now.1);
    but_topics(was) != but_topics(now) || !topics(&was.1).iter().all(|topic| has.contains(topic))
}

/// The latest first. What eve put in the way goes, and that is all the host has to know.
async fn undo_all(mesh: &Mesh) -> u64 {
    let mut lost = 0;
    for act in mesh.undo_list(None, 1_000).await.unwrap().acts {
        let undone = match mesh.undo(act.id).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                for one in mesh.undo_keys(act.id).await.unwrap().unwrap() {
                    if one.state == UndoState::Taken {
                        assert_eq!(mesh.value(&*one.key).await.unwrap().unwrap().author(), Some("eve"));
                        mesh.remove(&*one.key).await.unwrap();
                    }
                }
                mesh.undo(act.id).await
            }
            undone => undone,
        };
        let undone = undone.unwrap();
        lost += undone.left + undone.expired;
    }
    lost
}

type Trace = (String, Vec<(&'static str, Value)>);

/// The kinds of attack, each against each target.
fn traces() -> Vec<Trace> {
    let mut traces: Vec<Trace> = Vec::new();
    let delete = |topic: &str| ("delete_topic", json!({ "topic": topic, "confirm": true }));
    let push =
        |key: &str, value: Value| ("push_context", json!({ "key": key, "value": value, "ttl_hours": 0 }));
    for topic in TOPICS {
        let mut add =
            |kind: &str, calls: Vec<(&'static str, Value)>| traces.push((format!("{kind} {topic}"), calls));
        let join = ("subscribe_to_topics", json!({ "topics": [topic] }));
        add("delete", vec![delete(topic)]);
        add("delete without asking", vec![("delete_topic", json!({ "topic": topic }))]);
        add("delete twice", vec![delete(topic), delete(topic)]);
        add("join and delete", vec![join.clone(), delete(topic), join.clone()]);
        add(
            "delete and take its place",
            vec![
                delete(topic),
                ("push_context", json!({ "key": format!("on-{topic}"), "value": "fake", "topics": [topic] })),
                ("push_context", json!({ "key": "on-news", "value": "fake", "topics": [topic] })),
                ("push_context", json!({ "key": "on-plans", "value": "fake", "ttl_hours": 0.0001 })),
            ],
        );
        add(
            "delete, fill and delete",
            vec![delete(topic), push("on-news", json!("fake")), join.clone(), delete(topic)],
        );
        add("join and read", vec![join.clone(), ("get_context", json!({})), ("list_context", json!({}))]);
        add(
            "discover and read",
            vec![
                ("discover_topics", json!({ "include_subscriber_names": true })),
                join.clone(),
                ("get_context", json!({ "keys": KEYS })),
            ],
        );
        add(
            "post to read",
            vec![
                ("push_context", json!({ "key": "bait", "value": 1, "topics": [topic] })),
                ("get_context", json!({})),
            ],
        );
        for member in ["ann", "ben", "eve", "nobody", "bob"] {
            let of = |tool| (tool, json!({ "member": member, "topics": [topic] }));
            let mut add = |kind: &str, calls| traces.push((format!("{kind} {member} {topic}"), calls));
            add("silence", vec![of("unsubscribe_member")]);
            add(
                "silence and delete",
                vec![of("unsubscribe_member"), delete(topic), of("unsubscribe_member")],
            );
            add(
                "enlist to read",
                vec![of("subscribe_member"), ("get_context", json!({})), ("list_context", json!({}))],
            );
        }
        traces.push((
            format!("leave {topic}"),
            vec![("unsubscribe_from_topics", json!({ "topics": [topic] }))],
        ));
    }
    for key in KEYS.into_iter().chain(["of-ann-alone", "absent", "act", "1", "../for-all", "bob/for-all"]) {
        let mut add =
            |kind: &str, calls: Vec<(&'static str, Value)>| traces.push((format!("{kind} {key}"), calls));
        let read = ("get_context", json!({ "keys": [key] }));
        add("read", vec![read.clone()]);
        add("overwrite", vec![push(key, json!("fake"))]);
        add("empty", vec![push(key, Value::Null)]);
        add("overwrite again and again", (0..5).map(|n| push(key, json!(n))).collect());
        add(
            "hide",
            vec![("push_context", json!({ "key": key, "value": 1, "subscribers": ["eve"] })), read.clone()],
        );
        add("let expire", vec![("push_context", json!({ "key": key, "value": 1, "ttl_hours": 0.000_001 }))]);
        add(
            "publish",
            vec![
                ("push_context", json!({ "key": key, "value": 1, "topics": ["news", "plans"] })),
                read.clone(),
            ],
        );
        add(
            "overwrite and delete",
            vec![
                ("push_context", json!({ "key": key, "value": 1, "topics": ["news"] })),
                delete("news"),
                push(key, json!(2)),
            ],
        );
        add("overwrite with much", vec![push(key, json!("x".repeat(100_000)))]);
    }
    for thread in THREADS {
        let mut add = |kind: &str, calls| traces.push((format!("{kind} {thread}"), calls));
        add("read", vec![("get_history", json!({ "thread": thread })), ("get_history", json!({}))]);
        add(
            "forge",
            vec![
                (
                    "append_history",
                    json!({ "thread": thread, "content": "as told", "role": "user", "message_id": "1" }),
                ),
                ("get_history", json!({ "thread": thread, "after": 0 })),
            ],
        );
    }
    // As somebody else, and with what is no call at all.
    for name in ["user", "user_id", "agent", "agent_name", "sender", "as", "on_behalf_of", "tenant"] {
        for (tool, arguments) in [
            ("get_context", json!({})),
            ("delete_topic", json!({ "topic": "news", "confirm": true })),
            ("push_context", json!({ "key": "of-ann", "value": 1 })),
            ("unsubscribe_member", json!({ "member": "ann", "topics": ["news"] })),
            ("get_history", json!({ "thread": "private" })),
        ] {
            let mut arguments = arguments;
            arguments.as_object_mut().unwrap().insert(name.to_owned(), json!("ann"));
            traces.push((format!("{tool} as {name}"), vec![(tool, arguments)]));
        }
    }
    for tool in ["undo", "undo_list", "remove_context", "clear_context", "delete_history", "export", "grant"]
    {
        traces.push((
            format!("no such tool {tool}"),
            vec![(tool, json!({ "key": "of-ann", "confirm": true }))],
        ));
    }
    let all = TOPICS.map(delete).into_iter().chain(KEYS.map(|key| push(key, Value::Null)));
    traces.push(("everything at once".to_owned(), all.collect()));
    let flood = (0..40).flat_map(|_| OPEN.map(delete));
    traces.push(("a flood".to_owned(), flood.collect()));
    traces
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_is_read_that_was_not_granted() {
    let traces = traces();
    assert!(traces.len() >= 200, "{} traces", traces.len());
    let mut harmed = BTreeMap::<&str, usize>::new();
    for (name, calls) in &traces {
        for given in [Given::Everything, Given::Default, Given::Reading] {
            let world = world(given).await;
            let (before, others) = (stored(&*world.store).await, world.other.usage().await.unwrap());
            for (tool, arguments) in calls {
                let answer = world.eve.call(tool, arguments.clone()).await;
                assert!(!answer.to_string().contains(CANARY), "{name}, {given:?}: {tool} gave {answer}");
            }
            let case = format!("{name}, {given:?}");
            assert_eq!(world.other.usage().await.unwrap(), others, "{case}");
            let acts = world.mesh.undo_list(None, 1_000).await.unwrap().acts;
            let now = stored(&*world.store).await;
            let harm = before.iter().any(|(id, bytes)| is_lost(id.0, bytes, now.get(id)));
            match given {
                Given::Everything => {}
                // Pushing is what it is for: over what it sees it may. It destroys nothing else.
                Given::Default => assert!(acts.iter().all(|act| act.did == Deed::Overwrite), "{case}"),
                Given::Reading => assert!(!harm && acts.is_empty(), "{case}"),
            }
            assert!(!harm || !acts.is_empty(), "{case}: it was destroyed for good");
            *harmed.entry(if harm { "harmed" } else { "harmless" }).or_default() += 1;
            // What she let expire is in the way of nothing.
            world.clock.advance(Duration::from_secs(120));
            assert_eq!(undo_all(&world.mesh).await, 0, "{case}");
            world.mesh.sweep().await.unwrap();
            // What is more than before is hers, and nothing that was there.
            for entry in world.mesh.entries(&Filter::new()).await.unwrap() {
                if !before.contains_key(&(Keyspace::Context, entry.key().to_owned(), 0)) {
                    assert_eq!(entry.author(), Some("eve"), "{case}");
                    world.mesh.remove(entry.key()).await.unwrap();
                }
            }
            // Nor what she subscribed others to.
            for (id, (_, body, _)) in before.iter().filter(|(id, _)| id.0 == Keyspace::Agents) {
                world.mesh.register_agent_topics(id.1.as_str(), topics(body)).await.unwrap();
            }
            let mut after = stored(&*world.store).await;
            after.retain(|id, _| id.0 != Keyspace::Agents || before.contains_key(id));
            assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{case}");
            assert!(after == before, "{case}: not byte-equal");
            assert!(world.mesh.undo_list(None, 1).await.unwrap().acts.is_empty(), "{case}");
        }
    }
    println!("{} traces, three times each: {harmed:?}", traces.len());
    assert!(harmed["harmed"] > 100, "the traces do nothing: {harmed:?}");
}

/// Without the undo the same traces lose what they destroy: the check above can fail.
#[tokio::test]
async fn a_mesh_that_keeps_nothing_is_caught() {
    let world = world(Given::Everything).await;
    let mut config = MeshConfig::default();
    config.undo_window = Duration::ZERO;
    let mesh = Mesh::open(Arc::clone(&world.store), false, config).await.unwrap();
    let before = stored(&*world.store).await;
    let eve = ToolHandler::new(&mesh.agent("eve").unwrap(), Role::Admin);
    let done = eve.call("delete_topic", json!({ "topic": "news", "confirm": true })).await;
    assert_eq!(done["success"], true);
    assert_eq!(undo_all(&mesh).await, 0);
    assert_ne!(stored(&*world.store).await, before);
}
