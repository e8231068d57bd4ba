//! The one place that takes the engine's raw handle: for settings that no statement can make.

#![allow(unsafe_code, reason = "the engine's C interface; each call says why it is sound")]

use std::ffi::c_int;
use std::ptr;

use libsqlite3_sys::{
    SQLITE_DBCONFIG_DEFENSIVE, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, SQLITE_LIMIT_ATTACHED, SQLITE_LIMIT_COLUMN,
    SQLITE_LIMIT_COMPOUND_SELECT, SQLITE_LIMIT_EXPR_DEPTH, SQLITE_LIMIT_FUNCTION_ARG, SQLITE_LIMIT_LENGTH,
    SQLITE_LIMIT_SQL_LENGTH, SQLITE_LIMIT_TRIGGER_DEPTH, SQLITE_LIMIT_VARIABLE_NUMBER,
    SQLITE_LIMIT_WORKER_THREADS, SQLITE_OK, sqlite3_db_config, sqlite3_limit,
};
use sqlx::SqliteConnection;
use syntha_store::{Error, ErrorKind, Result};

use crate::error::from_sqlx;

/// What this crate's own statements need, with some room: a hostile file gets no more. <https://www.sqlite.org/c3ref/limit.html>
const LIMITS: &[(c_int, c_int)] = &[
    // A whole batch is one value: 64 MiB of bytes, and its rows.
    (SQLITE_LIMIT_LENGTH, 128 << 20),
    (SQLITE_LIMIT_SQL_LENGTH, 32 << 10),
    (SQLITE_LIMIT_COLUMN, 64),
    (SQLITE_LIMIT_EXPR_DEPTH, 100),
    (SQLITE_LIMIT_COMPOUND_SELECT, 8),
    (SQLITE_LIMIT_FUNCTION_ARG, 16),
    // `VACUUM INTO` attaches the new file.
    (SQLITE_LIMIT_ATTACHED, 1),
    (SQLITE_LIMIT_VARIABLE_NUMBER, 64),
    (SQLITE_LIMIT_TRIGGER_DEPTH, 4),
    (SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// Forbids what damages a file deliberately (writing the schema or shadow tables, switching the journal off), and lowers the
/// engine's limits. <https://www.sqlite.org/security.html>
///
/// `keep_log`: closing the connection leaves the write-ahead log alone. The engine removes it by its path, and in a folder that others
/// have open, another file may be at that path by then.
pub(crate) async fn harden(db: &mut SqliteConnection, keep_log: bool) -> Result<()> {
    let mut handle = db.lock_handle().await.map_err(|error| from_sqlx(&error))?;
    let raw = handle.as_raw_handle().as_ptr();
    for (option, on) in [(SQLITE_DBCONFIG_DEFENSIVE, true), (SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep_log)] {
        // SAFETY: `raw` is an open connection that `handle` keeps locked for this thread until it is dropped below. These
        // options take an int and a pointer to an int, which may be null.
        let code = unsafe { sqlite3_db_config(raw, option, c_int::from(on), ptr::null_mut::<c_int>()) };
        if code != SQLITE_OK {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the linked SQLite can't be set to defensive, upgrade it",
            ));
        }
    }
    for (limit, most) in LIMITS {
        // SAFETY: as above; the call takes two ints and only reads and sets a number of the connection.
        unsafe { sqlite3_limit(raw, *limit, *most) };
    }
    drop(handle);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions, Executor};

    use super::*;

    #[tokio::test]
    async fn a_hardened_connection_refuses_what_no_statement_here_does() {
        let mut db = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        db.execute("CREATE TABLE t (a)").await.unwrap();
        let rewrite = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE t (b)'";
        let attach = "ATTACH ':memory:' AS one; ATTACH ':memory:' AS two";
        let wide = "SELECT zeroblob(200000000)";
        for allowed in [rewrite, attach, wide] {
            db.execute(allowed).await.unwrap();
        }
        let mut db = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        harden(&mut db, false).await.unwrap();
        db.execute("CREATE TABLE t (a)").await.unwrap();
        for refused in [rewrite, attach, wide] {
            assert!(db.execute(refused).await.is_err(), "{refused}");
        }
        db.execute("INSERT INTO t VALUES (1)").await.unwrap();
    }
}
