//! Unwrapped keys: found in the keystore, kept for a while, at most so many.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use syntha_store::{DEPLOYMENT_OWNER, Error, ErrorKind, Incarnation, Result, Version};

use crate::held;
use crate::holders::Holders;
use crate::keystore::{Kept, Keystore, LifeRow, RootRow};
use crate::provider::{KeyContext, KeyProvider, What, Wrapped};
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
    /// The version of the row that they are from.
    pub(crate) row: Version,
}

impl UserKeys {
    pub(crate) fn data(&self, epoch: u32) -> Option<&DataKey> {
        self.data.iter().find(|key| key.epoch() == epoch)
    }
}

/// What wraps, as of a version of the keystore's header.
pub(crate) struct Wrapping {
    pub(crate) provider: Arc<dyn KeyProvider>,
    pub(crate) header: Version,
}

/// The keys of a deployment's users.
pub(crate) struct Keyring {
    pub(crate) keystore: Keystore,
    pub(crate) deployment: [u8; 16],
    pub(crate) holders: Holders,
    wrapping: RwLock<Arc<Wrapping>>,
    limits: KeyCache,
    cache: Mutex<Cache>,
    /// Owners whose records are being sealed again: their writers let a chunk through.
    sweeps: Mutex<HashMap<Owner, Weak<Gate>>>,
    clock: AtomicU64,
    #[cfg(feature = "faults")]
    pub(crate) fault: Option<crate::Fault>,
}

/// Writers of an owner hold it shared, and who seals the owner's records again alone, for a chunk at a time.
pub(crate) type Gate = tokio::sync::RwLock<()>;

#[derive(Default)]
struct Cache {
    users: HashMap<Owner, Cached>,
    /// Raised whenever something is forgotten. INVARIANT: what was read before is not kept after.
    generation: u64,
}

struct Cached {
    life: Incarnation,
    keys: Arc<UserKeys>,
    since: Instant,
    used: u64,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("cached", &self.cache.lock().users.len()).finish_non_exhaustive()
    }
}

impl Keyring {
    pub(crate) fn new(
        keystore: Keystore,
        wrapping: Wrapping,
        deployment: [u8; 16],
        limits: KeyCache,
    ) -> Self {
        Self {
            keystore,
            deployment,
            holders: Holders::new(limits),
            wrapping: RwLock::new(Arc::new(wrapping)),
            limits,
            cache: Mutex::default(),
            sweeps: Mutex::default(),
            clock: AtomicU64::new(0),
            #[cfg(feature = "faults")]
            fault: None,
        }
    }

    pub(crate) fn wrapping(&self) -> Arc<Wrapping> {
        Arc::clone(&self.wrapping.read())
    }

    /// Puts another key in the place of the one that wraps.
    pub(crate) fn wrap_with(&self, wrapping: Wrapping) {
        *self.wrapping.write() = Arc::new(wrapping);
    }

