use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use event_listener::EventListener;
use futures_core::Stream;
use parking_lot::Mutex;
use syntha_store::{Epoch, Timestamp, Version};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use crate::agent::Agent;
use crate::backlog::{Backlog, Bounds, Due};
use crate::decision::Act;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::fault::Fault;
use crate::index::Index;
use crate::listing::{Filter, filtered};
use crate::mesh::Mesh;
use crate::names::Topic;
use crate::watchers::{Wants, Watcher, follow};

/// The longest sleep before the clock is asked again, which may have been set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
const MOST_CHANGES: usize = 65_536;
const MOST_BYTES: usize = 64 << 20;

/// What a watch is for, and how much of it waits for a slow reader.
#[derive(Clone)]
#[must_use]
pub struct WatchConfig {
    most: Bounds,
    wants: Wants,
}

/// What is new for the reader of a watch.
#[derive(Clone)]
#[non_exhaustive]
pub enum WatchEvent {
    /// Everything that the reader may see, with values, in order of keys and as of one commit. Always the first event, and
    /// given once.
    Snapshot(Vec<Arc<Entry>>),
    /// An entry was written, or the reader may see it from now on.
    Put(Arc<Entry>),
    /// There is no such entry for the reader any more: removed, expired, and no longer for this agent are one answer.
    Removed(Arc<str>),
    /// The reader was too slow, and so many changes that it could have seen were dropped. What differs between what it was
    /// given and what is there now follows by itself.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// A stream of what changes for an agent, or for the host: [`Agent::watch`] and [`Mesh::watch`] make one.
///
/// First comes a [`Snapshot`](WatchEvent::Snapshot), taken when the watch is first asked, then each change in the order of
/// the commits. Whether the agent may see an entry is decided again when it is given: what was restricted, removed or
/// erased since is not given, also if it was queued before. So a value that was overwritten or removed at once may never
/// be given, and [`Removed`](WatchEvent::Removed) may come before its turn; what the reader knows last is always what is
/// there. Only in a mesh that shares its user with other handles may a value be skipped because the next one was there
/// already.
///
/// It ends with one error, `SessionEnded` or `Gone`: when the session or the user's life ends, when the agent is
/// unregistered, when the deployment is shut down. A reader that waits wakes for it. After another error it goes on where
/// it was when it is asked again.
///
/// What waits is bounded by [`WatchConfig`]; a watch that nobody reads holds up no writer. It counts as a handle of the
/// mesh. It is read on a tokio runtime.
pub struct Watch {
    mesh: Mesh,
    agent: Option<Agent>,
    watcher: Arc<Watcher>,
    state: State,
    /// The store was asked since the last entry was given, so the index is as new as it must be.
    fresh: bool,
    /// What is being read from the store: in a task, because what is half-read may hold up the store's writers, and a
    /// reader may stop asking at any time.
    work: Option<JoinHandle<Result<Done>>>,
    /// What is given as soon as the audit trail has it.
    held: Option<WatchEvent>,
    endings: Vec<EventListener>,
    alarm: Option<(Timestamp, Pin<Box<Sleep>>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Running,
    Ended,
}

type Work = Pin<Box<dyn Future<Output = Result<Done>> + Send>>;

/// What was read from the store.
enum Done {
    Fresh,
    /// The audit trail was told of what is held.
    Told,
    Snapshot(Epoch, Vec<Arc<Entry>>),
    /// The entry that was asked for, in this version; `None` if that is no more.
    Loaded(Arc<str>, Version, Option<Arc<Entry>>),
}

enum Step {
    Event(WatchEvent),
    Work(Work),
    Wait,
}

impl WatchConfig {
    /// Everything that the reader may see, and at most 1,024 changes and 4 MiB of keys and values that wait.
    pub const fn new() -> Self {
        Self { most: Bounds { changes: 1_024, bytes: 4 << 20 }, wants: Wants { prefix: None, topic: None } }
    }

    /// The most changes that wait, 1 to 65,536. Beyond that they are dropped, and the reader is told
    /// [`Lagged`](WatchEvent::Lagged).
    pub const fn changes(mut self, most: usize) -> Self {
        self.most.changes = most;
        self
    }

