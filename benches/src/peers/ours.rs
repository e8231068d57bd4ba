//! Syntha's own part in a round: it answers the same calls as the peers' scripts, in a process of its own, as the same account.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use syntha::{Agent, Filter, HostAuthority, MeshConfig, Session, UserManager};
use tokio::task::JoinSet;

use super::figures::Answer;

/// The same bounds as in `measure.py`.
const LIMIT: Duration = Duration::from_secs(3);
const KEYS: u64 = 1_000;
const CROWD: u64 = 64;
const IDLE_USERS: u64 = 1_000;
const CONNECTIONS: usize = 8;

/// Answers `rows FOLDER`, `syncs FOLDER N` or `idle FOLDER N`.
pub(crate) async fn answer(call: Vec<String>) {
    let folder = Path::new(&call[1]);
    match call[0].as_str() {
        "rows" => println!("{}", serde_json::to_string(&rows(folder).await).unwrap()),
        "syncs" => {
            let (_users, host, agent) = open(&folder.join("syncs"), MeshConfig::default()).await;
            for n in 0..=call[2].parse().unwrap() {
                agent.push("key", value(n)).await.unwrap();
            }
            drop(host);
        }
        "idle" => idle(folder, call[2].parse().unwrap()).await,
        other => eprintln!("no such call: {other}"),
    }
}

async fn rows(folder: &Path) -> Answer {
    let mut rows = BTreeMap::new();
    let (users, host, agent) = open(&folder.join("main"), MeshConfig::default()).await;
    for n in 0..KEYS {
        agent.push(key(n), value(n)).await.unwrap();
    }
    rows.insert("cached_value".to_owned(), get_each(&agent, 100_000).await);
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    let mut batch = Batch::of(200_000);
    while let Some(n) = batch.next() {
        black_box(agent.entry(&keys[usize::try_from(n * 7 % KEYS).unwrap()]).await.unwrap());
    }
    rows.insert("cached_get".to_owned(), batch.mean());
    let mut batch = Batch::of(500);
    while batch.next().is_some() {
        let all = agent.all(&Filter::new()).await.unwrap();
        assert_eq!(all.len() as u64, KEYS);
        black_box(all);
    }
    rows.insert("get_all".to_owned(), batch.mean());
    let mut batch = Batch::of(200);
    while batch.next().is_some() {
        let all = agent.all(&Filter::new()).await.unwrap();
        for entry in all {
            black_box(entry.value::<String>().unwrap());
        }
    }
    rows.insert("get_all_values".to_owned(), batch.mean());
    let mut batch = Batch::of(1_000);
    while let Some(n) = batch.next() {
        agent.push(key(n), value(n + 10 * KEYS)).await.unwrap();
    }
    rows.insert("push".to_owned(), batch.mean());
    rows.insert("crowd".to_owned(), crowd(&agent, 20).await);
    let mut batch = Batch::of(50);
    while let Some(n) = batch.next() {
        let session = users.create_user_session(&host, format!("new-{n}")).await.unwrap();
        session.agent("agent").unwrap().push("key", value(n)).await.unwrap();
    }
    rows.insert("new_user".to_owned(), batch.mean());
    users.shutdown().await.unwrap();

    let mut config = MeshConfig::default();
    config.cache_bytes = 0;
    let (users, _host, agent) = open(&folder.join("main"), config).await;
    rows.insert("uncached_get".to_owned(), get_each(&agent, 5_000).await);
    users.shutdown().await.unwrap();
    rows.extend(idle_costs(folder).await);
    let notes = [
        ("cached_get", "entry(): the stored entry, shared, after the permission check"),
        ("cached_value", "get(): decodes the JSON text each time"),
        ("get_all", "all(): the stored entries, shared"),
        ("get_all_values", "all(), and decodes each"),
        ("uncached_get", "get() with a cache of 0 bytes"),
        ("crowd", "64 tasks of one user"),
        ("new_user", "a new file"),
        ("idle_kib", "a file and an open session for each user, 8 connections for all"),
    ];
    Answer {
        rows,
        absent: BTreeMap::new(),
        notes: notes.map(|(row, note)| (row.to_owned(), note.to_owned())).into(),
        settings: "SQLite, journal_mode=wal, synchronous=2, a file for each user; not encrypted, no audit"
            .into(),
        versions: vec![format!("syntha {}", env!("CARGO_PKG_VERSION"))],
    }
}

