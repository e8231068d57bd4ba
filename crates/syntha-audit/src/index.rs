//! What the leaves of the log say, in memory: where each chain was last logged, from where on it may be pruned, and what each page of them
//! is hashed to.
//!
//! It is made from the leaves alone, up to a root that was signed. What lies beside them in the data is believed where it is under a key that
//! lies outside.

use std::collections::HashMap;
use std::fmt;

use sha2::{Digest, Sha256};
use syntha_store::{ChainHead, Error, ErrorKind, KeyFingerprint, Result};
use tlog_tiles::{EMPTY_HASH, node_hash, record_hash};

use crate::hub::Owner;
use crate::kept_index;
use crate::leaf::{Leaf, LeafKind};
use crate::link::{Hash, genesis};
use crate::log::{At, Logged, changed};
use crate::signer::TreeHead;

/// How many leaves are hashed together, and so read together.
pub(crate) const PAGE: u64 = 256;

/// For each owner about 130 bytes, for each 256 leaves 32.
pub(crate) struct Index {
    deployment: KeyFingerprint,
    /// The checkpoint that it reaches to.
    number: u64,
    size: u64,
    owners: HashMap<Owner, At>,
    /// The leaves of the kind in an owner's present life, with their numbers: one for each prune. The last one need not be what the data says: a prune that lost a race leaves one, too.
    floors: HashMap<Owner, Vec<(u64, Leaf)>>,
    pages: Vec<Hash>,
    /// The leaves of the page that is not full.
    tail: Sha256,
    edge: Edge,
    /// A leaf did not fit, and nothing here is believed any more.
    broken: bool,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Index {
    pub(crate) fn new(deployment: KeyFingerprint) -> Self {
        Self {
            deployment,
            number: 0,
            size: 0,
            owners: HashMap::new(),
            floors: HashMap::new(),
            pages: Vec::new(),
            tail: Sha256::new(),
            edge: Edge::default(),
            broken: false,
        }
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    #[cfg(test)]
    pub(crate) const fn deployment(&self) -> KeyFingerprint {
        self.deployment
    }

    pub(crate) fn edge(&self) -> Edge {
        self.edge.clone()
    }

    /// Takes the next leaf, with what is kept beside it: that has to be what the leaves before it lead to.
    ///
    /// # Errors
    ///
    /// `Tampered` if it is not.
    pub(crate) fn push(&mut self, logged: &Logged) -> Result<()> {
        let leaf = logged.leaf;
        let (owner, at) = (leaf.owner, self.owners.get(&leaf.owner).copied());
        let due = match leaf.kind {
            LeafKind::Head => {
                let start = self.start(&owner, at);
                (start.seq.saturating_add(1), start.head)
            }
            _ => (0, [0; 32]),
        };
        if self.broken || logged.index != self.size || (logged.from, logged.before) != due {
            self.broken = true;
            return Err(changed());
        }
        let gone = at.map_or(0, |at| at.gone);
        let Leaf { life, chain, .. } = leaf;
        match leaf.kind {
            LeafKind::Head => {
                self.owners.insert(owner, At { erased: false, life, chain, index: self.size, gone });
            }
            LeafKind::Floor => {
                self.floors.entry(owner).or_default().push((self.size, leaf));
            }
            LeafKind::Erased | LeafKind::Lost => {
                self.floors.remove(&owner);
                let at = At { erased: true, life, chain, index: self.size, gone: self.size };
                self.owners.insert(owner, at);
            }
        }
        self.edge.push(record_hash(&leaf.encode()));
        logged.hash(&mut self.tail);
        self.size = self.size.saturating_add(1);
        if self.size.is_multiple_of(PAGE) {
            self.pages.push(self.tail.finalize_reset().into());
        }
        Ok(())
    }

    /// Whether leaves go on from those that are here, each after the others.
    ///
    /// # Errors
    ///
    /// `Busy` if they don't: somebody else did something else with their chain meanwhile.
    pub(crate) fn check(&self, next: &[Logged]) -> Result<()> {
        let mut ends: HashMap<Owner, (Option<ChainHead>, Option<ChainHead>)> = HashMap::new();
        for logged in next {
            let leaf = logged.leaf;
            let (living, floor) = ends.entry(leaf.owner).or_insert_with(|| {
                let at = self.owners.get(&leaf.owner).filter(|at| !at.erased);
                (
                    at.map(|at| at.chain),
                    self.floors.get(&leaf.owner).and_then(|floors| floors.last()).map(begin),
                )
            });
            match leaf.kind {
                LeafKind::Head => {
                    let genesis = ChainHead { seq: 0, head: genesis(&self.deployment, &leaf.owner) };
                    let start = living.or(*floor).unwrap_or(genesis);
                    if (logged.from, logged.before) != (start.seq.saturating_add(1), start.head) {
                        return Err(moved_on());
                    }
                    *living = Some(leaf.chain);
                }
                LeafKind::Floor => *floor = Some(begin(&(logged.index, leaf))),
                LeafKind::Erased | LeafKind::Lost => (*living, *floor) = (None, None),
            }
        }
        Ok(())
    }

    /// Where the next links of an owner begin that a leaf is the first to name.
    fn start(&self, owner: &Owner, at: Option<At>) -> ChainHead {
        if let Some(at) = at.filter(|at| !at.erased) {
            return at.chain;
        }
        match self.floors.get(owner).and_then(|floors| floors.last()) {
            Some(floor) => begin(floor),
            None => ChainHead { seq: 0, head: genesis(&self.deployment, owner) },
        }
    }

    /// All leaves under a checkpoint are in it.
    ///
    /// # Errors
    ///
    /// `Tampered` if they are not those that were signed.
    pub(crate) fn reached(&mut self, number: u64, head: TreeHead) -> Result<()> {
        if self.broken || self.edge.head() != head {
            self.broken = true;
            return Err(changed());
        }
        self.number = number;
        Ok(())
    }

    /// # Errors
    ///
    /// `Tampered` if a leaf did not fit.
    pub(crate) fn at(&self, owner: &Owner) -> Result<Option<At>> {
        if self.broken { Err(changed()) } else { Ok(self.owners.get(owner).copied()) }
    }

    /// Where an owner's chain begins by the last leaf that says it, with that leaf's number.
    ///
    /// # Errors
    ///
    /// As [`at`](Self::at).
    pub(crate) fn floor(&self, owner: &Owner) -> Result<Option<(u64, Leaf)>> {
        if self.broken {
            Err(changed())
        } else {
            Ok(self.floors.get(owner).and_then(|floors| floors.last()).copied())
        }
    }

    /// The last leaf that says of an owner's chain that it begins there, with that leaf's number; or else one of a prune that has not come to
    /// its end.
    ///
    /// # Errors
    ///
    /// As [`at`](Self::at).
    pub(crate) fn floor_at(&self, owner: &Owner, begins: ChainHead) -> Result<Option<(u64, Leaf)>> {
        let floors = if self.broken { return Err(changed()) } else { self.floors.get(owner) };
        let exact =
            |floors: &&Vec<(u64, Leaf)>| floors.iter().rfind(|(_, leaf)| leaf.chain == begins).copied();
        let later =
            |floors: &&Vec<(u64, Leaf)>| floors.iter().find(|(_, leaf)| leaf.chain.seq > begins.seq).copied();
        Ok(floors.as_ref().and_then(|floors| exact(floors).or_else(|| later(floors))))
    }

    /// Whether the log says of an owner's chain that it begins there, or later: a long prune comes to its end in steps.
    ///
    /// # Errors
    ///
    /// As [`at`](Self::at).
    pub(crate) fn allows_floor(&self, owner: &Owner, begins: ChainHead) -> Result<bool> {
        let floors = if self.broken { return Err(changed()) } else { self.floors.get(owner) };
        let allows = |leaf: &Leaf| begins.seq < leaf.chain.seq || begins == leaf.chain;
        Ok(floors.is_some_and(|floors| floors.iter().any(|(_, leaf)| allows(leaf))))
    }

    /// The first and last leaf (exclusive) of the page with a leaf, and what they are hashed to.
    pub(crate) fn page(&self, index: u64) -> Result<(u64, u64, Hash)> {
        if self.broken || index >= self.size {
            return Err(changed());
        }
        let (number, first) = (index / PAGE, index / PAGE * PAGE);
        let hash = usize::try_from(number).ok().and_then(|number| self.pages.get(number));
        let hash = hash.copied().unwrap_or_else(|| self.tail.clone().finalize().into());
        Ok((first, self.size.min(first.saturating_add(PAGE)), hash))
    }

    /// About how many bytes it has where it is kept.
    pub(crate) fn bytes(&self) -> u64 {
        let floors = self.floors.values().map(Vec::len).sum();
        kept_index::bytes(self.owners.len(), floors, self.size)
    }

    /// All of it, but for the leaves of the page that is not full, of which there is the hash; nothing if a leaf did not fit.
    pub(crate) fn copied(&self) -> Option<Copied> {
        let copied = || Copied {
            number: self.number,
            size: self.size,
            owners: self.owners.iter().map(|(owner, at)| (*owner, *at)).collect(),
            floors: self.floors.values().flatten().copied().collect(),
            pages: self.pages.clone(),
            tail: self.tail.clone().finalize().into(),
            roots: self.edge.roots.iter().map(|root| root.0).collect(),
        };
        (!self.broken).then(copied)
    }

    /// The index that was copied. `tail`: the leaves of the page that is not full.
    ///
    /// # Errors
    ///
    /// `Tampered` if these are not those that were copied, or the copy is none of an index.
    pub(crate) fn restored(deployment: KeyFingerprint, copied: Copied, tail: Sha256) -> Result<Self> {
        let edge = copied.edge();
        let mut floors: HashMap<Owner, Vec<(u64, Leaf)>> = HashMap::new();
        for (index, leaf) in copied.floors {
            floors.entry(leaf.owner).or_default().push((index, leaf));
        }
        let (count, in_order) =
            (copied.owners.len(), |floors: &Vec<(u64, Leaf)>| floors.is_sorted_by_key(|f| f.0));
        let owners: HashMap<Owner, At> = copied.owners.into_iter().collect();
        if Hash::from(tail.clone().finalize()) != copied.tail
            || owners.len() != count
            || !floors.values().all(in_order)
        {
            return Err(changed());
        }
        let (number, size, pages) = (copied.number, copied.size, copied.pages);
        Ok(Self { deployment, number, size, owners, floors, pages, tail, edge, broken: false })
    }

    #[cfg(feature = "faults")]
    pub(crate) fn forget(&mut self) {
        self.owners.clear();
        self.floors.clear();
    }
}

/// What an index holds, to be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) number: u64,
    pub(crate) size: u64,
    pub(crate) owners: Vec<(Owner, At)>,
    pub(crate) floors: Vec<(u64, Leaf)>,
    pub(crate) pages: Vec<Hash>,
    pub(crate) tail: Hash,
    pub(crate) roots: Vec<Hash>,
}

impl Copied {
    /// In the order in which it is kept: the same leaves give the same bytes.
    pub(crate) fn sorted(mut self) -> Self {
        self.owners.sort_unstable_by_key(|(owner, _)| *owner);
        self.floors.sort_unstable_by_key(|(index, _)| *index);
        self
    }

