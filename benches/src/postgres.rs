//! Rows on PostgreSQL, in both modes, beside bare statements of the same driver on the same server, which syncs each commit. The server is made
//! for the run, by the programs that are installed.

use std::hint::black_box;
use std::sync::Arc;

use sqlx::{ConnectOptions, Connection, Executor, PgConnection};
use syntha::UserManager;
use syntha_postgres::testing::{TestDatabase, TestServer};
use syntha_postgres::{Mode, PostgresStore};
use syntha_store::{Batch, CreateMode, Keyspace, RecordId, Store, Timestamp, UserId, UserStore};
use tokio::sync::Mutex;

use crate::bare::value;
use crate::pair::Report;

/// The variable that makes the server sync. It is read when the server starts, so it is set for the whole process.
pub(crate) const FSYNC: &str = "SYNTHA_POSTGRES_FSYNC";

const WRITES: u64 = 300;
const READS: u64 = 1_000;

/// The names of a mode's rows.
struct Names {
    mode: Mode,
    commit: &'static str,
    turns: &'static str,
    push: &'static str,
    state: &'static str,
    read: &'static str,
    get: &'static str,
    create: &'static str,
}

const NAMES: [Names; 2] = [
    Names {
        mode: Mode::Schema,
        commit: "postgres schema, commit",
        turns: "postgres schema, two users' turns",
        push: "postgres schema, push",
        state: "postgres schema, state",
        read: "postgres schema, read",
        get: "postgres schema, get",
        create: "postgres schema, new user",
    },
    Names {
        mode: Mode::Rls,
        commit: "postgres rls, commit",
        turns: "postgres rls, two users' turns",
        push: "postgres rls, push",
        state: "postgres rls, state",
        read: "postgres rls, read",
        get: "postgres rls, get",
        create: "postgres rls, new user",
    },
];

pub(crate) async fn run(report: &mut Report) {
    let Ok(server) = TestServer::get().await else {
        eprintln!(
            "there is no PostgreSQL server to measure: install it (Debian: apt-get install postgresql)"
        );
        return;
    };
    for names in &NAMES {
        let all = [names.commit, names.turns, names.push, names.state, names.read, names.get, names.create];
        if all.iter().any(|name| report.wants(name)) {
            mode(report, names, server).await;
        }
    }
}

struct Bed {
    engine: Arc<Mutex<PgConnection>>,
    store: Arc<PostgresStore>,
    database: TestDatabase,
}

async fn mode(report: &mut Report, names: &Names, server: &'static TestServer) {
    let database = server.database(names.mode).await.unwrap();
    database
        .admin("CREATE SCHEMA bare; CREATE TABLE bare.entry (key text PRIMARY KEY, value text NOT NULL)")
        .await
        .unwrap();
    let options: sqlx::postgres::PgConnectOptions = database.url("postgres").parse().unwrap();
    let engine = Arc::new(Mutex::new(options.disable_statement_logging().connect().await.unwrap()));
    let store = Arc::new(PostgresStore::open(database.config()).await.unwrap());
    let bed = Bed { engine, store, database };
    bed.fill().await;
    writes(report, names, &bed).await;
    reads(report, names, &bed).await;
    creates(report, names, &bed).await;
    bed.store.close().await.unwrap();
    bed.database.remove().await.unwrap();
}

impl Bed {
    async fn fill(&self) {
        for n in 0..100 {
            upsert(&mut *self.engine.lock().await, &format!("key-{n}"), &value(n)).await;
        }
    }

    async fn user(&self, name: &str) -> Arc<dyn UserStore> {
        let tag = self.store.deployment_key().tag(&UserId::new(name).unwrap());
        let first = put(0, 0);
        self.store.create(tag, first, CreateMode::New).await.unwrap().0
    }

    fn upserts(&self) -> impl FnMut(u64) -> std::pin::Pin<Box<dyn Future<Output = u64> + Send>> + use<> {
        let engine = Arc::clone(&self.engine);
        move |round| {
            let engine = Arc::clone(&engine);
            Box::pin(async move {
                let mut engine = engine.lock().await;
                for n in 0..WRITES {
                    upsert(&mut engine, &format!("key-{}", n % 100), &value(round * WRITES + n)).await;
                }
                WRITES
            })
        }
    }

    fn selects(&self) -> impl FnMut(u64) -> std::pin::Pin<Box<dyn Future<Output = u64> + Send>> + use<> {
        let engine = Arc::clone(&self.engine);
        move |_| {
            let engine = Arc::clone(&engine);
            Box::pin(async move {
                let mut engine = engine.lock().await;
                for n in 0..READS {
                    black_box(select(&mut engine, &format!("key-{}", n * 7 % 100)).await);
                }
                READS
            })
        }
    }
}

async fn upsert(engine: &mut PgConnection, key: &str, value: &str) {
    let upsert = "INSERT INTO bare.entry (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    sqlx::query(upsert).bind(key).bind(value).execute(engine).await.unwrap();
}

async fn select(engine: &mut PgConnection, key: &str) -> String {
    sqlx::query_scalar("SELECT value FROM bare.entry WHERE key = $1")
        .bind(key)
        .fetch_one(engine)
        .await
        .unwrap()
}

fn id(n: u64) -> RecordId {
    RecordId::new(format!("key-{}", n % 100).into_bytes(), 0).unwrap()
}

fn put(n: u64, number: u64) -> Batch {
    Batch::new(Timestamp(1)).unwrap().put(Keyspace::Context, id(n), "head", value(number).into_bytes())
}

