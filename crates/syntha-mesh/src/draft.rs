use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use sha2::{Digest, Sha256};
use syntha_store::{Batch, Event, Expect, Keyspace, Op, RecordId, Timestamp, Usage, Version};

use crate::change::{Answer, Caller, Change, Expected, PushChange, Subscriptions};
use crate::config::MeshConfig;
use crate::decision::{Act, Decision, On};
use crate::destruction::Spent;
use crate::entry::{Entry, Member, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::fault::Fault;
use crate::history::Lookup;
use crate::history_draft::HistoryOverlay;
use crate::index::{Index, Operation};
use crate::interactions::Interaction;
use crate::limits::{self, Effective, UserLimits};
use crate::names::{AgentName, Topic};
use crate::request::Doing;
use crate::roster::AgentState;
use crate::standing::Permit;
use crate::topic_uses::{Of, TopicChanges};
use crate::undo::{Deed, UndoOverwrites};
use crate::undo_draft::UndoOverlay;
use crate::undo_record::Trace;
use crate::watchers::Touched;

/// How long an operation id is remembered.
const OPERATION_LIFE: Duration = Duration::from_secs(24 * 3600);
pub(crate) const AUDIENCE_NAMES: usize = 64;
pub(crate) const AGENT_TOPICS: usize = 4_096;

/// A batch in the making: the index, and what the operations so far would make of it.
pub(crate) struct Draft<'a> {
    pub(crate) index: &'a Index,
    pub(crate) lookup: &'a Lookup,
    pub(crate) config: &'a MeshConfig,
    pub(crate) now: Timestamp,
    /// The version that the commit will have: the compare-and-set on the stamp sees to it.
    pub(crate) version: Version,
    pub(crate) overlay: Overlay,
    /// Whether an audit trail is told.
    pub(crate) telling: bool,
    /// Whose operation is applied.
    pub(crate) caller: Caller,
    /// Whether that one may make agents.
    pub(crate) creating: Decision,
    /// What agents deleted before.
    pub(crate) spent: Option<&'a Spent>,
    /// It is not committed: somebody looks what would be.
    pub(crate) early: bool,
    /// Which of the batch's acts the call adds to, once it took something away.
    pub(crate) acting: Option<usize>,
    /// What the user may use.
    pub(crate) limits: Effective,
    /// What this handle alone has seen used: see [`Fault::LimitPerHandle`].
    #[cfg(feature = "faults")]
    pub(crate) handled: Option<Usage>,
}

#[derive(Clone, Default)]
pub(crate) struct Overlay {
    pub(crate) cleared: bool,
    /// `None` for deleted.
    pub(crate) entries: HashMap<Arc<str>, Option<Pending>>,
    pub(crate) agents: HashMap<Arc<str>, Option<AgentState>>,
    pub(crate) operations: HashMap<Arc<str>, Option<Operation>>,
    pub(crate) history: HistoryOverlay,
    pub(crate) undo: UndoOverlay,
    pub(crate) usage: Usage,
    pub(crate) topics: TopicChanges,
    /// What the user is given to use: `Some(None)` takes it away.
    pub(crate) limits: Option<Option<Arc<UserLimits>>>,
    /// What the audit trail is told.
    pub(crate) events: Vec<Event>,
    /// Who deleted what is not its own, once for each time.
    pub(crate) destroyed: Vec<Arc<str>>,
}

#[derive(Clone)]
pub(crate) struct Pending {
    pub(crate) entry: Arc<Entry>,
    /// The head as it is stored, if it was made already.
    pub(crate) head: Option<bytes::Bytes>,
    /// Only the head changed; the stored body stays.
    pub(crate) head_only: bool,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(
        index: &'a Index,
        lookup: &'a Lookup,
        config: &'a MeshConfig,
        now: Timestamp,
        telling: bool,
    ) -> Self {
        let overlay = Overlay { usage: index.usage, ..Overlay::default() };
        let version = Version(index.stamp.epoch.0 + 1);
        let (caller, spent, early) = (Caller::SELF, None, false);
        let creating = Decision::of_the_host();
        let limits = Effective::of(config, index.limits.as_deref());
        Self {
            index,
            lookup,
            config,
            now,
            version,
            overlay,
            telling,
            caller,
            creating,
            spent,
            early,
            acting: None,
            limits,
            #[cfg(feature = "faults")]
            handled: None,
        }
    }

