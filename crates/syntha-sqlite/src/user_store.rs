use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::sqlite::SqliteRow;
use syntha_store::{
    At, Batch, BatchId, Changes, Commit, DEPLOYMENT_OWNER, Delta, Error, ErrorKind, Head, Incarnation,
    Keyspace, Outcome, Page, Record, RecordId, Result, Scan, Snapshot, Stamp, UserState, UserStore, UserTag,
    Want,
};

use crate::backup::SqliteSnapshot;
use crate::change_log;
use crate::connections::{Connections, Held, Slot};
use crate::error::{from_sqlx, gone};
use crate::schema::{self, body, code, head, int};

/// One user's side, bound to the life that the user had when it was opened.
pub(crate) struct SqliteUser {
    connections: Arc<Connections>,
    slot: Arc<Slot>,
    incarnation: Incarnation,
}

macro_rules! select {
    ($last:literal, $rest:literal) => {
        concat!(
            "SELECT name, seq, version, body_version, expires, owner, head, ",
            $last,
            " FROM record WHERE ",
            $rest
        )
    };
}

impl SqliteUser {
    pub(crate) const fn new(
        connections: Arc<Connections>,
        slot: Arc<Slot>,
        incarnation: Incarnation,
    ) -> Self {
        Self { connections, slot, incarnation }
    }

    async fn hold(&self) -> Result<Held> {
        let held = match self.connections.open(&self.slot).await {
            Err(error) if matches!(error.kind(), ErrorKind::Erased | ErrorKind::NotFound) => {
                return Err(gone());
            }
            held => held?,
        };
        if held.stamp.incarnation == self.incarnation { Ok(held) } else { Err(gone()) }
    }

    fn is_deployment(&self) -> bool {
        self.slot.owner == DEPLOYMENT_OWNER
    }
}

impl fmt::Debug for SqliteUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteUser").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserStore for SqliteUser {
    async fn state(&self) -> Result<UserState> {
        Ok(schema::user_row(&mut self.hold().await?.db).await?.state)
    }

    fn is_at(&self, _: Stamp) -> bool {
        false
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        let mut held = self.hold().await?;
        let mut value = Vec::with_capacity(ids.len());
        for id in ids {
            let row = sqlx::query(select!("body", "space = ? AND name = ? AND seq = ?"))
                .bind(code(space))
                .bind(id.name().as_ref())
                .bind(int(id.seq()))
                .fetch_optional(&mut held.db)
                .await
                .map_err(|error| from_sqlx(&error))?;
            value.push(
                row.map(|row| self.record(&row)).transpose()?.map(|(head, body)| Record::new(head, body)),
            );
        }
        Ok(At { stamp: held.stamp, value })
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        scan.validate()?;
        let mut held = self.hold().await?;
        let mut rows = self.scan_rows(&mut held, &scan).await?;
        let more = rows.len() > scan.limit;
        rows.truncate(scan.limit);
        let mut records = Vec::with_capacity(rows.len());
        for row in &rows {
            records.push(match scan.want {
                Want::Heads => (head(row, 0, &self.slot.owner)?, None),
                Want::Records => self.record(row).map(|(head, body)| (head, Some(body)))?,
            });
        }
        Ok(At { stamp: held.stamp, value: Page::new(records, more) })
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        batch.validate(self.is_deployment())?;
        if batch.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the batch changes nothing"));
        }
        let mut held = self.hold().await?;
        #[cfg(feature = "faults")]
        let batch = self.with_fault(&mut held, batch).await?;
        self.slot.commit(&mut held, &batch).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        let row = schema::user_row(&mut self.hold().await?.db).await?;
        Ok(match row.outcome(batch) {
            Some(stamp) => Outcome::Committed(stamp),
            None if row.oldest_outcome().is_some_and(|oldest| oldest > since.epoch) => Outcome::Forgotten,
            None => Outcome::Not,
        })
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        let mut held = self.hold().await?;
        let now = held.stamp.epoch;
        if since.incarnation != self.incarnation {
            return Ok(Changes::TooOld);
        }
        let text = schema::change_log(&mut held.db).await?;
        let Some(mut changed) = change_log::since(&text, since.epoch, now) else {
            return Ok(Changes::TooOld);
        };
        // The page ends with the commit that holds its last record.
        let at = changed.get(limit.max(1) - 1).map_or(now, |last| last.epoch);
        changed.retain(|one| one.epoch <= at);
        let (mut heads, mut deleted, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for one in changed.into_iter().rev() {
            if !seen.insert((one.space, one.id.clone())) {
                continue;
            }
            if one.deleted {
                deleted.push((one.space, one.id));
            } else if let Some(head) = self.head(&mut held, one.space, &one.id).await?
                // Written again later: then it is on a later page.
                && head.version.0 <= at.0
            {
                heads.push((one.space, head));
            }
        }
        let stamp = Stamp { incarnation: self.incarnation, epoch: at };
        Ok(Changes::Delta(Delta::new(stamp, heads, deleted, at < now)))
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        loop {
            let listener = self.slot.event.listen();
            let stamp = self.hold().await?.stamp;
            if stamp != since {
                return Ok(stamp);
            }
            listener.await;
        }
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let owner = UserTag::from_bytes(self.slot.owner)
            .map_err(|_| Error::new(ErrorKind::Unsupported, "the deployment's own space has no archive"))?;
        let mut held = self.hold().await?;
        let path = self.connections.root.temporary(self.connections.tick());
        // A task of its own: the engine goes on copying when a caller goes, and somebody must remove the copy then.
        let copy = tokio::spawn(async move { SqliteSnapshot::take(&mut held.db, owner, path).await });
        let copy =
            copy.await.map_err(|_| Error::new(ErrorKind::Unavailable, "the runtime ended, try again"))?;
        Ok(Box::new(copy?))
    }
}

