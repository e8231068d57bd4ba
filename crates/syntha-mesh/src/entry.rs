use std::borrow::Borrow;
use std::cmp::Ordering as Order;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use syntha_store::{Error as StoreError, ErrorKind as StoreErrorKind, Head, Timestamp, Version};

use crate::error::{Error, ErrorKind, Result};
use crate::roster::Roster;

/// Who may see an entry, besides the user's host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audience {
    /// Every agent of the user.
    pub everyone: bool,
    /// These agents.
    pub agents: Vec<Arc<str>>,
    /// Agents that are subscribed to one of these topics at the moment of the read.
    pub topics: Vec<Arc<str>>,
}

/// A context entry: a JSON value under a key, and who wrote it for whom.
pub struct Entry {
    pub(crate) key: Arc<str>,
    pub(crate) version: Version,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) expires: Option<Timestamp>,
    /// Shared between the entries of one author.
    pub(crate) author: Option<Arc<Member>>,
    pub(crate) audience: Route,
    pub(crate) size: u32,
    pub(crate) value: Option<Arc<str>>,
    /// Read since the cache's hand last passed.
    pub(crate) used: AtomicBool,
    /// Whether the agent that wrote it was trusted then.
    pub(crate) trusted: bool,
}

/// An agent in one of its lives: a name that is registered again is another member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    #[serde(rename = "n")]
    pub(crate) name: Arc<str>,
    #[serde(rename = "i")]
    pub(crate) incarnation: u64,
}

/// The stored form of an [`Audience`]. Most are "every agent", which takes no memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route(Option<Box<Parts>>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parts {
    #[serde(rename = "all", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) everyone: bool,
    #[serde(rename = "ag", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) agents: Vec<Member>,
    #[serde(rename = "to", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) topics: Vec<Arc<str>>,
}

impl Member {
    /// Whether it is this agent in this life of its name; nobody is, whose name is not registered.
    pub(crate) fn lives_as(&self, agent: &str, life: Option<u64>) -> bool {
        life == Some(self.incarnation) && *self.name == *agent
    }

    /// Whether it is the agent that has this name now.
    pub(crate) fn is(&self, agent: &str, roster: &Roster) -> bool {
        *self.name == *agent && roster.get(agent).is_some_and(|state| state.incarnation == self.incarnation)
    }
}

static EVERYONE: Parts = Parts { everyone: true, agents: Vec::new(), topics: Vec::new() };

impl From<Parts> for Route {
    fn from(parts: Parts) -> Self {
        Self((parts != EVERYONE).then(|| Box::new(parts)))
    }
}

impl Deref for Route {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        self.0.as_deref().unwrap_or(&EVERYONE)
    }
}

/// What a record's head holds, as JSON. Version 1.
#[derive(Serialize, Deserialize)]
struct StoredHead<By, To> {
    v: u8,
    by: By,
    at: u64,
    up: u64,
    to: To,
    size: u32,
    /// Whether the agent that wrote it was trusted; left out for no.
    #[serde(default, rename = "tr", skip_serializing_if = "std::ops::Not::not")]
    trusted: bool,
}

impl Entry {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The version: pass it as `if_version` to change the entry only if nobody else did.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// When the key was first written since it was last absent.
    #[must_use]
    pub const fn created(&self) -> Timestamp {
        self.created
    }

    /// When this value was written.
    #[must_use]
    pub const fn updated(&self) -> Timestamp {
        self.updated
    }

    /// When the entry becomes invisible.
    #[must_use]
    pub const fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// The agent that wrote it; `None` for the user's host.
    #[must_use]
    pub fn author(&self) -> Option<&str> {
        self.author.as_ref().map(|member| &*member.name)
    }

    /// Whether it can be relied on as far as its author can: the host wrote it, or an agent that was trusted when it did.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.untrusted_author().is_none()
    }

    /// Who may see it.
    #[must_use]
    pub fn audience(&self) -> Audience {
        Audience {
            everyone: self.audience.everyone,
            agents: self.audience.agents.iter().map(|member| Arc::clone(&member.name)).collect(),
            topics: self.audience.topics.clone(),
        }
    }

    /// Bytes of the value's JSON text.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size as usize
    }

    /// The value as JSON text; `null` where a list did not load it.
    #[must_use]
    pub fn json(&self) -> &str {
        self.value.as_deref().unwrap_or("null")
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// `Invalid` if it does not have the type that was asked for.
    pub fn value<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.json())
            .map_err(|_| Error::new(ErrorKind::Invalid, "the value has another type than the one asked for"))
    }

    /// Bytes of key and value, as usage counts them.
    pub(crate) fn bytes(&self) -> u64 {
        self.key.len() as u64 + u64::from(self.size)
    }

    pub(crate) fn is_live(&self, now: impl FnOnce() -> Timestamp) -> bool {
        self.expires.is_none_or(|at| now() < at)
    }

    pub(crate) fn is_by(&self, agent: &str, life: Option<u64>) -> bool {
        self.author.as_ref().is_some_and(|author| author.lives_as(agent, life))
    }

    /// The agent that wrote it, if it was not trusted then.
    pub(crate) fn untrusted_author(&self) -> Option<&Member> {
        self.author.as_deref().filter(|_| !self.trusted)
    }

    pub(crate) fn with_value(&self, value: Option<Arc<str>>) -> Self {
        Self { value, used: AtomicBool::new(true), ..self.clone_head() }
    }

    pub(crate) fn clone_head(&self) -> Self {
        Self {
            key: Arc::clone(&self.key),
            version: self.version,
            created: self.created,
            updated: self.updated,
            expires: self.expires,
            author: self.author.clone(),
            audience: self.audience.clone(),
            size: self.size,
            value: self.value.clone(),
            used: AtomicBool::new(self.used.load(Ordering::Relaxed)),
            trusted: self.trusted,
        }
    }

    pub(crate) fn encode_head(&self) -> Result<Bytes> {
        let head = StoredHead {
            v: 1,
            by: self.author.as_ref(),
            at: self.created.0,
            up: self.updated.0,
            to: &*self.audience,
            size: self.size,
            trusted: self.trusted,
        };
        let text = serde_json::to_vec(&head)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the entry's head can't be written as JSON"))?;
        if text.len() > syntha_store::HEAD_BYTES {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "the audience's names have more than 4 KiB, use a topic",
            ));
        }
        Ok(text.into())
    }

    pub(crate) fn decode(head: &Head) -> Result<Self, StoreError> {
        let corrupt = || StoreError::new(StoreErrorKind::Corrupt, "an entry's head is not as it was written");
        let key = std::str::from_utf8(head.id.name()).map_err(|_| corrupt())?.into();
        let stored: StoredHead<Option<Arc<Member>>, Parts> =
            serde_json::from_slice(&head.head).map_err(|_| corrupt())?;
        if stored.v != 1 {
            return Err(StoreError::new(StoreErrorKind::Unsupported, "an entry has a newer format, upgrade"));
        }
        Ok(Self {
            key,
            version: head.version,
            created: Timestamp(stored.at),
            updated: Timestamp(stored.up),
            expires: head.expires,
            author: stored.by,
            audience: stored.to.into(),
            size: stored.size,
            value: None,
            used: AtomicBool::new(false),
            trusted: stored.trusted,
        })
    }
}

/// An entry in a set that is looked up by key.
#[derive(Clone, Debug)]
pub(crate) struct ByKey(pub(crate) Arc<Entry>);

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

// As the key's, so that a key finds its entry.
impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Order {
        self.0.key.cmp(&other.0.key)
    }
}

/// Shows no key, name or value.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("version", &self.version)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