    /// Whether an operation of this batch wrote the key already. Two writers of one key never share a version, so the
    /// second waits for the next batch.
    pub(crate) fn has_written(&self, change: &Change) -> bool {
        let written = |key: &str| self.overlay.cleared || self.overlay.entries.contains_key(key);
        match change {
            Change::Push(push) => written(push.key.as_str()),
            Change::Remove { key, .. } => written(key.as_str()),
            Change::Batch(changes) => changes.iter().any(|change| self.has_written(change)),
            Change::By { change, .. } => self.has_written(change),
            Change::Clear | Change::Sweep { .. } | Change::DeleteTopic { .. } => {
                self.overlay.cleared || !self.overlay.entries.is_empty()
            }
            Change::Load(_) | Change::Undo { .. } | Change::PurgeUndo { .. } => {
                self.overlay.cleared
                    || !self.overlay.entries.is_empty()
                    || !self.overlay.agents.is_empty()
                    || !self.overlay.history.is_empty()
            }
            // A thread's deletion takes effect before everything else in its batch.
            Change::CreateThread { thread, .. } | Change::Append { thread, .. } => {
                self.overlay.history.has_deleted(thread.as_str())
            }
            Change::Redact { thread, .. } | Change::DeleteThread { thread } => {
                self.overlay.history.touches(thread.as_str())
            }
            _ => false,
        }
    }

    /// Applies one operation. An error leaves the draft as it was.
    pub(crate) fn apply(&mut self, change: &Change, caller: Caller) -> Result<Answer> {
        (self.caller, self.acting) = (caller, None);
        self.creating = self.decide(None, Act::Create, On::Mesh);
        let watched = self.watched(change);
        let keeps = (watched.is_some() || self.may_fail_late(change)) && !self.config.has(Fault::BatchTorn);
        let before = self.overlay.clone_if(keeps);
        let applied = self.try_apply(None, change);
        match applied.and_then(|answer| self.check_growth(watched.as_ref()).map(|()| answer)) {
            Ok(answer) => {
                if self.config.interactions.is_on() {
                    self.overlay.history.note(Interaction::of(self.now, change, &answer));
                }
                Ok(answer)
            }
            Err(error) => {
                if let Some(before) = before {
                    let torn = std::mem::replace(&mut self.overlay, before);
                    if self.config.has(Fault::LimitKeepsAgents) && error.exceeded().is_some() {
                        (self.overlay.agents, self.overlay.usage.agents) = (torn.agents, torn.usage.agents);
                    }
                }
                self.tell_refused(change, &error);
                Err(error)
            }
        }
    }

    /// Whether a change can fail after it has changed the draft: a batch, and what registers agents.
    fn may_fail_late(&self, change: &Change) -> bool {
        match change {
            Change::Batch(_) | Change::Load(_) | Change::CreateThread { .. } | Change::Append { .. } => true,
            Change::By { change, .. } => self.may_fail_late(change),
            Change::Push(push) => {
                !push.agents.is_empty()
                    || self.config.undo_overwrites != UndoOverwrites::None
                    || push.by.as_ref().is_some_and(|by| self.agent(by.as_str()).is_none())
            }
            Change::Subscribe { agent, .. } | Change::Permit { agent, .. } => {
                self.agent(agent.as_str()).is_none()
            }
            _ => false,
        }
    }

    fn try_apply(&mut self, who: Option<Doing<'_>>, change: &Change) -> Result<Answer> {
        match change {
            Change::By { agent, life, confirmed, change } => {
                life.allows(self.agent(agent.as_str()))?;
                let (narrowed, batch) = (life.narrowed.as_deref(), matches!(**change, Change::Batch(_)));
                let who = Some(Doing { agent, narrowed, confirmed: *confirmed, batch });
                self.creating = self.decide(who, Act::Create, On::Mesh);
                self.try_apply(who, change)
            }
            Change::Batch(changes) => self.batch(who, changes),
            change => {
                self.permit_change(who, change)?;
                if !self.telling {
                    return self.apply_one(who, change);
                }
                let before = self.before(change);
                let answer = self.apply_one(who, change)?;
                self.tell(who.map(|who| who.agent), change, &answer, &before);
                Ok(answer)
            }
        }
    }

