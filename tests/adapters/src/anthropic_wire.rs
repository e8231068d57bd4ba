//! Anthropic's Messages wire format, <https://docs.anthropic.com/en/api/messages>, from the server's side.

use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::server::{Step, Wire, are_tools};

/// Anthropic's Messages API.
#[derive(Clone, Copy, Debug)]
pub struct Anthropic;

impl Wire for Anthropic {
    const PATH: &'static str = "/messages";
    const BASE: &'static str = "/v1";

    fn check(headers: &HeaderMap, body: &Value, said: &[Value]) -> Result<(), &'static str> {
        if !headers.contains_key("x-api-key") {
            return Err("there is no API key");
        }
        if headers.get("anthropic-version").is_none_or(|version| version != "2023-06-01") {
            return Err("there is no known version");
        }
        if !body["model"].is_string() || body["max_tokens"].as_u64().is_none_or(|most| most == 0) {
            return Err("there is no model or no max_tokens");
        }
        if !body["system"].is_string() {
            return Err("the system prompt is no text");
        }
        let tools = body["tools"].as_array().ok_or("tools is no array")?;
        are_tools(tools.iter().map(|tool| (&tool["name"], &tool["description"], &tool["input_schema"])))?;
        messages(body["messages"].as_array().ok_or("messages is no array")?, said)
    }

    fn reply(turn: usize, step: &Step) -> (Value, Value) {
        let (content, reason) = match step {
            Step::Say(text) => (json!([{ "type": "text", "text": text }]), "end_turn"),
            Step::Call(calls) => {
                let calls = calls.iter().enumerate().map(|(n, call)| {
                    json!({ "type": "tool_use", "id": format!("toolu_{turn}_{n}"), "name": call.tool,
                            "input": call.arguments })
                });
                let mut blocks = vec![json!({ "type": "text", "text": "Let me see." })];
                blocks.extend(calls);
                (Value::Array(blocks), "tool_use")
            }
        };
        let reply = json!({
            "id": format!("msg_{turn}"), "type": "message", "role": "assistant", "model": "scripted", "content": content,
            "stop_reason": reason, "stop_sequence": null, "usage": { "input_tokens": 1, "output_tokens": 1 } });
        (reply, json!({ "role": "assistant", "content": content }))
    }

    fn refusal(why: &str) -> Value {
        json!({ "type": "error", "error": { "type": "invalid_request_error", "message": why } })
    }
}

/// User and assistant alternate; each call is answered once, at the start of the next message.
fn messages(messages: &[Value], said: &[Value]) -> Result<(), &'static str> {
    let mut open: Vec<&Value> = Vec::new();
    for (message, place) in messages.iter().zip(0..) {
        let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
        if message["role"] != if place % 2 == 0 { "user" } else { "assistant" } {
            return Err("user and assistant do not alternate");
        }
        if place % 2 == 1 {
            let calls = blocks.iter().filter(|block| block["type"] == "tool_use");
            open = calls.map(|call| &call["id"]).collect();
            continue;
        }
        if blocks.is_empty() && !message["content"].is_string() {
            return Err("a message has no content");
        }
        for block in blocks {
            if block["type"] != "tool_result" {
                break;
            }
            let id = open.iter().position(|id| **id == block["tool_use_id"]);
            open.remove(id.ok_or("a tool result answers no call, or one that was answered")?);
            if !block["content"].is_string() || !block["is_error"].is_boolean() {
                return Err("a tool result has no text or does not say whether it is an error");
            }
        }
        if !open.is_empty() {
            return Err("a call has no tool result");
        }
    }
    let repeated: Vec<_> = messages.iter().filter(|message| message["role"] == "assistant").collect();
    if !repeated.into_iter().eq(said) {
        return Err("the model's messages are not as it wrote them");
    }
    match messages.last() {
        Some(last) if last["role"] == "user" => Ok(()),
        _ => Err("there is nothing to answer"),
    }
}
