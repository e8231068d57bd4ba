//! How a command gets at a user's data: as the operator, or with an access token.

use std::path::Path;

use syntha::{HostAuthority, Secret, Session, UserManager};

use crate::{Result, passphrase};

/// Whoever runs the command.
pub(crate) enum Door<'h> {
    /// The operator, who has the deployment's keys.
    Host(&'h HostAuthority),
    /// Who has this token. It says whose data it is, and as which agent.
    Token(Secret),
}

impl<'h> Door<'h> {
    /// The door that the settings name.
    pub(crate) fn new(host: &'h HostAuthority, token: Option<&Path>) -> Result<Self> {
        let Some(file) = token else { return Ok(Self::Host(host)) };
        let text = passphrase::text(&passphrase::read(file)?)?;
        Ok(Self::Token(Secret::parse(&text)?))
    }

    /// The operator's authority; what only an operator does is refused with a token.
    pub(crate) fn host(&self) -> Result<&'h HostAuthority> {
        match self {
            Self::Host(host) => Ok(host),
            Self::Token(_) => {
                Err("a token opens its own user's data alone: this command is the operator's".into())
            }
        }
    }

    /// A session for the user who is named, or who the token is of.
    pub(crate) async fn open(&self, users: &UserManager, user: Option<&str>) -> Result<Session> {
        match (self, user) {
            (Self::Host(host), Some(user)) => Ok(users.open(host, user).await?),
            (Self::Host(_), None) => {
                Err("name the user with --user, or give a token with --token-file".into())
            }
            (Self::Token(token), None) => Ok(users.enter(token).await?),
            (Self::Token(_), Some(_)) => {
                Err("a token says whose data it opens: give --user or --token-file, not both".into())
            }
        }
    }

    /// The agent that is named, or the one that the token is bound to.
    pub(crate) fn agent(session: &Session, named: Option<String>) -> Result<syntha::Agent> {
        match (named, session.bound_to()) {
            (Some(name), _) => Ok(session.agent(name)?),
            (None, Some(bound)) => Ok(session.agent(bound.clone())?),
            (None, None) => Err("name the agent with --agent".into()),
        }
    }
}
