//! Random operations of users of whom every text is known: none of it stands in any file of a sealed deployment, in no form, and nothing
//! at all of a user who was erased. The same search finds in a plain deployment, and in one that seals values, what the inventory says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

mod disk;
mod needles;
#[path = "../random_world.rs"]
mod random_world;

use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use metrics_util::debugging::{DebuggingRecorder, Snapshotter};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use syntha::UserManager;
use syntha_encryption::inventory::{PARTS, Part, Shown, USER};

use crate::disk::{Watch, copy, places, remains, search};
use crate::needles::{Needles, of_text};
use crate::random_world::{Logs, Op, Sealing, World, op};

const USERS: usize = 5;
/// A copy of everything is searched after so many operations.
const STRETCH: usize = 250;

/// Where texts of users stand in a plain deployment, as far as these operations write them.
const PLAIN: &[&str] = &[
    "agents body",
    "agents name",
    "context body",
    "context head",
    "context name",
    "directory body",
    "history body",
    "history head",
    "history name",
    "interactions body",
    "message-ids name",
    "operations name",
    "threads head",
    "threads name",
    "undo body",
    "undo head",
    "user log",
];

/// The parts of a place that are seen in the mode `values`.
fn seen_in_values(place: &str) -> bool {
    let part = |row: &&syntha_encryption::inventory::PartRow| {
        let part = match row.part {
            Part::Name => "name",
            Part::Head => "head",
            Part::Body => "body",
        };
        place == format!("{} {part}", row.space.name())
    };
    let of_part = PARTS.iter().find(part).map(|row| row.values);
    let of_user = USER.iter().find(|row| place == format!("user {}", row.what)).map(|row| row.values);
    of_part.or(of_user) == Some(Shown::Visible)
}

/// What a run found.
#[derive(Default)]
struct Found {
    wrong: Vec<String>,
    places: BTreeSet<String>,
    searched: usize,
    copies: usize,
    erased: usize,
    temporary: usize,
}

struct Run {
    folder: tempfile::TempDir,
    world: World,
    sealing: Sealing,
    texts: Arc<Needles>,
    logs: Logs,
    metrics: Snapshotter,
    found: Found,
}

impl Run {
    async fn new(sealing: Sealing, logs: Logs, metrics: Snapshotter) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("live")).unwrap();
        let world = World::of_canaries(&folder.path().join("live/data"), sealing, USERS).await;
        let texts = Arc::new(Needles::new(of_text("CANARY<")));
        Self { folder, world, sealing, texts, logs, metrics, found: Found::default() }
    }

    /// Searches everything as it is at this moment, and as it is after a crash at this moment.
    async fn look(&mut self) {
        let to = self.folder.path().join("copy");
        copy(&self.folder.path().join("live"), &to);
        self.search(&to, "a copy");
        if self.sealing == Sealing::Unsaid {
            let (users, host) = UserManager::builder().sqlite(to.join("data")).open().await.unwrap();
            self.search(&to, "a copy that was opened");
            users.verify().await.unwrap();
            drop(host);
            users.shutdown().await.unwrap();
            self.search(&to, "a copy that was closed");
        }
        let places = places(&to, &self.texts).await;
        self.found.places.extend(places);
        std::fs::remove_dir_all(&to).unwrap();
        let mut logged = self.logs.0.lock().unwrap();
        let metrics = format!("{:?}", self.metrics.snapshot().into_vec());
        for (place, bytes) in [("the log", &logged[..]), ("the metrics", metrics.as_bytes())] {
            self.found.searched += bytes.len();
            let what = self.texts.find(bytes);
            assert!(what.is_none(), "{place} holds a user's text: {what:?}");
        }
        logged.clear();
    }

    fn search(&mut self, folder: &Path, moment: &str) {
        let (wrong, searched) = search(folder, &self.texts);
        self.found.wrong.extend(wrong.into_iter().map(|wrong| format!("{moment}: {wrong}")));
        self.found.searched += searched;
        self.found.copies += 1;
    }

    /// Erases a user: what was this user's alone is nowhere afterwards, and no archive of before is of use.
    async fn erase(&mut self, user: usize) {
        self.world.apply(Op::OwnRestore { user }).await;
        self.world.apply(Op::Push { user, agent: 0, name: 0, route: 0, ttl: None }).await;
        let archive = self.world.archives.remove(&user).unwrap();
        let tag = self.world.manager.as_ref().unwrap().0.tag(self.world.name_of(user)).unwrap();
        let (live, to) = (self.folder.path().join("live"), self.folder.path().join("erased"));
        copy(&live, &to);
        let remains = Needles::new(remains(&to, tag).await);
        std::fs::remove_dir_all(&to).unwrap();
        copy(&live, &to);
        assert!(search(&to, &remains).0.len() >= 2, "the search does not find a user who is there");
        std::fs::remove_dir_all(&to).unwrap();
        // Erased, and made again: both the user's old file and the old keys are gone by then.
        self.world.erase(user).await;
        copy(&live, &to);
        let (wrong, searched) = search(&to, &remains);
        self.found.wrong.extend(wrong.into_iter().map(|wrong| format!("after an erase: {wrong}")));
        self.found.searched += searched;
        self.found.erased += 1;
        std::fs::remove_dir_all(&to).unwrap();
        self.check_archive(user, archive).await;
    }

    /// An archive has no text of the user's in it, and does not open once its user was erased.
    async fn check_archive(&mut self, user: usize, archive: Vec<u8>) {
        assert_eq!(self.texts.find(&archive), None, "an archive holds a user's text");
        self.found.searched += archive.len();
        let (users, _) = self.world.manager.as_ref().unwrap();
        let restored = users.restore(self.world.name_of(user), Cursor::new(archive)).await;
        assert!(restored.is_err(), "an archive of an erased user was restored");
    }
}

