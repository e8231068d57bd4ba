//! What goes: users, and old links.

use syntha_audit::leaf::LeafKind;
use syntha_audit::link::Kind;
use syntha_audit::{Behaviour, Delivery, MemorySink};
use syntha_store::{CreateMode, ErrorKind, Keyspace, RecordId, Scan, Store};

use crate::{LONG, Memory, batch, commits, create, tag};

fn delivered(sink: &MemorySink, owner: u8) -> Vec<u64> {
    let seq = |entry: &Delivery| match entry {
        Delivery::Link { owner: of, seq, .. } if *of == [owner; 32] => Some(*seq),
        _ => None,
    };
    sink.taken().iter().filter_map(seq).collect()
}

#[tokio::test(start_paused = true)]
async fn an_erasure_ships_first_and_is_logged() {
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    let store = bed.open(&[&sink]).bounds(1_000, LONG);
    let user = create(&store, 1).await;
    commits(&user, 20).await;
    sink.behave(Behaviour::Fail);
    assert_eq!(store.erase(tag(1)).await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    // It is still there, and goes on.
    commits(&user, 1).await;
    sink.behave(Behaviour::Take);
    let end = user.state().await.unwrap().chain;
    assert!(store.erase(tag(1)).await.unwrap().removed);
    assert_eq!(delivered(&sink, 1), (1..=end.seq).collect::<Vec<_>>());
    let (index, leaf) = store.last_leaf(&[1; 32]).await.unwrap().unwrap();
    assert_eq!((leaf.kind, leaf.chain), (LeafKind::Erased, end));
    // Again is done.
    store.erase(tag(1)).await.unwrap();
    assert_eq!(store.last_leaf(&[1; 32]).await.unwrap().unwrap().0, index);
    assert_eq!(store.erase(tag(7)).await.unwrap_err().kind(), ErrorKind::NotFound);
    // Made again, the chain starts anew.
    let (user, _) = store.create(tag(1), batch("again"), CreateMode::Recreate).await.unwrap();
    commits(&user, 2).await;
    store.checkpoint().await.unwrap();
    store.shipped().await.unwrap();
    let (_, leaf) = store.last_leaf(&[1; 32]).await.unwrap().unwrap();
    assert_eq!((leaf.kind, leaf.chain.seq), (LeafKind::Head, 3));
    assert_eq!(delivered(&sink, 1), (1..=end.seq).chain(1..=3).collect::<Vec<_>>());
    store.open(tag(1)).await.unwrap();
    assert_eq!(store.backlog().sinks, [("one".to_owned(), 0)]);
}

#[tokio::test]
async fn an_erasure_that_was_cut_off_is_logged_when_it_is_done_again() {
    let bed = Memory::new();
    let store = bed.open(&[]);
    create(&store, 1).await;
    create(&store, 2).await;
    store.checkpoint().await.unwrap();
    let raw = bed.raw();
    raw.erase(tag(1)).await.unwrap();
    raw.erase(tag(2)).await.unwrap();
    let store = bed.open(&[]);
    store.erase(tag(1)).await.unwrap();
    assert_eq!(store.last_leaf(&[1; 32]).await.unwrap().unwrap().1.kind, LeafKind::Erased);
    store.create(tag(2), batch("again"), CreateMode::Recreate).await.unwrap();
    store.checkpoint().await.unwrap();
    assert_eq!(store.last_leaf(&[2; 32]).await.unwrap().unwrap().1.kind, LeafKind::Head);
    store.open(tag(2)).await.unwrap();
}

#[tokio::test]
async fn a_prune_leaves_what_the_log_says() {
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    let store = bed.open(&[&sink]).bounds(1_000, LONG);
    let user = create(&store, 1).await;
    commits(&user, 150).await;
    assert_eq!(store.prune(tag(1), 1_000).await.unwrap_err().kind(), ErrorKind::Invalid);
    let pruned = store.prune(tag(1), 100).await.unwrap();
    assert_eq!((pruned.links, pruned.first), (99, 100));
    let left = user.scan(Scan::records(Keyspace::Audit, 1_000).name("")).await.unwrap().value.records;
    assert_eq!(left.first().unwrap().0.id, RecordId::new("", 100).unwrap());
    // What is left follows from the hash that the log has, to the chain's end.
    let end = user.state().await.unwrap().chain;
    let mut chain = syntha_store::ChainHead { seq: 99, head: pruned.before };
    let mut kinds = Vec::new();
    for (_, body) in left {
        let link = syntha_audit::link::StoredLink::decode(&body.unwrap()).unwrap();
        let (link, next) = link.follow(chain).unwrap();
        kinds.push(link.kind);
        chain = next;
    }
    assert_eq!(chain, end);
    assert_eq!(kinds.last(), Some(&Kind::Snapshot));
    let mut floors = Vec::new();
    for index in 0..store.checkpoint().await.unwrap().head.size {
        let leaf = store.leaf(index).await.unwrap();
        if leaf.kind == LeafKind::Floor {
            floors.push((leaf.chain.seq, leaf.chain.head));
        }
    }
    assert_eq!(floors, [(100, pruned.before)]);
    // All of it is outside.
    assert_eq!(delivered(&sink, 1), (1..=end.seq).collect::<Vec<_>>());
    // Again from there, after a reopen.
    let store = bed.open(&[&sink]);
    commits(&store.open(tag(1)).await.unwrap(), 10).await;
    assert_eq!(store.prune(tag(1), 50).await.unwrap().links, 0);
    assert_eq!(store.prune(tag(1), 120).await.unwrap().links, 20);
    commits(&store.open(tag(1)).await.unwrap(), 10).await;
    store.checkpoint().await.unwrap();
    store.shipped().await.unwrap();
    assert_eq!(store.catch_up().await.unwrap(), 0);
    assert_eq!(store.backlog().broken, 0);
}

/// What is left of a chain says nothing of records that were written before it, until a snapshot does.
#[tokio::test]
async fn a_pruned_chain_verifies_and_is_what_the_data_is() {
    let bed = Memory::new();
    let store = bed.open(&[]);
    let user = create(&store, 1).await;
    for key in 0..10_u8 {
        let record = RecordId::new(vec![b'r', key], 0).unwrap();
        let put = syntha_store::Batch::new(syntha_store::Timestamp(1)).unwrap();
        user.commit(put.put(Keyspace::Context, record, "", "1")).await.unwrap();
    }
    for (before, first) in [(6, 6), (9, 9)] {
        assert_eq!(store.prune(tag(1), before).await.unwrap().first, first);
        commits(&user, 3).await;
        let floor = store.floor(tag(1)).await.unwrap();
        assert_eq!(floor.unwrap().seq, first);
        let report = store.replay(tag(1), floor).await.unwrap();
        assert!(report.is_clean() && report.records >= 10, "{report:?}");
        let mut file = Vec::new();
        store.export(&syntha_audit::Whose::All, false, &mut file).await.unwrap();
        let keys = store.trusted_keys().await.unwrap();
        let mut verifier = syntha_audit::verify::Verifier::new(keys).scope(syntha_audit::verify::Scope::All);
        verifier.read(std::io::Cursor::new(file)).unwrap();
        let report = verifier.finish();
        assert_eq!(report.verdict(), syntha_audit::verify::Verdict::Clean, "{report:?}");
    }
}

/// A pruned chain in an archive goes on where there is no data and no log that knows of it, and verifies there.
#[tokio::test]
async fn a_pruned_chain_goes_on_in_another_place() {
    let bed = Memory::new();
    let store = bed.open(&[]);
    let user = create(&store, 1).await;
    commits(&user, 20).await;
    store.prune(tag(1), 10).await.unwrap();
    let mut archive = store.open(tag(1)).await.unwrap().snapshot().await.unwrap();
    let other = Memory::new();
    let restored = other.open(&[]);
    restored.import(tag(1), &mut *archive, syntha_store::ImportMode::New).await.unwrap();
    let floor = restored.floor(tag(1)).await.unwrap();
    assert_eq!(floor.unwrap().seq, 10);
    assert!(restored.replay(tag(1), floor).await.unwrap().is_clean());
    let mut file = Vec::new();
    restored.export(&syntha_audit::Whose::All, false, &mut file).await.unwrap();
    let keys = restored.trusted_keys().await.unwrap();
    let mut verifier = syntha_audit::verify::Verifier::new(keys).scope(syntha_audit::verify::Scope::All);
    verifier.read(std::io::Cursor::new(file)).unwrap();
    let report = verifier.finish();
    assert_eq!(report.verdict(), syntha_audit::verify::Verdict::Clean, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pruned_that_is_not_outside() {
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    sink.behave(Behaviour::Fail);
    let store = bed.open(&[&sink]).bounds(1_000, LONG);
    let user = create(&store, 1).await;
    commits(&user, 50).await;
    assert_eq!(store.prune(tag(1), 40).await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    let left = user.scan(Scan::heads(Keyspace::Audit, 1_000).name("")).await.unwrap().value.records;
    assert_eq!(left.first().unwrap().0.id.seq(), 1);
}

#[tokio::test]
async fn a_pruned_chain_comes_back_from_an_archive() {
    let bed = Memory::new();
    let store = bed.open(&[]);
    let user = create(&store, 1).await;
    commits(&user, 20).await;
    store.checkpoint().await.unwrap();
    let pruned = store.prune(tag(1), 12).await.unwrap();
    assert_eq!(pruned.first, 12);
    commits(&user, 3).await;
    let end = user.state().await.unwrap().chain;
    let empty =
        syntha_store::MemoryStore::with_key(syntha_store::DeploymentKey::generate().unwrap()).unwrap();
    let elsewhere = syntha_audit::AuditedStore::new(std::sync::Arc::new(empty), bed.deployment()).unwrap();
    let mut snapshot = user.snapshot().await.unwrap();
    elsewhere.import(tag(1), &mut *snapshot, syntha_store::ImportMode::New).await.unwrap();
    let restored = elsewhere.open(tag(1)).await.unwrap();
    assert_eq!(restored.state().await.unwrap().chain.seq, end.seq + 1);
    commits(&restored, 2).await;
    let links = restored.scan(Scan::records(Keyspace::Audit, 100).name("")).await.unwrap().value.records;
    assert_eq!(links.first().unwrap().0.id.seq(), 12);
    assert_eq!(links.len() as u64, end.seq + 3 - 11);
}
