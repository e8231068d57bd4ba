//! The tools' definitions, once, and the shapes that model providers want them in.

use std::pin::Pin;

use serde_json::{Map, Value, json};
use syntha_mesh::{Agent, Role};

use crate::access::Level;
use crate::arguments::Answer;
use crate::{context, history, topics};

/// A tool: what a model is told of it, who has it, and what it does.
///
/// A new tool is a row in [`TOOLS`] and the function that `run` calls.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    /// JSON Schema (draft 2020-12) of the arguments.
    pub(crate) parameters: fn() -> Value,
    /// The least role that has it; those above have it too.
    pub(crate) least: Role,
    /// The levels that have it.
    pub(crate) levels: &'static [Level],
    pub(crate) run: for<'a> fn(&'a Agent, Map<String, Value>) -> Running<'a>,
}

/// A tool at work.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// What a model is told of a tool, Syntha's or the host's.
pub(crate) struct Definition<'a> {
    pub(crate) name: &'a str,
    pub(crate) description: &'a str,
    pub(crate) parameters: Value,
}

impl Tool {
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        TOOLS.iter().find(|tool| tool.name == name)
    }

    pub(crate) fn definition(&self) -> Definition<'_> {
        Definition { name: self.name, description: self.description, parameters: (self.parameters)() }
    }
}

/// All tools, in the order in which they are offered.
pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: "get_context",
        description: "Read shared context. Give keys to read some, or none to read everything you can see.",
        parameters: || object(&json!({ "keys": list("Keys to read; leave out for all") }), &[]),
        least: Role::Readonly,
        levels: &[Level::Safe, Level::Minimal, Level::Readonly],
        run: |agent, arguments| Box::pin(context::get(agent, arguments)),
    },
    Tool {
        name: "push_context",
        description: "Share a value under a key: with everyone, or only with some agents or the subscribers of some topics.",
        parameters: || {
            object(
                &json!({
                    "key": { "type": "string", "description": "The key, 1 to 256 bytes" },
                    "value": { "description": "Any JSON value; a text that is JSON is parsed" },
                    "topics": list("Share with the subscribers of these topics"),
                    "subscribers": list("Share with these agents"),
                    "ttl_hours": { "type": "number", "description": "Hours to keep it, default 24; 0 for ever" },
                }),
                &["key", "value"],
            )
        },
        least: Role::Contributor,
        levels: &[Level::Safe, Level::Minimal],
        run: |agent, arguments| Box::pin(context::push(agent, arguments)),
    },
    Tool {
        name: "list_context",
        description: "List the keys that you can see, by topic.",
        parameters: || object(&json!({}), &[]),
        least: Role::Readonly,
        levels: &[Level::Safe, Level::Minimal, Level::Readonly],
        run: |agent, arguments| Box::pin(context::list(agent, arguments)),
    },
    Tool {
        name: "subscribe_to_topics",
        description: "Subscribe to topics, besides those that you have, to see what is shared on them.",
        parameters: || object(&json!({ "topics": list("Topics to subscribe to") }), &["topics"]),
        least: Role::Contributor,
        levels: &[Level::Safe],
        run: |agent, arguments| Box::pin(topics::subscribe(agent, arguments)),
    },
    Tool {
        name: "unsubscribe_from_topics",
        description: "Unsubscribe from topics. You no longer see what is shared on them.",
        parameters: || object(&json!({ "topics": list("Topics to unsubscribe from") }), &["topics"]),
        least: Role::Contributor,
        levels: &[Level::Safe],
        run: |agent, arguments| Box::pin(topics::unsubscribe(agent, arguments)),
    },
    Tool {
        name: "discover_topics",
        description: "List the topics that there are, the most popular first.",
        parameters: || {
            let flag = json!({ "type": "boolean", "description": "Also name the subscribers" });
            object(&json!({ "include_subscriber_names": flag }), &[])
        },
        least: Role::Readonly,
        levels: &[Level::Safe, Level::Readonly],
        run: |agent, arguments| Box::pin(topics::discover(agent, arguments)),
    },
    Tool {
        name: "subscribe_member",
        description: "Subscribe another agent to topics, so that it sees what is shared on them.",
        parameters: of_member,
        least: Role::Moderator,
        levels: &[],
        run: |agent, arguments| Box::pin(topics::subscribe_member(agent, arguments)),
    },
    Tool {
        name: "unsubscribe_member",
        description: "Unsubscribe another agent from topics. It no longer sees what is shared on them.",
        parameters: of_member,
        least: Role::Moderator,
        levels: &[],
        run: |agent, arguments| Box::pin(topics::unsubscribe_member(agent, arguments)),
    },
    Tool {
        name: "delete_topic",
        description: "Delete a topic and everything that is shared on it alone. You can't undo it.",
        parameters: || {
            object(
                &json!({
                    "topic": { "type": "string", "description": "The topic" },
                    "confirm": { "type": "boolean", "description": "Must be true" },
                }),
                &["topic", "confirm"],
            )
        },
        least: Role::Admin,
        levels: &[],
        run: |agent, arguments| Box::pin(topics::delete_topic(agent, arguments)),
    },
    Tool {
        name: "append_history",
        description: "Append a message to a thread of the conversation history. A thread is made with its first message.",
        parameters: || {
            object(
                &json!({
                    "thread": { "type": "string", "description": "The thread's name, 1 to 256 bytes" },
                    "role": { "type": "string", "enum": ["assistant", "user", "tool"],
                              "description": "Who speaks, default assistant" },
                    "content": { "description": "What is said: text, kept as it is, or an object or a list" },
                    "message_id": { "type": "string",
                                    "description": "An id of yours: the same message again is not appended twice" },
                    "metadata": { "type": "object", "description": "Something about the message, up to 16 members" },
                }),
                &["thread", "content"],
            )
        },
        least: Role::Contributor,
        levels: &[Level::Safe],
        run: |agent, arguments| Box::pin(history::append(agent, arguments)),
    },
    Tool {
        name: "get_history",
        description: "Read messages of a thread, the last ones unless a place is given, or list the threads that you can see.",
        parameters: || {
            let place =
                |description: &str| json!({ "type": "integer", "minimum": 0, "description": description });
            object(
                &json!({
                    "thread": { "type": "string", "description": "The thread; leave out for a list of threads" },
                    "limit": { "type": "integer", "minimum": 1, "maximum": 100, "description": "How many, default 20" },
                    "before": place("Messages before this place (seq)"),
                    "after": place("Messages after this place (seq), from the start with 0"),
                }),
                &[],
            )
        },
        least: Role::Readonly,
        levels: &[Level::Safe, Level::Readonly],
        run: |agent, arguments| Box::pin(history::get(agent, arguments)),
    },
];

