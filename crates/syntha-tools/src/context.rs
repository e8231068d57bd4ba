//! The tools for entries.

#![allow(clippy::indexing_slicing, reason = "a JSON object takes a new name by index")]

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use syntha_mesh::{Agent, Filter};

use crate::arguments::{Answer, NoArguments, parse, words};
use crate::reply::{REPLY_BYTES, names_fitting, note_omitted, take_fitting};

/// The most keys of one `get_context`.
const KEYS_AT_ONCE: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetArguments {
    keys: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushArguments {
    key: String,
    value: Value,
    topics: Option<Vec<String>>,
    subscribers: Option<Vec<String>>,
    ttl_hours: Option<f64>,
}

pub(crate) async fn get(agent: &Agent, arguments: Map<String, Value>) -> Answer {
    let arguments: GetArguments = parse(arguments)?;
    let heads = agent.entries(&Filter::new()).await.map_err(words)?;
    let (heads, requested) = match arguments.keys {
        None => {
            let count = heads.len();
            (heads, count)
        }
        Some(keys) if keys.len() > KEYS_AT_ONCE => {
            return Err(format!("Ask for at most {KEYS_AT_ONCE} keys at once.").into());
        }
        Some(keys) => {
            let wanted: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
            (heads.into_iter().filter(|head| wanted.contains(head.key())).collect(), wanted.len())
        }
    };
    // Sizes are known before values are read, so that no more is read than an answer holds.
    let (mut keys, mut too_large, mut bytes) = (Vec::new(), 0, 0);
    for head in &heads {
        if bytes + head.size() > REPLY_BYTES {
            too_large += 1;
        } else {
            bytes += head.size();
            keys.push(head.key());
        }
    }
    let entries = agent.get_many(&keys).await.map_err(words)?;
    let pairs = entries.iter().map(|entry| (entry.key().to_owned(), entry.value().unwrap_or(Value::Null)));
    let (context, left) = take_fitting(pairs);
    let left = left + too_large;
    let found = context.len();
    let mut answer = json!({
        "success": true, "context": context, "agent_name": agent.name(), "keys_requested": requested,
        "keys_found": found, "message": format!("Found {found} of {requested} entries.") });
    if left > 0 {
        answer["omitted"] = left.into();
        answer["message"] =
            format!("{left} entries were left out because the answer is full. Ask for them one by one; a value over 56 KiB is never shown whole.")
                .into();
    }
    Ok(answer)
}

pub(crate) async fn push(agent: &Agent, arguments: Map<String, Value>) -> Answer {
    let arguments: PushArguments = parse(arguments)?;
    let value = match arguments.value {
        Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        value => value,
    };
    let hours = arguments.ttl_hours.unwrap_or(24.0);
    let mut push = agent.push(arguments.key.as_str(), &value);
    push = push.topics(arguments.topics.iter().flatten().map(String::as_str));
    push = push.agents(arguments.subscribers.iter().flatten().map(String::as_str));
    if hours > 0.0 {
        let ttl = Duration::try_from_secs_f64(hours * 3600.0)
            .map_err(|_| "ttl_hours is too large. Use 0 to keep the value for ever.".to_owned())?;
        push = push.ttl(ttl);
    }
    push.await.map_err(words)?;
    let mut answer = json!({
        "success": true, "message": "The value is shared.", "key": arguments.key, "topics": arguments.topics,
        "subscribers": arguments.subscribers, "ttl_hours": hours, "sender_agent": agent.name() });
    if value.to_string().len() < REPLY_BYTES / 2 {
        answer["value"] = value;
    } else {
        answer["value_omitted"] = "The value is stored; it is too large to be repeated here.".into();
    }
    Ok(answer)
}

pub(crate) async fn list(agent: &Agent, arguments: Map<String, Value>) -> Answer {
    let _: NoArguments = parse(arguments)?;
    let topics = agent.topics().await.map_err(words)?;
    let entries = agent.keys_by_topic().await.map_err(words)?;
    let total = entries.len();
    let (mut by_topic, mut keys, mut bytes) = (Map::new(), Vec::new(), 0);
    for (key, on) in entries {
        let own: Vec<_> = on.iter().filter(|topic| topics.contains(topic)).collect();
        bytes += key.len() * 2 * (own.len() + 2) + 8;
        if bytes > REPLY_BYTES / 2 {
            break;
        }
        let places: Vec<&str> =
            if own.is_empty() { vec!["other"] } else { own.iter().map(|topic| &***topic).collect() };
        for place in places {
            let list = by_topic.entry(place).or_insert_with(|| json!([]));
            if let Value::Array(list) = list {
                list.push((&*key).into());
            }
        }
        keys.push(key);
    }
    let left = total - keys.len();
    let message = if left == 0 {
        format!("You can see {total} keys.")
    } else {
        format!("You can see {total} keys; {left} were left out because the answer is full.")
    };
    let (topics, topics_left) = names_fitting(&topics, 4);
    let mut answer = json!({
        "success": true, "keys_by_topic": by_topic, "all_accessible_keys": keys, "topics_subscribed": topics,
        "total_keys": total, "agent_name": agent.name(), "message": message });
    note_omitted(&mut answer, topics_left);
    Ok(answer)
}
