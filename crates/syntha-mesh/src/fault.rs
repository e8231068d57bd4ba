//! Planted faults. Without the feature `faults` there is no way to set one, and the places that ask are compiled away.

/// A fault that the conformance suite must find. For tests of the suite only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "faults"), allow(unreachable_pub, reason = "it is public with the feature alone"))]
#[non_exhaustive]
pub enum Fault {
    /// An expired entry is shown until it is swept.
    ExpiredShown,
    /// Every agent sees every entry of its user.
    AudienceIgnored,
    /// A name that is registered again is the same agent.
    LifeIgnored,
    /// A call asks no guard.
    GuardIgnored,
    /// A batch keeps what it did before its failing operation.
    BatchTorn,
    /// The expected version is not compared.
    VersionIgnored,
    /// An operation id is not looked up.
    OperationForgotten,
    /// What is deleted still counts.
    UsageDrifts,
    /// An entry that an agent can't see is overwritten by it.
    HiddenOverwritten,
    /// A write is acknowledged before it is committed.
    AcknowledgedEarly,
    /// Another handle's commits are not looked for.
    StaleIndex,
    /// One cache of values for all users, by key and version.
    #[cfg(feature = "faults")]
    CacheShared,
    /// An agent that unsubscribes goes on hearing.
    UnsubscribeForgotten,
    /// A sweep takes what has just expired.
    GraceIgnored,
    /// The time of the last commit is no floor for the clock.
    ClockFloorIgnored,
    /// A mesh whose user was erased goes on answering from memory.
    ErasedShown,
    /// A page of a thread's messages goes on into the next thread.
    HistoryAcrossThreads,
    /// A redacted message is counted out and still there.
    RedactedShown,
    /// Any agent reads any thread of its user.
    ThreadAudienceIgnored,
    /// A watch gives what is for others.
    WatchAudienceIgnored,
    /// A watch decides when something changes, and not again when it is given.
    WatchStaleDecision,
    /// A watch that can't keep up loses changes and says nothing.
    WatchLosesLagged,
    /// What waits for a slow reader has no bound.
    WatchUnbounded,
    /// A watch does not say that something is no longer there.
    WatchRemovedForgotten,
    /// A watch that waits does not wake for the end of its session or its user.
    WatchSleepsOn,
    /// The audit trail is not told of reads.
    ReadNotRecorded,
    /// The audit trail is not told of changes.
    EventMissing,
    /// A role has more than it says.
    RoleWidens,
    /// Whether an agent may write is decided before the commit and not in it.
    DecisionEarly,
    /// A handle that was narrowed does what it did before.
    NarrowingIgnored,
    /// A grant holds on after its time.
    ExpiredGrantHonoured,
    /// An agent reads what agents wrote which were not trusted, though it must not.
    ProvenanceIgnored,
    /// A clone of a session's handle has every grant.
    #[cfg(feature = "faults")]
    GrantsLost,
    /// A write that waits is decided by what its session was when it was asked for.
    SessionEarly,
    /// A session that is one agent's is everybody's.
    #[cfg(feature = "faults")]
    BoundIgnored,
    /// What a session hangs on is not asked.
    #[cfg(feature = "faults")]
    StandingIgnored,
    /// What agents delete is not counted.
    RateIgnored,
    /// What an agent removed comes back for everyone, and by nobody.
    UndoForgetsAudience,
    /// What agents removed does not count in the usage.
    UndoUncounted,
    /// What agents removed never ends.
    UndoEndless,
    /// An undo writes over what was written since.
    UndoOverNewer,
    /// What an agent deletes is kept nowhere.
    UndoNothingKept,
    /// Every agent finds what agents removed.
    UndoShown,
    /// Limits are compared with what is used when the call comes, and not in its commit.
    LimitEarly,
    /// Limits are compared with what this handle wrote itself and found when it was opened, not with what is stored.
    #[cfg(feature = "faults")]
    LimitPerHandle,
    /// What a sweep deletes still counts.
    SweptCounted,
    /// History does not count.
    LimitIgnoresHistory,
    /// A write that a limit refuses leaves the agents that it made.
    LimitKeepsAgents,
    /// A user whose plan is not known is a user without a plan.
    UnknownPlanIgnored,
}

impl crate::MeshConfig {
    /// Plants a fault.
    #[cfg(feature = "faults")]
    pub const fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    #[cfg(feature = "faults")]
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    #[cfg(not(feature = "faults"))]
    #[allow(clippy::unused_self, reason = "the form with the feature needs it")]
    pub(crate) const fn has(&self, _: Fault) -> bool {
        false
    }
}

/// The cache of [`Fault::CacheShared`]: one for all meshes of one clock, so that two runs don't meet.
#[cfg(feature = "faults")]
pub(crate) mod shared {
    use std::collections::HashMap;
    use std::sync::{Arc, LazyLock};

    use parking_lot::Mutex;
    use syntha_store::Version;

    use syntha_store::Clock;

    type Key = (usize, String, Version);

    type Values = HashMap<Key, (Arc<dyn Clock>, Arc<str>)>;

    static VALUES: LazyLock<Mutex<Values>> = LazyLock::new(Mutex::default);

    pub(crate) fn value(clock: &Arc<dyn Clock>, key: &str, version: Version, own: &str) -> Arc<str> {
        let key = (Arc::as_ptr(clock).addr(), key.to_owned(), version);
        let mut values = VALUES.lock();
        let (_, value) = values.entry(key).or_insert_with(|| (Arc::clone(clock), own.into()));
        Arc::clone(value)
    }
}