impl SqliteUser {
    async fn head(&self, held: &mut Held, space: Keyspace, id: &RecordId) -> Result<Option<Head>> {
        let row = sqlx::query(select!("NULL", "space = ? AND name = ? AND seq = ?"))
            .bind(code(space))
            .bind(id.name().as_ref())
            .bind(int(id.seq()))
            .fetch_optional(&mut held.db)
            .await
            .map_err(|error| from_sqlx(&error))?;
        row.map(|row| head(&row, 0, &self.slot.owner)).transpose()
    }

    fn record(&self, row: &SqliteRow) -> Result<(Head, Bytes)> {
        Ok((head(row, 0, &self.slot.owner)?, body(row, 7)?))
    }

    async fn scan_rows(&self, held: &mut Held, scan: &Scan) -> Result<Vec<SqliteRow>> {
        let records = scan.want == Want::Records;
        let limit = int(scan.limit as u64).saturating_add(1);
        let query = if let Some(name) = &scan.name {
            let sql = match (scan.reverse, records) {
                (false, false) => select!("NULL", "space = ? AND name = ? AND seq > ? ORDER BY seq LIMIT ?"),
                (false, true) => select!("body", "space = ? AND name = ? AND seq > ? ORDER BY seq LIMIT ?"),
                (true, false) => {
                    select!("NULL", "space = ? AND name = ? AND seq <= ? ORDER BY seq DESC LIMIT ?")
                }
                (true, true) => {
                    select!("body", "space = ? AND name = ? AND seq <= ? ORDER BY seq DESC LIMIT ?")
                }
            };
            sqlx::query(sql)
                .bind(code(scan.space))
                .bind(name.to_vec())
                .bind(seq_bound(scan, name))
                .bind(limit)
        } else {
            let sql = match (scan.reverse, records) {
                (false, false) => {
                    select!("NULL", "space = ? AND (name, seq) > (?, ?) ORDER BY name, seq LIMIT ?")
                }
                (false, true) => {
                    select!("body", "space = ? AND (name, seq) > (?, ?) ORDER BY name, seq LIMIT ?")
                }
                (true, false) => {
                    select!("NULL", "space = ? AND (name, seq) < (?, ?) ORDER BY name DESC, seq DESC LIMIT ?")
                }
                (true, true) => {
                    select!("body", "space = ? AND (name, seq) < (?, ?) ORDER BY name DESC, seq DESC LIMIT ?")
                }
            };
            let (name, seq) = match &scan.from {
                Some(from) => (from.name().to_vec(), int(from.seq())),
                None if scan.reverse => (vec![0xff; syntha_store::NAME_BYTES + 1], 0),
                None => (Vec::new(), -1),
            };
            #[cfg(feature = "faults")]
            let seq = seq - i64::from(self.connections.config.has(crate::Fault::PageOverlaps));
            sqlx::query(sql).bind(code(scan.space)).bind(name).bind(seq).bind(limit)
        };
        query.fetch_all(&mut held.db).await.map_err(|error| from_sqlx(&error))
    }

    #[cfg(feature = "faults")]
    async fn with_fault(&self, held: &mut Held, mut batch: Batch) -> Result<Batch> {
        use syntha_store::Expect;
        if self.connections.config.has(crate::Fault::StampIgnored) {
            batch.expect.retain(|expect| !matches!(expect, Expect::Stamp(_)));
        }
        if self.connections.config.has(crate::Fault::BatchTorn) && batch.ops.len() > 1 {
            let mut half = Batch::new(batch.time)?;
            half.ops = batch.ops.drain(..1).collect();
            let stamp = self.slot.commit(held, &half).await?.stamp;
            for expect in &mut batch.expect {
                if let Expect::Stamp(expected) = expect
                    && expected.epoch.0 + 1 == stamp.epoch.0
                {
                    *expected = stamp;
                }
            }
        }
        Ok(batch)
    }
}

/// Where a scan of one name starts: after this sequence number, or in reverse at it.
fn seq_bound(scan: &Scan, name: &Bytes) -> i64 {
    use std::cmp::Ordering;
    let Some(from) = &scan.from else { return if scan.reverse { i64::MAX } else { -1 } };
    match (from.name().cmp(name), scan.reverse) {
        (Ordering::Equal, false) => int(from.seq()),
        (Ordering::Equal, true) => int(from.seq()) - 1,
        (Ordering::Less, _) => -1,
        (Ordering::Greater, _) => i64::MAX,
    }
}
