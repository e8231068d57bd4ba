use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use async_trait::async_trait;
#[cfg(feature = "faults")]
use parking_lot::Mutex;
use syntha_store::{
    Batch, Capabilities, ChainHead, Commit, CreateMode, DEPLOYMENT_OWNER, Epoch, Erased, Error, ErrorKind,
    Events, Fence, ImportMode, KeyFingerprint, Result, SelfCheck, Snapshot, Stamp, Store, UserStore, UserTag,
};
use tokio::sync::{OnceCell, RwLock};

use crate::digests::Digests;
use crate::hub::Hub;
use crate::keeper::Keeper;
use crate::link::{Kind, genesis};
use crate::size::{Size, put_link};
use crate::user_store::{AuditedUser, Draft, Shared, check, details, key_id, life, put};

/// A store whose every commit takes a link of its user's hash chain with it. The store below is any backend, and knows nothing of it.
///
/// A layer that seals stands above this one, so that the chain covers what is stored.
pub struct AuditedStore<S: ?Sized = dyn Store> {
    pub(crate) inner: Arc<S>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) keeper: Keeper,
    /// Spaces of the deployment's own whose commits take no link.
    unchained: HashSet<UserTag>,
}

impl<S: ?Sized> fmt::Debug for AuditedStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditedStore").field("hub", &self.shared.hub).finish_non_exhaustive()
    }
}

impl<S: Store + ?Sized> AuditedStore<S> {
    /// Chains what goes into a store. `deployment`: the fingerprint of the key of its users' tags.
    ///
    /// # Errors
    ///
    /// `Invalid` for a store that seals or chains already; `Unavailable` if the system has no random source.
    pub fn new(inner: Arc<S>, deployment: KeyFingerprint) -> Result<Self> {
        let capabilities = inner.capabilities();
        if capabilities.sealed || capabilities.audited {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the audit trail lies below what seals, and once: audit the bare store",
            ));
        }
        let mut run = [0; 8];
        getrandom::fill(&mut run).map_err(|source| {
            Error::new(ErrorKind::Unavailable, "the system's random source failed").with_source(source)
        })?;
        let shared = Shared {
            hub: Hub::default(),
            deployment,
            run: u64::from_be_bytes(run),
            since: Instant::now(),
            space: OnceCell::new(),
            begun: OnceCell::new(),
            still: RwLock::new(()),
            limit: AtomicU64::new(crate::size::LIMIT),
            #[cfg(feature = "faults")]
            fault: Mutex::default(),
        };
        Ok(Self { inner, shared: Arc::new(shared), keeper: Keeper::default(), unchained: HashSet::new() })
    }

    /// Takes spaces out of the trail that are nobody's data: those of accounts, where whoever knows no password would decide how many links
    /// there are. What is done to them is told to the deployment's own trail by whoever does it.
    #[must_use]
    pub fn unchained(mut self, spaces: impl IntoIterator<Item = UserTag>) -> Self {
        self.unchained.extend(spaces);
        self
    }

    pub(crate) fn is_chained(&self, user: UserTag) -> bool {
        !self.unchained.contains(&user)
    }

    /// The store below, whose commits take no link.
    #[must_use]
    pub const fn inner(&self) -> &Arc<S> {
        &self.inner
    }

    /// Plants a fault.
    #[cfg(feature = "faults")]
    #[must_use]
    pub fn fault(self, fault: crate::Fault) -> Self {
        *self.shared.fault.lock() = Some(fault);
        self
    }

    /// What every call begins with: the log is open and was compared, and this run has where to leave its record.
    pub(crate) async fn prepare(&self) -> Result<()> {
        self.space().await?;
        self.log().await?;
        Ok(())
    }

    pub(crate) fn user(&self, inner: Arc<dyn UserStore>, owner: [u8; 32]) -> AuditedUser {
        AuditedUser::new(inner, Arc::clone(&self.shared), owner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Store for AuditedStore<S> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities().audited()
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        if !self.is_chained(user) {
            return self.inner.create(user, first, mode).await;
        }
        first.validate(false)?;
        check(&first)?;
        let owner = *user.as_bytes();
        self.prepare().await?;
        self.check_free(user).await?;
        let ticket = self.shared.admit(&owner).await?;
        let digests = Arc::new(Digests::generate()?);
        let mut chained = first.clone();
        let life = life(&first)?;
        let draft = Draft {
            kind: Kind::Create,
            more: false,
            // A create raises the epoch to 1, whatever is in the batch.
            stamp: Stamp { incarnation: life, epoch: Epoch(1) },
            time: first.time,
            batch: first.id,
            usage: Some(digests.usage(&first.usage.unwrap_or_default())),
            note: Some(digests.note(&first.note.unwrap_or_default())),
            changes: self.shared.traces(&digests, &first.ops)?,
        };
        let before = ChainHead { seq: 0, head: genesis(&self.shared.deployment, &owner) };
        let (link, end) = draft.link(
            &self.shared,
            before,
            details(&self.shared, &digests, &first.events, first.sealed)?,
        )?;
        let body = link.encode();
        let size = Size::default().with(end, body.len());
        chained.ops.push(put_link(&size, body)?);
        chained.ops.push(put(key_id()?, bytes::Bytes::copy_from_slice(digests.key())));
        chained.life = Some(life);
        chained.chain = Some(end);
        chained.events = Events::None;
        let created = self.inner.create(user, chained, mode).await;
        let (inner, commit) = match created {
            Ok(created) => created,
            Err(error) => {
                if error.kind() != ErrorKind::Unknown {
                    ticket.refused();
                }
                return Err(error);
            }
        };
        ticket.moved(life, end, end.seq);
        let made = self.user(inner, owner).with_digests(digests, commit.stamp, commit.chain);
        Ok((Arc::new(made), commit))
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        if !self.is_chained(user) {
            return self.inner.open(user).await;
        }
        self.prepare().await?;
        let inner = match self.inner.open(user).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.check_free(user).await?;
                return Err(error);
            }
            opened => opened?,
        };
        let opened = self.user(inner, *user.as_bytes());
        opened.check_end().await?;
        self.inspect(user.as_bytes(), &*opened.inner).await?;
        Ok(Arc::new(opened))
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        // A layer above destroys keys between the fence and the erasure: what the trail has to tell goes out before.
        if fence == Fence::Erased && self.is_chained(user) {
            self.prepare().await?;
            return self.fence_at_the_end(user, at).await;
        }
        self.inner.fence(user, at, fence).await
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        if !self.is_chained(user) {
            return self.inner.erase(user).await;
        }
        self.prepare().await?;
        self.erase_logged(user).await
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        if !self.is_chained(user) {
            return self.inner.import(user, snapshot, mode).await;
        }
        crate::import::import(self, user, snapshot, mode).await
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        self.inner.list(after, limit).await
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        let opened = self.user(self.inner.deployment().await?, DEPLOYMENT_OWNER);
        self.prepare().await?;
        opened.check_end().await?;
        self.inspect(&DEPLOYMENT_OWNER, &*opened.inner).await?;
        Ok(Arc::new(opened))
    }

    async fn verify(&self) -> Result<SelfCheck> {
        let mut check = self.inner.verify().await?;
        check.passed.push("each chain ends in its last link");
        Ok(check)
    }

    async fn close(&self) -> Result<()> {
        let ended = self.finish().await;
        let closed = self.inner.close().await;
        ended.and(closed)
    }
}
