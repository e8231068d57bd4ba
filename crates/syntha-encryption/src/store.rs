use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use syntha_store::{
    Batch, Capabilities, Commit, CreateMode, DEPLOYMENT_OWNER, Erased, Error, ErrorKind, Fence, ImportMode,
    Incarnation, Note, Result, SelfCheck, Snapshot, Stamp, Store, UserStore, UserTag,
};

use crate::keychain::Keychain;
use crate::keyring::Keyring;
use crate::mode::Mode;
use crate::roster::Roster;
use crate::snapshots::Sealing;
use crate::user_store::{EncryptedUser, gone, settle};

/// A store whose every record is sealed before the store below sees it. The store below is any backend, and knows nothing of it.
///
/// Who opens the store below by itself finds sealed bytes. Sealing a store that seals already is refused.
pub struct EncryptedStore<S: ?Sized = dyn Store> {
    pub(crate) inner: Arc<S>,
    pub(crate) ring: Arc<Keyring>,
    pub(crate) mode: Mode,
    /// The store below keeps an audit trail.
    pub(crate) audited: bool,
    /// Spaces of who may log in.
    logins: HashSet<UserTag>,
}

impl<S: ?Sized> fmt::Debug for EncryptedStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedStore").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl<S: Store + ?Sized> EncryptedStore<S> {
    /// Seals what goes into a store, with the keys of its deployment.
    ///
    /// # Errors
    ///
    /// `Invalid` for a store that seals already.
    pub fn new(inner: Arc<S>, keychain: &Keychain) -> Result<Self> {
        let below = inner.capabilities();
        if below.sealed {
            return Err(Error::new(ErrorKind::Invalid, "the store seals already, don't seal it twice"));
        }
        let (ring, mode) = (Arc::clone(&keychain.ring), keychain.mode);
        Ok(Self { inner, ring, mode, audited: below.audited, logins: HashSet::new() })
    }

    /// Says in which spaces accounts are kept, beside the deployment's own: there the roster is checked for them even if it says that there are none.
    #[must_use]
    pub fn logins(mut self, spaces: impl IntoIterator<Item = UserTag>) -> Self {
        self.logins.extend(spaces);
        self
    }

    pub(crate) async fn user(&self, inner: Arc<dyn UserStore>, owner: [u8; 32]) -> Result<EncryptedUser> {
        let logins = UserTag::from_bytes(owner).is_ok_and(|tag| self.logins.contains(&tag));
        EncryptedUser::open(inner, Arc::clone(&self.ring), owner, self.mode, self.audited, logins).await
    }

    pub(crate) async fn open_user(&self, user: UserTag) -> Result<EncryptedUser> {
        self.user(self.inner.open(user).await?, *user.as_bytes()).await
    }

    /// Destroys the keys that were made for a create or an import which has failed, if they are certainly of no use.
    ///
    /// INVARIANT: the error alone does not say so: a store may fail after the deed, or finish it later. Keys too many open nothing; keys too
    /// few are data that is lost.
    async fn discard(&self, user: UserTag, life: Incarnation) {
        let owner = *user.as_bytes();
        self.ring.refresh(&owner);
        let of_no_use = match self.inner.open(user).await {
            Ok(found) => found.state().await.is_ok_and(|state| state.stamp.incarnation != life),
            Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Erased),
        };
        if of_no_use {
            // What has failed is what the caller is told.
            let _ = self.ring.keystore.destroy_life(&owner, life).await;
        }
    }

    /// Takes back what was made while an erasure destroyed its keys. Says whether that was so.
    ///
    /// INVARIANT: asked after the data was made. An erasure looks for data once more after it has destroyed keys, so one of the two notices
    /// the other.
    async fn outrun(&self, user: UserTag, at: Stamp) -> Result<bool> {
        let owner = *user.as_bytes();
        if self.ring.keystore.life(&owner, at.incarnation).await.map_err(unsure)?.is_some() {
            return Ok(false);
        }
        self.ring.refresh(&owner);
        match self.inner.fence(user, Some(at), Fence::Erased).await {
            Ok(_) => self.inner.erase(user).await.map(|_| true).map_err(unsure),
            // It has a new life already, or none.
            Err(_) => Ok(true),
        }
    }

    pub(crate) async fn open_deployment(&self) -> Result<EncryptedUser> {
        let inner = self.inner.deployment().await?;
        for _ in 0..FOUNDINGS {
            let state = inner.state().await?;
            let (owner, life) = (DEPLOYMENT_OWNER, state.stamp.incarnation);
            if state.note != Note::NONE {
                return self.user(inner, owner).await;
            }
            // The store below has made it by itself. Others may be at this, too: one makes the keys, and one writes the note.
            if self.ring.keystore.life(&owner, life).await?.is_none() {
                match self.ring.make(&owner, life).await {
                    Err(error) if error.kind() != ErrorKind::Busy => return Err(error),
                    _ => {}
                }
            }
            let (below, ring) = (Arc::clone(&inner), Arc::clone(&self.ring));
            match EncryptedUser::new(below, ring, owner, life, self.mode, self.audited).found().await {
                Err(error) if error.kind() != ErrorKind::Conflict => return Err(error),
                _ => {}
            }
        }
        Err(Error::new(ErrorKind::Busy, "others make the deployment's own space all the time, try again"))
    }
}

