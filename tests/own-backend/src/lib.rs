//! A storage backend in one file, made to be read: `docs/writing-a-backend.md` walks through it.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use syntha_store::{
    At, Batch, BatchId, Capabilities, Changes, Commit, CreateMode, DEPLOYMENT_OWNER, Erased, Error,
    ErrorKind, Fence, Image, ImportMode, Incarnation, Keyspace, Outcome, Page, Record, RecordId, Result,
    Scan, SelfCheck, Snapshot, Stamp, Step, Store, UserState, UserStore, UserTag,
};
use tokio::sync::watch;

const CLOSED: Error = Error::new(ErrorKind::Unavailable, "the store was closed, open it again");
const CORRUPT: Error = Error::new(ErrorKind::Corrupt, "a user's file is not what was written");
const GONE: Error = Error::new(ErrorKind::Gone, "this life of the user has ended, open the user again");

/// A user's file, and what it holds; `None` where there is no file, and until it is read.
#[derive(Debug)]
struct Place {
    owner: [u8; 32],
    root: Arc<Root>,
    image: watch::Sender<Option<Arc<Image>>>,
    writing: Mutex<()>,
}

impl Place {
    /// The one way in which anything changes: the file first, then what readers see. A step that gives `None` changes nothing.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        step: impl FnOnce(Option<&Image>) -> Step<T> + Send + 'static,
    ) -> Result<T> {
        // The disk makes a thread wait, so it is one that may. A caller who goes leaves the change to end by itself.
        let place = Arc::clone(self);
        let change = tokio::task::spawn_blocking(move || {
            let _writing = place.writing.lock();
            place.root.check_open()?;
            if place.image.borrow().is_none() {
                place.image.send_replace(place.read()?.map(Arc::new));
            }
            let now = place.image.borrow().clone();
            let (next, answer) = step(now.as_deref())?;
            if let Some(next) = next {
                let written = place.write(&next.encode(&place.owner)?);
                // After a failure the file is the old one or the new one. Whoever comes next reads which.
                place.image.send_replace(written.is_ok().then(|| Arc::new(next)));
                written?;
            }
            Ok(answer)
        });
        change.await.unwrap_or(Err(CLOSED))
    }

    fn handle(self: &Arc<Self>, life: Incarnation) -> Arc<dyn UserStore> {
        Arc::new(User { place: Arc::clone(self), life })
    }

    fn file(&self) -> PathBuf {
        let tag = UserTag::from_bytes(self.owner);
        self.root.folder.join(tag.map_or_else(|_| "deployment".to_owned(), |tag| tag.to_string()))
    }

    fn read(&self) -> Result<Option<Image>> {
        // What is served must be on the disk, also after a write whose last step failed.
        self.root.sync().map_err(failed)?;
        match fs::read(self.file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => Image::decode(file.map_err(failed)?, &self.owner).map(Some),
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let new = self.file().with_extension("new");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all())).map_err(failed)?;
        fs::rename(new, self.file()).map_err(failed)?;
        let unsure = "whether the commit outlives a power cut is not known, ask for the outcome";
        self.root.sync().map_err(|error| Error::new(ErrorKind::Unknown, unsure).with_source(error))
    }
}

fn failed(error: io::Error) -> Error {
    let full = error.kind() == io::ErrorKind::StorageFull;
    let kind = if full { ErrorKind::StorageFull } else { ErrorKind::Unavailable };
    Error::new(kind, "a file can't be read or written").with_source(error)
}

#[derive(Debug)]
struct Root {
    folder: PathBuf,
    /// Held while the store is open, so that no second process writes.
    lock: Mutex<Option<File>>,
    /// INVARIANT: a user has one place, so that the place's lock orders all writes of the user.
    places: Mutex<HashMap<[u8; 32], Arc<Place>>>,
}

