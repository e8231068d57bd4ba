//! Random operations of many users: nothing of one user stands in anything that another gets, nor in another's file.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints the seed, and its row of evidence")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use syntha::sqlite::SqliteConfig;
use syntha::{
    Filter, HostAuthority, HostTool, HybridHandler, InteractionLog, ManualClock, MeshConfig, Message, Prompt,
    Role, Session, Timestamp, ToolHandler, UserManager,
};
use syntha_conformance::{Harness, Instance, broken};
use syntha_mesh::Fault;

const USERS: usize = 20;
const AGENTS: usize = 4;
const NAMES: usize = 6;
const OPS_A_CASE: usize = 400;

#[derive(Clone, Debug)]
enum Op {
    Push { user: usize, agent: usize, name: usize, route: u8, ttl: Option<u64> },
    Batch { user: usize, agent: usize },
    Get { user: usize, agent: usize, name: usize },
    All { user: usize, agent: usize },
    Remove { user: usize, agent: usize, name: usize },
    Subscribe { user: usize, agent: usize, name: usize },
    Unsubscribe { user: usize, agent: usize, name: usize },
    Host { user: usize },
    Tool { user: usize, agent: usize, tool: usize, name: usize },
    Append { user: usize, agent: usize, name: usize, private: bool },
    Thread { user: usize, agent: usize, name: usize },
    Redact { user: usize, name: usize, seq: u64 },
    DeleteThread { user: usize, name: usize },
    Interactions { user: usize },
    Export { user: usize },
    HostTool { user: usize, agent: usize },
    Prompt { user: usize, agent: usize, budget: usize },
    DeleteTopic { user: usize, name: usize },
    Clear { user: usize },
    Turn { seconds: u64 },
    Erase { user: usize },
    ForeignRestore { from: usize, into: usize },
    OwnRestore { user: usize },
    Reopen { orderly: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let (user, agent, name) = (0..USERS, 0..AGENTS, 0..NAMES);
    let (u, a, n) = (user.clone(), agent.clone(), name.clone());
    let actor = (u.clone(), a.clone(), n.clone());
    prop_oneof![
        30 => (actor.clone(), 0..5_u8, prop::option::of(1..100_u64))
            .prop_map(|((user, agent, name), route, ttl)| Op::Push { user, agent, name, route, ttl }),
        5 => (u.clone(), a.clone()).prop_map(|(user, agent)| Op::Batch { user, agent }),
        25 => actor.clone().prop_map(|(user, agent, name)| Op::Get { user, agent, name }),
        8 => (u.clone(), a.clone()).prop_map(|(user, agent)| Op::All { user, agent }),
        5 => actor.clone().prop_map(|(user, agent, name)| Op::Remove { user, agent, name }),
        5 => actor.clone().prop_map(|(user, agent, name)| Op::Subscribe { user, agent, name }),
        3 => actor.clone().prop_map(|(user, agent, name)| Op::Unsubscribe { user, agent, name }),
        4 => u.clone().prop_map(|user| Op::Host { user }),
        12 => (actor.clone(), 0..10_usize).prop_map(|((user, agent, name), tool)| Op::Tool { user, agent, tool, name }),
        8 => (actor.clone(), any::<bool>())
            .prop_map(|((user, agent, name), private)| Op::Append { user, agent, name, private }),
        6 => actor.clone().prop_map(|(user, agent, name)| Op::Thread { user, agent, name }),
        1 => (u.clone(), n.clone(), 1..6_u64).prop_map(|(user, name, seq)| Op::Redact { user, name, seq }),
        1 => (u.clone(), n.clone()).prop_map(|(user, name)| Op::DeleteThread { user, name }),
        2 => u.clone().prop_map(|user| Op::Interactions { user }),
        1 => u.clone().prop_map(|user| Op::Export { user }),
        4 => (u.clone(), a.clone()).prop_map(|(user, agent)| Op::HostTool { user, agent }),
        6 => (u.clone(), a.clone(), 0..2_000_usize)
            .prop_map(|(user, agent, budget)| Op::Prompt { user, agent, budget }),
        1 => (u.clone(), n).prop_map(|(user, name)| Op::DeleteTopic { user, name }),
        1 => u.clone().prop_map(|user| Op::Clear { user }),
        3 => (0..200_u64).prop_map(|seconds| Op::Turn { seconds }),
        1 => u.clone().prop_map(|user| Op::Erase { user }),
        1 => (u.clone(), u.clone()).prop_map(|(from, into)| Op::ForeignRestore { from, into }),
        1 => u.prop_map(|user| Op::OwnRestore { user }),
        1 => any::<bool>().prop_map(|orderly| Op::Reopen { orderly }),
    ]
}

/// One tool of the host's for all users, which reads all that its caller's agent can see.
static HOST_TOOL: LazyLock<HostTool> = LazyLock::new(|| {
    let schema = json!({ "type": "object" });
    HostTool::new("read_all", "Read all.", schema, |agent, _| async move {
        let entries = agent.all(&Filter::new()).await.map_err(texts)?;
        // Few enough for an answer that is not cut.
        Ok(entries.iter().take(50).map(|entry| describe(entry)).collect::<String>().into())
    })
    .unwrap()
});

/// Everything that was logged, at every level.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a world stands on.
enum Ground {
    Sqlite(SqliteConfig),
    Store(Box<dyn Instance>),
}

struct World {
    data: PathBuf,
    ground: Ground,
    mesh: MeshConfig,
    clock: Arc<ManualClock>,
    manager: Option<(UserManager, HostAuthority)>,
    sessions: HashMap<usize, Session>,
    counter: u64,
    seen: u64,
    /// It stands on something broken, which fails in other ways too.
    broken: bool,
}

impl World {
    async fn new(data: &Path) -> Self {
        let ground = Ground::Sqlite(SqliteConfig::new(data));
        Self::made(data, ground, MeshConfig::default(), false).await
    }

