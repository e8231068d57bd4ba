//! The statements, and what goes in and out of them.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Row, SqliteConnection};
use syntha_store::{
    Batch, BatchId, ChainHead, Epoch, Error, ErrorKind, Expect, Fence, Head, Incarnation, KeyFingerprint,
    Keyspace, Op, RecordId, Result, Stamp, Timestamp, Usage, UserState, Version,
};

use crate::change_log::ChangeLog;
use crate::config::{Mode, Synchronous};
use crate::error::{corrupt, foreign, from_sqlx, gone};

/// Makes the tables.
pub(crate) const SCHEMA: &str = include_str!("schema.sql");
pub(crate) const INSERT_USER: &str =
    "INSERT INTO user VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, x'', x'')";
pub(crate) const COMMIT: &str =
    "INSERT INTO do_commit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const FORMAT: i64 = 1;
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
    let UserState { stamp, chain, usage, time, .. } = row.state;
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

/// Checks that a file is one of ours, in a format that this build knows.
pub(crate) async fn check_format(db: &mut SqliteConnection) -> Result<()> {
    let row: (i64, i64) =
        sqlx::query_as("SELECT application_id, user_version FROM pragma_application_id, pragma_user_version")
            .fetch_one(db)
            .await
            .map_err(|error| from_sqlx(&error))?;
    match row {
        (APPLICATION, FORMAT) => Ok(()),
        (APPLICATION, newer) if newer > FORMAT => {
            Err(Error::new(ErrorKind::Unsupported, "the user's file has a newer format, upgrade Syntha"))
        }
        _ => Err(foreign()),
    }
}

/// Checks the whole file, after the last one who had it open did not close it.
pub(crate) async fn check_pages(db: &mut SqliteConnection) -> Result<()> {
    let answer: String =
        sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(db).await.map_err(|error| from_sqlx(&error))?;
    if answer == "ok" { Ok(()) } else { Err(corrupt()) }
}

