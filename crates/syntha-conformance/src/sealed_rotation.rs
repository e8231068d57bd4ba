//! Rotation of a user's keys over any backend: beside writers and other processes, and after a crash at any step.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use syntha_encryption::{
    EncryptedStore, Fault, Kek, KeyCache, KeyStatus, Keychain, Keystore, Mode, Owner, Progress, SecretKey,
};
use syntha_store::{
    Batch, CreateMode, ErrorKind, Expect, ImportMode, Keyspace, Op, RecordId, Scan, Store, Timestamp, UserId,
    UserStore, UserTag,
};

use crate::harness::{Harness, Instance, reason};
use crate::report::{Report, Row};
use crate::store::kind;

/// One check of rotation: a name, and what it does on fresh stores. It panics to fail.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RotationCheck {
    /// Its name.
    pub name: &'static str,
    run: fn(Site) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl std::fmt::Debug for RotationCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        const CHECKS: &[RotationCheck] =
            &[$(RotationCheck { name: stringify!($name), run: |site| Box::pin($name(site)) }),*];
    };
}

checks![
    rotation_seals_everything_again,
    rotation_leaves_what_it_seals_as_it_was,
    rotation_beside_another_process,
    rotation_beside_writers,
    rotation_goes_on_after_a_crash,
    rotation_is_turned_back,
    rotation_by_two_is_one,
    rotation_late_sealer_is_refused,
    rotation_late_sealer_of_a_finished_one_is_refused,
    rotation_of_the_deployment,
    rotation_beside_a_snapshot,
    rotation_beside_a_restore,
    rotation_of_an_erased_user,
];

/// All checks of rotation.
#[must_use]
pub fn rotation_checks() -> Vec<RotationCheck> {
    CHECKS.to_vec()
}

/// Runs checks of rotation over a backend, whole or with a planted fault.
pub async fn run_rotation(
    backend: &dyn Harness,
    mode: Mode,
    fault: Option<Fault>,
    checks: &[RotationCheck],
) -> Report {
    let mut report = Report::new(backend.name());
    for check in checks {
        let start = Instant::now();
        let site = Site { data: backend.fresh().await, keys: backend.fresh().await, mode, fault };
        let task = tokio::spawn((check.run)(site));
        let failure = match tokio::time::timeout(Duration::from_secs(180), task).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(reason(error)),
            Err(_) => Some("took longer than 180 s".to_owned()),
        };
        report.rows.push(Row { check: check.name, failure, took: start.elapsed() });
    }
    report
}

/// A store for data and one for keys.
struct Site {
    data: Box<dyn Instance>,
    keys: Box<dyn Instance>,
    mode: Mode,
    fault: Option<Fault>,
}

type Sealed = EncryptedStore<dyn Store>;

const SPACES: [Keyspace; 5] =
    [Keyspace::Context, Keyspace::History, Keyspace::Threads, Keyspace::Operations, Keyspace::Agents];
const USER: &str = "rotated";

impl Site {
    /// The store as one more process has it: what is stored is shared, and nothing that is unwrapped.
    async fn process(&self) -> Arc<Sealed> {
        let keystore = Keystore::open(self.keys.store()).await.unwrap();
        let kek = Kek::from_key(SecretKey::from_bytes(b"a key of a test, which is no key"));
        let keychain =
            Keychain::create(keystore, &kek, self.mode, &self.data.key(), KeyCache::default()).await;
        let keychain = match self.fault {
            Some(fault) => keychain.unwrap().with_fault(fault),
            None => keychain.unwrap(),
        };
        Arc::new(EncryptedStore::new(self.data.store(), &keychain).unwrap())
    }

    fn tag(&self) -> UserTag {
        self.data.key().tag(&UserId::new(USER).unwrap())
    }

    fn owner(&self) -> Owner {
        Owner::User(self.tag())
    }

    async fn create(&self) -> Arc<dyn UserStore> {
        let first = Batch::new(Timestamp(1)).unwrap();
        self.process().await.create(self.tag(), first, CreateMode::New).await.unwrap().0
    }

    async fn crash(&mut self) {
        self.data.crash().await;
        self.keys.crash().await;
    }

    async fn status(&self) -> KeyStatus {
        self.process().await.key_status(self.owner(), true).await.unwrap()
    }

    /// What a process that has just begun reads.
    async fn found(&self) -> Contents {
        contents(&*self.process().await.open(self.tag()).await.unwrap()).await
    }
}