    async fn on(data: &Path, ground: Ground, mesh: MeshConfig) -> Self {
        Self::made(data, ground, mesh, true).await
    }

    async fn made(data: &Path, ground: Ground, mut mesh: MeshConfig, broken: bool) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
        mesh.clock = Arc::clone(&clock) as _;
        mesh.cache_bytes = 100;
        mesh.interactions = InteractionLog::All;
        mesh.interactions_kept = 20;
        let (data, sessions) = (data.into(), HashMap::new());
        let mut world =
            Self { data, ground, mesh, clock, manager: None, sessions, counter: 0, seen: 0, broken };
        world.open().await;
        world
    }

    async fn open(&mut self) {
        let builder = UserManager::builder().mesh(self.mesh.clone());
        let builder = match &self.ground {
            Ground::Sqlite(config) => {
                let builder = builder.sqlite_with(config.clone().connections(5));
                // What is broken below a seal is refused by it before it can cross.
                if self.broken { builder.plain() } else { builder }
            }
            Ground::Store(instance) => builder.store(instance.store(), instance.key()),
        };
        self.manager = Some(builder.open().await.unwrap());
    }

    async fn session(&mut self, user: usize) -> Session {
        if let Some(session) = self.sessions.get(&user) {
            return session.clone();
        }
        let (users, host) = self.manager.as_ref().unwrap();
        let session = users.create_user_session(host, name_of(user)).await.unwrap();
        self.sessions.insert(user, session.clone());
        session
    }

    /// What a call gave that fails on something broken alone.
    fn unbroken<T, E: std::error::Error>(&self, result: Result<T, E>) -> Option<T> {
        if !self.broken && result.is_err() {
            panic!("{}", result.err().map(texts).unwrap_or_default());
        }
        result.ok()
    }

