//! Links of a user's chain, as they are stored and hashed. The format is docs/audit-v1.md.

use bytes::{Buf, BufMut, Bytes};
use sha2::{Digest, Sha256};
use syntha_store::{
    BatchId, ChainHead, Epoch, Error, ErrorKind, Incarnation, KeyFingerprint, Result, Timestamp, Version,
};

/// The format of a link.
pub const FORMAT: u8 = 1;
/// The bytes of a hash.
pub const HASH_BYTES: usize = 32;
/// The bytes that stand for a name in a link.
pub const NAME_TAG_BYTES: usize = 16;
/// The bytes of the salt of a link's details.
pub const SALT_BYTES: usize = 16;
/// The most changes of one link. A snapshot of more stands in several.
pub const CHANGES_MOST: usize = 65_536;

const LINK: u8 = 0;
const DETAILS: u8 = 2;
const GENESIS: &[u8] = b"syntha/audit/v1/genesis\0";

/// A hash (SHA-256, FIPS 180-4).
pub type Hash = [u8; HASH_BYTES];

/// What a link is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Kind {
    /// A life begins with what its changes put.
    Create = 1,
    /// Data was changed.
    Change = 2,
    /// Nothing was changed: what was read, refused or done elsewhere.
    Note = 3,
    /// The data as it stands, in as many links as it takes: the chain begins over data that was there before it, or its older links are
    /// about to be pruned.
    Snapshot = 4,
    /// An archive was put in the place of the data: what it holds, in as many links as it takes.
    Restore = 5,
}

impl Kind {
    fn from_code(code: u8) -> Result<Self> {
        match code {
            1 => Ok(Self::Create),
            2 => Ok(Self::Change),
            3 => Ok(Self::Note),
            4 => Ok(Self::Snapshot),
            5 => Ok(Self::Restore),
            _ => Err(malformed()),
        }
    }
}

/// What a link says of one record, by keyed hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trace {
    /// A record was written whole. Its versions are the link's epoch.
    Put {
        /// The record.
        at: Place,
        /// Of its expiry.
        expires: [u8; 8],
        /// Of its head.
        head: Hash,
        /// Of its body.
        body: Hash,
        /// How many bytes head and body have as they are stored.
        bytes: u32,
    },
    /// A record's head was written. Its version is the link's epoch.
    PutHead {
        /// The record.
        at: Place,
        /// Of its expiry.
        expires: [u8; 8],
        /// Of its head.
        head: Hash,
        /// How many bytes the head has as it is stored.
        bytes: u32,
    },
    /// A record was sealed again, under the versions that it has.
    Rewrite {
        /// The record.
        at: Place,
        /// Of its head.
        head: Hash,
        /// Of its body.
        body: Hash,
    },
    /// A record was deleted, if it was there.
    Delete {
        /// The record.
        at: Place,
    },
    /// All records of a name were deleted.
    DeleteName {
        /// The keyspace's code.
        space: u8,
        /// The name.
        name: [u8; NAME_TAG_BYTES],
    },
    /// All records of a keyspace were deleted.
    Clear {
        /// The keyspace's code.
        space: u8,
    },
    /// A record that is there, in a snapshot or an archive.
    Held {
        /// The record.
        at: Place,
        /// Of its expiry.
        expires: [u8; 8],
        /// Of its head.
        head: Hash,
        /// Of its body.
        body: Hash,
        /// Its version.
        version: Version,
        /// Its body's version.
        body_version: Version,
    },
}

/// A record's place, by keyed hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The keyspace's code.
    pub space: u8,
    /// The name.
    pub name: [u8; NAME_TAG_BYTES],
    /// The sequence number.
    pub seq: u64,
}

