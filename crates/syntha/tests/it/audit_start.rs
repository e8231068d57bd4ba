//! What a start reads of the audit log, from a folder's first day to a deployment that is built anew.

use syntha::keys::make_key_file;
use syntha::trail::verify::{Scope, TrustedKeys, Verdict, Verifier};
use syntha::{AuditScope, Encryption, Kek, Migration, UserManager, seal_folder};

use crate::audit::{audited, is_clean};

/// Of how many leaves a start read how many.
fn read(users: &UserManager) -> (u64, u64) {
    let opened = users.audit().unwrap().opened().unwrap();
    (opened.leaves, opened.read)
}

#[tokio::test]
async fn a_start_begins_where_the_last_process_ended() {
    let (_folder, data) = super::data();
    make_key_file(data.with_file_name("data.key")).unwrap();
    let (users, host) = audited(&data, false).await;
    let trail = users.audit().unwrap();
    let mut sessions = Vec::new();
    for user in ["alice", "bob", "carol", "dave", "erin", "frank"] {
        sessions.push(users.create_user_session(&host, user).await.unwrap());
    }
    let mut leaves = 0;
    while leaves < 300 {
        for session in &sessions {
            session.agent("writer").unwrap().push("count", leaves).await.unwrap();
        }
        leaves = trail.checkpoint().await.unwrap().head.size;
    }
    sessions.into_iter().for_each(|session| session.end());
    users.erase("bob").await.unwrap();
    users.shutdown().await.unwrap();
    drop(host);
    // It reads what is in no full page, and knows all the same.
    let (users, host) = audited(&data, false).await;
    let (all, few) = read(&users);
    assert!(all > 300 && few == all % 256, "{few} of {all}");
    assert!(is_clean(&users, &AuditScope::All, true).await);
    assert!(users.open(&host, "bob").await.is_err());
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("writer").unwrap().push("count", 0).await.unwrap();
    session.end();
    let trail = users.audit().unwrap();
    let old = trail.keys().await.unwrap();
    // A new key has nothing of the old one.
    trail.rotate_signer().await.unwrap();
    let keys = trail.keys().await.unwrap();
    assert_ne!(old, keys);
    users.shutdown().await.unwrap();
    drop(host);
    let (users, _host) = audited(&data, false).await;
    let (all, few) = read(&users);
    assert!(few == all || few == all % 256, "kept under the new key, or read: {few} of {all}");
    assert!(is_clean(&users, &AuditScope::All, true).await);
    users.shutdown().await.unwrap();
    drop(_host);
    // The trail of before goes along as a file; the log begins anew, and all of it is read until its index is kept.
    let key = Encryption::new(Kek::file(data.with_file_name("data.key")));
    let sealed = seal_folder(&data, key, Migration::new(), |_| {}).await.unwrap();
    let mut verifier = Verifier::new(TrustedKeys::parse(&keys).unwrap()).scope(Scope::All);
    verifier.read(std::io::Cursor::new(std::fs::read(sealed.trail.unwrap()).unwrap())).unwrap();
    assert_eq!(verifier.finish().verdict(), Verdict::Clean);
    let (users, _host) = UserManager::builder().sqlite(&data).open().await.unwrap();
    let (all, few) = read(&users);
    assert!(all < 256 && few == all, "{few} of {all}");
    assert!(is_clean(&users, &AuditScope::All, true).await);
    users.shutdown().await.unwrap();
}
