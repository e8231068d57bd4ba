//! A record as it is stored: its name, its sealed head and its sealed body. `docs/envelope-v1.md`, "Sealed record".

use bytes::Bytes;
use syntha_store::{Error, ErrorKind, Head, Incarnation, Keyspace, RecordId, Result, Timestamp, Version};

use crate::binding::{Binding, RecordBinding};
use crate::envelope::{self, Algorithm, Content, Salts};
use crate::keyring::{Keyring, Owner, UserKeys};
use crate::mode::Mode;
use crate::secret::fill;
use crate::subkeys::{DataKey, Purpose};

pub(crate) const TOKEN_BYTES: usize = 16;
const VERSION: u8 = 1;
const HAS_BODY: u8 = 1;
const NEVER: u64 = u64::MAX;
/// Version, flags, token, and the body's key epoch.
const FIXED_BYTES: usize = 1 + 1 + TOKEN_BYTES + 4;
/// What stands behind a readable head: the sealed rest.
const TRAILER_BYTES: usize = envelope::HEADER_BYTES + FIXED_BYTES + envelope::TAG_BYTES;
const MINUTE: u64 = 60_000;

/// What a head says about its body, so that no other body fits it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodySeal {
    /// Drawn when the body is written; the body is bound to it. INVARIANT: sealing the body again keeps it, since a head that is
    /// written at the same time carries it on.
    pub(crate) token: [u8; TOKEN_BYTES],
    pub(crate) version: Version,
    /// An empty body is stored as one.
    pub(crate) exists: bool,
    /// The epoch of the body's key when the head was sealed. A sweep goes by it; what opens the body is the body's own.
    pub(crate) epoch: u32,
}

/// The place of a record, without what changes with each write.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) space: Keyspace,
    /// The id that it is stored under.
    pub(crate) stored: &'a RecordId,
    pub(crate) life: Incarnation,
}

/// An opened head.
pub(crate) struct OpenedHead {
    pub(crate) head: Head,
    pub(crate) body: BodySeal,
}

/// What seals and opens one user's records.
pub(crate) struct Records<'a> {
    pub(crate) ring: &'a Keyring,
    pub(crate) owner: &'a Owner,
    pub(crate) mode: Mode,
}