/// Head, body and version of each record.
type Contents = BTreeMap<(u8, Bytes, u64), (Bytes, Bytes, u64, u64)>;

async fn contents(user: &dyn UserStore) -> Contents {
    let mut contents = Contents::new();
    for space in SPACES {
        let mut from = None;
        loop {
            let scan = Scan::records(space, 64);
            let page = user.scan(match from {
                Some(from) => scan.from(from),
                None => scan,
            });
            let page = page.await.unwrap().value;
            for (head, body) in &page.records {
                let key = (space.code(), head.id.name().clone(), head.id.seq());
                let (version, body_version) = (head.version.0, head.body_version.0);
                contents.insert(key, (head.head.clone(), body.clone().unwrap(), version, body_version));
            }
            from = page.next();
            if from.is_none() {
                break;
            }
        }
    }
    contents
}

fn id(name: &str, seq: u64) -> RecordId {
    RecordId::new(Bytes::copy_from_slice(name.as_bytes()), seq).unwrap()
}

fn batch() -> Batch {
    Batch::new(Timestamp(10)).unwrap()
}

fn put_head(space: Keyspace, id: RecordId, head: &str) -> Op {
    Op::PutHead { space, id, head: Bytes::copy_from_slice(head.as_bytes()), expires: None }
}

/// Records of every kind: small and large bodies, empty ones, heads that were written again, an expiry.
async fn fill(user: &dyn UserStore, count: u64) {
    let mut records = batch();
    for number in 0..count {
        for space in SPACES {
            let body = format!("body {number} of {space:?}");
            records = records.put(space, id("some name", number), format!("head {number}"), body);
        }
    }
    user.commit(records).await.unwrap();
    let large = Bytes::from(vec![7; 20 * 1024]);
    let mut records = batch();
    for number in 0..4 {
        records = records.put(Keyspace::Context, id("large", number), "large", large.clone());
        records = records.put(Keyspace::Context, id("empty", number), "", "");
    }
    user.commit(records).await.unwrap();
    let mut heads = batch();
    for number in 0..count / 2 {
        heads = heads.op(put_head(Keyspace::Threads, id("some name", number), "another head"));
    }
    user.commit(heads).await.unwrap();
}

fn quiet(_: Progress) {}

/// Rotates until a number of calls of its progress, and dies there.
async fn rotate_and_die(store: &Arc<Sealed>, owner: Owner, calls: u64) -> bool {
    let store = Arc::clone(store);
    let task = tokio::spawn(async move {
        let mut left = calls;
        let mut die = |_: Progress| {
            left = left.checked_sub(1).unwrap_or_else(|| std::panic::resume_unwind(Box::new("killed")));
        };
        store.rotate(owner, &mut die).await.unwrap();
    });
    match task.await {
        Ok(()) => false,
        Err(error) => {
            assert_eq!(reason(error), "killed");
            true
        }
    }
}

async fn rotation_seals_everything_again(site: Site) {
    let user = site.create().await;
    fill(&*user, 40).await;
    let before = site.status().await;
    let count = 40 * SPACES.len() as u64 + 8;
    assert_eq!((before.epochs, before.target, before.sealing, before.held), (vec![1], None, 1, false));
    assert_eq!(before.records.unwrap(), BTreeMap::from([(1, count)]));
    for epoch in 2..5 {
        let rotated = site.process().await.rotate(site.owner(), &mut quiet).await.unwrap();
        assert_eq!((rotated.epoch, rotated.sealed, rotated.passes), (epoch, count, 2));
        let after = site.status().await;
        assert_eq!((after.epochs, after.target, after.sealing), (vec![epoch], None, epoch));
        assert_eq!(after.records.unwrap(), BTreeMap::from([(epoch, count)]));
        // What the status says, as the storage has it.
        let below = site.data.store().open(site.tag()).await.unwrap();
        for (_, body, ..) in contents(&*below).await.into_values().filter(|(_, body, ..)| !body.is_empty()) {
            assert_eq!(body[2..6], epoch.to_be_bytes());
        }
        assert_eq!(below.state().await.unwrap().note.as_bytes()[2..6], epoch.to_be_bytes());
    }
}

