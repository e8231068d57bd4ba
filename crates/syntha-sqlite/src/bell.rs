//! The bell of a shared folder: where each commit says "look again", so that another process's cached reads cost one small read.
//!
//! The file holds one number for each of 65,536 places, and a user's place follows from the tag. A commit writes its own number
//! there **while it holds the file's write lock and before anybody can see it** (SQLite's commit hook). The number is drawn from the
//! batch's id and the epoch after it, both of which the commit stores in the user row.
//!
//! A handle believes that its user stands at a stamp only as long as the place holds the number that it verified with that
//! stamp. To verify, it reads the place *first* and then the row, and accepts if the row's last batch has that number, or if the
//! place holds 0, "nobody has rung since the folder was last opened by one process alone".
//!
//! No stale read is possible. Let a handle have verified the number b with the state S, and let a commit C come after S. C had the
//! write lock after every commit in S, so it rang after all of them. From then on the place holds a number of C or of a later
//! commit, and none of these is b: a number is that of one batch at one epoch (64 random bits of the batch, mixed with the epoch, so
//! that a batch which is committed twice rings differently). If b is 0, C rang after the place was read as 0, because its
//! commit is not in the row that was read later. And C rang before it was acknowledged.
//!
//! A crash at any moment is harmless. Between ring and commit: the place holds a number that no row has, so nobody verifies
//! anything and each read asks the file, until the next commit rings. The same holds for two users who share a place, and for what
//! never matches on purpose ([`NEVER`]: fences, erasures, imports). After a power loss no process has a cache, and whatever the
//! place holds, it is believed only with a row that was read after it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use syntha_store::{BatchId, Epoch, Result};

use crate::error::from_io;

/// Rung by what ends a life: no row ever matches it.
pub(crate) const NEVER: u64 = u64::MAX;
/// What a place holds before anybody rang.
pub(crate) const SILENT: u64 = 0;

const PLACES: u64 = 1 << 16;
const WIDTH: u64 = 8;

/// The file.
#[derive(Debug)]
pub(crate) struct Bell(File);

/// What the next commit of a connection rings.
#[derive(Clone, Debug)]
pub(crate) struct Ring(Arc<AtomicU64>);

impl Bell {
    /// Opens the file. `alone`: no other process has the folder open, so every place may be silenced.
    pub(crate) fn open(path: &Path, alone: bool) -> Result<Self> {
        let file = crate::files::open_private(path, true)?;
        if alone || file.metadata().map_err(from_io)?.len() != PLACES * WIDTH {
            // Written, not only sized: a ring must not fail because the disk is full.
            file.set_len(0).map_err(from_io)?;
            let silence = vec![0; usize::try_from(PLACES * WIDTH).unwrap_or_default()];
            file.write_all_at(&silence, 0).map_err(from_io)?;
        }
        Ok(Self(file))
    }

    /// What a user's place holds; `None` if it can't be read, and then nothing may be believed.
    pub(crate) fn read(&self, owner: &[u8; 32]) -> Option<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, place(owner)).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }

    /// Rings; says whether it could.
    pub(crate) fn ring(&self, owner: &[u8; 32], number: u64) -> bool {
        self.0.write_all_at(&number.to_ne_bytes(), place(owner)).is_ok()
    }
}

impl Ring {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NEVER)))
    }

    pub(crate) fn set(&self, number: u64) {
        self.0.store(number, Ordering::Release);
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The number of a batch that left the data at an epoch.
pub(crate) const fn number(batch: BatchId, epoch: Epoch) -> u64 {
    // Odd and far from round (2^64 over the golden ratio), so that near epochs differ in many bits.
    let mixed = epoch.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [high, low] = [(batch.0 >> 64) as u64, batch.0 as u64];
    match high ^ low ^ mixed {
        SILENT | NEVER => 1,
        number => number,
    }
}

fn place(owner: &[u8; 32]) -> u64 {
    // A tag is a keyed hash, so its first bytes are spread evenly.
    let [first, second, ..] = owner;
    u64::from(u16::from_be_bytes([*first, *second])) * WIDTH
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_of_one_batch_at_one_epoch() {
        let (one, other) = (BatchId(7 << 64 | 9), BatchId(8 << 64 | 9));
        assert_eq!(number(one, Epoch(3)), number(one, Epoch(3)));
        assert_ne!(number(one, Epoch(3)), number(one, Epoch(4)));
        assert_ne!(number(one, Epoch(3)), number(other, Epoch(3)));
        assert_eq!(number(BatchId(0), Epoch(0)), 1, "the number of nobody is not given");
        assert_eq!(number(BatchId(u128::from(u64::MAX)), Epoch(0)), 1);
    }

    #[test]
    fn what_was_rung_is_read_in_its_place_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bell");
        let (bell, other) = (Bell::open(&path, true).unwrap(), Bell::open(&path, false).unwrap());
        let (alice, bob) = ([0xff; 32], [1; 32]);
        assert_eq!(other.read(&alice), Some(SILENT));
        assert!(bell.ring(&alice, 5));
        assert_eq!((other.read(&alice), other.read(&bob)), (Some(5), Some(SILENT)));
        assert_eq!(Bell::open(&path, false).unwrap().read(&alice), Some(5), "a second one silences nobody");
        assert_eq!(Bell::open(&path, true).unwrap().read(&alice), Some(SILENT));
    }
}
