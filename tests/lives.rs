//! A kill at any moment of a backup, restore, erase or recreate leaves the old state or the new one, never a mixture.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use syntha::postgres::Mode;
use syntha::{ErrorKind, Filter};
use syntha_tests::{Ground, Server, count, modes};

const KEYS: usize = 40;

#[tokio::test]
async fn lives_after_a_kill_are_old_or_new() {
    let cycles = count("SYNTHA_LIFE_KILLS", 16);
    let folder = tempfile::tempdir().unwrap();
    let between = run(&Ground::Folder(folder.path().join("data")), None, cycles, "whole").await;
    println!(
        "evidence: {cycles} kills, {between} of them between a beginning and its acknowledgement, 0 mixed states"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lives_on_postgres_after_a_kill_are_old_or_new() {
    let cycles = count("SYNTHA_POSTGRES_LIFE_KILLS", 16);
    for mode in modes(Mode::Rls) {
        let server = Server::start(mode, |builder| builder).await;
        let between = run(&server.ground(), Some(&server), cycles, "whole").await;
        println!(
            "evidence: PostgreSQL ({mode:?}), {cycles} kills, {between} of them between a beginning and its acknowledgement, 0 mixed states"
        );
    }
}

/// The suite on a store that commits a batch in two steps.
#[tokio::test]
async fn lives_of_a_torn_store_are_found_mixed() {
    let torn = async {
        let folder = tempfile::tempdir().unwrap();
        run(&Ground::Folder(folder.path().join("data")), None, 400, "torn").await
    };
    let failure = tokio::spawn(torn).await.unwrap_err().into_panic();
    let failure = failure.downcast::<String>().unwrap();
    // Torn data is a mixture; a torn row of the ledger or the directory is a state that nobody said.
    assert!(failure.starts_with("a mixture") || failure.contains("and it should be one of"), "{failure}");
}

/// Says how many kills came in the middle of something.
async fn run(ground: &Ground, server: Option<&Server>, cycles: u64, store: &'static str) -> usize {
    let builder = ground.alone();
    // A seal refuses what is torn before it can be seen, and so does a trail.
    let builder = if store == "torn" { builder.plain().no_audit() } else { builder };
    let (users, host) = builder.open().await.unwrap();
    users.create_user_session(&host, "witness").await.unwrap().push("key", "untouched").await.unwrap();
    users.shutdown().await.unwrap();
    let (mut state, mut between) = ("absent".to_owned(), 0);
    for cycle in 0..cycles {
        // How many lines it lives for and how long after the last: spread, and the same in each run.
        let (lines, pause) = (cycle * 7 % 19 + 1, Duration::from_micros(cycle * 131 % 4_000));
        let allowed = run_and_kill(ground, store, cycle * 1_000, lines, pause, &state);
        if let Some(server) = server {
            server.quiet().await;
        }
        state = found(ground).await;
        assert!(
            allowed.contains(&state),
            "cycle {cycle}: found {state}, and it should be one of {allowed:?}"
        );
        between += usize::from(allowed.len() == 2);
    }
    assert!(cycles < 16 || between > 0, "no kill came in the middle of anything");
    between
}

/// The states that the data may be in after the kill.
fn run_and_kill(
    ground: &Ground,
    store: &str,
    number: u64,
    lines: u64,
    pause: Duration,
    before: &str,
) -> Vec<String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_syntha-lifecycle"))
        .arg(ground.argument())
        .arg(number.to_string())
        .arg(store)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut allowed = vec![before.to_owned()];
    let mut note = |line: &str| match line.trim_end().split_once(' ') {
        Some(("now", now)) => allowed = vec![now.to_owned()],
        Some(("to", next)) => {
            allowed.truncate(1);
            allowed.push(next.to_owned());
        }
        _ => panic!("what is {line}?"),
    };
    let mut line = String::new();
    for _ in 0..lines {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the child ended by itself");
        note(&line);
    }
    std::thread::park_timeout(pause);
    child.kill().unwrap();
    child.wait().unwrap();
    line.clear();
    // What it said before it died; the last line may be cut.
    while out.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
        note(&line);
        line.clear();
    }
    allowed
}

/// The state that the data is in, as the next process finds it.
async fn found(ground: &Ground) -> String {
    let (users, host) = ground.alone().open().await.unwrap();
    let witness = users.open(&host, "witness").await.unwrap();
    assert_eq!(witness.value("key").await.unwrap().unwrap().json(), "\"untouched\"");
    let listed = users.list(None, 10).await.unwrap().iter().any(|entry| entry.user.as_str() == "victim");
    let state = match users.open(&host, "victim").await {
        Err(error) => match error.kind() {
            ErrorKind::Erased => "erased".to_owned(),
            ErrorKind::NotFound => "absent".to_owned(),
            _ => panic!("{error:?}"),
        },
        Ok(victim) => {
            let reader = victim.agent("reader").unwrap();
            let entries = reader.all(&Filter::new()).await.unwrap();
            let values: HashSet<_> = entries.iter().map(|entry| entry.json().to_owned()).collect();
            assert_eq!(victim.usage().await.unwrap().1.contexts, entries.len() as u64);
            match values.into_iter().collect::<Vec<_>>().as_slice() {
                [] => "empty".to_owned(),
                [value] if entries.len() == KEYS => value.clone(),
                mixed => panic!("a mixture: {} entries with the values {mixed:?}", entries.len()),
            }
        }
    };
    assert_eq!(listed, !["erased", "absent"].contains(&state.as_str()), "{state}");
    users.shutdown().await.unwrap();
    state
}
