//! Deletes what has expired, of users who are open and of those who are not, a few steps at a time and in turns.

use std::collections::{HashMap, VecDeque};
use std::sync::Weak;
use std::time::Duration;

use syntha_store::{ErrorKind as StoreErrorKind, FairKey, Stamp, Timestamp, UserTag};

use crate::deployment::Deployment;
use crate::directory::UserEntry;
use crate::keeper::Working;

/// What one round after the other knows of the users.
pub(crate) struct Sweeper {
    deployment: Weak<Deployment>,
    known: HashMap<UserTag, Known>,
    /// Where the next round goes on.
    after: Option<UserTag>,
    /// The clock was off in the last round.
    paused: bool,
}

/// What was found when a user was last looked at.
#[derive(Clone, Copy)]
struct Known {
    next: Option<Timestamp>,
    stamp: Option<Stamp>,
    /// Milliseconds of the boot time.
    looked: u64,
    /// The user was open when it was last asked.
    open: bool,
}

/// How many users of one page of the directory.
const PAGE: usize = 256;
/// How many users who are not open are looked at for the first time in one round. Each costs the opening of a file.
const LOOKS: usize = 128;
/// How many pages of the directory one round goes through, so that it costs the same however many users there are.
const PAGES: usize = 16;
/// How long one user's data is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// After how long a user who is not open is looked at again although nothing is due, in milliseconds: another process may have written.
const AGAIN: u64 = 60 * 60 * 1_000;
/// The same of one who is open and has written meanwhile.
const AGAIN_OPEN: u64 = 10 * 60 * 1_000;
/// So many users are remembered, some of whom were erased, before all are forgotten and looked at again.
const REMEMBERED: usize = 1 << 20;
/// How often one user's turn comes in one round. A sweep deletes some thousand records each time.
const TURNS: usize = 64;

/// Users whose turn it is, by groups, then by users: each step takes one of each.
pub(crate) struct Rounds<T> {
    groups: VecDeque<(u64, VecDeque<T>)>,
}

impl<T> Rounds<T> {
    pub(crate) fn new(all: impl IntoIterator<Item = (FairKey, T)>) -> Self {
        let mut rounds = Self { groups: VecDeque::new() };
        let mut places: HashMap<u64, usize> = HashMap::new();
        for (key, one) in all {
            let place = *places.entry(key.group).or_insert_with(|| {
                rounds.groups.push_back((key.group, VecDeque::new()));
                rounds.groups.len() - 1
            });
            if let Some((_, users)) = rounds.groups.get_mut(place) {
                users.push_back(one);
            }
        }
        rounds
    }

    /// The next one, of the group whose turn it is.
    pub(crate) fn next(&mut self) -> Option<(u64, T)> {
        let (group, mut users) = self.groups.pop_front()?;
        let one = users.pop_front()?;
        if !users.is_empty() {
            self.groups.push_back((group, users));
        }
        Some((group, one))
    }

    /// Puts one back who is not done: at the end of its group, which is at the end of all.
    pub(crate) fn again(&mut self, group: u64, one: T) {
        match self.groups.iter_mut().find(|(own, _)| *own == group) {
            Some((_, users)) => users.push_back(one),
            None => self.groups.push_back((group, VecDeque::from([one]))),
        }
    }
}

impl Sweeper {
    pub(crate) fn new(deployment: Weak<Deployment>) -> Self {
        Self { deployment, known: HashMap::new(), after: None, paused: false }
    }

