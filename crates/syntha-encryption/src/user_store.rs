use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use syntha_store::{
    At, Batch, BatchId, Changes, Commit, DEPLOYMENT_OWNER, Delta, Error, ErrorKind, Expect, Head,
    Incarnation, Keyspace, Note, Op, Outcome, Page, Record, RecordId, Result, Scan, Snapshot, Stamp,
    UserState, UserStore, Version,
};

use crate::envelope::{self, Salts};
use crate::keyring::{Keyring, Owner, UserKeys};
use crate::mode::Mode;
use crate::note::{self, NoteState};
use crate::record::{BodySeal, Place, Records, Tokens, tampered};
use crate::roster::{self, Roster};
use crate::snapshots::Opening;

/// How often a batch that expects no stamp is sealed again because somebody else committed.
pub(crate) const TRIES: usize = 64;
/// How often what was read is read again because the keys that it was sealed with were destroyed meanwhile.
const READS: usize = 8;
/// How many records' body seals are remembered, so that the next head of theirs needs no look.
const SEALS_KEPT: usize = 16;
/// How many records a page of an own scan has.
pub(crate) const PAGE: usize = 1_000;

/// One user's side: seals what goes down and opens what comes up.
pub(crate) struct EncryptedUser {
    pub(crate) inner: Arc<dyn UserStore>,
    pub(crate) ring: Arc<Keyring>,
    pub(crate) owner: Owner,
    pub(crate) life: Incarnation,
    pub(crate) mode: Mode,
    /// The store below keeps an audit trail: it writes the records of that keyspace, and takes events.
    pub(crate) audited: bool,
    known: Mutex<Known>,
}

/// Where the data stood when this handle last looked, and what its note said.
#[derive(Default)]
struct Known {
    at: Option<(Stamp, NoteState)>,
    seals: VecDeque<(Keyspace, RecordId, BodySeal)>,
    /// The epoch that a faulty handle seals under for ever.
    #[cfg(feature = "faults")]
    first: Option<u32>,
}

/// Whether bodies' seals of a keyspace can be remembered as of a stamp: audit records are written without moving it.
const fn remembers(space: Keyspace) -> bool {
    !matches!(space, Keyspace::Audit)
}

/// Whether the records of a keyspace go through this layer as they are.
pub(crate) const fn passes(audited: bool, space: Keyspace) -> bool {
    audited && matches!(space, Keyspace::Audit)
}

/// A batch as the store below takes it, and what it makes of what is known.
struct Sealed {
    batch: Batch,
    note: Option<NoteState>,
    seals: Vec<(Keyspace, RecordId, BodySeal)>,
}

impl fmt::Debug for EncryptedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedUser").field("life", &self.life).finish_non_exhaustive()
    }
}

impl EncryptedUser {
    pub(crate) fn new(
        inner: Arc<dyn UserStore>,
        ring: Arc<Keyring>,
        owner: Owner,
        life: Incarnation,
        mode: Mode,
        audited: bool,
    ) -> Self {
        Self { inner, ring, owner, life, mode, audited, known: Mutex::default() }
    }

    /// Opens a user's data, and checks that none of the records that decide what others may do was put back or taken away.
    pub(crate) async fn open(
        inner: Arc<dyn UserStore>,
        ring: Arc<Keyring>,
        owner: Owner,
        mode: Mode,
        audited: bool,
        logins: bool,
    ) -> Result<Self> {
        let life = inner.state().await?.stamp.incarnation;
        let user = Self::new(inner, ring, owner, life, mode, audited);
        user.check_roster(logins).await?;
        Ok(user)
    }

