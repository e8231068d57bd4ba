//! Expiry, sweeps, clocks.

use std::time::Duration;

use syntha_mesh::{Expected, Filter};
use syntha_store::Timestamp;

use super::{assert_unseen, assert_usage, checks, keys};
use crate::harness::{Bed, START};

checks![
    expired_is_unseen_at_the_instant,
    expired_counts_as_absent,
    expired_survives_no_reopen,
    expired_reveals_no_topic,
    sweep_waits_for_the_grace,
    sweep_spares_the_living,
    sweep_pauses_when_the_clock_jumps,
    clock_set_back_revives_nothing,
];

async fn expired_is_unseen_at_the_instant(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    agent.push("k", 1).ttl(Duration::from_secs(10)).await.unwrap();
    bed.clock().advance(Duration::from_millis(9_999));
    assert_eq!(agent.get::<u8>("k").await.unwrap(), Some(1));
    bed.clock().advance(Duration::from_millis(1));
    assert_unseen(&agent, "k").await;
    assert!(mesh.value("k").await.unwrap().is_none());
    assert!(mesh.entries(&Filter::new()).await.unwrap().is_empty());
    assert_eq!((mesh.size().await.unwrap(), mesh.stats().await.unwrap().expired), (0, 1));
    assert!(!agent.remove("k", None).await.unwrap(), "it is absent already");
}

async fn expired_counts_as_absent(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (ann, ben) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    ann.push("k", 1).agents(["ann"]).ttl(Duration::from_secs(1)).await.unwrap();
    bed.clock().advance(Duration::from_secs(1));
    ben.push("k", 2).if_version(Expected::Absent).await.unwrap();
    let entry = ann.entry("k").await.unwrap().unwrap();
    assert_eq!((entry.json(), entry.created().0), ("2", START.0 + 1_000));
    assert_usage(&mesh).await;
}

async fn expired_survives_no_reopen(mut bed: Bed) {
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    agent.push("k", 1).ttl(Duration::from_secs(10)).await.unwrap();
    agent.push("long", 1).ttl(Duration::from_secs(20)).await.unwrap();
    bed.reopen().await;
    bed.clock().advance(Duration::from_secs(10));
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    assert_unseen(&agent, "k").await;
    assert_eq!(keys(&agent).await, ["long"]);
}

async fn expired_reveals_no_topic(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    agent.push("k", 1).topic("t").ttl(Duration::from_secs(1)).await.unwrap();
    assert_eq!(agent.discover().await.unwrap().len(), 1);
    bed.clock().advance(Duration::from_secs(1));
    assert!(agent.discover().await.unwrap().is_empty());
    assert_eq!(mesh.stats().await.unwrap().topics, 0);
}

async fn sweep_waits_for_the_grace(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    agent.push("k", 1).ttl(Duration::from_secs(10)).await.unwrap();
    bed.clock().advance(Duration::from_millis(69_999));
    assert_eq!(mesh.sweep().await.unwrap().deleted, 0);
    assert_eq!(mesh.stats().await.unwrap().entries, 1);
    bed.clock().advance(Duration::from_millis(1));
    assert_eq!(mesh.sweep().await.unwrap().deleted, 1);
    for mesh in [mesh, bed.mesh("a").await] {
        assert_eq!(mesh.stats().await.unwrap().entries, 0);
        assert_usage(&mesh).await;
    }
}

async fn sweep_spares_the_living(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    agent.push("for ever", 1).await.unwrap();
    agent.push("long", 1).ttl(Duration::from_secs(3_600)).await.unwrap();
    agent.push("renewed", 1).ttl(Duration::from_secs(1)).await.unwrap();
    agent.push("renewed", 2).await.unwrap();
    bed.clock().advance(Duration::from_secs(1_000));
    assert_eq!(mesh.sweep().await.unwrap().deleted, 0);
    assert_eq!(keys(&agent).await, ["for ever", "long", "renewed"]);
}

async fn sweep_pauses_when_the_clock_jumps(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.agent("ann").unwrap().push("k", 1).ttl(Duration::from_secs(10)).await.unwrap();
    bed.clock().jump(Timestamp(START.0 + 86_400_000));
    let report = mesh.sweep().await.unwrap();
    assert!(report.paused && report.deleted == 0);
    assert_eq!(mesh.stats().await.unwrap().entries, 1);
}

async fn clock_set_back_revives_nothing(mut bed: Bed) {
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    agent.push("k", 1).ttl(Duration::from_secs(10)).await.unwrap();
    bed.clock().advance(Duration::from_secs(20));
    agent.push("later", 1).await.unwrap();
    bed.clock().jump(START);
    assert_unseen(&agent, "k").await;
    bed.reopen().await;
    assert_unseen(&bed.mesh("a").await.agent("ann").unwrap(), "k").await;
}