    /// The most bytes of keys and values that wait, 1 to 64 MiB.
    pub const fn bytes(mut self, most: usize) -> Self {
        self.most.bytes = most;
        self
    }

    /// Only keys that start so.
    pub fn prefix(mut self, prefix: impl AsRef<str>) -> Self {
        self.wants.prefix = Some(prefix.as_ref().into());
        self
    }

    /// Only entries on a topic. An entry that leaves it is [`Removed`](WatchEvent::Removed).
    pub fn topic(mut self, topic: &Topic) -> Self {
        self.wants.topic = Some(Arc::clone(topic.shared()));
        self
    }

    const fn check(&self) -> Result<()> {
        let Bounds { changes, bytes } = self.most;
        if changes == 0 || changes > MOST_CHANGES || bytes == 0 || bytes > MOST_BYTES {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a watch holds 1 to 65,536 changes and 1 byte to 64 MiB, set bounds in these ranges",
            ));
        }
        Ok(())
    }
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    pub(crate) fn new(mesh: Mesh, agent: Option<Agent>, config: WatchConfig) -> Result<Self> {
        config.check()?;
        runtime()?;
        let stale = mesh.core.config.has(Fault::WatchStaleDecision);
        let unbounded = mesh.core.config.has(Fault::WatchUnbounded);
        let most = if unbounded { Bounds { changes: usize::MAX, bytes: usize::MAX } } else { config.most };
        let watcher = Arc::new(Watcher {
            agent: agent.as_ref().map(|agent| agent.name.clone()),
            narrowed: agent.as_ref().and_then(|agent| agent.life.narrowed.clone()),
            grants: mesh.guard.grants_for(agent.as_ref().map(|agent| agent.name.as_str())),
            wants: config.wants,
            backlog: Mutex::new(Backlog::new(most, stale)),
        });
        {
            // INVARIANT: under the index's lock, so that a retirement either is seen here or finds the watch in the list.
            let index = mesh.core.index.read();
            mesh.check()?;
            bind(agent.as_ref(), &index)?;
            mesh.core.watchers.add(Arc::clone(&watcher), mesh.core.config.watches)?;
        }
        let endings = mesh.guard.listen();
        let (state, fresh, work, held, alarm) = (State::New, false, None, None, None);
        Ok(Self { mesh, agent, watcher, state, fresh, work, held, endings, alarm })
    }

