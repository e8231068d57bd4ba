use serde_json::{Value, json};
use syntha_mesh::Agent;

use crate::access::Access;
use crate::arguments::{Failure, object, refuse_identity};
use crate::reply::bounded;
use crate::schema::{self, TOOLS, Tool};

/// The tools of one agent of one user. No argument of a call changes which agent or whose.
#[derive(Clone, Debug)]
pub struct ToolHandler {
    agent: Agent,
    access: Access,
}

impl ToolHandler {
    /// The tools that an agent has by a [`Role`](crate::Role), a [`Level`](crate::Level) or any other [`Access`].
    #[must_use]
    pub fn new(agent: &Agent, access: impl Into<Access>) -> Self {
        Self { agent: agent.clone(), access: access.into() }
    }

    /// The agent as which all calls are made.
    #[must_use]
    pub const fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Which tools the agent has.
    #[must_use]
    pub const fn access(&self) -> &Access {
        &self.access
    }

    /// The names of the tools that this agent has.
    #[must_use]
    pub fn available_tools(&self) -> Vec<&'static str> {
        self.tools().map(|tool| tool.name).collect()
    }

    /// Schemas for OpenAI's Chat Completions API.
    #[must_use]
    pub fn openai_chat(&self) -> Value {
        self.tools().map(Tool::definition).map(schema::openai_chat).collect()
    }

    /// Schemas for OpenAI's Responses API.
    #[must_use]
    pub fn openai_responses(&self) -> Value {
        self.tools().map(Tool::definition).map(schema::openai_responses).collect()
    }

    /// Schemas for Anthropic's Messages API.
    #[must_use]
    pub fn anthropic(&self) -> Value {
        self.tools().map(Tool::definition).map(schema::anthropic).collect()
    }

    /// Schemas for the Model Context Protocol.
    #[must_use]
    pub fn mcp(&self) -> Value {
        self.tools().map(Tool::definition).map(schema::mcp).collect()
    }

    /// Shares a value with everyone, as the tool `push_context` does.
    pub async fn push_context(&self, key: &str, value: Value) -> Value {
        self.call("push_context", json!({ "key": key, "value": value })).await
    }

    /// Runs a tool. The answer is a JSON object with `success`, and with `error` where that is false; at most 64 KiB.
    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.call_among(tool, arguments, &[]).await
    }

    pub(crate) fn tools(&self) -> impl Iterator<Item = &'static Tool> {
        TOOLS.iter().filter(|tool| self.access.refusal(tool).is_none())
    }

    /// As [`call`](Self::call), for a model that is offered the host's tools too.
    pub(crate) async fn call_among(&self, name: &str, arguments: Value, others: &[&str]) -> Value {
        let available = || {
            let mut names: Vec<&str> = self.available_tools();
            names.extend(others);
            names
        };
        let Some(tool) = Tool::find(name) else {
            return bounded(json!({
                "success": false, "error": format!("Unknown tool: {name:.64}"), "available_tools": available() }));
        };
        if let Some(reason) = self.access.refusal(tool) {
            let mut answer = json!({
                "success": false, "error": format!("Access denied to tool: {name}"), "reason": reason,
                "available_tools": available() });
            if let (Some(role), Value::Object(fields)) = (self.access.agent_role(), &mut answer) {
                fields.insert("agent_role".to_owned(), role.name().into());
            }
            return bounded(answer);
        }
        let answer = match object(arguments).and_then(|given| refuse_identity(&given).map(|()| given)) {
            Ok(arguments) => (tool.run)(&self.agent, arguments).await,
            Err(words) => Err(words.into()),
        };
        bounded(answer.unwrap_or_else(Failure::reply))
    }
}