async fn rotation_leaves_what_it_seals_as_it_was(site: Site) {
    let user = site.create().await;
    fill(&*user, 20).await;
    let (before, at) = (contents(&*user).await, user.state().await.unwrap());
    site.process().await.rotate(site.owner(), &mut quiet).await.unwrap();
    assert!(site.found().await == before);
    let now = user.state().await.unwrap();
    // One commit says which key seals; sealing again is no change.
    assert_eq!(now.stamp.epoch.0, at.stamp.epoch.0 + 1);
    assert_eq!((now.usage, now.chain, now.note), (at.usage, at.chain, at.note));
}

/// A process with an open handle and cached keys goes on before, during and after rotations that it knows nothing of.
async fn rotation_beside_another_process(site: Site) {
    site.create().await;
    let (here, there) = (site.process().await, site.process().await);
    let (ours, theirs) = (here.open(site.tag()).await.unwrap(), there.open(site.tag()).await.unwrap());
    for round in 0..6_u64 {
        for (name, handle) in [("ours", &ours), ("theirs", &theirs)] {
            let text = format!("{name} {round}");
            let records = batch()
                .put(Keyspace::Context, id(name, round), "head", text.clone())
                .put(Keyspace::Context, id("shared", 0), "head", text.clone())
                .put(Keyspace::Agents, id(name, 0), text.clone(), "");
            handle.commit(records).await.unwrap();
            let read = handle.read(Keyspace::Context, &[id("shared", 0)]).await.unwrap();
            assert_eq!(read.value[0].as_ref().unwrap().body[..], *text.as_bytes());
        }
        here.rotate(site.owner(), &mut quiet).await.unwrap();
        assert!(contents(&*theirs).await == site.found().await);
        // Who expects a stamp learns that it moved on, and no more.
        let at = theirs.state().await.unwrap().stamp;
        let head = batch().op(put_head(Keyspace::Context, id("shared", 0), "head")).expect(Expect::Stamp(at));
        theirs.commit(head).await.unwrap();
    }
    assert_eq!(site.found().await.len(), 6 * 2 + 1 + 2);
    assert_eq!(site.status().await.records.unwrap().into_keys().collect::<Vec<_>>(), [7]);
}

/// Writers in this process and in another go on for the whole of several rotations. None of them fails.
async fn rotation_beside_writers(site: Site) {
    fill(&*site.create().await, 100).await;
    let (here, there) = (site.process().await, site.process().await);
    // Over files each commit waits for the disk, and writers of another process make a sweep begin again.
    let (last_epoch, pause) = if site.data.files().await.is_empty() {
        (7, Duration::from_micros(200))
    } else {
        (3, Duration::from_millis(20))
    };
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let mut writers = Vec::new();
    for (number, store) in [&here, &here, &there].into_iter().enumerate() {
        let user = store.open(site.tag()).await.unwrap();
        let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
        writers.push(tokio::spawn(async move {
            let (name, mut last) = (format!("writer {number}"), 0_u64);
            while !stop.load(Ordering::Relaxed) {
                last += 1;
                let text = last.to_string();
                let records = batch()
                    .put(Keyspace::Context, id(&name, 0), text.clone(), text.clone())
                    .put(Keyspace::History, id(&name, last), "", text.clone())
                    .op(put_head(Keyspace::Threads, id("some name", last % 100), &text));
                user.commit(records).await.unwrap();
                let ids = [id(&name, 0), id("some name", last % 100), id("large", last % 4)];
                let read = user.read(Keyspace::Context, &ids).await.unwrap().value;
                assert_eq!(read[0].as_ref().unwrap().body[..], *text.as_bytes());
                assert!(read[1].is_some() && read[2].is_some());
                written.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(pause).await;
            }
            (name, last)
        }));
    }
    while written.load(Ordering::Relaxed) < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for epoch in 2..=last_epoch {
        assert_eq!(here.rotate(site.owner(), &mut quiet).await.unwrap().epoch, epoch);
    }
    stop.store(true, Ordering::Relaxed);
    let mut expected = Vec::new();
    for writer in writers {
        expected.push(writer.await.unwrap());
    }
    let found = site.found().await;
    for (name, last) in expected {
        let name = Bytes::from(name);
        assert_eq!(found[&(Keyspace::Context.code(), name.clone(), 0)].1, last.to_string());
        for seq in 1..=last {
            assert_eq!(found[&(Keyspace::History.code(), name.clone(), seq)].1, seq.to_string());
        }
    }
    let epochs: Vec<_> = site.status().await.records.unwrap().into_keys().collect();
    assert_eq!(epochs, [last_epoch]);
}

