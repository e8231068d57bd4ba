//! Rotation of the keys of one owner's data, while the data is in use. `docs/envelope-v1.md`, "Rotation".
//!
//! Steps, each of which may be repeated after a crash at any point of it:
//!
//! 1. The keystore gets a key of a new epoch beside the old one, and says that everything is to be sealed under it (the target).
//! 2. A commit seals the user's note under the target. It moves the data's stamp, so whoever still seals under the old key, or still
//!    seals again for an earlier rotation, loses its compare-and-set, and finds the target in the note when it looks again.
//! 3. Every record that is not of the target is sealed again, until a pass over all of them finds none.
//! 4. The old key is destroyed, if the keystore's row is still the one from step 1.
//!
//! INVARIANT: a note is moved to another epoch only by a commit that expects the stamp at which, afterwards, the keystore still named that
//! epoch as the target; and the commit is made even where the note is of that epoch already. So from step 2 on no commit of an earlier
//! target succeeds: what a pass has found to be of the target stays so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use syntha_store::{
    Batch, DEPLOYMENT_OWNER, Error, ErrorKind, Expect, Keyspace, Op, RecordId, Result, Scan, Store,
    Timestamp, UserTag,
};

use crate::envelope::Salts;
use crate::keyring::{Gate, Keyring, TRIES, no_keys};
use crate::keystore::{Kept, LifeRow};
use crate::note::{self, NoteState};
use crate::provider::What;
use crate::record::{BodySeal, Place};
use crate::secret::SecretKey;
use crate::store::EncryptedStore;
use crate::user_store::{EncryptedUser, busy, gone, settle};

/// How many heads are looked at at once.
const PAGE: usize = 1_000;
/// How many records are sealed again in one commit, at most.
const CHUNK: usize = 128;
/// How many are read at once. Each has a MiB at most.
const READ: usize = 16;
/// How many bytes a commit has, before the last read.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// How often a commit of many records is tried, while other processes write, before each is tried by itself.
const TOGETHER: usize = 6;
/// How often that is tried, before the record is left to the next pass.
const ALONE: usize = 16;
/// How many passes in a row may seal nothing, although there is something to seal.
const IDLE: usize = 64;

/// Whose keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A user's.
    User(UserTag),
    /// The deployment's own space's.
    Deployment,
}

impl Owner {
    pub(crate) const fn tag(&self) -> [u8; 32] {
        match self {
            Self::User(user) => *user.as_bytes(),
            Self::Deployment => DEPLOYMENT_OWNER,
        }
    }
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The pass over all records, from 1.
    pub pass: u32,
    /// The keyspace that it is in.
    pub space: Keyspace,
    /// The records that this pass has looked at.
    pub seen: u64,
    /// The records that were sealed again, in all passes.
    pub sealed: u64,
}

/// A rotation that has ended: the former key is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotated {
    /// The epoch that everything is sealed under.
    pub epoch: u32,
    /// The records that this call sealed again. Others were written meanwhile, or by a rotation that did not end.
    pub sealed: u64,
    /// The passes over all records; the last one found nothing that is sealed under another key.
    pub passes: u32,
}

/// What keys an owner has, and what they are used for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyStatus {
    /// The epochs that there are keys of: two while a rotation is under way.
    pub epochs: Vec<u32>,
    /// The epoch that a rotation goes to, while it is under way; the lower one if it is turned back.
    pub target: Option<u32>,
    /// The epoch that new records are sealed under.
    pub sealing: u32,
    /// How many records are sealed under each epoch, if that was asked for. One whose head and body differ counts for the one that is
    /// not sealed under any more.
    pub records: Option<BTreeMap<u32, u64>>,
    /// Whether the user holds the keys.
    pub held: bool,
}

