//! Open files: at most so many, the least recently used goes first, one opening at a time for each user.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use event_listener::Event;
use parking_lot::Mutex;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use syntha_store::{Batch, ChainHead, Commit, Error, ErrorKind, Fence, KeyFingerprint, Result, Stamp};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::config::SqliteConfig;
use crate::error::{closed, corrupt, erased, foreign, from_sqlx, gone, not_found, spoils_connection};
use crate::files::{Root, UserFiles};
use crate::image::Images;
use crate::plan;
use crate::schema;

/// What all handles of a store share.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) root: Root,
    pub(crate) print: KeyFingerprint,
    pub(crate) config: SqliteConfig,
    pub(crate) images: Images,
    slots: Mutex<HashMap<[u8; 32], Weak<Slot>>>,
    open: Mutex<Vec<Arc<Slot>>>,
    permits: Arc<Semaphore>,
    idle: Event,
    ticks: AtomicU64,
    closed: AtomicBool,
}

/// One user's place: its files, and its connection while it has one.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) files: UserFiles,
    pub(crate) owner: [u8; 32],
    pub(crate) event: Event,
    /// Boxed, since most users have none.
    connection: Arc<AsyncMutex<Option<Box<Open>>>>,
    used: AtomicU64,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) db: SqliteConnection,
    pub(crate) stamp: Stamp,
    chain: ChainHead,
    fence: Option<Fence>,
    /// A caller went while a commit was under way: the stamp is to be read again.
    dirty: bool,
    /// Something was deleted, and the write-ahead log may still hold it.
    checkpoint_due: bool,
    _permit: OwnedSemaphorePermit,
}

/// A connection that this caller alone uses.
pub(crate) struct Held {
    guard: Option<OwnedMutexGuard<Option<Box<Open>>>>,
    connections: Arc<Connections>,
}

impl Connections {
    pub(crate) fn new(root: Root, print: KeyFingerprint, config: SqliteConfig) -> Self {
        let permits = Arc::new(Semaphore::new(config.connections));
        Self {
            root,
            print,
            config,
            images: Images::default(),
            slots: Mutex::default(),
            open: Mutex::default(),
            permits,
            idle: Event::new(),
            ticks: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// A number that was not given before.
    pub(crate) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    pub(crate) fn slot(&self, owner: [u8; 32], files: impl FnOnce() -> UserFiles) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&owner).and_then(Weak::upgrade) {
            return slot;
        }
        if slots.len() >= 1024 && slots.len().is_power_of_two() {
            slots.retain(|_, slot| slot.strong_count() > 0);
        }
        let slot = Arc::new(Slot {
            files: files(),
            owner,
            event: Event::new(),
            connection: Arc::default(),
            used: AtomicU64::new(0),
        });
        slots.insert(owner, Arc::downgrade(&slot));
        slot
    }

    /// Takes the user's place without opening its file.
    pub(crate) async fn hold(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Held> {
        self.check_open()?;
        let guard = Arc::clone(&slot.connection).lock_owned().await;
        let held = Held { guard: Some(guard), connections: Arc::clone(self) };
        self.check_open()?;
        slot.used.store(self.tick(), Ordering::Relaxed);
        Ok(held)
    }

    /// Takes the user's place and opens its file, fenced or not.
    pub(crate) async fn open_any(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Held> {
        let mut held = self.hold(slot).await?;
        if let Some(open) = held.slot_mut()
            && open.dirty
        {
            let row = schema::user_row(&mut open.db).await?;
            (open.stamp, open.chain, open.fence) = (row.state.stamp, row.state.chain, row.fence);
            open.dirty = false;
        }
        if held.slot_mut().is_none() {
            let permit = self.permit().await?;
            let open = self.open_file(slot, permit).await?;
            *held.slot_mut() = Some(Box::new(open));
            self.open.lock().push(Arc::clone(slot));
        }
        Ok(held)
    }

    /// As `open_any`, for a user whose present life takes commits.
    pub(crate) async fn open(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Held> {
        let held = self.open_any(slot).await?;
        match held.fence {
            None => Ok(held),
            Some(Fence::Erased) => Err(erased()),
            Some(_) => Err(gone()),
        }
    }

    /// Opens the file of an absent connection: every check that a file must pass before its rows are believed.
    async fn open_file(&self, slot: &Slot, permit: OwnedSemaphorePermit) -> Result<Open> {
        if slot.files.is_marked_erased() {
            return Err(erased());
        }
        let present = slot.files.check()?;
        if !present.database {
            return Err(if slot.files.is_corrupt() { corrupt() } else { not_found() });
        }
        let opened = self.try_open(slot, present.unclean).await;
        if opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt) {
            slot.files.quarantine()?;
        }
        let (db, row) = opened?;
        let (stamp, chain) = (row.state.stamp, row.state.chain);
        Ok(Open { db, stamp, chain, fence: row.fence, dirty: false, checkpoint_due: false, _permit: permit })
    }

    async fn try_open(&self, slot: &Slot, unclean: bool) -> Result<(SqliteConnection, schema::UserRow)> {
        for _ in 0..2 {
            let (db, row) = self.connect(slot, unclean).await?;
            let restore = slot.files.restore();
            if !restore.exists() {
                return Ok((db, row));
            }
            // An import ended early. Its fence says that the new file is complete; without it, it never was.
            if row.fence == Some(Fence::Restoring) {
                db.close().await.map_err(|error| from_sqlx(&error))?;
                slot.files.replace(&restore)?;
            } else {
                crate::files::remove(&restore)?;
                return Ok((db, row));
            }
        }
        Err(corrupt())
    }

    async fn connect(&self, slot: &Slot, unclean: bool) -> Result<(SqliteConnection, schema::UserRow)> {
        let options = schema::options(&slot.files.database(), self.config.synchronous);
        #[cfg(feature = "faults")]
        let options = if self.config.has(crate::Fault::SyncSkipped) {
            options.synchronous(sqlx::sqlite::SqliteSynchronous::Off)
        } else {
            options
        };
        let mut db = options.connect().await.map_err(|error| from_sqlx(&error))?;
        crate::handle::harden(&mut db).await?;
        let old = schema::check_format(&mut db).await?;
        let row = schema::user_row(&mut db).await?;
        if row.tag != slot.owner || row.print != *self.print.as_bytes() {
            return Err(foreign());
        }
        if unclean {
            schema::check_pages(&mut db).await?;
        }
        if old {
            schema::renew(&mut db).await?;
        }
        Ok((db, row))
    }

    /// The right to one more open file; the least recently used idle one is closed for it.
    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                return Ok(permit);
            }
            let idle = self.idle.listen();
            if !self.evict().await {
                idle.await;
            }
            self.check_open()?;
        }
    }

    async fn evict(&self) -> bool {
        let victim = {
            let mut open = self.open.lock();
            open.sort_unstable_by_key(|slot| std::cmp::Reverse(slot.used.load(Ordering::Relaxed)));
            let found = open.iter().enumerate().rev().find_map(|(place, slot)| {
                let guard = Arc::clone(&slot.connection).try_lock_owned().ok()?;
                Some((place, guard))
            });
            found.map(|(place, guard)| {
                open.swap_remove(place);
                guard
            })
        };
        let Some(mut victim) = victim else { return false };
        if let Some(open) = victim.take() {
            // An error leaves the write-ahead log, which the next open replays.
            let _ = open.db.close().await;
        }
        true
    }

    /// Closes every file and refuses what comes later.
    pub(crate) async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.images.clear();
        self.idle.notify(usize::MAX);
        let open = std::mem::take(&mut *self.open.lock());
        for slot in open {
            let taken = slot.connection.lock().await.take();
            slot.event.notify(usize::MAX);
            if let Some(taken) = taken {
                taken.db.close().await.map_err(|error| from_sqlx(&error))?;
            }
        }
        for slot in self.slots.lock().values().filter_map(Weak::upgrade) {
            slot.event.notify(usize::MAX);
        }
        self.root.release();
        Ok(())
    }

    pub(crate) fn forget(&self, slot: &Arc<Slot>) {
        self.open.lock().retain(|open| !Arc::ptr_eq(open, slot));
    }
}