async fn rotation_goes_on_after_a_crash(mut site: Site) {
    let user = site.create().await;
    fill(&*user, 10).await;
    drop(user);
    // Once in each keyspace of two passes; over files, which a crash copies, in some of them.
    let step = if site.data.files().await.is_empty() { 1 } else { 5 };
    let (mut calls, mut epoch) = (0, 1);
    loop {
        let died = rotate_and_die(&site.process().await, site.owner(), calls).await;
        site.crash().await;
        epoch += 1;
        if !died {
            break;
        }
        let status = site.status().await;
        assert_eq!((status.epochs, status.target), (vec![epoch - 1, epoch], Some(epoch)));
        // Life goes on in between.
        let user = site.process().await.open(site.tag()).await.unwrap();
        let record = batch().put(Keyspace::Context, id("between", calls), "", "between");
        user.commit(record).await.unwrap();
        let before = contents(&*user).await;
        // The same rotation, and not another one.
        let rotated = site.process().await.rotate(site.owner(), &mut quiet).await.unwrap();
        assert_eq!(rotated.epoch, epoch);
        assert!(site.found().await == before);
        calls += step;
    }
    assert!(calls as usize >= 2 * Keyspace::all().count());
    assert_eq!(site.status().await.epochs, [epoch]);
}

async fn rotation_is_turned_back(mut site: Site) {
    let user = site.create().await;
    fill(&*user, 10).await;
    let back = kind(site.process().await.rotate_back(site.owner(), &mut quiet).await);
    assert_eq!(back, ErrorKind::Invalid);
    for (round, calls) in [0, 3, 8, 20].into_iter().enumerate() {
        assert!(rotate_and_die(&site.process().await, site.owner(), calls).await);
        site.crash().await;
        let before = site.found().await;
        let new = u32::try_from(round).unwrap() + 2;
        assert_eq!(site.status().await.epochs, [1, new], "an epoch stands for one key");
        let rotated = site.process().await.rotate_back(site.owner(), &mut quiet).await.unwrap();
        assert_eq!(rotated.epoch, 1);
        let status = site.status().await;
        assert_eq!((status.epochs, status.target, status.sealing), (vec![1], None, 1));
        assert_eq!(status.records.unwrap().into_keys().collect::<Vec<_>>(), [1]);
        assert!(site.found().await == before);
    }
    let rotated = site.process().await.rotate(site.owner(), &mut quiet).await.unwrap();
    assert_eq!(rotated.epoch, 6);
    // The former key is gone.
    let back = kind(site.process().await.rotate_back(site.owner(), &mut quiet).await);
    assert_eq!(back, ErrorKind::Invalid);
}

async fn rotation_by_two_is_one(site: Site) {
    fill(&*site.create().await, 60).await;
    let before = site.found().await;
    for epoch in [2, 3] {
        let mut tasks = Vec::new();
        assert!(rotate_and_die(&site.process().await, site.owner(), 0).await);
        for _ in 0..3 {
            let (store, owner) = (site.process().await, site.owner());
            tasks.push(tokio::spawn(async move { store.rotate(owner, &mut quiet).await.unwrap().epoch }));
        }
        let mut ends = Vec::new();
        for task in tasks {
            ends.push(task.await.unwrap());
        }
        // One that came after the end of it has made the next one.
        assert!(ends.contains(&epoch) || epoch > 2, "{ends:?}");
    }
    let status = site.status().await;
    assert_eq!((status.epochs.len(), status.target), (1, None));
    assert!(
        site.found()
            .await
            .into_iter()
            .map(|(key, (head, body, ..))| (key, head, body))
            .eq(before.into_iter().map(|(key, (head, body, ..))| (key, head, body)))
    );
}

/// A rotation that stands still in the middle of its sweep while `meanwhile` runs, and goes on.
async fn paused<F: Future<Output = ()>>(
    site: &Site,
    meanwhile: impl FnOnce(Arc<Sealed>) -> F,
) -> Result<u32, ErrorKind> {
    let (store, owner) = (site.process().await, site.owner());
    let (reached, wait) = tokio::sync::oneshot::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let late = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut reached = Some(reached);
        let mut pause = move |_: Progress| {
            if let Some(reached) = reached.take() {
                reached.send(()).unwrap();
                gone.recv().unwrap();
            }
        };
        let rotated = runtime.block_on(store.rotate(owner, &mut pause));
        rotated.map(|rotated| rotated.epoch).map_err(|error| error.kind())
    });
    wait.await.unwrap();
    meanwhile(site.process().await).await;
    go.send(()).unwrap();
    tokio::task::spawn_blocking(move || late.join().unwrap()).await.unwrap()
}

