use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use syntha_store::{Action as Told, Rule};

use crate::change::{Change, Expected, Subscriptions};
use crate::decision::{Act, Decision, Known, On, Principal, decide};
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::index::Index;
use crate::interactions::{Action, InteractionLog};
use crate::life::Life;
use crate::listing::{Filter, TopicInfo, filtered, topics};
use crate::mesh::{Mesh, parse};
use crate::meters::Operation;
use crate::names::{AgentName, EntryKey, Topic};
use crate::narrow::Narrow;
use crate::push::{Batch, Push};
use crate::roster::AgentState;
use crate::thread::ThreadState;
use crate::watch::{Watch, WatchConfig};

/// An agent of one user: what it does is done in its name, and it sees only what it may.
///
/// The host mints it. Cheap to clone; it ends with the session that it came from.
#[derive(Clone)]
pub struct Agent {
    pub(crate) mesh: Mesh,
    pub(crate) name: AgentName,
    pub(crate) life: Life,
}

impl Agent {
    /// The agent's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Starts a write: any JSON value under a key, for everyone in the mesh unless agents or topics are named.
    ///
    /// Awaiting it fails with `Invalid` for a wrong name or a value that is no JSON, `LimitExceeded` for a value over the
    /// mesh's size, `Denied` for a topic that the agent may not post to and for a key that is taken by an entry which it
    /// can't see, `Conflict` for another version than expected, and as every write with `Busy`, `Unknown`, `Gone`,
    /// `SessionEnded` or `Storage`.
    pub fn push<K>(&self, key: K, value: impl Serialize) -> Push
    where
        K: TryInto<EntryKey>,
        Error: From<K::Error>,
    {
        Push::new(
            self.mesh.clone(),
            Some(self.name.clone()),
            self.life.clone(),
            key.try_into().map_err(Error::from),
            &value,
        )
    }

    /// Starts an atomic batch of several writes.
    pub fn batch(&self) -> Batch {
        Batch::new(self.mesh.clone(), Some(self.name.clone()), self.life.clone())
    }

    /// The value under a key; `None` if it is absent, expired or not for this agent: the three are one answer.
    ///
    /// # Errors
    ///
    /// `Invalid` if the value does not have the type that was asked for; `Gone`, `SessionEnded`, `Storage`.
    pub async fn get<T: DeserializeOwned>(&self, key: impl AsRef<str> + Send) -> Result<Option<T>> {
        match self.entry(key).await? {
            Some(entry) => entry.value().map(Some),
            None => Ok(None),
        }
    }

