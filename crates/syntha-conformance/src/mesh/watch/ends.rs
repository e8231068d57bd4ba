//! When a watch ends.

use syntha_mesh::{ErrorKind, Guard, WatchConfig};
use syntha_store::ImportMode;

use super::{assert_ends, begun, next, waiting};
use crate::harness::Bed;
use crate::mesh::{checks, erase, kind};

checks![
    watch_ends_with_its_session,
    watch_ends_with_its_agent,
    watch_ends_with_its_user,
    watch_dropped_is_forgotten,
];

async fn watch_ends_with_its_session(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ((guard, revoker), (inner, _)) = (Guard::new(), Guard::new());
    let session = mesh.guarded(guard);
    let mut tasks = Vec::new();
    for mesh in [session.clone(), session.guarded(inner)] {
        let (watch, _) = begun(&mesh.agent("ann").unwrap(), WatchConfig::new()).await;
        tasks.push(waiting(watch).await);
        let mut watch = mesh.watch(WatchConfig::new()).await.unwrap();
        next(&mut watch).await.unwrap();
        tasks.push(waiting(watch).await);
    }
    let (mut queued, _) = begun(&session.agent("ann").unwrap(), WatchConfig::new()).await;
    let mut unread = session.agent("ann").unwrap().watch(WatchConfig::new()).await.unwrap();
    let (mut free, mut view) = begun(&mesh.agent("ann").unwrap(), WatchConfig::new()).await;
    revoker.revoke();
    for task in tasks {
        assert_ends(task, ErrorKind::SessionEnded).await;
    }
    mesh.push("k", 1).await.unwrap();
    for watch in [&mut queued, &mut unread] {
        assert_eq!(kind(next(watch).await), ErrorKind::SessionEnded);
        assert!(watch.next().await.is_none());
    }
    assert_eq!(kind(session.watch(WatchConfig::new()).await), ErrorKind::SessionEnded);
    assert_eq!(view.take(&next(&mut free).await.unwrap()), "k=1");
}

async fn watch_ends_with_its_agent(bed: Bed) {
    let (here, there) = (bed.mesh("a").await, bed.mesh("a").await);
    for mesh in [&here, &there] {
        here.register_agent("ann").await.unwrap();
        let ann = here.agent("ann").unwrap();
        let (watch, _) = begun(&ann, WatchConfig::new()).await;
        let (mut queued, _) = begun(&ann, WatchConfig::new()).await;
        here.push("k", 1).await.unwrap();
        let (waits, _) = begun(&ann, WatchConfig::new()).await;
        let task = waiting(waits).await;
        drop(watch);
        assert!(mesh.agents().await.unwrap().len() == 1 && mesh.unregister_agent("ann").await.unwrap());
        assert_ends(task, ErrorKind::Gone).await;
        // The next bearer of the name is another.
        mesh.register_agent("ann").await.unwrap();
        mesh.push("mail", 1).agents(["ann"]).await.unwrap();
        assert_eq!(kind(next(&mut queued).await), ErrorKind::Gone);
        let successor = here.agent("ann").unwrap();
        let (_watch, view) = begun(&successor, WatchConfig::new()).await;
        assert!(view.known.contains_key("mail"));
        here.unregister_agent("ann").await.unwrap();
    }
}

async fn watch_ends_with_its_user(bed: Bed) {
    for (user, how) in [("a", "erase"), ("b", "restore"), ("c", "retire"), ("d", "retire alone")] {
        let mesh = if how == "retire alone" { bed.only_mesh(user).await } else { bed.mesh(user).await };
        let ann = mesh.agent("ann").unwrap();
        ann.push("k", "secret").await.unwrap();
        let (watch, _) = begun(&ann, WatchConfig::new()).await;
        let (mut queued, _) = begun(&ann, WatchConfig::new()).await;
        let mut unread = ann.watch(WatchConfig::new()).await.unwrap();
        let task = waiting(watch).await;
        match how {
            "erase" => erase(&*bed.store(), bed.tag(user)).await,
            "restore" => {
                let mut snapshot = bed.open(user).await.snapshot().await.unwrap();
                bed.store().import(bed.tag(user), &mut *snapshot, ImportMode::Replace).await.unwrap();
            }
            _ => assert!(mesh.retire()),
        }
        assert_ends(task, ErrorKind::Gone).await;
        for watch in [&mut queued, &mut unread] {
            assert_eq!(kind(next(watch).await), ErrorKind::Gone);
            assert!(watch.next().await.is_none());
        }
    }
}

async fn watch_dropped_is_forgotten(bed: Bed) {
    let opened = bed.mesh_with("a", |config| config.watches = 3).await;
    let ann = opened.agent("ann").unwrap();
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(ann.watch(WatchConfig::new()).await.unwrap());
    }
    assert_eq!(kind(ann.watch(WatchConfig::new()).await), ErrorKind::LimitExceeded);
    assert_eq!(kind(opened.watch(WatchConfig::new()).await), ErrorKind::LimitExceeded);
    for _ in 0..20 {
        watches.pop();
        let (watch, _) = begun(&ann, WatchConfig::new()).await;
        watches.push(watch);
    }
    drop(watches);
    // A watch is a handle of the mesh, and what looks for changes on its behalf is none.
    let mesh = bed.only_mesh("b").await;
    let watch = mesh.watch(WatchConfig::new()).await.unwrap();
    assert!(mesh.is_shared());
    drop(watch);
    assert!(!mesh.is_shared());
}
