#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

fn key(group: u64, user: u128) -> FairKey {
    FairKey { group, user }
}

fn poll(acquire: &mut Acquire) -> Option<Result<FairPermit>> {
    match Pin::new(acquire).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// Serves whoever waits, one at a time, and says in which order.
fn order(mut waiting: Vec<(FairKey, Acquire)>) -> Vec<FairKey> {
    let mut served = Vec::new();
    loop {
        let found = waiting.iter_mut().position(|(_, acquire)| match poll(acquire) {
            // It is served and done at once.
            Some(permit) => permit.map(drop).is_ok(),
            None => false,
        });
        let Some(place) = found else { return served };
        served.push(waiting.remove(place).0);
    }
}

fn queue(queue: &FairQueue, keys: impl IntoIterator<Item = FairKey>) -> Vec<(FairKey, Acquire)> {
    keys.into_iter().map(|key| (key, queue.acquire(key))).collect()
}

fn fault(config: FairConfig, _fault: Option<FairFault>) -> FairConfig {
    #[cfg(feature = "faults")]
    if let Some(fault) = _fault {
        return config.fault(fault);
    }
    config
}

/// Where the newcomer comes in the order behind a thousand of another user.
fn place_behind_a_thousand(planted: Option<FairFault>) -> usize {
    let line = FairQueue::new(fault(FairConfig::new(1), planted));
    let held = line.try_acquire(key(1, 1)).unwrap();
    let mut waiting = queue(&line, std::iter::repeat_n(key(1, 1), 1_000));
    waiting.extend(queue(&line, [key(2, 2)]));
    drop(held);
    let served = order(waiting);
    assert_eq!(served.len(), 1_001);
    served.iter().position(|one| *one == key(2, 2)).unwrap()
}

#[test]
fn one_waits_behind_one_of_a_thousand() {
    assert!(place_behind_a_thousand(None) <= 1);
}

/// Where the one of a group of its own comes behind 600 of another group.
fn place_behind_a_group(planted: Option<FairFault>) -> usize {
    let line = FairQueue::new(fault(FairConfig::new(1), planted));
    let held = line.try_acquire(key(1, 0)).unwrap();
    let mut waiting = queue(&line, (0..600).map(|user| key(1, user)));
    waiting.extend(queue(&line, [key(2, 1_000)]));
    drop(held);
    order(waiting).iter().position(|one| *one == key(2, 1_000)).unwrap()
}

#[test]
fn six_hundred_of_one_group_count_as_one() {
    assert!(place_behind_a_group(None) <= 1);
}

/// How many permits of four one user gets whose share is one, while another waits for none.
fn permits_of_one(planted: Option<FairFault>) -> usize {
    let line = FairQueue::new(fault(FairConfig::new(4).each(1), planted));
    let mut waiting = queue(&line, std::iter::repeat_n(key(1, 1), 4));
    let held: Vec<_> = waiting.iter_mut().filter_map(|(_, acquire)| poll(acquire)).collect();
    held.len()
}

#[test]
fn one_user_has_no_more_than_its_share() {
    assert_eq!(permits_of_one(None), 1);
    let line = FairQueue::new(FairConfig::new(4).each(1));
    let _held = line.try_acquire(key(1, 1)).unwrap();
    assert!(line.try_acquire(key(1, 1)).is_none());
    let mut waits = line.acquire(key(1, 1));
    assert!(poll(&mut waits).is_none());
    // Who waits for its own takes nothing from others.
    assert!(line.try_acquire(key(1, 2)).is_some());
    drop(_held);
    assert!(poll(&mut waits).unwrap().is_ok());
}

/// How many permits are left of one, after a waiter that it was given to went without looking.
fn left_after_a_cancelled(planted: Option<FairFault>) -> usize {
    let line = FairQueue::new(fault(FairConfig::new(1), planted));
    let held = line.try_acquire(key(1, 1)).unwrap();
    let waits = line.acquire(key(2, 2));
    drop(held);
    drop(waits);
    line.permits() - line.load().held
}

#[test]
fn who_goes_loses_no_permit() {
    assert_eq!(left_after_a_cancelled(None), 1);
}

/// Whether a newcomer gets a place in a line that one other fills.
fn newcomer_waits(planted: Option<FairFault>) -> bool {
    let line = FairQueue::new(fault(FairConfig::new(1).waiting(100, 10), planted));
    let _held = line.try_acquire(key(1, 1)).unwrap();
    let mut waiting = queue(&line, std::iter::repeat_n(key(1, 1), 10));
    let comes = line.acquire(key(2, 2));
    if !comes.waits() {
        return false;
    }
    // The newest of the crowd is told, with when to come back.
    let error = poll(&mut waiting[9].1).unwrap().unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Busy, Some(Duration::from_secs(1))));
    assert!(poll(&mut waiting[8].1).is_none());
    true
}

