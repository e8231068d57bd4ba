use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use syntha_store::{
    At, Batch, BatchId, ChainHead, Changes, Commit, CreateMode, Delta, Epoch, Error, ErrorKind, Expect,
    Incarnation, Keyspace, Outcome, Page, Record, RecordId, Result, Scan, Snapshot, Stamp, Store,
    StoredRecord, Timestamp, Usage, UserState, UserStore, UserTag,
};
use tokio::sync::{Mutex, watch};

/// The store of a user who has not written yet: empty, until the first commit makes the user's data with its batch in it, so
/// that a new user costs one durable step and not two.
pub(crate) struct Newborn {
    store: Arc<dyn Store>,
    tag: UserTag,
    mode: CreateMode,
    /// Where the data stands as long as there is none. Its incarnation is no store's.
    nominal: Stamp,
    born: watch::Sender<Option<Arc<dyn UserStore>>>,
    /// Whether the user was erased. Held while the data is made.
    closed: Mutex<bool>,
}

impl Newborn {
    pub(crate) fn new(store: Arc<dyn Store>, tag: UserTag, mode: CreateMode) -> Result<Self> {
        let nominal = Stamp { incarnation: Incarnation::random()?, epoch: Epoch(0) };
        Ok(Self { store, tag, mode, nominal, born: watch::Sender::new(None), closed: Mutex::new(false) })
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
        let store = self.store.open(self.tag).await?;
        self.born.send_replace(Some(Arc::clone(&store)));
        Ok(store)
    }

    /// Whether there is no data: none was made, or what was there is of a life before this one.
    fn is_absence(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::NotFound
            || (error.kind() == ErrorKind::Erased && self.mode == CreateMode::Recreate)
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
        match self.born() {
            Some(store) => store.state().await,
            None => Ok(UserState {
                stamp: self.nominal,
                chain: ChainHead::default(),
                usage: Usage::default(),
                next_expiry: None,
                time: Timestamp(0),
            }),
        }
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.born().is_some_and(|store| store.is_at(stamp))
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        match self.born() {
            Some(store) => store.read(space, ids).await,
            None => Ok(At { stamp: self.nominal, value: vec![None; ids.len()] }),
        }
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        scan.validate()?;
        match self.born() {
            Some(store) => store.scan(scan).await,
            None => Ok(At { stamp: self.nominal, value: Page::new(Vec::new(), false) }),
        }
    }

    async fn commit(&self, mut batch: Batch) -> Result<Commit> {
        if let Some(store) = self.born() {
            return if self.expects_nothing(&batch) { Err(moved_on()) } else { store.commit(batch).await };
        }
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
            Err(error) => Err(error),
        }
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
        match self.born() {
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
            let _ = born.wait_for(Option::is_some).await;
        }
        match self.born() {
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
