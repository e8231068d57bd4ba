use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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
use crate::config::Mode;
use crate::connections::{Connections, Held, Slot};
use crate::error::{from_sqlx, gone, read_only};
use crate::links::{self, Reach, is_link};
use crate::schema::{self, Format, body, code, head, int};

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

    /// The user's open file. In a folder that others may write to, what it knows of the life is looked at by
    /// [`begin`](Held::begin), [`row`](Held::row) or the commit itself.
    async fn hold(&self) -> Result<Held> {
        let opened = match self.connections.config.mode {
            Mode::Exclusive => self.connections.open(&self.slot).await,
            Mode::Shared | Mode::Beside => self.connections.open_any(&self.slot).await,
        };
        let held = match opened {
            Err(error) if matches!(error.kind(), ErrorKind::Erased | ErrorKind::NotFound) => {
                return Err(gone());
            }
            held => held?,
        };
        let ended = held.is_exclusive() && held.stamp.incarnation != self.incarnation;
        if ended { Err(gone()) } else { Ok(held) }
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
        Ok(self.hold().await?.row(&self.slot, self.incarnation).await?.state)
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        let Some(bell) = &self.connections.root.bell else { return false };
        let Some((number, at)) = self.slot.verified() else { return false };
        if at != stamp || stamp.incarnation != self.incarnation || self.connections.check_open().is_err() {
            return false;
        }
        #[cfg(feature = "faults")]
        if self.connections.config.has(crate::Fault::StaleBell) {
            return true;
        }
        bell.read(&self.slot.owner) == Some(number)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        let mut held = self.hold().await?;
        let stamp = held.begin(self.incarnation).await?;
        let read = self.records(&mut held, space, ids).await;
        Ok(At { stamp, value: held.end(read).await? })
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        scan.validate()?;
        let mut held = self.hold().await?;
        let stamp = held.begin(self.incarnation).await?;
        let scanned = self.scan_rows(&mut held, &scan).await;
        let mut rows = held.end(scanned).await?;
        let more = rows.len() > scan.limit;
        rows.truncate(scan.limit);
        let mut records = Vec::with_capacity(rows.len());
        for row in &rows {
            records.push(match scan.want {
                Want::Heads => (head(row, 0, &self.slot.owner)?, None),
                Want::Records => self.record(row).map(|(head, body)| (head, Some(body)))?,
            });
        }
        Ok(At { stamp, value: Page::new(records, more) })
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        batch.validate(self.is_deployment())?;
        if batch.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the batch changes nothing"));
        }
        if self.connections.config.mode == Mode::Beside {
            return Err(read_only());
        }
        let mut held = self.hold().await?;
        #[cfg(feature = "faults")]
        let batch = self.with_fault(&mut held, batch).await?;
        self.slot.commit(&mut held, self.incarnation, &batch).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        let row = self.hold().await?.row(&self.slot, self.incarnation).await?;
        Ok(match row.outcome(batch) {
            Some(stamp) => Outcome::Committed(stamp),
            None if row.oldest_outcome().is_some_and(|oldest| oldest > since.epoch) => Outcome::Forgotten,
            None => Outcome::Not,
        })
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        let mut held = self.hold().await?;
        let now = held.begin(self.incarnation).await?;
        let changes = self.changes_until(&mut held, since, now, limit).await;
        held.end(changes).await
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        loop {
            let listener = self.slot.event.listen();
            if self.connections.config.mode == Mode::Exclusive {
                let stamp = self.hold().await?.stamp;
                if stamp != since {
                    return Ok(stamp);
                }
                listener.await;
                continue;
            }
            if !self.is_at(since) {
                let stamp = self.state().await?.stamp;
                if stamp != since {
                    return Ok(stamp);
                }
            }
            // This process's commits wake at once; others' are heard by looking at the bell.
            let _ = tokio::time::timeout(LISTEN_EVERY, listener).await;
        }
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let owner = UserTag::from_bytes(self.slot.owner)
            .map_err(|_| Error::new(ErrorKind::Unsupported, "the deployment's own space has no archive"))?;
        let mut held = self.hold().await?;
        let path = self.connections.root.temporary(self.connections.tick());
        // A task of its own: the engine goes on copying when a caller goes, and somebody must remove the copy then.
        let life = self.incarnation;
        let copy = tokio::spawn(async move { SqliteSnapshot::take(&mut held.db, owner, life, path).await });
        let copy =
            copy.await.map_err(|_| Error::new(ErrorKind::Unavailable, "the runtime ended, try again"))?;
        Ok(Box::new(copy?))
    }
}

