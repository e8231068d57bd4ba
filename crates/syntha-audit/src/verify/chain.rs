use syntha_store::{BatchId, ChainHead, Epoch, Incarnation, Timestamp};

use super::log::Era;
use super::report::{Finding, Problem, UserReport};
use crate::leaf::LeafKind;
use crate::link::{Hash, Kind, Link, StoredLink, Trace, details_hash, genesis, link_hash};
use crate::trail::Header;

/// How many findings of one chain are kept.
const FINDINGS: usize = 16;

/// One chain as its links come in.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) owner: [u8; 32],
    /// Its own line.
    line: u64,
    from: u64,
    late: bool,
    before: Hash,
    /// After each link from `from` on.
    heads: Vec<Hash>,
    /// From which number on the data has which life.
    lives: Vec<(u64, Incarnation)>,
    last: Option<Last>,
    /// From this number on the hashes say nothing, because the numbers do not go on.
    lost: Option<u64>,
    ended: Option<(ChainHead, u64)>,
    anchored_to: Option<u64>,
    erased: bool,
    events: u64,
    redacted: u64,
    restores: u64,
    clock_steps: u64,
    findings: Vec<Finding>,
    more: u64,
}

/// What the next link is compared with.
#[derive(Clone, Copy, Debug)]
struct Last {
    kind: Kind,
    more: bool,
    life: Incarnation,
    epoch: Epoch,
    at: Timestamp,
    batch: BatchId,
}

impl Chain {
    pub(crate) fn new(header: &Header, line: u64) -> Self {
        let start = header
            .floor
            .map_or_else(|| (1, genesis(&header.deployment, &header.owner)), |floor| (floor.seq, floor.head));
        Self {
            owner: header.owner,
            line,
            from: start.0,
            late: header.floor.is_some(),
            before: start.1,
            heads: Vec::new(),
            lives: Vec::new(),
            last: None,
            lost: None,
            ended: None,
            anchored_to: None,
            erased: false,
            events: 0,
            redacted: 0,
            restores: 0,
            clock_steps: 0,
            findings: Vec::new(),
            more: 0,
        }
    }

