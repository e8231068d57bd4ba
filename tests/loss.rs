//! No acknowledgement is lost and no batch is torn when the process is killed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use syntha::postgres::Mode;
use syntha_tests::{Ground, Server, count, modes};

#[tokio::test]
async fn loss_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    run("SQLite", &Ground::Folder(folder.path().join("data")), None, count("SYNTHA_KILLS", 12)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_on_postgres_after_a_kill() {
    for mode in modes(Mode::Schema) {
        let server = Server::start(mode, |builder| builder).await;
        let place = format!("PostgreSQL ({mode:?})");
        run(&place, &server.ground(), Some(&server), count("SYNTHA_POSTGRES_KILLS", 8)).await;
    }
}

async fn run(place: &str, ground: &Ground, server: Option<&Server>, cycles: u64) {
    let mut acknowledged: HashMap<u64, u64> = HashMap::new();
    for cycle in 0..cycles {
        // How many lines it lives for: spread over a few hundred, the same in each run.
        let lines = cycle * 7_919 % 257 + 1;
        run_and_kill(ground, lines, &mut acknowledged);
        if let Some(server) = server {
            server.quiet().await;
        }
        let (users, host) = ground.alone().open().await.unwrap();
        let mesh = users.open(&host, "victim").await.unwrap();
        for (number, last) in &acknowledged {
            let agent = mesh.agent(format!("agent-{number}")).unwrap();
            let left = agent.get::<u64>(format!("left-{number}")).await.unwrap();
            let right = agent.get::<u64>(format!("right-{number}")).await.unwrap();
            assert_eq!(left, right, "cycle {cycle}: a batch is torn");
            assert!(left.unwrap() >= *last, "cycle {cycle}: {last} was acknowledged, {left:?} is there");
            assert!(left.unwrap() <= *last + 2, "cycle {cycle}: at most what was under way came on top");
        }
        // In order: what is dropped gives the folder up a moment later, and the next child would find it locked.
        users.shutdown().await.unwrap();
    }
    assert_eq!(acknowledged.len(), 4);
    let total: u64 = acknowledged.values().sum();
    println!("evidence: {place}, {cycles} kills, {total} acknowledged batches, 0 lost, 0 torn");
}

fn run_and_kill(ground: &Ground, lines: u64, acknowledged: &mut HashMap<u64, u64>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_syntha-acknowledger"))
        .arg(ground.argument())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut note = |line: &str| {
        let (number, value) = line.trim().split_once(' ').unwrap();
        acknowledged.insert(number.parse().unwrap(), value.parse().unwrap());
    };
    let mut line = String::new();
    for _ in 0..lines {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the child ended by itself");
        note(&line);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died, the last line perhaps cut.
    for rest in out.lines() {
        let rest = rest.unwrap();
        if rest.split_once(' ').is_some_and(|(_, value)| !value.is_empty()) {
            note(&rest);
        }
    }
}
