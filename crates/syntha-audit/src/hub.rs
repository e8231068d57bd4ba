//! What all users' chains of one store share: what was committed and is not in the log yet, what is in the log and not delivered yet, and
//! whether more is taken.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use syntha_store::{ChainHead, Error, ErrorKind, Incarnation, Result};
use tokio::sync::Notify;

use crate::keeper::put_back;
use crate::leaf::LeafKind;
use crate::log::Logged;

/// A user's tag, or zeros for the deployment's own space.
pub(crate) type Owner = [u8; 32];

/// How many owners' chains are remembered as moved. Past it all chains are looked at.
const OWNERS_MOST: usize = if cfg!(test) { 4 } else { 65_536 };
/// How long a chain whose data can't be looked at is let be, at first and at most.
const HELD_LEAST: Duration = Duration::from_secs(1);
const HELD_MOST: Duration = Duration::from_secs(60);
/// How many moments are remembered since which something waits. Past it, the newest ones share one.
const MOMENTS_MOST: usize = 4_096;

/// How far everybody who takes entries may fall behind, before no more operations are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) entries: u64,
    pub(crate) age: Duration,
}

/// Where a chain ends that has moved since it was last logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) life: Incarnation,
    pub(crate) chain: ChainHead,
}

/// A chain that has moved, to be logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) owner: Owner,
    /// To where; `None` for one that has to be looked at.
    pub(crate) moved: Option<Moved>,
    unsure: u64,
}

/// How far those who take entries are behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backlog {
    /// Entries that no checkpoint covers yet.
    pub unlogged: u64,
    /// Whether the log could not be signed when that was last tried.
    pub log_fails: bool,
    /// Each sink's name, and how many entries it has not taken yet, `unlogged` included.
    pub sinks: Vec<(String, u64)>,
    /// How many chains were found that do not go on from where they were logged.
    pub broken: u64,
    /// How many chains can't be logged or delivered because their user's data can't be read at present. Each is tried again, at least once a
    /// minute, and nobody else waits for it.
    pub failing: u64,
    /// Whether a sink lies [outside](crate::AuditSink::is_outside).
    pub anchored: bool,
}

/// Told of every commit.
pub(crate) struct Hub {
    state: Mutex<State>,
    /// Something moved.
    pub(crate) moves: Notify,
    /// Something was logged.
    pub(crate) logs: Notify,
}

struct State {
    bounds: Bounds,
    /// Nobody takes entries before there is a log.
    is_on: bool,
    closed: bool,
    owners: HashMap<Owner, Waiting>,
    unlogged: u64,
    since: Option<Instant>,
    /// There were too many owners to remember.
    overflow: bool,
    failing: Option<Instant>,
    takers: Vec<Taker>,
    /// Since when leaves below a size wait, the oldest first.
    moments: VecDeque<(u64, Instant)>,
    erasing: HashSet<Owner>,
    /// Whose chain does not go on from where it was logged.
    broken: HashSet<Owner>,
    /// How many leaves of the log are known here.
    seen: u64,
}

/// What of an owner is in no checkpoint yet.
#[derive(Default)]
struct Waiting {
    moved: Option<Moved>,
    /// Commits under way.
    open: u64,
    entries: u64,
    /// How many commits' ends were not seen: the chain has to be looked at.
    unsure: u64,
    /// It could not be looked at. Nobody else waits for it, so its entries are counted here alone.
    held: Option<Held>,
}

/// What waits for data that can't be read at present.
#[derive(Clone, Copy, Debug)]
struct Held {
    since: Instant,
    due: Instant,
    pause: Duration,
    entries: u64,
}

impl Held {
    fn new(now: Instant) -> Self {
        Self { since: now, due: now, pause: HELD_LEAST, entries: 0 }
    }

    /// It failed once more.
    fn put_off(&mut self, now: Instant) {
        self.due = now + self.pause;
        self.pause = (self.pause * 2).min(HELD_MOST);
    }

    /// Whether its owner is past what one owner may have waiting.
    fn is_full(&self, bounds: Bounds) -> bool {
        self.since.elapsed() >= bounds.age || self.entries >= (bounds.entries / 4).max(1)
    }
}

/// One sink's side.
struct Taker {
    name: String,
    cursor: u64,
    owners: HashMap<Owner, u64>,
    total: u64,
    /// Whose links it has not got although it has the leaves.
    held: HashMap<Owner, Held>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("unlogged", &self.state.lock().unlogged).finish_non_exhaustive()
    }
}

