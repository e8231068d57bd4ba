//! A restore goes on with the chain that is there: an archive brings data back, not the past.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use syntha_store::{
    Batch, ChainHead, EPOCH_JUMP, Epoch, Error, ErrorKind, Head, ImportMode, Incarnation, Keyspace, Record,
    RecordId, Result, Snapshot, Stamp, Store, StoredRecord, UserState, UserTag, Version,
};

use crate::digests::Digests;
use crate::hub::Moved;
use crate::keeper::is_broken;
use crate::link::{CHANGES_MOST, Hash, Kind, StoredLink, Trace, genesis};
use crate::log::At;
use crate::retention::{Floor, floor_id};
use crate::store::AuditedStore;
use crate::user_store::{AuditedUser, Draft, Shared, broken, key_id, link_id};

pub(crate) async fn import<S: Store + ?Sized>(
    store: &AuditedStore<S>,
    user: UserTag,
    snapshot: &mut dyn Snapshot,
    mode: ImportMode,
) -> Result<Stamp> {
    if snapshot.owner() != user {
        return Err(Error::new(ErrorKind::Invalid, "the snapshot is of another user"));
    }
    let owner = *user.as_bytes();
    store.prepare().await?;
    let Found { follows, epoch, own, is_broken, is_there } = found(store, user, &owner, mode).await?;
    // Where the log knows a chain that is not there any more, or is not what it was.
    let logged = match store.log().await? {
        Some(log) if is_broken || !is_there => log.at_of(&owner).await?.filter(|at| !at.erased),
        _ => None,
    };
    let life = snapshot.life().map_or_else(Incarnation::random, Ok)?;
    if snapshot.follows().is_some_and(|named| follows.is_some_and(|follows| named != follows)) {
        return Err(Error::new(ErrorKind::Conflict, "the data that is replaced moved on, try again"));
    }
    #[allow(unused_mut, reason = "a fault changes it")]
    let mut own = own;
    #[cfg(feature = "faults")]
    if store.shared.has(crate::Fault::ChainRestarted) {
        own = Some(Own::begin(genesis(&store.shared.deployment, &owner))?);
    }
    let mut continuing = Continuing {
        walk: Walk::new(genesis(&store.shared.deployment, &owner), logged.map(|at| at.chain)),
        digests: own.as_ref().map(|own| Arc::clone(&own.digests)),
        inner: snapshot,
        shared: Arc::clone(&store.shared),
        life,
        follows,
        epoch,
        own,
        waiting: Vec::new(),
        held: Vec::new(),
        chain: None,
        bytes: 0,
        before: 0,
        passed: false,
        ended: false,
    };
    if is_broken || logged.is_some() {
        return import_anew(store, user, &mut continuing, mode, logged).await;
    }
    let ticket = store.shared.admit(&owner).await?;
    match store.inner.import(user, &mut continuing, mode).await {
        Ok(stamp) => {
            if let Some(chain) = continuing.chain {
                ticket.moved(stamp.incarnation, chain, chain.seq.saturating_sub(continuing.before));
            }
            Ok(stamp)
        }
        Err(error) => {
            if error.kind() != ErrorKind::Unknown {
                ticket.refused();
            }
            Err(error)
        }
    }
}

/// Puts an archive in the place of data whose chain does not go on from where it was logged. The archive's chain goes on.
async fn import_anew<S: Store + ?Sized>(
    store: &AuditedStore<S>,
    user: UserTag,
    continuing: &mut Continuing<'_>,
    mode: ImportMode,
    logged: Option<At>,
) -> Result<Stamp> {
    let owner = *user.as_bytes();
    store.shared.begin().await?;
    let _held = store.shared.hub.erase(&owner);
    let stamp = store.inner.import(user, continuing, mode).await?;
    // INVARIANT: nothing is called lost before the archive is in its place. Until the log says so the user is refused, and the same restore ends it.
    let told = match (store.log().await, continuing.chain) {
        (Ok(Some(log)), Some(chain)) => {
            let logged = logged.map(|at| (at, continuing.walk.has_passed));
            store.log_anew(log, &owner, Moved { life: stamp.incarnation, chain }, logged).await
        }
        (Err(error), _) => Err(error),
        _ => Ok(()),
    };
    told.map_err(|error| {
        let says = "the archive is in its place, and the audit log could not be told of it: restore it again";
        Error::new(ErrorKind::Unknown, says).with_source(error)
    })?;
    store.shared.hub.ended(&owner);
    Ok(stamp)
}

