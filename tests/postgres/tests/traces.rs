//! What users wrote stands in their tables and nowhere else: not in the server's log, though it writes down every statement, not in what it tells of its
//! activity, not in its statistics for the application's role, and not in errors.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::sync::Arc;
use std::time::Duration;

use aho_corasick::AhoCorasick;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use syntha_postgres::syntha_store::{
    Batch, ChainHead, CreateMode, Error, ErrorKind, Expect, Head, ImportMode, Incarnation, Keyspace, Record,
    RecordId, Result, Scan, Snapshot, Store, StoredRecord, Timestamp, UserState, UserStore, UserTag, Version,
};
use syntha_postgres::testing::{TestDatabase, TestServer, execute};
use syntha_postgres::{Mode, PostgresStore};
use syntha_postgres_tests::{id, tag};

/// As talkative as it gets, but for the two settings that `verify` asks for.
const TALKATIVE: &[&str] = &[
    "log_min_duration_statement=0",
    "log_statement=all",
    "log_min_messages=debug1",
    "log_min_error_statement=debug1",
    "log_error_verbosity=verbose",
    "log_duration=on",
    "log_connections=on",
    "log_disconnections=on",
    "log_lock_waits=on",
    "deadlock_timeout=50ms",
    "log_checkpoints=on",
    "log_autovacuum_min_duration=0",
    "log_temp_files=0",
    "log_parameter_max_length=0",
    "log_parameter_max_length_on_error=0",
    "shared_preload_libraries='pg_stat_statements'",
    "pg_stat_statements.track=all",
];

/// What each of two users writes: a name, a head and a body.
fn canary(user: &str, of: &str) -> String {
    format!("canary-{user}-{of}-8d1f0c")
}

const USERS: [&str; 2] = ["alice", "bob"];

/// Each canary in the forms in which a server or a driver could write it down.
fn needles() -> AhoCorasick {
    let mut needles = Vec::new();
    for user in USERS {
        for of in ["name", "head", "body", "late"] {
            let text = canary(user, of);
            let hex = data_encoding::HEXLOWER.encode(text.as_bytes());
            // An end that is cut off is found too.
            needles.push(text.as_bytes()[..text.len() - 4].to_vec());
            needles.push(hex.as_bytes()[..hex.len() - 8].to_vec());
            needles.push(hex.to_uppercase().into_bytes());
            needles.push(data_encoding::BASE64_NOPAD.encode(text.as_bytes()).into_bytes());
        }
    }
    AhoCorasick::new(needles).unwrap()
}

fn batch(user: &str, of: &str) -> Batch {
    let name = RecordId::new(canary(user, "name").into_bytes(), 0).unwrap();
    let batch = Batch::new(Timestamp(1)).unwrap();
    batch.put(Keyspace::Context, name, canary(user, "head"), canary(user, of))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trace_of_what_users_wrote() {
    let server = TestServer::own(TALKATIVE).await.unwrap();
    let needles = needles();
    for mode in [Mode::Schema, Mode::Rls] {
        let database = server.database(mode).await.unwrap();
        database
            .admin("CREATE SCHEMA stats; CREATE EXTENSION pg_stat_statements SCHEMA stats")
            .await
            .unwrap();
        let pooler = server.shared_pooler().await.unwrap();
        for (way, config) in [("direct", database.config()), ("pooled", database.config_through(pooler))] {
            let store = PostgresStore::open(config).await.unwrap();
            let errors = work(&store, &database, way).await;
            assert!(errors.len() > 6, "{errors:?}");
            for error in errors {
                let text = format!("{error} {error:?}");
                assert!(!needles.is_match(&text), "{text}");
            }
            store.close().await.unwrap();
        }
        statistics(&database, &needles).await;
    }
    let log = server.log().unwrap();
    assert!(log.contains("syntha.commit"), "the log is not the one that was meant");
    assert!(log.contains("ERROR:"), "no statement has failed");
    if let Some(found) = needles.find(&log) {
        let from = log[..found.start()].rfind("\n2").unwrap_or(0);
        panic!("the log holds what a user wrote: {}", &log[from..(found.end() + 200).min(log.len())]);
    }
    println!("evidence: {} bytes of the server's log, 0 canaries", log.len());
}

/// Everything that users do, and everything that fails. Gives the errors.
async fn work(store: &PostgresStore, database: &TestDatabase, way: &str) -> Vec<Error> {
    let mut errors = Vec::new();
    for user in USERS {
        let of_way = format!("{user}-{way}");
        let first = store.create(tag(store, &of_way), batch(user, "body"), CreateMode::New).await.unwrap();
        let (handle, since) = (first.0, first.1.stamp);
        handle.commit(batch(user, "late")).await.unwrap();
        handle.scan(Scan::records(Keyspace::Context, 10).name(canary(user, "name"))).await.unwrap();
        handle.changes(since, 10).await.unwrap();
        errors
            .push(store.create(tag(store, &of_way), batch(user, "late"), CreateMode::New).await.unwrap_err());
        errors.push(handle.commit(batch(user, "late").expect(Expect::Stamp(since))).await.unwrap_err());
        let long = handle.commit(batch(user, "late").put(
            Keyspace::Context,
            id("long"),
            vec![b'x'; 5_000],
            canary(user, "late"),
        ));
        errors.push(long.await.unwrap_err());
        errors.push(twice(store, &of_way, user).await);
        errors.push(ended(&handle, database, user).await);
    }
    errors
}

/// A copy that holds a record twice.
async fn twice(store: &PostgresStore, of_way: &str, user: &str) -> Error {
    let other = format!("{of_way}-copy");
    let mut copy = Copy {
        owner: tag(store, &other),
        state: open_state(store, of_way).await,
        left: 2,
        user: user.to_owned(),
    };
    store.import(copy.owner, &mut copy, ImportMode::New).await.unwrap_err()
}

async fn open_state(store: &PostgresStore, name: &str) -> UserState {
    syntha_postgres_tests::open(store, name).await.state().await.unwrap()
}

struct Copy {
    owner: UserTag,
    state: UserState,
    left: u32,
    user: String,
}

#[async_trait::async_trait]
impl Snapshot for Copy {
    fn owner(&self) -> UserTag {
        self.owner
    }

    fn state(&self) -> UserState {
        self.state
    }

    fn life(&self) -> Option<Incarnation> {
        None
    }

    fn follows(&self) -> Option<ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let name = RecordId::new(canary(&self.user, "name").into_bytes(), 0)?;
        let head = Head::new(name, canary(&self.user, "head").into(), Version(1), Version(1), None);
        Ok(Some(vec![StoredRecord {
            space: Keyspace::Context,
            record: Record::new(head, canary(&self.user, "body")),
        }]))
    }
}

