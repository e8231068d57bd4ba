use std::fmt;

use signed_note::{Note, StandardVerifier, VerifierList};
use syntha_store::{Error, ErrorKind, Result};
use tlog_tiles::Checkpoint as Signed;

use super::report::Problem;
use crate::link::Hash;
use crate::trail::LEAVES_MOST;

/// The keys that an auditor trusts to sign checkpoints, each from a size of the log on. They come from outside the trail.
#[derive(Clone, Default)]
pub struct TrustedKeys {
    /// By the size from which each holds.
    keys: Vec<(u64, StandardVerifier)>,
}

impl fmt::Debug for TrustedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustedKeys").field("keys", &self.keys.len()).finish()
    }
}

impl TrustedKeys {
    /// Reads keys: on each line a size of the log, a space, and the C2SP verifier key that signs from that size on. Empty lines and those
    /// that begin with `#` say nothing.
    ///
    /// # Errors
    ///
    /// `Invalid` for anything else, for sizes that do not rise, and for no key at all.
    pub fn parse(text: &str) -> Result<Self> {
        let mut keys: Vec<(u64, StandardVerifier)> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (size, key) = line.split_once(' ').ok_or_else(invalid)?;
            let size = size.parse().map_err(|_| invalid())?;
            let key = StandardVerifier::new(key.trim()).map_err(|_| invalid())?;
            if keys.last().is_some_and(|(last, _)| *last >= size) {
                return Err(invalid());
            }
            keys.push((size, key));
        }
        if keys.is_empty() { Err(invalid()) } else { Ok(Self { keys }) }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn at(&self, size: u64) -> Option<&StandardVerifier> {
        self.keys.iter().rev().find(|(from, _)| *from <= size).map(|(_, key)| key)
    }

    /// Whether the key of a checkpoint's size signed it. Signatures of others beside it are nobody's business here.
    fn check(&self, note: &Note, size: u64) -> std::result::Result<(), Problem> {
        let signed_by = |key: &StandardVerifier| {
            let list = VerifierList::new(vec![Box::new(key.clone())]);
            note.verify(&list).is_ok()
        };
        if self.at(size).is_some_and(signed_by) {
            return Ok(());
        }
        let other = self.keys.iter().any(|(_, key)| signed_by(key));
        Err(if other { Problem::Key } else { Problem::Signature })
    }
}

/// A checkpoint's text and whether it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The log that it is of.
    pub origin: String,
    /// How many leaves it signs.
    pub size: u64,
    /// Their root.
    pub root: Hash,
}

impl Checkpoint {
    /// Reads a checkpoint that the auditor kept, and checks its signature.
    ///
    /// # Errors
    ///
    /// `Invalid` if it is none; `Tampered` if the trusted key of its size did not sign it.
    pub fn parse(note: &str, keys: &TrustedKeys) -> Result<Self> {
        let (checkpoint, note) = read(note)
            .ok_or_else(|| Error::new(ErrorKind::Invalid, "the kept checkpoint is not of its form"))?;
        keys.check(&note, checkpoint.size).map_err(|_| {
            Error::new(
                ErrorKind::Tampered,
                "the kept checkpoint is not signed by the trusted key of its size",
            )
        })?;
        Ok(checkpoint)
    }

    /// Reads a checkpoint of a trail. With it whether it is signed as it must be; nobody can tell without keys.
    pub(super) fn judge(
        note: &str,
        keys: &TrustedKeys,
    ) -> Option<(Self, std::result::Result<bool, Problem>)> {
        let (checkpoint, note) = read(note)?;
        let signed =
            if keys.is_empty() { Ok(false) } else { keys.check(&note, checkpoint.size).map(|()| true) };
        Some((checkpoint, signed))
    }
}

fn read(note: &str) -> Option<(Checkpoint, Note)> {
    let note = Note::from_bytes(note.as_bytes()).ok()?;
    let signed = Signed::from_bytes(note.text()).ok()?;
    if signed.size() > LEAVES_MOST {
        return None;
    }
    let checkpoint =
        Checkpoint { origin: signed.origin().to_owned(), size: signed.size(), root: signed.hash().0 };
    Some((checkpoint, note))
}

const fn invalid() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "trusted keys are lines of a log size and a verifier key (`0 name+id+key`), by rising size",
    )
}
