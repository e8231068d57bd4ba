//! The deployment's log: a Merkle tree (RFC 6962) over leaves that say where chains ended, with signed checkpoints (C2SP `tlog-checkpoint`).
//!
//! It lies in the deployment's own space, keyspace Audit, below whatever seals: `leaf` (by index), `tree` (hashes, by the first one's
//! number), `checkpoint` (by number), `at` + tag (where a chain was last logged). These are no changes of the deployment's data.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes};
use signed_note::Note;
use syntha_store::{
    Batch, ChainHead, Error, ErrorKind, Expect, Incarnation, Keyspace, Op, Record, RecordId, Result, Scan,
    Timestamp, UserStore,
};
use tlog_tiles::{HashReader, prove_record, prove_tree, record_hash, stored_hash_index, tree_hash};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::hub::Owner;
use crate::leaf::{Leaf, LeafKind};
use crate::link::{Hash, malformed};
use crate::signer::{Signer, SigningTurn, TreeHead, check_extends, rolled_back};
use crate::user_store::put;

/// The most leaves of one checkpoint.
pub(crate) const LEAVES_MOST: usize = 8_192;
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
    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(80);
        out.put_u8(1);
        out.put_u8(u8::from(self.erased));
        out.put_u128(self.life.0);
        out.put_u64(self.chain.seq);
        out.put_slice(&self.chain.head);
        out.put_u64(self.index);
        out.put_u64(self.gone);
        out.into()
    }

    fn decode(mut from: &[u8]) -> Result<Self> {
        if from.len() != 74 || from.get_u8() != 1 {
            return Err(malformed());
        }
        let erased = from.get_u8() == 1;
        let life = Incarnation(from.get_u128());
        let mut chain = ChainHead { seq: from.get_u64(), head: [0; 32] };
        from.copy_to_slice(&mut chain.head);
        Ok(Self { erased, life, chain, index: from.get_u64(), gone: from.get_u64() })
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

impl Entry {
    /// Where the chain is logged then; `None` for a leaf that doesn't say where it ends. `before`: what an entry beside it says.
    fn next(&self, index: u64, before: Option<At>) -> Option<At> {
        let Leaf { kind, life, chain, .. } = self.leaf;
        let gone = before.or(self.at).map_or(0, |at| at.gone);
        match kind {
            LeafKind::Head => Some(At { erased: false, life, chain, index, gone }),
            LeafKind::Erased | LeafKind::Lost => Some(At { erased: true, life, chain, index, gone: index }),
            LeafKind::Floor => None,
        }
    }
}

/// Where the log stands, with the hashes of its right edge.
struct Standing {
    number: u64,
    head: TreeHead,
    note: Option<Arc<str>>,
    edge: HashMap<u64, Hash>,
}

/// The log of a deployment.
pub(crate) struct Log {
    pub(crate) space: Arc<dyn UserStore>,
    signer: Arc<dyn Signer>,
    standing: Arc<Mutex<Option<Standing>>>,
    /// How many leaves stand under a checkpoint that may be given out.
    published: AtomicU64,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("published", &self.published).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log, and compares it with what was signed last.
    pub(crate) async fn open(
        space: Arc<dyn UserStore>,
        signer: Arc<dyn Signer>,
        compares: bool,
    ) -> Result<Self> {
        // INVARIANT: what was signed is asked first, so that a checkpoint of another process in between only makes the log longer.
        let signed = signer.signed().await?;
        let log = Self { space, signer, standing: Arc::default(), published: AtomicU64::new(0) };
        let standing = log.load().await?;
        if let (Some(signed), true) = (signed, compares) {
            log.compare(&standing, signed).await?;
            log.published.store(signed.size, Ordering::Release);
        }
        Ok(log)
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

    /// Where chains were last logged.
    pub(crate) async fn at(&self, owners: &[Owner]) -> Result<Vec<Option<At>>> {
        let mut found = Vec::with_capacity(owners.len());
        for owners in owners.chunks(1_024) {
            let ids = owners.iter().map(at_id).collect::<Result<Vec<_>>>()?;
            for record in self.space.read(Keyspace::Audit, &ids).await?.value {
                found.push(record.map(|record| At::decode(&record.body)).transpose()?);
            }
        }
        Ok(found)
    }

    pub(crate) async fn at_of(&self, owner: &Owner) -> Result<Option<At>> {
        Ok(self.at(std::slice::from_ref(owner)).await?.into_iter().next().flatten())
    }

    /// Leaves from an index on, at most `limit`, none past `size`.
    pub(crate) async fn leaves(&self, from: u64, size: u64, limit: usize) -> Result<Vec<Logged>> {
        let mut scan = Scan::records(Keyspace::Audit, limit.max(1)).name(Bytes::from_static(LEAF));
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
            leaves.push(Logged::decode(&head.head, &body.unwrap_or_default(), index)?);
        }
        if leaves.is_empty() && from < size {
            return Err(changed());
        }
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
        let mut ends: HashMap<Owner, At> = HashMap::new();
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
            if let Some(at) = entry.next(index, ends.get(&entry.leaf.owner).copied()) {
                ends.insert(entry.leaf.owner, at);
            }
            logged.push(leaf);
        }
        for (owner, at) in &ends {
            batch.ops.push(put(at_id(owner)?, at.encode()));
        }
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

fn at_id(owner: &Owner) -> Result<RecordId> {
    RecordId::new([b"at".as_slice(), owner].concat(), 0)
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

    #[test]
    fn where_a_chain_was_logged_is_read_as_it_was_written() {
        let chain = ChainHead { seq: 3, head: [4; 32] };
        let at = At { erased: true, life: Incarnation(2), chain, index: 5, gone: 6 };
        assert_eq!(At::decode(&at.encode()).unwrap(), at);
        assert!(At::decode(&at.encode()[1..]).is_err());
        assert!(At::decode(&[0; 74]).is_err());
    }
}
