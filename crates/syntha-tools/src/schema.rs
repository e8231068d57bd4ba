//! The tools' definitions, once, and the shapes that model providers want them in.

use serde_json::{Value, json};

/// A tool, as every shape is made from it.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    /// JSON Schema (draft 2020-12) of the arguments.
    pub(crate) parameters: fn() -> Value,
}

/// All tools, in the order in which they are offered.
pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: "get_context",
        description: "Read shared context. Give keys to read some, or none to read everything you can see.",
        parameters: || object(&json!({ "keys": list("Keys to read; leave out for all") }), &[]),
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
    },
    Tool {
        name: "list_context",
        description: "List the keys that you can see, by topic.",
        parameters: || object(&json!({}), &[]),
    },
    Tool {
        name: "subscribe_to_topics",
        description: "Subscribe to topics, besides those that you have, to see what is shared on them.",
        parameters: || object(&json!({ "topics": list("Topics to subscribe to") }), &["topics"]),
    },
    Tool {
        name: "unsubscribe_from_topics",
        description: "Unsubscribe from topics. You no longer see what is shared on them.",
        parameters: || object(&json!({ "topics": list("Topics to unsubscribe from") }), &["topics"]),
    },
    Tool {
        name: "discover_topics",
        description: "List the topics that there are, the most popular first.",
        parameters: || {
            let flag = json!({ "type": "boolean", "description": "Also name the subscribers" });
            object(&json!({ "include_subscriber_names": flag }), &[])
        },
    },
    Tool {
        name: "delete_topic",
        description: "Delete a topic and everything that is shared on it alone. This can't be undone.",
        parameters: || {
            object(
                &json!({
                    "topic": { "type": "string", "description": "The topic" },
                    "confirm": { "type": "boolean", "description": "Must be true" },
                }),
                &["topic", "confirm"],
            )
        },
    },
];

fn object(properties: &Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn list(description: &str) -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": description })
}

/// <https://platform.openai.com/docs/api-reference/chat/create>, `tools`.
pub(crate) fn openai_chat(tool: &Tool) -> Value {
    json!({ "type": "function", "function": {
        "name": tool.name, "description": tool.description, "parameters": (tool.parameters)() } })
}

/// <https://platform.openai.com/docs/api-reference/responses/create>, `tools`.
pub(crate) fn openai_responses(tool: &Tool) -> Value {
    json!({ "type": "function", "name": tool.name, "description": tool.description,
            "parameters": (tool.parameters)(), "strict": false })
}

/// <https://docs.anthropic.com/en/api/messages>, `tools`.
pub(crate) fn anthropic(tool: &Tool) -> Value {
    json!({ "name": tool.name, "description": tool.description, "input_schema": (tool.parameters)() })
}

/// <https://modelcontextprotocol.io/specification>, `tools/list`.
pub(crate) fn mcp(tool: &Tool) -> Value {
    json!({ "name": tool.name, "description": tool.description, "inputSchema": (tool.parameters)() })
}
