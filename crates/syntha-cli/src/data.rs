use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use syntha::{Filter, UserManager};

use crate::door::Door;
use crate::{Answer, Result};

#[derive(Args)]
pub(crate) struct Push {
    #[command(flatten)]
    who: Who,
    /// The key
    key: String,
    /// The value, as JSON; a text that is not JSON is kept as text
    value: String,
    /// For the subscribers of this topic; may be given several times
    #[arg(long = "topic")]
    topics: Vec<String>,
    /// For this agent; may be given several times
    #[arg(long = "for")]
    agents: Vec<String>,
    /// Seconds to keep it
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
}

impl Push {
    pub(crate) fn user(&self) -> Option<&str> {
        self.who.user.as_deref()
    }
}

#[derive(Args)]
pub(crate) struct Get {
    #[command(flatten)]
    who: Who,
    /// The key
    key: String,
}

impl Get {
    pub(crate) fn user(&self) -> Option<&str> {
        self.who.user.as_deref()
    }
}

#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    who: Who,
    /// Only keys that start so
    #[arg(long, default_value = "")]
    prefix: String,
    /// Only entries on this topic
    #[arg(long)]
    topic: Option<String>,
}

impl List {
    pub(crate) fn user(&self) -> Option<&str> {
        self.who.user.as_deref()
    }
}

#[derive(Args)]
pub(crate) struct OfUser {
    /// The user's id; not with a token, which says whose data it opens
    #[arg(long)]
    user: Option<String>,
}

impl OfUser {
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

#[derive(Args)]
struct Who {
    /// The user's id; not with a token, which says whose data it opens
    #[arg(long)]
    user: Option<String>,
    /// The agent's name; a token that is bound to an agent needs none
    #[arg(long)]
    agent: Option<String>,
}

pub(crate) async fn push(push: Push, users: &UserManager, door: &Door<'_>) -> Result {
    let session = door.open(users, push.who.user.as_deref()).await?;
    let value = serde_json::from_str(&push.value).unwrap_or(Value::String(push.value));
    let agent = Door::agent(&session, push.who.agent)?;
    let mut write = agent.push(push.key, value).topics(push.topics).agents(push.agents);
    if let Some(seconds) = push.ttl {
        write = write.ttl(Duration::from_secs(seconds));
    }
    let version = write.await?.version.0;
    Ok(Answer { lines: vec![format!("written, version {version}")], value: json!({ "version": version }) })
}

pub(crate) async fn get(get: Get, users: &UserManager, door: &Door<'_>) -> Result {
    let session = door.open(users, get.who.user.as_deref()).await?;
    let entry = Door::agent(&session, get.who.agent)?.entry(get.key).await?;
    let entry = entry.ok_or("there is no such entry that this agent can see")?;
    let value: Value = entry.value()?;
    let described = json!({
        "value": value, "version": entry.version().0, "author": entry.author(), "created": entry.created().0,
        "updated": entry.updated().0, "expires": entry.expires().map(|at| at.0) });
    Ok(Answer { lines: vec![entry.json().to_owned()], value: described })
}

pub(crate) async fn list(list: List, users: &UserManager, door: &Door<'_>) -> Result {
    let session = door.open(users, list.who.user.as_deref()).await?;
    let mut filter = Filter::new().prefix(list.prefix);
    if let Some(topic) = list.topic {
        filter = filter.topic(topic);
    }
    let keys = Door::agent(&session, list.who.agent)?.keys(&filter).await?;
    let lines = keys.iter().map(ToString::to_string).collect();
    Ok(Answer { lines, value: keys.iter().map(|key| Value::from(&**key)).collect() })
}

pub(crate) async fn topics(of: OfUser, users: &UserManager, door: &Door<'_>) -> Result {
    let topics = door.open(users, of.user.as_deref()).await?.topics().await?;
    let names = |of: &[std::sync::Arc<str>]| of.iter().map(ToString::to_string).collect::<Vec<_>>();
    let lines = topics
        .iter()
        .map(|info| format!("{}  {}", info.topic, names(&info.subscribers).join(", ")))
        .collect();
    let value =
        topics.iter().map(|info| json!({ "topic": &*info.topic, "subscribers": names(&info.subscribers) }));
    Ok(Answer { lines, value: value.collect() })
}

#[derive(Args)]
pub(crate) struct Stats {
    /// The user's id; without it all users together
    #[arg(long)]
    user: Option<String>,
}

impl Stats {
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

pub(crate) async fn stats(of: Stats, users: &UserManager, door: &Door<'_>) -> Result {
    if of.user.is_none() && door.host().is_ok() {
        return totals(users).await;
    }
    let session = door.open(users, of.user.as_deref()).await?;
    let (stats, usage) = (session.stats().await?, session.usage().await?.1);
    let value = json!({
        "entries": stats.entries, "active": stats.active, "expired": stats.expired, "global": stats.global,
        "private": stats.private, "topics": stats.topics, "agents": stats.agents,
        "agents_with_topics": stats.agents_with_topics, "bytes": stats.bytes, "history_bytes": usage.history_bytes });
    Ok(table(value))
}

async fn totals(users: &UserManager) -> Result {
    let totals = users.totals().await?;
    Ok(table(json!({
        "users": totals.users, "users_without_data": totals.empty, "users_unreadable": totals.unreadable,
        "entries": totals.entries, "agents": totals.agents, "bytes": totals.entry_bytes,
        "history_bytes": totals.history_bytes })))
}

fn table(value: Value) -> Answer {
    let lines =
        value.as_object().into_iter().flatten().map(|(name, number)| format!("{name:20}{number}")).collect();
    Answer { lines, value }
}
