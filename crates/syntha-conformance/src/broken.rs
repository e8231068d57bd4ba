//! Backends that the suite must reject. No check knows their names.

use std::sync::Arc;

use async_trait::async_trait;
use syntha_store::{
    At, Batch, BatchId, Capabilities, Changes, Commit, CreateMode, Delta, DeploymentKey, Erased, Expect,
    Fence, ImportMode, Keyspace, Op, Outcome, Page, Record, RecordId, Result, Scan, SelfCheck, Snapshot,
    Stamp, Store, UserState, UserStore, UserTag,
};

use crate::harness::{Harness, Instance, MemoryHarness};

/// What is wrong with a broken store over the in-memory reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A cache of the last read whose key has no user in it.
    CacheWithoutUser,
    /// The expected stamp is dropped.
    StampIgnored,
    /// The expected versions are dropped.
    VersionIgnored,
    /// A failed batch keeps its first operation.
    BatchTorn,
    /// A read looks into the wrong keyspace when it finds nothing in its own.
    SpaceIgnored,
    /// A page leaves out its last record.
    PageLosesLast,
    /// A delete is in no list of changes.
    DeleteForgotten,
    /// Every outcome is "committed".
    OutcomeGuessed,
    /// An import takes any user's snapshot.
    ForeignImport,
    /// Erase answers, and does nothing.
    EraseForgotten,
    /// The usage is added up instead of replaced.
    UsageAdded,
    /// A head-only write empties the body.
    BodyDropped,
}

/// Every broken store over the reference, with its name.
#[must_use]
pub fn memory_faults() -> Vec<(&'static str, Fault)> {
    vec![
        ("cache-without-user", Fault::CacheWithoutUser),
        ("stamp-ignored", Fault::StampIgnored),
        ("version-ignored", Fault::VersionIgnored),
        ("batch-torn", Fault::BatchTorn),
        ("space-ignored", Fault::SpaceIgnored),
        ("page-loses-last", Fault::PageLosesLast),
        ("delete-forgotten", Fault::DeleteForgotten),
        ("outcome-guessed", Fault::OutcomeGuessed),
        ("foreign-import", Fault::ForeignImport),
        ("erase-forgotten", Fault::EraseForgotten),
        ("usage-added", Fault::UsageAdded),
        ("body-dropped", Fault::BodyDropped),
    ]
}

/// Every broken mesh, with its name.
#[must_use]
pub fn mesh_faults() -> Vec<(&'static str, syntha_mesh::Fault)> {
    use syntha_mesh::Fault;
    vec![
        ("mesh-expired-shown", Fault::ExpiredShown),
        ("mesh-audience-ignored", Fault::AudienceIgnored),
        ("mesh-life-ignored", Fault::LifeIgnored),
        ("mesh-guard-ignored", Fault::GuardIgnored),
        ("mesh-batch-torn", Fault::BatchTorn),
        ("mesh-version-ignored", Fault::VersionIgnored),
        ("mesh-operation-forgotten", Fault::OperationForgotten),
        ("mesh-usage-drifts", Fault::UsageDrifts),
        ("mesh-hidden-overwritten", Fault::HiddenOverwritten),
        ("mesh-acknowledged-early", Fault::AcknowledgedEarly),
        ("mesh-stale-index", Fault::StaleIndex),
        ("mesh-cache-shared", Fault::CacheShared),
        ("mesh-unsubscribe-forgotten", Fault::UnsubscribeForgotten),
        ("mesh-grace-ignored", Fault::GraceIgnored),
        ("mesh-clock-floor-ignored", Fault::ClockFloorIgnored),
        ("mesh-erased-shown", Fault::ErasedShown),
        ("mesh-history-across-threads", Fault::HistoryAcrossThreads),
        ("mesh-redacted-shown", Fault::RedactedShown),
        ("mesh-thread-audience-ignored", Fault::ThreadAudienceIgnored),
        ("mesh-watch-audience-ignored", Fault::WatchAudienceIgnored),
        ("mesh-watch-stale-decision", Fault::WatchStaleDecision),
        ("mesh-watch-loses-lagged", Fault::WatchLosesLagged),
        ("mesh-watch-unbounded", Fault::WatchUnbounded),
        ("mesh-watch-removed-forgotten", Fault::WatchRemovedForgotten),
        ("mesh-watch-sleeps-on", Fault::WatchSleepsOn),
        ("mesh-role-widens", Fault::RoleWidens),
        ("mesh-decision-early", Fault::DecisionEarly),
        ("mesh-narrowing-ignored", Fault::NarrowingIgnored),
        ("mesh-expired-grant-honoured", Fault::ExpiredGrantHonoured),
        ("mesh-provenance-ignored", Fault::ProvenanceIgnored),
        ("mesh-grants-lost", Fault::GrantsLost),
        ("mesh-session-early", Fault::SessionEarly),
        ("mesh-session-unbound", Fault::BoundIgnored),
        ("mesh-standing-ignored", Fault::StandingIgnored),
        ("mesh-rate-ignored", Fault::RateIgnored),
        ("mesh-undo-forgets-audience", Fault::UndoForgetsAudience),
        ("mesh-undo-uncounted", Fault::UndoUncounted),
        ("mesh-undo-endless", Fault::UndoEndless),
        ("mesh-undo-over-newer", Fault::UndoOverNewer),
        ("mesh-undo-nothing-kept", Fault::UndoNothingKept),
        ("mesh-undo-shown", Fault::UndoShown),
        ("mesh-limit-early", Fault::LimitEarly),
        ("mesh-limit-per-handle", Fault::LimitPerHandle),
        ("mesh-limit-ignores-history", Fault::LimitIgnoresHistory),
        ("mesh-limit-keeps-agents", Fault::LimitKeepsAgents),
        ("mesh-swept-counted", Fault::SweptCounted),
        ("mesh-unknown-plan-ignored", Fault::UnknownPlanIgnored),
    ]
}

