//! Keys are made, used and destroyed in one store, and data in another: what happens in between loses nothing that was acknowledged.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs, reason = "a test")]

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use syntha_encryption::{EncryptedStore, Kek, KeyCache, Keychain, Keystore, Mode, SecretKey};
use syntha_store::{
    Batch, Capabilities, ChainHead, Commit, CreateMode, DeploymentKey, Erased, Error, ErrorKind, Fence,
    ImportMode, Incarnation, Keyspace, MemoryStore, RecordId, Result, Scan, SelfCheck, Snapshot, Stamp,
    Store, Timestamp, UserId, UserStore, UserTag,
};

const KEK: &[u8; 32] = b"a key of a test, which is no key";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Point {
    BeforeCreate,
    AfterErase,
    BeforeImport,
}

type Hook = (Point, Pin<Box<dyn Future<Output = ()> + Send>>);

/// A store in memory in which something else happens at a point, once; or whose next create or import works and says that it failed.
struct Hooked {
    inner: MemoryStore,
    hook: Mutex<Option<Hook>>,
    lie: Mutex<Option<ErrorKind>>,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

impl Hooked {
    fn at(&self, point: Point, work: impl Future<Output = ()> + Send + 'static) {
        *self.hook.lock().unwrap() = Some((point, Box::pin(work)));
    }

    async fn pass(&self, point: Point) {
        let hook = {
            let mut hook = self.hook.lock().unwrap();
            if hook.as_ref().is_some_and(|(at, _)| *at == point) { hook.take() } else { None }
        };
        if let Some((_, work)) = hook {
            work.await;
        }
    }

    fn answer<T>(&self, done: T) -> Result<T> {
        match self.lie.lock().unwrap().take() {
            Some(kind) => Err(Error::new(kind, "it was done, and this is not so")),
            None => Ok(done),
        }
    }
}

#[async_trait]
impl Store for Hooked {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        self.pass(Point::BeforeCreate).await;
        let done = self.inner.create(user, first, mode).await?;
        self.answer(done)
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        self.inner.open(user).await
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.inner.fence(user, at, fence).await
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        let done = self.inner.erase(user).await;
        self.pass(Point::AfterErase).await;
        done
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        self.pass(Point::BeforeImport).await;
        let done = self.inner.import(user, snapshot, mode).await?;
        self.answer(done)
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        self.inner.list(after, limit).await
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        self.inner.deployment().await
    }

