//! The deployment's log: a Merkle tree (RFC 6962) over leaves that say where chains ended, with signed checkpoints (C2SP `tlog-checkpoint`).
//!
//! It lies in the deployment's own space, keyspace Audit, below whatever seals: `leaf` (by index), `tree` (hashes, by the first one's
//! number), `checkpoint` (by number), `index` and `index-part` (see `kept_index`). These are no changes of the deployment's data. Where chains
//! were logged is known from the leaves, which are read when the log is opened, all or those since the index was kept, and compared with
//! what was signed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use signed_note::Note;
use syntha_store::{
    Batch, ChainHead, Error, ErrorKind, Expect, Incarnation, KeyFingerprint, Keyspace, Op, Record, RecordId,
    Result, Scan, Timestamp, UserStore,
};
use tlog_tiles::{HashReader, prove_record, prove_tree, record_hash, stored_hash_index, tree_hash};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::hub::Owner;
use crate::index::Index;
use crate::kept_index::{LEAVES_WORTH_IT, PART_BYTES};
use crate::leaf::{Leaf, LeafKind};
use crate::link::{Hash, malformed};
use crate::signer::{Signer, SigningTurn, TreeHead, check_extends, rolled_back};
use crate::user_store::put;

/// The most leaves of one checkpoint.
pub(crate) const LEAVES_MOST: usize = 8_192;
/// How many leaves are read at a time.
const LEAVES_PAGE: usize = 1_024;
/// How many of the newest checkpoints are kept, and of the older ones each of which number.
const CHECKPOINTS_NEWEST: u64 = 4_096;
const CHECKPOINTS_EACH: u64 = 1_024;
/// How many go at a time.
const CHECKPOINTS_STEP: u64 = 256;

/// A signed state of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Its running number, from 1.
    pub number: u64,
    /// The state of the log.
    pub head: TreeHead,
    /// The signed note.
    pub note: Arc<str>,
}

/// Where a chain was last logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) erased: bool,
    pub(crate) life: Incarnation,
    pub(crate) chain: ChainHead,
    /// The leaf.
    pub(crate) index: u64,
    /// Links that leaves before this one name are gone with an erasure.
    pub(crate) gone: u64,
}

impl At {
    /// The leaf.
    pub(crate) const fn leaf(&self, owner: Owner) -> Leaf {
        let kind = if self.erased { LeafKind::Erased } else { LeafKind::Head };
        Leaf::new(kind, owner, self.life, self.chain)
    }
}

/// A leaf with what is kept beside it: which links it is the first to name, after which hash, and which checkpoint is the first over it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged {
    pub(crate) leaf: Leaf,
    pub(crate) index: u64,
    /// 0 for none.
    pub(crate) from: u64,
    pub(crate) before: Hash,
    pub(crate) checkpoint: u64,
    pub(crate) size: u64,
}

impl Logged {
    /// How many links it is the first to name.
    pub(crate) const fn links(&self) -> u64 {
        match self.from {
            0 => 0,
            from => self.leaf.chain.seq.saturating_add(1).saturating_sub(from),
        }
    }

    fn head(&self) -> Bytes {
        let mut out = Vec::with_capacity(56);
        out.put_u64(self.from);
        out.put_slice(&self.before);
        out.put_u64(self.checkpoint);
        out.put_u64(self.size);
        out.into()
    }

    /// All that is stored of it.
    pub(crate) fn hash(&self, to: &mut Sha256) {
        to.update(self.index.to_be_bytes());
        to.update(self.head());
        to.update(self.leaf.encode());
    }

    fn decode(head: &[u8], body: &[u8], index: u64) -> Result<Self> {
        let mut rest = head;
        if rest.len() != 56 {
            return Err(malformed());
        }
        let from = rest.get_u64();
        let mut before = [0; 32];
        rest.copy_to_slice(&mut before);
        let (checkpoint, size) = (rest.get_u64(), rest.get_u64());
        Ok(Self { leaf: Leaf::decode(body)?, index, from, before, checkpoint, size })
    }
}

/// What is to be logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) leaf: Leaf,
    /// The first link that it is the first to name, and the hash before that; 0 for none.
    pub(crate) from: u64,
    pub(crate) before: Hash,
    /// Where its chain was logged before.
    pub(crate) at: Option<At>,
}

