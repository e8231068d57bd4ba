use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use syntha_store::Version;

use crate::change::{Answer, Change, Expected, PushChange};
use crate::error::{Error, ErrorKind, Result};
use crate::json::{self, Unwritten};
use crate::life::Life;
use crate::limits::{Exceeded, Limit};
use crate::mesh::{Mesh, mismatch, parse};
use crate::names::{AgentName, EntryKey, OperationId, Topic};
use crate::readable;

/// A write that is being described; `.await` does it.
///
/// Once it was polled, dropping it does not take the write back: it happens whole or not at all.
#[derive(Debug)]
#[must_use = "a push does nothing until it is awaited"]
pub struct Push {
    mesh: Mesh,
    life: Life,
    change: Result<PushChange>,
}

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// The entry's version now.
    pub version: Version,
}

impl Push {
    pub(crate) fn new(
        mesh: Mesh,
        by: Option<AgentName>,
        life: Life,
        key: Result<EntryKey>,
        value: &impl Serialize,
    ) -> Self {
        let change = key.and_then(|key| {
            let most = mesh.core.bounds.value();
            let (text, too_large) = match json::text(value, most) {
                Ok(text) if readable::is_readable(&text) => (Arc::from(text), None),
                Ok(_) => return Err(Error::new(ErrorKind::Invalid, readable::UNREADABLE)),
                // The commit refuses it, once it has decided whether it may be written at all.
                Err(Unwritten::TooLarge(used)) => {
                    (Arc::from(""), Some(Exceeded { limit: Limit::Value, most, used }))
                }
                Err(Unwritten::NoJson) => {
                    return Err(Error::new(ErrorKind::Invalid, "the value can't be written as JSON"));
                }
            };
            Ok(PushChange {
                key,
                text,
                too_large,
                by,
                restricted: false,
                agents: Vec::new(),
                topics: Vec::new(),
                ttl: None,
                expected: None,
                operation: None,
            })
        });
        Self { mesh, life, change }
    }

    /// For agents that are subscribed to this topic when they read. Again for more topics.
    pub fn topic<T>(self, topic: T) -> Self
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        self.topics([topic])
    }

    /// For agents that are subscribed to one of these topics when they read.
    pub fn topics<T>(self, topics: impl IntoIterator<Item = T>) -> Self
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let topics = parse(topics);
        self.with(|change| {
            change.topics.extend(topics?);
            Ok(())
        })
    }

    /// For these agents. One that is not registered is registered.
    pub fn agents<N>(self, agents: impl IntoIterator<Item = N>) -> Self
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        let agents: Result<Vec<_>> =
            agents.into_iter().map(|agent| agent.try_into().map_err(Error::from)).collect();
        self.with(|change| {
            change.agents.extend(agents?);
            Ok(())
        })
    }

    /// For the named agents and topics only, also when none is named: then no agent sees it.
    pub fn restricted(self) -> Self {
        self.with(|change| {
            change.restricted = true;
            Ok(())
        })
    }

    /// Invisible after this time.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|change| {
            change.ttl = Some(ttl);
            Ok(())
        })
    }

    /// Only if the entry has this version, or is absent.
    pub fn if_version(self, expected: impl Into<Expected>) -> Self {
        self.with(|change| {
            change.expected = Some(expected.into());
            Ok(())
        })
    }

    /// An id of the caller's: the same operation again within 24 hours writes nothing and gets the first answer.
    pub fn operation<O>(self, id: O) -> Self
    where
        O: TryInto<OperationId>,
        Error: From<O::Error>,
    {
        let id = id.try_into().map_err(Error::from);
        self.with(|change| {
            change.operation = Some(id?);
            Ok(())
        })
    }

    fn with(mut self, set: impl FnOnce(&mut PushChange) -> Result<()>) -> Self {
        self.change = self.change.and_then(|mut change| set(&mut change).map(|()| change));
        self
    }
}

impl IntoFuture for Push {
    type Output = Result<Pushed>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let push = self.change?;
            let by = push.by.clone();
            match self.mesh.write(bound(by, self.life, Change::Push(push))).await? {
                Answer::Pushed(version) | Answer::Repeated(version) => Ok(Pushed { version }),
                _ => Err(mismatch()),
            }
        })
    }
}

/// Several writes that happen all or not at all. A key stands in it at most once.
#[derive(Debug)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    mesh: Mesh,
    by: Option<AgentName>,
    life: Life,
    /// Bytes of its changes, roughly.
    bytes: usize,
    changes: Result<Vec<Change>>,
}

impl Batch {
    pub(crate) const fn new(mesh: Mesh, by: Option<AgentName>, life: Life) -> Self {
        Self { mesh, by, life, bytes: 0, changes: Ok(Vec::new()) }
    }

    /// Adds a push for every agent.
    pub fn push<K>(self, key: K, value: impl Serialize) -> Self
    where
        K: TryInto<EntryKey>,
        Error: From<K::Error>,
    {
        self.push_with(key, value, |push| push)
    }

    /// Adds a push, with what `describe` says of it.
    pub fn push_with<K>(mut self, key: K, value: impl Serialize, describe: impl FnOnce(Push) -> Push) -> Self
    where
        K: TryInto<EntryKey>,
        Error: From<K::Error>,
    {
        let life = self.life.clone();
        let push =
            Push::new(self.mesh.clone(), self.by.clone(), life, key.try_into().map_err(Error::from), &value);
        let change = describe(push).change.map(Change::Push);
        self.bytes = self.bytes.saturating_add(change.as_ref().map_or(0, Change::bytes));
        let fits = self.bytes <= syntha_store::BATCH_BYTES;
        self.changes = self.changes.and_then(|mut changes| {
            if !fits {
                return Err(Error::new(ErrorKind::LimitExceeded, "a batch has at most 64 MiB, split it"));
            }
            changes.push(change?);
            Ok(changes)
        });
        self
    }

    /// Adds a removal.
    pub fn remove<K>(mut self, key: K) -> Self
    where
        K: TryInto<EntryKey>,
        Error: From<K::Error>,
    {
        let key = key.try_into().map_err(Error::from);
        self.changes = self.changes.and_then(|mut changes| {
            changes.push(Change::Remove { key: key?, expected: None });
            Ok(changes)
        });
        self
    }

    /// Does it.
    ///
    /// # Errors
    ///
    /// The first error that one of its operations has; then nothing was written. `LimitExceeded` for more than 256
    /// operations or 64 MiB, `Invalid` for none and for a key that stands twice.
    pub async fn commit(self) -> Result<()> {
        let changes = self.changes?;
        if changes.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the batch is empty"));
        }
        if changes.len() > 256 {
            return Err(Error::new(ErrorKind::LimitExceeded, "a batch has at most 256 operations, split it"));
        }
        match self.mesh.write(bound(self.by, self.life, Change::Batch(changes))).await? {
            Answer::Batch(_) => Ok(()),
            _ => Err(mismatch()),
        }
    }
}

/// A change that is refused if the agent is no longer the one that the handle was for.
fn bound(by: Option<AgentName>, life: Life, change: Change) -> Change {
    match by {
        Some(agent) => Change::by(&agent, &life, change),
        None => change,
    }
}
