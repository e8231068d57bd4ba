//! What the audit trail is still to be told: reads and refusals wait here, in bounds, for the next commit or for one of their own.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use syntha_store::{
    Action, Batch, Error as StoreError, ErrorKind as StoreErrorKind, Event, Events, Expect, Rule, Stamp,
    Subject, Timestamp, UserStore, Verdict,
};

use crate::change::{Caller, Change};
use crate::config::MeshConfig;
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::events::{self, Doer};
use crate::writer;
use syntha_store::Clock;

/// What the audit trail is told, where the store keeps one.
///
/// Whatever the policy, a store that keeps a trail takes a link of the user's chain with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditPolicy {
    /// Nothing: the chain says that something was committed, and not who did what.
    Off,
    /// Changes, in the commit that makes them, and writes that were refused, within a second.
    Writes,
    /// That, and reads: in the next commit, at the latest after a second or 4,000 different ones; equal ones are one event with a count.
    /// A crash loses those that were not in one yet, at most [`AUDIT_WAITING_MOST`] events of a user.
    /// The default.
    #[default]
    Buffered,
    /// That, and a read is given, and a refusal told, only once its event is committed. The read is refused with `AuditUnavailable`
    /// if that takes longer than the mesh's `audit_deadline`.
    Strict,
}

/// The most events of one mesh that are not committed. Reads beyond wait for a flush.
pub const AUDIT_WAITING_MOST: u64 = 10_000;
/// So many do not wait for the second to pass. Reads of a few thousand keys again and again stay below it, and are told once a second.
const WAITING: usize = 4_000;
/// How long an event waits at most.
const DELAY: Duration = Duration::from_secs(1);
/// The most bytes of events, roughly, that one commit takes: less than a batch may have, for its own are not counted exactly.
const BYTES: usize = syntha_store::EVENTS_BYTES / 4 * 3;
/// The time of an event that is told when it happens.
pub(crate) const NOW: Timestamp = Timestamp(0);
/// How many reads that wait are found again.
const READS: usize = 8_192;
/// How many events that wait one is compared with where the trail is tight.
const KINDS_LOOKED_AT: usize = 256;
/// How much room for events is kept in memory when none wait.
const ROOM_KEPT: usize = 64;
/// How often the last events of a mesh that ends are tried to be written down.
const LAST_TRIES: usize = 8;
/// How often it waits for its turn where others have all of them.
const LAST_TURNS: usize = 60;

/// Where the events of one mesh wait.
pub(crate) struct Trail {
    policy: AuditPolicy,
    pub(crate) deadline: Duration,
    buffer: Mutex<Buffer>,
}

#[derive(Default)]
struct Buffer {
    events: VecDeque<Event>,
    /// Where reads that wait are found again, by their hash: one more than their place. Made when many wait, and gone with the next commit.
    reads: Box<[u64]>,
    /// How many events were taken before the first one that waits.
    taken: u64,
    /// How many events were committed.
    done: u64,
    /// No event is earlier than this: the time of the last commit that the mesh made.
    floor: u64,
    /// A task will flush within the delay.
    later: bool,
    /// A task will flush at once.
    now: bool,
    closed: bool,
    /// The user's trail comes near its limit: of reads and refusals it is told how many, not of what.
    tight: bool,
    /// It has reached it: nothing is read until something could be written down again.
    full: bool,
}

/// What became of an event.
pub(crate) enum Pushed {
    /// It waits, in this place, and somebody has to see to a flush.
    Waiting(u64, Option<When>),
    /// There is no room.
    Full(Event),
    /// The mesh has ended.
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Later,
    Now,
}

impl Buffer {
    /// The one that waits and differs from an event in nothing but when: the last, or if it is a read, any since the last commit.
    #[inline]
    fn like(&mut self, event: &Event) -> Option<&mut Event> {
        let last = self.events.len().checked_sub(1)?;
        let at = if self.events.get(last).is_some_and(|last| last.is_like(event)) {
            last
        } else {
            let place = self.reads.get(slot(event)).filter(|_| event.action == Action::Read)?;
            usize::try_from(place.checked_sub(1)?.checked_sub(self.taken)?).ok()?
        };
        self.events.get_mut(at).filter(|known| known.is_like(event))
    }