/// A commit that waits for a lock, and is ended by the server's administrator.
async fn ended(handle: &Arc<dyn UserStore>, database: &TestDatabase, user: &str) -> Error {
    const HOLD: &str = "BEGIN; DO $$ DECLARE n text; BEGIN
            FOR n IN SELECT nspname FROM pg_namespace WHERE nspname LIKE 'u\\_%' OR nspname = 'syntha_rows' LOOP
                EXECUTE format('LOCK %I.user_state IN EXCLUSIVE MODE', n);
            END LOOP; END $$; SELECT pg_sleep(1); COMMIT";
    const HOLDING: &str =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    const END: &str = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND usename = 'syntha_app' AND wait_event_type = 'Lock'";
    let url = database.url("postgres");
    let held = tokio::spawn(async move { execute(&url, HOLD).await });
    reaches_one(database, HOLDING).await;
    let waits = tokio::spawn({
        let (handle, batch) = (Arc::clone(handle), batch(user, "late"));
        async move { handle.commit(batch).await }
    });
    // Long enough for the line in the log that somebody waits.
    tokio::time::sleep(Duration::from_millis(120)).await;
    reaches_one(database, END).await;
    held.await.unwrap().unwrap();
    waits.await.unwrap().unwrap_err()
}

async fn reaches_one(database: &TestDatabase, question: &str) {
    let reached = async {
        while database.number(question).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached).await.unwrap();
}

/// What the server tells of statements, and what its statistics tell the application's role.
async fn statistics(database: &TestDatabase, needles: &AhoCorasick) {
    database.admin("ANALYZE").await.unwrap();
    let mut superuser = PgConnection::connect(&database.url("postgres")).await.unwrap();
    let mut texts: Vec<String> =
        sqlx::query_scalar("SELECT query FROM pg_stat_activity").fetch_all(&mut superuser).await.unwrap();
    texts.extend(
        sqlx::query_scalar::<_, String>("SELECT query FROM stats.pg_stat_statements")
            .fetch_all(&mut superuser)
            .await
            .unwrap(),
    );
    assert!(texts.iter().any(|text| text.contains("syntha.commit")), "{texts:?}");
    for text in texts {
        assert!(!needles.is_match(&text), "{text}");
    }
    // There are some, or the question below would say nothing.
    const OF_USERS: &str = "SELECT count(*) FROM pg_stats WHERE tablename IN ('user_record', 'user_state', 'user_deleted', 'member')";
    let sees = async |connection: &mut PgConnection| -> i64 {
        sqlx::query_scalar(OF_USERS).fetch_one(connection).await.unwrap()
    };
    assert!(sees(&mut superuser).await > 0);
    for role in ["syntha_app", "syntha_owner"] {
        let mut connection = PgConnection::connect(&database.url(role)).await.unwrap();
        let seen = sees(&mut connection).await;
        if role == "syntha_app" {
            assert_eq!(seen, 0, "the application's role reads statistics of users' tables");
        }
        for table in ["pg_statistic", "pg_statistic_ext_data"] {
            let text = if table == "pg_statistic" {
                "SELECT count(*) FROM pg_statistic"
            } else {
                "SELECT count(*) FROM pg_statistic_ext_data"
            };
            assert!(sqlx::query(text).fetch_one(&mut connection).await.is_err(), "{role} reads {table}");
        }
        connection.close().await.unwrap();
    }
    superuser.close().await.unwrap();
}

/// Settings that would bring values into the log are refused, each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_log_values_are_refused() {
    let server = TestServer::own(&["shared_preload_libraries='auto_explain'"]).await.unwrap();
    let database = server.database(Mode::Rls).await.unwrap();
    for setting in [
        "log_parameter_max_length_on_error = 100",
        "debug_print_plan = on",
        "debug_print_rewritten = on",
        "debug_print_parse = on",
        "auto_explain.log_min_duration = 0",
    ] {
        let (name, _) = setting.split_once(' ').unwrap();
        let alter = |what: String| {
            format!("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {what}', current_database()); END $$")
        };
        database.admin(&alter(format!("SET {setting}"))).await.unwrap();
        let refused = PostgresStore::open(database.config()).await.map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::Refused), "{setting}");
        database.admin(&alter(format!("RESET {name}"))).await.unwrap();
        PostgresStore::open(database.config()).await.unwrap().close().await.unwrap();
    }
}
