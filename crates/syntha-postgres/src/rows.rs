//! What the functions of `functions.sql` answer.

use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;
use syntha_store::{
    BatchId, ChainHead, Epoch, Error, ErrorKind, Head, Incarnation, Keyspace, Note, OUTCOMES_KEPT, RecordId,
    Result, Stamp, Timestamp, Usage, UserState, Version,
};

use crate::error::{corrupt, erased, gone, not_found, present};

/// What `o_status` says, if it is not 0.
pub(crate) fn refusal(status: i64) -> Option<Error> {
    Some(match status {
        0 => return None,
        1 => gone(),
        2 => Error::new(ErrorKind::Conflict, "the user's data moved on, reload and try again"),
        3 => Error::new(ErrorKind::Conflict, "the audit chain moved on, chain again"),
        4 => Error::new(ErrorKind::Conflict, "the record has another version, reload and try again"),
        5 => Error::new(ErrorKind::Conflict, "the record to keep the body of is not there"),
        6 => not_found(),
        7 => erased(),
        8 => present(),
        12 => Error::new(
            ErrorKind::Unsupported,
            "the user's tables are of a version that this build does not serve, run the migration",
        ),
        _ => corrupt(),
    })
}

/// Checks the row's status.
pub(crate) fn check(row: &PgRow) -> Result<()> {
    refusal(row.try_get("o_status").map_err(|_| corrupt())?).map_or(Ok(()), Err)
}

pub(crate) fn number(row: &PgRow, column: &str) -> Result<u64> {
    natural(row.try_get(column).map_err(|_| corrupt())?)
}

pub(crate) fn bytes<const N: usize>(row: &PgRow, column: &str) -> Result<[u8; N]> {
    row.try_get::<&[u8], _>(column).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(corrupt)
}

pub(crate) fn life(row: &PgRow) -> Result<Incarnation> {
    Ok(Incarnation(u128::from_be_bytes(bytes(row, "o_life")?)))
}

/// A list; one of nothing is null.
pub(crate) fn list<T>(row: &PgRow, column: &str) -> Result<Vec<T>>
where
    Vec<T>: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let list: Option<Vec<T>> = row.try_get(column).map_err(|_| corrupt())?;
    Ok(list.unwrap_or_default())
}

/// The answer of `syntha.state`.
pub(crate) struct State {
    pub(crate) state: UserState,
}

impl State {
    pub(crate) fn of(row: &PgRow, incarnation: Incarnation) -> Result<Self> {
        check(row)?;
        let stamp = Stamp { incarnation, epoch: Epoch(number(row, "o_epoch")?) };
        let [contexts, agents, context_bytes, history_bytes] =
            list::<i64>(row, "o_usage")?.try_into().map_err(|_| corrupt())?;
        let usage = Usage {
            contexts: natural(contexts)?,
            agents: natural(agents)?,
            context_bytes: natural(context_bytes)?,
            history_bytes: natural(history_bytes)?,
        };
        let note: &[u8] = row.try_get("o_note").map_err(|_| corrupt())?;
        let state = UserState {
            stamp,
            chain: chain(row)?,
            usage,
            next_expiry: expiry(row.try_get("o_expires").map_err(|_| corrupt())?)?,
            time: Timestamp(number(row, "o_time")?),
            note: Note::new(note).map_err(|_| corrupt())?,
        };
        Ok(Self { state })
    }
}

/// A batch id of 16 bytes and an epoch of 8.
const RECENT_BYTES: usize = 24;
/// The epoch of a batch that was not committed and can't be any more.
const NEVER: Epoch = Epoch(u64::MAX);

/// The answer of `syntha.settle`: the batches that are remembered, the oldest first.
pub(crate) struct Recent(Vec<u8>);

impl Recent {
    pub(crate) fn of(row: &PgRow) -> Result<Self> {
        check(row)?;
        Ok(Self(row.try_get("o_recent").map_err(|_| corrupt())?))
    }

    /// Where the data stood after a batch.
    pub(crate) fn epoch(&self, batch: BatchId) -> Option<Epoch> {
        self.commits().find(|(id, _)| *id == batch).map(|(_, epoch)| epoch)
    }

    /// The epoch after the oldest batch, if older ones may be forgotten.
    pub(crate) fn oldest(&self) -> Option<Epoch> {
        let full = self.0.len() >= RECENT_BYTES * OUTCOMES_KEPT;
        self.commits().next().map(|(_, epoch)| epoch).filter(|_| full)
    }

    /// Those that were committed. A batch that was asked for before it came has the epoch -1.
    fn commits(&self) -> impl Iterator<Item = (BatchId, Epoch)> {
        let all = self.0.chunks_exact(RECENT_BYTES).filter_map(|one| {
            let (id, epoch) = one.split_first_chunk::<16>()?;
            let epoch: [u8; 8] = epoch.try_into().ok()?;
            Some((BatchId(u128::from_be_bytes(*id)), Epoch(u64::from_be_bytes(epoch))))
        });
        all.filter(|(_, epoch)| *epoch != NEVER)
    }
}

pub(crate) fn chain(row: &PgRow) -> Result<ChainHead> {
    Ok(ChainHead { seq: number(row, "o_chain_seq")?, head: bytes(row, "o_chain_head")? })
}

/// The columns of heads that a function gave, each as a list.
pub(crate) struct Heads {
    versions: std::vec::IntoIter<i64>,
    body_versions: std::vec::IntoIter<i64>,
    expires: std::vec::IntoIter<Option<i64>>,
    heads: std::vec::IntoIter<Vec<u8>>,
}

impl Heads {
    pub(crate) fn of(row: &PgRow) -> Result<Self> {
        Ok(Self {
            versions: list(row, "o_version")?.into_iter(),
            body_versions: list(row, "o_body_version")?.into_iter(),
            expires: list(row, "o_expires")?.into_iter(),
            heads: list(row, "o_head")?.into_iter(),
        })
    }

    /// The next head, which is of this id.
    pub(crate) fn next(&mut self, id: RecordId) -> Result<Head> {
        let version = Version(natural(self.versions.next().ok_or_else(corrupt)?)?);
        let body_version = Version(natural(self.body_versions.next().ok_or_else(corrupt)?)?);
        let expires = expiry(self.expires.next().ok_or_else(corrupt)?)?;
        let head = Bytes::from(self.heads.next().ok_or_else(corrupt)?);
        Ok(Head::new(id, head, version, body_version, expires))
    }
}

/// The ids of two columns.
pub(crate) fn ids(row: &PgRow, names: &str, seqs: &str) -> Result<Vec<RecordId>> {
    let (names, seqs): (Vec<Vec<u8>>, Vec<i64>) = (list(row, names)?, list(row, seqs)?);
    if names.len() != seqs.len() {
        return Err(corrupt());
    }
    names
        .into_iter()
        .zip(seqs)
        .map(|(name, seq)| RecordId::new(name, natural(seq)?).map_err(|_| corrupt()))
        .collect()
}

pub(crate) fn spaces(row: &PgRow, column: &str) -> Result<Vec<Keyspace>> {
    let codes: Vec<i64> = list(row, column)?;
    codes
        .into_iter()
        .map(|code| u8::try_from(code).map_err(|_| corrupt()).and_then(Keyspace::from_code))
        .collect()
}

/// A number as the database keeps it. Everything that reaches here was checked to fit, or counts something that does.
pub(crate) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn natural(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| corrupt())
}

fn expiry(at: Option<i64>) -> Result<Option<Timestamp>> {
    at.map(|at| natural(at).map(Timestamp)).transpose()
}
