//! Work that users share, given out in turns: by groups of users, then by users, so that who asks for much waits behind itself.

mod waiters;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::user::UserTag;

use self::waiters::Waiters;

/// Whom work is done for: a user, and the group of users that stands in line as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FairKey {
    /// The group. Users of one group share its turns.
    pub group: u64,
    /// The user. Two that are taken for one share their turns, and nothing else.
    pub user: u128,
}

impl FairKey {
    /// A user by the tag, in a group; `None`: in a group of its own.
    #[must_use]
    pub fn of(user: UserTag, group: Option<u64>) -> Self {
        Self::of_bytes(user.as_bytes(), group)
    }

    /// The same by the bytes of a keyed hash.
    #[must_use]
    pub fn of_bytes(bytes: &[u8; 32], group: Option<u64>) -> Self {
        let (mut user, mut own) = ([0; 16], [0; 8]);
        user.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        own.iter_mut().zip(bytes.iter().skip(16)).for_each(|(to, from)| *to = *from);
        Self { group: group.unwrap_or(u64::from_le_bytes(own)), user: u128::from_le_bytes(user) }
    }
}

/// How much is done at once, and how much may wait.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct FairConfig {
    permits: usize,
    each: usize,
    waiting_each: usize,
    waiting: usize,
    retry_after: Duration,
    #[cfg(feature = "faults")]
    fault: Option<FairFault>,
}

/// A fault that the tests must find. For tests alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "faults"), allow(unreachable_pub, reason = "it is public with the feature alone"))]
#[non_exhaustive]
pub enum FairFault {
    /// Who came first is served first, whoever it is.
    FirstComeFirstServed,
    /// One user may hold every permit.
    EachIgnored,
    /// Every user stands in line alone, whatever its group.
    GroupsIgnored,
    /// A permit that was given to somebody who has gone comes back to nobody.
    CancelledKeepsPermit,
    /// When the queue is full, whoever comes is sent away, also one who waits for nothing yet.
    NewcomerShed,
}

impl FairConfig {
    /// So many permits, 1 or more. One user may hold them all, 4,096 of one user may wait and 65,536 in all, and who is sent away is told to
    /// come back in a second.
    pub const fn new(permits: usize) -> Self {
        let permits = if permits == 0 { 1 } else { permits };
        Self {
            permits,
            each: permits,
            waiting_each: 4_096,
            waiting: 65_536,
            retry_after: Duration::from_secs(1),
            #[cfg(feature = "faults")]
            fault: None,
        }
    }

    /// At most so many permits of one user at once, 1 or more.
    pub const fn each(mut self, each: usize) -> Self {
        self.each = if each == 0 { 1 } else { each };
        self
    }

    /// At most so many of one user wait, and so many in all; 0 lets nobody wait.
    pub const fn waiting(mut self, of_each: usize, in_all: usize) -> Self {
        (self.waiting_each, self.waiting) = (of_each, in_all);
        self
    }

    /// When who is sent away may come back. It is the same for everybody, so that it says nothing of others.
    pub const fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = after;
        self
    }

    /// Plants a fault.
    #[cfg(feature = "faults")]
    pub const fn fault(mut self, fault: FairFault) -> Self {
        self.fault = Some(fault);
        self
    }

    #[cfg(feature = "faults")]
    fn has(&self, fault: FairFault) -> bool {
        self.fault == Some(fault)
    }

    #[cfg(not(feature = "faults"))]
    #[allow(clippy::unused_self, reason = "the form with the feature needs it")]
    const fn has(&self, _: FairFault) -> bool {
        false
    }

    fn most_of_each(&self) -> usize {
        if self.has(FairFault::EachIgnored) { usize::MAX } else { self.each }
    }
}

/// What a queue does just now, and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FairLoad {
    /// Permits that are held.
    pub held: usize,
    /// Who waits for one.
    pub waiting: usize,
    /// How many had to wait since the start.
    pub waited: u64,
    /// How many were sent away since the start because too many waited.
    pub shed: u64,
}

/// A bounded number of permits. Who waits for one is served in turns: one of each group, in it one of each user, in it who came first.
///
/// Cheap to clone; all clones are the same queue. It has no clock: a caller that waits no longer drops its [`Acquire`], which loses nothing,
/// and gives [`busy`](Self::busy) back.
#[derive(Clone)]
pub struct FairQueue(Arc<Shared>);

struct Shared {
    config: FairConfig,
    state: Mutex<State>,
}

