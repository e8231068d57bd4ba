//! What agents removed, and how the host brings it back.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syntha_store::{Action, Keyspace, Scan, Timestamp};

use crate::change::{Answer, Change};
use crate::error::{Error, ErrorKind, Result};
use crate::fault::Fault;
use crate::history::check_limit;
use crate::mesh::{Mesh, mismatch};
use crate::undo_record::{ACTS, ActBody, ActHead, Trace, act_record};

/// The longest time for which something can be undone.
pub const UNDO_WINDOW_MOST: Duration = Duration::from_secs(90 * 24 * 3600);

/// What is undone at once: one call of an agent. Later calls have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UndoId(pub(crate) u64);

impl UndoId {
    /// The number, below 2^63.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for UndoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for UndoId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| plain && i64::try_from(*number).is_ok());
        number
            .map(Self)
            .ok_or(Error::new(ErrorKind::Invalid, "an undo id is a number, take one from the list"))
    }
}

/// What an agent did that can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Deed {
    /// It removed an entry.
    Remove,
    /// It deleted a topic.
    DeleteTopic,
    /// It took subscriptions from another agent.
    Unsubscribe,
    /// It wrote over an entry.
    Overwrite,
    /// It did several of these in one batch.
    Batch,
}

/// Which entries are kept when an agent's push writes over them. Each costs a second record in the commit and counts in the usage for the
/// whole undo window: agents that write to the same keys all day would fill a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UndoOverwrites {
    /// None: a push over an entry is final.
    #[default]
    None,
    /// What another agent wrote, or the host.
    OfOthers,
    /// That, and what the agent wrote itself.
    All,
}

impl Deed {
    /// Its name, lower-case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::DeleteTopic => "delete-topic",
            Self::Unsubscribe => "unsubscribe",
            Self::Overwrite => "overwrite",
            Self::Batch => "batch",
        }
    }
}

/// One call of an agent that can be undone.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Undoable {
    /// What to give to [`Mesh::undo`].
    pub id: UndoId,
    /// The agent.
    pub by: Arc<str>,
    /// When it did it.
    pub at: Timestamp,
    /// When it can no longer be undone.
    pub until: Timestamp,
    /// What it did.
    pub did: Deed,
    /// To which key or topic, or to whose subscriptions; of a batch the first.
    pub on: Arc<str>,
    /// How many entries are kept; those that expired are no longer counted once they were swept.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// How many entries stayed and lost the topic.
    pub parted: u64,
    /// How many agents lost a subscription.
    pub subscribers: u64,
}

/// Shows no name.
impl fmt::Debug for Undoable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undoable")
            .field("id", &self.id)
            .field("did", &self.did)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

/// What can be undone, the latest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UndoPage {
    /// The calls.
    pub acts: Vec<Undoable>,
    /// Whether there are more.
    pub more: bool,
}

/// Where a removed entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UndoState {
    /// It would come back.
    Kept,
    /// It expired meanwhile: it does not come back.
    Expired,
    /// Something else is under its key now, so it can't come back.
    Taken,
    /// It was never away: it lost the topic.
    Parted,
}

/// An entry that an act removed, or took a topic from.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UndoKey {
    /// The key.
    pub key: Arc<str>,
    /// Where it stands now.
    pub state: UndoState,
}

/// Shows no key.
impl fmt::Debug for UndoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UndoKey").field("state", &self.state).finish_non_exhaustive()
    }
}

/// What an undo did.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Undone {
    /// Entries that are back as they were.
    pub entries: u64,
    /// Entries that expired meanwhile, and are gone.
    pub expired: u64,
    /// Entries that are on the topic again.
    pub rejoined: u64,
    /// Agents that have their subscriptions again.
    pub subscribers: u64,
    /// Entries that were changed or removed since and agents that are gone or full: they stay as they are.
    pub left: u64,
    pub(crate) keys: Vec<Arc<str>>,
    pub(crate) on: Option<Arc<str>>,
}

/// Shows no name.
impl fmt::Debug for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undone")
            .field("entries", &self.entries)
            .field("expired", &self.expired)
            .field("rejoined", &self.rejoined)
            .field("subscribers", &self.subscribers)
            .field("left", &self.left)
            .finish()
    }
}

impl Mesh {
    /// What agents did that can be undone, the latest first, at most `limit` (1 to 1,000) of it and only what came before `before`.
    /// For the host alone: no agent sees it.
    ///
    /// # Errors
    ///
    /// `Invalid` for a limit outside 1 to 1,000; `Denied` for a session that may not read; `Gone`, `SessionEnded`, `Storage`.
    pub async fn undo_list(&self, before: Option<UndoId>, limit: usize) -> Result<UndoPage> {
        check_limit(limit)?;
        let reading = self.reading(None, Action::List);
        reading.admit(self.fresh().await).await?;
        let page = reading.admit(self.acts(before, limit).await).await?;
        reading.saw(page.acts.len(), 0).await?;
        Ok(page)
    }