    fn apply_one(&mut self, who: Option<Doing<'_>>, change: &Change) -> Result<Answer> {
        match change {
            Change::Push(push) => self.push(who, push),
            Change::Remove { key, expected, .. } => self.remove(who, key.as_str(), *expected),
            Change::Clear => Ok(Answer::Count(self.clear())),
            Change::Sweep { grace } => Ok(Answer::Count(self.sweep(*grace)?)),
            Change::Undo { id } => self.undo(*id),
            Change::PurgeUndo { id } => Ok(Answer::Count(self.purge_undo(*id)?)),
            Change::Register { agent } => {
                let new = self.agent(agent.as_str()).is_none();
                self.ensure_agent(agent)?;
                Ok(Answer::Flag(new))
            }
            Change::Unregister { agent } => Ok(Answer::Flag(self.unregister(agent))),
            Change::Subscribe { agent, topics, replace } => self.subscribe(who, agent, topics, *replace),
            Change::Unsubscribe { agent, topics } => self.unsubscribe(who, agent, topics),
            Change::DeleteTopic { topic } => {
                let answer = self.delete_topic(who, topic)?;
                self.overlay.destroyed.extend(who.map(|who| Arc::clone(who.agent.shared())));
                Ok(answer)
            }
            Change::PostPermissions { agent, topics } => {
                let post = permitted(topics.as_deref())?;
                self.change_agent(agent, |state| {
                    state.post = post;
                    Ok(())
                })
            }
            Change::ReadPermissions { agent, topics } => {
                let read = permitted(topics.as_deref())?;
                self.change_agent(agent, |state| {
                    state.read = read;
                    Ok(())
                })
            }
            Change::Permit { agent, permit } => self.permit(agent, permit),
            Change::CreateThread { thread, agents, .. } => self.create_thread(who, thread, agents.as_deref()),
            Change::Append { thread, messages, .. } => self.append(who, thread, messages),
            Change::Redact { thread, seq } => self.redact(thread, *seq),
            Change::DeleteThread { thread } => self.delete_thread(thread),
            Change::Log(events) => {
                self.overlay.history.note(events.iter().cloned());
                Ok(Answer::Count(events.len() as u64))
            }
            Change::Load(loaded) => self.load(loaded),
            Change::Limits(limits) => Ok(Answer::Flag(self.set_limits(limits.as_ref()))),
            // What it commits is not its own.
            Change::Flush => Ok(Answer::Count(0)),
            Change::By { .. } | Change::Batch(_) => Err(crate::mesh::mismatch()),
        }
    }

    /// The batch to commit; `None` if nothing changes.
    pub(crate) fn finish(mut self) -> Result<(Option<Batch>, Overlay)> {
        let mut batch = Batch::new(self.now)?.expect(Expect::Stamp(self.index.stamp));
        if self.overlay.cleared {
            batch = batch.op(Op::Clear { space: Keyspace::Context });
        }
        for (key, pending) in &self.overlay.entries {
            let id = record_id(key)?;
            match pending {
                None if self.overlay.cleared => {}
                None => batch = batch.delete(Keyspace::Context, id),
                Some(Pending { entry, head, head_only }) => {
                    let head = head.clone().map_or_else(|| entry.encode_head(), Ok)?;
                    let (space, expires) = (Keyspace::Context, entry.expires);
                    batch = batch.op(if *head_only {
                        Op::PutHead { space, id, head, expires }
                    } else {
                        let body = bytes::Bytes::copy_from_slice(entry.json().as_bytes());
                        Op::Put { space, id, head, body, expires }
                    });
                }
            }
        }
        for (name, state) in &self.overlay.agents {
            batch = match state {
                None => batch.delete(Keyspace::Agents, record_id(name)?),
                Some(state) => {
                    batch.put(Keyspace::Agents, record_id(name)?, &b"{\"v\":1}"[..], state.encode()?)
                }
            };
        }
        if let Some(limits) = &self.overlay.limits {
            let id = record_id(limits::RECORD)?;
            batch = match limits {
                None => batch.delete(Keyspace::Agents, id),
                Some(limits) => batch.put(Keyspace::Agents, id, &b"{\"v\":1}"[..], limits.encode()?),
            };
        }
        for (name, operation) in &self.overlay.operations {
            let id = record_id(name)?;
            batch = match operation {
                None => batch.delete(Keyspace::Operations, id),
                Some(operation) => batch.op(Op::Put {
                    space: Keyspace::Operations,
                    id,
                    head: serde_json::to_vec(operation)
                        .map_err(|_| {
                            Error::new(ErrorKind::Invalid, "the operation can't be written as JSON")
                        })?
                        .into(),
                    body: bytes::Bytes::new(),
                    expires: operation.expires,
                }),
            };
        }
        batch = self.finish_history(batch)?;
        batch = self.finish_undo(batch)?;
        if batch.ops.is_empty() {
            return Ok((None, self.overlay));
        }
        batch = batch.usage(self.overlay.usage);
        Ok((Some(batch), self.overlay))
    }

