//! Another key for what wraps the keys: every row of the keystore is wrapped again, and no record is touched.
//!
//! The header comes first, in one commit: from then on the new key is the deployment's, and who goes on with the former one alone writes no
//! row any more (`Keyring::follow_header`). Then the rows, owner by owner. The header keeps what opens the former key until a pass over
//! all rows finds none under it. So a crash at any point leaves one of three states:
//!
//! | state | opens with |
//! |---|---|
//! | not begun | the former key, or both |
//! | under way: the header has its new wrap, and names the former key | both |
//! | ended | the new key, or both |

use std::sync::Arc;

use syntha_store::{Error, ErrorKind, Result};

use crate::kek::{Kek, succession};
use crate::keychain::{Keychain, check_value, context};
use crate::keyring::{NO_LIFE, Owner, TRIES, Wrapping};
use crate::keystore::{Header, Kept, OwnerRows};
use crate::passphrase::PassphraseParameters;
use crate::provider::{KekId, KeyProvider, What, Wrapped};
use crate::secret::SecretBytes;

/// How far wrapping again is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewrap {
    /// The owners whose rows were looked at.
    pub owners: u64,
    /// The keys that were wrapped again.
    pub keys: u64,
}

/// Everything is wrapped under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewrapped {
    /// That key.
    pub kek: KekId,
    /// The keys that this call wrapped again.
    pub keys: u64,
}

/// Which keys wrap what is in the keystore.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RewrapStatus {
    /// The key that wraps now.
    pub current: KekId,
    /// How many keys are wrapped under which, in no order.
    pub keys: Vec<(KekId, u64)>,
    /// Whether a change was begun that has not ended: then the former key is still needed to open.
    pub under_way: bool,
}

impl RewrapStatus {
    /// Whether everything is wrapped under the current key, so that no other one is needed any more.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !self.under_way && self.keys.iter().all(|(kek, _)| *kek == self.current)
    }
}

impl Keychain {
    /// Wraps every key in the keystore again under the provider's current key, where it is not under that one already. No record of any
    /// user is touched, and users who hold their keys need not unlock them. Goes on from where it was after a crash.
    ///
    /// Give every process both keys before, with [`Kek::formerly`]: one that has the former key alone can neither read what is wrapped
    /// under the new one nor make users.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for a row that none of the given keys opens; `KeyUnavailable` if what wraps does not answer.
    pub async fn rewrap(&self, progress: &mut (dyn FnMut(Rewrap) + Send)) -> Result<Rewrapped> {
        let mut done = Rewrap { owners: 0, keys: 0 };
        for _ in 0..TRIES {
            let kek = self.begin_rewrap().await?;
            self.rewrap_rows(kek, &mut done, progress).await?;
            if self.end_rewrap(kek).await? {
                return Ok(Rewrapped { kek, keys: done.keys });
            }
        }
        Err(busy())
    }

    /// Which keys wrap what is in the keystore: a look at every row.
    ///
    /// # Errors
    ///
    /// `KeyUnavailable` if what wraps does not answer, and errors of the keystore.
    pub async fn rewrap_status(&self) -> Result<RewrapStatus> {
        let ring = &self.ring;
        let current = ring.wrapping().provider.current().await?;
        let header = self.header().await?.row;
        let mut keys: Vec<(KekId, u64)> = Vec::new();
        let mut count = |wrapped: &Wrapped| match keys.iter_mut().find(|(kek, _)| *kek == wrapped.kek) {
            Some((_, count)) => *count += 1,
            None => keys.push((wrapped.kek, 1)),
        };
        count(&header.check()?);
        count(&header.deployment_key()?);
        let mut after = None;
        loop {
            let owners = ring.keystore.owners(after.as_ref()).await?;
            let Some(last) = owners.last() else { break };
            after = Some(*last);
            for owner in owners {
                let rows = ring.keystore.owner(&owner).await?;
                if let Some(root) = rows.root {
                    count(&root.row.root()?);
                }
                for life in rows.lives {
                    for key in life.row.keys() {
                        count(&key?.1);
                    }
                }
            }
        }
        Ok(RewrapStatus { current, keys, under_way: header.has_former() })
    }

    /// Changes the passphrase that wraps, or the kind of key: `new` is all that opens from now on, once this has ended. If it does not end
    /// (the process died), opening takes both (`new.formerly(former)`), and [`rewrap`](Self::rewrap) ends it.
    ///
    /// Other processes that have the deployment open read what they have in their caches, and must open it again.
    ///
    /// # Errors
    ///
    /// As [`rewrap`](Self::rewrap), and `KeyRefused` for a passphrase that is too short or a key that is weak, before anything is changed.
    pub async fn change_passphrase(
        &self,
        new: &Kek,
        progress: &mut (dyn FnMut(Rewrap) + Send),
    ) -> Result<Rewrapped> {
        // One change at a time: the header has room for one former key.
        if self.header().await?.row.has_former() {
            self.rewrap(progress).await?;
        }
        let provider = self.begin_change(new).await?;
        let rewrapped = self.rewrap(progress).await?;
        // INVARIANT: the former key goes out of memory too, once nothing is under it.
        let header = self.ring.wrapping().header;
        self.ring.wrap_with(Wrapping { provider, header });
        Ok(rewrapped)
    }

