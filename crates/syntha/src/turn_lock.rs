//! The lock of a database under which its users come and go, for all processes of all machines.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};
use syntha_store::{Error, ErrorKind, Result};

/// Where the lock is.
pub(crate) struct TurnLock {
    url: Arc<str>,
}

/// The lock, until it is dropped: the server lets go of it when the connection ends, however that comes.
#[allow(dead_code, reason = "it is held, never read")]
pub(crate) struct Held(PgConnection);

impl TurnLock {
    pub(crate) const fn new(url: Arc<str>) -> Self {
        Self { url }
    }

    /// Takes it, on a connection of its own, so that whoever holds it can't use up those that its work needs.
    ///
    /// It is a transaction's, so it holds behind a pooler as well. One that has only this lock keeps nothing from being cleaned up.
    pub(crate) async fn take(&self) -> Result<Held> {
        let options: PgConnectOptions = self.url.parse().map_err(|_| wrong())?;
        let options = options.application_name("syntha turn").disable_statement_logging();
        let work = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            connection.execute(TAKE).await?;
            Ok::<_, sqlx::Error>(Held(connection))
        };
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(Ok(held)) => Ok(held),
            Ok(Err(sqlx::Error::Database(error))) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => {
                Err(busy())
            }
            // The driver's text may say where the server is, and nothing of a user.
            Ok(Err(_)) => Err(Error::new(ErrorKind::Unavailable, "the server can't be reached, try again")),
            Err(_) => Err(busy()),
        }
    }
}

impl fmt::Debug for TurnLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TurnLock")
    }
}

/// The number says nothing; it is of this database alone. A machine that went without a word is noticed within a minute.
const TAKE: &str = "BEGIN;
    SET LOCAL lock_timeout = '10s';
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL tcp_keepalives_idle = 20;
    SET LOCAL tcp_keepalives_interval = 10;
    SET LOCAL tcp_keepalives_count = 4;
    SELECT pg_advisory_xact_lock(6025748293)";
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// Longer than the server waits.
const PATIENCE: Duration = Duration::from_secs(15);

const fn busy() -> Error {
    Error::new(ErrorKind::Busy, "another process makes, restores or erases users, try again")
}

const fn wrong() -> Error {
    Error::new(ErrorKind::Invalid, "the server's URL is not understood, write postgres://role@host/database")
}
