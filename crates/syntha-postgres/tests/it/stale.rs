//! Connections that the server has ended while they rested, and how users share connections.

use std::time::Duration;

use syntha_postgres::{Mode, PostgresStore};
use syntha_store::{ErrorKind, Store};

use super::{MODES, database, put, user, who};

const END_ALL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = 'syntha_app'";
const BACKENDS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'syntha_app'";

/// As after a restart: no operation fails for a connection that rested, and none happens twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ended_while_it_rested_fails_nobody() {
    for mode in MODES {
        let database = database(mode).await;
        let store = PostgresStore::open(database.config()).await.unwrap();
        let (alice, bob) = (user(&store, "alice").await, user(&store, "bob").await);
        let mut ended = 0;
        for n in 0..20_u64 {
            // Several connections, so that all but the first are found out before they serve.
            let both = tokio::join!(alice.state(), bob.state());
            let epoch = both.0.unwrap().stamp.epoch.0;
            both.1.unwrap();
            ended += database.number(END_ALL).await.unwrap();
            // The server's processes say goodbye a moment later.
            while database.number(BACKENDS).await.unwrap() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let committed = alice.commit(put("n", &n.to_string())).await.unwrap();
            assert_eq!(committed.stamp.epoch.0, epoch + 1, "once, in {mode:?}");
            assert_eq!(who(&*bob).await.as_deref(), Some("bob"));
        }
        assert!(ended >= 20, "{ended} connections were ended");
        store.close().await.unwrap();
        database.remove().await.unwrap();
    }
}

/// Plans are made for one schema: two users by turns get a connection each, where there may be two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_by_turns_keep_their_connections() {
    for (mode, most, expected) in [(Mode::Schema, 4, 2), (Mode::Schema, 1, 1), (Mode::Rls, 4, 1)] {
        let database = database(mode).await;
        let config = database.config().connections(most).notifications(false);
        let store = PostgresStore::open(config).await.unwrap();
        let (alice, bob) = (user(&store, "alice").await, user(&store, "bob").await);
        for n in 0..20 {
            alice.commit(put("n", &n.to_string())).await.unwrap();
            bob.commit(put("n", &n.to_string())).await.unwrap();
        }
        assert_eq!(database.number(BACKENDS).await.unwrap(), expected, "{mode:?} of {most}");
        store.close().await.unwrap();
        database.remove().await.unwrap();
    }
}

/// A close waits for what is under way, and what comes later is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_waits_and_then_refuses() {
    let database = database(Mode::Rls).await;
    let store = std::sync::Arc::new(PostgresStore::open(database.config().connections(2)).await.unwrap());
    let alice = user(&store, "alice").await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..40 {
        let alice = std::sync::Arc::clone(&alice);
        tasks.spawn(async move {
            alice.commit(put("n", &n.to_string())).await.map(drop).map_err(|error| error.kind())
        });
    }
    tokio::task::yield_now().await;
    store.close().await.unwrap();
    for done in tasks.join_all().await {
        assert!(matches!(done, Ok(()) | Err(ErrorKind::Unavailable)), "{done:?}");
    }
    assert_eq!(alice.state().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(database.number(BACKENDS).await.unwrap(), 0);
    database.remove().await.unwrap();
}
