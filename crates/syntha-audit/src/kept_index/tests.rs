use std::collections::BTreeMap;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use proptest::prelude::*;
use syntha_store::{
    At as Answered, BatchId, Changes, Commit, DeploymentKey, MemoryStore, Outcome, Page, Snapshot, Stamp,
    Store, UserState, UserStore,
};

use super::*;
use crate::link::genesis;
use crate::log::{Checks, Entry, Logged};
use crate::{MemorySigner, Signer};

/// One deployment's log, that can be opened again and again.
struct Bed {
    data: MemoryStore,
    signer: MemorySigner,
}

/// Bytes of a part here, so that there are several of each kind.
const SMALL: usize = 1_024;

fn small_parts(copied: &Copied) -> impl Iterator<Item = Bytes> {
    parts(copied, SMALL)
}

type Rows = BTreeMap<RecordId, (Bytes, Bytes)>;

impl Bed {
    fn new() -> Self {
        let data = MemoryStore::with_key(DeploymentKey::generate().unwrap()).unwrap();
        let signer = MemorySigner::new(&data.deployment_key().fingerprint()).unwrap();
        Self { data, signer }
    }

    fn deployment(&self) -> KeyFingerprint {
        self.data.deployment_key().fingerprint()
    }

    async fn space(&self) -> Arc<dyn UserStore> {
        self.data.reopen().deployment().await.unwrap()
    }

    async fn open_over(&self, space: Arc<dyn UserStore>, checks: Checks) -> Result<Log> {
        let signer = Arc::new(self.signer.clone());
        let mut log = Log::open(space, signer, self.deployment(), checks).await?;
        log.part_bytes = SMALL;
        Ok(log)
    }

    async fn open(&self) -> Log {
        self.open_over(self.space().await, Checks::ALL).await.unwrap()
    }

    /// How many leaves a start reads. It comes to what all leaves say, whatever it reads.
    async fn reads(&self) -> u64 {
        let log = self.open().await;
        assert_eq!(sorted(&log), sorted(&self.open_whole().await));
        log.opened().read
    }

    /// Opened by a signer that keeps no key of an index.
    async fn open_whole(&self) -> Log {
        let forgetful: Arc<dyn Signer> = Arc::new(Forgetful(self.signer.clone()));
        let log = Log::open(self.space().await, forgetful, self.deployment(), Checks::ALL).await.unwrap();
        assert_eq!(log.opened().read, log.opened().leaves);
        log
    }

    async fn rows(&self) -> Rows {
        let space = self.space().await;
        let page = space.scan(Scan::records(Keyspace::Audit, 65_536)).await.unwrap().value;
        assert!(!page.more);
        page.records.into_iter().map(|(head, body)| (head.id, (head.head, body.unwrap()))).collect()
    }

    /// Makes the data what it was, as who can write the files can.
    async fn put_back(&self, rows: &Rows) {
        let mut batch = Batch::new(Timestamp(0)).unwrap();
        let now = self.rows().await;
        for id in now.keys().filter(|id| !rows.contains_key(id)) {
            batch.ops.push(Op::Delete { space: Keyspace::Audit, id: id.clone() });
        }
        for (id, (head, body)) in rows.iter().filter(|(id, row)| now.get(id) != Some(row)) {
            let (id, head, body) = (id.clone(), head.clone(), body.clone());
            batch.ops.push(Op::Put { space: Keyspace::Audit, id, head, body, expires: None });
        }
        if !batch.ops.is_empty() {
            self.space().await.commit(batch).await.unwrap();
        }
    }
}

/// A host's own signer, of before there were kept indexes.
#[derive(Clone, Debug)]
struct Forgetful(MemorySigner);

#[async_trait]
impl Signer for Forgetful {
    fn origin(&self) -> &str {
        self.0.origin()
    }

    async fn keys(&self) -> Result<crate::SignerKeys> {
        self.0.keys().await
    }

    async fn signed(&self) -> Result<Option<TreeHead>> {
        self.0.signed().await
    }

    async fn turn(&self) -> Result<Box<dyn crate::SigningTurn>> {
        Ok(Box::new(ForgetfulTurn(self.0.turn().await?)))
    }
}

struct ForgetfulTurn(Box<dyn crate::SigningTurn>);

#[async_trait]
impl crate::SigningTurn for ForgetfulTurn {
    fn signed(&self) -> Option<TreeHead> {
        self.0.signed()
    }

