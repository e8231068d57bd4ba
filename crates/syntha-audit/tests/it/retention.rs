//! What goes: users, and old links.

use std::sync::Arc;
use syntha_audit::leaf::LeafKind;
use syntha_audit::link::Kind;

use syntha_audit::verify::{Scope, Verdict, Verifier};
use syntha_audit::{AuditedStore, Behaviour, Delivery, MemorySink, Whose};
use syntha_store::{Batch, CreateMode, ErrorKind, Keyspace, Op, RecordId, Scan, Store, Timestamp, UserStore};

use crate::dying::Dying;
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

/// Rows of the deployment's own, in so many commits.
async fn rows(space: &Arc<dyn UserStore>, from: u64, count: u64) {
    for number in from..from + count {
        let id = RecordId::new(format!("user-{}", number % 9), 0).unwrap();
        let row = Batch::new(Timestamp(1)).unwrap().put(Keyspace::Directory, id, "", number.to_string());
        // Whoever is always second is told so, and tries again.
        while let Err(error) = space.commit(row.clone()).await {
            assert_eq!(error.kind(), ErrorKind::Busy);
        }
    }
}

/// The whole log and every chain verify, and what the deployment has is what its chain says. Gives where that begins.
async fn whole<S: Store>(store: &AuditedStore<S>) -> u64 {
    let mut from = 0;
    for (whose, scope) in [(Whose::All, Scope::All), (Whose::Deployment, Scope::Part)] {
        let mut file = Vec::new();
        store.export(&whose, false, &mut file).await.unwrap();
        let mut verifier = Verifier::new(store.trusted_keys().await.unwrap()).scope(scope);
        verifier.read(std::io::Cursor::new(file)).unwrap();
        let report = verifier.finish();
        assert_eq!(report.verdict(), Verdict::Clean, "{report:?}");
        from = report.users.iter().find(|user| user.owner == [0; 32]).unwrap().from;
    }
    let report = store.replay_deployment().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    from
}

#[tokio::test]
async fn the_deployments_own_chain_is_pruned_and_verifies() {
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    let store = bed.open(&[&sink]).bounds(1_000, LONG);
    let space = store.deployment().await.unwrap();
    rows(&space, 0, 40).await;
    commits(&create(&store, 1).await, 5).await;
    assert_eq!(store.prune_deployment(1_000).await.unwrap_err().kind(), ErrorKind::Invalid);
    sink.behave(Behaviour::Fail);
    assert_eq!(store.prune_deployment(20).await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    assert_eq!(whole(&store).await, 1, "nothing goes that is not outside");
    sink.behave(Behaviour::Take);
    let pruned = store.prune_deployment(20).await.unwrap();
    assert_eq!((pruned.links, pruned.first), (19, 20));
    assert_eq!(whole(&store).await, 20);
    assert_eq!(delivered(&sink, 0), (1..=space.state().await.unwrap().chain.seq).collect::<Vec<_>>());
    // It goes on, is opened again and pruned again, and a row that was put back is found all the same.
    rows(&space, 40, 15).await;
    let store = bed.open(&[&sink]);
    assert_eq!(whole(&store).await, 20);
    assert_eq!(store.prune_deployment(30).await.unwrap().links, 10);
    assert_eq!(store.prune_deployment(30).await.unwrap().links, 0);
    assert_eq!(whole(&store).await, 30);
    assert_eq!((store.catch_up().await.unwrap(), store.backlog().broken), (0, 0));
    let raw = bed.raw().deployment().await.unwrap();
    let (head, _) = raw.scan(Scan::records(Keyspace::Directory, 1)).await.unwrap().value.records.remove(0);
    let change = Op::Rewrite {
        space: Keyspace::Directory,
        id: head.id,
        version: head.version,
        head: head.head,
        body: "0".into(),
    };
    raw.commit(Batch::new(Timestamp(0)).unwrap().op(change)).await.unwrap();
    assert_eq!(store.replay_deployment().await.unwrap().findings.len(), 1);
}

/// A process among others, which go first before each of its steps.
fn beside(bed: &Memory) -> Arc<AuditedStore<Dying>> {
    let store = AuditedStore::new(Arc::new(Dying::new(bed.raw(), u64::MAX)), bed.deployment()).unwrap();
    Arc::new(store.signer(Arc::new(bed.signer.clone())))
}

/// Others write the deployment's records all the while: a prune comes to its end, and nothing that is verified meanwhile looks wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deployments_own_chain_is_pruned_while_others_write() {
    let bed = Memory::new();
    let store = beside(&bed);
    let space = store.deployment().await.unwrap();
    rows(&space, 0, 50).await;
    let mut writers = Vec::new();
    for writer in 0..2 {
        let store = Arc::clone(&store);
        writers.push(tokio::spawn(async move {
            let space = store.deployment().await.unwrap();
            for round in 0..200 {
                rows(&space, 1_000 * writer + round, 1).await;
                tokio::task::yield_now().await;
            }
        }));
    }
    let pruner = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for before in [10, 20, 30, 40] {
                assert_eq!(store.prune_deployment(before).await.unwrap().first, before);
            }
        })
    };
    while !pruner.is_finished() || writers.iter().any(|writer| !writer.is_finished()) {
        let report = store.replay_deployment().await.unwrap();
        assert!(report.is_clean(), "{report:?}");
    }
    pruner.await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(whole(&store).await, 40);
}

