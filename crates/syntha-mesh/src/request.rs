//! What an operation asks of the decision, where it is applied: inside its commit.

use std::sync::Arc;

use crate::change::{Caller, Change};
use crate::core::Core;
use crate::decision::{Act, Decision, Known, On, Principal, decide};
use crate::destruction::Destruction;
use crate::draft::Draft;
use crate::error::Result;
use crate::fault::Fault;
use crate::history::Lookup;
use crate::names::{AgentName, Topic};
use crate::narrow::Narrowed;
use crate::session_grants::SessionGrants;

/// The agent whose handle an operation came from.
#[derive(Clone, Copy)]
pub(crate) struct Doing<'a> {
    pub(crate) agent: &'a AgentName,
    pub(crate) narrowed: Option<&'a Narrowed>,
    /// The host agreed to what is deleted.
    pub(crate) confirmed: bool,
    /// It is part of a batch.
    pub(crate) batch: bool,
}

impl Draft<'_> {
    /// Whether who does it may, as the batch so far leaves things.
    pub(crate) fn decide(&self, who: Option<Doing<'_>>, act: Act, on: On<'_>) -> Decision {
        let principal = Principal {
            agent: who.map(|who| who.agent.as_str()),
            grants: self.caller.grants,
            narrowed: who.and_then(|who| who.narrowed),
        };
        let known = Known {
            own: who.and_then(|who| self.agent(who.agent.as_str())),
            now: &|| self.now,
            spent: who.is_some_and(|who| act == Act::Delete && self.is_spent(who.agent.as_str())),
            confirmed: self.config.confirmation.is_none() || who.is_some_and(|who| who.confirmed),
            config: self.config,
        };
        decide(&principal, act, on, &known)
    }

    pub(crate) fn require(&self, who: Option<Doing<'_>>, act: Act, on: On<'_>) -> Result<()> {
        self.decide(who, act, on).require(act, on)
    }

    /// As [`require`](Self::require), of an agent that something is done to.
    pub(crate) fn require_of(&self, agent: &AgentName, act: Act, on: On<'_>) -> Result<()> {
        let principal = Principal { agent: Some(agent.as_str()), grants: SessionGrants::ALL, narrowed: None };
        let known = Known {
            own: self.agent(agent.as_str()),
            now: &|| self.now,
            spent: false,
            confirmed: true,
            config: self.config,
        };
        decide(&principal, act, on, &known).require(act, on)
    }

    fn is_spent(&self, agent: &str) -> bool {
        let now = self.overlay.destroyed.iter().filter(|one| ***one == *agent).count();
        let before = self.spent.map_or(0, |spent| spent.count(agent, self.now));
        before + now >= self.config.destructions_per_minute as usize && !self.config.has(Fault::RateIgnored)
    }

    /// Refuses a change that is no batch by what it names. What is under the names is looked at where the change is applied.
    pub(crate) fn permit_change(&self, who: Option<Doing<'_>>, change: &Change) -> Result<()> {
        if self.config.has(Fault::DecisionEarly) && !self.early {
            return Ok(());
        }
        let each = |act, topics: &[Topic]| {
            topics.iter().try_for_each(|topic| self.require(who, act, On::Topic(topic.as_str())))
        };
        match change {
            Change::Push(push) => {
                self.require(who, Act::Write, On::Key(push.key.as_str()))?;
                each(Act::Write, &push.topics)
            }
            Change::Remove { key, .. } => self.require(who, Act::Delete, On::Key(key.as_str())),
            Change::Subscribe { agent, topics, .. } => match who {
                Some(who) if who.agent != agent => each(Act::Manage, topics),
                Some(_) if topics.is_empty() => self.require(who, Act::Subscribe, On::Mesh),
                Some(_) => each(Act::Subscribe, topics),
                None => self.require(who, Act::Subscribe, On::Mesh),
            },
            Change::Unsubscribe { agent, topics } => match who {
                Some(who) if who.agent != agent => each(Act::Manage, topics),
                // Also from what was denied since.
                _ => self.require(who, Act::Subscribe, On::Mesh),
            },
            Change::DeleteTopic { topic } => self.require(who, Act::Delete, On::Topic(topic.as_str())),
            Change::CreateThread { thread, .. } | Change::Append { thread, .. } => {
                self.require(who, Act::Write, On::Thread(thread.as_str(), None))
            }
            Change::Redact { thread, .. } | Change::DeleteThread { thread } => {
                self.require(who, Act::Delete, On::Thread(thread.as_str(), None))
            }
            Change::Clear | Change::Unregister { .. } => self.require(who, Act::Delete, On::Mesh),
            Change::Register { .. } => self.require(who, Act::Create, On::Mesh),
            Change::PostPermissions { .. }
            | Change::ReadPermissions { .. }
            | Change::Permit { .. }
            | Change::Limits(_) => self.require(who, Act::Permit, On::Mesh),
            Change::Undo { .. } => self.require(who, Act::Undo, On::Mesh),
            Change::PurgeUndo { .. } => self.require(who, Act::Delete, On::Mesh),
            // What has expired nobody can see any more, so a sweep deletes nothing of anybody's.
            Change::Load(_) | Change::Sweep { .. } => self.require(who, Act::Write, On::Mesh),
            Change::Log(_) | Change::Flush | Change::By { .. } | Change::Batch(_) => Ok(()),
        }
    }

    /// What a change would delete that is not the agent's own; an error if it may not.
    fn destructions(&self, who: Option<Doing<'_>>, change: &Change) -> Result<Vec<Destruction>> {
        match (change, who) {
            (Change::By { agent, life, change, .. }, _) => {
                let who = Doing { agent, narrowed: life.narrowed.as_deref(), confirmed: true, batch: false };
                self.destructions(Some(who), change)
            }
            (Change::Batch(changes), _) => {
                let each = changes.iter().map(|change| self.destructions(who, change));
                Ok(each.collect::<Result<Vec<_>>>()?.concat())
            }
            (Change::DeleteTopic { topic }, Some(by)) => {
                self.permit_change(who, change)?;
                let (agent, topic) = (Arc::clone(by.agent.shared()), Arc::clone(topic.shared()));
                Ok(vec![Destruction::Topic { agent, topic }])
            }
            (Change::Remove { key, .. }, Some(by)) => {
                self.permit_change(who, change)?;
                let Some(entry) = self.live(key.as_str()) else { return Ok(Vec::new()) };
                let decision = self.decide(who, Act::Delete, On::Entry(&entry));
                let (agent, key) = (Arc::clone(by.agent.shared()), Arc::clone(key.shared()));
                Ok(Vec::from_iter(decision.destructive.then_some(Destruction::Entry { agent, key })))
            }
            _ => {
                self.permit_change(who, change)?;
                Ok(Vec::new())
            }
        }
    }
}

/// What a change would delete that is not the agent's own, as things are before its commit. That a call passes here lets nothing
/// happen: the commit decides.
pub(crate) fn foresee(core: &Core, caller: Caller, change: &Change) -> Result<Vec<Destruction>> {
    let (index, lookup, spent) = (core.index.read(), Lookup::default(), core.spent.lock());
    let mut draft = Draft::new(&index, &lookup, &core.config, core.now(&index), false);
    (draft.caller, draft.spent, draft.early) = (caller, Some(&*spent), true);
    draft.destructions(None, change)
}
