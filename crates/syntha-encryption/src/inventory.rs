//! What who reads the storage sees of each thing that is stored, in each mode. A keyspace that is not in it does not build, and a column
//! or a table of the page `docs/what-stays-visible.md` that differs from it fails a test.

use syntha_store::Keyspace;

use crate::mode::Mode;

/// How a thing stands in the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shown {
    /// Sealed: its padded size is seen in `sealed`, its size in `values`.
    Hidden,
    /// A keyed hash: seen are which of one user's are the same.
    Keyed,
    /// Made coarser: an expiry is the end of its minute.
    Rounded,
    /// As it is.
    Visible,
}

impl Shown {
    /// A fixed, lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Keyed => "keyed",
            Self::Rounded => "rounded",
            Self::Visible => "visible",
        }
    }
}

/// The parts of a record that a keyspace gives their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// What it is called.
    Name,
    /// What is held in memory of it.
    Head,
    /// The rest.
    Body,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 3] = [Self::Name, Self::Head, Self::Body];
}

/// A part of a keyspace's records.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PartRow {
    /// The keyspace.
    pub space: Keyspace,
    /// The part of its records.
    pub part: Part,
    /// In the mode `sealed`.
    pub sealed: Shown,
    /// In the mode `values`.
    pub values: Shown,
}

/// Something else that is stored: a column, a file, or what leaves the process by another way.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Row {
    /// Its name. That of a column is the SQLite backend's.
    pub what: &'static str,
    /// In the mode `sealed`.
    pub sealed: Shown,
    /// In the mode `values`.
    pub values: Shown,
    /// What it tells who reads it.
    pub tells: &'static str,
    /// What hiding it costs or would cost; empty for what tells nothing of a user.
    pub cost: &'static str,
}

impl PartRow {
    /// What a mode shows of it.
    #[must_use]
    pub const fn shown(&self, mode: Mode) -> Shown {
        match mode {
            Mode::Sealed => self.sealed,
            Mode::Values => self.values,
        }
    }
}

impl Row {
    /// What a mode shows of it.
    #[must_use]
    pub const fn shown(&self, mode: Mode) -> Shown {
        match mode {
            Mode::Sealed => self.sealed,
            Mode::Values => self.values,
        }
    }
}

const fn part(space: Keyspace, part: Part, sealed: Shown, values: Shown) -> PartRow {
    PartRow { space, part, sealed, values }
}

const fn row(
    what: &'static str,
    sealed: Shown,
    values: Shown,
    tells: &'static str,
    cost: &'static str,
) -> Row {
    Row { what, sealed, values, tells, cost }
}

use Keyspace as K;
use Part::{Body, Head, Name};
use Shown::{Hidden, Keyed, Rounded, Visible};

/// Every part of every keyspace, by code.
pub const PARTS: [PartRow; 3 * Keyspace::COUNT] = [
    part(K::Meta, Name, Keyed, Visible),
    part(K::Meta, Head, Hidden, Visible),
    part(K::Meta, Body, Hidden, Hidden),
    part(K::Context, Name, Keyed, Visible),
    part(K::Context, Head, Hidden, Visible),
    part(K::Context, Body, Hidden, Hidden),
    part(K::Agents, Name, Keyed, Visible),
    part(K::Agents, Head, Hidden, Visible),
    part(K::Agents, Body, Hidden, Hidden),
    part(K::History, Name, Keyed, Visible),
    part(K::History, Head, Hidden, Visible),
    part(K::History, Body, Hidden, Hidden),
    // Where no audit trail is kept. Where one is, the layer below writes these records: see "audit trail" in `AROUND`.
    part(K::Audit, Name, Keyed, Visible),
    part(K::Audit, Head, Hidden, Visible),
    part(K::Audit, Body, Hidden, Hidden),
    part(K::Operations, Name, Keyed, Visible),
    part(K::Operations, Head, Hidden, Visible),
    part(K::Operations, Body, Hidden, Hidden),
    // Named by the user's tag, which is a keyed hash in every mode.
    part(K::Directory, Name, Keyed, Keyed),
    part(K::Directory, Head, Hidden, Visible),
    part(K::Directory, Body, Hidden, Hidden),
    part(K::Ledger, Name, Keyed, Keyed),
    part(K::Ledger, Head, Hidden, Visible),
    part(K::Ledger, Body, Hidden, Hidden),
    part(K::Threads, Name, Keyed, Visible),
    part(K::Threads, Head, Hidden, Visible),
    part(K::Threads, Body, Hidden, Hidden),
    part(K::MessageIds, Name, Keyed, Visible),
    part(K::MessageIds, Head, Hidden, Visible),
    part(K::MessageIds, Body, Hidden, Hidden),
    part(K::Interactions, Name, Keyed, Visible),
    part(K::Interactions, Head, Hidden, Visible),
    part(K::Interactions, Body, Hidden, Hidden),
    // The keystore's own: what is secret in them is wrapped by the layer that writes them.
    part(K::Keys, Name, Keyed, Keyed),
    part(K::Keys, Head, Visible, Visible),
    part(K::Keys, Body, Visible, Visible),
    // Named by keyed hashes in every mode; their heads are empty.
    part(K::Accounts, Name, Keyed, Keyed),
    part(K::Accounts, Head, Hidden, Visible),
    part(K::Accounts, Body, Hidden, Hidden),
    part(K::Tokens, Name, Keyed, Keyed),
    part(K::Tokens, Head, Hidden, Visible),
    part(K::Tokens, Body, Hidden, Hidden),
    part(K::Sessions, Name, Keyed, Keyed),
    part(K::Sessions, Head, Hidden, Visible),
    part(K::Sessions, Body, Hidden, Hidden),
    part(K::Throttle, Name, Keyed, Keyed),
    part(K::Throttle, Head, Hidden, Visible),
    part(K::Throttle, Body, Hidden, Hidden),
    part(K::Undo, Name, Keyed, Visible),
    part(K::Undo, Head, Hidden, Visible),
    part(K::Undo, Body, Hidden, Hidden),
];

