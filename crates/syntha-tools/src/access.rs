use std::collections::BTreeSet;

use serde::Deserialize;
use syntha_mesh::Role;

use crate::error::{Error, ErrorKind, Result};
use crate::schema::{TOOLS, Tool};

/// Which tools an agent has, by how much may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Level {
    /// All but `delete_topic`.
    Safe,
    /// Get, push, list.
    Minimal,
    /// Get, list, discover, read the history.
    Readonly,
}

impl Level {
    /// The level's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Minimal => "minimal",
            Self::Readonly => "readonly",
        }
    }

    fn has(self, tool: &Tool) -> bool {
        tool.levels.contains(&self)
    }
}

/// Which tools an agent has: by role, by level, by a list of allowed and one of denied tools, or by several of them.
/// Each only takes away: a tool is there if every one of them leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    role: Option<Role>,
    level: Option<Level>,
    allowed: Option<BTreeSet<&'static str>>,
    denied: BTreeSet<&'static str>,
}

impl Access {
    /// The tools of a role. What the agent may do with them is decided by the mesh, whose host gives the agent its role and grants:
    /// see [`Mesh::set_role`](syntha_mesh::Mesh::set_role). A tool that is there can still be refused.
    #[must_use]
    pub fn role(role: Role) -> Self {
        Self { role: Some(role), ..Self::all() }
    }

    /// The tools of a level.
    #[must_use]
    pub fn level(level: Level) -> Self {
        Self { level: Some(level), ..Self::all() }
    }

    /// These tools and no other; `delete_topic` too, if it is named.
    ///
    /// # Errors
    ///
    /// `UnknownTool` for a name that no tool has.
    pub fn allow<N: AsRef<str>>(tools: impl IntoIterator<Item = N>) -> Result<Self> {
        Self::all().and_only(tools)
    }

    /// The tools of the role `contributor` without these. A list of what is denied grants nothing that is destructive.
    ///
    /// # Errors
    ///
    /// `UnknownTool` for a name that no tool has.
    pub fn deny<N: AsRef<str>>(tools: impl IntoIterator<Item = N>) -> Result<Self> {
        Self::default().without(tools)
    }

    /// Takes away what the role does not have.
    #[must_use]
    pub fn and_role(mut self, role: Role) -> Self {
        self.role = Some(self.role.map_or(role, |own| own.min(role)));
        self
    }

    /// Takes away what the level does not have.
    #[must_use]
    pub fn and_level(mut self, level: Level) -> Self {
        if let Some(own) = self.level.replace(level) {
            // Levels do not contain each other, so what the former one took away is kept as a list.
            let names = TOOLS.iter().filter(|tool| own.has(tool)).map(|tool| tool.name);
            self.narrow(names.collect());
        }
        self
    }

    /// Takes away all but these tools.
    ///
    /// # Errors
    ///
    /// `UnknownTool` for a name that no tool has.
    pub fn and_only<N: AsRef<str>>(mut self, tools: impl IntoIterator<Item = N>) -> Result<Self> {
        self.narrow(known(tools)?);
        Ok(self)
    }

    /// Takes away these tools.
    ///
    /// # Errors
    ///
    /// `UnknownTool` for a name that no tool has.
    pub fn without<N: AsRef<str>>(mut self, tools: impl IntoIterator<Item = N>) -> Result<Self> {
        self.denied.extend(known(tools)?);
        Ok(self)
    }

    /// Whether a tool is there. A name that no tool has never is.
    #[must_use]
    pub fn allows(&self, tool: &str) -> bool {
        Tool::find(tool).is_some_and(|tool| self.refusal(tool).is_none())
    }

    /// The role, where there is one.
    #[must_use]
    pub const fn agent_role(&self) -> Option<Role> {
        self.role
    }

    /// Why a tool is not there, in words for a model; `None` if it is.
    pub(crate) fn refusal(&self, tool: &Tool) -> Option<String> {
        if let Some(role) = self.role.filter(|role| *role < tool.least) {
            return Some(format!("The role {} does not have it.", role.name()));
        }
        if let Some(level) = self.level.filter(|level| !level.has(tool)) {
            return Some(format!("The level {} does not have it.", level.name()));
        }
        if self.denied.contains(tool.name) {
            return Some("It is on the list of denied tools.".to_owned());
        }
        match &self.allowed {
            Some(allowed) if !allowed.contains(tool.name) => {
                Some("It is not on the list of allowed tools.".to_owned())
            }
            _ => None,
        }
    }

