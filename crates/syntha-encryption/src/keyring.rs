//! Unwrapped keys: found in the keystore, kept for a while, at most so many.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use syntha_store::{Error, ErrorKind, Incarnation, Result};

use crate::held;
use crate::keystore::{Keystore, LifeRow, RootRow};
use crate::passphrase::PassphraseParameters;
use crate::provider::{KeyContext, KeyProvider, What};
use crate::secret::{SecretBytes, SecretKey};
use crate::subkeys::{DataKey, Root};

/// A user's tag, or zeros for the deployment's own space.
pub(crate) type Owner = [u8; 32];

/// How many users' unwrapped keys are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyCache {
    /// The most users whose keys are kept. Default 16,384: about 1 KiB each.
    pub users: usize,
    /// How long keys are kept before they are unwrapped again, and how long a user's own key stays unlocked. Default one hour.
    pub age: Duration,
}

impl Default for KeyCache {
    fn default() -> Self {
        Self { users: 16_384, age: Duration::from_secs(3_600) }
    }
}

/// A user's unwrapped keys.
#[allow(missing_debug_implementations, reason = "a secret has none")]
pub(crate) struct UserKeys {
    pub(crate) root: Root,
    data: Vec<DataKey>,
    /// The epoch that a rotation goes to, or the only one.
    pub(crate) target: u32,
}

impl UserKeys {
    pub(crate) fn data(&self, epoch: u32) -> Option<&DataKey> {
        self.data.iter().find(|key| key.epoch() == epoch)
    }
}

/// The keys of a deployment's users.
pub(crate) struct Keyring {
    pub(crate) keystore: Keystore,
    pub(crate) provider: Arc<dyn KeyProvider>,
    pub(crate) deployment: [u8; 16],
    limits: KeyCache,
    cache: Mutex<HashMap<Owner, Cached>>,
    /// Users' own keys, while they are unlocked.
    holders: Mutex<HashMap<Owner, (SecretKey, Instant)>>,
    clock: AtomicU64,
    #[cfg(feature = "faults")]
    pub(crate) fault: Option<crate::Fault>,
}

struct Cached {
    life: Incarnation,
    keys: Arc<UserKeys>,
    since: Instant,
    used: u64,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("cached", &self.cache.lock().len()).finish_non_exhaustive()
    }
}

impl Keyring {
    pub(crate) fn new(
        keystore: Keystore,
        provider: Arc<dyn KeyProvider>,
        deployment: [u8; 16],
        limits: KeyCache,
    ) -> Self {
        Self {
            keystore,
            provider,
            deployment,
            limits,
            cache: Mutex::default(),
            holders: Mutex::default(),
            clock: AtomicU64::new(0),
            #[cfg(feature = "faults")]
            fault: None,
        }
    }

    #[cfg(feature = "faults")]
    pub(crate) fn has(&self, fault: crate::Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The keys of a life of an owner.
    ///
    /// # Errors
    ///
    /// `KeyUnavailable` if what wraps keys does not answer, or if the user has to unlock them; `KeyRefused` if there are none.
    pub(crate) async fn keys(&self, owner: &Owner, life: Incarnation) -> Result<Arc<UserKeys>> {
        match self.cached(owner, life) {
            Some(keys) => Ok(keys),
            None => self.load(owner, life).await,
        }
    }

    /// The same, with the key of an epoch among them: another process may have made it since.
    pub(crate) async fn keys_with(
        &self,
        owner: &Owner,
        life: Incarnation,
        epoch: u32,
    ) -> Result<Arc<UserKeys>> {
        let keys = self.keys(owner, life).await?;
        if keys.data(epoch).is_some() {
            return Ok(keys);
        }
        self.load(owner, life).await
    }

    fn cached(&self, owner: &Owner, life: Incarnation) -> Option<Arc<UserKeys>> {
        let mut cache = self.cache.lock();
        let cached = cache.get_mut(owner)?;
        if cached.life != life || cached.since.elapsed() > self.limits.age {
            cache.remove(owner);
            return None;
        }
        cached.used = self.clock.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(&cached.keys))
    }

    async fn load(&self, owner: &Owner, life: Incarnation) -> Result<Arc<UserKeys>> {
        #[cfg(feature = "faults")]
        if self.has(crate::Fault::KeyShared) {
            return self.shared().await;
        }
        let root = self.keystore.root(owner).await?.ok_or_else(no_keys)?.row;
        let row = self.keystore.life(owner, life).await?.ok_or_else(no_keys)?.row;
        let keys = self.unwrap(owner, life, &root, &row).await?;
        Ok(self.keep(owner, life, keys))
    }