    /// Looks whether this process still wraps with the deployment's key, after the header has changed.
    ///
    /// INVARIANT: a row is written only under the header that says how it is wrapped. A process that goes on with a former key writes
    /// nothing that nobody could open any more.
    ///
    /// # Errors
    ///
    /// `KeyRefused` if another process has changed the key.
    pub(crate) async fn follow_header(&self) -> Result<()> {
        let wrapping = self.wrapping();
        let header = self.keystore.header().await?.ok_or_else(no_keys)?;
        if header.version == wrapping.header {
            return Ok(());
        }
        let check = header.row.check()?;
        if check.kek.name() != wrapping.provider.current().await?.name() {
            return Err(replaced());
        }
        let context = self.context(&DEPLOYMENT_OWNER, What::Check, NO_LIFE, 0);
        match wrapping.provider.unwrap(&context, &check).await {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::KeyRefused | ErrorKind::Tampered) => {
                return Err(replaced());
            }
            Err(error) => return Err(error),
        }
        let mut now = self.wrapping.write();
        if Arc::ptr_eq(&now, &wrapping) {
            *now = Arc::new(Wrapping { provider: Arc::clone(&wrapping.provider), header: header.version });
        }
        Ok(())
    }

    /// What an owner's writers go through, if the owner's records are being sealed again.
    pub(crate) fn gate(&self, owner: &Owner) -> Option<Arc<Gate>> {
        let sweeps = self.sweeps.lock();
        if sweeps.is_empty() { None } else { sweeps.get(owner).and_then(Weak::upgrade) }
    }

    /// The same, for who seals again: it is there until it is dropped.
    pub(crate) fn sweep(&self, owner: &Owner) -> Arc<Gate> {
        let mut sweeps = self.sweeps.lock();
        sweeps.retain(|_, gate| gate.strong_count() > 0);
        if let Some(gate) = sweeps.get(owner).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::new(Gate::default());
        sweeps.insert(*owner, Arc::downgrade(&gate));
        gate
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
            None => Box::pin(self.load(owner, life)).await,
        }
    }

    /// The same, with the key of an epoch among them, if the keystore has it: another process may have made it since.
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
        Box::pin(self.load(owner, life)).await
    }

    fn cached(&self, owner: &Owner, life: Incarnation) -> Option<Arc<UserKeys>> {
        let mut cache = self.cache.lock();
        let cached = cache.users.get_mut(owner)?;
        if cached.life != life || cached.since.elapsed() > self.limits.age {
            cache.users.remove(owner);
            return None;
        }
        cached.used = self.clock.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(&cached.keys))
    }

    /// The keys as the keystore has them now.
    pub(crate) async fn load(&self, owner: &Owner, life: Incarnation) -> Result<Arc<UserKeys>> {
        #[cfg(feature = "faults")]
        if self.has(crate::Fault::KeyShared) {
            return self.shared();
        }
        let generation = self.cache.lock().generation;
        let (root, row) = self.keystore.pair(owner, life).await?.ok_or_else(no_keys)?;
        let holder = self.holders.of(owner, &root.row)?;
        let keys = self.unwrap(owner, life, &root.row, &row, holder.as_ref().map(|held| &held.key)).await?;
        // A user's own key is not used for longer than it is unlocked.
        let since = holder.map_or_else(Instant::now, |held| held.since);
        Ok(self.keep(owner, life, keys, since, generation))
    }

    async fn unwrap(
        &self,
        owner: &Owner,
        life: Incarnation,
        root: &RootRow,
        row: &Kept<LifeRow>,
        holder: Option<&SecretKey>,
    ) -> Result<UserKeys> {
        let mut data = Vec::new();
        for key in row.row.keys() {
            let (epoch, wrapped) = key?;
            data.push(DataKey::new(&self.unwrap_key(owner, life, epoch, &wrapped, holder).await?, epoch)?);
        }
        let root = self.unwrap_root(owner, root, holder).await?;
        Ok(UserKeys { root: Root::new(&root), data, row: row.version })
    }

    pub(crate) async fn unwrap_key(
        &self,
        owner: &Owner,
        life: Incarnation,
        epoch: u32,
        wrapped: &Wrapped,
        holder: Option<&SecretKey>,
    ) -> Result<SecretKey> {
        let context = self.context(owner, What::Dek, life, epoch);
        let secret = self.wrapping().provider.unwrap(&context, wrapped).await?;
        let secret = self.release(holder, owner, What::Dek, life, epoch, secret)?;
        SecretKey::from_slice(secret.as_bytes())
    }

    pub(crate) async fn unwrap_root(
        &self,
        owner: &Owner,
        row: &RootRow,
        holder: Option<&SecretKey>,
    ) -> Result<SecretKey> {
        let context = self.context(owner, What::Root, NO_LIFE, 0);
        let secret = self.wrapping().provider.unwrap(&context, &row.root()?).await?;
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
        wrapping: &Wrapping,
        holder: Option<&SecretKey>,
        context: &KeyContext,
        secret: &SecretKey,
    ) -> Result<Wrapped> {
        let secret = match holder {
            None => SecretBytes::new(secret.as_bytes().to_vec()),
            Some(holder) => held::seal(holder, context, secret)?,
        };
        wrapping.provider.wrap(context, &secret).await
    }

    pub(crate) fn context(&self, owner: &Owner, what: What, life: Incarnation, epoch: u32) -> KeyContext {
        #[cfg(feature = "faults")]
        if self.has(crate::Fault::WrapUnbound) {
            let (deployment, owner) = (self.deployment, [0; 32]);
            return KeyContext { deployment, owner, what, life: NO_LIFE.0, epoch };
        }
        KeyContext { deployment: self.deployment, owner: *owner, what, life: life.0, epoch }
    }

    fn keep(
        &self,
        owner: &Owner,
        life: Incarnation,
        keys: UserKeys,
        since: Instant,
        generation: u64,
    ) -> Arc<UserKeys> {
        let keys = Arc::new(keys);
        let mut cache = self.cache.lock();
        if cache.generation != generation {
            return keys;
        }
        if cache.users.len() >= self.limits.users.max(1) && !cache.users.contains_key(owner) {
            evict(&mut cache.users, self.limits);
        }
        let used = self.clock.fetch_add(1, Ordering::Relaxed);
        cache.users.insert(*owner, Cached { life, keys: Arc::clone(&keys), since, used });
        keys
    }

    /// Makes the keys of a new life, durable before anything is sealed under them. The owner's root is made with the first.
    pub(crate) async fn make(&self, owner: &Owner, life: Incarnation) -> Result<Arc<UserKeys>> {
        let data_key = SecretKey::generate()?;
        for _ in 0..TRIES {
            let (wrapping, generation) = (self.wrapping(), self.cache.lock().generation);
            let known = self.keystore.root(owner).await?;
            let held = match &known {
                Some(known) => self.holders.of(owner, &known.row)?,
                None => None,
            };
            let holder = held.as_ref().map(|held| &held.key);
            let context = self.context(owner, What::Dek, life, 1);
            let row = LifeRow::new(life, &self.wrap(&wrapping, holder, &context, &data_key).await?)?;
            let (root, root_row, before) = match known {
                Some(known) => {
                    (self.unwrap_root(owner, &known.row, holder).await?, known.row, Some(known.version))
                }
                None => {
                    let root = SecretKey::generate()?;
                    let context = self.context(owner, What::Root, NO_LIFE, 0);
                    let row = RootRow::new(&self.wrap(&wrapping, None, &context, &root).await?, None)?;
                    (root, row, None)
                }
            };
            match self.keystore.add(owner, &root_row, before, (life, &row), wrapping.header).await {
                Ok(version) => {
                    #[cfg(feature = "faults")]
                    if self.has(crate::Fault::KeyShared) {
                        return self.shared();
                    }
                    let data = vec![DataKey::new(&data_key, 1)?];
                    let keys = UserKeys { root: Root::new(&root), data, row: version };
                    let since = held.map_or_else(Instant::now, |held| held.since);
                    return Ok(self.keep(owner, life, keys, since, generation));
                }
                // Somebody else made the root meanwhile, or a life: theirs is the one.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    self.follow_header().await?;
                    if self.keystore.pair(owner, life).await?.is_some() {
                        return self.load(owner, life).await;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the user's keys are made by others all the time, try again"))
    }

    /// The key of the details in an owner's audit trail, of whatever life: as the archive key.
    pub(crate) async fn details_key(&self, owner: &Owner) -> Result<SecretKey> {
        let known = self.cache.lock().users.get(owner).map(|cached| cached.life);
        // Of whatever life that is in use here: they have one root.
        if let Some(keys) = known.and_then(|life| self.cached(owner, life)) {
            return Ok(keys.root.details_key().clone());
        }
        Ok(self.root(owner).await?.details_key().clone())
    }

    /// An owner's archive key, of whatever life: it is derived from the root, which outlives lives and rotations.
    pub(crate) async fn archive_key(&self, owner: &Owner) -> Result<SecretKey> {
        Ok(self.root(owner).await?.archive_key().clone())
    }

    async fn root(&self, owner: &Owner) -> Result<Root> {
        let row = self.keystore.root(owner).await?.ok_or_else(no_keys)?.row;
        let holder = self.holders.of(owner, &row)?;
        let root = self.unwrap_root(owner, &row, holder.as_ref().map(|held| &held.key)).await?;
        Ok(Root::new(&root))
    }

    /// Forgets an owner's unwrapped keys, and locks them if the user holds them.
    pub(crate) fn forget(&self, owner: &Owner) {
        self.holders.remove(owner);
        self.refresh(owner);
    }

    /// Forgets the unwrapped keys alone, so that they are read again.
    pub(crate) fn refresh(&self, owner: &Owner) {
        let mut cache = self.cache.lock();
        cache.generation = cache.generation.wrapping_add(1);
        cache.users.remove(owner);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.holders.clear();
        let mut cache = self.cache.lock();
        cache.generation = cache.generation.wrapping_add(1);
        cache.users.clear();
    }

    /// How many users' keys are kept.
    #[cfg(test)]
    pub(crate) fn cached_users(&self) -> usize {
        self.cache.lock().users.len()
    }

    #[cfg(feature = "faults")]
    fn shared(&self) -> Result<Arc<UserKeys>> {
        let key = SecretKey::from_bytes(&[9; 32]);
        let data = vec![DataKey::new(&key, 1)?];
        Ok(Arc::new(UserKeys { root: Root::new(&key), data, row: Version(0) }))
    }
}

/// What a key that outlives lives is bound to.
pub(crate) const NO_LIFE: Incarnation = Incarnation(0);
pub(crate) const TRIES: usize = 16;

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

pub(crate) const fn no_keys() -> Error {
    Error::new(
        ErrorKind::KeyRefused,
        "the keystore has no key of this user's data, put the keystore that belongs to the data back",
    )
}

/// Another process wraps with another key now.
const fn replaced() -> Error {
    Error::new(
        ErrorKind::KeyRefused,
        "the deployment's key was changed by another process, open it again with the new key",
    )
}
