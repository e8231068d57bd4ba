//! What a mesh tells of itself: counts, times and sizes, through the `metrics` crate. Labels come from closed sets: no name, key
//! or user is ever one.

use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::change::Change;
use crate::error::{ErrorKind, Result};

/// The kinds of calls that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    GetMany,
    List,
    ReadThread,
    Push,
    Remove,
    Batch,
    Clear,
    Sweep,
    Agents,
    Topics,
    Append,
    Redact,
    Import,
    Log,
    Undo,
}

const OPERATIONS: [(Operation, &str); 16] = [
    (Operation::Get, "get"),
    (Operation::GetMany, "get_many"),
    (Operation::List, "list"),
    (Operation::ReadThread, "read_thread"),
    (Operation::Push, "push"),
    (Operation::Remove, "remove"),
    (Operation::Batch, "batch"),
    (Operation::Clear, "clear"),
    (Operation::Sweep, "sweep"),
    (Operation::Agents, "agents"),
    (Operation::Topics, "topics"),
    (Operation::Append, "append"),
    (Operation::Redact, "redact"),
    (Operation::Import, "import"),
    (Operation::Log, "log"),
    (Operation::Undo, "undo"),
];

const KINDS: [(ErrorKind, &str); 11] = [
    (ErrorKind::Invalid, "invalid"),
    (ErrorKind::NotFound, "not_found"),
    (ErrorKind::Denied, "denied"),
    (ErrorKind::Conflict, "conflict"),
    (ErrorKind::LimitExceeded, "limit_exceeded"),
    (ErrorKind::Busy, "busy"),
    (ErrorKind::Unknown, "unknown"),
    (ErrorKind::Gone, "gone"),
    (ErrorKind::SessionEnded, "session_ended"),
    (ErrorKind::AuditUnavailable, "audit_unavailable"),
    (ErrorKind::Storage, "storage"),
];

/// Why work was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shed {
    /// Too many writes of one user waited.
    QueueFull,
    /// A write did not start in time.
    Deadline,
    /// Calls of one user came faster than they may.
    Rate,
    /// Too many calls of one user were under way.
    InFlight,
}

const SHEDS: [(Shed, &str); 4] = [
    (Shed::QueueFull, "queue_full"),
    (Shed::Deadline, "deadline"),
    (Shed::Rate, "rate"),
    (Shed::InFlight, "in_flight"),
];

/// The handles of all meshes of one configuration. They are taken from the recorder that is installed when the configuration is
/// made; without one they do nothing.
pub(crate) struct Meters {
    operations: [Counter; OPERATIONS.len()],
    seconds: [Histogram; OPERATIONS.len()],
    errors: [Counter; KINDS.len()],
    sheds: [Counter; SHEDS.len()],
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) waiting: Gauge,
    batch: Histogram,
    commit: Histogram,
    pub(crate) retries: Counter,
    pub(crate) reloads: Counter,
    pub(crate) lost: Counter,
    pub(crate) tight: Counter,
    pub(crate) full: Counter,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            operations: OPERATIONS.map(|(_, name)| counter!("syntha_operations_total", "operation" => name)),
            seconds: OPERATIONS.map(|(_, name)| histogram!("syntha_write_seconds", "operation" => name)),
            errors: KINDS.map(|(_, name)| counter!("syntha_errors_total", "kind" => name)),
            sheds: SHEDS.map(|(_, name)| counter!("syntha_sheds_total", "reason" => name)),
            hits: counter!("syntha_cache_hits_total"),
            misses: counter!("syntha_cache_misses_total"),
            waiting: gauge!("syntha_writes_waiting"),
            batch: histogram!("syntha_batch_operations"),
            commit: histogram!("syntha_commit_seconds"),
            retries: counter!("syntha_commit_retries_total"),
            reloads: counter!("syntha_index_reloads_total"),
            lost: counter!("syntha_audit_events_lost_total"),
            tight: counter!("syntha_audit_trails_tight_total"),
            full: counter!("syntha_audit_trail_full_total"),
        }
    }
}

impl Meters {
    /// Counts a call.
    pub(crate) fn count(&self, operation: Operation) {
        if let Some(counter) = self.operations.get(operation as usize) {
            counter.increment(1);
        }
    }

    /// Counts a write, how long it took, and how it failed.
    pub(crate) fn wrote<T>(&self, operation: Operation, since: Instant, result: &Result<T>) {
        self.count(operation);
        if let Some(seconds) = self.seconds.get(operation as usize) {
            seconds.record(since.elapsed());
        }
        if let Err(error) = result {
            self.failed(error.kind());
        }
    }

    /// Counts an error by its kind.
    pub(crate) fn failed(&self, kind: ErrorKind) {
        let place = KINDS.iter().position(|(known, _)| *known == kind);
        if let Some(counter) = place.and_then(|place| self.errors.get(place)) {
            counter.increment(1);
        }
    }

    pub(crate) fn shed(&self, why: Shed) {
        if let Some(counter) = self.sheds.get(why as usize) {
            counter.increment(1);
        }
    }

    /// Counts a commit: how many changes it held and how long it took.
    pub(crate) fn committed(&self, changes: usize, since: Instant) {
        self.batch.record(u32::try_from(changes).unwrap_or(u32::MAX));
        self.commit.record(since.elapsed());
    }
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}

impl Change {
    pub(crate) fn operation(&self) -> Operation {
        match self {
            Self::By { change, .. } => change.operation(),
            Self::Push(_) => Operation::Push,
            Self::Remove { .. } => Operation::Remove,
            Self::Batch(_) => Operation::Batch,
            Self::Clear => Operation::Clear,
            Self::Sweep { .. } => Operation::Sweep,
            Self::Register { .. }
            | Self::Unregister { .. }
            | Self::PostPermissions { .. }
            | Self::ReadPermissions { .. }
            | Self::Permit { .. }
            | Self::Limits(_) => Operation::Agents,
            Self::Subscribe { .. } | Self::Unsubscribe { .. } | Self::DeleteTopic { .. } => Operation::Topics,
            Self::CreateThread { .. } | Self::Append { .. } => Operation::Append,
            Self::Redact { .. } | Self::DeleteThread { .. } => Operation::Redact,
            Self::Undo { .. } | Self::PurgeUndo { .. } => Operation::Undo,
            Self::Load(_) => Operation::Import,
            Self::Log(_) | Self::Flush => Operation::Log,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_numbers_of_the_variants() {
        for (place, (operation, _)) in OPERATIONS.iter().enumerate() {
            assert_eq!(*operation as usize, place);
        }
        for (place, (shed, _)) in SHEDS.iter().enumerate() {
            assert_eq!(*shed as usize, place);
        }
    }
}