async fn rotation_late_sealer_is_refused(site: Site) {
    fill(&*site.create().await, 40).await;
    let before = site.found().await;
    let owner = site.owner();
    let late = paused(&site, |other| async move {
        assert_eq!(other.rotate_back(owner, &mut quiet).await.unwrap().epoch, 1);
    });
    assert_eq!(late.await, Err(ErrorKind::Conflict));
    // What came late has sealed nothing under the key that is gone.
    assert!(site.found().await == before);
    assert_eq!(site.status().await.epochs, [1]);
    assert_eq!(site.process().await.rotate(owner, &mut quiet).await.unwrap().epoch, 3);
}

async fn rotation_late_sealer_of_a_finished_one_is_refused(site: Site) {
    fill(&*site.create().await, 40).await;
    let before = site.found().await;
    let owner = site.owner();
    let late = paused(&site, |other| async move {
        assert_eq!(other.rotate(owner, &mut quiet).await.unwrap().epoch, 2);
        assert_eq!(other.rotate(owner, &mut quiet).await.unwrap().epoch, 3);
    });
    assert_eq!(late.await, Ok(3));
    assert!(site.found().await == before);
    assert_eq!(site.status().await.records.unwrap().into_keys().collect::<Vec<_>>(), [3]);
}

async fn rotation_of_the_deployment(site: Site) {
    let store = site.process().await;
    let own = store.deployment().await.unwrap();
    let record = batch().put(Keyspace::Directory, id("somebody", 0), "head", "body");
    own.commit(record).await.unwrap();
    assert!(rotate_and_die(&store, Owner::Deployment, 7).await);
    for epoch in 2..4 {
        let rotated = site.process().await.rotate(Owner::Deployment, &mut quiet).await.unwrap();
        assert_eq!(rotated.epoch, epoch);
    }
    let own = site.process().await.deployment().await.unwrap();
    let read = own.read(Keyspace::Directory, &[id("somebody", 0)]).await.unwrap();
    assert_eq!(read.value[0].as_ref().unwrap().body[..], *b"body");
    let status = site.process().await.key_status(Owner::Deployment, true).await.unwrap();
    assert_eq!((status.epochs, status.records), (vec![3], Some(BTreeMap::from([(3, 1)]))));
}

async fn rotation_beside_a_snapshot(site: Site) {
    let user = site.create().await;
    fill(&*user, 30).await;
    let mut snapshot = user.snapshot().await.unwrap();
    site.process().await.rotate(site.owner(), &mut quiet).await.unwrap();
    user.state().await.unwrap();
    let mut count = 0;
    while let Some(chunk) = snapshot.next().await.unwrap() {
        count += chunk.len();
    }
    assert_eq!(count, 30 * SPACES.len() + 8);
}

/// A restore gives the data new keys. The rotation of the former ones ends there.
async fn rotation_beside_a_restore(site: Site) {
    let user = site.create().await;
    fill(&*user, 30).await;
    let tag = site.tag();
    let mut snapshot = user.snapshot().await.unwrap();
    let late = paused(&site, |other| async move {
        other.import(tag, &mut *snapshot, ImportMode::Replace).await.unwrap();
    });
    assert_eq!(late.await, Err(ErrorKind::Gone));
    let status = site.status().await;
    assert_eq!((status.epochs, status.target), (vec![1], None));
    assert_eq!(site.found().await.len(), 30 * SPACES.len() + 8);
    assert_eq!(site.process().await.rotate(site.owner(), &mut quiet).await.unwrap().epoch, 2);
}

async fn rotation_of_an_erased_user(site: Site) {
    fill(&*site.create().await, 30).await;
    let tag = site.tag();
    let late = paused(&site, |other| async move {
        other.erase(tag).await.unwrap();
    });
    assert!(matches!(late.await, Err(ErrorKind::Gone | ErrorKind::Erased)));
    // No key came back.
    assert_eq!(site.process().await.erase(tag).await.unwrap().keys, 0);
    assert_eq!(kind(site.process().await.rotate(site.owner(), &mut quiet).await), ErrorKind::Erased);
}
