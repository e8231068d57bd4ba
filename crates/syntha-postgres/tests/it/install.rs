//! The installation, which is repeated by every process that starts.

use syntha_postgres::{InstallConfig, Mode, PostgresStore, install};
use syntha_store::{DeploymentKey, ErrorKind, Store};

use super::{MODES, database, tag, user, who};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_repeated_and_keeps_what_is_there() {
    for mode in MODES {
        let database = database(mode).await;
        let store = PostgresStore::open(database.config()).await.unwrap();
        user(&store, "alice").await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let config = InstallConfig::new(database.url("syntha_owner")).mode(mode);
            tasks.spawn(async move { install(&config, &DeploymentKey::from_bytes([7; 32])).await });
        }
        for done in tasks.join_all().await {
            done.unwrap();
        }
        let alice = store.open(tag(&store, "alice")).await.unwrap();
        assert_eq!(who(&*alice).await.as_deref(), Some("alice"));
        store.close().await.unwrap();
        database.remove().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_mode_or_key_is_refused_and_an_empty_database_says_so() {
    let database = database(Mode::Schema).await;
    let again = async |mode, key| {
        let config = InstallConfig::new(database.url("syntha_owner")).mode(mode);
        install(&config, &DeploymentKey::from_bytes(key)).await.map_err(|error| error.kind())
    };
    assert_eq!(again(Mode::Rls, [7; 32]).await, Err(ErrorKind::Unsupported));
    assert_eq!(again(Mode::Schema, [8; 32]).await, Err(ErrorKind::Refused));
    database.admin("UPDATE syntha.deployment SET version = version + 1").await.unwrap();
    assert_eq!(again(Mode::Schema, [7; 32]).await, Err(ErrorKind::Unsupported));
    database.admin("DROP SCHEMA syntha CASCADE").await.unwrap();
    let opened = PostgresStore::open(database.config()).await.map(drop).map_err(|error| error.kind());
    assert_eq!(opened, Err(ErrorKind::Unsupported));
    assert_eq!(again(Mode::Schema, [7; 32]).await, Ok(()));
    PostgresStore::open(database.config()).await.unwrap().close().await.unwrap();
    database.remove().await.unwrap();
}
