//! Somebody who writes the data, and whoever opens and signs the log after that.

use std::sync::Arc;

use bytes::Bytes;
use syntha_audit::AuditedStore;
use syntha_audit::leaf::LeafKind;
use syntha_audit::link::StoredLink;
use syntha_store::{
    ChainHead, CreateMode, ErrorKind, Keyspace, Op, Record, RecordId, Scan, Store, UserStore, UserTag,
};

use super::tampers::write_below;
use super::{Trail, checks, text};
use crate::harness::Bed;
use crate::store::{batch, kind, put, seq};

checks![
    audit_log_signs_no_cut_chain,
    audit_log_floor_has_its_leaf,
    audit_log_leaf_rewritten_is_noticed,
    audit_log_passes_over_an_ended_life,
    audit_log_index_counts_under_its_key_alone,
];

const SPACE: Keyspace = Keyspace::Audit;

async fn user(store: &AuditedStore, tag: UserTag, mode: CreateMode) -> Arc<dyn UserStore> {
    store.create(tag, put(batch(), "who", "x"), mode).await.unwrap().0
}

async fn commits(user: &Arc<dyn UserStore>, count: usize) {
    for n in 0..count {
        user.commit(put(batch(), "k", &n.to_string())).await.unwrap();
    }
}

fn record(id: RecordId, body: Bytes) -> Op {
    Op::Put { space: SPACE, id, head: Bytes::new(), body, expires: None }
}

/// Takes the links before one away, and says as a prune would that it was one.
async fn cut(bed: &Bed, tag: UserTag, first: u64) {
    let user = bed.bare().open(tag).await.unwrap();
    let genesis = syntha_audit::link::genesis(&bed.key().fingerprint(), tag.as_bytes());
    let (mut at, mut ops) = (ChainHead { seq: 0, head: genesis }, Vec::new());
    for (head, body) in user.scan(Scan::records(SPACE, 1_000).name("")).await.unwrap().value.records {
        if head.id.seq() < first {
            at = StoredLink::decode(&body.unwrap()).unwrap().follow(at).unwrap().1;
            ops.push(Op::Delete { space: SPACE, id: head.id });
        }
    }
    assert_eq!(at.seq + 1, first);
    ops.push(record(seq("floor", 0), [&first.to_be_bytes()[..], &at.head].concat().into()));
    write_below(&*user, ops, None).await;
}

/// What lies in the deployment's space below all layers, of a name.
async fn rows(bed: &Bed, name: &str) -> Vec<Record> {
    let space = bed.bare().deployment().await.unwrap();
    let page = space.scan(Scan::records(SPACE, 1_000).name(text(name))).await.unwrap().value;
    page.records.into_iter().map(|(head, body)| Record::new(head, body.unwrap())).collect()
}

async fn kinds(store: &AuditedStore) -> Vec<LeafKind> {
    let size = store.last_checkpoint().await.unwrap().unwrap().head.size;
    let mut kinds = Vec::new();
    for index in 0..size {
        kinds.push(store.leaf(index).await.unwrap().kind);
    }
    kinds
}

async fn audit_log_signs_no_cut_chain(mut bed: Bed) {
    let (tag, other) = (bed.tag("a"), bed.tag("b"));
    let store = bed.logged();
    let (handle, beside) =
        (user(&store, tag, CreateMode::New).await, user(&store, other, CreateMode::New).await);
    commits(&handle, 6).await;
    store.checkpoint().await.unwrap();
    let before = store.last_checkpoint().await.unwrap().unwrap();
    drop((handle, beside, store));
    bed.reopen().await;
    // Where the chain was logged, as far as that is a row of its own, goes with the links.
    let at = [b"at".as_slice(), tag.as_bytes()].concat();
    let space = bed.bare().deployment().await.unwrap();
    write_below(&*space, vec![Op::DeleteName { space: SPACE, name: at.into() }], None).await;
    cut(&bed, tag, 4).await;
    let store = bed.logged();
    assert_eq!(kind(store.open(tag).await), ErrorKind::Tampered);
    assert_eq!(kind(store.catch_up().await), ErrorKind::Tampered);
    // The other user is not held up.
    commits(&store.open(other).await.unwrap(), 1).await;
    let after = store.checkpoint().await.unwrap();
    assert_eq!(after.head.size, before.head.size + 1);
    assert!(kinds(&store).await.iter().all(|kind| *kind == LeafKind::Head), "no prune is signed");
    assert_eq!(store.last_leaf(tag.as_bytes()).await.unwrap().unwrap().1.chain.seq, 7);
    assert_eq!(store.backlog().broken, 1);
}

