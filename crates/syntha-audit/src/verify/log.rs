use std::collections::{BTreeMap, BTreeSet, HashMap};

use tlog_tiles::{Error, HashReader, check_record, check_tree, record_hash, stored_hashes, tree_hash};

use super::Scope;
use super::keys::{Checkpoint, TrustedKeys};
use super::report::{CheckpointReport, Finding, Problem};
use crate::leaf::{Leaf, LeafKind};
use crate::link::Hash;

/// The log's side of a trail file, as its lines come in.
#[derive(Debug, Default)]
pub(super) struct Log {
    leaves: BTreeMap<u64, Leaf>,
    proofs: Vec<Proof>,
    consistency: Vec<Proof>,
    notes: Vec<(String, u64)>,
}

#[derive(Debug)]
struct Proof {
    /// The leaf's index, or the earlier size.
    of: u64,
    size: u64,
    hashes: Vec<tlog_tiles::Hash>,
    line: u64,
}

/// What the log says of one user from one start of the chain to its erasure or loss, by index.
#[derive(Debug, Default)]
pub(crate) struct Era {
    pub(super) leaves: Vec<(u64, Leaf)>,
    /// The leaves that a signed checkpoint covers.
    pub(super) anchored: BTreeSet<u64>,
    /// The chain was longer before than at this number.
    pub(super) rewound: Option<u64>,
}

impl Era {
    pub(super) fn erased(&self) -> bool {
        self.leaves.last().is_some_and(|(_, leaf)| leaf.kind == LeafKind::Erased)
    }

    /// The leaf that says that the chain was lost, and its index.
    pub(super) fn lost(&self) -> Option<(u64, Leaf)> {
        self.leaves.last().copied().filter(|(_, leaf)| leaf.kind == LeafKind::Lost)
    }

    /// Whether the chain begins again after it.
    pub(super) fn ended(&self) -> bool {
        self.erased() || self.lost().is_some()
    }
}

/// What came of the log.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) eras: HashMap<[u8; 32], Vec<Era>>,
    pub(super) checkpoints: Vec<CheckpointReport>,
    pub(super) findings: Vec<Finding>,
    pub(super) leaves: u64,
    pub(super) rebuilt: u64,
}

/// The hashes of a tree in the order in which RFC 6962's are stored.
struct Stored(Vec<tlog_tiles::Hash>);

impl HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, Error> {
        let at = |index: &u64| {
            let index = usize::try_from(*index).map_err(|_| Error::IndexesNotInTree)?;
            self.0.get(index).copied().ok_or(Error::IndexesNotInTree)
        };
        indexes.iter().map(at).collect()
    }
}

impl Log {
    /// Takes a leaf. Says whether its index is new.
    pub(super) fn leaf(&mut self, index: u64, leaf: Leaf) -> bool {
        self.leaves.insert(index, leaf).is_none()
    }

    pub(super) fn proof(&mut self, index: u64, size: u64, hashes: &[Hash], line: u64) {
        self.proofs.push(Proof::new(index, size, hashes, line));
    }

    pub(super) fn consistency(&mut self, from: u64, size: u64, hashes: &[Hash], line: u64) {
        self.consistency.push(Proof::new(from, size, hashes, line));
    }

    pub(super) fn checkpoint(&mut self, note: String, line: u64) {
        self.notes.push((note, line));
    }