async fn writes(report: &mut Report, names: &Names, bed: &Bed) {
    let users = [bed.user("one").await, bed.user("two").await];
    let by = |users: Vec<Arc<dyn UserStore>>| {
        move |round: u64| {
            let users = users.clone();
            async move {
                for (n, user) in (0..WRITES).zip(users.iter().cycle()) {
                    user.commit(put(n, round * WRITES + n)).await.unwrap();
                }
                WRITES
            }
        }
    };
    report.pair(names.commit, "≤ 1.4×", bed.upserts(), by(vec![Arc::clone(&users[0])])).await;
    report.pair(names.turns, "", bed.upserts(), by(users.to_vec())).await;
    if report.wants(names.push) || report.wants(names.get) {
        mesh(report, names, bed).await;
    }
}

async fn mesh(report: &mut Report, names: &Names, bed: &Bed) {
    let key = bed.store.deployment_key().clone();
    let store = Arc::clone(&bed.store) as Arc<dyn Store>;
    let (users, host) = UserManager::builder().store(store, key).plain().no_audit().open().await.unwrap();
    let session = users.create_user_session(&host, "mesh").await.unwrap();
    let agent = session.agent("agent").unwrap();
    let push = |round| {
        let agent = agent.clone();
        async move {
            for n in 0..WRITES {
                agent.push(format!("key-{}", n % 100), value(round * WRITES + n)).await.unwrap();
            }
            WRITES
        }
    };
    report.pair(names.push, "≤ 1.4×", bed.upserts(), push).await;
    for n in 0..100 {
        agent.push(format!("key-{n}"), value(n)).await.unwrap();
    }
    let get = |_| {
        let agent = agent.clone();
        async move {
            for n in 0..READS {
                black_box(agent.entry(format!("key-{}", n * 7 % 100)).await.unwrap().unwrap());
            }
            READS
        }
    };
    report.pair(names.get, "", bed.selects(), get).await;
}

async fn reads(report: &mut Report, names: &Names, bed: &Bed) {
    let user = bed.user("reader").await;
    for n in 0..100 {
        user.commit(put(n, n)).await.unwrap();
    }
    let state = |_| {
        let user = Arc::clone(&user);
        async move {
            for _ in 0..READS {
                black_box(user.state().await.unwrap());
            }
            READS
        }
    };
    report.pair(names.state, "", bed.selects(), state).await;
    let read = |_| {
        let user = Arc::clone(&user);
        async move {
            for n in 0..READS {
                black_box(user.read(Keyspace::Context, &[id(n * 7)]).await.unwrap());
            }
            READS
        }
    };
    report.pair(names.read, "", bed.selects(), read).await;
}

/// A new user with a first record, beside a bare schema with the same tables, or a bare upsert.
async fn creates(report: &mut Report, names: &Names, bed: &Bed) {
    const USERS: u64 = 20;
    let schemas = |round: u64| {
        let engine = Arc::clone(&bed.engine);
        let schema = names.mode == Mode::Schema;
        async move {
            let mut engine = engine.lock().await;
            for n in round * USERS..(round + 1) * USERS {
                if schema {
                    create_schema(&mut engine, n).await;
                } else {
                    upsert(&mut engine, &format!("user-{n}"), &value(n)).await;
                }
            }
            USERS
        }
    };
    let ours = |round: u64| async move {
        for n in round * USERS..(round + 1) * USERS {
            black_box(bed.user(&format!("user-{n}")).await);
        }
        USERS
    };
    report.pair(names.create, "≤ 2×", schemas, ours).await;
}

async fn create_schema(engine: &mut PgConnection, n: u64) {
    let tables = "CREATE TABLE user_state (tenant bytea PRIMARY KEY, key_print bytea NOT NULL, life bytea NOT NULL, epoch bigint NOT NULL,
            chain_seq bigint NOT NULL, chain_head bytea NOT NULL, contexts bigint NOT NULL, agents bigint NOT NULL,
            context_bytes bigint NOT NULL, history_bytes bigint NOT NULL, time bigint NOT NULL, fence bigint NOT NULL,
            note bytea NOT NULL, recent bytea NOT NULL, buried bigint NOT NULL, floor bigint NOT NULL);
        CREATE TABLE user_record (tenant bytea NOT NULL, space bigint NOT NULL, name bytea NOT NULL, seq bigint NOT NULL,
            version bigint NOT NULL, body_version bigint NOT NULL, expires bigint, head bytea NOT NULL, body bytea NOT NULL,
            PRIMARY KEY (tenant, space, name, seq));
        CREATE INDEX user_record_version ON user_record (tenant, version) WHERE space <> 5;
        CREATE INDEX user_record_expires ON user_record (tenant, expires) WHERE expires IS NOT NULL;
        CREATE TABLE user_deleted (tenant bytea NOT NULL, n bigint NOT NULL, epoch bigint NOT NULL, space bigint NOT NULL,
            name bytea NOT NULL, seq bigint NOT NULL, PRIMARY KEY (tenant, n));
        CREATE INDEX user_deleted_epoch ON user_deleted (tenant, epoch)";
    let mut transaction = engine.begin().await.unwrap();
    let schema = format!("CREATE SCHEMA bare_{n}; SET LOCAL search_path = bare_{n}; {tables}");
    transaction.execute(sqlx::AssertSqlSafe(schema)).await.unwrap();
    transaction.commit().await.unwrap();
}