    pub(crate) fn find(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS {
            self.findings.push(finding.of(self.owner));
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// The number of the next link.
    fn next(&self) -> u64 {
        self.from.saturating_add(self.heads.len() as u64)
    }

    fn head(&self) -> Hash {
        self.heads.last().copied().unwrap_or(self.before)
    }

    pub(crate) fn link(&mut self, line: u64, seq: u64, stored: &StoredLink) {
        if self.ended.is_some() {
            return self.find(Finding::new(Problem::Misplaced, line).at(seq));
        }
        if self.lost.is_some() {
            return;
        }
        let next = self.next();
        let link = Link::decode(&stored.text).ok();
        if seq != next || link.as_ref().is_some_and(|link| link.seq != next) {
            self.lost = Some(next);
            return self.find(Finding::new(Problem::Number, line).at(next));
        }
        self.heads.push(link_hash(&self.head(), &stored.text));
        let Some(link) = link else {
            self.last = None;
            return self.find(Finding::new(Problem::Text, line).at(seq));
        };
        match &stored.details {
            Some((salt, details)) if details_hash(salt, details) != link.details => {
                self.find(Finding::new(Problem::Details, line).at(seq));
            }
            None if link.events > 0 => self.redacted = self.redacted.saturating_add(1),
            _ => {}
        }
        if let Some(problem) = self.wrong(&link) {
            // Of two that do not fit together, either may be the wrong one.
            let first = if problem == Problem::Kind { seq } else { seq.saturating_sub(1).max(self.from) };
            self.find(Finding::new(problem, line).range(first, seq));
        }
        self.events = self.events.saturating_add(u64::from(link.events));
        if self.lives.last().is_none_or(|(_, life)| *life != link.life) {
            self.lives.push((seq, link.life));
        }
        let is_piece = self.last.is_some_and(|last| last.more);
        self.restores = self.restores.saturating_add(u64::from(link.kind == Kind::Restore && !is_piece));
        self.clock_steps =
            self.clock_steps.saturating_add(u64::from(self.last.is_some_and(|last| link.at < last.at)));
        self.last = Some(Last {
            kind: link.kind,
            more: link.more,
            life: link.life,
            epoch: link.epoch,
            at: link.at,
            batch: link.batch,
        });
    }

    /// What is wrong with a link by itself and after the last one.
    fn wrong(&self, link: &Link) -> Option<Problem> {
        let held = |change: &Trace| matches!(change, Trace::Held { .. });
        let fits = match link.kind {
            Kind::Create | Kind::Change => !link.changes.iter().any(held),
            Kind::Snapshot | Kind::Restore => link.changes.iter().all(held),
            Kind::Note => link.changes.is_empty() && link.usage.is_none() && link.note.is_none(),
        };
        if !fits {
            return Some(Problem::Kind);
        }
        let Some(last) = self.last else {
            // After a text that can't be read, nothing can be compared.
            let first = link.seq == self.from && !self.late;
            return match link.kind {
                Kind::Create if link.seq != 1 => Some(Problem::Kind),
                Kind::Change | Kind::Note if first => Some(Problem::Kind),
                _ => None,
            };
        };
        if last.more {
            let whole = link.kind == last.kind
                && link.batch == last.batch
                && (link.life, link.epoch) == (last.life, last.epoch);
            return if whole { None } else { Some(Problem::Pieces) };
        }
        match link.kind {
            Kind::Create => Some(Problem::Kind),
            Kind::Restore if link.life == last.life => Some(Problem::Life),
            Kind::Restore if link.epoch <= last.epoch => Some(Problem::Epoch),
            Kind::Restore => None,
            _ if link.life != last.life => Some(Problem::Life),
            Kind::Change if raises(link) && link.epoch <= last.epoch => Some(Problem::Epoch),
            Kind::Change if !raises(link) && link.epoch != last.epoch => Some(Problem::Epoch),
            Kind::Note | Kind::Snapshot if link.epoch != last.epoch => Some(Problem::Epoch),
            _ => None,
        }
    }

    pub(crate) fn end(&mut self, line: u64, end: ChainHead) {
        if self.ended.is_some() {
            return self.find(Finding::new(Problem::Misplaced, line));
        }
        self.ended = Some((end, line));
    }

    /// The last link that a lost chain, as the log has it, and this one have in common.
    pub(super) fn common(&self, lost: &Era) -> u64 {
        let same = |leaf: &&(u64, crate::leaf::Leaf)| {
            let chain = leaf.1.chain;
            chain.seq >= self.from && self.head_at(chain.seq) == Some(chain.head)
        };
        let ends = lost.leaves.iter().filter(|(_, leaf)| leaf.kind == LeafKind::Head);
        ends.filter(same).map(|(_, leaf)| leaf.chain.seq).max().unwrap_or(0)
    }

    /// Which of its user's lives in the log this chain is: the one that it shares a life with, else the one that has not ended.
    pub(super) fn era<'a>(&self, eras: &'a [Era]) -> Option<&'a Era> {
        let shares = |era: &&Era| {
            let known =
                |(_, leaf): &(u64, crate::leaf::Leaf)| self.lives.iter().any(|(_, life)| *life == leaf.life);
            era.leaves.iter().any(known)
        };
        eras.iter().rev().find(shares).or_else(|| eras.last().filter(|era| !era.ended()))
    }

