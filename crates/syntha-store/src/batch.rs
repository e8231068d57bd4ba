use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::keyspace::Keyspace;
use crate::record::RecordId;
use crate::state::{ChainHead, Incarnation, Note, Stamp, Timestamp, Usage, Version, random_u128};

/// The most operations of one batch.
pub const BATCH_OPS: usize = 65_536;
/// The most bytes of names, heads and bodies in one batch.
pub const BATCH_BYTES: usize = 64 * 1024 * 1024;
/// The most bytes of a record's head.
pub const HEAD_BYTES: usize = 4 * 1024;
/// The most bytes of a record's head that a layer has [sealed](Batch::sealed).
pub const SEALED_HEAD_BYTES: usize = 5 * 1024;
/// The most bytes of names, heads and bodies in one batch that a layer has [sealed](Batch::sealed).
pub const SEALED_BATCH_BYTES: usize = 96 * 1024 * 1024;
/// The most bytes of a note in a batch that no layer has [sealed](Batch::sealed).
pub const UNSEALED_NOTE_BYTES: usize = 64;
/// How many of the last batch ids a user's store remembers for [`UserStore::outcome`](crate::UserStore::outcome).
pub const OUTCOMES_KEPT: usize = 32;

/// A batch's id: random, so that its outcome can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchId(pub u128);

impl fmt::Debug for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What must hold at the moment of the commit, else it is a conflict and nothing is written.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expect {
    /// The user's data stands at this stamp.
    Stamp(Stamp),
    /// The audit chain ends at this sequence number.
    Chain(u64),
    /// The record has this version, or is absent for `None`.
    Version {
        /// The record's keyspace.
        space: Keyspace,
        /// The record's id.
        id: RecordId,
        /// Its version; `None` for absent.
        version: Option<Version>,
    },
}

impl fmt::Debug for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stamp(stamp) => f.debug_tuple("Stamp").field(stamp).finish(),
            Self::Chain(seq) => f.debug_tuple("Chain").field(seq).finish(),
            Self::Version { space, version, .. } => f
                .debug_struct("Version")
                .field("space", space)
                .field("version", version)
                .finish_non_exhaustive(),
        }
    }
}

/// One change of a batch.
///
/// Whatever their order in the batch, `Clear` and `DeleteName` take effect first, then the others.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Writes a whole record, new or over an old one.
    Put {
        /// The keyspace.
        space: Keyspace,
        /// The id.
        id: RecordId,
        /// What an index needs, at most [`HEAD_BYTES`].
        head: Bytes,
        /// The value.
        body: Bytes,
        /// When it expires.
        expires: Option<Timestamp>,
    },
    /// Writes a record's head and expiry and keeps its body and body version. A conflict if the record is absent.
    PutHead {
        /// The keyspace.
        space: Keyspace,
        /// The id.
        id: RecordId,
        /// What an index needs, at most [`HEAD_BYTES`].
        head: Bytes,
        /// When it expires.
        expires: Option<Timestamp>,
    },
    /// Writes other bytes in the place of a record's own and keeps its versions and expiry: for a layer that seals a record again under
    /// another key. A conflict if the record is absent or has another version. Nobody is told of a change, for there is none.
    Rewrite {
        /// The keyspace.
        space: Keyspace,
        /// The id.
        id: RecordId,
        /// The version that the record has and keeps.
        version: Version,
        /// What an index needs.
        head: Bytes,
        /// The value.
        body: Bytes,
    },
    /// Deletes a record; nothing happens if it is absent.
    Delete {
        /// The keyspace.
        space: Keyspace,
        /// The id.
        id: RecordId,
    },
    /// Deletes all records of a name.
    DeleteName {
        /// The keyspace.
        space: Keyspace,
        /// The name.
        name: Bytes,
    },
    /// Deletes all records of a keyspace.
    Clear {
        /// The keyspace.
        space: Keyspace,
    },
}

impl Op {
    /// The keyspace that it changes.
    #[must_use]
    pub const fn space(&self) -> Keyspace {
        match self {
            Self::Put { space, .. }
            | Self::PutHead { space, .. }
            | Self::Rewrite { space, .. }
            | Self::Delete { space, .. }
            | Self::DeleteName { space, .. }
            | Self::Clear { space } => *space,
        }
    }