    /// Nothing is taken away. Not public: who wants all tools says `Role::Admin`.
    const fn all() -> Self {
        Self { role: None, level: None, allowed: None, denied: BTreeSet::new() }
    }

    fn narrow(&mut self, names: BTreeSet<&'static str>) {
        match &mut self.allowed {
            Some(allowed) => allowed.retain(|name| names.contains(name)),
            None => self.allowed = Some(names),
        }
    }
}

/// The default role's tools.
impl Default for Access {
    fn default() -> Self {
        Self::role(Role::default())
    }
}

impl From<Role> for Access {
    fn from(role: Role) -> Self {
        Self::role(role)
    }
}

impl From<Level> for Access {
    fn from(level: Level) -> Self {
        Self::level(level)
    }
}

/// A misspelt name must not widen anything by being skipped.
fn known<N: AsRef<str>>(tools: impl IntoIterator<Item = N>) -> Result<BTreeSet<&'static str>> {
    tools.into_iter().map(|name| Tool::find(name.as_ref()).map(|tool| tool.name).ok_or(UNKNOWN)).collect()
}

const UNKNOWN: Error =
    Error::new(ErrorKind::UnknownTool, "a list names a tool that there is not, correct its spelling");

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 4] = [Role::Readonly, Role::Contributor, Role::Moderator, Role::Admin];
    const LEVELS: [Level; 3] = [Level::Safe, Level::Minimal, Level::Readonly];

    /// Who has what. A change here is a change of what agents in production may do.
    #[test]
    fn the_table() {
        let mut table = vec!["tool: readonly contributor moderator admin | safe minimal readonly".to_owned()];
        for tool in TOOLS {
            let mark = |has: bool| if has { "x" } else { "-" };
            let roles = ROLES.map(|role| mark(Access::role(role).allows(tool.name)));
            let levels = LEVELS.map(|level| mark(Access::level(level).allows(tool.name)));
            table.push(format!("{}: {} | {}", tool.name, roles.join(" "), levels.join(" ")));
        }
        let expected = [
            "tool: readonly contributor moderator admin | safe minimal readonly",
            "get_context: x x x x | x x x",
            "push_context: - x x x | x x -",
            "list_context: x x x x | x x x",
            "subscribe_to_topics: - x x x | x - -",
            "unsubscribe_from_topics: - x x x | x - -",
            "discover_topics: x x x x | x - x",
            "subscribe_member: - - x x | - - -",
            "unsubscribe_member: - - x x | - - -",
            "delete_topic: - - - x | - - -",
            "append_history: - x x x | x - -",
            "get_history: x x x x | x - x",
        ];
        assert_eq!(table, expected);
    }

    #[test]
    fn combining_only_narrows() {
        let names: Vec<_> = TOOLS.iter().map(|tool| tool.name).collect();
        let mut all = vec![Access::default()];
        all.extend(ROLES.map(Access::role));
        all.extend(LEVELS.map(Access::level));
        all.push(Access::allow(["get_context", "delete_topic"]).unwrap());
        all.push(Access::deny(["get_context"]).unwrap());
        for access in &all {
            let mut combined: Vec<_> = ROLES.map(|role| access.clone().and_role(role)).to_vec();
            combined.extend(LEVELS.map(|level| access.clone().and_level(level)));
            combined.push(access.clone().and_only(["push_context", "delete_topic"]).unwrap());
            combined.push(access.clone().without(["list_context"]).unwrap());
            for one in combined {
                for name in &names {
                    assert!(!one.allows(name) || access.allows(name), "{name}: {access:?} {one:?}");
                }
            }
        }
    }

    #[test]
    fn lists_are_exact() {
        let allow = Access::allow(["delete_topic"]).unwrap();
        assert!(allow.allows("delete_topic") && !allow.allows("get_context"));
        assert!(!allow.and_role(Role::Contributor).allows("delete_topic"));
        let deny = Access::deny(["push_context"]).unwrap();
        assert!(!deny.allows("push_context") && !deny.allows("delete_topic") && deny.allows("get_context"));
        assert!(!Access::allow::<&str>([]).unwrap().allows("get_context"), "an empty list allows nothing");
        for name in ["get_contxt", "Get_Context", "get_context ", ""] {
            assert_eq!(Access::allow([name]).unwrap_err().kind(), ErrorKind::UnknownTool);
            assert_eq!(Access::deny([name]).unwrap_err().kind(), ErrorKind::UnknownTool);
            assert!(!Access::role(Role::Admin).allows(name));
        }
    }
}
