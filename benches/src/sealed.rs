//! What sealing costs: the same work on a sealed deployment and on a plain one, and the seal by itself beside the bare cipher.
//!
//! *Bare* is the plain deployment, but for the first row.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use syntha::keys::SecretKey;
use syntha::keys::envelope::{Algorithm, Binding, Content, RecordBinding, seal};
use syntha::store::{Incarnation, Version};
use syntha::{Agent, Filter, HostAuthority, MeshConfig, UserManager};

use crate::bare::value;
use crate::pair::Report;
use crate::writes::{all_push, largest};

const SEALS: u64 = 20_000;
const PUSHES: u64 = 400;
const KEYS: u64 = 1_000;
const READS: u64 = 200_000;
const COLD_READS: u64 = 2_000;
const CROWD: u64 = 64;

pub(crate) async fn run(report: &mut Report) {
    seals(report).await;
    pushes(report).await;
    reads(report).await;
    crowd(report).await;
    new_user(report).await;
    load(report).await;
    rotation(report).await;
}

/// A deployment: sealed with a key file beside it, or plain.
async fn open(folder: &Path, sealed: bool, config: MeshConfig) -> (UserManager, HostAuthority) {
    // The key file lies beside the data.
    std::fs::create_dir_all(folder).unwrap();
    let builder = UserManager::builder().sqlite(folder.join("data")).mesh(config).no_audit();
    let builder = if sealed { builder } else { builder.plain() };
    builder.open().await.unwrap()
}

/// A plain deployment and a sealed one, with a user each.
struct Two {
    folder: tempfile::TempDir,
    users: [(UserManager, HostAuthority); 2],
    agents: [Agent; 2],
}

impl Two {
    async fn new(config: &MeshConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plain = open(&folder.path().join("plain"), false, config.clone()).await;
        let sealed = open(&folder.path().join("sealed"), true, config.clone()).await;
        let users = [plain, sealed];
        let mut agents = Vec::new();
        for (users, host) in &users {
            let session = users.create_user_session(host, "user").await.unwrap();
            agents.push(session.agent("agent").unwrap());
        }
        Self { folder, users, agents: agents.try_into().unwrap() }
    }

    async fn fill(&self, count: u64) {
        for agent in &self.agents {
            for n in 0..count {
                agent.push(format!("key-{n:04}"), value(n)).await.unwrap();
            }
        }
    }

    async fn close(self) {
        for (users, host) in self.users {
            drop(host);
            users.shutdown().await.unwrap();
        }
    }
}

/// A record of 1 KiB, beside what AES-256-GCM costs: a cipher for a new key, a nonce from the system, associated data of the same length.
async fn seals(report: &mut Report) {
    let name = "seal 1 KiB (bare: AES-256-GCM)";
    if !report.wants(name) {
        return;
    }
    let content = [7; 1_024];
    let record = RecordBinding {
        deployment: &[1; 16],
        owner: &[2; 32],
        life: Incarnation(3),
        space: 2,
        name: &[4; 32],
        seq: 0,
        version: Version(5),
        body_version: Version(5),
        expires: None,
        extra: &[6; 16],
    };
    let binding = Binding::Body(record);
    let length = binding.associated_data(Algorithm::Record, 1).unwrap().len();
    let (associated, key) = (vec![0; length], SecretKey::generate().unwrap());
    let bare = |_| {
        let (associated, key) = (associated.clone(), key.clone());
        async move {
            for _ in 0..SEALS {
                let mut buffer = content;
                let mut nonce = Nonce::default();
                getrandom::fill(&mut nonce).unwrap();
                let cipher = Aes256Gcm::new_from_slice(key.as_bytes()).unwrap();
                let tag = cipher.encrypt_inout_detached(&nonce, &associated, buffer.as_mut_slice().into());
                black_box((&buffer, tag.unwrap()));
            }
            SEALS
        }
    };
    let ours = |_| {
        let key = key.clone();
        async move {
            for _ in 0..SEALS {
                let content = Content::Padded(&[&content]);
                black_box(seal(&key, Algorithm::Record, 1, &binding, content).unwrap());
            }
            SEALS
        }
    };
    report.pair(name, "≤ 3×", bare, ours).await;
}

async fn pushes(report: &mut Report) {
    let name = "durable push, sealed";
    if !report.wants(name) {
        return;
    }
    let two = Two::new(&MeshConfig::default()).await;
    let [bare, ours] = two.agents.clone().map(|agent| {
        move |round: u64| {
            let agent = agent.clone();
            async move {
                for n in 0..PUSHES {
                    agent.push(format!("key-{}", n % 100), value(round * PUSHES + n)).await.unwrap();
                }
                PUSHES
            }
        }
    });
    report.pair(name, "≤ 1.25×", bare, ours).await;
    two.close().await;
}

