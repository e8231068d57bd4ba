//! Arguments for Syntha, and its answers as the model writes them.

use std::fmt::Display;
use std::time::Duration;

use serde_json::Value;
use syntha::{
    AgentName, Entry, Expected as Wanted, Filter, HistoryMessage, MeshError, Message, MessageRole,
    Subscriptions, ThreadInfo, Topic, Version,
};

use crate::op::{KEYS, Line, List, Mask, TOPICS, names};
use crate::reference::{Answer, Expected, Name, Push, Reference};
use crate::reference_history::{ROLES, content, message_id};

pub fn topics_of(model: &Reference, name: Name) -> String {
    format!(
        "{:?}",
        model.agents.get(name).map(|bearer| bearer.topics.iter().collect::<Vec<_>>()).unwrap_or_default()
    )
}

pub fn topics_from(topics: Option<Mask>) -> Option<Vec<Name>> {
    topics.map(|topics| names(&TOPICS, topics))
}

pub fn permitted(topics: Option<Mask>) -> Option<Vec<Topic>> {
    let parse = |names: Vec<Name>| names.into_iter().map(|name| Topic::try_from(name).unwrap()).collect();
    topics_from(topics).map(parse)
}

pub fn value_of(push: &Push) -> Value {
    serde_json::from_str(&push.value).unwrap()
}

pub fn describe(mut described: syntha::Push, push: &Push) -> syntha::Push {
    let agents = push.agents.iter().map(|name| AgentName::try_from(*name).unwrap());
    described = described.agents(agents).topics(push.topics.iter().copied());
    if push.restricted {
        described = described.restricted();
    }
    if let Some(ttl) = push.ttl {
        described = described.ttl(Duration::from_millis(ttl));
    }
    if let Some(expected) = wanted(push.expect) {
        described = described.if_version(expected);
    }
    match push.id {
        Some(id) => described.operation(format!("operation-{id}")),
        None => described,
    }
}

pub const fn wanted(expect: Expected) -> Option<Wanted> {
    match expect {
        Expected::Anything => None,
        Expected::Absent => Some(Wanted::Absent),
        Expected::Version(version) => Some(Wanted::Version(Version(version))),
    }
}

pub fn filter(list: &List) -> Filter {
    let mut filter = Filter::new().prefix(list.prefix);
    if let Some(topic) = list.topic {
        filter = filter.topic(TOPICS[topic]);
    }
    if let Some(after) = list.after {
        filter = filter.after(KEYS[after]);
    }
    match list.limit {
        Some(limit) => filter.limit(limit),
        None => filter,
    }
}

pub fn message(user: usize, line: &Line) -> Message {
    let role = MessageRole::from_name(ROLES[usize::from(line.role)]).unwrap();
    let mut message = Message::new(role, content(user, line));
    if let Some(id) = line.id {
        message = message.id(message_id(id));
    }
    if line.meta { message.metadata("n", 1) } else { message }
}

pub fn shown(entry: &Entry) -> String {
    let audience = entry.audience();
    format!(
        "{}={} v{} {}-{} until {:?} by {:?} for {} {:?} {:?}\n",
        entry.key(),
        entry.json(),
        entry.version().0,
        entry.created().0,
        entry.updated().0,
        entry.expires().map(|at| at.0),
        entry.author(),
        audience.everyone,
        audience.agents,
        audience.topics
    )
}

pub fn said(message: &HistoryMessage) -> String {
    let metadata = serde_json::to_string(message.metadata()).unwrap();
    let metadata = if metadata == "{}" { String::new() } else { format!(",\"metadata\":{metadata}") };
    format!(
        "{} {} by {:?} at {} id {:?} {{\"content\":{}{metadata}}}\n",
        message.seq(),
        message.role().name(),
        message.agent(),
        message.at().0,
        message.id(),
        message.content_json()
    )
}

pub fn listed(info: &ThreadInfo) -> String {
    format!(
        "{} {} {} last {} {}-{} for {:?}\n",
        info.thread, info.messages, info.bytes, info.last, info.created.0, info.updated.0, info.agents
    )
}

pub fn subscribed(done: &Subscriptions) -> String {
    format!("{:?} {:?} {:?}", done.changed, done.unchanged, done.topics)
}

pub fn text(result: Result<impl Display, MeshError>) -> Answer {
    kinds(result.map(|value| value.to_string()))
}

pub fn kinds(result: Result<String, MeshError>) -> Answer {
    result.map_err(|error| error.kind())
}