struct State {
    free: usize,
    next_ticket: u64,
    held: HashMap<FairKey, usize>,
    waiters: Waiters,
    /// Tickets that were served or sent away, and not told yet.
    answered: HashMap<u64, bool>,
    load: FairLoad,
}

impl FairQueue {
    /// An empty queue.
    #[must_use]
    pub fn new(config: FairConfig) -> Self {
        let state = State {
            free: config.permits,
            next_ticket: 0,
            held: HashMap::new(),
            waiters: Waiters::default(),
            answered: HashMap::new(),
            load: FairLoad::default(),
        };
        Self(Arc::new(Shared { config, state: Mutex::new(state) }))
    }

    /// Takes a place in the line, now, or a permit if there is one. What is given back resolves to the permit, or to `Busy` if too many
    /// wait: at once, or later if it was in the largest crowd when somebody of a smaller one came. Dropping it gives up the place.
    pub fn acquire(&self, key: FairKey) -> Acquire {
        let (key, config) = (self.0.key(key), &self.0.config);
        let mut woken = None;
        let step = {
            let mut state = self.0.state.lock();
            if state.take(config, key) {
                Step::Have(self.permit(key))
            } else if state.waiters.of_user(key) >= config.waiting_each
                || !state.make_room(config, key, &mut woken)
            {
                state.load.shed += 1;
                Step::Refused
            } else {
                state.next_ticket += 1;
                let ticket = state.next_ticket;
                let ready = state.held.get(&key).is_none_or(|held| *held < config.most_of_each());
                state.waiters.push(key, ticket, ready);
                state.load.waited += 1;
                Step::Waits(ticket)
            }
        };
        wake(woken);
        Acquire { queue: self.clone(), key, step }
    }

    /// A permit if there is one for this user now.
    #[must_use]
    pub fn try_acquire(&self, key: FairKey) -> Option<FairPermit> {
        let key = self.0.key(key);
        self.0.state.lock().take(&self.0.config, key).then(|| self.permit(key))
    }

    /// What it does just now.
    #[must_use]
    pub fn load(&self) -> FairLoad {
        let state = self.0.state.lock();
        let held = self.0.config.permits - state.free;
        FairLoad { held, waiting: state.waiters.count(), ..state.load }
    }

    /// The most permits that there are.
    #[must_use]
    pub fn permits(&self) -> usize {
        self.0.config.permits
    }

    /// What a caller is told who waits no longer.
    #[must_use]
    pub fn busy(&self) -> Error {
        Error::new(ErrorKind::Busy, "it was not this user's turn in time, nothing was done, try again")
            .after(self.0.config.retry_after)
    }

    fn permit(&self, key: FairKey) -> FairPermit {
        FairPermit { shared: Arc::clone(&self.0), key }
    }
}

impl Shared {
    fn key(&self, key: FairKey) -> FairKey {
        if self.config.has(FairFault::GroupsIgnored) {
            let mut group = [0; 8];
            group.iter_mut().zip(key.user.to_le_bytes()).for_each(|(to, from)| *to = from);
            return FairKey { group: u64::from_le_bytes(group), ..key };
        }
        key
    }

    /// Takes a permit back and gives it to whose turn it is.
    fn release(&self, key: FairKey) {
        let woken = {
            let mut state = self.state.lock();
            state.free += 1;
            if let Some(held) = state.held.get_mut(&key) {
                *held -= 1;
                if *held == 0 {
                    state.held.remove(&key);
                }
            }
            state.waiters.make_ready(key);
            state.serve(&self.config)
        };
        wake(woken);
    }
}

fn wake(woken: Option<Waker>) {
    if let Some(woken) = woken {
        woken.wake();
    }
}

impl State {
    /// INVARIANT: while a permit is free nobody waits who may have it, so nobody is passed by.
    fn take(&mut self, config: &FairConfig, key: FairKey) -> bool {
        if self.free == 0 {
            return false;
        }
        let held = self.held.entry(key).or_default();
        if *held >= config.most_of_each() {
            return false;
        }
        *held += 1;
        self.free -= 1;
        true
    }

    /// Gives one permit to whose turn it is, if there is one.
    fn serve(&mut self, config: &FairConfig) -> Option<Waker> {
        if self.free == 0 {
            return None;
        }
        let first_come = config.has(FairFault::FirstComeFirstServed);
        let (key, ticket, waker) = if first_come { self.waiters.oldest() } else { self.waiters.next() }?;
        self.free -= 1;
        let held = self.held.entry(key).or_default();
        *held += 1;
        if *held < config.most_of_each() {
            self.waiters.make_ready(key);
        }
        self.answered.insert(ticket, true);
        waker
    }