impl Records<'_> {
    /// The name that records of a name are stored under.
    pub(crate) fn stored_name(&self, keys: &UserKeys, space: Keyspace, name: &Bytes) -> Bytes {
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::NamesInClear) {
            return name.clone();
        }
        match self.mode {
            Mode::Sealed => Bytes::copy_from_slice(&keys.root.stored_name(space, name)),
            Mode::Values => name.clone(),
        }
    }

    pub(crate) fn stored_id(&self, keys: &UserKeys, space: Keyspace, id: &RecordId) -> Result<RecordId> {
        RecordId::new(self.stored_name(keys, space, id.name()), id.seq())
    }

    /// The expiry that the store is told.
    pub(crate) fn stored_expiry(&self, expires: Option<Timestamp>) -> Option<Timestamp> {
        let round = |at: Timestamp| {
            let up = at.0.checked_next_multiple_of(MINUTE).filter(|at| i64::try_from(*at).is_ok());
            Timestamp(up.unwrap_or(i64::MAX as u64))
        };
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::ExpiryShown) {
            return expires;
        }
        match self.mode {
            Mode::Sealed => expires.map(round),
            Mode::Values => expires,
        }
    }

    /// Seals a head.
    #[allow(clippy::too_many_arguments, reason = "each is bound to the others here and nowhere else")]
    pub(crate) fn seal_head(
        &self,
        salts: &mut Salts,
        key: &DataKey,
        place: Place<'_>,
        name: &[u8],
        version: Version,
        expires: Option<Timestamp>,
        head: &[u8],
        body: &BodySeal,
    ) -> Result<Bytes> {
        let flags = if body.exists { HAS_BODY } else { 0 };
        let body_epoch = body.epoch.to_be_bytes();
        let subkey = key.subkey(Purpose::of(place.space)?);
        let binding = self.binding(place, version, body.version, self.stored_expiry(expires));
        match self.mode {
            Mode::Sealed => {
                let exact = expires.map_or(NEVER, |at| at.0).to_be_bytes();
                let length = u16::try_from(name.len()).map_err(|_| too_long())?.to_be_bytes();
                let parts: [&[u8]; 7] =
                    [&[VERSION, flags], &body.token, &body_epoch, &exact, &length, name, head];
                let binding = Binding::Head(binding);
                self.seal(salts, subkey, key.epoch(), &binding, self.content(&parts)).map(Bytes::from)
            }
            Mode::Values => {
                let parts: [&[u8]; 3] = [&[VERSION, flags], &body.token, &body_epoch];
                let binding = Binding::Head(RecordBinding { extra: self.extra(head), ..binding });
                let trailer = self.seal(salts, subkey, key.epoch(), &binding, Content::Plain(&parts))?;
                Ok([head, &trailer].concat().into())
            }
        }
    }

    /// The epoch of the key that a head is sealed under.
    pub(crate) fn head_epoch(&self, head: &[u8]) -> Result<u32> {
        Ok(envelope::Header::read(self.envelope_of(head)?).map_err(|_| tampered())?.epoch)
    }

    fn envelope_of<'h>(&self, head: &'h [u8]) -> Result<&'h [u8]> {
        match self.mode {
            Mode::Sealed => Ok(head),
            Mode::Values => {
                let at = head.len().checked_sub(TRAILER_BYTES).ok_or_else(tampered)?;
                head.get(at..).ok_or_else(tampered)
            }
        }
    }

    /// Opens a head that was stored.
    pub(crate) fn open_head(
        &self,
        keys: &UserKeys,
        life: Incarnation,
        space: Keyspace,
        stored: &Head,
    ) -> Result<OpenedHead> {
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::PlaintextAccepted) && self.head_epoch(&stored.head).is_err() {
            let body =
                BodySeal { token: [0; TOKEN_BYTES], version: stored.body_version, exists: true, epoch: 1 };
            return Ok(OpenedHead { head: stored.clone(), body });
        }
        let sealed = self.envelope_of(&stored.head)?;
        let epoch = envelope::Header::read(sealed).map_err(|_| tampered())?.epoch;
        let subkey = keys.data(epoch).ok_or_else(tampered)?.subkey(Purpose::of(space)?);
        let place = Place { space, stored: &stored.id, life };
        let binding = self.binding(place, stored.version, stored.body_version, stored.expires);
        match self.mode {
            Mode::Sealed => {
                let opened = self.open(subkey, &Binding::Head(binding), sealed)?;
                let (body, mut rest) = body_seal(&opened, stored.body_version)?;
                let exact = u64::from_be_bytes(take(&mut rest)?);
                let length = usize::from(u16::from_be_bytes(take(&mut rest)?));
                let (name, head) = rest.split_at_checked(length).ok_or_else(tampered)?;
                let name = Bytes::copy_from_slice(name);
                // The binding says so already; this also notices a name key that is not the user's.
                if self.stored_name(keys, space, &name) != stored.id.name() {
                    return Err(tampered());
                }
                let expires = Some(exact).filter(|at| *at != NEVER).map(Timestamp);
                let id = RecordId::new(name, stored.id.seq())?;
                let head = Bytes::copy_from_slice(head);
                let head = Head::new(id, head, stored.version, stored.body_version, expires);
                Ok(OpenedHead { head, body })
            }
            Mode::Values => {
                let at = stored.head.len() - sealed.len();
                let head = stored.head.get(..at).unwrap_or_default();
                let binding = RecordBinding { extra: self.extra(head), ..binding };
                let opened = self.open(subkey, &Binding::Head(binding), sealed)?;
                let (body, rest) = body_seal(&opened, stored.body_version)?;
                if !rest.is_empty() {
                    return Err(tampered());
                }
                let mut head = stored.clone();
                head.head.truncate(at);
                Ok(OpenedHead { head, body })
            }
        }
    }

    /// Seals a body for the head that will carry what is given with it.
    pub(crate) fn seal_body(
        &self,
        salts: &mut Salts,
        key: &DataKey,
        place: Place<'_>,
        body: &[u8],
        seal: &BodySeal,
    ) -> Result<Bytes> {
        if !seal.exists {
            return Ok(Bytes::new());
        }
        let subkey = key.subkey(Purpose::of(place.space)?);
        let binding = self.body_binding(place, seal);
        self.seal(salts, subkey, key.epoch(), &binding, self.content(&[body])).map(Bytes::from)
    }

    /// Opens a body that was stored beside an opened head.
    pub(crate) fn open_body(
        &self,
        keys: &UserKeys,
        place: Place<'_>,
        seal: &BodySeal,
        stored: &Bytes,
    ) -> Result<Bytes> {
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::StrippedAccepted) && stored.is_empty() {
            return Ok(Bytes::new());
        }
        if !seal.exists {
            return if stored.is_empty() { Ok(Bytes::new()) } else { Err(tampered()) };
        }
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::PlaintextAccepted) && envelope::Header::read(stored).is_err() {
            return Ok(stored.clone());
        }
        // Not the epoch that the head names: the body may have been sealed again since the head was.
        let epoch = envelope::Header::read(stored).map_err(|_| tampered())?.epoch;
        let subkey = keys.data(epoch).ok_or_else(tampered)?.subkey(Purpose::of(place.space)?);
        let mut opened = self.open(subkey, &self.body_binding(place, seal), stored)?;
        Ok(std::mem::take(&mut *opened).into())
    }

    fn binding<'b>(
        &'b self,
        place: Place<'b>,
        version: Version,
        body_version: Version,
        expires: Option<Timestamp>,
    ) -> RecordBinding<'b> {
        #[allow(unused_mut, reason = "faults change it")]
        let mut binding = RecordBinding {
            deployment: &self.ring.deployment,
            owner: self.owner,
            life: place.life,
            space: place.space.code(),
            name: place.stored.name(),
            seq: place.stored.seq(),
            version,
            body_version,
            expires,
            extra: &[],
        };
        #[cfg(feature = "faults")]
        {
            use crate::Fault;
            if self.ring.has(Fault::UserUnbound) {
                binding.owner = &[0; 32];
                binding.life = Incarnation(0);
            }
            if self.ring.has(Fault::VersionUnbound) {
                (binding.version, binding.body_version) = (Version(0), Version(0));
            }
            if self.ring.has(Fault::ExpiryUnbound) {
                binding.expires = None;
            }
            if self.ring.has(Fault::DeploymentUnbound) {
                binding.deployment = &[0; 16];
            }
            if self.ring.has(Fault::SpaceUnbound) {
                binding.space = 0;
            }
            if self.ring.has(Fault::NameUnbound) {
                binding.name = &[];
            }
            if self.ring.has(Fault::SeqUnbound) {
                binding.seq = 0;
            }
        }
        binding
    }

    fn body_binding<'b>(&'b self, place: Place<'b>, seal: &'b BodySeal) -> Binding<'b> {
        let binding = self.binding(place, seal.version, seal.version, None);
        #[cfg(feature = "faults")]
        {
            if self.ring.has(crate::Fault::BodySpliced) {
                return Binding::Body(binding);
            }
            if self.ring.has(crate::Fault::PartUnbound) {
                return Binding::Head(RecordBinding { extra: &seal.token, ..binding });
            }
        }
        Binding::Body(RecordBinding { extra: &seal.token, ..binding })
    }

    /// What a readable head adds to what its seal is bound to: all of it.
    #[allow(clippy::unused_self, reason = "a fault is planted in it")]
    fn extra<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::HeadUnbound) {
            return &[];
        }
        head
    }

    /// The algorithm of a record's blob. Not the one that the blob names.
    #[allow(clippy::unused_self, reason = "a fault is planted in it")]
    fn algorithm(&self, sealed: &[u8]) -> Algorithm {
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::AlgorithmTrusted) {
            return envelope::Header::read(sealed).map_or(Algorithm::Record, |header| header.algorithm);
        }
        let _ = sealed;
        Algorithm::Record
    }

    fn content<'c>(&self, parts: &'c [&'c [u8]]) -> Content<'c> {
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::SizesShown) {
            return Content::Plain(parts);
        }
        match self.mode {
            Mode::Sealed => Content::Padded(parts),
            Mode::Values => Content::Plain(parts),
        }
    }

    pub(crate) fn seal(
        &self,
        salts: &mut Salts,
        subkey: &crate::SecretKey,
        epoch: u32,
        binding: &Binding<'_>,
        content: Content<'_>,
    ) -> Result<Vec<u8>> {
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::SaltFixed) {
            return envelope::seal_salted(subkey, Algorithm::Record, epoch, binding, [7; 24], content);
        }
        envelope::seal_from(salts, subkey, Algorithm::Record, epoch, binding, content)
    }

    fn open(
        &self,
        subkey: &crate::SecretKey,
        binding: &Binding<'_>,
        sealed: &[u8],
    ) -> Result<zeroize::Zeroizing<Vec<u8>>> {
        let algorithm = self.algorithm(sealed);
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::SizesShown) {
            return envelope::open(subkey, algorithm, binding, sealed).map_err(|_| tampered());
        }
        match self.mode {
            Mode::Sealed => envelope::open_padded(subkey, algorithm, binding, sealed),
            Mode::Values => envelope::open(subkey, algorithm, binding, sealed),
        }
        .map_err(|_| tampered())
    }
}

