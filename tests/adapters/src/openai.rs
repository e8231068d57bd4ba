//! A tool loop over OpenAI's Chat Completions API.

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
    let (client, url) = (Client::new(), format!("{}/chat/completions", provider.url));
    let mut messages =
        vec![json!({ "role": "system", "content": system }), json!({ "role": "user", "content": user })];
    for _ in 0..TURNS {
        let request = json!({ "model": provider.model, "messages": messages, "tools": tools.openai_chat() });
        let response = client.post(&url).bearer_auth(&provider.key).json(&request).send().await?;
        let reply: Value = response.error_for_status()?.json().await?;
        let message = reply["choices"][0]["message"].clone();
        messages.push(message.clone());
        let calls = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
        if calls.is_empty() {
            return Ok(message["content"].as_str().unwrap_or_default().to_owned());
        }
        for call in calls {
            let function = &call["function"];
            // The arguments are text that a model wrote: they need not be JSON.
            let arguments = serde_json::from_str(function["arguments"].as_str().unwrap_or_default());
            let answer = match arguments {
                Ok(arguments) => tools.call(function["name"].as_str().unwrap_or_default(), arguments).await,
                Err(_) => {
                    json!({ "success": false, "error": "The arguments are not JSON. Write them again." })
                }
            };
            messages
                .push(json!({ "role": "tool", "tool_call_id": call["id"], "content": answer.to_string() }));
        }
    }
    Err("the model did not stop calling tools".into())
}
