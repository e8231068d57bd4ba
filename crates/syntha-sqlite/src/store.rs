use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use syntha_store::{
    Batch, Capabilities, ChainHead, Commit, CreateMode, DEPLOYMENT_OWNER, DeploymentKey, EPOCH_JUMP, Epoch,
    Erased, Error, ErrorKind, Fence, ImportMode, Incarnation, Result, SelfCheck, Snapshot, Stamp, Store,
    Timestamp, UserStore, UserTag,
};

use crate::backup::{self, Temporary};
use crate::bell;
use crate::config::{Mode, SqliteConfig, Synchronous};
use crate::connections::{Connections, Held, Slot};
use crate::error::{erased, followed, present, read_only};
use crate::files::Root;
use crate::lives::{Hold, Lives};
use crate::schema::{self, UserRow};
use crate::user_store::SqliteUser;

/// A deployment in a folder: a SQLite file for each user, one for the deployment itself, and the key of the tags.
///
/// One process holds a folder at a time, or several that open it [shared](Mode::Shared); another one is refused with `Locked`,
/// whose source names the holder.
#[derive(Debug)]
pub struct SqliteStore {
    connections: Arc<Connections>,
    key: Arc<Key>,
}

/// Keeps the key out of `Debug`.
struct Key(DeploymentKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl SqliteStore {
    /// Opens a folder, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// `Locked` if another process holds the folder in a mode that does not go with this one; `NotFound` if there is nothing to
    /// look into [beside](Mode::Beside) a holder; `Refused` for a folder that others may enter or that lost its key;
    /// `Unsupported` for an engine older than SQLite 3.51.3; `Unavailable` and `StorageFull` from the file system.
    pub async fn open(config: SqliteConfig) -> Result<Self> {
        schema::check_engine().await?;
        let mut waited = Duration::ZERO;
        let (root, key) = loop {
            match Root::open(&config.root, config.mode, config.key.as_ref().map(|key| &*key.0)) {
                // Another process that shares the folder may be the first one at this moment, which is alone for a little while.
                Err(error)
                    if config.mode == Mode::Shared
                        && error.kind() == ErrorKind::Locked
                        && waited < FIRST_ONE =>
                {
                    tokio::time::sleep(PAUSE).await;
                    waited += PAUSE;
                }
                opened => break opened?,
            }
        };
        let print = key.fingerprint();
        let connections = Arc::new(Connections::new(root, print, config));
        Ok(Self { connections, key: Arc::new(Key(key)) })
    }

    /// The key that users' tags are derived with.
    #[must_use]
    pub fn deployment_key(&self) -> &DeploymentKey {
        &self.key.0
    }

    /// The right to change which users there are, for a caller whose change is more than one call: it keeps every other process
    /// that asks for it out until it is dropped.
    ///
    /// # Errors
    ///
    /// `Busy` if another process has it for more than 10 seconds; `Unavailable` from the file system.
    pub async fn turn(&self) -> Result<Turn> {
        self.connections.check_open()?;
        Ok(Turn(self.connections.root.turn().await?))
    }

    /// Closes everything and keeps the folder's lock, for a caller who puts another folder in its place.
    ///
    /// # Errors
    ///
    /// As [`Store::close`].
    pub async fn close_locked(&self) -> Result<FolderLock> {
        let lock = self.connections.root.take_over();
        self.connections.close().await?;
        Ok(FolderLock(lock))
    }

    fn mode(&self) -> Mode {
        self.connections.config.mode
    }

    fn check_writable(&self) -> Result<()> {
        self.connections.check_open()?;
        if self.mode() == Mode::Beside { Err(read_only()) } else { Ok(()) }
    }

    fn slot(&self, user: UserTag) -> Arc<Slot> {
        #[cfg(feature = "faults")]
        if self.connections.config.has(crate::Fault::TagTruncated) {
            return self.connections.slot([1; 32], || self.connections.root.user_by_stem("shared"));
        }
        self.connections.slot(*user.as_bytes(), || self.connections.root.user(user))
    }

    fn handle(&self, slot: &Arc<Slot>, incarnation: Incarnation) -> Arc<dyn UserStore> {
        Arc::new(SqliteUser::new(Arc::clone(&self.connections), Arc::clone(slot), incarnation))
    }

    /// Builds a file beside its place and publishes it. `again`: the user's mark of erasure goes then.
    async fn publish(&self, slot: &Slot, first: &Batch, again: bool, lives: Lives) -> Result<Stamp> {
        let mut stamp =
            Stamp { incarnation: first.life.map_or_else(Incarnation::random, Ok)?, epoch: Epoch(0) };
        let path = self.connections.root.temporary(self.connections.tick());
        let row = UserRow::new(slot.owner, self.connections.print, stamp);
        let image = self.connections.images.build(&row, Some(first)).await?;
        stamp.epoch.0 += 1;
        #[cfg(feature = "faults")]
        let rings = !self.connections.config.has(crate::Fault::RingForgotten);
        #[cfg(not(feature = "faults"))]
        let rings = true;
        if rings && let Some(bell) = &self.connections.root.bell {
            // The new file's last batch is this one, so the bell is believed from the start.
            bell.ring(&slot.owner, bell::number(first.id, stamp.epoch));
        }
        let files = slot.files.clone();
        off_the_runtime(move || {
            // Held to the end, also if the caller goes.
            let _lives = lives;
            files.make_folder()?;
            let written = crate::files::write_private(&path, &image).and_then(|()| files.publish(&path));
            if written.is_err() {
                crate::files::remove(&path)?;
            }
            written?;
            // INVARIANT: the mark goes last, so that there is no moment at which a late first write finds neither mark nor file.
            if again { files.unmark_erased() } else { Ok(()) }
        })
        .await?;
        self.connections.images.refill();
        Ok(stamp)
    }

    /// Fences an open life and removes its files. The caller holds the place.
    async fn destroy(&self, slot: &Arc<Slot>, held: &mut Held, lives: &Lives) -> Result<u64> {
        if held.is_open() {
            held.fence_at(None, Fence::Erased).await?;
            held.close().await?;
            self.connections.forget(slot);
        }
        self.mark(slot, lives).await?;
        #[cfg(feature = "faults")]
        if self.connections.config.has(crate::Fault::EraseKeepsFile) {
            return Ok(1);
        }
        let (files, lives) = (slot.files.clone(), lives.clone());
        off_the_runtime(move || {
            let _lives = lives;
            files.remove_all()
        })
        .await
    }

    /// Leaves the mark of erasure, and wakes who waits, here and in other processes.
    async fn mark(&self, slot: &Slot, lives: &Lives) -> Result<()> {
        let (files, lives) = (slot.files.clone(), lives.clone());
        off_the_runtime(move || {
            let _lives = lives;
            files.make_folder()?;
            files.mark_erased()
        })
        .await?;
        self.connections.silence(slot);
        slot.event.notify(usize::MAX);
        Ok(())
    }

    /// An import into a folder that other processes have open: a file that is there stays, and its contents change.
    async fn import_beside_others(
        &self,
        user: UserTag,
        snapshot: &mut dyn Snapshot,
        mode: ImportMode,
    ) -> Result<Stamp> {
        let slot = self.slot(user);
        let refused = |there: bool| {
            if slot.files.is_marked_erased() {
                Err(erased())
            } else if there && mode == ImportMode::New {
                Err(present())
            } else {
                Ok(())
            }
        };
        refused(slot.files.identity().is_some())?;
        let state = snapshot.state();
        let epoch = Epoch(state.stamp.epoch.0.saturating_add(EPOCH_JUMP));
        let stamp = Stamp { incarnation: snapshot.life().map_or_else(Incarnation::random, Ok)?, epoch };
        let mut row = UserRow::new(slot.owner, self.connections.print, stamp);
        (row.state.chain, row.state.usage, row.state.time) = (state.chain, state.usage, state.time);
        // The snapshot may come slowly: nobody is kept waiting for it.
        let path = Temporary(self.connections.root.temporary(self.connections.tick()));
        backup::fill(&self.connections.images, &path.0, &row, snapshot).await?;
        let (mut held, mut changing) = self.connections.change(&slot).await?;
        match self.connections.open_now(&mut held, &slot, Some(&mut changing)).await {
            Err(error) if !replaceable(&error, mode) => return Err(error),
            _ => {}
        }
        refused(held.is_open())?;
        let lives = changing.lives;
        if held.is_open() {
            let incarnation = stamp.incarnation;
            held.last_use();
            backup::attach(&mut held.db, &path.0).await?;
            let begun = held.begin_writing().await;
            let taken = match begun {
                Ok(old) if old.fence == Some(Fence::Erased) => Err(erased()),
                Ok(old) if snapshot.follows().is_some_and(|follows| follows != old.state.chain) => {
                    Err(followed())
                }
                Ok(old) => {
                    row.state.chain = snapshot.state().chain;
                    let old = Epoch(old.state.stamp.epoch.0.saturating_add(EPOCH_JUMP));
                    row.state.stamp = Stamp { incarnation, epoch: old.max(epoch) };
                    backup::take_over(&mut held.db, &row).await
                }
                Err(error) => Err(error),
            };
            let ended = held.end_writing(taken).await;
            // What was deleted goes from the log, and the connection with what it has attached.
            let closed = if held.is_open() { held.close().await } else { Ok(()) };
            self.connections.forget(&slot);
            ended?;
            closed?;
        } else {
            if snapshot.follows().is_some_and(|follows| follows != ChainHead::default()) {
                return Err(followed());
            }
            let files = slot.files.clone();
            off_the_runtime(move || {
                let _lives = lives;
                files.make_folder()?;
                crate::files::set_write_ahead(&path.0)?;
                files.publish(&path.0)
            })
            .await?;
            self.connections.silence(&slot);
        }
        slot.event.notify(usize::MAX);
        Ok(row.state.stamp)
    }
}

/// How long a process waits for the first one that shares a folder to put it in order.
const FIRST_ONE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// See [`SqliteStore::close_locked`]: the folder is nobody else's until this is dropped, whatever its name is then.
#[derive(Debug)]
#[allow(dead_code, reason = "it is held, never read")]
pub struct FolderLock(Option<std::fs::File>);

/// See [`SqliteStore::turn`].
#[derive(Debug)]
pub struct Turn(#[allow(dead_code, reason = "it is held, never read")] Lives);

/// Whether an import may go on where a user's file could not be opened: there is none, or a damaged one to replace.
fn replaceable(error: &Error, mode: ImportMode) -> bool {
    match error.kind() {
        ErrorKind::NotFound => true,
        ErrorKind::Corrupt => mode == ImportMode::Replace,
        _ => false,
    }
}

/// Runs work that waits for the disk where it holds up no task.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Unknown, "the runtime ended while a file was written, ask for the outcome"))
    })
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for SqliteStore {
    fn capabilities(&self) -> Capabilities {
        let durable = self.connections.config.synchronous == Synchronous::Full;
        Capabilities::new("sqlite", durable, self.mode() == Mode::Exclusive, true)
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        first.validate(false)?;
        self.check_writable()?;
        let slot = self.slot(user);
        // INVARIANT: the place is held from the look to the publication, so of racing creators one wins; and the lock of the
        // files, so that none of another process comes between.
        let held = self.connections.hold(&slot).await?;
        let lives = match self.mode() {
            Mode::Exclusive => Lives::none(),
            Mode::Shared | Mode::Beside => self.connections.root.lives(Hold::Changing).await?,
        };
        let again = slot.files.is_marked_erased();
        if again {
            if mode == CreateMode::New {
                return Err(erased());
            }
            slot.files.remove_all()?;
        } else if (held.is_open() && held.is_exclusive()) || slot.files.check(true)?.database {
            return Err(present());
        } else if slot.files.is_corrupt() {
            return Err(crate::error::corrupt());
        }
        let stamp = self.publish(&slot, &first, again, lives).await?;
        drop(held);
        let chain = first.chain.unwrap_or_default();
        Ok((self.handle(&slot, stamp.incarnation), Commit::new(stamp, chain)))
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        let slot = self.slot(user);
        let held = self.connections.open(&slot).await?;
        Ok(self.handle(&slot, held.stamp.incarnation))
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.check_writable()?;
        let slot = self.slot(user);
        let mut held = self.connections.hold(&slot).await?;
        self.connections.open_now(&mut held, &slot, None).await?;
        let stamp = held.fence_at(at, fence).await?;
        slot.event.notify(usize::MAX);
        Ok(stamp)
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        self.check_writable()?;
        let slot = self.slot(user);
        let (mut held, mut changing) = self.connections.change(&slot).await?;
        let opened = self.connections.open_now(&mut held, &slot, Some(&mut changing)).await;
        let lives = changing.lives;
        if let Err(error) = opened {
            match error.kind() {
                // Nothing that opens is left, or never was; files may be.
                ErrorKind::Erased | ErrorKind::Corrupt | ErrorKind::Unsupported => {}
                // In another process a first write may be under way, which must not bring the user back.
                ErrorKind::NotFound if self.mode() == Mode::Shared => {
                    self.mark(&slot, &lives).await?;
                    return Err(error);
                }
                _ => return Err(error),
            }
        }
        let removed = self.destroy(&slot, &mut held, &lives).await?;
        Ok(Erased::new(removed > 0, removed))
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        if snapshot.owner() != user {
            return Err(Error::new(ErrorKind::Invalid, "the snapshot is of another user"));
        }
        self.check_writable()?;
        if self.mode() == Mode::Shared {
            return self.import_beside_others(user, snapshot, mode).await;
        }
        let slot = self.slot(user);
        let (mut held, mut changing) = self.connections.change(&slot).await?;
        match self.connections.open_now(&mut held, &slot, Some(&mut changing)).await {
            Err(error) if !replaceable(&error, mode) => return Err(error),
            _ => {}
        }
        // The snapshot may come slowly.
        drop(changing);
        let old = held.is_open().then(|| held.stamp.epoch);
        if old.is_some() && mode == ImportMode::New {
            return Err(present());
        }
        if let Some(follows) = snapshot.follows() {
            let chain = match old {
                Some(_) => held.row(&slot, held.stamp.incarnation).await?.state.chain,
                None => ChainHead::default(),
            };
            if follows != chain {
                return Err(followed());
            }
        }
        let state = snapshot.state();
        let epoch = Epoch(old.unwrap_or_default().max(state.stamp.epoch).0.saturating_add(EPOCH_JUMP));
        let stamp = Stamp { incarnation: snapshot.life().map_or_else(Incarnation::random, Ok)?, epoch };
        let mut row = UserRow::new(slot.owner, self.connections.print, stamp);
        row.state.chain = state.chain;
        row.state.usage = state.usage;
        row.state.time = state.time;
        slot.files.make_folder()?;
        let path = slot.files.restore();
        if let Err(error) = backup::write(&self.connections.images, &path, &row, snapshot).await {
            crate::files::remove(&path)?;
            return Err(error);
        }
        // INVARIANT: the new file is complete and durable before the old life is fenced, so whoever finds the fence
        // may finish the move, and whoever finds none may drop the file.
        if held.is_open() {
            held.fence(Fence::Restoring).await?;
            held.close().await?;
            self.connections.forget(&slot);
            let files = slot.files.clone();
            // Whoever opens a file beside this process does it before or after.
            let lives = self.connections.root.lives(Hold::Changing).await?;
            off_the_runtime(move || {
                let _lives = lives;
                files.replace(&path)
            })
            .await?;
        } else {
            let files = slot.files.clone();
            off_the_runtime(move || files.publish(&path)).await?;
        }
        slot.event.notify(usize::MAX);
        Ok(stamp)
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        self.connections.check_open()?;
        let users = self.connections.root.users()?;
        Ok(users.into_iter().filter(|tag| after.is_none_or(|after| *tag > after)).take(limit).collect())
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        let slot = self.connections.slot(DEPLOYMENT_OWNER, || self.connections.root.deployment());
        let held = match self.connections.open(&slot).await {
            Err(error) if error.kind() == ErrorKind::NotFound && self.mode() != Mode::Beside => {
                let place = self.connections.hold(&slot).await?;
                let lives = self.connections.root.lives(Hold::Changing).await?;
                if !place.is_open() && !slot.files.check(true)?.database {
                    let first = Batch::new(Timestamp(0))?;
                    self.publish(&slot, &first, false, lives).await?;
                } else {
                    drop(lives);
                }
                drop(place);
                self.connections.open(&slot).await?
            }
            held => held?,
        };
        Ok(self.handle(&slot, held.stamp.incarnation))
    }

    async fn verify(&self) -> Result<SelfCheck> {
        self.connections.check_open()?;
        schema::check_engine().await?;
        self.connections.root.verify()?;
        // Every file is opened under its own tag, so a file in another user's place is found here.
        for user in self.connections.root.users()? {
            match self.connections.open(&self.slot(user)).await {
                Err(error) if matches!(error.kind(), ErrorKind::Erased | ErrorKind::Gone) => {}
                held => drop(held?),
            }
        }
        Ok(SelfCheck::new(vec!["engine version", "folder and file rights", "identity of each file"]))
    }

    async fn close(&self) -> Result<()> {
        self.connections.close().await
    }
}
