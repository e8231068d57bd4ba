//! What processes tell each other: it wakes who waits, names nobody, and is not needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use syntha_postgres::testing::TestDatabase;
use syntha_postgres::{Mode, PostgresStore};
use syntha_store::{Stamp, Store, UserStore};

use super::{MODES, database, put, tag, user};

const LISTENERS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND starts_with(application_name, 'syntha listener ')";
const END_LISTENERS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND starts_with(application_name, 'syntha listener ')";

/// Longer than any wait that goes right.
const LONG: Duration = Duration::from_secs(20);
/// After so long a listener is sure that others know of it.
const KNOWN: Duration = Duration::from_millis(2_500);

async fn wait(user: &Arc<dyn UserStore>, since: Stamp) -> tokio::task::JoinHandle<(Stamp, Instant)> {
    let user = Arc::clone(user);
    tokio::spawn(async move {
        let stamp = tokio::time::timeout(LONG, user.changed(since)).await.expect("nobody woke it").unwrap();
        (stamp, Instant::now())
    })
}

/// By itself a waiter that listens would look once a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_wakes_who_waits_in_another_store() {
    let database = database(Mode::Schema).await;
    let (here, there) = stores(&database).await;
    let writer = user(&here, "alice").await;
    let reader = there.open(tag(&there, "alice")).await.unwrap();
    assert!(here.capabilities().notifies);
    let mut took = Vec::new();
    for n in 0..9 {
        let since = reader.state().await.unwrap().stamp;
        let waiting = wait(&reader, since).await;
        tokio::time::sleep(if n == 0 { KNOWN } else { Duration::from_millis(30) }).await;
        let committed = writer.commit(put("n", &n.to_string())).await.unwrap().stamp;
        let since = Instant::now();
        let (stamp, at) = waiting.await.unwrap();
        assert_eq!(stamp, committed);
        took.push(at.saturating_duration_since(since));
    }
    took.sort();
    assert!(took[4] < Duration::from_millis(400), "{took:?}");
    close(database, [here, there]).await;
}

/// A store that waits for nothing does not listen, and one that may not never does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_nothing_does_not_listen() {
    let database = database(Mode::Rls).await;
    let here = PostgresStore::open(database.config()).await.unwrap();
    let deaf = PostgresStore::open(database.config().notifications(false)).await.unwrap();
    assert!(!deaf.capabilities().notifies);
    let writer = user(&here, "alice").await;
    let reader = deaf.open(tag(&deaf, "alice")).await.unwrap();
    let since = reader.state().await.unwrap().stamp;
    let waiting = wait(&reader, since).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(database.number(LISTENERS).await.unwrap(), 0);
    let committed = writer.commit(put("n", "1")).await.unwrap().stamp;
    assert_eq!(waiting.await.unwrap().0, committed);
    // The first wait of a store that may listen is what begins it.
    let waiting = wait(&writer, committed).await;
    let mut listeners = 0;
    for _ in 0..100 {
        listeners = database.number(LISTENERS).await.unwrap();
        if listeners == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(listeners, 1);
    waiting.abort();
    close(database, [here, deaf]).await;
}

/// Any role of the database may listen. It learns that somebody's data moved on, and nothing of whose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_names_nobody() {
    for mode in MODES {
        let database = database(mode).await;
        let store = PostgresStore::open(database.config()).await.unwrap();
        let mut listener = listener(&database).await;
        let alice = user(&store, "alice-canary").await;
        let mut heard = Vec::new();
        for n in 0..20 {
            alice.commit(put("key-canary", &format!("value-canary-{n}"))).await.unwrap();
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        while let Ok(notice) = tokio::time::timeout(Duration::from_millis(500), listener.recv()).await {
            let notice = notice.unwrap();
            assert_eq!(notice.channel(), "syntha");
            heard.push(notice.payload().to_owned());
        }
        assert!(!heard.is_empty(), "nothing was told");
        let tag = tag(&store, "alice-canary");
        let hex: String = tag.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let base64 = data_encoding::BASE64URL_NOPAD.encode(tag.as_bytes());
        let mark = store.deployment_key().notice(tag.as_bytes());
        for payload in &heard {
            for canary in ["canary", "alice", &tag.to_string()[..12], &hex[..16], &base64[..12]] {
                assert!(!payload.contains(canary), "{payload} holds {canary}");
            }
            assert_eq!(payload, &format!("1{}", data_encoding::BASE64URL_NOPAD.encode(&mark)));
        }
        // And who has the tag, as from the name of a schema, cannot tell: the key is another's.
        let other = syntha_store::DeploymentKey::from_bytes([8; 32]).notice(tag.as_bytes());
        assert_ne!(other, mark);
        drop(listener);
        store.close().await.unwrap();
        database.remove().await.unwrap();
    }
}