/// What an archive takes the place of.
struct Found {
    /// Where the data's chain ends; `None` if the data can't be opened.
    follows: Option<ChainHead>,
    epoch: Epoch,
    /// The chain that goes on.
    own: Option<Own>,
    /// There is data, and its chain is not what it was.
    is_broken: bool,
    is_there: bool,
}

async fn found<S: Store + ?Sized>(
    store: &AuditedStore<S>,
    user: UserTag,
    owner: &[u8; 32],
    mode: ImportMode,
) -> Result<Found> {
    let nothing = Found { follows: None, epoch: Epoch(0), own: None, is_broken: false, is_there: false };
    let opened = match store.inner.open(user).await {
        Ok(_) if mode == ImportMode::New => {
            return Err(Error::new(ErrorKind::AlreadyExists, "the user is there already, open it"));
        }
        Ok(inner) => store.user(inner, *owner),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Found { follows: Some(ChainHead::default()), ..nothing });
        }
        Err(error) if mode == ImportMode::Replace && is_broken(&error) => {
            return Ok(Found { is_broken: true, is_there: true, ..nothing });
        }
        Err(error) => return Err(error),
    };
    match present(store, owner, &opened).await {
        Ok((state, own)) => Ok(Found {
            follows: Some(state.chain),
            epoch: state.stamp.epoch,
            own,
            is_broken: false,
            is_there: true,
        }),
        Err(error) if is_broken(&error) => {
            let state = opened.inner.state().await?;
            let (follows, epoch) = (Some(state.chain), state.stamp.epoch);
            Ok(Found { follows, epoch, is_broken: true, is_there: true, ..nothing })
        }
        Err(error) => Err(error),
    }
}

/// The chain of data that is there, if it goes on from where it was logged.
async fn present<S: Store + ?Sized>(
    store: &AuditedStore<S>,
    owner: &[u8; 32],
    opened: &AuditedUser,
) -> Result<(UserState, Option<Own>)> {
    opened.check_end().await?;
    store.inspect(owner, &*opened.inner).await?;
    // As of one moment, and apart from the data that is being replaced, which may be locked while it is.
    let chain = opened.inner.snapshot().await?;
    let state = chain.state();
    let own = if state.chain.seq > 0 { Some(Own::of(opened, chain).await?) } else { None };
    Ok((state, own))
}

const fn stored(head: Head, body: Bytes) -> StoredRecord {
    StoredRecord { space: Keyspace::Audit, record: Record { head, body: syntha_store::Body(body) } }
}

/// The chain that a restore goes on with: that of the data which it replaces, or a new one.
struct Own {
    end: ChainHead,
    digests: Arc<Digests>,
    records: Records,
}

/// A chain may be longer than memory: the one that is there is read while it is handed on.
enum Records {
    Read(Box<dyn Snapshot>),
    Made(Vec<StoredRecord>),
}

impl Own {
    async fn of(user: &AuditedUser, chain: Box<dyn Snapshot>) -> Result<Self> {
        let digests = user.digests().await?.ok_or_else(broken)?;
        Ok(Self { end: chain.state().chain, digests, records: Records::Read(chain) })
    }

    fn begin(head: Hash) -> Result<Self> {
        let digests = Arc::new(Digests::generate()?);
        let key = record(key_id()?, Bytes::new(), Bytes::copy_from_slice(digests.key()));
        Ok(Self { end: ChainHead { seq: 0, head }, digests, records: Records::Made(vec![key]) })
    }
}