    /// Whether one more may wait. When all places are taken, the newest of the largest crowd goes for who comes from a smaller one.
    fn make_room(&mut self, config: &FairConfig, key: FairKey, woken: &mut Option<Waker>) -> bool {
        if self.waiters.count() < config.waiting {
            return true;
        }
        if config.has(FairFault::NewcomerShed) {
            return false;
        }
        let Some((ticket, waker)) = self.waiters.displace(key) else { return false };
        self.answered.insert(ticket, false);
        self.load.shed += 1;
        *woken = waker;
        true
    }
}

/// A place in the line. It is a future; see [`FairQueue::acquire`].
#[must_use = "a place in the line is given up when it is dropped"]
pub struct Acquire {
    queue: FairQueue,
    key: FairKey,
    step: Step,
}

enum Step {
    Have(FairPermit),
    Refused,
    Waits(u64),
    Done,
}

impl Acquire {
    /// Whether it has to wait.
    #[must_use]
    pub const fn waits(&self) -> bool {
        matches!(self.step, Step::Waits(_))
    }

    fn refusal(&self) -> Error {
        Error::new(ErrorKind::Busy, "too many wait already, nothing was done, try again")
            .after(self.queue.0.config.retry_after)
    }
}

impl Future for Acquire {
    type Output = Result<FairPermit>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ticket = match std::mem::replace(&mut self.step, Step::Done) {
            Step::Have(permit) => return Poll::Ready(Ok(permit)),
            Step::Refused | Step::Done => return Poll::Ready(Err(self.refusal())),
            Step::Waits(ticket) => ticket,
        };
        // A waker is dropped outside of the lock: what it belongs to may be dropped with it, and ask here again.
        let (answered, _former) = {
            let mut state = self.queue.0.state.lock();
            match state.answered.remove(&ticket) {
                None => (None, state.waiters.listen(self.key, ticket, context.waker())),
                answered => (answered, None),
            }
        };
        match answered {
            None => {
                self.step = Step::Waits(ticket);
                Poll::Pending
            }
            Some(true) => Poll::Ready(Ok(self.queue.permit(self.key))),
            Some(false) => Poll::Ready(Err(self.refusal())),
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Step::Waits(ticket) = self.step else { return };
        let (answered, _waker) = {
            let mut state = self.queue.0.state.lock();
            match state.answered.remove(&ticket) {
                None => (None, state.waiters.remove(self.key, ticket)),
                answered => (answered, None),
            }
        };
        if answered == Some(true) && !self.queue.0.config.has(FairFault::CancelledKeepsPermit) {
            self.queue.0.release(self.key);
        }
    }
}

/// The right to do one piece of work, until it is dropped.
#[must_use = "the permit is given back when it is dropped"]
pub struct FairPermit {
    shared: Arc<Shared>,
    key: FairKey,
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        self.shared.release(self.key);
    }
}

/// Which users are of one group. What says so may be called often, and at any time.
#[derive(Clone, Default)]
pub struct OwnerGroups(Arc<Mutex<HashMap<[u8; 32], u64>>>);

impl OwnerGroups {
    /// Every user in a group of its own, until something else is said.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says of which group a user is.
    pub fn set(&self, user: UserTag, group: u64) {
        self.0.lock().insert(*user.as_bytes(), group);
    }

    /// Forgets what was said of a user.
    pub fn forget(&self, user: UserTag) {
        self.0.lock().remove(user.as_bytes());
    }

    /// Forgets what was said of all users but those.
    pub fn retain(&self, keep: impl Fn(&UserTag) -> bool) {
        self.0.lock().retain(|tag, _| UserTag::from_bytes(*tag).is_ok_and(|tag| keep(&tag)));
    }

    /// How a user stands in line.
    #[must_use]
    pub fn key(&self, user: &[u8; 32]) -> FairKey {
        let groups = self.0.lock();
        FairKey::of_bytes(user, if groups.is_empty() { None } else { groups.get(user).copied() })
    }
}

impl fmt::Debug for OwnerGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnerGroups").field("users", &self.0.lock().len()).finish()
    }
}

impl fmt::Debug for FairQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairQueue").field("load", &self.load()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire").field("waits", &self.waits()).finish_non_exhaustive()
    }
}

impl fmt::Debug for FairPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FairPermit")
    }
}
