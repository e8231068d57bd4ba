//! A deployment for a test: its clock, its spaces, and what it was told.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use syntha_identity::syntha_store::{
    DeploymentKey, Keyspace, MemoryStore, Scan, Store, Timestamp, UserId, UserStore,
};
use syntha_identity::{
    ErrorKind, Factor, Fault, HashingCost, Identity, IdentityConfig, IdentityEvent, ManualClock, Opened,
    Password, Result, Scopes, SessionRequest, Source,
};

pub(crate) const RIGHT: &str = "a horse that nobody knows";
pub(crate) const WRONG: &str = "a horse that somebody knows";

/// What a check finds wrong.
pub(crate) type Check = Result<(), String>;

pub(crate) fn ensure(holds: bool, otherwise: &str) -> Check {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

pub(crate) struct Bed {
    pub(crate) identity: Identity,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) stores: Vec<MemoryStore>,
    pub(crate) told: Arc<Mutex<Vec<IdentityEvent>>>,
    pub(crate) fault: Option<Fault>,
}

pub(crate) fn key() -> DeploymentKey {
    DeploymentKey::from_bytes([7; 32])
}

pub(crate) fn config(clock: &Arc<ManualClock>, fault: Option<Fault>) -> IdentityConfig {
    let config = IdentityConfig::new(&key()).clock(Arc::clone(clock) as _).hashing(HashingCost::weak());
    match fault {
        Some(fault) => config.fault(fault),
        None => config,
    }
}

impl Bed {
    pub(crate) async fn new() -> Self {
        Self::of(1, None).await
    }

    pub(crate) async fn faulty(fault: Option<Fault>) -> Self {
        Self::of(1, fault).await
    }

    pub(crate) async fn of(spaces: usize, fault: Option<Fault>) -> Self {
        Self::with(spaces, fault, |config| config).await
    }

    pub(crate) async fn with(
        spaces: usize,
        fault: Option<Fault>,
        set: impl FnOnce(IdentityConfig) -> IdentityConfig,
    ) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_000_000_000_000)));
        let stores: Vec<_> = (0..spaces).map(|_| MemoryStore::new().unwrap()).collect();
        let told = Arc::<Mutex<Vec<IdentityEvent>>>::default();
        let hears = Arc::clone(&told);
        let config = config(&clock, fault).listener(move |event| hears.lock().push(event.clone()));
        let identity = Identity::open(opened(&stores).await, set(config)).await.unwrap();
        Self { identity, clock, stores, told, fault }
    }

    /// The same deployment in another process.
    pub(crate) async fn second(&self) -> Identity {
        let again: Vec<_> = self.stores.iter().map(MemoryStore::reopen).collect();
        Identity::open(opened(&again).await, config(&self.clock, self.fault)).await.unwrap()
    }

    /// A user with all rights and the right password.
    pub(crate) async fn user(&self, name: &str) -> UserId {
        let user = user(name);
        self.identity.accounts().create(&user, Scopes::ALL).await.unwrap();
        self.identity.accounts().set_password(&user, password(RIGHT), Factor::Single).await.unwrap();
        user
    }

    pub(crate) async fn login(&self, user: &UserId, typed: &str) -> Result<Opened> {
        login(&self.identity, user, typed).await
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Everything that is stored, record by record.
    pub(crate) async fn dump(&self) -> Vec<(Keyspace, Vec<u8>)> {
        let mut found = Vec::new();
        for store in &self.stores {
            let space = store.deployment().await.unwrap();
            for keyspace in Keyspace::all() {
                let page = space.scan(Scan::records(keyspace, 65_536)).await.unwrap().value;
                assert!(!page.more);
                found.extend(page.records.into_iter().map(|(head, body)| {
                    let parts = [&head.id.name()[..], &head.head[..], &body.unwrap_or_default()[..]];
                    (keyspace, parts.join(&0))
                }));
            }
        }
        found
    }

    pub(crate) async fn count(&self, keyspace: Keyspace) -> usize {
        self.dump().await.iter().filter(|(space, _)| *space == keyspace).count()
    }
}

pub(crate) async fn opened(stores: &[MemoryStore]) -> Vec<Arc<dyn UserStore>> {
    let mut spaces = Vec::new();
    for store in stores {
        spaces.push(store.deployment().await.unwrap());
    }
    spaces
}

pub(crate) async fn login(identity: &Identity, user: &UserId, typed: &str) -> Result<Opened> {
    identity.login(user, password(typed), &home(), &SessionRequest::default()).await
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn password(typed: &str) -> Password {
    Password::new(typed).unwrap()
}

pub(crate) fn home() -> Source {
    Source::new("home")
}

pub(crate) fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}
