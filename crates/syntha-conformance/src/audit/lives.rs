//! Chains over erasures and restores.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use syntha_audit::AuditedStore;
use syntha_audit::link::{Kind, Trace};
use syntha_store::{
    ChainHead, CreateMode, ErrorKind, ImportMode, Incarnation, Keyspace, MemoryStore, Result, Snapshot,
    Store, StoredRecord, UserState, UserTag, archive,
};

use super::{Trail, chain, checks, event, events, filled};
use crate::harness::Bed;
use crate::store::{batch, kind, put, record_body};

checks![
    audit_new_life_begins_at_genesis,
    audit_restore_goes_on,
    audit_restore_of_nobody_goes_on_with_the_archives,
    audit_restore_of_another_chain_refused,
];

async fn audit_new_life_begins_at_genesis(bed: Bed) {
    filled(&bed, "a").await;
    let before = Trail::of(&bed, "a").await;
    bed.store().erase(bed.tag("a")).await.unwrap();
    let first = put(batch(), "who", "again");
    let (user, commit) = bed.store().create(bed.tag("a"), first, CreateMode::Recreate).await.unwrap();
    let trail = Trail::of(&bed, "a").await;
    assert_eq!((trail.links.len(), trail.last().kind, commit.chain.seq), (1, Kind::Create, 1));
    assert_ne!(trail.key, before.key);
    trail.assert_whole();
    user.commit(put(batch(), "k", "1")).await.unwrap();
    Trail::of(&bed, "a").await.assert_whole();
}

/// Whether the links after some are of a restore, and list what the data holds now.
fn assert_restored(trail: &Trail, after: usize) {
    let own = &trail.links[after..];
    assert!(
        !own.is_empty() && own.iter().all(|link| link.kind == Kind::Restore),
        "the rest is of the restore"
    );
    let listed = own.iter().flat_map(|link| &link.changes);
    assert!(listed.clone().all(|trace| matches!(trace, Trace::Held { .. })));
    assert_eq!(listed.count(), trail.records.len(), "it lists each record");
    trail.assert_whole();
}

async fn audit_restore_goes_on(mut bed: Bed) {
    let user = filled(&bed, "a").await;
    let mut bytes = Vec::new();
    archive::write(&mut *user.snapshot().await.unwrap(), &mut bytes).await.unwrap();
    user.commit(put(batch(), "k", "later")).await.unwrap();
    user.commit(batch().events(events(&[event("agent", "k")]))).await.unwrap();
    let before = Trail::of(&bed, "a").await;
    for round in 0..2 {
        let mut reader = archive::Reader::open(bytes.as_slice()).unwrap();
        let known = Trail::of(&bed, "a").await;
        bed.store().import(bed.tag("a"), &mut reader, ImportMode::Replace).await.unwrap();
        let trail = Trail::of(&bed, "a").await;
        assert_eq!(trail.links[..known.links.len()], known.links);
        assert_eq!(trail.stored[..known.links.len()], known.stored);
        assert_eq!(trail.key, before.key);
        assert_eq!(trail.lives().len(), round + 2);
        assert_restored(&trail, known.links.len());
    }
    bed.reopen().await;
    let user = bed.open("a").await;
    assert_eq!(record_body(&*user, "k").await.as_deref(), Some("2"));
    user.commit(put(batch(), "k", "3")).await.unwrap();
    Trail::of(&bed, "a").await.assert_whole();
}

/// A whole snapshot, to be changed.
struct Whole {
    owner: UserTag,
    state: UserState,
    records: Option<Vec<StoredRecord>>,
}

impl Whole {
    async fn of(mut snapshot: Box<dyn Snapshot>) -> Self {
        let mut records = Vec::new();
        while let Some(chunk) = snapshot.next().await.unwrap() {
            records.extend(chunk);
        }
        Self { owner: snapshot.owner(), state: snapshot.state(), records: Some(records) }
    }
}

#[async_trait]
impl Snapshot for Whole {
    fn owner(&self) -> UserTag {
        self.owner
    }

    fn state(&self) -> UserState {
        self.state
    }

    fn life(&self) -> Option<Incarnation> {
        None
    }

    fn follows(&self) -> Option<ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        Ok(self.records.take())
    }
}

/// A snapshot of a user of the same deployment, who is nowhere else.
async fn elsewhere(bed: &Bed, user: &str) -> Whole {
    let memory = Arc::new(MemoryStore::with_key(bed.key()).unwrap());
    let store = AuditedStore::new(memory, bed.key().fingerprint()).unwrap();
    let first = put(batch(), "who", user);
    let (handle, _) = store.create(bed.tag(user), first, CreateMode::New).await.unwrap();
    for batch in chain::batches() {
        handle.commit(batch).await.unwrap();
    }
    handle.commit(batch().events(events(&[event("agent", "k")]))).await.unwrap();
    Whole::of(handle.snapshot().await.unwrap()).await
}