    /// A value that no other write has, and that names its user.
    fn value(&mut self, user: usize) -> Value {
        self.counter += 1;
        json!({ "canary": format!("{}-{}", canary(user), self.counter), "fill": "x".repeat(40) })
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Push { user, agent, name, route, ttl } => {
                let value = self.value(user);
                let agent_handle = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                let mut push = agent_handle.push(key(user, name), value);
                push = match route {
                    0 => push.topic(topic(user, name)),
                    1 => push.agents([agent_name(user, (agent + 1) % AGENTS)]),
                    2 => push.topic(topic(user, name)).agents([agent_name(user, agent)]),
                    _ => push,
                };
                if let Some(seconds) = ttl {
                    push = push.ttl(Duration::from_secs(seconds));
                }
                let result = push.await;
                self.check(user, &format!("{:?}", result.map_err(texts)));
            }
            Op::Batch { user, agent } => {
                let (one, two) = (self.value(user), self.value(user));
                let agent = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                let result = agent.batch().push("pair-left", one).push("pair-right", two).commit().await;
                self.check(user, &format!("{:?}", result.map_err(texts)));
            }
            Op::Get { user, agent, name } => {
                let agent = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                let entry = agent.entry(key(user, name)).await.unwrap();
                let text = entry.map_or_else(String::new, |entry| describe(&entry));
                self.check(user, &text);
            }
            Op::All { user, agent } => {
                let agent = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                let entries = agent.all(&Filter::new()).await.unwrap();
                let text: String = entries.iter().map(|entry| describe(entry)).collect();
                let keys = agent.keys(&Filter::new().prefix("shared")).await.unwrap();
                self.check(user, &format!("{text} {keys:?}"));
            }
            Op::Remove { user, agent, name } => {
                let agent = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                let result = agent.remove(key(user, name), None).await;
                self.check(user, &format!("{:?}", result.map_err(texts)));
            }
            Op::Subscribe { user, agent, name } => {
                let agent = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                let result = agent.subscribe([topic(user, name)]).await.unwrap();
                self.check(user, &format!("{result:?}"));
            }
            Op::Unsubscribe { user, agent, name } => {
                let agent = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                let result = agent.unsubscribe([topic(user, name)]).await.unwrap();
                self.check(user, &format!("{result:?} {:?}", agent.discover().await.unwrap()));
            }
            Op::Host { user } => {
                let session = self.session(user).await;
                let entries = session.entries(&Filter::new()).await.unwrap();
                let mut text: String = entries.iter().map(|entry| describe(entry)).collect();
                let _ = write!(
                    text,
                    "{:?} {:?}",
                    session.agents().await.unwrap(),
                    session.topics().await.unwrap()
                );
                let _ =
                    write!(text, "{:?} {:?}", session.stats().await.unwrap(), session.sweep().await.unwrap());
                self.check(user, &text);
            }
            Op::Tool { user, agent, tool, name } => {
                let value = self.value(user);
                let agent = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                let tools = ToolHandler::new(&agent, Role::Admin);
                let other = (user + 1) % USERS;
                let arguments = [
                    ("get_context", json!({})),
                    (
                        "push_context",
                        json!({ "key": key(user, name), "value": value, "topics": [topic(user, name)] }),
                    ),
                    ("list_context", json!({})),
                    ("subscribe_to_topics", json!({ "topics": [topic(user, name)] })),
                    ("discover_topics", json!({ "include_subscriber_names": true })),
                    ("get_context", json!({ "keys": [key(user, name)], "user_id": "somebody" })),
                    ("get_context", json!({ "keys": [key(user, name), key(other, 0)] })),
                    // The same id in every user's thread of that name.
                    (
                        "append_history",
                        json!({ "thread": key(user, name), "content": value, "message_id": format!("id-{}", self.counter % 7) }),
                    ),
                    ("get_history", json!({ "thread": key(user, name), "limit": 5 })),
                    ("get_history", json!({})),
                ];
                let (tool, arguments) = arguments[tool].clone();
                // The model's own words come back; only what it did not write counts.
                let answer = tools.call(tool, arguments).await;
                self.check(user, &answer.to_string());
            }
            Op::Append { user, agent, name, private } => {
                let value = self.value(user);
                let agent = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                let thread = agent.thread(key(user, name)).unwrap();
                let mut text = String::new();
                if private {
                    let created = thread.create_for([agent_name(user, 0)]).await.map_err(texts);
                    let _ = write!(text, "{created:?} ");
                }
                // The same id in every user's thread of that name.
                let appended =
                    thread.append(Message::user(value).id(format!("id-{}", self.counter % 7))).await;
                let _ = write!(text, "{:?}", appended.map_err(texts));
                self.check(user, &text);
            }
            Op::Thread { user, agent, name } => {
                let agent = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                let thread = agent.thread(key(user, name)).unwrap();
                let mut text = String::new();
                for page in [thread.after(1, 3).await, thread.last(4).await] {
                    for message in &self.unbroken(page).unwrap_or_default().messages {
                        let (agent, id) = (message.agent(), message.id());
                        let _ = write!(text, "{} {agent:?} {id:?} ", message.content_json());
                    }
                }
                for info in self.unbroken(agent.threads(None, 10).await).unwrap_or_default() {
                    let _ = write!(text, "{} {:?} {info:?} ", info.thread, info.agents);
                }
                self.check(user, &text);
            }
            Op::Redact { user, name, seq } => {
                let result = self.session(user).await.redact_message(key(user, name), seq).await;
                self.check(user, &format!("{:?}", result.map_err(texts)));
            }
            Op::DeleteThread { user, name } => {
                let result = self.session(user).await.delete_thread(key(user, name)).await;
                self.check(user, &format!("{:?}", result.map_err(texts)));
            }
            Op::Interactions { user } => {
                let mut text = String::new();
                let log = self.session(user).await.interactions(None, 100).await;
                for one in self.unbroken(log).unwrap_or_default() {
                    let _ = write!(text, "{:?} {:?} {one:?} ", one.agent, one.on);
                }
                self.check(user, &text);
            }
            Op::Export { user } => {
                let mut bytes = Vec::new();
                let exported = self.session(user).await.export(&mut bytes, |_| {}).await;
                self.unbroken(exported);
                self.check(user, &String::from_utf8(bytes).unwrap());
            }
            Op::HostTool { user, agent } => {
                let agent = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                let tools = ToolHandler::new(&agent, Role::Readonly);
                let tools = HybridHandler::new(tools).tool(HOST_TOOL.clone()).unwrap();
                let answer = tools.call("read_all", json!({ "user": "somebody" })).await;
                assert_eq!(answer["success"], true, "{answer}");
                self.check(user, &answer.to_string());
            }
            Op::Prompt { user, agent, budget } => {
                let agent = self.session(user).await.agent(agent_name(user, agent)).unwrap();
                match Prompt::new(&agent).budget(budget).build().await {
                    Ok(built) => {
                        assert!(built.text.len() <= budget);
                        self.check(user, &format!("{} {:?}", built.text, built.included));
                    }
                    Err(error) => self.check(user, &texts(error)),
                }
            }
            Op::DeleteTopic { user, name } => {
                let result = self.session(user).await.delete_topic(topic(user, name)).await;
                self.check(user, &format!("{:?}", result.map_err(texts)));
            }
            Op::Clear { user } => {
                self.session(user).await.clear().await.unwrap();
            }
            Op::Turn { seconds } => self.clock.advance(Duration::from_secs(seconds)),
            Op::Erase { user } => self.erase(user).await,
            Op::ForeignRestore { from, into } => {
                if from != into {
                    self.session(from).await;
                    self.session(into).await;
                    let (users, _) = self.manager.as_ref().unwrap();
                    let mut archive = Vec::new();
                    users.backup(name_of(from), &mut archive).await.unwrap();
                    match users.restore(name_of(into), Cursor::new(archive.clone())).await {
                        Err(error) => self.check(into, &texts(error)),
                        Ok(()) => panic!("user {into} was given something of user {from}: its archive"),
                    }
                }
            }
            Op::OwnRestore { user } => {
                self.session(user).await;
                let (users, _) = self.manager.as_ref().unwrap();
                let mut archive = Vec::new();
                users.backup(name_of(user), &mut archive).await.unwrap();
                users.restore(name_of(user), Cursor::new(archive.clone())).await.unwrap();
                let old = self.sessions.remove(&user).unwrap();
                let error = old.agent("late").unwrap().push("late", canary(user)).await.unwrap_err();
                self.check(user, &texts(error));
            }
            Op::Reopen { orderly } => self.reopen(orderly).await,
        }
    }

    async fn erase(&mut self, user: usize) {
        let old = self.session(user).await;
        self.sessions.remove(&user);
        let (users, _) = self.manager.as_ref().unwrap();
        users.erase(name_of(user)).await.unwrap();
        let late = old.agent("late").unwrap().push("late", canary(user)).await.unwrap_err();
        let read = old.entries(&Filter::new()).await.unwrap_err();
        users.recreate(name_of(user)).await.unwrap();
        let later = old.agent("late").unwrap().push("late", canary(user)).await.unwrap_err();
        assert_eq!(self.session(user).await.size().await.unwrap(), 0);
        self.check(user, &format!("{} {} {}", texts(late), texts(read), texts(later)));
    }

    async fn reopen(&mut self, orderly: bool) {
        self.sessions.clear();
        let (users, host) = self.manager.take().unwrap();
        let tags: Vec<_> = (0..USERS).map(|user| users.tag(name_of(user)).unwrap().to_string()).collect();
        drop(host);
        if orderly {
            users.shutdown().await.unwrap();
        } else {
            drop(users);
        }
        match &mut self.ground {
            Ground::Sqlite(_) => self.check_files(&self.data, &tags),
            Ground::Store(instance) => instance.reopen().await,
        }
        self.open().await;
    }

    /// Nothing of another user, in text that a user got.
    fn check(&mut self, user: usize, text: &str) {
        self.seen += 1;
        for found in canaries(text.as_bytes()) {
            assert_eq!(found, user, "user {user} got something of user {found}: {text}");
        }
    }

    fn check_files(&self, folder: &Path, tags: &[String]) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.check_files(&path, tags);
                continue;
            }
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            // A log may go while it is looked at: its connection ends in the background.
            for found in canaries(&std::fs::read(&path).unwrap_or_default()) {
                // The directory of users knows their ids; nothing else of theirs is in it.
                let own = name.starts_with(&tags[found]);
                assert!(own, "the file {name} holds something of user {found}");
            }
        }
    }
}

