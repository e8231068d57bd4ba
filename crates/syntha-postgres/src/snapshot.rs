//! Archives: read as of one commit, in pages of one transaction, on a connection that nobody else ever has.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Executor;
use sqlx::postgres::PgConnection;
use syntha_store::{
    ChainHead, Incarnation, Keyspace, Record, RecordId, Result, Scan, Snapshot, StoredRecord, UserState,
    UserTag,
};

use crate::connections::Connections;
use crate::error::{Sent, corrupt, from_sqlx};
use crate::rows::State;
use crate::statement::{Kind, one};
use crate::user_store::{SCAN, STATE, bind_scan, bound, page};

/// It holds no commit up, but the server keeps what it may still read: so who reads slower than this between two pages loses it.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const PATIENCE: &str = "SET LOCAL idle_in_transaction_session_timeout = '60s'";
/// The most records of a page, and about the most bytes.
const PAGE: usize = 1_024;
const PAGE_BYTES: i64 = 4 * 1024 * 1024;

pub(crate) struct PostgresSnapshot {
    connection: PgConnection,
    owner: UserTag,
    life: Incarnation,
    state: UserState,
    spaces: std::vec::IntoIter<Keyspace>,
    at: Option<(Keyspace, Option<RecordId>)>,
}

impl PostgresSnapshot {
    pub(crate) async fn take(
        connections: &Arc<Connections>,
        owner: UserTag,
        life: Incarnation,
    ) -> Result<Self> {
        let mut connection = connections.own().await?;
        for statement in [BEGIN, PATIENCE] {
            connection.execute(statement).await.map_err(|error| from_sqlx(&error, Sent::Read))?;
        }
        let row = one(&mut connection, bound(Kind::State, STATE, owner.as_bytes(), life), Sent::Read).await?;
        let state = State::of(&row, life)?.state;
        let mut spaces = Keyspace::all().collect::<Vec<_>>().into_iter();
        let at = spaces.next().map(|space| (space, None));
        Ok(Self { connection, owner, life, state, spaces, at })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Snapshot for PostgresSnapshot {
    fn owner(&self) -> UserTag {
        self.owner
    }

    fn state(&self) -> UserState {
        self.state
    }

    fn life(&self) -> Option<Incarnation> {
        None
    }

    fn follows(&self) -> Option<ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        while let Some((space, from)) = self.at.take() {
            let mut scan = Scan::records(space, PAGE);
            scan.from = from;
            let statement =
                bind_scan(bound(Kind::Scan, SCAN, self.owner.as_bytes(), self.life), &scan, PAGE_BYTES);
            let row = one(&mut self.connection, statement, Sent::Read).await?;
            let page = page(&row, &scan)?;
            self.at = match page.next() {
                Some(last) => Some((space, Some(last))),
                None => self.spaces.next().map(|space| (space, None)),
            };
            if page.records.is_empty() {
                continue;
            }
            let mut records = Vec::with_capacity(page.records.len());
            for (head, body) in page.records {
                let record = Record::new(head, body.ok_or_else(corrupt)?);
                records.push(StoredRecord { space, record });
            }
            return Ok(Some(records));
        }
        Ok(None)
    }
}
