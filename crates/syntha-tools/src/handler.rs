#![allow(clippy::indexing_slicing, reason = "a JSON object takes a new name by index")]

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use syntha_mesh::{Agent, ErrorKind, Filter};

use crate::reply::{bounded, failure, names_fitting, take_fitting};
use crate::schema::{self, TOOLS, Tool};

/// Which tools an agent has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Get, list, discover.
    Readonly,
    /// And push, subscribe, unsubscribe.
    #[default]
    Contributor,
    /// As contributor so far.
    Moderator,
    /// All seven.
    Admin,
}

impl Role {
    /// The role's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Readonly => "readonly",
            Self::Contributor => "contributor",
            Self::Moderator => "moderator",
            Self::Admin => "admin",
        }
    }

    fn allows(self, tool: &str) -> bool {
        match tool {
            "get_context" | "list_context" | "discover_topics" => true,
            "delete_topic" => self == Self::Admin,
            _ => self != Self::Readonly,
        }
    }
}

/// The tools of one agent of one user. No argument of a call changes which agent or whose.
#[derive(Clone, Debug)]
pub struct ToolHandler {
    agent: Agent,
    role: Role,
}

/// Names under which models have tried to act as somebody else.
const IDENTITY: &[&str] =
    &["user", "user_id", "userid", "tenant", "agent", "agent_name", "agent_id", "sender", "sender_agent"];

impl ToolHandler {
    /// The tools of an agent in a role.
    #[must_use]
    pub fn new(agent: &Agent, role: Role) -> Self {
        Self { agent: agent.clone(), role }
    }

