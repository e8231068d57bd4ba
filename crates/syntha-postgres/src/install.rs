//! Migrations: numbered, each one transaction.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use syntha_store::{DeploymentKey, Error, ErrorKind, Result};

use crate::config::{Mode, Secret, options};
use crate::error::{Sent, foreign, from_sqlx};

/// The version that the last migration leaves.
pub(crate) const VERSION: i64 = 1;

/// What a database is prepared with.
#[derive(Clone, Debug)]
#[must_use]
pub struct InstallConfig {
    url: Secret,
    app_role: String,
    mode: Mode,
}

impl InstallConfig {
    /// The database of a URL, with the role that will own the tables: it may create schemas there, and is no superuser. The role `syntha_app`
    /// will be the application's.
    pub fn new(owner_url: impl Into<String>) -> Self {
        Self {
            url: Secret(owner_url.into().into()),
            app_role: "syntha_app".to_owned(),
            mode: Mode::default(),
        }
    }

    /// The application's role, which must be there.
    pub fn app_role(mut self, role: impl Into<String>) -> Self {
        self.app_role = role.into();
        self
    }

    /// How users' data is kept apart. It stays.
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }
}

/// Prepares a database, or brings it to this version. It can be repeated, and be run by several processes at once.
///
/// # Errors
///
/// `Refused` for another deployment's key, or if a role lacks rights; `Unsupported` for another mode or a newer version; `Unavailable` if the
/// server can't be reached.
pub async fn install(config: &InstallConfig, key: &DeploymentKey) -> Result<()> {
    let failed = |error: sqlx::Error| from_sqlx(&error, Sent::Read);
    let mut connection = PgConnection::connect_with(&options(&config.url)?).await.map_err(failed)?;
    connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED").await.map_err(failed)?;
    // One at a time. The number says nothing, and the lock ends with the transaction.
    connection.execute("SELECT pg_advisory_xact_lock(6025748291)").await.map_err(failed)?;
    let there: bool = sqlx::query_scalar("SELECT to_regclass('syntha.deployment') IS NOT NULL")
        .persistent(false)
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    if there {
        check(&mut connection, config.mode, key).await?;
    } else {
        first(&mut connection, config, key).await.map_err(failed)?;
    }
    connection.execute("COMMIT").await.map_err(failed)?;
    connection.close().await.map_err(failed)
}

async fn first(
    connection: &mut PgConnection,
    config: &InstallConfig,
    key: &DeploymentKey,
) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT set_config('syntha.app_role', $1, true)")
        .bind(&config.app_role)
        .persistent(false)
        .execute(&mut *connection)
        .await?;
    for texts in sources(config.mode) {
        connection.execute(texts).await?;
    }
    if config.mode == Mode::Rls {
        connection.execute(include_str!("sql/rls.sql")).await?;
    }
    connection.execute(include_str!("sql/grants.sql")).await?;
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
    for part in sources(mode).into_iter().flat_map(|text| text.split("CREATE FUNCTION syntha.").skip(1)) {
        if let (Some((name, _)), Some(body)) = (part.split_once('('), part.split("$$").nth(1)) {
            found.push((name, body));
        }
    }
    found.sort_unstable();
    found
}

async fn check(connection: &mut PgConnection, mode: Mode, key: &DeploymentKey) -> Result<()> {
    let row: (String, i64, Vec<u8>) =
        sqlx::query_as("SELECT mode, version, key_print FROM syntha.deployment")
            .persistent(false)
            .fetch_one(connection)
            .await
            .map_err(|error| from_sqlx(&error, Sent::Read))?;
    matches(&row.0, row.1, &row.2, mode, key)
}

/// Compares what a database was installed with.
pub(crate) fn matches(
    found_mode: &str,
    version: i64,
    print: &[u8],
    mode: Mode,
    key: &DeploymentKey,
) -> Result<()> {
    if found_mode != mode.name() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the database was installed with the other mode, open it with that one",
        ));
    }
    if version != VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the database has another version, upgrade the older of the two",
        ));
    }
    if print != key.fingerprint().as_bytes() { Err(foreign()) } else { Ok(()) }
}