/// One entry of a user's chain: what a commit did, without anything that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Its number, from 1.
    pub seq: u64,
    /// What it is there for.
    pub kind: Kind,
    /// For a snapshot or archive in several links: whether more follow.
    pub more: bool,
    /// The life of the data.
    pub life: Incarnation,
    /// Where the data stands after it.
    pub epoch: Epoch,
    /// When, by the wall clock.
    pub at: Timestamp,
    /// Milliseconds since the process's run began.
    pub uptime: u64,
    /// The process's run: a random number.
    pub run: u64,
    /// The commit.
    pub batch: BatchId,
    /// How many events its details hold.
    pub events: u32,
    /// What its details are hashed to with their salt; zeros if there are none.
    pub details: Hash,
    /// Keyed hash of the user's usage from now on, if it was set.
    pub usage: Option<[u8; 16]>,
    /// Keyed hash of the note in the user's row from now on, if it was set.
    pub note: Option<[u8; 16]>,
    /// What became of which record.
    pub changes: Vec<Trace>,
}

/// The hash that a user's chain begins from.
#[must_use]
pub fn genesis(deployment: &KeyFingerprint, owner: &[u8; 32]) -> Hash {
    Sha256::new()
        .chain_update(GENESIS)
        .chain_update(deployment.as_bytes())
        .chain_update(owner)
        .finalize()
        .into()
}

/// The hash of a link's text after another.
#[must_use]
pub fn link_hash(before: &Hash, text: &[u8]) -> Hash {
    let length = (text.len() as u64).to_be_bytes();
    Sha256::new()
        .chain_update([LINK])
        .chain_update(length)
        .chain_update(before)
        .chain_update(text)
        .finalize()
        .into()
}

/// What stands for details in a link.
#[must_use]
pub fn details_hash(salt: &[u8; SALT_BYTES], details: &[u8]) -> Hash {
    Sha256::new().chain_update([DETAILS]).chain_update(salt).chain_update(details).finalize().into()
}

impl Link {
    /// The text that is hashed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160 + self.changes.len() * 112);
        out.put_u8(FORMAT);
        out.put_u8(self.kind as u8);
        out.put_u8(
            u8::from(self.more) | u8::from(self.usage.is_some()) << 1 | u8::from(self.note.is_some()) << 2,
        );
        out.put_u64(self.seq);
        out.put_u128(self.life.0);
        out.put_u64(self.epoch.0);
        out.put_u64(self.at.0);
        out.put_u64(self.uptime);
        out.put_u64(self.run);
        out.put_u128(self.batch.0);
        out.put_u32(self.events);
        out.put_slice(&self.details);
        for digest in [self.usage, self.note].into_iter().flatten() {
            out.put_slice(&digest);
        }
        out.put_u32(u32::try_from(self.changes.len()).unwrap_or(u32::MAX));
        for change in &self.changes {
            change.encode(&mut out);
        }
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// `Corrupt` for anything else; `Unsupported` for a format that this build does not know.
    pub fn decode(mut text: &[u8]) -> Result<Self> {
        let from = &mut text;
        match byte(from)? {
            FORMAT => {}
            0 => return Err(malformed()),
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the audit trail has a format that this build does not know, upgrade",
                ));
            }
        }
        let kind = Kind::from_code(byte(from)?)?;
        let flags = byte(from)?;
        if flags > 7 || (flags & 1 == 1 && !matches!(kind, Kind::Snapshot | Kind::Restore)) {
            return Err(malformed());
        }
        let seq = number(from)?;
        let life = Incarnation(wide(from)?);
        let (epoch, at) = (Epoch(number(from)?), Timestamp(number(from)?));
        let (uptime, run) = (number(from)?, number(from)?);
        let batch = BatchId(wide(from)?);
        let events = short(from)?;
        let details = array(from)?;
        let usage = if flags & 2 == 0 { None } else { Some(array(from)?) };
        let note = if flags & 4 == 0 { None } else { Some(array(from)?) };
        let count = short(from)? as usize;
        if count > CHANGES_MOST || (events == 0) != (details == [0; HASH_BYTES]) {
            return Err(malformed());
        }
        let mut changes = Vec::with_capacity(count.min(text_bound(from)));
        for _ in 0..count {
            changes.push(Trace::decode(from)?);
        }
        if !from.is_empty() {
            return Err(malformed());
        }
        let more = flags & 1 == 1;
        Ok(Self {
            seq,
            kind,
            more,
            life,
            epoch,
            at,
            uptime,
            run,
            batch,
            events,
            details,
            usage,
            note,
            changes,
        })
    }
}