/// Where the log stands, with the hashes of its right edge.
struct Standing {
    number: u64,
    head: TreeHead,
    note: Option<Arc<str>>,
    edge: HashMap<u64, Hash>,
}

/// What opening the log took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opened {
    /// How many leaves the log had.
    pub leaves: u64,
    /// How many of them were read.
    pub read: u64,
}

/// What opening the log looks at. Each is left out by a planted fault alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checks {
    /// The log is compared with what was signed last.
    pub(crate) compares: bool,
    /// A kept index counts under its key alone.
    pub(crate) authenticates: bool,
}

impl Checks {
    pub(crate) const ALL: Self = Self { compares: true, authenticates: true };
}

/// The log of a deployment.
pub(crate) struct Log {
    pub(crate) space: Arc<dyn UserStore>,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) deployment: KeyFingerprint,
    standing: Arc<Mutex<Option<Standing>>>,
    pub(crate) index: Arc<RwLock<Index>>,
    /// Held while leaves are read into the index.
    growing: Mutex<()>,
    /// Held while the index is written into the data.
    pub(crate) keeping: Mutex<()>,
    /// How many leaves the index had that was kept last, or was tried to be.
    pub(crate) kept: AtomicU64,
    /// The checkpoint of one that did not count, and is replaced whatever it says of itself; 0 for none.
    pub(crate) spoilt: AtomicU64,
    pub(crate) part_bytes: usize,
    /// A kept index is believed whoever wrote it: a planted fault.
    pub(crate) believes: bool,
    /// How many leaves were read from the store.
    read: AtomicU64,
    opened: Opened,
    /// How many leaves stand under a checkpoint that may be given out.
    published: AtomicU64,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("published", &self.published).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log, and compares it with what was signed last. All its leaves are read, or those since the index was kept.
    pub(crate) async fn open(
        space: Arc<dyn UserStore>,
        signer: Arc<dyn Signer>,
        deployment: KeyFingerprint,
        checks: Checks,
    ) -> Result<Self> {
        // INVARIANT: what was signed is asked first, so that a checkpoint of another process in between only makes the log longer.
        let signed = signer.signed().await?;
        let mut log = Self {
            space,
            signer,
            deployment,
            standing: Arc::default(),
            index: Arc::new(RwLock::new(Index::new(deployment))),
            growing: Mutex::default(),
            keeping: Mutex::default(),
            kept: AtomicU64::new(0),
            spoilt: AtomicU64::new(0),
            part_bytes: PART_BYTES,
            believes: !checks.authenticates,
            read: AtomicU64::new(0),
            opened: Opened::default(),
            published: AtomicU64::new(0),
        };
        let standing = log.load().await?;
        if let (Some(signed), true) = (signed, checks.compares) {
            log.compare(&standing, signed).await?;
            log.published.store(signed.size, Ordering::Release);
        }
        log.grow(standing.number, standing.head).await?;
        log.opened = Opened { leaves: standing.head.size, read: *log.read.get_mut() };
        Ok(log)
    }

    pub(crate) const fn opened(&self) -> Opened {
        self.opened
    }

    /// Reads the leaves up to a checkpoint that was verified into the index.
    async fn grow(&self, number: u64, head: TreeHead) -> Result<()> {
        let _growing = self.growing.lock().await;
        let (known, from, mut edge) = {
            let index = self.index.read();
            (index.number(), index.size(), index.edge())
        };
        if known >= number {
            return Ok(());
        }
        let missing = head.size.saturating_sub(from);
        if missing > LEAVES_MOST as u64 || (from == 0 && missing >= LEAVES_WORTH_IT) {
            // INVARIANT: nobody sees what was not compared, and no more than a page of it is held beside the index.
            let index = self.read_all(number, head).await?;
            *self.index.write() = index;
            return Ok(());
        }
        let mut leaves = Vec::new();
        while from.saturating_add(leaves.len() as u64) < head.size {
            let next = self.stored(from.saturating_add(leaves.len() as u64), head.size, LEAVES_PAGE).await?;
            next.iter().for_each(|leaf| edge.push(record_hash(&leaf.leaf.encode())));
            leaves.extend(next);
        }
        if edge.head() != head {
            return Err(changed());
        }
        self.take_in(number, head, &leaves)
    }

    /// An index of all leaves under a checkpoint: from the one that was kept, if that leads there, else from nothing.
    async fn read_all(&self, number: u64, head: TreeHead) -> Result<Index> {
        if let Ok(Some(kept)) = self.kept_index(number, head).await
            && let Ok(index) = self.read_on(kept, number, head).await
        {
            return Ok(index);
        }
        self.kept.store(0, Ordering::Relaxed);
        self.read_on(Index::new(self.deployment), number, head).await
    }

    async fn read_on(&self, mut index: Index, number: u64, head: TreeHead) -> Result<Index> {
        while index.size() < head.size {
            for leaf in self.stored(index.size(), head.size, LEAVES_PAGE).await? {
                index.push(&leaf)?;
            }
        }
        index.reached(number, head)?;
        Ok(index)
    }

    fn take_in(&self, number: u64, head: TreeHead, leaves: &[Logged]) -> Result<()> {
        let mut index = self.index.write();
        leaves.iter().try_for_each(|leaf| index.push(leaf))?;
        index.reached(number, head)
    }

    /// Takes in what another process has appended.
    pub(crate) async fn refresh(&self) -> Result<()> {
        let scan = Scan::heads(Keyspace::Audit, 1).name(Bytes::from_static(CHECKPOINT)).reverse();
        let last = self.space.scan(scan).await?.value.records.first().map_or(0, |(head, _)| head.id.seq());
        if last <= self.index.read().number() {
            return Ok(());
        }
        let standing = self.load().await?;
        self.grow(standing.number, standing.head).await
    }

    #[cfg(feature = "faults")]
    pub(crate) fn forget(&self) {
        self.index.write().forget();
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// The right to append to the log, of all processes.
    pub(crate) async fn turn(&self, compares: bool) -> Result<LogTurn<'_>> {
        let mut standing = Arc::clone(&self.standing).lock_owned().await;
        let turn = self.signer.turn().await?;
        let last = self.last_checkpoint().await?;
        let known = standing.as_ref().map(|standing| standing.number);
        if known != Some(last.as_ref().map_or(0, |last| last.number)) {
            *standing = Some(self.load().await?);
        }
        let mut turn = LogTurn { log: self, standing, turn };
        turn.resume(compares).await?;
        if let Some(standing) = turn.standing.as_ref() {
            self.grow(standing.number, standing.head).await?;
        }
        Ok(turn)
    }

    async fn last_checkpoint(&self) -> Result<Option<Checkpoint>> {
        last_checkpoint(&*self.space).await
    }

    /// A checkpoint by its number, if it is still kept.
    pub(crate) async fn checkpoint(&self, number: u64) -> Result<Option<Checkpoint>> {
        let record = self.record(id(CHECKPOINT, number)?).await?;
        record.map(|record| read_checkpoint(number, &record.body)).transpose()
    }

    /// The last checkpoint that may be given out.
    pub(crate) async fn last(&self) -> Result<Option<Checkpoint>> {
        let Some(last) = self.last_checkpoint().await? else { return Ok(None) };
        if last.head.size <= self.published() {
            return Ok(Some(last));
        }
        self.checkpoint(last.number.saturating_sub(1)).await
    }

    async fn load(&self) -> Result<Standing> {
        let Some(last) = self.last_checkpoint().await? else {
            return Ok(Standing { number: 0, head: TreeHead::EMPTY, note: None, edge: HashMap::new() });
        };
        // What the signer remembers says more than a signature; it may be all there is, where a lost key was replaced.
        let is_remembered = self.signer.signed().await? == Some(last.head);
        if !is_remembered && self.signer.keys().await?.check(&last.note)? != last.head {
            return Err(rolled_back());
        }
        let edge = self.hashes(&wanted(|tree| drop(tree_hash(last.head.size, tree)))).await?;
        if root(last.head.size, &edge)? != last.head.root {
            return Err(changed());
        }
        Ok(Standing { number: last.number, head: last.head, note: Some(last.note), edge })
    }

    async fn compare(&self, standing: &Standing, signed: TreeHead) -> Result<()> {
        if signed == standing.head {
            return Ok(());
        }
        if signed.size >= standing.head.size {
            return Err(rolled_back());
        }
        let proof = self.consistency(signed.size, standing.head.size, &standing.edge).await?;
        check_extends(signed, standing.head, &proof)
    }

    /// Checks that the log goes on from a checkpoint that somebody outside has.
    ///
    /// # Errors
    ///
    /// `Tampered` if it does not; `KeyRefused` for one of another log, or of another key.
    pub(crate) async fn check_outside(&self, note: &str) -> Result<()> {
        let outside = read_checkpoint(0, note.as_bytes()).map_err(|_| outside())?.head;
        let standing = self.load().await?;
        // INVARIANT: as in `load`, what the signer remembers is vouched for, also where a lost key was replaced.
        let is_remembered = self.signer.signed().await? == Some(outside);
        if !is_remembered && self.signer.keys().await?.check(note).map_err(|_| of_another())? != outside {
            return Err(of_another());
        }
        if outside == standing.head {
            return Ok(());
        }
        if outside.size >= standing.head.size {
            return Err(self::outside());
        }
        let proof = self.consistency(outside.size, standing.head.size, &standing.edge).await?;
        check_extends(outside, standing.head, &proof).map_err(|_| self::outside())
    }

    /// The proof that the log of `size` leaves extends that of `from`.
    pub(crate) async fn consistency(
        &self,
        from: u64,
        size: u64,
        known: &HashMap<u64, Hash>,
    ) -> Result<Vec<Hash>> {
        if from == 0 || from > size {
            return Ok(Vec::new());
        }
        let tree = self.known(&wanted(|tree| drop(prove_tree(size, from, tree))), known).await?;
        let proof = prove_tree(size, from, &tree).map_err(|_| changed())?;
        Ok(proof.into_iter().map(|hash| hash.0).collect())
    }

    /// The proof that the log of `size` leaves holds this one.
    pub(crate) async fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>> {
        if index >= size {
            return Err(Error::new(ErrorKind::Invalid, "the log is not that long"));
        }
        let wanted = wanted(|tree| drop(prove_record(size, index, tree)));
        let tree = self.known(&wanted, &HashMap::new()).await?;
        let proof = prove_record(size, index, &tree).map_err(|_| changed())?;
        Ok(proof.into_iter().map(|hash| hash.0).collect())
    }

    async fn known(&self, indexes: &[u64], known: &HashMap<u64, Hash>) -> Result<Tree> {
        let missing: Vec<u64> = indexes.iter().copied().filter(|index| !known.contains_key(index)).collect();
        let mut tree = self.hashes(&missing).await?;
        tree.extend(indexes.iter().filter_map(|index| Some((*index, *known.get(index)?))));
        Ok(Tree(tree))
    }

    /// Hashes by their number, as the appends left them in pieces.
    async fn hashes(&self, indexes: &[u64]) -> Result<HashMap<u64, Hash>> {
        let mut found = HashMap::with_capacity(indexes.len());
        let mut piece: Option<(u64, Bytes)> = None;
        for index in indexes {
            let mut hash = piece.as_ref().and_then(|piece| in_piece(piece, *index));
            if hash.is_none() {
                let scan = Scan::records(Keyspace::Audit, 1).name(Bytes::from_static(TREE)).reverse();
                let page = self.space.scan(scan.from(id(TREE, index.saturating_add(1))?)).await?.value;
                let record = page.records.into_iter().next();
                piece = record.map(|(head, body)| (head.id.seq(), body.unwrap_or_default()));
                hash = piece.as_ref().and_then(|piece| in_piece(piece, *index));
            }
            found.insert(*index, hash.ok_or_else(changed)?);
        }
        Ok(found)
    }

    /// Where chains were last logged, as far as this process has read.
    pub(crate) fn at(&self, owner: &Owner) -> Result<Option<At>> {
        self.index.read().at(owner)
    }

    /// Where a chain was last logged, by any process.
    pub(crate) async fn at_of(&self, owner: &Owner) -> Result<Option<At>> {
        self.refresh().await?;
        self.at(owner)
    }

    /// The last leaf that says from where on an owner's chain is there, in its present life, and that leaf's number.
    pub(crate) async fn floor_of(&self, owner: &Owner) -> Result<Option<(u64, Leaf)>> {
        self.refresh().await?;
        self.index.read().floor(owner)
    }

    /// Whether a leaf of an owner's present life says that its chain begins there, or later.
    pub(crate) async fn allows_floor(&self, owner: &Owner, begins: ChainHead) -> Result<bool> {
        self.refresh().await?;
        self.index.read().allows_floor(owner, begins)
    }

    /// The last leaf that says of an owner's chain, in its present life, that it begins there, and that leaf's number.
    pub(crate) async fn floor_at(&self, owner: &Owner, begins: ChainHead) -> Result<Option<(u64, Leaf)>> {
        self.refresh().await?;
        self.index.read().floor_at(owner, begins)
    }

    /// Leaves from an index on, at most `limit`, none past `size`: those that were signed, and what was kept beside them then.
    pub(crate) async fn leaves(&self, from: u64, size: u64, limit: usize) -> Result<Vec<Logged>> {
        if from >= size {
            return Ok(Vec::new());
        }
        if self.index.read().size() < size {
            self.refresh().await?;
        }
        let (first, end, hash) = self.index.read().page(from)?;
        let (mut page, mut hasher) = (Vec::new(), Sha256::new());
        while first.saturating_add(page.len() as u64) < end {
            let next = self.stored(first.saturating_add(page.len() as u64), end, LEAVES_PAGE).await?;
            next.iter().for_each(|leaf| leaf.hash(&mut hasher));
            page.extend(next);
        }
        if Hash::from(hasher.finalize()) != hash {
            return Err(changed());
        }
        page.retain(|leaf| (from..size).contains(&leaf.index));
        page.truncate(limit.max(1));
        Ok(page)
    }

    /// Whether a leaf after so many says of one of these owners, or of any, that links of its chain are gone.
    pub(crate) async fn ended_since(&self, mut from: u64, owners: Option<&Vec<Owner>>) -> Result<bool> {
        self.refresh().await?;
        let size = self.index.read().size();
        let ends =
            |leaf: &Leaf| leaf.kind != LeafKind::Head && owners.is_none_or(|all| all.contains(&leaf.owner));
        while from < size {
            let leaves = self.leaves(from, size, LEAVES_PAGE).await?;
            from = from.saturating_add(leaves.len() as u64);
            if leaves.iter().any(|logged| ends(&logged.leaf)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Leaves as they are stored.
    pub(crate) async fn stored(&self, from: u64, size: u64, limit: usize) -> Result<Vec<Logged>> {
        let left = usize::try_from(size.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut scan = Scan::records(Keyspace::Audit, limit.min(left).max(1)).name(Bytes::from_static(LEAF));
        if let Some(before) = from.checked_sub(1) {
            scan = scan.from(id(LEAF, before)?);
        }
        let mut leaves = Vec::new();
        for (head, body) in self.space.scan(scan).await?.value.records {
            let index = head.id.seq();
            if index >= size {
                break;
            }
            if index != from.saturating_add(leaves.len() as u64) {
                return Err(changed());
            }
            leaves.push(Logged::decode(&head.head, &body.unwrap_or_default(), index).map_err(|_| changed())?);
        }
        if leaves.is_empty() && from < size {
            return Err(changed());
        }
        self.read.fetch_add(leaves.len() as u64, Ordering::Relaxed);
        Ok(leaves)
    }

    pub(crate) async fn record(&self, id: RecordId) -> Result<Option<Record>> {
        Ok(self.space.read(Keyspace::Audit, &[id]).await?.value.into_iter().next().flatten())
    }
}

/// The right to append to the log.
pub(crate) struct LogTurn<'a> {
    log: &'a Log,
    standing: OwnedMutexGuard<Option<Standing>>,
    turn: Box<dyn SigningTurn>,
}

impl LogTurn<'_> {
    /// Compares the log with what was signed, and settles what a crash left open.
    async fn resume(&mut self, compares: bool) -> Result<()> {
        let Some(standing) = self.standing.as_ref() else { return Err(changed()) };
        let head = standing.head;
        match self.turn.signed() {
            _ if !compares => {}
            Some(signed) => self.log.compare(standing, signed).await?,
            None if standing.number == 0 || self.turn.pending() == Some(head) => {}
            None => {
                return Err(Error::new(
                    ErrorKind::KeyRefused,
                    "the audit log was signed with another key, put its key file back",
                ));
            }
        }
        if standing.number > 0 && (self.turn.pending().is_some() || self.turn.signed() != Some(head)) {
            self.turn.settle(head).await?;
        }
        self.log.published.store(head.size, Ordering::Release);
        Ok(())
    }

    pub(crate) fn size(&self) -> u64 {
        self.standing.as_ref().map_or(0, |standing| standing.head.size)
    }

    pub(crate) fn last(&self) -> Option<Checkpoint> {
        let standing = self.standing.as_ref()?;
        let note = standing.note.clone()?;
        Some(Checkpoint { number: standing.number, head: standing.head, note })
    }

    /// Appends leaves and signs the log: all in one commit.
    ///
    /// # Errors
    ///
    /// `Conflict` if another process appended meanwhile.
    pub(crate) async fn append(&mut self, entries: &[Entry]) -> Result<(Checkpoint, Vec<Logged>)> {
        // INVARIANT: whatever fails below leaves nothing here that is believed later on.
        let Some(standing) = self.standing.take() else { return Err(changed()) };
        let first = standing.head.size;
        let number = standing.number.saturating_add(1);
        let size = first.saturating_add(entries.len() as u64);
        let mut tree = Tree(standing.edge);
        let mut batch = Batch::new(Timestamp(0))?;
        let mut hashes = Vec::with_capacity(64 * entries.len());
        let mut logged = Vec::with_capacity(entries.len());
        for (index, entry) in (first..).zip(entries) {
            let body = entry.leaf.encode();
            let stored = tlog_tiles::stored_hashes_for_record_hash(index, record_hash(&body), &tree);
            for (at, hash) in (stored_hash_index(0, index)..).zip(stored.map_err(|_| changed())?) {
                hashes.extend_from_slice(&hash.0);
                tree.0.insert(at, hash.0);
            }
            let leaf = Logged {
                leaf: entry.leaf,
                index,
                from: entry.from,
                before: entry.before,
                checkpoint: number,
                size,
            };
            let record = Op::Put {
                space: Keyspace::Audit,
                id: id(LEAF, index)?,
                head: leaf.head(),
                body: Bytes::copy_from_slice(&body),
                expires: None,
            };
            batch.ops.push(record);
            logged.push(leaf);
        }
        // INVARIANT: what would not be read again is not signed.
        self.log.index.read().check(&logged)?;
        if !hashes.is_empty() {
            batch.ops.push(put(id(TREE, stored_hash_index(0, first))?, hashes.into()));
        }
        let head = TreeHead { size, root: root(size, &tree.0)? };
        let from = self.turn.signed().map_or(0, |signed| signed.size);
        let proof = self.log.consistency(from, size, &tree.0).await?;
        let note: Arc<str> = self.turn.sign(head, &proof).await?.into();
        let place = id(CHECKPOINT, number)?;
        batch.ops.push(put(place.clone(), Bytes::copy_from_slice(note.as_bytes())));
        batch.expect.push(Expect::Version { space: Keyspace::Audit, id: place, version: None });
        for old in outdated(number) {
            batch.ops.push(Op::Delete { space: Keyspace::Audit, id: id(CHECKPOINT, old)? });
        }
        self.log.space.commit(batch).await?;
        self.turn.settle(head).await?;
        {
            let _growing = self.log.growing.lock().await;
            if self.log.index.read().number() < number {
                self.log.take_in(number, head, &logged)?;
            }
        }
        let edge = wanted(|tree| drop(tree_hash(size, tree)));
        tree.0.retain(|index, _| edge.contains(index));
        *self.standing = Some(Standing { number, head, note: Some(Arc::clone(&note)), edge: tree.0 });
        self.log.published.store(size, Ordering::Release);
        Ok((Checkpoint { number, head, note }, logged))
    }

    /// Makes a new key for what is signed from now on.
    pub(crate) async fn rotate(&mut self) -> Result<String> {
        self.turn.rotate().await
    }
}

/// Which checkpoints go when one of this number is written: those of a step that are not among the newest any more.
fn outdated(number: u64) -> impl Iterator<Item = u64> {
    let end = number.saturating_sub(CHECKPOINTS_NEWEST);
    let start =
        if number.is_multiple_of(CHECKPOINTS_STEP) { end.saturating_sub(CHECKPOINTS_STEP) } else { end };
    (start..end).filter(|old| *old > 0 && !old.is_multiple_of(CHECKPOINTS_EACH))
}

const LEAF: &[u8] = b"leaf";
const TREE: &[u8] = b"tree";
const CHECKPOINT: &[u8] = b"checkpoint";

pub(crate) fn id(name: &'static [u8], seq: u64) -> Result<RecordId> {
    RecordId::new(Bytes::from_static(name), seq)
}

/// The last checkpoint of a deployment's own space, whoever signed it.
pub(crate) async fn last_checkpoint(space: &dyn UserStore) -> Result<Option<Checkpoint>> {
    let scan = Scan::records(Keyspace::Audit, 1).name(Bytes::from_static(CHECKPOINT)).reverse();
    let page = space.scan(scan).await?.value;
    let Some((head, body)) = page.records.into_iter().next() else { return Ok(None) };
    read_checkpoint(head.id.seq(), &body.unwrap_or_default()).map(Some)
}

fn read_checkpoint(number: u64, body: &[u8]) -> Result<Checkpoint> {
    let note = Note::from_bytes(body).map_err(|_| changed())?;
    let checkpoint = tlog_tiles::Checkpoint::from_bytes(note.text()).map_err(|_| changed())?;
    let text = std::str::from_utf8(body).map_err(|_| changed())?;
    let head = TreeHead { size: checkpoint.size(), root: checkpoint.hash().0 };
    Ok(Checkpoint { number, head, note: text.into() })
}

fn in_piece((first, body): &(u64, Bytes), index: u64) -> Option<Hash> {
    let at = usize::try_from(index.checked_sub(*first)?).ok()?.checked_mul(32)?;
    body.get(at..at.checked_add(32)?)?.try_into().ok()
}

fn root(size: u64, known: &HashMap<u64, Hash>) -> Result<Hash> {
    let indexes = wanted(|tree| drop(tree_hash(size, tree)));
    if indexes.iter().any(|index| !known.contains_key(index)) {
        return Err(changed());
    }
    let known = indexes.iter().filter_map(|index| Some((*index, *known.get(index)?))).collect();
    Ok(tree_hash(size, &Tree(known)).map_err(|_| changed())?.0)
}

/// Hashes that are known.
struct Tree(HashMap<u64, Hash>);

impl HashReader for Tree {
    fn read_hashes(&self, indexes: &[u64]) -> std::result::Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        let hash = |index| self.0.get(index).copied().map(tlog_tiles::Hash);
        let found: Option<Vec<_>> = indexes.iter().map(hash).collect();
        found.ok_or(tlog_tiles::Error::IndexesNotInTree)
    }
}

