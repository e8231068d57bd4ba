//! What agents removed, and how it comes back.

use clap::{Args, Subcommand};
use serde_json::json;
use syntha::{Deed, UndoId, UndoState, UserManager};

use crate::door::Door;
use crate::{Answer, Result};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Lists what agents removed and can be undone, the latest first
    List {
        #[command(flatten)]
        of: OfUser,
    },
    /// Shows the keys of one of them, and what would become of each
    Show {
        #[command(flatten)]
        of: OfUser,
        /// What `undo list` calls it
        id: String,
    },
    /// Brings back what one call of an agent removed
    Apply {
        #[command(flatten)]
        of: OfUser,
        /// What `undo list` calls it
        id: String,
    },
    /// Deletes what was removed before its time: it can't come back then
    Purge {
        #[command(flatten)]
        of: OfUser,
        /// What `undo list` calls it; without it everything
        id: Option<String>,
        /// Really
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
pub(crate) struct OfUser {
    /// The user's id
    #[arg(long)]
    user: String,
}

impl Command {
    pub(crate) fn user(&self) -> &str {
        match self {
            Self::List { of } | Self::Show { of, .. } | Self::Apply { of, .. } | Self::Purge { of, .. } => {
                &of.user
            }
        }
    }
}

const fn did(deed: Deed) -> &'static str {
    match deed {
        Deed::Remove => "removed",
        Deed::DeleteTopic => "deleted the topic",
        Deed::Unsubscribe => "unsubscribed",
        Deed::Overwrite => "wrote over",
        _ => "changed",
    }
}

const fn state(state: UndoState) -> &'static str {
    match state {
        UndoState::Kept => "kept",
        UndoState::Expired => "expired",
        UndoState::Taken => "taken",
        UndoState::Parted => "parted",
        _ => "unknown",
    }
}

pub(crate) async fn run(command: Command, users: &UserManager, door: &Door<'_>) -> Result {
    let session = users.open(door.host()?, command.user()).await?;
    match command {
        Command::List { .. } => {
            let (mut lines, mut values, mut before) = (Vec::new(), Vec::new(), None);
            loop {
                let page = session.undo_list(before, 1_000).await?;
                for act in &page.acts {
                    lines.push(format!(
                        "{}  {} {} {}, {} entries, until {}",
                        act.id,
                        act.by,
                        did(act.did),
                        act.on,
                        act.entries,
                        act.until.0
                    ));
                    values.push(json!({
                        "id": act.id.to_string(), "agent": &*act.by, "did": act.did, "on": &*act.on, "at": act.at.0,
                        "until": act.until.0, "entries": act.entries, "bytes": act.bytes, "parted": act.parted,
                        "subscribers": act.subscribers }));
                }
                before = page.acts.last().map(|act| act.id);
                if !page.more {
                    break;
                }
            }
            if lines.is_empty() {
                lines.push("there is nothing to undo".into());
            }
            Ok(Answer { lines, value: values.into() })
        }
        Command::Show { id, .. } => {
            let keys =
                session.undo_keys(id.parse::<UndoId>()?).await?.ok_or("there is no such thing to undo")?;
            let lines = keys.iter().map(|key| format!("{}  {}", state(key.state), key.key)).collect();
            let value = keys.iter().map(|key| json!({ "key": &*key.key, "state": state(key.state) }));
            Ok(Answer { lines, value: value.collect() })
        }
        Command::Apply { id, .. } => {
            let undone = session.undo(id.parse::<UndoId>()?).await?;
            let mut lines = vec![format!("{} entries are back", undone.entries)];
            for (count, says) in [
                (undone.rejoined, "are on the topic again"),
                (undone.expired, "expired meanwhile and are gone"),
                (undone.left, "were changed since and stay as they are"),
            ] {
                if count > 0 {
                    lines.push(format!("{count} {says}"));
                }
            }
            if undone.subscribers > 0 {
                lines.push(format!("{} agents have their subscriptions again", undone.subscribers));
            }
            let value = json!({
                "entries": undone.entries, "expired": undone.expired, "rejoined": undone.rejoined,
                "subscribers": undone.subscribers, "left": undone.left });
            Ok(Answer { lines, value })
        }
        Command::Purge { yes: false, .. } => Err("this can't be undone, add --yes if you mean it".into()),
        Command::Purge { id, .. } => {
            let purged = match id {
                Some(id) => u64::from(session.undo_purge(id.parse::<UndoId>()?).await?),
                None => session.undo_purge_all().await?,
            };
            Ok(Answer {
                lines: vec![format!("{purged} can't be undone any more")],
                value: json!({ "purged": purged }),
            })
        }
    }
}