    /// Among the last that wait: where the trail is tight they are few, and of the same kinds.
    fn like_in_kind(&mut self, event: &Event) -> Option<&mut Event> {
        self.events.iter_mut().rev().take(KINDS_LOOKED_AT).find(|known| known.is_like(event))
    }

    fn append(&mut self, event: Event) {
        let waiting = self.events.len();
        if event.action == Action::Read && waiting >= ROOM_KEPT {
            if self.reads.is_empty() {
                self.reads = vec![0; READS].into();
            }
            if let Some(place) = self.reads.get_mut(slot(&event)) {
                *place = self.taken + waiting as u64 + 1;
            }
        }
        self.events.push_back(event);
    }

    const fn due(&mut self, when: When) -> &mut bool {
        match when {
            When::Later => &mut self.later,
            When::Now => &mut self.now,
        }
    }
}

impl Trail {
    /// `None` if nothing is to be told.
    pub(crate) fn new(audited: bool, config: &MeshConfig) -> Option<Self> {
        let wanted = audited && config.audit != AuditPolicy::Off;
        let (policy, deadline) = (config.audit, config.audit_deadline);
        wanted.then(|| Self { policy, deadline, buffer: Mutex::default() })
    }

    pub(crate) fn tells_reads(&self) -> bool {
        matches!(self.policy, AuditPolicy::Buffered | AuditPolicy::Strict)
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.policy == AuditPolicy::Strict
    }

    #[inline]
    fn push(&self, mut event: Event, clock: &dyn Clock) -> Pushed {
        let mut buffer = self.buffer.lock();
        let buffer = &mut *buffer;
        // Those that are being committed may come back.
        let pending = buffer.taken + buffer.events.len() as u64 - buffer.done;
        if buffer.closed {
            return Pushed::Closed;
        }
        if buffer.tight {
            shorten(&mut event);
        }
        let closed = buffer.full && !is_refused(&event);
        let like =
            if buffer.tight || is_shed(&event) { buffer.like_in_kind(&event) } else { buffer.like(&event) };
        if let Some(known) = like.filter(|_| !closed) {
            add(known, &event);
        } else if closed || pending >= AUDIT_WAITING_MOST {
            return Pushed::Full(event);
        } else {
            if event.at == NOW.0 {
                event.at = clock.wall().0;
            }
            event.at = event.at.max(buffer.floor);
            buffer.append(event);
        }
        let waiting = buffer.events.len();
        let when = if waiting >= WAITING { When::Now } else { When::Later };
        let alone = !std::mem::replace(buffer.due(when), true);
        Pushed::Waiting(buffer.taken + waiting as u64, alone.then_some(when))
    }

    /// Takes the oldest events, as many as go into a commit beside others. They come back if they are not committed.
    pub(crate) fn take(&self, now: Timestamp, beside: &[Event]) -> Taken<'_> {
        let mut room = BYTES.saturating_sub(beside.iter().map(weight).sum());
        let mut buffer = self.buffer.lock();
        buffer.floor = buffer.floor.max(now.0);
        buffer.reads = Box::default();
        let mut count = 0;
        for event in &buffer.events {
            let weight = weight(event);
            // At least one, so that whoever waits gets on.
            if weight > room && (count > 0 || !beside.is_empty()) {
                break;
            }
            room = room.saturating_sub(weight);
            count += 1;
        }
        let events: Vec<_> = buffer.events.drain(..count).collect();
        buffer.taken += count as u64;
        // While many come, the room is needed again at once.
        if buffer.events.is_empty() && count < WAITING {
            buffer.events.shrink_to(ROOM_KEPT);
        }
        Taken { trail: self, events }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.lock().events.is_empty()
    }

    /// Whether an event was committed. Of a mesh that has ended nobody is told any more.
    fn is_done(&self, place: u64) -> Result<bool> {
        let buffer = self.buffer.lock();
        match buffer.done >= place {
            false if buffer.closed => Err(Error::new(ErrorKind::Gone, GONE)),
            done => Ok(done),
        }
    }

    fn last_place(&self) -> u64 {
        let buffer = self.buffer.lock();
        buffer.taken + buffer.events.len() as u64
    }

    /// Whether nobody has to see to a flush: there is nothing to flush, or somebody else does.
    fn rests(&self) -> bool {
        let mut buffer = self.buffer.lock();
        buffer.events.is_empty() || std::mem::replace(&mut buffer.later, true)
    }

    fn unset(&self, when: When) {
        *self.buffer.lock().due(when) = false;
    }

    /// Something was committed. Says whether the trail has come near its limit since the last time.
    pub(crate) fn tighten(&self, tight: bool) -> bool {
        let mut buffer = self.buffer.lock();
        buffer.full = false;
        !std::mem::replace(&mut buffer.tight, tight) && tight
    }

    /// The trail has reached its limit.
    pub(crate) fn fill(&self) {
        let mut buffer = self.buffer.lock();
        (buffer.tight, buffer.full) = (true, true);
    }

    /// Takes no more, and gives back what waits.
    pub(crate) fn close(&self) -> VecDeque<Event> {
        let mut buffer = self.buffer.lock();
        buffer.closed = true;
        std::mem::take(&mut buffer.events)
    }
}

