use clap::{Args, Subcommand};
use serde_json::{Value, json};
use syntha::{HistoryMessage, Message, MessageRole, Thread, UserManager};

use crate::door::Door;
use crate::{Answer, Result};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Lists threads: all of a user's, or those that an agent can see
    List {
        #[command(flatten)]
        who: Who,
    },
    /// Shows a thread's messages, the last ones unless a place is given
    Show {
        #[command(flatten)]
        who: Who,
        /// The thread
        thread: String,
        /// How many
        #[arg(long, default_value_t = 20)]
        count: usize,
        /// Those after this place
        #[arg(long, conflicts_with = "before")]
        after: Option<u64>,
        /// Those before this place
        #[arg(long)]
        before: Option<u64>,
    },
    /// Appends a message
    Append {
        #[command(flatten)]
        who: Who,
        /// The thread
        thread: String,
        /// system, user, assistant or tool
        role: String,
        /// The content, as JSON; a text that is not JSON is kept as text
        content: String,
        /// The message's id: the same message again is not appended twice
        #[arg(long)]
        id: Option<String>,
    },
    /// Takes a message out of a thread
    Redact {
        #[command(flatten)]
        of: OfThread,
        /// The message's place
        seq: u64,
    },
    /// Deletes a thread with all its messages
    Delete {
        #[command(flatten)]
        of: OfThread,
        /// Really
        #[arg(long)]
        yes: bool,
    },
}

impl Command {
    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            Self::List { who } | Self::Show { who, .. } | Self::Append { who, .. } => who.user.as_deref(),
            Self::Redact { of, .. } | Self::Delete { of, .. } => of.user.as_deref(),
        }
    }
}

#[derive(Args)]
pub(crate) struct Who {
    /// The user's id; not with a token, which says whose data it opens
    #[arg(long)]
    user: Option<String>,
    /// The agent's name; without it the user's own view, or the view of the agent that the token is bound to
    #[arg(long)]
    agent: Option<String>,
}

#[derive(Args)]
pub(crate) struct OfThread {
    /// The user's id; not with a token, which says whose data it opens
    #[arg(long)]
    user: Option<String>,
    /// The thread
    thread: String,
}

pub(crate) async fn run(command: Command, users: &UserManager, door: &Door<'_>) -> Result {
    match command {
        Command::List { who } => list(who, users, door).await,
        Command::Show { who, thread, count, after, before } => {
            let thread = open(who, thread, users, door).await?;
            let page = match (after, before) {
                (Some(after), _) => thread.after(after, count).await?,
                (None, Some(before)) => thread.before(before, count).await?,
                (None, None) => thread.last(count).await?,
            };
            let mut lines: Vec<_> = page.messages.iter().map(line).collect();
            if page.more {
                lines.push("there are more; see --after and --before".into());
            }
            let messages: Value = page.messages.iter().map(value).collect();
            Ok(Answer { lines, value: json!({ "messages": messages, "more": page.more }) })
        }
        Command::Append { who, thread, role, content, id } => {
            let thread = open(who, thread, users, door).await?;
            let content = serde_json::from_str(&content).unwrap_or(Value::String(content));
            let message = Message::new(MessageRole::from_name(&role)?, content);
            let message = match id {
                Some(id) => message.id(id),
                None => message,
            };
            let appended = thread.append(message).await?;
            let how = if appended.duplicate { "it was there already" } else { "appended" };
            Ok(Answer {
                lines: vec![format!("{how}, place {}", appended.seq)],
                value: json!({ "seq": appended.seq, "duplicate": appended.duplicate }),
            })
        }
        Command::Redact { of, seq } => {
            let session = door.open(users, of.user.as_deref()).await?;
            let redacted = session.redact_message(of.thread, seq).await?;
            let line = if redacted { "the message is gone" } else { "there is no such message" };
            Ok(Answer { lines: vec![line.into()], value: json!({ "redacted": redacted }) })
        }
        Command::Delete { yes: false, .. } => Err("this can't be undone, add --yes if you mean it".into()),
        Command::Delete { of, .. } => {
            let session = door.open(users, of.user.as_deref()).await?;
            let deleted = session.delete_thread(of.thread).await?;
            let line = if deleted { "the thread is gone" } else { "there is no such thread" };
            Ok(Answer { lines: vec![line.into()], value: json!({ "deleted": deleted }) })
        }
    }
}

async fn list(who: Who, users: &UserManager, door: &Door<'_>) -> Result {
    let session = door.open(users, who.user.as_deref()).await?;
    let agent = match (who.agent, session.bound_to()) {
        (None, None) => None,
        (named, _) => Some(Door::agent(&session, named)?),
    };
    let (mut threads, mut after) = (Vec::new(), None);
    loop {
        let page = match &agent {
            Some(agent) => agent.threads(after.as_deref(), 1_000).await?,
            None => session.threads(after.as_deref(), 1_000).await?,
        };
        let Some(last) = page.last() else { break };
        after = Some(last.thread.to_string());
        threads.extend(page);
    }
    // A store may list them in another order.
    threads.sort_unstable_by(|one, other| one.thread.cmp(&other.thread));
    let lines = threads.iter().map(|info| format!("{}  {} messages", info.thread, info.messages)).collect();
    let value = threads.iter().map(|info| {
        json!({
            "thread": &*info.thread, "messages": info.messages, "bytes": info.bytes, "last": info.last,
            "created": info.created.0, "updated": info.updated.0, "agents": info.agents })
    });
    Ok(Answer { lines, value: value.collect() })
}

async fn open(who: Who, thread: String, users: &UserManager, door: &Door<'_>) -> Result<Thread> {
    let session = door.open(users, who.user.as_deref()).await?;
    Ok(match (who.agent, session.bound_to()) {
        (None, None) => session.thread(thread)?,
        (named, _) => Door::agent(&session, named)?.thread(thread)?,
    })
}

fn line(message: &HistoryMessage) -> String {
    let agent = message.agent().map_or_else(String::new, |agent| format!(" ({agent})"));
    format!("{:>6}  {}{agent}: {}", message.seq(), message.role().name(), message.content_json())
}

fn value(message: &HistoryMessage) -> Value {
    json!({
        "seq": message.seq(), "role": message.role().name(), "content": message.content(), "metadata": message.metadata(),
        "agent": message.agent(), "at": message.at().0, "id": message.id() })
}
