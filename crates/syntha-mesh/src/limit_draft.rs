//! Limits of what is stored, held against an operation inside its commit: the compare-and-set on the stamp sees to it that what is counted
//! is what is stored, whoever else writes.

use std::sync::Arc;

use crate::change::{Change, PushChange};
use crate::draft::Draft;
use crate::error::{Error, ErrorKind, Result};
use crate::fault::Fault;
use crate::limits::{Exceeded, Limit, UserLimits};
use crate::names::{AgentName, Topic};
use crate::undo::UndoOverwrites;

/// What is stored, or what an operation adds to it at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) contexts: u64,
    pub(crate) agents: u64,
    pub(crate) topics: u64,
    pub(crate) context_bytes: u64,
    pub(crate) history_bytes: u64,
}

impl Counted {
    /// More than can be said beforehand.
    const UNKNOWN: Self = Self {
        contexts: u64::MAX,
        agents: u64::MAX,
        topics: u64::MAX,
        context_bytes: u64::MAX,
        history_bytes: u64::MAX,
    };

    pub(crate) const fn storage(&self) -> u64 {
        self.context_bytes.saturating_add(self.history_bytes)
    }

    pub(crate) const fn of(&self, limit: Limit) -> Option<u64> {
        match limit {
            Limit::Contexts => Some(self.contexts),
            Limit::Agents => Some(self.agents),
            Limit::Topics => Some(self.topics),
            Limit::History => Some(self.history_bytes),
            Limit::Storage => Some(self.storage()),
            Limit::Value | Limit::Operations | Limit::InFlight | Limit::Sessions => None,
        }
    }
}

