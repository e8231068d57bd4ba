use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use syntha_mesh::{Agent, AgentName, Role};

use crate::access::{Access, Level};
use crate::error::{Error, ErrorKind, Result};
use crate::handler::ToolHandler;

/// Which agents there are and which tools each has: `{name: {role | level | allowed_tools | denied_tools}}`.
///
/// An agent with several of the four has what all of them leave; one with none of them, or with `denied_tools` alone, has
/// at most the default role's tools. Nothing is skipped: an unknown field, role, level or tool, `null`, a wrong agent name
/// and a name that stands twice are errors.
///
/// ```
/// # use syntha_tools::{AgentTools, ErrorKind};
/// let agents = AgentTools::from_json(r#"{
///     "Planner": { "role": "contributor", "denied_tools": ["unsubscribe_from_topics"] },
///     "Reader": { "level": "readonly" },
///     "Writer": { "allowed_tools": ["push_context"] }
/// }"#)?;
/// assert_eq!(agents.len(), 3);
/// let misspelt = AgentTools::from_json(r#"{ "Reader": { "denied_tools": ["push_contxt"] } }"#);
/// assert_eq!(misspelt.unwrap_err().kind(), ErrorKind::UnknownTool);
/// # Ok::<(), syntha_tools::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct AgentTools {
    agents: BTreeMap<AgentName, Access>,
}

impl AgentTools {
    /// No agents; [`agent`](Self::agent) adds one.
    #[must_use]
    pub const fn new() -> Self {
        Self { agents: BTreeMap::new() }
    }

    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// `Invalid` with the parser's error as its source, `UnknownTool`, `NameTaken`, and `Mesh` for a text that is no
    /// agent's name.
    pub fn from_json(text: &str) -> Result<Self> {
        let Listed(list) = serde_json::from_str(text).map_err(|error| {
            Error::new(ErrorKind::Invalid, "the agents' tools are not configured as documented, correct them")
                .with_source(error)
        })?;
        list.into_iter().try_fold(Self::new(), |agents, (name, row)| agents.agent(name, row.access()?))
    }

    /// Adds an agent.
    ///
    /// # Errors
    ///
    /// `NameTaken` for a name that is there already, `Mesh` for a text that is no agent's name.
    pub fn agent<N>(mut self, name: N, access: impl Into<Access>) -> Result<Self>
    where
        N: TryInto<AgentName>,
        syntha_mesh::Error: From<N::Error>,
    {
        let name = name.try_into().map_err(syntha_mesh::Error::from)?;
        if self.agents.insert(name, access.into()).is_some() {
            return Err(Error::new(ErrorKind::NameTaken, "an agent is configured twice, remove one"));
        }
        Ok(self)
    }

    /// The configured agents' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(AgentName::as_str)
    }

    /// How many agents there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// Whether there is no agent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// The handlers for one user, by agent name. `mint` makes that user's agents, as `|name| session.agent(name)` does.
    ///
    /// # Errors
    ///
    /// The first error of `mint`; then there are no handlers.
    pub fn handlers<E>(
        &self,
        mut mint: impl FnMut(&AgentName) -> Result<Agent, E>,
    ) -> Result<BTreeMap<String, ToolHandler>, E> {
        let handler = |(name, access): (&AgentName, &Access)| {
            Ok((name.as_str().to_owned(), ToolHandler::new(&mint(name)?, access.clone())))
        };
        self.agents.iter().map(handler).collect()
    }
}

/// Shows no name.
impl fmt::Debug for AgentTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentTools").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// One agent's row.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Row {
    #[serde(deserialize_with = "given")]
    role: Option<Role>,
    #[serde(deserialize_with = "given")]
    level: Option<Level>,
    #[serde(deserialize_with = "given")]
    allowed_tools: Option<Vec<String>>,
    #[serde(deserialize_with = "given")]
    denied_tools: Option<Vec<String>>,
}

impl Row {
    fn access(self) -> Result<Access> {
        let mut access = match (self.role, self.level, &self.allowed_tools) {
            (Some(role), ..) => Access::role(role),
            (None, Some(level), _) => Access::level(level),
            (None, None, Some(allowed)) => Access::allow(allowed)?,
            (None, None, None) => Access::default(),
        };
        if let Some(level) = self.level {
            access = access.and_level(level);
        }
        if let Some(allowed) = self.allowed_tools {
            access = access.and_only(allowed)?;
        }
        access.without(self.denied_tools.into_iter().flatten())
    }
}

/// `null` is refused: whether it means "no list" or "an empty list" is the difference between all tools and none.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// Rows in their order, with names that stand twice: a map would keep the last of them and hide the others.
struct Listed(Vec<(String, Row)>);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        struct Rows;

        impl<'de> Visitor<'de> for Rows {
            type Value = Listed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a row for each agent")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = map.next_entry()? {
                    rows.push(row);
                }
                Ok(Listed(rows))
            }
        }

        value.deserialize_map(Rows)
    }
}
