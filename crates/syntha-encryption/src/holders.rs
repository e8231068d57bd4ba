//! Users who hold their own keys: unlocked for a while, at most so many.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;
use syntha_store::{Error, ErrorKind, Result, UserTag};

use crate::keychain::Keychain;
use crate::keyring::{KeyCache, Keyring, NO_LIFE, Owner, TRIES, no_keys};
use crate::keystore::RootRow;
use crate::passphrase::PassphraseParameters;
use crate::provider::What;
use crate::secret::{SecretBytes, SecretKey};

/// Users' own keys, while they are unlocked.
pub(crate) struct Holders {
    limits: KeyCache,
    unlocked: Mutex<HashMap<Owner, Holder>>,
}

/// A user's own key.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a secret has none")]
pub(crate) struct Holder {
    pub(crate) key: SecretKey,
    pub(crate) since: Instant,
    /// What the passphrase became the key with.
    parameters: PassphraseParameters,
}

impl Holders {
    pub(crate) fn new(limits: KeyCache) -> Self {
        Self { limits, unlocked: Mutex::default() }
    }

    /// The own key of a user who has one.
    ///
    /// # Errors
    ///
    /// `KeyUnavailable` while it is locked.
    pub(crate) fn of(&self, owner: &Owner, root: &RootRow) -> Result<Option<Holder>> {
        let Some(parameters) = root.holder()? else { return Ok(None) };
        let mut unlocked = self.unlocked.lock();
        match unlocked.get(owner) {
            // Unlocked with a passphrase that was changed since is locked.
            Some(holder) if holder.since.elapsed() <= self.limits.age && holder.parameters == parameters => {
                Ok(Some(holder.clone()))
            }
            _ => {
                unlocked.remove(owner);
                Err(locked())
            }
        }
    }

    fn insert(&self, owner: &Owner, holder: Holder) {
        let mut unlocked = self.unlocked.lock();
        unlocked.retain(|_, holder| holder.since.elapsed() <= self.limits.age);
        if unlocked.len() >= self.limits.users.max(1) && !unlocked.contains_key(owner) {
            let oldest = unlocked.iter().min_by_key(|(_, holder)| holder.since).map(|(owner, _)| *owner);
            oldest.map(|oldest| unlocked.remove(&oldest));
        }
        unlocked.insert(*owner, holder);
    }

    pub(crate) fn remove(&self, owner: &Owner) {
        self.unlocked.lock().remove(owner);
    }

    pub(crate) fn clear(&self) {
        self.unlocked.lock().clear();
    }
}

impl Keyring {
    async fn unlock(&self, owner: &Owner, passphrase: &SecretBytes) -> Result<()> {
        let row = self.keystore.root(owner).await?.ok_or_else(no_keys)?.row;
        let parameters = row.holder()?.ok_or_else(not_held)?;
        let key = parameters.derive(passphrase).await?;
        // INVARIANT: a wrong passphrase is refused here, before anything is kept.
        self.unwrap_root(owner, &row, Some(&key)).await?;
        self.refresh(owner);
        self.holders.insert(owner, Holder { key, since: Instant::now(), parameters });
        Ok(())
    }

