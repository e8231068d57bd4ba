//! Threads of the conversation history: a handle on one, and what is kept of one.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use syntha_store::{
    Action as Told, Error as StoreError, ErrorKind as StoreErrorKind, Head, RecordId, Timestamp,
};

use crate::agent::Agent;
use crate::change::{Answer, Change};
use crate::decision::On;
use crate::entry::{Member, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::fault::Fault;
use crate::history::{self, MessagePage};
use crate::life::Life;
use crate::mesh::{Mesh, mismatch};
use crate::message::{HistoryMessage, Message, Unmade};
use crate::meters::Operation;
use crate::names::{AgentName, ThreadId};

/// The most messages of one append.
pub(crate) const APPEND_MOST: usize = 256;

/// A thread of the user's conversation history, as one agent or the host uses it. It need not exist yet: the first append
/// makes it, for everyone in the mesh.
///
/// Messages are appended and never changed. The host can redact one and delete a thread: see
/// [`Mesh::redact_message`](crate::Mesh::redact_message) and [`Mesh::delete_thread`](crate::Mesh::delete_thread).
#[derive(Clone)]
pub struct Thread {
    pub(crate) mesh: Mesh,
    pub(crate) by: Option<AgentName>,
    pub(crate) life: Life,
    pub(crate) id: ThreadId,
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The message's place in the thread.
    pub seq: u64,
    /// A message of the same id had been appended before, and nothing was written.
    pub duplicate: bool,
}

/// A thread, as lists show it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThreadInfo {
    /// The thread's name.
    pub thread: Arc<str>,
    /// Messages that are there, redacted ones left out.
    pub messages: u64,
    /// Bytes that it counts for in the user's history.
    pub bytes: u64,
    /// The place of the last message that was appended; 0 before the first.
    pub last: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When a message was last appended, redacted, or the thread was made.
    pub updated: Timestamp,
    /// The agents that it is for; `None` for everyone.
    pub agents: Option<Vec<Arc<str>>>,
}

