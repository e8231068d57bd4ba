//! One user's side: every commit takes a link of the user's chain with it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use syntha_store::{
    At, Batch, BatchId, ChainHead, Changes, Commit, DEPLOYMENT_OWNER, Epoch, Error, ErrorKind, Events,
    Expect, Incarnation, KeyFingerprint, Keyspace, Op, Outcome, Page, Record, RecordId, Result, Scan,
    Snapshot, Stamp, Subject, Timestamp, TrailFull, UserState, UserStore, encode_events,
};
use tokio::sync::{OnceCell, RwLock};

use crate::digests::Digests;
use crate::hub::{Admitted, Hub, Owner};
use crate::link::{self, CHANGES_MOST, Hash, Kind, Link, SALT_BYTES, StoredLink, Trace};
use crate::size::{Size, TrailSize, put_link};

/// How often a batch is chained again because somebody else committed.
const TRIES: usize = 64;
/// How many records a page of an own scan has.
const PAGE: usize = 1_000;

/// What all users' sides share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hub: Hub,
    pub(crate) deployment: KeyFingerprint,
    pub(crate) run: u64,
    pub(crate) since: Instant,
    /// The deployment's own space, raw; `None` inside if there is none.
    pub(crate) space: OnceCell<Option<Arc<dyn UserStore>>>,
    /// That this run's record is written.
    pub(crate) begun: OnceCell<()>,
    /// Held by a commit of the deployment's own space, and against them by who needs it to stand still.
    pub(crate) still: RwLock<()>,
    /// How many bytes a user's trail may have.
    pub(crate) limit: AtomicU64,
    #[cfg(feature = "faults")]
    pub(crate) fault: Mutex<Option<crate::Fault>>,
}

impl Shared {
    #[cfg(feature = "faults")]
    pub(crate) fn has(&self, fault: crate::Fault) -> bool {
        *self.fault.lock() == Some(fault)
    }

    /// Whether an owner's next commit is taken; see [`Hub::admit`]. The first one leaves the record of this run.
    pub(crate) async fn admit(&self, owner: &Owner) -> Result<Admitted<'_>> {
        if !self.has_begun() {
            Box::pin(self.begin()).await?;
        }
        #[cfg(feature = "faults")]
        let fair = !self.has(crate::Fault::FlooderTaken);
        #[cfg(not(feature = "faults"))]
        let fair = true;
        self.hub.admit(owner, fair)
    }

    /// Leaves the record of this run, if that is not done.
    pub(crate) async fn begin(&self) -> Result<()> {
        let begin = || async {
            match self.space.get() {
                Some(Some(space)) => crate::run::write(&**space, self.run).await,
                _ => Ok(()),
            }
        };
        self.begun.get_or_try_init(begin).await.map(drop)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.initialized()
    }

    /// What a link says of a batch's changes.
    pub(crate) fn traces(&self, digests: &Digests, ops: &[Op]) -> Result<Vec<Trace>> {
        #[cfg(feature = "faults")]
        let ops = match ops {
            [most @ .., _] if self.has(crate::Fault::TraceOmitted) => most,
            ops => ops,
        };
        ops.iter().map(|op| digests.trace(op)).collect()
    }

    pub(crate) fn uptime(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The record that holds a link.
pub(crate) fn link_id(seq: u64) -> Result<RecordId> {
    RecordId::new(Bytes::new(), seq)
}

/// The record that holds the key of a user's keyed hashes.
pub(crate) fn key_id() -> Result<RecordId> {
    RecordId::new(Bytes::from_static(b"key"), 0)
}

/// What a link is made of, beside the changes.
pub(crate) struct Draft {
    pub(crate) kind: Kind,
    pub(crate) more: bool,
    pub(crate) stamp: Stamp,
    pub(crate) time: Timestamp,
    pub(crate) batch: BatchId,
    pub(crate) usage: Option<[u8; 16]>,
    pub(crate) note: Option<[u8; 16]>,
    pub(crate) changes: Vec<Trace>,
}

impl Draft {
    /// The link after another, as it is stored, and where the chain ends then.
    pub(crate) fn link(
        self,
        shared: &Shared,
        before: ChainHead,
        details: Option<(u32, Bytes)>,
    ) -> Result<(StoredLink, ChainHead)> {
        let seq = before.seq.saturating_add(1);
        let (events, details) = match details {
            None => (0, None),
            Some((events, details)) => (events, Some((salt()?, details))),
        };
        let hashed = details.as_ref().map_or([0; 32], |(salt, details)| link::details_hash(salt, details));
        #[cfg(feature = "faults")]
        let hashed = match &details {
            Some((salt, _)) if shared.has(crate::Fault::DetailsUncovered) => link::details_hash(salt, b""),
            _ => hashed,
        };
        let link = Link {
            seq,
            kind: self.kind,
            more: self.more,
            life: self.stamp.incarnation,
            epoch: self.stamp.epoch,
            at: self.time,
            uptime: shared.uptime(),
            run: shared.run,
            batch: self.batch,
            events,
            details: hashed,
            usage: self.usage,
            note: self.note,
            changes: self.changes,
        };
        let text = link.encode();
        let head = link::link_hash(&before.head, &text);
        Ok((StoredLink::new(text.into(), details), ChainHead { seq, head }))
    }
}

fn salt() -> Result<[u8; SALT_BYTES]> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|source| {
        Error::new(ErrorKind::Unavailable, "the system's random source failed").with_source(source)
    })?;
    Ok(salt)
}

