use syntha_store::{CreateMode, EPOCH_JUMP, ErrorKind, Fence, ImportMode, Store, archive};

use crate::{Bed, get, holds, put};

const CANARY: &str = "CANARY-that-must-go-8f3a";

async fn archived(bed: &Bed, name: &str) -> Vec<u8> {
    let user = bed.store.open(bed.tag(name)).await.unwrap();
    let mut out = Vec::new();
    archive::write(&mut *user.snapshot().await.unwrap(), &mut out).await.unwrap();
    out
}

#[tokio::test]
async fn erase_leaves_no_byte_and_no_way_back() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    bed.user("bob").await;
    for n in 0..50 {
        alice.commit(put(&format!("{CANARY}-{n}"), CANARY.repeat(100).as_bytes())).await.unwrap();
    }
    assert!(holds(&bed.bytes(), CANARY));
    let backup = archived(&bed, "alice").await;
    assert!(bed.store.erase(bed.tag("alice")).await.unwrap().removed);
    assert!(!holds(&bed.bytes(), CANARY));
    assert_eq!(alice.commit(put("late", b"1")).await.unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(bed.store.open(bed.tag("alice")).await.unwrap_err().kind(), ErrorKind::Erased);
    assert!(!bed.store.erase(bed.tag("alice")).await.unwrap().removed);
    let mut reader = archive::Reader::open(backup.as_slice()).unwrap();
    let error = bed.store.import(bed.tag("alice"), &mut reader, ImportMode::Replace).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Erased);
    assert!(!holds(&bed.bytes(), CANARY));

    let bed = bed.reopen().await;
    let first = || put("new", b"life");
    assert_eq!(
        bed.store.create(bed.tag("alice"), first(), CreateMode::New).await.unwrap_err().kind(),
        ErrorKind::Erased
    );
    bed.store.create(bed.tag("alice"), first(), CreateMode::Recreate).await.unwrap();
    assert_eq!(bed.store.list(None, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_deleted_value_is_in_no_file() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    alice.commit(put("secret", CANARY.repeat(500).as_bytes())).await.unwrap();
    assert!(holds(&bed.bytes(), CANARY));
    let delete = syntha_store::Batch::new(syntha_store::Timestamp(9)).unwrap();
    alice.commit(delete.delete(syntha_store::Keyspace::Context, crate::id("secret"))).await.unwrap();
    assert!(!holds(&bed.bytes(), CANARY));
}

#[tokio::test]
async fn an_archive_restores_into_its_user_alone() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    bed.user("bob").await;
    alice.commit(put("a", b"old")).await.unwrap();
    let before = alice.state().await.unwrap();
    let backup = archived(&bed, "alice").await;
    alice.commit(put("a", b"new")).await.unwrap();
    alice.commit(put("b", b"newer")).await.unwrap();

    let mut reader = archive::Reader::open(backup.as_slice()).unwrap();
    let foreign = bed.store.import(bed.tag("bob"), &mut reader, ImportMode::Replace).await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::Invalid);
    let mut reader = archive::Reader::open(backup.as_slice()).unwrap();
    let present = bed.store.import(bed.tag("alice"), &mut reader, ImportMode::New).await.unwrap_err();
    assert_eq!(present.kind(), ErrorKind::AlreadyExists);
    let mut reader = archive::Reader::open(&backup[..backup.len() - 1]).unwrap();
    let cut = bed.store.import(bed.tag("alice"), &mut reader, ImportMode::Replace).await.unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::Corrupt);
    assert_eq!(get(&*alice, "a").await.unwrap(), b"new", "a broken archive changed nothing");

    let mut reader = archive::Reader::open(backup.as_slice()).unwrap();
    let stamp = bed.store.import(bed.tag("alice"), &mut reader, ImportMode::Replace).await.unwrap();
    assert!(
        stamp.epoch.0 >= before.stamp.epoch.0 + EPOCH_JUMP && stamp.incarnation != before.stamp.incarnation
    );
    assert_eq!(alice.commit(put("late", b"1")).await.unwrap_err().kind(), ErrorKind::Gone);
    let bed = bed.reopen().await;
    let alice = bed.store.open(bed.tag("alice")).await.unwrap();
    assert_eq!(get(&*alice, "a").await.unwrap(), b"old");
    assert_eq!(get(&*alice, "b").await, None);
    assert_eq!(get(&*bed.store.open(bed.tag("bob")).await.unwrap(), "name").await.unwrap(), b"bob");
}

/// The states that a crash can leave: before the fence the old data, after it the new, never a mixture.
#[tokio::test]
async fn a_restore_that_was_cut_short_is_old_or_new() {
    for fenced in [false, true] {
        let bed = Bed::new().await;
        let alice = bed.user("alice").await;
        let backup = archived(&bed, "alice").await;
        alice.commit(put("name", b"newer")).await.unwrap();
        // A second folder makes the finished file that the import would have moved into place.
        let other = tempfile::tempdir().unwrap();
        let root = other.path().join("data");
        std::fs::create_dir(&root).unwrap();
        std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::copy(bed.root().join("deployment.key"), root.join("deployment.key")).unwrap();
        let elsewhere =
            syntha_sqlite::SqliteStore::open(syntha_sqlite::SqliteConfig::new(&root)).await.unwrap();
        let mut reader = archive::Reader::open(backup.as_slice()).unwrap();
        elsewhere.import(bed.tag("alice"), &mut reader, ImportMode::New).await.unwrap();
        elsewhere.close().await.unwrap();
        let finished = root.join(bed.file("alice").strip_prefix(bed.root()).unwrap());

        if fenced {
            bed.store.fence(bed.tag("alice"), None, Fence::Restoring).await.unwrap();
        }
        std::fs::copy(finished, bed.file("alice").with_extension("restore")).unwrap();
        drop(alice);
        let bed = bed.crash().await;
        let alice = bed.store.open(bed.tag("alice")).await.unwrap();
        let expected: &[u8] = if fenced { b"alice" } else { b"newer" };
        assert_eq!(get(&*alice, "name").await.unwrap(), expected, "fenced: {fenced}");
        assert!(!bed.file("alice").with_extension("restore").exists());
    }
}
