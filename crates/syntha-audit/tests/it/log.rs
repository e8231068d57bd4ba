//! The tree, its proofs, the signer's memory, two servers, and a crash.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use syntha_audit::leaf::LeafKind;
use syntha_audit::{FileSigner, MemorySigner};
use syntha_sqlite::Mode;
use syntha_store::{ErrorKind, Store};

use crate::{Memory, batch, commits, create, heads, key, sqlite, tag};

/// The root of a tree, as RFC 6962, section 2.1, defines it.
pub(crate) fn tree(leaves: &[Bytes]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => Sha256::new().chain_update([0]).chain_update(leaf).finalize().into(),
        leaves => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node(&tree(left), &tree(right))
        }
    }
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// RFC 9162, section 2.1.3.2.
fn includes(index: u64, size: u64, leaf: &Bytes, proof: &[[u8; 32]], root: &[u8; 32]) -> bool {
    let (mut first, mut second) = (index, size - 1);
    let mut hash = tree(std::slice::from_ref(leaf));
    for other in proof {
        if second == 0 {
            return false;
        }
        if first & 1 == 1 || first == second {
            hash = node(other, &hash);
            while first & 1 == 0 && first != 0 {
                (first, second) = (first >> 1, second >> 1);
            }
        } else {
            hash = node(&hash, other);
        }
        (first, second) = (first >> 1, second >> 1);
    }
    second == 0 && hash == *root
}

/// RFC 9162, section 2.1.4.2.
fn extends(from: u64, size: u64, old: &[u8; 32], new: &[u8; 32], proof: &[[u8; 32]]) -> bool {
    if from == size {
        return proof.is_empty() && old == new;
    }
    let mut path = proof.to_vec();
    if from.is_power_of_two() {
        path.insert(0, *old);
    }
    let (mut first, mut second) = (from - 1, size - 1);
    while first & 1 == 1 {
        (first, second) = (first >> 1, second >> 1);
    }
    let Some((start, rest)) = path.split_first() else { return false };
    let (mut left, mut right) = (*start, *start);
    for other in rest {
        if second == 0 {
            return false;
        }
        if first & 1 == 1 || first == second {
            (left, right) = (node(other, &left), node(other, &right));
            while first & 1 == 0 && first != 0 {
                (first, second) = (first >> 1, second >> 1);
            }
        } else {
            right = node(&right, other);
        }
        (first, second) = (first >> 1, second >> 1);
    }
    second == 0 && left == *old && right == *new
}

