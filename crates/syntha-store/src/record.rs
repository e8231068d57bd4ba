use std::fmt;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::keyspace::Keyspace;
use crate::state::{Timestamp, Version};

/// The most bytes of a record's name.
pub const NAME_BYTES: usize = 512;

/// The id of a record inside one keyspace of one user: a name, and a sequence number that orders records of a name.
///
/// Ids order by name (bytes), then by sequence number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    name: Bytes,
    seq: u64,
}

impl RecordId {
    /// An id.
    ///
    /// # Errors
    ///
    /// `Invalid` for a name of more than [`NAME_BYTES`] bytes and for a sequence number over `i64::MAX`.
    pub fn new(name: impl Into<Bytes>, seq: u64) -> Result<Self> {
        let name = name.into();
        if name.len() > NAME_BYTES {
            return Err(Error::new(ErrorKind::Invalid, "a record's name has at most 512 bytes"));
        }
        if i64::try_from(seq).is_err() {
            return Err(Error::new(ErrorKind::Invalid, "a record's sequence number is at most 2^63 - 1"));
        }
        Ok(Self { name, seq })
    }

    /// The name.
    #[must_use]
    pub const fn name(&self) -> &Bytes {
        &self.name
    }

    /// The sequence number.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }
}

/// Shows sizes only: a name may be user text.
impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordId({} bytes, {})", self.name.len(), self.seq)
    }
}

/// A record without its body.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// The record's id.
    pub id: RecordId,
    /// What an index needs. Opaque here.
    pub head: Bytes,
    /// The commit that last wrote the head.
    pub version: Version,
    /// The commit that last wrote the body.
    pub body_version: Version,
    /// When the record expires. The store deletes nothing by it.
    pub expires: Option<Timestamp>,
}

impl Head {
    /// A head, as a backend reads one back.
    #[must_use]
    pub const fn new(
        id: RecordId,
        head: Bytes,
        version: Version,
        body_version: Version,
        expires: Option<Timestamp>,
    ) -> Self {
        Self { id, head, version, body_version, expires }
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("id", &self.id)
            .field("head_bytes", &self.head.len())
            .field("version", &self.version)
            .field("body_version", &self.body_version)
            .field("expires", &self.expires)
            .finish()
    }
}

/// A record with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// All but the body.
    pub head: Head,
    /// The value. Opaque here.
    pub body: Body,
}

impl Record {
    /// A record, as a backend reads one back.
    #[must_use]
    pub fn new(head: Head, body: impl Into<Bytes>) -> Self {
        Self { head, body: Body(body.into()) }
    }
}

/// A record's body; `Debug` shows its size only.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(pub Bytes);

impl std::ops::Deref for Body {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

/// A record and the keyspace that it is in, as snapshots give them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The keyspace.
    pub space: Keyspace,
    /// The record.
    pub record: Record,
}