/// How many changes there can be in what is left.
const fn text_bound(left: &[u8]) -> usize {
    left.len() / 2 + 1
}

impl Trace {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put { at, expires, head, body, bytes } => {
                at.encode(1, out);
                out.put_slice(expires);
                out.put_slice(head);
                out.put_slice(body);
                out.put_u32(*bytes);
            }
            Self::PutHead { at, expires, head, bytes } => {
                at.encode(2, out);
                out.put_slice(expires);
                out.put_slice(head);
                out.put_u32(*bytes);
            }
            Self::Rewrite { at, head, body } => {
                at.encode(3, out);
                out.put_slice(head);
                out.put_slice(body);
            }
            Self::Delete { at } => at.encode(4, out),
            Self::DeleteName { space, name } => {
                out.put_u8(5);
                out.put_u8(*space);
                out.put_slice(name);
            }
            Self::Clear { space } => {
                out.put_u8(6);
                out.put_u8(*space);
            }
            Self::Held { at, expires, head, body, version, body_version } => {
                at.encode(7, out);
                out.put_slice(expires);
                out.put_slice(head);
                out.put_slice(body);
                out.put_u64(version.0);
                out.put_u64(body_version.0);
            }
        }
    }

    fn decode(from: &mut &[u8]) -> Result<Self> {
        Ok(match byte(from)? {
            1 => Self::Put {
                at: Place::decode(from)?,
                expires: array(from)?,
                head: array(from)?,
                body: array(from)?,
                bytes: short(from)?,
            },
            2 => Self::PutHead {
                at: Place::decode(from)?,
                expires: array(from)?,
                head: array(from)?,
                bytes: short(from)?,
            },
            3 => Self::Rewrite { at: Place::decode(from)?, head: array(from)?, body: array(from)? },
            4 => Self::Delete { at: Place::decode(from)? },
            5 => Self::DeleteName { space: byte(from)?, name: array(from)? },
            6 => Self::Clear { space: byte(from)? },
            7 => Self::Held {
                at: Place::decode(from)?,
                expires: array(from)?,
                head: array(from)?,
                body: array(from)?,
                version: Version(number(from)?),
                body_version: Version(number(from)?),
            },
            _ => return Err(malformed()),
        })
    }
}

impl Place {
    fn encode(&self, op: u8, out: &mut Vec<u8>) {
        out.put_u8(op);
        out.put_u8(self.space);
        out.put_slice(&self.name);
        out.put_u64(self.seq);
    }

    fn decode(from: &mut &[u8]) -> Result<Self> {
        Ok(Self { space: byte(from)?, name: array(from)?, seq: number(from)? })
    }
}

/// A link as it is stored: its text, and its details with their salt, which may be taken away without breaking the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredLink {
    /// The text that is hashed.
    pub text: Bytes,
    /// Salt and details; `None` if there are none, or if they were taken away.
    pub details: Option<([u8; SALT_BYTES], Bytes)>,
}

impl StoredLink {
    /// A link with its details.
    #[must_use]
    pub const fn new(text: Bytes, details: Option<([u8; SALT_BYTES], Bytes)>) -> Self {
        Self { text, details }
    }

