//! Connections: each is lent for one statement, and comes back only when that has ended.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, Executor, Postgres, Row};
use syntha_store::Result;

use crate::config::{PostgresConfig, Statements};
use crate::error::{Sent, closed, corrupt, from_sqlx, unreachable};

pub(crate) type Statement = Query<'static, Postgres, PgArguments>;

#[derive(Debug)]
pub(crate) struct Connections {
    pool: PgPool,
    closed: AtomicBool,
    most: usize,
    statements: Statements,
    #[cfg(feature = "faults")]
    fault: Option<crate::config::Fault>,
}

/// A transaction of the client's own, where a pooler stands in between.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
pub(crate) const COMMIT: &str = "COMMIT";

/// A connection that was not used for so long is asked whether it still lives.
const STALE: Duration = Duration::from_secs(5);

/// What a connection must say when it is given back: that no transaction is open (its time would be an earlier statement's then), and that no setting
/// of a user's is left. It goes as one message of the simple protocol: in the other one, a statement's time is never its transaction's.
const IS_CLEAN: &str = "SELECT now() = statement_timestamp() AND current_user = session_user
    AND coalesce(current_setting('syntha.user', true), '') = '' AND current_setting('search_path') !~ '(^|[ ,])(u_|syntha_rows|pg_temp)'";

impl Connections {
    pub(crate) fn new(config: &PostgresConfig) -> Result<Self> {
        let checks = config.checks_release();
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
                    if !checks {
                        return Ok(true);
                    }
                    // A connection that is not clean is closed, which rolls back what it holds.
                    let row = sqlx::raw_sql(IS_CLEAN).fetch_one(connection).await;
                    Ok(row.and_then(|row| row.try_get(0)).unwrap_or(false))
                })
            });
        let pool = options.connect_lazy_with(config.options()?);
        let most = config.connections as usize;
        Ok(Self {
            pool,
            closed: AtomicBool::new(false),
            most,
            statements: config.statements,
            #[cfg(feature = "faults")]
            fault: config.fault,
        })
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
        #[cfg_attr(not(feature = "faults"), allow(unused_mut, reason = "a planted fault uses it"))]
        let mut lent = self.lend().await?;
        #[cfg(feature = "faults")]
        if self.fault == Some(crate::config::Fault::TransactionLeft) && sent == Sent::Read {
            let _ = lent.execute(BEGIN).await;
        }
        let statement = statement.persistent(self.statements == Statements::Kept);
        // A task of its own: a caller who goes does not leave a statement half-read, and the connection can be used again.
        let task = match self.statements {
            Statements::Kept | Statements::Unnamed => tokio::spawn(lent.run(statement, sent)),
            Statements::Pooled => tokio::spawn(lent.run_in_transaction(statement, sent)),
        };
        match task.await {
            Ok(row) => row,
            Err(_) => Err(from_sqlx(&sqlx::Error::WorkerCrashed, sent)),
        }
    }

    async fn lend(&self) -> Result<Lent> {
        Ok(Lent { connection: Some(self.acquire().await?) })
    }

    async fn acquire(&self) -> Result<PoolConnection<Postgres>> {
        self.check_open()?;
        self.pool.acquire().await.map_err(|error| match error {
            // There is room for more connections, so it is the server that gave none.
            sqlx::Error::PoolTimedOut if (self.pool.size() as usize) < self.most => unreachable(),
            error => from_sqlx(&error, Sent::Read),
        })
    }

    /// A connection of one's own, which is closed at the end: for what takes a transaction.
    pub(crate) async fn own(&self) -> Result<PgConnection> {
        Ok(self.acquire().await?.detach())
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

    /// The same in a transaction, for which a pooler keeps to one connection of the server. The answer to its end is the acknowledgement: what
    /// fails before that is asked for has not happened.
    async fn run_in_transaction(mut self, statement: Statement, sent: Sent) -> Result<PgRow> {
        let row = match self.execute(BEGIN).await {
            Ok(_) => statement.fetch_one(&mut *self).await,
            Err(error) => Err(error),
        };
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                let answered = matches!(error, sqlx::Error::Database(_));
                if answered && self.execute(ROLLBACK).await.is_ok() {
                    drop(self.connection.take());
                }
                return Err(from_sqlx(&error, Sent::Read));
            }
        };
        // INVARIANT: the statement has succeeded, so the server can't answer this with a silent rollback.
        let ended = self.execute(COMMIT).await;
        if ended.is_ok() {
            drop(self.connection.take());
        }
        ended.map_err(|error| from_sqlx(&error, sent))?;
        Ok(row)
    }
}

const ROLLBACK: &str = "ROLLBACK";

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
