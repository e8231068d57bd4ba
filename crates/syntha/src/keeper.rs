//! What goes on beside the users: caches are shrunk to the memory budget, meshes that nobody uses are closed, and expired data is deleted.
//!
//! The tasks hold the deployment only while they work, and end with it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use syntha_mesh::Mesh;
use syntha_store::{Clock, Timestamp, UserTag};
use tokio::task::JoinHandle;

use crate::deployment::{Deployment, Place, is_held};
use crate::sweeper::Sweeper;

/// The tasks of a deployment.
pub(crate) struct Keeper {
    deployment: OnceLock<Weak<Deployment>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Tasks that hold the deployment just now.
    working: Arc<AtomicUsize>,
    /// Wall and boot time when it was opened.
    opened: (Timestamp, Duration),
}

/// A task's hold on its deployment.
pub(crate) struct Working {
    deployment: Option<Arc<Deployment>>,
    working: Arc<AtomicUsize>,
}

/// A clock that is off by more pauses everything that deletes.
const CLOCK_OFF: u64 = 60_000;
/// How long caches that are all at their floor are left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// How often meshes that nobody uses are looked for, at most and at least.
const IDLE_LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

impl Keeper {
    pub(crate) fn new(clock: &dyn Clock) -> Self {
        Self {
            deployment: OnceLock::new(),
            tasks: Mutex::default(),
            working: Arc::default(),
            opened: (clock.wall(), clock.boot()),
        }
    }

    pub(crate) fn stop(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
    }

    /// Whether a task holds the deployment just now, for a moment.
    pub(crate) fn is_working(&self) -> bool {
        self.working.load(Ordering::Acquire) > 0
    }

    /// Whether the wall clock has jumped since the deployment was opened: nothing is deleted then.
    pub(crate) fn clock_is_off(&self, clock: &dyn Clock) -> bool {
        let (wall, boot) = self.opened;
        let boot = u64::try_from(clock.boot().saturating_sub(boot).as_millis()).unwrap_or(u64::MAX);
        clock.wall().0.abs_diff(wall.0.saturating_add(boot)) > CLOCK_OFF
    }
}

impl Working {
    pub(crate) fn on(deployment: &Weak<Deployment>) -> Option<Self> {
        let strong = deployment.upgrade()?;
        let working = Arc::clone(&strong.keeper.working);
        working.fetch_add(1, Ordering::AcqRel);
        let working = Self { deployment: Some(strong), working };
        working
            .deployment
            .as_ref()
            .is_some_and(|deployment| deployment.check_open().is_ok())
            .then_some(working)
    }

