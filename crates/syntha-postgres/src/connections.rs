//! Connections: each is lent for one statement, and comes back only when that has ended.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, Postgres};
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

/// What a connection must say when it is given back: that no transaction is open (its time would be the first statement's then), and that no setting
/// of a user's is left.
const IS_CLEAN: &str = "SELECT now() = statement_timestamp() AND current_user = session_user
    AND coalesce(current_setting('syntha.user', true), '') = '' AND current_setting('search_path') = boot_val
    FROM (SELECT coalesce(reset_val, boot_val) AS boot_val FROM pg_catalog.pg_settings WHERE name = 'search_path') AS s";

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
            .after_release(move |connection, _| {
                Box::pin(async move {
                    let clean =
                        sqlx::query_scalar::<_, bool>(IS_CLEAN).persistent(keep).fetch_one(connection);
                    // A connection that is not clean is closed, which rolls back what it holds.
                    Ok(clean.await.unwrap_or(false))
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
        let mut lent = self.lend().await?;
        let row = statement.persistent(self.keep).fetch_one(&mut *lent).await;
        match row {
            Ok(row) => {
                lent.give_back();
                Ok(row)
            }
            Err(error) => {
                if matches!(error, sqlx::Error::Database(_)) {
                    lent.give_back();
                }
                Err(from_sqlx(&error, sent))
            }
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

/// A lent connection. If its holder goes before the statement has ended, it is closed: what it was doing must not meet the next holder.
struct Lent {
    connection: Option<PoolConnection<Postgres>>,
}

impl Lent {
    fn give_back(mut self) {
        drop(self.connection.take());
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
