//! No acknowledgement precedes its sync: the system calls of a writing process, recorded by `strace`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};
use std::process::Command;

const PUSHES: usize = 40;

/// What a recording shows.
#[derive(Debug, Default)]
struct Found {
    acknowledged: usize,
    syncs: usize,
    /// Acknowledgements that were written while something in the data folder was not synced.
    early: usize,
    /// Those while something of the deployment's own file was not.
    early_own: usize,
}

fn record(mode: &str) -> Found {
    let folder = tempfile::tempdir().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("calls"));
    let output = Command::new("strace")
        .args(["-f", "-y", "-qq", "-s", "16", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o"])
        .arg(&log)
        .arg(env!("CARGO_BIN_EXE_syntha-durable-writer"))
        .arg(&data)
        .args([mode, &PUSHES.to_string(), "300"])
        .output()
        .expect("strace is missing: run `apt-get install strace`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    read(&std::fs::read_to_string(log).unwrap(), data.to_str().unwrap())
}

/// Reads a recording. A sync counts when it has returned, a write from when it begins.
fn read(calls: &str, data: &str) -> Found {
    let (mut found, mut unsynced, mut under_way) = (Found::default(), HashSet::new(), HashMap::new());
    for line in calls.lines() {
        let Some((process, call)) = line.split_once(char::is_whitespace) else { continue };
        let call = call.trim_start();
        let file = call.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(file, _)| file);
        if call.contains("sync resumed>") {
            let file: String = under_way.remove(process).unwrap();
            unsynced.remove(&file);
            found.syncs += 1;
        } else if let Some(file) =
            file.filter(|_| call.starts_with("fsync(") || call.starts_with("fdatasync("))
        {
            if call.ends_with("<unfinished ...>") {
                under_way.insert(process, file.to_owned());
            } else {
                unsynced.remove(file);
                found.syncs += 1;
            }
        } else if call.contains("\"ack ") {
            found.acknowledged += 1;
            found.early += usize::from(!unsynced.is_empty());
            found.early_own += usize::from(unsynced.iter().any(|file: &String| is_own(file)));
        } else if let Some(file) = file.filter(|file| file.starts_with(data) && !passing(file)) {
            unsynced.insert(file.to_owned());
        }
    }
    found
}

/// The deployment's own file, and its log.
fn is_own(file: &str) -> bool {
    file.contains("/deployment.")
}

/// Files that hold nothing which must survive: the index of a log, and the holder's process number.
fn passing(file: &str) -> bool {
    file.ends_with("-shm") || file.ends_with("/lock")
}

#[test]
fn syncs_precede_acknowledgements() {
    let found = record("full");
    assert_eq!((found.acknowledged, found.early), (PUSHES, 0), "{found:?}");
    assert!(found.syncs >= PUSHES, "{found:?}");
}

#[test]
fn syncs_that_are_missing_are_noticed() {
    for mode in ["normal", "skipped"] {
        let found = record(mode);
        assert_eq!(found.acknowledged, PUSHES);
        assert!(found.early > PUSHES / 2, "{mode}: {found:?}");
        // What a signer outside remembers of the deployment is never newer than what the disk has.
        assert_eq!(found.early_own > 0, mode == "skipped", "{mode}: {found:?}");
    }
}

#[test]
fn syncs_that_have_not_returned_do_not_count() {
    let write = "7 pwrite64(5</d/a-wal>, \"x\", 1, 0) = 1\n";
    let acknowledge = "7 write(1<pipe:[1]>, \"ack 0\\n\", 6) = 6\n";
    let early = |calls: String| read(&calls, "/d").early;
    assert_eq!(early(format!("{write}7 fsync(5</d/a-wal>) = 0\n{acknowledge}")), 0);
    assert_eq!(early(format!("{write}{acknowledge}7 fsync(5</d/a-wal>) = 0\n")), 1);
    let begun = "8 fsync(5</d/a-wal> <unfinished ...>\n";
    assert_eq!(early(format!("{write}{begun}{acknowledge}8 <... fsync resumed>) = 0\n")), 1);
    assert_eq!(early(format!("{write}{begun}8 <... fsync resumed>) = 0\n{acknowledge}")), 0);
}
