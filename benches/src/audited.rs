//! What the audit trail costs, as a host gets it that asks for one and nothing more: reads and writes are told, checkpoints are signed with a
//! key file beside the data, nobody else is told.
//!
//! *Bare* is what the row's name or budget says: the same work without a trail, or the engine by itself.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use syntha::trail::link::{details_hash, genesis, link_hash};
use syntha::trail::trail::{Item, TrailReader};
use syntha::trail::verify::{TrustedKeys, Verifier};
use syntha::{Agent, Audit, AuditScope, HostAuthority, UserId, UserManager};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::bare::{Bare, value};
use crate::pair::Report;
use crate::writes::all_push;

/// Pushes of a turn, and turns of half a pair.
const PUSHES: u64 = 20;
const TURNS: u64 = 20;
const KEYS: u64 = 1_000;
const READS: u64 = 200_000;
const CROWD: u64 = 64;
const LINKS: u64 = 20_000;
const USERS: u64 = 64;
const CONNECTIONS: usize = 8;

pub(crate) async fn run(report: &mut Report) {
    pushes(report).await;
    reads(report).await;
    crowd(report).await;
    users(report).await;
    open_again(report).await;
    verifier(report).await;
}

/// What a deployment is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layers {
    Plain,
    Audited,
    Sealed,
    SealedAndAudited,
}

/// A deployment in a folder of its own, with a user who has an agent.
struct Place {
    folder: tempfile::TempDir,
    users: UserManager,
    host: HostAuthority,
    agent: Agent,
}

impl Place {
    async fn new(layers: Layers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (users, host) = open(folder.path(), layers).await;
        let agent = users.create_user_session(&host, "user").await.unwrap().agent("agent").unwrap();
        Self { folder, users, host, agent }
    }

    async fn close(self) {
        drop((self.agent, self.host));
        self.users.shutdown().await.unwrap();
    }
}

async fn open(folder: &Path, layers: Layers) -> (UserManager, HostAuthority) {
    // The key files lie beside the data.
    let builder = UserManager::builder().sqlite(folder.join("data")).connections(CONNECTIONS);
    let builder = match layers {
        Layers::Plain | Layers::Audited => builder.plain(),
        Layers::Sealed | Layers::SealedAndAudited => builder,
    };
    let builder = match layers {
        Layers::Plain | Layers::Sealed => builder.no_audit(),
        Layers::Audited | Layers::SealedAndAudited => builder.audit(Audit::default()),
    };
    builder.open().await.unwrap()
}

/// One by one: the same keys again and again.
fn push_each(agent: &Agent) -> impl FnMut(u64) -> std::pin::Pin<Box<dyn Future<Output = u64> + Send>> {
    let agent = agent.clone();
    move |round| {
        let agent = agent.clone();
        Box::pin(async move {
            for n in 0..PUSHES {
                agent
                    .push(format!("key-{}", (round * PUSHES + n) % 100), value(round * PUSHES + n))
                    .await
                    .unwrap();
            }
            PUSHES
        })
    }
}

async fn pushes(report: &mut Report) {
    for (name, budget, bare, ours) in [
        ("durable push, audited", "≤ 1.15× without a trail", Layers::Plain, Layers::Audited),
        (
            "durable push, sealed, audited",
            "shown: beside sealed alone",
            Layers::Sealed,
            Layers::SealedAndAudited,
        ),
    ] {
        if report.wants(name) {
            let (bare, ours) = (Place::new(bare).await, Place::new(ours).await);
            report.pair_of(TURNS, name, budget, push_each(&bare.agent), push_each(&ours.agent)).await;
            bare.close().await;
            ours.close().await;
        }
    }
    let name = "sealed, audited push by bare";
    if !report.wants(name) {
        return;
    }
    let ours = Place::new(Layers::SealedAndAudited).await;
    let engine = Arc::new(Mutex::new(Bare::open(&ours.folder.path().join("bare.db")).await));
    let bare = |round| {
        let engine = Arc::clone(&engine);
        async move {
            let mut engine = engine.lock().await;
            for n in 0..PUSHES {
                let number = round * PUSHES + n;
                engine.upsert(&format!("key-{}", number % 100), &value(number)).await;
            }
            PUSHES
        }
    };
    report.pair_of(TURNS, name, "≤ 1.4× the bare engine", bare, push_each(&ours.agent)).await;
    ours.close().await;
}

