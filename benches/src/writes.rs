//! Rows that write, one caller or 64.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use syntha::{Agent, UserManager};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::bare::{Bare, plain_user, value};
use crate::pair::Report;

const PUSHES: u64 = 400;
const CROWD: u64 = 64;

pub(crate) async fn run(report: &mut Report) {
    one(report).await;
    agents(report).await;
    users(report).await;
    new_user(report).await;
}

async fn one(report: &mut Report) {
    let folder = tempfile::tempdir().unwrap();
    let builder = UserManager::builder().sqlite(folder.path().join("data"));
    let (_users, _host, mesh) = plain_user(builder).await;
    let agent = mesh.agent("agent").unwrap();
    let engine = Arc::new(Mutex::new(Bare::open(&folder.path().join("bare.db")).await));
    let bare = |round| {
        let engine = Arc::clone(&engine);
        async move {
            let mut engine = engine.lock().await;
            for n in 0..PUSHES {
                engine.upsert(&format!("key-{}", n % 100), &value(round * PUSHES + n)).await;
            }
            PUSHES
        }
    };
    let ours = |round| {
        let agent = agent.clone();
        async move {
            for n in 0..PUSHES {
                agent.push(format!("key-{}", n % 100), value(round * PUSHES + n)).await.unwrap();
            }
            PUSHES
        }
    };
    report.pair("durable push", "≤ 1.2×", bare, ours).await;
}

async fn agents(report: &mut Report) {
    let folder = tempfile::tempdir().unwrap();
    let builder = UserManager::builder().sqlite(folder.path().join("data"));
    let (_users, _host, mesh) = plain_user(builder).await;
    let agents: Vec<Agent> = (0..CROWD).map(|n| mesh.agent(format!("agent-{n}")).unwrap()).collect();
    let agents = Arc::new(agents);
    let engine = Arc::new(Mutex::new(Bare::open(&folder.path().join("bare.db")).await));
    let bare = |round: u64| {
        let engine = Arc::clone(&engine);
        async move {
            let mut engine = engine.lock().await;
            for turn in 0..10 {
                let number = |n| (round * 10 + turn) * CROWD + n;
                let rows: Vec<_> = (0..CROWD).map(|n| (format!("key-{n}"), value(number(n)))).collect();
                engine.upsert_all(&rows).await;
            }
            10 * CROWD
        }
    };
    let at_once = |round: u64| {
        let agents = Arc::clone(&agents);
        async move {
            for turn in 0..10 {
                all_push(&agents, (round * 10 + turn) * CROWD).await;
            }
            10 * CROWD
        }
    };
    report.pair("64 agents at once, a push", "≤ 1.5× the bare 64-row statement", bare, at_once).await;
    let by_one = |round: u64| {
        let agents = Arc::clone(&agents);
        async move {
            for (n, agent) in (0..).zip(&*agents) {
                let value = value((1 << 32) + round * CROWD + n);
                agent.push(format!("key-{n}"), value).await.unwrap();
            }
            CROWD
        }
    };
    let at_once = |round: u64| {
        let agents = Arc::clone(&agents);
        async move {
            for turn in 0..10 {
                all_push(&agents, (1 << 33) + (round * 10 + turn) * CROWD).await;
            }
            10 * CROWD
        }
    };
    report
        .pair("64 agents at once, by one", "≤ 0.05× (20 times faster than one by one)", by_one, at_once)
        .await;
}

pub(crate) async fn all_push(agents: &[Agent], base: u64) {
    let mut tasks = JoinSet::new();
    for (n, agent) in (0..).zip(agents) {
        let agent = agent.clone();
        tasks.spawn(async move { agent.push(format!("key-{n}"), value(base + n)).await.unwrap() });
    }
    tasks.join_all().await;
}

async fn users(report: &mut Report) {
    let name = "64 users at once, a push";
    if !report.wants(name) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (users, host) =
        UserManager::builder().sqlite(folder.path().join("data")).plain().no_audit().open().await.unwrap();
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
    report.pair(name, "≤ 1.11× (0.9 of bare's rate)", bare, ours).await;
    users.shutdown().await.unwrap();
}

/// A new user's session and first push, beside a bare file of the same size that is written, synced and published.
async fn new_user(report: &mut Report) {
    let name = "new user, first push";
    if !report.wants(name) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (users, host) =
        UserManager::builder().sqlite(folder.path().join("data")).plain().no_audit().open().await.unwrap();
    let (mut mine, mut bares) = (Vec::new(), Vec::new());
    let mut size = 0;
    for n in 0..u64::from(report.pairs) * 10 + 10 {
        let start = Instant::now();
        let session = users.create_user_session(&host, format!("user-{n}")).await.unwrap();
        session.agent("agent").unwrap().push("key", value(n)).await.unwrap();
        let took = start.elapsed().as_secs_f64() * 1e6;
        if size == 0 {
            size = largest(&folder.path().join("data").join("users"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        let start = Instant::now();
        publish(folder.path(), n, size);
        let bare = start.elapsed().as_secs_f64() * 1e6;
        // New users come one at a time.
        tokio::time::sleep(Duration::from_millis(5)).await;
        if n >= 10 {
            mine.push(took);
            bares.push(bare);
        }
    }
    let note = format!("{size} bytes, single samples");
    report.add(name, "µs", &mine, Some(&bares), "≤ 2×", note);
    users.shutdown().await.unwrap();
}

pub(crate) fn largest(folder: &Path) -> usize {
    let mut most = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let size = if path.is_dir() {
            largest(&path)
        } else {
            usize::try_from(path.metadata().unwrap().len()).unwrap()
        };
        most = most.max(size);
    }
    most
}

/// What any store has to do that spreads its files over folders of two levels: the folders if they are new, a private file,
/// its sync, its link under the final name, the folder's sync, and the syncs of the folders above if the folder is new.
fn publish(folder: &Path, number: u64, size: usize) {
    let bytes = vec![u8::try_from(number % 251).unwrap(); size];
    // Spread as tags are, so that the folder is as often a new one.
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (first, second) = (spread >> 59, (spread >> 54) % 32);
    let above = folder.join("bare").join(format!("{first:02}"));
    let shard = above.join(format!("{second:02}"));
    let is_new = !shard.exists();
    std::fs::create_dir_all(&shard).unwrap();
    let (new, last) = (shard.join(format!("{number}.new")), shard.join(format!("{number}.db")));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    file.sync_all().unwrap();
    std::fs::hard_link(&new, &last).unwrap();
    std::fs::remove_file(&new).unwrap();
    let sync = |folder: &Path| std::fs::File::open(folder).unwrap().sync_all().unwrap();
    sync(&shard);
    if is_new {
        sync(&above);
        sync(&folder.join("bare"));
    }
}
