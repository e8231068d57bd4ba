use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use syntha_store::{
    At, Batch, BatchId, ChainHead, Changes, Commit, CreateMode, Delta, Epoch, Error, ErrorKind, Expect,
    Incarnation, Keyspace, Note, Outcome, Page, Record, RecordId, Result, Scan, Snapshot, Stamp, Store,
    StoredRecord, Timestamp, Usage, UserState, UserStore, UserTag, Version,
};
use tokio::sync::{Mutex, watch};

use crate::directory::{Directory, Standing};

/// The store of a user who has not written yet: empty, until the first commit makes the user's data with its batch in it, so
/// that a new user costs one durable step and not two.
pub(crate) struct Newborn {
    store: Arc<dyn Store>,
    tag: UserTag,
    mode: CreateMode,
    /// Where the data stands as long as there is none. Its incarnation is no store's.
    nominal: Stamp,
    born: watch::Sender<Option<Arc<dyn UserStore>>>,
    /// In a store that other processes write to: what says whether the user is still the one that was opened.
    admission: Option<Admission>,
    /// Whether the user was erased. Held while the data is made.
    closed: Mutex<bool>,
}

/// The user's row in the directory, as it was when the user was opened. A user who is erased and made again has another one.
pub(crate) struct Admission {
    pub(crate) directory: Directory,
    pub(crate) version: Version,
}

impl Admission {
    async fn holds(&self, tag: UserTag) -> Result<bool> {
        let looked = self.directory.look(tag).await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the directory can't be read, try again").with_source(error)
        })?;
        Ok(looked == (Standing::There, Some(self.version)))
    }
}

/// How often a waiter looks whether another process has made the data.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Newborn {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        tag: UserTag,
        mode: CreateMode,
        admission: Option<Admission>,
    ) -> Result<Self> {
        let nominal = Stamp { incarnation: Incarnation::random()?, epoch: Epoch(0) };
        let (born, closed) = (watch::Sender::new(None), Mutex::new(false));
        Ok(Self { store, tag, mode, nominal, born, admission, closed })
    }

    /// The data, if there is any by now. Another process may have made it, and erased the user: then it is `Gone`.
    async fn look(&self) -> Result<Option<Arc<dyn UserStore>>> {
        if let Some(store) = self.born() {
            return Ok(Some(store));
        }
        if self.admission.is_none() {
            return Ok(None);
        }
        match self.adopt().await {
            Ok(store) => Ok(Some(store)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn born(&self) -> Option<Arc<dyn UserStore>> {
        self.born.borrow().clone()
    }

    /// Waits for the data that is being made, and makes none later.
    pub(crate) async fn close(&self) {
        *self.closed.lock().await = true;
    }

    /// Takes over data that somebody else made.
    async fn adopt(&self) -> Result<Arc<dyn UserStore>> {
        let opened = self.store.open(self.tag).await;
        if let Some(admission) = &self.admission {
            // INVARIANT: the directory is asked after the data was opened, so it is data of the life that this handle is for.
            if !admission.holds(self.tag).await? {
                return Err(gone());
            }
        }
        let store = opened?;
        self.born.send_replace(Some(Arc::clone(&store)));
        Ok(store)
    }

    /// Whether there is no data: none was made, or what was there is of a life before this one.
    fn is_absence(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::NotFound
            || (error.kind() == ErrorKind::Erased && self.mode == CreateMode::Recreate)
    }

    /// The first commit, which makes the data.
    async fn make(&self, mut batch: Batch) -> Result<Commit> {
        let closed = self.closed.lock().await;
        if *closed {
            return Err(gone());
        }
        if self.born().is_some() {
            return Err(moved_on());
        }
        batch.expect.retain(|expect| !matches!(expect, Expect::Stamp(stamp) if *stamp == self.nominal));
        match self.store.create(self.tag, batch, self.mode).await {
            Ok((store, commit)) => {
                self.born.send_replace(Some(store));
                Ok(commit)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.adopt().await?;
                Err(moved_on())
            }
            // Another process erased the user. What this handle was opened for is over, whoever is made again.
            Err(error) if error.kind() == ErrorKind::Erased && self.admission.is_some() => Err(gone()),
            Err(error) => Err(error),
        }
    }

    fn expects_nothing(&self, batch: &Batch) -> bool {
        let nominal = |expect: &Expect| matches!(expect, Expect::Stamp(stamp) if *stamp == self.nominal);
        batch.expect.iter().any(nominal)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserStore for Newborn {
    async fn state(&self) -> Result<UserState> {
        match self.look().await? {
            Some(store) => store.state().await,
            None => Ok(UserState {
                stamp: self.nominal,
                chain: ChainHead::default(),
                usage: Usage::default(),
                next_expiry: None,
                time: Timestamp(0),
                note: Note::NONE,
            }),
        }
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.born().is_some_and(|store| store.is_at(stamp))
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        match self.look().await? {
            Some(store) => store.read(space, ids).await,
            None => Ok(At { stamp: self.nominal, value: vec![None; ids.len()] }),
        }
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        scan.validate()?;
        match self.look().await? {
            Some(store) => store.scan(scan).await,
            None => Ok(At { stamp: self.nominal, value: Page::new(Vec::new(), false) }),
        }
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        if let Some(store) = self.born() {
            return if self.expects_nothing(&batch) { Err(moved_on()) } else { store.commit(batch).await };
        }
        Box::pin(self.make(batch)).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        if *self.closed.lock().await {
            return Err(gone());
        }
        let store = match self.born() {
            Some(store) => store,
            None => match self.adopt().await {
                Ok(store) => store,
                Err(error) if self.is_absence(&error) => return Ok(Outcome::Not),
                Err(error) => return Err(error),
            },
        };
        store.outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        match self.look().await? {
            Some(store) => store.changes(since, limit).await,
            None if since == self.nominal => {
                Ok(Changes::Delta(Delta::new(self.nominal, Vec::new(), Vec::new(), false)))
            }
            None => Ok(Changes::TooOld),
        }
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        if since == self.nominal {
            let mut born = self.born.subscribe();
            // It ends with this handle alone, which waits here.
            let mut wait = async || drop(born.wait_for(Option::is_some).await);
            match self.admission {
                None => wait().await,
                Some(_) => {
                    while self.look().await?.is_none() {
                        let _ = tokio::time::timeout(LOOK_EVERY, wait()).await;
                    }
                }
            }
        }
        match self.look().await? {
            Some(store) => store.changed(since).await,
            None => Ok(self.nominal),
        }
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let store = match self.born() {
            Some(store) => store,
            None => match self.adopt().await {
                Ok(store) => store,
                Err(error) if self.is_absence(&error) => {
                    return Ok(Box::new(Nothing { owner: self.tag, state: self.state().await? }));
                }
                Err(error) => return Err(error),
            },
        };
        store.snapshot().await
    }
}

/// The data of a user who has not written.
struct Nothing {
    owner: UserTag,
    state: UserState,
}

#[async_trait]
impl Snapshot for Nothing {
    fn owner(&self) -> UserTag {
        self.owner
    }

    fn state(&self) -> UserState {
        self.state
    }

    fn life(&self) -> Option<Incarnation> {
        None
    }

    fn follows(&self) -> Option<ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        Ok(None)
    }
}

impl fmt::Debug for Newborn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Newborn").field("nominal", &self.nominal).finish_non_exhaustive()
    }
}

const fn gone() -> Error {
    Error::new(ErrorKind::Gone, "the user was erased since this handle was opened, open it again")
}

const fn moved_on() -> Error {
    Error::new(ErrorKind::Conflict, "the user's data moved on, reload and try again")
}
