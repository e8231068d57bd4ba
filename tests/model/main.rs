//! Random operations of several users, on Syntha and on a model of it in plain maps: every answer is the model's.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints the seed, and its row of evidence")]
#![allow(clippy::format_push_string, clippy::format_collect, reason = "answers are compared as text")]
#![allow(unreachable_pub, reason = "its modules are this program's alone")]

mod answer;
mod ask;
mod drive;
mod op;
mod reference;
mod reference_history;
mod reference_undo;
mod watching;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use op::{Act, Op, op};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use syntha::MeshConfig;
use syntha::postgres::Mode;
use syntha::store::MemoryStore;
use syntha_mesh::Fault;
use syntha_tests::{Server, count, modes};
use world::{Found, Ground, World};

const OPS_A_CASE: usize = 300;

async fn run(ground: Ground, config: MeshConfig, ops: &[Op]) -> Found {
    let mut world = World::new(ground, config).await;
    for (place, op) in ops.iter().enumerate() {
        world.apply(op).await.map_err(|found| format!("at operation {place}, {op:?}: {found}"))?;
    }
    world.end().await.map_err(|found| format!("at the end: {found}"))
}

/// The runtime's clock stands still while anything is done, so waiting for nothing takes no time.
fn on_memory(config: MeshConfig, ops: &[Op]) -> Found {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let store = Arc::new(MemoryStore::new().unwrap());
    runtime.block_on(run(Ground::Memory(store), config, ops))
}

fn on_sqlite(ops: &[Op]) -> Found {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(run(Ground::Sqlite(folder.path().join("data")), MeshConfig::default(), ops))
}

fn on_postgres(mode: Mode, ops: &[Op]) -> Found {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Arc::new(Server::start(mode, |builder| builder).await);
        run(Ground::Server(server), MeshConfig::default(), ops).await
    })
}

#[test]
fn model_says_what_syntha_says() {
    let both = |ops: &[Op]| {
        on_memory(MeshConfig::default(), ops)
            .map_err(|found| format!("memory, {found}"))
            .and_then(|()| on_sqlite(ops).map_err(|found| format!("SQLite, {found}")))
    };
    compare("memory and on SQLite", count("SYNTHA_MODEL_OPS", 6_000), 2, "SYNTHA_MODEL_OPS", both);
}

#[test]
fn model_says_what_syntha_says_on_postgres() {
    for mode in modes(Mode::Schema) {
        let name = "SYNTHA_POSTGRES_MODEL_OPS";
        compare(&format!("PostgreSQL ({mode:?})"), count(name, 300), 1, name, |ops| on_postgres(mode, ops));
    }
}

/// Runs so many operations, each counted as often as it is done, and prints what came of it.
fn compare(place: &str, ops: u64, times: usize, variable: &str, run: impl Fn(&[Op]) -> Found) {
    let ops = usize::try_from(ops).unwrap();
    // A long run looks for what is new; a short one asks whether what was seen to hold still does.
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let fresh = || if std::env::var_os(variable).is_some() { now() } else { 1 };
    let seed: u64 = std::env::var("SYNTHA_SEED").map_or_else(|_| fresh(), |seed| seed.parse().unwrap());
    println!("SYNTHA_SEED={seed} repeats this run");
    let (done, mut case) = (AtomicUsize::new(0), 0_u64);
    while done.load(Ordering::Relaxed) < ops {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        bytes[8..16].copy_from_slice(&case.to_be_bytes());
        case += 1;
        let config = Config {
            cases: 1,
            failure_persistence: None,
            max_shrink_time: 60_000,
            max_shrink_iters: 3_000,
            ..Config::default()
        };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        // From none, so that a failure shrinks to the operations that it takes.
        let result = runner.run(&prop::collection::vec(op(), 0..2 * OPS_A_CASE), |ops| {
            run(&ops).map_err(TestCaseError::fail)?;
            done.fetch_add(times * ops.len(), Ordering::Relaxed);
            Ok(())
        });
        if let Err(TestError::Fail(reason, ops)) = &result {
            let ops: String = ops.iter().map(|op| format!("\n  {op:?}")).collect();
            panic!("seed {seed}: {reason}\nafter{ops}");
        }
        result.unwrap();
    }
    let ops = done.into_inner();
    println!("evidence: {ops} operations on {place}, 0 divergences, seed {seed}");
}

/// The model found it: the backup makes the data of a user who had not written, and the open mesh did not know.
#[test]
fn model_exports_after_a_backup_of_nothing() {
    let ops = [Act::Backup, Act::Export].map(|act| Op::At(0, 0, act));
    on_memory(MeshConfig::default(), &ops).unwrap();
    on_sqlite(&ops).unwrap();
}

/// Runs worlds on something broken until one differs from the model; says after how many, and in what.
fn catches(fault: Fault) -> Option<(usize, String)> {
    let mut runner = TestRunner::deterministic();
    let ops = prop::collection::vec(op(), OPS_A_CASE);
    (1..=80).find_map(|case| {
        let ops = ops.new_tree(&mut runner).unwrap().current();
        let found = on_memory(MeshConfig::default().fault(fault), &ops).err()?;
        // It is the fault that was found, nothing else.
        on_memory(MeshConfig::default(), &ops).unwrap();
        Some((case, found))
    })
}

#[test]
fn model_catches_what_is_broken() {
    // Not seen: `AcknowledgedEarly` (here nothing happens between the answer and the commit; `tests/loss.rs` kills there) and
    // `WatchSleepsOn` (no reader waits while a life ends; the conformance suite has one).
    let faults = [
        Fault::ExpiredShown,
        Fault::AudienceIgnored,
        Fault::LifeIgnored,
        Fault::GuardIgnored,
        Fault::BatchTorn,
        Fault::VersionIgnored,
        Fault::OperationForgotten,
        Fault::UsageDrifts,
        Fault::HiddenOverwritten,
        Fault::StaleIndex,
        Fault::CacheShared,
        Fault::UnsubscribeForgotten,
        Fault::GraceIgnored,
        Fault::ClockFloorIgnored,
        Fault::ErasedShown,
        Fault::HistoryAcrossThreads,
        Fault::RedactedShown,
        Fault::ThreadAudienceIgnored,
        Fault::WatchAudienceIgnored,
        Fault::WatchStaleDecision,
        Fault::WatchLosesLagged,
        Fault::WatchRemovedForgotten,
        Fault::UndoForgetsAudience,
        Fault::UndoUncounted,
        Fault::UndoEndless,
        Fault::UndoOverNewer,
        Fault::UndoNothingKept,
        Fault::UndoShown,
    ];
    let mut missed = Vec::new();
    for fault in faults {
        match catches(fault) {
            Some((case, found)) => {
                let short: String = found.chars().take(160).collect();
                println!("{fault:?}: case {case}, {short}");
            }
            None => missed.push(fault),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