/// How often a deployment's own space is looked at until somebody has made it.
const FOUNDINGS: usize = 16;

/// Whether a failed create or import has most likely left nothing, so that the keys made for it are of no use.
const fn left_nothing(kind: ErrorKind) -> bool {
    use ErrorKind as Kind;
    matches!(
        kind,
        Kind::AlreadyExists
            | Kind::Erased
            | Kind::Invalid
            | Kind::LimitExceeded
            | Kind::Corrupt
            | Kind::Conflict
            | Kind::Tampered
            | Kind::StorageFull
    )
}

/// The data was made, and what became of it since is not known.
fn unsure(error: Error) -> Error {
    Error::new(ErrorKind::Unknown, "the data was made, and what came after it failed: ask for the outcome")
        .with_source(error)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Store for EncryptedStore<S> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities().sealed()
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        first.validate(false)?;
        // No keys for a user who is not made.
        match self.inner.open(user).await {
            Ok(_) => {
                return Err(Error::new(ErrorKind::AlreadyExists, "the user is there already, open it"));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::Erased && mode == CreateMode::Recreate => {}
            Err(error) => return Err(error),
        }
        let owner = *user.as_bytes();
        let life = first.life.map_or_else(Incarnation::random, Ok)?;
        // INVARIANT: the keys are durable before anything is sealed under them.
        self.ring.make(&owner, life).await?;
        let sealing = EncryptedUser::new(
            Arc::new(Nobody),
            Arc::clone(&self.ring),
            owner,
            life,
            self.mode,
            self.audited,
        );
        let sealed = sealing.seal_first(&first).await;
        let made = match sealed {
            Ok(sealed) => self.inner.create(user, sealed, mode).await,
            Err(error) => Err(error),
        };
        match made {
            Ok((inner, commit)) => {
                if self.outrun(user, commit.stamp).await? {
                    return Err(Error::new(ErrorKind::Erased, "the user was erased while it was made"));
                }
                let made =
                    EncryptedUser::new(inner, Arc::clone(&self.ring), owner, life, self.mode, self.audited);
                Ok((Arc::new(made), commit))
            }
            Err(error) => {
                if left_nothing(error.kind()) {
                    self.discard(user, life).await;
                }
                Err(error)
            }
        }
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        Ok(Arc::new(self.open_user(user).await?))
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.inner.fence(user, at, fence).await
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        // INVARIANT: fence, keys, data. Whoever finds it half done can only go on: nothing opens once the fence is there.
        let fenced = match self.inner.fence(user, None, Fence::Erased).await {
            Ok(_) => true,
            Err(error) => match error.kind() {
                // Nothing that takes a fence is left, or ever was, or not where it was looked for.
                ErrorKind::NotFound
                | ErrorKind::Erased
                | ErrorKind::Gone
                | ErrorKind::Corrupt
                | ErrorKind::Unsupported => false,
                _ => return Err(error),
            },
        };
        let owner = *user.as_bytes();
        // Where no data could be fenced, another process may be making some at this moment. So it is removed before and after the keys: nobody
        // finds data that goes on without its keys.
        let erased = if fenced { None } else { Some(self.inner.erase(user).await) };
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::KeysKept) {
            return self.inner.erase(user).await;
        }
        let keys = self.ring.keystore.destroy(&owner).await?;
        self.ring.forget(&owner);
        let again = self.inner.erase(user).await;
        let erased = match (erased, again) {
            (None, again) => again?,
            (Some(_), Ok(again)) if again.removed => again,
            (Some(_), Err(error)) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Erased) => {
                return Err(error);
            }
            (Some(erased), _) => erased?,
        };
        Ok(erased.with_keys(keys))
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        if snapshot.owner() != user {
            return Err(Error::new(ErrorKind::Invalid, "the snapshot is of another user"));
        }
        let before = match self.inner.open(user).await {
            Ok(_) if mode == ImportMode::New => {
                return Err(Error::new(ErrorKind::AlreadyExists, "the user is there already, open it"));
            }
            Ok(found) => found.state().await.ok().map(|state| state.stamp.incarnation),
            Err(error) if error.kind() == ErrorKind::Erased => return Err(error),
            Err(_) => None,
        };
        let owner = *user.as_bytes();
        let life = snapshot.life().map_or_else(Incarnation::random, Ok)?;
        let keys = self.ring.make(&owner, life).await?;
        let mut sealing = Sealing {
            inner: snapshot,
            ring: Arc::clone(&self.ring),
            keys,
            owner,
            mode: self.mode,
            audited: self.audited,
            life,
            roster: Roster::default(),
            note: Note::NONE,
            is_broken: false,
        };
        match self.inner.import(user, &mut sealing, mode).await {
            Ok(stamp) => {
                if self.outrun(user, stamp).await? {
                    return Err(gone());
                }
                #[cfg(feature = "faults")]
                if self.ring.has(crate::Fault::FormerKeysKept) {
                    return Ok(stamp);
                }
                // INVARIANT: only the life that was there has certainly ended. Keys of another one may be those of an import that is
                // under way in another process.
                if let Some(old) = before.filter(|old| *old != life) {
                    if !self.inner.capabilities().durable {
                        let made = self.inner.open(user).await.map_err(unsure)?;
                        settle(&*made).await.map_err(unsure)?;
                    }
                    self.ring.keystore.destroy_life(&owner, old).await.map_err(unsure)?;
                }
                Ok(stamp)
            }
            Err(error) => {
                if sealing.is_broken || left_nothing(error.kind()) {
                    self.discard(user, life).await;
                }
                Err(error)
            }
        }
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        self.inner.list(after, limit).await
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        Ok(Arc::new(self.open_deployment().await?))
    }

    async fn verify(&self) -> Result<SelfCheck> {
        let mut check = self.inner.verify().await?;
        let mut after = None;
        loop {
            let page = self.inner.list(after, 1_000).await?;
            let Some(last) = page.last() else { break };
            after = Some(*last);
            for user in page {
                match self.open_user(user).await {
                    // Erased meanwhile, or a user's own key is locked.
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::Erased
                                | ErrorKind::Gone
                                | ErrorKind::NotFound
                                | ErrorKind::KeyUnavailable
                        ) => {}
                    opened => drop(opened?),
                }
            }
        }
        check.passed.extend(["keys open each user's note", "roster of each user"]);
        Ok(check)
    }

    async fn close(&self) -> Result<()> {
        let closed = self.inner.close().await;
        self.ring.clear();
        let keystore = self.ring.keystore.close().await;
        closed.and(keystore)
    }
}

