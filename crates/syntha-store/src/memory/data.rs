use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use crate::batch::{Batch, BatchId, Expect, OUTCOMES_KEPT, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::keyspace::Keyspace;
use crate::record::{Head, Record, RecordId, StoredRecord};
use crate::state::{ChainHead, Epoch, Fence, Incarnation, Stamp, Timestamp, Usage, UserState, Version};
use crate::store::{Changes, Commit, Delta, Outcome, Page, Scan, Want};

const TOMBSTONES_KEPT: usize = 4_096;

/// One user's data.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) fence: Option<Fence>,
    deployment: bool,
    stamp: Stamp,
    chain: ChainHead,
    usage: Usage,
    time: Timestamp,
    records: BTreeMap<(Keyspace, RecordId), Record>,
    recent: VecDeque<(BatchId, Stamp)>,
    deleted: VecDeque<(Epoch, Keyspace, RecordId)>,
    /// Deletes of this epoch and before are forgotten.
    deleted_floor: Epoch,
}

impl Data {
    pub(super) fn new(incarnation: Incarnation, deployment: bool) -> Self {
        Self {
            fence: None,
            deployment,
            stamp: Stamp { incarnation, epoch: Epoch(0) },
            chain: ChainHead::default(),
            usage: Usage::default(),
            time: Timestamp(0),
            records: BTreeMap::new(),
            recent: VecDeque::new(),
            deleted: VecDeque::new(),
            deleted_floor: Epoch(0),
        }
    }

    /// A new life that holds a snapshot's records.
    pub(super) fn imported(state: UserState, stamp: Stamp, records: Vec<StoredRecord>) -> Self {
        let mut data = Self::new(stamp.incarnation, false);
        data.stamp = stamp;
        data.deleted_floor = stamp.epoch;
        data.chain = state.chain;
        data.usage = state.usage;
        data.time = state.time;
        data.records = records
            .into_iter()
            .map(|stored| ((stored.space, stored.record.head.id.clone()), stored.record))
            .collect();
        data
    }

    pub(super) fn state(&self) -> UserState {
        UserState {
            stamp: self.stamp,
            chain: self.chain,
            usage: self.usage,
            next_expiry: self.records.values().filter_map(|record| record.head.expires).min(),
            time: self.time,
        }
    }

    pub(super) const fn stamp(&self) -> Stamp {
        self.stamp
    }

    pub(super) fn read(&self, space: Keyspace, id: &RecordId) -> Option<Record> {
        self.records.get(&(space, id.clone())).cloned()
    }

    pub(super) fn scan(&self, scan: &Scan) -> Page {
        let (low, high) = match &scan.from {
            None => (Bound::Unbounded, Bound::Unbounded),
            Some(from) if scan.reverse => (Bound::Unbounded, Bound::Excluded((scan.space, from.clone()))),
            Some(from) => (Bound::Excluded((scan.space, from.clone())), Bound::Unbounded),
        };
        let range = self.records.range((low, high));
        let wanted = |((space, id), _): &(&(Keyspace, RecordId), &Record)| {
            *space == scan.space && scan.name.as_ref().is_none_or(|name| id.name() == name)
        };
        let take = scan.limit.saturating_add(1);
        let mut found: Vec<&Record> = if scan.reverse {
            range.rev().filter(wanted).take(take).map(|(_, record)| record).collect()
        } else {
            range.filter(wanted).take(take).map(|(_, record)| record).collect()
        };
        let more = found.len() > scan.limit;
        found.truncate(scan.limit);
        let body = |record: &Record| match scan.want {
            Want::Heads => None,
            Want::Records => Some(record.body.0.clone()),
        };
        Page::new(found.into_iter().map(|record| (record.head.clone(), body(record))).collect(), more)
    }