async fn audit_log_floor_has_its_leaf(mut bed: Bed) {
    let tag = bed.tag("a");
    let store = bed.logged();
    let handle = user(&store, tag, CreateMode::New).await;
    commits(&handle, 9).await;
    store.prune(tag, 3).await.unwrap();
    store.open(tag).await.unwrap();
    drop((handle, store));
    bed.reopen().await;
    // That one was a prune, and this is none.
    let handle = bed.logged().open(tag).await.unwrap();
    commits(&handle, 1).await;
    bed.logged().checkpoint().await.unwrap();
    let user = bed.bare().open(tag).await.unwrap();
    let floor = user.read(SPACE, &[seq("floor", 0)]).await.unwrap().value[0].clone().unwrap();
    let links = user.scan(Scan::records(SPACE, 1_000).name("")).await.unwrap().value.records;
    let (id, body) = (links[0].0.id.clone(), links[0].1.clone().unwrap());
    assert_eq!(id.seq(), 3);
    let before = ChainHead { seq: 2, head: floor.body[8..].try_into().unwrap() };
    let next = StoredLink::decode(&body).unwrap().follow(before).unwrap().1;
    let moved = record(seq("floor", 0), [&4_u64.to_be_bytes()[..], &next.head].concat().into());
    write_below(&*user, vec![Op::Delete { space: SPACE, id }, moved], None).await;
    let store = bed.logged();
    assert_eq!(kind(store.open(tag).await), ErrorKind::Tampered);
    assert_eq!(store.floor(tag).await.unwrap().unwrap().seq, 3, "as the log has it");
}

async fn audit_log_leaf_rewritten_is_noticed(mut bed: Bed) {
    let tag = bed.tag("a");
    let store = bed.logged();
    let handle = user(&store, tag, CreateMode::New).await;
    for _ in 0..5 {
        commits(&handle, 1).await;
        store.checkpoint().await.unwrap();
    }
    drop((handle, store));
    bed.reopen().await;
    let leaves = rows(&bed, "leaf").await;
    assert_eq!(leaves.len(), 5);
    let space = bed.bare().deployment().await.unwrap();
    for leaf in leaves {
        let id = leaf.head.id.clone();
        let whole =
            |head: Bytes, body: Bytes| Op::Put { space: SPACE, id: id.clone(), head, body, expires: None };
        let flipped = |bytes: &Bytes, at: usize| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1;
            Bytes::from(bytes)
        };
        let (head, body) = (leaf.head.head.clone(), leaf.body.0.clone());
        let mut wrong = vec![Op::Delete { space: SPACE, id: id.clone() }];
        // The kind, the owner, the life, the number and the hash; which link it is the first to name, and after which hash.
        wrong.extend([1, 2, 40, 57, 89].map(|at| whole(head.clone(), flipped(&body, at))));
        wrong.extend([7, 8, 39].map(|at| whole(flipped(&head, at), body.clone())));
        for op in wrong {
            write_below(&*space, vec![op.clone()], None).await;
            assert_eq!(kind(bed.logged().open(tag).await), ErrorKind::Tampered, "{op:?}");
            assert_eq!(kind(bed.logged().checkpoint().await), ErrorKind::Tampered, "{op:?}");
            write_below(&*space, vec![whole(head.clone(), body.clone())], None).await;
        }
    }
    bed.logged().open(tag).await.unwrap();
    bed.logged().checkpoint().await.unwrap();
}