/// Random tokens of a batch, drawn at once.
pub(crate) struct Tokens(std::vec::IntoIter<[u8; TOKEN_BYTES]>);

impl Tokens {
    pub(crate) fn draw(count: usize) -> Result<Self> {
        let mut tokens = vec![[0; TOKEN_BYTES]; count];
        fill(tokens.as_flattened_mut())?;
        Ok(Self(tokens.into_iter()))
    }

    pub(crate) fn next(&mut self) -> Result<[u8; TOKEN_BYTES]> {
        self.0
            .next()
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "more tokens were asked for than drawn"))
    }
}

fn body_seal(opened: &[u8], version: Version) -> Result<(BodySeal, &[u8])> {
    let mut rest = opened;
    let [format, flags] = take(&mut rest)?;
    if format != VERSION || flags & !HAS_BODY != 0 {
        return Err(tampered());
    }
    let token = take(&mut rest)?;
    let epoch = u32::from_be_bytes(take(&mut rest)?);
    Ok((BodySeal { token, version, exists: flags & HAS_BODY != 0, epoch }, rest))
}

fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk().ok_or_else(tampered)?;
    *from = rest;
    Ok(*bytes)
}

pub(crate) const fn tampered() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "a record does not open under its key: it was changed, moved or put back, restore an archive",
    )
}

const fn too_long() -> Error {
    Error::new(ErrorKind::Invalid, "a record's name has at most 512 bytes")
}
