//! No acknowledgement is lost and no batch is torn when the process is killed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use syntha::UserManager;

#[tokio::test]
async fn loss_after_a_kill() {
    let cycles: u64 = std::env::var("SYNTHA_KILLS").map_or(12, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut acknowledged: HashMap<u64, u64> = HashMap::new();
    for cycle in 0..cycles {
        // How many lines it lives for: spread over a few hundred, the same in each run.
        let lines = cycle * 7_919 % 257 + 1;
        run_and_kill(&data, lines, &mut acknowledged);
        let (users, host) = UserManager::builder().sqlite(&data).open().await.unwrap();
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
    println!("evidence: {cycles} kills, {total} acknowledged batches, 0 lost, 0 torn");
}

fn run_and_kill(data: &Path, lines: u64, acknowledged: &mut HashMap<u64, u64>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_syntha-acknowledger"))
        .arg(data)
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