    /// The record that it changes, where it is one.
    #[must_use]
    pub const fn id(&self) -> Option<&RecordId> {
        match self {
            Self::Put { id, .. }
            | Self::PutHead { id, .. }
            | Self::Rewrite { id, .. }
            | Self::Delete { id, .. } => Some(id),
            Self::DeleteName { .. } | Self::Clear { .. } => None,
        }
    }

    /// Whether it can remove records.
    #[must_use]
    pub const fn is_delete(&self) -> bool {
        matches!(self, Self::Delete { .. } | Self::DeleteName { .. } | Self::Clear { .. })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put { id, head, body, .. } | Self::Rewrite { id, head, body, .. } => {
                id.name().len() + head.len() + body.len()
            }
            Self::PutHead { id, head, .. } => id.name().len() + head.len(),
            Self::Delete { id, .. } => id.name().len(),
            Self::DeleteName { name, .. } => name.len(),
            Self::Clear { .. } => 0,
        }
    }
}

/// Shows kind, keyspace and sizes only.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Put { .. } => "Put",
            Self::PutHead { .. } => "PutHead",
            Self::Rewrite { .. } => "Rewrite",
            Self::Delete { .. } => "Delete",
            Self::DeleteName { .. } => "DeleteName",
            Self::Clear { .. } => "Clear",
        };
        write!(f, "{kind}({:?}, {} bytes)", self.space(), self.bytes())
    }
}

/// A change of one user's data, applied whole or not at all.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub struct Batch {
    /// The id to ask the outcome by.
    pub id: BatchId,
    /// What must hold.
    pub expect: Vec<Expect>,
    /// What changes. A record id stands in it at most once.
    pub ops: Vec<Op>,
    /// The user's new usage, absolute; `None` leaves it.
    pub usage: Option<Usage>,
    /// The new end of the audit chain; `None` leaves it. Set by the audit layer.
    pub chain: Option<ChainHead>,
    /// What a layer above keeps in the user's row from now on; `None` leaves it.
    pub note: Option<Note>,
    /// What the audit trail says of it. A store that keeps no trail ignores them.
    pub events: Events,
    /// The life that [`Store::create`](crate::Store::create) begins with this batch; `None` lets the store draw one. For a layer that binds
    /// what it writes to the life. No other call looks at it.
    pub life: Option<Incarnation>,
    /// A layer has sealed the records, which makes them larger: [`SEALED_HEAD_BYTES`] and [`SEALED_BATCH_BYTES`] hold instead of the
    /// limits that the layer has checked.
    pub sealed: bool,
    /// When the batch was built. Raises the user's time high-water mark, never lowers it.
    pub time: Timestamp,
}

impl Batch {
    /// An empty batch with a random id.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source.
    pub fn new(time: Timestamp) -> Result<Self> {
        Ok(Self::with_id(BatchId(random_u128()?), time))
    }

    /// An empty batch under an id that was drawn before: that of the batch which a layer makes it of.
    pub const fn with_id(id: BatchId, time: Timestamp) -> Self {
        Self {
            id,
            expect: Vec::new(),
            ops: Vec::new(),
            usage: None,
            chain: None,
            note: None,
            events: Events::None,
            life: None,
            sealed: false,
            time,
        }
    }

