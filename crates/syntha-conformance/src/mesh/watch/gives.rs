//! What a watch gives, and in which order.

use std::sync::Arc;
use std::time::Duration;

use syntha_mesh::{ErrorKind, SystemClock, Topic, WatchConfig, WatchEvent};

use super::{PATIENCE, View, begun, next, waiting};
use crate::harness::Bed;
use crate::mesh::{checks, kind};

checks![
    watch_gives_a_snapshot_then_every_change,
    watch_gives_a_batch_whole,
    watch_says_what_was_removed,
    watch_says_what_expired,
    watch_lagged_resumes,
    watch_reads_values_that_left_memory,
    watch_hears_other_handles,
    watch_waits_without_losing,
    watch_keeps_to_what_it_wants,
    watch_of_the_host_sees_everything,
];

async fn watch_gives_a_snapshot_then_every_change(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let (ann, ben) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    for key in ["b", "a", "c"] {
        ann.push(key, key).await.unwrap();
    }
    ann.push("hidden", 1).agents(["ben"]).await.unwrap();
    let mut watch = ann.watch(WatchConfig::new()).await.unwrap();
    let mut view = View::default();
    let first = next(&mut watch).await.unwrap();
    assert!(matches!(first, WatchEvent::Snapshot(_)));
    assert_eq!(view.take(&first), r#"a="a" b="b" c="c""#);
    let mut told = Vec::new();
    for n in 0..60 {
        let key = ["a", "b", "new"][n % 3];
        ben.push(key, n).await.unwrap();
        told.push(format!("{key}={n}"));
        ben.push("hidden", n).agents(["ben"]).await.unwrap();
    }
    assert_eq!(view.drain(&mesh, &mut watch).await, told);
    view.assert_equals(&ann).await;
    view.values.drain(..3);
    view.assert_in_order();
    let mut later = mesh.agent("cat").unwrap().watch(WatchConfig::new()).await.unwrap();
    let mut view = View::default();
    view.take(&next(&mut later).await.unwrap());
    view.assert_equals(&mesh.agent("cat").unwrap()).await;
}

async fn watch_gives_a_batch_whole(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    let mut batch = ann.batch();
    for n in 0..20 {
        batch = batch.push(format!("k{n:02}"), n);
    }
    batch.commit().await.unwrap();
    let mut told = view.drain(&mesh, &mut watch).await;
    told.sort_unstable();
    assert_eq!(told, (0..20).map(|n| format!("k{n:02}={n}")).collect::<Vec<_>>());
    view.assert_in_order();
}

async fn watch_says_what_was_removed(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.subscribe(["t"]).await.unwrap();
    for key in ["a", "b", "c"] {
        ann.push(key, 1).await.unwrap();
    }
    mesh.push("t", 1).topic("t").await.unwrap();
    mesh.push("both", 1).topic("t").agents(["ann"]).await.unwrap();
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    mesh.remove("a").await.unwrap();
    ann.batch().remove("b").push("c", 2).commit().await.unwrap();
    let mut told = view.drain(&mesh, &mut watch).await;
    told.sort_unstable();
    assert_eq!(told, ["-a", "-b", "c=2"]);
    mesh.delete_topic("t").await.unwrap();
    let mut told = view.drain(&mesh, &mut watch).await;
    told.sort_unstable();
    assert_eq!(told, ["-t", "both=1"]);
    mesh.push("queued", 1).await.unwrap();
    mesh.clear().await.unwrap();
    mesh.push("c", 3).await.unwrap();
    let told = view.drain(&mesh, &mut watch).await;
    assert!(!told.contains(&"queued=1".to_owned()), "it was given what was removed already");
    assert_eq!(told.last().unwrap(), "c=3");
    view.assert_equals(&ann).await;
}

async fn watch_says_what_expired(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("early", 1).ttl(Duration::from_secs(5)).await.unwrap();
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    ann.push("late", 1).ttl(Duration::from_secs(10)).await.unwrap();
    assert_eq!(view.drain(&mesh, &mut watch).await, ["late=1"]);
    ann.push("unread", 1).ttl(Duration::from_secs(5)).await.unwrap();
    bed.clock().advance(Duration::from_secs(5));
    assert_eq!(view.drain(&mesh, &mut watch).await, ["-early"]);
    ann.push("late", 2).await.unwrap();
    bed.clock().advance(Duration::from_secs(100));
    assert_eq!(view.drain(&mesh, &mut watch).await, ["-late", "late=2"]);
    assert!(mesh.sweep().await.unwrap().deleted > 0);
    assert!(view.drain(&mesh, &mut watch).await.is_empty(), "a sweep takes what was gone");
    // With a clock that goes by itself, nothing else must happen.
    let mesh = bed.mesh_with("b", |config| config.clock = Arc::new(SystemClock)).await;
    let ann = mesh.agent("ann").unwrap();
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    ann.push("short", 1).ttl(Duration::from_millis(200)).await.unwrap();
    assert_eq!(view.take(&next(&mut watch).await.unwrap()), "short=1");
    assert_eq!(view.take(&next(&mut watch).await.unwrap()), "-short");
}

async fn watch_lagged_resumes(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    for (config, lost) in [(WatchConfig::new().changes(4), 42), (WatchConfig::new().bytes(1_000), 42)] {
        mesh.clear().await.unwrap();
        mesh.push("first", 0).await.unwrap();
        mesh.push("stays", 0).await.unwrap();
        let (mut watch, mut view) = begun(&ann, config).await;
        mesh.remove("first").await.unwrap();
        for n in 0..40 {
            mesh.push(format!("k{n}"), "x".repeat(100)).await.unwrap();
        }
        mesh.remove("k7").await.unwrap();
        assert!(matches!(next(&mut watch).await.unwrap(), WatchEvent::Lagged { missed } if missed == lost));
        mesh.push("k8", 8).await.unwrap();
        view.drain(&mesh, &mut watch).await;
        assert_eq!((view.known.len(), view.lagged), (41, 0));
        view.assert_equals(&ann).await;
        view.values.drain(..2);
        view.assert_in_order();
        // And again, without having read what was due.
        for n in 0..100 {
            mesh.push(format!("k{}", n % 10), format!("{n:100}")).await.unwrap();
            if n == 50 {
                view.take(&next(&mut watch).await.unwrap());
            }
        }
        view.drain(&mesh, &mut watch).await;
        assert!(view.lagged > 0);
        view.assert_equals(&ann).await;
    }
}

async fn watch_reads_values_that_left_memory(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.cache_bytes = 0).await;
    let (ann, other) = (mesh.agent("ann").unwrap(), bed.mesh("a").await);
    for n in 0..30 {
        other.push(format!("k{n:02}"), n).topic("t").await.unwrap();
    }
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    ann.subscribe(["t"]).await.unwrap();
    assert_eq!(
        view.drain(&other, &mut watch).await,
        (0..30).map(|n| format!("k{n:02}={n}")).collect::<Vec<_>>()
    );
    other.push("k00", 100).topic("t").await.unwrap();
    assert_eq!(view.drain(&other, &mut watch).await, ["k00=100"]);
    view.assert_equals(&ann).await;
}