/// Shows no name.
impl fmt::Debug for ThreadInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadInfo")
            .field("messages", &self.messages)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Thread {
    /// The thread's name.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// Makes the thread for everyone; says whether it is new.
    ///
    /// # Errors
    ///
    /// As every write; `Denied` if the name is taken by a thread that this agent can't see.
    pub async fn create(&self) -> Result<bool> {
        self.create_with(None).await
    }

    /// Makes the thread for these agents alone, besides the one that makes it; says whether it is new. One that is not
    /// registered is registered. An existing thread keeps its audience.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create); `LimitExceeded` for more than 64 agents; `Invalid` for a wrong name.
    pub async fn create_for<N>(&self, agents: impl IntoIterator<Item = N>) -> Result<bool>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        let agents: Result<Vec<_>> =
            agents.into_iter().map(|agent| agent.try_into().map_err(Error::from)).collect();
        self.create_with(Some(agents?)).await
    }

    async fn create_with(&self, agents: Option<Vec<AgentName>>) -> Result<bool> {
        let thread = self.id.clone();
        self.mesh.flag(self.own(Change::CreateThread { thread, agents })).await
    }

    /// Appends a message.
    ///
    /// # Errors
    ///
    /// As every write; `Invalid` for a wrong id, for content that is no JSON, and for an id that was used for another message;
    /// `LimitExceeded` for a message over the mesh's size of a value; `Denied` if the name is taken by a thread that this
    /// agent can't see.
    pub async fn append(&self, message: Message) -> Result<Appended> {
        let appended = self.append_all([message]).await?;
        appended.first().copied().ok_or_else(mismatch)
    }

    /// Appends messages in their order, all or none: at most 256.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append); `Invalid` for none, `LimitExceeded` for too many.
    pub async fn append_all(&self, messages: impl IntoIterator<Item = Message>) -> Result<Vec<Appended>> {
        self.append_as(messages, true).await
    }

    /// The same, said whether it counts against what the user may do a second.
    pub(crate) async fn append_as(
        &self,
        messages: impl IntoIterator<Item = Message>,
        counted: bool,
    ) -> Result<Vec<Appended>> {
        let (mut parsed, mut bytes) = (Vec::new(), 0_u64);
        for message in messages {
            if parsed.len() == APPEND_MOST {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    "an append has at most 256 messages, split it",
                ));
            }
            let message = message.content.map_err(Unmade::error)?;
            bytes = bytes.saturating_add(message.bytes());
            if bytes > syntha_store::BATCH_BYTES as u64 {
                return Err(Error::new(ErrorKind::LimitExceeded, "an append has at most 64 MiB, split it"));
            }
            parsed.push(message);
        }
        if parsed.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the append has no message"));
        }
        let thread = self.id.clone();
        let change = self.own(Change::Append { thread, messages: parsed });
        match self.mesh.write_as(change, counted).await? {
            Answer::Appended(appended) => Ok(appended),
            _ => Err(mismatch()),
        }
    }

    /// What the thread is; `None` if it is absent or not for this agent: the two are one answer.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn info(&self) -> Result<Option<ThreadInfo>> {
        let reading = self.mesh.reading(self.by.as_ref(), Told::List).of(self.id.shared());
        reading.admit(self.fresh().await).await?;
        let state = reading.admit(history::state(&self.mesh.core, &self.id).await).await?;
        let info = state.filter(|state| self.sees(state)).map(|state| state.info(self.id.shared()));
        reading.saw(usize::from(info.is_some()), 0).await?;
        Ok(info)
    }

    /// The last messages, oldest first: at most 1,000, and fewer where they have more than 4 MiB.
    ///
    /// # Errors
    ///
    /// `Invalid` for a count of 0 or over 1,000; `Gone`, `SessionEnded`, `Storage`.
    pub async fn last(&self, count: usize) -> Result<MessagePage> {
        self.page(None, true, count).await
    }

    /// The messages before a place, oldest first: the page before. Bounded as [`last`](Self::last) is.
    ///
    /// # Errors
    ///
    /// As [`last`](Self::last).
    pub async fn before(&self, seq: u64, count: usize) -> Result<MessagePage> {
        self.page(Some(seq), true, count).await
    }

    /// The messages after a place, oldest first, from the start with 0: the page after. Bounded as [`last`](Self::last) is.
    ///
    /// # Errors
    ///
    /// As [`last`](Self::last).
    pub async fn after(&self, seq: u64, count: usize) -> Result<MessagePage> {
        self.page(Some(seq), false, count).await
    }

    /// One message; `None` if it is absent, redacted, or in a thread that is not for this agent.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn message(&self, seq: u64) -> Result<Option<HistoryMessage>> {
        let Some(before) = seq.checked_sub(1) else { return Ok(None) };
        let page = self.after(before, 1).await?;
        Ok(page.messages.into_iter().next().filter(|message| message.seq() == seq))
    }

    async fn page(&self, from: Option<u64>, reverse: bool, count: usize) -> Result<MessagePage> {
        let reading = self.mesh.reading(self.by.as_ref(), Told::ReadThread).of(self.id.shared());
        reading.admit(self.fresh().await).await?;
        self.mesh.core.config.meters.count(Operation::ReadThread);
        let page = history::page(&self.mesh.core, &self.id, from, reverse, count, |state| self.sees(state));
        let page = reading.admit(page.await).await?;
        let bytes = page.messages.iter().map(|message| message.content_json().len() as u64).sum();
        reading.saw(page.messages.len(), bytes).await?;
        if !page.messages.is_empty() {
            let names = || vec![Arc::clone(self.id.shared())];
            self.mesh
                .core
                .note_read(self.by.as_ref(), crate::interactions::Action::ReadThread, names)
                .await?;
        }
        Ok(page)
    }

    fn sees(&self, state: &ThreadState) -> bool {
        let index = self.mesh.core.index.read();
        self.reader().is_none_or(|agent| {
            agent.sees_thread(self.id.as_str(), state, &index)
                || self.mesh.core.config.has(Fault::ThreadAudienceIgnored)
        })
    }

    /// The agent whose handle this is; `None` for the host.
    fn reader(&self) -> Option<Agent> {
        let (mesh, life) = (self.mesh.clone(), self.life.clone());
        self.by.clone().map(|name| Agent { mesh, name, life })
    }

    fn own(&self, change: Change) -> Change {
        match &self.by {
            Some(agent) => Change::by(agent, &self.life, change),
            None => change,
        }
    }

    async fn fresh(&self) -> Result<()> {
        match self.reader() {
            Some(agent) => agent.fresh_of(On::Thread(self.id.as_str(), None)).await,
            None => self.mesh.fresh().await,
        }
    }
}

