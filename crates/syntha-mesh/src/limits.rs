//! What one user may use at most: the kinds of limits, where they come from, and how they are kept.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use syntha_store::{Error as StoreError, ErrorKind as StoreErrorKind};

use crate::config::MeshConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::names::PlanName;

/// The name of a user's record of limits, in the keyspace of agents: no agent can be called so.
pub(crate) const RECORD: &str = "\0limits";
/// Bytes of a megabyte, as everywhere in these limits.
const MB: u64 = 1_000_000;
/// How many calls of one user are under way at a time unless somebody says otherwise.
const IN_FLIGHT: u64 = 16_384;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// Entries that are stored, expired ones until they are swept, and those that are kept for an undo.
    Contexts,
    /// Registered agents.
    Agents,
    /// Different topics that an agent is subscribed to or a stored entry is for.
    Topics,
    /// Bytes of keys, JSON text and history, before they are sealed.
    Storage,
    /// Bytes of one value's or message's JSON text.
    Value,
    /// Bytes of history: names of threads, and messages.
    History,
    /// Calls a second in one process.
    Operations,
    /// Calls that are under way at a time in one process: writes that wait, and reads from the storage.
    InFlight,
    /// Sessions that are open at a time in one process.
    Sessions,
}

impl Limit {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::Contexts,
        Self::Agents,
        Self::Topics,
        Self::Storage,
        Self::Value,
        Self::History,
        Self::Operations,
        Self::InFlight,
        Self::Sessions,
    ];

    /// Its name, as settings, records and answers spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Contexts => "contexts",
            Self::Agents => "agents",
            Self::Topics => "topics",
            Self::Storage => "storage",
            Self::Value => "value",
            Self::History => "history",
            Self::Operations => "operations",
            Self::InFlight => "in_flight",
            Self::Sessions => "sessions",
        }
    }

    /// What is counted.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Contexts => "entries",
            Self::Agents => "agents",
            Self::Topics => "topics",
            Self::Storage | Self::Value | Self::History => "bytes",
            Self::Operations => "calls a second",
            Self::InFlight => "calls",
            Self::Sessions => "sessions",
        }
    }

    /// What an error says that has reached it.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Contexts => {
                "the user's limit of entries is reached, remove entries or ask for a higher limit"
            }
            Self::Agents => {
                "the user's limit of agents is reached, unregister agents or ask for a higher limit"
            }
            Self::Topics => "the user's limit of topics is reached, delete topics or ask for a higher limit",
            Self::Storage => {
                "the user's limit of storage is reached, remove entries or history or ask for a higher limit"
            }
            Self::Value => {
                "the value is larger than this user's values may be, shorten it or ask for a higher limit"
            }
            Self::History => {
                "the user's limit of history is reached, delete threads or ask for a higher limit"
            }
            Self::Operations => "the user's calls come faster than they may, wait and try again",
            Self::InFlight => "too many calls of this user are under way already, wait and try again",
            Self::Sessions => "the user's limit of sessions is reached, end one or ask for a higher limit",
        }
    }
}

/// A limit that stands against a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exceeded {
    /// Which one.
    pub limit: Limit,
    /// The most that it allows, in its [unit](Limit::unit).
    pub most: u64,
    /// What was used before the call; of [`Limit::Value`] the size that was refused, at least.
    pub used: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, most, used } = self;
        write!(f, "{}: {used} of at most {most} {}", limit.name(), limit.unit())
    }
}

/// How much of each thing may be used. What is not said here the next layer says: a user's own limits come before those of the user's
/// plan, these before the deployment's, and these before what is built in, which limits values, and calls under way to 16,384.
///
/// [`u64::MAX`] says that there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
#[non_exhaustive]
pub struct ResourceLimits {
    /// See [`Limit::Contexts`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contexts: Option<u64>,
    /// See [`Limit::Agents`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<u64>,
    /// See [`Limit::Topics`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topics: Option<u64>,
    /// See [`Limit::Storage`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<u64>,
    /// See [`Limit::Value`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
    /// See [`Limit::History`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<u64>,
    /// See [`Limit::Operations`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    /// See [`Limit::InFlight`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// See [`Limit::Sessions`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
}

