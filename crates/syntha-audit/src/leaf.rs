//! Leaves of the deployment's log. The format is docs/audit-v1.md.

use bytes::{Buf, BufMut};
use syntha_store::{ChainHead, Incarnation, Result};

use crate::link::malformed;

/// The bytes of a leaf.
pub const LEAF_BYTES: usize = 90;

const FORMAT: u8 = 1;

/// What a leaf says of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum LeafKind {
    /// The chain reached this link.
    Head = 1,
    /// The links before this one were pruned: what is left begins here, after the link of this hash.
    Floor = 2,
    /// The user was erased when the chain ended here.
    Erased = 3,
    /// The chain was logged up to here, and its links were lost or changed: an archive took the data's place, and the chain begins again with
    /// the archive's.
    Lost = 4,
}

/// One leaf: of which chain, and where it ended. A keyed tag stands for the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leaf {
    /// What it says.
    pub kind: LeafKind,
    /// The user's tag; zeros for the deployment's own chain.
    pub owner: [u8; 32],
    /// The life of the data.
    pub life: Incarnation,
    /// The link.
    pub chain: ChainHead,
}

impl Leaf {
    /// A leaf.
    #[must_use]
    pub const fn new(kind: LeafKind, owner: [u8; 32], life: Incarnation, chain: ChainHead) -> Self {
        Self { kind, owner, life, chain }
    }

    /// The bytes that the log hashes.
    #[must_use]
    pub fn encode(&self) -> [u8; LEAF_BYTES] {
        let mut out = [0; LEAF_BYTES];
        let mut to = &mut out[..];
        to.put_u8(FORMAT);
        to.put_u8(self.kind as u8);
        to.put_slice(&self.owner);
        to.put_u128(self.life.0);
        to.put_u64(self.chain.seq);
        to.put_slice(&self.chain.head);
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// `Corrupt` for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let bytes: &[u8; LEAF_BYTES] = bytes.try_into().map_err(|_| malformed())?;
        let mut from = &bytes[..];
        let (format, kind) = (from.get_u8(), from.get_u8());
        let kind = match (format, kind) {
            (FORMAT, 1) => LeafKind::Head,
            (FORMAT, 2) => LeafKind::Floor,
            (FORMAT, 3) => LeafKind::Erased,
            (FORMAT, 4) => LeafKind::Lost,
            _ => return Err(malformed()),
        };
        let mut owner = [0; 32];
        from.copy_to_slice(&mut owner);
        let life = Incarnation(from.get_u128());
        let mut chain = ChainHead { seq: from.get_u64(), head: [0; 32] };
        from.copy_to_slice(&mut chain.head);
        Ok(Self { kind, owner, life, chain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_read_as_it_was_written() {
        for kind in [LeafKind::Head, LeafKind::Floor, LeafKind::Erased, LeafKind::Lost] {
            let leaf = Leaf::new(kind, [1; 32], Incarnation(2), ChainHead { seq: 3, head: [4; 32] });
            assert_eq!(Leaf::decode(&leaf.encode()).unwrap(), leaf);
        }
        assert!(Leaf::decode(&[1; LEAF_BYTES - 1]).is_err());
        assert!(Leaf::decode(&[0; LEAF_BYTES]).is_err());
    }
}
