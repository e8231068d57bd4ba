//! Links of the audit chain have a table of their own. Who asks for records sees no difference, and a file of a former format is brought over.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Executor};
use syntha_sqlite::Mode;
use syntha_store::{
    Batch, CreateMode, Expect, ImportMode, Incarnation, Keyspace, MemoryStore, Op, Record, RecordId, Result,
    Scan, Store, StoredRecord, Timestamp, UserStore, UserTag, Version,
};

use super::{Bed, SqliteConfig, SqliteStore};

fn link(seq: u64) -> RecordId {
    RecordId::new(Bytes::new(), seq).unwrap()
}

fn batch() -> Batch {
    Batch::new(Timestamp(7)).unwrap()
}

/// Numbers that look random and are the same each time (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }
}

const SPACES: [Keyspace; 4] = [Keyspace::Meta, Keyspace::Context, Keyspace::Audit, Keyspace::Operations];
const NAMES: [&str; 3] = ["", "", "a"];

fn any_id(numbers: &mut Numbers) -> RecordId {
    let name = NAMES[usize::try_from(numbers.below(3)).unwrap()];
    RecordId::new(Bytes::from_static(name.as_bytes()), numbers.below(7)).unwrap()
}

/// A batch of one to four operations, of which no two are of one record.
fn any_batch(numbers: &mut Numbers, round: u64) -> Batch {
    let mut batch = batch();
    for n in 0..=numbers.below(4) {
        let space = SPACES[usize::try_from(numbers.below(5).min(3)).unwrap()];
        // Mostly links.
        let space = if numbers.below(2) == 0 { Keyspace::Audit } else { space };
        let id = any_id(numbers);
        if batch.ops.iter().any(|op| op.space() == space) {
            let taken = |op: &Op| op.space() == space && op.id().is_none_or(|other| *other == id);
            if batch.ops.iter().any(taken) {
                continue;
            }
        }
        let expires = (numbers.below(4) == 0).then(|| Timestamp(1_000 + numbers.below(50)));
        let (head, body) = (Bytes::from(format!("h{round}-{n}")), Bytes::from(format!("b{round}-{n}")));
        let version = (numbers.below(2) == 0).then(|| Version(numbers.below(round + 1)));
        batch = match numbers.below(14) {
            0..=6 => batch.op(Op::Put { space, id, head, body, expires }),
            7 => batch.op(Op::PutHead { space, id, head, expires }),
            8 => batch.op(Op::Rewrite { space, id, version: version.unwrap_or(Version(1)), head, body }),
            9 | 10 => batch.op(Op::Delete { space, id }),
            11 => batch.expect(Expect::Version { space, id, version }),
            12 if batch.ops.is_empty() => batch.op(Op::DeleteName { space, name: id.name().clone() }),
            13 if batch.ops.is_empty() && numbers.below(3) == 0 => batch.op(Op::Clear { space }),
            _ => batch.op(Op::Put { space, id, head: Bytes::new(), body, expires: None }),
        };
    }
    batch
}

/// What a user has of a keyspace, page by page.
async fn pages(user: &dyn UserStore, scan: &Scan) -> Vec<(RecordId, Record)> {
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let scan = scan.clone();
        let page = user.scan(match from.take() {
            Some(from) => scan.from(from),
            None => scan,
        });
        let page = page.await.unwrap().value;
        from = page.next();
        for (head, body) in page.records {
            found.push((head.id.clone(), Record::new(head, body.unwrap_or_default())));
        }
        if from.is_none() {
            return found;
        }
    }
}

async fn all(user: &dyn UserStore) -> Vec<Vec<(RecordId, Record)>> {
    let mut found = Vec::new();
    for space in SPACES {
        for limit in [1, 3, 100] {
            for scan in [Scan::heads(space, limit), Scan::records(space, limit)] {
                for name in [None, Some(""), Some("a")] {
                    let scan = match name {
                        Some(name) => scan.clone().name(name),
                        None => scan.clone(),
                    };
                    found.push(pages(user, &scan).await);
                    found.push(pages(user, &scan.reverse()).await);
                }
            }
        }
        let ids: Vec<_> = (0..8).map(link).collect();
        let read = user.read(space, &ids).await.unwrap().value;
        found.push(read.into_iter().flatten().map(|record| (record.head.id.clone(), record)).collect());
    }
    found
}

