//! Random operations of many users, on anything that a manager opens, and what looks for users' canaries in what they give.

#![allow(dead_code, reason = "each suite that shares this wants other parts")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};
use syntha::keys::make_key_file;
use syntha::sqlite::SqliteConfig;
use syntha::{
    Builder, Encryption, ErrorKind, Filter, HostAuthority, HostTool, HybridHandler, InteractionLog, Kek,
    ManualClock, MeshConfig, Message, Prompt, Role, SealingMode, Session, Timestamp, ToolHandler,
    UserManager, UserTag,
};
use syntha_conformance::Instance;
use syntha_tests::Server;

pub(crate) const USERS: usize = 20;
const AGENTS: usize = 4;
const NAMES: usize = 6;

#[derive(Clone, Debug)]
pub(crate) enum Op {
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

pub(crate) fn op(users: usize) -> impl Strategy<Value = Op> {
    let (user, agent, name) = (0..users, 0..AGENTS, 0..NAMES);
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
pub(crate) struct Logs(pub(crate) Arc<Mutex<Vec<u8>>>);

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
pub(crate) enum Ground {
    Sqlite(SqliteConfig),
    Server(Arc<Server>),
    Store(Box<dyn Instance>),
}

/// How a world on SQLite is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sealing {
    Plain,
    Values,
    /// As new data is when nobody says anything.
    Unsaid,
}

/// Whose names users' things have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Half of the names are every user's, half are one user's own.
    Shared,
    /// Every text of a user's has the user's canary in it, the user's id too.
    Own,
}

pub(crate) struct World {
    data: PathBuf,
    ground: Ground,
    sealing: Sealing,
    names: Names,
    users: usize,
    mesh: MeshConfig,
    clock: Arc<ManualClock>,
    pub(crate) manager: Option<(UserManager, HostAuthority)>,
    pub(crate) sessions: HashMap<usize, Session>,
    /// The archives that were made, the last of each user.
    pub(crate) archives: HashMap<usize, Vec<u8>>,
    counter: u64,
    pub(crate) seen: u64,
    /// It stands on something broken, which fails in other ways too.
    broken: bool,
}

impl World {
    pub(crate) async fn new(data: &Path, sealing: Sealing) -> Self {
        Self::begin(data, Ground::Sqlite(SqliteConfig::new(data)), sealing, Names::Shared, USERS).await
    }

    /// A few users on SQLite, of whom every text is known by its user's canary.
    pub(crate) async fn of_canaries(data: &Path, sealing: Sealing, users: usize) -> Self {
        Self::begin(data, Ground::Sqlite(SqliteConfig::new(data)), sealing, Names::Own, users).await
    }

    /// The same on a PostgreSQL database.
    pub(crate) async fn on_server(data: &Path, server: Arc<Server>, sealing: Sealing) -> Self {
        Self::begin(data, Ground::Server(server), sealing, Names::Shared, USERS).await
    }

    async fn begin(data: &Path, ground: Ground, sealing: Sealing, names: Names, users: usize) -> Self {
        let mut world = Self::unopened(data, ground, MeshConfig::default());
        (world.sealing, world.names, world.users, world.broken) = (sealing, names, users, false);
        world.open().await;
        world
    }

    pub(crate) async fn on(data: &Path, ground: Ground, mesh: MeshConfig) -> Self {
        let mut world = Self::unopened(data, ground, mesh);
        world.open().await;
        world
    }

