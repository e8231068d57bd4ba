//! What a change is called in the audit trail: one event for each that was applied, found nothing to do, or was refused.

use std::sync::Arc;

use syntha_store::{Action, Event, Timestamp, Verdict, Version};

use crate::change::{Answer, Change};
use crate::draft::Draft;
use crate::error::{Error, ErrorKind};
use crate::fault::Fault;
use crate::names::{AgentName, Topic};

/// The most events of one call that name what it touched. What is beyond stands in one more, as a number.
pub(crate) const NAMED: usize = 64;

/// Who does something, and when.
#[derive(Clone, Copy)]
pub(crate) struct Doer<'a> {
    pub(crate) at: Timestamp,
    pub(crate) agent: Option<&'a AgentName>,
    pub(crate) session: Option<u64>,
}

impl Doer<'_> {
    pub(crate) fn event(&self, action: Action) -> Event {
        let agent = self.agent.map(|agent| Arc::clone(agent.shared()));
        Event::new(self.at, action).by(agent).session(self.session)
    }

    /// One event for each name, up to a number; the rest in one.
    fn each(&self, action: Action, names: &[Arc<str>]) -> Vec<Event> {
        let (named, rest) = names.split_at(names.len().min(NAMED));
        let mut events: Vec<_> = named.iter().map(|name| self.event(action).on(Arc::clone(name))).collect();
        if !rest.is_empty() {
            events.push(self.event(action).count(rest.len() as u64));
        }
        events
    }
}

/// What was there before a change, as far as its event says it.
pub(crate) struct Before {
    version: Option<Version>,
    /// How many topics the agent was subscribed to that subscribes; `None` for a new one.
    topics: Option<usize>,
}

impl Draft<'_> {
    /// What a change that is no batch finds.
    pub(crate) fn before(&self, change: &Change) -> Before {
        let version = |key: &Arc<str>| self.live(key).map(|entry| entry.version);
        let version = match change {
            Change::Push(push) => version(push.key.shared()),
            Change::Remove { key, .. } => version(key.shared()),
            _ => None,
        };
        let topics = match change {
            Change::Subscribe { agent, .. } => self.agent(agent.as_str()).map(|state| state.topics.len()),
            _ => None,
        };
        Before { version, topics }
    }

    /// Writes down what a change did that is no batch.
    pub(crate) fn tell(&mut self, by: Option<&AgentName>, change: &Change, answer: &Answer, before: &Before) {
        let doer = Doer { at: self.now, agent: by, session: self.caller.session };
        let mut events = done(doer, change, answer, before);
        if self.config.has(Fault::EventMissing) {
            events.retain(|event| event.verdict != Verdict::Done);
        }
        self.overlay.events.append(&mut events);
    }

    /// Writes down that a change was refused.
    pub(crate) fn tell_refused(&mut self, change: &Change, error: &Error) {
        if self.telling {
            let doer = Doer { at: self.now, agent: None, session: self.caller.session };
            self.overlay.events.append(&mut refused(doer, change, error));
        }
    }
}

fn done(doer: Doer<'_>, change: &Change, answer: &Answer, before: &Before) -> Vec<Event> {
    let nothing = |event: Event| event.ended(Verdict::Nothing, None);
    let flagged = |event| if matches!(answer, Answer::Flag(true)) { event } else { nothing(event) };
    let counted = |event: Event, count| if count == 0 { nothing(event).count(0) } else { event.count(count) };
    match (change, answer) {
        (Change::Push(push), _) => {
            let event = named(doer, change).version(before.version).bytes(push.text.len() as u64);
            vec![if matches!(answer, Answer::Repeated(_)) { nothing(event).bytes(0) } else { event }]
        }
        (Change::Remove { .. }, Answer::Flag(true)) => vec![named(doer, change).version(before.version)],
        (Change::Clear | Change::Sweep { .. }, Answer::Count(count)) => {
            vec![counted(named(doer, change), *count)]
        }
        (Change::Subscribe { agent, topics, .. }, Answer::Subscriptions(report)) => {
            let doer = Doer { agent: doer.agent.or(Some(agent)), ..doer };
            match &*report.changed {
                // The agent is new, or lost topics by it.
                [] if before.topics != Some(report.topics.len()) => vec![doer.event(Action::Subscribe)],
                [] => doer.each(Action::Subscribe, &texts(topics)).into_iter().map(nothing).collect(),
                changed => doer.each(Action::Subscribe, changed),
            }
        }
        (Change::Unsubscribe { agent, topics }, Answer::Subscriptions(report)) => {
            let doer = Doer { agent: doer.agent.or(Some(agent)), ..doer };
            match &*report.changed {
                [] => doer.each(Action::Unsubscribe, &texts(topics)).into_iter().map(nothing).collect(),
                changed => doer.each(Action::Unsubscribe, changed),
            }
        }
        (Change::DeleteTopic { .. }, Answer::TopicDeleted(report)) => {
            let count = report.entries_deleted + report.entries_kept + report.subscribers;
            vec![named(doer, change).count(count)]
        }
        (Change::Undo { .. }, Answer::Undone(undone)) => {
            let mut events = doer.each(Action::Undo, &undone.keys);
            let others = undone.rejoined + undone.subscribers;
            if others > 0 {
                let on =
                    undone.on.iter().fold(doer.event(Action::Undo), |event, on| event.on(Arc::clone(on)));
                events.push(on.count(others));
            }
            if events.is_empty() { vec![nothing(named(doer, change)).count(0)] } else { events }
        }
        (Change::PurgeUndo { .. }, Answer::Count(count)) => vec![counted(named(doer, change), *count)],
        (Change::Append { messages, .. }, Answer::Appended(appended)) => {
            let new = messages.iter().zip(appended).filter(|(_, appended)| !appended.duplicate);
            let (count, bytes) = new
                .fold((0, 0), |(count, bytes), (message, _)| (count + 1, bytes + message.body.len() as u64));
            vec![counted(named(doer, change), count).bytes(bytes)]
        }
        (Change::Load(_), Answer::Loaded(report)) => {
            vec![counted(named(doer, change), report.imported.lines())]
        }
        (Change::Log(_) | Change::Flush | Change::By { .. } | Change::Batch(_), _) => Vec::new(),
        _ => vec![flagged(named(doer, change))],
    }
}

