//! Several processes on one deployment; and a store that can be made to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use syntha_identity::syntha_store::{
    self, At, Batch, BatchId, Changes, Commit, Keyspace, MemoryStore, Outcome, Page, Record, RecordId, Scan,
    Snapshot, Stamp, Store, UserState, UserStore,
};
use syntha_identity::{
    ErrorKind, Factor, HashingCost, Identity, IdentityConfig, Scopes, SessionRequest, Source, TokenRequest,
};
use syntha_sqlite::{Mode, SqliteConfig, SqliteStore};
use tokio::sync::Notify;

use crate::bed::{RIGHT, WRONG, key, kind, login, password, user};

/// A space whose commits wait while they are held.
#[derive(Debug)]
pub(crate) struct Slow {
    below: Arc<dyn UserStore>,
    holds: AtomicBool,
    held: Notify,
    go: Notify,
}

impl Slow {
    pub(crate) async fn over(store: &MemoryStore) -> Arc<Self> {
        let below = store.deployment().await.unwrap();
        Arc::new(Self { below, holds: AtomicBool::new(false), held: Notify::new(), go: Notify::new() })
    }

    /// Holds the next commit.
    pub(crate) fn hold(&self) {
        self.holds.store(true, Ordering::SeqCst);
    }

    /// Waits until one is held.
    pub(crate) async fn held(&self) {
        self.held.notified().await;
    }

    pub(crate) fn go(&self) {
        self.go.notify_one();
    }
}

#[async_trait]
impl UserStore for Slow {
    async fn state(&self) -> syntha_store::Result<UserState> {
        self.below.state().await
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.below.is_at(stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> syntha_store::Result<At<Vec<Option<Record>>>> {
        self.below.read(space, ids).await
    }

    async fn scan(&self, scan: Scan) -> syntha_store::Result<At<Page>> {
        self.below.scan(scan).await
    }

    async fn commit(&self, batch: Batch) -> syntha_store::Result<Commit> {
        if self.holds.swap(false, Ordering::SeqCst) {
            self.held.notify_one();
            self.go.notified().await;
        }
        self.below.commit(batch).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> syntha_store::Result<Outcome> {
        self.below.outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> syntha_store::Result<Changes> {
        self.below.changes(since, limit).await
    }

    async fn changed(&self, since: Stamp) -> syntha_store::Result<Stamp> {
        self.below.changed(since).await
    }

    async fn snapshot(&self) -> syntha_store::Result<Box<dyn Snapshot>> {
        self.below.snapshot().await
    }
}

/// Two stores on one folder, as two processes have them. Their key is the folder's, so records are named by one of the test's.
async fn two(folder: &std::path::Path) -> ([SqliteStore; 2], [Identity; 2]) {
    let config = || SqliteConfig::new(folder.join("data")).mode(Mode::Shared);
    let stores = [SqliteStore::open(config()).await.unwrap(), SqliteStore::open(config()).await.unwrap()];
    let mut identities = Vec::new();
    for store in &stores {
        let config = IdentityConfig::new(&key()).hashing(HashingCost::weak()).hashing_at_once(16);
        identities.push(Identity::open(vec![store.deployment().await.unwrap()], config).await.unwrap());
    }
    (stores, identities.try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_count_and_revoke_together() {
    let folder = tempfile::tempdir().unwrap();
    let (stores, [one, two]) = two(folder.path()).await;
    let alice = user("alice");
    one.accounts().create(&alice, Scopes::ALL).await.unwrap();
    one.accounts().set_password(&alice, password(RIGHT), Factor::Single).await.unwrap();
    // What one opens, the other knows; and ends within a second.
    let opened = login(&one, &alice, RIGHT).await.unwrap();
    let (token, info) = two.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await.unwrap();
    let leases = [two.authenticate(&opened.secret).await.unwrap(), one.authenticate(&token).await.unwrap()];
    let fresh = [tokio::spawn(one.keep_fresh()), tokio::spawn(two.keep_fresh())];
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    leases.iter().for_each(|lease| lease.check().unwrap());
    one.sessions().end(&opened.secret).await.unwrap();
    two.tokens().revoke(&alice, info.id).await.unwrap();
    let start = Instant::now();
    for lease in &leases {
        while lease.check().is_ok() {
            assert!(start.elapsed() < Duration::from_secs(1), "it was seen too late");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(kind(lease.check()), Some(ErrorKind::Denied));
    }
    for secret in [&opened.secret, &token] {
        assert_eq!(kind(one.authenticate(secret).await), Some(ErrorKind::Denied));
        assert_eq!(kind(two.authenticate(secret).await), Some(ErrorKind::Denied));
    }
    // Five failures in one process are five in the other.
    let bad = Source::new("bad");
    let mut answers = Vec::new();
    for n in 0..7 {
        let identity = if n % 2 == 0 { &one } else { &two };
        let guess = identity.login(&alice, password(WRONG), &bad, &SessionRequest::default()).await;
        answers.push(kind(guess).unwrap());
    }
    assert_eq!(answers[..5], [ErrorKind::Denied; 5]);
    assert_eq!(answers[5..], [ErrorKind::Throttled; 2]);
    // The tasks end with the last handle.
    drop((one, two));
    for task in fresh {
        tokio::time::timeout(Duration::from_secs(2), task).await.unwrap().unwrap();
    }
    for store in stores {
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_guesses_of_two_processes_are_all_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (_stores, identities) = two(folder.path()).await;
    let alice = user("alice");
    identities[0].accounts().create(&alice, Scopes::ALL).await.unwrap();
    identities[0].accounts().set_password(&alice, password(RIGHT), Factor::Single).await.unwrap();
    let hashed = |identities: &[Identity; 2]| identities.iter().map(|one| one.hashing().hashed).sum::<u64>();
    let (before, start) = (hashed(&identities), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..40 {
        let (identity, alice) = (identities[n % 2].clone(), alice.clone());
        tasks.spawn(async move { login(&identity, &alice, WRONG).await.is_ok() });
    }
    assert!(tasks.join_all().await.into_iter().all(|opened| !opened));
    // Five cost no waiting; then one is looked at after a second, one after two more, and so on.
    let looked_at = hashed(&identities) - before;
    let most = 5 + u64::from((start.elapsed().as_secs() + 1).ilog2());
    assert!((5..=most).contains(&looked_at), "{looked_at}, {most} at most");
}