/// A batch with what the trail is told in it.
pub(crate) struct Told<'a> {
    pub(crate) batch: Option<Batch>,
    /// Those of them that waited.
    pub(crate) taken: Option<Taken<'a>>,
}

/// Events that are being committed.
pub(crate) struct Taken<'a> {
    trail: &'a Trail,
    pub(crate) events: Vec<Event>,
}

impl Taken<'_> {
    /// They are committed.
    pub(crate) fn committed(mut self) {
        self.events.clear();
        let mut buffer = self.trail.buffer.lock();
        buffer.done = buffer.taken;
    }
}

/// INVARIANT: whatever ends a commit early, its reads are not lost. After an outcome that nobody knows they may stand twice.
impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let mut buffer = self.trail.buffer.lock();
        buffer.taken -= self.events.len() as u64;
        for event in self.events.drain(..).rev() {
            buffer.events.push_front(event);
        }
    }
}

/// Where a read is looked for. Those of one entry by one handle share their names in memory; if another has the place, two are told.
#[inline]
fn slot(event: &Event) -> usize {
    let name = |subject: &Option<Subject>| subject.as_ref().map_or(0, |name| name.text().as_ptr().addr());
    let names = name(&event.target) as u64 ^ (name(&event.agent) as u64).rotate_left(24);
    let mixed = (names ^ event.version.unwrap_or(0).rotate_left(48)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % READS
}

/// What is told of a read or a refusal where the trail is tight: who, how it was decided, and how often.
fn shorten(event: &mut Event) {
    let reads = matches!(
        event.action,
        Action::Read | Action::List | Action::Watch | Action::ReadThread | Action::ReadInteractions
    );
    if reads || is_refused(event) {
        (event.target, event.version, event.session) = (None, None, None);
    }
}

/// Whether it was turned away by a limit before anybody looked at what it is of.
const fn is_shed(event: &Event) -> bool {
    matches!((&event.rule, &event.target), (Some(Rule::Limit), None)) && is_refused(event)
}

/// Whether nothing was given or done. It is told of even where the trail is full, as soon as it can be.
const fn is_refused(event: &Event) -> bool {
    matches!(event.verdict, Verdict::Denied | Verdict::Failed)
}

fn add(to: &mut Event, of: &Event) {
    to.count = to.count.saturating_add(of.count);
    to.bytes = to.bytes.saturating_add(of.bytes);
}

/// Bytes of an event's text, at most: a name without control characters grows to twice its length in JSON.
fn weight(event: &Event) -> usize {
    let name = |subject: &Option<Subject>| subject.as_ref().map_or(0, |subject| 2 * subject.text().len());
    256 + name(&event.agent) + name(&event.target)
}

impl Core {
    /// Tells the trail of something. If nothing is in the way that is one short lock.
    pub(crate) async fn note(self: &Arc<Self>, event: Event) -> Result<()> {
        match self.note_quick(event) {
            None => Ok(()),
            Some(pushed) => Box::pin(self.note_slow(pushed)).await,
        }
    }

    /// Tells the trail of something, or says what is in the way.
    #[inline]
    pub(crate) fn note_quick(self: &Arc<Self>, event: Event) -> Option<Pushed> {
        let trail = self.trail.as_ref()?;
        match trail.push(event, &*self.config.clock) {
            Pushed::Waiting(_, None) if !trail.is_strict() => None,
            pushed => Some(pushed),
        }
    }

    pub(crate) async fn note_slow(self: &Arc<Self>, pushed: Pushed) -> Result<()> {
        let Some(trail) = &self.trail else { return Ok(()) };
        match pushed {
            Pushed::Waiting(place, when) => {
                if let Some(when) = when {
                    self.see_to(when);
                }
                if trail.is_strict() { self.recorded(trail, place).await } else { Ok(()) }
            }
            Pushed::Full(event) => self.note_late(trail, event).await,
            Pushed::Closed => Err(Error::new(ErrorKind::Gone, GONE)),
        }
    }

    /// Tells the trail of several things, and waits for them once.
    pub(crate) async fn note_all(self: &Arc<Self>, mut events: Vec<Event>) -> Result<()> {
        let (Some(trail), Some(last)) = (&self.trail, events.pop()) else { return Ok(()) };
        for event in events {
            match trail.push(event, &*self.config.clock) {
                Pushed::Waiting(_, None) => {}
                Pushed::Waiting(_, Some(when)) => self.see_to(when),
                Pushed::Full(event) => Box::pin(self.note_late(trail, event)).await?,
                Pushed::Closed => return Err(Error::new(ErrorKind::Gone, GONE)),
            }
        }
        self.note(last).await
    }

    /// Tells the trail without waiting, if there is room; gives back what there is none for.
    pub(crate) fn note_soon(self: &Arc<Self>, events: Vec<Event>) -> Result<(), Vec<Event>> {
        let Some(trail) = &self.trail else { return Ok(()) };
        let mut events = events.into_iter();
        while let Some(event) = events.next() {
            match trail.push(event, &*self.config.clock) {
                Pushed::Waiting(_, None) => {}
                Pushed::Waiting(_, Some(when)) => self.see_to(when),
                Pushed::Full(event) => return Err(std::iter::once(event).chain(events).collect()),
                Pushed::Closed => return Ok(()),
            }
        }
        Ok(())
    }

    /// There is no room: waits for a flush.
    async fn note_late(self: &Arc<Self>, trail: &Trail, mut event: Event) -> Result<()> {
        let until = tokio::time::Instant::now() + trail.deadline;
        let place = loop {
            self.flush_until(until).await?;
            match trail.push(event, &*self.config.clock) {
                Pushed::Waiting(place, when) => {
                    if let Some(when) = when {
                        self.see_to(when);
                    }
                    break place;
                }
                Pushed::Full(back) => event = back,
                Pushed::Closed => return Err(Error::new(ErrorKind::Gone, GONE)),
            }
        };
        while trail.is_strict() && !trail.is_done(place)? {
            self.flush_until(until).await?;
        }
        Ok(())
    }

    /// Waits until an event is committed.
    async fn recorded(self: &Arc<Self>, trail: &Trail, place: u64) -> Result<()> {
        let until = tokio::time::Instant::now() + trail.deadline;
        while !trail.is_done(place)? {
            self.flush_until(until).await?;
        }
        Ok(())
    }

    /// Commits events that wait, as many as one commit takes.
    async fn flush_until(self: &Arc<Self>, until: tokio::time::Instant) -> Result<()> {
        // Outside of a runtime there is no clock that would end the wait.
        tokio::runtime::Handle::try_current().map_err(|source| unavailable().with_source(source))?;
        match tokio::time::timeout_at(until, writer::write(self, Change::Flush)).await {
            Ok(Ok(_)) => Ok(()),
            // What the store says of its trail says what to do.
            Ok(Err(error)) if matches!(error.kind(), ErrorKind::Gone | ErrorKind::AuditUnavailable) => {
                Err(error)
            }
            Ok(Err(error)) => Err(unavailable().with_source(error)),
            Err(_) => Err(unavailable()),
        }
    }

    /// Commits all events that wait now.
    pub(crate) async fn flush_trail(self: &Arc<Self>) -> Result<()> {
        let Some(trail) = &self.trail else { return Ok(()) };
        let (place, until) = (trail.last_place(), tokio::time::Instant::now() + trail.deadline);
        while !trail.is_done(place)? {
            self.flush_until(until).await?;
        }
        Ok(())
    }

    /// Gives a batch its events, and those that wait; or makes them wait, or a batch of their own.
    pub(crate) fn tell<'a>(
        self: &'a Arc<Self>,
        events: Vec<Event>,
        flush: bool,
        batch: Option<Batch>,
        (since, now): (Stamp, Timestamp),
    ) -> Result<Told<'a>, StoreError> {
        let Some(trail) = &self.trail else { return Ok(Told { batch, taken: None }) };
        let (batch, events) = match batch {
            Some(batch) => (batch, events),
            None => {
                let own =
                    if trail.is_strict() || flush { Some(events) } else { self.note_soon(events).err() };
                let Some(events) = own else { return Ok(Told { batch: None, taken: None }) };
                (Batch::new(now)?.expect(Expect::Stamp(since)), events)
            }
        };
        let taken = trail.take(now, &events);
        let all: Vec<_> = taken.events.iter().cloned().chain(events).collect();
        if all.is_empty() {
            return Ok(Told { batch: (!batch.ops.is_empty()).then_some(batch), taken: None });
        }
        Ok(Told { batch: Some(batch.events(Events::Clear(all))), taken: Some(taken) })
    }

    /// Tells of a write that did not come to be, if there is room: what failed it may fail the trail too.
    pub(crate) fn failed(self: &Arc<Self>, change: &Change, caller: Caller, error: &Error) {
        if self.trail.is_some() {
            let doer = Doer { at: NOW, agent: None, session: caller.session };
            let _ = self.note_soon(events::refused(doer, change, error));
        }
    }

    fn see_to(self: &Arc<Self>, when: When) {
        let due = Due { core: Arc::downgrade(self), when, set: true };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(flush(due));
        }
    }

    /// What waits is written down once more without this mesh, which ends.
    pub(crate) fn close_trail(&self) {
        let Some(events) = self.trail.as_ref().map(Trail::close).filter(|events| !events.is_empty()) else {
            return;
        };
        let (store, config) = (Arc::clone(&self.store), Arc::clone(&self.config));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(flush_last(store, config, events))),
            Err(_) => lost(&config, events.len()),
        }
    }
}

