//! A tool loop over Anthropic's Messages API.

use reqwest::Client;
use serde_json::{Value, json};
use syntha::HybridHandler;

use crate::{Provider, Result, TURNS};

/// Lets a model work with an agent's tools until it answers in words.
///
/// # Errors
///
/// What the provider or the connection answers, and a model that never stops calling tools.
pub async fn run(provider: &Provider, tools: &HybridHandler, system: &str, user: &str) -> Result<String> {
    let (client, url) = (Client::new(), format!("{}/messages", provider.url));
    let mut messages = vec![json!({ "role": "user", "content": user })];
    for _ in 0..TURNS {
        let request = json!({
            "model": provider.model, "max_tokens": 1024, "system": system, "messages": messages,
            "tools": tools.anthropic() });
        let response = client
            .post(&url)
            .header("x-api-key", &provider.key)
            .header("anthropic-version", "2023-06-01")
            .json(&request)
            .send()
            .await?;
        let reply: Value = response.error_for_status()?.json().await?;
        messages.push(json!({ "role": "assistant", "content": reply["content"] }));
        let blocks = reply["content"].as_array().map_or(&[][..], Vec::as_slice);
        let mut results = Vec::new();
        for call in blocks.iter().filter(|block| block["type"] == "tool_use") {
            let answer = tools.call(call["name"].as_str().unwrap_or_default(), call["input"].clone()).await;
            results.push(json!({
                "type": "tool_result", "tool_use_id": call["id"], "content": answer.to_string(),
                "is_error": answer["success"] != true }));
        }
        if results.is_empty() {
            return Ok(blocks.iter().filter_map(|block| block["text"].as_str()).collect());
        }
        messages.push(json!({ "role": "user", "content": results }));
    }
    Err("the model did not stop calling tools".into())
}