/// Shows no name.
impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

impl Mesh {
    /// A thread of the history, as the host uses it.
    ///
    /// # Errors
    ///
    /// `Invalid` for a text that is no [`ThreadId`].
    pub fn thread<T>(&self, thread: T) -> Result<Thread>
    where
        T: TryInto<ThreadId>,
        Error: From<T::Error>,
    {
        Ok(Thread { mesh: self.clone(), by: None, life: Life::default(), id: thread.try_into()? })
    }

    /// Threads after one of them, at most 1,000, in an order of the store's own: the same for every page, by name unless names are sealed.
    ///
    /// # Errors
    ///
    /// `Invalid` for a limit of 0 or over 1,000; `Gone`, `SessionEnded`, `Storage`.
    pub async fn threads(&self, after: Option<&str>, limit: usize) -> Result<Vec<ThreadInfo>> {
        let reading = self.reading(None, Told::List);
        reading.admit(self.fresh().await).await?;
        let threads = reading.admit(history::threads(&self.core, after, limit, |_, _| true).await).await?;
        reading.saw(threads.len(), 0).await?;
        Ok(threads)
    }

    /// Takes one message out of a thread; says whether it was there. Its place stays empty and its id stays used.
    ///
    /// # Errors
    ///
    /// As every write; `Invalid` for a text that is no thread.
    pub async fn redact_message<T>(&self, thread: T, seq: u64) -> Result<bool>
    where
        T: TryInto<ThreadId>,
        Error: From<T::Error>,
    {
        let thread = thread.try_into()?;
        self.flag(Change::Redact { thread, seq }).await
    }

    /// Deletes a thread with all its messages and ids; says whether it was there.
    ///
    /// # Errors
    ///
    /// As every write; `Invalid` for a text that is no thread.
    pub async fn delete_thread<T>(&self, thread: T) -> Result<bool>
    where
        T: TryInto<ThreadId>,
        Error: From<T::Error>,
    {
        let thread = thread.try_into()?;
        self.flag(Change::DeleteThread { thread }).await
    }
}

impl Agent {
    /// A thread of the history, as this agent uses it: what it appends is in its name, and it sees threads that are for it.
    ///
    /// # Errors
    ///
    /// `Invalid` for a text that is no [`ThreadId`].
    pub fn thread<T>(&self, thread: T) -> Result<Thread>
    where
        T: TryInto<ThreadId>,
        Error: From<T::Error>,
    {
        let (mesh, by, life) = (self.mesh.clone(), Some(self.name.clone()), self.life.clone());
        Ok(Thread { mesh, by, life, id: thread.try_into()? })
    }

    /// Threads that are for this agent, after one of them, at most 1,000, in an order of the store's own: the same for every page, by
    /// name unless names are sealed.
    ///
    /// # Errors
    ///
    /// `Invalid` for a limit of 0 or over 1,000; `Gone`, `SessionEnded`, `Storage`.
    pub async fn threads(&self, after: Option<&str>, limit: usize) -> Result<Vec<ThreadInfo>> {
        let reading = self.mesh.reading(Some(&self.name), Told::List);
        reading.admit(self.fresh_of(On::Threads).await).await?;
        let core = &self.mesh.core;
        let sees = |name: &str, state: &ThreadState| self.sees_thread(name, state, &core.index.read());
        let threads = reading.admit(history::threads(core, after, limit, sees).await).await?;
        reading.saw(threads.len(), 0).await?;
        Ok(threads)
    }
}

/// Everything about a thread but its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ThreadState {
    pub(crate) audience: Parts,
    pub(crate) by: Option<Member>,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) last: u64,
    /// An import is still filling it, and has come to this place: messages after it may be missing.
    pub(crate) filled: Option<u64>,
    /// Random, new for each life of the name. Keys the places of message ids, which stay visible where names are sealed.
    pub(crate) salt: u128,
}

