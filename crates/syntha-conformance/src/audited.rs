use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use syntha_audit::{AuditedStore, Fault, MemorySigner, Refusals};
use syntha_store::{DeploymentKey, Store};

use crate::harness::{Harness, Instance};

/// The audit layer over a backend, whole or with a planted fault. Stores are handed out in turn of two, as two processes would have them:
/// they share what is stored, and nothing that is remembered.
#[derive(Clone, Copy, Debug)]
pub struct AuditedHarness<H> {
    /// Its name in reports.
    pub name: &'static str,
    /// The backend.
    pub inner: H,
    /// The fault, if any.
    pub fault: Option<Fault>,
}

struct AuditedInstance {
    inner: Box<dyn Instance>,
    stores: Vec<Arc<dyn Store>>,
    /// Of the logs that a check asks for.
    signer: MemorySigner,
    fault: Option<Fault>,
    turn: AtomicUsize,
}

#[async_trait]
impl<H: Harness> Harness for AuditedHarness<H> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn patience(&self) -> std::time::Duration {
        self.inner.patience()
    }

    async fn fresh(&self) -> Box<dyn Instance> {
        let (inner, turn) = (self.inner.fresh().await, AtomicUsize::new(0));
        let signer = MemorySigner::new(&inner.key().fingerprint()).unwrap();
        let mut instance = AuditedInstance { inner, stores: Vec::new(), signer, fault: self.fault, turn };
        instance.open();
        Box::new(instance)
    }

    async fn fresh_keystore(&self) -> Box<dyn Instance> {
        self.inner.fresh_keystore().await
    }
}

impl AuditedInstance {
    fn audit(&self, below: Arc<dyn Store>) -> AuditedStore {
        let store = AuditedStore::new(below, self.key().fingerprint()).unwrap();
        match self.fault {
            Some(fault) => store.fault(fault),
            None => store,
        }
    }

    fn open(&mut self) {
        self.stores = (0..2).map(|_| Arc::new(self.audit(self.inner.store())) as _).collect();
    }
}

#[async_trait]
impl Instance for AuditedInstance {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.stores[self.turn.fetch_add(1, Ordering::Relaxed) % 2])
    }

    fn key(&self) -> DeploymentKey {
        self.inner.key()
    }

    fn below(&self) -> Option<Arc<dyn Store>> {
        Some(self.inner.store())
    }

    fn over(&self, below: Arc<dyn Store>) -> Option<Arc<dyn Store>> {
        Some(Arc::new(self.audit(below)))
    }

    fn logged(&self) -> Option<Arc<AuditedStore>> {
        Some(Arc::new(self.audit(self.inner.store()).signer(Arc::new(self.signer.clone()))))
    }

    fn bare(&self) -> Arc<dyn Store> {
        self.inner.bare()
    }

    fn limited(&self, bytes: u64) -> Option<Arc<dyn Store>> {
        Some(Arc::new(self.audit(self.inner.store()).trail_limit(bytes)))
    }

    fn refusals(&self) -> Refusals {
        match self.fault {
            Some(fault) => Refusals::new().fault(fault),
            None => Refusals::new(),
        }
    }

    async fn reopen(&mut self) {
        self.inner.reopen().await;
        self.open();
    }

    async fn crash(&mut self) {
        self.inner.crash().await;
        self.open();
    }

    async fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.inner.files().await
    }
}