    /// The entry under a key, shared and not copied; `None` if it is absent, expired or not for this agent.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn entry(&self, key: impl AsRef<str> + Send) -> Result<Option<Arc<Entry>>> {
        let key = key.as_ref();
        let found = self.find(key).await;
        if self.mesh.tells_reads() {
            match &found {
                Ok(Some(entry)) => {
                    if let Some(pushed) = self.mesh.note_found(Some(&self.name), entry) {
                        Box::pin(self.mesh.core.note_slow(pushed)).await?;
                    }
                }
                other => {
                    let read = other.as_ref().map(Option::as_ref);
                    Box::pin(self.mesh.note_read(Some(&self.name), key, read)).await?;
                }
            }
        }
        let found = match found {
            // The trail knows better: to the agent absent and withheld are one answer.
            Err(error) if error.rule() == Some(Rule::Provenance) => None,
            found => found?,
        };
        if self.mesh.core.config.interactions == InteractionLog::All
            && let Some(entry) = &found
        {
            self.note(std::slice::from_ref(entry)).await?;
        }
        Ok(found)
    }

    async fn find(&self, key: &str) -> Result<Option<Arc<Entry>>> {
        self.mesh.current().await?;
        let core = &self.mesh.core;
        core.config.meters.count(Operation::Get);
        {
            let index = core.index.read();
            let own = self.life.bearer(self.name.as_str(), &index.roster)?;
            let found = index.get(key);
            let on = found.map_or(On::Key(key), |entry| On::Entry(entry));
            let decision = self.decide(own, Act::Read, on, &index);
            if !decision.allowed && decision.rule != Rule::Audience {
                // What has expired is absent.
                let there = found.is_some_and(|entry| core.lives(entry, &index));
                let absent = decision.hides() && !there;
                return if absent { Ok(None) } else { Err(decision.refusal(Act::Read, on)) };
            }
            match found {
                None if core.config.has(Fault::UndoShown) => {}
                None => return Ok(None),
                Some(entry) => {
                    if !decision.allowed || !core.lives(entry, &index) {
                        return Ok(None);
                    }
                    if entry.value.is_some() {
                        core.config.meters.hits.increment(1);
                        if !entry.used.load(std::sync::atomic::Ordering::Relaxed) {
                            entry.used.store(true, std::sync::atomic::Ordering::Relaxed);
                        }
                        return Ok(Some(Arc::clone(entry)));
                    }
                }
            }
        }
        #[cfg(feature = "faults")]
        if core.config.has(Fault::UndoShown) && core.index.read().get(key).is_none() {
            return crate::undo_lookup::leaked(core, key).await;
        }
        core.load(key, |entry, index| self.sees(entry, index)).await
    }

    /// The entries under several keys, in their order and as of one commit; absent and hidden ones are left out.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn get_many<K: AsRef<str> + Sync>(&self, keys: &[K]) -> Result<Vec<Arc<Entry>>> {
        let reading = self.mesh.reading(Some(&self.name), Told::Read);
        reading.admit(self.fresh().await).await?;
        let core = &self.mesh.core;
        core.config.meters.count(Operation::GetMany);
        let found = core.load_many(|index| {
            let own = self.own(index);
            let seen = |key: &K| {
                index.get(key.as_ref()).filter(|entry| self.may_see_now(own, entry, index)).cloned()
            };
            keys.iter().filter_map(seen).collect()
        });
        let found = reading.admit(found.await).await?;
        reading.saw_entries(&found).await?;
        self.note(&found).await?;
        Ok(found)
    }

    /// All entries that the agent can see and the filter wants, with their values, in order of keys and as of one commit.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn all(&self, filter: &Filter) -> Result<Vec<Arc<Entry>>> {
        let reading = self.mesh.reading(Some(&self.name), Told::Read);
        reading.admit(self.fresh().await).await?;
        let core = &self.mesh.core;
        core.config.meters.count(Operation::GetMany);
        let found = core.load_many(|index| {
            let own = self.own(index);
            filtered(index, filter, |entry| self.may_see_now(own, entry, index))
        });
        let found = reading.admit(found.await).await?;
        reading.saw_entries(&found).await?;
        self.note(&found).await?;
        Ok(found)
    }

    /// Writes down what was read, if that is asked for.
    async fn note(&self, entries: &[Arc<Entry>]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let keys = || entries.iter().map(|entry| Arc::clone(&entry.key)).collect();
        self.mesh.core.note_read(Some(&self.name), Action::Read, keys).await
    }

    /// The entries that the agent can see and the filter wants, in order of keys. Values are not loaded; their sizes are known.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn entries(&self, filter: &Filter) -> Result<Vec<Arc<Entry>>> {
        self.visible(filter).await
    }

    /// The keys that the agent can see and the filter wants, in order.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn keys(&self, filter: &Filter) -> Result<Vec<Arc<str>>> {
        Ok(self.visible(filter).await?.iter().map(|entry| Arc::clone(&entry.key)).collect())
    }

    /// Each key that the agent can see, in order, with the topics that the entry is on and the agent may read.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn keys_by_topic(&self) -> Result<Vec<(Arc<str>, Vec<Arc<str>>)>> {
        let entries = self.visible(&Filter::new()).await?;
        let index = self.mesh.core.index.read();
        let own = self.own(&index);
        let readable = |topic: &&Arc<str>| self.hears(own, topic, &index);
        let topics = |entry: &Entry| entry.audience.topics.iter().filter(readable).cloned().collect();
        Ok(entries.iter().map(|entry| (Arc::clone(&entry.key), topics(entry))).collect())
    }

    /// Removes an entry that the agent wrote; one that it sees and another wrote only as an admin or with a grant to delete there. Says
    /// whether it was there. The host can [undo](Mesh::undo) it for a time.
    ///
    /// # Errors
    ///
    /// As every write; `Denied` for an entry of another without that and if the host does not confirm it, `LimitExceeded` for an agent that
    /// has deleted much within the last minute, `Conflict` for another version than expected.
    pub async fn remove<K>(&self, key: K, expected: Option<Expected>) -> Result<bool>
    where
        K: TryInto<EntryKey>,
        Error: From<K::Error>,
    {
        let key = key.try_into()?;
        self.mesh.flag(self.by(Change::Remove { key, expected })).await
    }

    /// Subscribes to topics, besides those it has. It sees entries on them from now on, older ones too.
    ///
    /// # Errors
    ///
    /// As every write; `NotFound` for a topic that the agent may not read.
    pub async fn subscribe<T>(&self, topics: impl IntoIterator<Item = T>) -> Result<Subscriptions>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let (agent, topics) = (self.name.clone(), parse(topics)?);
        self.mesh.subscriptions(self.by(Change::Subscribe { agent, topics, replace: false })).await
    }

    /// Unsubscribes from topics. It no longer sees entries on them.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn unsubscribe<T>(&self, topics: impl IntoIterator<Item = T>) -> Result<Subscriptions>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let (agent, topics) = (self.name.clone(), parse(topics)?);
        self.mesh.subscriptions(self.by(Change::Unsubscribe { agent, topics })).await
    }

    /// The topics that the agent is subscribed to, in order.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn topics(&self) -> Result<Vec<Arc<str>>> {
        let reading = self.mesh.reading(Some(&self.name), Told::List).of(self.name.shared());
        reading.admit(self.fresh().await).await?;
        let topics = {
            let index = self.mesh.core.index.read();
            index.roster.get(self.name.as_str()).map(|state| state.topics.clone()).unwrap_or_default()
        };
        reading.saw(topics.len(), 0).await?;
        Ok(topics)
    }

    /// The topics of the mesh that the agent may read, the most popular first.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn discover(&self) -> Result<Vec<TopicInfo>> {
        let reading = self.mesh.reading(Some(&self.name), Told::List);
        reading.admit(self.fresh().await).await?;
        let core = &self.mesh.core;
        let topics = {
            let index = core.index.read();
            let own = self.own(&index);
            topics(&index, core.now(&index), |topic| self.hears(own, topic, &index))
        };
        reading.saw(topics.len(), 0).await?;
        Ok(topics)
    }

    /// Subscribes another agent to topics, as a moderator or with a grant to manage them. The other one need not be able to do it
    /// itself, but has to be registered and to be let read them.
    ///
    /// # Errors
    ///
    /// As every write; `Denied` without that, `NotFound` for an agent that there is not and a topic that it may not read.
    pub async fn subscribe_agent<N, T>(
        &self,
        other: N,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Subscriptions>
    where
        N: TryInto<AgentName>,
        T: TryInto<Topic>,
        Error: From<N::Error> + From<T::Error>,
    {
        let (agent, topics) = (other.try_into()?, parse(topics)?);
        self.mesh.subscriptions(self.by(Change::Subscribe { agent, topics, replace: false })).await
    }

    /// Unsubscribes another agent from topics, as a moderator or with a grant to manage them.
    ///
    /// # Errors
    ///
    /// As every write; `Denied` without that.
    pub async fn unsubscribe_agent<N, T>(
        &self,
        other: N,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Subscriptions>
    where
        N: TryInto<AgentName>,
        T: TryInto<Topic>,
        Error: From<N::Error> + From<T::Error>,
    {
        let (agent, topics) = (other.try_into()?, parse(topics)?);
        self.mesh.subscriptions(self.by(Change::Unsubscribe { agent, topics })).await
    }

    /// A handle of the same agent that may do only this, of what this one may. It ends as this one does, and so do clones of it.
    ///
    /// # Errors
    ///
    /// `LimitExceeded` for more than 64 names of a kind, and for a handle that was narrowed 16 times.
    pub fn narrow(&self, to: Narrow) -> Result<Self> {
        Ok(Self { mesh: self.mesh.clone(), name: self.name.clone(), life: self.life.narrow(to)? })
    }

    /// Deletes a topic: entries on it alone go, others lose it, subscribers lose it. The agent must be an admin or be granted to delete it.
    /// The host can [undo](Mesh::undo) it for a time.
    ///
    /// # Errors
    ///
    /// As every write; `Denied` without that and if the host does not confirm it, `LimitExceeded` for an agent that has deleted much within
    /// the last minute and for a topic with more than 10,000 entries or 32 MiB, which can't be kept for an undo, `NotFound` for a topic that nobody is subscribed to and nothing is on.
    pub async fn delete_topic<T>(&self, topic: T) -> Result<crate::TopicDeleted>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let topic = topic.try_into()?;
        self.mesh.topic_deleted(self.by(Change::DeleteTopic { topic })).await
    }

    /// What the agent can see, and then what changes for it, in the order of the commits.
    ///
    /// # Errors
    ///
    /// `Invalid` for a bound outside its range and outside a tokio runtime; `LimitExceeded` for more watches than the mesh
    /// takes; `Gone`, `SessionEnded`, `Storage`.
    pub async fn watch(&self, config: WatchConfig) -> Result<Watch> {
        let reading = self.mesh.reading(Some(&self.name), Told::Watch);
        reading.admit(self.fresh().await).await?;
        let watch = reading.admit(Watch::new(self.mesh.clone(), Some(self.clone()), config)).await?;
        reading.saw(1, 0).await?;
        Ok(watch)
    }

    /// A change that is refused if the agent is no longer the one that this handle was for.
    fn by(&self, change: Change) -> Change {
        Change::by(&self.name, &self.life, change)
    }

    /// The index is up to date, the agent is still the one that this handle was for, and may read something.
    pub(crate) async fn fresh(&self) -> Result<()> {
        self.fresh_of(On::Mesh).await
    }

    pub(crate) async fn fresh_of(&self, on: On<'_>) -> Result<()> {
        self.mesh.current().await?;
        let index = self.mesh.core.index.read();
        let own = self.life.bearer(self.name.as_str(), &index.roster)?;
        self.decide(own, Act::Read, on, &index).require(Act::Read, on)
    }

    /// Who this handle is to a decision.
    pub(crate) fn principal(&self) -> Principal<'_> {
        let narrowed = self.life.narrowed.as_deref();
        let agent = Some(self.name.as_str());
        Principal { agent, grants: self.mesh.guard.grants_for(agent), narrowed }
    }

    /// The agent's record, whichever life of its name it is of.
    fn own<'a>(&self, index: &'a Index) -> Option<&'a AgentState> {
        index.roster.get(self.name.as_str()).map(|state| &**state)
    }

    fn decide(&self, own: Option<&AgentState>, act: Act, on: On<'_>, index: &Index) -> Decision {
        let core = &self.mesh.core;
        let now = || core.now(index);
        let known = Known { own, now: &now, spent: false, confirmed: true, config: &core.config };
        decide(&self.principal(), act, on, &known)
    }

    fn hears(&self, own: Option<&AgentState>, topic: &str, index: &Index) -> bool {
        self.decide(own, Act::Read, On::Topic(topic), index).allowed
    }

    async fn visible(&self, filter: &Filter) -> Result<Vec<Arc<Entry>>> {
        let reading = self.mesh.reading(Some(&self.name), Told::List);
        reading.admit(self.fresh().await).await?;
        self.mesh.core.config.meters.count(Operation::List);
        let found = {
            let index = self.mesh.core.index.read();
            let own = self.own(&index);
            filtered(&index, filter, |entry| self.may_see_now(own, entry, &index))
        };
        reading.saw_entries(&found).await?;
        Ok(found)
    }

    fn may_see_now(&self, own: Option<&AgentState>, entry: &Entry, index: &Index) -> bool {
        self.decide(own, Act::Read, On::Entry(entry), index).allowed && self.mesh.core.lives(entry, index)
    }

    pub(crate) fn sees(&self, entry: &Entry, index: &Index) -> bool {
        self.decide(self.own(index), Act::Read, On::Entry(entry), index).allowed
    }

    /// Whether a thread is for the agent, as far as it may read threads.
    pub(crate) fn sees_thread(&self, name: &str, state: &ThreadState, index: &Index) -> bool {
        self.decide(self.own(index), Act::Read, On::Thread(name, Some(state)), index).allowed
    }
}

/// Shows no name.
impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}