    async fn unwrap(
        &self,
        owner: &Owner,
        life: Incarnation,
        root: &RootRow,
        row: &LifeRow,
    ) -> Result<UserKeys> {
        let holder = self.holder_of(owner, root)?;
        let mut data = Vec::new();
        for key in row.keys() {
            let (epoch, wrapped) = key?;
            let secret = self.provider.unwrap(&self.context(owner, What::Dek, life, epoch), &wrapped).await?;
            let secret = self.release(holder.as_ref(), owner, What::Dek, life, epoch, secret)?;
            data.push(DataKey::new(&SecretKey::from_slice(secret.as_bytes())?, epoch)?);
        }
        let root = self.unwrap_root(owner, root, holder.as_ref()).await?;
        Ok(UserKeys { root: Root::new(&root), data, target: row.target.unwrap_or_else(|| row.newest()) })
    }

    async fn unwrap_root(
        &self,
        owner: &Owner,
        row: &RootRow,
        holder: Option<&SecretKey>,
    ) -> Result<SecretKey> {
        let context = self.context(owner, What::Root, NO_LIFE, 0);
        let secret = self.provider.unwrap(&context, &row.root()?).await?;
        let secret = self.release(holder, owner, What::Root, NO_LIFE, 0, secret)?;
        SecretKey::from_slice(secret.as_bytes())
    }

    /// Takes off the wrap of the user's own key, where there is one.
    fn release(
        &self,
        holder: Option<&SecretKey>,
        owner: &Owner,
        what: What,
        life: Incarnation,
        epoch: u32,
        secret: SecretBytes,
    ) -> Result<SecretBytes> {
        match holder {
            None => Ok(secret),
            Some(holder) => held::open(holder, &self.context(owner, what, life, epoch), &secret),
        }
    }

    /// Wraps a secret for the keystore: with the user's own key, where there is one, and with the deployment's.
    pub(crate) async fn wrap(
        &self,
        holder: Option<&SecretKey>,
        context: &KeyContext,
        secret: &SecretKey,
    ) -> Result<crate::provider::Wrapped> {
        let secret = match holder {
            None => SecretBytes::new(secret.as_bytes().to_vec()),
            Some(holder) => held::seal(holder, context, secret)?,
        };
        self.provider.wrap(context, &secret).await
    }

    pub(crate) fn context(&self, owner: &Owner, what: What, life: Incarnation, epoch: u32) -> KeyContext {
        #[cfg(feature = "faults")]
        if self.has(crate::Fault::WrapUnbound) {
            let (deployment, owner) = (self.deployment, [0; 32]);
            return KeyContext { deployment, owner, what, life: NO_LIFE.0, epoch };
        }
        KeyContext { deployment: self.deployment, owner: *owner, what, life: life.0, epoch }
    }

    fn keep(&self, owner: &Owner, life: Incarnation, keys: UserKeys) -> Arc<UserKeys> {
        let keys = Arc::new(keys);
        let mut cache = self.cache.lock();
        if cache.len() >= self.limits.users.max(1) && !cache.contains_key(owner) {
            evict(&mut cache, self.limits);
        }
        let used = self.clock.fetch_add(1, Ordering::Relaxed);
        cache.insert(*owner, Cached { life, keys: Arc::clone(&keys), since: Instant::now(), used });
        keys
    }

