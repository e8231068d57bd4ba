//! The statements, and what goes in and out of them.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Executor, Row, SqliteConnection};
use syntha_store::{
    BatchId, ChainHead, Epoch, Error, ErrorKind, Fence, Head, Incarnation, KeyFingerprint, Keyspace, Note,
    RecordId, Result, Stamp, Timestamp, Usage, UserState, Version,
};

use crate::config::{Mode, Synchronous};
use crate::error::{corrupt, foreign, from_sqlx};

/// Makes the tables, and what takes a commit.
pub(crate) const SCHEMA: &str =
    concat!(include_str!("schema.sql"), include_str!("link.sql"), include_str!("commit.sql"));
pub(crate) const INSERT_USER: &str =
    "INSERT INTO user VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, x'', x'', ?)";
/// Makes what takes commits anew.
const NEW_VIEWS: &str = concat!(
    "DROP VIEW IF EXISTS do_commit; DROP VIEW IF EXISTS do_links; DROP VIEW IF EXISTS do_puts; DROP VIEW IF EXISTS do_put; ",
    include_str!("commit.sql")
);
/// Moves the links of a file of a former format to a table of their own.
const MOVE_LINKS: &str = concat!(
    include_str!("link.sql"),
    "INSERT INTO link SELECT seq, version, body_version, expires, owner, head, body FROM record
         WHERE space = 5 AND name = x'' ORDER BY seq;
     DELETE FROM record WHERE space = 5 AND name = x'';"
);
const FORMAT: i64 = 4;
const APPLICATION: i64 = 0x5359_4e54;
/// 3.51.3 mends the write-ahead log's reset race, <https://www.sqlite.org/wal.html#walresetbug>.
const ENGINE: (u32, u32, u32) = (3, 51, 3);

/// The user row.
#[derive(Clone, Debug)]
pub(crate) struct UserRow {
    pub(crate) tag: [u8; 32],
    pub(crate) print: [u8; 32],
    pub(crate) state: UserState,
    pub(crate) fence: Option<Fence>,
    recent: String,
}

impl UserRow {
    /// A new user's.
    pub(crate) fn new(tag: [u8; 32], print: KeyFingerprint, stamp: Stamp) -> Self {
        let state = UserState {
            stamp,
            chain: ChainHead::default(),
            usage: Usage::default(),
            next_expiry: None,
            time: Timestamp(0),
            note: Note::NONE,
        };
        Self { tag, print: *print.as_bytes(), state, fence: None, recent: String::new() }
    }

    /// The stamp after a remembered batch, and whether every batch since an epoch is remembered.
    pub(crate) fn outcome(&self, batch: BatchId) -> Option<Stamp> {
        let wanted = format!("{:032x}", batch.0);
        self.outcomes()
            .find(|(id, _)| *id == wanted)
            .map(|(_, epoch)| Stamp { incarnation: self.state.stamp.incarnation, epoch })
    }

    pub(crate) fn oldest_outcome(&self) -> Option<Epoch> {
        let full = self.recent.len() >= 48 * syntha_store::OUTCOMES_KEPT;
        self.outcomes().next().map(|(_, epoch)| epoch).filter(|_| full)
    }

    /// The last batch that was committed, and the epoch after it.
    pub(crate) fn last_batch(&self) -> Option<(BatchId, Epoch)> {
        let (id, epoch) = self.outcomes().last()?;
        Some((BatchId(u128::from_str_radix(id, 16).ok()?), epoch))
    }

    fn outcomes(&self) -> impl Iterator<Item = (&str, Epoch)> {
        (0..self.recent.len() / 48).filter_map(|n| {
            let one = self.recent.get(n * 48..(n + 1) * 48)?;
            let (id, epoch) = one.split_at_checked(32)?;
            Some((id, Epoch(u64::from_str_radix(epoch, 16).ok()?)))
        })
    }
}

/// How every connection to a data file is set up.
pub(crate) fn options(path: &Path, synchronous: Synchronous, mode: Mode) -> SqliteConnectOptions {
    let plain = plain_options(path);
    let plain = match mode {
        Mode::Exclusive => plain,
        // Another process's commit or checkpoint takes its time.
        Mode::Shared => plain.busy_timeout(Duration::from_secs(5)),
        Mode::Beside => return plain.busy_timeout(Duration::from_secs(5)).read_only(true),
    };
    plain.journal_mode(SqliteJournalMode::Wal).synchronous(match synchronous {
        Synchronous::Full => SqliteSynchronous::Full,
        Synchronous::Normal => SqliteSynchronous::Normal,
    })
}

/// How a connection to a file that nobody else knows yet is set up: it is synced as a whole at the end.
pub(crate) fn private_options(path: &Path) -> SqliteConnectOptions {
    plain_options(path).journal_mode(SqliteJournalMode::Off).synchronous(SqliteSynchronous::Off)
}

fn plain_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(false)
        .busy_timeout(Duration::from_secs(1))
        .pragma("trusted_schema", "OFF")
        .pragma("secure_delete", "ON")
        .pragma("cell_size_check", "ON")
        .pragma("mmap_size", "0")
        .pragma("temp_store", "MEMORY")
        // Statements hold names and values; nothing of them goes to a log.
        .disable_statement_logging()
}