impl ResourceLimits {
    /// Nothing said.
    pub const fn new() -> Self {
        Self {
            contexts: None,
            agents: None,
            topics: None,
            storage: None,
            value: None,
            history: None,
            operations: None,
            in_flight: None,
            sessions: None,
        }
    }

    /// No limit of anything, said explicitly.
    pub fn unlimited() -> Self {
        Limit::ALL.into_iter().fold(Self::new(), |limits, limit| limits.with(limit, Some(u64::MAX)))
    }

    /// At most so many entries.
    pub const fn max_contexts(mut self, entries: u64) -> Self {
        self.contexts = Some(entries);
        self
    }

    /// At most so many registered agents.
    pub const fn max_agents(mut self, agents: u64) -> Self {
        self.agents = Some(agents);
        self
    }

    /// At most so many topics.
    pub const fn max_topics(mut self, topics: u64) -> Self {
        self.topics = Some(topics);
        self
    }

    /// At most so many megabytes, of 10^6 bytes, of keys, values and history.
    pub const fn storage_limit_mb(self, megabytes: u64) -> Self {
        self.storage_limit_bytes(megabytes.saturating_mul(MB))
    }

    /// At most so many bytes of keys, values and history.
    pub const fn storage_limit_bytes(mut self, bytes: u64) -> Self {
        self.storage = Some(bytes);
        self
    }

    /// At most so many bytes of one value's or message's JSON text. The storage takes at most 64 MiB, whatever is said here.
    pub const fn max_value_bytes(mut self, bytes: u64) -> Self {
        self.value = Some(bytes);
        self
    }

    /// At most so many bytes of history.
    pub const fn max_history_bytes(mut self, bytes: u64) -> Self {
        self.history = Some(bytes);
        self
    }

    /// At most so many calls a second in one process; after a second of rest so many at once.
    pub const fn max_operations_per_second(mut self, calls: u64) -> Self {
        self.operations = Some(calls);
        self
    }

    /// At most so many calls under way at a time in one process.
    pub const fn max_in_flight(mut self, calls: u64) -> Self {
        self.in_flight = Some(calls);
        self
    }

    /// At most so many sessions open at a time in one process.
    pub const fn max_sessions(mut self, sessions: u64) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// What is said of one limit.
    #[must_use]
    pub const fn of(&self, limit: Limit) -> Option<u64> {
        match limit {
            Limit::Contexts => self.contexts,
            Limit::Agents => self.agents,
            Limit::Topics => self.topics,
            Limit::Storage => self.storage,
            Limit::Value => self.value,
            Limit::History => self.history,
            Limit::Operations => self.operations,
            Limit::InFlight => self.in_flight,
            Limit::Sessions => self.sessions,
        }
    }

    /// The same with one limit said, or no longer said.
    pub const fn with(mut self, limit: Limit, most: Option<u64>) -> Self {
        let place = match limit {
            Limit::Contexts => &mut self.contexts,
            Limit::Agents => &mut self.agents,
            Limit::Topics => &mut self.topics,
            Limit::Storage => &mut self.storage,
            Limit::Value => &mut self.value,
            Limit::History => &mut self.history,
            Limit::Operations => &mut self.operations,
            Limit::InFlight => &mut self.in_flight,
            Limit::Sessions => &mut self.sessions,
        };
        *place = most;
        self
    }

    /// What is said here, and else there.
    pub fn or(self, other: Self) -> Self {
        Limit::ALL
            .into_iter()
            .fold(self, |limits, limit| limits.with(limit, limits.of(limit).or(other.of(limit))))
    }
}

/// What one user was given. Kept with the user's data and not in its exports; a restore keeps what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserLimits {
    /// The plan, whose limits the host's configuration says. A user of a plan that the host does not know reads and deletes, and uses no more.
    pub plan: Option<PlanName>,
    /// What comes before the plan's.
    pub own: ResourceLimits,
}

impl UserLimits {
    /// Nothing said: the deployment's limits hold.
    #[must_use]
    pub const fn new() -> Self {
        Self { plan: None, own: ResourceLimits::new() }
    }