impl Slot {
    /// Commits a batch to this open file and tells who waits.
    pub(crate) async fn commit(&self, held: &mut Held, batch: &Batch) -> Result<Commit> {
        let raise = batch.raises_epoch();
        held.dirty = true;
        let incarnation = held.stamp.incarnation;
        match plan::commit(&mut held.db, incarnation, batch, raise).await {
            Ok(()) => {}
            Err(error) if spoils_connection(&error) => {
                held.discard();
                return Err(Error::new(
                    ErrorKind::Unknown,
                    "whether the commit happened is not known, ask the outcome",
                )
                .with_source(error));
            }
            Err(error) => {
                held.dirty = false;
                return Err(error);
            }
        }
        held.stamp.epoch.0 += u64::from(raise);
        held.chain = batch.chain.unwrap_or(held.chain);
        held.dirty = false;
        let commit = Commit::new(held.stamp, held.chain);
        // INVARIANT: what was deleted is in no file when the delete is acknowledged, unless another program reads the file
        // or the disk fails. Then the delete stands all the same, and every later commit tries again; so does the close.
        if batch.deletes() || held.checkpoint_due {
            held.checkpoint_due = !schema::checkpoint(&mut held.db).await.unwrap_or(false);
        }
        self.event.notify(usize::MAX);
        Ok(commit)
    }
}

impl Held {
    fn slot_mut(&mut self) -> &mut Option<Box<Open>> {
        #[allow(
            clippy::expect_used,
            reason = "the guard is taken when this is dropped, and at no other time"
        )]
        self.guard.as_mut().expect("a held place")
    }

    /// Closes a connection that must not be used again.
    pub(crate) fn discard(&mut self) {
        drop(self.slot_mut().take());
    }

    /// Closes the connection in order.
    pub(crate) async fn close(&mut self) -> Result<()> {
        match self.slot_mut().take() {
            Some(open) => open.db.close().await.map_err(|error| from_sqlx(&error)),
            None => Ok(()),
        }
    }

    /// Closes the life to commits. If the caller goes meanwhile, the next one reads what came of it.
    pub(crate) async fn fence(&mut self, fence: Fence) -> Result<()> {
        self.dirty = true;
        schema::set_fence(&mut self.db, fence).await?;
        self.fence = Some(fence);
        self.dirty = false;
        Ok(())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.is_some())
    }
}

impl Deref for Held {
    type Target = Open;

    fn deref(&self) -> &Open {
        #[allow(clippy::expect_used, reason = "the paths that hold a place without a file never read it")]
        self.guard.as_ref().and_then(|guard| guard.as_ref()).expect("an open file")
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Open {
        #[allow(clippy::expect_used, reason = "the paths that hold a place without a file never read it")]
        self.slot_mut().as_mut().expect("an open file")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.guard.take());
        self.connections.idle.notify(1);
    }
}
