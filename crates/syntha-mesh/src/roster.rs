use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use syntha_store::{Error as StoreError, ErrorKind as StoreErrorKind};

use crate::error::{Error, ErrorKind, Result};
use crate::role::{AgentRole, Role};
use crate::standing::Standing;

/// The user's agents, by name. Boxed, since a map keeps room for more than it has.
pub(crate) type Roster = HashMap<Arc<str>, Box<AgentState>>;

/// Everything about one agent. One record, so that a permission is never half changed. Stored as JSON: version 1, or version 2 if
/// it has a standing, which a program that knows version 1 alone refuses and so never overlooks.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) standing: Option<Box<Standing>>,
}

impl AgentState {
    pub(crate) fn register() -> Result<Self> {
        let incarnation = getrandom::u64().map_err(|source| {
            Error::new(ErrorKind::Storage, "the system's random source failed").with_source(source)
        })?;
        Ok(Self { v: 1, incarnation, topics: Vec::new(), post: None, read: None, standing: None })
    }

    /// Whether it has subscribed to a topic, which need not mean that it may hear it.
    pub(crate) fn is_subscribed(&self, topic: &str) -> bool {
        self.topics.iter().any(|own| **own == *topic)
    }

    /// Its role, if it is one of the four.
    pub(crate) fn role(&self) -> Option<Role> {
        match self.standing.as_deref().and_then(|standing| standing.role.as_ref()) {
            None => Some(Role::default()),
            Some(AgentRole::Standard(role)) => Some(*role),
            Some(AgentRole::Custom(_)) => None,
        }
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.standing.as_deref().is_some_and(|standing| standing.trusted)
    }

    /// Sets the standing; the one that an agent has which was given nothing is none.
    pub(crate) fn set_standing(&mut self, standing: Standing) {
        self.standing = (standing != Standing::default()).then(|| Box::new(standing));
        self.v = if self.standing.is_some() { 2 } else { 1 };
    }

    pub(crate) fn encode(&self) -> Result<Bytes> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the agent's record can't be written as JSON"))
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, StoreError> {
        let corrupt =
            || StoreError::new(StoreErrorKind::Corrupt, "an agent's record is not as it was written");
        // Before the rest of it, which a newer format may write differently.
        #[derive(Deserialize)]
        struct Format {
            v: u8,
        }
        let Format { v } = serde_json::from_slice(body).map_err(|_| corrupt())?;
        if !(1..=2).contains(&v) {
            return Err(StoreError::new(StoreErrorKind::Unsupported, "an agent has a newer format, upgrade"));
        }
        let state: Self = serde_json::from_slice(body).map_err(|_| corrupt())?;
        if (v == 2) == state.standing.is_some() { Ok(state) } else { Err(corrupt()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Grant;
    use crate::role::CustomRole;
    use crate::standing::Permit;
    use syntha_store::Timestamp;

    const V1: &str = r#"{"v":1,"incarnation":7,"topics":["a"],"post":null,"read":["a"]}"#;
    const V2: &str = concat!(
        r#"{"v":2,"incarnation":7,"topics":[],"post":null,"read":null,"standing":{"#,
        r#""role":{"custom":{"name":"scribe","grants":[{"on":{"prefix":"notes/"},"may":["read","write"]}]}},"#,
        r#""grants":[{"on":{"topic":"news"},"may":["read"],"until":1767225600000}],"#,
        r#""denials":[{"on":"threads","may":["read"]}],"trusted":true,"only_trusted":true}}"#
    );

    fn state(text: &str) -> AgentState {
        AgentState::decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn records_keep_their_text() {
        for text in [V1, V2] {
            assert_eq!(state(text).encode().unwrap(), text.as_bytes());
        }
        let old = state(V1);
        assert_eq!((old.role(), old.is_trusted()), (Some(Role::Contributor), false));
        let mut standing = Standing::default();
        let role = CustomRole::new("scribe", [Grant::prefix("notes/").unwrap().read().write()]).unwrap();
        let news = Grant::topic("news").unwrap().read().until(Timestamp(1_767_225_600_000));
        for permit in [
            Permit::Role(Some(role.into())),
            Permit::Grant(news),
            Permit::Deny(Grant::threads().read()),
            Permit::Trusted(true),
            Permit::OnlyTrusted(true),
        ] {
            standing.apply(&permit, Timestamp(1)).unwrap();
        }
        let mut new = state(r#"{"v":1,"incarnation":7,"topics":[],"post":null,"read":null}"#);
        new.set_standing(standing);
        assert_eq!(new, state(V2));
        new.set_standing(Standing::default());
        assert_eq!(new.v, 1, "an agent that was given nothing is as it was");
    }

    #[test]
    fn what_is_not_known_is_not_read() {
        let corrupt = [
            V2.replace("\"write\"", "\"wrote\""),
            V2.replace("\"denials\"", "\"refusals\""),
            V2.replace("\"threads\"", "\"rooms\""),
            V2.replace("\"may\":[\"read\"]}]", "\"may\":[\"read\"],\"unless\":1}]"),
            V2.replace("\"v\":2", "\"v\":1"),
            V1.replace("\"v\":1", "\"v\":2"),
        ];
        for text in corrupt {
            let kind = AgentState::decode(text.as_bytes()).unwrap_err().kind();
            assert_eq!(kind, StoreErrorKind::Corrupt, "{text}");
        }
        let newer = AgentState::decode(br#"{"v":3,"standing":[]}"#).unwrap_err();
        assert_eq!(newer.kind(), StoreErrorKind::Unsupported);
    }
}
