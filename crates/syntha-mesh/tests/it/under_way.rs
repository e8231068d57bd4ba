//! Calls that are under way and bytes that wait are bounded, whatever the store does meanwhile.

use std::time::Duration;

use syntha_mesh::{
    AuditPolicy, ErrorKind, Exceeded, Limit, Mesh, MeshConfig, Pushed, ResourceLimits, Result,
};
use syntha_store::{Action, Rule, Verdict};
use tokio::task::JoinHandle;

use crate::bed::Bed;

fn push(mesh: &Mesh, key: &'static str, bytes: usize) -> JoinHandle<Result<Pushed>> {
    let push = mesh.push(key, "x".repeat(bytes));
    tokio::spawn(async move { push.await })
}

/// Waits until the store is asked for the first of the commits, so that what comes next waits behind it.
async fn under_commit(bed: &Bed, before: usize) {
    while bed.store.commits() == before {
        tokio::task::yield_now().await;
    }
}

/// Lets those who were spawned come as far as they can.
async fn settled(mesh: &Mesh, calls: u64) {
    while used(mesh).await != calls {
        tokio::task::yield_now().await;
    }
}

async fn used(mesh: &Mesh) -> u64 {
    mesh.usage_report().await.unwrap().of(Limit::InFlight).unwrap().used.unwrap()
}

#[tokio::test(start_paused = true)]
async fn more_calls_than_may_be_under_way_are_turned_away() {
    let mut config = MeshConfig::default();
    config.limits = ResourceLimits::new().max_in_flight(3);
    config.audit = AuditPolicy::Writes;
    config.deadline = Duration::from_secs(3_600);
    let bed = Bed::new(config).await;
    let before = bed.store.commits();
    bed.store.block();
    let first = push(&bed.mesh, "k1", 1);
    under_commit(&bed, before).await;
    let waiting = [push(&bed.mesh, "k2", 1), push(&bed.mesh, "k3", 1)];
    settled(&bed.mesh, 3).await;
    let error = bed.mesh.push("k4", 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let Exceeded { limit, most, used: taken, .. } = error.exceeded().unwrap();
    assert_eq!((limit, most, taken), (Limit::InFlight, 3, 3));
    assert!(error.is_retryable() && error.retry_after().unwrap() > Duration::ZERO);
    bed.store.let_go();
    first.await.unwrap().unwrap();
    for one in waiting {
        one.await.unwrap().unwrap();
    }
    assert_eq!(used(&bed.mesh).await, 0, "a place was not given up");
    bed.mesh.push("k4", 1).await.unwrap();
    let events = bed.flushed().await;
    let refused = events.iter().filter(|event| event.verdict == Verdict::Denied).collect::<Vec<_>>();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].action, refused[0].rule), (Action::Push, Some(Rule::Limit)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_up_gives_its_place_up_with_its_write() {
    let mut config = MeshConfig::default();
    config.limits = ResourceLimits::new().max_in_flight(2);
    config.deadline = Duration::from_secs(3_600);
    let bed = Bed::new(config).await;
    let before = bed.store.commits();
    bed.store.block();
    let first = push(&bed.mesh, "k1", 1);
    under_commit(&bed, before).await;
    let second = push(&bed.mesh, "k2", 1);
    settled(&bed.mesh, 2).await;
    second.abort();
    let _ = second.await;
    // Its write waits on, and so it counts.
    assert_eq!(bed.mesh.push("k3", 1).await.unwrap_err().kind(), ErrorKind::Busy);
    bed.store.let_go();
    first.await.unwrap().unwrap();
    settled(&bed.mesh, 0).await;
    bed.mesh.push("k3", 1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn bytes_that_wait_are_bounded() {
    let mut config = MeshConfig::default();
    config.waiting_bytes = 4_000;
    config.deadline = Duration::from_secs(3_600);
    let bed = Bed::new(config).await;
    let before = bed.store.commits();
    bed.store.block();
    let first = push(&bed.mesh, "k1", 10_000);
    under_commit(&bed, before).await;
    // One that is larger than the bound waits alone.
    let second = push(&bed.mesh, "k2", 10_000);
    settled(&bed.mesh, 2).await;
    for bytes in [1, 10_000] {
        let error = bed.mesh.push("k3", "x".repeat(bytes)).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Busy && error.retry_after().is_some(), "{error}");
    }
    bed.store.let_go();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    let before = bed.store.commits();
    bed.store.block();
    let first = push(&bed.mesh, "k1", 1);
    under_commit(&bed, before).await;
    let waiting = [push(&bed.mesh, "k2", 1_500), push(&bed.mesh, "k3", 1_500)];
    settled(&bed.mesh, 3).await;
    assert_eq!(bed.mesh.push("k4", "x".repeat(1_500)).await.unwrap_err().kind(), ErrorKind::Busy);
    bed.store.let_go();
    first.await.unwrap().unwrap();
    for one in waiting {
        one.await.unwrap().unwrap();
    }
    bed.mesh.push("k4", "x".repeat(1_500)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_too_fast_waits_for_no_trail() {
    let mut config = MeshConfig::default();
    config.limits = ResourceLimits::new().max_operations_per_second(2);
    config.audit = AuditPolicy::Strict;
    let bed = Bed::new(config).await;
    let ann = bed.mesh.agent("ann").unwrap();
    ann.push("k", 1).await.unwrap();
    ann.get::<u8>("k").await.unwrap();
    let commits = bed.store.commits();
    bed.store.fail(true);
    for n in 0..50 {
        assert_eq!(ann.get::<u8>(format!("k{n}")).await.unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(ann.push(format!("k{n}"), 2).await.unwrap_err().kind(), ErrorKind::Busy);
    }
    assert_eq!(bed.store.commits(), commits, "a refusal waited for the trail");
    bed.store.fail(false);
    let events = bed.flushed().await;
    let refused = events.iter().filter(|event| event.verdict == Verdict::Denied);
    assert_eq!(refused.count(), 2, "a flood is told by its kind, whatever its keys");
    assert_eq!(bed.count(Action::Read, Verdict::Denied).await, 50);
    assert_eq!(bed.count(Action::Push, Verdict::Denied).await, 50);
}

/// A place is free before the caller learns that its write is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_call_at_a_time_is_never_too_many() {
    let mut config = MeshConfig::default();
    config.limits = ResourceLimits::new().max_in_flight(1);
    let bed = Bed::new(config).await;
    for n in 0..500 {
        bed.mesh.push("k", n).await.unwrap();
        bed.mesh.remove("k").await.unwrap();
    }
}