    fn pending(&self) -> Option<TreeHead> {
        self.0.pending()
    }

    async fn sign(&mut self, head: TreeHead, consistency: &[Hash]) -> Result<String> {
        self.0.sign(head, consistency).await
    }

    async fn settle(&mut self, published: TreeHead) -> Result<()> {
        self.0.settle(published).await
    }

    async fn rotate(&mut self) -> Result<String> {
        self.0.rotate().await
    }
}

fn sorted(log: &Log) -> Copied {
    log.index.read().copied().unwrap().sorted()
}

fn is_of_index(id: &RecordId) -> bool {
    let name: &[u8] = id.name();
    name == INDEX || name == PART
}

fn owner(number: u64) -> Owner {
    let mut owner = [7; 32];
    owner[..8].copy_from_slice(&number.to_be_bytes());
    owner
}

/// What an owner's chain does next: it grows, or is pruned, erased or lost where it is there.
fn next(index: &Index, number: u64, what: u8) -> Entry {
    let owner = owner(number);
    let at = index.at(&owner).unwrap();
    let life = |more: u128| Incarnation(at.map_or(1, |at| at.life.0 + more));
    let silent = |leaf| Entry { leaf, from: 0, before: [0; 32], at };
    let leaf = |kind, life, chain| Leaf::new(kind, owner, life, chain);
    match at.filter(|at| !at.erased) {
        Some(at) if what == 1 => {
            let chain = ChainHead { seq: at.chain.seq - 1, head: [2; 32] };
            silent(leaf(LeafKind::Floor, at.life, chain))
        }
        Some(at) if what == 2 => silent(leaf(LeafKind::Erased, at.life, at.chain)),
        Some(at) if what == 3 => silent(leaf(LeafKind::Lost, at.life, at.chain)),
        alive => {
            let begin = index
                .floor(&owner)
                .unwrap()
                .map(|(_, floor)| ChainHead { seq: floor.chain.seq - 1, head: floor.chain.head });
            let genesis = ChainHead { seq: 0, head: genesis(&index.deployment(), &owner) };
            let start = alive.map_or(begin.unwrap_or(genesis), |at| at.chain);
            let chain = ChainHead { seq: start.seq + 3, head: [(start.seq % 251) as u8; 32] };
            let life = life(u128::from(alive.is_none()));
            Entry { leaf: leaf(LeafKind::Head, life, chain), from: start.seq + 1, before: start.head, at }
        }
    }
}

/// Appends so many leaves, of 50 owners in turn, some of which are pruned, erased and lost.
async fn append(log: &Log, count: u64) {
    let mut left = count;
    while left > 0 {
        let mut turn = log.turn(true).await.unwrap();
        let size = turn.size();
        let entries: Vec<_> = (size..size + left.min(40))
            .map(|n| next(&log.index.read(), n % 50, if n % 7 == 0 { (n / 7 % 4) as u8 } else { 0 }))
            .collect();
        left -= entries.len() as u64;
        turn.append(&entries).await.unwrap();
    }
}

#[tokio::test]
async fn a_start_reads_what_came_since() {
    let bed = Bed::new();
    let log = bed.open().await;
    append(&log, 1_000).await;
    assert!(!log.keep_index(false).await.unwrap(), "too few");
    assert_eq!(bed.reads().await, 1_000);
    append(&log, 24).await;
    let before = bed.rows().await;
    assert!(log.keep_index(false).await.unwrap());
    assert!(!log.keep_index(false).await.unwrap() && !log.keep_index(true).await.unwrap());
    assert_eq!(bed.reads().await, 0, "1,024 leaves are four whole pages");
    append(&log, 77).await;
    assert_eq!(bed.reads().await, 77);
    let kept: Rows = bed.rows().await.into_iter().filter(|(id, _)| is_of_index(id)).collect();
    assert!(kept.len() > 5, "several parts");
    assert!(before.keys().all(|id| !is_of_index(id)));
    // Whoever starts goes on, and everybody's later reads are compared with the pages.
    let other = bed.open().await;
    append(&other, 123).await;
    assert!(!other.keep_index(true).await.unwrap(), "too few at an end, too");
    append(&other, 56).await;
    assert!(other.keep_index(true).await.unwrap());
    // What the last page has so far is read again.
    assert_eq!(bed.reads().await, 1_280 % PAGE);
    append(&other, 30).await;
    let log = bed.open().await;
    assert_eq!(log.opened(), crate::Opened { leaves: 1_310, read: 30 });
    let mut from = 0;
    while from < 1_310 {
        from += log.leaves(from, 1_310, 1_000).await.unwrap().len() as u64;
    }
    // Nothing of the older one is left.
    let now = bed.rows().await;
    let parts = |rows: &Rows| rows.keys().filter(|id| is_of_index(id)).cloned().collect::<Vec<_>>();
    assert!(parts(&kept).iter().all(|id| !now.contains_key(id)));
    // An older one that is put back makes a start read more, and come to the same.
    let mut older = now.clone();
    older.retain(|id, _| !is_of_index(id));
    older.extend(kept);
    bed.put_back(&older).await;
    assert_eq!(bed.reads().await, 1_310 - 1_024);
}