impl Default for Hub {
    fn default() -> Self {
        let state = State {
            bounds: Bounds { entries: 10_000, age: Duration::from_secs(10) },
            is_on: false,
            closed: false,
            owners: HashMap::new(),
            unlogged: 0,
            since: None,
            overflow: false,
            failing: None,
            takers: Vec::new(),
            moments: VecDeque::new(),
            erasing: HashSet::new(),
            broken: HashSet::new(),
            seen: 0,
        };
        Self { state: Mutex::new(state), moves: Notify::new(), logs: Notify::new() }
    }
}

impl Hub {
    pub(crate) fn bound(&self, bounds: Bounds) {
        self.state.lock().bounds = bounds;
    }

    /// There is a log from now on.
    pub(crate) fn turn_on(&self) {
        self.state.lock().is_on = true;
    }

    pub(crate) fn seen(&self) -> u64 {
        self.state.lock().seen
    }

    pub(crate) fn saw(&self, size: u64) {
        let mut state = self.state.lock();
        state.seen = state.seen.max(size);
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.moves.notify_waiters();
        self.logs.notify_waiters();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// A sink, with where it stands in the log and what it has not taken.
    pub(crate) fn add_taker(&self, name: &str, cursor: u64, owners: HashMap<Owner, u64>, size: u64) {
        let mut state = self.state.lock();
        let total = owners.values().sum();
        let held = HashMap::new();
        state.takers.push(Taker { name: name.to_owned(), cursor, owners, total, held });
        if cursor < size && state.moments.back().is_none_or(|(last, _)| *last < size) {
            state.moments.push_back((size, Instant::now()));
        }
    }

    /// Whether an owner's next commit is taken. `fair`: nobody fills more than a quarter of the bound.
    ///
    /// # Errors
    ///
    /// `AuditUnavailable` while everybody who takes entries is too far behind, or too far behind with this owner's; `Erased` while the user
    /// is being erased; `Tampered` for a chain that was found to be.
    pub(crate) fn admit(&self, owner: &Owner, fair: bool) -> Result<Admitted<'_>> {
        let mut state = self.state.lock();
        if !state.is_on {
            return Ok(Admitted { hub: None, owner: *owner });
        }
        if state.erasing.contains(owner) {
            return Err(Error::new(ErrorKind::Erased, "the user is being erased"));
        }
        if state.broken.contains(owner) {
            return Err(put_back());
        }
        if state.is_full(owner, fair) {
            return Err(behind());
        }
        state.unlogged = state.unlogged.saturating_add(1);
        state.since.get_or_insert_with(Instant::now);
        if state.owners.len() < OWNERS_MOST || state.owners.contains_key(owner) {
            state.owners.entry(*owner).or_default().open += 1;
        } else {
            state.overflow = true;
        }
        drop(state);
        Ok(Admitted { hub: Some(self), owner: *owner })
    }

    /// A chain was found to have moved.
    pub(crate) fn found(&self, owner: &Owner, moved: Moved, entries: u64) {
        let mut state = self.state.lock();
        if state.owners.len() >= OWNERS_MOST && !state.owners.contains_key(owner) {
            state.overflow = true;
            return;
        }
        let waiting = state.owners.entry(*owner).or_default();
        waiting.held = None;
        waiting.raise(moved);
        let more = entries.saturating_sub(waiting.entries);
        waiting.entries += more;
        state.unlogged = state.unlogged.saturating_add(more);
        state.since.get_or_insert_with(Instant::now);
        drop(state);
        self.moves.notify_one();
    }