    /// Compares with what the log knows, and ends.
    pub(crate) fn finish(mut self, era: Option<&Era>) -> (UserReport, u64) {
        let last = self.next().saturating_sub(1);
        let mut good = self.from.saturating_sub(1);
        // A start that the log does not prove is judged below.
        let (mut floor, mut told) = (!self.late, false);
        for (index, leaf) in era.map_or(&[][..], |era| &era.leaves) {
            let era_anchors = era.is_some_and(|era| era.anchored.contains(index));
            let (seq, head) = match leaf.kind {
                LeafKind::Floor => {
                    let same = leaf.chain.seq == self.from && leaf.chain.head == self.before;
                    floor |= same;
                    (leaf.chain.seq.saturating_sub(1), leaf.chain.head)
                }
                LeafKind::Head | LeafKind::Erased | LeafKind::Lost => (leaf.chain.seq, leaf.chain.head),
            };
            if seq < self.from.saturating_sub(1) || self.lost.is_some_and(|lost| seq >= lost) || told {
                continue;
            }
            if seq > last {
                self.find(Finding::new(Problem::Short, 0).range(good.saturating_add(1), seq));
                told = true;
                continue;
            }
            if self.head_at(seq) != Some(head) {
                self.find(Finding::new(Problem::Head, 0).range(good.saturating_add(1).min(seq), seq));
                told = true;
                continue;
            }
            good = good.max(seq);
            if leaf.kind == LeafKind::Floor {
                // A prune that has not come to its end: what is left leads to where it will.
                floor |= seq >= self.from;
                continue;
            }
            if seq >= self.from && self.life_at(seq) != Some(leaf.life) {
                self.find(Finding::new(Problem::Life, 0).at(seq));
            }
            if era_anchors && seq >= self.from {
                self.anchored_to = self.anchored_to.max(Some(seq));
            }
            if leaf.kind == LeafKind::Erased {
                self.erased = true;
                if last > seq && self.lost.is_none() {
                    self.find(Finding::new(Problem::Erased, 0).range(seq.saturating_add(1), last));
                }
            }
        }
        if let Some(rewound) = era.and_then(|era| era.rewound) {
            self.find(Finding::new(Problem::Rewound, 0).at(rewound));
        }
        if !floor {
            self.find(Finding::new(Problem::Floor, self.line).at(self.from));
        }
        // A link that was put in before it takes its number, and only the next one shows it.
        for finding in self.findings.iter_mut().filter(|finding| finding.problem == Problem::Number) {
            finding.seq = finding.seq.map(|seq| seq.min(good.saturating_add(1)));
        }
        self.check_end(last, good, told);
        let report = UserReport {
            owner: self.owner,
            from: self.from,
            to: last,
            head: self.head(),
            anchored_to: self.anchored_to,
            erased: self.erased,
            events: self.events,
            redacted: self.redacted,
            restores: self.restores,
            clock_steps: self.clock_steps,
            findings: {
                self.findings.sort_by_key(|finding| finding.seq);
                self.findings
            },
        };
        (report, self.more)
    }

    fn check_end(&mut self, last: u64, good: u64, told: bool) {
        if self.lost.is_none() && self.ended.is_some() && self.last.is_some_and(|last| last.more) {
            self.find(Finding::new(Problem::Pieces, 0).at(last.saturating_add(1)));
        }
        match self.ended {
            None => self.find(Finding::new(Problem::Unended, 0).at(last.saturating_add(1))),
            // What comes after is the consequence of what was found.
            Some(_) if self.lost.is_some() || told => {}
            Some((end, line)) if end.seq != last => {
                let until = end.seq.max(last);
                let first = good.saturating_add(1).min(until);
                self.find(Finding::new(Problem::End, line).range(first, until));
            }
            Some((end, line)) if end.head != self.head() => {
                let first = good.saturating_add(1).min(last.max(self.from));
                self.find(Finding::new(Problem::End, line).range(first, last));
            }
            Some(_) => {}
        }
    }

    fn head_at(&self, seq: u64) -> Option<Hash> {
        let Some(after) = seq.checked_sub(self.from) else { return Some(self.before) };
        self.heads.get(usize::try_from(after).ok()?).copied()
    }

    fn life_at(&self, seq: u64) -> Option<Incarnation> {
        let after = self.lives.partition_point(|(from, _)| *from <= seq);
        self.lives.get(after.checked_sub(1)?).map(|(_, life)| *life)
    }
}

/// Whether the change raised the epoch: one that only writes records again as they are does not.
fn raises(link: &Link) -> bool {
    let changes = |change: &Trace| !matches!(change, Trace::Rewrite { .. });
    link.usage.is_some() || link.note.is_some() || link.changes.iter().any(changes)
}