impl<S: Store + ?Sized> EncryptedStore<S> {
    /// Seals everything of an owner under a new key and destroys the former one, while the data is in use.
    ///
    /// A rotation that did not end (the process died, the storage failed) goes on from where it was; one that was being turned back is
    /// turned back first. Several processes may rotate one owner at once: they work on the same rotation. Dropping the future leaves a
    /// rotation that did not end. Archives are not under these keys, and stay readable.
    ///
    /// # Errors
    ///
    /// `KeyUnavailable` for a user who holds the keys and did not unlock them; `NotFound` and `Erased` as for opening; `Gone` if the data
    /// was restored meanwhile, which gave it new keys; `Conflict` if somebody turned the rotation back meanwhile; `Busy` if others write
    /// so much that nothing can be sealed again.
    pub async fn rotate(&self, owner: Owner, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Rotated> {
        let user = self.owned(owner).await?;
        for _ in 0..TRIES {
            let row = current_row(&user).await?;
            match row.row.target {
                Some(target) if row.row.other(target).is_none_or(|other| other < target) => {
                    return self.finish(&user, target, progress).await;
                }
                Some(target) => drop(self.finish(&user, target, progress).await?),
                None => {
                    if let Some(target) = begin(&user).await? {
                        return self.finish(&user, target, progress).await;
                    }
                }
            }
        }
        Err(busy())
    }

    /// Turns a rotation back that did not end: seals everything under the former key again and destroys the new one.
    ///
    /// # Errors
    ///
    /// `Invalid` if no rotation is under way: after the end of one the former key is gone. Else as [`rotate`](Self::rotate).
    pub async fn rotate_back(
        &self,
        owner: Owner,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Rotated> {
        let user = self.owned(owner).await?;
        for _ in 0..TRIES {
            let row = current_row(&user).await?;
            let both = row.row.target.and_then(|target| Some((target, row.row.other(target)?)));
            let (target, other) = both.ok_or_else(nothing_to_turn_back)?;
            if target < other {
                return self.finish(&user, target, progress).await;
            }
            let turned = row.row.with_target(other);
            match self.ring.keystore.put_life(&user.owner, &turned, row.version).await {
                Ok(()) => return self.finish(&user, other, progress).await,
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(busy())
    }

    /// What keys an owner has. Counting records looks at each of them and needs the keys; the rest needs none.
    ///
    /// # Errors
    ///
    /// `NotFound` and `Erased` as for opening; for a count, `KeyUnavailable` if the user holds the keys and did not unlock them.
    pub async fn key_status(&self, owner: Owner, count: bool) -> Result<KeyStatus> {
        let below = match owner {
            Owner::User(user) => self.inner.open(user).await?,
            Owner::Deployment => self.inner.deployment().await?,
        };
        let state = below.state().await?;
        let life = state.stamp.incarnation;
        let (root, row) = self.ring.keystore.pair(&owner.tag(), life).await?.ok_or_else(no_keys)?;
        let sealing = note::epoch(&state.note)?;
        let records = if count { Some(counts(&self.owned(owner).await?).await?) } else { None };
        Ok(KeyStatus {
            epochs: row.row.epochs().collect(),
            target: row.row.target,
            sealing,
            records,
            held: root.row.is_held(),
        })
    }

    async fn owned(&self, owner: Owner) -> Result<EncryptedUser> {
        match owner {
            Owner::User(user) => self.open_user(user).await,
            Owner::Deployment => self.open_deployment().await,
        }
    }

    /// Brings everything under a target, and destroys the other key.
    async fn finish(
        &self,
        user: &EncryptedUser,
        target: u32,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Rotated> {
        let mut sweep =
            Sweep { user, target, gate: self.ring.sweep(&user.owner), pass: 0, sealed: 0, is_over: false };
        for _ in 0..TRIES {
            // INVARIANT: what is destroyed at the end is destroyed in the place of this row.
            let row = current_row(user).await?;
            if is_done(&row.row, target)? {
                self.ring.refresh(&user.owner);
                let epoch = row.row.target.unwrap_or_else(|| row.row.newest());
                return Ok(Rotated { epoch, sealed: sweep.sealed, passes: sweep.pass });
            }
            {
                let _alone = sweep.gate.write().await;
                user.seal_under(target).await?;
            }
            sweep.all(progress).await?;
            if !self.inner.capabilities().durable {
                settle(&*user.inner).await?;
            }
            match self.ring.keystore.put_life(&user.owner, &row.row.with_only(target), row.version).await {
                Ok(()) => {
                    self.ring.refresh(&user.owner);
                    return Ok(Rotated { epoch: target, sealed: sweep.sealed, passes: sweep.pass });
                }
                // Somebody else has ended it, has turned it back, or has wrapped the keys anew.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(busy())
    }
}

async fn current_row(user: &EncryptedUser) -> Result<Kept<LifeRow>> {
    match user.ring.keystore.life(&user.owner, user.life).await? {
        Some(row) => Ok(row),
        None => {
            // Erased, or restored: it is the data that says so.
            user.inner.state().await?;
            Err(no_keys())
        }
    }
}

/// Adds a key and makes it the target. None if somebody else was there.
async fn begin(user: &EncryptedUser) -> Result<Option<u32>> {
    let ring: &Keyring = &user.ring;
    let wrapping = ring.wrapping();
    let (root, row) = ring.keystore.pair(&user.owner, user.life).await?.ok_or_else(no_keys)?;
    if row.row.target.is_some() {
        return Ok(None);
    }
    let holder = ring.holders.of(&user.owner, &root.row)?;
    let epoch = row.row.next_epoch()?;
    let context = ring.context(&user.owner, What::Dek, user.life, epoch);
    let holder = holder.as_ref().map(|holder| &holder.key);
    let wrapped = ring.wrap(&wrapping, holder, &context, &SecretKey::generate()?).await?;
    let begun = row.row.with_key(epoch, &wrapped)?.with_target(epoch);
    let versions = (row.version, root.version, wrapping.header);
    match ring.keystore.put_key(&user.owner, &begun, versions).await {
        Ok(()) => Ok(Some(epoch)),
        Err(error) if error.kind() == ErrorKind::Conflict => {
            ring.follow_header().await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether a rotation to a target has ended, by whomever: the other key of it is gone.
fn is_done(row: &LifeRow, target: u32) -> Result<bool> {
    match row.target {
        Some(now) if now == target => Ok(false),
        // The next one has begun.
        Some(now) if now > target && row.other(now) == Some(target) => Ok(true),
        None if row.newest() >= target => Ok(true),
        _ => {
            Err(Error::new(ErrorKind::Conflict, "the rotation was turned back meanwhile, look at its status"))
        }
    }
}

/// One owner's records on their way to a target.
struct Sweep<'a> {
    user: &'a EncryptedUser,
    target: u32,
    gate: Arc<Gate>,
    pass: u32,
    sealed: u64,
    /// Somebody else has ended it.
    is_over: bool,
}

/// What became of a commit.
enum Landed {
    Yes,
    /// Somebody else has written one of the records, or writes all the time.
    No,
    /// Somebody else has ended the rotation.
    Over,
}

impl Sweep<'_> {
    /// Passes over all records, until one finds nothing to do.
    async fn all(&mut self, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<()> {
        let mut idle = 0;
        loop {
            let before = self.sealed;
            let found = self.once(progress).await?;
            #[cfg(feature = "faults")]
            if self.user.ring.has(crate::Fault::RotationHasty) {
                return Ok(());
            }
            if found == 0 || self.is_over {
                return Ok(());
            }
            if self.sealed == before {
                idle += 1;
                if idle > IDLE {
                    return Err(busy());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            } else {
                idle = 0;
            }
        }
    }

    /// One pass. Says how many records of other epochs it came across.
    async fn once(&mut self, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<u64> {
        self.pass += 1;
        let (mut seen, mut found) = (0, 0);
        let user = self.user;
        for space in Keyspace::all().filter(|space| !user.passes(*space)) {
            let mut from = None;
            loop {
                let page = self.user.epochs(space, from).await?;
                seen += page.records.len() as u64;
                let old: Vec<RecordId> = page
                    .records
                    .into_iter()
                    .filter(|(_, head, body)| *head != self.target || body.unwrap_or(*head) != self.target)
                    .map(|(id, ..)| id)
                    .collect();
                found += old.len() as u64;
                self.seal_again(space, &old).await?;
                let (pass, sealed) = (self.pass, self.sealed);
                progress(Progress { pass, space, seen, sealed });
                from = page.next;
                if from.is_none() || self.is_over {
                    break;
                }
            }
        }
        Ok(found)
    }

    async fn seal_again(&mut self, space: Keyspace, ids: &[RecordId]) -> Result<()> {
        let mut rest = ids;
        while !rest.is_empty() && !self.is_over {
            let Some((ops, done)) = self.prepare(space, rest).await? else {
                self.is_over = true;
                break;
            };
            rest = rest.get(done..).unwrap_or_default();
            if ops.is_empty() {
                continue;
            }
            let count = ops.len() as u64;
            match self.commit(ops.clone(), TOGETHER).await? {
                Landed::Yes => self.sealed += count,
                Landed::Over => self.is_over = true,
                Landed::No => {
                    #[cfg(feature = "faults")]
                    if self.user.ring.has(crate::Fault::RotationHasty) {
                        continue;
                    }
                    // One of them was written meanwhile: it is of the target by itself, or the next pass finds it.
                    for op in ops {
                        match self.commit(vec![op], ALONE).await? {
                            Landed::Yes => self.sealed += 1,
                            Landed::No => {}
                            Landed::Over => {
                                self.is_over = true;
                                break;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Seals the first of some records again, as many as a commit takes. Says how many those are; none at all if
    /// the rotation is over.
    async fn prepare(&self, space: Keyspace, ids: &[RecordId]) -> Result<Option<(Vec<Op>, usize)>> {
        let (user, records) = (self.user, self.user.records());
        let (mut ops, mut bytes, mut done) = (Vec::with_capacity(ids.len().min(CHUNK)), 0, 0);
        for block in ids.chunks(READ) {
            let (read, keys) = user.stored(space, block).await?;
            if read.stamp.incarnation != user.life {
                return Err(gone());
            }
            let keys =
                if keys.data(self.target).is_some() { keys } else { user.keys_with(self.target).await? };
            let Some(key) = keys.data(self.target) else {
                // The key is gone: somebody has ended the rotation, or has turned it back.
                is_done(&current_row(user).await?.row, self.target)?;
                return Ok(None);
            };
            let mut salts = Salts::draw(block.len() * 2)?;
            for record in read.value.iter().flatten() {
                let stored = &record.head;
                let opened = records.open_head(&keys, user.life, space, stored)?;
                let is_new = records.head_epoch(&stored.head)? == self.target;
                if is_new && (!opened.body.exists || opened.body.epoch == self.target) {
                    continue;
                }
                let place = Place { space, stored: &stored.id, life: user.life };
                let body = records.open_body(&keys, place, &opened.body, &record.body)?;
                let seal = BodySeal { epoch: self.target, ..opened.body };
                let body = records.seal_body(&mut salts, key, place, &body, &seal)?;
                let (name, expires) = (opened.head.id.name(), opened.head.expires);
                let plain = &opened.head.head;
                let head =
                    records.seal_head(&mut salts, key, place, name, stored.version, expires, plain, &seal)?;
                bytes += head.len() + body.len();
                ops.push(Op::Rewrite { space, id: stored.id.clone(), version: stored.version, head, body });
            }
            done += block.len();
            if bytes >= CHUNK_BYTES || done >= CHUNK {
                break;
            }
        }
        Ok(Some((ops, done)))
    }

    /// Commits what was sealed again, as long as the data is to be sealed under the target.
    ///
    /// INVARIANT: at the stamp that the commit expects, the note is of the target. Who comes late, after a rotation was turned back or a
    /// next one has begun, would seal under a key that is to be destroyed.
    async fn commit(&self, ops: Vec<Op>, tries: usize) -> Result<Landed> {
        let user = self.user;
        for _ in 0..tries {
            // Writers of this process wait for as long as this takes, and so do not come in between.
            let _alone = self.gate.write().await;
            let (state, note) = user.look().await?;
            if note.sealing != self.target {
                let over = is_done(&current_row(user).await?.row, self.target)?;
                return Ok(if over { Landed::Over } else { Landed::No });
            }
            let mut batch = Batch::new(Timestamp(0))?.expect(Expect::Stamp(state.stamp));
            (batch.sealed, batch.ops) = (true, ops.clone());
            match user.inner.commit(batch).await {
                Ok(_) => return Ok(Landed::Yes),
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    // At the same stamp it is a record that is not as it was read.
                    if user.inner.state().await?.stamp == state.stamp {
                        return Ok(Landed::No);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Landed::No)
    }
}

/// A page of records, with the epochs of each one's head and body.
pub(crate) struct Epochs {
    records: Vec<(RecordId, u32, Option<u32>)>,
    next: Option<RecordId>,
}

impl EncryptedUser {
    /// Moves what is sealed from now on to an epoch: a commit, so that who knows another one loses its compare-and-set.
    pub(crate) async fn seal_under(&self, epoch: u32) -> Result<()> {
        for _ in 0..TRIES * 4 {
            self.forget();
            let (state, note) = self.look().await?;
            if state.stamp.incarnation != self.life {
                return Err(gone());
            }
            // INVARIANT: asked after the stamp was looked up, and done even if the note is of that epoch. See the module.
            if is_done(&current_row(self).await?.row, epoch)? {
                return Ok(());
            }
            let mut batch = Batch::new(state.time)?;
            batch.note = Some(note.above);
            match self.commit_sealed(&batch, state.stamp, NoteState { sealing: epoch, ..note }).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                done => return done.map(drop),
            }
        }
        Err(busy())
    }

    /// The epochs of a page of records, as their heads tell them.
    async fn epochs(&self, space: Keyspace, from: Option<RecordId>) -> Result<Epochs> {
        let scan = Scan::heads(space, PAGE);
        let scan = match from {
            Some(from) => scan.from(from),
            None => scan,
        };
        let (page, keys) = self.page(&scan).await?;
        let mut records = Vec::with_capacity(page.value.records.len());
        for (head, _) in &page.value.records {
            let body = self.records().open_head(&keys, page.stamp.incarnation, space, head)?.body;
            let epoch = self.records().head_epoch(&head.head)?;
            records.push((head.id.clone(), epoch, body.exists.then_some(body.epoch)));
        }
        Ok(Epochs { records, next: page.value.next() })
    }
}

async fn counts(user: &EncryptedUser) -> Result<BTreeMap<u32, u64>> {
    let sealing = user.look().await?.1.sealing;
    let mut counts = BTreeMap::new();
    for space in Keyspace::all().filter(|space| !user.passes(*space)) {
        let mut from = None;
        loop {
            let page = user.epochs(space, from).await?;
            for (_, head, body) in page.records {
                let epoch = if head == sealing { body.unwrap_or(head) } else { head };
                *counts.entry(epoch).or_default() += 1;
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
    }
    Ok(counts)
}

const fn nothing_to_turn_back() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "no rotation is under way: one that has ended has destroyed the former key, rotate again instead",
    )
}
