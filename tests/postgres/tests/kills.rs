//! No acknowledgement is lost and no batch is torn when this process or the server is killed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use syntha_postgres::syntha_store::{Keyspace, Store};
use syntha_postgres::testing::{Stop, TestDatabase, TestServer};
use syntha_postgres::{Mode, PostgresStore};
use syntha_postgres_tests::{Tally, Writer, id, open, user};

const MODES: [Mode; 2] = [Mode::Schema, Mode::Rls];

fn cycles() -> u64 {
    std::env::var("SYNTHA_PG_KILLS").map_or(5, |count| count.parse().unwrap())
}

/// By turns on each mode, directly and through pgbouncer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_lose_nothing_acknowledged() {
    let server = TestServer::get().await.unwrap();
    let pooler = server.shared_pooler().await.unwrap();
    let mut places = Vec::new();
    for mode in MODES {
        let database = server.database(mode).await.unwrap();
        let store = PostgresStore::open(database.config()).await.unwrap();
        for number in 0..4 {
            user(&store, &format!("user-{number}")).await;
        }
        let (direct, pooled) = (database.url("syntha_app"), pooler.url("syntha_app", database.name()));
        places.push((database, store, [(direct, "kept"), (pooled, "pooled")], HashMap::new()));
    }
    let cycles = cycles();
    for cycle in 0..cycles {
        let (_, store, ways, acknowledged) = &mut places[cycle as usize % 2];
        let (url, statements) = ways[cycle as usize / 2 % 2].clone();
        // How many lines it lives for: spread over a few hundred, the same in each run.
        let lines = cycle * 7_919 % 257 + 1;
        let mode = MODES[cycle as usize % 2];
        let run = tokio::task::spawn_blocking(move || run_and_kill(&url, mode, statements, lines));
        acknowledged.extend(run.await.unwrap());
        check(store, acknowledged, cycle).await;
    }
    let mut total = 0;
    for (database, store, _, acknowledged) in places {
        total += acknowledged.values().sum::<u64>();
        store.close().await.unwrap();
        database.remove().await.unwrap();
    }
    println!("evidence: {cycles} kills of the process, {total} acknowledged batches, 0 lost, 0 torn");
}

async fn check(store: &PostgresStore, acknowledged: &HashMap<u64, u64>, cycle: u64) {
    for (number, last) in acknowledged {
        let name = format!("user-{number}");
        let read = open(store, &name).await.read(Keyspace::Context, &[id("left"), id("right")]).await;
        let found: Vec<u64> = read
            .unwrap()
            .value
            .iter()
            .map(|record| {
                let body = String::from_utf8(record.as_ref().unwrap().body.to_vec()).unwrap();
                let (of, number) = body.split_once(':').unwrap();
                assert_eq!(of, name, "another user's record");
                number.parse().unwrap()
            })
            .collect();
        assert_eq!(found[0], found[1], "cycle {cycle}: a batch is torn");
        assert!(found[0] >= *last, "cycle {cycle}: {last} was acknowledged, {found:?} is there");
        assert!(found[0] <= *last + 1, "cycle {cycle}: at most what was under way came on top");
    }
}

fn run_and_kill(url: &str, mode: Mode, statements: &str, lines: u64) -> HashMap<u64, u64> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_syntha-postgres-acknowledger"))
        .args([url, mode.name(), statements])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = HashMap::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    for _ in 0..lines {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the child ended by itself");
        note(&mut acknowledged, &line);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died, the last line perhaps cut.
    line.clear();
    while out.read_line(&mut line).unwrap() > 0 {
        if line.ends_with('\n') {
            note(&mut acknowledged, &line);
        }
        line.clear();
    }
    acknowledged
}

fn note(acknowledged: &mut HashMap<u64, u64>, line: &str) {
    let (number, value) = line.trim().split_once(' ').unwrap();
    acknowledged.insert(number.parse().unwrap(), value.parse().unwrap());
}

/// The server is killed in mid-work and recovers; the store goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_servers_lose_nothing_acknowledged() {
    let server = TestServer::own(&["fsync=on"]).await.unwrap();
    let pooler = server.shared_pooler().await.unwrap();
    let (mut databases, mut writers, tally) = (Vec::new(), Vec::new(), Arc::new(Tally::default()));
    for mode in MODES {
        let database: TestDatabase = server.database(mode).await.unwrap();
        for (way, config) in [("direct", database.config()), ("pooled", database.config_through(pooler))] {
            let store = PostgresStore::open(config.connections(2)).await.unwrap();
            for number in 0..2 {
                let writer = Writer::new(&store, &format!("{way}-{number}")).await;
                writers.push(tokio::spawn(writer.write(Arc::clone(&tally))));
            }
        }
        databases.push(database);
    }
    let cycles = cycles();
    for cycle in 0..cycles {
        tally.progress(5 + cycle * 7_919 % 200).await;
        server.restart(Stop::Immediate).await.unwrap();
    }
    tally.progress(50).await;
    tally.over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap().check().await;
    }
    let (commits, unknown) = (tally.commits(), tally.unknown.load(Ordering::Relaxed));
    assert!(unknown > 0, "no answer was lost");
    println!(
        "evidence: {cycles} kills of the server, {commits} acknowledged batches, {unknown} answers lost and asked for ({} had happened), 0 batches lost, 0 twice",
        tally.happened.load(Ordering::Relaxed)
    );
}
