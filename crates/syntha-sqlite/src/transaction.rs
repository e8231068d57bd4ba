//! Transactions of a folder that others may write to: reads as of one commit, and commits that look first.
//!
//! A transaction takes several statements, and its caller may go between them. So the connection is marked `dirty` before the
//! first, and whoever holds it next, at the latest the one that dropping the caller's hold starts, rolls it back first.

use sqlx::SqliteConnection;
use syntha_store::{
    Batch, ChainHead, Commit, Error, ErrorKind, Expect, Fence, Incarnation, Result, Stamp, UserState,
};

use crate::bell::{self, SILENT};
use crate::connections::{Held, Slot};
use crate::error::{REFUSED, from_sqlx, gone, spoils_connection};
use crate::schema::{self, Format, UserRow};

impl Held {
    /// Begins to read as of one commit, and says of which. The caller ends it with [`end`](Self::end).
    pub(crate) async fn begin(&mut self, life: Incarnation) -> Result<Stamp> {
        // Nobody else writes, so what is known holds until this connection commits.
        if self.is_exclusive() {
            return Ok(self.stamp);
        }
        self.dirty = true;
        run(&mut self.db, "BEGIN").await?;
        if self.format == Format::Former {
            // Somebody who may write may have made it anew since.
            match schema::check_format(&mut self.db).await {
                Ok(format) => self.format = format,
                Err(error) => return self.end(Err(error)).await,
            }
        }
        let row = self.user_row().await;
        let known = row.and_then(|row| self.take_in(&row, life));
        if known.is_err() { self.end(known).await } else { known }
    }

    /// Ends what [`begin`](Self::begin) began, whatever came of it.
    pub(crate) async fn end<T>(&mut self, result: Result<T>) -> Result<T> {
        if !self.is_exclusive() && self.is_open() {
            self.roll_back().await;
        }
        result
    }

    /// The user's row as of now.
    pub(crate) async fn row(&mut self, slot: &Slot, life: Incarnation) -> Result<UserRow> {
        if self.is_exclusive() {
            return self.user_row().await;
        }
        // INVARIANT: the bell is read before the row, see `bell.rs`.
        let rung = self.rung(slot);
        let row = self.user_row().await?;
        let stamp = self.take_in(&row, life)?;
        let matches = |rung| match row.last_batch() {
            _ if rung == SILENT => true,
            Some((batch, epoch)) => bell::number(batch, epoch) == rung,
            None => false,
        };
        slot.verify(rung.filter(|rung| matches(*rung)).map(|rung| (rung, stamp)));
        Ok(row)
    }

    /// Keeps what a row says, if it is of a life that goes on.
    fn take_in(&mut self, row: &UserRow, life: Incarnation) -> Result<Stamp> {
        let UserState { stamp, chain, .. } = row.state;
        (self.stamp, self.chain, self.fence) = (stamp, chain, row.fence);
        if row.fence.is_some() {
            // An erased user's file may be another one by now.
            self.discard();
            return Err(gone());
        }
        if stamp.incarnation == life { Ok(stamp) } else { Err(gone()) }
    }

    /// Ends a transaction without effect, if one is open. What waits in the connection's queue comes first.
    pub(crate) async fn roll_back(&mut self) {
        match run(&mut self.db, "ROLLBACK").await {
            // "No transaction is active" is refused like any wrong statement.
            Err(error) if error.message() != REFUSED => self.discard(),
            // INVARIANT: what rings next is set by who commits next, never left over from a commit whose caller went.
            _ => {
                self.ring.set(bell::NEVER);
                self.dirty = false;
            }
        }
    }

    /// Begins to write, and reads the row that the write builds on.
    pub(crate) async fn begin_writing(&mut self) -> Result<UserRow> {
        self.dirty = true;
        let begun = run(&mut self.db, "BEGIN IMMEDIATE").await;
        match begun {
            Ok(()) => self.user_row().await,
            Err(error) => Err(error),
        }
    }