    pub(super) fn judge(
        self,
        keys: &TrustedKeys,
        known: Option<&Checkpoint>,
        origin: Option<&str>,
        scope: Scope,
    ) -> Judged {
        let mut judged = Judged { leaves: self.leaves.len() as u64, ..Judged::default() };
        self.read_notes(keys, origin, &mut judged);
        // The auditor's own speaks for itself: beside a trail of another log it says nothing.
        if let Some(known) = known {
            let newest =
                judged.checkpoints.iter().filter(|checkpoint| checkpoint.signed).map(|it| it.size).max();
            if origin.is_some_and(|origin| origin != known.origin) {
                judged.findings.push(Finding::new(Problem::Foreign, 0));
            } else {
                if newest.is_none_or(|newest| newest < known.size) {
                    judged.findings.push(Finding::new(Problem::Replayed, 0));
                }
                let kept = CheckpointReport { size: known.size, root: known.root, signed: true, line: 0 };
                judged.checkpoints.push(kept);
            }
        }
        judged.checkpoints.sort_by_key(|checkpoint| (checkpoint.size, checkpoint.line));
        let (good, whole) = self.rebuild(&mut judged);
        let linked = self.link(&good, whole, &mut judged);
        let trusted = !keys.is_empty();
        let proven = self.prove(&linked, trusted, &mut judged);
        self.demand(&linked, &proven, scope, &mut judged);
        self.sort(&proven, trusted, &mut judged);
        judged
    }

    fn read_notes(&self, keys: &TrustedKeys, origin: Option<&str>, judged: &mut Judged) {
        for (note, line) in &self.notes {
            let problem = match Checkpoint::judge(note, keys) {
                None => Problem::Note,
                Some((checkpoint, _)) if origin.is_some_and(|origin| origin != checkpoint.origin) => {
                    Problem::Foreign
                }
                Some((_, Err(problem))) => problem,
                Some((Checkpoint { size, root, .. }, Ok(signed))) => {
                    judged.checkpoints.push(CheckpointReport { size, root, signed, line: *line });
                    continue;
                }
            };
            judged.findings.push(Finding::new(problem, *line));
        }
    }

    /// Adds the leaves up, as far as they are all there, and compares with every checkpoint on the way. Gives those that can stand,
    /// and up to which size the leaves say so.
    fn rebuild(&self, judged: &mut Judged) -> (Vec<CheckpointReport>, u64) {
        let mut stored = Stored(Vec::with_capacity(self.leaves.len().saturating_mul(2)));
        let mut whole = 0_u64;
        for (index, leaf) in &self.leaves {
            if *index != whole {
                break;
            }
            let Ok(hashes) = stored_hashes(whole, &leaf.encode(), &stored) else { break };
            stored.0.extend(hashes);
            whole += 1;
        }
        let (mut good, mut last): (Vec<CheckpointReport>, u64) = (Vec::new(), 0);
        for checkpoint in &judged.checkpoints {
            let same =
                good.iter().any(|other| other.size == checkpoint.size && other.root != checkpoint.root);
            if same {
                judged.findings.push(Finding::new(Problem::Fork, checkpoint.line));
                continue;
            }
            if checkpoint.size <= whole {
                let root = tree_hash(checkpoint.size, &stored).map(|root| root.0);
                if root.ok() != Some(checkpoint.root) {
                    let until = checkpoint.size.saturating_sub(1);
                    let finding = Finding::new(Problem::Root, checkpoint.line).range(last.min(until), until);
                    judged.findings.push(finding);
                    continue;
                }
                last = checkpoint.size;
                judged.rebuilt = if checkpoint.signed { judged.rebuilt.max(last) } else { judged.rebuilt };
            }
            good.push(*checkpoint);
        }
        (good, last)
    }

    /// Checks that each checkpoint goes on from the one before it, where the leaves do not say so. Gives those that do and are signed.
    fn link(&self, good: &[CheckpointReport], whole: u64, judged: &mut Judged) -> Vec<CheckpointReport> {
        let mut linked: Vec<CheckpointReport> = Vec::new();
        let mut before: Option<CheckpointReport> = None;
        for checkpoint in good {
            if let Some(before) = before
                && before.size != checkpoint.size
                && before.size > 0
                && checkpoint.size > whole
            {
                let of = |proof: &&Proof| proof.of == before.size && proof.size == checkpoint.size;
                let holds = |proof: &Proof| {
                    let (new, old) = (tlog_tiles::Hash(checkpoint.root), tlog_tiles::Hash(before.root));
                    check_tree(&proof.hashes, proof.size, new, proof.of, old).is_ok()
                };
                match self.consistency.iter().find(of) {
                    None => judged.findings.push(Finding::new(Problem::Unlinked, checkpoint.line)),
                    Some(proof) if holds(proof) => {}
                    Some(proof) => judged.findings.push(Finding::new(Problem::Consistency, proof.line)),
                }
            }
            before = Some(*checkpoint);
            if checkpoint.signed {
                linked.push(*checkpoint);
            }
        }
        linked
    }

