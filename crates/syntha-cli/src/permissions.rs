//! What an agent may do: roles, grants, denials, and why something is decided as it is.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use syntha::{
    Act, EntryKey, Grant, KeyPrefix, Resource, Role, Session, ThreadId, Timestamp, Topic, UserManager,
};

use crate::door::Door;
use crate::{Answer, Result};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Shows an agent's role, grants and denials
    Show {
        #[command(flatten)]
        of: Of,
    },
    /// Gives an agent a role
    Role {
        #[command(flatten)]
        of: Of,
        /// The role
        role: RoleArgument,
    },
    /// Grants an agent something besides what its role has
    Grant {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        what: What,
        /// For so many seconds from now
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
    },
    /// Takes something away that was granted
    Revoke {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        what: What,
    },
    /// Denies an agent something, whatever its role and grants
    Deny {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        what: What,
    },
    /// Takes a denial back
    Lift {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        what: What,
    },
    /// Says whether an agent may do something, and by which rule
    Explain {
        #[command(flatten)]
        of: Of,
        /// What it would do
        act: ActArgument,
        #[command(flatten)]
        on: On,
    },
}

#[derive(Args)]
pub(crate) struct Of {
    /// The user's id
    #[arg(long)]
    user: String,
    /// The agent's name
    #[arg(long)]
    agent: String,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum RoleArgument {
    Readonly,
    Contributor,
    Moderator,
    Admin,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ActArgument {
    Read,
    Write,
    Subscribe,
    Manage,
    Delete,
    Create,
    Permit,
    Export,
}

#[derive(Clone, Copy, ValueEnum)]
enum Effect {
    Read,
    Write,
    Manage,
    Delete,
}

#[derive(Args)]
pub(crate) struct What {
    /// On this topic
    #[arg(long)]
    topic: Option<String>,
    /// On keys that start so; an empty one is all keys
    #[arg(long)]
    prefix: Option<String>,
    /// On threads
    #[arg(long)]
    threads: bool,
    /// What: read, write (on a topic: post), manage, delete
    #[arg(long, value_delimiter = ',', required = true)]
    may: Vec<Effect>,
}

impl What {
    fn grant(self) -> Result<Grant> {
        let grant = match (self.topic, self.prefix, self.threads) {
            (Some(topic), None, false) => Grant::topic(topic)?,
            (None, Some(prefix), false) => Grant::prefix(KeyPrefix::new(prefix)?)?,
            (None, None, true) => Grant::threads(),
            _ => return Err("name one of --topic, --prefix and --threads".into()),
        };
        Ok(self.may.into_iter().fold(grant, |grant, effect| match effect {
            Effect::Read => grant.read(),
            Effect::Write => grant.write(),
            Effect::Manage => grant.manage(),
            Effect::Delete => grant.delete(),
        }))
    }
}

#[derive(Args)]
pub(crate) struct On {
    /// An entry's key
    #[arg(long)]
    key: Option<String>,
    /// A topic
    #[arg(long)]
    topic: Option<String>,
    /// A thread
    #[arg(long)]
    thread: Option<String>,
}

impl On {
    fn resource(self) -> Result<Resource> {
        Ok(match (self.key, self.topic, self.thread) {
            (None, None, None) => Resource::Mesh,
            (Some(key), None, None) => Resource::Key(EntryKey::new(key)?),
            (None, Some(topic), None) => Resource::Topic(Topic::new(topic)?),
            (None, None, Some(thread)) => Resource::Thread(ThreadId::new(thread)?),
            _ => {
                return Err("name one of --key, --topic and --thread, or none for the mesh as a whole".into());
            }
        })
    }
}

impl Command {
    const fn of(&self) -> &Of {
        match self {
            Self::Show { of }
            | Self::Role { of, .. }
            | Self::Grant { of, .. }
            | Self::Revoke { of, .. }
            | Self::Deny { of, .. }
            | Self::Lift { of, .. }
            | Self::Explain { of, .. } => of,
        }
    }

    pub(crate) fn user(&self) -> &str {
        &self.of().user
    }
}

pub(crate) async fn run(command: Command, users: &UserManager, door: &Door<'_>) -> Result {
    let session = users.open(door.host()?, command.user()).await?;
    let agent = command.of().agent.clone();
    match command {
        Command::Show { .. } => show(&session, agent).await,
        Command::Role { role, .. } => {
            let role = match role {
                RoleArgument::Readonly => Role::Readonly,
                RoleArgument::Contributor => Role::Contributor,
                RoleArgument::Moderator => Role::Moderator,
                RoleArgument::Admin => Role::Admin,
            };
            session.set_role(agent, role).await?;
            Ok(done("the agent has the role"))
        }
        Command::Grant { what, ttl, .. } => {
            let mut grant = what.grant()?;
            if let Some(seconds) = ttl {
                grant = grant.until(from_now(seconds)?);
            }
            session.grant(agent, grant).await?;
            Ok(done("it is granted"))
        }
        Command::Revoke { what, .. } => {
            session.revoke(agent, what.grant()?).await?;
            Ok(done("it is revoked; what the role has, the agent keeps"))
        }
        Command::Deny { what, .. } => {
            session.deny(agent, what.grant()?).await?;
            Ok(done("it is denied"))
        }
        Command::Lift { what, .. } => {
            session.lift(agent, what.grant()?).await?;
            Ok(done("the denial is lifted"))
        }
        Command::Explain { act, on, .. } => {
            let act = match act {
                ActArgument::Read => Act::Read,
                ActArgument::Write => Act::Write,
                ActArgument::Subscribe => Act::Subscribe,
                ActArgument::Manage => Act::Manage,
                ActArgument::Delete => Act::Delete,
                ActArgument::Create => Act::Create,
                ActArgument::Permit => Act::Permit,
                ActArgument::Export => Act::Export,
            };
            let decision = session.explain(agent, act, &on.resource()?).await?;
            let says = if decision.allowed { "allowed" } else { "refused" };
            Ok(Answer {
                lines: vec![format!("{says}, by the rule `{}`", decision.rule.name())],
                value: json!({ "allowed": decision.allowed, "rule": decision.rule.name() }),
            })
        }
    }
}

async fn show(session: &Session, agent: String) -> Result {
    let found = session.permissions_of(agent).await?;
    let found = found.ok_or("there is no such agent; it would be a contributor")?;
    let value = json!({
        "role": found.role, "grants": found.grants, "denials": found.denials, "post": found.post,
        "read": found.read, "trusted": found.trusted, "only_trusted": found.only_trusted });
    let mut lines = vec![format!("role: {}", found.role.name())];
    for (name, grants) in [("grant", &found.grants), ("denial", &found.denials)] {
        for grant in grants {
            lines.push(format!("{name}: {}", serde_json::to_string(grant)?));
        }
    }
    for (name, topics) in [("may post to", &found.post), ("may hear", &found.read)] {
        if let Some(topics) = topics {
            lines.push(format!("{name}: {}", topics.join(", ")));
        }
    }
    lines.push(format!(
        "trusted: {}, reads only what trusted agents wrote: {}",
        found.trusted, found.only_trusted
    ));
    Ok(Answer { lines, value })
}

fn from_now(seconds: u64) -> Result<Timestamp> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let at = since.checked_add(Duration::from_secs(seconds)).ok_or("that is too long")?;
    Ok(Timestamp(u64::try_from(at.as_millis())?))
}

fn done(says: &str) -> Answer {
    Answer { lines: vec![says.to_owned()], value: json!({ "done": true }) }
}
