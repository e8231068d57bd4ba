//! OpenAI's Chat Completions wire format, <https://platform.openai.com/docs/api-reference/chat/create>, from the server's side.

use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::server::{Step, Wire, are_tools};

/// OpenAI's Chat Completions API.
#[derive(Clone, Copy, Debug)]
pub struct OpenAi;

impl Wire for OpenAi {
    const PATH: &'static str = "/chat/completions";
    const BASE: &'static str = "/v1";

    fn check(headers: &HeaderMap, body: &Value, said: &[Value]) -> Result<(), &'static str> {
        let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !bearer.starts_with("Bearer ") {
            return Err("there is no API key");
        }
        if !body["model"].is_string() {
            return Err("there is no model");
        }
        let tools = body["tools"].as_array().ok_or("tools is no array")?;
        if tools.iter().any(|tool| tool["type"] != "function") {
            return Err("a tool is no function");
        }
        are_tools(tools.iter().map(|tool| {
            let function = &tool["function"];
            (&function["name"], &function["description"], &function["parameters"])
        }))?;
        messages(body["messages"].as_array().ok_or("messages is no array")?, said)
    }

    fn reply(turn: usize, step: &Step) -> (Value, Value) {
        let (message, reason) = match step {
            Step::Say(text) => (json!({ "role": "assistant", "content": text, "refusal": null }), "stop"),
            Step::Call(calls) => {
                let calls = calls.iter().enumerate().map(|(n, call)| {
                    // A text goes out as it is: not all that models write is JSON.
                    let text =
                        call.arguments.as_str().map_or_else(|| call.arguments.to_string(), str::to_owned);
                    json!({ "id": format!("call_{turn}_{n}"), "type": "function",
                            "function": { "name": call.tool, "arguments": text } })
                });
                let calls: Vec<_> = calls.collect();
                (json!({ "role": "assistant", "content": null, "tool_calls": calls }), "tool_calls")
            }
        };
        let reply = json!({
            "id": format!("chatcmpl-{turn}"), "object": "chat.completion", "created": 1_790_000_000, "model": "scripted",
            "choices": [{ "index": 0, "message": message, "logprobs": null, "finish_reason": reason }],
            "usage": { "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 } });
        (reply, message)
    }

    fn refusal(why: &str) -> Value {
        json!({ "error": { "message": why, "type": "invalid_request_error", "param": null, "code": null } })
    }
}

/// Each call that the model made is answered once, right after it, and what it said stands as it was said.
fn messages(messages: &[Value], said: &[Value]) -> Result<(), &'static str> {
    let mut open: Vec<&Value> = Vec::new();
    let mut repeated = Vec::new();
    for message in messages {
        if message["role"] == "tool" {
            let id = open.iter().position(|id| **id == message["tool_call_id"]);
            open.remove(id.ok_or("a tool message answers no call, or one that was answered")?);
            if !message["content"].is_string() {
                return Err("a tool message has no text");
            }
            continue;
        }
        if !open.is_empty() {
            return Err("a call has no tool message");
        }
        match message["role"].as_str() {
            Some("system" | "user") if message["content"].is_string() => {}
            Some("assistant") => {
                repeated.push(message.clone());
                open =
                    message["tool_calls"].as_array().into_iter().flatten().map(|call| &call["id"]).collect();
            }
            _ => return Err("a message has a wrong role or no text"),
        }
    }
    match (open.is_empty(), repeated == said, messages.last().map(|last| &last["role"])) {
        (false, ..) => Err("a call has no tool message"),
        (_, false, _) => Err("the model's messages are not as it wrote them"),
        (.., Some(role)) if role == "user" || role == "tool" => Ok(()),
        _ => Err("there is nothing to answer"),
    }
}
