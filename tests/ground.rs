//! Where a suite's data is: a folder, or a PostgreSQL database of its own. The suites' programs are told in one argument.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::PathBuf;

use syntha::postgres::Mode;
use syntha::postgres::testing::{TestDatabase, TestServer};
use syntha::{Builder, Postgres, PostgresOwner, UserManager};

/// Where data is.
#[derive(Clone, Debug)]
pub enum Ground {
    /// SQLite files.
    Folder(PathBuf),
    /// A PostgreSQL database.
    Database(Database),
}

/// A PostgreSQL database.
#[derive(Clone, Debug)]
pub struct Database {
    /// How users are kept apart in it.
    pub mode: Mode,
    /// Its URL, which holds no password.
    pub url: String,
    /// The folder of its keys.
    pub state: PathBuf,
}

impl Ground {
    /// What [`argument`](Self::argument) wrote.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split('|');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(folder), None, None, None) => Self::Folder(folder.into()),
            (Some(mode), Some(url), Some(state), None) => {
                let mode = match mode {
                    "schema" => Mode::Schema,
                    "rls" => Mode::Rls,
                    _ => panic!("what is the mode {mode}?"),
                };
                Self::Database(Database { mode, url: url.into(), state: state.into() })
            }
            _ => panic!("what is {text}?"),
        }
    }

    /// It, as a program's argument.
    ///
    /// # Panics
    ///
    /// For a path that is no text.
    #[must_use]
    pub fn argument(&self) -> String {
        match self {
            Self::Folder(folder) => folder.to_str().unwrap().to_owned(),
            Self::Database(Database { mode, url, state }) => {
                format!("{}|{url}|{}", mode.name(), state.to_str().unwrap())
            }
        }
    }

    /// What opens it beside other processes.
    pub fn shared(&self) -> Builder {
        match self {
            Self::Folder(folder) => UserManager::builder().sqlite_shared(folder),
            Self::Database(database) => UserManager::builder().postgres_with(database.postgres()),
        }
    }

    /// What opens it where no other process does, as far as it can be had alone.
    pub fn alone(&self) -> Builder {
        match self {
            Self::Folder(folder) => UserManager::builder().sqlite(folder),
            Self::Database(_) => self.shared(),
        }
    }
}

impl Database {
    /// Where it is, as the facade takes it.
    pub fn postgres(&self) -> Postgres {
        Postgres::new(self.url.as_str(), &self.state)
            .mode(self.mode)
            .configure(|config| config.connections(6))
    }
}

/// A new database on the tests' server, prepared for a deployment of its own. It goes with the value.
#[derive(Debug)]
pub struct Server {
    database: Option<TestDatabase>,
    mode: Mode,
    folder: tempfile::TempDir,
}

impl Server {
    /// Makes it. `prepare` says how it is sealed.
    ///
    /// # Panics
    ///
    /// If there is no server.
    pub async fn start(mode: Mode, prepare: impl FnOnce(Builder) -> Builder) -> Self {
        let database = TestServer::get().await.unwrap().database(mode).await.unwrap();
        // It comes installed for another deployment.
        let statements = "DROP SCHEMA IF EXISTS syntha_rows CASCADE; DROP SCHEMA syntha CASCADE";
        database.admin(statements).await.unwrap();
        let server = Self { database: Some(database), mode, folder: tempfile::tempdir().unwrap() };
        let owner = PostgresOwner::new(server.url("syntha_owner"));
        prepare(server.ground().shared()).install(&owner).await.unwrap();
        server
    }

    /// Where its data is.
    #[must_use]
    pub fn ground(&self) -> Ground {
        let state = self.folder.path().join("state");
        Ground::Database(Database { mode: self.mode, url: self.url("syntha_app"), state })
    }

    /// The same, as the facade takes it.
    pub fn postgres(&self) -> Postgres {
        match self.ground() {
            Ground::Database(database) => database.postgres(),
            Ground::Folder(_) => panic!("it is a database"),
        }
    }

    /// The database itself, for what looks at it from below.
    ///
    /// # Panics
    ///
    /// Never: it is there until the value is dropped.
    #[must_use]
    pub fn database(&self) -> &TestDatabase {
        self.database.as_ref().unwrap()
    }

    /// Waits until nobody has a connection: what a process that was killed had sent has happened then, or never will.
    ///
    /// # Panics
    ///
    /// If somebody still has one after a minute.
    pub async fn quiet(&self) {
        let others = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        for _ in 0..6_000 {
            if self.database().number(others).await.unwrap() == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("somebody is still connected");
    }

    fn url(&self, role: &str) -> String {
        self.database().url(role)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On a thread of its own, and waited for: the test's runtime may end at once, and a database has megabytes.
        if let Some(database) = self.database.take() {
            let remove = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                drop(runtime.block_on(database.remove()));
            };
            drop(std::thread::spawn(remove).join());
        }
    }
}

/// The modes that a suite runs on: those that `SYNTHA_POSTGRES_MODES` names (`schema,rls`), or the one that it says itself.
///
/// # Panics
///
/// For a name that is none.
#[must_use]
pub fn modes(own: Mode) -> Vec<Mode> {
    let Ok(named) = std::env::var("SYNTHA_POSTGRES_MODES") else { return vec![own] };
    let modes = named.split(',').map(|mode| match mode {
        "schema" => Mode::Schema,
        "rls" => Mode::Rls,
        _ => panic!("SYNTHA_POSTGRES_MODES names schema, rls or both"),
    });
    modes.collect()
}

/// A count from the environment, or a small one.
///
/// # Panics
///
/// For what is no number.
#[must_use]
pub fn count(variable: &str, small: u64) -> u64 {
    std::env::var(variable).map_or(small, |count| count.parse().unwrap())
}
