//! Connections: kept, left clean, lost.

use std::sync::Arc;

use syntha_postgres::{Mode, PostgresStore, Statements};
use syntha_store::{ErrorKind, Keyspace, Outcome, Store, UserStore};

use super::{MODES, database, id, put, tag, user, who};

const BACKENDS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'syntha_app'";

/// How often somebody connected. The server tells it a little late.
const CONNECTED: &str = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_used_again() {
    for statements in [Statements::Kept, Statements::Unnamed] {
        let database = database(Mode::Schema).await;
        let before = database.number(CONNECTED).await.unwrap();
        let config = database.config().connections(1).statements(statements);
        let store = PostgresStore::open(config).await.unwrap();
        let alice = user(&store, "alice").await;
        for n in 0..50 {
            alice.commit(put("k", &n.to_string())).await.unwrap();
            alice.state().await.unwrap();
        }
        assert_eq!(database.number(BACKENDS).await.unwrap(), 1);
        store.close().await.unwrap();
        // The administrator's own connections count as well.
        let connected = database.number(CONNECTED).await.unwrap() - before;
        assert!(connected < 10, "{connected} connections");
        database.remove().await.unwrap();
    }
}

/// One connection, and callers who go at every moment: nobody meets another's data, and what was acknowledged stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_go_leave_nothing_behind() {
    for mode in MODES {
        let database = database(mode).await;
        let store = PostgresStore::open(database.config().connections(1)).await.unwrap();
        let (alice, bob) = (user(&store, "alice").await, user(&store, "bob").await);
        let mut acknowledged = 0;
        for n in 0..200_u32 {
            let next = put("n", &n.to_string());
            let (id, since) = (next.id, alice.state().await.unwrap().stamp);
            let done = give_up_after(n % 7, {
                let alice = Arc::clone(&alice);
                async move { alice.commit(next).await }
            })
            .await;
            assert_eq!(who(&*bob).await.as_deref(), Some("bob"));
            match done {
                Some(commit) => {
                    commit.unwrap();
                    acknowledged += 1;
                    assert!(matches!(alice.outcome(id, since).await.unwrap(), Outcome::Committed(_)));
                }
                // It may have happened or not, and whoever asks is told.
                None => assert_ne!(alice.outcome(id, since).await.unwrap(), Outcome::Forgotten),
            }
            assert_eq!(who(&*alice).await.as_deref(), Some("alice"));
        }
        assert!(acknowledged < 200, "nobody went");
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        assert_eq!(database.number(open).await.unwrap(), 0);
        store.close().await.unwrap();
        database.remove().await.unwrap();
    }
}

/// A connection that is given back inside a transaction takes the next commit into it, and that is gone when the connection is. So what is given
/// back is looked at, and this is what a store does that does not look.
#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_left_open_is_never_used_again() {
    let database = database(Mode::Schema).await;
    let other = PostgresStore::open(database.config()).await.unwrap();
    for (name, fault) in [("alice", None), ("bob", Some(syntha_postgres::Fault::TransactionLeft))] {
        let config = database.config().connections(1);
        let config = match fault {
            Some(fault) => config.unverified().fault(fault),
            None => config,
        };
        let store = PostgresStore::open(config).await.unwrap();
        let one = user(&store, name).await;
        assert_eq!(who(&*one).await.as_deref(), Some(name));
        one.commit(put("k", "acknowledged")).await.unwrap();
        store.close().await.unwrap();
        let kept = match other.open(tag(&other, name)).await {
            Ok(one) => one.read(Keyspace::Context, &[id("k")]).await.unwrap().value[0].is_some(),
            Err(_) => false,
        };
        assert_eq!(kept, fault.is_none(), "{fault:?}");
    }
    other.close().await.unwrap();
    database.remove().await.unwrap();
}

/// Polls a future so often, and drops it if it is not ready then.
async fn give_up_after<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        let poll = future.as_mut().poll(cx);
        if poll.is_ready() {
            return poll.map(Some);
        }
        left = match left.checked_sub(1) {
            Some(left) => left,
            None => return std::task::Poll::Ready(None),
        };
        std::task::Poll::Pending
    })
    .await
}

/// The server ends every connection again and again. What was acknowledged is there; of the rest the outcome tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_connections_lose_nothing_that_was_acknowledged() {
    let database = database(Mode::Schema).await;
    let store = PostgresStore::open(database.config().connections(2)).await.unwrap();
    let alice = user(&store, "alice").await;
    let (mut ended, mut last) = (0, String::new());
    for n in 0..60 {
        if n % 3 == 0 {
            ended += database
                .number(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE datname = current_database() AND usename = 'syntha_app'",
                )
                .await
                .unwrap();
        }
        let next = put("n", &n.to_string());
        let id = next.id;
        let since = syntha_store::Stamp {
            incarnation: syntha_store::Incarnation(0),
            epoch: syntha_store::Epoch(u64::MAX),
        };
        match alice.commit(next).await {
            Ok(_) => last = n.to_string(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
                if let Outcome::Committed(_) = ask(&*alice, id, since).await {
                    last = n.to_string();
                }
            }
        }
        let read = loop {
            match alice.read(syntha_store::Keyspace::Context, &[super::id("n")]).await {
                Ok(read) => break read.value,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
            }
        };
        let body = read[0].as_ref().map(|record| String::from_utf8(record.body.to_vec()).unwrap());
        assert_eq!(body.unwrap_or_default(), last);
    }
    // Most are said once more, on a new connection: what is left is `Unknown`.
    assert!(ended >= 20, "{ended} connections were ended");
    store.close().await.unwrap();
    database.remove().await.unwrap();
}

async fn ask(user: &dyn UserStore, id: syntha_store::BatchId, since: syntha_store::Stamp) -> Outcome {
    loop {
        match user.outcome(id, since).await {
            Ok(outcome) => return outcome,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
        }
    }
}

/// A function sets its path for the session: the connection that it was called on serves nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_keeps_a_users_path_is_closed() {
    let database = database(Mode::Schema).await;
    let store = PostgresStore::open(database.config().connections(1)).await.unwrap();
    let (alice, bob) = (user(&store, "alice").await, user(&store, "bob").await);
    let lasting = "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('syntha.state'::regproc), ', true)', ', false)'); END $$";
    database.admin(lasting).await.unwrap();
    let stamps = [alice.state().await.unwrap().stamp, bob.state().await.unwrap().stamp];
    let before = database.number(CONNECTED).await.unwrap();
    for _ in 0..20 {
        assert_eq!([alice.state().await.unwrap().stamp, bob.state().await.unwrap().stamp], stamps);
    }
    store.close().await.unwrap();
    let connected = database.number(CONNECTED).await.unwrap() - before;
    assert!(connected >= 20, "only {connected} connections for 40 calls");
    database.remove().await.unwrap();
}
