//! A store under which another handle commits at a chosen moment: a race without a race.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use syntha_mesh::{Mesh, MeshConfig};
use syntha_store::{
    At, Batch, BatchId, Changes, Commit, CreateMode, Keyspace, MemoryStore, Outcome, Page, Record, RecordId,
    Result, Scan, Snapshot, Stamp, Store, Timestamp, UserId, UserState, UserStore,
};
use syntha_tools::{ErrorKind, Prompt};

#[derive(Debug)]
struct MovingStore {
    inner: Arc<dyn UserStore>,
    other: OnceLock<Mesh>,
    /// How often it was asked where the data stands.
    asked: AtomicU32,
    /// The first and the last question before whose answer the other handle commits.
    moments: [u32; 2],
    /// Bytes of values that were read from it.
    read: AtomicUsize,
}

/// All nine keys hold one number; the ninth exists once they were written a second time.
async fn write(mesh: &Mesh, number: u32) {
    let keys = if number == 0 { 0..8 } else { 0..9 };
    let batch = keys.fold(mesh.batch(), |batch, key| batch.push(format!("k{key}"), number));
    batch.commit().await.unwrap();
}

#[async_trait]
impl UserStore for MovingStore {
    async fn state(&self) -> Result<UserState> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if (self.moments[0]..=self.moments[1]).contains(&asked) {
            write(self.other.get().unwrap(), asked + 1).await;
        }
        self.inner.state().await
    }

    fn is_at(&self, _: Stamp) -> bool {
        false
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        let read = self.inner.read(space, ids).await?;
        let bytes = read.value.iter().flatten().map(|record| record.body.len()).sum();
        self.read.fetch_add(bytes, Ordering::Relaxed);
        Ok(read)
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        self.inner.scan(scan).await
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        self.inner.commit(batch).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        self.inner.outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        self.inner.changes(since, limit).await
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        self.inner.changed(since).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.inner.snapshot().await
    }
}

/// A mesh over which another handle commits in those moments.
async fn moving(moments: [u32; 2]) -> (Mesh, Arc<MovingStore>) {
    let store = MemoryStore::new().unwrap();
    let tag = store.deployment_key().tag(&UserId::new("alice").unwrap());
    let (inner, _) = store.create(tag, Batch::new(Timestamp(0)).unwrap(), CreateMode::New).await.unwrap();
    let other = Mesh::open(Arc::clone(&inner), false, MeshConfig::default()).await.unwrap();
    write(&other, 0).await;
    let store = Arc::new(MovingStore {
        inner,
        other: OnceLock::from(other),
        asked: AtomicU32::new(0),
        moments,
        read: AtomicUsize::new(0),
    });
    let mesh =
        Mesh::open(Arc::clone(&store) as Arc<dyn UserStore>, false, MeshConfig::default()).await.unwrap();
    store.asked.store(0, Ordering::Relaxed);
    (mesh, store)
}

#[tokio::test]
async fn a_prompt_is_as_of_one_commit_whenever_another_comes() {
    let mut moved = 0;
    for moment in 0..6 {
        let (mesh, store) = moving([moment, moment]).await;
        let built = Prompt::new(&mesh.agent("ann").unwrap()).build().await.unwrap();
        let numbers: Vec<_> =
            built.text.lines().skip(1).map(|line| line.split_once(": ").unwrap().1).collect();
        assert!(numbers.iter().all(|number| *number == numbers[0]), "{moment}: {}", built.text);
        assert_eq!(numbers.len(), if numbers[0] == "0" { 8 } else { 9 }, "{moment}: {}", built.text);
        moved += u32::from(store.asked.load(Ordering::Relaxed) > moment);
    }
    assert!(moved >= 2, "the other handle committed between the list and the values");
}

#[tokio::test]
async fn a_prompt_does_not_wait_for_ever() {
    let (mesh, _) = moving([0, u32::MAX]).await;
    let error = Prompt::new(&mesh.agent("ann").unwrap()).build().await.unwrap_err();
    assert!(error.is_retryable() && error.kind() == ErrorKind::Busy, "{error}");
}

#[tokio::test]
async fn no_more_values_are_read_than_fit() {
    let (mesh, store) = moving([u32::MAX, u32::MAX]).await;
    for n in 0..40 {
        store.other.get().unwrap().push(format!("large_{n}"), "x".repeat(10_000)).await.unwrap();
    }
    let built = Prompt::new(&mesh.agent("ann").unwrap()).budget(35_000).build().await.unwrap();
    assert_eq!((built.included.len(), built.left_out), (3 + 8, 37));
    assert!((30_000..=35_000).contains(&store.read.load(Ordering::Relaxed)));
}