/// How often a waiter looks whether another process has committed.
const LISTEN_EVERY: Duration = Duration::from_millis(10);

impl SqliteUser {
    async fn records(
        &self,
        held: &mut Held,
        space: Keyspace,
        ids: &[RecordId],
    ) -> Result<Vec<Option<Record>>> {
        let mut records = Vec::with_capacity(ids.len());
        for id in ids {
            let row = if held.format == Format::Present && is_link(space, id.name()) {
                links::read(&mut held.db, id.seq()).await?
            } else {
                sqlx::query(select!("body", "space = ? AND name = ? AND seq = ?"))
                    .bind(code(space))
                    .bind(id.name().as_ref())
                    .bind(int(id.seq()))
                    .fetch_optional(&mut held.db)
                    .await
                    .map_err(|error| from_sqlx(&error))?
            };
            records.push(
                row.map(|row| self.record(&row)).transpose()?.map(|(head, body)| Record::new(head, body)),
            );
        }
        Ok(records)
    }

    /// What changed between two stamps, the later of which the connection stands at.
    async fn changes_until(
        &self,
        held: &mut Held,
        since: Stamp,
        now: Stamp,
        limit: usize,
    ) -> Result<Changes> {
        let now = now.epoch;
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
            } else if let Some(head) = self.head(held, one.space, &one.id).await?
                // Written again later: then it is on a later page.
                && head.version.0 <= at.0
            {
                heads.push((one.space, head));
            }
        }
        let stamp = Stamp { incarnation: self.incarnation, epoch: at };
        Ok(Changes::Delta(Delta::new(stamp, heads, deleted, at < now)))
    }

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

    /// One row more than the scan's limit, if there are so many.
    async fn scan_rows(&self, held: &mut Held, scan: &Scan) -> Result<Vec<SqliteRow>> {
        let limit = int(scan.limit as u64).saturating_add(1);
        let reach = match held.format {
            Format::Present => Reach::of(scan),
            Format::Former => Reach::Records,
        };
        let bound = seq_bound(scan, &links::NAME);
        #[cfg(feature = "faults")]
        let bound = match reach {
            Reach::Both => bound - i64::from(self.connections.config.has(crate::Fault::PageOverlaps)),
            Reach::Records | Reach::Links => bound,
        };
        let left = |rows: &[SqliteRow]| limit.saturating_sub(int(rows.len() as u64));
        let mut rows = Vec::new();
        if reach != Reach::Records && !scan.reverse {
            rows = links::scan(&mut held.db, scan, bound, limit).await?;
        }
        if reach != Reach::Links && left(&rows) > 0 {
            rows.append(&mut self.scan_records(held, scan, left(&rows)).await?);
        }
        if reach != Reach::Records && scan.reverse && left(&rows) > 0 {
            rows.append(&mut links::scan(&mut held.db, scan, bound, left(&rows)).await?);
        }
        Ok(rows)
    }

    async fn scan_records(&self, held: &mut Held, scan: &Scan, limit: i64) -> Result<Vec<SqliteRow>> {
        let records = scan.want == Want::Records;
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
            let stamp = self.slot.commit(held, self.incarnation, &half).await?.stamp;
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