    /// With a plan.
    ///
    /// # Errors
    ///
    /// `Invalid` for a text that is no [`PlanName`].
    pub fn plan<P>(mut self, plan: P) -> Result<Self>
    where
        P: TryInto<PlanName>,
        Error: From<P::Error>,
    {
        self.plan = Some(plan.try_into()?);
        Ok(self)
    }

    /// With limits of its own.
    #[must_use]
    pub const fn own(mut self, own: ResourceLimits) -> Self {
        self.own = own;
        self
    }

    pub(crate) fn encode(&self) -> Result<Bytes> {
        let plan = self.plan.as_ref().map(|plan| Arc::clone(plan.shared()));
        serde_json::to_vec(&Stored { v: 1, plan, own: self.own })
            .map(Bytes::from)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the limits can't be written as JSON"))
    }

    /// INVARIANT: what is not understood is an error and no missing limit: a damaged or newer record lets nobody use more.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, StoreError> {
        let corrupt =
            || StoreError::new(StoreErrorKind::Corrupt, "the user's limits are not as they were written");
        #[derive(Deserialize)]
        struct Format {
            v: u8,
        }
        let Format { v } = serde_json::from_slice(body).map_err(|_| corrupt())?;
        if v != 1 {
            return Err(StoreError::new(
                StoreErrorKind::Unsupported,
                "the user's limits have a newer format, upgrade",
            ));
        }
        let Stored { plan, own, .. } = serde_json::from_slice(body).map_err(|_| corrupt())?;
        let plan = plan.map(PlanName::new).transpose().map_err(|_| corrupt())?;
        Ok(Self { plan, own })
    }
}

/// What the record holds, as JSON. Version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    v: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plan: Option<Arc<str>>,
    own: ResourceLimits,
}

/// What holds for a user, all layers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effective {
    limits: ResourceLimits,
    /// The user's plan is none that this host knows.
    pub(crate) unknown_plan: bool,
}

impl Effective {
    pub(crate) fn of(config: &MeshConfig, user: Option<&UserLimits>) -> Self {
        let plan = user.and_then(|user| user.plan.as_ref());
        let known = plan.map(|plan| config.plans.get(plan));
        let own = user.map_or_else(ResourceLimits::new, |user| user.own);
        let built_in =
            ResourceLimits::new().max_value_bytes(config.value_bytes as u64).max_in_flight(IN_FLIGHT);
        let limits = own.or(known.flatten().copied().unwrap_or_default()).or(config.limits).or(built_in);
        Self { limits, unknown_plan: known == Some(None) }
    }

    /// The most that is allowed; `None` for anything.
    pub(crate) fn most(&self, limit: Limit) -> Option<u64> {
        self.limits.of(limit).filter(|most| *most != u64::MAX)
    }

    /// The same as a number: [`u64::MAX`] for anything.
    pub(crate) fn number(&self, limit: Limit) -> u64 {
        self.limits.of(limit).unwrap_or(u64::MAX)
    }

    /// Whether anything that is stored is limited.
    pub(crate) fn counts(&self) -> bool {
        let stored = [Limit::Contexts, Limit::Agents, Limit::Topics, Limit::Storage, Limit::History];
        self.unknown_plan || stored.into_iter().any(|limit| self.most(limit).is_some())
    }

    /// The most bytes of a value: no more than a commit takes, whatever was said.
    pub(crate) fn value(&self) -> u64 {
        self.number(Limit::Value).min(syntha_store::BATCH_BYTES as u64)
    }

    /// INVARIANT: fails if a text of so many bytes is more than a value may have.
    pub(crate) fn check_value(&self, bytes: u64) -> Result<()> {
        let most = self.value();
        if bytes <= most {
            return Ok(());
        }
        Err(Error::limit(ErrorKind::LimitExceeded, Exceeded { limit: Limit::Value, most, used: bytes }))
    }
}

/// A limit, and what is used of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitUsage {
    /// Which one.
    pub limit: Limit,
    /// What is used now; `None` where each call is looked at by itself.
    pub used: Option<u64>,
    /// The most that may be used; `None` for anything.
    pub most: Option<u64>,
}