    /// The chains that have moved, at most so many. And whether, beside none, there were too many to remember.
    pub(crate) fn waiting(&self, limit: usize) -> (Vec<Candidate>, bool, Instant) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let is_known = |waiting: &Waiting| {
            let is_due = waiting.held.is_none_or(|held| held.due <= now);
            is_due && (waiting.unsure > 0 || waiting.moved.is_some())
        };
        let look = |(owner, waiting): (&Owner, &Waiting)| Candidate {
            owner: *owner,
            moved: waiting.moved.filter(|_| waiting.unsure == 0),
            unsure: waiting.unsure,
        };
        let candidates = state.owners.iter().filter(|(_, waiting)| is_known(waiting));
        let candidates: Vec<_> = candidates.map(look).take(limit).collect();
        let overflow = candidates.is_empty() && std::mem::take(&mut state.overflow);
        (candidates, overflow, now)
    }

    /// Whether there were too many owners to remember, and not all were looked at since.
    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().overflow
    }

    pub(crate) fn overflowed(&self) {
        self.state.lock().overflow = true;
    }

    pub(crate) fn is_waiting(&self) -> bool {
        let state = self.state.lock();
        let now = Instant::now();
        let is_moved = |waiting: &Waiting| {
            let is_due = waiting.held.is_none_or(|held| held.due <= now);
            is_due && (waiting.unsure > 0 || waiting.moved.is_some())
        };
        state.overflow || state.failing.is_some() || state.owners.values().any(is_moved)
    }

    /// An owner's chain stands in the log up to here, or is not there.
    pub(crate) fn settled(&self, candidate: &Candidate, moved: Option<Moved>) {
        let mut state = self.state.lock();
        let Some(waiting) = state.owners.get_mut(&candidate.owner) else { return };
        // What was not seen since then is looked at the next time.
        waiting.unsure = waiting.unsure.saturating_sub(candidate.unsure);
        let nowhere = Moved { life: Incarnation(0), chain: ChainHead::default() };
        state.log(&candidate.owner, moved.unwrap_or(nowhere));
    }

    /// An owner's chain can't be looked at: it is tried again later, and nobody else waits for it.
    pub(crate) fn hold(&self, owner: &Owner) {
        let mut state = self.state.lock();
        if state.owners.len() >= OWNERS_MOST && !state.owners.contains_key(owner) {
            state.overflow = true;
            return;
        }
        let now = Instant::now();
        let waiting = state.owners.entry(*owner).or_default();
        waiting.moved = None;
        waiting.unsure = waiting.unsure.max(1);
        let held = waiting.held.get_or_insert_with(|| Held::new(now));
        held.put_off(now);
        let more = std::mem::take(&mut waiting.entries);
        held.entries = held.entries.saturating_add(more);
        state.unlogged = state.unlogged.saturating_sub(more);
        if state.unlogged == 0 {
            state.since = None;
        }
    }

    /// Whether what waits of some owner can't be looked at.
    pub(crate) fn holds(&self) -> bool {
        self.state.lock().owners.values().any(|waiting| waiting.held.is_some())
    }

    /// Of whom a sink has leaves and not the links, and how many.
    pub(crate) fn owe(&self, taker: usize, owed: &[(Owner, u64)]) {
        let mut state = self.state.lock();
        let Some(taker) = state.takers.get_mut(taker) else { return };
        let now = Instant::now();
        taker.held.retain(|owner, _| owed.iter().any(|(other, _)| other == owner));
        for (owner, entries) in owed {
            taker.held.entry(*owner).or_insert_with(|| Held::new(now)).entries = *entries;
        }
    }

    /// Whether it is time to try again to get the links of an owner that a sink has not got.
    pub(crate) fn is_due(&self, taker: usize, owner: &Owner) -> bool {
        let state = self.state.lock();
        let held = state.takers.get(taker).and_then(|taker| taker.held.get(owner));
        held.is_none_or(|held| held.due <= Instant::now())
    }

    pub(crate) fn put_off(&self, taker: usize, owner: &Owner) {
        let mut state = self.state.lock();
        if let Some(held) = state.takers.get_mut(taker).and_then(|taker| taker.held.get_mut(owner)) {
            held.put_off(Instant::now());
        }
    }

    /// Whether a sink has not got links of an owner whose leaves it has.
    pub(crate) fn owes(&self, owner: &Owner) -> bool {
        self.state.lock().takers.iter().any(|taker| taker.held.contains_key(owner))
    }

    /// An owner's chain does not go on from where it was logged: it is logged no more, and nothing more is taken of it.
    pub(crate) fn condemn(&self, owner: &Owner) {
        self.state.lock().broken.insert(*owner);
        self.forget(owner);
    }

    /// Leaves were appended: of all that had been committed at a moment, or by another process.
    pub(crate) fn logged(&self, leaves: &[Logged], taken: Option<Instant>) {
        let Some(last) = leaves.last() else { return };
        let mut state = self.state.lock();
        let since = state.since.unwrap_or_else(Instant::now);
        for leaf in leaves {
            let moved = Moved { life: leaf.leaf.life, chain: leaf.leaf.chain };
            // Whoever logged it has looked at it. What is still wrong is found again.
            state.broken.remove(&leaf.leaf.owner);
            if leaf.from > 0 {
                state.log(&leaf.leaf.owner, moved);
            } else if matches!(leaf.leaf.kind, LeafKind::Erased | LeafKind::Lost) {
                state.unsettle(&leaf.leaf.owner);
            }
            let links = leaf.links();
            for taker in state.takers.iter_mut().filter(|taker| taker.cursor <= leaf.index && links > 0) {
                *taker.owners.entry(leaf.leaf.owner).or_default() += links;
                taker.total = taker.total.saturating_add(links);
            }
        }
        let size = last.index.saturating_add(1);
        if !state.takers.is_empty() {
            if state.moments.len() < MOMENTS_MOST {
                state.moments.push_back((size, since));
            } else if let Some(newest) = state.moments.back_mut() {
                newest.0 = size;
            }
        }
        state.since = taken.or(state.since).filter(|_| state.unlogged > 0);
        drop(state);
        self.logs.notify_waiters();
    }

    /// The log could not be signed, or could again.
    pub(crate) fn log_fails(&self, fails: bool) {
        let mut state = self.state.lock();
        if fails {
            state.failing.get_or_insert_with(Instant::now);
        } else {
            state.failing = None;
        }
    }

    /// A sink took these, and stands here in the log.
    pub(crate) fn delivered(&self, taker: usize, cursor: u64, counts: &HashMap<Owner, u64>) {
        let mut state = self.state.lock();
        if let Some(taker) = state.takers.get_mut(taker) {
            taker.cursor = taker.cursor.max(cursor);
            for (owner, count) in counts {
                let Some(left) = taker.owners.get_mut(owner) else { continue };
                let taken = (*count).min(*left);
                *left -= taken;
                if *left == 0 {
                    taker.owners.remove(owner);
                }
                taker.total = taker.total.saturating_sub(taken);
            }
        }
        let slowest = state.takers.iter().map(|taker| taker.cursor).min().unwrap_or(u64::MAX);
        while state.moments.front().is_some_and(|(size, _)| *size <= slowest) {
            state.moments.pop_front();
        }
    }

    /// Where another process has brought a sink to, and what it has not taken.
    pub(crate) fn reset(&self, taker: usize, cursor: u64, owners: HashMap<Owner, u64>) {
        if let Some(taker) = self.state.lock().takers.get_mut(taker) {
            (taker.cursor, taker.total, taker.owners) = (cursor, owners.values().sum(), owners);
        }
    }

    /// Whether a commit of an owner's is under way.
    pub(crate) fn is_open(&self, owner: &Owner) -> bool {
        self.state.lock().owners.get(owner).is_some_and(|waiting| waiting.open > 0)
    }

    /// The least that any sink has taken of the log.
    pub(crate) fn slowest(&self) -> u64 {
        self.state.lock().takers.iter().map(|taker| taker.cursor).min().unwrap_or(u64::MAX)
    }

    pub(crate) fn cursor(&self, taker: usize) -> u64 {
        self.state.lock().takers.get(taker).map_or(0, |taker| taker.cursor)
    }

    pub(crate) fn backlog(&self) -> Backlog {
        let state = self.state.lock();
        let sink = |taker: &Taker| (taker.name.clone(), taker.total.saturating_add(state.unlogged));
        Backlog {
            unlogged: state.unlogged,
            log_fails: state.failing.is_some(),
            sinks: state.takers.iter().map(sink).collect(),
            broken: state.broken.len() as u64,
            failing: state.failing_owners(),
            anchored: false,
        }
    }

    /// Takes no commits of a user until the guard is dropped.
    pub(crate) fn erase(&self, owner: &Owner) -> Erasing<'_> {
        self.state.lock().erasing.insert(*owner);
        Erasing { hub: self, owner: *owner }
    }

    /// An owner's chain ended, and is in the log to its end.
    pub(crate) fn ended(&self, owner: &Owner) {
        self.state.lock().broken.remove(owner);
        self.forget(owner);
    }

    fn forget(&self, owner: &Owner) {
        let mut state = self.state.lock();
        if let Some(waiting) = state.owners.get_mut(owner) {
            let gone = std::mem::take(&mut waiting.entries);
            (waiting.moved, waiting.unsure, waiting.held) = (None, 0, None);
            if waiting.open == 0 {
                state.owners.remove(owner);
            }
            state.unlogged = state.unlogged.saturating_sub(gone);
        }
    }
}