/// The details of a link: what was sealed above, or events whose names are hashed here.
#[allow(unused_variables, reason = "faults are planted in it")]
pub(crate) fn details(
    shared: &Shared,
    digests: &Digests,
    events: &Events,
    sealed: bool,
) -> Result<Option<(u32, Bytes)>> {
    #[cfg(feature = "faults")]
    if shared.has(crate::Fault::EventsDropped) {
        return Ok(None);
    }
    match events {
        Events::None => Ok(None),
        Events::Sealed { bytes, count } if *count > 0 => Ok(Some((*count, bytes.clone()))),
        Events::Clear(clear) if clear.is_empty() => Ok(None),
        Events::Clear(_) if sealed => {
            Err(Error::new(ErrorKind::Invalid, "events of a sealed batch must be sealed"))
        }
        Events::Clear(clear) => {
            let mut hidden = clear.clone();
            #[cfg(feature = "faults")]
            if shared.has(crate::Fault::NamesShown) {
                return Ok(Some((events.count(), encode_events(&hidden)?.into())));
            }
            // Many events speak of few names.
            let mut tags: HashMap<Arc<str>, Subject> = HashMap::new();
            let subjects = hidden.iter_mut().flat_map(|event| [&mut event.agent, &mut event.target]);
            for subject in subjects.flatten() {
                if let Subject::Name(name) = subject {
                    let tag = tags.entry(Arc::clone(name)).or_insert_with(|| digests.subject(name));
                    *subject = tag.clone();
                }
            }
            Ok(Some((events.count(), encode_events(&hidden)?.into())))
        }
        _ => Err(Error::new(ErrorKind::Invalid, "events of an unknown form")),
    }
}

/// One user's data with its chain.
pub(crate) struct AuditedUser {
    pub(crate) inner: Arc<dyn UserStore>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) owner: Owner,
    known: Mutex<Option<(Stamp, ChainHead)>>,
    counted: Mutex<Option<Size>>,
    digests: Mutex<Option<Arc<Digests>>>,
}

impl fmt::Debug for AuditedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditedUser")
    }
}

impl AuditedUser {
    pub(crate) fn new(inner: Arc<dyn UserStore>, shared: Arc<Shared>, owner: Owner) -> Self {
        Self {
            inner,
            shared,
            owner,
            known: Mutex::default(),
            counted: Mutex::default(),
            digests: Mutex::default(),
        }
    }

    pub(crate) fn with_digests(self, digests: Arc<Digests>, at: Stamp, chain: ChainHead) -> Self {
        *self.digests.lock() = Some(digests);
        *self.known.lock() = Some((at, chain));
        self
    }

    pub(crate) fn genesis(&self) -> Hash {
        link::genesis(&self.shared.deployment, &self.owner)
    }

    fn known_digests(&self) -> Option<Arc<Digests>> {
        self.digests.lock().clone()
    }

    /// The user's keyed hashes; `None` if the chain has not begun.
    pub(crate) async fn digests(&self) -> Result<Option<Arc<Digests>>> {
        if let Some(digests) = self.known_digests() {
            return Ok(Some(digests));
        }
        let read = self.inner.read(Keyspace::Audit, &[key_id()?]).await?;
        let Some(record) = read.value.into_iter().next().flatten() else { return Ok(None) };
        let digests = Arc::new(Digests::new(&record.body)?);
        *self.digests.lock() = Some(Arc::clone(&digests));
        Ok(Some(digests))
    }

