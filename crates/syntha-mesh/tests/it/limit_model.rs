//! Whatever is done under whatever limits: what is accepted uses no more than may be used, or no more than before, and what is refused
//! changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use syntha_mesh::{
    Error, ErrorKind, Filter, Limit, ManualClock, Mesh, MeshConfig, Message, ResourceLimits, UndoOverwrites,
    UserLimits,
};
use syntha_store::{Batch, CreateMode, MemoryStore, Store, Timestamp, UserId};

const COUNTED: [Limit; 5] = [Limit::Contexts, Limit::Agents, Limit::Topics, Limit::Storage, Limit::History];

#[derive(Clone, Debug)]
enum Step {
    Push { by: Option<u8>, key: u8, bytes: usize, agents: Vec<u8>, topics: Vec<u8>, ttl: bool },
    Batch { by: u8, pushes: Vec<(u8, usize)>, remove: u8 },
    Remove { by: Option<u8>, key: u8 },
    Subscribe { agent: u8, topics: Vec<u8>, replace: bool },
    Unsubscribe { agent: u8, topics: Vec<u8> },
    Unregister(u8),
    DeleteTopic(u8),
    Append { by: u8, thread: u8, bytes: usize },
    Redact { thread: u8, seq: u64 },
    DeleteThread(u8),
    Undo(usize),
    Wait(u64),
    Sweep,
    Clear,
    Limits(Vec<(usize, u64)>),
}

fn step() -> impl Strategy<Value = Step> {
    let (name, key, size) = (0..4_u8, 0..6_u8, 0..60_usize);
    let some = || prop::collection::vec(0..4_u8, 0..3);
    prop_oneof![
        6 => (prop::option::of(name.clone()), key.clone(), size.clone(), some(), some(), any::<bool>())
            .prop_map(|(by, key, bytes, agents, topics, ttl)| Step::Push { by, key, bytes, agents, topics, ttl }),
        2 => (name.clone(), prop::collection::vec((key.clone(), size.clone()), 1..4), key.clone())
            .prop_map(|(by, pushes, remove)| Step::Batch { by, pushes, remove }),
        2 => (prop::option::of(name.clone()), key.clone()).prop_map(|(by, key)| Step::Remove { by, key }),
        2 => (name.clone(), some(), any::<bool>())
            .prop_map(|(agent, topics, replace)| Step::Subscribe { agent, topics, replace }),
        1 => (name.clone(), some()).prop_map(|(agent, topics)| Step::Unsubscribe { agent, topics }),
        1 => name.clone().prop_map(Step::Unregister),
        1 => name.clone().prop_map(Step::DeleteTopic),
        2 => (name.clone(), 0..2_u8, size).prop_map(|(by, thread, bytes)| Step::Append { by, thread, bytes }),
        1 => (0..2_u8, 1..5_u64).prop_map(|(thread, seq)| Step::Redact { thread, seq }),
        1 => (0..2_u8).prop_map(Step::DeleteThread),
        2 => (0..3_usize).prop_map(Step::Undo),
        1 => (1..100_000_u64).prop_map(Step::Wait),
        1 => Just(Step::Sweep),
        1 => Just(Step::Clear),
        1 => prop::collection::vec((0..5_usize, 0..8_u64), 0..4).prop_map(Step::Limits),
    ]
}

/// Limits as they are drawn: of bytes, some tens.
fn limits(drawn: &[(usize, u64)]) -> ResourceLimits {
    drawn.iter().fold(ResourceLimits::new(), |limits, (at, most)| {
        let limit = COUNTED[*at];
        limits.with(limit, Some(if limit.unit() == "bytes" { most * 30 } else { *most }))
    })
}

fn names(of: &str, numbers: &[u8]) -> Vec<String> {
    numbers.iter().map(|number| format!("{of}{number}")).collect()
}