/// Whether a call was turned away because calls come too fast, or because too many are under way.
pub(crate) fn is_shed(error: &Error) -> bool {
    error.kind() == ErrorKind::Busy && error.exceeded().is_some()
}

/// What a change that was refused, or failed, is written down as.
pub(crate) fn refused(doer: Doer<'_>, change: &Change, error: &Error) -> Vec<Event> {
    let (verdict, rule) = verdict(error);
    // A flood is one event with a count, whatever its keys.
    if is_shed(error) && !matches!(change, Change::Log(_) | Change::Flush) {
        let mut event = named(doer, change).count(1);
        event.target = None;
        return vec![event.ended(verdict, rule)];
    }
    let events = match change {
        Change::By { agent, change, .. } => {
            return refused(Doer { agent: Some(agent), ..doer }, change, error);
        }
        Change::Batch(changes) => {
            let mut events: Vec<_> =
                changes.iter().take(NAMED).flat_map(|change| refused(doer, change, error)).collect();
            if let Some(rest) = changes.len().checked_sub(NAMED).filter(|rest| *rest > 0) {
                let event = doer.event(Action::Push).count(rest as u64);
                events.push(event.ended(verdict, rule));
            }
            return events;
        }
        Change::Log(_) | Change::Flush => Vec::new(),
        Change::Subscribe { agent, topics, .. } => {
            Doer { agent: doer.agent.or(Some(agent)), ..doer }.each(Action::Subscribe, &texts(topics))
        }
        Change::Unsubscribe { agent, topics } => {
            Doer { agent: doer.agent.or(Some(agent)), ..doer }.each(Action::Unsubscribe, &texts(topics))
        }
        _ => vec![named(doer, change)],
    };
    events.into_iter().map(|event| event.ended(verdict, rule)).collect()
}

/// A sweep that the clock forbids.
pub(crate) fn paused(doer: Doer<'_>) -> Vec<Event> {
    vec![doer.event(Action::Sweep).count(0).ended(Verdict::Nothing, None)]
}

/// An event of a change that touches one thing.
fn named(doer: Doer<'_>, change: &Change) -> Event {
    let on = |action, name: &Arc<str>| doer.event(action).on(Arc::clone(name));
    match change {
        Change::Push(push) => on(Action::Push, push.key.shared()),
        Change::Remove { key, .. } => on(Action::Remove, key.shared()),
        Change::Clear => doer.event(Action::Clear),
        Change::Sweep { .. } => doer.event(Action::Sweep),
        Change::Register { agent } => on(Action::Register, agent.shared()),
        Change::Unregister { agent } => on(Action::Unregister, agent.shared()),
        Change::Subscribe { agent, .. } => on(Action::Subscribe, agent.shared()),
        Change::Unsubscribe { agent, .. } => on(Action::Unsubscribe, agent.shared()),
        Change::DeleteTopic { topic } => on(Action::DeleteTopic, topic.shared()),
        Change::PostPermissions { agent, .. }
        | Change::ReadPermissions { agent, .. }
        | Change::Permit { agent, .. } => on(Action::Permit, agent.shared()),
        Change::CreateThread { thread, .. } => on(Action::CreateThread, thread.shared()),
        Change::Append { thread, .. } => on(Action::Append, thread.shared()),
        Change::Redact { thread, .. } => on(Action::Redact, thread.shared()),
        Change::DeleteThread { thread } => on(Action::DeleteThread, thread.shared()),
        Change::Load(_) => doer.event(Action::Import),
        Change::Limits(_) => doer.event(Action::SetLimits),
        Change::Undo { .. } => doer.event(Action::Undo),
        Change::PurgeUndo { .. } => doer.event(Action::PurgeUndo),
        Change::By { agent, change, .. } => named(Doer { agent: Some(agent), ..doer }, change),
        Change::Batch(_) | Change::Log(_) | Change::Flush => doer.event(Action::Push).count(0),
    }
}

/// How an error is told: who was refused, or what failed.
pub(crate) const fn verdict(error: &Error) -> (Verdict, Option<syntha_store::Rule>) {
    let rule = error.rule();
    let verdict = match (error.kind(), rule) {
        (ErrorKind::Denied | ErrorKind::LimitExceeded | ErrorKind::SessionEnded | ErrorKind::Gone, _)
        | (ErrorKind::Busy, Some(syntha_store::Rule::Limit))
        | (ErrorKind::NotFound, Some(_)) => Verdict::Denied,
        (ErrorKind::NotFound, None) => Verdict::Nothing,
        _ => Verdict::Failed,
    };
    (verdict, rule)
}

fn texts(topics: &[Topic]) -> Vec<Arc<str>> {
    topics.iter().map(|topic| Arc::clone(topic.shared())).collect()
}
