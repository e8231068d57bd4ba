//! The installation, and what a new version brings for all users at once. One user's tables are in `migrate.rs`.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use syntha_store::{DeploymentKey, Error, ErrorKind, Result};

use crate::config::{Mode, Secret, options};
use crate::error::{Sent, foreign, from_sqlx};

/// The version of the functions and of the tables that they make.
pub(crate) const VERSION: i64 = 2;

/// What a database is prepared with.
#[derive(Clone, Debug)]
#[must_use]
pub struct InstallConfig {
    url: Secret,
    app_role: String,
    mode: Mode,
    pub(crate) parallel: u32,
}

impl InstallConfig {
    /// The database of a URL, with the role that will own the tables: it may create schemas there, and is no superuser. The role `syntha_app`
    /// will be the application's.
    pub fn new(owner_url: impl Into<String>) -> Self {
        Self {
            url: Secret(owner_url.into().into()),
            app_role: "syntha_app".to_owned(),
            mode: Mode::default(),
            parallel: 2,
        }
    }

    /// The application's role, which must be there.
    pub fn app_role(mut self, role: impl Into<String>) -> Self {
        self.app_role = role.into();
        self
    }

    /// How many users a [migration](crate::migrate()) works on at once, each on a connection; 2 if not set, at least 1.
    pub const fn parallel(mut self, parallel: u32) -> Self {
        self.parallel = if parallel == 0 { 1 } else { parallel };
        self
    }

    /// How users' data is kept apart. It stays.
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }
}

/// Prepares a database, or brings its functions and what is of all users to this version. It can be repeated, and be run by several processes at
/// once. Processes of the version before go on. [`migrate`](crate::migrate()) then brings the tables of each user to this version.
///
/// # Errors
///
/// `Refused` for another deployment's key, or if a role lacks rights; `Unsupported` for another mode or a newer version; `Busy` if somebody holds
/// a table for long; `Unavailable` if the server can't be reached. The database is then as it was.
pub async fn install(config: &InstallConfig, key: &DeploymentKey) -> Result<()> {
    let failed = |error: sqlx::Error| from_sqlx(&error, Sent::Read);
    let mut connection = config.connect().await?;
    connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED").await.map_err(failed)?;
    // One at a time. The number says nothing, and the lock ends with the transaction.
    connection.execute("SELECT pg_advisory_xact_lock(6025748291)").await.map_err(failed)?;
    let there: bool = sqlx::query_scalar("SELECT to_regclass('syntha.deployment') IS NOT NULL")
        .persistent(false)
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    if there {
        let version = check(&mut connection, config.mode, key).await?;
        if version < VERSION {
            upgrade(&mut connection, config, version).await.map_err(failed)?;
        }
    } else {
        first(&mut connection, config, key).await.map_err(failed)?;
    }
    connection.execute("COMMIT").await.map_err(failed)?;
    connection.close().await.map_err(failed)
}

impl InstallConfig {
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        let connection = PgConnection::connect_with(&options(&self.url)?).await;
        connection.map_err(|error| from_sqlx(&error, Sent::Read))
    }

    pub(crate) const fn is_of(&self) -> Mode {
        self.mode
    }
}

/// A version above the first: what it does to the tables of all users, if there are such.
struct Step {
    version: i64,
    rls: &'static str,
}

const STEPS: [Step; 1] = [Step { version: 2, rls: include_str!("sql/step_2_rls.sql") }];

async fn upgrade(
    connection: &mut PgConnection,
    config: &InstallConfig,
    from: i64,
) -> Result<(), sqlx::Error> {
    // Whoever waits for a lock holds up everybody who comes after.
    connection.execute("SET LOCAL lock_timeout = '5s'").await?;
    if config.mode == Mode::Rls {
        for step in STEPS.iter().filter(|step| step.version > from) {
            connection.execute(step.rls).await?;
        }
    }
    let [_, place, functions] = sources(config.mode);
    connection.execute(place).await?;
    connection.execute(functions).await?;
    grant(connection, config).await?;
    sqlx::query("UPDATE syntha.deployment SET version = $1")
        .bind(VERSION)
        .persistent(false)
        .execute(connection)
        .await
        .map(drop)
}

/// Lets the application's role call what it may.
async fn grant(connection: &mut PgConnection, config: &InstallConfig) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT set_config('syntha.app_role', $1, true)")
        .bind(&config.app_role)
        .persistent(false)
        .execute(&mut *connection)
        .await?;
    connection.execute(include_str!("sql/grants.sql")).await.map(drop)
}

async fn first(
    connection: &mut PgConnection,
    config: &InstallConfig,
    key: &DeploymentKey,
) -> Result<(), sqlx::Error> {
    for texts in sources(config.mode) {
        connection.execute(texts).await?;
    }
    if config.mode == Mode::Rls {
        connection.execute(include_str!("sql/rls.sql")).await?;
    }
    grant(&mut *connection, config).await?;
    sqlx::query("INSERT INTO syntha.deployment (one, mode, version, key_print) VALUES (1, $1, $2, $3)")
        .bind(config.mode.name())
        .bind(VERSION)
        .bind(key.fingerprint().as_bytes().to_vec())
        .persistent(false)
        .execute(connection)
        .await
        .map(drop)
}

/// The tables and functions of a mode, in the order of their making.
const fn sources(mode: Mode) -> [&'static str; 3] {
    let place = match mode {
        Mode::Schema => include_str!("sql/place_schema.sql"),
        Mode::Rls => include_str!("sql/place_rls.sql"),
    };
    [include_str!("sql/tables.sql"), place, include_str!("sql/functions.sql")]
}

/// The name and the body of each function of a mode, in order of names.
pub(crate) fn functions(mode: Mode) -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    for part in
        sources(mode).into_iter().flat_map(|text| text.split("CREATE OR REPLACE FUNCTION syntha.").skip(1))
    {
        if let (Some((name, _)), Some(body)) = (part.split_once('('), part.split("$$").nth(1)) {
            found.push((name, body));
        }
    }
    found.sort_unstable();
    found
}

/// The version of a database that was installed with this mode and key.
pub(crate) async fn check(connection: &mut PgConnection, mode: Mode, key: &DeploymentKey) -> Result<i64> {
    let row: (String, i64, Vec<u8>) =
        sqlx::query_as("SELECT mode, version, key_print FROM syntha.deployment")
            .persistent(false)
            .fetch_one(connection)
            .await
            .map_err(|error| from_sqlx(&error, Sent::Read))?;
    matches(&row.0, &row.2, mode, key)?;
    if row.1 > VERSION { Err(newer()) } else { Ok(row.1) }
}

/// Compares what a database was installed with.
pub(crate) fn matches(found_mode: &str, print: &[u8], mode: Mode, key: &DeploymentKey) -> Result<()> {
    if found_mode != mode.name() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the database was installed with the other mode, open it with that one",
        ));
    }
    if print != key.fingerprint().as_bytes() { Err(foreign()) } else { Ok(()) }
}

/// Compares a database's version with this build's.
pub(crate) const fn is_current(version: i64) -> Result<()> {
    if version > VERSION {
        return Err(newer());
    }
    if version < VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the database is of an older version, run the installation of this version",
        ));
    }
    Ok(())
}

const fn newer() -> Error {
    Error::new(ErrorKind::Unsupported, "the database is of a newer version, use the newer build")
}