impl State {
    fn is_full(&self, owner: &Owner, fair: bool) -> bool {
        let Bounds { entries, age } = self.bounds;
        let waiting = self.owners.get(owner).map_or(0, |waiting| waiting.entries + waiting.open);
        let is_old = |since: Option<Instant>| since.is_some_and(|since| since.elapsed() >= age);
        if self.failing.is_some() && (self.unlogged >= entries || is_old(self.failing)) {
            return true;
        }
        let held = self.owners.get(owner).and_then(|waiting| waiting.held);
        let owed = |taker: &Taker| taker.held.get(owner).is_some_and(|held| held.is_full(self.bounds));
        let all_owe = !self.takers.is_empty() && self.takers.iter().all(owed);
        if all_owe || held.is_some_and(|held| held.is_full(self.bounds)) {
            return true;
        }
        let share = (entries / 4).max(1);
        let is_behind = |taker: &Taker| {
            let behind = self.moments.partition_point(|(size, _)| *size <= taker.cursor);
            let oldest = self.moments.get(behind).map(|(_, since)| *since);
            let own = taker.owners.get(owner).copied().unwrap_or(0).saturating_add(waiting);
            taker.total.saturating_add(self.unlogged) >= entries
                || is_old(oldest.or(self.since))
                || (fair && own >= share)
        };
        !self.takers.is_empty() && self.takers.iter().all(is_behind)
    }

