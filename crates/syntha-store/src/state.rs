use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// One life of a user: random, new at each create, restore and recreate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u128);

impl Incarnation {
    /// A new incarnation from the operating system's random source.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source.
    pub fn random() -> Result<Self> {
        random_u128().map(Self)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

pub(crate) fn random_u128() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|source| {
        Error::new(ErrorKind::Unavailable, "the system's random source failed").with_source(source)
    })?;
    Ok(u128::from_be_bytes(bytes))
}

/// A user's counter, raised by every commit that changes data. It fits an `i64`, as databases keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// The version of a record: the epoch of the commit that wrote it, so it is never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// Where a user's data stands: which life, which commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Which life.
    pub incarnation: Incarnation,
    /// Which commit of that life.
    pub epoch: Epoch,
}

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

/// The end of a user's audit chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainHead {
    /// The sequence number of the last entry; 0 while there is none.
    pub seq: u64,
    /// The hash of the last entry; zeros while there is none.
    pub head: [u8; 32],
}

/// What a user's data adds up to, as the mesh's writer counts it. Stored absolute, with each commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Context entries, expired ones that are not swept yet included.
    pub contexts: u64,
    /// Registered agents.
    pub agents: u64,
    /// Bytes of keys and values (JSON text), before any sealing.
    pub context_bytes: u64,
    /// Bytes of history, before any sealing.
    pub history_bytes: u64,
}

/// Why a user's store takes no more commits in this incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Fence {
    /// It is being erased.
    Erased = 1,
    /// It lives elsewhere now.
    Moved = 2,
    /// An archive is being put in its place.
    Restoring = 3,
}

impl Fence {
    /// The stored code; 0 stands for no fence.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The fence of a stored code, `None` for 0.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a code that this build does not know.
    pub fn from_code(code: u8) -> Result<Option<Self>> {
        match code {
            0 => Ok(None),
            1 => Ok(Some(Self::Erased)),
            2 => Ok(Some(Self::Moved)),
            3 => Ok(Some(Self::Restoring)),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                "the data holds a fence that this build does not know, upgrade",
            )),
        }
    }
}

/// The most bytes of a [`Note`].
pub const NOTE_BYTES: usize = 192;

/// What a layer above keeps in the user's row, beside the counts: opaque here, at most [`NOTE_BYTES`] (64 bytes where no layer
/// has sealed it). It changes with a commit
/// and is compared with it, so it says what the layer knows of exactly this state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Note {
    length: u8,
    bytes: [u8; NOTE_BYTES],
}

impl Note {
    /// No note.
    pub const NONE: Self = Self { length: 0, bytes: [0; NOTE_BYTES] };

    /// A note.
    ///
    /// # Errors
    ///
    /// `LimitExceeded` over [`NOTE_BYTES`].
    pub fn new(text: &[u8]) -> Result<Self> {
        let large = || Error::new(ErrorKind::LimitExceeded, "a note in a user's row has at most 192 bytes");
        let mut note = Self::NONE;
        note.bytes.get_mut(..text.len()).ok_or_else(large)?.copy_from_slice(text);
        note.length = u8::try_from(text.len()).map_err(|_| large())?;
        Ok(note)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl Default for Note {
    fn default() -> Self {
        Self::NONE
    }
}

/// Shows its size only.
impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Note({} bytes)", self.length)
    }
}

/// A user's row: everything about the user's data that is one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserState {
    /// Life and commit.
    pub stamp: Stamp,
    /// The end of the audit chain.
    pub chain: ChainHead,
    /// What the data adds up to.
    pub usage: Usage,
    /// When the next record expires.
    pub next_expiry: Option<Timestamp>,
    /// The highest time that a commit carried, so that a clock set back does not bring back what expired.
    pub time: Timestamp,
    /// What a layer above keeps here.
    pub note: Note,
}