impl Draft<'_> {
    /// What is stored once the batch so far is committed.
    fn counted(&self) -> Counted {
        #[cfg_attr(not(feature = "faults"), allow(unused_mut, reason = "a fault changes it"))]
        let mut usage = self.overlay.usage;
        #[cfg(feature = "faults")]
        if let Some(handled) = self.handled {
            usage.contexts = (handled.contexts + usage.contexts).saturating_sub(self.index.usage.contexts);
            usage.agents = (handled.agents + usage.agents).saturating_sub(self.index.usage.agents);
        }
        let topics = self.overlay.topics.count(&self.index.topics);
        let ignored = self.config.has(Fault::LimitIgnoresHistory);
        Counted {
            contexts: usage.contexts,
            agents: usage.agents,
            topics,
            context_bytes: usage.context_bytes,
            history_bytes: if ignored { 0 } else { usage.history_bytes },
        }
    }

    /// What is stored before a change that may come to a limit; `None` for one that can't: it need not be looked at afterwards.
    pub(crate) fn watched(&self, change: &Change) -> Option<Counted> {
        if !self.limits.counts() || self.config.has(Fault::LimitEarly) {
            return None;
        }
        let now = self.counted();
        (!self.fits(&now, &self.growth(change))).then_some(now)
    }

    /// Whether so much more stays within every limit. Storage is checked by its two parts' sum.
    fn fits(&self, now: &Counted, more: &Counted) -> bool {
        Limit::ALL.into_iter().all(|limit| {
            let (Some(now), Some(more)) = (now.of(limit), more.of(limit)) else { return true };
            more == 0
                || (!self.limits.unknown_plan
                    && self.limits.most(limit).is_none_or(|most| now.saturating_add(more) <= most))
        })
    }

    /// What a change adds at most.
    fn growth(&self, change: &Change) -> Counted {
        let new = |agent: &AgentName| u64::from(self.agent(agent.as_str()).is_none());
        let agents = |count: u64| Counted { agents: count, ..Counted::default() };
        let topics = |list: &[Topic]| {
            let known = |topic: &&Topic| self.overlay.topics.has(&self.index.topics, topic.shared());
            list.iter().filter(|topic| !known(topic)).count() as u64
        };
        match change {
            // The agent itself may be new.
            Change::By { agent, change, .. } => {
                let more = self.growth(change);
                Counted { agents: more.agents.saturating_add(new(agent)), ..more }
            }
            Change::Push(_) if self.config.undo_overwrites != UndoOverwrites::None => Counted::UNKNOWN,
            Change::Push(PushChange { key, text, by, agents: named, topics: on, .. }) => {
                let old = self.stored(key.as_str());
                let bytes = (text.len() + key.as_str().len()) as u64;
                Counted {
                    contexts: u64::from(old.is_none()),
                    agents: by.iter().chain(named).map(new).sum(),
                    topics: topics(on),
                    context_bytes: bytes.saturating_sub(old.map_or(0, |old| old.bytes())),
                    history_bytes: 0,
                }
            }
            Change::Register { agent }
            | Change::PostPermissions { agent, .. }
            | Change::ReadPermissions { agent, .. }
            | Change::Permit { agent, .. } => agents(new(agent)),
            Change::Subscribe { agent, topics: to, .. } => {
                Counted { topics: topics(to), ..agents(new(agent)) }
            }
            Change::CreateThread { thread, agents: named, .. } => Counted {
                history_bytes: thread.as_str().len() as u64,
                ..agents(named.iter().flatten().map(new).sum())
            },
            Change::Append { thread, messages } => {
                let bytes = messages.iter().map(crate::message::NewMessage::bytes).sum::<u64>();
                Counted {
                    history_bytes: bytes.saturating_add(thread.as_str().len() as u64),
                    ..Counted::default()
                }
            }
            Change::Batch(_) | Change::Load(_) | Change::Undo { .. } => Counted::UNKNOWN,
            // What takes away, and what keeps what it takes away, adds nothing.
            Change::Remove { .. }
            | Change::Clear
            | Change::Sweep { .. }
            | Change::Unregister { .. }
            | Change::Unsubscribe { .. }
            | Change::DeleteTopic { .. }
            | Change::Redact { .. }
            | Change::DeleteThread { .. }
            | Change::PurgeUndo { .. }
            | Change::Log(_)
            | Change::Flush
            | Change::Limits(_) => Counted::default(),
        }
    }

    /// Refuses an operation that uses more of something than before, and more than the user may. What uses as much or less is always
    /// allowed, also where more is used than may be.
    pub(crate) fn check_growth(&self, before: Option<&Counted>) -> Result<()> {
        let Some(before) = before else { return Ok(()) };
        let after = self.counted();
        for limit in Limit::ALL {
            let (Some(used), Some(after)) = (before.of(limit), after.of(limit)) else { continue };
            if after <= used {
                continue;
            }
            if self.limits.unknown_plan && !self.config.has(Fault::UnknownPlanIgnored) {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    "this host does not know the user's plan: name it in its settings or give the user another, until then nothing can be added",
                ));
            }
            if let Some(most) = self.limits.most(limit)
                && after > most
            {
                return Err(Error::limit(ErrorKind::LimitExceeded, Exceeded { limit, most, used }));
            }
        }
        Ok(())
    }

    /// Gives the user other limits; says whether they are other ones.
    pub(crate) fn set_limits(&mut self, limits: Option<&Arc<UserLimits>>) -> bool {
        let present = self.overlay.limits.as_ref().map_or(self.index.limits.as_ref(), Option::as_ref);
        if present == limits {
            return false;
        }
        self.overlay.limits = Some(limits.cloned());
        true
    }
}

/// Whether a change may go over a limit as things are when it is asked for: [`Fault::LimitEarly`].
#[cfg(feature = "faults")]
pub(crate) fn foresee(core: &crate::core::Core, change: &Change) -> Result<()> {
    let index = core.index.read();
    let lookup = crate::history::Lookup::default();
    let draft = Draft::new(&index, &lookup, &core.config, core.now(&index), false);
    let (now, more) = (draft.counted(), draft.growth(change));
    if more == Counted::UNKNOWN || draft.fits(&now, &more) {
        return Ok(());
    }
    let exceeded = Exceeded { limit: Limit::Contexts, most: 0, used: now.contexts };
    Err(Error::limit(ErrorKind::LimitExceeded, exceeded))
}
