use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use syntha_mesh::{ManualClock, Mesh, MeshConfig, Opening};
use syntha_store::{
    Batch, CreateMode, DeploymentKey, ErrorKind, Event, MemoryStore, Store, Timestamp, UserId, UserStore,
    UserTag,
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

    /// An empty store for the keys of a layer above: of the same backend, without the layers that are for data.
    async fn fresh_keystore(&self) -> Box<dyn Instance> {
        self.fresh().await
    }

    /// How long a check may take. Half a minute, unless a backend is slow in what is right.
    fn patience(&self) -> Duration {
        PATIENCE
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

/// One store of a backend.
#[async_trait]
pub trait Instance: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// The key of its tags.
    fn key(&self) -> DeploymentKey;

    /// The store below the layer that is checked, where there is a layer: what an attacker with the storage has.
    fn below(&self) -> Option<Arc<dyn Store>>;

    /// The store in which the layer that is checked keeps its keys, where there is one.
    fn keys(&self) -> Option<Arc<dyn Store>> {
        None
    }

    /// The layer that is checked, with its keys, over another store than its own, where there is a layer.
    fn over(&self, below: Arc<dyn Store>) -> Option<Arc<dyn Store>> {
        drop(below);
        None
    }

    /// The backend below all layers.
    fn bare(&self) -> Arc<dyn Store> {
        self.store()
    }

    /// The audit layer with a log that is signed, as another process opens it: over the backend, without layers above; `None` where there is
    /// no audit layer.
    #[cfg(feature = "audit")]
    fn logged(&self) -> Option<Arc<syntha_audit::AuditedStore>> {
        None
    }

    /// Opens the details of a user's trail; `None` where no layer seals them.
    async fn open_details(&self, user: UserTag, sealed: &[u8]) -> Option<syntha_store::Result<Vec<Event>>> {
        let _ = (user, sealed);
        None
    }

    /// The store, as another process opens it whose trails may have so many bytes each; `None` where no layer keeps one.
    fn limited(&self, bytes: u64) -> Option<Arc<dyn Store>> {
        let _ = bytes;
        None
    }

    /// What counts sessions that were refused, for the deployment's trail.
    #[cfg(feature = "audit")]
    fn refusals(&self) -> syntha_audit::Refusals {
        syntha_audit::Refusals::new()
    }

    /// Closes it and opens it again on the same data.
    async fn reopen(&mut self);

    /// Opens what a process that dies at this moment leaves behind. Nothing is closed first.
    async fn crash(&mut self);

    /// Every file that it keeps; none for a backend without files.
    async fn files(&self) -> Vec<(String, Vec<u8>)>;
}

/// One check: a name, and what it does on a fresh store. It panics to fail.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Check {
    /// The name of the bullet that it holds.
    pub name: &'static str,
    run: Run,
}

type Run = fn(Bed) -> Pin<Box<dyn Future<Output = ()> + Send>>;

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Check {
    pub(crate) const fn new(name: &'static str, run: Run) -> Self {
        Self { name, run }
    }
}

/// What a check works on.
pub struct Bed {
    instance: Box<dyn Instance>,
    /// Asked for once: an instance of two stores gives them by turns.
    audited: bool,
    clock: Arc<ManualClock>,
    config: MeshConfig,
}

/// When every check begins.
pub(crate) const START: Timestamp = Timestamp(1_700_000_000_000);

impl std::fmt::Debug for Bed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bed")
    }
}