    /// The first step of a change: the header.
    pub(crate) async fn begin_change(&self, new: &Kek) -> Result<Arc<dyn KeyProvider>> {
        let ring = &self.ring;
        let parameters = if new.needs_parameters() { Some(PassphraseParameters::generate()?) } else { None };
        let provider = new.resolve(parameters.as_ref()).await?;
        let wrapping = ring.wrapping();
        let header = self.header().await?;
        if header.version != wrapping.header || header.row.has_former() {
            ring.follow_header().await?;
            return Err(Error::new(
                ErrorKind::Busy,
                "another process changes the key, try again when it has ended",
            ));
        }
        let check = provider.wrap(&context(ring.deployment, What::Check), &check_value(self.mode)).await?;
        let key = SecretBytes::new(self.deployment_key().as_bytes().to_vec());
        let key = provider.wrap(&context(ring.deployment, What::DeploymentKey), &key).await?;
        let row = header.row.with_passphrase(parameters.as_ref()).rewrapped(&check, &key)?;
        ring.keystore.put_header(&row, Some(header.version)).await?;
        let version = self.header().await?.version;
        let both = succession(Arc::clone(&provider), Arc::clone(&wrapping.provider));
        ring.wrap_with(Wrapping { provider: both, header: version });
        Ok(provider)
    }

    /// Wraps the header's keys again, and remembers in it that rows may be under another key.
    pub(crate) async fn begin_rewrap(&self) -> Result<KekId> {
        let ring = &self.ring;
        for _ in 0..TRIES {
            let header = self.header().await?;
            let provider = Arc::clone(&ring.wrapping().provider);
            let kek = provider.current().await?;
            let (check, key) = (header.row.check()?, header.row.deployment_key()?);
            if check.kek == kek && key.kek == kek {
                ring.follow_header().await?;
                return Ok(kek);
            }
            let check = provider.rewrap(&context(ring.deployment, What::Check), &check).await?;
            let key = provider.rewrap(&context(ring.deployment, What::DeploymentKey), &key).await?;
            let row = header.row.rewrapped(&check, &key)?;
            committed(ring.keystore.put_header(&row, Some(header.version)).await)?;
        }
        Err(busy())
    }

    async fn rewrap_rows(
        &self,
        kek: KekId,
        done: &mut Rewrap,
        progress: &mut (dyn FnMut(Rewrap) + Send),
    ) -> Result<()> {
        let mut after = None;
        loop {
            let owners = self.ring.keystore.owners(after.as_ref()).await?;
            let Some(last) = owners.last() else { return Ok(()) };
            after = Some(*last);
            for owner in owners {
                done.keys += self.rewrap_owner(&owner, kek).await?;
                done.owners += 1;
                progress(*done);
            }
        }
    }

    pub(crate) async fn rewrap_owner(&self, owner: &Owner, kek: KekId) -> Result<u64> {
        let ring = &self.ring;
        for _ in 0..TRIES {
            let wrapping = ring.wrapping();
            let (provider, mut keys) = (&wrapping.provider, 0);
            let OwnerRows { mut root, mut lives } = ring.keystore.owner(owner).await?;
            if let Some(kept) = &mut root {
                let wrapped = kept.row.root()?;
                if wrapped.kek != kek {
                    let context = ring.context(owner, What::Root, NO_LIFE, 0);
                    kept.row = kept.row.with_root(&provider.rewrap(&context, &wrapped).await?)?;
                    keys += 1;
                }
            }
            for kept in &mut lives {
                let life = kept.row.life()?;
                let old: Vec<_> = kept.row.keys().collect::<Result<_>>()?;
                for (epoch, wrapped) in old.into_iter().filter(|(_, wrapped)| wrapped.kek != kek) {
                    let context = ring.context(owner, What::Dek, life, epoch);
                    kept.row = kept.row.with_key(epoch, &provider.rewrap(&context, &wrapped).await?)?;
                    keys += 1;
                }
            }
            if keys == 0 {
                return Ok(0);
            }
            match ring.keystore.put_owner(owner, &OwnerRows { root, lives }, wrapping.header).await {
                Ok(()) => return Ok(keys),
                // A key was made, destroyed or wrapped by somebody else meanwhile.
                Err(error) if error.kind() == ErrorKind::Conflict => ring.follow_header().await?,
                Err(error) => return Err(error),
            }
        }
        Err(busy())
    }

    /// Ends a change, if nothing is under another key any more. Says whether that is so.
    async fn end_rewrap(&self, kek: KekId) -> Result<bool> {
        let header = self.header().await?;
        self.ring.follow_header().await?;
        // INVARIANT: counted after the header was read. Rows that are written after it was written are under its key.
        let status = self.rewrap_status().await?;
        if status.current != kek || status.keys.iter().any(|(one, _)| *one != kek) {
            return Ok(false);
        }
        if !header.row.has_former() {
            return Ok(true);
        }
        let put = self.ring.keystore.put_header(&header.row.without_former(), Some(header.version)).await;
        if !committed(put)? {
            return Ok(false);
        }
        self.ring.follow_header().await?;
        Ok(true)
    }

    async fn header(&self) -> Result<Kept<Header>> {
        self.ring.keystore.header().await?.ok_or_else(|| {
            Error::new(ErrorKind::KeyRefused, "the keystore has lost its header, put its copy back")
        })
    }
}

/// Whether a commit was made, and not one by somebody else.
fn committed(done: Result<()>) -> Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
        Err(error) => Err(error),
    }
}

const fn busy() -> Error {
    Error::new(ErrorKind::Busy, "the keystore is changed by others all the time, try again")
}