#[test]
fn a_full_line_sends_the_largest_crowd_away_first() {
    assert!(newcomer_waits(None));
    let line = FairQueue::new(FairConfig::new(1).waiting(3, 10).retry_after(Duration::from_secs(7)));
    let _held = line.try_acquire(key(1, 1)).unwrap();
    let mut waiting = queue(&line, std::iter::repeat_n(key(1, 1), 4));
    let error = poll(&mut waiting[3].1).unwrap().unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Busy, Some(Duration::from_secs(7))));
    assert!(error.is_retryable());
    assert_eq!((line.load().waiting, line.load().shed), (3, 1));
}

/// Each planted fault is found by the test that it belongs to.
#[cfg(feature = "faults")]
#[test]
fn broken_queues_are_found() {
    assert_eq!(place_behind_a_thousand(Some(FairFault::FirstComeFirstServed)), 1_000);
    assert!(place_behind_a_group(Some(FairFault::GroupsIgnored)) > 500);
    assert_eq!(permits_of_one(Some(FairFault::EachIgnored)), 4);
    assert_eq!(left_after_a_cancelled(Some(FairFault::CancelledKeepsPermit)), 0);
    assert!(!newcomer_waits(Some(FairFault::NewcomerShed)));
}

/// The same queue as lists that are walked from their beginnings.
#[derive(Default)]
struct Model {
    free: usize,
    each: usize,
    held: BTreeMap<FairKey, usize>,
    groups: Vec<u64>,
    users: Vec<FairKey>,
    tickets: Vec<(FairKey, usize)>,
}

impl Model {
    fn held(&self, key: FairKey) -> usize {
        self.held.get(&key).copied().unwrap_or(0)
    }

    fn take(&mut self, key: FairKey) {
        self.free -= 1;
        *self.held.entry(key).or_default() += 1;
    }

    /// `true`: served at once.
    fn acquire(&mut self, key: FairKey, id: usize) -> bool {
        if self.free > 0 && self.held(key) < self.each {
            self.take(key);
            return true;
        }
        self.tickets.push((key, id));
        self.ready(key);
        false
    }

    fn ready(&mut self, key: FairKey) {
        if self.held(key) >= self.each || !self.tickets.iter().any(|(of, _)| *of == key) {
            return;
        }
        if !self.users.contains(&key) {
            self.users.push(key);
        }
        if !self.groups.contains(&key.group) {
            self.groups.push(key.group);
        }
    }

    fn gone(&mut self, key: FairKey) {
        if !self.tickets.iter().any(|(of, _)| *of == key) {
            self.users.retain(|user| *user != key);
        }
        if !self.users.iter().any(|user| user.group == key.group) {
            self.groups.retain(|group| *group != key.group);
        }
    }

