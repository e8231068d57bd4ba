//! Two stores on one folder share nothing but the files, as two processes do.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use syntha_sqlite::Mode;
use syntha_store::{
    Batch, CreateMode, ErrorKind, Expect, ImportMode, Keyspace, Store, Timestamp, UserId, UserTag,
};

use super::{SqliteConfig, SqliteStore, get, id, put};

struct Two {
    folder: tempfile::TempDir,
    here: SqliteStore,
    there: SqliteStore,
}

async fn open(root: &Path, mode: Mode) -> syntha_store::Result<SqliteStore> {
    SqliteStore::open(SqliteConfig::new(root).mode(mode)).await
}

impl Two {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        let here = open(&root, Mode::Shared).await.unwrap();
        let there = open(&root, Mode::Shared).await.unwrap();
        Self { folder, here, there }
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn tag(&self, name: &str) -> UserTag {
        assert_eq!(self.here.deployment_key().as_bytes(), self.there.deployment_key().as_bytes());
        self.here.deployment_key().tag(&UserId::new(name).unwrap())
    }

    fn file(&self, ending: &str) -> std::path::PathBuf {
        let tag = self.tag("alice").to_string();
        self.root().join("users").join(&tag[0..1]).join(&tag[1..2]).join(format!("{tag}{ending}"))
    }
}

async fn kind<T>(answer: impl Future<Output = syntha_store::Result<T>>) -> ErrorKind {
    answer.await.map(drop).unwrap_err().kind()
}

#[tokio::test]
async fn modes_that_do_not_go_together_are_refused() {
    let two = Two::new().await;
    let refused = open(&two.root(), Mode::Exclusive).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    assert!(refused.message().contains("shared"), "{refused}");
    two.here.close().await.unwrap();
    assert_eq!(kind(open(&two.root(), Mode::Exclusive)).await, ErrorKind::Locked);
    two.there.close().await.unwrap();
    let alone = open(&two.root(), Mode::Exclusive).await.unwrap();
    assert!(alone.capabilities().exclusive && !two.here.capabilities().exclusive);
    assert_eq!(kind(open(&two.root(), Mode::Shared)).await, ErrorKind::Locked);
    alone.close().await.unwrap();
    open(&two.root(), Mode::Shared).await.unwrap();
}

#[tokio::test]
async fn beside_a_holder_everything_is_read_and_nothing_written() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data");
    assert_eq!(kind(open(&root, Mode::Beside)).await, ErrorKind::NotFound);
    assert!(!root.exists());
    let holder = open(&root, Mode::Exclusive).await.unwrap();
    holder.deployment().await.unwrap();
    let alice = holder.deployment_key().tag(&UserId::new("alice").unwrap());
    let (user, _) = holder.create(alice, put("a", b"1"), CreateMode::New).await.unwrap();
    let beside = open(&root, Mode::Beside).await.unwrap();
    let reader = beside.open(alice).await.unwrap();
    assert_eq!(get(&*reader, "a").await.unwrap(), b"1");
    user.commit(put("a", b"2")).await.unwrap();
    assert_eq!(get(&*reader, "a").await.unwrap(), b"2");
    assert!(!reader.is_at(reader.state().await.unwrap().stamp));
    let mut copy = reader.snapshot().await.unwrap();
    assert_eq!(copy.next().await.unwrap().unwrap().len(), 1);
    assert_eq!(beside.list(None, 10).await.unwrap(), [alice]);
    beside.deployment().await.unwrap();
    let bob = holder.deployment_key().tag(&UserId::new("bob").unwrap());
    assert_eq!(kind(reader.commit(put("a", b"3"))).await, ErrorKind::Unsupported);
    assert_eq!(kind(beside.create(bob, put("a", b"3"), CreateMode::New)).await, ErrorKind::Unsupported);
    assert_eq!(kind(beside.erase(alice)).await, ErrorKind::Unsupported);
    assert_eq!(kind(beside.fence(alice, None, syntha_store::Fence::Moved)).await, ErrorKind::Unsupported);
    assert_eq!(kind(beside.import(alice, &mut *copy, ImportMode::Replace)).await, ErrorKind::Unsupported);
    // A holder that erases takes the file from under the reader.
    holder.erase(alice).await.unwrap();
    assert_eq!(kind(reader.state()).await, ErrorKind::Gone);
    beside.close().await.unwrap();
    holder.close().await.unwrap();
}