#[tokio::test]
async fn it_is_kept_once_and_again_after_its_share_of_leaves() {
    assert_eq!((due_after(0, false), due_after(0, true)), (1_024, 256));
    // 5,000 owners and 100,000 leaves, and a million.
    assert_eq!(due_after(bytes(5_000, 0, 100_000), false), 1_343);
    assert_eq!(due_after(bytes(1_000_000, 0, 10_000_000), false), 265_624);
    assert_eq!(due_after(bytes(1_000_000, 0, 10_000_000), true), 66_406);
    let bed = Bed::new();
    let (one, two) = (bed.open().await, bed.open().await);
    append(&one, 1_100).await;
    two.refresh().await.unwrap();
    assert!(one.keep_index(false).await.unwrap());
    // It sees that another process did.
    assert!(!two.keep_index(false).await.unwrap());
    append(&two, 300).await;
    assert!(two.keep_index(true).await.unwrap());
    assert_eq!(bed.reads().await, 1_400 % PAGE);
}

/// What any process finds below, whatever somebody did to the index, is what the leaves say.
#[tokio::test]
async fn one_that_somebody_wrote_is_not_believed() {
    let bed = Bed::new();
    let log = bed.open().await;
    append(&log, 300).await;
    assert!(log.keep_index(true).await.unwrap());
    let first = bed.rows().await;
    append(&log, 400).await;
    assert!(log.keep_index(true).await.unwrap());
    append(&log, 5).await;
    let good = bed.rows().await;
    assert_eq!(bed.reads().await, 700 % PAGE + 5);
    let ids: Vec<_> = good.keys().filter(|id| is_of_index(id)).cloned().collect();
    let with = |id: &RecordId, body: Option<Bytes>| {
        let mut rows = good.clone();
        match body {
            Some(body) => rows.insert(id.clone(), (Bytes::new(), body)),
            None => rows.remove(id),
        };
        rows
    };
    let mut forged = Vec::new();
    for id in &ids {
        let body = &good[id].1;
        // Every byte of the row and, as each part is hashed whole, some of each part.
        let step = if id.name() == &Bytes::from_static(INDEX) { 1 } else { 37 };
        for at in (0..body.len()).step_by(step) {
            let mut other = body.to_vec();
            other[at] ^= 1 << (at % 8);
            forged.push((format!("{id:?} byte {at}"), with(id, Some(other.into()))));
        }
        forged.push((format!("{id:?} is gone"), with(id, None)));
        forged.push((format!("{id:?} is cut"), with(id, Some(body.slice(..body.len() - 1)))));
        forged.push((format!("{id:?} is longer"), with(id, Some([body, &[0][..]].concat().into()))));
        forged.push((format!("{id:?} is empty"), with(id, Some(Bytes::new()))));
        for other in &ids {
            if good[other].1 != *body {
                forged.push((format!("{id:?} as {other:?}"), with(id, Some(good[other].1.clone()))));
            }
        }
    }
    // The row of another moment, with the parts of this one.
    let is_row = |id: &&RecordId| id.name() == &Bytes::from_static(INDEX);
    let (row, before) = (ids.iter().find(is_row).unwrap(), first.keys().find(is_row).unwrap());
    assert!(before.seq() < row.seq());
    forged.push(("an older row".to_owned(), with(row, Some(first[before].1.clone()))));
    let mut rows = with(row, None);
    rows.insert(before.clone(), first[before].clone());
    forged.push(("an older row, and its parts are gone".to_owned(), rows));
    // One of what is to come is in nobody's way.
    let mut rows = good.clone();
    rows.insert(id(INDEX, row.seq() + 1_000).unwrap(), (Bytes::new(), good[row].1.clone()));
    bed.put_back(&rows).await;
    assert_eq!(bed.reads().await, 700 % PAGE + 5);
    // One of another deployment, under the same key.
    let key = bed.signer.index_key().await.unwrap().unwrap();
    let manifest = Manifest::decode(&good[row].1, &key, &bed.deployment(), false).unwrap();
    let other = Bed::new();
    forged.push((
        "of another deployment".to_owned(),
        with(row, Some(manifest.encode(&key, &other.deployment()).unwrap())),
    ));
    // One of more leaves than were signed, under the right key.
    let longer =
        Manifest { head: TreeHead { size: 1 << 40, ..manifest.head }, roots: vec![[1; 32]], ..manifest };
    forged.push((
        "of leaves to come".to_owned(),
        with(row, Some(longer.encode(&key, &bed.deployment()).unwrap())),
    ));
    let whole = sorted(&bed.open_whole().await);
    for (what, rows) in &forged {
        bed.put_back(rows).await;
        let log = bed.open().await;
        assert_eq!(log.opened().read, 705, "{what}");
        assert_eq!(sorted(&log), whole, "{what}");
    }
    // The next one that is kept takes the place of one that is none, however few leaves came since.
    let log = bed.open().await;
    assert!(log.keep_index(true).await.unwrap());
    assert_eq!(bed.reads().await, 705 % PAGE);
    // And believed, some of it would have been.
    let mut believed = 0;
    for (_, rows) in &forged {
        bed.put_back(rows).await;
        let checks = Checks { authenticates: false, ..Checks::ALL };
        let log = bed.open_over(bed.space().await, checks).await.unwrap();
        believed += usize::from(log.opened().read < 705);
    }
    assert!(believed > 20, "{believed}");
}

