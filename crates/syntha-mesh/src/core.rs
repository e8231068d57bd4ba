//! What all handles of one user share: the store, the index, the writer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use syntha_store::{ErrorKind as StoreErrorKind, Keyspace, RecordId, Timestamp, UserStore};

use crate::bounds::{Bounds, UnderWay};
use crate::config::MeshConfig;
use crate::destruction::Spent;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::fault::Fault;
use crate::index::Index;
use crate::interactions::Interaction;
use crate::limits::Effective;
use crate::meters::Shed;
use crate::trail::Trail;
use crate::watchers::Watchers;
use crate::writer::Writer;

/// How often entries are read one after the other before they are read in one go.
const TRIES: usize = 3;

/// What all handles of one user share.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn UserStore>,
    pub(crate) index: RwLock<Index>,
    pub(crate) writer: Writer,
    pub(crate) bounds: Bounds,
    /// What this handle has seen used: see [`Fault::LimitPerHandle`].
    #[cfg(feature = "faults")]
    pub(crate) handled: Mutex<syntha_store::Usage>,
    pub(crate) watchers: Watchers,
    /// One for all meshes that were opened with it.
    pub(crate) config: Arc<MeshConfig>,
    /// Held by the writer while it commits, and by whoever must see the data as of one commit.
    pub(crate) gate: tokio::sync::Mutex<()>,
    /// Reads that are to be written down.
    pub(crate) reads: Mutex<Vec<Interaction>>,
    /// A task will write them down.
    pub(crate) flush_due: AtomicBool,
    /// What the audit trail is still to be told; `None` if it is told nothing.
    pub(crate) trail: Option<Trail>,
    /// What agents deleted lately.
    pub(crate) spent: Mutex<Spent>,
    /// No other handle writes, so the index is never behind.
    pub(crate) exclusive: bool,
    /// The user's life that this mesh was opened in has ended.
    pub(crate) retired: AtomicBool,
    /// Nothing new is taken on; what waits is written.
    pub(crate) closing: AtomicBool,
    /// Wall and boot time when the mesh was opened.
    pub(crate) opened: (Timestamp, Duration),
}

impl Core {
    /// The wall time, but never before a time that a commit carried.
    pub(crate) fn now(&self, index: &Index) -> Timestamp {
        let wall = self.config.clock.wall();
        if self.config.has(Fault::ClockFloorIgnored) { wall } else { wall.max(index.time) }
    }

    /// Whether an entry is not expired.
    pub(crate) fn lives(&self, entry: &Entry, index: &Index) -> bool {
        entry.is_live(|| self.now(index)) || self.config.has(Fault::ExpiredShown)
    }

    /// Counts a call against what the user may do a second.
    #[inline]
    pub(crate) fn ask(&self) -> Result<()> {
        self.bounds.ask(&*self.config.clock).inspect_err(|_| self.config.meters.shed(Shed::Rate))
    }

    /// A call is under way that waits for the storage or the writer.
    pub(crate) fn enter(&self) -> Result<UnderWay> {
        self.bounds.enter().inspect_err(|_| self.config.meters.shed(Shed::InFlight))
    }

    /// A commit of this handle's own changes what it has seen used.
    #[cfg(feature = "faults")]
    pub(crate) fn handle(&self, index: &Index, overlay: &crate::draft::Overlay) {
        let (mut handled, before, after) = (self.handled.lock(), index.usage, overlay.usage);
        handled.contexts = (handled.contexts + after.contexts).saturating_sub(before.contexts);
        handled.agents = (handled.agents + after.agents).saturating_sub(before.agents);
    }

    /// The index may say other limits than before.
    pub(crate) fn settle(&self, index: &Index) {
        self.bounds.set(&Effective::of(&self.config, index.limits.as_deref()));
    }

    pub(crate) fn retire(&self) {
        if self.config.has(Fault::ErasedShown) {
            return;
        }
        self.retired.store(true, Ordering::Release);
        self.index.write().forget();
        self.reads.lock().clear();
        self.watchers.end(&self.config);
        self.close_trail();
    }

    pub(crate) fn clock_is_off(&self) -> bool {
        let (wall, boot) = self.opened;
        let walled = i128::from(self.config.clock.wall().0) - i128::from(wall.0);
        let booted = self.config.clock.boot().as_millis().cast_signed() - boot.as_millis().cast_signed();
        (walled - booted).abs() > 60_000
    }

    /// Sees to it that the index is not behind what other handles have committed.
    pub(crate) async fn catch_up(&self) -> Result<(), syntha_store::Error> {
        if self.config.has(Fault::StaleIndex) {
            return Ok(());
        }
        let known = self.index.read().stamp;
        if self.store.is_at(known) {
            return Ok(());
        }
        let caught = match self.store.state().await {
            Ok(state) if state.stamp == known => return Ok(()),
            Ok(_) => self.refresh().await,
            Err(error) => Err(error),
        };
        if caught.as_ref().is_err_and(|error| error.kind() == StoreErrorKind::Gone) {
            self.retire();
        }
        caught
    }