    /// A round now and then, until the deployment is closed or gone.
    pub(crate) async fn run(mut self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            if self.round().await.is_none() {
                return;
            }
        }
    }

    /// Looks at some users, from where the last round ended, and sweeps those of whom something is due. `None`: the deployment is gone.
    async fn round(&mut self) -> Option<()> {
        let (mut due, mut looks) = (Vec::new(), LOOKS);
        for _ in 0..PAGES {
            let working = Working::on(&self.deployment)?;
            let deployment = working.deployment()?;
            if !deployment.is_managed() || self.waits_for_the_clock(deployment) {
                return Some(());
            }
            let Ok(page) = deployment.directory.page(self.after, PAGE).await else { return Some(()) };
            drop(working);
            let ends = page.len() < PAGE;
            for entry in page {
                let working = Working::on(&self.deployment)?;
                let deployment = working.deployment()?;
                // Whoever is not looked at in this round is the first of the next one.
                let Some(is_due) = self.is_due(deployment, entry.tag, &mut looks).await else { break };
                self.after = Some(entry.tag);
                if is_due {
                    due.push((deployment.key_of(&entry.user, entry.tag), (entry, TURNS)));
                }
            }
            if looks == 0 {
                break;
            }
            if ends {
                self.after = None;
                break;
            }
        }
        if self.known.len() > REMEMBERED {
            self.known.clear();
        }
        let mut rounds = Rounds::new(due);
        while let Some((group, (entry, turns))) = rounds.next() {
            let working = Working::on(&self.deployment)?;
            let deployment = working.deployment()?;
            if self.sweep(deployment, &entry).await && turns > 1 {
                rounds.again(group, (entry, turns - 1));
            }
            drop(working);
            tokio::task::yield_now().await;
        }
        Some(())
    }

    /// INVARIANT: while nobody knows what time it is nothing is deleted, and nothing is told of it for each user.
    fn waits_for_the_clock(&mut self, deployment: &Deployment) -> bool {
        let off = deployment.keeper.clock_is_off(&*deployment.config.clock);
        if off && !self.paused {
            tracing::warn!(
                "the wall clock has jumped by more than a minute, nothing is swept until it is right"
            );
        }
        self.paused = off;
        off
    }

    /// Whether a user has something that expired more than the grace ago. `None`: too many were looked at already.
    async fn is_due(&mut self, deployment: &Deployment, tag: UserTag, looks: &mut usize) -> Option<bool> {
        let (now, open) = (deployment.boot(), deployment.stamp_of_open(tag));
        let fresh = self.known.get_mut(&tag).and_then(|known| {
            let (since, was_open) = (now.saturating_sub(known.looked), known.open);
            known.open = open.is_some();
            let holds = match open {
                // Somebody may have written meanwhile.
                Some(stamp) => known.stamp == Some(stamp) || since < AGAIN_OPEN,
                None => !was_open && since < AGAIN,
            };
            holds.then_some(*known)
        });
        let next = match fresh {
            Some(known) => known.next,
            None if open.is_none() && *looks == 0 => {
                self.known.remove(&tag);
                return None;
            }
            None => {
                if open.is_none() {
                    *looks -= 1;
                }
                self.look(deployment, tag, open.is_some()).await
            }
        };
        Some(next.is_some_and(|next| deployment.is_over(next)))
    }

    /// When the user's next record expires.
    async fn look(&mut self, deployment: &Deployment, tag: UserTag, open: bool) -> Option<Timestamp> {
        let asked = async {
            match deployment.store.open(tag).await {
                Ok(user) => user.state().await,
                Err(error) => Err(error),
            }
        };
        let state =
            tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(StoreErrorKind::Busy.into()));
        let known = match state {
            Ok(state) => {
                let (next, stamp) = (state.next_expiry, Some(state.stamp));
                Known { next, stamp, looked: deployment.boot(), open }
            }
            // It is looked at again in the next round.
            Err(error) if error.kind() == StoreErrorKind::Busy => return None,
            // Who has not written, was erased or can't be opened has nothing to sweep.
            Err(_) => Known { next: None, stamp: None, looked: deployment.boot(), open },
        };
        self.known.insert(tag, known);
        known.next
    }

    /// Deletes some of what is due. Says whether there is more.
    async fn sweep(&mut self, deployment: &Deployment, entry: &UserEntry) -> bool {
        let was_open = deployment.stamp_of_open(entry.tag).is_some();
        let swept = tokio::time::timeout(PATIENCE, deployment.sweep(&entry.user)).await;
        let more = match swept {
            Ok(Ok(deleted)) => {
                let next = self.look(deployment, entry.tag, was_open).await;
                deleted > 0 && next.is_some_and(|next| deployment.is_over(next))
            }
            _ => {
                // One user's failure is looked at again in an hour, and holds nobody up.
                let known = Known { next: None, stamp: None, looked: deployment.boot(), open: was_open };
                self.known.insert(entry.tag, known);
                false
            }
        };
        if !was_open && !more {
            deployment.close_unused(entry.tag);
        }
        more
    }
}

impl Deployment {
    /// Where the data of a user who is open stands.
    fn stamp_of_open(&self, tag: UserTag) -> Option<Stamp> {
        let place = std::sync::Arc::clone(self.users.lock().get(&tag)?);
        let open = place.open.try_lock().ok()?;
        Some(open.as_ref()?.mesh.stamp())
    }

    /// Whether what expires then may be deleted now.
    fn is_over(&self, expires: Timestamp) -> bool {
        let grace = u64::try_from(self.config.sweep_grace.as_millis()).unwrap_or(u64::MAX);
        expires.0.saturating_add(grace) <= self.config.clock.wall().0
    }

    /// One sweep of a user, who does not count as used by it.
    async fn sweep(&self, user: &syntha_store::UserId) -> crate::error::Result<u64> {
        let (tag, place) = self.place_of(user)?;
        let mesh = self.mesh_at(&place, user, tag, false).await?;
        Ok(mesh.sweep().await?.deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_takes_one_of_each_group() {
        let key = |group| FairKey { group, user: 0 };
        let many = (0..100).map(|user| (key(1), user));
        let mut rounds = Rounds::new(many.chain([(key(2), 1_000), (key(3), 2_000)]));
        let mut order = Vec::new();
        while let Some((group, user)) = rounds.next() {
            order.push(user);
            // The first is not done at its first turn.
            if user == 0 && order.iter().filter(|one| **one == 0).count() == 1 {
                rounds.again(group, user);
            }
        }
        assert_eq!(order.iter().take(4).copied().collect::<Vec<_>>(), [0, 1_000, 2_000, 1]);
        assert_eq!((order.len(), order.last()), (103, Some(&0)));
    }
}
