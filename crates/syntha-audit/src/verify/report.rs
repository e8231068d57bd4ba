use std::fmt;

use crate::link::Hash;

/// What is wrong. The set is closed, and the codes never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(clippy::exhaustive_enums, reason = "a new one is a new version of the format")]
pub enum Problem {
    /// The file ends in the middle of its last line.
    TornEnd,
    /// A line is not of the format, or is too long.
    Unreadable,
    /// A line stands where it may not: a link before its trail or after its end, a second trail or leaf of one number.
    Misplaced,
    /// A trail is of another deployment or log than the first of the file, or a checkpoint is of another log.
    Foreign,
    /// A link has another number than the next: links were removed, repeated, moved or numbered again.
    Number,
    /// A link's text is not of its format.
    Text,
    /// The details of a link are not those that it names.
    Details,
    /// A link is of a kind that may not stand there, or holds what its kind does not.
    Kind,
    /// A snapshot or archive in several links is not whole.
    Pieces,
    /// The epoch fell, or did not rise with a change.
    Epoch,
    /// The life changed without a restore.
    Life,
    /// The log knows another link of that number: something up to it was changed.
    Head,
    /// The log knows a later link than the last of the trail: the end is missing.
    Short,
    /// The chain was longer before, in the log: it was rolled back or begun again.
    Rewound,
    /// The chain goes on after its user was erased.
    Erased,
    /// The trail begins late, and no leaf of the signed log says so.
    Floor,
    /// The trail's end is not where it says.
    End,
    /// The trail has no end.
    Unended,
    /// The log knows a user who is not erased, and the file has no trail of it.
    Missing,
    /// A leaf is under a checkpoint, and nothing proves that it is in the log; or leaves, or what a proof is of, are missing.
    Unproven,
    /// An inclusion proof does not hold.
    Proof,
    /// The leaves add up to another root than the checkpoint of that size signs.
    Root,
    /// A checkpoint is not of its form.
    Note,
    /// A checkpoint has no valid signature of a trusted key.
    Signature,
    /// A checkpoint is signed by a trusted key that does not hold at its size.
    Key,
    /// Two checkpoints of one size have different roots.
    Fork,
    /// A consistency proof does not hold.
    Consistency,
    /// Nothing proves that a checkpoint goes on from the one before it.
    Unlinked,
    /// All checkpoints are older than the one that the auditor kept.
    Replayed,
    /// The log says that links were lost or changed, and that an archive took the data's place; the auditor's kept checkpoint is from before.
    Lost,
}

impl Problem {
    /// Every problem.
    pub const ALL: [Self; 30] = [
        Self::TornEnd,
        Self::Unreadable,
        Self::Misplaced,
        Self::Foreign,
        Self::Number,
        Self::Text,
        Self::Details,
        Self::Kind,
        Self::Pieces,
        Self::Epoch,
        Self::Life,
        Self::Head,
        Self::Short,
        Self::Rewound,
        Self::Erased,
        Self::Floor,
        Self::End,
        Self::Unended,
        Self::Missing,
        Self::Unproven,
        Self::Proof,
        Self::Root,
        Self::Note,
        Self::Signature,
        Self::Key,
        Self::Fork,
        Self::Consistency,
        Self::Unlinked,
        Self::Replayed,
        Self::Lost,
    ];