/// An archive's own chain, followed from its beginning while its records pass. Where a pruned one begins is said after its links.
struct Walk {
    start: ChainHead,
    at: ChainHead,
    has_key: bool,
    waiting: Vec<(u64, StoredLink)>,
    /// Where the log has the user's chain, and whether the archive's chain goes on from there.
    logged: Option<ChainHead>,
    has_passed: bool,
}

impl Walk {
    const fn new(genesis: Hash, logged: Option<ChainHead>) -> Self {
        let start = ChainHead { seq: 0, head: genesis };
        Self { start, at: start, has_key: false, waiting: Vec::new(), logged, has_passed: false }
    }

    /// # Errors
    ///
    /// `Corrupt` for a link that is not the next.
    fn pass(&mut self, stored: &Record) -> Result<()> {
        let id = &stored.head.id;
        if id.name().is_empty() {
            let link = StoredLink::decode(&stored.body)?;
            if !self.waiting.is_empty() || (self.at == self.start && id.seq() > 1) {
                self.waiting.push((id.seq(), link));
            } else {
                self.follow(id.seq(), &link)?;
            }
        } else if *id == floor_id()? {
            if self.waiting.is_empty() {
                return Err(elsewhere());
            }
            self.at = Floor::decode(&stored.body)?.before();
            for (seq, link) in std::mem::take(&mut self.waiting) {
                self.follow(seq, &link)?;
            }
        }
        self.has_key |= *id == key_id()?;
        Ok(())
    }

    fn follow(&mut self, seq: u64, link: &StoredLink) -> Result<()> {
        let (read, end) = link.follow(self.at)?;
        if read.seq != seq {
            return Err(elsewhere());
        }
        self.at = end;
        // By its link alone: an archive that only says that it begins there has lost what was before.
        self.has_passed |= self.logged == Some(end);
        Ok(())
    }

    /// Whether there is a chain, and it is the one that the data's row names.
    ///
    /// # Errors
    ///
    /// `Corrupt` if it ends elsewhere.
    fn ends_in(&self, chain: ChainHead) -> Result<bool> {
        let none = self.at == self.start;
        let named = if none { chain == ChainHead::default() } else { chain == self.at };
        if named && self.has_key != none && self.waiting.is_empty() {
            return Ok(!none);
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            "the snapshot's audit records do not end in the chain that it names, use another one",
        ))
    }
}

const fn elsewhere() -> Error {
    Error::new(ErrorKind::Corrupt, "a link of the audit chain stands in another's place")
}

/// A snapshot with another chain at its end: the one that is there, or the archive's if there is none, and what was restored.
struct Continuing<'a> {
    inner: &'a mut dyn Snapshot,
    shared: Arc<Shared>,
    life: Incarnation,
    follows: Option<ChainHead>,
    /// Where the data that is replaced stands.
    epoch: Epoch,
    own: Option<Own>,
    walk: Walk,
    /// Known from the start where a chain is there, else once the archive's key has passed.
    digests: Option<Arc<Digests>>,
    /// What came before the key.
    waiting: Vec<(Keyspace, Record)>,
    held: Vec<Trace>,
    chain: Option<ChainHead>,
    /// How many bytes the links have that went on into the new life.
    bytes: u64,
    /// The last link before what was restored.
    before: u64,
    /// The archive has no more.
    passed: bool,
    ended: bool,
}