async fn audit_restore_of_nobody_goes_on_with_the_archives(bed: Bed) {
    let mut whole = elsewhere(&bed, "a").await;
    let links = whole.state.chain.seq as usize;
    let own = |stored: &&StoredRecord| stored.space == Keyspace::Audit;
    let archived: Vec<_> = whole.records.as_ref().unwrap().iter().filter(own).cloned().collect();
    bed.store().import(bed.tag("a"), &mut whole, ImportMode::New).await.unwrap();
    let trail = Trail::of(&bed, "a").await;
    assert_restored(&trail, links);
    for stored in archived {
        let (id, body) = (stored.record.head.id, stored.record.body.0);
        match usize::try_from(id.seq()).unwrap().checked_sub(1) {
            Some(at) => assert_eq!(trail.stored[at].encode(), body),
            None => assert_eq!(trail.key, body),
        }
    }
    let user = bed.open("a").await;
    assert_eq!(record_body(&*user, "who").await.as_deref(), Some("a"));
    user.commit(put(batch(), "k", "3")).await.unwrap();
    Trail::of(&bed, "a").await.assert_whole();
}

type Spoil = fn(&mut Whole);

/// Spoils the audit records of a snapshot, in the order of their numbers, the key last.
fn with_own(whole: &mut Whole, spoil: impl FnOnce(&mut Vec<StoredRecord>)) {
    let records = whole.records.take().unwrap();
    let (mut own, mut other): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|stored| stored.space == Keyspace::Audit);
    spoil(&mut own);
    other.extend(own);
    whole.records = Some(other);
}

fn flip(stored: &mut StoredRecord, at: usize) {
    let mut body = stored.record.body.to_vec();
    body[at] ^= 1;
    stored.record.body = syntha_store::Body(Bytes::from(body));
}

const SPOILS: &[(&str, Spoil)] = &[
    ("the last link is gone", |whole| with_own(whole, |own| drop(own.remove(own.len() - 2)))),
    ("the first link is gone", |whole| with_own(whole, |own| drop(own.remove(0)))),
    ("one between is gone", |whole| with_own(whole, |own| drop(own.remove(3)))),
    ("the key is gone", |whole| with_own(whole, |own| drop(own.pop()))),
    ("all are gone", |whole| with_own(whole, Vec::clear)),
    ("links alone are gone", |whole| {
        with_own(whole, |own| own.retain(|stored| stored.record.head.id.seq() == 0))
    }),
    ("the time of a link is another", |whole| {
        with_own(whole, |own| flip(&mut own[2], 4 + 3 + 8 + 16 + 8 + 7))
    }),
    ("the last trace is another", |whole| {
        with_own(whole, |own| {
            let last = own[2].record.body.len() - 1;
            flip(&mut own[2], last);
        })
    }),
    ("two have changed places", |whole| {
        with_own(whole, |own| {
            let body = own[2].record.body.clone();
            own[2].record.body = std::mem::replace(&mut own[3].record.body, body);
        })
    }),
    ("one stands twice", |whole| {
        with_own(whole, |own| {
            let again = own[own.len() - 2].clone();
            own.insert(own.len() - 1, again);
        })
    }),
    ("the row names an earlier link", |whole| whole.state.chain.seq -= 1),
    ("the row names another hash", |whole| whole.state.chain.head[31] ^= 1),
    ("the row names no chain", |whole| whole.state.chain = ChainHead::default()),
];

async fn audit_restore_of_another_chain_refused(bed: Bed) {
    let user = filled(&bed, "a").await;
    let before = user.state().await.unwrap();
    for (why, spoil) in SPOILS {
        let mut whole = Whole::of(user.snapshot().await.unwrap()).await;
        spoil(&mut whole);
        let refused = bed.store().import(bed.tag("a"), &mut whole, ImportMode::Replace).await;
        assert_eq!(kind(refused), ErrorKind::Corrupt, "{why}");
        assert_eq!(user.state().await.unwrap(), before, "{why}");
        let mut whole = elsewhere(&bed, "b").await;
        spoil(&mut whole);
        let refused = bed.store().import(bed.tag("b"), &mut whole, ImportMode::New).await;
        assert_eq!(kind(refused), ErrorKind::Corrupt, "{why}, and nothing is there");
        assert_eq!(kind(bed.store().open(bed.tag("b")).await), ErrorKind::NotFound, "{why}");
    }
    Trail::of(&bed, "a").await.assert_whole();
}
