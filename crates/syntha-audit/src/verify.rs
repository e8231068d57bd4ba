//! The offline verifier: reads a trail, and says what is wrong with it. It needs no key but those that sign checkpoints, no store and no
//! database. The format, and what is promised, is docs/audit-v1.md.

pub(crate) mod chain;
mod keys;
mod log;
mod report;

use std::collections::{HashMap, HashSet};
use std::io::BufRead;

pub use keys::{Checkpoint, TrustedKeys};
pub use report::{CheckpointReport, Finding, Problem, Report, UserReport, Verdict};

use syntha_store::{KeyFingerprint, Result};

use crate::trail::{Header, Item, TrailReader};
use chain::Chain;
use log::{Era, Log};

/// How many findings of the file itself are kept.
const FINDINGS: usize = 64;

/// What an auditor was promised that a file holds. A trail can't say it of itself: who cut it would cut that too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(clippy::exhaustive_enums, reason = "each holds what the one before it does")]
pub enum Scope {
    /// Some chains, and leaves with their proofs. A chain that ends before its last leaf, with the later leaves left out, is not noticed.
    #[default]
    Part,
    /// Some chains, and every leaf up to the last checkpoint: no chain in it can end early.
    Log,
    /// Every leaf, and the chain of each user who is not erased: no user is left out.
    All,
}

/// Reads trails and judges them. It walks the links themselves and trusts no index. For each link it keeps one hash.
#[derive(Debug)]
pub struct Verifier {
    keys: TrustedKeys,
    known: Option<Checkpoint>,
    scope: Scope,
    origin: Option<(String, KeyFingerprint)>,
    /// Those before the last one are at their end.
    chains: Vec<Chain>,
    /// A trail that is not looked at is under way.
    astray: bool,
    owners: HashSet<[u8; 32]>,
    log: Log,
    findings: Vec<Finding>,
    more: u64,
    lines: u64,
}

impl Verifier {
    /// A verifier that trusts these keys. Without any, no checkpoint is taken for signed and nothing is anchored.
    #[must_use]
    pub fn new(keys: TrustedKeys) -> Self {
        Self {
            keys,
            known: None,
            scope: Scope::Part,
            origin: None,
            chains: Vec::new(),
            astray: false,
            owners: HashSet::new(),
            log: Log::default(),
            findings: Vec::new(),
            more: 0,
            lines: 0,
        }
    }

    /// What the file must hold.
    #[must_use]
    pub const fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The newest checkpoint that the auditor has kept from before.
    #[must_use]
    pub fn known(mut self, known: Option<Checkpoint>) -> Self {
        self.known = known;
        self
    }

    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it can't be read. What is wrong with it is no error, but in the report.
    pub fn read(&mut self, from: impl BufRead) -> Result<()> {
        let mut reader = TrailReader::new(from);
        while let Some(line) = reader.line()? {
            self.lines = line.number;
            if line.torn {
                self.find(Finding::new(Problem::TornEnd, line.number));
            } else if line.item.is_none() {
                self.find(Finding::new(Problem::Unreadable, line.number));
            }
            if let Some(item) = line.item {
                self.take(line.number, item);
            }
        }
        Ok(())
    }

    /// Takes one line, without its end.
    pub fn line(&mut self, line: &[u8]) {
        match Item::decode(line) {
            Ok(item) => self.item(item),
            Err(_) => {
                self.lines = self.lines.saturating_add(1);
                self.find(Finding::new(Problem::Unreadable, self.lines));
            }
        }
    }

    /// Takes what a line says.
    pub fn item(&mut self, item: Item) {
        self.lines = self.lines.saturating_add(1);
        self.take(self.lines, item);
    }

    fn take(&mut self, number: u64, item: Item) {
        match item {
            Item::Trail(header) => self.begin(number, &header),
            Item::Link { .. } | Item::End(_) if self.astray => {}
            Item::Link { seq, stored } => match self.chains.last_mut() {
                Some(chain) => chain.link(number, seq, &stored),
                None => self.find(Finding::new(Problem::Misplaced, number).at(seq)),
            },
            Item::End(end) => match self.chains.last_mut() {
                Some(chain) => chain.end(number, end),
                None => self.find(Finding::new(Problem::Misplaced, number)),
            },
            Item::Leaf { index, leaf } => {
                if !self.log.leaf(index, leaf) {
                    self.find(Finding::new(Problem::Misplaced, number).at(index));
                }
            }
            Item::Proof { index, size, hashes } => self.log.proof(index, size, &hashes, number),
            Item::Consistency { from, size, hashes } => self.log.consistency(from, size, &hashes, number),
            Item::Checkpoint { note } => self.log.checkpoint(note, number),
        }
    }

    fn begin(&mut self, number: u64, header: &Header) {
        let (origin, deployment) =
            self.origin.get_or_insert_with(|| (header.origin.clone(), header.deployment));
        let problem = if (&*origin, *deployment) != (&header.origin, header.deployment) {
            Problem::Foreign
        } else if self.owners.insert(header.owner) {
            self.astray = false;
            return self.chains.push(Chain::new(header, number));
        } else {
            Problem::Misplaced
        };
        self.astray = true;
        self.find(Finding::new(problem, number).of(header.owner));
    }

