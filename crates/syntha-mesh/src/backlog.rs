//! What one watch has given and what it has still to give, in bounds.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use hashbrown::HashMap;
use syntha_store::{Epoch, Timestamp, Version};

use crate::entry::Entry;
use crate::index::Index;

/// What waits to be given. It holds no more than its bounds allow, and no value that was removed since.
#[derive(Default)]
pub(crate) struct Backlog {
    most: Bounds,
    /// A planted fault: what is queued is given without a second look.
    stale: bool,
    /// Nothing is queued before the snapshot, which holds it anyway.
    pub(crate) awake: bool,
    ended: bool,
    notices: VecDeque<Notice>,
    bytes: usize,
    /// Keys whose older values in the queue are not given any more, and the commit that they are older than: the key was
    /// removed by it, or perhaps before it by another handle.
    barred: HashMap<Arc<str>, Epoch>,
    /// The queue was too long, and was dropped.
    lagged: bool,
    missed: u64,
    /// What the reader was given and has not been told to be gone.
    given: HashMap<Arc<str>, Given>,
    /// The keys among them that expire.
    expiring: BTreeSet<(Timestamp, Arc<str>)>,
    /// Keys that the reader is to be told are gone, before anything else.
    gone: VecDeque<Arc<str>>,
    /// Entries that the reader has still to be given as they are now, in the order of their commits.
    behind: VecDeque<(Version, Arc<str>)>,
    waker: Option<Waker>,
}

/// The most that waits.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bounds {
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
}

#[derive(Clone, Copy)]
struct Given {
    version: Version,
    expires: Option<Timestamp>,
}

/// Something that a commit changed for the reader.
pub(crate) enum Notice {
    Put(Arc<Entry>),
    /// Removed, or no longer for the reader.
    Removed(Arc<str>, Epoch),
    /// What the reader may see is another since this commit: everything up to it is compared.
    Compare(Epoch),
}

/// What is due next.
pub(crate) enum Due {
    Removed(Arc<str>),
    Lagged(u64),
    /// This entry, which may be given.
    Put(Arc<Entry>),
}

impl Notice {
    fn bytes(&self) -> usize {
        match self {
            Self::Put(entry) => entry.key.len() + entry.value.as_ref().map_or(0, |value| value.len()),
            Self::Removed(key, _) => key.len(),
            Self::Compare(_) => 0,
        }
    }

    fn epoch(&self) -> Epoch {
        match self {
            Self::Put(entry) => Epoch(entry.version.0),
            Self::Removed(_, at) | Self::Compare(at) => *at,
        }
    }

    const fn counts(&self) -> u64 {
        if matches!(self, Self::Compare(_)) { 0 } else { 1 }
    }
}

impl Backlog {
    pub(crate) fn new(most: Bounds, stale: bool) -> Self {
        Self { most, stale, ..Self::default() }
    }

    /// Queues a notice; beyond the bounds the queue is dropped and the reader told so (or not, if a fault is planted).
    pub(crate) fn push(&mut self, notice: Notice, silent: bool) {
        if !self.awake || self.ended {
            return;
        }
        if let (Notice::Compare(at), Some(Notice::Compare(last))) = (&notice, self.notices.back_mut()) {
            // One comparison does for both, so a queue of these alone never overflows, and nobody lags who missed nothing.
            *last = *at;
        } else if self.lagged {
            self.missed += notice.counts();
        } else if self.notices.len() >= self.most.changes
            || self.bytes.saturating_add(notice.bytes()) > self.most.bytes
        {
            self.missed += notice.counts() + self.notices.iter().map(Notice::counts).sum::<u64>();
            self.drop_queue();
            self.lagged = !silent;
        } else {
            self.bytes += notice.bytes();
            if let Notice::Removed(key, at) = &notice {
                self.barred.insert(Arc::clone(key), *at);
            }
            self.notices.push_back(notice);
        }
        self.wake();
    }

    /// Another handle wrote a key, and perhaps removed it before: older values of it are not given any more.
    pub(crate) fn supersede(&mut self, entry: &Entry) {
        if !self.notices.is_empty() {
            self.barred.insert(Arc::clone(&entry.key), Epoch(entry.version.0));
        }
    }

    /// Everything was removed, or may have been: nothing that waits is given any more.
    pub(crate) fn clear(&mut self, at: Epoch, silent: bool) {
        self.drop_queue();
        self.push(Notice::Compare(at), silent);
    }

    fn drop_queue(&mut self) {
        self.notices.clear();
        self.barred.clear();
        self.bytes = 0;
    }

