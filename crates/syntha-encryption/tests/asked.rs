//! What the store below is asked: a write of values reads nothing before its commit, whoever opened the handle.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use syntha_encryption::{EncryptedStore, Kek, KeyCache, Keychain, Keystore, Mode, SecretKey};
use syntha_store::{
    At, Batch, BatchId, Capabilities, Changes, Commit, CreateMode, Erased, Expect, Fence, ImportMode,
    Keyspace, MemoryStore, Outcome, Page, Record, RecordId, Result, Scan, SelfCheck, Snapshot, Stamp, Store,
    Timestamp, UserId, UserState, UserStore, UserTag,
};

/// The calls that were made, by name.
type Calls = Arc<Mutex<Vec<&'static str>>>;

#[derive(Debug)]
struct Counted<T: ?Sized> {
    calls: Calls,
    inner: Arc<T>,
}

impl<T: ?Sized> Counted<T> {
    fn call(&self, name: &'static str) -> &T {
        self.calls.lock().unwrap().push(name);
        &self.inner
    }

    fn user(&self, inner: Arc<dyn UserStore>) -> Arc<dyn UserStore> {
        Arc::new(Counted { calls: Arc::clone(&self.calls), inner })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Counted<MemoryStore> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        let (made, commit) = self.call("create").create(user, first, mode).await?;
        Ok((self.user(made), commit))
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        Ok(self.user(self.call("open").open(user).await?))
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.call("fence").fence(user, at, fence).await
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        self.call("erase").erase(user).await
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        self.call("import").import(user, snapshot, mode).await
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        self.call("list").list(after, limit).await
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        Ok(self.user(self.call("deployment").deployment().await?))
    }

    async fn verify(&self) -> Result<SelfCheck> {
        self.call("verify").verify().await
    }

    async fn close(&self) -> Result<()> {
        self.call("close").close().await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserStore for Counted<dyn UserStore> {
    async fn state(&self) -> Result<UserState> {
        self.call("state").state().await
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.inner.is_at(stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        self.call("read").read(space, ids).await
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        self.call("scan").scan(scan).await
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        self.call("commit").commit(batch).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        self.call("outcome").outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        self.call("changes").changes(since, limit).await
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        self.call("changed").changed(since).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.call("snapshot").snapshot().await
    }
}

fn batch(number: u64) -> Batch {
    let id = RecordId::new(format!("key-{}", number % 3), 0).unwrap();
    Batch::new(Timestamp(number)).unwrap().put(Keyspace::Context, id, "head", format!("body {number}"))
}

#[tokio::test]
async fn a_write_of_values_reads_nothing_before_its_commit() {
    let (data, keys) = (Calls::default(), Calls::default());
    let store = |calls: &Calls| {
        Arc::new(Counted { calls: Arc::clone(calls), inner: Arc::new(MemoryStore::new().unwrap()) })
    };
    let (below, keystore) = (store(&data), store(&keys));
    let key = below.inner.deployment_key().clone();
    let kek = Kek::from_key(SecretKey::from_bytes(&std::array::from_fn(|n| n as u8)));
    let keystore = Keystore::open(keystore).await.unwrap();
    let keychain = Keychain::create(keystore, &kek, Mode::Sealed, &key, KeyCache::default()).await.unwrap();
    let store = EncryptedStore::new(below, &keychain).unwrap();
    let alice = key.tag(&UserId::new("alice").unwrap());
    let (made, mut commit) = store.create(alice, batch(0), CreateMode::New).await.unwrap();
    // The handle that made the user looks once where the data stands; one that was opened has looked when it was opened.
    for looks in [1, 0] {
        let user = if looks == 1 { Arc::clone(&made) } else { store.open(alice).await.unwrap() };
        for calls in [&data, &keys] {
            calls.lock().unwrap().clear();
        }
        for number in 1..10 {
            // As the mesh commits: with a stamp, and as others may: without.
            let mut batch = batch(number);
            if number % 2 == 0 {
                batch = batch.expect(Expect::Stamp(commit.stamp));
            }
            commit = user.commit(batch).await.unwrap();
        }
        let asked = std::mem::take(&mut *data.lock().unwrap());
        let others: Vec<_> = asked.iter().filter(|call| **call != "commit").collect();
        assert_eq!((asked.len() - others.len(), others.len()), (9, looks), "{asked:?}");
        assert!(keys.lock().unwrap().is_empty(), "the keystore was asked: {keys:?}");
    }
}