const _: () = {
    let mut rest: &[PartRow] = &PARTS;
    let mut at = 0;
    while let [first, after @ ..] = rest {
        assert!(first.space.code() as usize == at / 3 + 1, "a keyspace's parts stand at its code");
        assert!(
            first.part as usize == at % 3,
            "each part of a keyspace has a row, in the order of `Part::ALL`"
        );
        rest = after;
        at += 1;
    }
};

/// The columns of a user's row.
pub const USER: &[Row] = &[
    row("one", Visible, Visible, "nothing: it is always 1", ""),
    row(
        "tag",
        Keyed,
        Keyed,
        "which file is whose, to who has the deployment's key",
        "none: the id is hashed under that key",
    ),
    row("key_print", Visible, Visible, "which files belong to one deployment", ""),
    row(
        "incarnation",
        Visible,
        Visible,
        "whether a user was erased or restored since an older copy",
        "a handle could not tell a restored user without the user's key",
    ),
    row(
        "epoch",
        Visible,
        Visible,
        "how many commits there were, so the rate of writes between two copies",
        "commits could not be compared and set by the database",
    ),
    row("chain_seq", Visible, Visible, "how many audit records there are", "as of `epoch`"),
    row("chain_head", Visible, Visible, "nothing but whether it changed", ""),
    row(
        "contexts",
        Visible,
        Visible,
        "how many entries there are",
        "limits and totals would need the user's key",
    ),
    row("agents", Visible, Visible, "how many agents there are", "as of `contexts`"),
    row(
        "context_bytes",
        Visible,
        Visible,
        "the exact sum of the entries' sizes; from two copies, the exact size of what was written between them",
        "as of `contexts`",
    ),
    row("history_bytes", Visible, Visible, "the same of messages", "as of `contexts`"),
    row(
        "time",
        Visible,
        Visible,
        "when the last write was",
        "expiry could not hold against a clock that was put back",
    ),
    row(
        "fence",
        Visible,
        Visible,
        "whether the user is being erased or moved",
        "a process without the key could not refuse a write",
    ),
    row("recent", Visible, Visible, "random ids of the last commits, and their epochs", "as of `epoch`"),
    row(
        "log",
        Keyed,
        Visible,
        "the stored names that the last commits wrote, in order",
        "32 bytes for a name; other processes follow by reading more",
    ),
    row("note", Hidden, Hidden, "the epoch of the data key", "46 bytes"),
];