    /// Forgets everything, so that nothing of a user who is gone stays behind in a watch that nobody reads.
    pub(crate) fn end(&mut self) {
        let waker = self.waker.take();
        *self = Self { ended: true, ..Self::default() };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Wakes the reader with the next change. Says whether there will be one: not once everything has ended.
    pub(crate) fn wake_later(&mut self, waker: &Waker) -> bool {
        if !self.waker.as_ref().is_some_and(|own| own.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
        !self.ended
    }

    /// When the next entry that the reader has expires.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// What is due next, as of this moment. `may` decides whether an entry is for the reader now. A
    /// [`Due::Put`] stays in its place until it was [`take`](Self::take)n.
    pub(crate) fn due(
        &mut self,
        index: &Index,
        now: Option<Timestamp>,
        may: impl Fn(&Entry) -> bool,
    ) -> Option<Due> {
        if let Some(now) = now {
            self.expire(now);
        }
        loop {
            if let Some(key) = self.gone.pop_front() {
                return Some(Due::Removed(key));
            }
            if std::mem::take(&mut self.lagged) {
                self.compare(index, index.stamp.epoch, &may);
                return Some(Due::Lagged(std::mem::take(&mut self.missed)));
            }
            if let Some((version, key)) = self.behind.front() {
                match index.get(key) {
                    Some(entry) if entry.version == *version && may(entry) => {
                        return Some(Due::Put(Arc::clone(entry)));
                    }
                    // It was written again, which waits in the queue, or went.
                    _ => self.take(index, &may),
                }
                continue;
            }
            match self.notices.front()? {
                Notice::Put(entry) => {
                    let entry = Arc::clone(entry);
                    if self.is_due(&entry, index, &may) {
                        return Some(Due::Put(entry));
                    }
                    self.take(index, &may);
                }
                Notice::Removed(key, at) => {
                    let (key, at) = (Arc::clone(key), *at);
                    self.take(index, &may);
                    if self.given.get(&key).is_some_and(|given| given.version.0 < at.0) {
                        self.withdraw(key);
                    }
                }
                Notice::Compare(at) => {
                    let at = *at;
                    self.take(index, &may);
                    self.compare(index, at, &may);
                }
            }
        }
    }

    /// Whether an entry that was queued may be given now: it is for the reader, and so is what is under its key today.
    fn is_due(&self, entry: &Entry, index: &Index, may: impl Fn(&Entry) -> bool) -> bool {
        let had = self.given.get(&entry.key).is_some_and(|given| given.version >= entry.version);
        if self.stale {
            return !had;
        }
        let barred = self.barred.get(&entry.key).is_some_and(|at| at.0 > entry.version.0);
        !had && !barred && may(entry) && index.get(&entry.key).is_some_and(|entry| may(entry))
    }

    /// Takes the first of what waits; if the reader has its key and may not see what is under it now, that is said.
    pub(crate) fn take(&mut self, index: &Index, may: impl Fn(&Entry) -> bool) {
        let key = if let Some((_, key)) = self.behind.pop_front() {
            key
        } else {
            let Some(notice) = self.notices.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(notice.bytes());
            match notice {
                Notice::Put(entry) => {
                    self.unbar(&entry.key, Epoch(entry.version.0));
                    Arc::clone(&entry.key)
                }
                Notice::Removed(key, at) => return self.unbar(&key, at),
                Notice::Compare(_) => return,
            }
        };
        if !index.get(&key).is_some_and(|entry| may(entry)) {
            self.withdraw(key);
        }
    }

    fn unbar(&mut self, key: &Arc<str>, at: Epoch) {
        if self.barred.get(key) == Some(&at) {
            self.barred.remove(key);
        }
    }

    /// Notes that the reader has an entry.
    pub(crate) fn give(&mut self, entry: &Entry) {
        let given = Given { version: entry.version, expires: entry.expires };
        if let Some(old) = self.given.insert(Arc::clone(&entry.key), given) {
            self.forget_expiry(old, &entry.key);
        }
        if let Some(at) = entry.expires {
            self.expiring.insert((at, Arc::clone(&entry.key)));
        }
    }

    /// The snapshot holds everything up to a commit.
    pub(crate) fn begin(&mut self, at: Epoch, now: Epoch) {
        self.notices.retain(|notice| notice.epoch() > at);
        self.barred.retain(|_, barred| *barred > at);
        self.bytes = self.notices.iter().map(Notice::bytes).sum();
        if now <= at {
            (self.lagged, self.missed) = (false, 0);
        }
    }

    fn withdraw(&mut self, key: Arc<str>) {
        if let Some(given) = self.given.remove(&key) {
            self.forget_expiry(given, &key);
            self.gone.push_back(key);
        }
    }

    fn forget_expiry(&mut self, given: Given, key: &Arc<str>) {
        if let Some(at) = given.expires {
            self.expiring.remove(&(at, Arc::clone(key)));
        }
    }

    fn expire(&mut self, now: Timestamp) {
        while self.expiring.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.expiring.pop_first() {
                self.withdraw(key);
            }
        }
    }

    /// Compares what the reader has with what is there now. What was written after `at` waits in the queue.
    fn compare(&mut self, index: &Index, at: Epoch, may: impl Fn(&Entry) -> bool) {
        let sees = |key: &Arc<str>| index.get(key).is_some_and(|entry| may(entry));
        let gone: Vec<_> = self.given.keys().filter(|key| !sees(key)).cloned().collect();
        for key in gone {
            self.withdraw(key);
        }
        let given = &self.given;
        let differs = |entry: &&Arc<Entry>| {
            entry.version.0 <= at.0 && given.get(&entry.key).is_none_or(|given| given.version < entry.version)
        };
        let mut behind: Vec<_> = index
            .entries()
            .filter(differs)
            .filter(|entry| may(entry))
            .map(|entry| (entry.version, Arc::clone(&entry.key)))
            .collect();
        behind.sort_unstable();
        self.behind = behind.into();
    }
}