/// Two processes prune at once: where the chain begins does not go back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_prunes_at_once_leave_a_chain_that_verifies() {
    let bed = Memory::new();
    let (one, other) = (beside(&bed), beside(&bed));
    rows(&one.deployment().await.unwrap(), 0, 120).await;
    for round in 0..10 {
        let prune = |store: &Arc<AuditedStore<Dying>>, before| {
            let store = Arc::clone(store);
            tokio::spawn(async move { store.prune_deployment(before).await })
        };
        let prunes = [prune(&one, 11 + 10 * round), prune(&other, 7 + 10 * round)];
        let mut first = 0;
        for prune in prunes {
            match prune.await.unwrap() {
                Ok(pruned) => first = first.max(pruned.first),
                Err(error) => {
                    let kinds = [ErrorKind::Conflict, ErrorKind::Busy];
                    assert!(kinds.contains(&error.kind()), "{error:?}");
                }
            }
        }
        assert!(whole(&one).await >= first);
    }
}

/// A process dies in a prune, after each of its commits: what it left verifies, and the prune is done again.
#[tokio::test]
async fn a_prune_that_was_cut_off_is_done_again() {
    let mut cut = 0;
    for after in 0.. {
        let bed = Memory::new();
        let store = bed.open(&[]);
        rows(&store.deployment().await.unwrap(), 0, 30).await;
        store.checkpoint().await.unwrap();
        let dying = AuditedStore::new(Arc::new(Dying::new(bed.raw(), after)), bed.deployment());
        let dying = dying.unwrap().signer(Arc::new(bed.signer.clone()));
        let ended = dying.prune_deployment(15).await;
        drop(dying);
        let store = bed.open(&[]);
        let from = whole(&store).await;
        assert!(from == 1 || from == 15, "{from}");
        assert_eq!(store.prune_deployment(15).await.unwrap().first, 15);
        assert_eq!(whole(&store).await, 15);
        if ended.is_ok() {
            break;
        }
        cut += 1;
    }
    assert!(cut >= 4, "{cut} commits");
}

/// A sink that takes nothing keeps users from being erased; one that an operator leaves out of the configuration does not.
#[tokio::test(start_paused = true)]
async fn a_sink_that_is_left_out_keeps_nobody_from_being_erased() {
    let bed = Memory::new();
    let (alive, dead) = (MemorySink::new("alive"), MemorySink::new("dead"));
    dead.behave(Behaviour::Fail);
    let store = bed.open(&[&alive, &dead]).bounds(1_000, LONG);
    for number in 1..=3 {
        commits(&create(&store, number).await, 10).await;
    }
    rows(&store.deployment().await.unwrap(), 0, 10).await;
    assert_eq!(store.erase(tag(1)).await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    assert_eq!(store.prune(tag(2), 5).await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    assert_eq!(store.prune_deployment(5).await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    let store = bed.open(&[&alive]);
    assert!(store.erase(tag(1)).await.unwrap().removed);
    assert_eq!(store.prune(tag(2), 5).await.unwrap().first, 5);
    assert_eq!(store.prune_deployment(5).await.unwrap().first, 5);
    assert_eq!(store.backlog().sinks, [("alive".to_owned(), 0)]);
    // Named again, it goes on from where it stood, with what there still is.
    dead.behave(Behaviour::Take);
    let store = bed.open(&[&alive, &dead]);
    commits(&store.open(tag(3)).await.unwrap(), 1).await;
    store.checkpoint().await.unwrap();
    assert!(store.shipped().await.unwrap().failed.is_empty());
    let end = store.open(tag(3)).await.unwrap().state().await.unwrap().chain.seq;
    assert_eq!(delivered(&dead, 3), (1..=end).collect::<Vec<_>>());
    assert!(delivered(&dead, 1).is_empty(), "it is gone");
    assert_eq!(delivered(&dead, 2).first(), Some(&5));
    assert_eq!(store.backlog().broken, 0);
}
