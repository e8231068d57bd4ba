use std::time::Duration;

use syntha_mesh::{ErrorKind, Expected, Filter};
use syntha_store::Timestamp;

use crate::{Bed, START};

#[tokio::test]
async fn an_entry_is_invisible_at_the_instant_that_it_expires() {
    let bed = Bed::new().await;
    let ann = bed.mesh.agent("ann").unwrap();
    ann.push("a", 1).ttl(Duration::from_secs(10)).await.unwrap();
    bed.clock.advance(Duration::from_millis(9_999));
    assert_eq!(ann.get::<u8>("a").await.unwrap(), Some(1));
    bed.clock.advance(Duration::from_millis(1));
    assert_eq!(ann.get::<u8>("a").await.unwrap(), None);
    assert!(ann.keys(&Filter::new()).await.unwrap().is_empty());
    assert_eq!(bed.mesh.stats().await.unwrap().expired, 1);
    assert_eq!(bed.mesh.sweep().await.unwrap().deleted, 0, "the grace has not passed");
    bed.clock.advance(Duration::from_secs(60));
    assert_eq!(bed.mesh.sweep().await.unwrap().deleted, 1);
    assert_eq!(bed.mesh.stats().await.unwrap().entries, 0);
    ann.push("a", 2).if_version(Expected::Absent).await.unwrap();
}

#[tokio::test]
async fn a_clock_set_back_brings_nothing_back() {
    let bed = Bed::new().await;
    let ann = bed.mesh.agent("ann").unwrap();
    ann.push("a", 1).ttl(Duration::from_secs(10)).await.unwrap();
    bed.clock.advance(Duration::from_secs(20));
    ann.push("b", 1).await.unwrap();
    bed.clock.jump(START);
    assert_eq!(ann.get::<u8>("a").await.unwrap(), None);
    assert_eq!(bed.again().await.agent("ann").unwrap().get::<u8>("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_clock_that_jumps_pauses_sweeps() {
    let bed = Bed::new().await;
    let ann = bed.mesh.agent("ann").unwrap();
    ann.push("a", 1).ttl(Duration::from_secs(10)).await.unwrap();
    bed.clock.jump(Timestamp(START.0 + 86_400_000));
    let report = bed.mesh.sweep().await.unwrap();
    assert!(report.paused && report.deleted == 0);
    assert_eq!(bed.mesh.stats().await.unwrap().entries, 1, "nothing was deleted by a wrong clock");
}

#[tokio::test]
async fn an_operation_that_is_repeated_is_done_once() {
    let bed = Bed::new().await;
    let ann = bed.mesh.agent("ann").unwrap();
    let first = ann.push("a", 1).operation("op-1").await.unwrap();
    ann.push("a", 2).await.unwrap();
    let again = ann.push("a", 1).operation("op-1").await.unwrap();
    assert_eq!(first.version, again.version);
    assert_eq!(ann.get::<u8>("a").await.unwrap(), Some(2), "the retry wrote nothing");
    let other = ann.push("a", 9).operation("op-1").await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Invalid);
    let restarted = bed.again().await.agent("ann").unwrap();
    assert_eq!(restarted.push("a", 1).operation("op-1").await.unwrap().version, first.version);
    let ben = bed.mesh.agent("ben").unwrap();
    ben.push("b", 1).operation("op-1").await.expect("ids of two agents never meet");
    bed.clock.advance(Duration::from_secs(24 * 3600));
    ann.push("a", 9).operation("op-1").await.expect("an id is free again after 24 hours");
}
