//! Someone who audits a store and verifies what is exported; the reference stands for it.

use std::sync::Arc;

use syntha_audit::syntha_store::{
    Batch, CreateMode, DeploymentKey, Keyspace, MemoryStore, RecordId, Store, Timestamp, UserId,
};
use syntha_audit::verify::{Verdict, Verifier};
use syntha_audit::{AuditedStore, MemorySigner, Whose};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tags = DeploymentKey::generate()?;
    let signer = Arc::new(MemorySigner::new(&tags.fingerprint())?);
    let store = AuditedStore::new(Arc::new(MemoryStore::new()?), tags.fingerprint())?.signer(signer);
    let alice = tags.tag(&UserId::new("alice")?);
    let first = Batch::new(Timestamp(0))?.put(Keyspace::Context, RecordId::new("k", 0)?, "head", "body");
    store.create(alice, first, CreateMode::New).await?;
    let mut trail = Vec::new();
    store.export(&Whose::Users(vec![alice]), false, &mut trail).await?;
    let mut verifier = Verifier::new(store.trusted_keys().await?);
    verifier.read(&trail[..])?;
    let report = verifier.finish();
    assert_eq!(report.verdict(), Verdict::Clean);
    assert_eq!(report.user(alice.as_bytes()).and_then(|user| user.anchored_to), Some(1));
    Ok(())
}
