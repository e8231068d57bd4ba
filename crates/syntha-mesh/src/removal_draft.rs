//! What takes entries and topics away.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;
use syntha_store::Timestamp;

use crate::change::{Answer, Expected, TopicDeleted};
use crate::decision::{Act, On};
use crate::draft::{Draft, Pending, after, conflict};
use crate::entry::{Entry, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::fault::Fault;
use crate::names::Topic;
use crate::request::Doing;
use crate::undo::Deed;
use crate::undo_draft::check_room;

const SWEEP_MOST: usize = 10_000;

impl Draft<'_> {
    pub(crate) fn remove(
        &mut self,
        who: Option<Doing<'_>>,
        key: &str,
        expected: Option<Expected>,
    ) -> Result<Answer> {
        let mut old = self.live(key);
        let mut destroys = false;
        if let Some(entry) = &old {
            let decision = self.decide(who, Act::Delete, On::Entry(entry));
            destroys = decision.destructive;
            if !decision.allowed {
                if !decision.hides() {
                    return Err(decision.refusal(Act::Delete, On::Entry(entry)));
                }
                old = None;
            }
        }
        if let Some(expected) = expected {
            let held = match expected {
                Expected::Absent => old.is_none(),
                Expected::Version(version) => old.as_ref().is_some_and(|old| old.version == version),
            };
            if !held {
                return Err(conflict());
            }
        }
        let Some(old) = old else { return Ok(Answer::Flag(false)) };
        let kept = match who {
            Some(by) if self.keeps(who) => Some((by, self.kept(&old)?)),
            _ => None,
        };
        self.delete(&old);
        if let Some((who, old)) = kept {
            self.keep(who, (Deed::Remove, &old.key), &old, None)?;
        }
        if destroys {
            self.overlay.destroyed.extend(who.map(|who| Arc::clone(who.agent.shared())));
        }
        Ok(Answer::Flag(true))
    }

    /// What can be undone goes too: who clears a mesh wants it empty.
    pub(crate) fn clear(&mut self) -> u64 {
        let count = self.index.len() as u64;
        self.clear_undo();
        self.overlay.cleared = true;
        self.overlay.entries.clear();
        self.overlay.topics.clear_entries(&self.index.topics);
        self.overlay.usage.contexts = 0;
        self.overlay.usage.context_bytes = 0;
        count
    }

    pub(crate) fn sweep(&mut self, grace: Duration) -> Result<u64> {
        let grace = if self.config.has(Fault::GraceIgnored) { Duration::ZERO } else { grace };
        let now = self.now;
        let expired = |at: Option<Timestamp>| at.is_some_and(|at| after(at, grace) <= now);
        let entries: Vec<_> =
            self.index.entries().filter(|entry| expired(entry.expires)).take(SWEEP_MOST).cloned().collect();
        let operations: Vec<_> = self
            .index
            .operations
            .iter()
            .filter(|(_, operation)| expired(operation.expires))
            .map(|(name, _)| Arc::clone(name))
            .take(SWEEP_MOST)
            .collect();
        let count = (entries.len() + operations.len()) as u64;
        let usage = self.overlay.usage;
        for entry in entries {
            self.delete(&entry);
        }
        if self.config.has(Fault::SweptCounted) {
            self.overlay.usage = usage;
        }
        for name in operations {
            self.overlay.operations.insert(name, None);
        }
        Ok(count + self.sweep_undo(|at| expired(Some(at)))?)
    }

    pub(crate) fn delete_topic(&mut self, who: Option<Doing<'_>>, topic: &Topic) -> Result<Answer> {
        let mut report = TopicDeleted::default();
        let name = topic.shared();
        let mut on_topic: Vec<_> =
            self.index.entries().filter(|entry| entry.audience.topics.contains(name)).cloned().collect();
        let keeper = who.filter(|_| self.keeps(who));
        if keeper.is_some() {
            // In an order that does not hang on hashes, and whatever fails does so before the first change.
            on_topic.sort_unstable_by(|one, other| one.key.cmp(&other.key));
            check_room(on_topic.len(), on_topic.iter().map(|entry| entry.bytes()).sum())?;
            on_topic = on_topic.iter().map(|entry| self.kept(entry)).collect::<Result<_>>()?;
        }
        for entry in on_topic {
            let keeper = keeper.filter(|_| entry.is_live(|| self.now));
            if entry.audience.agents.is_empty() && entry.audience.topics.len() == 1 {
                report.entries_deleted += u64::from(entry.is_live(|| self.now));
                self.delete(&entry);
                if let Some(who) = keeper {
                    self.keep(who, (Deed::DeleteTopic, name), &entry, None)?;
                }
            } else {
                if let Some(who) = keeper {
                    self.keep_parted(who, topic, &entry)?;
                }
                report.entries_kept += u64::from(entry.is_live(|| self.now));
                let mut kept = entry.with_value(entry.value.clone());
                kept.version = self.version;
                let mut parts = Parts::clone(&kept.audience);
                parts.topics.retain(|other| other != name);
                kept.audience = parts.into();
                self.put_head(Pending { entry: Arc::new(kept), head: None, head_only: true });
            }
        }
        let subscribed: Vec<_> = self
            .index
            .roster
            .keys()
            .chain(self.overlay.agents.keys())
            .cloned()
            .collect::<HashSet<_>>()
            .into_iter()
            .filter_map(|agent| Some((self.agent(&agent)?.clone(), agent)))
            .filter(|(state, _)| state.topics.contains(name))
            .collect();
        for (mut state, agent) in subscribed {
            report.subscribers += 1;
            if let Some(who) = keeper {
                let lost = std::slice::from_ref(name);
                self.keep_subscribed(who, (Deed::DeleteTopic, name), (&agent, state.incarnation), lost)?;
            }
            state.topics.retain(|own| own != name);
            self.set_agent(&agent, Some(state));
        }
        if report == TopicDeleted::default() && self.overlay.entries.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "there is no such topic"));
        }
        Ok(Answer::TopicDeleted(report))
    }

    pub(crate) fn delete(&mut self, old: &Entry) {
        if !self.config.has(Fault::UsageDrifts) {
            let usage = &mut self.overlay.usage;
            usage.contexts = usage.contexts.saturating_sub(1);
            usage.context_bytes = usage.context_bytes.saturating_sub(old.bytes());
        }
        self.set_entry(&old.key, None);
    }
}
