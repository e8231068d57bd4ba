//! A PostgreSQL server of the tests' own: made from the installed programs, on a socket in a temporary folder, gone with the process.
//!
//! One for a process, or under nextest, which runs each test in a process of its own, one for a run; with a database for each test. If `SYNTHA_POSTGRES_URL` names a server (a superuser of it, with `%` in the place of the
//! database's name), that one is used, and its databases are dropped as the tests end.

mod cluster;
mod pgbouncer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use syntha_store::{DeploymentKey, Error, ErrorKind, Result};
use tokio::sync::{Mutex, OnceCell};

pub use self::cluster::Stop;
use self::cluster::{Cluster, locked};
pub use self::pgbouncer::{Pooling, TestPooler};
use crate::config::{Mode, PostgresConfig, Secret, Statements, options};
use crate::error::{Sent, from_sqlx};
use crate::install::{InstallConfig, install};

/// A server that runs.
#[derive(Debug)]
pub struct TestServer {
    /// With `%` for the database, and `@` before the host with no role.
    url: String,
    templates: [OnceCell<String>; 2],
    making: Mutex<()>,
    next: AtomicU64,
    pooler: OnceCell<TestPooler>,
    /// None for the tester's own.
    cluster: Option<Cluster>,
}

/// A database of a test's own.
#[derive(Debug)]
pub struct TestDatabase {
    server: &'static TestServer,
    name: String,
    mode: Mode,
}

/// The key of every test's deployment.
const KEY: [u8; 32] = [7; 32];

static SERVER: OnceCell<TestServer> = OnceCell::const_new();