fn name_of(user: usize) -> String {
    format!("user-{user:02}")
}

fn canary(user: usize) -> String {
    format!("CANARY<{user:02}>")
}

/// Half of the names are every user's, half are one user's own.
fn key(user: usize, name: usize) -> String {
    if name.is_multiple_of(2) { format!("shared-{name}") } else { format!("{}-key-{name}", canary(user)) }
}

fn topic(user: usize, name: usize) -> String {
    if name.is_multiple_of(2) { format!("topic-{name}") } else { format!("{}-topic-{name}", canary(user)) }
}

fn agent_name(user: usize, agent: usize) -> String {
    if agent.is_multiple_of(2) { format!("agent-{agent}") } else { format!("{}-agent-{agent}", canary(user)) }
}

fn describe(entry: &syntha::Entry) -> String {
    format!("{} {} {:?} {:?} {entry:?}", entry.key(), entry.json(), entry.author(), entry.audience())
}

fn texts(error: impl std::error::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, " {cause} {cause:?}");
        source = cause.source();
    }
    assert!(!text.contains("CANARY"), "an error's text holds user data: {text}");
    text
}

/// The users whose canaries stand in some bytes.
fn canaries(bytes: &[u8]) -> Vec<usize> {
    let mark = b"CANARY<";
    bytes
        .windows(mark.len() + 2)
        .filter(|window| window.starts_with(mark))
        .filter_map(|window| std::str::from_utf8(&window[mark.len()..]).ok()?.parse().ok())
        .collect()
}

