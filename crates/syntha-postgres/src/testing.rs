//! A PostgreSQL server of the tests' own: made from the installed programs, on a socket in a temporary folder, gone with the process.
//!
//! One for a process, or under nextest, which runs each test in a process of its own, one for a run; with a database for each test. If `SYNTHA_POSTGRES_URL` names a server (a superuser of it, with `%` in the place of the
//! database's name), that one is used, and its databases are dropped as the tests end.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use syntha_store::{DeploymentKey, Error, ErrorKind, Result};
use tokio::sync::{Mutex, OnceCell};

use crate::config::{Mode, PostgresConfig, Secret, options};
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
    held: Option<Held>,
}

/// What keeps the server running: when the process ends, however that comes, it is let go of.
#[derive(Debug)]
enum Held {
    /// The other end stops the server when this one is closed.
    Alone(#[allow(dead_code, reason = "it is held, never read")] ChildStdin),
    /// A lock shared by the processes of a run, and the folder of their server. It is stopped when nobody has held the lock for a while.
    Shared(#[allow(dead_code, reason = "it is held, never read")] File, PathBuf),
}

/// A database of a test's own.
#[derive(Debug)]
pub struct TestDatabase {
    server: &'static TestServer,
    name: String,
    mode: Mode,
}

/// The account that runs the server when the tests run as root: `nobody`, by number.
const NOBODY: u32 = 65_534;
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
        if let Ok(url) = std::env::var("SYNTHA_POSTGRES_URL") {
            let server = Self::at(url, None);
            server.make_roles().await?;
            return Ok(server);
        }
        let started = tokio::task::spawn_blocking(start_cluster).await;
        let (url, held) = started.map_err(|_| failed("the runtime ended"))??;
        let server = Self::at(url, Some(held));
        server.make_roles().await?;
        Ok(server)
    }

    fn at(url: String, held: Option<Held>) -> Self {
        Self {
            url,
            templates: [OnceCell::new(), OnceCell::new()],
            making: Mutex::new(()),
            next: AtomicU64::new(0),
            held,
        }
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
        let Some(Held::Shared(_, folder)) = &self.held else {
            self.fill_template(&name, mode).await?;
            return Ok(name);
        };
        // One process of the run makes it, and it gets its name when it is complete.
        let making = folder.join("making");
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

/// A file that this process has alone until it is dropped.
fn locked(path: &Path) -> Result<File> {
    let failed = |error| failed("a lock of the tests' server can't be taken").with_source(error);
    let file = File::options().create(true).append(true).open(path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

fn failed(text: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, text)
}

/// The folder of the server's programs.
fn programs() -> Result<PathBuf> {
    let has_both = |folder: &Path| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        let mut versions: Vec<_> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
        versions.sort();
        folders.extend(versions.into_iter().rev());
    }
    folders.into_iter().find(|folder| has_both(folder)).ok_or_else(|| {
        failed(
            "there is no PostgreSQL server here: install it (Debian: apt-get install postgresql), or set SYNTHA_POSTGRES_URL",
        )
    })
}

fn start_cluster() -> Result<(String, Held)> {
    let programs = programs()?;
    let unmade = |error| failed("no folder can be made in /tmp").with_source(error);
    // A socket's path has at most 107 bytes, so the folder is not where a long TMPDIR says.
    match std::env::var("NEXTEST_RUN_ID") {
        Ok(run) if Path::new("/usr/bin/flock").is_file() => {
            let run: String = run.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
            let folder = PathBuf::from(format!("/tmp/sy-{run}"));
            std::fs::create_dir_all(&folder).map_err(unmade)?;
            // The server trusts whoever reaches its socket.
            std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).map_err(unmade)?;
            let starting = locked(&folder.join("starting"))?;
            let users =
                File::options().create(true).append(true).open(folder.join("users")).map_err(unmade)?;
            users.lock_shared().map_err(unmade)?;
            let url = folder.join("url");
            if let Ok(url) = std::fs::read_to_string(&url) {
                return Ok((url, Held::Shared(users, folder)));
            }
            let (made, _) = start_in(&programs, &folder, WATCH_RUN)?;
            std::fs::write(&url, &made).map_err(unmade)?;
            drop(starting);
            Ok((made, Held::Shared(users, folder)))
        }
        _ => {
            let folder = tempfile::Builder::new().prefix("sy-").tempdir_in("/tmp").map_err(unmade)?.keep();
            let (made, held) = start_in(&programs, &folder, WATCH_PROCESS)?;
            Ok((made, Held::Alone(held)))
        }
    }
}

/// Waits for the end of the process that started it.
const WATCH_PROCESS: &str = "read line; \"$0\" -D data -m immediate stop; cd /; rm -rf \"$1\"";
/// Waits until no process of the run has used the server for ten seconds.
const WATCH_RUN: &str = "idle=0; while [ $idle -lt 10 ]; do sleep 1; if flock -n -x users true; then idle=$((idle+1)); else idle=0; fi; done; \
    rm -f url; \"$0\" -D data -m immediate stop; cd /; rm -rf \"$1\"";

fn start_in(programs: &Path, folder: &Path, watch: &str) -> Result<(String, ChildStdin)> {
    let account = is_root().then_some(NOBODY);
    if let Some(account) = account {
        std::os::unix::fs::chown(folder, Some(account), Some(account))
            .map_err(|error| failed("the server's folder can't be given away").with_source(error))?;
    }
    let command = |program: &Path| {
        let mut command = Command::new(program);
        command.current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(account) = account {
            command.gid(account).uid(account);
        }
        command
    };
    let run = |command: &mut Command, text: &'static str| match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(failed(text)),
        Err(error) => Err(failed(text).with_source(error)),
    };
    // A process group of its own: what ends the tests' group does not end who cleans up after them.
    let mut watch = command(Path::new("/bin/sh"))
        .args(["-c", watch])
        .arg(programs.join("pg_ctl"))
        .arg(folder)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| failed("the watcher of the server can't be started").with_source(error))?;
    let held = watch.stdin.take().ok_or_else(|| failed("the watcher of the server has no input"))?;
    run(
        command(&programs.join("initdb")).args([
            "-D",
            "data",
            "-U",
            "postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ]),
        "initdb failed",
    )?;
    let options = format!(
        "-k {} -c listen_addresses='' -c fsync={} -c max_connections=200 -c shared_buffers=32MB -c log_parameter_max_length=0",
        folder.display(),
        if std::env::var_os("SYNTHA_POSTGRES_FSYNC").is_some() { "on" } else { "off" },
    );
    run(
        command(&programs.join("pg_ctl")).args(["-D", "data", "-l", "log", "-w", "-o", &options, "start"]),
        "pg_ctl could not start the server",
    )?;
    Ok((format!("postgres://postgres@localhost/%?host={}", folder.display()), held))
}

/// Whether the process is root's.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|about| about.uid() == 0)
}