impl TestServer {
    /// The process's server, started at the first call.
    ///
    /// # Errors
    ///
    /// `Unavailable` if there are no programs of PostgreSQL, or they fail.
    pub async fn get() -> Result<&'static Self> {
        SERVER.get_or_try_init(Self::start).await
    }

    async fn start() -> Result<Self> {
        match std::env::var("SYNTHA_POSTGRES_URL") {
            Ok(url) => Self::at(url, None).await,
            Err(_) => Self::of(Cluster::of_the_run).await,
        }
    }

    /// A server that nobody else uses, with settings of its own (`name=value`): for tests that stop it or read its log. It goes with the process.
    ///
    /// # Errors
    ///
    /// `Unavailable` if there are no programs of PostgreSQL, or they fail.
    pub async fn own(settings: &[&str]) -> Result<&'static Self> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        Ok(Box::leak(Box::new(Self::of(move || Cluster::own(&settings, None)).await?)))
    }

    /// The same, with a small disk of so many MiB, which is the tablespace `small`. Linux alone.
    ///
    /// # Errors
    ///
    /// `Unavailable` if there are no programs of PostgreSQL, or nothing can be mounted: it needs `unshare`, and root or user namespaces.
    pub async fn own_with_disk(settings: &[&str], mib: u32) -> Result<&'static Self> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let server = Self::of(move || Cluster::own(&settings, Some(mib))).await?;
        let disk = server.cluster()?.disk();
        server.admin("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", disk.display())).await?;
        Ok(Box::leak(Box::new(server)))
    }

    async fn of(start: impl FnOnce() -> Result<Cluster> + Send + 'static) -> Result<Self> {
        let started = tokio::task::spawn_blocking(start).await;
        let cluster = started.map_err(|_| failed("the runtime ended"))??;
        Self::at(cluster.url(), Some(cluster)).await
    }

    async fn at(url: String, cluster: Option<Cluster>) -> Result<Self> {
        let server = Self {
            url,
            templates: [OnceCell::new(), OnceCell::new()],
            making: Mutex::new(()),
            next: AtomicU64::new(0),
            pooler: OnceCell::new(),
            cluster,
        };
        server.make_roles().await?;
        Ok(server)
    }

    fn cluster(&self) -> Result<&Cluster> {
        self.cluster
            .as_ref()
            .ok_or_else(|| failed("the tester's own server is not the tests' to stop or read"))
    }

    /// Stops it, and starts it again. For a server of one's own.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it fails, or is the tester's own.
    pub async fn restart(&self, stop: Stop) -> Result<()> {
        self.control(vec!["-m", stop.name(), "restart"]).await
    }

    /// Stops it. For a server of one's own.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it fails, or is the tester's own.
    pub async fn stop(&self, stop: Stop) -> Result<()> {
        self.control(vec!["-m", stop.name(), "stop"]).await
    }

    /// Starts it after a stop.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it fails, or is the tester's own.
    pub async fn resume(&self) -> Result<()> {
        self.control(vec!["start"]).await
    }

    async fn control(&self, words: Vec<&'static str>) -> Result<()> {
        let cluster = self.cluster()?.clone();
        let done = tokio::task::spawn_blocking(move || cluster.control(&words)).await;
        done.map_err(|_| failed("the runtime ended"))?
    }

    /// What it has written into its log.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it can't be read, or is the tester's own.
    pub fn log(&self) -> Result<String> {
        self.cluster()?.log()
    }

    /// Its socket, which a proxy can stand before: the folder, and the port that is in the name.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it is the tester's own.
    pub fn socket(&self) -> Result<PathBuf> {
        Ok(self.cluster()?.folder().join(".s.PGSQL.5432"))
    }

    /// A pgbouncer before it, with at most so many connections to a database. It stops when it is dropped.
    ///
    /// # Errors
    ///
    /// `Unavailable` if there is no pgbouncer, or it fails.
    pub async fn pooler(&self, pooling: Pooling, servers: u32) -> Result<TestPooler> {
        let server = options(&Secret(self.url.replace('%', "postgres").into()))?;
        let started = tokio::task::spawn_blocking(move || TestPooler::start(&server, pooling, servers)).await;
        started.map_err(|_| failed("the runtime ended"))?
    }

    /// The process's own pgbouncer, which pools by transaction with four connections to a database.
    ///
    /// # Errors
    ///
    /// As [`pooler`](Self::pooler).
    pub async fn shared_pooler(&self) -> Result<&TestPooler> {
        self.pooler.get_or_try_init(|| self.pooler(Pooling::Transaction, 4)).await
    }

    /// An installed database of one's own.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the server fails.
    pub async fn database(&'static self, mode: Mode) -> Result<TestDatabase> {
        let [schema, rls] = &self.templates;
        let template = match mode {
            Mode::Schema => schema,
            Mode::Rls => rls,
        };
        let template = template.get_or_try_init(|| self.make_template(mode)).await?;
        let name = self.name();
        // The template may have no connection while it is copied.
        let making = self.making.lock().await;
        self.admin("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template} OWNER syntha_owner"))
            .await?;
        drop(making);
        self.admin(&name, RIGHTS).await?;
        self.admin("postgres", &format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC")).await?;
        self.admin("postgres", &format!("GRANT CONNECT ON DATABASE {name} TO syntha_app")).await?;
        Ok(TestDatabase { server: self, name, mode })
    }

    /// A name that no other process on a shared server takes.
    fn name(&self) -> String {
        format!("syntha_{}_{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed))
    }

    async fn make_template(&self, mode: Mode) -> Result<String> {
        let name = self.name();
        let Some(making) = self.cluster.as_ref().and_then(Cluster::lock_of_templates) else {
            self.fill_template(&name, mode).await?;
            return Ok(name);
        };
        // One process of the run makes it, and it gets its name when it is complete.
        let lock = tokio::task::spawn_blocking(move || locked(&making)).await;
        let lock = lock.map_err(|_| failed("the runtime ended"))??;
        let shared = format!("syntha_template_{}", mode.name());
        let question = format!("SELECT count(*) FROM pg_database WHERE datname = '{shared}'");
        if number(&self.url.replace('%', "postgres"), &question).await? == 0 {
            self.fill_template(&name, mode).await?;
            self.admin("postgres", &format!("ALTER DATABASE {name} RENAME TO {shared}")).await?;
        }
        drop(lock);
        Ok(shared)
    }

    async fn fill_template(&self, name: &str, mode: Mode) -> Result<()> {
        self.admin("postgres", &format!("CREATE DATABASE {name} OWNER syntha_owner")).await?;
        self.admin(name, RIGHTS).await?;
        let owner = InstallConfig::new(self.url_of("syntha_owner", name)).mode(mode);
        install(&owner, &DeploymentKey::from_bytes(KEY)).await
    }

    async fn make_roles(&self) -> Result<()> {
        self.admin(
            "postgres",
            "SELECT pg_advisory_xact_lock(6025748292);
             DO $$ BEGIN
                 IF to_regrole('syntha_owner') IS NULL THEN CREATE ROLE syntha_owner LOGIN NOINHERIT; END IF;
                 IF to_regrole('syntha_app') IS NULL THEN CREATE ROLE syntha_app LOGIN NOINHERIT; END IF;
             END $$",
        )
        .await
    }

    /// Runs statements as the superuser.
    async fn admin(&self, database: &str, statements: &str) -> Result<()> {
        run(&self.url.replace('%', database), statements).await
    }

    /// The URL for another role, which the server must trust.
    fn url_of(&self, role: &str, database: &str) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("postgres", &self.url));
        let host = rest.split_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://{role}@{}", host.replace('%', database))
    }
}

