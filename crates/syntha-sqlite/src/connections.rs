//! Open files: at most so many, given out in turns; of the group with most of them the least recently used goes first; one opening at a time
//! for each user.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Instant;

use event_listener::Event;
use parking_lot::Mutex;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use syntha_store::{
    Batch, ChainHead, Commit, DEPLOYMENT_OWNER, Error, ErrorKind, FairConfig, FairPermit, FairQueue, Fence,
    Incarnation, KeyFingerprint, Result, Stamp,
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tracing::Instrument as _;

use crate::bell::Ring;
use crate::config::{Mode, SqliteConfig, Synchronous};
use crate::error::{closed, corrupt, erased, foreign, from_sqlx, gone, not_found, spoils_connection};
use crate::files::{Root, UserFiles};
use crate::image::Images;
use crate::lives::{Hold, Lives};
use crate::meters::{Meters, OpenFile};
use crate::plan;
use crate::schema::{self, Format, UserRow};

/// What all handles of a store share.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) root: Root,
    pub(crate) print: KeyFingerprint,
    pub(crate) config: SqliteConfig,
    pub(crate) images: Images,
    slots: Mutex<HashMap<[u8; 32], Weak<Slot>>>,
    open: Mutex<Vec<Arc<Slot>>>,
    permits: FairQueue,
    idle: Event,
    ticks: AtomicU64,
    closed: AtomicBool,
    meters: Meters,
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
    /// With whom its file was opened: files outlive what is said of their users.
    group: AtomicU64,
    /// In a shared folder: what the bell said, and the stamp that was verified with it.
    verified: Mutex<Option<(u64, Stamp)>>,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) db: SqliteConnection,
    /// In a folder that others may write to, stamp, chain and fence are those of the last look.
    pub(crate) stamp: Stamp,
    pub(crate) chain: ChainHead,
    pub(crate) fence: Option<Fence>,
    /// A caller went while a commit or a transaction was under way: it is ended, and the stamp is read again.
    pub(crate) dirty: bool,
    /// Of the last look, where nobody made the file anew that is only read here.
    pub(crate) format: Format,
    /// What the next commit rings.
    pub(crate) ring: Ring,
    /// Which file it is, of those that lie at the path one after the other.
    file: Option<(u64, u64)>,
    /// Nobody has used it since it was opened.
    fresh: bool,
    /// Something was deleted, and the write-ahead log may still hold it.
    checkpoint_due: bool,
    _permit: FairPermit,
    _counted: OpenFile,
}

/// What a caller who changes a user's files holds beside the user's place.
pub(crate) struct Changing {
    permit: Option<FairPermit>,
    pub(crate) lives: Lives,
}

/// A connection that this caller alone uses.
pub(crate) struct Held {
    guard: Option<OwnedMutexGuard<Option<Box<Open>>>>,
    connections: Arc<Connections>,
}

impl Connections {
    pub(crate) fn new(root: Root, print: KeyFingerprint, config: SqliteConfig) -> Self {
        let permits = FairConfig::new(config.connections);
        #[cfg(feature = "faults")]
        let permits = if config.has(crate::Fault::FilesFirstCome) {
            permits.fault(syntha_store::FairFault::FirstComeFirstServed)
        } else {
            permits
        };
        let permits = FairQueue::new(permits);
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
            meters: Meters::default(),
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
            group: AtomicU64::new(0),
            verified: Mutex::default(),
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
        self.open_in(&mut held, slot, None).await?;
        Ok(held)
    }