    pub(crate) async fn refresh(&self) -> Result<(), syntha_store::Error> {
        let since = self.index.read().stamp;
        let refresh = Index::refresh(since, &*self.store).await?;
        {
            let mut index = self.index.write();
            if index.stamp == since {
                let touched = self.watchers.any().then(|| refresh.touched());
                let change = |index: &mut Index| index.apply_refresh(refresh);
                if self.watchers.around(&self.config, &mut index, touched, change)? {
                    self.settle(&index);
                    return Ok(());
                }
            }
        }
        self.config.meters.reloads.increment(1);
        let fresh = Index::load(&*self.store, self.config.cache_bytes).await?;
        let fresh = fresh.within(self.config.budget.as_ref());
        let mut index = self.index.write();
        if fresh.stamp.incarnation != index.stamp.incarnation || fresh.stamp.epoch >= index.stamp.epoch {
            *index = fresh;
            self.settle(&index);
            self.watchers.reloaded(&self.config, &index);
        }
        Ok(())
    }

    /// An entry with its value, if it is there, not expired and wanted.
    pub(crate) async fn load(
        &self,
        key: &str,
        wanted: impl Fn(&Entry, &Index) -> bool + Send,
    ) -> Result<Option<Arc<Entry>>> {
        let entry = {
            let index = self.index.read();
            let Some(entry) = index.get(key) else { return Ok(None) };
            if !self.lives(entry, &index) || !wanted(entry, &index) {
                return Ok(None);
            }
            Arc::clone(entry)
        };
        if entry.value.is_some() {
            self.config.meters.hits.increment(1);
            entry.used.store(true, Ordering::Relaxed);
            return Ok(Some(entry));
        }
        self.config.meters.misses.increment(1);
        let _under_way = self.enter()?;
        let id = RecordId::new(bytes::Bytes::copy_from_slice(key.as_bytes()), 0)?;
        let read = self.store.read(Keyspace::Context, &[id]).await?;
        let Some(record) = read.value.into_iter().next().flatten() else { return Ok(None) };
        let value = self.value(key, &record)?;
        if record.head.version == entry.version {
            let kept = self.index.write().keep(key, entry.version, &value);
            return Ok(Some(kept.unwrap_or_else(|| Arc::new(entry.with_value(Some(value))))));
        }
        // The entry was written since the index was read, and head and value come from one moment.
        let newer = Entry::decode(&record.head)?.with_value(Some(value));
        let index = self.index.read();
        Ok((self.lives(&newer, &index) && wanted(&newer, &index)).then(|| Arc::new(newer)))
    }

    /// What `choose` takes from the index, with values, all as of one commit.
    pub(crate) async fn load_many(
        &self,
        choose: impl Fn(&Index) -> Vec<Arc<Entry>> + Send,
    ) -> Result<Vec<Arc<Entry>>> {
        let mut under_way = None;
        for _ in 0..TRIES {
            let mut entries = choose(&self.index.read());
            let missing = || entries.iter().filter(|entry| entry.value.is_none());
            let ids = missing()
                .map(|entry| Ok(RecordId::new(bytes::Bytes::copy_from_slice(entry.key.as_bytes()), 0)?));
            let ids = ids.collect::<Result<Vec<_>>>()?;
            if ids.is_empty() {
                return Ok(entries);
            }
            if under_way.is_none() {
                under_way = Some(self.enter()?);
            }
            let mut records = self.store.read(Keyspace::Context, &ids).await?.value.into_iter();
            let mut one_moment = true;
            for slot in entries.iter_mut().filter(|entry| entry.value.is_none()) {
                match records.next().flatten() {
                    Some(record) if record.head.version == slot.version => {
                        let value = self.value(&slot.key, &record)?;
                        let kept = self.index.write().keep(&slot.key, slot.version, &value);
                        *slot = kept.unwrap_or_else(|| Arc::new(slot.with_value(Some(value))));
                    }
                    _ => one_moment = false,
                }
            }
            if one_moment {
                return Ok(entries);
            }
            if !self.exclusive {
                self.refresh().await?;
            }
        }
        // Somebody else writes all the time: one call reads everything as of one commit, if it is not too much.
        let roster = self.index.read().roster.clone();
        match Index::load_whole(&*self.store, roster).await? {
            Some(whole) => Ok(choose(&whole)),
            None => Err(Error::new(
                ErrorKind::Busy,
                "the entries are written faster than they can be read, try again",
            )),
        }
    }

    /// The value that a record holds.
    pub(crate) fn value(
        &self,
        key: &str,
        record: &syntha_store::Record,
    ) -> Result<Arc<str>, syntha_store::Error> {
        let text = std::str::from_utf8(&record.body).map_err(|_| {
            syntha_store::Error::new(StoreErrorKind::Corrupt, "a value is not as it was written")
        })?;
        #[cfg(feature = "faults")]
        if self.config.has(Fault::CacheShared) {
            return Ok(crate::fault::shared::value(&self.config.clock, key, record.head.version, text));
        }
        let _ = key;
        Ok(text.into())
    }
}

/// What waits for the audit trail is not lost with the last handle.
impl Drop for Core {
    fn drop(&mut self) {
        self.close_trail();
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Core")
    }
}
