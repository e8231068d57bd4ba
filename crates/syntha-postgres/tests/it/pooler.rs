//! Behind a pooler: what is refused when it opens, and what would happen if it were not.

use std::sync::Arc;
use std::time::Duration;

use syntha_postgres::testing::{Pooling, TestServer};
use syntha_postgres::{Mode, PostgresConfig, PostgresStore, Statements};
use syntha_store::{Batch, CreateMode, Error, ErrorKind, Keyspace, Scan, Store, Timestamp};

use super::{MODES, database, put, tag, user, who};

async fn opened(config: PostgresConfig) -> Result<(), (ErrorKind, String)> {
    let store = PostgresStore::open(config).await.map_err(|error| (error.kind(), error.to_string()))?;
    store.verify().await.map_err(|error| (error.kind(), error.to_string()))?;
    store.close().await.unwrap();
    Ok(())
}

/// Debian's pgbouncer is 1.18, which keeps no statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pooler_mixes_up_is_refused() {
    let server = TestServer::get().await.unwrap();
    let database = database(Mode::Schema).await;
    for (pooling, good) in [
        (Pooling::Session, &[Statements::Kept, Statements::Unnamed, Statements::Pooled][..]),
        (Pooling::Transaction, &[Statements::Pooled]),
        (Pooling::Statement, &[]),
    ] {
        let pooler = server.pooler(pooling, 6).await.unwrap();
        for statements in [Statements::Kept, Statements::Unnamed, Statements::Pooled] {
            // Again, when the server's connections have been used.
            for _ in 0..2 {
                let found = opened(database.config_through(&pooler).statements(statements)).await;
                if good.contains(&statements) {
                    assert_eq!(found, Ok(()), "{statements:?} pooled by {pooling:?}");
                    continue;
                }
                let (kind, text) = found.unwrap_err();
                assert_eq!(kind, ErrorKind::Refused, "{statements:?} pooled by {pooling:?}: {text}");
                let advice =
                    if pooling == Pooling::Statement { "pool by transaction" } else { "Statements::Pooled" };
                assert!(text.contains(advice), "{text}");
            }
        }
    }
    // Directly, every way is right.
    for statements in [Statements::Kept, Statements::Unnamed, Statements::Pooled] {
        assert_eq!(opened(database.config().statements(statements)).await, Ok(()), "{statements:?}");
    }
    database.remove().await.unwrap();
}

/// One connection of the server for all: there is nothing to change to, but names are lost all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_one_serves_and_is_noticed() {
    let database = database(Mode::Rls).await;
    let pooler = TestServer::get().await.unwrap().pooler(Pooling::Transaction, 1).await.unwrap();
    for statements in [Statements::Kept, Statements::Unnamed] {
        let (kind, _) = opened(database.config_through(&pooler).statements(statements)).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Refused, "{statements:?}");
    }
    let store = PostgresStore::open(database.config_through(&pooler)).await.unwrap();
    let users = [user(&store, "alice").await, user(&store, "bob").await];
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..40_usize {
        let user = Arc::clone(&users[n % 2]);
        tasks.spawn(async move { user.commit(put(&format!("k-{n}"), "body")).await });
    }
    for done in tasks.join_all().await {
        done.unwrap();
    }
    for (user, name) in users.iter().zip(["alice", "bob"]) {
        assert_eq!(who(&**user).await.as_deref(), Some(name));
        let page = user.scan(Scan::records(Keyspace::Context, 100)).await.unwrap().value;
        assert_eq!(page.records.len(), 21);
    }
    store.close().await.unwrap();
    database.remove().await.unwrap();
}

/// Why the two are refused: opened all the same, calls meet the texts of other calls. Users are apart even then, for a tag is in the values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unnamed_statements_meet_others_behind_a_pooler() {
    let server = TestServer::get().await.unwrap();
    for (statements, works) in
        [(Statements::Unnamed, false), (Statements::Kept, false), (Statements::Pooled, true)]
    {
        let database = database(Mode::Rls).await;
        let pooler = server.pooler(Pooling::Transaction, 3).await.unwrap();
        let plain = PostgresStore::open(database.config()).await.unwrap();
        for n in 0..4 {
            user(&plain, &format!("user-{n}")).await;
        }
        let config = database.config_through(&pooler).statements(statements).connections(8).unverified();
        let failed = match PostgresStore::open(config).await {
            Ok(store) => crowd(Arc::new(store)).await,
            Err(error) => vec![error],
        };
        assert_eq!(failed.is_empty(), works, "{statements:?}: {failed:?}");
        for error in failed {
            let text = error.to_string();
            assert!(!text.contains("user-"), "{text}");
        }
        plain.close().await.unwrap();
        database.remove().await.unwrap();
    }
}

/// Four users at once, each by calls of several kinds. Gives the errors.
async fn crowd(store: Arc<PostgresStore>) -> Vec<Error> {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..4 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let name = format!("user-{n}");
            let mut failed = Vec::new();
            for round in 0..60 {
                if let Err(error) = calls(&store, &name, round).await {
                    failed.push(error);
                }
            }
            failed
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

async fn calls(store: &PostgresStore, name: &str, round: u32) -> Result<(), Error> {
    let user = store.open(tag(store, name)).await?;
    user.commit(put("n", &round.to_string())).await?;
    let read = user.read(Keyspace::Context, &[super::id("who")]).await?.value;
    let body = read[0].as_ref().map(|record| record.body.to_vec());
    assert!(body.is_none_or(|body| body == name.as_bytes()), "{name} was given another user's record");
    user.state().await.map(drop)
}

/// A caller who goes between the statement and the end of its transaction leaves neither a transaction nor a lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_go_leave_no_transaction_behind_a_pooler() {
    let server = TestServer::get().await.unwrap();
    for mode in MODES {
        let database = database(mode).await;
        let pooler = server.pooler(Pooling::Transaction, 2).await.unwrap();
        let store = PostgresStore::open(database.config_through(&pooler).connections(2)).await.unwrap();
        let alice = user(&store, "alice").await;
        for n in 0..100_u64 {
            let commit = alice.commit(put("n", &n.to_string()));
            let _ = tokio::time::timeout(Duration::from_micros(n * 37 % 1_500), commit).await;
        }
        // It waits for whatever is still under way.
        alice.commit(put("n", "last")).await.unwrap();
        let gone = Batch::new(Timestamp(1)).unwrap();
        assert_eq!(
            store.create(tag(&store, "alice"), gone, CreateMode::New).await.unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        store.close().await.unwrap();
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        assert_eq!(database.number(open).await.unwrap(), 0);
        database.remove().await.unwrap();
    }
}