    /// Adds an expectation.
    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect.push(expect);
        self
    }

    /// Adds a change.
    pub fn op(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    /// Adds a put without expiry.
    pub fn put(self, space: Keyspace, id: RecordId, head: impl Into<Bytes>, body: impl Into<Bytes>) -> Self {
        self.op(Op::Put { space, id, head: head.into(), body: body.into(), expires: None })
    }

    /// Adds a delete.
    pub fn delete(self, space: Keyspace, id: RecordId) -> Self {
        self.op(Op::Delete { space, id })
    }

    /// Sets what the audit trail says of it.
    pub fn events(mut self, events: Events) -> Self {
        self.events = events;
        self
    }

    /// Sets the usage.
    pub const fn usage(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Whether it changes nothing at all. Events alone change nothing: a store that keeps a trail takes a batch of them all the same.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.usage.is_none() && self.chain.is_none() && self.note.is_none()
    }

    /// Whether a commit of it raises the epoch: one that touches only the audit keyspace and chain, or only writes records again as
    /// they are, does not.
    #[must_use]
    pub fn raises_epoch(&self) -> bool {
        let changes = |op: &Op| op.space() != Keyspace::Audit && !matches!(op, Op::Rewrite { .. });
        self.usage.is_some() || self.note.is_some() || self.ops.iter().any(changes)
    }

    /// Whether it can remove what must be in no file afterwards: records, or a row of wrapped keys that another one takes the place of.
    #[must_use]
    pub fn deletes(&self) -> bool {
        let replaces = |op: &Op| {
            let Op::Put { space: Keyspace::Keys, id, .. } = op else { return false };
            let is_there = |expect: &Expect| matches!(expect, Expect::Version { space: Keyspace::Keys, id: known, version: Some(_) } if known == id);
            self.expect.iter().any(is_there)
        };
        self.ops.iter().any(|op| op.is_delete() || replaces(op))
    }

    /// Checks what every backend checks before it touches anything.
    ///
    /// # Errors
    ///
    /// `LimitExceeded` over [`BATCH_OPS`], [`BATCH_BYTES`] or [`HEAD_BYTES`]; `Invalid` for an id that stands
    /// twice, for a head-only or repeated write of a record whose keyspace or name the same batch deletes, and for a user's
    /// own records in the deployment's keyspaces or the other way round (`deployment`).
    pub fn validate(&self, deployment: bool) -> Result<()> {
        // What the audit layer adds is counted as that of nobody.
        let chained = |op: &Op| self.chain.is_some() && op.space() == Keyspace::Audit;
        let ops = self.ops.iter().filter(|op| !chained(op)).count();
        if ops > BATCH_OPS || self.expect.len() > BATCH_OPS + 2 {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "a batch has at most 65,536 operations, split it",
            ));
        }
        let (head_bytes, batch_bytes) =
            if self.sealed { (SEALED_HEAD_BYTES, SEALED_BATCH_BYTES) } else { (HEAD_BYTES, BATCH_BYTES) };
        let mut bytes = 0_usize;
        let mut seen = HashSet::with_capacity(self.ops.len());
        for op in &self.ops {
            if !chained(op) {
                bytes = bytes.saturating_add(op.bytes());
            }
            if let Op::Put { head, .. } | Op::PutHead { head, .. } | Op::Rewrite { head, .. } = op
                && head.len() > head_bytes
            {
                return Err(Error::new(ErrorKind::LimitExceeded, "a record's head has at most 4 KiB"));
            }
            if let Op::Put { expires: Some(at), .. } | Op::PutHead { expires: Some(at), .. } = op
                && i64::try_from(at.0).is_err()
            {
                return Err(Error::new(ErrorKind::Invalid, "an expiry is at most 2^63 - 1 milliseconds"));
            }
            if let Some(id) = op.id()
                && !seen.insert((op.space(), id))
            {
                return Err(Error::new(ErrorKind::Invalid, "a record stands twice in one batch"));
            }
            let manager = op.space().writer() == crate::keyspace::Writer::Manager;
            if manager && !deployment {
                return Err(Error::new(ErrorKind::Invalid, "a user's store has no deployment keyspaces"));
            }
        }
        if self.note.is_some_and(|note| !self.sealed && note.as_bytes().len() > UNSEALED_NOTE_BYTES) {
            return Err(Error::new(ErrorKind::LimitExceeded, "a note in a user's row has at most 64 bytes"));
        }
        if bytes > batch_bytes {
            return Err(Error::new(ErrorKind::LimitExceeded, "a batch has at most 64 MiB, split it"));
        }
        for op in &self.ops {
            if let Op::PutHead { space, id, .. } | Op::Rewrite { space, id, .. } = op {
                let removed = self.ops.iter().any(|other| match other {
                    Op::Clear { space: cleared } => cleared == space,
                    Op::DeleteName { space: in_space, name } => in_space == space && name == id.name(),
                    _ => false,
                });
                if removed {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        "a batch removes a record and keeps its body",
                    ));
                }
            }
        }
        Ok(())
    }
}
