//! What an erasure destroys, and that its receipt says no more.

use std::path::Path;
use std::sync::Arc;

use syntha::keys::{EncryptedStore, Keychain, Keystore};
use syntha::sqlite::{SqliteConfig, SqliteStore};
use syntha::store::Store;
use syntha::{ErrorKind, Kek, KeyCache, UserManager};

use crate::archives::{plain, sealed};

pub(crate) fn copy(from: &Path, to: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Opens what the facade keeps closed: the keys and the store of a sealed folder `data`.
pub(crate) async fn with_keychain<T>(folder: &Path, work: impl AsyncFnOnce(&Keychain, &dyn Store) -> T) -> T {
    let keys = SqliteConfig::new(folder.join("data.keys"));
    let keystore = Keystore::open(Arc::new(SqliteStore::open(keys).await.unwrap()) as _).await.unwrap();
    let kek = Kek::file(folder.join("data.key"));
    let keychain = Keychain::open(keystore, &kek, KeyCache::default()).await.unwrap();
    let files = SqliteConfig::new(folder.join("data")).deployment_key(keychain.deployment_key().clone());
    let files: Arc<dyn Store> = Arc::new(SqliteStore::open(files).await.unwrap());
    #[cfg(feature = "audit")]
    let files = {
        let print = keychain.deployment_key().fingerprint();
        Arc::new(syntha::trail::AuditedStore::new(files, print).unwrap()) as Arc<dyn Store>
    };
    let store = EncryptedStore::new(files, &keychain).unwrap();
    let done = work(&keychain, &store).await;
    store.close().await.unwrap();
    done
}

#[tokio::test]
async fn the_receipt_says_what_was_destroyed() {
    let (_folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", 1).await.unwrap();
    users.create("never-wrote").await.unwrap();
    let receipt = users.erase("alice").await.unwrap();
    assert!(receipt.removed && receipt.sealed && receipt.objects > 0 && receipt.at.0 > 0);
    // The root, and the keys of the one life.
    assert_eq!(receipt.keys, 2);
    let json = serde_json::to_value(receipt).unwrap();
    assert_eq!(json["keys"], 2);
    assert_eq!(json["covers"].as_array().unwrap().len(), receipt.covers().len());
    let never = users.erase("never-wrote").await.unwrap();
    assert!(!never.removed && never.keys == 0);

    let (_elsewhere, other) = super::data();
    let (users, host) = plain(&other).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", 1).await.unwrap();
    let receipt = users.erase("alice").await.unwrap();
    assert!(receipt.removed && !receipt.sealed && receipt.keys == 0);
    assert!(receipt.does_not_cover().iter().any(|text| text.contains("archives")));
}

/// The negative control of rule 16: what the receipt does not cover does open, and what it covers does not.
#[tokio::test]
async fn a_copy_of_data_opens_with_the_keys_of_its_time_alone() {
    let (folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    for user in ["alice", "bob"] {
        let session = users.create_user_session(&host, user).await.unwrap();
        session.agent("a").unwrap().push("k", user).await.unwrap();
    }
    users.shutdown().await.unwrap();
    let (old, old_keys, key) =
        (folder.path().join("old"), folder.path().join("old.keys"), folder.path().join("data.key"));
    copy(&data, &old);
    copy(&folder.path().join("data.keys"), &old_keys);
    if cfg!(feature = "audit") {
        let name = |folder: &str| data.with_file_name(format!("{folder}.audit.key"));
        std::fs::copy(name("data"), name("old")).unwrap();
    }
    let (users, _host) = sealed(&data).await;
    users.erase("alice").await.unwrap();
    users.shutdown().await.unwrap();
    let keys = folder.path().join("data.keys");

    // Data, keystore and key file of before: everything opens, and the receipt says so.
    let open = |keys: &Path| {
        let encryption = syntha::Encryption::new(Kek::file(&key)).keystore(keys);
        UserManager::builder().sqlite(&old).encryption(encryption).open()
    };
    let (users, host) = open(&old_keys).await.unwrap();
    let session = users.open(&host, "alice").await.unwrap();
    assert_eq!(session.agent("a").unwrap().get::<String>("k").await.unwrap().as_deref(), Some("alice"));
    users.shutdown().await.unwrap();
    drop((host, session));

    // The data of before with the present keystore: the erased user's opens for nobody, the other's does.
    let (users, host) = open(&keys).await.unwrap();
    assert_eq!(users.open(&host, "alice").await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(users.backup("alice", &mut Vec::new()).await.unwrap_err().kind(), ErrorKind::Denied);
    let session = users.open(&host, "bob").await.unwrap();
    assert_eq!(session.agent("a").unwrap().get::<String>("k").await.unwrap().as_deref(), Some("bob"));
}

/// A process that died between the intent and the end: the next start destroys the keys.
#[tokio::test]
async fn an_unfinished_erasure_takes_the_keys_at_the_next_start() {
    use syntha::store::{Batch, Keyspace, RecordId, Timestamp};

    let (folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("a").unwrap().push("k", 1).await.unwrap();
    let mut archive = Vec::new();
    users.backup("alice", &mut archive).await.unwrap();
    let tag = users.tag("alice").unwrap();
    users.shutdown().await.unwrap();
    drop((host, session));
    with_keychain(folder.path(), async |keychain, store| {
        let id = RecordId::new(tag.as_bytes().to_vec(), 0).unwrap();
        let intent = br#"{"v":1,"done":false,"at":1}"#.to_vec();
        let batch = Batch::new(Timestamp(1)).unwrap().put(Keyspace::Ledger, id, "", intent);
        store.deployment().await.unwrap().commit(batch).await.unwrap();
        assert!(keychain.archives(tag).await.has_key());
    })
    .await;
    let (users, host) = sealed(&data).await;
    assert_eq!(users.open(&host, "alice").await.unwrap_err().kind(), ErrorKind::Erased);
    users.recreate("alice").await.unwrap();
    let error = users.restore("alice", std::io::Cursor::new(archive)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "the key of the archive went with the rest");
}