async fn audit_log_passes_over_an_ended_life(bed: Bed) {
    for (name, is_logged) in [("a", true), ("b", false)] {
        let tag = bed.tag(name);
        let (first, second) = (bed.logged(), bed.logged());
        let handle = user(&first, tag, CreateMode::New).await;
        if is_logged {
            first.checkpoint().await.unwrap();
        }
        commits(&handle, 6).await;
        // The first process has not logged these when the second ends the life, and begins another.
        let end = second.open(tag).await.unwrap().state().await.unwrap().chain;
        second.erase(tag).await.unwrap();
        let again = user(&second, tag, CreateMode::Recreate).await;
        commits(&again, 1).await;
        if is_logged {
            second.checkpoint().await.unwrap();
        }
        first.checkpoint().await.unwrap();
        commits(&again, 1).await;
        second.checkpoint().await.unwrap();
        first.checkpoint().await.unwrap();
        let state = again.state().await.unwrap();
        let (_, leaf) = second.last_leaf(tag.as_bytes()).await.unwrap().unwrap();
        assert_eq!((leaf.life, leaf.chain), (state.stamp.incarnation, state.chain));
        let mut ended = None;
        for index in 0..second.last_checkpoint().await.unwrap().unwrap().head.size {
            let leaf = second.leaf(index).await.unwrap();
            if leaf.owner == *tag.as_bytes() && leaf.kind == LeafKind::Erased {
                ended = Some(leaf);
            } else if let Some(ended) = ended.filter(|_| leaf.owner == *tag.as_bytes()) {
                assert_ne!(leaf.life, ended.life, "a life that ended goes on");
            }
        }
        assert_eq!(ended.unwrap().chain, end);
        for store in [&first, &second] {
            store.open(tag).await.unwrap();
            assert_eq!(store.backlog().broken, 0);
            assert_eq!(store.backlog().unlogged, 0);
        }
        Trail::of(&bed, name).await.assert_whole();
    }
}

async fn audit_log_index_counts_under_its_key_alone(mut bed: Bed) {
    const USERS: [&str; 16] =
        ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
    let store = bed.logged();
    let mut handles = Vec::new();
    for name in USERS {
        handles.push(user(&store, bed.tag(name), CreateMode::New).await);
    }
    store.checkpoint().await.unwrap();
    for _ in USERS {
        for handle in &handles {
            commits(handle, 1).await;
        }
        store.checkpoint().await.unwrap();
    }
    drop(handles);
    store.close().await.unwrap();
    drop(store);
    bed.reopen().await;
    let all_is_well = async |bed: &Bed| {
        let store = bed.logged();
        for name in USERS {
            let tag = bed.tag(name);
            let at = store.open(tag).await.unwrap().state().await.unwrap();
            let (_, leaf) = store.last_leaf(tag.as_bytes()).await.unwrap().unwrap();
            assert_eq!((leaf.life, leaf.chain), (at.stamp.incarnation, at.chain));
        }
        store.opened().unwrap()
    };
    let opened = all_is_well(&bed).await;
    assert!(opened.read < opened.leaves, "it was kept at the end: {opened:?}");
    let space = bed.bare().deployment().await.unwrap();
    for record in [rows(&bed, "index").await, rows(&bed, "index-part").await].concat() {
        let (id, body) = (record.head.id.clone(), record.body.0.clone());
        let whole =
            |body: Bytes| Op::Put { space: SPACE, id: id.clone(), head: Bytes::new(), body, expires: None };
        let mut wrong = vec![Op::Delete { space: SPACE, id: id.clone() }];
        // What is fixed at the beginning, or of the first two owners: whether erased, number, hash, leaf.
        for at in [0, 16, 33, 57, 163, 202].into_iter().filter(|at| *at < body.len()) {
            let mut bytes = body.to_vec();
            bytes[at] ^= 1;
            wrong.push(whole(bytes.into()));
        }
        for op in wrong {
            write_below(&*space, vec![op], None).await;
            let opened = all_is_well(&bed).await;
            assert_eq!(opened.read, opened.leaves, "it is not believed");
        }
        write_below(&*space, vec![whole(body)], None).await;
    }
    let opened = all_is_well(&bed).await;
    assert!(opened.read < opened.leaves, "{opened:?}");
    assert_eq!(bed.logged().catch_up().await.unwrap(), 0);
}
