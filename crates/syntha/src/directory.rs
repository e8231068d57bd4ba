//! The deployment's own records: which users there are, and which erasures were asked for.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use syntha_store::{
    Action, Batch, Error as StoreError, ErrorKind as StoreErrorKind, Event, Events, Expect, KeyFingerprint,
    Keyspace, Op, RecordId, Scan, Timestamp, UserId, UserStore, UserTag, Verdict, Version,
};

use crate::error::{Error, ErrorKind, Result};
use crate::reserved::is_reserved;

/// A user in the directory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UserEntry {
    /// The user's id.
    pub user: UserId,
    /// The user's tag, which names the user's file.
    pub tag: UserTag,
}

/// What a directory row holds, as JSON. The user is there if and only if the row is; the user's data may not be, yet.
#[derive(Serialize, Deserialize)]
struct Row {
    v: u8,
    user: String,
}

/// What a ledger row holds, as JSON. It names no user: the tag is the record's name.
#[derive(Serialize, Deserialize)]
struct Erasure {
    v: u8,
    done: bool,
    at: u64,
}

/// How far a space of accounts was, as JSON.
#[cfg(feature = "identity")]
#[derive(Serialize, Deserialize)]
struct Anchor {
    v: u8,
    life: String,
    epoch: u64,
}

/// How often an anchor is noted again because others note theirs.
#[cfg(feature = "identity")]
const ANCHORINGS: usize = 16;

/// What an anchor says.
#[cfg(feature = "identity")]
fn stamp_of(body: &[u8]) -> Result<syntha_store::Stamp> {
    let anchor: Anchor = serde_json::from_slice(body).map_err(|_| damaged())?;
    if anchor.v != 1 {
        return Err(damaged().into());
    }
    let life = u128::from_str_radix(&anchor.life, 16).map_err(|_| damaged())?;
    Ok(syntha_store::Stamp {
        incarnation: syntha_store::Incarnation(life),
        epoch: syntha_store::Epoch(anchor.epoch),
    })
}

#[cfg(feature = "identity")]
fn anchor_id(number: usize) -> Result<RecordId> {
    Ok(RecordId::new(&b"accounts"[..], number as u64)?)
}

/// The directory and the ledger of a deployment.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    space: Arc<dyn UserStore>,
    /// The space has a trail, which is told.
    audited: bool,
}

/// Whether a user is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    There,
    Absent,
    /// Or about to be.
    Erased,
}

const PAGE: usize = 1_000;
/// How often two records are read until they are of one moment.
const LOOKS: usize = 8;

impl Directory {
    pub(crate) const fn new(space: Arc<dyn UserStore>) -> Self {
        Self { space, audited: false }
    }

    /// The same, which tells the trail of the deployment what it does.
    pub(crate) const fn audited(mut self, audited: bool) -> Self {
        self.audited = audited;
        self
    }

    /// What a commit tells the trail.
    fn events(&self, events: impl IntoIterator<Item = Event>) -> Events {
        if self.audited { Events::Clear(events.into_iter().collect()) } else { Events::None }
    }

    /// Tells the trail of what changes nothing here.
    pub(crate) async fn note(&self, events: Vec<Event>, at: Timestamp) -> Result<()> {
        if self.audited && !events.is_empty() {
            self.space.commit(Batch::new(at)?.events(Events::Clear(events))).await?;
        }
        Ok(())
    }

    /// Checks that the users here were tagged with this key; the first one to ask writes its fingerprint down.
    pub(crate) async fn check_key(&self, print: KeyFingerprint) -> Result<()> {
        let id = RecordId::new(&b"key-fingerprint"[..], 0)?;
        for _ in 0..2 {
            let read =
                self.space.read(Keyspace::Meta, std::slice::from_ref(&id)).await?.value.pop().flatten();
            match read {
                Some(record) if **record.body == print.as_bytes()[..] => return Ok(()),
                Some(_) => break,
                None => {
                    let absent = Expect::Version { space: Keyspace::Meta, id: id.clone(), version: None };
                    let body = print.as_bytes().to_vec();
                    let batch =
                        Batch::new(Timestamp(0))?.put(Keyspace::Meta, id.clone(), "", body).expect(absent);
                    match self.space.commit(batch).await {
                        // Somebody else was first: look at what was written.
                        Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                        committed => return Ok(committed.map(drop)?),
                    }
                }
            }
        }
        Err(Error::new(
            ErrorKind::Denied,
            "the deployment's users were tagged with another key, put that key back: with this one no user is found",
        ))
    }

    /// The deployment's own space, for copies of the whole.
    #[cfg(any(feature = "audit", all(feature = "encryption", feature = "sqlite")))]
    pub(crate) fn space(&self) -> &dyn UserStore {
        &*self.space
    }

