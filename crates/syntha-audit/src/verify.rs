//! The offline verifier: reads a trail, and says what is wrong with it. It needs no key but those that sign checkpoints, no store and no
//! database. The format, and what is promised, is docs/audit-v1.md.

pub(crate) mod chain;
mod keys;
mod log;
mod report;

use std::collections::HashSet;
use std::io::BufRead;

pub use keys::{Checkpoint, TrustedKeys};
pub use report::{CheckpointReport, Finding, Problem, Report, UserReport, Verdict};

use syntha_store::{KeyFingerprint, Result};

use crate::trail::{Header, Item, TrailReader};
use chain::Chain;
use log::Log;

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

    /// Compares the chains with the log, and says what was found.
    #[must_use]
    pub fn finish(mut self) -> Report {
        let origin = self.origin.as_ref().map(|(origin, _)| origin.as_str());
        let log = std::mem::take(&mut self.log);
        let judged = log.judge(&self.keys, self.known.as_ref(), origin, self.scope);
        let mut users = Vec::with_capacity(self.chains.len());
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
