//! Processes that erase, recreate and restore a user while others write to it, killed at random: no mixture, no late write that
//! survives, no user who is neither there nor away.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};

use syntha::postgres::Mode;
use syntha::{ErrorKind, Filter};
use syntha_tests::{Ground, Server, count, modes};

const PROCESSES: usize = 3;
const KEYS: usize = 12;

#[tokio::test]
async fn rivals_leave_one_whole_life_or_none() {
    let kills = count("SYNTHA_RIVAL_KILLS", 20);
    let folder = tempfile::tempdir().unwrap();
    let (steps, done) = run(&Ground::Folder(folder.path().join("data")), kills, "whole").await;
    assert!(done * 3 > steps, "{done} of {steps} steps did something");
    println!(
        "evidence: {PROCESSES} processes on one user's life, {done} changes of {steps} tried, {kills} kills, 0 mixed states"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rivals_on_postgres_leave_one_whole_life_or_none() {
    let kills = count("SYNTHA_POSTGRES_RIVAL_KILLS", 10);
    for mode in modes(Mode::Schema) {
        let server = Server::start(mode, |builder| builder).await;
        let (steps, done) = run(&server.ground(), kills, "whole").await;
        assert!(done * 4 > steps, "{done} of {steps} steps did something");
        println!(
            "evidence: PostgreSQL ({mode:?}), {PROCESSES} processes on one user's life, {done} changes of {steps} tried, {kills} kills, 0 mixed states"
        );
    }
}

/// The suite on a store that commits a batch in two steps.
#[tokio::test]
async fn rivals_of_a_torn_store_are_found() {
    // A kill must fall between the two steps: that takes some luck, so it has several runs.
    for _ in 0..10 {
        let torn = async {
            let folder = tempfile::tempdir().unwrap();
            run(&Ground::Folder(folder.path().join("data")), 40, "torn").await
        };
        let Err(failure) = tokio::spawn(torn).await else { continue };
        let failure = failure.into_panic().downcast::<String>().unwrap();
        assert!(failure.contains("ended by itself") || failure.contains("mixture"), "{failure}");
        return;
    }
    panic!("ten runs on a torn store saw nothing");
}

/// Says how many steps were tried and how many of them did something.
async fn run(ground: &Ground, kills: u64, store: &'static str) -> (u64, u64) {
    // Without a trail, over which a restore that others outran is refused and has to be tried again.
    let (users, host) = ground.shared().no_audit().open().await.unwrap();
    users.create_user_session(&host, "witness").await.unwrap().push("key", "untouched").await.unwrap();
    users.shutdown().await.unwrap();
    let (sender, receiver) = mpsc::channel();
    let mut started = 0;
    let mut start = || {
        started += 1;
        (started, rival(ground, started, store, &sender))
    };
    let mut running: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    let (mut steps, mut done, mut killed, mut until) = (0_u64, 0, 0, 10);
    while killed < kills {
        let (number, line) = receiver.recv().unwrap();
        let Some(place) = running.iter().position(|(running, _)| *running == number) else { continue };
        assert!(line.is_some(), "a process ended by itself: {:?}", running[place].1.0.wait());
        steps += 1;
        done += u64::from(line.as_deref() == Some("done"));
        if steps >= until {
            running[place].1.kill();
            running[place] = start();
            killed += 1;
            until = steps + killed * 7_919 % 31 + 1;
        }
    }
    drop(running);
    let (users, host) = ground.shared().open().await.unwrap();
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
            assert!(entries.iter().all(|entry| Some(entry.json()) == first.as_deref()), "a mixture");
            assert!([0, KEYS].contains(&entries.len()), "{} keys", entries.len());
        }
        Err(error) => {
            assert!([ErrorKind::Erased, ErrorKind::NotFound].contains(&error.kind()), "{error}");
            assert_eq!(listed.len(), 1);
        }
    }
    (steps, done)
}

/// A process that ends with the test, however that ends.
struct Rival(Child);

impl Rival {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn rival(ground: &Ground, number: u64, store: &str, sender: &Sender<(u64, Option<String>)>) -> Rival {
    let mut child = Command::new(env!("CARGO_BIN_EXE_syntha-rival"))
        .arg(ground.argument())
        .args([&number.to_string(), store])
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
    Rival(child)
}
