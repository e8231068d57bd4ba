//! Processes that erase, recreate and restore a user while others write to it, killed at random: no mixture, no late write that
//! survives, no user who is neither there nor away.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};

use syntha::{ErrorKind, Filter, UserManager};

const PROCESSES: usize = 3;
const KEYS: usize = 12;

#[tokio::test]
async fn rivals_leave_one_whole_life_or_none() {
    let kills: u64 = std::env::var("SYNTHA_RIVAL_KILLS").map_or(20, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (users, host) = UserManager::builder().sqlite_shared(&data).open().await.unwrap();
    users.create_user_session(&host, "witness").await.unwrap().push("key", "untouched").await.unwrap();
    users.shutdown().await.unwrap();
    let (sender, receiver) = mpsc::channel();
    let mut started = 0;
    let mut start = || {
        started += 1;
        (started, rival(&data, started, &sender))
    };
    let mut running: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    let (mut steps, mut killed, mut until) = (0_u64, 0, 10);
    while killed < kills {
        let (number, line) = receiver.recv().unwrap();
        let Some(place) = running.iter().position(|(running, _)| *running == number) else { continue };
        assert!(line.is_some(), "a process ended by itself: {:?}", running[place].1.wait());
        steps += 1;
        if steps >= until {
            running[place].1.kill().unwrap();
            running[place].1.wait().unwrap();
            running[place] = start();
            killed += 1;
            until = steps + killed * 7_919 % 31 + 1;
        }
    }
    for (_, child) in &mut running {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (users, host) = UserManager::builder().sqlite_shared(&data).open().await.unwrap();
    users.verify().await.unwrap();
    assert!(users.unfinished_erasures().await.unwrap().is_empty());
    let witness = users.open(&host, "witness").await.unwrap();
    assert_eq!(witness.value("key").await.unwrap().unwrap().json(), "\"untouched\"");
    let listed = users.list(None, 10).await.unwrap();
    match users.open(&host, "victim").await {
        Ok(victim) => {
            assert_eq!(listed.len(), 2);
            let entries = victim.agent("agent").unwrap().all(&Filter::new()).await.unwrap();
            let first = entries.first().map(|entry| entry.json().to_owned());
            assert!(entries.iter().all(|entry| Some(entry.json()) == first.as_deref()));
            assert!([0, KEYS].contains(&entries.len()), "{} keys", entries.len());
        }
        Err(error) => {
            assert!([ErrorKind::Erased, ErrorKind::NotFound].contains(&error.kind()), "{error}");
            assert_eq!(listed.len(), 1);
        }
    }
    println!(
        "evidence: {PROCESSES} processes on one user's life, {steps} steps, {killed} kills, 0 mixed states"
    );
}

fn rival(data: &Path, number: u64, sender: &Sender<(u64, Option<String>)>) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_syntha-rival"))
        .arg(data)
        .arg(number.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (out, sender) = (BufReader::new(child.stdout.take().unwrap()), sender.clone());
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            let _ = sender.send((number, Some(line)));
        }
        let _ = sender.send((number, None));
    });
    child
}