/// Every broken store in a PostgreSQL database.
#[cfg(feature = "postgres")]
pub use crate::broken_postgres::postgres_faults;

/// Every broken store in SQLite code, with its name. A skipped sync shows only when power fails, so it is not here.
#[cfg(feature = "sqlite")]
#[must_use]
pub fn sqlite_faults() -> Vec<(&'static str, syntha_sqlite::Fault)> {
    use syntha_sqlite::Fault;
    vec![
        ("sqlite-tag-truncated", Fault::TagTruncated),
        ("sqlite-stamp-ignored", Fault::StampIgnored),
        ("sqlite-erase-keeps-file", Fault::EraseKeepsFile),
        ("sqlite-batch-torn", Fault::BatchTorn),
        ("sqlite-page-overlaps", Fault::PageOverlaps),
    ]
}

/// Every broken store in the code of a shared SQLite folder, with its name.
#[cfg(feature = "sqlite")]
#[must_use]
pub fn shared_sqlite_faults() -> Vec<(&'static str, syntha_sqlite::Fault)> {
    use syntha_sqlite::Fault;
    vec![("shared-stale-bell", Fault::StaleBell), ("shared-ring-forgotten", Fault::RingForgotten)]
}

/// Every fault of the encryption layer, with its name and the mode that it shows in. Those of rotations are not here.
#[cfg(feature = "encryption")]
#[must_use]
pub fn encryption_faults() -> Vec<(&'static str, syntha_encryption::Mode, syntha_encryption::Fault)> {
    use syntha_encryption::{Fault, Mode};
    let sealed = [
        ("sealed-user-unbound", Fault::UserUnbound),
        ("sealed-deployment-unbound", Fault::DeploymentUnbound),
        ("sealed-space-unbound", Fault::SpaceUnbound),
        ("sealed-name-unbound", Fault::NameUnbound),
        ("sealed-seq-unbound", Fault::SeqUnbound),
        ("sealed-version-unbound", Fault::VersionUnbound),
        ("sealed-expiry-unbound", Fault::ExpiryUnbound),
        ("sealed-part-unbound", Fault::PartUnbound),
        ("sealed-algorithm-trusted", Fault::AlgorithmTrusted),
        ("sealed-salt-fixed", Fault::SaltFixed),
        ("sealed-plaintext-accepted", Fault::PlaintextAccepted),
        ("sealed-key-shared", Fault::KeyShared),
        ("sealed-names-in-clear", Fault::NamesInClear),
        ("sealed-sizes-shown", Fault::SizesShown),
        ("sealed-expiry-shown", Fault::ExpiryShown),
        ("sealed-stripped-accepted", Fault::StrippedAccepted),
        ("sealed-later-accepted", Fault::LaterAccepted),
        ("sealed-body-spliced", Fault::BodySpliced),
        ("sealed-roster-ignored", Fault::RosterIgnored),
        ("sealed-snapshot-ignored", Fault::SnapshotIgnored),
        ("sealed-roster-keeps-deleted", Fault::RosterKeepsDeleted),
        ("sealed-note-stale", Fault::NoteStale),
        ("sealed-keys-kept", Fault::KeysKept),
        ("sealed-former-keys-kept", Fault::FormerKeysKept),
        ("sealed-wrap-unbound", Fault::WrapUnbound),
    ];
    let values = [
        ("values-head-unbound", Fault::HeadUnbound),
        ("values-expiry-unbound", Fault::ExpiryUnbound),
        ("values-plaintext-accepted", Fault::PlaintextAccepted),
        ("values-algorithm-trusted", Fault::AlgorithmTrusted),
        ("values-key-shared", Fault::KeyShared),
        ("values-salt-fixed", Fault::SaltFixed),
    ];
    let of = |mode| move |(name, fault)| (name, mode, fault);
    sealed.into_iter().map(of(Mode::Sealed)).chain(values.into_iter().map(of(Mode::Values))).collect()
}

