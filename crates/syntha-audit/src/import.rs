//! A restore goes on with the chain that is there: an archive brings data back, not the past.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use syntha_store::{
    Batch, ChainHead, EPOCH_JUMP, Epoch, Error, ErrorKind, Head, ImportMode, Incarnation, Keyspace, Record,
    RecordId, Result, Scan, Snapshot, Stamp, Store, StoredRecord, UserState, UserTag, Version,
};

use crate::digests::Digests;
use crate::link::{CHANGES_MOST, Kind, Trace, genesis};
use crate::store::AuditedStore;
use crate::user_store::{AuditedUser, Draft, Shared, broken, key_id, link_id};

/// How often an import is tried again because the chain moved on meanwhile.
const TRIES: usize = 8;
/// How many records a page of the chain has, and how many bytes it has at most before it is handed on.
const PAGE: usize = 256;

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
    let present = match store.inner.open(user).await {
        Ok(_) if mode == ImportMode::New => {
            return Err(Error::new(ErrorKind::AlreadyExists, "the user is there already, open it"));
        }
        Ok(inner) => {
            let opened = store.user(inner, owner);
            opened.check_end().await?;
            store.inspect(&owner, &*opened.inner).await?;
            Some(opened)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // The log says of data that is lost where it ended, before an archive takes its place.
            store.log_lost(&owner).await?;
            None
        }
        Err(error) => return Err(error),
    };
    let life = snapshot.life().map_or_else(Incarnation::random, Ok)?;
    let (follows, epoch, records) = match &present {
        None => (ChainHead::default(), Epoch(0), Vec::new()),
        Some(present) => {
            let (state, records) = chain_of(present).await?;
            (state.chain, state.stamp.epoch, records)
        }
    };
    let mut continuing = Continuing {
        inner: snapshot,
        shared: Arc::clone(&store.shared),
        owner,
        life,
        follows,
        epoch,
        own: records,
        archived: Vec::new(),
        held: Vec::new(),
        chain: None,
        before: 0,
        ended: false,
    };
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

/// The chain that is there, whole: its records are small, and it is not in the archive.
async fn chain_of(user: &AuditedUser) -> Result<(UserState, Vec<StoredRecord>)> {
    for _ in 0..TRIES {
        let state = user.inner.state().await?;
        let (mut records, mut from) = (Vec::new(), None::<RecordId>);
        loop {
            let scan = Scan::records(Keyspace::Audit, PAGE);
            let page = user.inner.scan(match from.take() {
                Some(from) => scan.from(from),
                None => scan,
            });
            let page = page.await?.value;
            from = page.next();
            for (head, body) in page.records {
                records.push(stored(head, body.unwrap_or_default()));
            }
            if from.is_none() {
                break;
            }
        }
        let now = user.inner.state().await?;
        if (now.stamp, now.chain) == (state.stamp, state.chain) {
            return Ok((state, records));
        }
    }
    Err(Error::new(ErrorKind::Busy, "the user's data is written by others all the time, try again"))
}

const fn stored(head: Head, body: Bytes) -> StoredRecord {
    StoredRecord { space: Keyspace::Audit, record: Record { head, body: syntha_store::Body(body) } }
}

/// A snapshot with another chain at its end: the one that is there, or the archive's if there is none, and what was restored.
struct Continuing<'a> {
    inner: &'a mut dyn Snapshot,
    shared: Arc<Shared>,
    owner: [u8; 32],
    life: Incarnation,
    follows: ChainHead,
    /// Where the data that is replaced stands.
    epoch: Epoch,
    own: Vec<StoredRecord>,
    archived: Vec<StoredRecord>,
    held: Vec<(Keyspace, Head, Bytes)>,
    chain: Option<ChainHead>,
    /// The last link before what was restored.
    before: u64,
    ended: bool,
}

impl Continuing<'_> {
    /// The audit records of the new life.
    fn close(&mut self) -> Result<Vec<StoredRecord>> {
        let archive = self.inner.state();
        let has_own = self.follows.seq > 0;
        let mut records = std::mem::take(if has_own { &mut self.own } else { &mut self.archived });
        let before = if has_own { self.follows } else { archive.chain };
        self.before = if has_own { self.follows.seq } else { 0 };
        let key = key_id()?;
        let kept = records.iter().find(|stored| stored.record.head.id == key);
        let (digests, mut chain) = match kept {
            Some(kept) if before.seq > 0 => (Digests::new(&kept.record.body)?, before),
            None if before.seq == 0 && records.is_empty() => {
                let digests = Digests::generate()?;
                records.push(record(key, Bytes::copy_from_slice(digests.key()))?);
                let head = genesis(&self.shared.deployment, &self.owner);
                (digests, ChainHead { seq: 0, head })
            }
            _ => return Err(broken()),
        };
        let batch = Batch::new(archive.time)?;
        let epoch = self.epoch.max(archive.stamp.epoch).0.saturating_add(EPOCH_JUMP);
        let stamp = Stamp { incarnation: self.life, epoch: Epoch(epoch) };
        let held: Vec<Trace> =
            self.held.drain(..).map(|(space, head, body)| digests.held(space, &head, &body)).collect();
        let pieces = held.len().div_ceil(CHANGES_MOST).max(1);
        let mut held = held.into_iter();
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
            records.push(record(link_id(end.seq)?, link.encode())?);
            chain = end;
        }
        self.chain = Some(chain);
        Ok(records)
    }
}

fn record(id: RecordId, body: Bytes) -> Result<StoredRecord> {
    let head = Head::new(id, Bytes::new(), Version(1), Version(1), None);
    Ok(stored(head, body))
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
        Some(self.follows)
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        if self.ended {
            return Ok(None);
        }
        while let Some(chunk) = self.inner.next().await? {
            let (audit, data): (Vec<_>, Vec<_>) =
                chunk.into_iter().partition(|stored| stored.space == Keyspace::Audit);
            self.archived.extend(audit);
            if !data.is_empty() {
                let of = |stored: &StoredRecord| {
                    (stored.space, stored.record.head.clone(), Bytes::clone(&stored.record.body))
                };
                self.held.extend(data.iter().map(of));
                return Ok(Some(data));
            }
        }
        self.ended = true;
        Ok(Some(self.close()?))
    }
}
