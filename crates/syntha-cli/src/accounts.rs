//! Accounts, access tokens and logins.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use syntha::{
    Account, Factor, Password, Scopes, SecretId, SecretInfo, SessionRequest, Source, TokenRequest,
    UserManager,
};

use crate::quickstart::insert;
use crate::{Answer, Result, passphrase};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Makes an account, and the user if there is none
    Add {
        /// The user's id
        user: String,
        #[command(flatten)]
        rights: Rights,
    },
    /// Lists accounts
    List,
    /// Shows an account, its tokens and its sessions
    Show {
        /// The user's id
        user: String,
    },
    /// Sets a password, the first line of a file, and ends the user's sessions
    Password {
        /// The user's id
        user: String,
        /// The file; `-` is the standard input
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
        /// There is a second factor: 8 characters are enough instead of 15
        #[arg(long)]
        second_factor: bool,
    },
    /// Sets what the user may do at most, and ends the user's sessions
    Rights {
        /// The user's id
        user: String,
        #[command(flatten)]
        rights: Rights,
    },
    /// Revokes all tokens and sessions of the user, or of everybody
    RevokeAll {
        /// The user's id
        #[arg(required_unless_present = "everybody")]
        user: Option<String>,
        /// Everybody's
        #[arg(long, conflicts_with = "user")]
        everybody: bool,
    },
    /// Puts the count of the user's failed logins back
    Forgive {
        /// The user's id
        user: String,
    },
    /// Removes an account with its tokens and sessions; the user's data stays
    Remove {
        /// The user's id
        user: String,
    },
    /// Takes accounts that are older than what was last done to them as they are, and revokes all tokens and sessions
    AcceptOlder {
        /// Really: who was suspended since may come in again
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
pub(crate) struct Rights {
    /// What may be done: read, write, create-agents, export, delete; all of it if nothing is named
    #[arg(long = "may", value_delimiter = ',', value_name = "SCOPES")]
    scopes: Vec<String>,
}

impl Rights {
    fn scopes(&self) -> Result<Scopes> {
        if self.scopes.is_empty() {
            return Ok(Scopes::ALL);
        }
        let mut all = Scopes::NONE;
        for name in &self.scopes {
            all = all | name.parse()?;
        }
        Ok(all)
    }
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes an access token and prints it, once
    Create {
        /// The user's id
        #[arg(long)]
        user: String,
        #[command(flatten)]
        rights: Rights,
        /// It acts as this agent, and as nobody else
        #[arg(long)]
        agent: Option<String>,
        /// What it is called in lists
        #[arg(long, default_value = "")]
        label: String,
        /// How many days it lives, 366 at most
        #[arg(long, default_value_t = 90)]
        days: u32,
    },
    /// Lists a user's tokens
    List {
        /// The user's id
        #[arg(long)]
        user: String,
    },
    /// Revokes a token
    Revoke {
        /// The user's id
        #[arg(long)]
        user: String,
        /// What `token list` calls it
        id: String,
    },
}

#[derive(Args)]
pub(crate) struct Login {
    /// The user's id
    #[arg(long)]
    user: String,
    /// The file whose first line is the password; `-` is the standard input
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,
    #[command(flatten)]
    rights: Rights,
    /// The session acts as this agent, and as nobody else
    #[arg(long)]
    agent: Option<String>,
}

fn password(file: &std::path::Path) -> Result<Password> {
    Ok(Password::new(&passphrase::text(&passphrase::read(file)?)?)?)
}

pub(crate) async fn run(command: Command, users: &UserManager) -> Result {
    let accounts = users.accounts();
    match command {
        Command::Add { user, rights } => {
            accounts.create(user.as_str(), rights.scopes()?).await?;
            Ok(done("made the account; set a password with `syntha account password`, or make a token"))
        }
        Command::List => {
            let (mut lines, mut values, mut after) = (Vec::new(), Vec::new(), None);
            loop {
                let page = accounts.list(after, 1_000).await?;
                for account in &page.accounts {
                    lines.push(line(account));
                    values.push(value(account));
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            if lines.is_empty() {
                lines.push("there are no accounts; make one with `syntha account add NAME`".into());
            }
            Ok(Answer { lines, value: values.into() })
        }
        Command::Show { user } => {
            let account = accounts.get(user.as_str()).await?;
            let (tokens, sessions) =
                (accounts.tokens(user.as_str()).await?, accounts.sessions(user.as_str()).await?);
            let mut lines = vec![line(&account)];
            lines.extend(tokens.iter().map(|token| format!("  token    {}", secret_line(token))));
            lines.extend(sessions.iter().map(|session| format!("  session  {}", secret_line(session))));
            let of = |secrets: &[SecretInfo]| secrets.iter().map(secret_value).collect::<Vec<_>>();
            let mut value = value(&account);
            insert(&mut value, "tokens", of(&tokens).into());
            insert(&mut value, "sessions", of(&sessions).into());
            Ok(Answer { lines, value })
        }
        Command::Password { user, password_file, second_factor } => {
            let factor = if second_factor { Factor::Several } else { Factor::Single };
            accounts.set_password(user.as_str(), password(&password_file)?, factor).await?;
            Ok(done("the password is set; the user's sessions have ended, tokens go on"))
        }
        Command::Rights { user, rights } => {
            accounts.set_rights(user.as_str(), rights.scopes()?).await?;
            Ok(done("the rights are set; the user's sessions have ended"))
        }
        Command::RevokeAll { user: Some(user), .. } => {
            accounts.revoke_all(user.as_str()).await?;
            Ok(done("all tokens and sessions of the user are revoked"))
        }
        Command::RevokeAll { user: None, .. } => {
            accounts.revoke_everything().await?;
            Ok(done("all tokens and sessions of everybody are revoked"))
        }
        Command::Forgive { user } => {
            accounts.forgive(user.as_str()).await?;
            Ok(done("the failed logins are forgiven"))
        }
        Command::Remove { user } => {
            accounts.remove(user.as_str()).await?;
            Ok(done("the account is removed; the user's data is there"))
        }
        Command::AcceptOlder { yes: false } => {
            Err("who was suspended or had a password changed since may come in as before, add --yes if you mean it".into())
        }
        Command::AcceptOlder { yes: true } => {
            accounts.accept_older().await?;
            Ok(done("the accounts are taken as they are; all tokens and sessions are revoked"))
        }
    }
}

/// `user suspend` and `user resume`.
pub(crate) async fn suspend(user: &str, suspend: bool, users: &UserManager) -> Result {
    if suspend {
        users.accounts().suspend(user).await?;
        return Ok(done("the account is suspended: no login, token or session of it holds"));
    }
    users.accounts().resume(user).await?;
    Ok(done("the account is no longer suspended; tokens hold again, sessions have ended"))
}

pub(crate) async fn token(command: TokenCommand, users: &UserManager) -> Result {
    let accounts = users.accounts();
    match command {
        TokenCommand::Create { user, rights, agent, label, days } => {
            let lifetime = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
            let mut request = TokenRequest::new(rights.scopes()?).label(label).lifetime(lifetime);
            if let Some(agent) = agent {
                request = request.agent(agent);
            }
            let (secret, info) = accounts.create_token(user.as_str(), &request).await?;
            let mut value = secret_value(&info);
            insert(&mut value, "token", secret.expose().into());
            let lines =
                vec![secret.expose().to_owned(), format!("this is shown once; lists call it {}", info.id)];
            Ok(Answer { lines, value })
        }
        TokenCommand::List { user } => {
            let tokens = accounts.tokens(user.as_str()).await?;
            let mut lines: Vec<_> = tokens.iter().map(secret_line).collect();
            if lines.is_empty() {
                lines.push("the account has no tokens".into());
            }
            Ok(Answer { lines, value: tokens.iter().map(secret_value).collect() })
        }
        TokenCommand::Revoke { user, id } => {
            accounts.revoke_token(user.as_str(), id.parse::<SecretId>()?).await?;
            Ok(done("the token is revoked"))
        }
    }
}

pub(crate) async fn login(login: Login, users: &UserManager) -> Result {
    let mut request = SessionRequest::default().scopes(login.rights.scopes()?);
    if let Some(agent) = login.agent {
        request = request.agent(agent);
    }
    let password = password(&login.password_file)?;
    let opened = users.login(login.user.as_str(), password, &Source::new("command line"), &request).await?;
    let lines =
        vec![opened.id.expose().to_owned(), "the session's id, shown once: give it with --token-file".into()];
    Ok(Answer { lines, value: json!({ "session": opened.id.expose(), "id": opened.id.id().to_string() }) })
}

fn done(says: &str) -> Answer {
    Answer { lines: vec![says.to_owned()], value: json!({ "done": true }) }
}

fn names(scopes: Scopes) -> Vec<&'static str> {
    scopes.names().collect()
}

fn line(account: &Account) -> String {
    format!(
        "{}  {}  password: {}  may: {}  tokens: {}  sessions: {}",
        account.user.as_str(),
        if account.suspended { "suspended" } else { "active" },
        if account.has_password { "yes" } else { "no" },
        names(account.rights).join(","),
        account.tokens,
        account.sessions,
    )
}

fn value(account: &Account) -> Value {
    json!({
        "user": account.user.as_str(), "suspended": account.suspended, "may": names(account.rights),
        "has_password": account.has_password, "created": account.created.0,
        "tokens": account.tokens, "sessions": account.sessions })
}

fn secret_line(secret: &SecretInfo) -> String {
    format!(
        "{}  may: {}  agent: {}  expires: {}  last used: {}  {}",
        secret.id,
        names(secret.scopes).join(","),
        secret.agent.as_deref().unwrap_or("any"),
        secret.expires.0,
        secret.last_used.map_or_else(|| "never".to_owned(), |at| at.0.to_string()),
        secret.label,
    )
}

fn secret_value(secret: &SecretInfo) -> Value {
    json!({
        "id": secret.id.to_string(), "label": secret.label, "may": names(secret.scopes), "agent": secret.agent,
        "created": secret.created.0, "expires": secret.expires.0, "last_used": secret.last_used.map(|at| at.0) })
}