/// The task that flushes. If it ends early (its runtime went away), the next event starts another. It keeps no mesh alive.
struct Due {
    core: Weak<Core>,
    when: When,
    set: bool,
}

impl Drop for Due {
    fn drop(&mut self) {
        if self.set
            && let Some(core) = self.core.upgrade()
            && let Some(trail) = &core.trail
        {
            trail.unset(self.when);
        }
    }
}

async fn flush(mut due: Due) {
    loop {
        if due.when == When::Later {
            tokio::time::sleep(DELAY).await;
        }
        let Some(core) = due.core.upgrade() else { return };
        let Some(trail) = &core.trail else { return };
        // Before the events are taken, so that the next one starts another task.
        trail.unset(due.when);
        due.set = false;
        while !trail.is_empty() {
            if writer::write(&core, Change::Flush).await.is_err() {
                break;
            }
        }
        // What could not be written down is tried again.
        if trail.rests() {
            return;
        }
        (due.when, due.set) = (When::Later, true);
    }
}

async fn flush_last(store: Arc<dyn UserStore>, config: Arc<MeshConfig>, mut events: VecDeque<Event>) {
    while !events.is_empty() {
        let (mut room, mut count) = (BYTES, 0);
        for event in &events {
            if weight(event) > room {
                break;
            }
            room -= weight(event);
            count += 1;
        }
        let some: Vec<_> = events.drain(..count.max(1)).collect();
        let (mut tries, mut turns) = (0, 0);
        loop {
            let batch = match Batch::new(config.clock.wall()) {
                Ok(batch) => batch.events(Events::Clear(some.clone())),
                Err(_) => return lost(&config, some.len() + events.len()),
            };
            match store.commit(batch).await {
                Ok(_) => break,
                Err(error) if error.kind() == StoreErrorKind::Conflict && tries < LAST_TRIES => tries += 1,
                // Nothing was written, and there will be a turn.
                Err(error) if error.kind() == StoreErrorKind::Busy && turns < LAST_TURNS => {
                    turns += 1;
                    tokio::time::sleep(DELAY).await;
                }
                Err(_) => return lost(&config, some.len() + events.len()),
            }
        }
    }
}

fn lost(config: &MeshConfig, events: usize) {
    config.meters.lost.increment(events as u64);
    tracing::warn!(events, "reads of a mesh that has ended are not in its audit trail");
}

pub(crate) const GONE: &str =
    "the user was erased, moved or restored since this mesh was opened, open it again";

const fn unavailable() -> Error {
    Error::new(
        ErrorKind::AuditUnavailable,
        "what was asked for could not be written into the audit trail in time, try again",
    )
}