/// What a record's head holds, as JSON. Version 1.
#[derive(Serialize, Deserialize)]
struct StoredHead {
    v: u8,
    by: Option<Member>,
    at: u64,
    up: u64,
    to: Parts,
    count: u64,
    bytes: u64,
    last: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filled: Option<u64>,
}

/// What a record's body holds, as JSON.
#[derive(Serialize, Deserialize)]
struct StoredBody {
    salt: String,
}

impl ThreadState {
    /// Whether it is for an agent in a life of its name.
    pub(crate) fn is_for(&self, agent: &str, life: Option<u64>) -> bool {
        self.audience.names(agent, life) || self.by.as_ref().is_some_and(|by| by.lives_as(agent, life))
    }

    pub(crate) fn info(&self, thread: &Arc<str>) -> ThreadInfo {
        let names = || self.audience.agents.iter().map(|member| Arc::clone(&member.name)).collect();
        ThreadInfo {
            thread: Arc::clone(thread),
            messages: self.messages,
            bytes: self.bytes,
            last: self.last,
            created: self.created,
            updated: self.updated,
            agents: (!self.audience.everyone).then(names),
        }
    }

    pub(crate) fn encode_head(&self) -> Result<Bytes> {
        let head = StoredHead {
            v: 1,
            by: self.by.clone(),
            at: self.created.0,
            up: self.updated.0,
            to: self.audience.clone(),
            count: self.messages,
            bytes: self.bytes,
            last: self.last,
            filled: self.filled,
        };
        let text = serde_json::to_vec(&head)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the thread's head can't be written as JSON"))?;
        if text.len() > syntha_store::HEAD_BYTES {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "the thread's agents have names of more than 4 KiB, name fewer",
            ));
        }
        Ok(text.into())
    }

    /// Refuses names for which the head has no room, also once its numbers have grown: a thread that was made takes messages.
    pub(crate) fn check_names(&self) -> Result<()> {
        let (most, at) = (u64::MAX, Timestamp(u64::MAX));
        let grown =
            Self { updated: at, messages: most, bytes: most, last: most, filled: Some(most), ..self.clone() };
        grown.encode_head().map(drop)
    }

    pub(crate) fn encode_body(&self) -> Result<Bytes> {
        serde_json::to_vec(&StoredBody { salt: format!("{:032x}", self.salt) })
            .map(Bytes::from)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the thread can't be written as JSON"))
    }

    /// The state without its salt, which stands in the body.
    pub(crate) fn decode_head(head: &Head) -> Result<Self, StoreError> {
        let stored: StoredHead = serde_json::from_slice(&head.head).map_err(|_| corrupt())?;
        if stored.v != 1 {
            return Err(StoreError::new(StoreErrorKind::Unsupported, "a thread has a newer format, upgrade"));
        }
        Ok(Self {
            audience: stored.to,
            by: stored.by,
            created: Timestamp(stored.at),
            updated: Timestamp(stored.up),
            messages: stored.count,
            bytes: stored.bytes,
            last: stored.last,
            filled: stored.filled,
            salt: 0,
        })
    }

    pub(crate) fn decode(head: &Head, body: &[u8]) -> Result<Self, StoreError> {
        let stored: StoredBody = serde_json::from_slice(body).map_err(|_| corrupt())?;
        let salt = u128::from_str_radix(&stored.salt, 16).map_err(|_| corrupt())?;
        Ok(Self { salt, ..Self::decode_head(head)? })
    }
}

/// The record of a thread.
pub(crate) fn record_id(thread: &str) -> Result<RecordId, StoreError> {
    RecordId::new(Bytes::copy_from_slice(thread.as_bytes()), 0)
}

/// The record of a message.
pub(crate) fn message_record(thread: &str, seq: u64) -> Result<RecordId, StoreError> {
    RecordId::new(Bytes::copy_from_slice(thread.as_bytes()), seq)
}

const fn corrupt() -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, "a thread is not as it was written")
}
