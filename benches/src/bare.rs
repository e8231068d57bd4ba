//! The engine by itself: the same driver, pragmas and durability, in one hand-written statement.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Executor, SqliteConnection};
use syntha::{Builder, HostAuthority, Session, UserManager};

/// A table with keys and values in a file of its own.
pub(crate) struct Bare {
    pub(crate) db: SqliteConnection,
}

impl Bare {
    pub(crate) async fn open(path: &Path) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("trusted_schema", "OFF")
            .pragma("secure_delete", "ON")
            .pragma("cell_size_check", "ON")
            .pragma("mmap_size", "0")
            .disable_statement_logging();
        let mut db = options.connect().await.unwrap();
        db.execute("CREATE TABLE IF NOT EXISTS entry (row INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value TEXT NOT NULL) STRICT")
            .await
            .unwrap();
        Self { db }
    }

    pub(crate) async fn upsert(&mut self, key: &str, value: &str) {
        sqlx::query("INSERT INTO entry (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value")
            .bind(key)
            .bind(value)
            .execute(&mut self.db)
            .await
            .unwrap();
    }

    /// Many rows in one statement.
    pub(crate) async fn upsert_all(&mut self, rows: &[(String, String)]) {
        let list = serde_json::to_string(rows).unwrap();
        sqlx::query(
            "INSERT INTO entry (key, value) SELECT value ->> 0, value ->> 1 FROM json_each(?) WHERE true
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )
        .bind(list)
        .execute(&mut self.db)
        .await
        .unwrap();
    }

    pub(crate) async fn read(&mut self, key: &str) -> String {
        sqlx::query_scalar("SELECT value FROM entry WHERE key = ?")
            .bind(key)
            .fetch_one(&mut self.db)
            .await
            .unwrap()
    }
}

/// A value of 300 bytes of JSON text that no other number has.
pub(crate) fn value(number: u64) -> String {
    format!("{number:012}{}", "x".repeat(286))
}

/// A user on SQLite files that are not sealed. The manager stays open as long as this is kept.
pub(crate) async fn plain_user(builder: Builder) -> (UserManager, HostAuthority, Session) {
    let (users, host) = builder.plain().no_audit().open().await.unwrap();
    let session = users.create_user_session(&host, "user").await.unwrap();
    (users, host, session)
}
