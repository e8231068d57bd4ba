//! A commit that is still under way when its sender is told that it did not happen: it must not happen later.

use std::time::Duration;

use syntha_postgres::syntha_store::{DeploymentKey, ErrorKind, Keyspace, Outcome, Store};
use syntha_postgres::testing::{TestDatabase, TestServer};
use syntha_postgres::{Mode, PostgresConfig, PostgresStore};
use syntha_postgres_tests::{Network, id, put, user};

const KEY: [u8; 32] = [7; 32];

/// The row of every user, held for a while: commits wait for it.
const HELD: &str = "BEGIN; SELECT 1 FROM syntha_rows.user_state FOR UPDATE; SELECT pg_sleep(1.5); COMMIT";
const WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
const HOLDING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";

/// An outcome that only looks: the answer "no" is a guess.
const GUESS: &str = "DO $do$ DECLARE v text := pg_get_functiondef('syntha.settle'::regproc); BEGIN
    v := replace(replace(v, 'v_place FOR UPDATE', 'v_place'), 'ELSIF position(p_batch IN o_recent) = 0', 'ELSIF false');
    EXECUTE v; END $do$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_did_not_happen_does_not_happen_later() {
    let server = TestServer::own(&[]).await.unwrap();
    let (outcome, is_there) = cut_while_it_waits(server, None).await;
    match outcome {
        Outcome::Committed(_) => assert!(is_there, "a commit that was confirmed is not there"),
        Outcome::Not => assert!(!is_there, "it was said not to have happened, and happened later"),
        other => panic!("{other:?}"),
    }
    // What this test is worth.
    assert_eq!(cut_while_it_waits(server, Some(GUESS)).await, (Outcome::Not, true));
}

/// What the store says of a commit whose connection was cut while it waited for a lock, and whether it is there in the end.
async fn cut_while_it_waits(server: &'static TestServer, fault: Option<&str>) -> (Outcome, bool) {
    let database = server.database(Mode::Rls).await.unwrap();
    let folder = tempfile::Builder::new().prefix("sy-").tempdir_in("/tmp").unwrap();
    let network = Network::before(server.socket().unwrap(), folder.path(), 0);
    let url = network.url("syntha_app", database.name());
    let mut config = PostgresConfig::new(url, DeploymentKey::from_bytes(KEY)).mode(Mode::Rls);
    if let Some(fault) = fault {
        database.admin(fault).await.unwrap();
        config = config.unverified();
    }
    let store = PostgresStore::open(config).await.unwrap();
    let alice = user(&store, "alice").await;
    let since = alice.state().await.unwrap().stamp;

    let holder = hold(&database).await;
    let batch = put("late", "alice:late");
    let batch_id = batch.id;
    let sent = tokio::spawn({
        let alice = std::sync::Arc::clone(&alice);
        async move { alice.commit(batch).await }
    });
    until(&database, WAITING, 1).await;
    network.cut_all();
    assert_eq!(sent.await.unwrap().unwrap_err().kind(), ErrorKind::Unknown);

    let outcome = loop {
        // The store's other connections are cut as well.
        match alice.outcome(batch_id, since).await {
            Ok(outcome) => break outcome,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
        }
    };
    holder.await.unwrap();
    // Whatever still runs has ended.
    until(&database, WAITING, 0).await;
    alice.commit(put("after", "alice:after")).await.unwrap();
    let read = alice.read(Keyspace::Context, &[id("late")]).await.unwrap().value;
    store.close().await.unwrap();
    (outcome, read[0].is_some())
}

/// Nothing of the batch has reached the server when its sender asks: from then on it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_was_asked_for_is_refused_when_it_comes() {
    for mode in [Mode::Schema, Mode::Rls] {
        let database = TestServer::get().await.unwrap().database(mode).await.unwrap();
        let store = PostgresStore::open(database.config()).await.unwrap();
        let alice = user(&store, "alice").await;
        let since = alice.state().await.unwrap().stamp;
        let batch = put("late", "alice:late");
        for _ in 0..2 {
            assert_eq!(alice.outcome(batch.id, since).await.unwrap(), Outcome::Not);
        }
        let (batch_id, refused) = (batch.id, alice.commit(batch).await.unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert_eq!(alice.outcome(batch_id, since).await.unwrap(), Outcome::Not);
        assert_eq!(alice.state().await.unwrap().stamp, since, "asking is no commit");
        // The same batch a second time is not written a second time.
        let twice = put("twice", "alice:twice");
        let (again, committed) = (twice.clone(), alice.commit(twice).await.unwrap());
        assert_eq!(alice.commit(again).await.unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(alice.state().await.unwrap().stamp, committed.stamp);
        store.close().await.unwrap();
        database.remove().await.unwrap();
    }
}

async fn hold(database: &TestDatabase) -> tokio::task::JoinHandle<()> {
    let url = database.url("postgres");
    let held = tokio::spawn(async move { syntha_postgres::testing::execute(&url, HELD).await.unwrap() });
    until(database, HOLDING, 1).await;
    held
}

async fn until(database: &TestDatabase, question: &str, answer: i64) {
    let reached = async {
        while database.number(question).await.unwrap() != answer {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap();
}
