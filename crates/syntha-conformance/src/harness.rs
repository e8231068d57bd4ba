use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use syntha_store::{
    Batch, CreateMode, DeploymentKey, MemoryStore, Store, Timestamp, UserId, UserStore, UserTag,
};

use crate::report::{Report, Row};
use crate::store::{put, record_body};

/// A backend under check.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// An empty store of its own.
    async fn fresh(&self) -> Box<dyn Instance>;
}

/// One store of a backend.
#[async_trait]
pub trait Instance: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// The key of its tags.
    fn key(&self) -> DeploymentKey;

    /// Closes it and opens it again on the same data.
    async fn reopen(&mut self);

    /// Every file that it keeps; none for a backend without files.
    async fn files(&self) -> Vec<(String, Vec<u8>)>;
}

/// One check: a name, and what it does on a fresh store. It panics to fail.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Check {
    /// The name of the bullet that it holds.
    pub name: &'static str,
    run: Run,
}

type Run = fn(Bed) -> Pin<Box<dyn Future<Output = ()> + Send>>;

impl Check {
    pub(crate) const fn new(name: &'static str, run: Run) -> Self {
        Self { name, run }
    }
}

/// What a check works on.
pub struct Bed {
    instance: Box<dyn Instance>,
}

impl std::fmt::Debug for Bed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bed")
    }
}

impl Bed {
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.instance.store()
    }

    pub(crate) fn tag(&self, user: &str) -> UserTag {
        self.instance.key().tag(&UserId::new(user).unwrap())
    }

    /// A new user whose record `who` holds the user's name.
    pub(crate) async fn user(&self, user: &str) -> Arc<dyn UserStore> {
        let first = put(Batch::new(Timestamp(1)).unwrap(), "who", user);
        self.store().create(self.tag(user), first, CreateMode::New).await.unwrap().0
    }

    pub(crate) async fn open(&self, user: &str) -> Arc<dyn UserStore> {
        self.store().open(self.tag(user)).await.unwrap()
    }

    pub(crate) async fn who(&self, user: &str) -> Option<String> {
        record_body(&*self.open(user).await, "who").await
    }

    pub(crate) async fn reopen(&mut self) {
        self.instance.reopen().await;
    }

    pub(crate) async fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.instance.files().await
    }
}

/// Runs checks, each on a fresh store. One that panics or takes longer than 30 seconds fails.
pub async fn run(harness: &dyn Harness, checks: &[Check]) -> Report {
    let mut report = Report::new(harness.name());
    for check in checks {
        let start = Instant::now();
        let bed = Bed { instance: harness.fresh().await };
        let task = tokio::spawn((check.run)(bed));
        let failure = match tokio::time::timeout(Duration::from_secs(30), task).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(reason(error)),
            Err(_) => Some("took longer than 30 s".to_owned()),
        };
        report.rows.push(Row { check: check.name, failure, took: start.elapsed() });
    }
    report
}

fn reason(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "was cancelled".to_owned() };
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "panicked".to_owned())
}

/// The in-memory reference.
#[derive(Clone, Copy, Debug)]
pub struct MemoryHarness;

struct MemoryInstance {
    store: Arc<MemoryStore>,
}

#[async_trait]
impl Harness for MemoryHarness {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn fresh(&self) -> Box<dyn Instance> {
        let store = MemoryStore::with_key(DeploymentKey::from_bytes([7; 32])).unwrap();
        Box::new(MemoryInstance { store: Arc::new(store) })
    }
}

#[async_trait]
impl Instance for MemoryInstance {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as _
    }

    fn key(&self) -> DeploymentKey {
        self.store.deployment_key().clone()
    }

    async fn reopen(&mut self) {
        let again = self.store.reopen();
        self.store.close().await.unwrap();
        self.store = Arc::new(again);
    }

    async fn files(&self) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }
}
