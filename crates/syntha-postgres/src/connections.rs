//! Connections: each is lent for one statement, and comes back only when that has ended.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, Postgres, Row};
use syntha_store::Result;

use crate::config::{PostgresConfig, Statements};
use crate::error::{Sent, closed, corrupt, from_sqlx};

pub(crate) type Statement = Query<'static, Postgres, PgArguments>;

#[derive(Debug)]
pub(crate) struct Connections {
    pool: PgPool,
    closed: AtomicBool,
    keep: bool,
}

/// A connection that was not used for so long is asked whether it still lives.
const STALE: Duration = Duration::from_secs(5);

/// What a connection must say when it is given back: that no transaction is open (its time would be an earlier statement's then), and that no setting
/// of a user's is left. It goes as one message of the simple protocol: in the other one, a statement's time is never its transaction's.
const IS_CLEAN: &str = "SELECT now() = statement_timestamp() AND current_user = session_user
    AND coalesce(current_setting('syntha.user', true), '') = '' AND current_setting('search_path') !~ '(^|[ ,])(u_|syntha_rows|pg_temp)'";

impl Connections {
    pub(crate) fn new(config: &PostgresConfig) -> Result<Self> {
        let keep = config.statements == Statements::Kept;
        let options = PgPoolOptions::new()
            .max_connections(config.connections)
            .acquire_timeout(config.acquire)
            .max_lifetime(Duration::from_secs(30 * 60))
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move {
                    if about.idle_for > STALE {
                        return Ok(connection.ping().await.is_ok());
                    }
                    Ok(true)
                })
            })
            .after_release(|connection, _| {
                Box::pin(async move {
                    // A connection that is not clean is closed, which rolls back what it holds.
                    let row = sqlx::raw_sql(IS_CLEAN).fetch_one(connection).await;
                    Ok(row.and_then(|row| row.try_get(0)).unwrap_or(false))
                })
            });
        let pool = options.connect_lazy_with(config.options()?);
        Ok(Self { pool, closed: AtomicBool::new(false), keep })
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.pool.close().await;
    }

    /// Runs a statement that gives one row.
    pub(crate) async fn one(&self, statement: Statement, sent: Sent) -> Result<PgRow> {
        let lent = self.lend().await?;
        let statement = statement.persistent(self.keep);
        // A task of its own: a caller who goes does not leave a statement half-read, and the connection can be used again.
        match tokio::spawn(lent.run(statement, sent)).await {
            Ok(row) => row,
            Err(_) => Err(from_sqlx(&sqlx::Error::WorkerCrashed, sent)),
        }
    }

    async fn lend(&self) -> Result<Lent> {
        self.check_open()?;
        let connection = self.pool.acquire().await.map_err(|error| from_sqlx(&error, Sent::Read))?;
        Ok(Lent { connection: Some(connection) })
    }

    /// A connection of one's own, which is closed at the end: for what takes a transaction.
    pub(crate) async fn own(&self) -> Result<PgConnection> {
        self.check_open()?;
        let connection = self.pool.acquire().await.map_err(|error| from_sqlx(&error, Sent::Read))?;
        Ok(connection.detach())
    }
}

/// A lent connection. If the runtime ends before the statement has, it is closed: what it was doing must not meet the next holder.
struct Lent {
    connection: Option<PoolConnection<Postgres>>,
}

impl Lent {
    async fn run(mut self, statement: Statement, sent: Sent) -> Result<PgRow> {
        let row = statement.fetch_one(&mut *self).await;
        // What the server answered, it has ended.
        if matches!(row, Ok(_) | Err(sqlx::Error::Database(_))) {
            drop(self.connection.take());
        }
        row.map_err(|error| from_sqlx(&error, sent))
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    #[allow(clippy::expect_used, reason = "it is taken only by who consumes the value")]
    fn deref(&self) -> &PgConnection {
        self.connection.as_deref().expect("held until it is given back")
    }
}

impl DerefMut for Lent {
    #[allow(clippy::expect_used, reason = "it is taken only by who consumes the value")]
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_deref_mut().expect("held until it is given back")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.close_on_drop();
        }
    }
}

/// Runs a statement that gives one row, on a connection of one's own.
pub(crate) async fn one(connection: &mut PgConnection, statement: Statement, sent: Sent) -> Result<PgRow> {
    let row = statement.persistent(false).fetch_optional(connection).await;
    row.map_err(|error| from_sqlx(&error, sent))?.ok_or_else(corrupt)
}