    pub(super) fn commit(&mut self, batch: Batch) -> Result<Commit> {
        batch.validate(self.deployment)?;
        if batch.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the batch changes nothing"));
        }
        self.check(&batch)?;
        Ok(self.apply(batch))
    }

    /// The batch that makes a user: it may be empty, and expects nothing.
    pub(super) fn commit_first(&mut self, batch: Batch) -> Result<Commit> {
        batch.validate(self.deployment)?;
        self.check(&batch)?;
        Ok(self.apply(batch))
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        for expect in &batch.expect {
            match expect {
                Expect::Stamp(stamp) if stamp.incarnation != self.stamp.incarnation => return Err(gone()),
                Expect::Stamp(stamp) if *stamp != self.stamp => {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        "the user's data moved on, reload and try again",
                    ));
                }
                Expect::Chain(seq) if *seq != self.chain.seq => {
                    return Err(Error::new(ErrorKind::Conflict, "the audit chain moved on, chain again"));
                }
                Expect::Version { space, id, version }
                    if self.records.get(&(*space, id.clone())).map(|record| record.head.version)
                        != *version =>
                {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        "the record has another version, reload and try again",
                    ));
                }
                _ => {}
            }
        }
        for op in &batch.ops {
            if let Op::PutHead { space, id, .. } = op
                && !self.records.contains_key(&(*space, id.clone()))
            {
                return Err(Error::new(ErrorKind::Conflict, "the record to keep the body of is not there"));
            }
        }
        Ok(())
    }

    fn apply(&mut self, batch: Batch) -> Commit {
        if batch.raises_epoch() || (self.stamp.epoch == Epoch(0)) {
            self.stamp.epoch.0 += 1;
        }
        let version = Version(self.stamp.epoch.0);
        for op in &batch.ops {
            match op {
                Op::Clear { space } => self.remove(|in_space, _| in_space == *space),
                Op::DeleteName { space, name } => {
                    self.remove(|in_space, id| in_space == *space && id.name() == name);
                }
                _ => {}
            }
        }
        for op in batch.ops {
            match op {
                Op::Put { space, id, head, body, expires } => {
                    let head = Head::new(id.clone(), head, version, version, expires);
                    self.records.insert((space, id), Record::new(head, body));
                }
                Op::PutHead { space, id, head, expires } => {
                    if let Some(record) = self.records.get_mut(&(space, id)) {
                        record.head.head = head;
                        record.head.version = version;
                        record.head.expires = expires;
                    }
                }
                Op::Delete { space, id } => {
                    if self.records.remove(&(space, id.clone())).is_some() {
                        self.bury(space, id);
                    }
                }
                Op::DeleteName { .. } | Op::Clear { .. } => {}
            }
        }
        self.usage = batch.usage.unwrap_or(self.usage);
        self.chain = batch.chain.unwrap_or(self.chain);
        self.time = self.time.max(batch.time);
        self.recent.push_back((batch.id, self.stamp));
        if self.recent.len() > OUTCOMES_KEPT {
            self.recent.pop_front();
        }
        Commit::new(self.stamp, self.chain)
    }

    fn remove(&mut self, wanted: impl Fn(Keyspace, &RecordId) -> bool) {
        let removed: Vec<_> = self.records.extract_if(.., |(space, id), _| wanted(*space, id)).collect();
        for ((space, id), _) in removed {
            self.bury(space, id);
        }
    }

    fn bury(&mut self, space: Keyspace, id: RecordId) {
        if space == Keyspace::Audit {
            return;
        }
        self.deleted.push_back((self.stamp.epoch, space, id));
        while self.deleted.len() > TOMBSTONES_KEPT {
            if let Some((epoch, ..)) = self.deleted.pop_front() {
                self.deleted_floor = epoch;
            }
        }
    }

    pub(super) fn outcome(&self, batch: BatchId, since: Stamp) -> Outcome {
        if let Some((_, stamp)) = self.recent.iter().find(|(id, _)| *id == batch) {
            return Outcome::Committed(*stamp);
        }
        let oldest = self.recent.front().map_or(Epoch(0), |(_, stamp)| stamp.epoch);
        if self.recent.len() == OUTCOMES_KEPT && oldest > since.epoch {
            Outcome::Forgotten
        } else {
            Outcome::Not
        }
    }

    pub(super) fn changes(&self, since: Stamp, limit: usize) -> Changes {
        if since.incarnation != self.stamp.incarnation || since.epoch < self.deleted_floor {
            return Changes::TooOld;
        }
        let mut epochs: Vec<u64> = Vec::new();
        let changed = |space: Keyspace, epoch: u64| space != Keyspace::Audit && epoch > since.epoch.0;
        epochs.extend(
            self.records
                .iter()
                .filter(|((space, _), record)| changed(*space, record.head.version.0))
                .map(|(_, record)| record.head.version.0),
        );
        epochs.extend(
            self.deleted
                .iter()
                .filter(|(epoch, space, _)| changed(*space, epoch.0))
                .map(|(epoch, ..)| epoch.0),
        );
        epochs.sort_unstable();
        // INVARIANT: the answer ends at a commit's end, so a reader never holds half a commit.
        let last = limit.max(1).checked_sub(1).and_then(|at| epochs.get(at)).copied();
        let until = last.unwrap_or(self.stamp.epoch.0);
        let more = epochs.last().is_some_and(|epoch| *epoch > until);
        let until = if more { until } else { self.stamp.epoch.0 };
        let heads = self
            .records
            .iter()
            .filter(|((space, _), record)| {
                changed(*space, record.head.version.0) && record.head.version.0 <= until
            })
            .map(|((space, _), record)| (*space, record.head.clone()))
            .collect();
        let deleted = self
            .deleted
            .iter()
            .filter(|(epoch, space, id)| {
                changed(*space, epoch.0)
                    && epoch.0 <= until
                    && !self.records.contains_key(&(*space, id.clone()))
            })
            .map(|(_, space, id)| (*space, id.clone()))
            .collect();
        let at = Stamp { incarnation: self.stamp.incarnation, epoch: Epoch(until) };
        Changes::Delta(Delta::new(at, heads, deleted, more))
    }

    pub(super) fn records(&self) -> Vec<StoredRecord> {
        self.records
            .iter()
            .map(|((space, _), record)| StoredRecord { space: *space, record: record.clone() })
            .collect()
    }

    /// Forgets every record; what is left answers nobody.
    pub(super) fn wipe(&mut self, fence: Fence) {
        self.fence = Some(fence);
        self.records = BTreeMap::new();
        self.recent = VecDeque::new();
        self.deleted = VecDeque::new();
    }
}

pub(super) fn gone() -> Error {
    Error::new(
        ErrorKind::Gone,
        "the user was erased, moved or restored since this handle was opened, open it again",
    )
}

/// The most bytes of bodies in one chunk of a snapshot.
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;

/// Splits records into chunks by size.
pub(super) fn next_chunk(records: &mut std::vec::IntoIter<StoredRecord>) -> Option<Vec<StoredRecord>> {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for stored in records.by_ref() {
        bytes += stored.record.body.len() + stored.record.head.head.len();
        chunk.push(stored);
        if bytes >= CHUNK_BYTES {
            break;
        }
    }
    if chunk.is_empty() { None } else { Some(chunk) }
}