    /// Takes what a change of the user's files needs. In one order everywhere, so that nobody waits in a circle: the place, the
    /// right to one more open file, the lock of the files.
    pub(crate) async fn change(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<(Held, Changing)> {
        let mut held = self.hold(slot).await?;
        if !held.is_exclusive() {
            // It is opened anew under the lock.
            self.settle(slot, &mut held).await?;
            held.close().await?;
            self.forget(slot);
        }
        let permit = if held.is_open() { None } else { Some(self.permit(slot).await?) };
        let lives = self.root.lives(Hold::Changing).await?;
        Ok((held, Changing { permit, lives }))
    }

    /// Opens the file of a place that is held, if it is not open.
    async fn open_in(
        &self,
        held: &mut Held,
        slot: &Arc<Slot>,
        changing: Option<&mut Changing>,
    ) -> Result<()> {
        if held.is_open() && !self.must_settle(held) {
            return Ok(());
        }
        // The rest is rare and large.
        Box::pin(self.open_anew(held, slot, changing)).await
    }

    async fn open_anew(
        &self,
        held: &mut Held,
        slot: &Arc<Slot>,
        changing: Option<&mut Changing>,
    ) -> Result<()> {
        self.settle(slot, held).await?;
        if held.is_open() {
            return Ok(());
        }
        let (permit, lives) = match changing {
            Some(Changing { permit, lives }) => (permit.take(), Some(&*lives)),
            None => (None, None),
        };
        let permit = match permit {
            Some(permit) => permit,
            None => self.permit(slot).await?,
        };
        self.check_open()?;
        let since = Instant::now();
        let opened =
            self.open_file(slot, permit, lives).instrument(tracing::debug_span!("syntha_open_file")).await;
        self.meters.opened(since, &opened);
        *held.slot_mut() = Some(Box::new(opened?));
        let mut open = self.open.lock();
        // INVARIANT: asked under the lock: who closes all has taken the list, or finds this one in it.
        if let Err(closed) = self.check_open() {
            drop(open);
            held.discard();
            return Err(closed);
        }
        if !open.iter().any(|other| Arc::ptr_eq(other, slot)) {
            open.push(Arc::clone(slot));
        }
        Ok(())
    }

    /// As `open_any` in a place that is held, with the user's row as of now. A life that others have fenced is looked for once
    /// more at the path.
    pub(crate) async fn open_now(
        &self,
        held: &mut Held,
        slot: &Arc<Slot>,
        changing: Option<&mut Changing>,
    ) -> Result<()> {
        self.open_in(held, slot, changing).await?;
        if held.is_exclusive() { Ok(()) } else { Box::pin(self.look_now(held, slot)).await }
    }

    async fn look_now(&self, held: &mut Held, slot: &Arc<Slot>) -> Result<()> {
        let row = held.user_row().await?;
        (held.stamp, held.chain, held.fence) = (row.state.stamp, row.state.chain, row.fence);
        if held.fence.is_some() && !held.fresh {
            held.discard();
            self.open_in(held, slot, None).await?;
        }
        held.fresh = false;
        Ok(())
    }

    /// As `open_now`, for a user whose present life takes commits.
    pub(crate) async fn open(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Held> {
        let mut held = self.hold(slot).await?;
        self.open_now(&mut held, slot, None).await?;
        match held.fence {
            None => Ok(held),
            Some(Fence::Erased) => Err(erased()),
            Some(_) => Err(gone()),
        }
    }

    /// Whether [`settle`](Self::settle) may have something to do.
    fn must_settle(&self, held: &Held) -> bool {
        self.config.mode != Mode::Exclusive || held.dirty
    }

    /// Ends what a caller who went left behind, and drops a connection to a file that is no more at its path.
    async fn settle(&self, slot: &Slot, held: &mut Held) -> Result<()> {
        let Some(open) = held.slot_mut() else { return Ok(()) };
        let (dirty, file) = (open.dirty, open.file);
        if self.config.mode == Mode::Exclusive {
            if dirty {
                let row = held.user_row().await?;
                (held.stamp, held.chain, held.fence) = (row.state.stamp, row.state.chain, row.fence);
                held.dirty = false;
            }
            return Ok(());
        }
        if dirty {
            held.roll_back().await;
        }
        if slot.files.identity() != file {
            held.discard();
        }
        Ok(())
    }

    /// Opens the file of an absent connection: every check that a file must pass before its rows are believed.
    async fn open_file(&self, slot: &Slot, permit: FairPermit, lives: Option<&Lives>) -> Result<Open> {
        let looked = {
            // So that no file comes or goes between the look and the open.
            let _lives = match (self.config.mode, lives) {
                (Mode::Exclusive, _) | (_, Some(_)) => None,
                (_, None) => Some(self.root.lives(Hold::Opening).await?),
            };
            self.look(slot, false).await
        };
        let Looked { db, row, format, ring, file } = match looked {
            Err(error) if error.kind() == ErrorKind::Corrupt && self.config.mode != Mode::Beside => {
                // Another process may have put it right by now: look again where nobody else does anything.
                let _lives = match lives {
                    Some(_) => None,
                    None => Some(self.root.lives(Hold::Changing).await?),
                };
                self.look(slot, true).await?
            }
            looked => looked?,
        };
        let (stamp, chain) = (row.state.stamp, row.state.chain);
        Ok(Open {
            db,
            stamp,
            chain,
            fence: row.fence,
            dirty: false,
            format,
            ring,
            file,
            fresh: true,
            checkpoint_due: false,
            _permit: permit,
            _counted: self.meters.count_open(),
        })
    }

    /// `mend`: the caller has the files for itself, so what ended early is ended and what is damaged is put aside. Without
    /// it, such a file is called corrupt.
    async fn look(&self, slot: &Slot, mend: bool) -> Result<Looked> {
        if slot.files.is_marked_erased() {
            return Err(erased());
        }
        let present = slot.files.check(mend)?;
        if !present.database {
            return Err(if slot.files.is_corrupt() { corrupt() } else { not_found() });
        }
        let opened = self.try_open(slot, present.unclean, mend).await;
        if mend && opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt) {
            slot.files.quarantine()?;
            self.meters.quarantines.increment(1);
            tracing::error!("a user's damaged file was put aside, restore it from an archive");
            self.silence(slot);
        }
        opened
    }

    async fn try_open(&self, slot: &Slot, unclean: bool, mend: bool) -> Result<Looked> {
        for _ in 0..2 {
            let file = slot.files.identity();
            let Connected { db, row, format, ring } = self.connect(slot, unclean).await?;
            let restore = slot.files.restore();
            if !restore.exists() || self.config.mode == Mode::Beside {
                return Ok(Looked { db, row, format, ring, file });
            }
            if !mend {
                db.close().await.map_err(|error| from_sqlx(&error))?;
                return Err(corrupt());
            }
            // An import ended early. Its fence says that the new file is complete; without it, it never was.
            if row.fence == Some(Fence::Restoring) {
                db.close().await.map_err(|error| from_sqlx(&error))?;
                slot.files.replace(&restore)?;
            } else {
                crate::files::remove(&restore)?;
                return Ok(Looked { db, row, format, ring, file });
            }
        }
        Err(corrupt())
    }

    /// Sees to it that every process asks the user's file again, and believes no bell until the next commit.
    pub(crate) fn silence(&self, slot: &Slot) {
        if let Some(bell) = &self.root.bell {
            // A bell that can't be written can't be read as before either, or the disk is gone.
            let _ = bell.ring(&slot.owner, crate::bell::NEVER);
        }
    }

    async fn connect(&self, slot: &Slot, unclean: bool) -> Result<Connected> {
        let mode = self.config.mode;
        // INVARIANT: what a signer outside remembers of the deployment's log is on disk before. A power loss takes users' commits alone.
        let is_own = slot.owner == DEPLOYMENT_OWNER;
        let synchronous = if is_own { Synchronous::Full } else { self.config.synchronous };
        let options = schema::options(&slot.files.database(), synchronous, mode);
        #[cfg(feature = "faults")]
        let options = if self.config.has(crate::Fault::SyncSkipped) {
            options.synchronous(sqlx::sqlite::SqliteSynchronous::Off)
        } else {
            options
        };
        let mut db = options.connect().await.map_err(|error| from_sqlx(&error))?;
        crate::handle::harden(&mut db, mode != Mode::Exclusive).await?;
        let ring = self.hang_bell(slot, &mut db).await?;
        let format = schema::check_format(&mut db).await?;
        let row = schema::user_row(&mut db, format).await?;
        if row.tag != slot.owner || row.print != *self.print.as_bytes() {
            return Err(foreign());
        }
        if unclean {
            schema::check_pages(&mut db).await?;
        }
        // Who only reads finds links where they are.
        if format == Format::Present || mode == Mode::Beside {
            return Ok(Connected { db, row, format, ring });
        }
        // A task of its own: moving a long chain outlives a caller who does not wait for it, or it would begin again with the next one.
        let renewed = tokio::spawn(async move { schema::renew(&mut db).await.map(|()| db) });
        let ended = |_| Error::new(ErrorKind::Unavailable, "the runtime ended, try again");
        let db = renewed.await.map_err(ended)??;
        Ok(Connected { db, row, format: Format::Present, ring })
    }

    /// In a shared folder, lets every commit of a connection ring. One that can't ring does not happen.
    async fn hang_bell(&self, slot: &Slot, db: &mut SqliteConnection) -> Result<Ring> {
        let ring = Ring::new();
        #[cfg(feature = "faults")]
        if self.config.has(crate::Fault::RingForgotten) {
            return Ok(ring);
        }
        if let Some(bell) = &self.root.bell {
            let (bell, rung, owner) = (Arc::clone(bell), ring.clone(), slot.owner);
            let mut handle = db.lock_handle().await.map_err(|error| from_sqlx(&error))?;
            handle.set_commit_hook(move || bell.ring(&owner, rung.number()));
        }
        Ok(ring)
    }

    /// The right to one more open file, in the user's turn. For each that is wanted, an idle one is closed.
    async fn permit(&self, slot: &Slot) -> Result<FairPermit> {
        let key = self.config.groups.key(&slot.owner);
        slot.group.store(key.group, Ordering::Relaxed);
        if let Some(permit) = self.permits.try_acquire(key) {
            return Ok(permit);
        }
        let mut turn = self.permits.acquire(key);
        loop {
            let mut idle = self.idle.listen();
            // Whose turn it is may be somebody else, for whom one is closed here: so much the sooner this one's comes.
            let closed = self.evict().await;
            let next = std::future::poll_fn(|context| match Pin::new(&mut turn).poll(context) {
                Poll::Ready(permit) => Poll::Ready(Some(permit)),
                Poll::Pending if closed => Poll::Ready(None),
                Poll::Pending => Pin::new(&mut idle).poll(context).map(|()| None),
            });
            if let Some(permit) = next.await {
                return permit;
            }
            self.check_open()?;
        }
    }

    /// Closes an idle file: of the group that has most files open, the least recently used. So a group that opens many loses its own, and
    /// nobody else's.
    async fn evict(&self) -> bool {
        let victim = {
            let mut open = self.open.lock();
            let mut counts: HashMap<u64, usize> = HashMap::new();
            let group = |slot: &Slot| slot.group.load(Ordering::Relaxed);
            for slot in open.iter() {
                *counts.entry(group(slot)).or_default() += 1;
            }
            #[cfg(feature = "faults")]
            if self.config.has(crate::Fault::EvictionIgnoresGroups) {
                counts.clear();
            }
            open.sort_by_cached_key(|slot| {
                let many = counts.get(&group(slot)).copied().unwrap_or(0);
                (many, std::cmp::Reverse(slot.used.load(Ordering::Relaxed)))
            });
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
            self.meters.evictions.increment(1);
            // An error leaves the write-ahead log, which the next open replays.
            let _ = open.close(self.config.mode).await;
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
                taken.close(self.config.mode).await?;
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

/// A connection, its row, and what it rings.
struct Connected {
    db: SqliteConnection,
    row: UserRow,
    format: Format,
    ring: Ring,
}

/// That, and which file it is.
struct Looked {
    db: SqliteConnection,
    row: UserRow,
    format: Format,
    ring: Ring,
    file: Option<(u64, u64)>,
}

impl Open {
    /// The user's row as of now.
    pub(crate) async fn user_row(&mut self) -> Result<UserRow> {
        schema::user_row(&mut self.db, self.format).await
    }

    /// Closes the connection in order.
    async fn close(mut self, mode: Mode) -> Result<()> {
        if mode == Mode::Shared {
            // Closing leaves the log alone there. If others use it, it is theirs to empty.
            let _ = schema::last_checkpoint(&mut self.db).await;
        }
        self.db.close().await.map_err(|error| from_sqlx(&error))
    }
}

impl Slot {
    /// Commits a batch to this open file and tells who waits.
    pub(crate) async fn commit(&self, held: &mut Held, life: Incarnation, batch: &Batch) -> Result<Commit> {
        let commit = if held.is_exclusive() {
            self.commit_alone(held, batch).await?
        } else {
            Box::pin(self.commit_beside_others(held, life, batch)).await?
        };
        // INVARIANT: what was deleted is in no file when the delete is acknowledged, unless another program reads the file
        // or the disk fails. Then the delete stands all the same, and every later commit tries again; so does the close.
        if batch.deletes() || held.checkpoint_due {
            held.checkpoint_due = !Box::pin(schema::checkpoint(&mut held.db)).await.unwrap_or(false);
            if held.checkpoint_due {
                held.connections.meters.checkpoints_due.increment(1);
            }
        }
        self.event.notify(usize::MAX);
        Ok(commit)
    }

    async fn commit_alone(&self, held: &mut Held, batch: &Batch) -> Result<Commit> {
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
        Ok(Commit::new(held.stamp, held.chain))
    }

    /// Keeps what the bell said and the stamp that goes with it.
    pub(crate) fn verify(&self, verified: Option<(u64, Stamp)>) {
        *self.verified.lock() = verified;
    }

    pub(crate) fn verified(&self) -> Option<(u64, Stamp)> {
        *self.verified.lock()
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

    /// Sees to it that nobody uses the connection after this hold, whatever becomes of the caller.
    pub(crate) fn last_use(&mut self) {
        if let Some(open) = self.slot_mut() {
            open.file = None;
        }
    }

    /// Closes the connection in order.
    pub(crate) async fn close(&mut self) -> Result<()> {
        match self.slot_mut().take() {
            Some(open) => open.close(self.connections.config.mode).await,
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

    pub(crate) fn is_exclusive(&self) -> bool {
        self.connections.config.mode == Mode::Exclusive
    }

    /// What the user's place in the bell file holds.
    pub(crate) fn rung(&self, slot: &Slot) -> Option<u64> {
        self.connections.root.bell.as_ref().and_then(|bell| bell.read(&slot.owner))
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
        let left = self.guard.as_deref().and_then(Option::as_ref).is_some_and(|open| open.dirty);
        // A transaction that its caller left open would hold up other processes until somebody uses the connection again.
        if left
            && !self.is_exclusive()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (guard, connections) = (self.guard.take(), Arc::clone(&self.connections));
            // If the task does not come so far, the next one who holds the place does it.
            runtime.spawn(async move {
                let mut held = Self { guard, connections };
                held.roll_back().await;
            });
            return;
        }
        drop(self.guard.take());
        self.connections.idle.notify(1);
    }
}
