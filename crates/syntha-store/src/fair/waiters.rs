//! Who waits, and in which order. Everything is a few steps in ordered maps, however many wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::task::Waker;

use super::FairKey;

/// Groups in line, in each its users, for each user its tickets.
#[derive(Default)]
pub(super) struct Waiters {
    groups: HashMap<u64, Group>,
    /// Groups that have a user in line, by their places. Who was served goes to the end.
    line: BTreeMap<u64, u64>,
    next_place: u64,
    count: usize,
    /// How many of each group wait.
    crowds: BTreeSet<(usize, u64)>,
}

#[derive(Default)]
struct Group {
    place: Option<u64>,
    users: HashMap<u128, User>,
    /// Users who may be served, by their places.
    line: BTreeMap<u64, u128>,
    count: usize,
    crowds: BTreeSet<(usize, u128)>,
}

#[derive(Default)]
struct User {
    /// `None` while it holds all that it may.
    place: Option<u64>,
    tickets: BTreeMap<u64, Option<Waker>>,
}

impl Waiters {
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    pub(super) fn of_user(&self, key: FairKey) -> usize {
        self.user(key).map_or(0, |user| user.tickets.len())
    }

    fn user(&self, key: FairKey) -> Option<&User> {
        self.groups.get(&key.group)?.users.get(&key.user)
    }

    /// Puts a ticket at the end of its user's. `ready`: the user may be served.
    pub(super) fn push(&mut self, key: FairKey, ticket: u64, ready: bool) {
        let group = self.groups.entry(key.group).or_default();
        group.users.entry(key.user).or_default().tickets.insert(ticket, None);
        self.recount(key, 1);
        if ready {
            self.make_ready(key);
        }
    }

    /// Wakes a waker once the ticket is answered. Gives back the one that was there.
    pub(super) fn listen(&mut self, key: FairKey, ticket: u64, waker: &Waker) -> Option<Waker> {
        let own = self.groups.get_mut(&key.group)?.users.get_mut(&key.user)?.tickets.get_mut(&ticket)?;
        if own.as_ref().is_some_and(|own| own.will_wake(waker)) {
            return None;
        }
        own.replace(waker.clone())
    }

    /// Puts a user who waits in line, and the group with it, if they are not.
    pub(super) fn make_ready(&mut self, key: FairKey) {
        let Some(group) = self.groups.get_mut(&key.group) else { return };
        let Some(user) = group.users.get_mut(&key.user) else { return };
        if user.place.is_none() {
            self.next_place += 1;
            user.place = Some(self.next_place);
            group.line.insert(self.next_place, key.user);
        }
        if group.place.is_none() {
            self.next_place += 1;
            group.place = Some(self.next_place);
            self.line.insert(self.next_place, key.group);
        }
    }

    /// Takes the ticket whose turn it is. Its user is out of line until it is made ready again; its group is at the end of the line.
    pub(super) fn next(&mut self) -> Option<(FairKey, u64, Option<Waker>)> {
        let (_, group) = self.line.first_key_value()?;
        let (_, user) = self.groups.get(group)?.line.first_key_value()?;
        self.take(FairKey { group: *group, user: *user })
    }

    /// For a planted fault: the oldest of all.
    pub(super) fn oldest(&mut self) -> Option<(FairKey, u64, Option<Waker>)> {
        let users = self
            .groups
            .iter()
            .flat_map(|(group, own)| own.line.values().map(|user| FairKey { group: *group, user: *user }));
        let first = |key: &FairKey| self.user(*key).and_then(|user| Some(*user.tickets.first_key_value()?.0));
        let oldest = users.min_by_key(first)?;
        self.take(oldest)
    }

    fn take(&mut self, key: FairKey) -> Option<(FairKey, u64, Option<Waker>)> {
        let group = self.groups.get_mut(&key.group)?;
        let user = group.users.get_mut(&key.user)?;
        let (ticket, waker) = user.tickets.pop_first()?;
        if let Some(place) = user.place.take() {
            group.line.remove(&place);
        }
        if let Some(place) = group.place.take() {
            self.line.remove(&place);
        }
        if !group.line.is_empty() {
            self.next_place += 1;
            group.place = Some(self.next_place);
            self.line.insert(self.next_place, key.group);
        }
        self.recount(key, -1);
        Some((key, ticket, waker))
    }

    /// Takes a ticket out of the line.
    pub(super) fn remove(&mut self, key: FairKey, ticket: u64) -> Option<Waker> {
        let user = self.groups.get_mut(&key.group)?.users.get_mut(&key.user)?;
        let waker = user.tickets.remove(&ticket)?;
        self.recount(key, -1);
        waker
    }

    /// Takes the newest ticket of the largest user of the largest group out of the line, if whoever comes now is in a smaller crowd.
    pub(super) fn displace(&mut self, comes: FairKey) -> Option<(u64, Option<Waker>)> {
        let own = self.groups.get(&comes.group);
        let (crowd, largest) = *self.crowds.last()?;
        let (of_user, user) = *self.groups.get(&largest)?.crowds.last()?;
        let smaller = if largest == comes.group {
            self.of_user(comes) + 1 < of_user
        } else {
            own.map_or(0, |group| group.count) + 1 < crowd
        };
        if !smaller {
            return None;
        }
        let key = FairKey { group: largest, user };
        let ticket = *self.user(key)?.tickets.last_key_value()?.0;
        Some((ticket, self.remove(key, ticket)))
    }

    /// Counts after a ticket came (1) or went (-1), and drops what nobody waits in.
    fn recount(&mut self, key: FairKey, by: isize) {
        let Some(group) = self.groups.get_mut(&key.group) else { return };
        let Some(user) = group.users.get(&key.user) else { return };
        let (now, in_group) = (user.tickets.len(), group.count);
        group.crowds.remove(&(now.saturating_add_signed(-by), key.user));
        if now > 0 {
            group.crowds.insert((now, key.user));
        } else if let Some(user) = group.users.remove(&key.user)
            && let Some(place) = user.place
        {
            group.line.remove(&place);
        }
        group.count = in_group.saturating_add_signed(by);
        self.count = self.count.saturating_add_signed(by);
        self.crowds.remove(&(in_group, key.group));
        if group.count > 0 {
            self.crowds.insert((group.count, key.group));
        }
        if group.line.is_empty()
            && let Some(place) = group.place.take()
        {
            self.line.remove(&place);
        }
        if group.count == 0 {
            self.groups.remove(&key.group);
        }
    }
}
