//! What somebody tries who may read or write the files of sealed data.

use std::path::{Path, PathBuf};

use syntha::{Kek, SecretKey};

use crate::archives::sealed;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The wrapped keys that stand anywhere in a folder's files: base64 of more than 100 characters that begins as every wrap does.
fn wraps(folder: &Path) -> std::collections::BTreeSet<Vec<u8>> {
    let mut found = std::collections::BTreeSet::new();
    for path in files(folder) {
        let bytes = std::fs::read(path).unwrap();
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
        found.extend(
            bytes
                .split(|byte| !is_base64(byte))
                .filter(|part| part.len() > 100 && part.starts_with(b"A"))
                .map(<[u8]>::to_vec),
        );
    }
    found
}

#[tokio::test]
async fn a_destroyed_or_replaced_wrap_stands_in_no_file_of_the_keystore() {
    let (_folder, data) = super::data();
    let keys = data.with_file_name("data.keys");
    let (users, host) = sealed(&data).await;
    let alice = users.create_user_session(&host, "alice").await.unwrap();
    alice.agent("a").unwrap().push("k", 1).await.unwrap();
    let before = wraps(&keys);
    assert!(before.len() >= 4, "header, deployment, alice: {}", before.len());
    users.rotate_keys("alice", |_| {}).await.unwrap();
    let rotated = wraps(&keys);
    assert_eq!(before.difference(&rotated).count(), 1);
    let other = Kek::from_key(SecretKey::generate().unwrap());
    users.change_key(&other, |_| {}).await.unwrap();
    let changed = wraps(&keys);
    assert_eq!(rotated.intersection(&changed).count(), 0, "of {}", rotated.len());
    users.erase("alice").await.unwrap();
    assert_eq!(changed.difference(&wraps(&keys)).count(), 2);
}

/// Heads that are written alone keep the body that is there now, and not one of before.
#[tokio::test]
async fn an_entry_whose_topics_go_keeps_its_newest_value() {
    let (_folder, data) = super::data();
    let (users, host) = sealed(&data).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let agent = session.agent("a").unwrap();
    agent.subscribe(["one", "two", "three"]).await.unwrap();
    for (round, gone) in ["one", "two"].into_iter().enumerate() {
        agent.push("k", round).topics(["one", "two", "three"]).await.unwrap();
        session.delete_topic(gone).await.unwrap();
    }
    drop((agent, session));
    users.shutdown().await.unwrap();
    let (users, host) = sealed(&data).await;
    let session = users.open(&host, "alice").await.unwrap();
    assert_eq!(session.agent("a").unwrap().get::<usize>("k").await.unwrap(), Some(1));
}

/// A power loss takes what is in a log that was not synced. Where commits are not, the one before a key is destroyed is.
#[tokio::test]
async fn a_rotation_destroys_no_key_before_the_data_is_durable() {
    use syntha::sqlite::{SqliteConfig, Synchronous};
    let (_folder, data) = super::data();
    let config = SqliteConfig::new(&data).synchronous(Synchronous::Normal);
    let (users, host) = syntha::UserManager::builder().sqlite_with(config).open().await.unwrap();
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let agent = session.agent("a").unwrap();
    for number in 0..20 {
        agent.push(format!("k{number}"), "value").await.unwrap();
    }
    users.rotate_keys("alice", |_| {}).await.unwrap();
    let logs = files(&data.join("users")).into_iter().filter(|path| path.to_string_lossy().ends_with("-wal"));
    assert_eq!(logs.map(|log| log.metadata().unwrap().len()).sum::<u64>(), 0);
    assert_eq!(agent.get::<String>("k7").await.unwrap().as_deref(), Some("value"));
}
