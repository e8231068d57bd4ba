use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::postgres::PgRow;
use syntha_store::{
    At, Batch, BatchId, Changes, Commit, DEPLOYMENT_OWNER, Delta, Epoch, Error, ErrorKind, Head, Incarnation,
    Keyspace, Outcome, Page, Record, RecordId, Result, Scan, Snapshot, Stamp, UserState, UserStore, UserTag,
    Want,
};

use crate::connections::Connections;
use crate::error::{Sent, corrupt};
use crate::notices::Bell;
use crate::plan::Plan;
use crate::rows::{self, Heads, Recent, State, int};
use crate::snapshot::PostgresSnapshot;
use crate::statement::{Kind, Statement, call};

/// One user's side, bound to the life that the user had when it was opened.
pub(crate) struct PostgresUser {
    connections: Arc<Connections>,
    tag: [u8; 32],
    life: Incarnation,
    bell: Arc<Bell>,
}

/// About the most bytes of a page, beyond its first record: the server's answers end at 1 GiB.
const PAGE_BYTES: i64 = 256 * 1024 * 1024;

impl PostgresUser {
    pub(crate) const fn new(
        connections: Arc<Connections>,
        tag: [u8; 32],
        life: Incarnation,
        bell: Arc<Bell>,
    ) -> Self {
        Self { connections, tag, life, bell }
    }

    /// A statement whose first arguments say whose data, of which life.
    fn statement(&self, kind: Kind, text: &'static str) -> Statement {
        bound(kind, text, &self.tag, self.life)
    }

    async fn ask(&self, statement: Statement) -> Result<PgRow> {
        self.connections.of_user(&self.tag, statement, Sent::Read).await
    }

    async fn row(&self) -> Result<State> {
        let row = self.ask(self.statement(Kind::State, STATE)).await?;
        State::of(&row, self.life)
    }

    fn stamp(&self, row: &PgRow) -> Result<Stamp> {
        Ok(Stamp { incarnation: self.life, epoch: Epoch(rows::number(row, "o_epoch")?) })
    }
}

pub(crate) const STATE: &str = call!(
    "o_status, o_epoch, o_chain_seq, o_chain_head, o_usage, o_expires, o_time, o_note, o_recent",
    "state($1, $2)"
);
pub(crate) const SCAN: &str = call!(
    "o_status, o_epoch, o_found, o_name, o_seq, o_version, o_body_version, o_expires, o_head, o_body",
    "scan($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
);
const SETTLE: &str = call!("o_status, o_recent", "settle($1, $2, $3)");
const READ: &str = call!(
    "o_status, o_epoch, o_place, o_version, o_body_version, o_expires, o_head, o_body",
    "read($1, $2, $3, $4, $5)"
);
const CHANGES: &str = call!(
    "o_status, o_epoch, o_more, o_space, o_name, o_seq, o_version, o_body_version, o_expires, o_head,
     o_gone_space, o_gone_name, o_gone_seq",
    "changes($1, $2, $3, $4)"
);

pub(crate) fn bound(kind: Kind, text: &'static str, tag: &[u8; 32], life: Incarnation) -> Statement {
    Statement::call(kind, text).bind(&tag[..]).bind(&life.0.to_be_bytes()[..])
}

/// Binds the rest of a scan.
pub(crate) fn bind_scan(statement: Statement, scan: &Scan, bytes: i64) -> Statement {
    let from = match &scan.from {
        Some(from) => Some((&from.name()[..], int(from.seq()))),
        None if scan.reverse => None,
        // No number is less than 0.
        None => Some((&[][..], -1)),
    };
    let (name, seq) = from.unzip();
    statement
        .bind(i64::from(scan.space.code()))
        .bind(scan.name.as_ref().map(|name| &name[..]))
        .bind(name)
        .bind(seq)
        .bind(i64::from(scan.reverse))
        .bind(i64::from(scan.want == Want::Records))
        .bind(int(scan.limit as u64))
        .bind(bytes)
}

/// Reads a page, and checks that it is of what was asked for, in order.
pub(crate) fn page(row: &PgRow, scan: &Scan) -> Result<Page> {
    rows::check(row)?;
    let found = rows::number(row, "o_found")?;
    let ids = rows::ids(row, "o_name", "o_seq")?;
    let in_order = ids.is_sorted_by(|one, next| if scan.reverse { one > next } else { one < next });
    let of_name = scan.name.as_ref().is_none_or(|name| ids.iter().all(|id| id.name() == name));
    if !in_order || !of_name || ids.len() > scan.limit {
        return Err(corrupt());
    }
    let more = found > ids.len() as u64;
    let mut heads = Heads::of(row)?;
    let mut records = Vec::with_capacity(ids.len());
    if scan.want == Want::Records {
        let bodies: Vec<Vec<u8>> = rows::list(row, "o_body")?;
        if bodies.len() != ids.len() {
            return Err(corrupt());
        }
        for (id, body) in ids.into_iter().zip(bodies) {
            records.push((heads.next(id)?, Some(Bytes::from(body))));
        }
    } else {
        for id in ids {
            records.push((heads.next(id)?, None));
        }
    }
    Ok(Page::new(records, more))
}