    fn failing_owners(&self) -> u64 {
        let held = self.owners.iter().filter(|(_, waiting)| waiting.held.is_some()).map(|(owner, _)| owner);
        let owed = self.takers.iter().flat_map(|taker| taker.held.keys());
        held.chain(owed).collect::<HashSet<_>>().len() as u64
    }

    /// A life ended: what moved may be of that one, so the chain is looked at.
    fn unsettle(&mut self, owner: &Owner) {
        if let Some(waiting) = self.owners.get_mut(owner).filter(|waiting| waiting.moved.is_some()) {
            waiting.moved = None;
            waiting.unsure += 1;
        }
    }

    /// A chain is in the log up to here.
    fn log(&mut self, owner: &Owner, logged: Moved) {
        let Some(waiting) = self.owners.get_mut(owner) else { return };
        waiting.held = None;
        let left = match waiting.moved {
            Some(moved) if moved.chain.seq > logged.chain.seq => {
                if moved.life != logged.life {
                    // Of a restore that is not logged yet, or of a life that ended: the chain is looked at.
                    waiting.moved = None;
                    waiting.unsure += 1;
                }
                waiting.entries.min(moved.chain.seq - logged.chain.seq)
            }
            _ => {
                waiting.moved = None;
                0
            }
        };
        let gone = waiting.entries - left;
        waiting.entries = left;
        if waiting.moved.is_none() && waiting.open == 0 && waiting.unsure == 0 {
            self.owners.remove(owner);
        }
        self.unlogged = self.unlogged.saturating_sub(gone);
    }
}

impl Waiting {
    fn raise(&mut self, moved: Moved) {
        match self.moved {
            // A restore goes on with the chain, and what another process made anew begins again: the chain is looked at.
            Some(at) if at.life != moved.life => {
                self.moved = Some(moved);
                self.unsure += 1;
            }
            Some(at) if at.chain.seq >= moved.chain.seq => {}
            _ => self.moved = Some(moved),
        }
    }
}

/// A commit that is taken. Dropped without an end, its owner's chain is looked at.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    hub: Option<&'a Hub>,
    owner: Owner,
}

impl Admitted<'_> {
    /// It was committed, and moved the chain to here by so many links.
    pub(crate) fn moved(mut self, life: Incarnation, chain: ChainHead, links: u64) {
        let Some(hub) = self.hub.take() else { return };
        hub.end(&self.owner, |waiting| {
            waiting.raise(Moved { life, chain });
            waiting.entries += links;
            links
        });
        hub.moves.notify_one();
    }

    /// It was not committed.
    pub(crate) fn refused(mut self) {
        if let Some(hub) = self.hub.take() {
            hub.end(&self.owner, |_| 0);
        }
    }
}

