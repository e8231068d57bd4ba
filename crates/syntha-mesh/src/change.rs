use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use syntha_store::Version;

use crate::interactions::Interaction;
use crate::life::Life;
use crate::limits::{Exceeded, UserLimits};
use crate::load::{LoadReport, Loaded};
use crate::message::NewMessage;
use crate::names::{AgentName, EntryKey, OperationId, ThreadId, Topic};
use crate::session_grants::SessionGrants;
use crate::standing::Permit;
use crate::thread::Appended;
use crate::undo::{UndoId, Undone};

/// What an entry's version must be for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// There is no such entry.
    Absent,
    /// The entry has this version.
    Version(Version),
}

impl From<Version> for Expected {
    fn from(version: Version) -> Self {
        Self::Version(version)
    }
}

/// What became of an agent's subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscriptions {
    /// Topics whose subscription this call changed.
    pub changed: Vec<Arc<str>>,
    /// Topics for which there was nothing to change.
    pub unchanged: Vec<Arc<str>>,
    /// All of the agent's topics now, in order.
    pub topics: Vec<Arc<str>>,
}

/// What `delete_topic` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDeleted {
    /// Entries that were on this topic alone, and went.
    pub entries_deleted: u64,
    /// Entries that lost the topic and stayed.
    pub entries_kept: u64,
    /// Agents that were subscribed.
    pub subscribers: u64,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepReport {
    /// Expired entries and operation ids that were deleted, and what agents removed that can no longer be undone: its entries, and one
    /// for each of the calls.
    pub deleted: u64,
    /// The wall clock and the machine's own clock disagree by more than 60 s, so nothing was deleted.
    pub paused: bool,
}

/// Whose call an operation is, as far as its session goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// What the audit trail calls the session.
    pub(crate) session: Option<u64>,
    pub(crate) grants: SessionGrants,
}

impl Caller {
    /// The mesh itself: what it writes down on its own.
    pub(crate) const SELF: Self = Self { session: None, grants: SessionGrants::ALL };
}

impl Change {
    /// The agent whose handle it came from; `None` for the host's.
    pub(crate) fn agent(&self) -> Option<&str> {
        match self {
            Self::By { agent, .. } => Some(agent.as_str()),
            _ => None,
        }
    }
}

/// One operation for the writer.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Push(PushChange),
    Remove {
        key: EntryKey,
        expected: Option<Expected>,
    },
    Clear,
    Sweep {
        grace: Duration,
    },
    Register {
        agent: AgentName,
    },
    Unregister {
        agent: AgentName,
    },
    Subscribe {
        agent: AgentName,
        topics: Vec<Topic>,
        replace: bool,
    },
    Unsubscribe {
        agent: AgentName,
        topics: Vec<Topic>,
    },
    DeleteTopic {
        topic: Topic,
    },
    CreateThread {
        thread: ThreadId,
        /// `None` for everyone.
        agents: Option<Vec<AgentName>>,
    },
    Append {
        thread: ThreadId,
        messages: Vec<NewMessage>,
    },
    Redact {
        thread: ThreadId,
        seq: u64,
    },
    DeleteThread {
        thread: ThreadId,
    },
    /// Writes down what was read.
    Log(Vec<Interaction>),
    /// Writes down what waits for the audit trail.
    Flush,
    /// Writes what an export holds.
    Load(Vec<Loaded>),
    /// Brings back what an agent removed.
    Undo {
        id: UndoId,
    },
    /// Deletes what an agent removed, or all of it.
    PurgeUndo {
        id: Option<UndoId>,
    },
    PostPermissions {
        agent: AgentName,
        topics: Option<Vec<Topic>>,
    },
    ReadPermissions {
        agent: AgentName,
        topics: Option<Vec<Topic>>,
    },
    Permit {
        agent: AgentName,
        permit: Permit,
    },
    /// What the user is given to use; `None` takes it away.
    Limits(Option<Arc<UserLimits>>),
    Batch(Vec<Self>),
    /// A change by an agent's handle, for the life of the agent's name that the handle was for.
    By {
        agent: AgentName,
        life: Life,
        /// The host was asked and agreed to what it deletes.
        confirmed: bool,
        change: Box<Self>,
    },
}

#[derive(Clone)]
pub(crate) struct PushChange {
    pub(crate) key: EntryKey,
    pub(crate) text: Arc<str>,
    /// Why there is no text: it would have had more bytes than were allowed when it was written.
    pub(crate) too_large: Option<Exceeded>,
    pub(crate) by: Option<AgentName>,
    /// Whether agents and topics are the whole audience, also when there are none.
    pub(crate) restricted: bool,
    pub(crate) agents: Vec<AgentName>,
    pub(crate) topics: Vec<Topic>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) expected: Option<Expected>,
    pub(crate) operation: Option<OperationId>,
}

/// Shows no value: it may land in a log.
impl fmt::Debug for PushChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushChange").field("bytes", &self.text.len()).finish_non_exhaustive()
    }
}

/// What a change answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Pushed(Version),
    /// The operation was done before and wrote this version; nothing was written now.
    Repeated(Version),
    Flag(bool),
    Count(u64),
    Subscriptions(Subscriptions),
    TopicDeleted(TopicDeleted),
    Appended(Vec<Appended>),
    Loaded(LoadReport),
    Undone(Box<Undone>),
    /// What each operation of a batch answers.
    Batch(Vec<Self>),
}

impl Change {
    /// A change by an agent's handle.
    pub(crate) fn by(agent: &AgentName, life: &Life, change: Self) -> Self {
        Self::By { agent: agent.clone(), life: life.clone(), confirmed: false, change: Box::new(change) }
    }

    /// Bytes that it adds to a batch, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let topics = |list: &[Topic]| list.iter().map(|topic| topic.as_str().len() + 8).sum::<usize>();
        let agents = |list: &[AgentName]| list.iter().map(|agent| agent.as_str().len() + 8).sum::<usize>();
        match self {
            Self::Push(push) => {
                let names = agents(&push.agents) + topics(&push.topics);
                push.text.len() + push.key.as_str().len() + names + 256
            }
            Self::Batch(changes) => changes.iter().map(Self::bytes).sum(),
            Self::By { change, .. } => change.bytes(),
            Self::Append { messages, .. } => messages.iter().map(|message| message.body.len() + 512).sum(),
            Self::Log(events) => events.len() * 256,
            Self::Load(loaded) => loaded.iter().map(Loaded::bytes).sum(),
            Self::Subscribe { topics: list, .. } | Self::Unsubscribe { topics: list, .. } => {
                topics(list) + 256
            }
            Self::PostPermissions { topics: Some(list), .. }
            | Self::ReadPermissions { topics: Some(list), .. } => topics(list) + 256,
            Self::CreateThread { agents: Some(list), .. } => agents(list) + 256,
            _ => 256,
        }
    }

    /// How many operations it counts for in a batch.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Batch(changes) => changes.iter().map(Self::weight).sum(),
            Self::By { change, .. } => change.weight(),
            Self::Append { messages, .. } => messages.len(),
            // They can touch everything, so they go in a batch of their own.
            Self::Clear
            | Self::Sweep { .. }
            | Self::DeleteTopic { .. }
            | Self::Load(_)
            | Self::Undo { .. }
            | Self::PurgeUndo { .. } => usize::MAX / 4,
            _ => 1,
        }
    }
}