    /// The leaves that are in the log by the leaves themselves or by a proof.
    fn prove(&self, linked: &[CheckpointReport], trusted: bool, judged: &mut Judged) -> BTreeSet<u64> {
        let mut proven: BTreeSet<u64> =
            self.leaves.range(..judged.rebuilt).map(|(index, _)| *index).collect();
        for proof in &self.proofs {
            let checkpoint = linked.iter().find(|checkpoint| checkpoint.size == proof.size);
            let problem = match (self.leaves.get(&proof.of), checkpoint) {
                (Some(leaf), Some(checkpoint)) => {
                    let (root, leaf) = (tlog_tiles::Hash(checkpoint.root), record_hash(&leaf.encode()));
                    if check_record(&proof.hashes, proof.size, root, proof.of, leaf).is_ok() {
                        proven.insert(proof.of);
                        continue;
                    }
                    Problem::Proof
                }
                // Without keys nothing is signed, and nothing can be said.
                _ if !trusted => continue,
                _ => Problem::Unproven,
            };
            judged.findings.push(Finding::new(problem, proof.line).at(proof.of));
        }
        proven
    }

    fn demand(&self, linked: &[CheckpointReport], proven: &BTreeSet<u64>, scope: Scope, judged: &mut Judged) {
        let top = linked.iter().map(|checkpoint| checkpoint.size).max().unwrap_or(0);
        // What a wrong root has to do with it was said there.
        if judged.findings.iter().any(|finding| finding.problem == Problem::Root) {
            return;
        }
        let unproven =
            self.leaves.range(..top).map(|(index, _)| *index).find(|index| !proven.contains(index));
        let missing = if scope == Scope::Part || judged.rebuilt >= top {
            None
        } else {
            (0..top).find(|index| !self.leaves.contains_key(index))
        };
        if let Some(first) = unproven.into_iter().chain(missing).min() {
            judged.findings.push(Finding::new(Problem::Unproven, 0).range(first, top.saturating_sub(1)));
        }
    }

    /// The leaves of each user. Those that nobody signed say nothing where somebody could: whoever writes the file could have made them.
    fn sort(&self, proven: &BTreeSet<u64>, trusted: bool, judged: &mut Judged) {
        for (index, leaf) in self.leaves.iter().filter(|(index, _)| !trusted || proven.contains(index)) {
            let eras = judged.eras.entry(leaf.owner).or_default();
            if eras.last().is_none_or(Era::ended) {
                eras.push(Era::default());
            }
            let Some(era) = eras.last_mut() else { continue };
            let before = era.leaves.iter().rev().find(|(_, leaf)| leaf.kind != LeafKind::Floor);
            let is_back = leaf.kind != LeafKind::Floor
                && before.is_some_and(|(_, before)| leaf.chain.seq < before.chain.seq);
            if is_back && era.rewound.is_none() {
                era.rewound = Some(leaf.chain.seq);
            }
            era.leaves.push((*index, *leaf));
            if proven.contains(index) {
                era.anchored.insert(*index);
            }
        }
    }
}

impl Proof {
    fn new(of: u64, size: u64, hashes: &[Hash], line: u64) -> Self {
        Self { of, size, hashes: hashes.iter().map(|hash| tlog_tiles::Hash(*hash)).collect(), line }
    }
}
