//! The watches of one mesh: who they are, how they are told, and the task that looks for other handles' commits for them.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use event_listener::Event;
use parking_lot::Mutex;
use syntha_store::{ErrorKind as StoreErrorKind, Stamp, UserStore};

use crate::backlog::{Backlog, Notice};
use crate::config::MeshConfig;
use crate::core::Core;
use crate::decision::{Act, Known, On, Principal, decide};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::fault::Fault;
use crate::index::Index;
use crate::names::AgentName;
use crate::narrow::Narrowed;
use crate::session_grants::SessionGrants;

/// How long the task waits after a failed look at the store.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the task lets this handle's own commit reach the index before it reads the commit from the store.
const TURNS: usize = 64;

/// INVARIANT: locks are taken in the order index, list, backlog.
#[derive(Default)]
pub(crate) struct Watchers {
    /// How many there are. Written under the index's lock, so that whoever changes the index knows it.
    count: AtomicUsize,
    list: Mutex<Vec<Arc<Watcher>>>,
    /// The task that looks for other handles' commits is there.
    following: AtomicBool,
    /// The last watch went.
    idle: Event,
}

/// One watch, as the mesh knows it.
pub(crate) struct Watcher {
    /// `None` for the host, who sees everything.
    pub(crate) agent: Option<AgentName>,
    /// What its handle was narrowed to, and its session was given.
    pub(crate) narrowed: Option<Arc<Narrowed>>,
    pub(crate) grants: SessionGrants,
    pub(crate) wants: Wants,
    pub(crate) backlog: Mutex<Backlog>,
}

/// What a watch is for.
#[derive(Clone, Default)]
pub(crate) struct Wants {
    pub(crate) prefix: Option<Arc<str>>,
    pub(crate) topic: Option<Arc<str>>,
}

/// What a change of the index touches.
#[derive(Default)]
pub(crate) struct Touched {
    pub(crate) cleared: bool,
    /// It was read from the store: what lies between the old and the new is not known.
    pub(crate) foreign: bool,
    pub(crate) keys: Vec<Arc<str>>,
    pub(crate) agents: Vec<Arc<str>>,
}

impl Wants {
    pub(crate) fn entry(&self, entry: &Entry) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| entry.key.starts_with(&**prefix))
            && self.topic.as_ref().is_none_or(|topic| entry.audience.topics.contains(topic))
    }
}

impl Watcher {
    /// Whether an entry is for the reader as the index stands, expiry aside.
    fn sees(&self, entry: &Entry, index: &Index, config: &MeshConfig) -> bool {
        self.wants.entry(entry)
            && self.agent.as_ref().is_none_or(|agent| {
                let principal = Principal {
                    agent: Some(agent.as_str()),
                    grants: self.grants,
                    narrowed: self.narrowed.as_deref(),
                };
                let own = index.roster.get(agent.as_str()).map(|state| &**state);
                let now = || config.clock.wall().max(index.time);
                let known = Known { own, now: &now, spent: false, confirmed: true, config };
                decide(&principal, Act::Read, On::Entry(entry), &known).allowed
                    || config.has(Fault::WatchAudienceIgnored)
            })
    }
}

impl Watchers {
    /// Whether there is one: all that a mesh without watches pays for them.
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Adds one. The caller holds the index's lock.
    pub(crate) fn add(&self, watcher: Arc<Watcher>, most: usize) -> Result<()> {
        let mut list = self.list.lock();
        if list.len() >= most {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "too many watches of this user are open, drop one first",
            ));
        }
        list.push(watcher);
        self.count.store(list.len(), Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn remove(&self, watcher: &Arc<Watcher>) {
        let mut list = self.list.lock();
        list.retain(|other| !Arc::ptr_eq(other, watcher));
        self.count.store(list.len(), Ordering::Relaxed);
        if list.is_empty() {
            self.idle.notify(usize::MAX);
        }
    }

    /// Changes the index and tells whom it concerns. The caller holds the index's lock, so the order is the commits'.
    ///
    /// A watch hears of an entry only if its reader may see it before or after: the length of its queue, and whether it
    /// overflows, say nothing about what others are told.
    pub(crate) fn around<T>(
        &self,
        config: &MeshConfig,
        index: &mut Index,
        touched: Option<Touched>,
        change: impl FnOnce(&mut Index) -> T,
    ) -> T {
        let Some(mut touched) = touched else { return change(index) };
        let list = self.list.lock();
        let saw = |watcher: &Arc<Watcher>| -> Vec<bool> {
            let saw = |key| index.get(key).is_some_and(|entry| watcher.sees(entry, index, config));
            touched.keys.iter().map(|key| saw(key)).collect()
        };
        let before: Vec<_> = list.iter().map(saw).collect();
        let done = change(index);
        let at = index.stamp.epoch;
        let silent = config.has(Fault::WatchLosesLagged);
        let mut order: Vec<_> = (0..touched.keys.len()).collect();
        order.sort_by_key(|place| {
            let key = touched.keys.get(*place);
            key.and_then(|key| index.get(key)).map(|entry| entry.version)
        });
        touched.agents.sort_unstable();
        for (watcher, before) in list.iter().zip(before) {
            let mut backlog = watcher.backlog.lock();
            if touched.cleared {
                backlog.clear(at, silent);
            }
            for place in &order {
                let Some(key) = touched.keys.get(*place) else { continue };
                match index.get(key).filter(|entry| watcher.sees(entry, index, config)) {
                    Some(entry) => {
                        if touched.foreign {
                            backlog.supersede(entry);
                        }
                        backlog.push(Notice::Put(Arc::clone(entry)), silent);
                    }
                    None if before.get(*place) == Some(&true) => {
                        backlog.push(Notice::Removed(Arc::clone(key), at), silent);
                    }
                    None => {}
                }
            }
            let own = |agent: &AgentName| touched.agents.binary_search(agent.shared()).is_ok();
            if watcher.agent.as_ref().is_some_and(own) {
                backlog.push(Notice::Compare(at), silent);
            }
        }
        done
    }

    /// The index was read afresh: nobody knows any more what changed, so what waits may have been removed since. What is there now is
    /// compared instead. The caller holds the index's lock.
    pub(crate) fn reloaded(&self, config: &MeshConfig, index: &Index) {
        for watcher in &*self.list.lock() {
            let silent = config.has(Fault::WatchLosesLagged);
            watcher.backlog.lock().clear(index.stamp.epoch, silent);
        }
    }

    /// The user's life has ended: every watch forgets what it holds, and wakes.
    pub(crate) fn end(&self, config: &MeshConfig) {
        if config.has(Fault::WatchSleepsOn) {
            return;
        }
        for watcher in &*self.list.lock() {
            watcher.backlog.lock().end();
        }
        self.idle.notify(usize::MAX);
    }
}