    pub(crate) fn records(&self) -> Records<'_> {
        Records { ring: &self.ring, owner: &self.owner, mode: self.mode }
    }

    /// Whether the records of a keyspace go up and down as they are: those of a trail that the layer below writes.
    pub(crate) const fn passes(&self, space: Keyspace) -> bool {
        passes(self.audited, space)
    }

    pub(crate) async fn keys(&self) -> Result<Arc<UserKeys>> {
        match self.ring.keys(&self.owner, self.life).await {
            Err(error) => self.explain(error).await,
            keys => keys,
        }
    }

    /// The keys, that of an epoch among them.
    pub(crate) async fn keys_with(&self, epoch: u32) -> Result<Arc<UserKeys>> {
        match self.ring.keys_with(&self.owner, self.life, epoch).await {
            Err(error) => self.explain(error).await,
            keys => keys,
        }
    }

    /// An erased user's keys are gone before the data is. Then it is the data that says so.
    async fn explain<T>(&self, error: Error) -> Result<T> {
        if error.kind() == ErrorKind::KeyRefused {
            self.inner.state().await?;
        }
        Err(error)
    }

    pub(crate) fn is_deployment(&self) -> bool {
        self.owner == DEPLOYMENT_OWNER
    }

    /// Where the data stands, with its note opened.
    pub(crate) async fn look(&self) -> Result<(UserState, NoteState)> {
        let mut state = self.inner.state().await?;
        if let Some((at, note)) = self.known.lock().at
            && at == state.stamp
        {
            return Ok((state, note));
        }
        let mut keys = self.keys_with(note::epoch(&state.note)?).await?;
        for _ in 0..READS {
            if keys.data(note::epoch(&state.note)?).is_some() {
                break;
            }
            // A rotation ended between the two. The note is of its new key now.
            state = self.inner.state().await?;
            keys = self.keys_with(note::epoch(&state.note)?).await?;
        }
        #[allow(unused_mut, reason = "a fault changes it")]
        let mut note = NoteState::open(&self.records(), &keys, state.stamp, &state.note)?;
        #[cfg(feature = "faults")]
        if self.ring.has(crate::Fault::EpochStale) {
            note.sealing = *self.known.lock().first.get_or_insert(note.sealing);
        }
        self.learn(state.stamp, note);
        Ok((state, note))
    }

    fn learn(&self, stamp: Stamp, note: NoteState) {
        let mut known = self.known.lock();
        if known.at.is_none_or(|(at, _)| at != stamp) {
            known.seals.clear();
        }
        known.at = Some((stamp, note));
    }

    pub(crate) fn forget(&self) {
        let mut known = self.known.lock();
        known.at = None;
        known.seals.clear();
    }

    /// Keys that have the epochs of what was read among them, and whether they have all. If not, a rotation ended since it was read, and
    /// it is to be read again; or somebody wrote what this layer did not seal.
    async fn keys_for<'h>(
        &self,
        read: impl Iterator<Item = (&'h Head, Option<&'h Bytes>)>,
    ) -> Result<(Arc<UserKeys>, bool)> {
        let mut keys = self.keys().await?;
        let (mut epochs, records) = (Vec::new(), self.records());
        for (head, body) in read {
            let body = body.and_then(|body| envelope::Header::read(body).ok()).map(|header| header.epoch);
            // What is no envelope is refused when it is opened.
            for epoch in [records.head_epoch(&head.head).ok(), body].into_iter().flatten() {
                if epochs.last() != Some(&epoch) && !epochs.contains(&epoch) {
                    if keys.data(epoch).is_none() {
                        keys = self.keys_with(epoch).await?;
                        if keys.data(epoch).is_none() {
                            return Ok((keys, false));
                        }
                    }
                    epochs.push(epoch);
                }
            }
        }
        let all = epochs.iter().all(|epoch| keys.data(*epoch).is_some());
        Ok((keys, all))
    }

    /// Reads a page of what is stored, and the keys of what is in it.
    pub(crate) async fn page(&self, scan: &Scan) -> Result<(At<Page>, Arc<UserKeys>)> {
        for left in (0..READS).rev() {
            let page = self.inner.scan(scan.clone()).await?;
            let found = page.value.records.iter().map(|(head, body)| (head, body.as_ref()));
            let (keys, all) = self.keys_for(found).await?;
            if all || left == 0 {
                return Ok((page, keys));
            }
        }
        Err(busy())
    }

    /// Reads records as they are stored, and the keys of what is in them.
    pub(crate) async fn stored(
        &self,
        space: Keyspace,
        stored: &[RecordId],
    ) -> Result<(At<Vec<Option<Record>>>, Arc<UserKeys>)> {
        for left in (0..READS).rev() {
            let read = self.inner.read(space, stored).await?;
            let found = read.value.iter().flatten().map(|record| (&record.head, Some(&record.body.0)));
            let (keys, all) = self.keys_for(found).await?;
            if all || left == 0 {
                return Ok((read, keys));
            }
        }
        Err(busy())
    }

    /// Opens a head that stands at a stamp which is still the one.
    async fn open_at(
        &self,
        keys: &Arc<UserKeys>,
        at: Stamp,
        space: Keyspace,
        head: &Head,
    ) -> Result<(Head, BodySeal)> {
        let epoch = self.records().head_epoch(&head.head)?;
        if keys.data(epoch).is_some() {
            return self.open_head(keys, at, space, head);
        }
        // Keys from before a rotation that was turned back lack those that it made.
        let keys = self.keys_with(epoch).await?;
        if keys.data(epoch).is_none() && self.inner.state().await?.stamp != at {
            return Err(moved_on());
        }
        self.open_head(&keys, at, space, head)
    }

    fn open_head(
        &self,
        keys: &UserKeys,
        at: Stamp,
        space: Keyspace,
        stored: &Head,
    ) -> Result<(Head, BodySeal)> {
        let later = stored.version.0 > at.epoch.0;
        #[cfg(feature = "faults")]
        let later = later && !self.ring.has(crate::Fault::LaterAccepted);
        if later {
            return Err(tampered());
        }
        let opened = self.records().open_head(keys, at.incarnation, space, stored)?;
        Ok((opened.head, opened.body))
    }

    fn open_record(
        &self,
        keys: &UserKeys,
        at: Stamp,
        space: Keyspace,
        stored: &Head,
        body: &Bytes,
    ) -> Result<(Head, Bytes)> {
        let (head, seal) = self.open_head(keys, at, space, stored)?;
        let place = Place { space, stored: &stored.id, life: at.incarnation };
        let body = self.records().open_body(keys, place, &seal, body)?;
        Ok((head, body))
    }

    /// The stored head of one record, as of where the data is known to stand.
    pub(crate) async fn stored_head(
        &self,
        at: Stamp,
        space: Keyspace,
        stored: &RecordId,
    ) -> Result<Option<Head>> {
        let scan = Scan::heads(space, 1).name(stored.name().clone());
        let scan = match stored.seq().checked_sub(1) {
            Some(before) => scan.from(RecordId::new(stored.name().clone(), before)?),
            None => scan,
        };
        let page = self.inner.scan(scan).await?;
        if page.stamp != at {
            return Err(moved_on());
        }
        let head = page.value.records.into_iter().next().map(|(head, _)| head);
        Ok(head.filter(|head| head.id == *stored))
    }

    /// The seal of a record's body, which its next head carries on.
    async fn body_seal(
        &self,
        keys: &Arc<UserKeys>,
        at: Stamp,
        space: Keyspace,
        stored: &RecordId,
    ) -> Result<Option<BodySeal>> {
        {
            let known = self.known.lock();
            let kept =
                |(in_space, id, _): &&(Keyspace, RecordId, BodySeal)| *in_space == space && id == stored;
            if known.at.is_some_and(|(stamp, _)| stamp == at)
                && let Some((_, _, seal)) = known.seals.iter().rev().find(kept)
            {
                return Ok(Some(*seal));
            }
        }
        let Some(head) = self.stored_head(at, space, stored).await? else { return Ok(None) };
        Ok(Some(self.open_at(keys, at, space, &head).await?.1))
    }

    /// Seals a batch for where the data is known to stand.
    async fn seal(&self, batch: &Batch, at: Stamp, note: NoteState) -> Result<Sealed> {
        let keys = self.keys_with(note.sealing).await?;
        let Some(key) = keys.data(note.sealing) else {
            // A rotation ended since this handle last looked.
            return Err(if self.inner.state().await?.stamp == at { tampered() } else { moved_on() });
        };
        let (records, raises) = (self.records(), batch.raises_epoch());
        let version = Version(at.epoch.0.saturating_add(u64::from(raises)));
        // Two for each operation, one for the note and one for the details; and a token for each and the details' id.
        let mut salts = Salts::draw(batch.ops.len().saturating_mul(2).saturating_add(2))?;
        let mut tokens = Tokens::draw(batch.ops.len().saturating_add(1))?;
        let mut sealed = Batch::with_id(batch.id, batch.time);
        (sealed.usage, sealed.chain, sealed.life) = (batch.usage, batch.chain, batch.life);
        sealed.sealed = true;
        sealed.expect = self.expected(&keys, &batch.expect)?;
        if self.audited {
            #[allow(unused_mut, reason = "a fault changes it")]
            let mut details_key = keys.root.details_key();
            #[cfg(feature = "faults")]
            if self.ring.has(crate::Fault::DetailsUnderDataKey) {
                details_key = key.subkey(crate::Purpose::Audit);
            }
            sealed.events = self.details().seal(details_key, &batch.events, tokens.next()?, &mut salts)?;
        }
        if !sealed.expect.iter().any(|expect| matches!(expect, Expect::Stamp(_))) {
            sealed.expect.push(Expect::Stamp(at));
        }
        let mut seals = Vec::new();
        for op in &batch.ops {
            let space = op.space();
            if self.passes(space) {
                // For the layer below to refuse.
                sealed.ops.push(op.clone());
                continue;
            }
            let stored = op.id().map(|id| records.stored_id(&keys, space, id)).transpose()?;
            let sealed_op = match (op, stored) {
                (Op::Put { id, head, body, expires, .. }, Some(stored)) => {
                    let place = Place { space, stored: &stored, life: self.life };
                    let exists = !body.is_empty();
                    let seal = BodySeal { token: tokens.next()?, version, exists, epoch: key.epoch() };
                    let body = records.seal_body(&mut salts, key, place, body, &seal)?;
                    let name = id.name();
                    let head =
                        records.seal_head(&mut salts, key, place, name, version, *expires, head, &seal)?;
                    if space == Keyspace::Threads {
                        seals.push((space, stored.clone(), seal));
                    }
                    Op::Put { space, id: stored, head, body, expires: records.stored_expiry(*expires) }
                }
                (Op::PutHead { id, head, expires, .. }, Some(stored)) => {
                    let seal =
                        Box::pin(self.body_seal(&keys, at, space, &stored)).await?.ok_or_else(absent)?;
                    let place = Place { space, stored: &stored, life: self.life };
                    let name = id.name();
                    let head =
                        records.seal_head(&mut salts, key, place, name, version, *expires, head, &seal)?;
                    if remembers(space) {
                        seals.push((space, stored.clone(), seal));
                    }
                    Op::PutHead { space, id: stored, head, expires: records.stored_expiry(*expires) }
                }
                (Op::Rewrite { id, version, head, body, .. }, Some(stored)) => {
                    let found = Box::pin(self.stored_head(at, space, &stored)).await?;
                    let found = found.filter(|found| found.version == *version).ok_or_else(absent)?;
                    let (opened, before) = Box::pin(self.open_at(&keys, at, space, &found)).await?;
                    // The data does not move, so another handle's next head is sealed for the body that it knows: one, or none.
                    if before.exists == body.is_empty() {
                        return Err(Error::new(
                            ErrorKind::Invalid,
                            "a rewrite neither adds nor takes away a body, put the record instead",
                        ));
                    }
                    let token = before.token;
                    let place = Place { space, stored: &stored, life: self.life };
                    let (exists, body_version) = (!body.is_empty(), found.body_version);
                    let seal = BodySeal { token, version: body_version, exists, epoch: key.epoch() };
                    let body = records.seal_body(&mut salts, key, place, body, &seal)?;
                    let (name, expires) = (id.name(), opened.expires);
                    let head =
                        records.seal_head(&mut salts, key, place, name, *version, expires, head, &seal)?;
                    Op::Rewrite { space, id: stored, version: *version, head, body }
                }
                (Op::Delete { .. }, Some(stored)) => Op::Delete { space, id: stored },
                (Op::DeleteName { name, .. }, _) => {
                    Op::DeleteName { space, name: records.stored_name(&keys, space, name) }
                }
                (Op::Clear { .. }, _) => Op::Clear { space },
                _ => {
                    return Err(Error::new(ErrorKind::Unsupported, "the layer does not know that operation"));
                }
            };
            sealed.ops.push(sealed_op);
        }
        let note = if raises {
            let roster = if sealed.ops.iter().any(|op| roster::holds(op.space())) {
                Box::pin(self.next_roster(&keys, &sealed, at, note.roster, version)).await?
            } else {
                note.roster
            };
            let above = batch.note.unwrap_or(note.above);
            let next = NoteState { at: version.0, imported: false, sealing: note.sealing, roster, above };
            sealed.note = Some(next.seal(&records, &mut salts, &keys, self.life)?);
            Some(next)
        } else {
            None
        };
        Ok(Sealed { batch: sealed, note, seals })
    }

    /// The batch that makes a user, sealed.
    pub(crate) async fn seal_first(&self, batch: &Batch) -> Result<Batch> {
        let start = Stamp { incarnation: self.life, epoch: syntha_store::Epoch(0) };
        let note = NoteState {
            at: 0,
            imported: false,
            sealing: 1,
            roster: Roster::default(),
            above: batch.note.unwrap_or(Note::NONE),
        };
        // A create raises the epoch to 1, whatever is in the batch.
        let mut raising = batch.clone();
        raising.note = Some(note.above);
        raising.expect.retain(|expect| !matches!(expect, Expect::Stamp(_)));
        let mut sealed = self.seal(&raising, start, note).await?.batch;
        sealed.expect.retain(|expect| !matches!(expect, Expect::Stamp(_)));
        // What the caller expects of a user that is not there is for the store to refuse.
        sealed
            .expect
            .extend(batch.expect.iter().filter(|expect| matches!(expect, Expect::Stamp(_))).cloned());
        sealed.life = Some(self.life);
        Ok(sealed)
    }

    /// Takes over a space that a store has made by itself: empty, and without a note.
    pub(crate) async fn found(&self) -> Result<()> {
        let state = self.inner.state().await?;
        for space in Keyspace::all().filter(|space| !self.passes(*space)) {
            let first = self.inner.scan(Scan::heads(space, 1)).await?;
            if !first.value.records.is_empty() {
                // Others may have taken it over since.
                if self.inner.state().await?.note != Note::NONE {
                    return Err(moved_on());
                }
                return Err(Error::new(
                    ErrorKind::Tampered,
                    "there is data that is not sealed where sealed data is due, seal it with `syntha seal`",
                ));
            }
        }
        let note = NoteState {
            at: state.stamp.epoch.0 + 1,
            imported: false,
            sealing: 1,
            roster: Roster::default(),
            above: Note::NONE,
        };
        let keys = self.keys().await?;
        let mut batch = Batch::new(state.time)?.expect(Expect::Stamp(state.stamp));
        batch.note = Some(note.seal(&self.records(), &mut Salts::draw(1)?, &keys, self.life)?);
        batch.sealed = true;
        self.inner.commit(batch).await.map(drop)
    }

    pub(crate) async fn commit_sealed(&self, batch: &Batch, at: Stamp, note: NoteState) -> Result<Commit> {
        let sealed = self.seal(batch, at, note).await?;
        let (next, seals) = (sealed.note, sealed.seals);
        // INVARIANT: no seal of a body outlives a write of its record, whatever the write was.
        self.known.lock().seals.retain(|(space, id, _)| {
            !sealed.batch.ops.iter().any(|op| op.space() == *space && op.id() == Some(id))
        });
        let commit = self.inner.commit(sealed.batch).await?;
        let mut known = self.known.lock();
        // INVARIANT: what is remembered of bodies is of the commit before this one, so nobody else has written in between.
        if known.at.is_none_or(|(known, _)| known != at) {
            known.seals.clear();
        }
        let cleared = |op: &Op| matches!(op, Op::Clear { .. } | Op::DeleteName { .. } | Op::Delete { .. });
        if batch.ops.iter().any(cleared) {
            known.seals.clear();
        }
        known.seals.extend(seals);
        while known.seals.len() > SEALS_KEPT {
            known.seals.pop_front();
        }
        known.at = Some((commit.stamp, next.unwrap_or(note)));
        Ok(commit)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserStore for EncryptedUser {
    async fn state(&self) -> Result<UserState> {
        let (mut state, note) = self.look().await?;
        state.note = note.above;
        Ok(state)
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.inner.is_at(stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        if self.passes(space) {
            return self.inner.read(space, ids).await;
        }
        let keys = self.keys().await?;
        let records = self.records();
        let stored: Result<Vec<_>> = ids.iter().map(|id| records.stored_id(&keys, space, id)).collect();
        let (read, keys) = self.stored(space, &stored?).await?;
        let open = |record: Option<Record>| {
            let Some(record) = record else { return Ok(None) };
            let (head, body) = self.open_record(&keys, read.stamp, space, &record.head, &record.body)?;
            Ok(Some(Record::new(head, body)))
        };
        Ok(At { stamp: read.stamp, value: read.value.into_iter().map(open).collect::<Result<_>>()? })
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        scan.validate()?;
        let space = scan.space;
        if self.passes(space) {
            return self.inner.scan(scan).await;
        }
        let keys = self.keys().await?;
        let mut below = scan;
        if let Some(name) = &below.name {
            below.name = Some(self.records().stored_name(&keys, space, name));
        }
        if let Some(from) = &below.from {
            below.from = Some(self.records().stored_id(&keys, space, from)?);
        }
        let (page, keys) = self.page(&below).await?;
        let mut records = Vec::with_capacity(page.value.records.len());
        for (head, body) in &page.value.records {
            records.push(match body {
                Some(body) => {
                    let (head, body) = self.open_record(&keys, page.stamp, space, head, body)?;
                    (head, Some(body))
                }
                None => (self.open_head(&keys, page.stamp, space, head)?.0, None),
            });
        }
        Ok(At { stamp: page.stamp, value: Page::new(records, page.value.more) })
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        batch.validate(self.is_deployment())?;
        if batch.is_empty() {
            return if self.audited && !batch.events.is_empty() {
                Box::pin(self.commit_events(&batch)).await
            } else {
                Err(Error::new(ErrorKind::Invalid, "the batch changes nothing"))
            };
        }
        let expected = batch.expect.iter().find_map(|expect| match expect {
            Expect::Stamp(stamp) => Some(*stamp),
            _ => None,
        });
        // A sweep in this process lets writers in between its chunks, so that neither makes the other start again.
        let gate = self.ring.gate(&self.owner);
        let _pass = match &gate {
            Some(gate) => Some(gate.read().await),
            None => None,
        };
        for _ in 0..TRIES {
            let known = self.known.lock().at;
            let (at, note) = match (known, expected) {
                (Some(known), None) => known,
                (Some(known), Some(expected)) if known.0 == expected => known,
                _ => {
                    let (state, note) = Box::pin(self.look()).await?;
                    (state.stamp, note)
                }
            };
            if let Some(expected) = expected
                && expected != at
            {
                return Err(if expected.incarnation == at.incarnation { moved_on() } else { gone() });
            }
            match self.commit_sealed(&batch, at, note).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    self.forget();
                    // A stamp that this layer expected, and nobody above, is looked up again. What else was expected does not hold.
                    if expected.is_some() || self.inner.state().await?.stamp == at {
                        return Err(error);
                    }
                }
                Err(error) => {
                    self.forget();
                    return Err(error);
                }
                Ok(commit) => return Ok(commit),
            }
        }
        Err(busy())
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        self.inner.outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        let mut reads = 0;
        let (delta, keys) = loop {
            let Changes::Delta(delta) = self.inner.changes(since, limit).await? else {
                return Ok(Changes::TooOld);
            };
            // What was deleted is known by the name that it was stored under, which nobody can turn back.
            if self.mode == Mode::Sealed && !delta.deleted.is_empty() {
                return Ok(Changes::TooOld);
            }
            let sealed = delta.heads.iter().filter(|(space, _)| !self.passes(*space));
            let (keys, all) = self.keys_for(sealed.map(|(_, head)| (head, None))).await?;
            reads += 1;
            if all || reads == READS {
                break (delta, keys);
            }
        };
        let mut heads = Vec::with_capacity(delta.heads.len());
        for (space, head) in &delta.heads {
            if self.passes(*space) {
                heads.push((*space, head.clone()));
                continue;
            }
            // A head as it is now may be of a later commit than the page's end.
            let at = Stamp { epoch: syntha_store::Epoch(head.version.0.max(delta.at.epoch.0)), ..delta.at };
            heads.push((*space, self.open_head(&keys, at, *space, head)?.0));
        }
        Ok(Changes::Delta(Delta::new(delta.at, heads, delta.deleted, delta.more)))
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        self.inner.changed(since).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        // INVARIANT: a snapshot keeps the keys of its moment, which a rotation may destroy while it is read. They are known to be those
        // if the keystore said the same before and after.
        let mut before = match self.ring.load(&self.owner, self.life).await {
            Err(error) => return self.explain(error).await,
            Ok(keys) => keys,
        };
        for _ in 0..READS {
            let inner = self.inner.snapshot().await?;
            let state = inner.state();
            let keys = match self.ring.load(&self.owner, state.stamp.incarnation).await {
                Err(error) => return self.explain(error).await,
                Ok(keys) => keys,
            };
            if keys.row != before.row {
                before = keys;
                continue;
            }
            let note = NoteState::open(&self.records(), &keys, state.stamp, &state.note)?;
            let (ring, owner, mode, above) = (Arc::clone(&self.ring), self.owner, self.mode, note.above);
            let (roster, audited) = (Roster::default(), self.audited);
            return Ok(Box::new(Opening {
                inner,
                ring,
                keys,
                owner,
                mode,
                audited,
                above,
                roster,
                expected: note,
            }));
        }
        Err(busy())
    }
}