/// Writes a new user's row.
pub(crate) async fn insert_user(db: &mut SqliteConnection, row: &UserRow) -> Result<(), sqlx::Error> {
    let UserState { stamp, chain, usage, time, note, .. } = row.state;
    sqlx::query(INSERT_USER)
        .bind(row.tag.as_slice())
        .bind(row.print.as_slice())
        .bind(stamp.incarnation.0.to_be_bytes().as_slice())
        .bind(int(stamp.epoch.0))
        .bind(int(chain.seq))
        .bind(chain.head.as_slice())
        .bind(int(usage.contexts))
        .bind(int(usage.agents))
        .bind(int(usage.context_bytes))
        .bind(int(usage.history_bytes))
        .bind(int(time.0))
        .bind(note.as_bytes())
        .execute(db)
        .await
        .map(drop)
}

/// Checks the engine's version.
pub(crate) async fn check_engine() -> Result<()> {
    let mut memory =
        plain_options(Path::new(":memory:")).connect().await.map_err(|error| from_sqlx(&error))?;
    let version: String = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&mut memory)
        .await
        .map_err(|error| from_sqlx(&error))?;
    check_version(&version)
}

fn check_version(version: &str) -> Result<()> {
    let mut parts = version.split('.').map(|part| u32::from_str(part).unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    if (next(), next(), next()) >= ENGINE {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "the linked SQLite is older than 3.51.3, which can lose commits, upgrade it",
    ))
}

/// Which format a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Present,
    /// Links are beside the other records.
    Former,
}

/// Checks that a file is one of ours, in a format that this build knows.
pub(crate) async fn check_format(db: &mut SqliteConnection) -> Result<Format> {
    let row: (i64, i64) =
        sqlx::query_as("SELECT application_id, user_version FROM pragma_application_id, pragma_user_version")
            .fetch_one(db)
            .await
            .map_err(|error| from_sqlx(&error))?;
    match row {
        (APPLICATION, FORMAT) => Ok(Format::Present),
        (APPLICATION, 1..FORMAT) => Ok(Format::Former),
        (APPLICATION, newer) if newer > FORMAT => {
            Err(Error::new(ErrorKind::Unsupported, "the user's file has a newer format, upgrade Syntha"))
        }
        _ => Err(foreign()),
    }
}

/// Brings a file of a former format to the present one, in one transaction. What takes commits is made anew, links are moved, and no other row is
/// touched.
pub(crate) async fn renew(db: &mut SqliteConnection) -> Result<()> {
    let renewed = async {
        db.execute("BEGIN IMMEDIATE").await?;
        // Another process may have done it by now: then only the views are made once more.
        let apart: i64 =
            sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'link'")
                .fetch_one(&mut *db)
                .await?;
        if apart == 0 {
            db.execute(MOVE_LINKS).await?;
        }
        let there: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pragma_table_info('user') WHERE name = 'note'")
                .fetch_one(&mut *db)
                .await?;
        if there == 0 {
            db.execute("ALTER TABLE user ADD COLUMN note BLOB NOT NULL DEFAULT x''").await?;
        }
        db.execute(NEW_VIEWS).await?;
        db.execute("COMMIT").await
    };
    // A caller who goes, or an error, ends with the connection, which nobody has yet.
    renewed.await.map(drop).map_err(|error: sqlx::Error| from_sqlx(&error))
}

/// Checks the whole file, after the last one who had it open did not close it.
pub(crate) async fn check_pages(db: &mut SqliteConnection) -> Result<()> {
    let answer: String =
        sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(db).await.map_err(|error| from_sqlx(&error))?;
    if answer == "ok" { Ok(()) } else { Err(corrupt()) }
}

macro_rules! user_row {
    ($expires:literal) => {
        concat!(
            "SELECT tag, key_print, incarnation, epoch, chain_seq, chain_head, contexts, agents, context_bytes,
                    history_bytes, time, fence, recent, (SELECT min(expires) FROM ",
            $expires,
            "),
                    -- A reader beside a holder may find a file whose row has no note yet; then the name means the empty one.
                    (SELECT note FROM user)
             FROM user AS u CROSS JOIN (SELECT x'' AS note) AS absent"
        )
    };
}

const FORMER_USER_ROW: &str = user_row!("record WHERE expires IS NOT NULL");
const USER_ROW: &str = user_row!(
    "(SELECT min(expires) AS expires FROM record WHERE expires IS NOT NULL
      UNION ALL SELECT min(expires) FROM link WHERE expires IS NOT NULL)"
);