/// Whom something is done to has a name of its own: `agent` would be who does it, and is refused.
fn of_member() -> Value {
    let member = json!({ "type": "string", "description": "The other agent's name" });
    object(&json!({ "member": member, "topics": list("The topics") }), &["member", "topics"])
}

fn object(properties: &Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn list(description: &str) -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": description })
}

/// <https://platform.openai.com/docs/api-reference/chat/create>, `tools`.
pub(crate) fn openai_chat(tool: Definition<'_>) -> Value {
    json!({ "type": "function", "function": {
        "name": tool.name, "description": tool.description, "parameters": tool.parameters } })
}

/// <https://platform.openai.com/docs/api-reference/responses/create>, `tools`.
pub(crate) fn openai_responses(tool: Definition<'_>) -> Value {
    json!({ "type": "function", "name": tool.name, "description": tool.description,
            "parameters": tool.parameters, "strict": false })
}

/// <https://docs.anthropic.com/en/api/messages>, `tools`.
pub(crate) fn anthropic(tool: Definition<'_>) -> Value {
    json!({ "name": tool.name, "description": tool.description, "input_schema": tool.parameters })
}

/// <https://modelcontextprotocol.io/specification>, `tools/list`.
pub(crate) fn mcp(tool: Definition<'_>) -> Value {
    json!({ "name": tool.name, "description": tool.description, "inputSchema": tool.parameters })
}
