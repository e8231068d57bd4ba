//! A trail that comes near its limit is told less of each read and refusal; at it, nothing is done that can't be told.

use std::sync::Arc;

use syntha_audit::link::StoredLink;
use syntha_audit::{AuditedStore, MemorySigner};
use syntha_mesh::{ErrorKind, Mesh, MeshConfig, Opening};
use syntha_store::{
    Action, Batch, CreateMode, Event, Keyspace, MemoryStore, Scan, Store, Timestamp, UserId, UserTag,
    Verdict, decode_events,
};

struct Bed {
    store: AuditedStore<MemoryStore>,
    tag: UserTag,
    mesh: Mesh,
}

impl Bed {
    async fn new() -> Self {
        let memory = MemoryStore::new().unwrap();
        let (tag, print) = (
            memory.deployment_key().tag(&UserId::new("alice").unwrap()),
            memory.deployment_key().fingerprint(),
        );
        let store = AuditedStore::new(Arc::new(memory), print).unwrap().trail_limit(64 * 1024);
        let store = store.signer(Arc::new(MemorySigner::new(&print).unwrap()));
        let first = Batch::new(Timestamp(1)).unwrap();
        let (user, _) = store.create(tag, first, CreateMode::New).await.unwrap();
        let mesh = Mesh::open(user, Opening::new().audited(true), MeshConfig::default()).await.unwrap();
        Self { store, tag, mesh }
    }

    async fn is_tight(&self) -> bool {
        self.store.trail_size(self.tag).await.unwrap().is_tight()
    }

    /// The events of links after one.
    async fn events(&self, after: u64) -> Vec<Event> {
        let user = self.store.inner().open(self.tag).await.unwrap();
        let scan = Scan::records(Keyspace::Audit, 10_000).name(bytes::Bytes::new());
        let links = user.scan(scan).await.unwrap().value.records;
        let links = links.into_iter().filter(|(head, _)| head.id.seq() > after);
        let events = |(_, body): (_, Option<bytes::Bytes>)| {
            let details = StoredLink::decode(&body.unwrap()).unwrap().details;
            details.map(|(_, details)| decode_events(&details).unwrap()).unwrap_or_default()
        };
        links.flat_map(events).collect()
    }

    async fn end(&self) -> u64 {
        self.store.inner().open(self.tag).await.unwrap().state().await.unwrap().chain.seq
    }
}

/// Of an action with this end: how many entries, how often in all, and whether one says on what.
fn of(events: &[Event], action: Action, verdict: Verdict) -> (usize, u64, bool) {
    let found: Vec<_> =
        events.iter().filter(|event| (event.action, event.verdict) == (action, verdict)).collect();
    (
        found.len(),
        found.iter().map(|event| event.count).sum(),
        found.iter().any(|event| event.target.is_some()),
    )
}

#[tokio::test]
async fn reads_and_refusals_are_coalesced_near_the_limit_and_refused_at_it() {
    let bed = Bed::new().await;
    let (ann, ben) = (bed.mesh.agent("ann").unwrap(), bed.mesh.agent("ben").unwrap());
    for key in 0..20 {
        bed.mesh.push(format!("own-{key}").as_str(), 1).restricted().await.unwrap();
        ann.push(format!("key-{key}").as_str(), 1).await.unwrap();
    }
    bed.mesh.flush_audit().await.unwrap();
    // With room, each entry that is read is named.
    let before = bed.end().await;
    for key in 0..20 {
        ann.get::<u8>(&format!("key-{key}")).await.unwrap();
    }
    bed.mesh.flush_audit().await.unwrap();
    assert_eq!(of(&bed.events(before).await, Action::Read, Verdict::Done), (20, 20, true));
    while !bed.is_tight().await {
        ann.push("filling", 1).await.unwrap();
    }
    bed.mesh.flush_audit().await.unwrap();
    ann.push("filling", 1).await.unwrap();
    // Near the limit one entry tells of all of them, by agent.
    let before = bed.end().await;
    for key in 0..20 {
        for agent in [&ann, &ben] {
            agent.get::<u8>(&format!("key-{key}")).await.unwrap();
            let refused = agent.push(format!("own-{key}").as_str(), 2).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Denied);
        }
    }
    bed.mesh.flush_audit().await.unwrap();
    let events = bed.events(before).await;
    assert_eq!(of(&events, Action::Read, Verdict::Done), (2, 40, false), "{events:?}");
    assert_eq!(of(&events, Action::Push, Verdict::Denied), (2, 40, false), "{events:?}");
    // At it a change is refused, and a read as well.
    let refused = loop {
        match ann.push("filling", 1).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::AuditUnavailable);
    assert!(refused.message().contains("prune"), "{refused}");
    // What is shorter than the push may still fit.
    while bed.mesh.flush_audit().await.is_ok() && ann.get::<u8>("key-1").await.is_ok() {}
    let before = bed.end().await;
    for _ in 0..3 {
        let refused = ann.get::<u8>("key-1").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AuditUnavailable);
        assert!(refused.message().contains("prune"), "{refused}");
        assert_eq!(ann.push("own-1", 2).await.unwrap_err().kind(), ErrorKind::Denied);
    }
    assert!(bed.mesh.flush_audit().await.is_err());
    // It is pruned: it goes on, and tells of the refusals that could not be told.
    bed.store.prune(bed.tag, before - 20).await.unwrap();
    bed.mesh.flush_audit().await.unwrap();
    assert_eq!(ann.get::<u8>("key-1").await.unwrap(), Some(1));
    ann.push("filling", 1).await.unwrap();
    bed.mesh.flush_audit().await.unwrap();
    let events = bed.events(before).await;
    assert_eq!(of(&events, Action::Push, Verdict::Denied).1, 3, "{events:?}");
    // And of the last read that was given before.
    assert!((1..=2).contains(&of(&events, Action::Read, Verdict::Done).1), "{events:?}");
    // With room again, each is named again.
    let before = bed.end().await;
    for key in 0..5 {
        ann.get::<u8>(&format!("key-{key}")).await.unwrap();
    }
    bed.mesh.flush_audit().await.unwrap();
    assert_eq!(of(&bed.events(before).await, Action::Read, Verdict::Done), (5, 5, true));
}