/// Reads the user row.
pub(crate) async fn user_row(db: &mut SqliteConnection) -> Result<UserRow> {
    let row = sqlx::query(
        "SELECT tag, key_print, incarnation, epoch, chain_seq, chain_head, contexts, agents, context_bytes,
                history_bytes, time, fence, recent,
                (SELECT min(expires) FROM record WHERE expires IS NOT NULL)
         FROM user",
    )
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

/// Applies a batch: one statement, all or nothing.
pub(crate) async fn commit(
    db: &mut SqliteConnection,
    incarnation: Incarnation,
    batch: &Batch,
    raise: bool,
) -> Result<()> {
    let plan = Plan::new(incarnation, batch)?;
    let usage = |part: fn(&Usage) -> u64| batch.usage.as_ref().map(|usage| int(part(usage)));
    sqlx::query(COMMIT)
        .bind(incarnation.0.to_be_bytes().to_vec())
        .bind(plan.epoch)
        .bind(plan.chain)
        .bind(plan.expects.end())
        .bind(plan.clears.end())
        .bind(plan.deletes.end())
        .bind(plan.heads.end())
        .bind(plan.puts.end())
        .bind(plan.data)
        .bind(plan.log.end())
        .bind(i64::from(raise))
        .bind(format!("{:032x}", batch.id.0))
        .bind(batch.chain.map(|chain| int(chain.seq)))
        .bind(batch.chain.map(|chain| chain.head.to_vec()))
        .bind(usage(|usage| usage.contexts))
        .bind(usage(|usage| usage.agents))
        .bind(usage(|usage| usage.context_bytes))
        .bind(usage(|usage| usage.history_bytes))
        .bind(int(batch.time.0))
        .execute(db)
        .await
        .map(drop)
        .map_err(|error| from_sqlx(&error))
}

/// A batch as the view takes it: one blob with all bytes and rows, and where the rows of each kind stand.
struct Plan {
    epoch: Option<i64>,
    chain: Option<i64>,
    expects: List,
    clears: List,
    deletes: List,
    heads: List,
    puts: List,
    data: Vec<u8>,
    log: ChangeLog,
}

impl Plan {
    fn new(incarnation: Incarnation, batch: &Batch) -> Result<Self> {
        let mut plan = Self {
            epoch: None,
            chain: None,
            expects: List::new(),
            clears: List::new(),
            deletes: List::new(),
            heads: List::new(),
            puts: List::new(),
            // Never empty: SQLite reads a blob of no bytes as NULL here.
            data: vec![0],
            log: ChangeLog::new(),
        };
        for expect in &batch.expect {
            plan.expect(incarnation, expect)?;
        }
        for op in &batch.ops {
            plan.op(op)?;
        }
        Ok(plan)
    }

    fn expect(&mut self, incarnation: Incarnation, expect: &Expect) -> Result<()> {
        let twice = || Error::new(ErrorKind::Conflict, "the batch expects two states at once");
        match expect {
            Expect::Stamp(stamp) if stamp.incarnation != incarnation => return Err(gone()),
            Expect::Stamp(stamp) => {
                let epoch = int(stamp.epoch.0);
                if self.epoch.replace(epoch).is_some_and(|other| other != epoch) {
                    return Err(twice());
                }
            }
            Expect::Chain(seq) => {
                if self.chain.replace(int(*seq)).is_some_and(|other| other != int(*seq)) {
                    return Err(twice());
                }
            }
            Expect::Version { space, id, version } => {
                let version = version.map_or(NONE, |version| int(version.0));
                let place = self.row(*space, id.name(), int(id.seq()), version, &[], &[])?;
                self.expects.push(place);
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this backend does not know that expectation",
                ));
            }
        }
        Ok(())
    }

    fn op(&mut self, op: &Op) -> Result<()> {
        let at = |expires: &Option<Timestamp>| expires.map_or(NONE, |at| int(at.0));
        match op {
            Op::Put { space, id, head, body, expires } => {
                self.log.push('p', *space, id);
                let place = self.row(*space, id.name(), int(id.seq()), at(expires), head, body)?;
                self.puts.push(place);
            }
            Op::PutHead { space, id, head, expires } => {
                self.log.push('p', *space, id);
                let place = self.row(*space, id.name(), int(id.seq()), at(expires), head, &[])?;
                self.heads.push(place);
            }
            Op::Delete { space, id } => {
                self.log.push('d', *space, id);
                let place = self.row(*space, id.name(), int(id.seq()), NONE, &[], &[])?;
                self.deletes.push(place);
            }
            Op::DeleteName { space, name } => {
                self.log.give_up();
                let place = self.row(*space, name, NONE, NONE, &[], &[])?;
                self.deletes.push(place);
            }
            Op::Clear { space } => {
                self.log.give_up();
                self.clears.push(code(*space));
            }
            _ => {
                return Err(Error::new(ErrorKind::Unsupported, "this backend does not know that operation"));
            }
        }
        Ok(())
    }

    /// Adds a row and its bytes, and says where the row stands, from 1. The widths are those in `schema.sql`.
    fn row(
        &mut self,
        space: Keyspace,
        name: &[u8],
        seq: i64,
        at: i64,
        head: &[u8],
        body: &[u8],
    ) -> Result<i64> {
        use std::io::Write as _;
        let place = self.data.len() + 1;
        let bytes = place + ROW_WIDTH;
        let (space, name_len, head_len, body_len) = (code(space), name.len(), head.len(), body.len());
        write!(self.data, "{space:3}{seq:20}{at:20}{bytes:10}{name_len:5}{head_len:5}{body_len:10}")
            .map_err(|_| too_big())?;
        // INVARIANT: a number that is wider than its column would shift all that follow.
        if self.data.len() + 1 != bytes {
            return Err(too_big());
        }
        for part in [name, head, body] {
            self.data.extend_from_slice(part);
        }
        Ok(int(place as u64))
    }
}

/// "None" in a row.
const NONE: i64 = -1;
const ROW_WIDTH: usize = 73;

const fn too_big() -> Error {
    Error::new(ErrorKind::LimitExceeded, "the batch is larger than this backend takes, split it")
}

/// A JSON array of numbers.
struct List(String);

impl List {
    fn new() -> Self {
        Self("[".to_owned())
    }

    fn push(&mut self, number: i64) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&number.to_string());
    }

    fn end(mut self) -> Option<String> {
        self.0.push(']');
        Some(self.0).filter(|list| list.len() > 2)
    }
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