/// What everybody may do by default, and nobody needs.
const RIGHTS: &str = "REVOKE ALL ON SCHEMA public FROM PUBLIC";

impl TestDatabase {
    /// The configuration of a store in it.
    pub fn config(&self) -> PostgresConfig {
        PostgresConfig::new(self.url("syntha_app"), DeploymentKey::from_bytes(KEY)).mode(self.mode)
    }

    /// The configuration of a store that reaches it through a pooler.
    pub fn config_through(&self, pooler: &TestPooler) -> PostgresConfig {
        PostgresConfig::new(pooler.url("syntha_app", &self.name), DeploymentKey::from_bytes(KEY))
            .mode(self.mode)
            .statements(Statements::Pooled)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server that it is on.
    #[must_use]
    pub const fn server(&self) -> &'static TestServer {
        self.server
    }

    /// Moves its tables to the tablespace `small`. Nobody may be connected.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the server fails.
    pub async fn move_to_small_disk(&self) -> Result<()> {
        self.server.admin("postgres", &format!("ALTER DATABASE {} SET TABLESPACE small", self.name)).await
    }

    /// The URL for a role.
    #[must_use]
    pub fn url(&self, role: &str) -> String {
        self.server.url_of(role, &self.name)
    }

    /// Runs statements as the superuser.
    ///
    /// # Errors
    ///
    /// Those of the statements.
    pub async fn admin(&self, statements: &str) -> Result<()> {
        self.server.admin(&self.name, statements).await
    }

    /// Runs statements as a role.
    ///
    /// # Errors
    ///
    /// Those of the statements.
    pub async fn run(&self, role: &str, statements: &str) -> Result<()> {
        run(&self.url(role), statements).await
    }

    /// Asks the superuser's question, whose answer is a number.
    ///
    /// # Errors
    ///
    /// Those of the statement.
    pub async fn number(&self, question: &str) -> Result<i64> {
        number(&self.server.url.replace('%', &self.name), question).await
    }

    /// Removes it, with every connection to it.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the server fails.
    pub async fn remove(self) -> Result<()> {
        self.server.admin("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name)).await
    }
}

/// Runs statements at a URL.
///
/// # Errors
///
/// Those of the statements.
pub async fn execute(url: &str, statements: &str) -> Result<()> {
    run(url, statements).await
}

async fn run(url: &str, statements: &str) -> Result<()> {
    let wrong = |error: sqlx::Error| from_sqlx(&error, Sent::Read);
    let mut connection = PgConnection::connect_with(&options(&Secret(url.into()))?).await.map_err(wrong)?;
    connection.execute(AssertSqlSafe(statements.to_owned())).await.map_err(wrong)?;
    connection.close().await.map_err(wrong)
}

async fn number(url: &str, question: &str) -> Result<i64> {
    let wrong = |error: sqlx::Error| from_sqlx(&error, Sent::Read);
    let mut connection = PgConnection::connect_with(&options(&Secret(url.into()))?).await.map_err(wrong)?;
    let question = sqlx::query_scalar(AssertSqlSafe(question.to_owned()));
    let number = question.fetch_one(&mut connection).await.map_err(wrong)?;
    connection.close().await.map_err(wrong)?;
    Ok(number)
}

fn failed(text: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, text)
}