#[tokio::test]
async fn a_cache_is_believed_as_long_as_nobody_has_rung() {
    let two = Two::new().await;
    let (here, _) = two.here.create(two.tag("alice"), put("a", b"1"), CreateMode::New).await.unwrap();
    let there = two.there.open(two.tag("alice")).await.unwrap();
    let known = here.state().await.unwrap().stamp;
    assert!(here.is_at(known), "the first batch of a new file rang");
    assert_eq!(there.state().await.unwrap().stamp, known);
    // Without an expected stamp, and with one.
    let after = there.commit(put("a", b"2")).await.unwrap().stamp;
    assert!(!here.is_at(known) && there.is_at(after));
    assert_eq!(here.state().await.unwrap().stamp, after);
    assert!(here.is_at(after));
    let last = here.commit(put("a", b"3").expect(Expect::Stamp(after))).await.unwrap().stamp;
    assert!(here.is_at(last) && !there.is_at(after) && !there.is_at(last));
    // What is refused rings as well as not.
    assert_eq!(kind(there.commit(put("a", b"4").expect(Expect::Stamp(after)))).await, ErrorKind::Conflict);
    assert!(here.is_at(last));
}

#[tokio::test]
async fn a_batch_that_is_committed_twice_does_not_bring_an_old_cache_back() {
    let two = Two::new().await;
    let (here, _) = two.here.create(two.tag("alice"), put("a", b"0"), CreateMode::New).await.unwrap();
    let there = two.there.open(two.tag("alice")).await.unwrap();
    let twice = put("a", b"1");
    let first = there.commit(twice.clone()).await.unwrap().stamp;
    assert_eq!(here.state().await.unwrap().stamp, first);
    assert!(here.is_at(first));
    there.commit(put("a", b"2")).await.unwrap();
    there.commit(twice).await.unwrap();
    assert!(!here.is_at(first));
}

#[tokio::test]
async fn a_ring_without_its_commit_makes_everybody_ask_until_the_next_one() {
    let two = Two::new().await;
    let (here, commit) = two.here.create(two.tag("alice"), put("a", b"1"), CreateMode::New).await.unwrap();
    let place =
        u64::from(u16::from_be_bytes([two.tag("alice").as_bytes()[0], two.tag("alice").as_bytes()[1]]));
    let bell = std::fs::OpenOptions::new().write(true).open(two.root().join("bell")).unwrap();
    bell.write_all_at(&77_u64.to_ne_bytes(), place * 8).unwrap();
    for _ in 0..3 {
        assert_eq!(here.state().await.unwrap().stamp, commit.stamp);
        assert!(!here.is_at(commit.stamp));
    }
    let next = here.commit(put("a", b"2")).await.unwrap().stamp;
    assert!(here.is_at(next));
}

#[tokio::test]
async fn who_waits_hears_another_process() {
    let two = Two::new().await;
    let (here, commit) = two.here.create(two.tag("alice"), put("a", b"1"), CreateMode::New).await.unwrap();
    let there = two.there.open(two.tag("alice")).await.unwrap();
    let waiting = tokio::spawn({
        let here = std::sync::Arc::clone(&here);
        async move { here.changed(commit.stamp).await }
    });
    tokio::task::yield_now().await;
    let after = there.commit(put("a", b"2")).await.unwrap().stamp;
    assert_eq!(waiting.await.unwrap().unwrap(), after);
    let waiting = tokio::spawn(async move { here.changed(after).await });
    tokio::task::yield_now().await;
    two.there.erase(two.tag("alice")).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Gone);
}

