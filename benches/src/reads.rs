//! Rows that only read.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, RwLock};

use syntha::{Filter, MeshConfig, UserManager};
use tokio::sync::Mutex;

use crate::bare::{Bare, plain_user, value};
use crate::pair::Report;

const KEYS: u64 = 1_000;
const READS: u64 = 200_000;
const COLD_READS: u64 = 2_000;

pub(crate) async fn run(report: &mut Report) {
    if report.wants("cached get") || report.wants("get all of 1,000") {
        cached(report).await;
    }
    if report.wants("cached get, shared root") {
        shared(report).await;
    }
    if report.wants("get, value not in the cache") {
        uncached(report).await;
    }
}

async fn cached(report: &mut Report) {
    let folder = tempfile::tempdir().unwrap();
    let builder = UserManager::builder().sqlite(folder.path().join("data"));
    let (_users, _host, session) = plain_user(builder).await;
    let agent = session.agent("agent").unwrap();
    let map: Arc<RwLock<HashMap<String, Arc<str>>>> = Arc::default();
    let keys: Arc<Vec<_>> = Arc::new((0..KEYS).map(|n| format!("key-{n:04}")).collect());
    for (n, key) in (0..).zip(&*keys) {
        agent.push(key.as_str(), value(n)).await.unwrap();
        map.write().unwrap().insert(key.clone(), value(n).into());
    }
    let place = |n: u64| usize::try_from(n * 7 % KEYS).unwrap();
    let bare = |_| {
        let (map, keys) = (Arc::clone(&map), Arc::clone(&keys));
        async move {
            for n in 0..READS {
                black_box(map.read().unwrap().get(&keys[place(n)]).cloned());
            }
            READS
        }
    };
    let ours = |_| {
        let (agent, keys) = (agent.clone(), Arc::clone(&keys));
        async move {
            for n in 0..READS {
                black_box(agent.entry(&keys[place(n)]).await.unwrap());
            }
            READS
        }
    };
    report.pair("cached get", "≤ 4×", bare, ours).await;
    let bare = |_| {
        let map = Arc::clone(&map);
        async move {
            for _ in 0..50 {
                black_box(map.read().unwrap().values().cloned().collect::<Vec<_>>());
            }
            50
        }
    };
    let ours = |_| {
        let agent = agent.clone();
        async move {
            for _ in 0..50 {
                let all = agent.all(&Filter::new()).await.unwrap();
                assert_eq!(all.len() as u64, KEYS);
                black_box(all);
            }
            50
        }
    };
    report.pair("get all of 1,000", "≤ 3×", bare, ours).await;
}

/// The same read in a folder that other processes may write to. *Bare* is the read of a folder that is this process's own.
async fn shared(report: &mut Report) {
    let folder = tempfile::tempdir().unwrap();
    let keys: Arc<Vec<_>> = Arc::new((0..KEYS).map(|n| format!("key-{n:04}")).collect());
    let own = plain_user(UserManager::builder().sqlite(folder.path().join("own"))).await;
    let beside = plain_user(UserManager::builder().sqlite_shared(folder.path().join("shared"))).await;
    let agents = [own.2.agent("agent").unwrap(), beside.2.agent("agent").unwrap()];
    for agent in &agents {
        for (n, key) in (0..).zip(&*keys) {
            agent.push(key.as_str(), value(n)).await.unwrap();
        }
    }
    let place = |n: u64| usize::try_from(n * 7 % KEYS).unwrap();
    let [bare, ours] = agents.map(|agent| {
        let keys = Arc::clone(&keys);
        move |_| {
            let (agent, keys) = (agent.clone(), Arc::clone(&keys));
            async move {
                for n in 0..READS {
                    black_box(agent.entry(&keys[place(n)]).await.unwrap());
                }
                READS
            }
        }
    });
    report.pair("cached get, shared root", "≤ 1 µs more", bare, ours).await;
}

async fn uncached(report: &mut Report) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = MeshConfig::default();
    config.cache_bytes = 0;
    let users = UserManager::builder()
        .sqlite(folder.path().join("data"))
        .mesh(config)
        .plain()
        .no_audit()
        .open()
        .await;
    let (users, host) = users.unwrap();
    let session = users.create_user_session(&host, "user").await.unwrap();
    let agent = session.agent("agent").unwrap();
    let mut engine = Bare::open(&folder.path().join("bare.db")).await;
    for n in 0..KEYS {
        agent.push(format!("key-{n:04}"), value(n)).await.unwrap();
        engine.upsert(&format!("key-{n:04}"), &value(n)).await;
    }
    let engine = Arc::new(Mutex::new(engine));
    let bare = |_| {
        let engine = Arc::clone(&engine);
        async move {
            let mut engine = engine.lock().await;
            for n in 0..COLD_READS {
                black_box(engine.read(&format!("key-{:04}", n * 7 % KEYS)).await);
            }
            COLD_READS
        }
    };
    let ours = |_| {
        let agent = agent.clone();
        async move {
            for n in 0..COLD_READS {
                black_box(agent.entry(format!("key-{:04}", n * 7 % KEYS)).await.unwrap());
            }
            COLD_READS
        }
    };
    report.pair("get, value not in the cache", "≤ 1.3×", bare, ours).await;
    users.shutdown().await.unwrap();
}