    fn push(&mut self, who: Option<Doing<'_>>, push: &PushChange) -> Result<Answer> {
        if let Some(over) = push.too_large {
            self.limits.check_value(over.used)?;
            // INVARIANT: a text that was not made is never stored. The limit was raised since: the next try makes it.
            return Err(Error::limit(ErrorKind::LimitExceeded, over).after(Duration::ZERO));
        }
        if push.agents.len() + push.topics.len() > AUDIENCE_NAMES {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "an audience has at most 64 names, use a topic",
            ));
        }
        let operation = match self.seen_operation(push)? {
            Seen::Done(version) => return Ok(Answer::Repeated(version)),
            Seen::New(operation) => operation,
        };
        // A retry of what was done before gets its answer, also if the limit was lowered since.
        self.limits.check_value(push.text.len() as u64)?;
        let key = push.key.shared();
        let old = self.live(key);
        // Existence is visible here, and the documents say so: the alternative is to lose the hidden entry.
        if let Some(old) = &old {
            self.require(who, Act::Write, On::Entry(old))?;
        }
        match push.expected.filter(|_| !self.config.has(Fault::VersionIgnored)) {
            Some(Expected::Absent) if old.is_some() => return Err(conflict()),
            Some(Expected::Version(version)) if old.as_ref().is_none_or(|old| old.version != version) => {
                return Err(conflict());
            }
            _ => {}
        }
        let author = push.by.as_ref().map(|by| self.author(by)).transpose()?;
        let agents = push.agents.iter().map(|agent| self.member(agent)).collect::<Result<Vec<_>>>()?;
        let everyone = !push.restricted && agents.is_empty() && push.topics.is_empty();
        let expires = push.ttl.map(|ttl| after(self.now, ttl));
        let entry = Entry {
            key: Arc::clone(key),
            version: self.version,
            created: old.as_ref().map_or(self.now, |old| old.created),
            updated: self.now,
            expires,
            author,
            audience: Parts { everyone, agents, topics: texts(&push.topics) }.into(),
            size: u32::try_from(push.text.len()).unwrap_or(u32::MAX),
            value: Some(Arc::clone(&push.text)),
            used: AtomicBool::new(true),
            trusted: who.and_then(|who| self.agent(who.agent.as_str())).is_some_and(AgentState::is_trusted),
        };
        let head = Some(entry.encode_head()?);
        let kept = match (who, &old) {
            (Some(by), Some(old)) if self.keeps(who) && self.keeps_over(old, &entry) => {
                Some((by, self.kept(old)?, Trace::of(&entry)))
            }
            _ => None,
        };
        self.put(Pending { entry: Arc::new(entry), head, head_only: false });
        if let Some((by, old, trace)) = kept {
            self.keep(by, (Deed::Overwrite, key), &old, Some(trace))?;
        }
        if let Some((name, operation)) = operation {
            self.overlay.operations.insert(name, Some(operation));
        }
        Ok(Answer::Pushed(self.version))
    }

    fn seen_operation(&self, push: &PushChange) -> Result<Seen> {
        let Some(operation) = &push.operation else { return Ok(Seen::New(None)) };
        let by = push.by.as_ref().map_or("", AgentName::as_str);
        let name: Arc<str> = format!("{by}\0{}", operation.as_str()).into();
        let digest = digest(push);
        let seen = match self.overlay.operations.get(&name) {
            Some(pending) => pending.as_ref(),
            None => self.index.operations.get(&name),
        };
        match seen
            .filter(|_| !self.config.has(Fault::OperationForgotten))
            .filter(|seen| seen.expires.is_none_or(|at| self.now < at))
        {
            Some(seen) if seen.digest == digest => Ok(Seen::Done(seen.version)),
            Some(_) => Err(Error::new(
                ErrorKind::Invalid,
                "the operation id was used for something else, take a new one",
            )),
            None => {
                let expires = Some(after(self.now, OPERATION_LIFE));
                Ok(Seen::New(Some((name, Operation { v: 1, digest, version: self.version, expires }))))
            }
        }
    }

    fn unregister(&mut self, agent: &AgentName) -> bool {
        if self.agent(agent.as_str()).is_none() {
            return false;
        }
        self.set_agent(agent.shared(), None);
        self.overlay.usage.agents = self.overlay.usage.agents.saturating_sub(1);
        true
    }

    fn subscribe(
        &mut self,
        who: Option<Doing<'_>>,
        agent: &AgentName,
        topics: &[Topic],
        replace: bool,
    ) -> Result<Answer> {
        // Whoever subscribes others makes none.
        if who.is_none_or(|who| who.agent == agent) {
            self.ensure_agent(agent)?;
        }
        let mut state = self.agent(agent.as_str()).cloned().ok_or_else(no_agent)?;
        for topic in topics {
            self.require_of(agent, Act::Read, On::Topic(topic.as_str()))?;
        }
        let mut report = Subscriptions::default();
        let before = std::mem::take(&mut state.topics);
        if !replace {
            state.topics.clone_from(&before);
        }
        let known: HashSet<&Arc<str>> = before.iter().collect();
        let mut listed = HashSet::new();
        for topic in topics.iter().map(Topic::shared).filter(|topic| listed.insert(*topic)) {
            let known = known.contains(topic);
            let list = if known { &mut report.unchanged } else { &mut report.changed };
            list.push(Arc::clone(topic));
            if !known || replace {
                state.topics.push(Arc::clone(topic));
            }
        }
        if state.topics.len() > AGENT_TOPICS {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "an agent has at most 4,096 topics, unsubscribe from some",
            ));
        }
        state.topics.sort_unstable();
        report.topics.clone_from(&state.topics);
        if state.topics != before {
            self.set_agent(agent.shared(), Some(state));
        }
        Ok(Answer::Subscriptions(report))
    }

    fn unsubscribe(&mut self, who: Option<Doing<'_>>, agent: &AgentName, topics: &[Topic]) -> Result<Answer> {
        let mut report = Subscriptions::default();
        let Some(mut state) = self.agent(agent.as_str()).cloned() else {
            report.unchanged = texts(topics);
            return Ok(Answer::Subscriptions(report));
        };
        for topic in topics {
            let had = state.topics.len();
            if !self.config.has(Fault::UnsubscribeForgotten) {
                state.topics.retain(|own| own != topic.shared());
            }
            let list = if state.topics.len() < had { &mut report.changed } else { &mut report.unchanged };
            list.push(Arc::clone(topic.shared()));
        }
        report.topics.clone_from(&state.topics);
        if !report.changed.is_empty() {
            // Its own an agent takes back itself.
            if let Some(who) = who.filter(|by| by.agent != agent && self.keeps(who)) {
                let lost = (agent.shared(), state.incarnation);
                self.keep_subscribed(who, (Deed::Unsubscribe, agent.shared()), lost, &report.changed)?;
            }
            self.set_agent(agent.shared(), Some(state));
        }
        Ok(Answer::Subscriptions(report))
    }

    fn batch(&mut self, who: Option<Doing<'_>>, changes: &[Change]) -> Result<Answer> {
        let mut keys = HashSet::with_capacity(changes.len());
        let mut answers = Vec::with_capacity(changes.len());
        for change in changes {
            // Whether or not the first of the two finds something to change.
            if let Change::Push(PushChange { key, .. }) | Change::Remove { key, .. } = change
                && !keys.insert(key.as_str())
            {
                return Err(Error::new(ErrorKind::Invalid, "a key stands twice in one batch"));
            }
            answers.push(self.try_apply(who, change)?);
        }
        Ok(Answer::Batch(answers))
    }

    fn permit(&mut self, agent: &AgentName, permit: &Permit) -> Result<Answer> {
        let now = self.now;
        self.change_agent(agent, |state| {
            let mut standing = state.standing.take().map(|standing| *standing).unwrap_or_default();
            standing.apply(permit, now)?;
            state.set_standing(standing);
            Ok(())
        })
    }

    fn change_agent(
        &mut self,
        agent: &AgentName,
        change: impl FnOnce(&mut AgentState) -> Result<()>,
    ) -> Result<Answer> {
        self.ensure_agent(agent)?;
        let mut state = self.agent(agent.as_str()).cloned().ok_or_else(no_agent)?;
        change(&mut state)?;
        self.set_agent(agent.shared(), Some(state));
        Ok(Answer::Flag(true))
    }

    pub(crate) fn agent(&self, name: &str) -> Option<&AgentState> {
        match self.overlay.agents.get(name) {
            Some(pending) => pending.as_ref(),
            None => self.index.roster.get(name).map(|state| &**state),
        }
    }

    fn ensure_agent(&mut self, name: &AgentName) -> Result<()> {
        if self.agent(name.as_str()).is_none() {
            self.creating.require(Act::Create, On::Mesh)?;
            let mut state = AgentState::register()?;
            if self.config.has(Fault::LifeIgnored) {
                state.incarnation = 1;
            }
            self.set_agent(name.shared(), Some(state));
            self.overlay.usage.agents += 1;
        }
        Ok(())
    }

    pub(crate) fn author(&mut self, name: &AgentName) -> Result<Arc<Member>> {
        self.ensure_agent(name)?;
        let incarnation = self.agent(name.as_str()).ok_or_else(no_agent)?.incarnation;
        Ok(match self.index.author(name.as_str(), incarnation) {
            Some(known) => Arc::clone(known),
            None => Arc::new(Member { name: Arc::clone(name.shared()), incarnation }),
        })
    }

    pub(crate) fn member(&mut self, name: &AgentName) -> Result<Member> {
        self.ensure_agent(name)?;
        let incarnation = self.agent(name.as_str()).ok_or_else(no_agent)?.incarnation;
        Ok(Member { name: Arc::clone(name.shared()), incarnation })
    }

    /// The entry that is stored under a key, expired or not.
    pub(crate) fn stored(&self, key: &str) -> Option<Arc<Entry>> {
        match self.overlay.entries.get(key) {
            Some(pending) => pending.as_ref().map(|pending| Arc::clone(&pending.entry)),
            None if self.overlay.cleared => None,
            None => self.index.get(key).cloned(),
        }
    }

    pub(crate) fn live(&self, key: &str) -> Option<Arc<Entry>> {
        self.stored(key).filter(|entry| entry.is_live(|| self.now))
    }

    pub(crate) fn put(&mut self, pending: Pending) {
        let usage = &mut self.overlay.usage;
        usage.contexts += 1;
        usage.context_bytes += pending.entry.bytes();
        if let Some(old) = self.stored(&pending.entry.key) {
            let usage = &mut self.overlay.usage;
            usage.contexts = usage.contexts.saturating_sub(1);
            usage.context_bytes = usage.context_bytes.saturating_sub(old.bytes());
        }
        self.put_head(pending);
    }

    /// As [`put`](Self::put), of an entry that usage counts already.
    pub(crate) fn put_head(&mut self, pending: Pending) {
        let key = Arc::clone(&pending.entry.key);
        self.set_entry(&key, Some(pending));
    }

    /// Puts an entry under a key; `None` takes away what is there.
    pub(crate) fn set_entry(&mut self, key: &Arc<str>, pending: Option<Pending>) {
        let old = self.stored(key);
        let from = old.as_ref().map_or(&[][..], |old| &old.audience.topics);
        let to = pending.as_ref().map_or(&[][..], |pending| &pending.entry.audience.topics);
        self.overlay.topics.change(&self.index.topics, Of::Entries, from, to);
        self.overlay.entries.insert(Arc::clone(key), pending);
    }

    /// Puts an agent's state in the place of the one that it has; `None` unregisters it.
    pub(crate) fn set_agent(&mut self, name: &Arc<str>, state: Option<AgentState>) {
        let old = match self.overlay.agents.get(name) {
            Some(pending) => pending.as_ref(),
            None => self.index.roster.get(name).map(|state| &**state),
        };
        let from = old.map_or(&[][..], |old| &old.topics);
        let to = state.as_ref().map_or(&[][..], |state| &state.topics);
        self.overlay.topics.change(&self.index.topics, Of::Agents, from, to);
        self.overlay.agents.insert(Arc::clone(name), state);
    }
}

