//! Keyed hashes (HMAC-SHA-256, RFC 2104) of what a link speaks of, so that a chain tells nothing to who has not the user's data.

use std::fmt;
use std::sync::OnceLock;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use syntha_store::{Error, ErrorKind, Head, Keyspace, Note, Op, RecordId, Result, Subject, Timestamp, Usage};
use zeroize::Zeroizing;

use crate::link::{Hash, NAME_TAG_BYTES, Place, Trace};

/// The bytes of a user's audit key.
pub const KEY_BYTES: usize = 32;

/// A user's audit key: kept with the user's data, and gone with it.
pub(crate) struct Digests {
    key: Zeroizing<[u8; KEY_BYTES]>,
    mac: Hmac<Sha256>,
    /// Of no expiry, which most records have.
    never: OnceLock<[u8; 8]>,
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digests")
    }
}

impl Digests {
    pub(crate) fn generate() -> Result<Self> {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(|source| {
            Error::new(ErrorKind::Unavailable, "the system's random source failed").with_source(source)
        })?;
        Self::new(&key)
    }

    /// # Errors
    ///
    /// `Corrupt` for a key of another size.
    pub(crate) fn new(key: &[u8]) -> Result<Self> {
        let key: [u8; KEY_BYTES] = key.try_into().map_err(|_| damaged())?;
        let mac = Hmac::new_from_slice(&key).map_err(|_| damaged())?;
        Ok(Self { key: Zeroizing::new(key), mac, never: OnceLock::new() })
    }

    pub(crate) fn key(&self) -> &[u8] {
        &*self.key
    }

    /// Each part is hashed after its length.
    fn digest(&self, what: u8, parts: &[&[u8]]) -> Hash {
        let mut mac = self.mac.clone();
        mac.update(&[what]);
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn short(&self, what: u8, parts: &[&[u8]]) -> [u8; NAME_TAG_BYTES] {
        let mut short = [0; NAME_TAG_BYTES];
        short.copy_from_slice(self.digest(what, parts).split_at(NAME_TAG_BYTES).0);
        short
    }

    pub(crate) fn name(&self, space: Keyspace, name: &[u8]) -> [u8; NAME_TAG_BYTES] {
        self.short(b'n', &[&[space.code()], name])
    }

    pub(crate) fn place(&self, space: Keyspace, id: &RecordId) -> Place {
        Place { space: space.code(), name: self.name(space, id.name()), seq: id.seq() }
    }

    pub(crate) fn head(&self, space: Keyspace, id: &RecordId, head: &[u8]) -> Hash {
        self.digest(b'h', &[&[space.code()], id.name(), &id.seq().to_be_bytes(), head])
    }

    pub(crate) fn expires(&self, expires: Option<Timestamp>) -> [u8; 8] {
        match expires {
            // An expiry is below 2^63.
            None => *self.never.get_or_init(|| self.expiry(u64::MAX)),
            Some(at) => self.expiry(at.0),
        }
    }

    fn expiry(&self, at: u64) -> [u8; 8] {
        let mut short = [0; 8];
        short.copy_from_slice(self.digest(b'e', &[&at.to_be_bytes()]).split_at(8).0);
        short
    }

    pub(crate) fn body(&self, space: Keyspace, id: &RecordId, body: &[u8]) -> Hash {
        self.digest(b'b', &[&[space.code()], id.name(), &id.seq().to_be_bytes(), body])
    }

    pub(crate) fn usage(&self, usage: &Usage) -> [u8; 16] {
        let counts = [usage.contexts, usage.agents, usage.context_bytes, usage.history_bytes];
        let counts: Vec<u8> = counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        self.short(b'u', &[&counts])
    }

    pub(crate) fn note(&self, note: &Note) -> [u8; 16] {
        self.short(b't', &[note.as_bytes()])
    }

    /// What stands for a name in events that nobody seals.
    pub(crate) fn subject(&self, name: &str) -> Subject {
        Subject::Tag(data_encoding::HEXLOWER.encode(&self.short(b's', &[name.as_bytes()])).into())
    }

    /// What a link says of an operation.
    pub(crate) fn trace(&self, op: &Op) -> Result<Trace> {
        let bytes = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Ok(match op {
            Op::Put { space, id, head, body, expires } => Trace::Put {
                at: self.place(*space, id),
                expires: self.expires(*expires),
                head: self.head(*space, id, head),
                body: self.body(*space, id, body),
                bytes: bytes(head.len().saturating_add(body.len())),
            },
            Op::PutHead { space, id, head, expires } => Trace::PutHead {
                at: self.place(*space, id),
                expires: self.expires(*expires),
                head: self.head(*space, id, head),
                bytes: bytes(head.len()),
            },
            Op::Rewrite { space, id, head, body, .. } => Trace::Rewrite {
                at: self.place(*space, id),
                head: self.head(*space, id, head),
                body: self.body(*space, id, body),
            },
            Op::Delete { space, id } => Trace::Delete { at: self.place(*space, id) },
            Op::DeleteName { space, name } => {
                Trace::DeleteName { space: space.code(), name: self.name(*space, name) }
            }
            Op::Clear { space } => Trace::Clear { space: space.code() },
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "an operation that the audit trail does not know",
                ));
            }
        })
    }

    /// What a snapshot says of a record.
    pub(crate) fn held(&self, space: Keyspace, head: &Head, body: &[u8]) -> Trace {
        Trace::Held {
            at: self.place(space, &head.id),
            expires: self.expires(head.expires),
            head: self.head(space, &head.id, &head.head),
            body: self.body(space, &head.id, body),
            version: head.version,
            body_version: head.body_version,
        }
    }
}

const fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "the key of the user's audit trail is not as it was written")
}
