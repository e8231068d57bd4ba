//! The log of what agents did, for an application to show to its user. It is no audit trail: nothing chains it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use syntha_store::{
    Error as StoreError, ErrorKind as StoreErrorKind, Keyspace, RecordId, Scan, Stamp, Timestamp,
};

use crate::change::{Answer, Change};
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::history::PAGE_MOST;
use crate::mesh::Mesh;
use crate::names::AgentName;
use crate::writer;

/// Which interactions a mesh writes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InteractionLog {
    /// None. The default.
    #[default]
    Off,
    /// What changed something, in the same commit as the change.
    Writes,
    /// That, and what was read. Reads are written down within a second or 256 of them; a crash loses what was not yet.
    All,
}

impl InteractionLog {
    pub(crate) const fn is_on(self) -> bool {
        !matches!(self, Self::Off)
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// An entry was written.
    Push,
    /// An entry was removed.
    Remove,
    /// All entries were removed.
    Clear,
    /// An agent was registered.
    Register,
    /// An agent was unregistered.
    Unregister,
    /// An agent subscribed to topics.
    Subscribe,
    /// An agent unsubscribed from topics.
    Unsubscribe,
    /// A topic was deleted.
    DeleteTopic,
    /// The topics that an agent may post to or read were set.
    Permit,
    /// A thread was made.
    CreateThread,
    /// Messages were appended to a thread.
    Append,
    /// A message was redacted.
    Redact,
    /// A thread was deleted.
    DeleteThread,
    /// Entries were read.
    Read,
    /// Messages of a thread were read.
    ReadThread,
    /// Entries that an agent removed were brought back, or a topic that it deleted.
    Undo,
}

/// One interaction.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Interaction {
    /// Its number, from 1; higher is later.
    #[serde(skip, default)]
    pub seq: u64,
    /// When.
    #[serde(rename = "at", with = "millis")]
    pub at: Timestamp,
    /// The agent that did it; `None` for the host.
    #[serde(rename = "by", default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Arc<str>>,
    /// What it did.
    #[serde(rename = "do")]
    pub action: Action,
    /// To which keys, topics, agents or thread: at most 64 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<Arc<str>>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

mod millis {
    use serde::{Deserialize, Deserializer, Serializer};
    use syntha_store::Timestamp;

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(at.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(deserializer).map(Timestamp)
    }
}

/// Shows no name.
impl std::fmt::Debug for Interaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interaction")
            .field("seq", &self.seq)
            .field("action", &self.action)
            .finish_non_exhaustive()
    }
}

/// The most names of one interaction.
const NAMES: usize = 64;
/// How many reads wait to be written down before the next one writes them.
const WAITING: usize = 256;
/// How many wait at most, while they can't be written down.
const WAITING_MOST: usize = 4_096;
/// How long a read waits at most.
const DELAY: Duration = Duration::from_secs(1);

impl Interaction {
    pub(crate) fn new(
        at: Timestamp,
        agent: Option<&AgentName>,
        action: Action,
        mut on: Vec<Arc<str>>,
    ) -> Self {
        let more = on.len().saturating_sub(NAMES) as u64;
        on.truncate(NAMES);
        Self { seq: 0, at, agent: agent.map(|agent| Arc::clone(agent.shared())), action, on, more }
    }

    /// What a change that was done is written down as; nothing for one that changed nothing.
    pub(crate) fn of(at: Timestamp, change: &Change, answer: &Answer) -> Vec<Self> {
        Self::by(at, None, change, answer)
    }