    /// How many users there are.
    #[cfg(all(feature = "encryption", feature = "sqlite"))]
    pub(crate) async fn count(&self) -> Result<u64> {
        let (mut count, mut from) = (0, None);
        loop {
            let scan = Scan::heads(Keyspace::Directory, PAGE);
            let page = self.space.scan(match from.take() {
                Some(from) => scan.from(from),
                None => scan,
            });
            let page = page.await?.value;
            count += page.records.len() as u64;
            from = page.next();
            if from.is_none() {
                return Ok(count);
            }
        }
    }

    /// Writes a user's row, if there is none. `again`: also for a user who was erased.
    pub(crate) async fn admit(&self, user: &UserId, tag: UserTag, again: bool, at: Timestamp) -> Result<()> {
        let row = Row { v: 1, user: user.as_str().to_owned() };
        let body = serde_json::to_vec(&row).map_err(|_| damaged())?;
        let id = id(tag)?;
        let absent = |space| Expect::Version { space, id: id.clone(), version: None };
        let action = if again { Action::RecreateUser } else { Action::CreateUser };
        let event = (!is_reserved(user)).then(|| Event::new(at, action).on(user.as_str().into()));
        let mut batch = Batch::new(at)?.put(Keyspace::Directory, id.clone(), "", body);
        batch = batch.expect(absent(Keyspace::Directory)).events(self.events(event));
        if !again {
            batch = batch.expect(absent(Keyspace::Ledger));
        }
        match self.space.commit(batch).await {
            Err(error) if error.kind() == StoreErrorKind::Conflict => match self.standing(tag).await? {
                Standing::Erased => Err(erased()),
                _ => Err(Error::new(ErrorKind::AlreadyExists, "the user is there already")),
            },
            committed => Ok(committed.map(drop)?),
        }
    }

    /// Whether a user is there.
    pub(crate) async fn standing(&self, tag: UserTag) -> Result<Standing> {
        Ok(self.look(tag).await?.0)
    }

    /// Whether a user is there, and the version of the user's row: another one for each time that the user was admitted.
    pub(crate) async fn look(&self, tag: UserTag) -> Result<(Standing, Option<Version>)> {
        let ids = [id(tag)?];
        let mut looks = 0;
        let (ledger, row) = loop {
            let ledger = self.space.read(Keyspace::Ledger, &ids).await?;
            let row = self.space.read(Keyspace::Directory, &ids).await?;
            looks += 1;
            // Another process may have written in between. Then the answer is of no moment, and is asked for again; the ledger
            // first, so that after many tries at worst an erased user is called absent.
            if ledger.stamp == row.stamp || looks == LOOKS {
                break (ledger.value.into_iter().next().flatten(), row.value.into_iter().next().flatten());
            }
        };
        let erasure = match ledger {
            None => None,
            Some(record) => Some(serde_json::from_slice::<Erasure>(&record.body).map_err(|_| damaged())?),
        };
        let admitted = row.map(|row| row.head.version);
        Ok(match (erasure, admitted) {
            (Some(erasure), named) if !erasure.done || named.is_none() => (Standing::Erased, None),
            (_, Some(version)) => (Standing::There, Some(version)),
            (_, None) => (Standing::Absent, None),
        })
    }

    /// Drops a user's row, when what was to follow it failed.
    pub(crate) async fn remove(&self, tag: UserTag) -> Result<()> {
        let batch = Batch::new(Timestamp(0))?.delete(Keyspace::Directory, id(tag)?);
        self.space.commit(batch).await?;
        Ok(())
    }

