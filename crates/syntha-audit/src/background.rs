//! The tasks that log, ship and watch while a store is open.

use std::sync::{Arc, Weak};
use std::time::Duration;

use syntha_store::{Result, Store};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::run;
use crate::shipping::Step;
use crate::store::AuditedStore;

/// The least time between two checkpoints.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// How long a task waits before it looks whether the store is still there.
const LOOK: Duration = Duration::from_secs(1);
const PAUSE_LEAST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(5);

/// The tasks of a store. They end with it.
#[derive(Debug)]
pub struct Background {
    tasks: Vec<JoinHandle<()>>,
}

impl Background {
    /// Ends them now, wherever they are.
    pub fn stop(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }

    /// Waits until they have ended.
    pub async fn ended(self) {
        for task in self.tasks {
            // A task that was stopped has ended too.
            let _ = task.await;
        }
    }
}

impl<S: Store + ?Sized> AuditedStore<S> {
    /// Starts what makes checkpoints (at most one a second, while chains move), keeps the log's index where the next start finds it, delivers to
    /// the sinks, and looks after other processes' ends. The tasks hold the store only while they work, and end when it is closed or gone.
    pub fn spawn_background(self: &Arc<Self>) -> Background {
        let mut tasks = vec![
            tokio::spawn(log(Arc::downgrade(self))),
            tokio::spawn(keep(Arc::downgrade(self))),
            tokio::spawn(watch(Arc::downgrade(self))),
        ];
        for sink in 0..self.keeper.sinks.len() {
            tasks.push(tokio::spawn(ship(Arc::downgrade(self), sink)));
        }
        Background { tasks }
    }
}

fn open<S: Store + ?Sized>(store: &Weak<AuditedStore<S>>) -> Option<Arc<AuditedStore<S>>> {
    store.upgrade().filter(|store| !store.shared.hub.is_closed())
}

async fn log<S: Store + ?Sized>(store: Weak<AuditedStore<S>>) {
    let mut pause = PAUSE_LEAST;
    while let Some(strong) = open(&store) {
        let shared = Arc::clone(&strong.shared);
        if !shared.hub.is_waiting() {
            drop(strong);
            let _ = timeout(LOOK, shared.hub.moves.notified()).await;
            continue;
        }
        let begun = Instant::now();
        let made = strong.checkpoint().await;
        drop(strong);
        if made.is_ok() {
            pause = PAUSE_LEAST;
            sleep(CHECKPOINT.saturating_sub(begun.elapsed())).await;
        } else {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }
}

/// Apart from what makes checkpoints, which must not wait for it.
async fn keep<S: Store + ?Sized>(store: Weak<AuditedStore<S>>) {
    while let Some(strong) = open(&store) {
        // Without it the next start reads more.
        let _ = strong.keep_index(false).await;
        drop(strong);
        sleep(LOOK).await;
    }
}

async fn ship<S: Store + ?Sized>(store: Weak<AuditedStore<S>>, sink: usize) {
    let mut pause = PAUSE_LEAST;
    while let Some(strong) = open(&store) {
        let shared = Arc::clone(&strong.shared);
        let logs = shared.hub.logs.notified();
        let step = strong.ship(sink).await;
        drop(strong);
        match step {
            Ok(Step::Took(_)) => pause = PAUSE_LEAST,
            Ok(Step::Done) => {
                pause = PAUSE_LEAST;
                let _ = timeout(LOOK, logs).await;
            }
            Ok(Step::Failed) | Err(_) => {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MOST);
            }
        }
    }
}

/// Says that this process is there, where others may have the deployment open, and looks for those that ended without a word.
async fn watch<S: Store + ?Sized>(store: Weak<AuditedStore<S>>) {
    let mut last = Instant::now();
    while let Some(strong) = open(&store) {
        if strong.inner.capabilities().exclusive {
            return;
        }
        if last.elapsed() >= run::BEAT {
            last = Instant::now();
            // It is tried again soon, and nothing hangs on it but how soon another process looks.
            let _ = beat(&strong).await;
        }
        drop(strong);
        sleep(LOOK).await;
    }
}

async fn beat<S: Store + ?Sized>(store: &AuditedStore<S>) -> Result<()> {
    if store.shared.has_begun()
        && let Some(space) = store.space().await?
    {
        run::write(&**space, store.shared.run).await?;
    }
    if !store.find_ended().await?.is_empty() {
        store.catch_up().await?;
    }
    Ok(())
}
