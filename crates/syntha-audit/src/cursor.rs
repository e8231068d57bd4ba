//! How far a sink was told, as it is remembered in the data: under a key that lies with the signing key.
//!
//! A row that somebody else wrote, or that is gone although the sink was begun, counts as none: everything is delivered again. One of
//! before makes what came after it be delivered again, as sinks have to expect.

use std::collections::BTreeSet;
use std::fmt;

use bytes::{Buf, BufMut, Bytes};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use syntha_store::{ChainHead, Result};
use zeroize::Zeroizing;

use crate::hub::Owner;
use crate::link::malformed;

const FORMAT: u8 = 2;
const MAC_BYTES: usize = 32;
const OWED_BYTES: usize = 120;
/// Of how many owners a sink may have leaves and no links.
pub(crate) const OWED_MOST: usize = 64;

/// Which sinks were ever begun, and the key of what the data says of them. See [`Signer::sinks`](crate::Signer::sinks).
#[derive(Clone)]
pub struct SinkMemory {
    key: Zeroizing<[u8; 32]>,
    names: BTreeSet<String>,
}

impl fmt::Debug for SinkMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkMemory").field("names", &self.names).finish_non_exhaustive()
    }
}

impl SinkMemory {
    /// A key of 32 random bytes, which stays the same, and the names of the sinks that were begun.
    #[must_use]
    pub fn new(key: [u8; 32], names: impl IntoIterator<Item = String>) -> Self {
        Self { key: Zeroizing::new(key), names: names.into_iter().collect() }
    }

    /// Whether a sink was begun.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.key
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.iter()
    }

    pub(crate) fn begin(&mut self, name: &str) {
        self.names.insert(name.to_owned());
    }
}

/// Links that a sink has not got although it has the leaves that name them: their user's data could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    pub(crate) owner: Owner,
    /// After which link they begin.
    pub(crate) begin: ChainHead,
    /// The last one.
    pub(crate) end: ChainHead,
    /// The leaf that names it.
    pub(crate) leaf: u64,
}

impl Owed {
    pub(crate) const fn links(&self) -> u64 {
        self.end.seq.saturating_sub(self.begin.seq)
    }
}

/// How far a sink was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The first leaf that it has not got.
    pub(crate) leaf: u64,
    pub(crate) owed: Vec<Owed>,
}

impl Cursor {
    pub(crate) fn encode(&self, key: &[u8; 32], name: &str) -> Bytes {
        let mut out = Vec::with_capacity(9 + OWED_BYTES * self.owed.len() + MAC_BYTES);
        out.put_u8(FORMAT);
        out.put_u64(self.leaf);
        for owed in &self.owed {
            out.put_slice(&owed.owner);
            for end in [owed.begin, owed.end] {
                out.put_u64(end.seq);
                out.put_slice(&end.head);
            }
            out.put_u64(owed.leaf);
        }
        if let Some(mac) = mac(key, name, &out) {
            out.put_slice(&mac.finalize().into_bytes());
        }
        out.into()
    }

    /// # Errors
    ///
    /// `Corrupt` for what was not written under this key and name.
    pub(crate) fn decode(from: &[u8], key: &[u8; 32], name: &str) -> Result<Self> {
        let at = from.len().checked_sub(MAC_BYTES).ok_or_else(malformed)?;
        let (mut body, tag) = from.split_at(at);
        let mac = mac(key, name, body).ok_or_else(malformed)?;
        mac.verify_slice(tag).map_err(|_| malformed())?;
        if body.len() < 9 || body.get_u8() != FORMAT {
            return Err(malformed());
        }
        let leaf = body.get_u64();
        let mut owed = Vec::new();
        while body.len() >= OWED_BYTES {
            let mut owner = [0; 32];
            body.copy_to_slice(&mut owner);
            let mut end = || {
                let mut end = ChainHead { seq: body.get_u64(), head: [0; 32] };
                body.copy_to_slice(&mut end.head);
                end
            };
            let (begin, end) = (end(), end());
            owed.push(Owed { owner, begin, end, leaf: body.get_u64() });
        }
        if body.is_empty() { Ok(Self { leaf, owed }) } else { Err(malformed()) }
    }
}

fn mac(key: &[u8; 32], name: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(b"syntha/audit/v1/sink\0");
    mac.update(&(name.len() as u64).to_be_bytes());
    mac.update(name.as_bytes());
    mac.update(body);
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_under_its_key_and_name_alone() {
        let head = |seq| ChainHead { seq, head: [3; 32] };
        let owed = Owed { owner: [1; 32], begin: head(4), end: head(9), leaf: 7 };
        for owed in [vec![], vec![owed], vec![owed, Owed { leaf: 8, ..owed }]] {
            let cursor = Cursor { leaf: 77, owed };
            let row = cursor.encode(&[5; 32], "one");
            assert_eq!(Cursor::decode(&row, &[5; 32], "one").unwrap(), cursor);
            assert!(Cursor::decode(&row, &[6; 32], "one").is_err());
            assert!(Cursor::decode(&row, &[5; 32], "two").is_err());
            for at in 0..row.len() {
                let mut other = row.to_vec();
                other[at] ^= 1;
                assert!(Cursor::decode(&other, &[5; 32], "one").is_err(), "byte {at}");
                assert!(Cursor::decode(&row[..at], &[5; 32], "one").is_err(), "{at} bytes");
            }
        }
    }
}
