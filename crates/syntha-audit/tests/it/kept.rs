//! What a start reads where the log's index was kept, over real stores and key files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use syntha_audit::{AuditedStore, FileSigner, Signer};
use syntha_sqlite::{Mode, SqliteStore};
use syntha_store::{CreateMode, ErrorKind, Keyspace, Scan, Store, UserStore};

use crate::{AuditedMemory, Memory, batch, commits, create, heads, key, sqlite, tag};

const USERS: u8 = 16;

/// 272 leaves of 16 users.
async fn fill<S: Store>(store: &AuditedStore<S>) {
    let mut users = Vec::new();
    for number in 1..=USERS {
        users.push(create(store, number).await);
    }
    store.checkpoint().await.unwrap();
    for _ in 0..USERS {
        for user in &users {
            commits(user, 1).await;
        }
        store.checkpoint().await.unwrap();
    }
}

/// So many leaves, of which so many were read.
type Read = (u64, u64);

async fn opened<S: Store>(store: &AuditedStore<S>) -> Read {
    store.open(tag(1)).await.unwrap();
    read(store)
}

fn read<S: Store>(store: &AuditedStore<S>) -> Read {
    let opened = store.opened().unwrap();
    (opened.leaves, opened.read)
}

async fn parts(space: &dyn UserStore, name: &'static str) -> usize {
    space.scan(Scan::heads(Keyspace::Audit, 10).name(name)).await.unwrap().value.records.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_after_an_orderly_end_reads_little() {
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (folder.path().join("data"), folder.path().join("key"));
    let open = async || {
        let signer = FileSigner::open(&path, &key().fingerprint()).await.unwrap();
        sqlite(&data, Mode::Shared, Arc::new(signer)).await.unwrap()
    };
    let store = open().await;
    assert_eq!(store.opened(), None);
    fill(&store).await;
    // One that goes without a word keeps nothing.
    assert_eq!(opened(&open().await).await, (272, 272));
    let ends = heads(&store, &(1..=USERS).collect::<Vec<_>>()).await;
    store.close().await.unwrap();
    let (one, two) = (open().await, open().await);
    assert_eq!(opened(&one).await, (272, 16));
    for (owner, head) in ends {
        assert_eq!(one.last_leaf(&owner).await.unwrap().unwrap().1.chain, head);
    }
    // A second process goes on, also with one that the first one began with.
    commits(&two.open(tag(2)).await.unwrap(), 1).await;
    commits(&one.open(tag(3)).await.unwrap(), 1).await;
    two.checkpoint().await.unwrap();
    one.checkpoint().await.unwrap();
    assert_eq!(opened(&open().await).await, (274, 18));
    // Who reads beside it reads as little, and keeps nothing.
    let signer = FileSigner::open(&path, &key().fingerprint()).await.unwrap();
    let beside = sqlite(&data, Mode::Shared, Arc::new(signer)).await.unwrap().reading();
    assert_eq!(opened(&beside).await, (274, 18));
    for store in [one, two, beside] {
        store.close().await.unwrap();
    }
    assert_eq!(opened(&open().await).await, (274, 18), "too few came since");
}

/// What the leaves say of an owner is in what is kept: pruned, erased, made again, and where a chain ends.
#[tokio::test]
async fn what_became_of_users_is_known_from_what_was_kept() {
    let bed = Memory::new();
    let store = bed.open(&[]);
    fill(&store).await;
    store.prune(tag(1), 5).await.unwrap();
    store.erase(tag(2)).await.unwrap();
    store.erase(tag(3)).await.unwrap();
    store.create(tag(3), batch("again"), CreateMode::Recreate).await.unwrap();
    store.checkpoint().await.unwrap();
    let size = store.last_checkpoint().await.unwrap().unwrap().head.size;
    let floor = store.floor(tag(1)).await.unwrap();
    store.close().await.unwrap();
    let whole = async |store: &AuditedMemory| {
        let mut known = vec![(floor, None)];
        assert_eq!(store.floor(tag(1)).await.unwrap(), floor);
        for number in 1..=USERS {
            known.push((None, store.last_leaf(&[number; 32]).await.unwrap()));
        }
        assert_eq!(store.open(tag(2)).await.unwrap_err().kind(), ErrorKind::Erased);
        known
    };
    let store = bed.open(&[]);
    let known = whole(&store).await;
    assert_eq!(read(&store), (size, size % 256));
    // A copy of the signer that has no key for it finds the same in all leaves.
    let forgetful = bed.signer.copy();
    let mut turn = forgetful.turn().await.unwrap();
    turn.rotate().await.unwrap();
    drop(turn);
    let all = AuditedStore::new(Arc::new(bed.raw()), bed.deployment()).unwrap().signer(Arc::new(forgetful));
    assert_eq!(whole(&all).await, known);
    assert_eq!(read(&all), (size, size));
    // And it goes on from there.
    commits(&store.open(tag(1)).await.unwrap(), 2).await;
    commits(&store.open(tag(3)).await.unwrap(), 2).await;
    store.create(tag(2), batch("again"), CreateMode::Recreate).await.unwrap();
    assert_eq!(store.checkpoint().await.unwrap().head.size, size + 3);
    assert_eq!(bed.open(&[]).catch_up().await.unwrap(), 0);
}

async fn file(path: &Path, data: &Path) -> AuditedStore<SqliteStore> {
    let signer = FileSigner::open(path, &key().fingerprint()).await.unwrap();
    sqlite(data, Mode::Exclusive, Arc::new(signer)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_file_has_the_key_of_what_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (folder.path().join("data"), folder.path().join("key"));
    let text = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).unwrap()).unwrap();
    let write = |text: &serde_json::Value| std::fs::write(&path, text.to_string()).unwrap();
    let store = file(&path, &data).await;
    fill(&store).await;
    // A file of before has none, and is read.
    assert!(text().get("index").is_none());
    store.close().await.unwrap();
    let first = text();
    let store = file(&path, &data).await;
    assert_eq!(opened(&store).await, (272, 16));
    store.close().await.unwrap();
    // One that was put back without it, or damaged.
    let mut older = text();
    older.as_object_mut().unwrap().remove("index").unwrap();
    write(&older);
    let store = file(&path, &data).await;
    assert_eq!(opened(&store).await, (272, 272));
    store.close().await.unwrap();
    let second = text();
    assert_ne!(first["index"], second["index"], "a new one is made");
    let store = file(&path, &data).await;
    assert_eq!(opened(&store).await, (272, 16));
    store.close().await.unwrap();
    for damaged in ["", "AAAA", "not base64"] {
        let mut text = second.clone();
        text["index"] = damaged.into();
        write(&text);
        let refused = FileSigner::open(&path, &key().fingerprint()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::KeyRefused);
    }
    write(&second);
    // A new signing key has a new one, and the one of before counts no more.
    let store = file(&path, &data).await;
    store.rotate_signer().await.unwrap();
    assert!(text().get("index").is_none());
    store.inner().close().await.unwrap();
    let store = file(&path, &data).await;
    assert_eq!(opened(&store).await, (272, 272));
    store.close().await.unwrap();
    assert_ne!(text()["index"], second["index"]);
    // So has one that takes the place of a lost one.
    std::fs::remove_file(&path).unwrap();
    let config = syntha_sqlite::SqliteConfig::new(&data).deployment_key(key());
    let bare = SqliteStore::open(config).await.unwrap();
    FileSigner::replace_lost(&bare, &path, &key().fingerprint(), None).await.unwrap();
    bare.close().await.unwrap();
    let store = file(&path, &data).await;
    assert_eq!(opened(&store).await, (272, 272));
    commits(&store.open(tag(1)).await.unwrap(), 1).await;
    store.close().await.unwrap();
    let store = file(&path, &data).await;
    assert_eq!(opened(&store).await, (273, 17));
    store.close().await.unwrap();
}

/// A process that goes on keeps it while it does.
#[tokio::test(start_paused = true)]
async fn the_background_keeps_it() {
    let bed = Memory::new();
    let store = Arc::new(bed.open(&[]));
    let mut users = Vec::new();
    for number in 1..=250 {
        users.push(create(&store, number).await);
    }
    let background = store.spawn_background();
    let space = bed.raw().deployment().await.unwrap();
    let mut leaves = 0;
    while leaves < 1_250 {
        assert!(leaves < 1_024 || parts(&*space, "index").await <= 1);
        assert!(leaves >= 1_024 || parts(&*space, "index").await == 0);
        for user in &users {
            commits(user, 1).await;
        }
        leaves = store.checkpoint().await.unwrap().head.size;
    }
    let kept = async {
        while parts(&*space, "index").await == 0 {
            tokio::time::advance(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), kept).await.unwrap();
    background.stop();
    background.ended().await;
    assert!(parts(&*space, "index-part").await >= 2);
    let (leaves, read) = opened(&bed.open(&[])).await;
    assert!(leaves >= 1_250 && read < 1_024, "{leaves} {read}");
}