    /// Commits what [`begin_writing`](Self::begin_writing) began, or rolls it back if it failed.
    pub(crate) async fn end_writing<T>(&mut self, result: Result<T>) -> Result<T> {
        let ended = match result {
            Ok(value) => match run(&mut self.db, "COMMIT").await {
                Ok(()) => {
                    self.dirty = false;
                    return Ok(value);
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        self.roll_back().await;
        ended
    }

    /// Closes the present life to commits, if the data stands there.
    pub(crate) async fn fence_at(&mut self, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        let moved_on = || Error::new(ErrorKind::Conflict, "the user's data moved on, reload and try again");
        if self.is_exclusive() {
            if at.is_some_and(|at| at != self.stamp) {
                return Err(moved_on());
            }
            self.fence(fence).await?;
            return Ok(self.stamp);
        }
        let begun = self.begin_writing().await;
        let fenced = match begun {
            Ok(row) if at.is_some_and(|at| at != row.state.stamp) => Err(moved_on()),
            Ok(row) => schema::set_fence(&mut self.db, fence).await.map(|()| row.state.stamp),
            Err(error) => Err(error),
        };
        let stamp = self.end_writing(fenced).await?;
        self.fence = Some(fence);
        Ok(stamp)
    }
}

impl Slot {
    /// Commits to a file that others write to as well.
    pub(crate) async fn commit_beside_others(
        &self,
        held: &mut Held,
        life: Incarnation,
        batch: &Batch,
    ) -> Result<Commit> {
        let expected = batch.expect.iter().find_map(|expect| match expect {
            Expect::Stamp(stamp) => Some(*stamp),
            _ => None,
        });
        let ring = held.ring.clone();
        held.dirty = true;
        let done = match expected {
            // One statement: it compares the stamp itself, so the stamp after it is known.
            Some(at) => {
                let done = commit_from(held, life, at, batch).await;
                held.dirty = false;
                done
            }
            None => {
                let begun = held.begin_writing().await;
                let done = match begun {
                    Ok(row) => commit_from(held, life, row.state.stamp, batch).await,
                    Err(error) => Err(error),
                };
                held.end_writing(done).await
            }
        };
        let rung = ring.number();
        ring.set(bell::NEVER);
        let stamp = match done {
            Ok(stamp) => stamp,
            Err(error) if spoils_connection(&error) => {
                held.discard();
                return Err(unknown(error));
            }
            Err(error) => {
                // The file may be that of a life which ended.
                if error.kind() == ErrorKind::Gone {
                    held.discard();
                }
                return Err(error);
            }
        };
        // The commit that this connection rang for is complete: its number stands for its stamp.
        held.stamp = stamp;
        self.verify(Some((rung, stamp)));
        let chain = match batch.chain {
            Some(chain) => chain,
            None => self.chain(held).await,
        };
        held.chain = chain;
        Ok(Commit::new(stamp, chain))
    }

    /// The end of the audit chain: others may have moved it without raising the epoch.
    async fn chain(&self, held: &mut Held) -> ChainHead {
        // The commit stands. If the row can't be read now, what was known last is told.
        held.user_row().await.map_or(held.chain, |row| row.state.chain)
    }
}

async fn commit_from(held: &mut Held, life: Incarnation, at: Stamp, batch: &Batch) -> Result<Stamp> {
    let raise = batch.raises_epoch();
    let mut stamp = at;
    stamp.epoch.0 = stamp.epoch.0.saturating_add(u64::from(raise));
    held.ring.set(bell::number(batch.id, stamp.epoch));
    crate::plan::commit(&mut held.db, life, batch, raise).await.map(|()| stamp)
}

async fn run(db: &mut SqliteConnection, statement: &'static str) -> Result<()> {
    sqlx::query(statement).execute(db).await.map(drop).map_err(|error| from_sqlx(&error))
}

fn unknown(error: Error) -> Error {
    Error::new(ErrorKind::Unknown, "whether the commit happened is not known, ask the outcome")
        .with_source(error)
}
