//! What an agent is: one of four roles, or one of the host's own.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::grant::{Effects, GRANTS, Grant};
use crate::names::RoleName;

/// What an agent may do, by what it is. Each role has what the one before it has; everything outside of it is denied unless it
/// is granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Reads: get, list, discover, watch, read the history.
    Readonly,
    /// And writes: push, remove what it wrote itself, subscribe, unsubscribe, append to the history.
    #[default]
    Contributor,
    /// And manages others' subscriptions.
    Moderator,
    /// And deletes: topics, and entries that others wrote.
    Admin,
}

impl Role {
    /// The role's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Readonly => "readonly",
            Self::Contributor => "contributor",
            Self::Moderator => "moderator",
            Self::Admin => "admin",
        }
    }

    /// What the role may do to whatever it is allowed to see.
    pub(crate) const fn effects(self) -> Effects {
        match self {
            Self::Readonly => Effects::READ,
            Self::Contributor => Effects::READ.and(Effects::WRITE),
            Self::Moderator => Effects::READ.and(Effects::WRITE).and(Effects::MANAGE),
            Self::Admin => Effects::ALL,
        }
    }
}

/// The role of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AgentRole {
    /// One of the four.
    Standard(Role),
    /// One of the host's own.
    Custom(CustomRole),
}

impl AgentRole {
    /// The role's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Standard(role) => role.name(),
            Self::Custom(role) => role.name(),
        }
    }
}

/// The role of an agent that was given none.
impl Default for AgentRole {
    fn default() -> Self {
        Self::Standard(Role::default())
    }
}

impl From<Role> for AgentRole {
    fn from(role: Role) -> Self {
        Self::Standard(role)
    }
}

impl From<CustomRole> for AgentRole {
    fn from(role: CustomRole) -> Self {
        Self::Custom(role)
    }
}

/// A role that is made of grants and has nothing else. An agent has a copy of it: changing the role of one changes no other's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomRole {
    name: Arc<str>,
    grants: Vec<Grant>,
}

impl CustomRole {
    /// A role of these grants.
    ///
    /// # Errors
    ///
    /// `Invalid` for a text that is no [`RoleName`] or is the name of one of the four roles; `LimitExceeded` for more than 64 grants.
    pub fn new<N>(name: N, grants: impl IntoIterator<Item = Grant>) -> Result<Self>
    where
        N: TryInto<RoleName>,
        Error: From<N::Error>,
    {
        let name = name.try_into()?;
        let standard = [Role::Readonly, Role::Contributor, Role::Moderator, Role::Admin];
        if standard.iter().any(|role| role.name() == name.as_str()) {
            return Err(Error::new(ErrorKind::Invalid, "the name is one of the four roles', take another"));
        }
        let grants: Vec<_> = grants.into_iter().take(GRANTS + 1).collect();
        if grants.len() > GRANTS {
            return Err(Error::new(ErrorKind::LimitExceeded, "a role has at most 64 grants"));
        }
        Ok(Self { name: Arc::clone(name.shared()), grants })
    }

    /// The role's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is made of.
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }
}

/// Shows no name.
impl std::fmt::Debug for CustomRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CustomRole").field("grants", &self.grants.len()).finish_non_exhaustive()
    }
}