/// The space of a user who is not made yet: the first batch is sealed without a look at anything.
#[derive(Debug)]
struct Nobody;

impl Nobody {
    fn none<T>(&self) -> Result<T> {
        Err(Error::new(ErrorKind::Conflict, "the record to keep the body of is not there"))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserStore for Nobody {
    async fn state(&self) -> Result<syntha_store::UserState> {
        self.none()
    }

    fn is_at(&self, _: Stamp) -> bool {
        false
    }

    async fn read(
        &self,
        _: syntha_store::Keyspace,
        _: &[syntha_store::RecordId],
    ) -> Result<syntha_store::At<Vec<Option<syntha_store::Record>>>> {
        self.none()
    }

    async fn scan(&self, scan: syntha_store::Scan) -> Result<syntha_store::At<syntha_store::Page>> {
        scan.validate()?;
        self.none()
    }

    async fn commit(&self, _: Batch) -> Result<Commit> {
        self.none()
    }

    async fn outcome(&self, _: syntha_store::BatchId, _: Stamp) -> Result<syntha_store::Outcome> {
        self.none()
    }

    async fn changes(&self, _: Stamp, _: usize) -> Result<syntha_store::Changes> {
        self.none()
    }

    async fn changed(&self, _: Stamp) -> Result<Stamp> {
        self.none()
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.none()
    }
}
