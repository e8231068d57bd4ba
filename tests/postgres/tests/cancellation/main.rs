//! Callers who go at every poll, on a pool of one connection: nobody meets another user's data, nothing acknowledged is lost, no transaction stays open,
//! and the store still serves. The same harness must catch the store that everybody writes first.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

mod harness;
mod naive;
mod syntha;

use harness::{Found, run};
use syntha_postgres::testing::TestServer;
use syntha_postgres::{Mode, PostgresConfig};

fn count() -> u64 {
    std::env::var("SYNTHA_PG_CANCELLATIONS").map_or(300, |count| count.parse().unwrap())
}

async fn of_syntha(
    way: &str,
    mode: Mode,
    config: impl AsyncFnOnce(&syntha_postgres::testing::TestDatabase) -> PostgresConfig,
) {
    let database = TestServer::get().await.unwrap().database(mode).await.unwrap();
    let config = config(&database).await.connections(1);
    let store = syntha::Store::new(config, database.config()).await;
    let found = run(&store, &database, count()).await;
    store.close().await;
    let Found { dropped, finished, most_polls, foreign, lost, open, unserved, .. } = found;
    assert_eq!((foreign, lost, open, unserved), (0, 0, 0, 0), "{way} in {mode:?}");
    assert!(most_polls > 2, "nobody went in the middle of something: {most_polls}");
    println!(
        "evidence: {way} in {mode:?}: {dropped} callers dropped at each of up to {most_polls} polls, {finished} answered, 0 foreign rows, 0 lost, 0 open transactions"
    );
    database.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancellation_of_a_schema_for_each_user() {
    of_syntha("direct", Mode::Schema, async |database| database.config()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancellation_of_shared_tables() {
    of_syntha("direct", Mode::Rls, async |database| database.config()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancellation_behind_a_pooler() {
    let pooler = TestServer::get().await.unwrap().shared_pooler().await.unwrap();
    of_syntha("pooled", Mode::Rls, async |database| database.config_through(pooler)).await;
}

/// What the harness is worth: it catches the plain `begin` and `commit`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_begin_and_commit_is_caught() {
    let database = TestServer::get().await.unwrap().database(Mode::Schema).await.unwrap();
    let store = naive::Store::new(&database).await;
    let found = run(&store, &database, 600).await;
    store.close().await;
    println!("the naive store: {found:?}");
    // An open transaction is seen only if it stands at the moment of a check; what it costs is seen whenever it was.
    assert!(found.lost + found.open > 0, "its acknowledgements are lost: {found:?}");
    assert!(found.foreign > 0, "its callers meet other users: {found:?}");
    database.remove().await.unwrap();
}