/// Many commits in a short time are few notices, and a crowd of users is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_are_gathered() {
    let database = database(Mode::Rls).await;
    let store = PostgresStore::open(database.config()).await.unwrap();
    let mut listener = listener(&database).await;
    let alice = user(&store, "alice").await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let since = Instant::now();
    for n in 0..300 {
        alice.commit(put("n", &n.to_string())).await.unwrap();
    }
    let most = since.elapsed().as_millis() / 20 + 3;
    let mut heard = 0;
    while tokio::time::timeout(Duration::from_millis(500), listener.recv()).await.is_ok() {
        heard += 1;
    }
    assert!(heard >= 1 && heard <= most, "{heard} notices of 300 commits, {most} at most");
    drop(listener);
    store.close().await.unwrap();
    database.remove().await.unwrap();
}

/// Whoever forges a notice wakes somebody, who looks and waits on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_notice_is_only_a_hint() {
    let database = database(Mode::Schema).await;
    let (here, there) = stores(&database).await;
    let writer = user(&here, "alice").await;
    let reader = there.open(tag(&there, "alice")).await.unwrap();
    let since = reader.state().await.unwrap().stamp;
    let waiting = wait(&reader, since).await;
    tokio::time::sleep(KNOWN).await;
    let mark = data_encoding::BASE64URL_NOPAD
        .encode(&there.deployment_key().notice(tag(&there, "alice").as_bytes()));
    for payload in ["", "*", "1", "?", "1x", "2garbage", &format!("1{mark}"), &"1".repeat(7_000)] {
        database.run("syntha_app", &format!("NOTIFY syntha, '{payload}'")).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "a forged notice passed for a commit");
    let committed = writer.commit(put("n", "1")).await.unwrap().stamp;
    assert_eq!(waiting.await.unwrap().0, committed);
    close(database, [here, there]).await;
}

/// The listener's connection ends again and again: every commit is seen all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_cut_off_misses_nothing() {
    let database = database(Mode::Schema).await;
    let (here, there) = stores(&database).await;
    let writer = user(&here, "alice").await;
    let reader = there.open(tag(&there, "alice")).await.unwrap();
    let mut ended = 0;
    for n in 0..12 {
        let since = reader.state().await.unwrap().stamp;
        let waiting = wait(&reader, since).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        ended += database.number(END_LISTENERS).await.unwrap();
        let committed = writer.commit(put("n", &n.to_string())).await.unwrap().stamp;
        assert_eq!(waiting.await.unwrap().0, committed);
    }
    assert!(ended >= 3, "the listener came back {ended} times");
    close(database, [here, there]).await;
}

/// It listens where nothing is to be heard, as behind a pooler. It finds out by calling itself, and looks as often as without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_hears_nothing_is_noticed() {
    let (database, elsewhere) = (database(Mode::Rls).await, database(Mode::Rls).await);
    let here = PostgresStore::open(database.config()).await.unwrap();
    let config = database.config().listen_url(elsewhere.url("syntha_app"));
    let there = PostgresStore::open(config).await.unwrap();
    let writer = user(&here, "alice").await;
    let reader = there.open(tag(&there, "alice")).await.unwrap();
    let mut took = Vec::new();
    for n in 0..9 {
        let since = reader.state().await.unwrap().stamp;
        let waiting = wait(&reader, since).await;
        tokio::time::sleep(if n == 0 { KNOWN } else { Duration::from_millis(30) }).await;
        let committed = writer.commit(put("n", &n.to_string())).await.unwrap().stamp;
        let since = Instant::now();
        let (stamp, at) = waiting.await.unwrap();
        assert_eq!(stamp, committed);
        took.push(at.saturating_duration_since(since));
    }
    took.sort();
    assert!(took[4] < Duration::from_millis(400), "{took:?}");
    close(database, [here, there]).await;
    elsewhere.remove().await.unwrap();
}

async fn stores(database: &TestDatabase) -> (PostgresStore, PostgresStore) {
    let here = PostgresStore::open(database.config()).await.unwrap();
    (here, PostgresStore::open(database.config()).await.unwrap())
}

async fn close(database: TestDatabase, stores: [PostgresStore; 2]) {
    for store in stores {
        store.close().await.unwrap();
    }
    database.remove().await.unwrap();
}

/// Somebody else of the same database who listens, and is counted as one who does.
async fn listener(database: &TestDatabase) -> PgListener {
    let options: PgConnectOptions = database.url("syntha_app").parse().unwrap();
    let options = options.application_name("syntha listener test").disable_statement_logging();
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen("syntha").await.unwrap();
    listener
}
