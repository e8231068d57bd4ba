//! The tools for the conversation history.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use syntha_mesh::{Agent, HistoryMessage, Message, MessageRole, ThreadInfo};

use crate::arguments::{Answer, parse, words};
use crate::reply::{FRAME_BYTES, REPLY_BYTES};

/// The most messages or threads of an answer.
const LIMIT_MOST: usize = 100;
/// How many of them unless the model says.
const LIMIT: usize = 20;
/// The most members of a message's metadata.
const METADATA_MOST: usize = 16;
/// Threads are looked through in pages of so many, and so many pages.
const THREADS_PAGE: usize = 1_000;
const THREADS_PAGES: usize = 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppendArguments {
    thread: String,
    role: Option<String>,
    content: Value,
    message_id: Option<String>,
    metadata: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetArguments {
    thread: Option<String>,
    limit: Option<usize>,
    before: Option<u64>,
    after: Option<u64>,
}

pub(crate) async fn append(agent: &Agent, arguments: Map<String, Value>) -> Answer {
    let arguments: AppendArguments = parse(arguments)?;
    if !matches!(arguments.content, Value::String(_) | Value::Object(_) | Value::Array(_)) {
        return Err("The content must be text, an object or a list.".to_owned().into());
    }
    let role = role(arguments.role.as_deref())?;
    let mut message = Message::new(role, &arguments.content);
    if let Some(id) = arguments.message_id {
        message = message.id(id);
    }
    let metadata = arguments.metadata.unwrap_or_default();
    if metadata.len() > METADATA_MOST {
        return Err(format!("The metadata may have at most {METADATA_MOST} members.").into());
    }
    for (name, value) in metadata {
        message = message.metadata(name, value);
    }
    let thread = agent.thread(arguments.thread.as_str()).map_err(words)?;
    let appended = thread.append(message).await.map_err(words)?;
    let said = if appended.duplicate {
        "This message was appended before under the same id. Nothing was written."
    } else {
        "The message is appended."
    };
    Ok(json!({
        "success": true, "thread": arguments.thread, "seq": appended.seq, "duplicate": appended.duplicate,
        "agent": agent.name(), "message": said }))
}

/// A model speaks for itself, for the person or for a tool; instructions are the application's to give.
fn role(name: Option<&str>) -> Result<MessageRole, String> {
    match name {
        None | Some("assistant") => Ok(MessageRole::Assistant),
        Some("user") => Ok(MessageRole::User),
        Some("tool") => Ok(MessageRole::Tool),
        Some("system") => {
            Err("You can't write messages of the role system. Use assistant, user or tool.".to_owned())
        }
        Some(_) => Err("The role must be assistant, user or tool.".to_owned()),
    }
}

pub(crate) async fn get(agent: &Agent, arguments: Map<String, Value>) -> Answer {
    let GetArguments { thread, limit, before, after } = parse(arguments)?;
    let limit = limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MOST).contains(&limit) {
        return Err(format!("The limit must be 1 to {LIMIT_MOST}.").into());
    }
    match thread {
        None if before.is_some() || after.is_some() => {
            Err("A place is in a thread: name the thread, or leave out before and after.".to_owned().into())
        }
        None => list(agent, limit).await,
        Some(_) if before.is_some() && after.is_some() => {
            Err("Give before or after, not both.".to_owned().into())
        }
        Some(thread) => messages(agent, &thread, limit, before, after).await,
    }
}

async fn messages(
    agent: &Agent,
    name: &str,
    limit: usize,
    before: Option<u64>,
    after: Option<u64>,
) -> Answer {
    let thread = agent.thread(name).map_err(words)?;
    let page = match (before, after) {
        (_, Some(after)) => thread.after(after, limit).await,
        (Some(before), None) => thread.before(before, limit).await,
        (None, None) => thread.last(limit).await,
    };
    let page = page.map_err(words)?;
    // Those next to the place that was asked for stay, so that a model which reads on misses none.
    let total = page.messages.len();
    let mut taken = if after.is_some() {
        fitting(page.messages.iter().map(shown))
    } else {
        fitting(page.messages.iter().rev().map(shown))
    };
    if after.is_none() {
        taken.reverse();
    }
    let left = total - taken.len();
    let message = match (total, left) {
        // A thread that is absent, empty, and not for this agent is one answer.
        (0, _) => "There are no such messages.".to_owned(),
        (_, 0) => format!("{total} messages."),
        _ => format!(
            "{} messages; {left} were left out because the answer is full. Read on from the last place.",
            taken.len()
        ),
    };
    let mut answer = Map::new();
    answer.insert("success".into(), true.into());
    answer.insert("thread".into(), name.into());
    answer.insert("messages".into(), taken.into());
    answer.insert("more".into(), (page.more || left > 0).into());
    answer.insert("message".into(), message.into());
    if left > 0 {
        answer.insert("omitted".into(), left.into());
    }
    Ok(answer.into())
}

/// A message as the model sees it. What no answer can hold is named and left out, so that it stops nobody from reading on.
fn shown(message: &HistoryMessage) -> Value {
    let small = Map::from_iter([
        ("seq".to_owned(), message.seq().into()),
        ("role".to_owned(), message.role().name().into()),
        ("agent".to_owned(), message.agent().into()),
        ("at".to_owned(), message.at().0.into()),
    ]);
    let mut whole = small.clone();
    whole.insert("content".into(), message.content());
    if !message.metadata().is_empty() {
        whole.insert("metadata".into(), message.metadata().clone().into());
    }
    let whole = Value::Object(whole);
    if size(&whole) <= REPLY_BYTES - FRAME_BYTES {
        return whole;
    }
    let mut small = small;
    small.insert("content_omitted".into(), "This message is too large to be shown.".into());
    small.into()
}

/// The threads of this agent that were written to last, the newest first.
async fn list(agent: &Agent, limit: usize) -> Answer {
    let mut threads: Vec<ThreadInfo> = Vec::new();
    let (mut total, mut after, mut all) = (0, None::<String>, false);
    for _ in 0..THREADS_PAGES {
        let page = agent.threads(after.as_deref(), THREADS_PAGE).await.map_err(words)?;
        total += page.len();
        all = page.len() < THREADS_PAGE;
        after = page.last().map(|info| info.thread.to_string());
        threads.extend(page);
        threads.sort_by(|one, other| (other.updated, &one.thread).cmp(&(one.updated, &other.thread)));
        threads.truncate(limit);
        if all {
            break;
        }
    }
    let taken = fitting(threads.iter().map(
        |info| json!({ "thread": &*info.thread, "messages": info.messages, "updated": info.updated.0 }),
    ));
    let message = if all {
        format!("You can see {total} threads.")
    } else {
        format!("You can see more than {total} threads; only {total} of them were looked at.")
    };
    let more = !all || taken.len() < total;
    Ok(json!({ "success": true, "threads": taken, "more": more, "agent": agent.name(), "message": message }))
}

/// Takes values in their order while they fit into an answer.
fn fitting(values: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut bytes = 0;
    values
        .take_while(|value| {
            bytes += size(value) + 1;
            bytes <= REPLY_BYTES - FRAME_BYTES + 1
        })
        .collect()
}

fn size(value: &Value) -> usize {
    value.to_string().len()
}