    pub(crate) const fn deployment(&self) -> Option<&Arc<Deployment>> {
        self.deployment.as_ref()
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        // Only then: whoever finds nobody working finds nobody holding.
        drop(self.deployment.take());
        self.working.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Deployment {
    /// Starts the tasks of a deployment that was opened.
    pub(crate) fn started(self) -> Arc<Self> {
        let deployment = Arc::new(self);
        let _ = deployment.keeper.deployment.set(Arc::downgrade(&deployment));
        deployment.keep_running();
        deployment
    }

    /// Sees to it that the tasks run: the runtime that ran them may have ended. Outside of one nothing runs.
    pub(crate) fn keep_running(&self) {
        let Some(own) = self.keeper.deployment.get() else { return };
        let mut tasks = self.keeper.tasks.lock();
        if !tasks.is_empty() && !tasks.iter().any(JoinHandle::is_finished) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        tasks.drain(..).for_each(|task| task.abort());
        tasks.push(runtime.spawn(mind_memory(Weak::clone(own), Arc::clone(&self.budget))));
        let every = (self.running.idle_after / 2).clamp(IDLE_LOOKS.0, IDLE_LOOKS.1);
        tasks.push(runtime.spawn(mind_idle(Weak::clone(own), every)));
        if let Some(every) = self.running.sweep_every {
            tasks.push(runtime.spawn(Sweeper::new(Weak::clone(own)).run(every)));
        }
    }

    /// Shrinks caches until they are an eighth below the budget: of the group that holds the most the largest first, and none below its floor.
    /// Says whether anything was given up.
    pub(crate) fn shrink(&self) -> bool {
        let (before, floor) = (self.budget.used(), self.budget.floor());
        let most = self.budget.limit() - self.budget.limit() / 8;
        let mut groups: HashMap<u64, Holder> = HashMap::new();
        let places: Vec<(UserTag, Arc<Place>)> =
            self.users.lock().iter().map(|(tag, place)| (*tag, Arc::clone(place))).collect();
        for (tag, place) in places {
            let Some(mesh) = place.open.try_lock().ok().and_then(|open| Some(open.as_ref()?.mesh.clone()))
            else {
                continue;
            };
            let (group, bytes) = (self.lines.key(tag).group, mesh.cached_bytes());
            if bytes > 0 {
                let holder = groups.entry(group).or_default();
                holder.count += 1;
                holder.bytes += bytes;
                holder.meshes.entry(bytes).or_default().push(mesh);
            }
        }
        // All floors of a group together are no more than its part of the budget.
        let part = self.budget.limit() / groups.len().max(1);
        let mut by_bytes: BTreeMap<usize, Vec<Holder>> = BTreeMap::new();
        for mut holder in groups.into_values() {
            holder.floor = floor.min(part / holder.count.max(1));
            by_bytes.entry(holder.bytes).or_default().push(holder);
        }
        // At each step the largest gives up a half, so that the largest comes down to the next ones and they go on together.
        while self.budget.used() > most {
            let Some(mut largest) = by_bytes.last_entry() else { break };
            let holder = largest.get_mut().pop();
            if largest.get().is_empty() {
                largest.remove();
            }
            if let Some(mut holder) = holder
                && holder.give_up()
            {
                by_bytes.entry(holder.bytes).or_default().push(holder);
            }
        }
        self.budget.used() < before
    }

    /// Closes meshes that nobody has held or asked for since a while.
    pub(crate) fn close_idle(&self) {
        let now = self.boot();
        let after = u64::try_from(self.running.idle_after.as_millis()).unwrap_or(u64::MAX);
        let mut closed = Vec::new();
        {
            let mut users = self.users.lock();
            // INVARIANT: places are handed out under the lock that is held here, so what nobody holds now stays so.
            users.retain(|tag, place| {
                let held =
                    Arc::strong_count(place) > 1 || place.open.try_lock().map_or(true, |open| is_held(&open));
                if held {
                    place.at.store(now, Ordering::Relaxed);
                }
                let idle = !held && now.saturating_sub(place.at.load(Ordering::Relaxed)) >= after;
                if idle {
                    self.lines.groups.forget(*tag);
                    closed.push(Arc::clone(place));
                }
                !idle
            });
        }
        // What they keep is freed without the lock.
        drop(closed);
    }

    /// Closes one mesh now, unless somebody has or wants it.
    pub(crate) fn close_unused(&self, tag: UserTag) {
        let mut users = self.users.lock();
        let unused = users.get(&tag).is_some_and(|place| {
            Arc::strong_count(place) == 1 && place.open.try_lock().is_ok_and(|open| !is_held(&open))
        });
        let closed = if unused { users.remove(&tag) } else { None };
        if closed.is_some() {
            self.lines.groups.forget(tag);
        }
        drop(users);
        drop(closed);
    }
}

/// What a group holds in memory.
#[derive(Default)]
struct Holder {
    bytes: usize,
    count: usize,
    /// What each of its meshes keeps.
    floor: usize,
    /// Its meshes by their bytes.
    meshes: BTreeMap<usize, Vec<Mesh>>,
}

impl Holder {
    /// Its largest mesh gives up a half. `false`: none has more than the floor.
    fn give_up(&mut self) -> bool {
        let floor = self.floor;
        let Some(mut largest) = self.meshes.last_entry() else { return false };
        let bytes = *largest.key();
        if bytes <= floor {
            return false;
        }
        let mesh = largest.get_mut().pop();
        if largest.get().is_empty() {
            largest.remove();
        }
        let Some(mesh) = mesh else { return false };
        let now = mesh.shrink_cache((bytes / 2).max(floor));
        self.bytes = self.bytes.saturating_sub(bytes.saturating_sub(now));
        // Values of one entry alone can be more than the floor, and go as a whole.
        if now < bytes {
            self.meshes.entry(now).or_default().push(mesh);
        }
        true
    }
}

async fn mind_memory(deployment: Weak<Deployment>, budget: Arc<syntha_mesh::CacheBudget>) {
    loop {
        budget.over().await;
        let Some(working) = Working::on(&deployment) else { return };
        let freed = working.deployment().is_some_and(|deployment| deployment.shrink());
        drop(working);
        if freed {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn mind_idle(deployment: Weak<Deployment>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(working) = Working::on(&deployment) else { return };
        if let Some(deployment) = working.deployment() {
            deployment.close_idle();
        }
    }
}
