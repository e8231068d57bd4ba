use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::destruction::Confirmation;
#[cfg(feature = "faults")]
use crate::fault::Fault;
use crate::interactions::InteractionLog;
use crate::limits::ResourceLimits;
use crate::memory::CacheBudget;
use crate::meters::Meters;
use crate::names::PlanName;
use crate::pacing::Pacing;
use crate::trail::AuditPolicy;
use crate::undo::UndoOverwrites;
use syntha_store::{Clock, SystemClock};

/// How a mesh works. The defaults are for production.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub struct MeshConfig {
    /// What every user may use at most, unless the user's own limits or plan say otherwise. Default nothing said.
    pub limits: ResourceLimits,
    /// The plans that users can have, by name. Default none.
    pub plans: BTreeMap<PlanName, ResourceLimits>,
    /// The most bytes of one value's or message's JSON text where no limit says it. Default 1 MiB.
    pub value_bytes: usize,
    /// The most bytes of one user's writes that wait in this process. One write that is larger waits alone. Default 64 MiB.
    pub waiting_bytes: u64,
    /// The most bytes of values that one user's mesh keeps in memory. Default 4 MiB.
    pub cache_bytes: usize,
    /// How long a write may take before its caller gets `Busy` or `Unknown`. Default 5 s.
    pub deadline: Duration,
    /// How long an expired entry stays stored, though invisible, before a sweep deletes it. Default 60 s.
    pub sweep_grace: Duration,
    /// Which interactions are written down for the application to show. Default none.
    pub interactions: InteractionLog,
    /// How many interactions are kept, 1 or more; up to 256 more are there until the next trim. Default 10,000.
    pub interactions_kept: u64,
    /// The most watches of one user that are open at a time. Default 64.
    pub watches: usize,
    /// What the audit trail is told, where the store keeps one. Default [`AuditPolicy::Buffered`].
    pub audit: AuditPolicy,
    /// How long a call waits for its entry in the audit trail before it is refused. Default 2 s.
    pub audit_deadline: Duration,
    /// How many destructive operations of one agent are done in a minute: topics that it deletes, and entries of others that it removes. Counted
    /// in this process alone. Default 10.
    pub destructions_per_minute: u32,
    /// Who is asked before an agent's destructive operation, if anybody. Default nobody.
    pub confirmation: Option<Arc<dyn Confirmation>>,
    /// How long the host can [undo](crate::Mesh::undo) what an agent removes, at most [`UNDO_WINDOW_MOST`](crate::UNDO_WINDOW_MOST). So long
    /// it is kept and counts in the usage, but an entry no longer than it would have lived. Zero keeps nothing. Default 24 h.
    pub undo_window: Duration,
    /// Which entries are kept as well when an agent's push writes over them. Default none.
    pub undo_overwrites: UndoOverwrites,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    pub(crate) budget: Option<Arc<CacheBudget>>,
    pub(crate) pacing: Arc<Pacing>,
    pub(crate) meters: Arc<Meters>,
    #[cfg(feature = "faults")]
    pub(crate) fault: Option<Fault>,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            limits: ResourceLimits::new(),
            plans: BTreeMap::new(),
            value_bytes: 1 << 20,
            waiting_bytes: 64 << 20,
            cache_bytes: 4 << 20,
            deadline: Duration::from_secs(5),
            sweep_grace: Duration::from_secs(60),
            interactions: InteractionLog::Off,
            interactions_kept: 10_000,
            watches: 64,
            audit: AuditPolicy::default(),
            audit_deadline: Duration::from_secs(2),
            destructions_per_minute: 10,
            confirmation: None,
            undo_window: Duration::from_secs(24 * 3600),
            undo_overwrites: UndoOverwrites::None,
            clock: Arc::new(SystemClock),
            budget: None,
            pacing: Arc::default(),
            meters: Arc::default(),
            #[cfg(feature = "faults")]
            fault: None,
        }
    }
}

impl MeshConfig {
    /// All meshes of this configuration keep their cached values within one budget.
    pub fn cache_budget(mut self, budget: Arc<CacheBudget>) -> Self {
        self.budget = Some(budget);
        self
    }
}