    /// The body of the record that holds it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let details = self.details.as_ref().map_or(0, |(_, details)| SALT_BYTES + details.len());
        let mut out = Vec::with_capacity(4 + self.text.len() + details);
        out.put_u32(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        out.put_slice(&self.text);
        if let Some((salt, details)) = &self.details {
            out.put_slice(salt);
            out.put_slice(details);
        }
        out.into()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// `Corrupt` for anything else.
    pub fn decode(body: &Bytes) -> Result<Self> {
        let mut from: &[u8] = body;
        let length = short(&mut from)? as usize;
        if from.len() < length {
            return Err(malformed());
        }
        let text = body.slice(4..4 + length);
        from.advance(length);
        let details = if from.is_empty() {
            None
        } else {
            let salt = array(&mut from)?;
            Some((salt, body.slice(4 + length + SALT_BYTES..)))
        };
        Ok(Self { text, details })
    }

    /// Where the chain ends after it.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the link's number is not the next, or if its details are not those that it names.
    pub fn follow(&self, before: ChainHead) -> Result<(Link, ChainHead)> {
        let link = Link::decode(&self.text)?;
        if link.seq != before.seq.wrapping_add(1) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "a link of the audit chain has another number than the next",
            ));
        }
        let hashed = self.details.as_ref().map(|(salt, details)| details_hash(salt, details));
        if hashed.is_some_and(|hashed| hashed != link.details) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the details of an audit link are not those that it names",
            ));
        }
        let head = ChainHead { seq: link.seq, head: link_hash(&before.head, &self.text) };
        Ok((link, head))
    }
}

fn byte(from: &mut &[u8]) -> Result<u8> {
    from.try_get_u8().map_err(|_| malformed())
}

fn short(from: &mut &[u8]) -> Result<u32> {
    from.try_get_u32().map_err(|_| malformed())
}

fn number(from: &mut &[u8]) -> Result<u64> {
    from.try_get_u64().map_err(|_| malformed())
}

fn wide(from: &mut &[u8]) -> Result<u128> {
    from.try_get_u128().map_err(|_| malformed())
}

fn array<const N: usize>(from: &mut &[u8]) -> Result<[u8; N]> {
    let mut array = [0; N];
    from.try_copy_to_slice(&mut array).map_err(|_| malformed())?;
    Ok(array)
}

pub(crate) const fn malformed() -> Error {
    Error::new(ErrorKind::Corrupt, "an audit link is not as it was written")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        let at = Place { space: 2, name: [7; 16], seq: 9 };
        Link {
            seq: 4,
            kind: Kind::Change,
            more: false,
            life: Incarnation(5),
            epoch: Epoch(6),
            at: Timestamp(7),
            uptime: 8,
            run: 9,
            batch: BatchId(10),
            events: 1,
            details: details_hash(&[3; SALT_BYTES], b"[]"),
            usage: Some([1; 16]),
            note: None,
            changes: vec![
                Trace::Put { at, expires: [4; 8], head: [1; 32], body: [2; 32], bytes: 3 },
                Trace::PutHead { at, expires: [4; 8], head: [1; 32], bytes: 3 },
                Trace::Rewrite { at, head: [1; 32], body: [2; 32] },
                Trace::Delete { at },
                Trace::DeleteName { space: 2, name: [7; 16] },
                Trace::Clear { space: 2 },
                Trace::Held {
                    at,
                    expires: [4; 8],
                    head: [1; 32],
                    body: [2; 32],
                    version: Version(1),
                    body_version: Version(1),
                },
            ],
        }
    }

    #[test]
    fn a_link_is_read_as_it_was_written() {
        let text = link().encode();
        assert_eq!(Link::decode(&text).unwrap(), link());
        for end in 0..text.len() {
            assert!(Link::decode(&text[..end]).is_err());
        }
        let mut longer = text.clone();
        longer.push(0);
        assert!(Link::decode(&longer).is_err());
    }

    #[test]
    fn a_chain_notices_number_and_details() {
        let before = ChainHead { seq: 3, head: [8; 32] };
        let details = Some(([3; SALT_BYTES], Bytes::from_static(b"[]")));
        let stored = StoredLink::new(link().encode().into(), details);
        assert_eq!(StoredLink::decode(&stored.encode()).unwrap(), stored);
        assert_eq!(stored.follow(before).unwrap().1.seq, 4);
        assert!(stored.follow(ChainHead { seq: 2, ..before }).is_err());
        let mut other = stored.clone();
        other.details = Some(([3; SALT_BYTES], Bytes::from_static(b"[ ]")));
        assert!(other.follow(before).is_err());
        // They may be taken away.
        other.details = None;
        assert_eq!(other.follow(before).unwrap().1, stored.follow(before).unwrap().1);
    }
}