    pub(crate) fn edge(&self) -> Edge {
        Edge { size: self.size, roots: self.roots.iter().copied().map(tlog_tiles::Hash).collect() }
    }
}

/// The end of what is gone before a floor.
const fn begin((_, floor): &(u64, Leaf)) -> ChainHead {
    ChainHead { seq: floor.chain.seq.saturating_sub(1), head: floor.chain.head }
}

const fn moved_on() -> Error {
    Error::new(ErrorKind::Busy, "the user was erased, restored or pruned meanwhile, try again")
}

/// The roots of the whole trees that a log is made of, the greatest first (RFC 6962, section 2.1).
#[derive(Clone, Debug, Default)]
pub(crate) struct Edge {
    size: u64,
    roots: Vec<tlog_tiles::Hash>,
}

impl Edge {
    pub(crate) fn push(&mut self, leaf: tlog_tiles::Hash) {
        let (mut hash, mut left) = (leaf, self.size);
        while left & 1 == 1
            && let Some(before) = self.roots.pop()
        {
            (hash, left) = (node_hash(before, hash), left >> 1);
        }
        self.roots.push(hash);
        self.size = self.size.saturating_add(1);
    }

    pub(crate) fn head(&self) -> TreeHead {
        let fold = |right, left: &tlog_tiles::Hash| node_hash(*left, right);
        let mut roots = self.roots.iter().rev();
        let root = roots.next().map_or(EMPTY_HASH, |last| roots.fold(*last, fold));
        TreeHead { size: self.size, root: root.0 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use syntha_sqlite::{SqliteConfig, SqliteStore};
    use syntha_store::{DeploymentKey, ErrorKind, Incarnation, Store};

    use super::*;
    use crate::log::{Checks, Entry, Log};
    use crate::{MemorySigner, Signer};

    const LEAVES: u64 = 100_000;
    const OWNERS: u64 = 5_000;
    const STEP: u64 = 8_000;

    fn entry(number: u64, before: Option<At>, deployment: &KeyFingerprint) -> Entry {
        let mut owner = [7; 32];
        owner[..8].copy_from_slice(&(number % OWNERS).to_be_bytes());
        let start = match before {
            Some(at) => at.chain,
            None => ChainHead { seq: 0, head: genesis(deployment, &owner) },
        };
        let chain = ChainHead { seq: start.seq + 3, head: [9; 32] };
        let leaf = Leaf::new(LeafKind::Head, owner, Incarnation(1), chain);
        Entry { leaf, from: start.seq + 1, before: start.head, at: before }
    }

    /// What is not read again must not be signed: a floor of a life that has ended would stand before the next one's first links.
    #[test]
    fn leaves_that_do_not_go_on_are_refused_before_they_are_signed() {
        let deployment = DeploymentKey::from_bytes([7; 32]).fingerprint();
        let first = entry(1, None, &deployment);
        let owner = first.leaf.owner;
        let logged = |index, leaf, from, before| Logged { leaf, index, from, before, checkpoint: 1, size: 9 };
        let leaf = |kind, seq| Leaf::new(kind, owner, Incarnation(1), ChainHead { seq, head: [9; 32] });
        let head = logged(0, first.leaf, first.from, first.before);
        let (erased, floor) = (leaf(LeafKind::Erased, 3), leaf(LeafKind::Floor, 2));
        let (erased, floor) = (logged(1, erased, 0, [0; 32]), logged(2, floor, 0, [0; 32]));
        let again = logged(
            3,
            Leaf::new(LeafKind::Head, owner, Incarnation(2), ChainHead { seq: 1, head: [8; 32] }),
            1,
            first.before,
        );
        let index = Index::new(deployment);
        assert!(index.check(&[head, erased, Logged { index: 2, ..again }]).is_ok());
        let refused = index.check(&[head, erased, floor, again]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        // It is what reading them refuses.
        let mut index = Index::new(deployment);
        for leaf in [head, erased, floor] {
            index.push(&leaf).unwrap();
        }
        assert_eq!(index.push(&again).unwrap_err().kind(), ErrorKind::Tampered);
    }

    /// What a start costs where there are many leaves, and what looking one up costs then. It says so, and asserts what is the same on every
    /// machine.
    #[tokio::test]
    async fn speed_of_opening_a_long_log() {
        let folder = tempfile::tempdir().unwrap();
        let key = DeploymentKey::from_bytes([7; 32]);
        let deployment = key.fingerprint();
        let store =
            SqliteStore::open(SqliteConfig::new(folder.path().join("data")).deployment_key(key)).await;
        let store = store.unwrap();
        let signer: Arc<dyn Signer> = Arc::new(MemorySigner::new(&deployment).unwrap());
        let open = async || {
            let space = store.deployment().await.unwrap();
            Log::open(space, Arc::clone(&signer), deployment, Checks::ALL).await
        };
        let log = open().await.unwrap();
        let mut ends = HashMap::new();
        for first in (0..LEAVES).step_by(STEP as usize) {
            let mut turn = log.turn(true).await.unwrap();
            let numbers = first..LEAVES.min(first + STEP);
            let mut entries = Vec::new();
            for number in numbers {
                let next = entry(number, ends.get(&(number % OWNERS)).copied(), &deployment);
                let at = At {
                    erased: false,
                    life: Incarnation(1),
                    chain: next.leaf.chain,
                    index: number,
                    gone: 0,
                };
                ends.insert(number % OWNERS, at);
                entries.push(next);
            }
            turn.append(&entries).await.unwrap();
        }
        let timed = async |how: &str, ends: &HashMap<u64, At>| {
            let begun = Instant::now();
            let again = open().await.unwrap();
            let opened = begun.elapsed();
            let begun = Instant::now();
            for number in 0..1_000 {
                let at = again.at_of(&entry(number, None, &deployment).leaf.owner).await.unwrap();
                assert_eq!(at, ends.get(&number).copied());
            }
            println!(
                "evidence: a log of {LEAVES} leaves of {OWNERS} owners opens {how}in {} ms ({} leaves are read), and says in {} us where a chain was logged",
                opened.as_millis(),
                again.opened().read,
                begun.elapsed().as_micros() / 1_000,
            );
            again
        };
        let log = timed("from all leaves ", &ends).await;
        let begun = Instant::now();
        assert!(log.keep_index(false).await.unwrap());
        println!("evidence: its index is kept in {} ms", begun.elapsed().as_millis());
        // As many more as come before it is kept again.
        let mut turn = log.turn(true).await.unwrap();
        let more = LEAVES..LEAVES + 1_342;
        let entries: Vec<_> = more.map(|n| entry(n, ends.get(&(n % OWNERS)).copied(), &deployment)).collect();
        for entry in &entries {
            let number = u64::from_be_bytes(entry.leaf.owner[..8].try_into().unwrap());
            let end = ends.get_mut(&number).unwrap();
            (end.chain, end.index) = (entry.leaf.chain, LEAVES + number);
        }
        turn.append(&entries).await.unwrap();
        drop(turn);
        assert!(!log.keep_index(false).await.unwrap());
        let again = timed("from the index that was kept ", &ends).await;
        assert_eq!(again.opened().read, LEAVES % PAGE + 1_342);
        assert_eq!(again.opened().leaves, LEAVES + 1_342);
        let page = again.leaves(LEAVES - 300, LEAVES, 1_000).await.unwrap();
        assert!(page.iter().map(|leaf| leaf.index).eq(LEAVES - 300..LEAVES - LEAVES % PAGE));
        assert_eq!(
            again.leaves(LEAVES + 1_342, LEAVES + 1_343, 1).await.unwrap_err().kind(),
            ErrorKind::Tampered
        );
        store.close().await.unwrap();
    }
}