impl LimitUsage {
    /// How much more may be used: nothing if more is used than may be. `None` for anything, and where each call is looked at by itself.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        Some(self.most?.saturating_sub(self.used?))
    }
}

/// What a user uses, and may use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageReport {
    /// What the user was given.
    pub given: UserLimits,
    /// Whether the host knows the user's plan; `true` for none.
    pub plan_is_known: bool,
    /// One for each of [`Limit::ALL`], in its order.
    pub limits: Vec<LimitUsage>,
}

impl UsageReport {
    /// One of them.
    #[must_use]
    pub fn of(&self, limit: Limit) -> Option<LimitUsage> {
        self.limits.iter().copied().find(|one| one.limit == limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_their_text() {
        let own = ResourceLimits::new().max_contexts(5).storage_limit_mb(2);
        let limits = UserLimits::new().plan("free").unwrap().own(own);
        let text = r#"{"v":1,"plan":"free","own":{"contexts":5,"storage":2000000}}"#;
        assert_eq!(limits.encode().unwrap(), text.as_bytes());
        assert_eq!(UserLimits::decode(text.as_bytes()).unwrap(), limits);
        assert_eq!(UserLimits::new().encode().unwrap(), &br#"{"v":1,"own":{}}"#[..]);
        let all = UserLimits::new().own(ResourceLimits::unlimited());
        assert_eq!(UserLimits::decode(&all.encode().unwrap()).unwrap(), all);
    }

    #[test]
    fn what_is_not_known_is_not_read() {
        for text in [
            "",
            r#"{"v":1}"#,
            r#"{"v":1,"own":{"context":5}}"#,
            r#"{"v":1,"own":{"contexts":-1}}"#,
            r#"{"v":1,"own":{},"more":1}"#,
            r#"{"v":1,"plan":"","own":{}}"#,
        ] {
            assert_eq!(
                UserLimits::decode(text.as_bytes()).unwrap_err().kind(),
                StoreErrorKind::Corrupt,
                "{text}"
            );
        }
        let newer = UserLimits::decode(br#"{"v":2,"own":[]}"#).unwrap_err();
        assert_eq!(newer.kind(), StoreErrorKind::Unsupported);
    }

    #[test]
    fn each_layer_says_what_the_one_before_does_not() {
        let limits = ResourceLimits::new().max_contexts(1).max_agents(1).max_topics(1);
        let mut config = MeshConfig { limits, ..MeshConfig::default() };
        let plan = ResourceLimits::new().max_contexts(2).max_agents(u64::MAX);
        config.plans.insert(PlanName::new("free").unwrap(), plan);
        let own = ResourceLimits::new().max_contexts(3);
        let user = UserLimits::new().plan("free").unwrap().own(own);
        let effective = Effective::of(&config, Some(&user));
        let most = |limit| effective.most(limit);
        assert_eq!(
            [Limit::Contexts, Limit::Agents, Limit::Topics, Limit::Value, Limit::InFlight].map(most),
            [Some(3), None, Some(1), Some(1 << 20), Some(16_384)]
        );
        assert!(!effective.unknown_plan && effective.counts());
        let lost = UserLimits::new().plan("gone").unwrap();
        assert!(Effective::of(&MeshConfig::default(), Some(&lost)).unknown_plan);
        assert!(!Effective::of(&MeshConfig::default(), None).counts());
    }

    #[test]
    fn a_text_names_the_limit_its_value_and_what_to_do() {
        let error =
            Error::limit(ErrorKind::LimitExceeded, Exceeded { limit: Limit::Contexts, most: 7, used: 7 });
        assert_eq!(
            error.to_string(),
            "the user's limit of entries is reached, remove entries or ask for a higher limit (contexts: 7 of at most 7 entries)"
        );
    }

    #[test]
    fn names_are_those_of_the_fields() {
        for limit in Limit::ALL {
            let one = ResourceLimits::new().with(limit, Some(9));
            assert_eq!(serde_json::to_value(one).unwrap(), serde_json::json!({ limit.name(): 9 }));
            assert_eq!(one.of(limit), Some(9));
        }
    }
}