impl fmt::Debug for PostgresUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresUser").field("life", &self.life).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserStore for PostgresUser {
    async fn state(&self) -> Result<UserState> {
        Ok(self.row().await?.state)
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        // Another process may have committed since.
        let _ = stamp;
        false
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        let statement = self
            .statement(Kind::Read, READ)
            .bind(i64::from(space.code()))
            .bind(ids.iter().map(|id| &id.name()[..]).collect::<Vec<_>>())
            .bind(ids.iter().map(|id| int(id.seq())).collect::<Vec<_>>());
        let row = self.ask(statement).await?;
        rows::check(&row)?;
        let mut value = vec![None; ids.len()];
        let (mut heads, bodies) = (Heads::of(&row)?, rows::list::<Vec<u8>>(&row, "o_body")?);
        let places: Vec<i64> = rows::list(&row, "o_place")?;
        if places.len() != bodies.len() {
            return Err(corrupt());
        }
        for (place, body) in places.into_iter().zip(bodies) {
            let place =
                usize::try_from(place).ok().and_then(|place| place.checked_sub(1)).ok_or_else(corrupt)?;
            let id = ids.get(place).ok_or_else(corrupt)?;
            let record = Record::new(heads.next(id.clone())?, body);
            *value.get_mut(place).ok_or_else(corrupt)? = Some(record);
        }
        Ok(At { stamp: self.stamp(&row)?, value })
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        scan.validate()?;
        let row = self.ask(bind_scan(self.statement(Kind::Scan, SCAN), &scan, PAGE_BYTES)).await?;
        let value = page(&row, &scan)?;
        Ok(At { stamp: self.stamp(&row)?, value })
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        batch.validate(self.tag == DEPLOYMENT_OWNER)?;
        if batch.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the batch changes nothing"));
        }
        let statement = Plan::new(self.life, &batch)?.commit(&self.tag, self.life, &batch);
        let row = self.connections.of_user(&self.tag, statement, Sent::Write).await;
        // Also after an error: the change may have happened.
        self.bell.ring();
        let row = row?;
        rows::check(&row)?;
        Ok(Commit::new(self.stamp(&row)?, rows::chain(&row)?))
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        // It may be under way still, behind a lock or in the network. From now on it is refused, so that "no" stays true.
        let statement = self.statement(Kind::State, SETTLE).bind(&batch.0.to_be_bytes()[..]);
        let row = self.connections.of_user(&self.tag, statement, Sent::Read).await?;
        let recent = Recent::of(&row)?;
        Ok(match recent.epoch(batch) {
            Some(epoch) => Outcome::Committed(Stamp { incarnation: self.life, epoch }),
            None if recent.oldest().is_some_and(|oldest| oldest > since.epoch) => Outcome::Forgotten,
            None => Outcome::Not,
        })
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        if since.incarnation != self.life {
            // Of this life there is nothing to tell, but it may have ended as well.
            self.row().await?;
            return Ok(Changes::TooOld);
        }
        let statement =
            self.statement(Kind::Changes, CHANGES).bind(int(since.epoch.0)).bind(int(limit.max(1) as u64));
        let row = self.ask(statement).await?;
        if rows::number(&row, "o_status")? == TOO_OLD {
            return Ok(Changes::TooOld);
        }
        rows::check(&row)?;
        let (spaces, ids) = (rows::spaces(&row, "o_space")?, rows::ids(&row, "o_name", "o_seq")?);
        let gone = rows::ids(&row, "o_gone_name", "o_gone_seq")?;
        let gone_spaces = rows::spaces(&row, "o_gone_space")?;
        if spaces.len() != ids.len() || gone_spaces.len() != gone.len() {
            return Err(corrupt());
        }
        let mut columns = Heads::of(&row)?;
        let mut heads: Vec<(Keyspace, Head)> = Vec::with_capacity(ids.len());
        for (space, id) in spaces.into_iter().zip(ids) {
            heads.push((space, columns.next(id)?));
        }
        let deleted = gone_spaces.into_iter().zip(gone).collect();
        let more = rows::number(&row, "o_more")? == 1;
        Ok(Changes::Delta(Delta::new(self.stamp(&row)?, heads, deleted, more)))
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        loop {
            let listener = self.bell.listen();
            let stamp = self.row().await?.state.stamp;
            if stamp != since {
                return Ok(stamp);
            }
            self.bell.wait(listener).await;
        }
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let owner = UserTag::from_bytes(self.tag)
            .map_err(|_| Error::new(ErrorKind::Unsupported, "the deployment's own space has no archive"))?;
        Ok(Box::new(PostgresSnapshot::take(&self.connections, owner, self.life).await?))
    }
}

/// What `syntha.changes` answers when it does not know any more.
const TOO_OLD: u64 = 11;