/// The columns of a record's row.
pub const RECORD: &[Row] = &[
    row(
        "row",
        Visible,
        Visible,
        "the order in which records were first written",
        "the engine numbers its rows",
    ),
    row(
        "space",
        Visible,
        Visible,
        "how many records there are of each kind",
        "spaces could not be read one by one",
    ),
    row(
        "name",
        Keyed,
        Visible,
        "which rows have the same name",
        "32 bytes for a name; no search, order or prefix in SQL: a list opens every head",
    ),
    row(
        "seq",
        Visible,
        Visible,
        "how many messages a thread has, which were deleted",
        "messages could not be paged",
    ),
    row("version", Visible, Visible, "the order of writes, what was written together", "as of `epoch`"),
    row(
        "body_version",
        Visible,
        Visible,
        "whether the last write changed the value or its audience alone",
        "as of `epoch`",
    ),
    row(
        "expires",
        Rounded,
        Visible,
        "when the record goes; whether it expires at all",
        "what has expired goes up to a minute late; hiding it whole, the database could not find it",
    ),
    row("owner", Keyed, Keyed, "half of the tag", "none"),
    row(
        "head",
        Hidden,
        Visible,
        "sizes: padded in `sealed`, exact in `values`",
        "46 bytes, what it seals of its body, and padding to 64 bytes or by at most 12.5 %",
    ),
    row(
        "body",
        Hidden,
        Hidden,
        "sizes: padded in `sealed`, exact in `values`; whether there is one",
        "46 bytes, and padding in `sealed` as of the head; no search in SQL",
    ),
];

/// The columns of a link's row: of the records of the audit keyspace without a name, which have a table of their own.
pub const LINK: &[Row] = &[
    row("seq", Visible, Visible, "how many links there are", "as of `chain_seq`"),
    row("version", Visible, Visible, "the epoch that a link belongs to", "as of `epoch`"),
    row("body_version", Visible, Visible, "the same", "as of `epoch`"),
    row("expires", Rounded, Visible, "nothing: a link does not expire", ""),
    row("owner", Keyed, Keyed, "half of the tag", "none"),
    row("head", Visible, Visible, "how many bytes the chain has up to there", "they would be counted anew"),
    row("body", Visible, Visible, "see the audit trail below", "as there"),
];

/// What lies around the tables, and what leaves the process.
pub const AROUND: &[Row] = &[
    row("user ids", Hidden, Hidden, "nothing", "an operator asks `syntha users`, which needs the key"),
    row(
        "names of files and folders",
        Keyed,
        Keyed,
        "users' tags: how many users there are and were, which were erased",
        "users would share files",
    ),
    row(
        "sizes and times of files",
        Visible,
        Visible,
        "how much each user has, when each wrote last",
        "files of one size, rewritten all the time",
    ),
    row(
        "write-ahead log and its index",
        Hidden,
        Hidden,
        "pages of the tables, as they were before and after a commit: what the columns show, for each",
        "as of the columns",
    ),
    row("temporary files", Hidden, Hidden, "as the tables that they are copies of", "as of the columns"),
    row(
        "keystore: ids, lives, epochs",
        Visible,
        Visible,
        "the deployment's id, when keys were rotated, who holds a key of their own",
        "the keystore could not be opened by row",
    ),
    row(
        "keystore: keys",
        Hidden,
        Hidden,
        "nothing without the deployment's key, and for a user who holds one, that user's passphrase",
        "an unwrap for each user that is opened",
    ),
    row(
        "key file",
        Visible,
        Visible,
        "everything: it is the key",
        "none: keep it elsewhere, or take a passphrase or a key service",
    ),
    row(
        "archive",
        Hidden,
        Hidden,
        "the tag, the deployment's id, the size",
        "it is restored where its keystore is, and nowhere else",
    ),
    row(
        "audit trail: links",
        Visible,
        Visible,
        "of each commit: when, in which run of a process, how many records of which kind were put or deleted, sizes, which of them are the same one, how many events",
        "who has not the user's data could not verify it; records are keyed hashes, under a key that lies with the data",
    ),
    row(
        "audit trail: details",
        Hidden,
        Hidden,
        "sizes: padded in `sealed`, exact in `values`; agents, names and versions are hidden in both",
        "62 bytes, and padding in `sealed`",
    ),
    row(
        "audit trail: its key",
        Visible,
        Visible,
        "in `sealed` nothing, as names are keyed hashes and the rest is sealed; in `values`, to who guesses, whether a name or head was there, deleted ones too",
        "the trail could not be compared with the data without the user's key",
    ),
    row(
        "plain export",
        Visible,
        Visible,
        "everything of the user who asked for it: that is its use",
        "none: `--passphrase` seals it",
    ),
    row(
        "export under a passphrase",
        Hidden,
        Hidden,
        "the tag, the deployment's id, the size, and the passphrase's parameters",
        "one argon2 for each export",
    ),
    row("logs and spans", Hidden, Hidden, "counts and times; no text of a user's at any level", "none"),
    row("metrics", Hidden, Hidden, "counts and times, with labels of closed sets", "none"),
    row(
        "memory, swap, core dumps",
        Visible,
        Visible,
        "what is in use: values, names, unwrapped keys",
        "sealing is of what is at rest; `harden_process` turns core dumps off",
    ),
];