/// Notes which hashes a computation reads, and ends it.
struct Wanted(RefCell<Vec<u64>>);

impl HashReader for Wanted {
    fn read_hashes(&self, indexes: &[u64]) -> std::result::Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        self.0.borrow_mut().extend_from_slice(indexes);
        Err(tlog_tiles::Error::IndexesNotInTree)
    }
}

fn wanted(run: impl FnOnce(&Wanted)) -> Vec<u64> {
    let wanted = Wanted(RefCell::default());
    run(&wanted);
    wanted.0.into_inner()
}

pub(crate) const fn changed() -> Error {
    Error::new(ErrorKind::Tampered, "the audit log is not as it was written, verify it")
}

const fn outside() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "the audit log does not go on from the last checkpoint that a sink has: data and signing key were put back, verify it",
    )
}

const fn of_another() -> Error {
    Error::new(
        ErrorKind::KeyRefused,
        "a sink has checkpoints of another log or key: put the key back, or put the sink's file aside if the log was begun anew",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_newest_checkpoints_are_kept_and_some_of_the_older_ones() {
        let mut kept = BTreeSet::new();
        for number in 1..=20_000 {
            kept.insert(number);
            let old: Vec<u64> = outdated(number).collect();
            assert!(old.len() as u64 <= CHECKPOINTS_STEP);
            for old in old {
                assert!(kept.remove(&old), "{old} goes twice");
                assert!(number - old >= CHECKPOINTS_NEWEST);
            }
        }
        let older: Vec<u64> = kept.range(..20_000 - CHECKPOINTS_NEWEST - CHECKPOINTS_STEP).copied().collect();
        assert_eq!(older, (1..=15).map(|n| n * CHECKPOINTS_EACH).collect::<Vec<_>>());
    }
}
