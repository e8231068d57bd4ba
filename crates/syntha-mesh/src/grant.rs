//! What is granted to an agent, or denied it: on a topic, on keys that start alike, or on threads.

use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use syntha_store::Timestamp;

use crate::error::{Error, Result};
use crate::names::{KeyPrefix, Topic};

/// The most grants of an agent, of a role, and the most denials of an agent.
pub(crate) const GRANTS: usize = 64;

/// What may be done to something. A closed set.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Effects(u8);

impl Effects {
    pub(crate) const READ: Self = Self(1);
    /// Also: post to a topic, append to a thread.
    pub(crate) const WRITE: Self = Self(2);
    pub(crate) const MANAGE: Self = Self(4);
    pub(crate) const DELETE: Self = Self(8);
    pub(crate) const ALL: Self = Self(15);
    const NAMES: [(Self, &'static str); 4] =
        [(Self::READ, "read"), (Self::WRITE, "write"), (Self::MANAGE, "manage"), (Self::DELETE, "delete")];

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) const fn has(self, all: Self) -> bool {
        self.0 & all.0 == all.0
    }

    pub(crate) const fn meets(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(one, _)| self.has(*one)).map(|(_, name)| name)
    }
}

impl Serialize for Effects {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

/// A name that this program does not know is an error: a denial must not lose a part of it.
impl<'de> Deserialize<'de> for Effects {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut effects = Self::default();
        for name in Vec::<String>::deserialize(deserializer)? {
            let known = Self::NAMES.into_iter().find(|(_, known)| *known == name);
            let (one, _) = known.ok_or_else(|| D::Error::custom("no effect of a grant"))?;
            effects = effects.and(one);
        }
        Ok(effects)
    }
}

/// What a grant is on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Scope {
    /// One topic.
    Topic(Arc<str>),
    /// Keys that start so.
    Prefix(Arc<str>),
    /// The threads that are for the agent.
    Threads,
}

/// What is granted to an agent, or denied it: effects on a scope, for ever or up to a moment.
///
/// `read` is to read, to hear, and for a topic to subscribe. `write` is to push, to post to a topic, to append to a thread, and to
/// remove what the agent wrote itself. `manage` is to change others' subscriptions to a topic. `delete` is to delete a topic, and to
/// remove entries that others wrote.
///
/// A granted `write` on a prefix also lets the agent overwrite entries there that it can't see, and `delete` remove them; that there is
/// one shows, then, in what the call answers. A granted `read` opens nothing that is addressed to others.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use = "a grant holds for nobody until it is granted"]
pub struct Grant {
    #[serde(rename = "on")]
    pub(crate) scope: Scope,
    #[serde(rename = "may")]
    pub(crate) effects: Effects,
    /// Milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

impl Grant {
    /// On a topic, exactly this one. Nothing yet.
    ///
    /// # Errors
    ///
    /// `Invalid` for a text that is no [`Topic`].
    pub fn topic<T>(topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        Ok(Self::new(Scope::Topic(Arc::clone(topic.try_into()?.shared()))))
    }

    /// On keys that start so; on every key with an empty prefix. Nothing yet.
    ///
    /// # Errors
    ///
    /// `Invalid` for a text that is no [`KeyPrefix`].
    pub fn prefix<P>(prefix: P) -> Result<Self>
    where
        P: TryInto<KeyPrefix>,
        Error: From<P::Error>,
    {
        Ok(Self::new(Scope::Prefix(Arc::clone(prefix.try_into()?.shared()))))
    }

    /// On the threads that are for the agent: only `read` and `write` mean something there. Nothing yet.
    pub const fn threads() -> Self {
        Self::new(Scope::Threads)
    }

    const fn new(scope: Scope) -> Self {
        Self { scope, effects: Effects(0), until: None }
    }

    /// And to read.
    pub const fn read(self) -> Self {
        self.and(Effects::READ)
    }

    /// And to write.
    pub const fn write(self) -> Self {
        self.and(Effects::WRITE)
    }

    /// And to post: what `write` is called on a topic.
    pub const fn post(self) -> Self {
        self.and(Effects::WRITE)
    }

    /// And to manage others' subscriptions.
    pub const fn manage(self) -> Self {
        self.and(Effects::MANAGE)
    }

    /// And to delete.
    pub const fn delete(self) -> Self {
        self.and(Effects::DELETE)
    }

    /// Up to a moment; it no longer holds at that moment. Of a denial and of what is revoked it is not looked at.
    pub const fn until(mut self, at: Timestamp) -> Self {
        self.until = Some(at.0);
        self
    }

    const fn and(mut self, effects: Effects) -> Self {
        self.effects = self.effects.and(effects);
        self
    }

    /// What it is on.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What it lets do: some of `read`, `write`, `manage`, `delete`.
    pub fn effects(&self) -> impl Iterator<Item = &'static str> {
        self.effects.names()
    }

    /// The moment from which it no longer holds.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        self.until.map(Timestamp)
    }

    pub(crate) fn holds(&self, now: impl FnOnce() -> Timestamp) -> bool {
        self.until.is_none_or(|until| now().0 < until)
    }

    /// A denial holds for ever.
    pub(crate) const fn for_ever(mut self) -> Self {
        self.until = None;
        self
    }

    /// What both allow, if they are on the same.
    pub(crate) fn common(&self, other: &Self) -> Option<Self> {
        let effects = self.effects.common(other.effects);
        (self.scope == other.scope && !effects.is_empty()).then(|| Self {
            scope: self.scope.clone(),
            effects,
            until: match (self.until, other.until) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
        })
    }
}

/// Shows no name.
impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic(_) => "Topic",
            Self::Prefix(_) => "Prefix",
            Self::Threads => "Threads",
        })
    }
}

/// Shows no name.
impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.effects().collect();
        f.debug_struct("Grant").field("on", &self.scope).field("may", &names).finish_non_exhaustive()
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}