impl Root {
    fn check_open(&self) -> Result<()> {
        self.lock.lock().as_ref().map(drop).ok_or(CLOSED)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// The backend: a file for each user in one folder. It keeps in memory what was opened.
#[derive(Debug)]
pub struct FolderStore(Arc<Root>);

impl FolderStore {
    /// Opens a folder, and makes it if it is new.
    ///
    /// # Errors
    ///
    /// `Locked` if another process has it; `Unavailable`, `StorageFull`.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|_| Error::new(ErrorKind::Locked, "another process has the folder"))?;
        Ok(Self(Arc::new(Root { folder, lock: Mutex::new(Some(lock)), places: Mutex::default() })))
    }

    fn place(&self, owner: &[u8; 32]) -> Arc<Place> {
        let new = || Place {
            owner: *owner,
            root: Arc::clone(&self.0),
            image: watch::Sender::new(None),
            writing: Mutex::new(()),
        };
        Arc::clone(self.0.places.lock().entry(*owner).or_insert_with(|| Arc::new(new())))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for FolderStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("folder", true, true, true)
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        let place = self.place(user.as_bytes());
        let commit = place.change(move |now| Image::created(now, first, mode)).await?;
        Ok((place.handle(commit.stamp.incarnation), commit))
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        let place = self.place(user.as_bytes());
        place.change(Image::opened).await.map(|life| place.handle(life))
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.place(user.as_bytes()).change(move |now| Image::fenced(now, at, fence)).await
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        self.place(user.as_bytes()).change(Image::erased).await
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        if snapshot.owner() != user {
            return Err(Error::new(ErrorKind::Invalid, "the snapshot is of another user"));
        }
        let mut records = Vec::new();
        while let Some(chunk) = snapshot.next().await? {
            records.extend(chunk);
        }
        let (state, life, follows) = (snapshot.state(), snapshot.life(), snapshot.follows());
        let import = move |now: Option<&Image>| Image::imported(now, state, life, follows, records, mode);
        self.place(user.as_bytes()).change(import).await
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        self.0.check_open()?;
        let files = fs::read_dir(&self.0.folder).map_err(failed)?.flatten();
        let tags = files.filter_map(|file| file.file_name().to_str()?.parse().ok());
        let tags: BTreeSet<UserTag> = tags.filter(|tag| after.is_none_or(|after| *tag > after)).collect();
        let mut listed = Vec::new();
        for tag in tags {
            let there =
                self.place(tag.as_bytes()).change(|now| Ok((None, now.is_some_and(Image::is_listed)))).await;
            // A damaged file is a user's, too.
            if listed.len() < limit && there.unwrap_or(true) {
                listed.push(tag);
            }
        }
        Ok(listed)
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        let place = self.place(&DEPLOYMENT_OWNER);
        place.change(Image::opened_deployment).await.map(|life| place.handle(life))
    }

    async fn verify(&self) -> Result<SelfCheck> {
        let mut lives = BTreeSet::from([self.deployment().await?.state().await?.stamp.incarnation]);
        for tag in self.list(None, usize::MAX).await? {
            let file = self.place(tag.as_bytes()).read()?.ok_or(CORRUPT)?;
            lives.insert(file.stamp().incarnation).then_some(()).ok_or(CORRUPT)?;
        }
        Ok(SelfCheck::new(vec!["each file is whole and its user's", "one life a file"]))
    }

    async fn close(&self) -> Result<()> {
        // No write begins after this, and the folder is given up when the last one has ended.
        let lock = self.0.lock.lock().take();
        let places: Vec<_> = self.0.places.lock().drain().map(|(_, place)| place).collect();
        for place in places {
            let _ = place.change(|_| Ok((None, ()))).await;
            place.image.send_modify(|_| {});
        }
        drop(lock);
        Ok(())
    }
}

/// A handle on one life of one user.
#[derive(Debug)]
struct User {
    place: Arc<Place>,
    life: Incarnation,
}

impl User {
    fn image(&self) -> Result<Arc<Image>> {
        self.place.root.check_open()?;
        let image = self.place.image.borrow().clone().ok_or(GONE)?;
        image.live(self.life)?;
        Ok(image)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserStore for User {
    async fn state(&self) -> Result<UserState> {
        Ok(self.image()?.state())
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.image().is_ok_and(|image| image.stamp() == stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        let image = self.image()?;
        Ok(At { stamp: image.stamp(), value: ids.iter().map(|id| image.read(space, id)).collect() })
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        scan.validate()?;
        let image = self.image()?;
        Ok(At { stamp: image.stamp(), value: image.scan(&scan) })
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        let life = self.life;
        self.place.change(move |now| Image::committed(now, life, batch)).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        let life = self.life;
        let ask = move |now: Option<&Image>| Ok((None, now.ok_or(GONE)?.live(life)?.outcome(batch, since)));
        self.place.change(ask).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        Ok(self.image()?.changes(since, limit))
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        let mut moved = self.place.image.subscribe();
        loop {
            let stamp = self.image()?.stamp();
            if stamp != since {
                return Ok(stamp);
            }
            let _ = moved.changed().await;
        }
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let none = |_| Error::new(ErrorKind::Unsupported, "the deployment's own space has no archive");
        let owner = UserTag::from_bytes(self.place.owner).map_err(none)?;
        Ok(self.image()?.snapshot(owner))
    }
}