    /// Makes the keys of a new life, durable before anything is sealed under them. The owner's root is made with the first.
    pub(crate) async fn make(&self, owner: &Owner, life: Incarnation) -> Result<Arc<UserKeys>> {
        let data_key = SecretKey::generate()?;
        for _ in 0..TRIES {
            let known = self.keystore.root(owner).await?.map(|kept| kept.row);
            let holder = match &known {
                Some(row) => self.holder_of(owner, row)?,
                None => None,
            };
            let context = self.context(owner, What::Dek, life, 1);
            let row = LifeRow::new(life, &self.wrap(holder.as_ref(), &context, &data_key).await?)?;
            let (root, new) = match &known {
                Some(known) => (self.unwrap_root(owner, known, holder.as_ref()).await?, None),
                None => {
                    let root = SecretKey::generate()?;
                    let context = self.context(owner, What::Root, NO_LIFE, 0);
                    let row = RootRow::new(&self.wrap(None, &context, &root).await?, None)?;
                    (root, Some(row))
                }
            };
            match self.keystore.add(owner, new.as_ref(), life, &row).await {
                Ok(()) => {
                    let data = vec![DataKey::new(&data_key, 1)?];
                    let keys = UserKeys { root: Root::new(&root), data, target: 1 };
                    #[cfg(feature = "faults")]
                    if self.has(crate::Fault::KeyShared) {
                        return self.shared().await;
                    }
                    return Ok(self.keep(owner, life, keys));
                }
                // Somebody else made the root meanwhile: theirs is the root.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the user's keys are made by others all the time, try again"))
    }

    /// An owner's archive key, of whatever life: it is derived from the root, which outlives lives and rotations.
    pub(crate) async fn archive_key(&self, owner: &Owner) -> Result<SecretKey> {
        let row = self.keystore.root(owner).await?.ok_or_else(no_keys)?.row;
        let holder = self.holder_of(owner, &row)?;
        let root = self.unwrap_root(owner, &row, holder.as_ref()).await?;
        Ok(Root::new(&root).archive_key().clone())
    }

    /// The user's own key, if the user has one and unlocked it.
    pub(crate) fn holder_of(&self, owner: &Owner, root: &RootRow) -> Result<Option<SecretKey>> {
        if !root.is_held() {
            return Ok(None);
        }
        let mut holders = self.holders.lock();
        match holders.get(owner) {
            Some((holder, since)) if since.elapsed() <= self.limits.age => Ok(Some(holder.clone())),
            _ => {
                holders.remove(owner);
                Err(locked())
            }
        }
    }

    /// Unlocks the keys of a user who holds them: for the cache's age, or until they are [forgotten](Self::forget).
    pub(crate) async fn unlock(&self, owner: &Owner, passphrase: &SecretBytes) -> Result<()> {
        let row = self.keystore.root(owner).await?.ok_or_else(no_keys)?.row;
        let parameters = row.holder()?.ok_or_else(not_held)?;
        let holder = parameters.derive(passphrase).await?;
        // The wrong passphrase is refused here, before anything is kept.
        self.unwrap_root(owner, &row, Some(&holder)).await?;
        self.cache.lock().remove(owner);
        self.holders.lock().insert(*owner, (holder, Instant::now()));
        Ok(())
    }

    /// Lets a user hold the keys, or gives them back to the deployment. What is sealed stays as it is.
    pub(crate) async fn hold(&self, owner: &Owner, passphrase: Option<&SecretBytes>) -> Result<()> {
        let (parameters, holder) = match passphrase {
            None => (None, None),
            Some(passphrase) => {
                let parameters = PassphraseParameters::generate()?;
                let holder = parameters.derive(passphrase).await?;
                (Some(parameters), Some(holder))
            }
        };
        for _ in 0..TRIES {
            let mut rows = self.keystore.owner(owner).await?;
            let root = rows.root.as_mut().ok_or_else(no_keys)?;
            let before = self.holder_of(owner, &root.row)?;
            let secret = self.unwrap_root(owner, &root.row, before.as_ref()).await?;
            let context = self.context(owner, What::Root, NO_LIFE, 0);
            let wrapped = self.wrap(holder.as_ref(), &context, &secret).await?;
            root.row = RootRow::new(&wrapped, parameters.as_ref())?;
            for kept in &mut rows.lives {
                let life = kept.row.life()?;
                let keys: Vec<_> = kept.row.keys().collect::<Result<_>>()?;
                for (epoch, wrapped) in keys {
                    let context = self.context(owner, What::Dek, life, epoch);
                    let secret = self.provider.unwrap(&context, &wrapped).await?;
                    let secret = self.release(before.as_ref(), owner, What::Dek, life, epoch, secret)?;
                    let secret = SecretKey::from_slice(secret.as_bytes())?;
                    kept.row =
                        kept.row.with_key(epoch, &self.wrap(holder.as_ref(), &context, &secret).await?)?;
                }
            }
            match self.keystore.put_owner(owner, &rows).await {
                Ok(()) => {
                    self.forget(owner);
                    if let Some(holder) = holder {
                        self.holders.lock().insert(*owner, (holder, Instant::now()));
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the user's keys are changed by others all the time, try again"))
    }

    /// Forgets an owner's unwrapped keys, and locks them if the user holds them.
    pub(crate) fn forget(&self, owner: &Owner) {
        self.cache.lock().remove(owner);
        self.holders.lock().remove(owner);
    }

    /// Forgets the unwrapped keys alone, so that they are read again.
    pub(crate) fn refresh(&self, owner: &Owner) {
        self.cache.lock().remove(owner);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.cache.lock().clear();
        self.holders.lock().clear();
    }

    #[cfg(feature = "faults")]
    async fn shared(&self) -> Result<Arc<UserKeys>> {
        let key = SecretKey::from_bytes(&[9; 32]);
        let data = vec![DataKey::new(&key, 1)?];
        Ok(Arc::new(UserKeys { root: Root::new(&key), data, target: 1 }))
    }
}

/// What a key that outlives lives is bound to.
pub(crate) const NO_LIFE: Incarnation = Incarnation(0);
const TRIES: usize = 16;

/// Drops what is too old, or else the quarter that was not used for longest.
fn evict(cache: &mut HashMap<Owner, Cached>, limits: KeyCache) {
    let before = cache.len();
    cache.retain(|_, cached| cached.since.elapsed() <= limits.age);
    if cache.len() < before {
        return;
    }
    let mut uses: Vec<u64> = cache.values().map(|cached| cached.used).collect();
    uses.sort_unstable();
    let last = uses.get(before / 4).copied().unwrap_or(u64::MAX);
    cache.retain(|_, cached| cached.used > last);
}

const fn no_keys() -> Error {
    Error::new(
        ErrorKind::KeyRefused,
        "the keystore has no key of this user's data, put the keystore that belongs to the data back",
    )
}

const fn locked() -> Error {
    Error::new(ErrorKind::KeyUnavailable, "the user holds the key, unlock it with the user's passphrase")
}

const fn not_held() -> Error {
    Error::new(ErrorKind::Invalid, "the user does not hold the key, there is nothing to unlock")
}
