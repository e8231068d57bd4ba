use std::sync::Arc;

use async_trait::async_trait;
use syntha_store::{
    Batch, Capabilities, Commit, CreateMode, DEPLOYMENT_OWNER, DeploymentKey, EPOCH_JUMP, Epoch, Erased,
    Error, ErrorKind, Fence, ImportMode, Incarnation, Result, SelfCheck, Snapshot, Stamp, Store, Timestamp,
    UserStore, UserTag,
};

use crate::backup;
use crate::config::{SqliteConfig, Synchronous};
use crate::connections::{Connections, Held, Slot};
use crate::error::{erased, present};
use crate::files::Root;
use crate::schema::{self, UserRow};
use crate::user_store::SqliteUser;

/// A deployment in a folder: a SQLite file for each user, one for the deployment itself, and the key of the tags.
///
/// One process holds a folder at a time; another one is refused with `Locked`, whose source names the holder.
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
    /// `Locked` if another process holds the folder; `Refused` for a folder that others may enter or that lost its key;
    /// `Unsupported` for an engine older than SQLite 3.51.3; `Unavailable` and `StorageFull` from the file system.
    pub async fn open(config: SqliteConfig) -> Result<Self> {
        schema::check_engine().await?;
        let (root, key) = Root::open(&config.root)?;
        let print = key.fingerprint();
        let connections = Arc::new(Connections::new(root, print, config));
        Ok(Self { connections, key: Arc::new(Key(key)) })
    }

    /// The key that users' tags are derived with.
    #[must_use]
    pub fn deployment_key(&self) -> &DeploymentKey {
        &self.key.0
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

    /// Builds a file beside its place and publishes it.
    async fn publish(&self, slot: &Slot, first: Option<&Batch>) -> Result<Stamp> {
        let mut stamp = Stamp { incarnation: Incarnation::random()?, epoch: Epoch(0) };
        let path = self.connections.root.temporary(self.connections.tick());
        let row = UserRow::new(slot.owner, self.connections.print, stamp);
        let image = self.connections.images.build(&row, first).await?;
        let files = slot.files.clone();
        off_the_runtime(move || {
            files.make_folder()?;
            let written = crate::files::write_private(&path, &image).and_then(|()| files.publish(&path));
            if written.is_err() {
                crate::files::remove(&path)?;
            }
            written
        })
        .await?;
        self.connections.images.refill();
        stamp.epoch.0 += u64::from(first.is_some());
        Ok(stamp)
    }

    /// Fences an open life and removes its files. The caller holds the place.
    async fn destroy(&self, slot: &Arc<Slot>, held: &mut Held) -> Result<u64> {
        if held.is_open() {
            held.fence(Fence::Erased).await?;
            held.close().await?;
            self.connections.forget(slot);
        }
        let files = slot.files.clone();
        off_the_runtime(move || files.mark_erased()).await?;
        slot.event.notify(usize::MAX);
        #[cfg(feature = "faults")]
        if self.connections.config.has(crate::Fault::EraseKeepsFile) {
            return Ok(1);
        }
        let files = slot.files.clone();
        off_the_runtime(move || files.remove_all()).await
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
        Capabilities::new("sqlite", durable, true, true)
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        first.validate(false)?;
        let slot = self.slot(user);
        // INVARIANT: the place is held from the look to the publication, so of racing creators one wins.
        let held = self.connections.hold(&slot).await?;
        if slot.files.is_marked_erased() {
            if mode == CreateMode::New {
                return Err(erased());
            }
            slot.files.remove_all()?;
            slot.files.unmark_erased()?;
        } else if held.is_open() || slot.files.check()?.database {
            return Err(present());
        } else if slot.files.is_corrupt() {
            return Err(crate::error::corrupt());
        }
        let stamp = self.publish(&slot, Some(&first)).await?;
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
        let slot = self.slot(user);
        let mut held = self.connections.open_any(&slot).await?;
        if at.is_some_and(|at| at != held.stamp) {
            return Err(Error::new(ErrorKind::Conflict, "the user's data moved on, reload and try again"));
        }
        held.fence(fence).await?;
        slot.event.notify(usize::MAX);
        Ok(held.stamp)
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        let slot = self.slot(user);
        let mut held = match self.connections.open_any(&slot).await {
            Ok(held) => held,
            // Nothing that opens is left, or never was; files may be.
            Err(error) => match error.kind() {
                ErrorKind::Erased | ErrorKind::Corrupt | ErrorKind::Unsupported => {
                    self.connections.hold(&slot).await?
                }
                _ => return Err(error),
            },
        };
        let removed = self.destroy(&slot, &mut held).await?;
        Ok(Erased::new(removed > 0, removed))
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        if snapshot.owner() != user {
            return Err(Error::new(ErrorKind::Invalid, "the snapshot is of another user"));
        }
        let slot = self.slot(user);
        let mut held = match self.connections.open_any(&slot).await {
            Ok(held) => held,
            Err(error) => match error.kind() {
                ErrorKind::NotFound => self.connections.hold(&slot).await?,
                ErrorKind::Corrupt if mode == ImportMode::Replace => self.connections.hold(&slot).await?,
                _ => return Err(error),
            },
        };
        let old = held.is_open().then(|| held.stamp.epoch);
        if old.is_some() && mode == ImportMode::New {
            return Err(present());
        }
        let state = snapshot.state();
        let epoch = Epoch(old.unwrap_or_default().max(state.stamp.epoch).0.saturating_add(EPOCH_JUMP));
        let stamp = Stamp { incarnation: Incarnation::random()?, epoch };
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
            off_the_runtime(move || files.replace(&path)).await?;
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
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let place = self.connections.hold(&slot).await?;
                if !place.is_open() && !slot.files.check()?.database {
                    let first = Batch::new(Timestamp(0))?;
                    self.publish(&slot, Some(&first)).await?;
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
