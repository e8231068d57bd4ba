use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use syntha_mesh::Agent;

use crate::arguments::object;
use crate::error::{Error, ErrorKind, Result};
use crate::handler::ToolHandler;
use crate::reply::{bounded, failure};
use crate::schema::{self, Definition, Tool};

/// A tool of the host's: an async function that a model may call beside Syntha's tools. Cheap to clone.
///
/// It may be registered with the handlers of many users. Each call gets the agent whose model made it, and nothing else
/// of Syntha's: a function that uses that agent reaches that agent's share of that user's mesh alone. The arguments
/// are what the model wrote: who acts is the agent, never a name in them. The handler's [`Access`](crate::Access) bounds
/// Syntha's tools, not the host's: what a host's tool does with the agent is the host's decision.
#[derive(Clone)]
pub struct HostTool {
    name: Arc<str>,
    description: Arc<str>,
    parameters: Arc<Value>,
    run: Arc<Run>,
}

type Run = dyn Fn(Agent, Map<String, Value>) -> Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>
    + Send
    + Sync;

impl HostTool {
    /// A tool with a name, a description for the model, a JSON Schema of its arguments, and what it does.
    ///
    /// An `Err` is told to the model, so it says what the model can do about it and holds no secret.
    /// A later release of Syntha may have more tools: a prefix of the host's own keeps a name free.
    ///
    /// # Errors
    ///
    /// `Invalid` for a name that is not 1 to 64 of `A-Z a-z 0-9 _ -`, which all providers take, and for a schema that is not
    /// an object with `"type": "object"`; `NameTaken` for the name of a tool of Syntha's, in any case of letters.
    pub fn new<F, R>(name: &str, description: &str, parameters: Value, run: F) -> Result<Self>
    where
        F: Fn(Agent, Map<String, Value>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, String>> + Send + 'static,
    {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a tool's name has 1 to 64 of A-Z a-z 0-9 _ -, change it",
            ));
        }
        if parameters.get("type").and_then(Value::as_str) != Some("object") {
            return Err(Error::new(ErrorKind::Invalid, "a tool's schema has the type object, correct it"));
        }
        // A model does not tell `Get_Context` from `get_context`.
        if Tool::find(&name.to_ascii_lowercase()).is_some() {
            return Err(Error::new(
                ErrorKind::NameTaken,
                "the name is that of a tool of Syntha's, take another",
            ));
        }
        Ok(Self {
            name: name.into(),
            description: description.into(),
            parameters: Arc::new(parameters),
            run: Arc::new(move |agent, arguments| Box::pin(run(agent, arguments))),
        })
    }

    /// The tool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn definition(&self) -> Definition<'_> {
        Definition {
            name: &self.name,
            description: &self.description,
            parameters: Value::clone(&self.parameters),
        }
    }
}

impl fmt::Debug for HostTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostTool").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Syntha's tools and the host's own, for one agent of one user, behind one call.
#[derive(Clone, Debug)]
pub struct HybridHandler {
    syntha: ToolHandler,
    host: Vec<HostTool>,
}

impl HybridHandler {
    /// Syntha's tools, and none of the host's yet.
    #[must_use]
    pub const fn new(syntha: ToolHandler) -> Self {
        Self { syntha, host: Vec::new() }
    }

    /// Adds a tool of the host's.
    ///
    /// # Errors
    ///
    /// `NameTaken` if one of that name is there already, in any case of letters.
    pub fn tool(mut self, tool: HostTool) -> Result<Self> {
        if self.host.iter().any(|known| known.name.eq_ignore_ascii_case(&tool.name)) {
            return Err(Error::new(ErrorKind::NameTaken, "two tools have the same name, rename one"));
        }
        self.host.push(tool);
        Ok(self)
    }

    /// Syntha's part.
    #[must_use]
    pub const fn syntha(&self) -> &ToolHandler {
        &self.syntha
    }

    /// The names of the tools that this agent has, Syntha's first.
    #[must_use]
    pub fn available_tools(&self) -> Vec<&str> {
        self.definitions().map(|tool| tool.name).collect()
    }

    /// Schemas for OpenAI's Chat Completions API.
    #[must_use]
    pub fn openai_chat(&self) -> Value {
        self.definitions().map(schema::openai_chat).collect()
    }

    /// Schemas for OpenAI's Responses API.
    #[must_use]
    pub fn openai_responses(&self) -> Value {
        self.definitions().map(schema::openai_responses).collect()
    }

    /// Schemas for Anthropic's Messages API.
    #[must_use]
    pub fn anthropic(&self) -> Value {
        self.definitions().map(schema::anthropic).collect()
    }

    /// Schemas for the Model Context Protocol.
    #[must_use]
    pub fn mcp(&self) -> Value {
        self.definitions().map(schema::mcp).collect()
    }

    /// Runs a tool, Syntha's or the host's. The answer is a JSON object with `success`, with the host's value as `result`,
    /// and with `error` where `success` is false; at most 64 KiB.
    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        let Some(host) = self.host.iter().find(|host| *host.name == *tool) else {
            let others: Vec<&str> = self.host.iter().map(HostTool::name).collect();
            return self.syntha.call_among(tool, arguments, &others).await;
        };
        let answer = match object(arguments) {
            Ok(arguments) => (host.run)(self.syntha.agent().clone(), arguments).await,
            Err(words) => Err(words),
        };
        bounded(match answer {
            Ok(result) => json!({ "success": true, "result": result }),
            Err(words) => failure(words),
        })
    }

    fn definitions(&self) -> impl Iterator<Item = Definition<'_>> {
        let syntha = self.syntha.tools().map(|tool| -> Definition<'_> { tool.definition() });
        syntha.chain(self.host.iter().map(HostTool::definition))
    }
}
