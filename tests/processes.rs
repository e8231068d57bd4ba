//! Several processes on one folder, killed at random: every key's history is linearizable, nothing acknowledged is lost, nothing
//! stale is read.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

mod history;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use history::{Operation, What};
use syntha::postgres::Mode;
use syntha_tests::{Ground, Server, count, modes};

const PROCESSES: usize = 3;

#[test]
fn processes_on_one_root_are_linearizable() {
    let operations = count("SYNTHA_PROCESS_OPS", 1_500);
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground::Folder(folder.path().join("data"));
    shown("SQLite", operations, &run(&ground, operations, operations / 40 + 60, "none").unwrap());
}

#[test]
fn processes_on_one_database_are_linearizable() {
    let operations = count("SYNTHA_POSTGRES_PROCESS_OPS", 400);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for mode in modes(Mode::Schema) {
        let server = runtime.block_on(Server::start(mode, |builder| builder));
        let ran = run(&server.ground(), operations, operations / 40 + 60, "none").unwrap();
        shown(&format!("PostgreSQL ({mode:?})"), operations, &ran);
    }
}

fn shown(place: &str, operations: u64, ran: &Ran) {
    assert!(ran.kills >= 3, "{} kills", ran.kills);
    println!(
        "evidence: {place}, {PROCESSES} processes, {operations} operations each, {} kills, {} operations checked ({} without an answer), \
         0 lost acknowledgements, 0 stale reads",
        ran.kills, ran.checked, ran.open
    );
}

/// The checker on stores whose caches are not honest.
#[test]
fn processes_with_a_stale_bell_are_found() {
    let found = broken("stale-bell");
    assert!(found.contains("stale"), "{found}");
}

#[test]
fn processes_that_forget_to_ring_are_found() {
    let found = broken("ring-forgotten");
    assert!(found.contains("stale"), "{found}");
}

fn broken(fault: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    run(&Ground::Folder(folder.path().join("data")), 600, u64::MAX, fault).unwrap_err()
}

#[derive(Debug)]
struct Ran {
    kills: u64,
    checked: usize,
    open: usize,
}

struct Participant {
    child: Child,
    log: PathBuf,
    /// How many operations it had yet to do when it began, and how many of them it has said that it did.
    left: u64,
    done: u64,
    /// It is killed when it has done so many.
    kill_at: u64,
}

