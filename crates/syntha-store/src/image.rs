mod bytes;
mod lives;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use async_trait::async_trait;

use crate::batch::{Batch, BatchId, Expect, OUTCOMES_KEPT, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::keyspace::Keyspace;
use crate::record::{Head, Record, RecordId, StoredRecord};
use crate::state::{ChainHead, Epoch, Fence, Incarnation, Note, Stamp, Timestamp, Usage, UserState, Version};
use crate::store::{Changes, Commit, Delta, Outcome, Page, Scan, Snapshot, Want};
use crate::user::UserTag;

const TOMBSTONES_KEPT: usize = 4_096;

pub use lives::Step;

/// One user's data as a value: the contract's rules about batches, scans and changes, without a place to keep it.
///
/// For backends that hold a user whole: the reference does, and one that writes a user as one file or object can. What is
/// left to such a backend is what only it can know: where the bytes lie, when they are safe, and who else has them open. The
/// functions that give a [`Step`] hold the contract's rules about lives.
#[derive(Clone, Debug)]
pub struct Image {
    fence: Option<Fence>,
    deployment: bool,
    stamp: Stamp,
    chain: ChainHead,
    usage: Usage,
    time: Timestamp,
    note: Note,
    records: BTreeMap<(Keyspace, RecordId), Record>,
    recent: VecDeque<(BatchId, Stamp)>,
    deleted: VecDeque<(Epoch, Keyspace, RecordId)>,
    /// Deletes of this epoch and before are forgotten.
    deleted_floor: Epoch,
}

impl Image {
    /// An empty life, of a user or of the deployment's own space. It stands at epoch 0 until its first commit.
    #[must_use]
    pub fn new(incarnation: Incarnation, deployment: bool) -> Self {
        Self {
            fence: None,
            deployment,
            stamp: Stamp { incarnation, epoch: Epoch(0) },
            chain: ChainHead::default(),
            usage: Usage::default(),
            time: Timestamp(0),
            note: Note::NONE,
            records: BTreeMap::new(),
            recent: VecDeque::new(),
            deleted: VecDeque::new(),
            deleted_floor: Epoch(0),
        }
    }

    /// Data as it was kept: what [`state`](Self::state), [`fence`](Self::fence), [`recent`](Self::recent) and
    /// [`records`](Self::records) gave. What was deleted before is not known to it.
    #[must_use]
    pub fn restored(
        state: UserState,
        deployment: bool,
        fence: Option<Fence>,
        recent: impl IntoIterator<Item = (BatchId, Stamp)>,
        records: impl IntoIterator<Item = StoredRecord>,
    ) -> Self {
        let mut image = Self::new(state.stamp.incarnation, deployment);
        image.stamp = state.stamp;
        image.deleted_floor = state.stamp.epoch;
        image.chain = state.chain;
        image.usage = state.usage;
        image.time = state.time;
        image.note = state.note;
        image.fence = fence;
        image.recent = recent.into_iter().collect();
        image.records = records
            .into_iter()
            .map(|stored| ((stored.space, stored.record.head.id.clone()), stored.record))
            .collect();
        image
    }

    /// Why it takes no more commits; `None` while it does.
    #[must_use]
    pub const fn fence(&self) -> Option<Fence> {
        self.fence
    }

    /// Closes it to commits.
    pub const fn set_fence(&mut self, fence: Fence) {
        self.fence = Some(fence);
    }

    /// Itself, for a handle of this life, as long as there is no fence.
    ///
    /// # Errors
    ///
    /// `Gone`.
    pub fn live(&self, life: Incarnation) -> Result<&Self> {
        if self.fence.is_none() && self.stamp.incarnation == life { Ok(self) } else { Err(gone()) }
    }

    /// The last batches and where the data stood after each, the oldest first: at most [`OUTCOMES_KEPT`].
    pub fn recent(&self) -> impl ExactSizeIterator<Item = (BatchId, Stamp)> {
        self.recent.iter().copied()
    }

    /// As [`UserStore::state`](crate::UserStore::state).
    #[must_use]
    pub fn state(&self) -> UserState {
        UserState {
            stamp: self.stamp,
            chain: self.chain,
            usage: self.usage,
            next_expiry: self.records.values().filter_map(|record| record.head.expires).min(),
            time: self.time,
            note: self.note,
        }
    }

    /// Life and commit.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// One record of what [`UserStore::read`](crate::UserStore::read) reads.
    #[must_use]
    pub fn read(&self, space: Keyspace, id: &RecordId) -> Option<Record> {
        self.records.get(&(space, id.clone())).cloned()
    }

    /// As [`UserStore::scan`](crate::UserStore::scan), of a scan that was validated.
    #[must_use]
    pub fn scan(&self, scan: &Scan) -> Page {
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

    /// As [`UserStore::commit`](crate::UserStore::commit), whole or not at all.
    ///
    /// # Errors
    ///
    /// Those of the contract.
    pub fn commit(&mut self, batch: Batch) -> Result<Commit> {
        batch.validate(self.deployment)?;
        if batch.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the batch changes nothing"));
        }
        self.check(&batch)?;
        Ok(self.apply(batch))
    }

    /// The batch that makes a user: it may be empty.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_first(&mut self, batch: Batch) -> Result<Commit> {
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
                    return Err(moved_record());
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
            if let Op::Rewrite { space, id, version, .. } = op
                && self
                    .records
                    .get(&(*space, id.clone()))
                    .is_none_or(|record| record.head.version != *version)
            {
                return Err(moved_record());
            }
        }
        Ok(())
    }

    fn apply(&mut self, batch: Batch) -> Commit {
        // A create raises it whatever it holds. The deployment's own space is made by nobody.
        if batch.raises_epoch() || (self.stamp.epoch == Epoch(0) && !self.deployment) {
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
                Op::Rewrite { space, id, head, body, .. } => {
                    if let Some(record) = self.records.get_mut(&(space, id)) {
                        record.head.head = head;
                        record.body = crate::record::Body(body);
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
        self.note = batch.note.unwrap_or(self.note);
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

    /// As [`UserStore::outcome`](crate::UserStore::outcome).
    #[must_use]
    pub fn outcome(&self, batch: BatchId, since: Stamp) -> Outcome {
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

    /// As [`UserStore::changes`](crate::UserStore::changes).
    #[must_use]
    pub fn changes(&self, since: Stamp, limit: usize) -> Changes {
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

    /// Every record, in order of keyspace and id.
    pub fn records(&self) -> impl Iterator<Item = StoredRecord> {
        self.records.iter().map(|((space, _), record)| StoredRecord { space: *space, record: record.clone() })
    }

    /// A snapshot of it, for [`UserStore::snapshot`](crate::UserStore::snapshot).
    #[must_use]
    pub fn snapshot(&self, owner: UserTag) -> Box<dyn Snapshot> {
        let records = self.records().collect::<Vec<_>>().into_iter();
        Box::new(ImageSnapshot { owner, state: self.state(), records })
    }

    /// Forgets every record; what is left answers nobody.
    pub fn wipe(&mut self, fence: Fence) {
        self.fence = Some(fence);
        self.records = BTreeMap::new();
        self.recent = VecDeque::new();
        self.deleted = VecDeque::new();
    }
}

fn gone() -> Error {
    Error::new(
        ErrorKind::Gone,
        "the user was erased, moved or restored since this handle was opened, open it again",
    )
}

fn moved_record() -> Error {
    Error::new(ErrorKind::Conflict, "the record has another version, reload and try again")
}

struct ImageSnapshot {
    owner: UserTag,
    state: UserState,
    records: std::vec::IntoIter<StoredRecord>,
}

#[async_trait]
impl Snapshot for ImageSnapshot {
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
        Ok(next_chunk(&mut self.records))
    }
}

/// The most bytes of bodies in one chunk of a snapshot.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Splits records into chunks by size.
fn next_chunk(records: &mut std::vec::IntoIter<StoredRecord>) -> Option<Vec<StoredRecord>> {
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
