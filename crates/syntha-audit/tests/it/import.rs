//! A restore goes on with the chain that is there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use syntha_audit::AuditedStore;
use syntha_store::{ImportMode, Keyspace, Scan, Store};

use crate::dying::Dying;
use crate::{Memory, commits, create, tag};

/// However long the chain is, a restore hands it on as it reads it.
#[tokio::test]
async fn the_present_chain_is_handed_on_in_pages() {
    let bed = Memory::new();
    let backend = Dying::new(bed.raw(), u64::MAX);
    let (most, all) = (Arc::clone(&backend.most), Arc::clone(&backend.all));
    let store = AuditedStore::new(Arc::new(backend), bed.deployment()).unwrap();
    let store = store.signer(Arc::new(bed.signer.clone()));
    let user = create(&store, 1).await;
    commits(&user, 20).await;
    let mut archive = user.snapshot().await.unwrap();
    commits(&user, 2_000).await;
    store.prune(tag(1), 10).await.unwrap();
    let end = user.state().await.unwrap().chain.seq;
    store.import(tag(1), &mut *archive, ImportMode::Replace).await.unwrap();
    assert!(most.load(Ordering::Relaxed) <= 64, "{most:?} records at once");
    assert!(all.load(Ordering::Relaxed) > 2_000);
    // Nothing of it is lost, and it verifies.
    let restored = store.open(tag(1)).await.unwrap();
    let links = restored.scan(Scan::heads(Keyspace::Audit, 10_000).name("")).await.unwrap().value.records;
    let numbers: Vec<u64> = links.iter().map(|(head, _)| head.id.seq()).collect();
    assert_eq!(numbers, (10..=end + 1).collect::<Vec<_>>());
    let report = store.replay(tag(1), store.floor(tag(1)).await.unwrap()).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}
