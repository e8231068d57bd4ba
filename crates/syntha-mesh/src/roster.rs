use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use syntha_store::{Error as StoreError, ErrorKind as StoreErrorKind};

use crate::error::{Error, ErrorKind, Result};

/// The user's agents, by name. Boxed, since a map keeps room for more than it has.
pub(crate) type Roster = HashMap<Arc<str>, Box<AgentState>>;

/// Everything about one agent. One record, so that a permission is never half changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentState {
    v: u8,
    /// New each time the name is registered, so that it does not inherit mail.
    pub(crate) incarnation: u64,
    pub(crate) topics: Vec<Arc<str>>,
    /// Topics that it may post to; `None` for any.
    pub(crate) post: Option<Vec<Arc<str>>>,
    /// Topics that it may subscribe to and hear; `None` for any.
    pub(crate) read: Option<Vec<Arc<str>>>,
}

impl AgentState {
    pub(crate) fn register() -> Result<Self> {
        let incarnation = getrandom::u64().map_err(|source| {
            Error::new(ErrorKind::Storage, "the system's random source failed").with_source(source)
        })?;
        Ok(Self { v: 1, incarnation, topics: Vec::new(), post: None, read: None })
    }

    /// Whether it is subscribed to a topic and may be.
    pub(crate) fn hears(&self, topic: &str) -> bool {
        self.may_read(topic) && self.topics.iter().any(|own| **own == *topic)
    }

    pub(crate) fn may_read(&self, topic: &str) -> bool {
        self.read.as_ref().is_none_or(|allowed| allowed.iter().any(|own| **own == *topic))
    }

    pub(crate) fn may_post(&self, topic: &str) -> bool {
        self.post.as_ref().is_none_or(|allowed| allowed.iter().any(|own| **own == *topic))
    }

    pub(crate) fn encode(&self) -> Result<Bytes> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the agent's record can't be written as JSON"))
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, StoreError> {
        let state: Self = serde_json::from_slice(body).map_err(|_| {
            StoreError::new(StoreErrorKind::Corrupt, "an agent's record is not as it was written")
        })?;
        if state.v != 1 {
            return Err(StoreError::new(StoreErrorKind::Unsupported, "an agent has a newer format, upgrade"));
        }
        Ok(state)
    }
}
