//! Which processes have the deployment open, and which ended without a word.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use syntha_store::{Batch, Keyspace, Op, Result, Scan, Timestamp, UserStore};

use crate::log::id;
use crate::user_store::put;

/// How often a process that shares the deployment says that it is there.
pub(crate) const BEAT: Duration = Duration::from_secs(5);
/// After how long without a word a process that shares the deployment counts as ended, in milliseconds.
const SILENCE: u64 = 30_000;
const RUN: &[u8] = b"run";
const PAGE: usize = 256;
/// Bytes of the record of a run of which nothing is to be told any more.
const TOLD: usize = 9;

/// The number that a run's record has.
pub(crate) const fn number(run: u64) -> u64 {
    run >> 1
}

/// Says that a run is there, now.
pub(crate) async fn write(space: &dyn UserStore, run: u64) -> Result<()> {
    let now = Bytes::copy_from_slice(&now().to_be_bytes());
    let mut batch = Batch::new(Timestamp(0))?;
    batch.ops.push(put(id(RUN, number(run))?, now));
    space.commit(batch).await.map(drop)
}

/// Says of runs that the trail was told how they ended, or that they ended in order: chains are still to be looked at, no more.
pub(crate) async fn mark(space: &dyn UserStore, runs: &[u64]) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let mut told = Vec::with_capacity(TOLD);
    told.extend_from_slice(&now().to_be_bytes());
    told.push(1);
    let mut batch = Batch::new(Timestamp(0))?;
    for run in runs {
        batch.ops.push(put(id(RUN, *run)?, Bytes::copy_from_slice(&told)));
    }
    space.commit(batch).await.map(drop)
}

/// The runs that ended without a word, those of which the trail was not told alone or all. `alone`: no other process can have the
/// deployment open.
pub(crate) async fn ended(space: &dyn UserStore, own: u64, alone: bool, untold: bool) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut from = None;
    let now = now();
    loop {
        let scan = Scan::records(Keyspace::Audit, PAGE).name(Bytes::from_static(RUN));
        let page = space.scan(match from.take() {
            Some(from) => scan.from(from),
            None => scan,
        });
        let page = page.await?.value;
        from = page.next();
        for (head, body) in page.records {
            let body = body.unwrap_or_default();
            let is_told = body.len() == TOLD;
            let at = body.clone().try_get_u64().unwrap_or(0);
            let is_over = is_told || alone || now.abs_diff(at) > SILENCE;
            if head.id.seq() != number(own) && is_over && !(untold && is_told) {
                found.push(head.id.seq());
            }
        }
        if from.is_none() {
            return Ok(found);
        }
    }
}

/// Forgets runs.
pub(crate) async fn remove(space: &dyn UserStore, runs: &[u64]) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new(Timestamp(0))?;
    for run in runs {
        batch.ops.push(Op::Delete { space: Keyspace::Audit, id: id(RUN, *run)? });
    }
    space.commit(batch).await.map(drop)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
