//! Random operations of many users: nothing of one user stands in anything that another gets, nor in another's file.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints the seed, and its row of evidence")]

mod random_world;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use syntha::MeshConfig;
use syntha::postgres::Mode;
use syntha::sqlite::SqliteConfig;
use syntha_conformance::{Harness, broken};
use syntha_mesh::Fault;
use syntha_tests::{Server, count, modes};

use crate::random_world::{Ground, Logs, Sealing, USERS, World, canaries, canary, op};

const OPS_A_CASE: usize = 400;

static LOGS: OnceLock<Logs> = OnceLock::new();

#[test]
fn leakage_under_random_operations() {
    search("SQLite", None, count("SYNTHA_LEAKAGE_OPS", 4_000));
}

#[test]
fn leakage_on_postgres_under_random_operations() {
    for mode in modes(Mode::Rls) {
        search(&format!("PostgreSQL ({mode:?})"), Some(mode), count("SYNTHA_POSTGRES_LEAKAGE_OPS", 400));
    }
}

fn search(place: &str, walls: Option<Mode>, ops: u64) {
    let logs = Logs::default();
    let sink = logs.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || sink.clone());
    // The process's, for threads of runtimes too. A second mode of one test writes into the first one's.
    let first = LOGS.get_or_init(|| {
        subscriber.init();
        logs
    });
    let logs = first;
    let cases = u32::try_from(ops.div_ceil(OPS_A_CASE as u64)).unwrap();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 64, ..Config::default() };
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed: u64 = std::env::var("SYNTHA_SEED").map_or_else(|_| now(), |seed| seed.parse().unwrap());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    println!("SYNTHA_SEED={seed} repeats this run");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let seen = AtomicU64::new(0);
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
        .run(&(any::<bool>(), prop::collection::vec(op(USERS), OPS_A_CASE)), |(sealed, ops)| {
            let folder = tempfile::tempdir().unwrap();
            let sealing = if sealed { Sealing::Unsaid } else { Sealing::Plain };
            runtime.block_on(async {
                let data = folder.path().join("data");
                let mut world = match walls {
                    None => World::new(&data, sealing).await,
                    Some(mode) => {
                        let plain = sealing == Sealing::Plain;
                        let prepare =
                            |builder: syntha::Builder| if plain { builder.plain() } else { builder };
                        World::on_server(&data, Arc::new(Server::start(mode, prepare).await), sealing).await
                    }
                };
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
    println!("evidence: {place}, {ops} operations, {seen} answers searched, 0 foreign canaries, seed {seed}");
}

/// Runs random worlds on something broken until one shows something of another user.
fn crosses(ground: impl Fn(&Path) -> Ground, mesh: &MeshConfig, sign: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::deterministic();
    let ops = prop::collection::vec(op(USERS), OPS_A_CASE);
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