/// Sees to it that somebody looks for other handles' commits as long as there is a watch.
pub(crate) fn follow(core: &Arc<Core>) {
    if core.exclusive || core.config.has(Fault::StaleIndex) {
        return;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if !core.watchers.following.swap(true, Ordering::AcqRel) {
        let store = Arc::clone(&core.store);
        let follower = Follower { core: Arc::downgrade(core), left: false };
        runtime.spawn(async move {
            loop {
                match follower.look(&*store).await {
                    Next::Again => {}
                    Next::Idle => return follower.leave(),
                    Next::Over => return,
                }
            }
        });
    }
}

/// The task that looks for other handles' commits. It keeps no mesh alive.
struct Follower {
    core: Weak<Core>,
    left: bool,
}

enum Next {
    Again,
    /// There is no watch any more.
    Idle,
    /// There is no mesh, or no user, any more.
    Over,
}

impl Follower {
    /// Waits for a commit and brings the index up to date.
    async fn look(&self, store: &dyn UserStore) -> Next {
        let (known, idle) = {
            let Some(core) = self.core.upgrade() else { return Next::Over };
            let idle = core.watchers.idle.listen();
            if core.retired.load(Ordering::Acquire) {
                return Next::Over;
            }
            if !core.watchers.any() {
                return Next::Idle;
            }
            (core.index.read().stamp, idle)
        };
        let (mut idle, mut changed) = (pin!(idle), pin!(store.changed(known)));
        let changed = poll_fn(|cx| match idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => changed.as_mut().poll(cx).map(Some),
        });
        let found = match changed.await {
            None => return Next::Again,
            Some(Ok(stamp)) if stamp != known => self.catch_up(known).await,
            // A store that wakes for nothing is not asked without a pause.
            Some(Ok(_)) => return pause().await,
            Some(Err(error)) => Err(error),
        };
        match found {
            Ok(()) => Next::Again,
            Err(error) if error.kind() == StoreErrorKind::Gone => {
                if let Some(core) = self.core.upgrade() {
                    core.retire();
                }
                Next::Over
            }
            // A watch that has something to give asks for itself, and tells its reader the error.
            Err(_) => pause().await,
        }
    }

    async fn catch_up(&self, known: Stamp) -> Result<(), syntha_store::Error> {
        for turn in 0..=TURNS {
            let Some(core) = self.core.upgrade() else { break };
            if core.index.read().stamp != known {
                break;
            }
            // This handle's own commit comes with its values, which are not read again then.
            if turn == TURNS || !core.writer.is_busy() {
                return core.refresh().await;
            }
            drop(core);
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Goes because there was no watch, unless one has come meanwhile and found this task still there.
    fn leave(mut self) {
        self.left = true;
        if let Some(core) = self.core.upgrade() {
            core.watchers.following.store(false, Ordering::Release);
            if core.watchers.any() {
                follow(&core);
            }
        }
    }
}

async fn pause() -> Next {
    tokio::time::sleep(PAUSE).await;
    Next::Again
}

/// If the task ends early (its runtime went away), the next watch that waits starts another.
impl Drop for Follower {
    fn drop(&mut self) {
        if !self.left
            && let Some(core) = self.core.upgrade()
        {
            core.watchers.following.store(false, Ordering::Release);
        }
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watchers")
    }
}