#[tokio::test]
async fn the_tree_is_that_of_the_rfc() {
    let bed = Memory::new();
    let store = bed.open(&[]);
    let empty = store.checkpoint().await.unwrap();
    assert_eq!((empty.head.size, empty.head.root), (0, tree(&[])));
    let mut users = Vec::new();
    for number in 1..=9 {
        users.push(create(&store, number).await);
    }
    let keys = store.signer_keys().await.unwrap();
    let (mut leaves, mut roots) = (Vec::new(), vec![tree(&[])]);
    let mut step = 0_usize;
    while leaves.len() < 300 {
        step += 1;
        for user in users.iter().take(step % 9 + 1) {
            user.commit(batch("again")).await.unwrap();
        }
        let checkpoint = store.checkpoint().await.unwrap();
        assert_eq!(keys.check(&checkpoint.note).unwrap(), checkpoint.head);
        let size = usize::try_from(checkpoint.head.size).unwrap();
        while leaves.len() < size {
            let leaf = store.leaf(leaves.len() as u64).await.unwrap();
            leaves.push(Bytes::copy_from_slice(&leaf.encode()));
            roots.push(tree(&leaves));
        }
        assert_eq!(checkpoint.head.root, tree(&leaves), "{size} leaves");
        // Nothing moved: it is the last one.
        assert_eq!(store.checkpoint().await.unwrap(), checkpoint);
    }
    // Another process reads what this one wrote.
    let store = bed.open(&[]);
    let size = leaves.len() as u64;
    let root = roots[leaves.len()];
    for index in 0..size {
        let leaf = &leaves[usize::try_from(index).unwrap()];
        let proof = store.inclusion(index, size).await.unwrap();
        assert!(includes(index, size, leaf, &proof, &root), "leaf {index}");
        assert!(!includes(index, size, &Bytes::from_static(b"other"), &proof, &root));
    }
    for from in 1..=size {
        let proof = store.consistency(from, size).await.unwrap();
        let old = roots[usize::try_from(from).unwrap()];
        assert!(extends(from, size, &old, &root, &proof), "from {from}");
        assert!(!extends(from, size, &[1; 32], &root, &proof));
    }
    assert_eq!(store.inclusion(size, size).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn the_last_leaf_of_an_owner_is_its_chain() {
    let bed = Memory::new();
    let store = bed.open(&[]);
    for number in 1..=3 {
        let user = create(&store, number).await;
        commits(&user, u64::from(number)).await;
    }
    store.checkpoint().await.unwrap();
    for (owner, head) in heads(&store, &[1, 2, 3]).await {
        let (_, leaf) = store.last_leaf(&owner).await.unwrap().unwrap();
        assert_eq!((leaf.kind, leaf.chain), (LeafKind::Head, head));
    }
    assert_eq!(store.last_leaf(&[9; 32]).await.unwrap(), None);
}

pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_put_back_or_forked_is_not_signed() {
    let folder = tempfile::tempdir().unwrap();
    let (data, old) = (folder.path().join("data"), folder.path().join("old"));
    let signer = MemorySigner::new(&key().fingerprint()).unwrap();
    let open = || sqlite(&data, Mode::Exclusive, Arc::new(signer.clone()));
    let store = open().await.unwrap();
    let user = create(&store, 1).await;
    commits(&user, 5).await;
    store.checkpoint().await.unwrap();
    store.close().await.unwrap();
    copy(&data, &old);
    let thief = signer.copy();
    let store = open().await.unwrap();
    commits(&store.open(tag(1)).await.unwrap(), 5).await;
    let newest = store.checkpoint().await.unwrap();
    store.close().await.unwrap();
    // What was there before is put back.
    copy(&old, &data);
    let store = open().await.unwrap();
    assert_eq!(store.open(tag(1)).await.unwrap_err().kind(), ErrorKind::Tampered);
    assert_eq!(store.checkpoint().await.unwrap_err().kind(), ErrorKind::Tampered);
    let _ = store.close().await;
    // It goes on otherwise, with a copy of the key, past the size that was signed.
    let store = sqlite(&data, Mode::Exclusive, Arc::new(thief)).await.unwrap();
    let user = store.open(tag(1)).await.unwrap();
    for _ in 0..3 {
        user.commit(batch("other")).await.unwrap();
        store.checkpoint().await.unwrap();
    }
    assert!(store.checkpoint().await.unwrap().head.size > newest.head.size);
    store.close().await.unwrap();
    let store = open().await.unwrap();
    assert_eq!(store.checkpoint().await.unwrap_err().kind(), ErrorKind::Tampered);
    let _ = store.close().await;
    // Without its memory the signer would not notice.
    #[cfg(feature = "faults")]
    {
        signer.forget();
        let store = open().await.unwrap().fault(syntha_audit::Fault::LastSizeIgnored);
        store.checkpoint().await.unwrap();
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_that_is_put_back_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (data, old) = (folder.path().join("data"), folder.path().join("old"));
    let signer = MemorySigner::new(&key().fingerprint()).unwrap();
    let open = || sqlite(&data, Mode::Exclusive, Arc::new(signer.clone()));
    let store = open().await.unwrap();
    for number in [1, 2] {
        commits(&create(&store, number).await, 5).await;
    }
    store.close().await.unwrap();
    copy(&data, &old);
    let store = open().await.unwrap();
    assert!(!store.was_unclean().await.unwrap());
    for number in [1, 2] {
        commits(&store.open(tag(number)).await.unwrap(), 5).await;
    }
    store.close().await.unwrap();
    // All files but the deployment's own: their names hold a user's tag.
    let stem = tag(1).to_string();
    let listed = std::process::Command::new("find").arg(&old).args(["-type", "f"]).output().unwrap();
    let mut put_back = 0;
    for path in String::from_utf8(listed.stdout).unwrap().lines() {
        if path.contains(&stem) {
            let to = data.join(std::path::Path::new(path).strip_prefix(&old).unwrap());
            std::fs::copy(path, to).unwrap();
            put_back += 1;
        }
    }
    assert!(put_back > 0);
    let store = open().await.unwrap();
    assert_eq!(store.open(tag(1)).await.unwrap_err().kind(), ErrorKind::Tampered);
    assert_eq!(store.catch_up().await.unwrap_err().kind(), ErrorKind::Tampered);
    assert_eq!(store.backlog().broken, 1);
    // The other one is not held up, and this one can be erased.
    let user = store.open(tag(2)).await.unwrap();
    commits(&user, 3).await;
    store.checkpoint().await.unwrap();
    assert!(store.erase(tag(1)).await.unwrap().removed);
    assert_eq!(store.last_leaf(&[1; 32]).await.unwrap().unwrap().1.kind, LeafKind::Erased);
    store.close().await.unwrap();
}

/// A user's data that is put back and goes on otherwise, past where it was logged.
#[tokio::test]
async fn a_chain_that_forks_past_the_log_is_found() {
    let (bed, twin) = (Memory::new(), Memory::new());
    let store = bed.open(&[]);
    let user = create(&store, 1).await;
    commits(&user, 2).await;
    // The same user with another history, which is as long and longer, in the place of this one.
    let other = syntha_audit::AuditedStore::new(std::sync::Arc::new(twin.raw()), bed.deployment()).unwrap();
    let forked = create(&other, 1).await;
    commits(&forked, 9).await;
    store.checkpoint().await.unwrap();
    let raw = bed.raw();
    let mut snapshot = forked.snapshot().await.unwrap();
    raw.import(tag(1), &mut *snapshot, syntha_store::ImportMode::Replace).await.unwrap();
    // With the life and the place that its last link names, so that nothing but the log knows.
    let state = raw.open(tag(1)).await.unwrap().state().await.unwrap();
    assert_eq!(state.chain, forked.state().await.unwrap().chain);
    let store = bed.open(&[]);
    assert_eq!(store.catch_up().await.unwrap_err().kind(), ErrorKind::Tampered);
    assert_eq!(store.backlog().broken, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_signers_with_copies_of_one_key_make_one_log() {
    const ROUNDS: u64 = 100;
    let bed = Memory::new();
    bed.open(&[]).checkpoint().await.unwrap();
    let barrier = Arc::new(tokio::sync::Barrier::new(2));
    let mut tasks = Vec::new();
    for number in 1..=2 {
        let signer = Arc::new(bed.signer.copy());
        let store = syntha_audit::AuditedStore::new(Arc::new(bed.raw()), bed.deployment()).unwrap();
        let (store, barrier) = (store.signer(signer), Arc::clone(&barrier));
        tasks.push(tokio::spawn(async move {
            let user = create(&store, number).await;
            for _ in 0..ROUNDS {
                user.commit(batch("again")).await.unwrap();
                barrier.wait().await;
                store.checkpoint().await.unwrap();
            }
            store
        }));
    }
    for task in tasks {
        let store = task.await.unwrap();
        let last = store.last_checkpoint().await.unwrap().unwrap();
        let mut leaves = Vec::new();
        for index in 0..last.head.size {
            leaves.push(Bytes::copy_from_slice(&store.leaf(index).await.unwrap().encode()));
        }
        assert_eq!(last.head.root, tree(&leaves));
        let all = store.checkpoint().await.unwrap();
        assert_eq!(all.head.size, 2 * ROUNDS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_make_one_log() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let path = folder.path().join("data.audit.key");
    let mut servers = Vec::new();
    for _ in 0..2 {
        let signer = FileSigner::open(&path, &key().fingerprint()).await.unwrap();
        servers.push(Arc::new(sqlite(&data, Mode::Shared, Arc::new(signer)).await.unwrap()));
    }
    create(&servers[0], 9).await;
    let mut tasks = Vec::new();
    for (number, server) in (1_u8..).zip(&servers) {
        let server = Arc::clone(server);
        tasks.push(tokio::spawn(async move {
            let own = create(&server, number).await;
            let both = server.open(tag(9)).await.unwrap();
            let mut numbers = Vec::new();
            for _ in 0..15 {
                own.commit(batch("own")).await.unwrap();
                both.commit(batch("both")).await.unwrap();
                let checkpoint = server.checkpoint().await.unwrap();
                numbers.push((checkpoint.number, checkpoint.note));
            }
            numbers
        }));
    }
    let mut made = std::collections::HashMap::new();
    for task in tasks {
        for (number, note) in task.await.unwrap() {
            assert_eq!(
                made.entry(number).or_insert_with(|| note.clone()),
                &note,
                "one number, two checkpoints"
            );
        }
    }
    for server in &servers {
        let last = server.checkpoint().await.unwrap();
        let mut leaves = Vec::new();
        for index in 0..last.head.size {
            leaves.push(Bytes::copy_from_slice(&server.leaf(index).await.unwrap().encode()));
        }
        assert_eq!(last.head.root, tree(&leaves));
        for (owner, head) in heads(server, &[1, 2, 9]).await {
            assert_eq!(server.last_leaf(&owner).await.unwrap().unwrap().1.chain, head);
        }
        assert_eq!(server.backlog().unlogged, 0);
    }
    for server in servers {
        server.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_out_of_the_log_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let signer = MemorySigner::new(&key().fingerprint()).unwrap();
    let open = || sqlite(&data, Mode::Exclusive, Arc::new(signer.clone()));
    let store = open().await.unwrap();
    for number in 1..=4 {
        commits(&create(&store, number).await, 2).await;
    }
    store.checkpoint().await.unwrap();
    for number in 1..=2 {
        commits(&store.open(tag(number)).await.unwrap(), 7).await;
    }
    let deployment = store.deployment().await.unwrap();
    deployment.commit(batch("directory")).await.unwrap();
    crash(store).await;
    let store = open().await.unwrap();
    assert!(store.was_unclean().await.unwrap());
    assert_eq!(store.catch_up().await.unwrap(), 3);
    assert!(!store.was_unclean().await.unwrap());
    let checkpoint = store.checkpoint().await.unwrap();
    assert_eq!(checkpoint.head.size, 4 + 3);
    for (owner, head) in heads(&store, &[1, 2, 3, 4]).await {
        assert_eq!(store.last_leaf(&owner).await.unwrap().unwrap().1.chain, head);
    }
    assert_eq!(store.catch_up().await.unwrap(), 0);
    store.close().await.unwrap();
}

/// The store goes without a word; the folder's lock with it.
async fn crash(store: syntha_audit::AuditedStore<syntha_sqlite::SqliteStore>) {
    store.inner().close().await.unwrap();
}

#[tokio::test]
async fn a_signature_that_was_never_published_is_forgotten() {
    use syntha_audit::{Signer, TreeHead};
    let bed = Memory::new();
    let mut turn = bed.signer.turn().await.unwrap();
    turn.sign(TreeHead { size: 5, root: [1; 32] }, &[]).await.unwrap();
    assert!(turn.pending().is_some());
    drop(turn);
    let store = bed.open(&[]);
    let user = create(&store, 1).await;
    let before = bed.signer.copy();
    assert_eq!(store.checkpoint().await.unwrap().head.size, 1);
    let turn = bed.signer.turn().await.unwrap();
    assert_eq!((turn.pending(), turn.signed().map(|head| head.size)), (None, Some(1)));
    drop(turn);
    // A signer that was cut off before it could remember the last one takes it from the log, for it extends what it knows.
    commits(&user, 3).await;
    store.checkpoint().await.unwrap();
    let (behind, bare) = (Arc::new(bed.signer.copy()), bed.raw());
    commits(&user, 3).await;
    let last = store.checkpoint().await.unwrap();
    let open = |signer| {
        syntha_audit::AuditedStore::new(Arc::new(bare.reopen()), bed.deployment()).unwrap().signer(signer)
    };
    assert_eq!(open(behind).checkpoint().await.unwrap(), last);
    // One that knows of none at all is another key's, as far as anybody can tell.
    assert_eq!(open(Arc::new(before)).checkpoint().await.unwrap_err().kind(), ErrorKind::KeyRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_taken_away_is_found_and_can_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let signer = MemorySigner::new(&key().fingerprint()).unwrap();
    let open = || sqlite(&data, Mode::Exclusive, Arc::new(signer.clone()));
    let store = open().await.unwrap();
    let user = create(&store, 1).await;
    let mut archive = user.snapshot().await.unwrap();
    let mut kept = Vec::new();
    let state = archive.state();
    while let Some(records) = archive.next().await.unwrap() {
        kept.extend(records);
    }
    commits(&user, 3).await;
    drop((archive, user));
    store.close().await.unwrap();
    let listed = std::process::Command::new("find").arg(&data).args(["-type", "f"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let own: Vec<_> = listed.lines().filter(|path| path.contains(&tag(1).to_string())).collect();
    assert!(!own.is_empty());
    for path in own {
        std::fs::remove_file(path).unwrap();
    }
    let store = open().await.unwrap();
    assert_eq!(store.open(tag(1)).await.unwrap_err().kind(), ErrorKind::Tampered);
    let made = store.create(tag(1), batch("first"), syntha_store::CreateMode::New).await;
    assert_eq!(made.unwrap_err().kind(), ErrorKind::Tampered);
    // An archive brings it back, and the log says where the lost chain ended.
    let before = store.last_checkpoint().await.unwrap().unwrap().head.size;
    let mut archive = Kept { state, records: Some(kept) };
    store.import(tag(1), &mut archive, syntha_store::ImportMode::New).await.unwrap();
    let last = store.checkpoint().await.unwrap();
    assert_eq!(store.leaf(before).await.unwrap().kind, LeafKind::Lost);
    assert_eq!(last.head.size, before + 2);
    store.open(tag(1)).await.unwrap();
    assert_eq!(store.catch_up().await.unwrap(), 0);
    store.close().await.unwrap();
}

/// An archive of one user.
struct Kept {
    state: syntha_store::UserState,
    records: Option<Vec<syntha_store::StoredRecord>>,
}

#[async_trait::async_trait]
impl syntha_store::Snapshot for Kept {
    fn owner(&self) -> syntha_store::UserTag {
        tag(1)
    }

    fn state(&self) -> syntha_store::UserState {
        self.state
    }

    fn life(&self) -> Option<syntha_store::Incarnation> {
        None
    }

    fn follows(&self) -> Option<syntha_store::ChainHead> {
        None
    }

    async fn next(&mut self) -> syntha_store::Result<Option<Vec<syntha_store::StoredRecord>>> {
        Ok(self.records.take())
    }
}