impl Hub {
    fn end(&self, owner: &Owner, end: impl FnOnce(&mut Waiting) -> u64) {
        let mut state = self.state.lock();
        let more = match state.owners.get_mut(owner) {
            Some(waiting) => {
                waiting.open = waiting.open.saturating_sub(1);
                let more = end(waiting);
                if waiting.open == 0 && waiting.moved.is_none() && waiting.unsure == 0 {
                    state.owners.remove(owner);
                }
                more
            }
            None => {
                // There were too many owners: all of them are looked at.
                state.overflow = true;
                0
            }
        };
        state.unlogged = state.unlogged.saturating_add(more).saturating_sub(1);
        if state.unlogged == 0 {
            state.since = None;
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.take() {
            hub.end(&self.owner, |waiting| {
                // It may have been committed: it counts until somebody has looked.
                waiting.unsure += 1;
                waiting.entries += 1;
                1
            });
            hub.moves.notify_one();
        }
    }
}

/// See [`Hub::erase`].
#[derive(Debug)]
pub(crate) struct Erasing<'a> {
    hub: &'a Hub,
    owner: Owner,
}

impl Drop for Erasing<'_> {
    fn drop(&mut self) {
        self.hub.state.lock().erasing.remove(&self.owner);
    }
}

const fn behind() -> Error {
    Error::new(
        ErrorKind::AuditUnavailable,
        "nobody takes the audit trail's entries, nothing was written: look after the sinks, and try again",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use syntha_store::{Batch, CreateMode, Keyspace, MemoryStore, RecordId, Store, Timestamp, UserTag};

    use crate::{AuditedStore, MemorySigner, MemorySink};

    /// More chains move than are remembered here: all are looked at, and none is left out.
    #[tokio::test]
    async fn more_owners_than_are_remembered_are_all_logged() {
        let inner = Arc::new(MemoryStore::new().unwrap());
        let deployment = inner.deployment_key().fingerprint();
        let signer = MemorySigner::new(&deployment).unwrap();
        let sink = MemorySink::new("one");
        let store = AuditedStore::new(inner, deployment).unwrap();
        let store = store.signer(Arc::new(signer)).sink(Arc::new(sink));
        let batch = || {
            let id = RecordId::new("a", 0).unwrap();
            Batch::new(Timestamp(1)).unwrap().put(Keyspace::Context, id, "", "b")
        };
        let tag = |number| UserTag::from_bytes([number; 32]).unwrap();
        for round in 0..3 {
            for number in 1..=20 {
                let user = match round {
                    0 => store.create(tag(number), batch(), CreateMode::New).await.unwrap().0,
                    _ => store.open(tag(number)).await.unwrap(),
                };
                user.commit(batch()).await.unwrap();
            }
            store.checkpoint().await.unwrap();
            for number in 1..=20 {
                let chain = store.open(tag(number)).await.unwrap().state().await.unwrap().chain;
                assert_eq!(store.last_leaf(&[number; 32]).await.unwrap().unwrap().1.chain, chain);
            }
            assert!(store.shipped().await.unwrap().failed.is_empty());
            let backlog = store.backlog();
            assert_eq!((backlog.unlogged, backlog.sinks), (0, vec![("one".to_owned(), 0)]));
        }
    }

    /// A commit whose caller goes before its end: the chain is looked at, and logged.
    #[tokio::test]
    async fn a_commit_whose_end_was_not_seen_is_logged() {
        let inner = Arc::new(MemoryStore::new().unwrap());
        let deployment = inner.deployment_key().fingerprint();
        let signer = Arc::new(MemorySigner::new(&deployment).unwrap());
        let store = AuditedStore::new(Arc::clone(&inner), deployment).unwrap().signer(signer);
        let unseen = AuditedStore::new(inner, deployment).unwrap();
        let batch = || {
            let id = RecordId::new("a", 0).unwrap();
            Batch::new(Timestamp(1)).unwrap().put(Keyspace::Context, id, "", "b")
        };
        let tag = UserTag::from_bytes([1; 32]).unwrap();
        store.create(tag, batch(), CreateMode::New).await.unwrap();
        store.checkpoint().await.unwrap();
        let ticket = store.shared.admit(&[1; 32]).await.unwrap();
        // It is under way: nothing can be said of it yet.
        store.checkpoint().await.unwrap();
        let user = unseen.open(tag).await.unwrap();
        user.commit(batch()).await.unwrap();
        drop(ticket);
        assert!(store.shared.hub.is_waiting());
        store.checkpoint().await.unwrap();
        let (_, leaf) = store.last_leaf(&[1; 32]).await.unwrap().unwrap();
        assert_eq!(leaf.chain, user.state().await.unwrap().chain);
        store.checkpoint().await.unwrap();
        assert!(!store.shared.hub.is_waiting());
        assert_eq!(store.backlog().unlogged, 0);
    }
}