    fn by(at: Timestamp, by: Option<&AgentName>, change: &Change, answer: &Answer) -> Vec<Self> {
        let one = |by: Option<&AgentName>, action, on| vec![Self::new(at, by, action, on)];
        let texts =
            |topics: &[crate::names::Topic]| topics.iter().map(|topic| Arc::clone(topic.shared())).collect();
        match (change, answer) {
            (Change::By { agent, change, .. }, _) => Self::by(at, Some(agent), change, answer),
            (Change::Batch(changes), Answer::Batch(answers)) => {
                let changes = changes.iter().zip(answers);
                changes.flat_map(|(change, answer)| Self::by(at, by, change, answer)).collect()
            }
            (_, Answer::Repeated(_)) => Vec::new(),
            (Change::Push(push), _) => one(by, Action::Push, vec![Arc::clone(push.key.shared())]),
            (_, Answer::Flag(false) | Answer::Count(0)) => Vec::new(),
            (Change::Remove { key, .. }, _) => one(by, Action::Remove, vec![Arc::clone(key.shared())]),
            (Change::Clear, _) => one(by, Action::Clear, Vec::new()),
            (Change::Register { agent }, _) => one(by, Action::Register, vec![Arc::clone(agent.shared())]),
            (Change::Unregister { agent }, _) => {
                one(by, Action::Unregister, vec![Arc::clone(agent.shared())])
            }
            (Change::Subscribe { agent, topics, .. }, _) => {
                one(by.or(Some(agent)), Action::Subscribe, texts(topics))
            }
            (Change::Unsubscribe { agent, topics }, _) => {
                one(by.or(Some(agent)), Action::Unsubscribe, texts(topics))
            }
            (Change::DeleteTopic { topic }, _) => {
                one(by, Action::DeleteTopic, vec![Arc::clone(topic.shared())])
            }
            (
                Change::PostPermissions { agent, .. }
                | Change::ReadPermissions { agent, .. }
                | Change::Permit { agent, .. },
                _,
            ) => one(by, Action::Permit, vec![Arc::clone(agent.shared())]),
            (Change::CreateThread { thread, .. }, _) => {
                one(by, Action::CreateThread, vec![Arc::clone(thread.shared())])
            }
            (Change::Append { thread, .. }, Answer::Appended(appended)) => {
                let new = appended.iter().any(|one| !one.duplicate);
                if new { one(by, Action::Append, vec![Arc::clone(thread.shared())]) } else { Vec::new() }
            }
            (Change::Undo { .. }, Answer::Undone(undone)) => {
                let mut on = undone.keys.clone();
                on.extend(undone.on.iter().filter(|on| !undone.keys.contains(on)).cloned());
                one(by, Action::Undo, on)
            }
            (Change::Redact { thread, .. }, _) => one(by, Action::Redact, vec![Arc::clone(thread.shared())]),
            (Change::DeleteThread { thread }, _) => {
                one(by, Action::DeleteThread, vec![Arc::clone(thread.shared())])
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn encode(&self) -> Result<Bytes> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the interaction can't be written as JSON"))
    }

    pub(crate) fn decode(seq: u64, body: &[u8]) -> Result<Self, StoreError> {
        let mut found: Self = serde_json::from_slice(body).map_err(|_| {
            StoreError::new(StoreErrorKind::Corrupt, "an interaction is not as it was written")
        })?;
        found.seq = seq;
        Ok(found)
    }
}

/// Which numbers the log has: from `first` up to and without `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InteractionRange {
    pub(crate) first: u64,
    pub(crate) next: u64,
}

/// Where the log stands at a commit.
pub(crate) async fn range(core: &Core, stamp: Stamp) -> Result<InteractionRange, StoreError> {
    if let Some(range) = core.index.read().interactions {
        return Ok(range);
    }
    let end = async |scan: Scan| {
        let page = core.store.scan(scan).await?;
        if page.stamp != stamp {
            return Err(StoreError::new(
                StoreErrorKind::Conflict,
                "the user's data moved on, reload and try again",
            ));
        }
        Ok(page.value.records.first().map(|(head, _)| head.id.seq()))
    };
    let first = end(Scan::heads(Keyspace::Interactions, 1)).await?;
    let last = end(Scan::heads(Keyspace::Interactions, 1).reverse()).await?;
    let range = InteractionRange { first: first.unwrap_or(1), next: last.map_or(1, |last| last + 1) };
    let mut index = core.index.write();
    if index.stamp == stamp {
        index.interactions = Some(range);
    }
    Ok(range)
}

/// The record of an interaction.
pub(crate) fn record_id(seq: u64) -> Result<RecordId, StoreError> {
    RecordId::new(Bytes::new(), seq)
}

impl Core {
    /// Writes a read down, if reads are. `names` says what was read.
    pub(crate) async fn note_read(
        self: &Arc<Self>,
        by: Option<&AgentName>,
        action: Action,
        names: impl FnOnce() -> Vec<Arc<str>>,
    ) -> Result<()> {
        if self.config.interactions != InteractionLog::All {
            return Ok(());
        }
        let at = self.now(&self.index.read());
        let waiting = {
            let mut reads = self.reads.lock();
            reads.push(Interaction::new(at, by, action, names()));
            reads.len()
        };
        if waiting >= WAITING {
            return self.flush_reads().await;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !self.flush_due.swap(true, Ordering::AcqRel)
        {
            // It keeps nothing alive: what a mesh that is dropped has not written down yet is lost, as in a crash.
            runtime.spawn(flush_later(Due(Arc::downgrade(self))));
        }
        Ok(())
    }

    /// Writes down the reads that wait.
    pub(crate) async fn flush_reads(self: &Arc<Self>) -> Result<()> {
        let reads = std::mem::take(&mut *self.reads.lock());
        if reads.is_empty() {
            return Ok(());
        }
        let again = reads.clone();
        let written = writer::write(self, Change::Log(reads)).await.map(drop);
        if written.as_ref().is_err_and(|error| error.kind() == ErrorKind::Busy) {
            let mut reads = self.reads.lock();
            // Under the lock, so that what a retirement clears does not come back.
            if !self.retired.load(Ordering::Acquire) {
                reads.splice(..0, again);
                // Whose reads these are was told that they failed.
                reads.truncate(WAITING_MOST);
            }
        }
        written
    }
}

async fn flush_later(due: Due) {
    loop {
        tokio::time::sleep(DELAY).await;
        let Some(core) = due.0.upgrade() else { return };
        // Before the reads are taken, so that the next one starts another task.
        core.flush_due.store(false, Ordering::Release);
        let _ = core.flush_reads().await;
        // What could not be written down waits again.
        if core.reads.lock().is_empty() || core.flush_due.swap(true, Ordering::AcqRel) {
            return;
        }
    }
}

/// The task that writes reads down later. If it ends early (its runtime went away), the next read starts another.
struct Due(Weak<Core>);

impl Drop for Due {
    fn drop(&mut self) {
        if let Some(core) = self.0.upgrade() {
            core.flush_due.store(false, Ordering::Release);
        }
    }
}

impl Mesh {
    /// What agents and the host did, the newest first: at most 1,000, before a number.
    ///
    /// # Errors
    ///
    /// `Invalid` for a limit of 0 or over 1,000; `Gone`, `SessionEnded`, `Storage`; as every write where reads wait to be
    /// written down.
    pub async fn interactions(&self, before: Option<u64>, limit: usize) -> Result<Vec<Interaction>> {
        let reading = self.reading(None, syntha_store::Action::ReadInteractions);
        reading.admit(self.fresh().await).await?;
        if limit == 0 || limit > PAGE_MOST {
            return Err(Error::new(ErrorKind::Invalid, "a page has 1 to 1,000 of them"));
        }
        let _under_way = self.core.enter()?;
        self.core.flush_reads().await?;
        let scan = Scan::records(Keyspace::Interactions, limit).reverse();
        let scan = match before {
            Some(before) => scan.from(record_id(before.min(i64::MAX.unsigned_abs()))?),
            None => scan,
        };
        let page = self.core.store.scan(scan).await?.value;
        let decode = |(head, body): &(syntha_store::Head, Option<Bytes>)| {
            Interaction::decode(head.id.seq(), body.as_deref().unwrap_or_default())
        };
        let found = page.records.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        reading.saw(found.len(), 0).await?;
        Ok(found)
    }
}