enum Seen {
    Done(Version),
    New(Option<(Arc<str>, Operation)>),
}

impl Overlay {
    fn clone_if(&self, wanted: bool) -> Option<Self> {
        wanted.then(|| self.clone())
    }

    /// What a watch has to look at again.
    pub(crate) fn touched(&self) -> Touched {
        Touched {
            cleared: self.cleared,
            foreign: false,
            keys: self.entries.keys().cloned().collect(),
            agents: self.agents.keys().cloned().collect(),
        }
    }

    /// Makes the index what the committed batch made of the data.
    pub(crate) fn commit_to(self, index: &mut Index, stamp: syntha_store::Stamp, time: Timestamp) {
        if self.cleared {
            index.clear();
        }
        for (key, pending) in self.entries {
            match pending {
                None => index.remove(&key),
                Some(pending) => index.insert(pending.entry),
            }
        }
        for (name, state) in self.agents {
            index.set_agent(name, state);
        }
        if let Some(limits) = self.limits {
            index.limits = limits;
        }
        for (name, operation) in self.operations {
            match operation {
                None => drop(index.operations.remove(&name)),
                Some(operation) => drop(index.operations.insert(name, operation)),
            }
        }
        for (thread, state) in self.history.threads {
            match state {
                None => drop(index.threads.remove(&thread)),
                Some(state) => index.keep_thread(&thread, &state),
            }
        }
        index.interactions =
            self.history.interactions.or(index.interactions).filter(|_| !self.history.sparse);
        index.usage = self.usage;
        index.stamp = stamp;
        index.time = index.time.max(time);
    }
}