#[tokio::test]
async fn an_erased_user_is_erased_in_every_process() {
    let two = Two::new().await;
    let alice = two.tag("alice");
    let (here, _) = two.here.create(alice, put("a", b"secret"), CreateMode::New).await.unwrap();
    let there = two.there.open(alice).await.unwrap();
    there.commit(put("b", b"secret")).await.unwrap();
    assert!(two.here.erase(alice).await.unwrap().removed);
    for handle in [&here, &there] {
        assert_eq!(kind(handle.commit(put("a", b"late"))).await, ErrorKind::Gone);
        assert_eq!(kind(handle.read(Keyspace::Context, &[id("a")])).await, ErrorKind::Gone);
    }
    assert_eq!(kind(two.there.open(alice)).await, ErrorKind::Erased);
    assert_eq!(kind(two.there.create(alice, put("a", b"1"), CreateMode::New)).await, ErrorKind::Erased);
    let (again, _) = two.there.create(alice, put("a", b"new"), CreateMode::Recreate).await.unwrap();
    assert_eq!(kind(here.commit(put("a", b"late"))).await, ErrorKind::Gone);
    again.commit(put("b", b"new")).await.unwrap();
    // A store with connections to the old file goes; the new one's log stays.
    let log = std::fs::metadata(two.file(".db-wal")).unwrap();
    assert!(log.len() > 0);
    two.here.close().await.unwrap();
    assert!(two.file(".db-wal").exists());
    assert_eq!(get(&*again, "b").await.unwrap(), b"new");
}

#[tokio::test]
async fn an_erase_of_a_user_without_data_keeps_a_late_first_write_out() {
    let two = Two::new().await;
    assert_eq!(kind(two.here.erase(two.tag("alice"))).await, ErrorKind::NotFound);
    let late = two.there.create(two.tag("alice"), put("a", b"late"), CreateMode::New);
    assert_eq!(kind(late).await, ErrorKind::Erased);
}

#[tokio::test]
async fn an_import_changes_the_file_that_others_have_open() {
    let two = Two::new().await;
    let alice = two.tag("alice");
    let (here, _) = two.here.create(alice, put("a", b"old"), CreateMode::New).await.unwrap();
    let there = two.there.open(alice).await.unwrap();
    let mut copy = here.snapshot().await.unwrap();
    let before = there.commit(put("b", b"later")).await.unwrap().stamp;
    let after = two.here.import(alice, &mut *copy, ImportMode::Replace).await.unwrap();
    assert!(after.epoch.0 >= before.epoch.0 + syntha_store::EPOCH_JUMP);
    assert!(!there.is_at(before));
    for handle in [&here, &there] {
        assert_eq!(kind(handle.state()).await, ErrorKind::Gone);
        assert_eq!(kind(handle.commit(put("a", b"late"))).await, ErrorKind::Gone);
    }
    let there = two.there.open(alice).await.unwrap();
    assert_eq!(there.state().await.unwrap().stamp, after);
    assert_eq!((get(&*there, "a").await.unwrap(), get(&*there, "b").await), (b"old".to_vec(), None));
    let last = there.commit(put("b", b"new")).await.unwrap().stamp;
    assert!(there.is_at(last));
}

#[tokio::test]
async fn who_goes_in_the_middle_holds_nobody_up() {
    let two = Two::new().await;
    let alice = two.tag("alice");
    let (here, _) = two.here.create(alice, put("a", b"1"), CreateMode::New).await.unwrap();
    let there = two.there.open(alice).await.unwrap();
    for turns in 0..40 {
        let ids = [id("a")];
        let read = here.read(Keyspace::Context, &ids);
        go_after(read, turns).await;
        go_after(here.commit(put("b", b"1")), turns).await;
        let delete = Batch::new(Timestamp(8)).unwrap().delete(Keyspace::Context, id("b"));
        there.commit(delete).await.unwrap();
    }
    // A delete empties the log, unless a reader is in the way.
    let delete = Batch::new(Timestamp(8)).unwrap().delete(Keyspace::Context, id("b"));
    here.state().await.unwrap();
    there.commit(delete).await.unwrap();
    assert_eq!(std::fs::metadata(two.file(".db-wal")).unwrap().len(), 0);
}