/// Every fault of the audit layer, with its name.
#[cfg(feature = "audit")]
#[must_use]
pub fn audit_faults() -> Vec<(&'static str, syntha_audit::Fault)> {
    use syntha_audit::Fault;
    vec![
        ("audit-link-missing", Fault::LinkMissing),
        ("audit-link-apart", Fault::LinkApart),
        ("audit-chain-restarted", Fault::ChainRestarted),
        ("audit-tail-ignored", Fault::TailIgnored),
        ("audit-trace-omitted", Fault::TraceOmitted),
        ("audit-details-uncovered", Fault::DetailsUncovered),
        ("audit-fork-allowed", Fault::ForkAllowed),
        ("audit-events-dropped", Fault::EventsDropped),
        ("audit-names-shown", Fault::NamesShown),
        ("audit-keyspace-open", Fault::KeyspaceOpen),
        ("audit-leaves-forgotten", Fault::LeavesForgotten),
        ("audit-floor-believed", Fault::FloorBelieved),
        ("audit-index-believed", Fault::IndexBelieved),
        ("audit-life-ignored", Fault::LifeIgnored),
        ("audit-refusals-named", Fault::RefusalsNamed),
        ("audit-limit-ignored", Fault::LimitIgnored),
        ("audit-bytes-forgotten", Fault::BytesForgotten),
    ]
}

/// A broken store over the reference.
#[derive(Clone, Copy, Debug)]
pub struct BrokenHarness {
    /// Its name in reports.
    pub name: &'static str,
    /// What is wrong.
    pub fault: Fault,
}

type Cache = Arc<std::sync::Mutex<Option<(Keyspace, RecordId, Option<Record>)>>>;

struct BrokenInstance {
    inner: Box<dyn Instance>,
    fault: Fault,
    cache: Cache,
}

#[async_trait]
impl Harness for BrokenHarness {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn fresh(&self) -> Box<dyn Instance> {
        Box::new(BrokenInstance {
            inner: MemoryHarness.fresh().await,
            fault: self.fault,
            cache: Cache::default(),
        })
    }
}

#[async_trait]
impl Instance for BrokenInstance {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(BrokenStore { inner: self.inner.store(), fault: self.fault, cache: Arc::clone(&self.cache) })
    }

    fn key(&self) -> DeploymentKey {
        self.inner.key()
    }

    fn below(&self) -> Option<Arc<dyn Store>> {
        None
    }

    async fn reopen(&mut self) {
        self.inner.reopen().await;
    }

    async fn crash(&mut self) {
        self.inner.crash().await;
    }

    async fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.inner.files().await
    }
}

#[derive(Debug)]
struct BrokenStore {
    inner: Arc<dyn Store>,
    fault: Fault,
    cache: Cache,
}

impl BrokenStore {
    fn wrap(&self, inner: Arc<dyn UserStore>) -> Arc<dyn UserStore> {
        Arc::new(BrokenUser { inner, fault: self.fault, cache: Arc::clone(&self.cache) })
    }
}

