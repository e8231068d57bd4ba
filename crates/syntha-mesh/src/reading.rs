//! One read on its way into the audit trail: refused, or what it saw.

use std::sync::Arc;

use syntha_store::{Action, Event, Verdict};

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::events::{Doer, NAMED, is_shed, verdict};
use crate::fault::Fault;
use crate::mesh::Mesh;
use crate::names::{AgentName, EntryKey};
use crate::trail::{NOW, Pushed};

/// What is being read, and by whom. Where no reads are told it does nothing.
pub(crate) struct Reading<'a> {
    mesh: &'a Mesh,
    agent: Option<&'a AgentName>,
    action: Action,
    target: Option<Arc<str>>,
}

impl Mesh {
    /// Whether reads are told.
    #[inline]
    pub(crate) fn tells_reads(&self) -> bool {
        self.core.trail.as_ref().is_some_and(crate::trail::Trail::tells_reads)
            && !self.core.config.has(Fault::ReadNotRecorded)
    }

    pub(crate) const fn reading<'a>(&'a self, agent: Option<&'a AgentName>, action: Action) -> Reading<'a> {
        Reading { mesh: self, agent, action, target: None }
    }

    pub(crate) fn doer<'a>(&self, agent: Option<&'a AgentName>) -> Doer<'a> {
        Doer { at: NOW, agent, session: self.guard.session() }
    }

    /// Tells of an entry that was read, or says what is in the way: the quick form of [`note_read`](Self::note_read).
    #[inline]
    pub(crate) fn note_found(&self, agent: Option<&AgentName>, entry: &Entry) -> Option<Pushed> {
        self.core.note_quick(of(self.doer(agent), Action::Read, entry))
    }

    /// Tells of an entry that was read, that there was none, or that it was refused.
    pub(crate) async fn note_read(
        &self,
        agent: Option<&AgentName>,
        key: &str,
        found: Result<Option<&Arc<Entry>>, &Error>,
    ) -> Result<()> {
        let event = match found {
            Ok(Some(entry)) => return self.core.note(of(self.doer(agent), Action::Read, entry)).await,
            Ok(None) => self.doer(agent).event(Action::Read).ended(Verdict::Nothing, None),
            Err(error) => refusal(self.doer(agent).event(Action::Read), error),
        };
        let waits = found.err().is_none_or(|error| error.kind() != ErrorKind::Busy);
        let event = match EntryKey::new(key) {
            _ if found.err().is_some_and(is_shed) => event,
            Ok(key) => event.on(Arc::clone(key.shared())),
            Err(_) => event,
        };
        self.note_refused(event, waits).await
    }

    /// What the store failed at, and who was refused for being too fast, is told if there is room; the rest waits as a read does.
    async fn note_refused(&self, event: Event, waits: bool) -> Result<()> {
        if !waits || event.verdict == Verdict::Failed || self.is_retired() {
            let _ = self.core.note_soon(vec![event]);
            return Ok(());
        }
        self.core.note(event).await
    }
}

#[inline]
fn of(doer: Doer<'_>, action: Action, entry: &Entry) -> Event {
    let event = doer.event(action).on(Arc::clone(&entry.key)).version(Some(entry.version));
    if action == Action::Read { event.bytes(u64::from(entry.size)) } else { event }
}

const fn refusal(event: Event, error: &Error) -> Event {
    let (verdict, rule) = verdict(error);
    event.ended(verdict, rule)
}

impl Reading<'_> {
    /// Of something that has a name.
    pub(crate) fn of(mut self, target: &Arc<str>) -> Self {
        self.target = Some(Arc::clone(target));
        self
    }

    fn event(&self) -> Event {
        let event = self.mesh.doer(self.agent).event(self.action);
        match &self.target {
            Some(target) => event.on(Arc::clone(target)),
            None => event,
        }
    }

    /// Tells of a read that was refused.
    pub(crate) async fn admit<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(error) if self.mesh.tells_reads() => {
                let waits = error.kind() != ErrorKind::Busy;
                let mut event = refusal(self.event(), &error);
                if is_shed(&error) {
                    event.target = None;
                }
                self.mesh.note_refused(event, waits).await?;
                Err(error)
            }
            result => result,
        }
    }

    /// Tells how much was seen of what the read is of.
    pub(crate) async fn saw(&self, count: usize, bytes: u64) -> Result<()> {
        if !self.mesh.tells_reads() {
            return Ok(());
        }
        let event = self.event().count(count as u64).bytes(bytes);
        self.mesh.core.note(if count == 0 { event.ended(Verdict::Nothing, None) } else { event }).await
    }

    /// Tells which entries were seen: each by name up to a number, the rest in one.
    pub(crate) async fn saw_entries(&self, entries: &[Arc<Entry>]) -> Result<()> {
        if entries.is_empty() {
            return self.saw(0, 0).await;
        }
        if !self.mesh.tells_reads() {
            return Ok(());
        }
        self.mesh.core.note_all(self.mesh.entry_events(self.agent, self.action, entries)).await
    }
}

impl Mesh {
    /// One event for each entry up to a number, and one for the rest.
    pub(crate) fn entry_events(
        &self,
        agent: Option<&AgentName>,
        action: Action,
        entries: &[Arc<Entry>],
    ) -> Vec<Event> {
        let doer = self.doer(agent);
        let (named, rest) = entries.split_at(entries.len().min(NAMED));
        let mut events: Vec<_> = named.iter().map(|entry| of(doer, action, entry)).collect();
        if !rest.is_empty() {
            let bytes = rest.iter().map(|entry| u64::from(entry.size)).sum();
            let event = doer.event(action).count(rest.len() as u64);
            events.push(if action == Action::Read { event.bytes(bytes) } else { event });
        }
        events
    }
}
