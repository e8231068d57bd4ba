//! The deployment's own records: which users there are, and which erasures were asked for.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use syntha_store::{
    Batch, Error as StoreError, ErrorKind as StoreErrorKind, Keyspace, Op, RecordId, Scan, UserId,
};
use syntha_store::{Timestamp, UserStore, UserTag};

use crate::error::Result;

/// A user in the directory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UserEntry {
    /// The user's id.
    pub user: UserId,
    /// The user's tag, which names the user's file.
    pub tag: UserTag,
}

/// What a directory row holds, as JSON.
#[derive(Serialize, Deserialize)]
struct Row {
    v: u8,
    user: String,
    /// The row was written before the user's data was; it is checked at the next start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pending: bool,
}

/// What a ledger row holds, as JSON. It names no user: the tag is the record's name.
#[derive(Serialize, Deserialize)]
struct Erasure {
    v: u8,
    done: bool,
    at: u64,
}

/// The directory and the ledger of a deployment.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    space: Arc<dyn UserStore>,
}

const PAGE: usize = 1_000;

impl Directory {
    pub(crate) const fn new(space: Arc<dyn UserStore>) -> Self {
        Self { space }
    }

    /// Writes a user's row before the user's data is made.
    pub(crate) async fn announce(&self, user: &UserId, tag: UserTag) -> Result<()> {
        self.put_user(user, tag, true).await
    }

    /// Says that the user's data is there.
    pub(crate) async fn confirm(&self, user: &UserId, tag: UserTag) -> Result<()> {
        self.put_user(user, tag, false).await
    }

    /// Drops a user's row.
    pub(crate) async fn remove(&self, tag: UserTag) -> Result<()> {
        let batch = Batch::new(Timestamp(0))?.delete(Keyspace::Directory, id(tag)?);
        self.space.commit(batch).await?;
        Ok(())
    }

    /// Users in order of their tags, after one, and those whose data may be missing.
    pub(crate) async fn page(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<(UserEntry, bool)>> {
        let scan = Scan::records(Keyspace::Directory, limit.clamp(1, PAGE));
        let page = self.space.scan(match after {
            Some(after) => scan.from(id(after)?),
            None => scan,
        });
        let mut users = Vec::new();
        for (head, body) in page.await?.value.records {
            let row: Row = serde_json::from_slice(&body.unwrap_or_default()).map_err(|_| damaged())?;
            let user = UserId::new(row.user).map_err(|_| damaged())?;
            users.push((UserEntry { user, tag: tag(head.id.name())? }, row.pending));
        }
        Ok(users)
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

    async fn put_user(&self, user: &UserId, tag: UserTag, pending: bool) -> Result<()> {
        let row = Row { v: 1, user: user.as_str().to_owned(), pending };
        let body = serde_json::to_vec(&row).map_err(|_| damaged())?;
        let batch = Batch::new(Timestamp(0))?.put(Keyspace::Directory, id(tag)?, "", body);
        self.space.commit(batch).await?;
        Ok(())
    }

    async fn put_erasure(&self, tag: UserTag, done: bool, at: Timestamp) -> Result<()> {
        let body = serde_json::to_vec(&Erasure { v: 1, done, at: at.0 }).map_err(|_| damaged())?;
        let mut batch = Batch::new(at)?.put(Keyspace::Ledger, id(tag)?, "", body);
        if done {
            batch = batch.op(Op::Delete { space: Keyspace::Directory, id: id(tag)? });
        }
        self.space.commit(batch).await?;
        Ok(())
    }
}

fn id(tag: UserTag) -> Result<RecordId> {
    Ok(RecordId::new(tag.as_bytes().to_vec(), 0)?)
}

fn tag(name: &[u8]) -> Result<UserTag> {
    Ok(UserTag::from_bytes(name.try_into().map_err(|_| damaged())?)?)
}

const fn damaged() -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, "the deployment's directory is not as it was written")
}
