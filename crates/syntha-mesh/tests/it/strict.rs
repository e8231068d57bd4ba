//! What waits, waits for its time and no longer; and what can't be told is refused.

use std::time::Duration;

use syntha_mesh::{AuditPolicy, ErrorKind, MeshConfig, WatchConfig, WatchEvent};
use syntha_store::{Action, Verdict};

use crate::bed::{Bed, is_note};

fn strict() -> MeshConfig {
    let mut config = MeshConfig::default();
    config.audit = AuditPolicy::Strict;
    config
}

#[tokio::test]
async fn a_read_is_given_once_it_is_told() {
    let bed = Bed::new(strict()).await;
    let ann = bed.mesh.agent("ann").unwrap();
    bed.mesh.push("k", 1).await.unwrap();
    let stamp = bed.stamp().await;
    for number in 1..=3 {
        ann.get::<u8>("k").await.unwrap().unwrap();
        assert_eq!(bed.count(Action::Read, Verdict::Done).await, number);
    }
    assert!(ann.get::<u8>("absent").await.unwrap().is_none());
    assert_eq!(bed.count(Action::Read, Verdict::Nothing).await, 1);
    assert!(bed.links().await.iter().rev().take(4).all(|(link, _)| is_note(link)));
    assert_eq!(bed.stamp().await, stamp);
}

#[tokio::test]
async fn a_refusal_is_given_once_it_is_told() {
    let bed = Bed::new(strict()).await;
    let ann = bed.mesh.agent("ann").unwrap();
    bed.mesh.push("k", 1).restricted().await.unwrap();
    assert_eq!(ann.push("k", 2).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(bed.count(Action::Push, Verdict::Denied).await, 1);
    assert!(!ann.remove("absent", None).await.unwrap());
    assert_eq!(bed.count(Action::Remove, Verdict::Nothing).await, 1);
    bed.store.fail(true);
    assert_eq!(ann.push("k", 2).await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    bed.store.fail(false);
    assert_eq!(bed.count(Action::Push, Verdict::Denied).await, 1);
}

#[tokio::test]
async fn a_read_that_cannot_be_told_is_refused() {
    let bed = Bed::new(strict()).await;
    let ann = bed.mesh.agent("ann").unwrap();
    bed.mesh.push("k", 1).await.unwrap();
    bed.store.fail(true);
    assert_eq!(ann.get::<u8>("k").await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    assert_eq!(bed.mesh.stats().await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    assert_eq!(bed.mesh.flush_audit().await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    bed.store.fail(false);
    assert_eq!(ann.get::<u8>("k").await.unwrap(), Some(1));
    // Tries are told too: a read may be told that was not given, never the other way round.
    assert_eq!(bed.count(Action::Read, Verdict::Done).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_for_its_deadline_at_most() {
    let bed = Bed::new(strict()).await;
    let ann = bed.mesh.agent("ann").unwrap();
    bed.mesh.push("k", 1).await.unwrap();
    bed.store.block();
    let start = tokio::time::Instant::now();
    assert_eq!(ann.get::<u8>("k").await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&start.elapsed()));
    bed.store.let_go();
    assert_eq!(ann.get::<u8>("k").await.unwrap(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_watch_gives_once_it_is_told() {
    let bed = Bed::new(strict()).await;
    let ann = bed.mesh.agent("ann").unwrap();
    bed.mesh.push("k", 1).await.unwrap();
    let mut watch = ann.watch(WatchConfig::new()).await.unwrap();
    bed.store.fail(true);
    assert_eq!(watch.next().await.unwrap().unwrap_err().kind(), ErrorKind::AuditUnavailable);
    bed.store.fail(false);
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Snapshot(entries))) if entries.len() == 1));
    assert!(bed.count(Action::Read, Verdict::Done).await >= 1);
    let told = bed.count(Action::Read, Verdict::Done).await;
    bed.mesh.push("k", 2).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Put(_)))));
    assert_eq!(bed.count(Action::Read, Verdict::Done).await, told + 1);
    // What is hidden while its event waits is not given.
    bed.mesh.push("k", 3).await.unwrap();
    bed.store.block();
    tokio::select! {
        event = watch.next() => panic!("given before it was told: {event:?}"),
        () = tokio::time::sleep(Duration::from_millis(500)) => {}
    }
    let mesh = bed.mesh.clone();
    let hides = tokio::spawn(async move { mesh.push("k", 4).restricted().await.unwrap() });
    bed.store.let_go();
    hides.await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Removed(_)))));
}

#[tokio::test(start_paused = true)]
async fn reads_beyond_the_bound_wait_and_are_refused() {
    let bed = Bed::new(MeshConfig::default()).await;
    bed.mesh.push("a", 1).await.unwrap();
    bed.store.block();
    let start = tokio::time::Instant::now();
    for number in 0..10_000 {
        assert!(bed.mesh.value(&format!("absent {number}")).await.unwrap().is_none());
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "a read waited that had room");
    assert_eq!(bed.mesh.value("a").await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&start.elapsed()));
    let mesh = bed.mesh.clone();
    let waits = tokio::spawn(async move { mesh.value("a").await.map(|found| found.is_some()) });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waits.is_finished());
    bed.store.let_go();
    assert!(waits.await.unwrap().unwrap());
    bed.mesh.flush_audit().await.unwrap();
    assert_eq!(bed.count(Action::Read, Verdict::Nothing).await, 10_000);
    assert_eq!(bed.count(Action::Read, Verdict::Done).await, 1);
}

#[tokio::test(start_paused = true)]
async fn reads_are_told_when_a_failing_store_works_again() {
    let bed = Bed::new(MeshConfig::default()).await;
    bed.mesh.push("k", 1).await.unwrap();
    bed.store.fail(true);
    for _ in 0..10 {
        bed.mesh.value("k").await.unwrap().unwrap();
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(bed.count(Action::Read, Verdict::Done).await, 0);
    bed.store.fail(false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bed.count(Action::Read, Verdict::Done).await, 10);
}