async fn open(data: &Path, config: MeshConfig) -> (UserManager, HostAuthority, Agent) {
    let builder =
        UserManager::builder().sqlite(data).connections(CONNECTIONS).mesh(config).plain().no_audit();
    let (users, host) = builder.open().await.unwrap();
    let session = users.create_user_session(&host, "user").await.unwrap();
    let agent = session.agent("agent").unwrap();
    (users, host, agent)
}

/// The calls of a row: as many as fit the limit, and one before them that does not count.
struct Batch {
    times: u64,
    given: u64,
    start: Instant,
}

impl Batch {
    fn of(times: u64) -> Self {
        Self { times, given: 0, start: Instant::now() }
    }

    /// The number of the next call, if there is to be one.
    fn next(&mut self) -> Option<u64> {
        let number = self.given;
        if number == 1 {
            self.start = Instant::now();
        }
        let late = number > 1 && number.is_multiple_of(16) && self.start.elapsed() > LIMIT;
        if number > self.times || late {
            return None;
        }
        self.given += 1;
        Some(number)
    }

    /// Microseconds of a call, taken right after the last.
    fn mean(self) -> f64 {
        self.start.elapsed().as_secs_f64() * 1e6 / (self.given - 1) as f64
    }
}

async fn get_each(agent: &Agent, times: u64) -> f64 {
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    for key in &keys {
        agent.get::<String>(key).await.unwrap().unwrap();
    }
    let mut batch = Batch::of(times);
    while let Some(n) = batch.next() {
        black_box(agent.get::<String>(&keys[usize::try_from(n * 7 % KEYS).unwrap()]).await.unwrap());
    }
    batch.mean()
}

/// 64 agents push at once, over and over.
async fn crowd(first: &Agent, times: u64) -> f64 {
    let mut took = Duration::ZERO;
    for turn in 0..=times {
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        for n in 0..CROWD {
            let (agent, value) = (first.clone(), value((turn + 10) * CROWD * KEYS + n));
            tasks.spawn(async move { agent.push(key(n), value).await.unwrap() });
        }
        tasks.join_all().await;
        if turn > 0 {
            took += start.elapsed();
        }
    }
    took.as_secs_f64() * 1e6 / (times * CROWD) as f64
}

async fn idle_costs(folder: &Path) -> BTreeMap<String, f64> {
    let builder =
        UserManager::builder().sqlite(folder.join("idle")).connections(CONNECTIONS).plain().no_audit();
    let (users, host) = builder.open().await.unwrap();
    for n in 0..IDLE_USERS {
        let session = users.create_user_session(&host, format!("user-{n}")).await.unwrap();
        let agent = session.agent("agent").unwrap();
        let batch = (0..10).fold(agent.batch(), |batch, k| batch.push(format!("key-{k}"), value(k)));
        batch.commit().await.unwrap();
    }
    users.shutdown().await.unwrap();
    // A process of its own, so that what making the users left in the allocator does not count.
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.arg("--as-peer").arg("idle").arg(folder).arg(IDLE_USERS.to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Opens users who are there, reads a little of each, and prints what one costs beyond the first tenth.
async fn idle(folder: &Path, count: u64) {
    let builder =
        UserManager::builder().sqlite(folder.join("idle")).connections(CONNECTIONS).plain().no_audit();
    let (users, host) = builder.open().await.unwrap();
    let mut sessions: Vec<Session> = Vec::new();
    let (mut memory, mut descriptors) = (0.0, 0.0);
    for n in 0..count {
        if n == count / 10 {
            (memory, descriptors) = (crate::crowd::resident(), open_descriptors());
        }
        let session = users.open(&host, format!("user-{n}")).await.unwrap();
        let agent = session.agent("agent").unwrap();
        for k in 0..4 {
            assert_eq!(agent.get::<String>(format!("key-{k}")).await.unwrap(), Some(value(k)));
        }
        sessions.push(session);
    }
    let each = (count - count / 10) as f64;
    let costs = serde_json::json!({
        "idle_kib": (crate::crowd::resident() - memory).max(0.0) / 1024.0 / each,
        "idle_descriptors": (open_descriptors() - descriptors) / each,
    });
    println!("{costs}");
}

fn open_descriptors() -> f64 {
    std::fs::read_dir("/proc/self/fd").unwrap().count() as f64
}

fn key(n: u64) -> String {
    format!("key-{:04}", n % KEYS)
}

/// A value of 300 bytes that no other number has.
fn value(n: u64) -> String {
    format!("{n:012}{}", "x".repeat(288))
}