    /// Lets a user hold the keys (anew, where the user does already), or gives them back to the deployment. One commit for all rows of
    /// the user: there is no moment at which some are held and others are not.
    async fn hold(&self, owner: &Owner, held: bool, passphrase: Option<&SecretBytes>) -> Result<()> {
        // No passphrase is tried for what is refused anyway.
        let root = self.keystore.root(owner).await?.ok_or_else(no_keys)?.row;
        if root.is_held() != held {
            return Err(if held { not_held() } else { held_already() });
        }
        self.holders.of(owner, &root)?;
        let holder = match passphrase {
            None => None,
            Some(passphrase) => {
                let parameters = PassphraseParameters::generate()?;
                let key = parameters.derive(passphrase).await?;
                Some(Holder { key, since: Instant::now(), parameters })
            }
        };
        let parameters = holder.as_ref().map(|holder| &holder.parameters);
        let after = holder.as_ref().map(|holder| &holder.key);
        for _ in 0..TRIES {
            let wrapping = self.wrapping();
            let mut rows = self.keystore.owner(owner).await?;
            let root = rows.root.as_mut().ok_or_else(no_keys)?;
            if root.row.is_held() != held {
                return Err(if held { not_held() } else { held_already() });
            }
            let before = self.holders.of(owner, &root.row)?;
            let before = before.as_ref().map(|holder| &holder.key);
            let secret = self.unwrap_root(owner, &root.row, before).await?;
            let context = self.context(owner, What::Root, NO_LIFE, 0);
            let wrapped = self.wrap(&wrapping, after, &context, &secret).await?;
            root.row = RootRow::new(&wrapped, parameters)?;
            for kept in &mut rows.lives {
                let life = kept.row.life()?;
                let keys: Vec<_> = kept.row.keys().collect::<Result<_>>()?;
                for (epoch, wrapped) in keys {
                    let secret = self.unwrap_key(owner, life, epoch, &wrapped, before).await?;
                    let context = self.context(owner, What::Dek, life, epoch);
                    let wrapped = self.wrap(&wrapping, after, &context, &secret).await?;
                    kept.row = kept.row.with_key(epoch, &wrapped)?;
                }
            }
            match self.keystore.put_owner(owner, &rows, wrapping.header).await {
                Ok(()) => {
                    match holder {
                        Some(holder) => self.holders.insert(owner, holder),
                        None => self.holders.remove(owner),
                    }
                    self.refresh(owner);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Conflict => self.follow_header().await?,
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the user's keys are changed by others all the time, try again"))
    }
}

/// Keys that users hold themselves. Their root and data keys are wrapped with the key that the user's passphrase gives, and then with the
/// deployment's: it takes both to read anything. No operator who lacks the passphrase does, nor does the user alone with the files.
impl Keychain {
    /// Lets a user hold the keys: from now on nobody opens, reads, writes, rotates or backs up the user's data before the keys are
    /// [unlocked](Self::unlock). They are unlocked here, and stay so. What is sealed stays as it is.
    ///
    /// Other processes that have the keys in their cache go on until its age ends. Copies of the keystore from before open without
    /// the passphrase. A passphrase that is lost makes the data unreadable, for ever.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for a passphrase that is too short and for a user who has no keys; `Invalid` if the user holds them already.
    pub async fn hold_key(&self, user: UserTag, passphrase: &SecretBytes) -> Result<()> {
        self.ring.hold(user.as_bytes(), false, Some(passphrase)).await
    }

    /// Gives the keys back to the deployment. They must be unlocked.
    ///
    /// # Errors
    ///
    /// `KeyUnavailable` while they are locked; `Invalid` if the user does not hold them.
    pub async fn give_back_key(&self, user: UserTag) -> Result<()> {
        self.ring.hold(user.as_bytes(), true, None).await
    }

    /// Changes the passphrase of a user who holds the keys. They must be unlocked; other processes must unlock them again once their
    /// cache's age ends.
    ///
    /// # Errors
    ///
    /// `KeyUnavailable` while they are locked; `KeyRefused` for a passphrase that is too short; `Invalid` if the user does not hold them.
    pub async fn change_held_key(&self, user: UserTag, passphrase: &SecretBytes) -> Result<()> {
        self.ring.hold(user.as_bytes(), true, Some(passphrase)).await
    }

    /// Unlocks the keys of a user who holds them, in this process: for the cache's age, or until they are [locked](Self::lock).
    ///
    /// # Errors
    ///
    /// `KeyRefused` for another passphrase; `Invalid` if the user does not hold the keys.
    pub async fn unlock(&self, user: UserTag, passphrase: &SecretBytes) -> Result<()> {
        self.ring.unlock(user.as_bytes(), passphrase).await
    }

    /// Locks them in this process, at once: nothing of the user's keys is left in the cache.
    pub fn lock(&self, user: UserTag) {
        self.ring.forget(user.as_bytes());
    }

    /// Whether a user holds the keys. Needs no passphrase.
    ///
    /// # Errors
    ///
    /// `Unavailable` and the like, from the keystore.
    pub async fn is_held(&self, user: UserTag) -> Result<bool> {
        Ok(self.ring.keystore.root(user.as_bytes()).await?.is_some_and(|kept| kept.row.is_held()))
    }
}

const fn locked() -> Error {
    Error::new(ErrorKind::KeyUnavailable, "the user holds the key, unlock it with the user's passphrase")
}

const fn held_already() -> Error {
    Error::new(ErrorKind::Invalid, "the user holds the key already, change the passphrase")
}

const fn not_held() -> Error {
    Error::new(ErrorKind::Invalid, "the user does not hold the key, there is nothing to unlock")
}
