//! Which key holds for which checkpoints of a log.

use serde::{Deserialize, Serialize};
use signed_note::{Note, StandardVerifier, Verifier, VerifierList};
use syntha_store::{Error, ErrorKind, Result};

use crate::signer::TreeHead;

/// The first line of a note by which a key names the next one. No checkpoint begins so: a log's name has no such form.
const HANDOVER: &str = "syntha-audit-handover/v1";
/// The most keys of a log.
const KEYS_MOST: usize = 4_096;
/// The longest text of keys, notes included.
const TEXT_MOST: usize = 8 * 1024 * 1024;

/// The keys that a log's checkpoints are verified with, each from the size on from which it holds. Every key but the first was named by
/// the one before it, in a signed note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerKeys {
    origin: String,
    keys: Vec<HeldKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeldKey {
    from: u64,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handover: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    v: u32,
    origin: String,
    keys: Vec<HeldKey>,
}

impl SignerKeys {
    /// One key (C2SP `signed-note` verifier key) that holds from a size on.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for a text that is no such key, or that is of another log.
    pub fn new(origin: impl Into<String>, from: u64, key: impl Into<String>) -> Result<Self> {
        let keys =
            Self { origin: origin.into(), keys: vec![HeldKey { from, key: key.into(), handover: None }] };
        keys.validate()?;
        Ok(keys)
    }

    /// Reads what [`to_text`](Self::to_text) wrote, and checks that each key was named by the one before it.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > TEXT_MOST {
            return Err(refused());
        }
        let Text { v: 1, origin, keys } = serde_json::from_str(text).map_err(|_| refused())? else {
            return Err(refused());
        };
        let keys = Self { origin, keys };
        keys.validate()?;
        Ok(keys)
    }

    /// The keys as text (JSON), to be given to whoever verifies.
    ///
    /// # Errors
    ///
    /// `KeyRefused` if it can't be written.
    pub fn to_text(&self) -> Result<String> {
        let text = Text { v: 1, origin: self.origin.clone(), keys: self.keys.clone() };
        serde_json::to_string(&text).map_err(|_| refused())
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Each key, with the size from which it holds.
    pub fn keys(&self) -> impl Iterator<Item = (u64, &str)> {
        self.keys.iter().map(|held| (held.from, held.key.as_str()))
    }

    /// The first key: what an auditor writes down, for it vouches for those that follow.
    #[must_use]
    pub fn first(&self) -> &str {
        self.keys.first().map_or("", |held| &held.key)
    }

    /// Takes the key that the last one names in a signed note.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for a note that is no such thing, or is not by the last key.
    pub fn add(&mut self, handover: &str) -> Result<()> {
        let last = self.keys.last().ok_or_else(refused)?;
        let (from, key) = open_handover(&self.origin, last, handover)?;
        self.keys.push(HeldKey { from, key, handover: Some(handover.to_owned()) });
        if self.keys.len() > KEYS_MOST {
            return Err(refused());
        }
        Ok(())
    }

    /// Opens a checkpoint (a C2SP `tlog-checkpoint` in a `signed-note`): which state of the log it signs.
    ///
    /// # Errors
    ///
    /// `Tampered` unless it is of this log and signed by the one key that holds for its size: neither an older nor a newer one will do.
    pub fn check(&self, note: &str) -> Result<TreeHead> {
        let note = Note::from_bytes(note.as_bytes()).map_err(|_| unsigned())?;
        let checkpoint = tlog_tiles::Checkpoint::from_bytes(note.text()).map_err(|_| unsigned())?;
        if checkpoint.origin() != self.origin || !checkpoint.extension().is_empty() {
            return Err(unsigned());
        }
        let held = self.keys.iter().rev().find(|held| held.from <= checkpoint.size());
        verify(&note, &held.ok_or_else(unsigned)?.key).map_err(|()| unsigned())?;
        Ok(TreeHead { size: checkpoint.size(), root: checkpoint.hash().0 })
    }

    pub(crate) fn handover_text(origin: &str, from: u64, key: &str) -> String {
        format!("{HANDOVER}\n{origin}\n{from}\n{key}\n")
    }

    fn validate(&self) -> Result<()> {
        if self.keys.is_empty() || self.keys.len() > KEYS_MOST {
            return Err(refused());
        }
        let mut before: Option<&HeldKey> = None;
        for held in &self.keys {
            let verifier = StandardVerifier::new(&held.key).map_err(|_| refused())?;
            if verifier.name() != self.origin {
                return Err(refused());
            }
            match (before, &held.handover) {
                (None, None) => {}
                (Some(before), Some(handover)) => {
                    if open_handover(&self.origin, before, handover)? != (held.from, held.key.clone()) {
                        return Err(refused());
                    }
                }
                _ => return Err(refused()),
            }
            before = Some(held);
        }
        Ok(())
    }
}

/// The next key, as one names it.
fn open_handover(origin: &str, by: &HeldKey, handover: &str) -> Result<(u64, String)> {
    let note = Note::from_bytes(handover.as_bytes()).map_err(|_| refused())?;
    verify(&note, &by.key).map_err(|()| refused())?;
    let text = std::str::from_utf8(note.text()).map_err(|_| refused())?;
    let mut lines = text.lines();
    let (Some(HANDOVER), Some(of), Some(from), Some(key), None) =
        (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return Err(refused());
    };
    let number: u64 = from.parse().map_err(|_| refused())?;
    let verifier = StandardVerifier::new(key).map_err(|_| refused())?;
    // From an earlier size on it would take checkpoints from keys that are none of its business.
    if of != origin || verifier.name() != origin || number.to_string() != from || number < by.from {
        return Err(refused());
    }
    Ok((number, key.to_owned()))
}

/// Whether a note is signed by this key. What others signed besides is of no interest.
fn verify(note: &Note, key: &str) -> std::result::Result<(), ()> {
    let verifier = StandardVerifier::new(key).map_err(|_| ())?;
    let (name, id) = (verifier.name().to_owned(), verifier.key_id());
    let (verified, _) = note.verify(&VerifierList::new(vec![Box::new(verifier)])).map_err(|_| ())?;
    let own = |signature: &signed_note::Signature| signature.name() == name && signature.id() == id;
    if verified.iter().any(own) { Ok(()) } else { Err(()) }
}

const fn refused() -> Error {
    Error::new(
        ErrorKind::KeyRefused,
        "the keys of the audit log are not a list that each names the next one of",
    )
}

const fn unsigned() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "a checkpoint of the audit log is not signed by the key that holds for its size",
    )
}