/// Nobody asks the watching handle anything: it looks for itself.
async fn watch_hears_other_handles(bed: Bed) {
    let (here, there) = (bed.mesh("a").await, bed.mesh("a").await);
    let ann = here.agent("ann").unwrap();
    there.register_agent("ann").await.unwrap();
    let (watch, mut view) = begun(&ann, WatchConfig::new()).await;
    let mut watch = Some(watch);
    let there_ann = there.agent("ann").unwrap();
    there.push("news", 0).topic("t").await.unwrap();
    for step in 0..7 {
        let task = waiting(watch.take().unwrap()).await;
        let told = match step {
            0 => {
                there.push("k", 1).await.unwrap();
                "k=1"
            }
            1 => {
                there.push("k", 2).restricted().await.unwrap();
                "-k"
            }
            2 => {
                there_ann.subscribe(["t"]).await.unwrap();
                "news=0"
            }
            3 => {
                there.remove("news").await.unwrap();
                "-news"
            }
            4 => {
                there.push("k", 3).await.unwrap();
                "k=3"
            }
            5 => {
                there.clear().await.unwrap();
                "-k"
            }
            _ => {
                here.push("own", 1).await.unwrap();
                "own=1"
            }
        };
        let (again, event) = tokio::time::timeout(PATIENCE, task).await.expect("it sleeps on").unwrap();
        assert_eq!(view.take(&event.unwrap().unwrap()), told);
        watch = Some(again);
    }
    let mut watch = watch.unwrap();
    // More than a change log holds: then it compares.
    for n in 0..300 {
        let mut batch = there.batch();
        for m in 0..20 {
            batch = batch.push(format!("k{}", (n * 20 + m) % 500), n);
        }
        batch.commit().await.unwrap();
    }
    there.remove("k3").await.unwrap();
    view.drain(&there, &mut watch).await;
    view.assert_equals(&ann).await;
}