async fn copied(user: &dyn UserStore) -> Vec<StoredRecord> {
    let (mut copy, mut records) = (user.snapshot().await.unwrap(), Vec::new());
    while let Some(chunk) = copy.next().await.unwrap() {
        records.extend(chunk);
    }
    records
}

/// The memory store, which knows of no tables, says what is right.
#[tokio::test]
async fn links_are_records_like_any_other() {
    let bed = Bed::new().await;
    let memory = MemoryStore::new().unwrap();
    let tag = bed.tag("alice");
    let mut first = batch();
    first.life = Some(Incarnation(9));
    let (here, _) = bed.store.create(tag, first.clone(), CreateMode::New).await.unwrap();
    let (there, _) = memory.create(tag, first, CreateMode::New).await.unwrap();
    let mut numbers = Numbers(5);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..600 {
        let batch = any_batch(&mut numbers, round);
        if batch.is_empty() || batch.validate(false).is_err() {
            continue;
        }
        let shown = format!("{batch:?}");
        let kind = |done: &Result<_>| done.as_ref().map(drop).map_err(syntha_store::Error::kind);
        let (one, two) = (here.commit(batch.clone()).await, there.commit(batch).await);
        assert_eq!(kind(&one), kind(&two), "round {round}: {shown}");
        if one.is_ok() {
            taken += 1
        } else {
            refused += 1
        }
        let (one, two) = (here.state().await.unwrap(), there.state().await.unwrap());
        assert_eq!((one.next_expiry, one.stamp), (two.next_expiry, two.stamp), "round {round}: {shown}");
        if round % 20 == 0 {
            assert_eq!(all(&*here).await, all(&*there).await, "round {round}: {shown}");
        }
    }
    assert!(taken > 200 && refused > 20, "{taken} taken, {refused} refused");
    // A copy has them in their place among the others, and what is made of it too.
    let copy = copied(&*here).await;
    assert_eq!(copy, copied(&*there).await);
    let links =
        copy.iter().filter(|one| one.space == Keyspace::Audit && one.record.head.id.name().is_empty());
    assert!(links.count() > 2 && copy.iter().any(|one| one.space == Keyspace::Operations));
    let mut snapshot = here.snapshot().await.unwrap();
    bed.store.import(tag, &mut *snapshot, ImportMode::Replace).await.unwrap();
    let again = bed.store.open(tag).await.unwrap();
    assert_eq!(copied(&*again).await, copy);
    assert_eq!(all(&*again).await, all(&*there).await);
}

async fn open(root: &Path, mode: Mode) -> SqliteStore {
    SqliteStore::open(SqliteConfig::new(root).mode(mode)).await.unwrap()
}

async fn raw(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(file).connect().await.unwrap()
}

/// What brings a file of the third format to the fourth, but for its end.
const MOVE: &str = concat!(
    include_str!("../../src/link.sql"),
    "INSERT INTO link SELECT seq, version, body_version, expires, owner, head, body FROM record
         WHERE space = 5 AND name = x'';
     DELETE FROM record WHERE space = 5 AND name = x'';"
);

/// Puts a closed file back to the third format: links stand among the other records. Its views are of no interest, they are made anew.
async fn age(file: &Path) {
    let mut db = raw(file).await;
    let back = "BEGIN;
        INSERT INTO record (space, name, seq, version, body_version, expires, owner, head, body)
            SELECT 5, x'', seq, version, body_version, expires, owner, head, body FROM link ORDER BY seq;
        DROP TABLE link; DROP VIEW do_commit; DROP VIEW do_links; DROP VIEW do_puts; DROP VIEW do_put;
        PRAGMA user_version = 3;
        COMMIT;";
    db.execute(back).await.unwrap();
    db.close().await.unwrap();
}

/// The format, the links that have their table, and those that stand among the other records.
async fn stands(file: &Path) -> (i64, i64, i64) {
    let mut db = raw(file).await;
    let count = async |db: &mut SqliteConnection, sql| sqlx::query_scalar::<_, i64>(sql).fetch_one(db).await;
    let format = count(&mut db, "PRAGMA user_version").await.unwrap();
    let apart = count(&mut db, "SELECT count(*) FROM link").await.unwrap_or(-1);
    let among = count(&mut db, "SELECT count(*) FROM record WHERE space = 5 AND name = x''").await.unwrap();
    db.close().await.unwrap();
    (format, apart, among)
}

