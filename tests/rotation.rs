//! Keys are rotated under load and the process is killed at any moment: nothing that was acknowledged is lost or unreadable.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use syntha::sqlite::{SqliteConfig, SqliteStore};
use syntha::store::{Keyspace, Scan, Store, UserId, UserStore, UserTag};
use syntha_encryption::{EncryptedStore, Kek, KeyCache, Keychain, Keystore, Mode, Owner, SecretKey};

const SLOTS: u64 = 200;

#[tokio::test]
async fn rotation_survives_kills_under_load() {
    let kills: u64 = std::env::var("SYNTHA_ROTATION_KILLS").map_or(6, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (data, keys) = (folder.path().join("data"), folder.path().join("keys"));
    let (mut acknowledged, mut rotations, mut between) = (HashMap::new(), 0, 0);
    for cycle in 0..kills {
        // How many lines it lives for and how long after the last: spread, and the same in each run.
        let (lines, pause) = (cycle * 7_919 % 257 + 60, Duration::from_micros(cycle * 1_931 % 40_000));
        rotations += run_and_kill(&data, &keys, lines, pause, &mut acknowledged);
        let (store, user) = open(&data, &keys).await;
        let status = store.key_status(Owner::User(user), false).await.unwrap();
        between += u64::from(status.target.is_some());
        check(&*store.open(user).await.unwrap(), &acknowledged, cycle).await;
        store.close().await.unwrap();
    }
    let (store, user) = open(&data, &keys).await;
    let rotated = store.rotate(Owner::User(user), &mut |_| {}).await.unwrap();
    let status = store.key_status(Owner::User(user), true).await.unwrap();
    assert_eq!(status.epochs, [rotated.epoch]);
    assert_eq!(status.records.unwrap().into_keys().collect::<Vec<_>>(), [rotated.epoch]);
    check(&*store.open(user).await.unwrap(), &acknowledged, kills).await;
    store.verify().await.unwrap();
    rotations += 1;
    assert!(kills < 6 || between > 0, "no kill came in the middle of a rotation");
    let total: u64 = acknowledged.values().sum();
    println!(
        "evidence: {kills} kills, {between} of them in the middle of a rotation, {rotations} rotations that ended, \
         {total} acknowledged writes, 0 lost, 0 unreadable, 0 failed, 0 records under a former key"
    );
}

async fn open(data: &Path, keys: &Path) -> (EncryptedStore<SqliteStore>, UserTag) {
    let data = Arc::new(SqliteStore::open(SqliteConfig::new(data)).await.unwrap());
    let keys = Arc::new(SqliteStore::open(SqliteConfig::new(keys)).await.unwrap());
    let kek = Kek::from_key(SecretKey::from_bytes(b"a key of a test, which is no key"));
    let keystore = Keystore::open(keys).await.unwrap();
    let (mode, cache) = (Mode::Sealed, KeyCache::default());
    let keychain = Keychain::create(keystore, &kek, mode, data.deployment_key(), cache).await.unwrap();
    let user = keychain.deployment_key().tag(&UserId::new("victim").unwrap());
    (EncryptedStore::new(data, &keychain).unwrap(), user)
}

/// Says how many rotations ended.
fn run_and_kill(
    data: &Path,
    keys: &Path,
    lines: u64,
    pause: Duration,
    acknowledged: &mut HashMap<u64, u64>,
) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_syntha-rotator"))
        .args([data, keys])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut rotations = 0;
    let mut note = |line: &str| match line.trim_end().split(' ').collect::<Vec<_>>().as_slice() {
        ["ack", writer, number] => {
            acknowledged.insert(writer.parse().unwrap(), number.parse().unwrap());
        }
        ["rotated", _] => rotations += 1,
        _ => panic!("an operation failed: {line}"),
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
    rotations
}

/// Everything that was acknowledged is there and readable, or what was under way when the process died.
async fn check(user: &dyn UserStore, acknowledged: &HashMap<u64, u64>, cycle: u64) {
    let mut found = HashMap::new();
    for space in [Keyspace::Context, Keyspace::History, Keyspace::Threads] {
        let mut from = None;
        loop {
            let scan = Scan::records(space, 500);
            let page = user.scan(match from {
                Some(from) => scan.from(from),
                None => scan,
            });
            let page = page.await.unwrap().value;
            for (head, body) in &page.records {
                let number: u64 = std::str::from_utf8(&head.head).unwrap().parse().unwrap();
                let body = std::str::from_utf8(body.as_ref().unwrap()).unwrap().trim_start();
                match space {
                    Keyspace::Threads => assert_eq!(body, "the body of a thread"),
                    _ => assert_eq!(body, number.to_string(), "cycle {cycle}"),
                }
                found.insert((space.code(), head.id.name().clone(), head.id.seq()), number);
            }
            from = page.next();
            if from.is_none() {
                break;
            }
        }
    }
    for (writer, last) in acknowledged {
        let name = name_of(*writer);
        let now = found[&(Keyspace::Context.code(), name.clone().into(), 0)];
        assert!((*last..=last + 1).contains(&now), "cycle {cycle}: {last} was acknowledged, {now} is there");
        for number in (now + 1).saturating_sub(SLOTS).max(1)..=now {
            let slot = found[&(Keyspace::History.code(), name.clone().into(), number % SLOTS)];
            assert_eq!(slot, number, "cycle {cycle}");
        }
    }
}

fn name_of(writer: u64) -> String {
    format!("writer {writer}")
}