    /// Its fixed name.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::TornEnd => "torn-end",
            Self::Unreadable => "unreadable",
            Self::Misplaced => "misplaced",
            Self::Foreign => "foreign",
            Self::Number => "number",
            Self::Text => "text",
            Self::Details => "details",
            Self::Kind => "kind",
            Self::Pieces => "pieces",
            Self::Epoch => "epoch",
            Self::Life => "life",
            Self::Head => "head",
            Self::Short => "short",
            Self::Rewound => "rewound",
            Self::Erased => "erased",
            Self::Floor => "floor",
            Self::End => "end",
            Self::Unended => "unended",
            Self::Missing => "missing",
            Self::Unproven => "unproven",
            Self::Proof => "proof",
            Self::Root => "root",
            Self::Note => "note",
            Self::Signature => "signature",
            Self::Key => "key",
            Self::Fork => "fork",
            Self::Consistency => "consistency",
            Self::Unlinked => "unlinked",
            Self::Replayed => "replayed",
            Self::Lost => "lost",
        }
    }

    /// Whether something is not there, which is what a file that was cut looks like too.
    #[must_use]
    pub const fn is_absence(self) -> bool {
        matches!(
            self,
            Self::TornEnd
                | Self::Short
                | Self::Floor
                | Self::Unended
                | Self::Missing
                | Self::Unproven
                | Self::Unlinked
                | Self::Replayed
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Something that is wrong, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What.
    pub problem: Problem,
    /// Whose chain; `None` for the log and the file.
    pub owner: Option<[u8; 32]>,
    /// The first number that can be bad: of a link in a chain, of a leaf in the log. Those before it are as the log or the file says.
    pub seq: Option<u64>,
    /// The number by which it shows: something from `seq` to here is not as it was.
    pub until: Option<u64>,
    /// The line that shows it; 0 if it is what is not there.
    pub line: u64,
}

impl Finding {
    pub(super) const fn new(problem: Problem, line: u64) -> Self {
        Self { problem, owner: None, seq: None, until: None, line }
    }

    pub(super) const fn of(mut self, owner: [u8; 32]) -> Self {
        self.owner = Some(owner);
        self
    }

    pub(super) const fn at(mut self, seq: u64) -> Self {
        (self.seq, self.until) = (Some(seq), Some(seq));
        self
    }

    pub(super) const fn range(mut self, seq: u64, until: u64) -> Self {
        (self.seq, self.until) = (Some(seq), Some(until));
        self
    }
}

/// What was found of one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserReport {
    /// The user's tag; zeros for the deployment's own chain.
    pub owner: [u8; 32],
    /// The number of the first link.
    pub from: u64,
    /// The number of the last link; `from - 1` if there is none.
    pub to: u64,
    /// Where the chain ends by its links.
    pub head: Hash,
    /// The last link that a signed checkpoint covers; what comes after it nobody outside has vouched for. `None` if none is covered.
    pub anchored_to: Option<u64>,
    /// Whether the log says that the user was erased at the chain's end.
    pub erased: bool,
    /// How many events the links name.
    pub events: u64,
    /// How many links were given without the details that they name.
    pub redacted: u64,
    /// How many links put an archive in the place of the data.
    pub restores: u64,
    /// How often the clock went back. No error: clocks are set.
    pub clock_steps: u64,
    /// What is wrong, by sequence number. What follows from the first is left out where that can be told.
    pub findings: Vec<Finding>,
}

/// A checkpoint that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointReport {
    /// How many leaves it signs.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// Whether the key of its size signed it.
    pub signed: bool,
    /// Its line; 0 for the one that the auditor kept.
    pub line: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there is no fourth")]
pub enum Verdict {
    /// Nothing is wrong.
    Clean,
    /// The file was cut, and all else that is wrong can come of that: get the rest of it.
    Torn,
    /// Something was changed or is missing.
    Bad,
}

/// What a verification found. It repairs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Each chain, as they stand in the file.
    pub users: Vec<UserReport>,
    /// The checkpoints, by size.
    pub checkpoints: Vec<CheckpointReport>,
    /// What is wrong with the log or the file itself.
    pub findings: Vec<Finding>,
    /// How many leaves there are.
    pub leaves: u64,
    /// How many leaves, from the first, were added up to a signed root.
    pub rebuilt: u64,
    /// How many lines.
    pub lines: u64,
    /// How many findings were left out, because there are so many.
    pub more: u64,
}

impl Report {
    /// What came of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut torn = false;
        let mut found = false;
        for finding in self.all() {
            if !finding.problem.is_absence() {
                return Verdict::Bad;
            }
            torn |= finding.problem == Problem::TornEnd;
            found = true;
        }
        match (found, torn) {
            (false, _) => Verdict::Clean,
            (true, true) => Verdict::Torn,
            (true, false) => Verdict::Bad,
        }
    }

    /// Everything that is wrong.
    pub fn all(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().chain(self.users.iter().flat_map(|user| &user.findings))
    }

    /// The report on a user.
    #[must_use]
    pub fn user(&self, owner: &[u8; 32]) -> Option<&UserReport> {
        self.users.iter().find(|user| user.owner == *owner)
    }
}