#[tokio::test]
async fn it_counts_under_the_key_of_its_signer() {
    let bed = Bed::new();
    let log = bed.open().await;
    append(&log, 300).await;
    // A signer that keeps no key has none kept, and nothing is wrong with that.
    assert!(!bed.open_whole().await.keep_index(true).await.unwrap());
    assert!(bed.rows().await.keys().all(|id| !is_of_index(id)));
    assert!(log.keep_index(true).await.unwrap());
    assert_eq!(bed.reads().await, 300 % PAGE);
    assert_eq!(bed.open_whole().await.opened().read, 300);
    // Who had the old file can't write one after the key was changed.
    let thief = bed.signer.index_key().await.unwrap().unwrap();
    log.turn(true).await.unwrap().rotate().await.unwrap();
    assert_eq!(bed.signer.index_key().await.unwrap().map(|key| *key.as_bytes()), None);
    assert_eq!(bed.reads().await, 300);
    let log = bed.open().await;
    assert!(log.keep_index(true).await.unwrap());
    let now = bed.signer.index_key().await.unwrap().unwrap();
    assert_ne!(thief.as_bytes(), now.as_bytes());
    assert_eq!(bed.reads().await, 300 % PAGE);
}

/// The index vouches for what it was made of, and for nothing that came after it.
#[tokio::test]
async fn data_that_was_put_back_or_cut_is_refused_beside_it() {
    let bed = Bed::new();
    let log = bed.open().await;
    append(&log, 700).await;
    assert!(log.keep_index(true).await.unwrap());
    let old = bed.rows().await;
    append(&log, 30).await;
    let now = bed.rows().await;
    let refused = async |rows: &Rows, checks| {
        bed.put_back(rows).await;
        bed.open_over(bed.space().await, checks).await.map(drop).map_err(|error| error.kind())
    };
    // All of an earlier moment: the signer remembers more.
    assert_eq!(refused(&old, Checks::ALL).await, Err(ErrorKind::Tampered));
    assert_eq!(refused(&old, Checks { compares: false, ..Checks::ALL }).await, Ok(()));
    // The leaves after it are gone, or are others.
    for leaf in [700, 715, 729] {
        let mut cut = now.clone();
        cut.remove(&id(b"leaf", leaf).unwrap());
        assert_eq!(refused(&cut, Checks::ALL).await, Err(ErrorKind::Tampered), "{leaf}");
        let mut other = now.clone();
        let body = &mut other.get_mut(&id(b"leaf", leaf).unwrap()).unwrap().1;
        *body = [&body[..50], &[body[50] ^ 1], &body[51..]].concat().into();
        assert_eq!(refused(&other, Checks::ALL).await, Err(ErrorKind::Tampered), "{leaf}");
    }
    // Of those before it, the page that is not full is read at once, and the others when they are asked for.
    let mut cut = now.clone();
    cut.remove(&id(b"leaf", 699).unwrap());
    assert_eq!(refused(&cut, Checks::ALL).await, Err(ErrorKind::Tampered));
    let beside = |leaf| {
        let mut rows = now.clone();
        let head = &mut rows.get_mut(&id(b"leaf", leaf).unwrap()).unwrap().0;
        *head = [&head[..55], &[head[55] ^ 1]].concat().into();
        rows
    };
    bed.put_back(&beside(699)).await;
    assert!(bed.open().await.opened().read >= 730, "it is not what it was made of");
    bed.put_back(&beside(10)).await;
    let log = bed.open().await;
    assert_eq!(log.opened().read, 730 - 512);
    assert_eq!(log.leaves(0, 256, 1).await.unwrap_err().kind(), ErrorKind::Tampered);
    assert_eq!(log.leaves(256, 700, 1).await.unwrap()[0].index, 256);
    assert_eq!(refused(&now, Checks::ALL).await, Ok(()));
}