async fn reads(report: &mut Report) {
    let (cached, cold) = ("cached get, sealed", "get, value not in the cache, sealed");
    for (name, reads, cache, budget) in
        [(cached, READS, None, "≤ 1.1×"), (cold, COLD_READS, Some(0), "≤ 1.5×")]
    {
        if !report.wants(name) {
            continue;
        }
        let mut config = MeshConfig::default();
        config.cache_bytes = cache.unwrap_or(config.cache_bytes);
        let two = Two::new(&config).await;
        two.fill(KEYS).await;
        let keys: Arc<Vec<_>> = Arc::new((0..KEYS).map(|n| format!("key-{n:04}")).collect());
        let [bare, ours] = two.agents.clone().map(|agent| {
            let keys = Arc::clone(&keys);
            move |_| {
                let (agent, keys) = (agent.clone(), Arc::clone(&keys));
                async move {
                    for n in 0..reads {
                        let key = &keys[usize::try_from(n * 7 % KEYS).unwrap()];
                        black_box(agent.entry(key).await.unwrap().unwrap().json());
                    }
                    reads
                }
            }
        });
        report.pair(name, budget, bare, ours).await;
        two.close().await;
    }
}

async fn crowd(report: &mut Report) {
    let name = "64 agents at once, a push, sealed";
    if !report.wants(name) {
        return;
    }
    let two = Two::new(&MeshConfig::default()).await;
    let mut crowds = Vec::new();
    for (users, host) in &two.users {
        let session = users.create_user_session(host, "user").await.unwrap();
        let agents: Vec<_> = (0..CROWD).map(|n| session.agent(format!("agent-{n}")).unwrap()).collect();
        crowds.push(Arc::new(agents));
    }
    let crowds: [Arc<Vec<Agent>>; 2] = crowds.try_into().unwrap();
    let [bare, ours] = crowds.map(|agents| {
        move |round: u64| {
            let agents = Arc::clone(&agents);
            async move {
                for turn in 0..10 {
                    all_push(&agents, (round * 10 + turn) * CROWD).await;
                }
                10 * CROWD
            }
        }
    });
    report.pair(name, "≤ 1.5×", bare, ours).await;
    two.close().await;
}

/// A new user's session and first push.
async fn new_user(report: &mut Report) {
    let name = "new user, first push, sealed";
    if !report.wants(name) {
        return;
    }
    let two = Two::new(&MeshConfig::default()).await;
    let mut took = [Vec::new(), Vec::new()];
    for n in 0..u64::from(report.pairs) * 10 + 10 {
        for ((users, host), took) in two.users.iter().zip(&mut took) {
            let start = Instant::now();
            let session = users.create_user_session(host, format!("user-{n}")).await.unwrap();
            session.agent("agent").unwrap().push("key", value(n)).await.unwrap();
            if n >= 10 {
                took.push(start.elapsed().as_secs_f64() * 1e6);
            }
            // New users come one at a time.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let [bare, ours] = took;
    let size = largest(&two.folder.path().join("sealed/data/users"));
    report.add(
        name,
        "µs",
        &ours,
        Some(&bare),
        "one durable commit more: the keys",
        format!("{size} bytes, single samples"),
    );
    two.close().await;
}

/// The first look at a user who has 1,000 entries, in a deployment that was just opened.
async fn load(report: &mut Report) {
    let name = "load a user of 1,000 entries, sealed";
    if !report.wants(name) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..=report.pairs {
        for (place, took) in ["plain", "sealed"].into_iter().zip(&mut took) {
            let (users, host) =
                open(&folder.path().join(place), place == "sealed", MeshConfig::default()).await;
            if round == 0 {
                let agent = users.create_user_session(&host, "user").await.unwrap().agent("agent").unwrap();
                for n in 0..KEYS {
                    agent.push(format!("key-{n:04}"), value(n)).await.unwrap();
                }
            }
            let start = Instant::now();
            let session = users.create_user_session(&host, "user").await.unwrap();
            let keys = session.agent("agent").unwrap().keys(&Filter::new()).await.unwrap();
            let elapsed = start.elapsed().as_secs_f64() * 1e6;
            assert_eq!(keys.len() as u64, KEYS);
            if round > 0 {
                took.push(elapsed);
            }
            drop((session, host));
            users.shutdown().await.unwrap();
        }
    }
    let [bare, ours] = took;
    report.add(name, "µs", &ours, Some(&bare), "≤ 3 ms more", String::new());
}

/// How many records are sealed again in a second while a user's keys are rotated and nobody else writes.
async fn rotation(report: &mut Report) {
    let name = "rotation of a user's keys";
    if !report.wants(name) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (users, host) = open(folder.path(), true, MeshConfig::default()).await;
    let session = users.create_user_session(&host, "user").await.unwrap();
    let agent = session.agent("agent").unwrap();
    for n in 0..KEYS {
        agent.push(format!("key-{n:04}"), value(n)).await.unwrap();
    }
    let mut rates = Vec::new();
    for _ in 0..report.pairs {
        let start = Instant::now();
        users.rotate_keys("user", |_| {}).await.unwrap();
        rates.push(KEYS as f64 / start.elapsed().as_secs_f64());
    }
    report.add(
        name,
        "records/s",
        &rates,
        None,
        "≥ 5,000",
        "1,000 records, with what begins and ends it".to_owned(),
    );
    drop((agent, session, host));
    users.shutdown().await.unwrap();
}