    /// Checks that the chain ends in its last link, that none comes after it, and that the data stands where this link says.
    pub(crate) async fn check_end(&self) -> Result<()> {
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::TailIgnored) {
            return Ok(());
        }
        for _ in 0..TRIES {
            let state = self.inner.state().await?;
            let seq = state.chain.seq;
            let ids = [link_id(seq)?, link_id(seq.saturating_add(1))?];
            let read = self.inner.read(Keyspace::Audit, &ids).await?;
            let is_end = match &read.value[..] {
                [None, None] => state.chain == ChainHead::default(),
                [Some(last), None] => {
                    let link = Link::decode(&StoredLink::decode(&last.body)?.text)?;
                    link.seq == seq && link.epoch == state.stamp.epoch && link.life == state.stamp.incarnation
                }
                _ => false,
            };
            if is_end {
                return Ok(());
            }
            // Somebody may have committed between the two.
            let now = self.inner.state().await?;
            if (now.stamp, now.chain) == (state.stamp, state.chain) {
                return Err(broken());
            }
        }
        Err(busy())
    }

    async fn look(&self) -> Result<(Stamp, ChainHead)> {
        let state = self.inner.state().await?;
        *self.known.lock() = Some((state.stamp, state.chain));
        Ok((state.stamp, state.chain))
    }

    /// Links that say what is there now, for a chain that begins over it: appended to `ops`.
    async fn begin(
        &self,
        digests: &Digests,
        stamp: Stamp,
        time: Timestamp,
        batch: BatchId,
        ops: &mut Vec<Op>,
    ) -> Result<Size> {
        let state = UserState { stamp, ..self.inner.state().await? };
        let start = ChainHead { seq: 0, head: self.genesis() };
        let size = Size { at: start, ..Size::default() };
        let size = self.snapshot_links(digests, &state, size, time, batch, ops).await?;
        ops.push(put(key_id()?, Bytes::copy_from_slice(digests.key())));
        Ok(size)
    }

    fn counted(&self, end: ChainHead) -> Option<Size> {
        (*self.counted.lock()).filter(|counted| counted.at == end)
    }

    /// How many bytes the chain has up to where it ends.
    pub(crate) async fn size(&self, end: ChainHead) -> Result<Size> {
        if let Some(counted) = self.counted(end) {
            return Ok(counted);
        }
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::BytesForgotten) {
            return Ok(Size { at: end, ..Size::default() });
        }
        crate::size::size(&*self.inner, end).await
    }

    /// Whether the chain comes near its limit with what is to be committed.
    ///
    /// # Errors
    ///
    /// `AuditUnavailable` if it would be past it.
    async fn admit_bytes(&self, before: ChainHead, size: &mut Size) -> Result<bool> {
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::LimitIgnored) {
            return Ok(false);
        }
        // Nobody else's, and an erasure is written into the deployment's own.
        if self.owner == DEPLOYMENT_OWNER {
            return Ok(false);
        }
        let limit = self.shared.limit();
        if size.used() > limit {
            // Another process may have pruned it.
            size.pruned = size.pruned.max(Box::pin(crate::size::size(&*self.inner, before)).await?.pruned);
        }
        if size.used() > limit {
            return Err(TrailFull::refused(size.used(), limit));
        }
        Ok(TrailSize::new(size.used(), limit).is_tight())
    }

    /// Links that say what is there now, after another.
    pub(crate) async fn snapshot_links(
        &self,
        digests: &Digests,
        state: &UserState,
        mut size: Size,
        time: Timestamp,
        batch: BatchId,
        ops: &mut Vec<Op>,
    ) -> Result<Size> {
        let stamp = state.stamp;
        let mut held = Vec::new();
        for space in Keyspace::all().filter(|space| *space != Keyspace::Audit) {
            let mut from: Option<RecordId> = None;
            loop {
                let scan = Scan::records(space, PAGE);
                let page = self.inner.scan(match from.take() {
                    Some(from) => scan.from(from),
                    None => scan,
                });
                let page = page.await?;
                if page.stamp != stamp {
                    return Err(moved_on());
                }
                for (head, body) in &page.value.records {
                    held.push(digests.held(space, head, body.as_deref().unwrap_or_default()));
                }
                from = page.value.next();
                if from.is_none() {
                    break;
                }
            }
        }
        let pieces = held.len().div_ceil(CHANGES_MOST).max(1);
        let mut held = held.into_iter();
        for piece in 0..pieces {
            let draft = Draft {
                kind: Kind::Snapshot,
                more: piece + 1 < pieces,
                stamp,
                time,
                batch,
                usage: Some(digests.usage(&state.usage)),
                note: Some(digests.note(&state.note)),
                changes: held.by_ref().take(CHANGES_MOST).collect(),
            };
            let (link, end) = draft.link(&self.shared, size.at, None)?;
            let body = link.encode();
            size = size.with(end, body.len());
            ops.push(put_link(&size, body)?);
        }
        Ok(size)
    }

    /// Why what was read does not fit a chain's end that was read before it.
    async fn moved_since(&self, end: ChainHead) -> Result<Error> {
        Ok(if self.inner.state().await?.chain == end { broken() } else { moved_on() })
    }

    /// A batch, whose events are apart, with its link.
    async fn chain(&self, batch: &Batch, events: &Events, at: (Stamp, ChainHead)) -> Result<(Batch, Size)> {
        let (stamp, before) = at;
        let mut chained = batch.clone();
        // What is not known yet is rare, and large: it is not kept in every commit's future.
        let digests = match self.known_digests() {
            None => Box::pin(self.digests()).await?,
            known => known,
        };
        let (digests, start) = match digests {
            Some(digests) if before.seq > 0 => match self.counted(before) {
                Some(size) => (digests, size),
                None => (digests, Box::pin(self.size(before)).await?),
            },
            // Another process may have begun the chain since.
            Some(_) => return Err(Box::pin(self.moved_since(before)).await?),
            None if before.seq > 0 => return Err(Box::pin(self.moved_since(before)).await?),
            None => {
                let digests = Arc::new(Digests::generate()?);
                let ops = &mut chained.ops;
                let start = Box::pin(self.begin(&digests, stamp, batch.time, batch.id, ops)).await?;
                (digests, start)
            }
        };
        let raises = batch.raises_epoch();
        let epoch = Epoch(stamp.epoch.0.saturating_add(u64::from(raises)));
        let empty = batch.ops.is_empty() && !raises;
        let draft = Draft {
            kind: if empty { Kind::Note } else { Kind::Change },
            more: false,
            stamp: Stamp { epoch, ..stamp },
            time: batch.time,
            batch: batch.id,
            usage: batch.usage.as_ref().map(|usage| digests.usage(usage)),
            note: batch.note.as_ref().map(|note| digests.note(note)),
            changes: self.shared.traces(&digests, &batch.ops)?,
        };
        let (link, end) =
            draft.link(&self.shared, start.at, details(&self.shared, &digests, events, batch.sealed)?)?;
        let body = link.encode();
        let size = start.with(end, body.len());
        chained.ops.push(put_link(&size, body)?);
        chained.chain = Some(end);
        if !chained.expect.iter().any(|expect| matches!(expect, Expect::Stamp(_))) {
            chained.expect.push(Expect::Stamp(stamp));
        }
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::ForkAllowed) {
            return Ok((chained, size));
        }
        chained.expect.push(Expect::Chain(before.seq));
        Ok((chained, size))
    }
}

