//! The spaces that accounts are kept in, and which of them is whose.

use std::sync::Arc;

use syntha_store::{
    Batch, ErrorKind as StoreErrorKind, Expect, Keyspace, RecordId, Scan, Timestamp, UserId, UserStore,
    Version,
};

use crate::clock::Time;
use crate::config::Root;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::{SecretId, SecretKind};

/// How often a change is tried over the commits of others.
const TRIES: usize = 16;

pub(crate) struct Spaces {
    spaces: Vec<Arc<dyn UserStore>>,
    root: Root,
    time: Arc<Time>,
}

/// What a record holds, and which version of it.
pub(crate) type Found = Option<(Vec<u8>, Version)>;

impl Spaces {
    /// Takes the spaces over. Each says which one of how many it is, under which key: swapped or missing ones, or another key, would make
    /// accounts vanish.
    pub(crate) async fn open(spaces: Vec<Arc<dyn UserStore>>, root: Root, time: Arc<Time>) -> Result<Self> {
        if spaces.is_empty() || spaces.len() > 256 {
            return Err(Error::new(ErrorKind::Invalid, "accounts are kept in 1 to 256 spaces"));
        }
        let opened = Self { spaces, root, time };
        let print = data_encoding::HEXLOWER.encode(&opened.root.name("fingerprint", b""));
        for index in 0..opened.spaces.len() {
            let own = format!(r#"{{"v":1,"space":{index},"of":{},"key":"{print}"}}"#, opened.spaces.len());
            opened.claim(index, own.as_bytes()).await?;
            opened.look_at_time(index).await?;
        }
        Ok(opened)
    }

    async fn claim(&self, index: usize, own: &[u8]) -> Result<()> {
        let id = record(&b"identity"[..])?;
        for _ in 0..2 {
            match self.read(index, Keyspace::Meta, std::slice::from_ref(&id)).await?.pop().flatten() {
                Some((kept, _)) if kept == own => return Ok(()),
                Some(_) => break,
                None if self.is_a_users(index).await? => {
                    return Err(Error::new(
                        ErrorKind::Refused,
                        "the space is a user's, accounts are kept apart",
                    ));
                }
                None => {
                    let batch = self.batch()?.put(Keyspace::Meta, id.clone(), "", own.to_vec());
                    let batch = batch.expect(version(Keyspace::Meta, &id, None));
                    if self.commit(index, batch).await? {
                        return Ok(());
                    }
                }
            }
        }
        Err(Error::new(
            ErrorKind::Refused,
            "the accounts were made with another key, or with other spaces in another order: give back those",
        ))
    }

    /// Whether a space without accounts holds anything that a mesh keeps.
    async fn is_a_users(&self, index: usize) -> Result<bool> {
        let space = self.space(index)?;
        for kept in [Keyspace::Context, Keyspace::Agents, Keyspace::Threads, Keyspace::Operations] {
            if !space.scan(Scan::heads(kept, 1)).await?.value.records.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn count(&self) -> usize {
        self.spaces.len()
    }

    pub(crate) fn now(&self) -> u64 {
        self.time.now()
    }

    pub(crate) fn batch(&self) -> Result<Batch> {
        Ok(Batch::new(Timestamp(self.now()))?)
    }

    /// Where everything of a user is.
    pub(crate) fn of_user(&self, user: &UserId) -> usize {
        self.at(self.root.name("space/user", user.as_str().as_bytes()))
    }

    /// Where a token or session is: where its user's account is, since its id was drawn until it was so.
    pub(crate) fn of_secret(&self, id: SecretId) -> usize {
        self.at(self.root.name("space/secret", id.as_bytes()))
    }

    /// Where what fails from a source is counted.
    pub(crate) fn of_source(&self, source: &[u8]) -> usize {
        self.at(self.root.name("space/source", source))
    }

    fn at(&self, hash: [u8; 32]) -> usize {
        usize::try_from(number(&hash, 0) % self.spaces.len() as u64).unwrap_or(0)
    }

    pub(crate) fn account(&self, user: &UserId) -> Result<RecordId> {
        record(self.root.name("account", user.as_str().as_bytes()).to_vec())
    }

    pub(crate) fn secret(&self, kind: SecretKind, id: SecretId) -> Result<RecordId> {
        let purpose = match kind {
            SecretKind::Token => "token",
            SecretKind::Session => "session",
        };
        record(self.root.name(purpose, id.as_bytes()).to_vec())
    }

    /// A place in a table of `size`, and a mark of who has it.
    pub(crate) fn place(&self, purpose: &str, of: &[u8], size: u64) -> (u64, [u8; 8]) {
        let hash = self.root.name(purpose, of);
        (number(&hash, 0) % size, number(&hash, 8).to_be_bytes())
    }

    pub(crate) async fn read(&self, index: usize, space: Keyspace, ids: &[RecordId]) -> Result<Vec<Found>> {
        let records = self.space(index)?.read(space, ids).await?.value;
        Ok(records
            .into_iter()
            .map(|record| record.map(|record| (record.body.to_vec(), record.head.version)))
            .collect())
    }

    pub(crate) async fn read_one(&self, index: usize, space: Keyspace, id: &RecordId) -> Result<Found> {
        Ok(self.read(index, space, std::slice::from_ref(id)).await?.pop().flatten())
    }

    /// Commits. `false`: an expectation did not hold, and nothing was written.
    pub(crate) async fn commit(&self, index: usize, batch: Batch) -> Result<bool> {
        match self.space(index)?.commit(batch).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Goes through every record of a keyspace.
    pub(crate) async fn each(
        &self,
        index: usize,
        space: Keyspace,
        page: usize,
        mut each: impl FnMut(RecordId, &[u8]) -> Result<()> + Send,
    ) -> Result<()> {
        let mut from = None;
        loop {
            let scan = Scan::records(space, page);
            let scan = match from.take() {
                Some(from) => scan.from(from),
                None => scan,
            };
            let page = self.space(index)?.scan(scan).await?.value;
            from = page.next();
            for (head, body) in page.records {
                each(head.id, &body.unwrap_or_default())?;
            }
            if from.is_none() {
                return Ok(());
            }
        }
    }

    /// A clock that was put back meanwhile, here or in another process, changes nothing.
    pub(crate) async fn look_at_time(&self, index: usize) -> Result<()> {
        self.time.saw(self.space(index)?.state().await?.time);
        Ok(())
    }

    pub(crate) fn space(&self, index: usize) -> Result<&Arc<dyn UserStore>> {
        self.spaces.get(index).ok_or_else(Error::corrupt)
    }
}

/// What a record's version must be; `None` for absent.
pub(crate) fn version(space: Keyspace, id: &RecordId, version: Option<Version>) -> Expect {
    Expect::Version { space, id: id.clone(), version }
}

pub(crate) fn record(name: impl Into<Vec<u8>>) -> Result<RecordId> {
    Ok(RecordId::new(name.into(), 0)?)
}

/// The tries of a compare-and-set, and what is said when they run out.
pub(crate) fn tries() -> std::ops::Range<usize> {
    0..TRIES
}

pub(crate) const fn contended() -> Error {
    Error::busy(std::time::Duration::from_millis(100))
}

fn number(hash: &[u8; 32], from: usize) -> u64 {
    let part = hash.get(from..from + 8).and_then(|part| part.try_into().ok());
    u64::from_be_bytes(part.unwrap_or_default())
}