impl Bed {
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.instance.store()
    }

    #[cfg(feature = "encryption")]
    pub(crate) fn below(&self) -> Arc<dyn Store> {
        self.instance.below().expect("a check of a layer runs on a layer")
    }

    #[cfg(feature = "encryption")]
    pub(crate) fn keys(&self) -> Arc<dyn Store> {
        self.instance.keys().expect("a check of sealed data runs on a layer with keys")
    }

    #[cfg(any(feature = "encryption", feature = "audit"))]
    pub(crate) fn over(&self, below: Arc<dyn Store>) -> Arc<dyn Store> {
        self.instance.over(below).expect("a check of a layer runs on a layer")
    }

    /// Whether a layer keeps an audit trail.
    pub(crate) const fn audited(&self) -> bool {
        self.audited
    }

    #[cfg(feature = "audit")]
    pub(crate) fn bare(&self) -> Arc<dyn Store> {
        self.instance.bare()
    }

    #[cfg(feature = "audit")]
    pub(crate) fn key(&self) -> DeploymentKey {
        self.instance.key()
    }

    /// See [`Instance::logged`].
    #[cfg(feature = "audit")]
    pub(crate) fn logged(&self) -> Arc<syntha_audit::AuditedStore> {
        self.instance.logged().expect("a check of the log runs on the audit layer")
    }

    #[cfg(feature = "audit")]
    pub(crate) fn limited(&self, bytes: u64) -> Arc<dyn Store> {
        self.instance.limited(bytes).expect("a check of a trail runs on a layer that keeps one")
    }

    #[cfg(feature = "audit")]
    pub(crate) fn refusals(&self) -> syntha_audit::Refusals {
        self.instance.refusals()
    }

    #[cfg(feature = "audit")]
    pub(crate) async fn open_details(
        &self,
        user: UserTag,
        sealed: &[u8],
    ) -> Option<syntha_store::Result<Vec<Event>>> {
        self.instance.open_details(user, sealed).await
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

    /// A user's mesh as one of several handles would open it. Makes the user if there is none.
    pub(crate) async fn mesh(&self, user: &str) -> Mesh {
        self.mesh_with(user, |_| {}).await
    }

    /// The same, configured.
    pub(crate) async fn mesh_with(&self, user: &str, configure: impl FnOnce(&mut MeshConfig)) -> Mesh {
        let mut config = self.config.clone();
        configure(&mut config);
        Mesh::open(self.open_or_create(user).await, self.opening(), config).await.unwrap()
    }

    /// A user's mesh as its only handle would open it.
    pub(crate) async fn only_mesh(&self, user: &str) -> Mesh {
        let how = self.opening().exclusive(true);
        Mesh::open(self.open_or_create(user).await, how, self.config.clone()).await.unwrap()
    }

    fn opening(&self) -> Opening {
        Opening::new().audited(self.audited)
    }

    async fn open_or_create(&self, user: &str) -> Arc<dyn UserStore> {
        let store = self.store();
        match store.open(self.tag(user)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                store.create(self.tag(user), Batch::new(START).unwrap(), CreateMode::New).await.unwrap().0
            }
            opened => opened.unwrap(),
        }
    }

    pub(crate) fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// The clock's time in milliseconds since the Unix epoch.
    pub(crate) fn clock_now(&self) -> u64 {
        syntha_mesh::Clock::wall(&*self.clock).0
    }

    pub(crate) async fn reopen(&mut self) {
        self.instance.reopen().await;
    }

    pub(crate) async fn crash(&mut self) {
        self.instance.crash().await;
    }

    pub(crate) async fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.instance.files().await
    }
}

/// Runs checks, each on a fresh store. One that panics or takes longer than the harness allows fails.
pub async fn run(harness: &dyn Harness, checks: &[Check]) -> Report {
    run_with(harness, harness.name(), &MeshConfig::default(), checks).await
}

/// Runs checks under a name for the report, with a configuration for meshes.
pub async fn run_with(
    harness: &dyn Harness,
    name: &'static str,
    config: &MeshConfig,
    checks: &[Check],
) -> Report {
    let mut report = Report::new(name);
    for check in checks {
        let start = Instant::now();
        let clock = Arc::new(ManualClock::new(START));
        let mut config = config.clone();
        config.clock = Arc::clone(&clock) as _;
        let instance = harness.fresh().await;
        // By turns, too: a check begins with the first one, which is also the one whose keys a check looks at.
        let audited = [instance.store(), instance.store()].iter().all(|store| store.capabilities().audited);
        let bed = Bed { instance, audited, clock, config };
        let task = tokio::spawn((check.run)(bed));
        let patience = harness.patience();
        let failure = match tokio::time::timeout(patience, task).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(reason(error)),
            Err(_) => Some(format!("took longer than {} s", patience.as_secs())),
        };
        report.rows.push(Row { check: check.name, failure, took: start.elapsed() });
    }
    report
}

pub(crate) fn reason(error: tokio::task::JoinError) -> String {
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

    fn below(&self) -> Option<Arc<dyn Store>> {
        None
    }

    async fn reopen(&mut self) {
        let again = self.store.reopen();
        self.store.close().await.unwrap();
        self.store = Arc::new(again);
    }

    async fn crash(&mut self) {
        self.store = Arc::new(self.store.reopen());
    }

    async fn files(&self) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }
}