#[test]
fn leakage_under_random_operations() {
    let logs = Logs::default();
    let sink = logs.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || sink.clone())
        .init();
    let ops: usize = std::env::var("SYNTHA_LEAKAGE_OPS").map_or(4_000, |count| count.parse().unwrap());
    let cases = u32::try_from(ops.div_ceil(OPS_A_CASE)).unwrap();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 64, ..Config::default() };
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed: u64 = std::env::var("SYNTHA_SEED").map_or_else(|_| now(), |seed| seed.parse().unwrap());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    println!("SYNTHA_SEED={seed} repeats this run");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let seen = AtomicU64::new(0);
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
        .run(&prop::collection::vec(op(), OPS_A_CASE), |ops| {
            let folder = tempfile::tempdir().unwrap();
            runtime.block_on(async {
                let mut world = World::new(&folder.path().join("data")).await;
                for op in ops {
                    world.apply(op).await;
                }
                assert!(world.seen > 100);
                seen.fetch_add(world.seen, Ordering::Relaxed);
                world.reopen(true).await;
                let (users, _) = world.manager.take().unwrap();
                world.sessions.clear();
                users.shutdown().await.unwrap();
            });
            let mut logged = logs.0.lock().unwrap();
            assert!(canaries(&logged).is_empty(), "a log line holds user data");
            logged.clear();
            Ok(())
        })
        .unwrap();
    let (ops, seen) = (cases as usize * OPS_A_CASE, seen.into_inner());
    println!("evidence: {ops} operations, {seen} answers searched, 0 foreign canaries, seed {seed}");
}