/// A reader that gives up waiting again and again misses nothing.
async fn watch_waits_without_losing(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    let mut watch = ann.watch(WatchConfig::new()).await.unwrap();
    let writer = tokio::spawn(async move {
        for n in 0..200 {
            mesh.push("k", n).await.unwrap();
        }
    });
    let mut values = Vec::new();
    while values.last() != Some(&199) {
        let Ok(event) = tokio::time::timeout(Duration::ZERO, watch.next()).await else {
            tokio::task::yield_now().await;
            continue;
        };
        match event.unwrap().unwrap() {
            WatchEvent::Snapshot(entries) => {
                values.extend(entries.iter().map(|one| one.value::<i32>().unwrap()))
            }
            WatchEvent::Put(entry) => values.push(entry.value::<i32>().unwrap()),
            other => panic!("{other:?}"),
        }
    }
    writer.await.unwrap();
    assert!(values.windows(2).all(|pair| pair[1] == pair[0] + 1), "{values:?}");
}

async fn watch_keeps_to_what_it_wants(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.subscribe(["x", "y"]).await.unwrap();
    mesh.push("plan/old", 0).topic("x").await.unwrap();
    mesh.push("else", 0).topic("x").await.unwrap();
    let topic = Topic::new("x").unwrap();
    let mut watch = ann.watch(WatchConfig::new().prefix("plan/").topic(&topic)).await.unwrap();
    let mut view = View::default();
    assert_eq!(view.take(&next(&mut watch).await.unwrap()), "plan/old=0");
    mesh.push("else", 1).topic("x").await.unwrap();
    mesh.push("plan/a", 1).topic("x").await.unwrap();
    mesh.push("plan/b", 1).topic("y").await.unwrap();
    mesh.push("plan/old", 1).topic("y").await.unwrap();
    mesh.push("plan/c", 1).topics(["x", "y"]).await.unwrap();
    for told in ["plan/a=1", "-plan/old", "plan/c=1"] {
        assert_eq!(view.take(&next(&mut watch).await.unwrap()), told);
    }
    for config in [
        WatchConfig::new().changes(0),
        WatchConfig::new().changes(65_537),
        WatchConfig::new().bytes(0),
        WatchConfig::new().bytes((64 << 20) + 1),
    ] {
        assert_eq!(kind(ann.watch(config).await), ErrorKind::Invalid);
    }
}

async fn watch_of_the_host_sees_everything(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("old", 1).restricted().await.unwrap();
    let (mut watch, mut view) = (mesh.watch(WatchConfig::new()).await.unwrap(), View::default());
    assert_eq!(view.take(&next(&mut watch).await.unwrap()), "old=1");
    ann.push("k", 1).agents(["ben"]).await.unwrap();
    ann.push("t", 1).topic("t").await.unwrap();
    mesh.remove("old").await.unwrap();
    assert_eq!(view.drain(&mesh, &mut watch).await, ["k=1", "t=1", "-old"]);
}