/// A digest of a push's arguments, each with its length, so that no two sets of arguments read the same.
fn digest(push: &PushChange) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(push.key.as_str().as_bytes());
    part(push.text.as_bytes());
    part(&[u8::from(push.restricted)]);
    part(&(push.agents.len() as u64).to_be_bytes());
    push.agents.iter().for_each(|agent| part(agent.as_str().as_bytes()));
    push.topics.iter().for_each(|topic| part(topic.as_str().as_bytes()));
    part(&push.ttl.map_or(u128::MAX, |ttl| ttl.as_millis()).to_be_bytes());
    part(format!("{:?}", push.expected).as_bytes());
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn record_id(name: &str) -> Result<RecordId> {
    Ok(RecordId::new(bytes::Bytes::copy_from_slice(name.as_bytes()), 0)?)
}

fn permitted(topics: Option<&[Topic]>) -> Result<Option<Vec<Arc<str>>>> {
    if topics.is_some_and(|topics| topics.len() > AGENT_TOPICS) {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            "a permission has at most 4,096 topics, use a role",
        ));
    }
    Ok(topics.map(texts))
}

fn texts(topics: &[Topic]) -> Vec<Arc<str>> {
    let mut texts: Vec<_> = topics.iter().map(|topic| Arc::clone(topic.shared())).collect();
    texts.sort_unstable();
    texts.dedup();
    texts
}

pub(crate) fn after(at: Timestamp, span: Duration) -> Timestamp {
    let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Timestamp(at.0.saturating_add(span).min(i64::MAX as u64))
}

pub(crate) const fn conflict() -> Error {
    Error::new(ErrorKind::Conflict, "the entry has another version than expected, read it again")
}

const fn no_agent() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such agent")
}