    async fn acts(&self, before: Option<UndoId>, limit: usize) -> Result<UndoPage> {
        let (mut page, mut from) = (UndoPage::default(), before.map(|id| act_record(id.0)).transpose()?);
        loop {
            let scan = Scan::heads(Keyspace::Undo, limit).name(ACTS).reverse();
            let found = self.core.store.scan(match from.take() {
                Some(id) => scan.from(id),
                None => scan,
            });
            let found = found.await?.value;
            from = found.next();
            for (head, _) in &found.records {
                let act = ActHead::decode(head)?;
                if !self.is_open(&act) {
                    continue;
                }
                if page.acts.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                page.acts.push(act.describe(head.id.seq()));
            }
            if from.is_none() {
                return Ok(page);
            }
        }
    }

    /// Whether an act can still be undone.
    fn is_open(&self, act: &ActHead) -> bool {
        let now = self.core.now(&self.core.index.read());
        now < act.until || self.core.config.has(Fault::UndoEndless)
    }

    /// The entries that an act removed or took a topic from, and where each stands; `None` if there is no such act, or it can no longer
    /// be undone. For the host alone.
    ///
    /// # Errors
    ///
    /// `Denied` for a session that may not read; `Gone`, `SessionEnded`, `Storage`.
    pub async fn undo_keys(&self, id: UndoId) -> Result<Option<Vec<UndoKey>>> {
        let reading = self.reading(None, Action::List);
        reading.admit(self.fresh().await).await?;
        let keys = reading.admit(self.keys_of(id).await).await?;
        reading.saw(keys.as_ref().map_or(0, Vec::len), 0).await?;
        Ok(keys)
    }

    async fn keys_of(&self, id: UndoId) -> Result<Option<Vec<UndoKey>>> {
        let read = self.core.store.read(Keyspace::Undo, &[act_record(id.0)?]).await?.value;
        let Some(record) = read.into_iter().next().flatten() else { return Ok(None) };
        if !self.is_open(&ActHead::decode(&record.head)?) {
            return Ok(None);
        }
        let body = ActBody::decode(&record.body)?;
        let mut keys = Vec::with_capacity(body.entries.len() + body.parted.len());
        for entry in body.entries {
            let state = match (&entry.over, self.is_there(&entry.key)) {
                _ if entry.gone || self.has_passed(entry.expires) => UndoState::Expired,
                (_, false) => UndoState::Kept,
                (None, true) => UndoState::Taken,
                (Some(over), true) => {
                    let there = self.core.load(&entry.key, |_, _| true).await?;
                    let same = there.is_none_or(|there| *over == Trace::of(&there));
                    if same { UndoState::Kept } else { UndoState::Taken }
                }
            };
            keys.push(UndoKey { key: entry.key, state });
        }
        let parted = body.parted.into_iter();
        keys.extend(parted.map(|one| UndoKey { key: one.key, state: UndoState::Parted }));
        Ok(Some(keys))
    }

    fn is_there(&self, key: &str) -> bool {
        let index = self.core.index.read();
        index.get(key).is_some_and(|entry| self.core.lives(entry, &index))
    }

    fn has_passed(&self, at: Option<Timestamp>) -> bool {
        at.is_some_and(|at| at <= self.core.now(&self.core.index.read()))
    }

    /// Undoes one call of an agent: what it removed is back as it was, value, author, audience, times and end, under a new version; the
    /// topic's entries and subscribers have the topic again. All or nothing, and once: the id is then used up.
    ///
    /// An entry does not come back that expired meanwhile. One that was changed or removed since, and only lost a topic, stays as it is;
    /// so does an agent that was unregistered.
    ///
    /// # Errors
    ///
    /// As every write; `NotFound` for an id that there is not, or whose time is over; `Conflict` if something else is under a key now:
    /// nothing is changed and all stays kept; [`undo_keys`](Self::undo_keys) says which, remove that and undo again. `Denied` for a session
    /// that may not write.
    pub async fn undo(&self, id: UndoId) -> Result<Undone> {
        match self.write(Change::Undo { id }).await? {
            Answer::Undone(undone) => Ok(*undone),
            _ => Err(mismatch()),
        }
    }

    /// Deletes what one call of an agent removed before its time: it can't be undone any more. Says whether there was something.
    ///
    /// # Errors
    ///
    /// As every write; `Denied` for a session that may not delete.
    pub async fn undo_purge(&self, id: UndoId) -> Result<bool> {
        Ok(self.count(Change::PurgeUndo { id: Some(id) }).await? > 0)
    }

    /// As [`undo_purge`](Self::undo_purge), of all that can be undone; says how many calls that were.
    ///
    /// # Errors
    ///
    /// As every write; `Denied` for a session that may not delete.
    pub async fn undo_purge_all(&self) -> Result<u64> {
        self.count(Change::PurgeUndo { id: None }).await
    }
}