/// A deployment's space whose commits end at one, or let others go first.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn UserStore>,
    left: AtomicUsize,
    before: StdMutex<Option<tokio::sync::oneshot::Sender<()>>>,
    go_on: tokio::sync::Notify,
}

impl Watched {
    fn new(inner: Arc<dyn UserStore>, left: usize) -> Arc<Self> {
        let (left, before) = (AtomicUsize::new(left), StdMutex::default());
        Arc::new(Self { inner, left, before, go_on: tokio::sync::Notify::new() })
    }
}

#[async_trait]
impl UserStore for Watched {
    async fn state(&self) -> Result<UserState> {
        self.inner.state().await
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.inner.is_at(stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<Answered<Vec<Option<Record>>>> {
        self.inner.read(space, ids).await
    }

    async fn scan(&self, scan: Scan) -> Result<Answered<Page>> {
        self.inner.scan(scan).await
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            let waits = self.before.lock().unwrap().take();
            let Some(waits) = waits else {
                return Err(Error::new(ErrorKind::Unavailable, "the process died"));
            };
            waits.send(()).unwrap();
            self.go_on.notified().await;
            self.left.store(usize::MAX, Ordering::SeqCst);
        }
        self.inner.commit(batch).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        self.inner.outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        self.inner.changes(since, limit).await
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        self.inner.changed(since).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.inner.snapshot().await
    }
}

#[tokio::test]
async fn one_that_was_not_finished_does_not_count() {
    let bed = Bed::new();
    let log = bed.open().await;
    append(&log, 300).await;
    assert!(log.keep_index(true).await.unwrap());
    append(&log, 500).await;
    let commits = small_parts(&sorted(&log)).count();
    assert!(commits > 5);
    for left in 0..commits {
        let dying = bed.open_over(Watched::new(bed.space().await, left), Checks::ALL).await.unwrap();
        assert_eq!(dying.keep_index(true).await.unwrap_err().kind(), ErrorKind::Unavailable);
        // It does not try again and again.
        assert!(!dying.keep_index(true).await.unwrap());
        assert_eq!(bed.reads().await, 500 + 300 % PAGE, "after {left} commits");
    }
    // What they left goes with the next one.
    append(&log, 1).await;
    assert!(log.keep_index(true).await.unwrap());
    assert_eq!(bed.reads().await, 801 % PAGE);
    let left = bed.rows().await.into_keys().filter(|id| id.name() == &Bytes::from_static(PART)).count();
    assert_eq!(left, small_parts(&sorted(&log)).count());
}

/// One process keeps it while another one does: the same, or one of later leaves; with one of before, and without.
#[tokio::test]
async fn two_that_keep_it_at_once_leave_one_whole() {
    for (more, has_old) in [(0, false), (0, true), (300, false), (300, true)] {
        for left in [0, 1, 7] {
            let bed = Bed::new();
            let other = bed.open().await;
            append(&other, 300).await;
            assert!(!has_old || other.keep_index(true).await.unwrap());
            append(&other, 400).await;
            assert!(small_parts(&sorted(&other)).count() > left);
            let space = Watched::new(bed.space().await, left);
            let (reached, waits) = tokio::sync::oneshot::channel();
            *space.before.lock().unwrap() = Some(reached);
            let slow = bed.open_over(Arc::clone(&space) as Arc<dyn UserStore>, Checks::ALL).await.unwrap();
            let keeping = tokio::spawn(async move { slow.keep_index(true).await.unwrap() });
            waits.await.unwrap();
            append(&other, more).await;
            assert!(bed.open().await.keep_index(true).await.unwrap());
            space.go_on.notify_one();
            // What it took the place of is gone already.
            assert!(!(keeping.await.unwrap() && has_old));
            assert_eq!(bed.reads().await, (700 + more) % PAGE, "{more} more, after {left} commits");
            // And the next one clears up.
            append(&other, 300).await;
            assert!(other.keep_index(true).await.unwrap());
            let count = bed.rows().await.into_keys().filter(is_of_index).count();
            assert_eq!(count, 1 + small_parts(&sorted(&other)).count());
        }
    }
}

/// What is kept of an index, read again.
fn kept(copied: &Copied, deployment: KeyFingerprint, tail: &[Logged]) -> Index {
    let key = IndexKey::from_bytes([5; 32]);
    let parts: Vec<_> = small_parts(copied).collect();
    assert!(parts.iter().all(|part| part.len() <= SMALL + 1));
    let manifest = Manifest::of(copied, parts.iter().map(|part| Sha256::digest(part).into()).collect());
    let row = manifest.encode(&key, &deployment).unwrap();
    let read = Manifest::decode(&row, &key, &deployment, false).unwrap();
    assert_eq!(read, manifest);
    let mut again = read.begun();
    parts.iter().for_each(|part| take_part(&mut again, part).unwrap());
    assert!(read.is_whole(&again));
    assert_eq!(&again, copied);
    let mut hash = Sha256::new();
    tail.iter().for_each(|leaf| leaf.hash(&mut hash));
    let index = Index::restored(deployment, again, hash).unwrap();
    assert_eq!(index.edge().head(), manifest.head);
    index
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Where it was kept makes no difference: all leaves, or the kept one and the leaves after it, come to the same.
    #[test]
    fn an_index_is_that_of_all_leaves(
        history in prop::collection::vec((0_u64..24, 0_u8..8), 1..900),
        cuts in prop::collection::vec(0_usize..900, 1..4),
    ) {
        let deployment = DeploymentKey::from_bytes([7; 32]).fingerprint();
        let (mut whole, mut again) = (Index::new(deployment), Index::new(deployment));
        let mut leaves: Vec<Logged> = Vec::new();
        for (number, what) in history {
            let Entry { leaf, from, before, .. } = next(&whole, number, what);
            let index = whole.size();
            if cuts.contains(&leaves.len()) {
                let first = leaves.len() / PAGE as usize * PAGE as usize;
                again = kept(&again.copied().unwrap().sorted(), deployment, &leaves[first..]);
            }
            let logged = Logged { leaf, index, from, before, checkpoint: index, size: index + 1 };
            whole.push(&logged).unwrap();
            again.push(&logged).unwrap();
            let head = whole.edge().head();
            whole.reached(index + 1, head).unwrap();
            again.reached(index + 1, head).unwrap();
            leaves.push(logged);
        }
        prop_assert_eq!(whole.copied().unwrap().sorted(), again.copied().unwrap().sorted());
        for number in 0..24 {
            let owner = owner(number);
            prop_assert_eq!(whole.at(&owner).unwrap(), again.at(&owner).unwrap());
            let floor = whole.floor(&owner).unwrap();
            prop_assert_eq!(floor, again.floor(&owner).unwrap());
            if let Some((_, leaf)) = floor {
                prop_assert_eq!(
                    whole.floor_at(&owner, leaf.chain).unwrap(),
                    again.floor_at(&owner, leaf.chain).unwrap()
                );
            }
        }
        for page in 0..whole.size() / PAGE + 1 {
            let page = (page * PAGE).min(whole.size() - 1);
            prop_assert_eq!(whole.page(page).unwrap(), again.page(page).unwrap());
        }
    }
}