impl Continuing<'_> {
    /// Counts a link anew, wherever it is from: what an archive says of its size decides nothing.
    fn count(&mut self, stored: &mut StoredRecord) {
        if stored.record.head.id.name().is_empty() {
            self.bytes = self.bytes.saturating_add(stored.record.body.len() as u64);
            stored.record.head.head = crate::size::head(self.bytes);
        }
    }

    /// The next records of the chain that is there.
    async fn present(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        loop {
            let Some(Own { records: Records::Read(chain), .. }) = &mut self.own else { return Ok(None) };
            let Some(mut chunk) = chain.next().await? else { return Ok(None) };
            chunk.retain(|stored| stored.space == Keyspace::Audit);
            for stored in &mut chunk {
                self.count(stored);
            }
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Takes notice of a record, and says whether it goes on into the new life. The archive's own links do not where there is a chain
    /// already.
    fn pass(&mut self, stored: &StoredRecord) -> Result<bool> {
        let StoredRecord { space, record } = stored;
        if *space == Keyspace::Audit {
            self.walk.pass(record)?;
            if self.own.is_none() && record.head.id == key_id()? {
                let digests = Arc::new(Digests::new(&record.body)?);
                self.tell(&digests);
                self.digests = Some(digests);
            }
            return Ok(self.own.is_none());
        }
        match &self.digests {
            Some(digests) => self.held.push(digests.held(*space, &record.head, &record.body)),
            None => self.waiting.push((*space, record.clone())),
        }
        Ok(true)
    }

    fn tell(&mut self, digests: &Digests) {
        let tell = |(space, record): (_, Record)| digests.held(space, &record.head, &record.body);
        self.held.extend(std::mem::take(&mut self.waiting).into_iter().map(tell));
    }

    /// The audit records that the new life has more than those that have passed.
    fn close(&mut self) -> Result<Vec<StoredRecord>> {
        let archive = self.inner.state();
        let goes_on = self.walk.ends_in(archive.chain)?;
        let (digests, mut chain, mut records) = match (self.own.take(), &self.digests) {
            (Some(own), _) => {
                self.before = own.end.seq;
                let made = match own.records {
                    Records::Made(made) => made,
                    Records::Read(_) => Vec::new(),
                };
                (own.digests, own.end, made)
            }
            (None, Some(digests)) if goes_on => (Arc::clone(digests), archive.chain, Vec::new()),
            (None, None) if !goes_on => {
                let Own { end, digests, records: Records::Made(made) } = Own::begin(self.walk.start.head)?
                else {
                    return Err(broken());
                };
                (digests, end, made)
            }
            _ => return Err(broken()),
        };
        self.tell(&digests);
        let batch = Batch::new(archive.time)?;
        let epoch = self.epoch.max(archive.stamp.epoch).0.saturating_add(EPOCH_JUMP);
        let stamp = Stamp { incarnation: self.life, epoch: Epoch(epoch) };
        let pieces = self.held.len().div_ceil(CHANGES_MOST).max(1);
        let mut held = std::mem::take(&mut self.held).into_iter();
        for piece in 0..pieces {
            let draft = Draft {
                kind: Kind::Restore,
                more: piece + 1 < pieces,
                stamp,
                time: batch.time,
                batch: batch.id,
                usage: Some(digests.usage(&archive.usage)),
                note: Some(digests.note(&archive.note)),
                changes: held.by_ref().take(CHANGES_MOST).collect(),
            };
            let (link, end) = draft.link(&self.shared, chain, None)?;
            let mut link = record(link_id(end.seq)?, Bytes::new(), link.encode());
            self.count(&mut link);
            records.push(link);
            chain = end;
        }
        self.chain = Some(chain);
        Ok(records)
    }
}

fn record(id: RecordId, head: Bytes, body: Bytes) -> StoredRecord {
    stored(Head::new(id, head, Version(1), Version(1), None), body)
}

#[async_trait]
impl Snapshot for Continuing<'_> {
    fn owner(&self) -> UserTag {
        self.inner.owner()
    }

    fn state(&self) -> UserState {
        UserState { chain: self.chain.unwrap_or_default(), ..self.inner.state() }
    }

    fn life(&self) -> Option<Incarnation> {
        Some(self.life)
    }

    fn follows(&self) -> Option<ChainHead> {
        self.follows
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        if self.ended {
            return Ok(None);
        }
        while !self.passed {
            let Some(chunk) = self.inner.next().await? else {
                self.passed = true;
                break;
            };
            let mut data = Vec::with_capacity(chunk.len());
            for mut stored in chunk {
                if self.pass(&stored)? {
                    if stored.space == Keyspace::Audit {
                        self.count(&mut stored);
                    }
                    data.push(stored);
                }
            }
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
        if let Some(chunk) = self.present().await? {
            return Ok(Some(chunk));
        }
        self.ended = true;
        Ok(Some(self.close()?))
    }
}