/// A snapshot that says whose it is whenever it is asked for.
struct Relabelled<'a>(UserTag, &'a mut dyn Snapshot);

#[async_trait]
impl Snapshot for Relabelled<'_> {
    fn owner(&self) -> UserTag {
        self.0
    }

    fn state(&self) -> UserState {
        self.1.state()
    }

    fn life(&self) -> Option<syntha_store::Incarnation> {
        self.1.life()
    }

    fn follows(&self) -> Option<syntha_store::ChainHead> {
        self.1.follows()
    }

    async fn next(&mut self) -> Result<Option<Vec<syntha_store::StoredRecord>>> {
        self.1.next().await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for BrokenStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        let (made, commit) = self.inner.create(user, first, mode).await?;
        Ok((self.wrap(made), commit))
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        Ok(self.wrap(self.inner.open(user).await?))
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.inner.fence(user, at, fence).await
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        if self.fault == Fault::EraseForgotten {
            return Ok(Erased::new(true, 1));
        }
        self.inner.erase(user).await
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        if self.fault == Fault::ForeignImport {
            return self.inner.import(user, &mut Relabelled(user, snapshot), mode).await;
        }
        self.inner.import(user, snapshot, mode).await
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        self.inner.list(after, limit).await
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        self.inner.deployment().await
    }

    async fn verify(&self) -> Result<SelfCheck> {
        self.inner.verify().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct BrokenUser {
    inner: Arc<dyn UserStore>,
    fault: Fault,
    cache: Cache,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserStore for BrokenUser {
    async fn state(&self) -> Result<UserState> {
        self.inner.state().await
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.inner.is_at(stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        let mut read = self.inner.read(space, ids).await?;
        if let (Fault::CacheWithoutUser, [id]) = (self.fault, ids) {
            let mut cache = self.cache.lock().unwrap();
            match &*cache {
                Some((cached_space, cached_id, record)) if *cached_space == space && cached_id == id => {
                    read.value = vec![record.clone()];
                }
                _ => *cache = Some((space, id.clone(), read.value[0].clone())),
            }
        }
        if self.fault == Fault::SpaceIgnored && read.value.iter().all(Option::is_none) {
            return self.inner.read(Keyspace::Agents, ids).await;
        }
        Ok(read)
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        let mut page = self.inner.scan(scan).await?;
        if self.fault == Fault::PageLosesLast && page.value.more && page.value.records.len() > 1 {
            let last = page.value.records.len() - 2;
            page.value.records.remove(last);
        }
        Ok(page)
    }

    async fn commit(&self, mut batch: Batch) -> Result<Commit> {
        match self.fault {
            Fault::StampIgnored => batch.expect.retain(|expect| !matches!(expect, Expect::Stamp(_))),
            Fault::VersionIgnored => batch.expect.retain(|expect| !matches!(expect, Expect::Version { .. })),
            Fault::BatchTorn if batch.ops.len() > 1 => {
                let mut first = Batch::new(batch.time)?;
                first.ops = vec![batch.ops[0].clone()];
                let result = self.inner.commit(batch).await;
                if result.is_err() {
                    self.inner.commit(first).await?;
                }
                return result;
            }
            Fault::UsageAdded => {
                if let Some(usage) = &mut batch.usage {
                    usage.contexts += self.inner.state().await?.usage.contexts;
                }
            }
            Fault::BodyDropped => {
                for op in &mut batch.ops {
                    if let Op::PutHead { space, id, head, expires } = op.clone() {
                        *op = Op::Put { space, id, head, body: bytes::Bytes::new(), expires };
                    }
                }
            }
            _ => {}
        }
        self.inner.commit(batch).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        if self.fault == Fault::OutcomeGuessed {
            return Ok(Outcome::Committed(self.inner.state().await?.stamp));
        }
        self.inner.outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        match self.inner.changes(since, limit).await? {
            Changes::Delta(delta) if self.fault == Fault::DeleteForgotten => {
                Ok(Changes::Delta(Delta::new(delta.at, delta.heads, Vec::new(), delta.more)))
            }
            changes => Ok(changes),
        }
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        self.inner.changed(since).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.inner.snapshot().await
    }
}