/// Makes what was committed durable in a store whose commits alone are not: a power loss would bring back what is sealed under a key that
/// was destroyed since.
///
/// What is deleted leaves a store's logs before the delete is acknowledged, and with it goes all that is in them. Nothing is there under
/// this id, and the audit keyspace moves no stamp.
pub(crate) async fn settle(below: &dyn UserStore) -> Result<()> {
    let nothing = RecordId::new(Bytes::new(), i64::MAX as u64)?;
    let mut batch = Batch::new(syntha_store::Timestamp(0))?.delete(Keyspace::Audit, nothing);
    batch.sealed = true;
    below.commit(batch).await.map(drop)
}

pub(crate) const fn moved_on() -> Error {
    Error::new(ErrorKind::Conflict, "the user's data moved on, reload and try again")
}

pub(crate) const fn gone() -> Error {
    Error::new(
        ErrorKind::Gone,
        "the user was erased, moved or restored since this handle was opened, open it again",
    )
}

const fn absent() -> Error {
    Error::new(ErrorKind::Conflict, "the record to keep the body of is not there")
}

pub(crate) const fn busy() -> Error {
    Error::new(ErrorKind::Busy, "the user's data is written by others all the time, try again")
}

pub(crate) const fn rolled_back() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "agents or permissions were put back or taken away behind the store, restore an archive",
    )
}
