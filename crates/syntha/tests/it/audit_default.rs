//! Which data has a trail when its host says nothing.

use std::sync::Arc;

use syntha::sqlite::{SqliteConfig, SqliteStore};
use syntha::store::{DeploymentKey, MemoryStore, Store};
use syntha::trail::FileSigner;
use syntha::{
    Audit, AuditAction, AuditQuery, AuditScope, ContextMesh, ErrorKind, UserManager, default_audit_key_file,
};

use crate::audit::{actions, is_clean, of};

#[tokio::test]
async fn a_new_folder_has_a_trail() {
    for sealed in [true, false] {
        let (_folder, data) = super::data();
        let builder = UserManager::builder().sqlite(&data);
        let builder = if sealed { builder } else { builder.plain() };
        let (users, host) = builder.open().await.unwrap();
        let session = users.create_user_session(&host, "alice").await.unwrap();
        session.agent("a").unwrap().push("k", 1).await.unwrap();
        assert_eq!(session.agent("a").unwrap().get::<u64>("k").await.unwrap(), Some(1));
        session.flush_audit().await.unwrap();
        let told = actions(&users, &of("alice"), AuditQuery::new()).await;
        for action in [AuditAction::Push, AuditAction::Read] {
            assert!(told.contains(&action), "{action:?} of {told:?}");
        }
        assert!(is_clean(&users, &AuditScope::All, true).await);
        assert!(
            default_audit_key_file(&data).exists()
                && default_audit_key_file(&data).ends_with("data.audit.key")
        );
        users.shutdown().await.unwrap();
    }
}

/// Without a manager too, and on a folder that several processes share.
#[tokio::test]
async fn a_mesh_by_itself_has_a_trail() {
    for shared in [true, false] {
        let (_folder, data) = super::data();
        let mesh = if shared {
            ContextMesh::open_shared(&data, "alice").await.unwrap()
        } else {
            ContextMesh::open(&data, "alice").await.unwrap()
        };
        mesh.agent("a").unwrap().push("k", 1).await.unwrap();
        drop(mesh);
        let open = async || {
            let builder = UserManager::builder();
            if shared { builder.sqlite_shared(&data) } else { builder.sqlite(&data) }.open().await
        };
        let (users, _host) = crate::backup::unlocked(open).await;
        assert_eq!(actions(&users, &of("alice"), AuditQuery::new().action(AuditAction::Push)).await.len(), 1);
        users.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn other_data_has_none_until_it_is_asked_for() {
    for sealed in [true, false] {
        let (_folder, data) = super::data();
        let builder = || {
            let builder = UserManager::builder().sqlite(&data);
            if sealed { builder } else { builder.plain() }
        };
        let (users, host) = builder().no_audit().open().await.unwrap();
        assert!(users.audit().is_none());
        users.shutdown().await.unwrap();
        drop(host);
        // A folder that is there stays as it was made, also if nobody has written.
        let (users, host) = builder().open().await.unwrap();
        assert!(users.audit().is_none());
        let session = users.create_user_session(&host, "alice").await.unwrap();
        session.agent("a").unwrap().push("k", 1).await.unwrap();
        users.shutdown().await.unwrap();
        drop((host, session));
        let (users, host) = builder().open().await.unwrap();
        assert!(users.audit().is_none());
        users.shutdown().await.unwrap();
        drop(host);
        assert!(!default_audit_key_file(&data).exists());
        let (users, host) = builder().audit(Audit::default()).open().await.unwrap();
        let session = users.open(&host, "alice").await.unwrap();
        session.flush_audit().await.unwrap();
        assert!(is_clean(&users, &AuditScope::All, true).await);
        users.shutdown().await.unwrap();
    }
    let store = Arc::new(MemoryStore::with_key(DeploymentKey::generate().unwrap()).unwrap());
    let key = store.deployment_key().clone();
    for builder in [UserManager::builder().memory(), UserManager::builder().store(store as _, key)] {
        let (users, _host) = builder.open().await.unwrap();
        assert!(users.audit().is_none());
        users.shutdown().await.unwrap();
    }
}

/// A process that died after it made the key, before it wrote anything: nothing is lost, and the trail begins.
#[tokio::test]
async fn a_key_beside_nothing_begins_its_trail() {
    for sealed in [true, false] {
        let (folder, data) = super::data();
        let builder = || {
            let builder = UserManager::builder().sqlite(&data);
            if sealed { builder } else { builder.plain() }
        };
        let print = if sealed {
            // A folder with its key and its keystore, and nothing in it yet.
            let (users, host) = builder().no_audit().open().await.unwrap();
            users.shutdown().await.unwrap();
            drop(host);
            let print = std::fs::read(data.join("deployment.print")).unwrap();
            for file in std::fs::read_dir(&data).unwrap() {
                let path = file.unwrap().path();
                if path.file_name().unwrap() != "deployment.print" && path.is_file() {
                    std::fs::remove_file(path).unwrap();
                }
            }
            syntha::store::KeyFingerprint::from_bytes(print.try_into().unwrap())
        } else {
            let files = SqliteStore::open(SqliteConfig::new(&data)).await.unwrap();
            let print = files.deployment_key().fingerprint();
            files.close().await.unwrap();
            print
        };
        FileSigner::open(default_audit_key_file(&data), &print).await.unwrap();
        let (users, host) = builder().open().await.unwrap();
        let session = users.create_user_session(&host, "alice").await.unwrap();
        session.agent("a").unwrap().push("k", 1).await.unwrap();
        assert!(is_clean(&users, &AuditScope::All, true).await);
        users.shutdown().await.unwrap();
        drop((host, session));

        // Once it has signed, data that was emptied is none that begins.
        let emptied = folder.path().join("emptied");
        std::fs::rename(&data, &emptied).unwrap();
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, emptied.metadata().unwrap().permissions()).unwrap();
        let kept = if sealed { "deployment.print" } else { "deployment.key" };
        std::fs::copy(emptied.join(kept), data.join(kept)).unwrap();
        let refused = builder().open().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Tampered, "sealed: {sealed}");
        assert!(refused.to_string().contains("put the data back"), "{refused}");
    }
}

/// A folder in whose parent nothing may be written says what to do.
#[tokio::test]
async fn a_key_that_cannot_be_made_is_named() {
    let (folder, data) = super::data();
    // A folder where the key's file is to be: also root can't write that.
    let inside = default_audit_key_file(&data);
    let audit = Audit::default().key_file(folder.path().join("nowhere").join("key"));
    let refused = UserManager::builder().sqlite(&data).plain().audit(audit).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Storage);
    assert!(refused.to_string().contains("name another place"), "{refused}");
    assert!(!inside.exists());
}
