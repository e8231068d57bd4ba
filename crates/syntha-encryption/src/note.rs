//! What the layer keeps in the user's row: sealed, and bound to the commit that wrote it.

use syntha_store::{
    EPOCH_JUMP, Error, ErrorKind, Incarnation, Note, Result, Stamp, UNSEALED_NOTE_BYTES, Version,
};

use crate::binding::{Binding, RecordBinding};
use crate::envelope::{self, Algorithm, Content, Salts};
use crate::keyring::UserKeys;
use crate::record::{Records, tampered};
use crate::roster::Roster;
use crate::subkeys::Purpose;

const VERSION: u8 = 1;
const IMPORTED: u8 = 1;

/// What a note says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoteState {
    /// The commit that it is of; for an import, the newest version in it.
    pub(crate) at: u64,
    /// It came with an import, whose epoch was not known yet. No commit was made since.
    pub(crate) imported: bool,
    /// The epoch of the key that everything is sealed under from now on.
    pub(crate) sealing: u32,
    pub(crate) roster: Roster,
    /// The note of the layer above.
    pub(crate) above: Note,
}

impl NoteState {
    /// The highest version that a record can have, where the data stands at this stamp.
    pub(crate) const fn newest(&self, stamp: Stamp) -> u64 {
        if self.imported { self.at } else { stamp.epoch.0 }
    }

    /// Whether it can be the note of data that stands at this stamp.
    fn fits(&self, stamp: Stamp) -> bool {
        if self.imported {
            stamp.epoch.0 >= self.at.saturating_add(EPOCH_JUMP)
        } else {
            self.at == stamp.epoch.0
        }
    }

    pub(crate) fn seal(
        &self,
        records: &Records<'_>,
        salts: &mut Salts,
        keys: &UserKeys,
        life: Incarnation,
    ) -> Result<Note> {
        let key = keys.data(self.sealing).ok_or_else(tampered)?;
        let mut above = [0; UNSEALED_NOTE_BYTES];
        let text = self.above.as_bytes();
        above.get_mut(..text.len()).ok_or_else(too_long)?.copy_from_slice(text);
        let length = u8::try_from(text.len()).map_err(|_| too_long())?;
        let (at, sealing, roster) =
            (self.at.to_be_bytes(), self.sealing.to_be_bytes(), self.roster.to_bytes());
        let parts: [&[u8]; 6] =
            [&[VERSION, u8::from(self.imported)], &at, &sealing, &roster, &[length], &above];
        let binding = binding(records, life, if self.imported { IMPORTED_AT } else { self.at });
        let (subkey, content) = (key.subkey(Purpose::Note), Content::Plain(&parts));
        Note::new(&records.seal(salts, subkey, key.epoch(), &binding, content)?)
    }

    /// Opens a user's note, which must be of where the data stands.
    pub(crate) fn open(records: &Records<'_>, keys: &UserKeys, stamp: Stamp, note: &Note) -> Result<Self> {
        let sealed = note.as_bytes();
        let epoch = epoch(note)?;
        let subkey = keys.data(epoch).ok_or_else(tampered)?.subkey(Purpose::Note);
        let opened = |at: u64| {
            let binding = binding(records, stamp.incarnation, at);
            envelope::open(subkey, Algorithm::Record, &binding, sealed)
        };
        // An import's note is of the newest version in it, which its epoch is a known distance from at least.
        let opened = match opened(stamp.epoch.0) {
            Ok(opened) => opened,
            #[cfg(feature = "faults")]
            Err(_) if records.ring.has(crate::Fault::NoteStale) => {
                (0..=stamp.epoch.0).rev().find_map(|at| opened(at).ok()).ok_or_else(tampered)?
            }
            Err(_) => opened(IMPORTED_AT).map_err(|_| tampered())?,
        };
        let state = Self::parse(&opened)?;
        #[cfg(feature = "faults")]
        if records.ring.has(crate::Fault::NoteStale) {
            return Ok(state);
        }
        if state.fits(stamp) && state.sealing == epoch { Ok(state) } else { Err(tampered()) }
    }

    fn parse(opened: &[u8]) -> Result<Self> {
        let (head, rest) = opened.split_first_chunk::<14>().ok_or_else(tampered)?;
        let (roster, rest) = rest.split_first_chunk::<{ Roster::BYTES }>().ok_or_else(tampered)?;
        let (length, above) = rest.split_first().ok_or_else(tampered)?;
        let [version, flags, number @ ..] = *head;
        if version != VERSION || flags & !IMPORTED != 0 || above.len() != UNSEALED_NOTE_BYTES {
            return Err(tampered());
        }
        let (at, sealing) = number.split_first_chunk::<8>().ok_or_else(tampered)?;
        let above = above.get(..usize::from(*length)).ok_or_else(tampered)?;
        Ok(Self {
            at: u64::from_be_bytes(*at),
            imported: flags & IMPORTED != 0,
            sealing: u32::from_be_bytes(sealing.try_into().map_err(|_| tampered())?),
            roster: Roster::from_bytes(*roster),
            above: Note::new(above)?,
        })
    }
}

/// The epoch of the key that a note is sealed under.
pub(crate) fn epoch(note: &Note) -> Result<u32> {
    Ok(envelope::Header::read(note.as_bytes()).map_err(|_| tampered())?.epoch)
}

/// Stands for the version that an import's note is bound to: it names the true one inside, since nobody can know it before it is opened.
const IMPORTED_AT: u64 = u64::MAX;

fn binding<'b>(records: &'b Records<'_>, life: Incarnation, at: u64) -> Binding<'b> {
    Binding::Note(RecordBinding {
        deployment: &records.ring.deployment,
        owner: records.owner,
        life,
        space: 0,
        name: &[],
        seq: 0,
        version: Version(at),
        body_version: Version(0),
        expires: None,
        extra: &[],
    })
}

const fn too_long() -> Error {
    Error::new(ErrorKind::LimitExceeded, "a note in a user's row has at most 64 bytes")
}