    async fn verify(&self) -> Result<SelfCheck> {
        self.inner.verify().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// Two processes on one store and one keystore.
struct Bed {
    below: Arc<Hooked>,
    keys: Arc<MemoryStore>,
    one: Arc<EncryptedStore>,
    other: Arc<EncryptedStore>,
    tag: UserTag,
}

impl Bed {
    async fn new() -> Self {
        let key = DeploymentKey::generate().unwrap();
        let below = Arc::new(Hooked {
            inner: MemoryStore::new().unwrap(),
            hook: Mutex::default(),
            lie: Mutex::default(),
        });
        let keys = Arc::new(MemoryStore::new().unwrap());
        let mut stores = Vec::new();
        for _ in 0..2 {
            let keystore = Keystore::open(Arc::clone(&keys) as _).await.unwrap();
            let kek = Kek::from_key(SecretKey::from_bytes(KEK));
            let chain = Keychain::create(keystore, &kek, Mode::Sealed, &key, KeyCache::default()).await;
            let below: Arc<dyn Store> = Arc::clone(&below) as _;
            stores.push(Arc::new(EncryptedStore::new(below, &chain.unwrap()).unwrap()));
        }
        let tag = key.tag(&UserId::new("alice").unwrap());
        let (one, other) = (Arc::clone(&stores[0]), Arc::clone(&stores[1]));
        Self { below, keys, one, other, tag }
    }

    /// The user's value, or why there is none; in both processes.
    async fn value(&self) -> Result<String> {
        let mut found = Vec::new();
        for store in [&self.one, &self.other] {
            let user = store.open(self.tag).await?;
            let page = user.scan(Scan::records(Keyspace::Context, 9)).await?.value;
            let (_, body) = page.records.into_iter().next().unwrap();
            found.push(String::from_utf8(body.unwrap().to_vec()).unwrap());
        }
        assert_eq!(found[0], found[1]);
        Ok(found.remove(0))
    }
}

fn first(value: &str) -> Batch {
    let id = RecordId::new("k", 0).unwrap();
    Batch::new(Timestamp(1)).unwrap().put(Keyspace::Context, id, "", value.to_owned())
}

async fn archive(value: &str, tag: UserTag) -> Box<dyn Snapshot> {
    let store = MemoryStore::new().unwrap();
    let (user, _) = store.create(tag, first(value), CreateMode::New).await.unwrap();
    user.snapshot().await.unwrap()
}

#[tokio::test]
async fn an_erasure_beside_a_create_leaves_no_data_without_keys() {
    let bed = Bed::new().await;
    let (other, tag) = (Arc::clone(&bed.other), bed.tag);
    bed.below.at(Point::AfterErase, async move {
        other.create(tag, first("new"), CreateMode::New).await.map(drop).unwrap();
    });
    // The one who erases comes after the one who made.
    bed.one.erase(bed.tag).await.unwrap();
    assert_eq!(bed.value().await.unwrap_err().kind(), ErrorKind::Erased);
    bed.one.create(bed.tag, first("again"), CreateMode::Recreate).await.map(drop).unwrap();
    assert_eq!(bed.value().await.unwrap(), "again");
}

#[tokio::test]
async fn a_create_beside_an_erasure_acknowledges_no_data_without_keys() {
    for mode in [CreateMode::New, CreateMode::Recreate] {
        let bed = Bed::new().await;
        let (other, tag) = (Arc::clone(&bed.other), bed.tag);
        if mode == CreateMode::Recreate {
            bed.one.create(tag, first("old"), CreateMode::New).await.map(drop).unwrap();
            bed.one.erase(tag).await.unwrap();
        }
        bed.below.at(Point::BeforeCreate, async move {
            let erased = other.erase(tag).await.map(drop);
            assert_eq!(erased.is_ok(), mode == CreateMode::Recreate);
        });
        let made = bed.one.create(bed.tag, first("new"), mode).await;
        assert_eq!(made.map(drop).unwrap_err().kind(), ErrorKind::Erased);
        assert_eq!(bed.value().await.unwrap_err().kind(), ErrorKind::Erased);
        bed.one.create(bed.tag, first("again"), CreateMode::Recreate).await.map(drop).unwrap();
        assert_eq!(bed.value().await.unwrap(), "again");
    }
}

#[tokio::test]
async fn an_import_beside_an_import_keeps_its_keys() {
    let bed = Bed::new().await;
    bed.one.create(bed.tag, first("old"), CreateMode::New).await.map(drop).unwrap();
    let (other, tag) = (Arc::clone(&bed.other), bed.tag);
    bed.below.at(Point::BeforeImport, async move {
        other.import(tag, &mut *archive("second", tag).await, ImportMode::Replace).await.map(drop).unwrap();
    });
    let mut snapshot = archive("first", bed.tag).await;
    bed.one.import(bed.tag, &mut *snapshot, ImportMode::Replace).await.unwrap();
    assert_eq!(bed.value().await.unwrap(), "first");
}

#[tokio::test]
async fn a_failure_after_the_deed_destroys_no_keys() {
    let kinds = [
        ErrorKind::StorageFull,
        ErrorKind::Corrupt,
        ErrorKind::Conflict,
        ErrorKind::LimitExceeded,
        ErrorKind::AlreadyExists,
        ErrorKind::Tampered,
        ErrorKind::Invalid,
        ErrorKind::Erased,
    ];
    for kind in kinds {
        let bed = Bed::new().await;
        *bed.below.lie.lock().unwrap() = Some(kind);
        assert_eq!(bed.one.create(bed.tag, first("new"), CreateMode::New).await.unwrap_err().kind(), kind);
        assert_eq!(bed.value().await.unwrap(), "new", "{kind:?}");
        *bed.below.lie.lock().unwrap() = Some(kind);
        let mut snapshot = archive("restored", bed.tag).await;
        let done = bed.one.import(bed.tag, &mut *snapshot, ImportMode::Replace).await;
        assert_eq!(done.unwrap_err().kind(), kind);
        assert_eq!(bed.value().await.unwrap(), "restored", "{kind:?}");
    }
}

#[tokio::test]
async fn of_two_who_name_one_life_the_loser_leaves_the_winners_keys() {
    let bed = Bed::new().await;
    let (other, tag) = (Arc::clone(&bed.other), bed.tag);
    let batch = |value: &str| {
        let mut batch = first(value);
        batch.life = Some(Incarnation(77));
        batch
    };
    let theirs = batch("theirs");
    bed.below.at(Point::BeforeCreate, async move {
        other.create(tag, theirs, CreateMode::New).await.map(drop).unwrap();
    });
    let made = bed.one.create(bed.tag, batch("ours"), CreateMode::New).await;
    assert_eq!(made.map(drop).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(bed.value().await.unwrap(), "theirs");
}

/// A snapshot that its source fails in the middle of.
struct Failing(Box<dyn Snapshot>);

#[async_trait]
impl Snapshot for Failing {
    fn owner(&self) -> UserTag {
        self.0.owner()
    }

    fn state(&self) -> syntha_store::UserState {
        self.0.state()
    }

    fn life(&self) -> Option<Incarnation> {
        None
    }

    fn follows(&self) -> Option<ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<syntha_store::StoredRecord>>> {
        match self.0.next().await? {
            Some(chunk) => Ok(Some(chunk)),
            None => Err(Error::new(ErrorKind::Unavailable, "the source ended")),
        }
    }
}

#[tokio::test]
async fn imports_of_a_source_that_fails_leave_no_keys_behind() {
    let bed = Bed::new().await;
    bed.one.create(bed.tag, first("old"), CreateMode::New).await.map(drop).unwrap();
    let rows = async || {
        let space = bed.keys.deployment().await.unwrap();
        space.scan(Scan::heads(Keyspace::Keys, 99)).await.unwrap().value.records.len()
    };
    let before = rows().await;
    for _ in 0..3 {
        let mut failing = Failing(archive("new", bed.tag).await);
        let done = bed.one.import(bed.tag, &mut failing, ImportMode::Replace).await;
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert_eq!(rows().await, before);
    assert_eq!(bed.value().await.unwrap(), "old");
}