    /// The names of the tools that this agent has.
    #[must_use]
    pub fn available_tools(&self) -> Vec<&'static str> {
        self.tools().map(|tool| tool.name).collect()
    }

    /// Schemas for OpenAI's Chat Completions API.
    #[must_use]
    pub fn openai_chat(&self) -> Value {
        self.tools().map(schema::openai_chat).collect()
    }

    /// Schemas for OpenAI's Responses API.
    #[must_use]
    pub fn openai_responses(&self) -> Value {
        self.tools().map(schema::openai_responses).collect()
    }

    /// Schemas for Anthropic's Messages API.
    #[must_use]
    pub fn anthropic(&self) -> Value {
        self.tools().map(schema::anthropic).collect()
    }

    /// Schemas for the Model Context Protocol.
    #[must_use]
    pub fn mcp(&self) -> Value {
        self.tools().map(schema::mcp).collect()
    }

    /// Shares a value with everyone, as the tool `push_context` does.
    pub async fn push_context(&self, key: &str, value: Value) -> Value {
        self.call("push_context", json!({ "key": key, "value": value })).await
    }

    /// Runs a tool. The answer is a JSON object with `success`, and with `error` where that is false; at most 64 KiB.
    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        if !TOOLS.iter().any(|known| known.name == tool) {
            return json!({
                "success": false, "error": format!("Unknown tool: {tool:.64}"), "available_tools": self.available_tools() });
        }
        if !self.role.allows(tool) {
            return json!({
                "success": false, "error": format!("Access denied to tool: {tool}"),
                "reason": format!("The role {} does not have it.", self.role.name()),
                "available_tools": self.available_tools(), "agent_role": self.role.name() });
        }
        let answer = match arguments {
            Value::Null => self.run(tool, Map::new()).await,
            Value::Object(arguments) => self.run(tool, arguments).await,
            _ => Err("The arguments must be a JSON object.".to_owned()),
        };
        bounded(answer.unwrap_or_else(failure))
    }

    fn tools(&self) -> impl Iterator<Item = &'static Tool> {
        TOOLS.iter().filter(|tool| self.role.allows(tool.name))
    }

    async fn run(&self, tool: &str, arguments: Map<String, Value>) -> Result<Value, String> {
        if let Some(named) = arguments.keys().find(|key| IDENTITY.contains(&key.to_lowercase().as_str())) {
            return Err(format!(
                "The argument `{named}` is not accepted: you always act as yourself. Leave it out."
            ));
        }
        match tool {
            "get_context" => self.get(parse(arguments)?).await,
            "push_context" => self.push(parse(arguments)?).await,
            "list_context" => self.list(parse(arguments)?).await,
            "subscribe_to_topics" => self.subscribe(parse(arguments)?).await,
            "unsubscribe_from_topics" => self.unsubscribe(parse(arguments)?).await,
            "discover_topics" => self.discover(parse(arguments)?).await,
            _ => self.delete_topic(parse(arguments)?).await,
        }
    }

    async fn get(&self, arguments: GetArguments) -> Result<Value, String> {
        let heads = self.agent.entries(&Filter::new()).await.map_err(words)?;
        let (heads, requested) = match arguments.keys {
            None => {
                let count = heads.len();
                (heads, count)
            }
            Some(keys) if keys.len() > KEYS_AT_ONCE => {
                return Err(format!("Ask for at most {KEYS_AT_ONCE} keys at once."));
            }
            Some(keys) => {
                let wanted: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
                (heads.into_iter().filter(|head| wanted.contains(head.key())).collect(), wanted.len())
            }
        };
        // Sizes are known before values are read, so that no more is read than an answer holds.
        let (mut keys, mut too_large, mut bytes) = (Vec::new(), 0, 0);
        for head in &heads {
            if bytes + head.size() > crate::REPLY_BYTES {
                too_large += 1;
            } else {
                bytes += head.size();
                keys.push(head.key());
            }
        }
        let entries = self.agent.get_many(&keys).await.map_err(words)?;
        let pairs =
            entries.iter().map(|entry| (entry.key().to_owned(), entry.value().unwrap_or(Value::Null)));
        let (context, left) = take_fitting(pairs);
        let left = left + too_large;
        let found = context.len();
        let mut answer = json!({
            "success": true, "context": context, "agent_name": self.agent.name(), "keys_requested": requested,
            "keys_found": found, "message": format!("Found {found} of {requested} entries.") });
        if left > 0 {
            answer["omitted"] = left.into();
            answer["message"] =
                format!("{left} entries were left out because the answer is full. Ask for them one by one; a value over 56 KiB is never shown whole.")
                    .into();
        }
        Ok(answer)
    }

    async fn push(&self, arguments: PushArguments) -> Result<Value, String> {
        let value = match arguments.value {
            Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            value => value,
        };
        let hours = arguments.ttl_hours.unwrap_or(24.0);
        let mut push = self.agent.push(arguments.key.as_str(), &value);
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
            "subscribers": arguments.subscribers, "ttl_hours": hours, "sender_agent": self.agent.name() });
        if value.to_string().len() < crate::REPLY_BYTES / 2 {
            answer["value"] = value;
        } else {
            answer["value_omitted"] = "The value is stored; it is too large to be repeated here.".into();
        }
        Ok(answer)
    }

    async fn list(&self, _: NoArguments) -> Result<Value, String> {
        let topics = self.agent.topics().await.map_err(words)?;
        let entries = self.agent.keys_by_topic().await.map_err(words)?;
        let total = entries.len();
        let (mut by_topic, mut keys, mut bytes) = (Map::new(), Vec::new(), 0);
        for (key, on) in entries {
            let own: Vec<_> = on.iter().filter(|topic| topics.contains(topic)).collect();
            bytes += key.len() * 2 * (own.len() + 2) + 8;
            if bytes > crate::REPLY_BYTES / 2 {
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
            "total_keys": total, "agent_name": self.agent.name(), "message": message });
        note_omitted(&mut answer, topics_left);
        Ok(answer)
    }

    async fn subscribe(&self, arguments: TopicsArguments) -> Result<Value, String> {
        let topics = some(&arguments.topics)?;
        let report = self.agent.subscribe(topics.iter().map(String::as_str)).await.map_err(words)?;
        let (topics, left) = names_fitting(&report.topics, 1);
        let mut answer = json!({
            "success": true, "agent": self.agent.name(), "topics": topics,
            "message": format!("Subscribed to {} new topics.", report.changed.len()) });
        note_omitted(&mut answer, left);
        Ok(answer)
    }

    async fn unsubscribe(&self, arguments: TopicsArguments) -> Result<Value, String> {
        let topics = some(&arguments.topics)?;
        let report = self.agent.unsubscribe(topics.iter().map(String::as_str)).await.map_err(words)?;
        let (changed, changed_left) = names_fitting(&report.changed, 3);
        let (unchanged, unchanged_left) = names_fitting(&report.unchanged, 3);
        let (remaining, remaining_left) = names_fitting(&report.topics, 3);
        let mut answer = json!({
            "success": true, "agent": self.agent.name(), "topics_unsubscribed": changed,
            "topics_not_subscribed": unchanged, "remaining_topics": remaining,
            "message": format!("Unsubscribed from {} topics.", report.changed.len()) });
        note_omitted(&mut answer, changed_left + unchanged_left + remaining_left);
        Ok(answer)
    }

    async fn discover(&self, arguments: DiscoverArguments) -> Result<Value, String> {
        let infos = self.agent.discover().await.map_err(words)?;
        let total = infos.len();
        let popular: Vec<_> = infos
            .iter()
            .filter(|info| info.subscribers.len() >= 2)
            .take(50)
            .map(|info| &*info.topic)
            .collect();
        let suggestions: Vec<_> = infos.iter().take(3).map(|info| &*info.topic).collect();
        let pairs = infos.iter().map(|info| {
            let count = info.subscribers.len();
            let mut one = json!({ "subscriber_count": count, "is_active": count > 0 });
            if arguments.include_subscriber_names {
                one["subscribers"] = json!(info.subscribers);
            }
            (info.topic.to_string(), one)
        });
        let (topics, left) = take_fitting(pairs);
        Ok(json!({
            "success": true, "topics": topics, "total_topics": total, "popular_topics": popular,
            "suggestions": suggestions, "message": format!("There are {total} topics; {left} were left out.") }))
    }

    async fn delete_topic(&self, arguments: DeleteArguments) -> Result<Value, String> {
        if !arguments.confirm {
            return Err("Deleting a topic can't be undone. Call again with confirm = true.".to_owned());
        }
        match self.agent.delete_topic(arguments.topic.as_str()).await {
            Ok(report) => Ok(json!({
                "success": true, "topic": arguments.topic, "subscribers_affected": report.subscribers,
                "context_items_deleted": report.entries_deleted, "message": "The topic is deleted." })),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let infos = self.agent.discover().await.map_err(words)?;
                let names: Vec<_> = infos.iter().take(100).map(|info| &*info.topic).collect();
                Ok(json!({ "success": false, "error": "There is no such topic.", "available_topics": names }))
            }
            Err(error) => Err(words(error)),
        }
    }
}

/// The most keys of one `get_context`.
const KEYS_AT_ONCE: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoArguments {}

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicsArguments {
    topics: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiscoverArguments {
    #[serde(default)]
    include_subscriber_names: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteArguments {
    topic: String,
    #[serde(default)]
    confirm: bool,
}

fn parse<T: serde::de::DeserializeOwned>(arguments: Map<String, Value>) -> Result<T, String> {
    // The parser's text names argument names and types only; it is about what this same model has written.
    serde_json::from_value(Value::Object(arguments)).map_err(|error| format!("Wrong arguments: {error}."))
}

fn some(topics: &[String]) -> Result<&[String], String> {
    if topics.is_empty() { Err("Name at least one topic.".to_owned()) } else { Ok(topics) }
}

/// Says in an answer how many topics it left out.
fn note_omitted(answer: &mut Value, topics: usize) {
    if topics > 0 {
        answer["topics_omitted"] = topics.into();
    }
}

fn words(error: syntha_mesh::Error) -> String {
    let text = error.message();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}