/// Reads of 1,000 keys by turns, so that no two in a row are told as one. They are committed meanwhile, a thousand in a link.
async fn reads(report: &mut Report) {
    for (name, layers) in
        [("cached get, audited", Layers::Audited), ("cached get, sealed, audited", Layers::SealedAndAudited)]
    {
        if !report.wants(name) {
            continue;
        }
        let (bare, ours) = (Place::new(Layers::Plain).await, Place::new(layers).await);
        let keys: Arc<Vec<_>> = Arc::new((0..KEYS).map(|n| format!("key-{n:04}")).collect());
        for agent in [&bare.agent, &ours.agent] {
            for (n, key) in (0..).zip(&*keys) {
                agent.push(key.as_str(), value(n)).await.unwrap();
            }
        }
        let [unaudited, audited] = [&bare.agent, &ours.agent].map(|agent| {
            let (agent, keys) = (agent.clone(), Arc::clone(&keys));
            move |_| {
                let (agent, keys) = (agent.clone(), Arc::clone(&keys));
                async move {
                    for n in 0..READS {
                        let key = &keys[usize::try_from(n * 7 % KEYS).unwrap()];
                        black_box(agent.entry(key).await.unwrap().unwrap());
                    }
                    READS
                }
            }
        });
        report.pair(name, "≤ 0.5× the Python Syntha's get (`--peers`)", unaudited, audited).await;
        bare.close().await;
        ours.close().await;
    }
}

async fn crowd(report: &mut Report) {
    let (beside, by_one) = ("64 agents, sealed, audited", "64 agents, sealed, audited, by one");
    if !report.wants(by_one) {
        return;
    }
    let place = Place::new(Layers::SealedAndAudited).await;
    let session = place.users.create_user_session(&place.host, "crowd").await.unwrap();
    let agents: Vec<Agent> = (0..CROWD).map(|n| session.agent(format!("agent-{n}")).unwrap()).collect();
    let agents = Arc::new(agents);
    let engine = Arc::new(Mutex::new(Bare::open(&place.folder.path().join("bare.db")).await));
    let statement = |round: u64| {
        let engine = Arc::clone(&engine);
        async move {
            let mut engine = engine.lock().await;
            let rows: Vec<_> = (0..CROWD).map(|n| (format!("key-{n}"), value(round * CROWD + n))).collect();
            engine.upsert_all(&rows).await;
            CROWD
        }
    };
    let at_once = |from: u64| {
        let agents = Arc::clone(&agents);
        move |round: u64| {
            let agents = Arc::clone(&agents);
            async move {
                all_push(&agents, from + round * CROWD).await;
                CROWD
            }
        }
    };
    let one_by_one = |round: u64| {
        let agents = Arc::clone(&agents);
        async move {
            for (n, agent) in (0..).zip(&*agents) {
                agent.push(format!("key-{n}"), value((1 << 32) + round * CROWD + n)).await.unwrap();
            }
            CROWD
        }
    };
    report.pair_of(TURNS, beside, "≤ 3× the bare 64-row statement", statement, at_once(0)).await;
    report
        .pair_of(
            TURNS / 5,
            by_one,
            "≤ 0.083× (12 times faster than one by one)",
            one_by_one,
            at_once(1 << 33),
        )
        .await;
    drop((agents, session));
    place.close().await;
}

/// Each user's own engine beside it.
async fn users(report: &mut Report) {
    let name = "64 users, sealed, audited";
    if !report.wants(name) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let builder = UserManager::builder().sqlite(folder.path().join("data")).audit(Audit::default());
    let (users, host) = builder.open().await.unwrap();
    let (mut agents, mut engines) = (Vec::new(), Vec::new());
    for n in 0..CROWD {
        let session = users.create_user_session(&host, format!("user-{n}")).await.unwrap();
        agents.push(session.agent("agent").unwrap());
        engines.push(Arc::new(Mutex::new(Bare::open(&folder.path().join(format!("bare-{n}.db"))).await)));
    }
    let bare = |round: u64| {
        let engines: Vec<_> = engines.to_vec();
        async move {
            let mut tasks = JoinSet::new();
            for engine in engines {
                tasks.spawn(async move {
                    let mut engine = engine.lock().await;
                    for n in 0..20 {
                        engine.upsert(&format!("key-{n}"), &value(round * 20 + n)).await;
                    }
                });
            }
            tasks.join_all().await;
            20 * CROWD
        }
    };
    let ours = |round: u64| {
        let agents: Vec<_> = agents.to_vec();
        async move {
            let mut tasks = JoinSet::new();
            for agent in agents {
                tasks.spawn(async move {
                    for n in 0..20 {
                        agent.push(format!("key-{n}"), value(round * 20 + n)).await.unwrap();
                    }
                });
            }
            tasks.join_all().await;
            20 * CROWD
        }
    };
    report.pair(name, "≤ 1.25× (0.8 of bare's rate)", bare, ours).await;
    users.shutdown().await.unwrap();
}