    /// Users in order of their tags, after one. Spaces of the deployment's own are not among them.
    pub(crate) async fn page(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserEntry>> {
        let (mut after, limit) = (after, limit.clamp(1, PAGE));
        let mut users = Vec::new();
        loop {
            let page = self.all(after, limit - users.len()).await?;
            let Some(last) = page.last() else { return Ok(users) };
            after = Some(last.tag);
            users.extend(page.into_iter().filter(|entry| !is_reserved(&entry.user)));
            if users.len() == limit {
                return Ok(users);
            }
        }
    }

    /// The spaces of the deployment's own.
    #[cfg(all(feature = "encryption", feature = "sqlite"))]
    pub(crate) async fn own(&self) -> Result<Vec<UserTag>> {
        let (mut own, mut after) = (Vec::new(), None);
        loop {
            let page = self.all(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(own) };
            after = Some(last.tag);
            own.extend(page.iter().filter(|entry| is_reserved(&entry.user)).map(|entry| entry.tag));
        }
    }

    /// The same with the spaces of the deployment's own.
    pub(crate) async fn all(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserEntry>> {
        let scan = Scan::records(Keyspace::Directory, limit.clamp(1, PAGE));
        let page = self.space.scan(match after {
            Some(after) => scan.from(id(after)?),
            None => scan,
        });
        let mut users = Vec::new();
        for (head, body) in page.await?.value.records {
            let row: Row = serde_json::from_slice(&body.unwrap_or_default()).map_err(|_| damaged())?;
            let user = UserId::stored(row.user);
            users.push(UserEntry { user, tag: tag(head.id.name())? });
        }
        Ok(users)
    }

    /// How far a space of accounts was when it was last administered.
    #[cfg(feature = "identity")]
    pub(crate) async fn anchor(&self, number: usize) -> Result<Option<syntha_store::Stamp>> {
        let id = anchor_id(number)?;
        let read = self.space.read(Keyspace::Meta, std::slice::from_ref(&id)).await?.value.pop().flatten();
        let Some(record) = read else { return Ok(None) };
        stamp_of(&record.body).map(Some)
    }

    /// Writes down how far spaces of accounts are, and with it what was done.
    #[cfg(feature = "identity")]
    pub(crate) async fn set_anchors(
        &self,
        anchors: impl IntoIterator<Item = (usize, syntha_store::Stamp)>,
        events: Vec<Event>,
        at: Timestamp,
    ) -> Result<()> {
        let anchors: Vec<_> = anchors.into_iter().collect();
        let mut tries = 0;
        loop {
            let mut batch = Batch::new(at)?.events(self.events(events.clone()));
            for (number, stamp) in &anchors {
                let (id, mut epoch) = (anchor_id(*number)?, stamp.epoch.0);
                let read = self.space.read(Keyspace::Meta, std::slice::from_ref(&id)).await?;
                let read = read.value.into_iter().next().flatten();
                // INVARIANT: within a life an anchor only rises: another change may have noted a later moment.
                let known = read.as_ref().map(|record| stamp_of(&record.body)).transpose()?;
                if let Some(known) = known.filter(|known| known.incarnation == stamp.incarnation) {
                    epoch = epoch.max(known.epoch.0);
                }
                let anchor = Anchor { v: 1, life: format!("{:032x}", stamp.incarnation.0), epoch };
                let body = serde_json::to_vec(&anchor).map_err(|_| damaged())?;
                let version = read.map(|record| record.head.version);
                let expect = Expect::Version { space: Keyspace::Meta, id: id.clone(), version };
                batch = batch.put(Keyspace::Meta, id, "", body).expect(expect);
            }
            tries += 1;
            match self.space.commit(batch).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict && tries < ANCHORINGS => {}
                committed => return Ok(committed.map(drop)?),
            }
        }
    }

    /// Writes down that a user is to be erased, before anything is. A second time changes nothing.
    pub(crate) async fn intend_erasure(&self, tag: UserTag, at: Timestamp) -> Result<()> {
        self.put_erasure(tag, false, at).await
    }

    /// Writes down that nothing of a user is left, and drops the user's name.
    pub(crate) async fn finish_erasure(&self, tag: UserTag, at: Timestamp) -> Result<()> {
        self.put_erasure(tag, true, at).await
    }

    /// Erasures that were asked for and did not come to their end.
    pub(crate) async fn unfinished_erasures(&self) -> Result<Vec<UserTag>> {
        let (mut found, mut from) = (Vec::new(), None);
        loop {
            let scan = Scan::records(Keyspace::Ledger, PAGE);
            let page = self.space.scan(match from.take() {
                Some(from) => scan.from(from),
                None => scan,
            });
            let page = page.await?.value;
            for (head, body) in &page.records {
                let body = body.as_deref().unwrap_or_default();
                let erasure: Erasure = serde_json::from_slice(body).map_err(|_| damaged())?;
                if !erasure.done {
                    found.push(tag(head.id.name())?);
                }
            }
            from = page.next();
            if from.is_none() {
                return Ok(found);
            }
        }
    }

    async fn put_erasure(&self, tag: UserTag, done: bool, at: Timestamp) -> Result<()> {
        let body = serde_json::to_vec(&Erasure { v: 1, done, at: at.0 }).map_err(|_| damaged())?;
        let mut batch = Batch::new(at)?.put(Keyspace::Ledger, id(tag)?, "", body);
        if done {
            batch = batch.op(Op::Delete { space: Keyspace::Directory, id: id(tag)? });
        }
        let verdict = if done { Verdict::Done } else { Verdict::Begun };
        let event = Event::new(at, Action::EraseUser).on(tag.to_string().into()).ended(verdict, None);
        batch = batch.events(self.events([event]));
        self.space.commit(batch).await?;
        Ok(())
    }
}

/// Whether a ledger's row says that nothing of the user is left.
#[cfg(all(feature = "encryption", feature = "sqlite"))]
pub(crate) fn is_done(body: &[u8]) -> Result<bool> {
    let erasure: Erasure = serde_json::from_slice(body).map_err(|_| damaged())?;
    Ok(erasure.done)
}

fn id(tag: UserTag) -> Result<RecordId> {
    Ok(RecordId::new(tag.as_bytes().to_vec(), 0)?)
}

fn tag(name: &[u8]) -> Result<UserTag> {
    Ok(UserTag::from_bytes(name.try_into().map_err(|_| damaged())?)?)
}

pub(crate) const fn erased() -> Error {
    Error::new(
        ErrorKind::Erased,
        "the user was erased, only an explicit recreate makes one of that name again",
    )
}

const fn damaged() -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, "the deployment's directory is not as it was written")
}