/// Reads the user row.
pub(crate) async fn user_row(db: &mut SqliteConnection, format: Format) -> Result<UserRow> {
    let row = sqlx::query(match format {
        Format::Present => USER_ROW,
        Format::Former => FORMER_USER_ROW,
    })
    .fetch_optional(db)
    .await
    .map_err(|error| from_sqlx(&error))?
    .ok_or_else(corrupt)?;
    let number = |column: usize| -> Result<u64> { natural(row.try_get(column).map_err(|_| corrupt())?) };
    let stamp =
        Stamp { incarnation: Incarnation(u128::from_be_bytes(bytes(&row, 2)?)), epoch: Epoch(number(3)?) };
    let usage = Usage {
        contexts: number(6)?,
        agents: number(7)?,
        context_bytes: number(8)?,
        history_bytes: number(9)?,
    };
    let state = UserState {
        stamp,
        chain: ChainHead { seq: number(4)?, head: bytes(&row, 5)? },
        usage,
        next_expiry: expiry(row.try_get(13).map_err(|_| corrupt())?)?,
        time: Timestamp(number(10)?),
        note: Note::new(row.try_get(14).map_err(|_| corrupt())?).map_err(|_| corrupt())?,
    };
    let fence = Fence::from_code(u8::try_from(number(11)?).map_err(|_| corrupt())?)?;
    let recent = ascii(row.try_get(12).map_err(|_| corrupt())?)?;
    Ok(UserRow { tag: bytes(&row, 0)?, print: bytes(&row, 1)?, state, fence, recent })
}

/// What the last commits changed, as text.
pub(crate) async fn change_log(db: &mut SqliteConnection) -> Result<String> {
    let log = sqlx::query_scalar("SELECT log FROM user").fetch_one(db).await;
    ascii(log.map_err(|error| from_sqlx(&error))?)
}

/// Closes the user's present life.
pub(crate) async fn set_fence(db: &mut SqliteConnection, fence: Fence) -> Result<()> {
    sqlx::query("UPDATE user SET fence = ?")
        .bind(i64::from(fence.code()))
        .execute(db)
        .await
        .map(drop)
        .map_err(|error| from_sqlx(&error))
}

/// Moves the write-ahead log into the file and empties it, so that deleted bytes are in neither. Says whether it could: another
/// program that reads the file keeps the log.
pub(crate) async fn checkpoint(db: &mut SqliteConnection) -> Result<bool> {
    let (busy, _, _): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)")
        .fetch_one(db)
        .await
        .map_err(|error| from_sqlx(&error))?;
    Ok(busy == 0)
}

/// The same before the connection is closed, without waiting long for others.
pub(crate) async fn last_checkpoint(db: &mut SqliteConnection) -> Result<bool> {
    sqlx::query("PRAGMA busy_timeout = 100").execute(&mut *db).await.map_err(|error| from_sqlx(&error))?;
    checkpoint(db).await
}

/// Reads a head from columns `name, seq, version, body_version, expires, owner, head` that start at a column.
pub(crate) fn head(row: &SqliteRow, from: usize, owner: &[u8; 32]) -> Result<Head> {
    let number =
        |column: usize| -> Result<u64> { natural(row.try_get(from + column).map_err(|_| corrupt())?) };
    let written_by: &[u8] = row.try_get(from + 5).map_err(|_| corrupt())?;
    if !owner.starts_with(written_by) || written_by.len() != 16 {
        return Err(foreign());
    }
    let name: Vec<u8> = row.try_get(from).map_err(|_| corrupt())?;
    let head: Vec<u8> = row.try_get(from + 6).map_err(|_| corrupt())?;
    let expires = expiry(row.try_get(from + 4).map_err(|_| corrupt())?)?;
    Ok(Head::new(
        RecordId::new(name, number(1)?)?,
        head.into(),
        Version(number(2)?),
        Version(number(3)?),
        expires,
    ))
}

/// Reads a body.
pub(crate) fn body(row: &SqliteRow, column: usize) -> Result<Bytes> {
    row.try_get::<Vec<u8>, _>(column).map(Bytes::from).map_err(|_| corrupt())
}

/// Reads a keyspace.
pub(crate) fn space(row: &SqliteRow, column: usize) -> Result<Keyspace> {
    let code: i64 = row.try_get(column).map_err(|_| corrupt())?;
    Keyspace::from_code(u8::try_from(code).map_err(|_| corrupt())?)
}

pub(crate) fn code(space: Keyspace) -> i64 {
    i64::from(space.code())
}

/// A number as SQLite keeps it. Everything that reaches here was checked to fit, or counts something that does.
pub(crate) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn natural(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| corrupt())
}

fn ascii(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| corrupt())
}

fn expiry(at: Option<i64>) -> Result<Option<Timestamp>> {
    at.map(|at| natural(at).map(Timestamp)).transpose()
}

fn bytes<const N: usize>(row: &SqliteRow, column: usize) -> Result<[u8; N]> {
    row.try_get::<&[u8], _>(column).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_engine_is_refused() {
        assert!(check_version("3.51.3").is_ok());
        assert!(check_version("3.60.0").is_ok());
        assert!(check_version("4.0.0").is_ok());
        for old in ["3.51.2", "3.40.1", "3.9.9", "", "x"] {
            assert_eq!(check_version(old).unwrap_err().kind(), ErrorKind::Unsupported, "{old}");
        }
    }
}