async fn run(sealing: Sealing, ops: Vec<Op>, logs: Logs, metrics: Snapshotter) -> Found {
    let mut run = Run::new(sealing, logs, metrics).await;
    let watch = Watch::start(&run.folder.path().join("live"), Arc::clone(&run.texts));
    for (op, number) in ops.into_iter().zip(1..) {
        match op {
            Op::Erase { user } if sealing == Sealing::Unsaid => run.erase(user).await,
            op => run.world.apply(op).await,
        }
        if number % STRETCH == 0 {
            run.look().await;
        }
    }
    run.world.sessions.clear();
    let (users, host) = run.world.manager.take().unwrap();
    drop(host);
    users.shutdown().await.unwrap();
    run.look().await;
    let (temporary, wrong) = watch.end();
    run.found.temporary = temporary;
    run.found.wrong.extend(wrong);
    run.found
}

/// What everything that this process tells goes to.
fn listen() -> (Logs, Snapshotter) {
    let recorder = DebuggingRecorder::new();
    let metrics = recorder.snapshotter();
    recorder.install().unwrap();
    let logs = Logs::default();
    let sink = logs.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || sink.clone())
        .init();
    (logs, metrics)
}

fn operations(count: usize, seed: u64) -> Vec<Op> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    prop::collection::vec(op(USERS), count).new_tree(&mut runner).unwrap().current()
}

#[test]
fn sealed_scan_finds_nothing_in_sealed_files_and_the_inventory_in_others() {
    let (logs, metrics) = listen();
    let asked = std::env::var("SYNTHA_SCAN_OPS").ok().map(|count| count.parse::<usize>().unwrap());
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = std::env::var("SYNTHA_SEED")
        .map_or_else(|_| if asked.is_some() { now() } else { 1 }, |seed| seed.parse().unwrap());
    let count = asked.unwrap_or(2_000);
    println!("SYNTHA_SEED={seed} SYNTHA_SCAN_OPS={count} repeats this run");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let found = |sealing, count| {
        runtime.block_on(run(sealing, operations(count, seed), logs.clone(), metrics.clone()))
    };
    let few = count.clamp(1_000, 2_000);
    // That the search can find: everything in a plain deployment, and in one that seals values what the inventory calls visible.
    let plain = found(Sealing::Plain, few);
    assert_eq!(plain.places, PLAIN.iter().map(|place| (*place).to_owned()).collect());
    assert!(!plain.wrong.is_empty());
    let values = found(Sealing::Values, few);
    let visible = plain.places.iter().filter(|place| seen_in_values(place)).cloned().collect();
    assert_eq!(values.places, visible, "the mode `values` shows other places than the inventory says");
    let sealed = found(Sealing::Unsaid, count);
    assert!(sealed.wrong.is_empty(), "{:#?}", sealed.wrong);
    assert!(sealed.places.is_empty());
    assert!(
        sealed.erased > 0 && sealed.temporary > 0,
        "{} erased, {} files",
        sealed.erased,
        sealed.temporary
    );
    println!(
        "evidence: {count} operations, {} copies and {} temporary files searched ({} MiB), 0 texts of users; {} users erased, nothing left of them; seed {seed}",
        sealed.copies,
        sealed.temporary,
        sealed.searched >> 20,
        sealed.erased
    );
}
