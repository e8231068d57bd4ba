//! Links of the audit chain: the records of [`Keyspace::Audit`] without a name. They have a table of their own, in the order of their numbers, because
//! one comes with each commit. Who asks for records sees no difference.
//!
//! A file of a format before the fourth has them beside the other records, until somebody who may write opens it.

use bytes::Bytes;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;
use syntha_store::{Keyspace, Result, Scan, Want};

use crate::error::from_sqlx;
use crate::schema::int;

/// Whether a record is a link.
pub(crate) const fn is_link(space: Keyspace, name: &[u8]) -> bool {
    matches!(space, Keyspace::Audit) && name.is_empty()
}

macro_rules! select {
    ($last:literal, $rest:literal) => {
        concat!(
            "SELECT x'', seq, version, body_version, expires, owner, head, ",
            $last,
            " FROM link WHERE ",
            $rest
        )
    };
}

/// Reads one link, in the columns of a record.
pub(crate) async fn read(db: &mut SqliteConnection, seq: u64) -> Result<Option<SqliteRow>> {
    let query = sqlx::query(select!("body", "seq = ?")).bind(int(seq));
    query.fetch_optional(db).await.map_err(|error| from_sqlx(&error))
}

/// Reads links in order, from after a number, or in reverse at it, at most so many.
pub(crate) async fn scan(
    db: &mut SqliteConnection,
    scan: &Scan,
    bound: i64,
    limit: i64,
) -> Result<Vec<SqliteRow>> {
    let sql = match (scan.reverse, scan.want == Want::Records) {
        (false, false) => select!("NULL", "seq > ? ORDER BY seq LIMIT ?"),
        (false, true) => select!("body", "seq > ? ORDER BY seq LIMIT ?"),
        (true, false) => select!("NULL", "seq <= ? ORDER BY seq DESC LIMIT ?"),
        (true, true) => select!("body", "seq <= ? ORDER BY seq DESC LIMIT ?"),
    };
    let query = sqlx::query(sql).bind(bound).bind(limit);
    query.fetch_all(db).await.map_err(|error| from_sqlx(&error))
}

/// Which records a scan reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Records,
    Links,
    /// Links first: no name is less than theirs.
    Both,
}

impl Reach {
    pub(crate) fn of(scan: &Scan) -> Self {
        match &scan.name {
            _ if scan.space != Keyspace::Audit => Self::Records,
            Some(name) if name.is_empty() => Self::Links,
            Some(_) => Self::Records,
            None => Self::Both,
        }
    }
}

/// The name of every link.
pub(crate) const NAME: Bytes = Bytes::new();
