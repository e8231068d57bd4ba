use std::os::unix::fs::{PermissionsExt, symlink};

use syntha_sqlite::{SqliteConfig, SqliteStore};
use syntha_store::{ErrorKind, Store};

use crate::{Bed, get, mode, put};

#[tokio::test]
async fn folders_and_files_are_for_their_owner_alone() {
    let bed = Bed::new().await;
    bed.user("alice").await;
    let file = bed.file("alice");
    assert_eq!(mode(&file), 0o600);
    for folder in [bed.root(), file.parent().unwrap().into(), file.parent().unwrap().parent().unwrap().into()]
    {
        assert_eq!(mode(&folder), 0o700);
    }
    for name in ["lock", "deployment.key"] {
        assert_eq!(mode(&bed.root().join(name)), 0o600);
    }
    bed.store.deployment().await.unwrap();
    assert_eq!(mode(&bed.root().join("deployment.db")), 0o600);
}

#[tokio::test]
async fn a_second_holder_is_refused_with_the_first_ones_number() {
    let bed = Bed::new().await;
    let error = SqliteStore::open(SqliteConfig::new(bed.root())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, format!("process {}", std::process::id()));
}

#[tokio::test]
async fn a_folder_that_others_may_enter_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let error = SqliteStore::open(SqliteConfig::new(folder.path())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn links_and_shared_files_are_refused() {
    let bed = Bed::new().await;
    bed.user("alice").await;
    bed.user("bob").await;
    let bed = bed.reopen().await;
    let (alice, bob) = (bed.file("alice"), bed.file("bob"));
    let aside = bed.root().join("aside");
    std::fs::rename(&alice, &aside).unwrap();

    symlink(&bob, &alice).unwrap();
    assert_eq!(bed.store.open(bed.tag("alice")).await.unwrap_err().kind(), ErrorKind::Refused);
    std::fs::remove_file(&alice).unwrap();

    std::fs::hard_link(&bob, &alice).unwrap();
    assert_eq!(bed.store.open(bed.tag("alice")).await.unwrap_err().kind(), ErrorKind::Refused);
    std::fs::remove_file(&alice).unwrap();

    std::fs::copy(&bob, &alice).unwrap();
    assert_eq!(bed.store.open(bed.tag("alice")).await.unwrap_err().kind(), ErrorKind::Refused, "bob's file");
    std::fs::remove_file(&alice).unwrap();

    std::fs::create_dir(&alice).unwrap();
    assert_eq!(bed.store.open(bed.tag("alice")).await.unwrap_err().kind(), ErrorKind::Refused);
    std::fs::remove_dir(&alice).unwrap();

    std::fs::rename(&aside, &alice).unwrap();
    std::fs::set_permissions(&alice, PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(bed.store.open(bed.tag("alice")).await.unwrap_err().kind(), ErrorKind::Refused);
    std::fs::set_permissions(&alice, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(get(&*bed.store.open(bed.tag("alice")).await.unwrap(), "name").await.unwrap(), b"alice");
    assert_eq!(get(&*bed.store.open(bed.tag("bob")).await.unwrap(), "name").await.unwrap(), b"bob");
}

#[tokio::test]
async fn a_foreign_log_is_refused() {
    let bed = Bed::new().await;
    let (alice, bob) = (bed.user("alice").await, bed.user("bob").await);
    alice.commit(put("a", b"1")).await.unwrap();
    bob.commit(put("b", b"SECRET-OF-BOB")).await.unwrap();
    let log = |name: &str| bed.file(name).with_extension("db-wal");
    let of_bob = std::fs::read(log("bob")).unwrap();
    assert!(!of_bob.is_empty(), "the test needs a log that was not moved into its file");
    let bed = bed.reopen().await;
    let path = bed.file("alice").with_extension("db-wal");
    std::fs::write(&path, of_bob).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let error = bed.store.open(bed.tag("alice")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Refused | ErrorKind::Corrupt), "{error:?}");
}

#[tokio::test]
async fn a_log_without_its_database_is_refused() {
    let bed = Bed::new().await;
    bed.user("alice").await;
    let bed = bed.reopen().await;
    let file = bed.file("alice");
    std::fs::rename(&file, file.with_extension("db-wal")).unwrap();
    assert_eq!(bed.store.open(bed.tag("alice")).await.unwrap_err().kind(), ErrorKind::Refused);
    let first = put("a", b"1");
    let error = bed.store.create(bed.tag("alice"), first, syntha_store::CreateMode::New).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn one_damaged_file_is_put_aside_and_the_others_go_on() {
    let bed = Bed::new().await;
    bed.user("alice").await;
    bed.user("bob").await;
    let bed = bed.reopen().await;
    let file = bed.file("alice");
    std::fs::write(&file, vec![b'x'; 8192]).unwrap();
    for _ in 0..2 {
        assert_eq!(bed.store.open(bed.tag("alice")).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    assert!(!file.exists() && file.with_extension("corrupt").exists());
    let again = bed.store.create(bed.tag("alice"), put("a", b"1"), syntha_store::CreateMode::New).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Corrupt, "a damaged user is not made anew by mistake");
    assert_eq!(get(&*bed.store.open(bed.tag("bob")).await.unwrap(), "name").await.unwrap(), b"bob");
}

#[tokio::test]
async fn a_newer_format_is_refused_and_kept() {
    let bed = Bed::new().await;
    bed.user("alice").await;
    let bed = bed.reopen().await;
    let file = bed.file("alice");
    let mut bytes = std::fs::read(&file).unwrap();
    // The user version stands at byte 60 of the header, https://www.sqlite.org/fileformat2.html
    bytes[60..64].copy_from_slice(&5_u32.to_be_bytes());
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(bed.store.open(bed.tag("alice")).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(file.exists());
}

#[tokio::test]
async fn data_without_its_key_is_an_error_and_no_new_start() {
    let bed = Bed::new().await;
    bed.user("alice").await;
    bed.store.close().await.unwrap();
    let Bed { folder, store } = bed;
    drop(store);
    let root = folder.path().join("data");
    std::fs::remove_file(root.join("deployment.key")).unwrap();
    let error = SqliteStore::open(SqliteConfig::new(&root)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(!root.join("deployment.key").exists());
}

#[tokio::test]
async fn another_deployments_key_opens_nothing() {
    let bed = Bed::new().await;
    bed.user("alice").await;
    let tag = bed.tag("alice");
    bed.store.close().await.unwrap();
    let Bed { folder, store } = bed;
    drop(store);
    let root = folder.path().join("data");
    std::fs::write(root.join("deployment.key"), [9; 32]).unwrap();
    let store = SqliteStore::open(SqliteConfig::new(&root)).await.unwrap();
    assert_eq!(store.open(tag).await.unwrap_err().kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn verify_finds_a_file_in_another_users_place() {
    let bed = Bed::new().await;
    bed.user("alice").await;
    bed.user("bob").await;
    bed.store.verify().await.unwrap();
    let bed = bed.reopen().await;
    std::fs::copy(bed.file("bob"), bed.file("alice")).unwrap();
    assert_eq!(bed.store.verify().await.unwrap_err().kind(), ErrorKind::Refused);
}

/// A process that died between the renames of a quarantine: the rest is put aside too, and the user is corrupt, not absent.
#[tokio::test]
async fn a_quarantine_that_ended_early_is_finished() {
    let bed = Bed::new().await;
    bed.user("alice").await;
    let file = bed.file("alice");
    let bed = bed.reopen().await;
    std::fs::rename(&file, file.with_extension("corrupt")).unwrap();
    let log = file.with_extension("db-wal");
    std::fs::write(&log, b"the rest of a log").unwrap();
    std::fs::set_permissions(&log, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let refused = bed.store.open(bed.tag("alice")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(!log.exists() && file.with_extension("corrupt-wal").exists());
}

/// The copy that a backup reads has no name, so no erase and no crash leaves it behind.
#[tokio::test]
async fn an_open_snapshot_has_no_file_name() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let mut snapshot = alice.snapshot().await.unwrap();
    assert_eq!(std::fs::read_dir(bed.root().join("tmp")).unwrap().count(), 0);
    assert!(snapshot.next().await.unwrap().is_some());
}
