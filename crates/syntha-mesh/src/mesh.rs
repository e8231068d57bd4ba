use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use syntha_store::{Action, Event, Rule, Stamp, Usage, UserStore};

use crate::agent::Agent;
use crate::bounds::Bounds;
use crate::change::{Answer, Caller, Change, Subscriptions, SweepReport, TopicDeleted};
use crate::config::MeshConfig;
use crate::core::Core;
use crate::decision::{Act, Known, On, Principal, decide};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::events;
use crate::fault::Fault;
use crate::guard::Guard;
use crate::index::Index;
use crate::life::Life;
use crate::limits::Effective;
use crate::listing::{Filter, Stats, TopicInfo, filtered, topics};
use crate::meters::Operation;
use crate::names::{AgentName, EntryKey, Topic};
use crate::push::{Batch, Push};
use crate::request;
use crate::trail::{self, Trail};
use crate::undo::UNDO_WINDOW_MOST;
use crate::watch::{Watch, WatchConfig};
use crate::watchers::Watchers;
use crate::writer::{self, Writer};

/// One user's mesh. Cheap to clone; all clones are the same mesh.
///
/// No call names a user: the mesh is bound to one when it is opened. This handle is the host's, and sees everything of
/// its user; an agent gets an [`Agent`].
pub struct Mesh {
    pub(crate) core: Arc<Core>,
    pub(crate) guard: Guard,
    /// The handle that the mesh was opened with, which alone may end it.
    owner: bool,
}

/// What a mesh must know of the store that it is opened on. From a `bool`: whether it is [exclusive](Self::exclusive), and not
/// [audited](Self::audited).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Opening {
    exclusive: bool,
    audited: bool,
}

impl Opening {
    /// A store that other handles write to as well, and that keeps no audit trail.
    pub const fn new() -> Self {
        Self { exclusive: false, audited: false }
    }

    /// No other handle writes to this user while the mesh is open, so reads come from memory alone. Without it each read asks the
    /// store first whether something changed.
    pub const fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// The store keeps an audit trail, as its capabilities say, and is told what is done: see [`AuditPolicy`](crate::AuditPolicy).
    pub const fn audited(mut self, audited: bool) -> Self {
        self.audited = audited;
        self
    }
}

impl From<bool> for Opening {
    fn from(exclusive: bool) -> Self {
        Self::new().exclusive(exclusive)
    }
}

impl Mesh {
    /// Opens the mesh of the user that the store handle is bound to. `how` says of the store what its handles don't: for one that
    /// nobody else writes to and that keeps no audit trail, `true`.
    ///
    /// # Errors
    ///
    /// `Storage` or `Gone` if the user's data can't be read; `Invalid` for an undo window over 90 days.
    pub async fn open(
        store: Arc<dyn UserStore>,
        how: impl Into<Opening> + Send,
        config: impl Into<Arc<MeshConfig>> + Send,
    ) -> Result<Self> {
        let (config, Opening { exclusive, audited }) = (config.into(), how.into());
        if config.undo_window > UNDO_WINDOW_MOST {
            return Err(Error::new(
                ErrorKind::Invalid,
                "an undo window is at most 90 days, set a shorter one",
            ));
        }
        let trail = Trail::new(audited, &config);
        let index = Index::load(&*store, config.cache_bytes).await?.within(config.budget.as_ref());
        let opened = (config.clock.wall(), config.clock.boot());
        let bounds = Bounds::new(&Effective::of(&config, index.limits.as_deref()));
        let core = Core {
            bounds,
            #[cfg(feature = "faults")]
            handled: Mutex::new(index.usage),
            store,
            index: RwLock::new(index),
            writer: Writer::default(),
            watchers: Watchers::default(),
            config,
            gate: tokio::sync::Mutex::default(),
            reads: Mutex::default(),
            flush_due: AtomicBool::new(false),
            trail,
            spent: Mutex::default(),
            exclusive,
            retired: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            opened,
        };
        Ok(Self { core: Arc::new(core), guard: Guard::none(), owner: true })
    }