/// A put of the audit keyspace.
pub(crate) const fn put(id: RecordId, body: Bytes) -> Op {
    Op::Put { space: Keyspace::Audit, id, head: Bytes::new(), body, expires: None }
}

#[cfg(feature = "faults")]
impl AuditedUser {
    /// What a broken layer commits in a chained batch's place.
    async fn planted(&self, batch: &Batch, chained: Batch) -> Result<Batch> {
        let alone = batch.clone();
        if self.shared.has(crate::Fault::LinkMissing) && !batch.is_empty() {
            return Ok(alone);
        }
        if self.shared.has(crate::Fault::LinkApart) && !batch.is_empty() {
            let mut link = Batch::new(batch.time)?;
            link.ops = chained.ops.into_iter().filter(|op| op.space() == Keyspace::Audit).collect();
            link.chain = chained.chain;
            self.inner.commit(link).await?;
            return Ok(alone);
        }
        Ok(chained)
    }
}

/// Whether a batch is the one of an audit record that goes through as it is.
///
/// Such a delete can't remove anything: no link has that number. A layer above makes logs go by it.
fn removes_nothing(batch: &Batch) -> bool {
    let nothing = |op: &Op| {
        matches!(op, Op::Delete { space: Keyspace::Audit, id }
            if id.name().is_empty() && id.seq() == i64::MAX as u64)
    };
    let alone = batch.chain.is_none() && batch.note.is_none() && batch.usage.is_none();
    alone && batch.events.is_empty() && !batch.ops.is_empty() && batch.ops.iter().all(nothing)
}