    /// Says who is served.
    fn release(&mut self, key: FairKey) -> Option<usize> {
        self.free += 1;
        *self.held.get_mut(&key).unwrap() -= 1;
        self.ready(key);
        let group = *self.groups.first()?;
        let user = *self.users.iter().find(|user| user.group == group).unwrap();
        let place = self.tickets.iter().position(|(of, _)| *of == user).unwrap();
        let (_, id) = self.tickets.remove(place);
        self.groups.retain(|other| *other != group);
        self.users.retain(|other| *other != user);
        if self.users.iter().any(|other| other.group == group) {
            self.groups.push(group);
        }
        self.take(user);
        self.ready(user);
        Some(id)
    }

    fn cancel(&mut self, key: FairKey, id: usize) {
        self.tickets.retain(|(_, other)| *other != id);
        self.gone(key);
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Acquire(u64, u128),
    Release(usize),
    /// One who waits goes, whether it was served by now or not.
    Cancel(usize),
    Look(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..4_u64, 0..3_u128).prop_map(|(group, user)| Op::Acquire(group, user)),
        3 => any::<usize>().prop_map(Op::Release),
        1 => any::<usize>().prop_map(Op::Cancel),
        1 => any::<usize>().prop_map(Op::Look),
    ];
    prop::collection::vec(op, 0..200)
}

proptest! {
    #[test]
    fn it_does_what_its_model_does(permits in 1..5_usize, each in 1..4_usize, ops in ops()) {
        let line = FairQueue::new(FairConfig::new(permits).each(each));
        let mut model = Model { free: permits, each, ..Model::default() };
        let mut held: Vec<(FairKey, FairPermit)> = Vec::new();
        // Who waits, by number; `true`: the model has served it, and nobody has looked yet.
        let mut waiting: BTreeMap<usize, (FairKey, Acquire, bool)> = BTreeMap::new();
        for (id, op) in ops.into_iter().enumerate() {
            match op {
                Op::Acquire(group, user) => {
                    // Users of several groups may have one number.
                    let key = key(group, user);
                    let mut acquire = line.acquire(key);
                    let at_once = model.acquire(key, id);
                    prop_assert_eq!(acquire.waits(), !at_once);
                    match poll(&mut acquire) {
                        Some(permit) => held.push((key, permit.unwrap())),
                        None => drop(waiting.insert(id, (key, acquire, false))),
                    }
                }
                Op::Release(which) if !held.is_empty() => {
                    let (key, permit) = held.swap_remove(which % held.len());
                    drop(permit);
                    if let Some(id) = model.release(key) {
                        waiting.get_mut(&id).unwrap().2 = true;
                    }
                }
                Op::Cancel(which) if !waiting.is_empty() => {
                    let id = *waiting.keys().nth(which % waiting.len()).unwrap();
                    let (key, acquire, served) = waiting.remove(&id).unwrap();
                    drop(acquire);
                    if served {
                        if let Some(id) = model.release(key) {
                            waiting.get_mut(&id).unwrap().2 = true;
                        }
                    } else {
                        model.cancel(key, id);
                    }
                }
                Op::Look(which) if !waiting.is_empty() => {
                    let id = *waiting.keys().nth(which % waiting.len()).unwrap();
                    let (key, acquire, served) = waiting.get_mut(&id).unwrap();
                    let answer = poll(acquire);
                    prop_assert_eq!(answer.is_some(), *served);
                    if let Some(permit) = answer {
                        held.push((*key, permit.unwrap()));
                        waiting.remove(&id);
                    }
                }
                _ => {}
            }
            let load = line.load();
            prop_assert_eq!((load.held, load.waiting), (permits - model.free, model.tickets.len()));
            for (key, held) in &model.held {
                prop_assert!(*held <= each, "{:?} holds {}", key, held);
            }
        }
        // Nothing is lost, whoever went when.
        drop(waiting);
        drop(held);
        prop_assert_eq!((line.load().held, line.load().waiting), (0, 0));
        prop_assert!(line.0.state.lock().held.is_empty());
        prop_assert!(line.0.state.lock().answered.is_empty());
    }
}