    /// The same mesh for another session: its handles end when the guard's session does, or this handle's own.
    #[must_use]
    pub fn guarded(&self, guard: Guard) -> Self {
        #[cfg(feature = "faults")]
        let guard = match self.core.config.fault {
            Some(Fault::BoundIgnored) => guard.unbound(),
            Some(Fault::StandingIgnored) => guard.unasked(),
            _ => guard,
        };
        Self { core: Arc::clone(&self.core), guard: guard.within(&self.guard), owner: false }
    }

    /// Ends every handle of this mesh, whoever holds it, and forgets what it kept in memory: the user was erased or
    /// restored. Calls are `Gone` from now on. Only a handle that no session was given can do it; says whether it did.
    pub fn retire(&self) -> bool {
        if self.owner {
            self.core.retire();
        }
        self.owner
    }

    /// Stops this mesh's commits, also of what only its audit trail is told, until what is given back is dropped: for whoever puts other data in the
    /// place of the user's. A commit that is under way is waited for; writes wait, those that the writer has taken already beyond their deadline as
    /// `Unknown`. Only a handle that no session was given can do it: `None` for others.
    pub async fn hold(&self) -> Option<Hold<'_>> {
        if !self.owner {
            return None;
        }
        Some(Hold { _gate: self.core.gate.lock().await })
    }

    pub(crate) const fn is_owner(&self) -> bool {
        self.owner
    }

    /// Whether the mesh was ended.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.core.retired.load(Ordering::Acquire)
    }

    /// Whether somebody else holds a handle of this mesh, or a write is under way.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.core) > 1
    }

    /// A handle for an agent. The agent is registered with its first write.
    ///
    /// # Errors
    ///
    /// `Invalid` for a text that is no [`AgentName`].
    pub fn agent<N>(&self, name: N) -> Result<Agent>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        let (name, life) = (name.try_into()?, Life::default());
        life.bind(name.as_str(), &self.core.index.read().roster)?;
        Ok(Agent { mesh: self.clone(), name, life })
    }

    /// Starts a write by the host: it is bound by no agent's permissions.
    pub fn push<K>(&self, key: K, value: impl serde::Serialize) -> Push
    where
        K: TryInto<EntryKey>,
        Error: From<K::Error>,
    {
        Push::new(self.clone(), None, Life::default(), key.try_into().map_err(Error::from), &value)
    }

    /// Starts an atomic batch of several writes by the host.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone(), None, Life::default())
    }

    /// Removes an entry, whoever sees it. Says whether it was there. What the host does is final.
    ///
    /// # Errors
    ///
    /// As every write: `Busy`, `Unknown`, `Gone`, `SessionEnded`, `Storage`.
    pub async fn remove<K>(&self, key: K) -> Result<bool>
    where
        K: TryInto<EntryKey>,
        Error: From<K::Error>,
    {
        let key = key.try_into()?;
        self.flag(Change::Remove { key, expected: None }).await
    }

    /// Removes every entry and says how many. What can be [undone](Self::undo) goes too. Agents, topics and permissions stay.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn clear(&self) -> Result<u64> {
        self.count(Change::Clear).await
    }

    /// Deletes entries that expired more than the grace ago, and what could be undone up to then. They were invisible already.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn sweep(&self) -> Result<SweepReport> {
        let grace = self.core.config.sweep_grace;
        if let Err(error) = self.check() {
            return Err(self.refused(&Change::Sweep { grace }, error).await);
        }
        if self.core.clock_is_off() {
            self.core.note_all(events::paused(self.doer(None))).await?;
            return Ok(SweepReport { deleted: 0, paused: true });
        }
        let deleted = self.count(Change::Sweep { grace }).await?;
        Ok(SweepReport { deleted, paused: false })
    }

    /// How many entries are stored and not expired.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn size(&self) -> Result<u64> {
        Ok(self.stats().await?.active)
    }

    /// What the mesh holds.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn stats(&self) -> Result<Stats> {
        let reading = self.reading(None, Action::List);
        reading.admit(self.fresh().await).await?;
        let stats = self.count_up();
        reading.saw(1, 0).await?;
        Ok(stats)
    }

    fn count_up(&self) -> Stats {
        let index = self.core.index.read();
        let now = self.core.now(&index);
        let mut stats = Stats {
            entries: index.len() as u64,
            kept: index.usage.contexts.saturating_sub(index.len() as u64),
            bytes: index.usage.context_bytes,
            ..Stats::default()
        };
        for entry in index.entries() {
            if entry.is_live(|| now) {
                stats.active += 1;
                stats.global += u64::from(entry.audience.everyone);
                stats.private +=
                    u64::from(!entry.audience.agents.is_empty() && entry.audience.topics.is_empty());
            } else {
                stats.expired += 1;
            }
        }
        stats.agents = index.roster.len() as u64;
        stats.agents_with_topics =
            index.roster.values().filter(|state| !state.topics.is_empty()).count() as u64;
        stats.topics = topics(&index, now, |_| true).len() as u64;
        stats
    }

    /// Topics with a subscriber or an active entry, the most popular first.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let reading = self.reading(None, Action::List);
        reading.admit(self.fresh().await).await?;
        let topics = {
            let index = self.core.index.read();
            topics(&index, self.core.now(&index), |_| true)
        };
        reading.saw(topics.len(), 0).await?;
        Ok(topics)
    }

    /// Registered agents, in order of their names.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn agents(&self) -> Result<Vec<Arc<str>>> {
        let reading = self.reading(None, Action::List);
        reading.admit(self.fresh().await).await?;
        let mut names: Vec<_> = self.core.index.read().roster.keys().cloned().collect();
        names.sort_unstable();
        reading.saw(names.len(), 0).await?;
        Ok(names)
    }

    /// Agents that are subscribed to a topic, in order of their names.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`; `Invalid` for a text that is no topic.
    pub async fn subscribers<T>(&self, topic: T) -> Result<Vec<Arc<str>>>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let topic = topic.try_into()?;
        let reading = self.reading(None, Action::List).of(topic.shared());
        reading.admit(self.fresh().await).await?;
        let mut names: Vec<_> = {
            let index = self.core.index.read();
            let subscribed = index.roster.iter().filter(|(_, state)| state.topics.contains(topic.shared()));
            subscribed.map(|(name, _)| Arc::clone(name)).collect()
        };
        names.sort_unstable();
        reading.saw(names.len(), 0).await?;
        Ok(names)
    }

    /// Every stored entry that is not expired, in order of keys, without regard to audiences: the host's own view.
    /// Values are not loaded; [`value`](Self::value) reads one.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn entries(&self, filter: &Filter) -> Result<Vec<Arc<Entry>>> {
        let reading = self.reading(None, Action::List);
        reading.admit(self.fresh().await).await?;
        self.core.config.meters.count(Operation::List);
        let found = {
            let index = self.core.index.read();
            let now = self.core.now(&index);
            filtered(&index, filter, |entry| entry.is_live(|| now))
        };
        reading.saw_entries(&found).await?;
        Ok(found)
    }

    /// An entry with its value, without regard to audiences: the host's own view.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`; `Invalid` for a text that is no key.
    pub async fn value<K>(&self, key: K) -> Result<Option<Arc<Entry>>>
    where
        K: TryInto<EntryKey>,
        Error: From<K::Error>,
    {
        let key = key.try_into()?;
        let found = self.find(&key).await;
        if self.tells_reads() {
            self.note_read(None, key.as_str(), found.as_ref().map(Option::as_ref)).await?;
        }
        found
    }

    async fn find(&self, key: &EntryKey) -> Result<Option<Arc<Entry>>> {
        self.fresh().await?;
        self.core.config.meters.count(Operation::Get);
        self.core.load(key.as_str(), |_, _| true).await
    }

    /// Registers an agent; says whether it is new.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn register_agent<N>(&self, name: N) -> Result<bool>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        let agent = name.try_into()?;
        self.flag(Change::Register { agent }).await
    }

    /// Forgets an agent, its subscriptions and permissions; says whether it was there. An agent of that name that is
    /// registered later is another one: it does not see what was addressed to this one.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn unregister_agent<N>(&self, name: N) -> Result<bool>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        let agent = name.try_into()?;
        self.flag(Change::Unregister { agent }).await
    }

    /// Replaces an agent's subscriptions, and registers it.
    ///
    /// # Errors
    ///
    /// As every write; `NotFound` for a topic that the agent may not read.
    pub async fn register_agent_topics<N, T>(
        &self,
        name: N,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Subscriptions>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error> + From<T::Error>,
        T: TryInto<Topic>,
    {
        let agent = name.try_into()?;
        let topics = parse(topics)?;
        self.subscriptions(Change::Subscribe { agent, topics, replace: true }).await
    }

    /// Deletes a topic: entries on it alone go, others lose it, subscribers lose it.
    ///
    /// # Errors
    ///
    /// As every write; `NotFound` for a topic that nobody is subscribed to and nothing is on.
    pub async fn delete_topic<T>(&self, topic: T) -> Result<TopicDeleted>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let topic = topic.try_into()?;
        self.topic_deleted(Change::DeleteTopic { topic }).await
    }

    pub(crate) async fn topic_deleted(&self, change: Change) -> Result<TopicDeleted> {
        match self.write(change).await? {
            Answer::TopicDeleted(report) => Ok(report),
            _ => Err(mismatch()),
        }
    }

    /// Sets the topics that an agent may post to; `None` for any.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn set_post_permissions<N>(&self, name: N, topics: Option<Vec<Topic>>) -> Result<()>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        let agent = name.try_into()?;
        self.write(Change::PostPermissions { agent, topics }).await.map(drop)
    }

    /// Sets the topics that an agent may subscribe to and hear; `None` for any.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn set_read_permissions<N>(&self, name: N, topics: Option<Vec<Topic>>) -> Result<()>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        let agent = name.try_into()?;
        self.write(Change::ReadPermissions { agent, topics }).await.map(drop)
    }

    /// The topics that an agent may post to; `None` for any.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn post_permissions<N>(&self, name: N) -> Result<Option<Vec<Arc<str>>>>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        let agent = name.try_into()?;
        let reading = self.reading(None, Action::List).of(agent.shared());
        reading.admit(self.fresh().await).await?;
        let post = self.core.index.read().roster.get(agent.as_str()).and_then(|state| state.post.clone());
        reading.saw(1, 0).await?;
        Ok(post)
    }

    /// Where the user's data stands and what it adds up to: [`usage_report`](Self::usage_report) says of how much. It does not count as a
    /// call of [`Limit::Operations`](crate::Limit::Operations).
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn usage(&self) -> Result<(Stamp, Usage)> {
        let reading = self.reading(None, Action::List);
        reading.admit(self.fresh_uncounted(Act::Read).await).await?;
        let usage = {
            let index = self.core.index.read();
            (index.stamp, index.usage)
        };
        reading.saw(1, 0).await?;
        Ok(usage)
    }

    /// What changes from now on, whoever it is for: the host's own view. [`Agent::watch`] gives an agent its own.
    ///
    /// # Errors
    ///
    /// `Invalid` for a bound outside its range and outside a tokio runtime; `LimitExceeded` for more watches than the mesh
    /// takes; `Gone`, `SessionEnded`, `Storage`.
    pub async fn watch(&self, config: WatchConfig) -> Result<Watch> {
        let reading = self.reading(None, Action::Watch);
        reading.admit(self.fresh().await).await?;
        let watch = reading.admit(Watch::new(self.clone(), None, config)).await?;
        reading.saw(1, 0).await?;
        Ok(watch)
    }

    pub(crate) async fn write(&self, change: Change) -> Result<Answer> {
        // An import counts where it begins, and what the host gives the user is no call of the user's.
        let counted = !matches!(change, Change::Load(_) | Change::Limits(_));
        self.write_as(change, counted).await
    }

    /// The same, said whether it counts against what the user may do a second.
    pub(crate) async fn write_as(&self, change: Change, counted: bool) -> Result<Answer> {
        let (operation, since) = (change.operation(), Instant::now());
        let result = self.write_unmetered(change, counted).await;
        self.core.config.meters.wrote(operation, since, &result);
        result
    }

    async fn write_unmetered(&self, mut change: Change, counted: bool) -> Result<Answer> {
        let caller = Caller { session: self.guard.session(), grants: self.guard.grants_for(change.agent()) };
        if let Err(error) = self.may_write(&change) {
            return Err(self.refused(&change, error).await);
        }
        if counted && let Err(error) = self.core.ask() {
            // Told without a wait: who is refused for being too fast is not to make the trail slow.
            self.core.failed(&change, caller, &error);
            return Err(error);
        }
        #[cfg(feature = "faults")]
        if self.core.config.has(Fault::LimitEarly)
            && let Err(error) = crate::limit_draft::foresee(&self.core, &change)
        {
            return Err(self.refused(&change, error).await);
        }
        if let Err(error) = self.confirm(caller, &mut change).await {
            return Err(self.refused(&change, error).await);
        }
        let Change::By { agent, life, .. } = &change else {
            return writer::write_in(&self.core, change, caller, Some(self.guard.clone())).await;
        };
        let (agent, life) = (agent.clone(), life.clone());
        let answer = writer::write_in(&self.core, change, caller, Some(self.guard.clone())).await?;
        // The write may have registered the agent. If it was unregistered again already, the next call says so.
        let _ = life.bind(agent.as_str(), &self.core.index.read().roster);
        Ok(answer)
    }

    fn may_write(&self, change: &Change) -> Result<()> {
        self.check()?;
        let Change::By { agent, life, .. } = change else { return Ok(()) };
        life.bind(agent.as_str(), &self.core.index.read().roster)
    }

    /// Asks the host before an agent deletes what is not its own, if it wants to be asked.
    async fn confirm(&self, caller: Caller, change: &mut Change) -> Result<()> {
        let config = &self.core.config;
        if config.has(Fault::DecisionEarly) {
            request::foresee(&self.core, caller, change)?;
        }
        let (Some(host), Change::By { .. }) = (&config.confirmation, &*change) else { return Ok(()) };
        for what in request::foresee(&self.core, caller, change)? {
            if !host.confirm(&what).await {
                return Err(
                    Error::new(ErrorKind::Denied, "the host did not confirm that").by(Rule::Confirmation)
                );
            }
            if let Change::By { confirmed, .. } = change {
                *confirmed = true;
            }
        }
        Ok(())
    }

    /// Tells the audit trail of a write that did not get as far as the writer.
    pub(crate) async fn refused(&self, change: &Change, error: Error) -> Error {
        if self.core.trail.is_none() || self.is_retired() {
            return error;
        }
        match self.core.note_all(events::refused(self.doer(None), change, &error)).await {
            Ok(()) => error,
            Err(unavailable) => unavailable,
        }
    }

    /// Tells the audit trail of something that was done outside of this mesh, as it is told of a read: for the host's own events, like
    /// the beginning and the end of a session. Nothing happens where no trail is told. An event without a session gets this handle's,
    /// and one of time 0 the present.
    ///
    /// # Errors
    ///
    /// `AuditUnavailable` if it has to wait and can't be written down in time; `Gone`.
    pub async fn note_event(&self, mut event: Event) -> Result<()> {
        event.session = event.session.or(self.guard.session());
        self.core.note(event).await
    }

    /// Writes down what still waits for the audit trail: before the mesh is [retired](Self::retire) or the process ends.
    ///
    /// # Errors
    ///
    /// `AuditUnavailable` if that can't be done in time; `Gone`.
    pub async fn flush_audit(&self) -> Result<()> {
        self.core.flush_trail().await
    }

    pub(crate) async fn flag(&self, change: Change) -> Result<bool> {
        match self.write(change).await? {
            Answer::Flag(flag) => Ok(flag),
            _ => Err(mismatch()),
        }
    }

    pub(crate) async fn count(&self, change: Change) -> Result<u64> {
        match self.write(change).await? {
            Answer::Count(count) => Ok(count),
            _ => Err(mismatch()),
        }
    }

    pub(crate) async fn subscriptions(&self, change: Change) -> Result<Subscriptions> {
        match self.write(change).await? {
            Answer::Subscriptions(report) => Ok(report),
            _ => Err(mismatch()),
        }
    }

    /// The session lives and lets the host read, and the index is up to date.
    pub(crate) async fn fresh(&self) -> Result<()> {
        self.current().await?;
        self.host_may(Act::Read)
    }

    /// Whether this session lets the host do something that is no write.
    pub(crate) fn host_may(&self, act: Act) -> Result<()> {
        let principal = Principal { agent: None, grants: self.guard.grants_for(None), narrowed: None };
        let config = &self.core.config;
        let known = Known { own: None, now: &|| config.clock.wall(), spent: false, confirmed: true, config };
        decide(&principal, act, On::Mesh, &known).require(act, On::Mesh)
    }

    /// The same for a call that is not counted.
    pub(crate) async fn fresh_uncounted(&self, act: Act) -> Result<()> {
        self.current_uncounted().await?;
        self.host_may(act)
    }

    /// The session lives, the user's calls come no faster than they may, and the index is up to date.
    pub(crate) async fn current(&self) -> Result<()> {
        self.check()?;
        self.core.ask()?;
        self.caught_up().await
    }

    /// The same for a call that is not counted.
    pub(crate) async fn current_uncounted(&self) -> Result<()> {
        self.check()?;
        self.caught_up().await
    }

    async fn caught_up(&self) -> Result<()> {
        if !self.core.exclusive {
            self.core.catch_up().await?;
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<()> {
        if !self.core.config.has(Fault::GuardIgnored) {
            self.guard.check()?;
        }
        if self.is_retired() || self.core.closing.load(Ordering::Acquire) { Err(gone()) } else { Ok(()) }
    }
}

impl Clone for Mesh {
    fn clone(&self) -> Self {
        let guard = self.guard.clone();
        #[cfg(feature = "faults")]
        let guard = if self.core.config.has(Fault::GrantsLost) { guard.ungranted() } else { guard };
        Self { core: Arc::clone(&self.core), guard, owner: self.owner }
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// While it lives, a mesh commits nothing: see [`Mesh::hold`].
#[derive(Debug)]
#[must_use = "it holds as long as it lives"]
pub struct Hold<'m> {
    _gate: tokio::sync::MutexGuard<'m, ()>,
}

pub(crate) fn parse<T>(topics: impl IntoIterator<Item = T>) -> Result<Vec<Topic>>
where
    T: TryInto<Topic>,
    Error: From<T::Error>,
{
    topics.into_iter().map(|topic| topic.try_into().map_err(Error::from)).collect()
}

const fn gone() -> Error {
    Error::new(ErrorKind::Gone, trail::GONE)
}

pub(crate) const fn mismatch() -> Error {
    Error::new(ErrorKind::Storage, "the writer answered another question, this is a defect in Syntha")
}