    fn unopened(data: &Path, ground: Ground, mut mesh: MeshConfig) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
        mesh.clock = Arc::clone(&clock) as _;
        mesh.cache_bytes = 100;
        mesh.interactions = InteractionLog::All;
        mesh.interactions_kept = 20;
        Self {
            data: data.into(),
            ground,
            sealing: Sealing::Plain,
            names: Names::Shared,
            users: USERS,
            mesh,
            clock,
            manager: None,
            sessions: HashMap::new(),
            archives: HashMap::new(),
            counter: 0,
            seen: 0,
            broken: true,
        }
    }

    pub(crate) async fn open(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        self.manager = loop {
            match self.builder().open().await {
                // What was dropped without a shutdown lets go of the folder in the background.
                Err(error) if error.kind() == ErrorKind::Locked && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                opened => break Some(opened.unwrap()),
            }
        };
    }

    fn builder(&self) -> Builder {
        let builder = UserManager::builder().mesh(self.mesh.clone());
        let builder = match &self.ground {
            Ground::Sqlite(config) => builder.sqlite_with(config.clone().connections(5)),
            Ground::Server(server) => builder.postgres_with(server.postgres()),
            Ground::Store(instance) => builder.store(instance.store(), instance.key()),
        };
        // A trail notices some of what is broken first: what is searched for is to be found without it.
        let builder = if self.broken { builder.no_audit() } else { builder };
        match self.sealing {
            Sealing::Plain => builder.plain(),
            Sealing::Unsaid => builder,
            Sealing::Values => {
                let key = self.data.with_extension("key");
                make_key_file(&key).unwrap();
                builder.encryption(Encryption::new(Kek::file(key)).mode(SealingMode::Values))
            }
        }
    }

    async fn session(&mut self, user: usize) -> Session {
        if let Some(session) = self.sessions.get(&user) {
            return session.clone();
        }
        let (users, host) = self.manager.as_ref().unwrap();
        let session = users.create_user_session(host, self.name_of(user)).await.unwrap();
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

    pub(crate) fn name_of(&self, user: usize) -> String {
        match self.names {
            Names::Shared => format!("user-{user:02}"),
            Names::Own => canary(user),
        }
    }

    fn is_shared(&self, name: usize) -> bool {
        self.names == Names::Shared && name.is_multiple_of(2)
    }

    fn key(&self, user: usize, name: usize) -> String {
        if self.is_shared(name) { format!("shared-{name}") } else { format!("{}-key-{name}", canary(user)) }
    }

    fn topic(&self, user: usize, name: usize) -> String {
        if self.is_shared(name) { format!("topic-{name}") } else { format!("{}-topic-{name}", canary(user)) }
    }

    fn agent_name(&self, user: usize, agent: usize) -> String {
        if self.is_shared(agent) {
            format!("agent-{agent}")
        } else {
            format!("{}-agent-{agent}", canary(user))
        }
    }

    /// One of a few ids of messages.
    fn message_id(&self, user: usize) -> String {
        let number = self.counter % 7;
        if self.is_shared(0) { format!("id-{number}") } else { format!("{}-id-{number}", canary(user)) }
    }

    /// A value that no other write has, and that names its user.
    fn value(&mut self, user: usize) -> Value {
        self.counter += 1;
        json!({ "canary": format!("{}-{}", canary(user), self.counter), "fill": "x".repeat(40) })
    }

    pub(crate) async fn apply(&mut self, op: Op) {
        match op {
            Op::Push { user, agent, name, route, ttl } => {
                let value = self.value(user);
                let agent_handle = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                let mut push = agent_handle.push(self.key(user, name), value);
                push = match route {
                    0 => push.topic(self.topic(user, name)),
                    1 => push.agents([self.agent_name(user, (agent + 1) % AGENTS)]),
                    2 => push.topic(self.topic(user, name)).agents([self.agent_name(user, agent)]),
                    _ => push,
                };
                if let Some(seconds) = ttl {
                    push = push.ttl(Duration::from_secs(seconds));
                }
                if self.names == Names::Own && self.counter.is_multiple_of(4) {
                    push = push.operation(format!("{}-operation-{}", canary(user), self.counter));
                }
                let result = push.await;
                self.check(user, &format!("{:?}", result.map_err(texts)));
            }
            Op::Batch { user, agent } => {
                let (one, two) = (self.value(user), self.value(user));
                let agent = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                let result = agent
                    .batch()
                    .push(self.key(user, 100), one)
                    .push(self.key(user, 101), two)
                    .commit()
                    .await;
                self.check(user, &format!("{:?}", result.map_err(texts)));
            }
            Op::Get { user, agent, name } => {
                let agent = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                let entry = agent.entry(self.key(user, name)).await.unwrap();
                let text = entry.map_or_else(String::new, |entry| describe(&entry));
                self.check(user, &text);
            }
            Op::All { user, agent } => {
                let agent = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                let entries = agent.all(&Filter::new()).await.unwrap();
                let text: String = entries.iter().map(|entry| describe(entry)).collect();
                let keys = agent.keys(&Filter::new().prefix("shared")).await.unwrap();
                self.check(user, &format!("{text} {keys:?}"));
            }
            Op::Remove { user, agent, name } => {
                let agent = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                let result = agent.remove(self.key(user, name), None).await;
                self.check(user, &format!("{:?}", result.map_err(texts)));
            }
            Op::Subscribe { user, agent, name } => {
                let agent = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                let result = agent.subscribe([self.topic(user, name)]).await.unwrap();
                self.check(user, &format!("{result:?}"));
            }
            Op::Unsubscribe { user, agent, name } => {
                let agent = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                let result = agent.unsubscribe([self.topic(user, name)]).await.unwrap();
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
                let agent = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                let tools = ToolHandler::new(&agent, Role::Admin);
                let other = (user + 1) % self.users;
                let arguments = [
                    ("get_context", json!({})),
                    (
                        "push_context",
                        json!({ "key": self.key(user, name), "value": value, "topics": [self.topic(user, name)] }),
                    ),
                    ("list_context", json!({})),
                    ("subscribe_to_topics", json!({ "topics": [self.topic(user, name)] })),
                    ("discover_topics", json!({ "include_subscriber_names": true })),
                    ("get_context", json!({ "keys": [self.key(user, name)], "user_id": "somebody" })),
                    ("get_context", json!({ "keys": [self.key(user, name), self.key(other, 0)] })),
                    // The same id in every user's thread of that name.
                    (
                        "append_history",
                        json!({ "thread": self.key(user, name), "content": value, "message_id": self.message_id(user) }),
                    ),
                    ("get_history", json!({ "thread": self.key(user, name), "limit": 5 })),
                    ("get_history", json!({})),
                ];
                let (tool, arguments) = arguments[tool].clone();
                // The model's own words come back; only what it did not write counts.
                let answer = tools.call(tool, arguments).await;
                self.check(user, &answer.to_string());
            }
            Op::Append { user, agent, name, private } => {
                let value = self.value(user);
                let agent = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                let thread = agent.thread(self.key(user, name)).unwrap();
                let mut text = String::new();
                if private {
                    let created = thread.create_for([self.agent_name(user, 0)]).await.map_err(texts);
                    let _ = write!(text, "{created:?} ");
                }
                // The same id in every user's thread of that name.
                let (id, note) = (self.message_id(user), format!("{}-note", canary(user)));
                let message = Message::user(value).id(id).metadata(note.as_str(), note.as_str());
                let appended = thread.append(message).await;
                let _ = write!(text, "{:?}", appended.map_err(texts));
                self.check(user, &text);
            }
            Op::Thread { user, agent, name } => {
                let agent = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                let thread = agent.thread(self.key(user, name)).unwrap();
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
                let result = self.session(user).await.redact_message(self.key(user, name), seq).await;
                self.check(user, &format!("{:?}", result.map_err(texts)));
            }
            Op::DeleteThread { user, name } => {
                let result = self.session(user).await.delete_thread(self.key(user, name)).await;
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
                let agent = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                let tools = ToolHandler::new(&agent, Role::Readonly);
                let tools = HybridHandler::new(tools).tool(HOST_TOOL.clone()).unwrap();
                let answer = tools.call("read_all", json!({ "user": "somebody" })).await;
                assert_eq!(answer["success"], true, "{answer}");
                self.check(user, &answer.to_string());
            }
            Op::Prompt { user, agent, budget } => {
                let agent = self.session(user).await.agent(self.agent_name(user, agent)).unwrap();
                match Prompt::new(&agent).budget(budget).build().await {
                    Ok(built) => {
                        assert!(built.text.len() <= budget);
                        self.check(user, &format!("{} {:?}", built.text, built.included));
                    }
                    Err(error) => self.check(user, &texts(error)),
                }
            }
            Op::DeleteTopic { user, name } => {
                let result = self.session(user).await.delete_topic(self.topic(user, name)).await;
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
                    users.backup(self.name_of(from), &mut archive).await.unwrap();
                    self.archives.insert(from, archive.clone());
                    match users.restore(self.name_of(into), Cursor::new(archive.clone())).await {
                        Err(error) => self.check(into, &texts(error)),
                        Ok(()) => panic!("user {into} was given something of user {from}: its archive"),
                    }
                }
            }
            Op::OwnRestore { user } => {
                self.session(user).await;
                let (users, _) = self.manager.as_ref().unwrap();
                let mut archive = Vec::new();
                users.backup(self.name_of(user), &mut archive).await.unwrap();
                self.archives.insert(user, archive.clone());
                users.restore(self.name_of(user), Cursor::new(archive.clone())).await.unwrap();
                let old = self.sessions.remove(&user).unwrap();
                let error = old.agent("late").unwrap().push("late", canary(user)).await.unwrap_err();
                self.check(user, &texts(error));
            }
            Op::Reopen { orderly } => self.reopen(orderly).await,
        }
    }

    pub(crate) async fn erase(&mut self, user: usize) {
        let old = self.session(user).await;
        self.sessions.remove(&user);
        let (users, _) = self.manager.as_ref().unwrap();
        users.erase(self.name_of(user)).await.unwrap();
        let late = old.agent("late").unwrap().push("late", canary(user)).await.unwrap_err();
        let read = old.entries(&Filter::new()).await.unwrap_err();
        users.recreate(self.name_of(user)).await.unwrap();
        let later = old.agent("late").unwrap().push("late", canary(user)).await.unwrap_err();
        assert_eq!(self.session(user).await.size().await.unwrap(), 0);
        self.check(user, &format!("{} {} {}", texts(late), texts(read), texts(later)));
    }

    pub(crate) async fn reopen(&mut self, orderly: bool) {
        self.sessions.clear();
        let (users, host) = self.manager.take().unwrap();
        let own: Vec<_> = (0..self.users).map(|user| users.tag(self.name_of(user)).unwrap()).collect();
        let tags: Vec<_> = own.iter().map(ToString::to_string).collect();
        drop(host);
        if orderly {
            users.shutdown().await.unwrap();
        } else {
            drop(users);
        }
        match &mut self.ground {
            Ground::Sqlite(_) if self.names == Names::Own => {}
            Ground::Sqlite(_) => self.check_files(&self.data, &tags),
            Ground::Server(server) if orderly => check_tables(server, &own, self.sealing).await,
            Ground::Server(_) => {}
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

/// No row of any table holds a canary that is not its own user's; where it is sealed, none holds any.
async fn check_tables(server: &Server, tags: &[UserTag], sealing: Sealing) {
    let hex = |text: &str| data_encoding::HEXLOWER.encode(text.as_bytes());
    let rows: Vec<_> = (0..tags.len())
        .map(|user| {
            let plain = sealing == Sealing::Plain;
            let own =
                if plain { data_encoding::HEXLOWER.encode(tags[user].as_bytes()) } else { String::new() };
            format!("('{}', '{own}')", hex(&canary(user)))
        })
        .collect();
    let question = format!(
        "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace,
             (VALUES {}) AS v (canary, tag)
         WHERE (n.nspname = 'syntha_rows' OR n.nspname LIKE 'u\\_%') AND c.relkind = 'r' AND query_to_xml(format(
             'SELECT 1 AS crossed FROM %I.%I AS t WHERE encode(t.tenant, ''hex'') <> %L AND position(%L in t::text) > 0',
             n.nspname, c.relname, v.tag, v.canary), true, true, '')::text LIKE '%crossed%'",
        rows.join(", ")
    );
    assert_eq!(server.database().number(&question).await.unwrap(), 0, "a table holds another user's canary");
}

pub(crate) fn canary(user: usize) -> String {
    format!("CANARY<{user:02}>")
}

fn describe(entry: &syntha::Entry) -> String {
    format!("{} {} {:?} {:?} {entry:?}", entry.key(), entry.json(), entry.author(), entry.audience())
}

pub(crate) fn texts(error: impl std::error::Error) -> String {
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
pub(crate) fn canaries(bytes: &[u8]) -> Vec<usize> {
    let mark = b"CANARY<";
    bytes
        .windows(mark.len() + 2)
        .filter(|window| window.starts_with(mark))
        .filter_map(|window| std::str::from_utf8(&window[mark.len()..]).ok()?.parse().ok())
        .collect()
}