    /// The next event; `None` after the watch has ended. May be dropped at any time: nothing is lost by it.
    ///
    /// What it gives was decided after the call. In a mesh that shares its user with other handles it may ask the store for
    /// that, so a call that is given up sooner than a read takes gives nothing. As a [`Stream`], the watch decides after the
    /// first poll for an item.
    pub async fn next(&mut self) -> Option<Result<WatchEvent>> {
        // INVARIANT: what an earlier call asked the store for says nothing of what other handles did since.
        if !self.mesh.core.exclusive && self.held.is_none() {
            self.fresh = false;
            self.stop();
        }
        poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<WatchEvent>>> {
        if self.state == State::Ended {
            return Poll::Ready(None);
        }
        loop {
            if let Err(error) = self.check() {
                self.end();
                return Poll::Ready(Some(Err(error)));
            }
            let mut done = None;
            if let Some(work) = &mut self.work {
                // What ends the watch wakes it from the store's work too.
                let Poll::Ready(result) = Pin::new(work).poll(cx) else {
                    let goes_on = self.watcher.backlog.lock().wake_later(cx.waker());
                    if goes_on && !self.is_ending(cx) {
                        return Poll::Pending;
                    }
                    continue;
                };
                self.work = None;
                done = match result.unwrap_or_else(|_| Err(interrupted())) {
                    Ok(done) => Some(done),
                    // Its user or its session may be why.
                    Err(error) => {
                        let error = self.check().err().unwrap_or(error);
                        if matches!(error.kind(), ErrorKind::Gone | ErrorKind::SessionEnded) {
                            self.end();
                        }
                        return Poll::Ready(Some(Err(error)));
                    }
                };
            }
            if let Some(event) = self.held.take() {
                if !matches!(done, Some(Done::Told)) {
                    self.work = Some(tokio::spawn(self.tell(&event)));
                    self.held = Some(event);
                } else if let Some(event) = self.still(event) {
                    return Poll::Ready(Some(Ok(event)));
                }
                continue;
            }
            match self.step(cx, done) {
                Ok(Step::Event(event)) if self.tells(&event) => self.held = Some(event),
                Ok(Step::Event(event)) => return Poll::Ready(Some(Ok(event))),
                Ok(Step::Work(work)) => self.work = Some(tokio::spawn(work)),
                Ok(Step::Wait) => {
                    if !self.is_ending(cx) && !self.rings(cx) {
                        return Poll::Pending;
                    }
                }
                Err(error) => {
                    self.end();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// Whether the audit trail is told of an event before it is given: of what holds values. Where it need not be waited for, it is told.
    fn tells(&self, event: &WatchEvent) -> bool {
        let entries = entries(event);
        if entries.is_empty() || !self.mesh.tells_reads() {
            return false;
        }
        let strict = self.mesh.core.trail.as_ref().is_some_and(crate::trail::Trail::is_strict);
        strict || self.mesh.core.note_soon(self.read_events(entries)).is_err()
    }

    fn read_events(&self, entries: &[Arc<Entry>]) -> Vec<syntha_store::Event> {
        let agent = self.agent.as_ref().map(|agent| &agent.name);
        self.mesh.entry_events(agent, syntha_store::Action::Read, entries)
    }

    /// Tells the audit trail of what is held, and waits for room or for the commit.
    fn tell(&self, event: &WatchEvent) -> Work {
        let (core, events) = (Arc::clone(&self.mesh.core), self.read_events(entries(event)));
        Box::pin(async move { core.note_all(events).await.map(|()| Done::Told) })
    }

    /// What is held, as far as the reader may still see it. What was written again meanwhile is queued.
    fn still(&self, event: WatchEvent) -> Option<WatchEvent> {
        let core = &self.mesh.core;
        let index = core.index.read();
        let reader = Reader { mesh: &self.mesh, agent: self.agent.as_ref(), wants: &self.watcher.wants };
        let may = |entry: &Entry| {
            let now = index.get(&entry.key).filter(|now| now.version == entry.version);
            now.is_some_and(|now| reader.sees(now, &index) && core.lives(now, &index))
        };
        match event {
            WatchEvent::Snapshot(mut entries) => {
                entries.retain(|entry| may(entry));
                Some(WatchEvent::Snapshot(entries))
            }
            WatchEvent::Put(entry) => may(&entry).then_some(WatchEvent::Put(entry)),
            event => Some(event),
        }
    }

    /// The session, the user's life and the agent are still there.
    fn check(&self) -> Result<()> {
        runtime()?;
        self.mesh.check()?;
        bind(self.agent.as_ref(), &self.mesh.core.index.read())
    }

    fn step(&mut self, cx: &Context<'_>, done: Option<Done>) -> Result<Step> {
        let core = Arc::clone(&self.mesh.core);
        let index = core.index.read();
        self.mesh.check()?;
        bind(self.agent.as_ref(), &index)?;
        let now = core.now(&index);
        let reader = Reader { mesh: &self.mesh, agent: self.agent.as_ref(), wants: &self.watcher.wants };
        let may = |entry: &Entry| reader.sees(entry, &index) && core.lives(entry, &index);
        let mut backlog = self.watcher.backlog.lock();
        let (mut loaded, mut missing) = (None, None);
        match done {
            None if self.state == State::New => {
                backlog.awake = true;
                return Ok(Step::Work(self.read_snapshot()));
            }
            None => {}
            Some(Done::Fresh) => self.fresh = true,
            // Nothing is held any more.
            Some(Done::Told) => {}
            Some(Done::Loaded(key, version, None)) => missing = Some((key, version)),
            Some(Done::Loaded(_, _, Some(entry))) => loaded = Some(entry),
            Some(Done::Snapshot(at, mut entries)) => {
                // What was restricted while the values were read is not given; what was written meanwhile is queued.
                entries.retain(|entry| may(entry) && index.get(&entry.key).is_some_and(|entry| may(entry)));
                backlog.begin(at, index.stamp.epoch);
                entries.iter().for_each(|entry| backlog.give(entry));
                self.state = State::Running;
                return Ok(Step::Event(WatchEvent::Snapshot(entries)));
            }
        }
        let expired = (!core.config.has(Fault::ExpiredShown)).then_some(now);
        loop {
            let entry = match backlog.due(&index, expired, may) {
                None => break,
                Some(Due::Removed(_)) if core.config.has(Fault::WatchRemovedForgotten) => continue,
                Some(Due::Removed(key)) => return Ok(Step::Event(WatchEvent::Removed(key))),
                Some(Due::Lagged(missed)) => return Ok(Step::Event(WatchEvent::Lagged { missed })),
                Some(Due::Put(entry)) => entry,
            };
            if !core.exclusive && !self.fresh && !core.store.is_at(index.stamp) {
                let (mesh, host) = (self.mesh.clone(), self.agent.is_none());
                return Ok(Step::Work(Box::pin(
                    async move { fresh(&mesh, host).await.map(|()| Done::Fresh) },
                )));
            }
            let is_it = |other: &Entry| other.version == entry.version && other.key == entry.key;
            let entry = if entry.value.is_some() {
                entry
            } else if let Some(loaded) = loaded.take().filter(|loaded: &Arc<Entry>| is_it(loaded)) {
                loaded
            } else if missing
                .take_if(|(key, version)| *version == entry.version && *key == entry.key)
                .is_some()
            {
                // It was written again or removed, and that waits in the queue or comes.
                backlog.take(&index, may);
                continue;
            } else {
                return Ok(Step::Work(self.read_value(&entry)));
            };
            backlog.take(&index, may);
            backlog.give(&entry);
            self.fresh = false;
            return Ok(Step::Event(WatchEvent::Put(entry)));
        }
        self.fresh = false;
        backlog.wake_later(cx.waker());
        let next = expired.and_then(|_| backlog.next_expiry());
        drop((backlog, index));
        self.set_alarm(next, now);
        follow(&core);
        Ok(Step::Wait)
    }

    fn read_snapshot(&self) -> Work {
        let (mesh, agent, wants) = (self.mesh.clone(), self.agent.clone(), self.watcher.wants.clone());
        Box::pin(async move {
            fresh(&mesh, agent.is_none()).await?;
            let reader = Reader { mesh: &mesh, agent: agent.as_ref(), wants: &wants };
            let at = Mutex::new(Epoch(0));
            let filter = match &wants.prefix {
                Some(prefix) => Filter::new().prefix(&**prefix),
                None => Filter::new(),
            };
            let entries = mesh.core.load_many(|index| {
                *at.lock() = index.stamp.epoch;
                filtered(index, &filter, |entry| reader.sees(entry, index) && mesh.core.lives(entry, index))
            });
            let entries = entries.await?;
            let at = *at.lock();
            Ok(Done::Snapshot(at, entries))
        })
    }

    fn read_value(&self, entry: &Entry) -> Work {
        let (mesh, agent, wants) = (self.mesh.clone(), self.agent.clone(), self.watcher.wants.clone());
        let (key, version) = (Arc::clone(&entry.key), entry.version);
        Box::pin(async move {
            let reader = Reader { mesh: &mesh, agent: agent.as_ref(), wants: &wants };
            let entry = mesh.core.load(&key, |entry, index| reader.sees(entry, index)).await?;
            let entry = entry.filter(|entry| entry.version == version);
            Ok(Done::Loaded(key, version, entry))
        })
    }

    /// Whether a session that the watch belongs to ends. Wakes the reader if one does.
    fn is_ending(&mut self, cx: &mut Context<'_>) -> bool {
        if self.mesh.core.config.has(Fault::WatchSleepsOn) {
            return false;
        }
        let before = self.endings.len();
        self.endings.retain_mut(|ending| Pin::new(ending).poll(cx).is_pending());
        self.endings.len() < before
    }

    fn set_alarm(&mut self, next: Option<Timestamp>, now: Timestamp) {
        match next {
            None => self.alarm = None,
            Some(at) if self.alarm.as_ref().is_some_and(|(set, _)| *set == at) => {}
            Some(at) => {
                let rest = Duration::from_millis(at.0.saturating_sub(now.0)).min(LONGEST_SLEEP);
                self.alarm = Some((at, Box::pin(tokio::time::sleep(rest))));
            }
        }
    }

    /// Whether something may have expired.
    fn rings(&mut self, cx: &mut Context<'_>) -> bool {
        let rings = self.alarm.as_mut().is_some_and(|(_, alarm)| alarm.as_mut().poll(cx).is_ready());
        if rings {
            self.alarm = None;
        }
        rings
    }

    fn stop(&mut self) {
        if let Some(work) = self.work.take() {
            work.abort();
        }
    }

    fn end(&mut self) {
        self.state = State::Ended;
        self.held = None;
        self.stop();
        self.alarm = None;
        self.endings.clear();
        self.mesh.core.watchers.remove(&self.watcher);
        self.watcher.backlog.lock().end();
    }
}

/// The entries whose values an event holds.
fn entries(event: &WatchEvent) -> &[Arc<Entry>] {
    match event {
        WatchEvent::Snapshot(entries) => entries,
        WatchEvent::Put(entry) => std::slice::from_ref(entry),
        WatchEvent::Removed(_) | WatchEvent::Lagged { .. } => &[],
    }
}

/// Who decides what a watch gives.
struct Reader<'a> {
    mesh: &'a Mesh,
    agent: Option<&'a Agent>,
    wants: &'a Wants,
}

impl Reader<'_> {
    fn sees(&self, entry: &Entry, index: &Index) -> bool {
        self.wants.entry(entry)
            && (match self.agent {
                Some(agent) => agent.sees(entry, index),
                None => self.mesh.host_may(Act::Read).is_ok(),
            } || self.mesh.core.config.has(Fault::WatchAudienceIgnored))
    }
}

/// The index is up to date, and where the host looks it may read. What an agent may is decided for each entry. That the watch was opened
/// is a call of the user's, what it gives is none.
async fn fresh(mesh: &Mesh, host: bool) -> Result<()> {
    if host { mesh.fresh_uncounted(Act::Read).await } else { mesh.current_uncounted().await }
}

fn bind(agent: Option<&Agent>, index: &Index) -> Result<()> {
    agent.map_or(Ok(()), |agent| agent.life.bind(agent.name.as_str(), &index.roster))
}

fn runtime() -> Result<()> {
    tokio::runtime::Handle::try_current().map(drop).map_err(|source| {
        Error::new(ErrorKind::Invalid, "a mesh is watched on a tokio runtime").with_source(source)
    })
}

const fn interrupted() -> Error {
    Error::new(ErrorKind::Storage, "the runtime ended while the watch read a value, open it again")
}

impl Stream for Watch {
    type Item = Result<WatchEvent>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_event(cx)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
        self.mesh.core.watchers.remove(&self.watcher);
    }
}

/// Shows no key and no value.
impl fmt::Debug for WatchEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(entries) => write!(f, "Snapshot({} entries)", entries.len()),
            Self::Put(entry) => f.debug_tuple("Put").field(entry).finish(),
            Self::Removed(_) => f.write_str("Removed(..)"),
            Self::Lagged { missed } => f.debug_struct("Lagged").field("missed", missed).finish(),
        }
    }
}

impl fmt::Debug for WatchConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bounds { changes, bytes } = self.most;
        f.debug_struct("WatchConfig")
            .field("changes", &changes)
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Watch;

    /// A reader may be moved to a task and shared with one, and needs no pinning.
    #[test]
    fn a_watch_goes_anywhere() {
        const fn goes_anywhere<T: Send + Sync + Unpin + 'static>() {}
        const { goes_anywhere::<Watch>() };
    }
}
