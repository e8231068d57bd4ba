use std::fmt;
use std::sync::Arc;

use syntha_store::{DEPLOYMENT_OWNER, DeploymentKey, Error, ErrorKind, Event, Result};

use crate::details::Details;
use crate::kek::Kek;
use crate::keyring::{KeyCache, Keyring, NO_LIFE, Wrapping};
use crate::keystore::{Header, Kept, Keystore};
use crate::mode::Mode;
use crate::passphrase::PassphraseParameters;
use crate::provider::{KeyContext, KeyProvider, What};
use crate::rotation::Owner;
use crate::secret::{SecretBytes, SecretKey, fill};

/// The keys of a deployment, once the right key was shown: what an [`EncryptedStore`](crate::EncryptedStore) seals with.
pub struct Keychain {
    pub(crate) ring: Arc<Keyring>,
    pub(crate) mode: Mode,
    deployment_key: DeploymentKey,
}

impl fmt::Debug for Keychain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keychain").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Keychain {
    /// Opens a deployment's keystore with the key that wraps.
    ///
    /// Where a change of the key is under way ([`change_passphrase`](Self::change_passphrase), [`rewrap`](Self::rewrap)), the new key and
    /// the former one are needed: `new.formerly(former)`. Both together open at any time: before a change of the passphrase has begun, too,
    /// and in either order.
    ///
    /// # Errors
    ///
    /// `NotFound` if the keystore is empty; `KeyRefused` for another key than the keystore's, before anything is written;
    /// `KeyUnavailable` if what wraps does not answer; `Tampered` for a keystore that was changed.
    pub async fn open(keystore: Keystore, kek: &Kek, cache: KeyCache) -> Result<Self> {
        let header = keystore
            .header()
            .await?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there are no keys in the keystore yet"))?;
        let provider = find_provider(&header.row, kek).await?;
        Self::with_provider(keystore, &header, provider, cache).await
    }

    async fn with_provider(
        keystore: Keystore,
        header: &Kept<Header>,
        provider: Arc<dyn KeyProvider>,
        cache: KeyCache,
    ) -> Result<Self> {
        let (row, version) = (&header.row, header.version);
        let (deployment, mode): (_, Mode) = (row.deployment()?, row.mode.parse()?);
        open_check(row, mode, &provider).await?;
        let key = provider.unwrap(&context(deployment, What::DeploymentKey), &row.deployment_key()?).await?;
        let deployment_key = DeploymentKey::from_bytes(*SecretKey::from_slice(key.as_bytes())?.as_bytes());
        let ring = Keyring::new(keystore, Wrapping { provider, header: version }, deployment, cache);
        Ok(Self { ring: Arc::new(ring), mode, deployment_key })
    }

    /// Makes the keys of a new deployment, or opens those that somebody else has made meanwhile.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); `Invalid` if the keystore is of another mode.
    pub async fn create(
        keystore: Keystore,
        kek: &Kek,
        mode: Mode,
        key: &DeploymentKey,
        cache: KeyCache,
    ) -> Result<Self> {
        if keystore.header().await?.is_none() {
            let parameters =
                if kek.needs_parameters() { Some(PassphraseParameters::generate()?) } else { None };
            let provider = kek.resolve(parameters.as_ref()).await?;
            let mut deployment = [0; 16];
            fill(&mut deployment)?;
            let check = provider.wrap(&context(deployment, What::Check), &check_value(mode)).await?;
            let secret = SecretBytes::new(key.as_bytes().to_vec());
            let wrapped = provider.wrap(&context(deployment, What::DeploymentKey), &secret).await?;
            let header = Header::new(deployment, mode.name(), parameters.as_ref(), &check, &wrapped)?;
            match keystore.put_header(&header, None).await {
                Ok(()) => {
                    let kept = keystore.header().await?;
                    if let Some(kept) = kept.filter(|kept| kept.row == header) {
                        return Self::with_provider(keystore, &kept, provider, cache).await;
                    }
                }
                // INVARIANT: the first one to write it made the keys; this one takes them.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        let opened = Self::open(keystore, kek, cache).await?;
        if opened.mode == mode {
            Ok(opened)
        } else {
            Err(Error::new(ErrorKind::Invalid, "the deployment has another mode, which can't be changed"))
        }
    }

    /// Whether a key is this deployment's.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for another key; `KeyUnavailable` if what wraps does not answer.
    pub async fn prove(&self, kek: &Kek) -> Result<()> {
        let header = self.ring.keystore.header().await?;
        let header = header
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there are no keys in the keystore any more"))?
            .row;
        find_provider(&header, kek).await.map(drop)
    }

    /// Opens the details of a link of an audit trail, as the trail has them: what was sealed of a batch's events. They open across
    /// rotations of the owner's key and restores, and for nobody once the user is erased.
    ///
    /// # Errors
    ///
    /// `Tampered` for details that were changed, or are another owner's or deployment's; `KeyRefused` if the owner has no keys (any more);
    /// `KeyUnavailable` if what wraps does not answer, or if the user holds the keys and did not unlock them.
    pub async fn open_details(&self, owner: Owner, sealed: &[u8]) -> Result<Vec<Event>> {
        let tag = owner.tag();
        let key = self.ring.details_key(&tag).await?;
        Details { ring: &self.ring, owner: &tag, mode: self.mode }.open(&key, sealed)
    }

    /// What the deployment hides.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The key that users' tags are derived with.
    #[must_use]
    pub const fn deployment_key(&self) -> &DeploymentKey {
        &self.deployment_key
    }

    /// Plants a fault in everything that is opened with these keys from now on.
    #[cfg(feature = "faults")]
    #[must_use]
    pub fn with_fault(mut self, fault: crate::Fault) -> Self {
        if let Some(ring) = Arc::get_mut(&mut self.ring) {
            ring.fault = Some(fault);
        }
        self
    }
}

/// What the keys that are given make of a header.
async fn find_provider(header: &Header, kek: &Kek) -> Result<Arc<dyn KeyProvider>> {
    let mode: Mode = header.mode.parse()?;
    let (passphrase, former) = (header.passphrase()?, header.former_passphrase()?);
    let provider = kek.resolve_with(passphrase.as_ref(), former.as_ref()).await?;
    let mut opened = open_check(header, mode, &provider).await.map(|()| provider);
    if passphrase.is_some() {
        for turned in kek.turned() {
            match &opened {
                Err(error) if error.kind() == ErrorKind::KeyRefused => {}
                _ => break,
            }
            let provider = turned.resolve_with(passphrase.as_ref(), former.as_ref()).await?;
            opened = open_check(header, mode, &provider).await.map(|()| provider);
        }
    }
    let provider = opened?;
    if let Some(check) = header.former_check()? {
        let former = provider.unwrap(&context(header.deployment()?, What::Check), &check).await;
        former.map_err(|error| match error.kind() {
            ErrorKind::KeyRefused => Error::new(
                ErrorKind::KeyRefused,
                "a change of the key has not ended, give the former key as well",
            ),
            _ => error,
        })?;
    }
    Ok(provider)
}

async fn open_check(header: &Header, mode: Mode, provider: &Arc<dyn KeyProvider>) -> Result<()> {
    let context = context(header.deployment()?, What::Check);
    let check = provider.unwrap(&context, &header.check()?).await?;
    // INVARIANT: the mode is in the value that was wrapped, so nobody who edits the header changes it.
    if check.as_bytes() == check_value(mode).as_bytes() {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Tampered, "the keystore's header was changed, put its copy back"))
    }
}

pub(crate) fn context(deployment: [u8; 16], what: What) -> KeyContext {
    KeyContext { deployment, owner: DEPLOYMENT_OWNER, what, life: NO_LIFE.0, epoch: 0 }
}

pub(crate) fn check_value(mode: Mode) -> SecretBytes {
    SecretBytes::new([b"syntha/v1/check/", mode.name().as_bytes()].concat())
}
