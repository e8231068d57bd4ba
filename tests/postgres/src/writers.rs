use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use syntha_postgres::PostgresStore;
use syntha_postgres::syntha_store::{
    Batch, BatchId, CreateMode, ErrorKind, Keyspace, Outcome, RecordId, Stamp, Store, Timestamp, UserId,
    UserStore, UserTag,
};

/// What became of what the writers sent.
#[derive(Debug, Default)]
pub struct Tally {
    /// Acknowledged at once.
    pub acknowledged: AtomicU64,
    /// Answers that were lost.
    pub unknown: AtomicU64,
    /// Of these, how many had happened.
    pub happened: AtomicU64,
    /// Refusals by kind: nothing of these happened.
    pub refused: std::sync::Mutex<BTreeMap<&'static str, u64>>,
    /// The end of the work.
    pub over: AtomicBool,
}

impl Tally {
    /// How many commits have an acknowledgement, late or at once.
    pub fn commits(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed) + self.happened.load(Ordering::Relaxed)
    }

    /// Waits until so many more commits were acknowledged: the store serves by itself.
    pub async fn progress(&self, more: u64) {
        let until = self.commits() + more;
        let reached = async {
            while self.commits() < until {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let served = tokio::time::timeout(Duration::from_secs(60), reached).await;
        assert!(
            served.is_ok(),
            "the store does not serve again by itself: {:?}",
            self.refused.lock().unwrap()
        );
    }

    /// How often it was refused with a kind.
    #[must_use]
    pub fn refused(&self, kind: ErrorKind) -> u64 {
        self.refused.lock().unwrap().get(kind.name()).copied().unwrap_or_default()
    }

    fn refuse(&self, kind: ErrorKind) {
        *self.refused.lock().unwrap().entry(kind.name()).or_default() += 1;
    }
}

/// A user who writes one number after the other, in two records of one batch, and knows what was acknowledged.
#[derive(Debug)]
pub struct Writer {
    name: String,
    store: Arc<dyn UserStore>,
    first: Stamp,
    /// Where the data stood when it was last known.
    last: Stamp,
    /// Commits that happened, by all that the store said.
    commits: u64,
    next: u64,
}

/// Between two attempts that the server had no part in.
const PAUSE: Duration = Duration::from_millis(5);

impl Writer {
    /// A new user.
    pub async fn new(store: &PostgresStore, name: &str) -> Self {
        let user = user(store, name).await;
        let first = user.state().await.unwrap().stamp;
        Self { name: name.to_owned(), store: user, first, last: first, commits: 0, next: 0 }
    }

    /// Writes until it is over.
    pub async fn write(mut self, tally: Arc<Tally>) -> Self {
        while !tally.over.load(Ordering::Relaxed) {
            self.one(&tally).await;
        }
        self
    }

    /// Writes the next number, with as many attempts as it takes.
    pub async fn one(&mut self, tally: &Tally) {
        self.next += 1;
        loop {
            let batch = pair(&self.name, self.next);
            let id = batch.id;
            match self.store.commit(batch).await {
                Ok(commit) => {
                    self.last = commit.stamp;
                    tally.acknowledged.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Unknown => {
                    tally.unknown.fetch_add(1, Ordering::Relaxed);
                    if let Some(stamp) = self.happened(id, tally).await {
                        self.last = stamp;
                        tally.happened.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                }
                Err(error) => {
                    check_kind(error.kind(), &error);
                    tally.refuse(error.kind());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        self.commits += 1;
    }

    async fn happened(&self, id: BatchId, tally: &Tally) -> Option<Stamp> {
        loop {
            match self.store.outcome(id, self.last).await {
                Ok(Outcome::Committed(stamp)) => return Some(stamp),
                Ok(Outcome::Not) => return None,
                Ok(other) => panic!("{other:?} of a batch that was the last one"),
                Err(error) => {
                    check_kind(error.kind(), &error);
                    tally.refuse(error.kind());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Each commit that was acknowledged is there, and none twice: the epoch has risen once for each. Both halves of the last batch are there.
    pub async fn check(&self) {
        let epoch = self.store.state().await.unwrap().stamp.epoch.0;
        assert_eq!(
            epoch - self.first.epoch.0,
            self.commits,
            "{}: commits were lost or done twice",
            self.name
        );
        if self.commits == 0 {
            return;
        }
        let read = self.store.read(Keyspace::Context, &[id("left"), id("right")]).await.unwrap().value;
        let last = format!("{}:{}", self.name, self.next);
        for record in read {
            assert_eq!(&*record.unwrap().body, last.as_bytes(), "{}: a batch is lost or torn", self.name);
        }
    }
}

/// A failure of the server is one of these, and says so.
fn check_kind(kind: ErrorKind, error: &dyn std::error::Error) {
    let expected = matches!(kind, ErrorKind::Unavailable | ErrorKind::Busy | ErrorKind::StorageFull);
    assert!(expected, "a server's failure is called {kind:?}: {error}");
}

/// The batch of a number: the same in two records.
pub fn pair(name: &str, number: u64) -> Batch {
    let body = format!("{name}:{number}");
    let left = put("left", &body);
    left.put(Keyspace::Context, id("right"), "head", body)
}

/// A batch of one record.
pub fn put(name: &str, body: &str) -> Batch {
    Batch::new(Timestamp(1)).unwrap().put(Keyspace::Context, id(name), "head", body.as_bytes().to_vec())
}

/// A record's id.
#[must_use]
pub fn id(name: &str) -> RecordId {
    RecordId::new(name.as_bytes().to_vec(), 0).unwrap()
}

/// A user's tag.
#[must_use]
pub fn tag(store: &PostgresStore, name: &str) -> UserTag {
    store.deployment_key().tag(&UserId::new(name).unwrap())
}

/// A new user, whose record `who` holds the name.
pub async fn user(store: &PostgresStore, name: &str) -> Arc<dyn UserStore> {
    store.create(tag(store, name), put("who", &format!("{name}:who")), CreateMode::New).await.unwrap().0
}

/// A user who is there.
pub async fn open(store: &PostgresStore, name: &str) -> Arc<dyn UserStore> {
    store.open(tag(store, name)).await.unwrap()
}
