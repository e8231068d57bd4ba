//! One user's data can't be read: that user alone waits for it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use syntha_audit::{AuditedStore, Delivery, MemorySink};
use syntha_store::{
    Batch, Capabilities, Commit, CreateMode, Erased, Error, ErrorKind, Fence, ImportMode, MemoryStore,
    Result, SelfCheck, Snapshot, Stamp, Store, UserStore, UserTag,
};

use crate::{LONG, Memory, commits, create, heads, tag};

/// A store in which some users' files can't be opened.
#[derive(Debug)]
struct Failing {
    inner: MemoryStore,
    users: Arc<Mutex<HashSet<UserTag>>>,
}

#[async_trait]
impl Store for Failing {
    fn capabilities(&self) -> Capabilities {
        // A run that left no word has ended, then.
        let mut capabilities = self.inner.capabilities();
        capabilities.exclusive = true;
        capabilities
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        self.inner.create(user, first, mode).await
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        if self.users.lock().unwrap().contains(&user) {
            return Err(Error::new(ErrorKind::Unavailable, "the user's file can't be opened"));
        }
        self.inner.open(user).await
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.inner.fence(user, at, fence).await
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        self.inner.erase(user).await
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        self.inner.import(user, snapshot, mode).await
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

struct Bed {
    memory: Memory,
    users: Arc<Mutex<HashSet<UserTag>>>,
    sink: MemorySink,
}

impl Bed {
    fn new() -> Self {
        Self { memory: Memory::new(), users: Arc::default(), sink: MemorySink::new("one") }
    }

    fn open(&self) -> AuditedStore<Failing> {
        let inner = Failing { inner: self.memory.raw(), users: Arc::clone(&self.users) };
        let store = AuditedStore::new(Arc::new(inner), self.memory.deployment()).unwrap();
        store
            .signer(Arc::new(self.memory.signer.clone()))
            .sink(Arc::new(self.sink.clone()))
            .bounds(1_000, LONG)
    }

    fn fails(&self, number: u8, fails: bool) {
        let mut users = self.users.lock().unwrap();
        if fails {
            users.insert(tag(number))
        } else {
            users.remove(&tag(number))
        };
    }

    /// The numbers of a user's links that the sink got, in the order in which they came.
    fn delivered(&self, number: u8) -> Vec<u64> {
        let seq = |entry: &Delivery| match entry {
            Delivery::Link { owner, seq, .. } if *owner == [number; 32] => Some(*seq),
            _ => None,
        };
        self.sink.taken().iter().filter_map(seq).collect()
    }
}

/// What a sink has of a user whose data can't be read: the leaf, and the links once they can be had, also by a process that comes later.
#[tokio::test]
async fn one_users_data_holds_up_no_delivery_of_others() {
    let bed = Bed::new();
    let store = bed.open();
    let (first, second) = (create(&store, 1).await, create(&store, 2).await);
    store.checkpoint().await.unwrap();
    store.shipped().await.unwrap();
    bed.fails(1, true);
    for _ in 0..3 {
        commits(&first, 2).await;
        commits(&second, 2).await;
        store.checkpoint().await.unwrap();
        assert!(store.shipped().await.unwrap().failed.is_empty());
    }
    assert_eq!(bed.delivered(2), (1..=7).collect::<Vec<_>>());
    assert_eq!(bed.delivered(1), [1]);
    let backlog = store.backlog();
    assert_eq!((backlog.unlogged, backlog.failing, backlog.broken), (0, 1, 0));
    assert_eq!(backlog.sinks, [("one".to_owned(), 0)]);
    let ends = store.last_checkpoint().await.unwrap().unwrap().head.size;
    assert!(
        bed.sink
            .taken()
            .iter()
            .any(|entry| matches!(entry, Delivery::Checkpoint { size, .. } if *size == ends))
    );
    drop((first, second, store));
    // Another process knows of it.
    let store = bed.open();
    let second = store.open(tag(2)).await.unwrap();
    commits(&second, 1).await;
    store.checkpoint().await.unwrap();
    assert!(store.shipped().await.unwrap().failed.is_empty());
    assert_eq!((bed.delivered(1), store.backlog().failing), (vec![1], 1));
    assert_eq!(bed.delivered(2).len(), 8);
    bed.fails(1, false);
    let store = bed.open();
    store.open(tag(1)).await.unwrap();
    store.shipped().await.unwrap();
    assert_eq!(bed.delivered(1), (1..=7).collect::<Vec<_>>());
    assert_eq!(store.backlog().failing, 0);
}

/// Its entries count for that user: what waits too long, or is too much, is refused of that user and of nobody else.
#[tokio::test]
async fn bounds_hold_for_the_user_whose_data_can_not_be_read() {
    let bed = Bed::new();
    let store = bed.open().bounds(40, LONG);
    let (first, second) = (create(&store, 1).await, create(&store, 2).await);
    store.checkpoint().await.unwrap();
    store.shipped().await.unwrap();
    bed.fails(1, true);
    let mut taken = [0, 0];
    for _ in 0..10 {
        taken[0] += commits(&first, 3).await;
        taken[1] += commits(&second, 3).await;
        store.checkpoint().await.unwrap();
        store.shipped().await.unwrap();
    }
    assert_eq!(taken[1], 30);
    assert!((10..=12).contains(&taken[0]), "{taken:?}");
}

/// A chain that has to be looked at and can't be.
#[tokio::test]
async fn one_users_data_holds_up_no_checkpoint_of_others() {
    let bed = Bed::new();
    let store = bed.open().bounds(1_000, Duration::from_millis(300));
    let (first, second) = (create(&store, 1).await, create(&store, 2).await);
    bed.fails(1, true);
    let made = store.checkpoint().await.unwrap();
    assert_eq!((made.head.size, store.last_leaf(&[1; 32]).await.unwrap()), (1, None));
    let backlog = store.backlog();
    assert_eq!((backlog.unlogged, backlog.failing, backlog.log_fails), (0, 1, false));
    store.shipped().await.unwrap();
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(commits(&first, 1).await, 0, "it waits too long");
    assert_eq!(commits(&second, 5).await, 5);
    store.checkpoint().await.unwrap();
    // Who looks at all is told, and all others were looked at.
    drop((first, second, store));
    let store = bed.open();
    assert!(store.was_unclean().await.unwrap());
    assert_eq!(store.catch_up().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.backlog().failing, 1);
    store.checkpoint().await.unwrap();
    // It is remembered past an orderly end, until it could be looked at.
    store.close().await.unwrap();
    let store = bed.open();
    assert!(store.was_unclean().await.unwrap());
    bed.fails(1, false);
    assert_eq!(store.catch_up().await.unwrap(), 1);
    store.checkpoint().await.unwrap();
    let ends = heads(&store, &[1, 2]).await;
    for (owner, end) in ends {
        assert_eq!(store.last_leaf(&owner).await.unwrap().unwrap().1.chain, end);
    }
    store.close().await.unwrap();
    assert!(!bed.open().was_unclean().await.unwrap());
}

/// It is tried again by itself.
#[tokio::test]
async fn what_failed_is_tried_again() {
    let bed = Bed::new();
    let store = bed.open();
    create(&store, 1).await;
    bed.fails(1, true);
    store.checkpoint().await.unwrap();
    bed.fails(1, false);
    store.checkpoint().await.unwrap();
    assert_eq!(store.backlog().failing, 1, "not at once");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    store.checkpoint().await.unwrap();
    assert_eq!(store.last_leaf(&[1; 32]).await.unwrap().unwrap().1.chain.seq, 1);
    store.checkpoint().await.unwrap();
    assert_eq!((store.backlog().failing, store.backlog().unlogged), (0, 0));
}
