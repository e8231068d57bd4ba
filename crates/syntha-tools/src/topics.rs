//! The tools for topics.

#![allow(clippy::indexing_slicing, reason = "a JSON object takes a new name by index")]

use serde::Deserialize;
use serde_json::{Map, Value, json};
use syntha_mesh::{Agent, ErrorKind, Subscriptions};

use crate::arguments::{Answer, parse, words};
use crate::reply::{names_fitting, note_omitted, take_fitting};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicsArguments {
    topics: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberArguments {
    member: String,
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

pub(crate) async fn subscribe(agent: &Agent, arguments: Map<String, Value>) -> Answer {
    let arguments: TopicsArguments = parse(arguments)?;
    let topics = some(&arguments.topics)?;
    let report = agent.subscribe(topics.iter().map(String::as_str)).await.map_err(words)?;
    let (topics, left) = names_fitting(&report.topics, 1);
    let mut answer = json!({
        "success": true, "agent": agent.name(), "topics": topics,
        "message": format!("Subscribed to {} new topics.", report.changed.len()) });
    note_omitted(&mut answer, left);
    Ok(answer)
}

pub(crate) async fn unsubscribe(agent: &Agent, arguments: Map<String, Value>) -> Answer {
    let arguments: TopicsArguments = parse(arguments)?;
    let topics = some(&arguments.topics)?;
    let report = agent.unsubscribe(topics.iter().map(String::as_str)).await.map_err(words)?;
    let (changed, changed_left) = names_fitting(&report.changed, 3);
    let (unchanged, unchanged_left) = names_fitting(&report.unchanged, 3);
    let (remaining, remaining_left) = names_fitting(&report.topics, 3);
    let mut answer = json!({
        "success": true, "agent": agent.name(), "topics_unsubscribed": changed,
        "topics_not_subscribed": unchanged, "remaining_topics": remaining,
        "message": format!("Unsubscribed from {} topics.", report.changed.len()) });
    note_omitted(&mut answer, changed_left + unchanged_left + remaining_left);
    Ok(answer)
}

pub(crate) async fn subscribe_member(agent: &Agent, arguments: Map<String, Value>) -> Answer {
    let MemberArguments { member, topics } = parse(arguments)?;
    let topics = some(&topics)?.iter().map(String::as_str);
    let report = agent.subscribe_agent(member.as_str(), topics).await.map_err(words)?;
    Ok(of_member(agent, &member, &report, "topics_subscribed", "topics_subscribed_before"))
}

pub(crate) async fn unsubscribe_member(agent: &Agent, arguments: Map<String, Value>) -> Answer {
    let MemberArguments { member, topics } = parse(arguments)?;
    let topics = some(&topics)?.iter().map(String::as_str);
    let report = agent.unsubscribe_agent(member.as_str(), topics).await.map_err(words)?;
    Ok(of_member(agent, &member, &report, "topics_unsubscribed", "topics_not_subscribed"))
}

/// What became of the topics that were named. Which others the member has is not the caller's to know.
fn of_member(agent: &Agent, member: &str, report: &Subscriptions, changed: &str, unchanged: &str) -> Value {
    let (new, new_left) = names_fitting(&report.changed, 2);
    let (old, old_left) = names_fitting(&report.unchanged, 2);
    let mut answer = json!({
        "success": true, "agent": agent.name(), "member": member, changed: new, unchanged: old,
        "message": format!("Changed {} subscriptions of {member}.", report.changed.len()) });
    note_omitted(&mut answer, new_left + old_left);
    answer
}

pub(crate) async fn discover(agent: &Agent, arguments: Map<String, Value>) -> Answer {
    let arguments: DiscoverArguments = parse(arguments)?;
    let infos = agent.discover().await.map_err(words)?;
    let total = infos.len();
    let popular: Vec<_> =
        infos.iter().filter(|info| info.subscribers.len() >= 2).take(50).map(|info| &*info.topic).collect();
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

pub(crate) async fn delete_topic(agent: &Agent, arguments: Map<String, Value>) -> Answer {
    let arguments: DeleteArguments = parse(arguments)?;
    if !arguments.confirm {
        return Err("You can't undo the deletion of a topic. Call again with confirm = true."
            .to_owned()
            .into());
    }
    match agent.delete_topic(arguments.topic.as_str()).await {
        Ok(report) => Ok(json!({
            "success": true, "topic": arguments.topic, "subscribers_affected": report.subscribers,
            "context_items_deleted": report.entries_deleted, "message": "The topic is deleted." })),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let infos = agent.discover().await.map_err(words)?;
            let names: Vec<_> = infos.iter().take(100).map(|info| &*info.topic).collect();
            Ok(json!({ "success": false, "error": "There is no such topic.", "available_topics": names }))
        }
        Err(error) => Err(words(error)),
    }
}

fn some(topics: &[String]) -> Result<&[String], String> {
    if topics.is_empty() { Err("Name at least one topic.".to_owned()) } else { Ok(topics) }
}
