//! Snapshots on their way out, which are opened, and on their way in, which are sealed.

use std::sync::Arc;

use async_trait::async_trait;
use syntha_store::{
    ChainHead, Error, ErrorKind, Head, Incarnation, Note, Record, Result, Snapshot, StoredRecord, UserState,
    UserTag,
};

use crate::envelope::Salts;
use crate::keyring::{Keyring, Owner, UserKeys};
use crate::mode::Mode;
use crate::note::NoteState;
use crate::record::{BodySeal, Place, Records, Tokens, tampered};
use crate::roster::{self, Roster};
use crate::user_store::{passes, rolled_back};

/// A snapshot of sealed data that gives it opened.
pub(crate) struct Opening {
    pub(crate) inner: Box<dyn Snapshot>,
    pub(crate) ring: Arc<Keyring>,
    pub(crate) keys: Arc<UserKeys>,
    pub(crate) owner: Owner,
    pub(crate) mode: Mode,
    pub(crate) audited: bool,
    pub(crate) above: Note,
    /// What the records so far add up to, and what they must.
    pub(crate) roster: Roster,
    pub(crate) expected: NoteState,
}

#[async_trait]
impl Snapshot for Opening {
    fn owner(&self) -> UserTag {
        self.inner.owner()
    }

    fn state(&self) -> UserState {
        UserState { note: self.above, ..self.inner.state() }
    }

    fn life(&self) -> Option<Incarnation> {
        None
    }

    fn follows(&self) -> Option<ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        let (stamp, expected) = (self.inner.state().stamp, self.expected);
        let Some(chunk) = self.inner.next().await? else {
            #[cfg(feature = "faults")]
            if self.ring.has(crate::Fault::SnapshotIgnored) {
                return Ok(None);
            }
            return if self.roster == expected.roster { Ok(None) } else { Err(rolled_back()) };
        };
        let records = Records { ring: &self.ring, owner: &self.owner, mode: self.mode };
        // Keys that the user has locked meanwhile open nothing more.
        self.ring.keys(&self.owner, stamp.incarnation).await?;
        let keys = &self.keys;
        let mut opened = Vec::with_capacity(chunk.len());
        for StoredRecord { space, record } in chunk {
            if passes(self.audited, space) {
                opened.push(StoredRecord { space, record });
                continue;
            }
            if record.head.version.0 > expected.newest(stamp) {
                return Err(tampered());
            }
            let stored = &record.head.id;
            if roster::holds(space) {
                let (key, version) = (keys.root.roster_key(), record.head.version);
                self.roster.add(Roster::term(key, stamp.incarnation, space, stored, version));
            }
            let head = records.open_head(keys, stamp.incarnation, space, &record.head)?;
            let place = Place { space, stored, life: stamp.incarnation };
            let body = records.open_body(keys, place, &head.body, &record.body)?;
            opened.push(StoredRecord { space, record: Record::new(head.head, body) });
        }
        Ok(Some(opened))
    }
}

/// A snapshot that is sealed for a new life while an import reads it.
pub(crate) struct Sealing<'a> {
    pub(crate) inner: &'a mut dyn Snapshot,
    pub(crate) ring: Arc<Keyring>,
    pub(crate) keys: Arc<UserKeys>,
    pub(crate) owner: Owner,
    pub(crate) mode: Mode,
    pub(crate) audited: bool,
    pub(crate) life: Incarnation,
    pub(crate) roster: Roster,
    pub(crate) note: Note,
    /// The snapshot ended with an error, so the import has changed nothing.
    pub(crate) is_broken: bool,
}

impl Sealing<'_> {
    fn seal_note(&self) -> Result<Note> {
        let state = self.inner.state();
        let note = NoteState {
            at: state.stamp.epoch.0,
            imported: true,
            sealing: 1,
            roster: self.roster,
            above: state.note,
        };
        let records = Records { ring: &self.ring, owner: &self.owner, mode: self.mode };
        note.seal(&records, &mut Salts::draw(1)?, &self.keys, self.life)
    }

    fn seal_record(
        &mut self,
        salts: &mut Salts,
        tokens: &mut Tokens,
        stored: StoredRecord,
    ) -> Result<StoredRecord> {
        let StoredRecord { space, record: Record { head, body } } = stored;
        let records = Records { ring: &self.ring, owner: &self.owner, mode: self.mode };
        let key = self.keys.data(1).ok_or_else(tampered)?;
        let id = records.stored_id(&self.keys, space, &head.id)?;
        let place = Place { space, stored: &id, life: self.life };
        let exists = !body.is_empty();
        let seal = BodySeal { token: tokens.next()?, version: head.body_version, exists, epoch: key.epoch() };
        let body = records.seal_body(salts, key, place, &body, &seal)?;
        let (name, version, expires) = (head.id.name(), head.version, head.expires);
        let sealed = records.seal_head(salts, key, place, name, version, expires, &head.head, &seal)?;
        if roster::holds(space) {
            self.roster.add(Roster::term(self.keys.root.roster_key(), self.life, space, &id, version));
        }
        let expires = records.stored_expiry(expires);
        let head = Head::new(id, sealed, version, head.body_version, expires);
        Ok(StoredRecord { space, record: Record::new(head, body) })
    }
}

#[async_trait]
impl Snapshot for Sealing<'_> {
    fn owner(&self) -> UserTag {
        self.inner.owner()
    }

    fn state(&self) -> UserState {
        UserState { note: self.note, ..self.inner.state() }
    }

    fn life(&self) -> Option<Incarnation> {
        Some(self.life)
    }

    fn follows(&self) -> Option<ChainHead> {
        self.inner.follows()
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        let next = self.next_sealed().await;
        self.is_broken |= next.is_err();
        next
    }
}

impl Sealing<'_> {
    async fn next_sealed(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        let Some(chunk) = self.inner.next().await? else {
            self.note = self.seal_note()?;
            return Ok(None);
        };
        let newest = self.inner.state().stamp.epoch.0;
        let (mut salts, mut tokens) = (Salts::draw(chunk.len() * 2)?, Tokens::draw(chunk.len())?);
        let mut sealed = Vec::with_capacity(chunk.len());
        for stored in chunk {
            if stored.record.head.version.0 > newest
                || stored.record.head.head.len() > syntha_store::HEAD_BYTES
            {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "the snapshot holds what no store can have written",
                ));
            }
            sealed.push(if passes(self.audited, stored.space) {
                stored
            } else {
                self.seal_record(&mut salts, &mut tokens, stored)?
            });
        }
        Ok(Some(sealed))
    }
}