/// Runs random worlds on something broken until one shows something of another user.
fn crosses(ground: impl Fn(&Path) -> Ground, mesh: &MeshConfig, sign: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::deterministic();
    let ops = prop::collection::vec(op(), OPS_A_CASE);
    (0..20).any(|_| {
        let ops = ops.new_tree(&mut runner).unwrap().current();
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let (ground, mesh) = (ground(&data), mesh.clone());
        let ended = runtime.block_on(runtime.spawn(async move {
            let mut world = World::on(&data, ground, mesh).await;
            for op in ops {
                world.apply(op).await;
            }
            world.reopen(true).await;
        }));
        // Other failures don't count: a broken store may fail in many ways before it leaks.
        let failure = ended.err().and_then(|error| error.into_panic().downcast::<String>().ok());
        failure.is_some_and(|text| text.contains(sign))
    })
}

#[test]
fn a_world_on_a_crossing_store_is_found() {
    let sqlite =
        |data: &Path| Ground::Sqlite(SqliteConfig::new(data).fault(syntha::sqlite::Fault::TagTruncated));
    // The manager refuses it before anybody reads: data that the directory does not know.
    let refused = "there is data of a user whom the directory does not know";
    assert!(crosses(sqlite, &MeshConfig::default(), refused), "users that share a file");
    let crossing = "something of user";
    let plain = |data: &Path| Ground::Sqlite(SqliteConfig::new(data));
    assert!(
        crosses(plain, &MeshConfig::default().fault(Fault::CacheShared), crossing),
        "users that share a cache of values"
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for fault in [broken::Fault::CacheWithoutUser, broken::Fault::ForeignImport] {
        let memory = |_: &Path| {
            Ground::Store(runtime.block_on(broken::BrokenHarness { name: "broken", fault }.fresh()))
        };
        assert!(crosses(memory, &MeshConfig::default(), crossing), "{fault:?}");
    }
}

#[test]
fn the_search_finds_a_planted_canary() {
    let text = format!("before {} after", canary(7));
    assert_eq!(canaries(text.as_bytes()), [7]);
    assert!(canaries(b"CANARY<x7> CANARY").is_empty());
}