/// A user who is opened for the first time since the deployment was: where the trail ends, and what the log says of it, is looked at first.
async fn open_again(report: &mut Report) {
    let name = "open a user and get, audited";
    if !report.wants(name) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..=report.pairs {
        for (layers, took) in [Layers::Plain, Layers::Audited].into_iter().zip(&mut took) {
            let place = folder.path().join(if layers == Layers::Plain { "plain" } else { "audited" });
            std::fs::create_dir_all(&place).unwrap();
            let (users, host) = open(&place, layers).await;
            for n in (0..USERS).take_while(|_| round == 0) {
                let session = users.create_user_session(&host, format!("user-{n}")).await.unwrap();
                session.agent("agent").unwrap().push("key", value(n)).await.unwrap();
            }
            let start = Instant::now();
            for n in 0..USERS {
                let session = users.open(&host, format!("user-{n}")).await.unwrap();
                black_box(session.agent("agent").unwrap().entry("key").await.unwrap().unwrap());
            }
            let each = start.elapsed().as_secs_f64() * 1e6 / USERS as f64;
            if round > 0 {
                took.push(each);
            }
            drop(host);
            users.shutdown().await.unwrap();
        }
    }
    let [bare, ours] = took;
    report.add(name, "µs", &ours, Some(&bare), "shown: beside no trail", format!("{USERS} users"));
}

/// The links of one user's trail as an export has them, taken out of their JSON before, beside nothing but their hashes.
async fn verifier(report: &mut Report) {
    let name = "verify a link, audited";
    if !report.wants(name) {
        return;
    }
    let (users, host) = UserManager::builder().memory().plain().audit(Audit::default()).open().await.unwrap();
    let session = users.create_user_session(&host, "user").await.unwrap();
    let agent = session.agent("agent").unwrap();
    for n in 0..LINKS {
        agent.push(format!("key-{}", n % KEYS), value(n)).await.unwrap();
    }
    let mut file = Vec::new();
    let scope = AuditScope::User(UserId::new("user").unwrap());
    users.audit().unwrap().export(&scope, false, &mut file).await.unwrap();
    drop((agent, session, host));
    users.shutdown().await.unwrap();
    let mut reader = TrailReader::new(&*file);
    let mut items = Vec::new();
    while let Some(line) = reader.line().unwrap() {
        let item = line.item.unwrap();
        if matches!(item, Item::Trail(_) | Item::Link { .. } | Item::End(_)) {
            items.push(item);
        }
    }
    let (items, mut took) = (Arc::new(items), [Vec::new(), Vec::new()]);
    let mut bytes = 0;
    for round in 0..=report.pairs {
        let start = Instant::now();
        let (mut head, mut links) = ([0; 32], 0_u64);
        for item in &*items {
            match item {
                Item::Trail(header) => head = genesis(&header.deployment, &header.owner),
                Item::Link { stored, .. } => {
                    if let Some((salt, details)) = &stored.details {
                        black_box(details_hash(salt, details));
                        bytes += details.len();
                    }
                    head = link_hash(&head, &stored.text);
                    (links, bytes) = (links + 1, bytes + stored.text.len());
                }
                _ => {}
            }
        }
        let bare = start.elapsed().as_secs_f64() * 1e6 / links as f64;
        // A verifier takes what the reader has read.
        let given = items.to_vec();
        let start = Instant::now();
        let mut verifier = Verifier::new(TrustedKeys::default());
        for item in given {
            verifier.item(item);
        }
        let verified = verifier.finish();
        let ours = start.elapsed().as_secs_f64() * 1e6 / links as f64;
        assert_eq!((verified.users[0].head, verified.users[0].to), (head, links));
        assert!(verified.users[0].findings.is_empty() && links >= LINKS);
        if round > 0 {
            took[0].push(bare);
            took[1].push(ours);
        }
    }
    let [bare, ours] = took;
    let each = bytes as u64 / u64::from(report.pairs + 1) / LINKS;
    let note = format!("{LINKS} links of a push, {each} bytes each with their details");
    report.add(name, "µs", &ours, Some(&bare), "≤ 2× (0.5 of a bare SHA-256 chain's rate)", note);
}
