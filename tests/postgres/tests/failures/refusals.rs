//! Refusals of a server that is there: no room, no time, no connection, no right to write.

use std::sync::Arc;
use std::time::Duration;

use syntha_postgres::syntha_store::{ErrorKind, Keyspace, Scan, Store, UserStore};
use syntha_postgres::testing::{TestDatabase, TestServer, execute};
use syntha_postgres::{Mode, PostgresStore};
use syntha_postgres_tests::{put, user};

use super::both_ways;

/// A disk that is really full: of so many MiB, where the database's tables are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_called_so_and_loses_nothing() {
    for mode in super::MODES {
        let server = TestServer::own_with_disk(&[], 32).await.unwrap();
        let database = server.database(mode).await.unwrap();
        database.move_to_small_disk().await.unwrap();
        for (way, config) in both_ways(&database).await {
            let store = PostgresStore::open(config).await.unwrap();
            let alice = user(&store, way).await;
            database.admin("CREATE TABLE public.ballast AS SELECT repeat(md5(n::text), 32) FROM generate_series(1, 4096) AS n").await.unwrap();
            // Nothing of it can be compressed away.
            let mut written = 0_usize;
            let refused = loop {
                let body: String = std::iter::repeat_with(fastrand::alphanumeric).take(100_000).collect();
                match alice.commit(put(&format!("n-{written}"), &body)).await {
                    Ok(_) => written += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!(refused.kind(), ErrorKind::StorageFull, "{way} in {mode:?}: {refused}");
            assert!(refused.to_string().contains("full"), "{refused}");
            assert!(written > 3, "{written}");
            // Reads go on, and room helps.
            assert_eq!(records(&*alice).await, written + 1);
            database.admin("DROP TABLE public.ballast").await.unwrap();
            let again = async {
                while alice.commit(put("after", "room")).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), again).await.unwrap();
            assert_eq!(records(&*alice).await, written + 2);
            store.erase(syntha_postgres_tests::tag(&store, way)).await.unwrap();
            store.close().await.unwrap();
            database.admin("VACUUM FULL").await.unwrap();
            println!("full disk, {way} in {mode:?}: {written} of 100 kB fitted");
        }
    }
}

async fn records(user: &dyn UserStore) -> usize {
    let scan = Scan::heads(Keyspace::Context, 10_000);
    user.scan(scan).await.unwrap().value.records.len()
}

/// Holds the rows of all users for so many seconds.
async fn hold(database: &TestDatabase, text: &'static str) -> tokio::task::JoinHandle<()> {
    const HOLDING: &str =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let url = database.url("postgres");
    let held = tokio::spawn(async move { execute(&url, text).await.unwrap() });
    while database.number(HOLDING).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    held
}

/// The server's own limits of time: nothing was written, and it is said so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_time_are_busy() {
    let server = TestServer::get().await.unwrap();
    let database = server.database(Mode::Rls).await.unwrap();
    let limit = "DO $$ BEGIN EXECUTE format('ALTER ROLE syntha_app IN DATABASE %I SET statement_timeout = ''200ms''', current_database()); END $$";
    database.admin(limit).await.unwrap();
    for (way, config) in both_ways(&database).await {
        let store = PostgresStore::open(config).await.unwrap();
        let alice = user(&store, way).await;
        let before = alice.state().await.unwrap();
        let held = hold(
            &database,
            "BEGIN; SELECT 1 FROM syntha_rows.user_state FOR UPDATE; SELECT pg_sleep(2); COMMIT",
        )
        .await;
        assert_eq!(alice.commit(put("n", "1")).await.unwrap_err().kind(), ErrorKind::Busy, "{way}");
        // Who only reads does not wait.
        assert_eq!(alice.state().await.unwrap(), before);
        held.await.unwrap();
        assert_eq!(alice.state().await.unwrap(), before);
        alice.commit(put("n", "2")).await.unwrap();
        store.close().await.unwrap();
    }
    database.remove().await.unwrap();
}

/// The store's own: a commit waits ten seconds for another one to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_held_for_long_is_busy() {
    let database = TestServer::get().await.unwrap().database(Mode::Rls).await.unwrap();
    let store = PostgresStore::open(database.config()).await.unwrap();
    let alice = user(&store, "alice").await;
    let before = alice.state().await.unwrap();
    let held = hold(
        &database,
        "BEGIN; SELECT 1 FROM syntha_rows.user_state FOR UPDATE; SELECT pg_sleep(12); COMMIT",
    )
    .await;
    let started = std::time::Instant::now();
    assert_eq!(alice.commit(put("n", "1")).await.unwrap_err().kind(), ErrorKind::Busy);
    assert!(started.elapsed() > Duration::from_secs(9), "{:?}", started.elapsed());
    held.await.unwrap();
    assert_eq!(alice.state().await.unwrap(), before);
    alice.commit(put("n", "2")).await.unwrap();
    store.close().await.unwrap();
    database.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_connections_to_spare_is_busy() {
    // The limit is the role's, so the server is one's own.
    let server = TestServer::own(&[]).await.unwrap();
    let database = server.database(Mode::Schema).await.unwrap();
    let config = database.config().connections(4).acquire_timeout(Duration::from_millis(300));
    let store = Arc::new(PostgresStore::open(config).await.unwrap());
    let alice = user(&store, "alice").await;
    database.admin("ALTER ROLE syntha_app CONNECTION LIMIT 1").await.unwrap();
    // A copy that is read has a connection of its own, and those that there are serve on.
    let mut held = Vec::new();
    let refused = loop {
        match alice.snapshot().await {
            Ok(copy) => held.push(copy),
            Err(error) => break error,
        }
        assert!(held.len() < 10, "the server gives more than it may");
    };
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
    drop(held);
    database.admin("ALTER ROLE syntha_app CONNECTION LIMIT -1").await.unwrap();
    let again = async {
        while alice.commit(put("n", "1")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_only_reads_is_unavailable_for_writes() {
    let database = TestServer::get().await.unwrap().database(Mode::Schema).await.unwrap();
    let store = PostgresStore::open(database.config()).await.unwrap();
    let alice = user(&store, "alice").await;
    store.close().await.unwrap();
    let only_reads = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$";
    database.admin(only_reads).await.unwrap();
    drop(alice);
    let opened = PostgresStore::open(database.config()).await;
    // It may not open at all, for what was erased is dropped then; if it does, it says what is wrong.
    if let Ok(store) = opened {
        let alice = syntha_postgres_tests::open(&store, "alice").await;
        assert_eq!(alice.commit(put("n", "1")).await.unwrap_err().kind(), ErrorKind::Unavailable);
        store.close().await.unwrap();
    }
    database.remove().await.unwrap();
}