/// Polls so many times that a wake leads to, and drops.
async fn go_after<T>(work: impl Future<Output = T>, turns: usize) {
    let mut work = Box::pin(work);
    for _ in 0..turns {
        if tokio::time::timeout(Duration::from_micros(40), &mut work).await.is_ok() {
            return;
        }
    }
}

#[tokio::test]
async fn temporary_files_of_the_living_stay() {
    let two = Two::new().await;
    let theirs = two.root().join("tmp").join("of-another-process");
    std::fs::write(&theirs, "x").unwrap();
    let third = open(&two.root(), Mode::Shared).await.unwrap();
    assert!(theirs.exists());
    for store in [&two.here, &two.there, &third] {
        store.close().await.unwrap();
    }
    open(&two.root(), Mode::Shared).await.unwrap();
    assert!(!theirs.exists(), "the first one alone clears up");
}

#[tokio::test]
async fn first_starts_at_once_make_one_deployment() {
    for _ in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        let mut starts = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let root = root.clone();
            starts.spawn(async move {
                let store = open(&root, Mode::Shared).await.unwrap();
                let stamp = store.deployment().await.unwrap().state().await.unwrap().stamp;
                (*store.deployment_key().as_bytes(), stamp.incarnation, store)
            });
        }
        let found = starts.join_all().await;
        assert!(found.iter().all(|(key, life, _)| *key == found[0].0 && *life == found[0].1));
    }
}

#[tokio::test]
async fn racing_creators_of_two_stores_have_one_winner() {
    let two = Two::new().await;
    for n in 0..10 {
        let tag = two.tag(&format!("user-{n}"));
        let (left, right) = tokio::join!(
            two.here.create(tag, put("a", b"left"), CreateMode::New),
            two.there.create(tag, put("a", b"right"), CreateMode::New)
        );
        let (won, lost) = if left.is_ok() { (left, right) } else { (right, left) };
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::AlreadyExists);
        let winner = get(&*won.unwrap().0, "a").await;
        assert_eq!(get(&*two.there.open(tag).await.unwrap(), "a").await, winner);
    }
}

/// Whether work waits for a lock that somebody else holds.
async fn waits<T>(work: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(60), work).await.is_err()
}

#[tokio::test]
async fn files_come_and_go_under_their_lock_and_users_in_turn() {
    let two = Two::new().await;
    let alice = two.tag("alice");
    let (here, _) = two.here.create(alice, put("a", b"1"), CreateMode::New).await.unwrap();
    let mut copy = here.snapshot().await.unwrap();
    let lives = std::fs::File::open(two.root().join("lives")).unwrap();
    lives.lock_shared().unwrap();
    assert!(waits(two.there.create(two.tag("bob"), put("a", b"1"), CreateMode::New)).await);
    assert!(waits(two.there.erase(alice)).await);
    assert!(waits(two.there.import(alice, &mut *copy, ImportMode::Replace)).await);
    assert!(!waits(two.there.open(alice)).await, "who opens a file is beside others who do");
    lives.unlock().unwrap();
    lives.lock().unwrap();
    let third = open(&two.root(), Mode::Shared).await.unwrap();
    assert!(waits(third.open(alice)).await, "nobody opens a file while files come and go");
    assert!(!waits(here.commit(put("a", b"2"))).await, "what is open goes on");
    lives.unlock().unwrap();
    assert_eq!(get(&*third.open(alice).await.unwrap(), "a").await.unwrap(), b"2");
    let turn = two.here.turn().await.unwrap();
    assert!(waits(two.there.turn()).await);
    drop(turn);
    two.there.turn().await.unwrap();
}