async fn run(mesh: &Mesh, clock: &ManualClock, step: &Step) -> Result<(), Error> {
    let agent = |number: &u8| mesh.agent(format!("agent{number}")).unwrap();
    match step {
        Step::Push { by, key, bytes, agents, topics, ttl } => {
            let (key, value) = (format!("key{key}"), "x".repeat(*bytes));
            let push = match by {
                None => mesh.push(key, value),
                Some(by) => agent(by).push(key, value),
            };
            let push = push.agents(names("agent", agents)).topics(names("topic", topics));
            (if *ttl { push.ttl(Duration::from_secs(10)) } else { push }).await.map(drop)
        }
        Step::Batch { by, pushes, remove } => {
            let mut batch = agent(by).batch();
            let mut used = BTreeSet::from([*remove]);
            for (key, bytes) in pushes {
                if used.insert(*key) {
                    batch = batch.push(format!("key{key}"), "x".repeat(*bytes));
                }
            }
            batch.remove(format!("key{remove}")).commit().await
        }
        Step::Remove { by: None, key } => mesh.remove(format!("key{key}")).await.map(drop),
        Step::Remove { by: Some(by), key } => agent(by).remove(format!("key{key}"), None).await.map(drop),
        Step::Subscribe { agent: name, topics, replace: true } => {
            mesh.register_agent_topics(format!("agent{name}"), names("topic", topics)).await.map(drop)
        }
        Step::Subscribe { agent: name, topics, .. } => {
            agent(name).subscribe(names("topic", topics)).await.map(drop)
        }
        Step::Unsubscribe { agent: name, topics } => {
            agent(name).unsubscribe(names("topic", topics)).await.map(drop)
        }
        Step::Unregister(name) => mesh.unregister_agent(format!("agent{name}")).await.map(drop),
        Step::DeleteTopic(topic) => mesh.delete_topic(format!("topic{topic}")).await.map(drop),
        Step::Append { by, thread, bytes } => {
            let thread = agent(by).thread(format!("thread{thread}")).unwrap();
            thread.append(Message::user("x".repeat(*bytes))).await.map(drop)
        }
        Step::Redact { thread, seq } => mesh.redact_message(format!("thread{thread}"), *seq).await.map(drop),
        Step::DeleteThread(thread) => mesh.delete_thread(format!("thread{thread}")).await.map(drop),
        Step::Undo(at) => match mesh.undo_list(None, 10).await?.acts.get(*at) {
            Some(act) => mesh.undo(act.id).await.map(drop),
            None => Ok(()),
        },
        Step::Wait(seconds) => {
            clock.advance(Duration::from_secs(*seconds));
            Ok(())
        }
        Step::Sweep => mesh.sweep().await.map(drop),
        Step::Clear => mesh.clear().await.map(drop),
        Step::Limits(drawn) => mesh.set_limits(UserLimits::new().own(limits(drawn))).await.map(drop),
    }
}

/// What is used, of each limit, with the topics counted afresh from all that is stored.
async fn used(mesh: &Mesh) -> [u64; 5] {
    let report = mesh.usage_report().await.unwrap();
    COUNTED.map(|limit| report.of(limit).unwrap().used.unwrap())
}

async fn most(mesh: &Mesh) -> [u64; 5] {
    let report = mesh.usage_report().await.unwrap();
    COUNTED.map(|limit| report.of(limit).unwrap().most.unwrap_or(u64::MAX))
}

async fn check(steps: Vec<Step>, drawn: Vec<(usize, u64)>, overwrites: bool) -> Result<u64, TestCaseError> {
    let store = MemoryStore::new().unwrap();
    let tag = store.deployment_key().tag(&UserId::new("alice").unwrap());
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
    let mut config = MeshConfig::default();
    config.clock = Arc::clone(&clock) as _;
    config.limits = limits(&drawn);
    if overwrites {
        config.undo_overwrites = UndoOverwrites::All;
    }
    let (user, _) = store.create(tag, Batch::new(Timestamp(1)).unwrap(), CreateMode::New).await.unwrap();
    let mesh = Mesh::open(user, false, config.clone()).await.unwrap();
    let mut refused = 0;
    for step in steps {
        let before = (used(&mesh).await, mesh.stats().await.unwrap(), mesh.usage().await.unwrap().1);
        let may = most(&mesh).await;
        let result = run(&mesh, &clock, &step).await;
        let after = used(&mesh).await;
        if let Err(error) = &result {
            // What an expired entry or a wrong key is refused for is not looked at here.
            refused += u64::from(error.exceeded().is_some());
            let now = (after, mesh.stats().await.unwrap(), mesh.usage().await.unwrap().1);
            prop_assert_eq!(&now, &before, "{:?} was refused ({}) and left something", step, error);
            prop_assert!(error.kind() != ErrorKind::Storage, "{:?}: {:?}", step, error);
        }
        for (at, limit) in COUNTED.into_iter().enumerate() {
            let allowed =
                after[at] <= may[at] || after[at] <= before.0[at] || matches!(step, Step::Limits(_));
            prop_assert!(allowed, "{:?}: {} {:?} -> {:?} of {:?}", step, limit.name(), before.0, after, may);
        }
        // Another handle counts what is stored.
        let user = store.open(tag).await.unwrap();
        let again = Mesh::open(user, false, config.clone()).await.unwrap();
        prop_assert_eq!(used(&again).await, after, "{:?}", step);
    }
    let entries = mesh.entries(&Filter::new()).await.unwrap();
    prop_assert!(entries.len() as u64 <= used(&mesh).await[0]);
    Ok(refused)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_accepted_keeps_every_limit(
        steps in prop::collection::vec(step(), 1..60),
        drawn in prop::collection::vec((0..5_usize, 0..8_u64), 1..6),
        overwrites in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(steps, drawn, overwrites))?;
    }
}