    fn find(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS {
            self.findings.push(finding);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// What the log says that was lost, and that the auditor can't have seen yet.
    fn lost(&self, eras: &HashMap<[u8; 32], Vec<Era>>) -> Vec<Finding> {
        let known = self.known.as_ref().map_or(0, |known| known.size);
        let mut found = Vec::new();
        for (owner, eras) in eras {
            let chain = self.chains.iter().find(|chain| chain.owner == *owner);
            for (era, (index, leaf)) in eras.iter().filter_map(|era| Some((era, era.lost()?))) {
                if index >= known {
                    let first = chain.map_or(0, |chain| chain.common(era)).saturating_add(1);
                    let until = leaf.chain.seq;
                    found.push(Finding::new(Problem::Lost, 0).of(*owner).range(first.min(until), until));
                }
            }
        }
        found.sort_unstable_by_key(|finding| (finding.owner, finding.until));
        found
    }

    /// Compares the chains with the log, and says what was found.
    #[must_use]
    pub fn finish(mut self) -> Report {
        let origin = self.origin.as_ref().map(|(origin, _)| origin.as_str());
        let log = std::mem::take(&mut self.log);
        let judged = log.judge(&self.keys, self.known.as_ref(), origin, self.scope);
        let mut users = Vec::with_capacity(self.chains.len());
        for lost in self.lost(&judged.eras) {
            self.find(lost);
        }
        for chain in std::mem::take(&mut self.chains) {
            let eras = judged.eras.get(&chain.owner).map_or(&[][..], Vec::as_slice);
            let era = chain.era(eras);
            let (report, more) = chain.finish(era);
            self.more = self.more.saturating_add(more);
            users.push(report);
        }
        for finding in judged.findings {
            self.find(finding);
        }
        let mut absent: Vec<_> = judged
            .eras
            .iter()
            .filter(|(owner, eras)| {
                !self.owners.contains(*owner) && eras.last().is_some_and(|era| !era.erased())
            })
            .map(|(owner, _)| *owner)
            .collect();
        absent.sort_unstable();
        if self.scope == Scope::All {
            for owner in absent {
                self.find(Finding::new(Problem::Missing, 0).of(owner));
            }
        }
        Report {
            users,
            checkpoints: judged.checkpoints,
            findings: self.findings,
            leaves: judged.leaves,
            rebuilt: judged.rebuilt,
            lines: self.lines,
            more: self.more,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use syntha_store::{BatchId, ChainHead, Epoch, Incarnation, Timestamp};

    use super::*;
    use crate::link::{Kind, Link, Place, SALT_BYTES, StoredLink, Trace, details_hash, genesis, link_hash};

    const OWNER: [u8; 32] = [2; 32];
    const LINKS: u64 = 20_000;

    /// Links of one push each, with an event, as they come from a file once it is read.
    fn chain() -> Vec<StoredLink> {
        let details = Bytes::from_static(
            br#"[{"at":1700000000000,"do":"push","is":"done","by":{"tag":"0123456789abcdef0123456789abcdef"},"on":{"tag":"0123456789abcdef0123456789abcdef"},"bytes":1024}]"#,
        );
        let salt = [3; SALT_BYTES];
        let link = |seq| {
            let at = Place { space: 2, name: [7; 16], seq: 0 };
            let link = Link {
                seq,
                kind: if seq == 1 { Kind::Create } else { Kind::Change },
                more: false,
                life: Incarnation(5),
                epoch: Epoch(seq),
                at: Timestamp(seq),
                uptime: seq,
                run: 9,
                batch: BatchId(u128::from(seq)),
                events: 1,
                details: details_hash(&salt, &details),
                usage: Some([1; 16]),
                note: None,
                changes: vec![Trace::Put { at, expires: [4; 8], head: [1; 32], body: [2; 32], bytes: 1_024 }],
            };
            StoredLink::new(link.encode().into(), Some((salt, details.clone())))
        };
        (1..=LINKS).map(link).collect()
    }

    fn header() -> Header {
        Header::new("log".into(), KeyFingerprint::from_bytes([1; 32]), OWNER)
    }

    fn timed<T>(work: impl Fn() -> T) -> (T, Duration) {
        let mut best = Duration::MAX;
        let mut made = work();
        for _ in 0..5 {
            let started = Instant::now();
            made = work();
            best = best.min(started.elapsed());
        }
        (made, best)
    }

    /// The links' hashes cost what they cost; the rest of the verifier is to cost no more. It says how much, and asserts only what is the same
    /// on every machine: that both find the same end.
    #[test]
    fn speed_beside_a_bare_chain() {
        let links = chain();
        let bare = || {
            links.iter().fold(genesis(&header().deployment, &OWNER), |head, stored| {
                let (salt, details) = stored.details.as_ref().unwrap();
                std::hint::black_box(details_hash(salt, details));
                link_hash(&head, &stored.text)
            })
        };
        let verified = || {
            let mut verifier = Verifier::new(TrustedKeys::default());
            verifier.item(Item::Trail(header()));
            for (seq, stored) in (1..).zip(&links) {
                verifier.item(Item::Link { seq, stored: stored.clone() });
            }
            verifier.item(Item::End(ChainHead { seq: LINKS, head: bare() }));
            verifier.finish()
        };
        let (head, bare_took) = timed(bare);
        let (report, took) = timed(verified);
        // The end that the verifier is told is computed a second time.
        let took = took.saturating_sub(bare_took);
        assert_eq!((report.users[0].head, report.verdict()), (head, Verdict::Clean));
        println!(
            "evidence: {LINKS} links of {} bytes and {} bytes of details: {:.0} links a ms, {:.2} times a bare SHA-256 chain's speed",
            links[0].text.len(),
            links[0].details.as_ref().unwrap().1.len(),
            LINKS as f64 / took.as_secs_f64() / 1_000.0,
            bare_took.as_secs_f64() / took.as_secs_f64(),
        );
    }
}