const LINKS: u64 = 60;

/// A user with links, and a file of the third format.
async fn aged() -> (Bed, UserTag, Vec<StoredRecord>) {
    let bed = Bed::new().await;
    let user = bed.user("alice").await;
    for seq in 1..=LINKS {
        let body = Bytes::from(vec![b'l'; 300]);
        let id = RecordId::new(format!("k{seq}"), 0).unwrap();
        let put = batch().put(Keyspace::Context, id, "h", "b").put(Keyspace::Audit, link(seq), "head", body);
        user.commit(put).await.unwrap();
    }
    let key = RecordId::new("key", 0).unwrap();
    user.commit(batch().put(Keyspace::Audit, key, "", "secret")).await.unwrap();
    let (tag, file, records) = (bed.tag("alice"), bed.file("alice"), copied(&*user).await);
    assert_eq!(records.len() as u64, 2 * LINKS + 2);
    drop(user);
    bed.store.close().await.unwrap();
    assert_eq!(stands(&file).await, (4, 60, 0));
    age(&file).await;
    assert_eq!(stands(&file).await, (3, -1, 60));
    (bed, tag, records)
}

#[tokio::test]
async fn a_file_of_the_third_format_is_brought_over_when_it_is_opened_to_write() {
    let (bed, tag, records) = aged().await;
    let file = bed.file("alice");
    // Who only reads changes nothing, and finds the same.
    let beside = open(&bed.root(), Mode::Beside).await;
    let reader = beside.open(tag).await.unwrap();
    assert_eq!(copied(&*reader).await, records);
    let before = all(&*reader).await;
    assert_eq!(stands(&file).await.0, 3);
    let bed = bed.reopen().await;
    let user = bed.store.open(tag).await.unwrap();
    assert_eq!(stands(&file).await, (4, 60, 0));
    assert_eq!(copied(&*user).await, records);
    assert_eq!(all(&*user).await, before);
    let next = batch().put(Keyspace::Audit, link(LINKS + 1), "head", "next");
    user.commit(next).await.unwrap();
    assert_eq!(stands(&file).await, (4, 61, 0));
    // The one who has had it open all the while reads it as it is now.
    assert_eq!(all(&*reader).await, all(&*user).await);
    assert_eq!(copied(&*reader).await.len(), records.len() + 1);
}

/// What a process leaves that dies while links are moved: the log holds pages of it, and no commit.
#[tokio::test]
async fn a_move_that_ended_early_is_made_again() {
    let (bed, tag, records) = aged().await;
    let file = bed.file("alice");
    let log = file.with_extension("db-wal");
    let mut db = raw(&file).await;
    db.execute("PRAGMA journal_mode = WAL; PRAGMA cache_size = 1; BEGIN IMMEDIATE").await.unwrap();
    db.execute(MOVE).await.unwrap();
    let (left, logged) = (std::fs::read(&file).unwrap(), std::fs::read(&log).unwrap());
    assert!(logged.len() > 4 * 4096, "pages of the move are in the log: {} bytes", logged.len());
    db.execute("ROLLBACK").await.unwrap();
    db.close().await.unwrap();
    std::fs::write(&file, left).unwrap();
    std::fs::write(&log, logged).unwrap();
    for path in [&file, &log] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let bed = bed.reopen().await;
    let user: Arc<dyn UserStore> = bed.store.open(tag).await.unwrap();
    assert_eq!(copied(&*user).await, records);
    assert_eq!(stands(&file).await, (4, 60, 0));
}

/// A caller who does not wait leaves a move that goes on: with each try it would begin anew.
#[tokio::test]
async fn a_move_outlives_its_caller() {
    let (bed, tag, records) = aged().await;
    let file = bed.file("alice");
    let bed = bed.reopen().await;
    // The move waits for this one.
    let mut other = raw(&file).await;
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let gone = tokio::time::timeout(Duration::from_millis(300), bed.store.open(tag)).await;
    assert!(gone.is_err(), "it waits");
    other.execute("ROLLBACK").await.unwrap();
    other.close().await.unwrap();
    let moved = async {
        while stands(&file).await.0 == 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), moved).await.expect("nobody else makes it");
    let user = bed.store.open(tag).await.unwrap();
    assert_eq!(copied(&*user).await, records);
    assert_eq!(stands(&file).await, (4, 60, 0));
}
