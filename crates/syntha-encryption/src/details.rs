//! What an audit trail says in full: the events of a batch, sealed for the layer below that keeps the trail.
//! `docs/envelope-v1.md`, "Details of an audit link".

use syntha_store::{
    Batch, Commit, Error, ErrorKind, Event, Events, Expect, Result, decode_events, encode_events,
};

use crate::binding::{Binding, DetailsBinding};
use crate::envelope::{self, Algorithm, Content, Salts};
use crate::keyring::{Keyring, Owner};
use crate::mode::Mode;
use crate::secret::{SecretKey, fill};
use crate::user_store::EncryptedUser;

/// The bytes of the random id that stands before the envelope, and that it is bound to.
pub(crate) const ID_BYTES: usize = 16;
/// The key of details has no epochs: what was sealed under it opens as long as the user's root is there.
const NO_EPOCH: u32 = 0;

/// What seals and opens one owner's details.
pub(crate) struct Details<'a> {
    pub(crate) ring: &'a Keyring,
    pub(crate) owner: &'a Owner,
    pub(crate) mode: Mode,
}

impl Details<'_> {
    /// Seals what a batch brings for the trail, under an id that was drawn for it.
    pub(crate) fn seal(
        &self,
        key: &SecretKey,
        events: &Events,
        id: [u8; ID_BYTES],
        salts: &mut Salts,
    ) -> Result<Events> {
        let (Events::Clear(clear), count) = (events, events.count()) else {
            return if events.is_empty() { Ok(Events::None) } else { Err(sealed_already()) };
        };
        if count == 0 {
            return Ok(Events::None);
        }
        let text = encode_events(clear)?;
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::DetailsInClear) {
            return Ok(Events::Sealed { bytes: text.into(), count });
        }
        let parts: [&[u8]; 1] = [&text];
        // In both modes: names stand in it, and no operator queries them.
        let content = match self.mode {
            Mode::Sealed => Content::Padded(&parts),
            Mode::Values => Content::Plain(&parts),
        };
        let sealed =
            envelope::seal_from(salts, key, Algorithm::Record, NO_EPOCH, &self.binding(&id), content)?;
        Ok(Events::Sealed { bytes: [&id[..], &sealed].concat().into(), count })
    }

    /// Opens what was sealed so.
    pub(crate) fn open(&self, key: &SecretKey, sealed: &[u8]) -> Result<Vec<Event>> {
        let (id, sealed) = sealed.split_first_chunk::<ID_BYTES>().ok_or_else(tampered)?;
        let binding = self.binding(id);
        let text = match self.mode {
            Mode::Sealed => envelope::open_padded(key, Algorithm::Record, &binding, sealed),
            Mode::Values => envelope::open(key, Algorithm::Record, &binding, sealed),
        };
        decode_events(&text.map_err(|_| tampered())?)
    }

    fn binding<'b>(&'b self, id: &'b [u8; ID_BYTES]) -> Binding<'b> {
        Binding::Details(DetailsBinding { deployment: &self.ring.deployment, owner: self.owner, id })
    }
}

impl EncryptedUser {
    pub(crate) fn details(&self) -> Details<'_> {
        Details { ring: &self.ring, owner: &self.owner, mode: self.mode }
    }

    /// Commits a batch of nothing but events. It touches neither the note nor the epoch, and waits for no rotation: the key of details
    /// is of no epoch.
    pub(crate) async fn commit_events(&self, batch: &Batch) -> Result<Commit> {
        let keys = self.keys().await?;
        let mut sealed = Batch::with_id(batch.id, batch.time);
        sealed.sealed = true;
        let (mut id, mut salts) = ([0; ID_BYTES], Salts::draw(1)?);
        fill(&mut id)?;
        sealed.events = self.details().seal(keys.root.details_key(), &batch.events, id, &mut salts)?;
        sealed.expect = self.expected(&keys, &batch.expect)?;
        self.inner.commit(sealed).await
    }

    /// What a batch expects, as the store below names it.
    pub(crate) fn expected(
        &self,
        keys: &crate::keyring::UserKeys,
        expects: &[Expect],
    ) -> Result<Vec<Expect>> {
        let below = |expect: &Expect| {
            Ok(match expect {
                Expect::Version { space, id, version } if !self.passes(*space) => {
                    let id = self.records().stored_id(keys, *space, id)?;
                    Expect::Version { space: *space, id, version: *version }
                }
                other => other.clone(),
            })
        };
        expects.iter().map(below).collect()
    }
}

/// Bytes that no trail can have, or of another owner, or changed.
const fn tampered() -> Error {
    Error::new(ErrorKind::Tampered, "the details of an audit link do not open: they were changed or moved")
}

const fn sealed_already() -> Error {
    Error::new(ErrorKind::Invalid, "events are sealed by this layer, pass them as they are")
}