impl Drop for Participant {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Runs processes until each has done its operations, and checks what they wrote down. `between`: a process is killed after
/// so many operations on average.
fn run(ground: &Ground, operations: u64, between: u64, fault: &str) -> Result<Ran, String> {
    let folder = tempfile::tempdir().unwrap();
    // A server may do what a client had sent when it died, a moment later.
    let late = if matches!(ground, Ground::Database(_)) { DAY } else { 0 };
    let mut random = 0x5eed_u64;
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (sender, receiver) = mpsc::channel();
    let (mut started, mut kills) = (0, 0);
    let mut start = |place: usize, left: u64, kill_at: u64| {
        started += 1;
        let log = folder.path().join(format!("log-{started}"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_syntha-participant"))
            .arg(ground.argument())
            .arg(&log)
            .args([started.to_string(), left.to_string(), fault.to_owned()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, sender) = (BufReader::new(child.stdout.take().unwrap()), sender.clone());
        let number = started;
        std::thread::spawn(move || {
            let mut last = String::new();
            for line in out.lines().map_while(Result::ok) {
                last.clone_from(&line);
                let _ = sender.send((place, number, line));
            }
            let end = if last == "end" { "finished" } else { "died" };
            let _ = sender.send((place, number, end.to_owned()));
        });
        (number, Participant { child, log, left, done: 0, kill_at })
    };
    let mut next_kill = || if between == u64::MAX { u64::MAX } else { draw(between * 2) + 1 };
    let mut running: Vec<_> = (0..PROCESSES).map(|place| start(place, operations, next_kill())).collect();
    let mut logs: Vec<(PathBuf, i128)> = Vec::new();
    let mut finished = 0;
    while finished < PROCESSES {
        let (place, number, line) = receiver.recv().unwrap();
        let (current, participant) = &mut running[place];
        if *current != number {
            continue;
        }
        match line.as_str() {
            "end" => {}
            "finished" => {
                assert!(participant.child.wait().unwrap().success());
                logs.push((participant.log.clone(), now()));
                finished += 1;
            }
            "died" => return Err(format!("a process ended early: {:?}", participant.child.wait())),
            done => {
                participant.done = done.parse().unwrap();
                if participant.done >= participant.kill_at {
                    participant.child.kill().unwrap();
                    participant.child.wait().unwrap();
                    kills += 1;
                    // It is dead now, so what it had begun has happened or never will.
                    logs.push((participant.log.clone(), now() + late));
                    let left = participant.left.saturating_sub(participant.done).max(1);
                    running[place] = start(place, left, next_kill());
                }
            }
        }
    }
    let mut keys = read_logs(&logs);
    let open = keys.values().flatten().filter(|operation| is_open(&operation.what)).count();
    read_the_end(ground, &mut keys);
    let mut checked = 0;
    for (key, operations) in &keys {
        checked += operations.len();
        history::check(operations).map_err(|wrong| format!("{key}: {wrong}"))?;
    }
    Ok(Ran { kills, checked, open })
}

fn is_open(what: &What) -> bool {
    matches!(what, What::Write { version: None, .. } | What::Remove { acknowledged: false, .. })
}

/// Every key's operations. What has no answer may have happened until its process was seen dead.
fn read_logs(logs: &[(PathBuf, i128)]) -> HashMap<String, Vec<Operation>> {
    let mut keys: HashMap<String, Vec<Operation>> = HashMap::new();
    for (log, dead) in logs {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let mut open = HashMap::new();
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let words: Vec<_> = line.split(' ').collect();
            if words[0] == "begin" {
                open.insert(words[2].to_owned(), words.iter().map(ToString::to_string).collect::<Vec<_>>());
                continue;
            }
            let begun = open.remove(words[2]).unwrap();
            let what = answered(&begun[4..], &words[3..]);
            let (begin, end) = (begun[1].parse().unwrap(), words[1].parse().unwrap());
            keys.entry(begun[3].clone()).or_default().extend(what.map(|what| Operation { begin, end, what }));
        }
        for begun in open.into_values() {
            let begin = begun[1].parse().unwrap();
            let what = unanswered(&begun[4..]);
            let operation = what.map(|what| Operation { begin, end: *dead, what });
            keys.entry(begun[3].clone()).or_default().extend(operation);
        }
    }
    keys
}

fn answered(begun: &[String], answer: &[&str]) -> Option<What> {
    let number = |text: &str| text.parse::<u64>().unwrap();
    Some(match (begun[0].as_str(), answer[0]) {
        ("get", "absent") => What::Read(None),
        ("get", _) => What::Read(Some((number(answer[1]), number(answer[2])))),
        // Nothing was written.
        (_, "refused" | "busy") => return None,
        ("remove", _) => What::Remove { of: number(&begun[1]), acknowledged: true },
        (_, _) => What::Write {
            value: number(&begun[1]),
            version: Some(number(answer[1])),
            over: begun.get(2).map(|over| number(over)),
        },
    })
}

fn unanswered(begun: &[String]) -> Option<What> {
    let number = |text: &str| text.parse::<u64>().unwrap();
    match begun[0].as_str() {
        "get" => None,
        "remove" => Some(What::Remove { of: number(&begun[1]), acknowledged: false }),
        _ => Some(What::Write { value: number(&begun[1]), version: None, over: None }),
    }
}

/// Reads every key when all processes are gone: what was acknowledged last must be there.
fn read_the_end(ground: &Ground, keys: &mut HashMap<String, Vec<Operation>>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (users, host) = ground.shared().open().await.unwrap();
        for (name, operations) in keys {
            let (user, key) = name.split_once('/').unwrap();
            let mesh = users.open(&host, format!("user-{user}")).await.unwrap();
            let begin = now();
            let entry = mesh.value(format!("key-{key}")).await.unwrap();
            let found = entry.map(|entry| (entry.value().unwrap(), entry.version().0));
            operations.push(Operation { begin, end: now(), what: What::Read(found) });
        }
    });
}

/// In nanoseconds.
const DAY: i128 = 86_400_000_000_000;

/// Nanoseconds of the clock that all processes of a machine share.
fn now() -> i128 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}