/// Refuses what layers above may not write.
pub(crate) fn check(batch: &Batch) -> Result<()> {
    if batch.chain.is_some() || batch.ops.iter().any(|op| op.space() == Keyspace::Audit) {
        return Err(Error::new(ErrorKind::Invalid, "the audit trail is written by its own layer alone"));
    }
    Ok(())
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserStore for AuditedUser {
    async fn state(&self) -> Result<UserState> {
        self.inner.state().await
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.inner.is_at(stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        self.inner.read(space, ids).await
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        self.inner.scan(scan).await
    }

    async fn commit(&self, mut batch: Batch) -> Result<Commit> {
        batch.validate(self.owner == DEPLOYMENT_OWNER)?;
        if removes_nothing(&batch) {
            return self.inner.commit(batch).await;
        }
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::KeyspaceOpen) && check(&batch).is_err() {
            return self.inner.commit(batch).await;
        }
        check(&batch)?;
        if batch.is_empty() && batch.events.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the batch changes nothing"));
        }
        let _moving =
            if self.owner == DEPLOYMENT_OWNER { Some(self.shared.still.read().await) } else { None };
        let ticket = self.shared.admit(&self.owner).await?;
        let events = std::mem::take(&mut batch.events);
        match self.commit_chained(&batch, &events).await {
            Ok((commit, links)) => {
                ticket.moved(commit.stamp.incarnation, commit.chain, links);
                Ok(commit)
            }
            Err(error) => {
                // Whether it was committed is not known: the chain is looked at.
                if error.kind() != ErrorKind::Unknown {
                    ticket.refused();
                }
                Err(error)
            }
        }
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        self.inner.outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        self.inner.changes(since, limit).await
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        self.inner.changed(since).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.inner.snapshot().await
    }
}

impl AuditedUser {
    /// Commits a batch, whose events are apart, with its link. Gives how many links it took.
    async fn commit_chained(&self, batch: &Batch, events: &Events) -> Result<(Commit, u64)> {
        let expected = batch.expect.iter().find_map(|expect| match expect {
            Expect::Stamp(stamp) => Some(*stamp),
            _ => None,
        });
        for _ in 0..TRIES {
            let known = *self.known.lock();
            let at = match known {
                Some(known) if expected.is_none_or(|expected| expected == known.0) => known,
                _ => Box::pin(self.look()).await?,
            };
            if let Some(expected) = expected
                && expected != at.0
            {
                return Err(if expected.incarnation == at.0.incarnation { moved_on() } else { gone() });
            }
            let (chained, mut size) = match self.chain(batch, events, at).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    *self.known.lock() = None;
                    if expected.is_some() && self.look().await? == at {
                        return Err(error);
                    }
                    continue;
                }
                chained => chained?,
            };
            let tight = match self.admit_bytes(at.1, &mut size).await {
                Err(error) if error.kind() == ErrorKind::Conflict && expected.is_none() => {
                    *self.known.lock() = None;
                    continue;
                }
                tight => tight?,
            };
            #[cfg(feature = "faults")]
            let chained = self.planted(batch, chained).await?;
            match self.inner.commit(chained).await {
                Ok(mut commit) => {
                    *self.known.lock() = Some((commit.stamp, commit.chain));
                    *self.counted.lock() = Some(size);
                    commit.trail_is_tight = tight;
                    return Ok((commit, size.at.seq.saturating_sub(at.1.seq)));
                }
                Err(error) => {
                    *self.known.lock() = None;
                    if error.kind() != ErrorKind::Conflict || self.look().await? == at {
                        return Err(error);
                    }
                }
            }
        }
        Err(busy())
    }
}

/// A life that a store is asked to begin, or draws.
pub(crate) fn life(batch: &Batch) -> Result<Incarnation> {
    batch.life.map_or_else(Incarnation::random, Ok)
}

const fn moved_on() -> Error {
    Error::new(ErrorKind::Conflict, "the user's data moved on, reload and try again")
}

const fn gone() -> Error {
    Error::new(
        ErrorKind::Gone,
        "the user was erased, moved or restored since this handle was opened, open it again",
    )
}

const fn busy() -> Error {
    Error::new(ErrorKind::Busy, "the user's data is written by others all the time, try again")
}

pub(crate) const fn broken() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "the user's data and audit trail are not of one moment: verify the trail, and restore an archive",
    )
}
