use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use syntha_encryption::{EncryptedStore, Fault, Kek, KeyCache, Keychain, Keystore, Mode, Owner, SecretKey};
use syntha_store::{DeploymentKey, Event, Store, UserTag};

use crate::harness::{Harness, Instance};

/// The key that wraps keys.
pub(crate) const KEK: &[u8; 32] = b"a key of a test, which is no key";

/// The encryption layer over a backend, whole or with a planted fault. A second store of the same backend keeps the keys. Stores are handed
/// out over two keychains in turn, as two processes would have them: they share what is stored, and nothing that is unwrapped.
#[derive(Clone, Copy, Debug)]
pub struct EncryptedHarness<H> {
    /// Its name in reports.
    pub name: &'static str,
    /// The backend.
    pub inner: H,
    /// What is hidden.
    pub mode: Mode,
    /// The fault, if any.
    pub fault: Option<Fault>,
}

struct EncryptedInstance {
    inner: Box<dyn Instance>,
    keystore: Box<dyn Instance>,
    keychains: Vec<Keychain>,
    mode: Mode,
    fault: Option<Fault>,
    turn: AtomicUsize,
}

#[async_trait]
impl<H: Harness> Harness for EncryptedHarness<H> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn patience(&self) -> std::time::Duration {
        self.inner.patience()
    }

    async fn fresh(&self) -> Box<dyn Instance> {
        let (inner, keystore) = (self.inner.fresh().await, self.inner.fresh_keystore().await);
        let mut instance = EncryptedInstance {
            inner,
            keystore,
            keychains: Vec::new(),
            mode: self.mode,
            fault: self.fault,
            turn: AtomicUsize::new(0),
        };
        instance.open().await;
        Box::new(instance)
    }
}

impl EncryptedInstance {
    /// The layer, with the keys of one process and then of the other.
    fn seal(&self, below: Arc<dyn Store>) -> Arc<dyn Store> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.keychains.len();
        Arc::new(EncryptedStore::new(below, &self.keychains[turn]).unwrap())
    }

    async fn open(&mut self) {
        self.keychains.clear();
        for _ in 0..2 {
            let keystore = Keystore::open(self.keystore.store()).await.unwrap();
            let kek = Kek::from_key(SecretKey::from_bytes(KEK));
            let keychain =
                Keychain::create(keystore, &kek, self.mode, &self.inner.key(), KeyCache::default()).await;
            let keychain = keychain.unwrap();
            self.keychains.push(match self.fault {
                Some(fault) => keychain.with_fault(fault),
                None => keychain,
            });
        }
    }
}

#[async_trait]
impl Instance for EncryptedInstance {
    fn store(&self) -> Arc<dyn Store> {
        self.seal(self.inner.store())
    }

    fn key(&self) -> DeploymentKey {
        self.inner.key()
    }

    fn below(&self) -> Option<Arc<dyn Store>> {
        Some(self.inner.store())
    }

    fn keys(&self) -> Option<Arc<dyn Store>> {
        Some(self.keystore.store())
    }

    fn over(&self, below: Arc<dyn Store>) -> Option<Arc<dyn Store>> {
        Some(self.seal(below))
    }

    fn bare(&self) -> Arc<dyn Store> {
        self.inner.bare()
    }

    #[cfg(feature = "audit")]
    fn logged(&self) -> Option<Arc<syntha_audit::AuditedStore>> {
        self.inner.logged()
    }

    async fn open_details(&self, user: UserTag, sealed: &[u8]) -> Option<syntha_store::Result<Vec<Event>>> {
        Some(self.keychains[0].open_details(Owner::User(user), sealed).await)
    }

    fn limited(&self, bytes: u64) -> Option<Arc<dyn Store>> {
        Some(self.seal(self.inner.limited(bytes)?))
    }

    #[cfg(feature = "audit")]
    fn refusals(&self) -> syntha_audit::Refusals {
        self.inner.refusals()
    }

    async fn reopen(&mut self) {
        self.inner.reopen().await;
        self.keystore.reopen().await;
        self.open().await;
    }

    async fn crash(&mut self) {
        self.inner.crash().await;
        self.keystore.crash().await;
        self.open().await;
    }

    async fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = self.inner.files().await;
        files.extend(
            self.keystore.files().await.into_iter().map(|(name, bytes)| (format!("keys/{name}"), bytes)),
        );
        files
    }
}
