//! Who has much to write is one of many when others write, and has all to itself when nobody does.

use std::time::Duration;

use syntha_mesh::{AuditPolicy, MeshConfig};
use tokio::task::JoinSet;

use crate::bed::Bed;

/// How many commits 200 writes become that wait behind another one.
async fn commits_of_a_crowd(bed: &Bed, meanwhile: impl AsyncFnOnce()) -> usize {
    let before = bed.store.commits();
    bed.store.block();
    let mut tasks = JoinSet::new();
    let mut push = |key: String| {
        let push = bed.mesh.push(key, 1);
        tasks.spawn(async move { push.await.map(|_| ()) });
    };
    push("first".to_owned());
    while bed.store.commits() == before {
        tokio::task::yield_now().await;
    }
    (0..200).for_each(|number| push(format!("key-{number}")));
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    meanwhile().await;
    bed.store.let_go();
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    bed.store.commits() - before
}

#[tokio::test(start_paused = true)]
async fn batches_are_smaller_while_others_write() {
    let mut config = MeshConfig::default();
    config.audit = AuditPolicy::Writes;
    config.deadline = Duration::from_secs(3_600);
    let (alice, bob) = (Bed::new(config.clone()).await, Bed::new(config).await);
    assert_eq!(commits_of_a_crowd(&alice, async || {}).await, 2, "nobody else is there");
    let bob_writes = async || assert!(bob.mesh.push("key", 1).await.is_ok());
    assert_eq!(commits_of_a_crowd(&alice, bob_writes).await, 1 + 200_usize.div_ceil(64));
    let bob_wrote = async || {
        bob.mesh.push("key", 2).await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
    };
    assert_eq!(commits_of_a_crowd(&alice, bob_wrote).await, 2, "the other has gone");
}
