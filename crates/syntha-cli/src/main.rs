//! The `syntha` program.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its terminal")]

mod accounts;
mod audit;
mod bench;
mod data;
mod doctor;
mod door;
mod history;
mod import;
mod keys;
mod limits;
mod opening;
mod passphrase;
mod permissions;
mod postgres;
mod progress;
mod quickstart;
mod settings;
mod shown;
mod transfer;
mod undo;
mod users;
mod whole;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::Value;
use syntha::{ErrorKind, UserManager};

use crate::door::Door;
use crate::opening::{Access, Opening};

/// The result of a command; its text is what the user reads.
type Result<T = Answer> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What a command prints: lines for people, a value for programs.
struct Answer {
    lines: Vec<String>,
    value: Value,
}

#[derive(Parser)]
#[command(
    name = "syntha",
    version,
    about = "The context store for AI agents in which one user's data cannot reach another"
)]
struct Arguments {
    #[command(flatten)]
    settings: settings::Flags,
    /// Opens the data folder so that other processes which do the same may use it meanwhile
    #[arg(long, global = true)]
    shared: bool,
    /// Prints one JSON value
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes two users with two agents each, and shows who sees what and which file holds whom
    Quickstart,
    /// Makes, lists, erases, archives and restores users
    #[command(subcommand)]
    User(users::Command),
    /// Makes, lists and removes accounts, and sets passwords and rights
    #[command(subcommand)]
    Account(accounts::Command),
    /// Makes, lists and revokes access tokens
    #[command(subcommand)]
    Token(accounts::TokenCommand),
    /// Opens a session with a password and prints its id
    Login(accounts::Login),
    /// Shows and changes what an agent may do, and explains decisions
    #[command(subcommand)]
    Permissions(permissions::Command),
    /// Lists what agents removed, and brings it back
    #[command(subcommand)]
    Undo(undo::Command),
    /// Writes an entry as an agent of a user
    Push(data::Push),
    /// Reads an entry as an agent of a user
    Get(data::Get),
    /// Lists the keys that an agent of a user can see
    List(data::List),
    /// Lists a user's topics and who is subscribed
    Topics(data::OfUser),
    /// Shows what a user's mesh holds, or all users together
    Stats(data::Stats),
    /// Lists, shows, appends, redacts and deletes the messages of a user's history
    #[command(subcommand)]
    History(history::Command),
    /// Writes a user's whole mesh as JSON Lines, see docs/export-v1.md
    Export(transfer::Export),
    /// Imports an export, a conversation, or another store's data
    Import(import::Import),
    /// Shows, rotates and wraps again the keys that the data is sealed with
    #[command(subcommand)]
    Keys(keys::Command),
    /// Shows, verifies, exports, signs and prunes the audit trail
    #[command(subcommand)]
    Audit(audit::Command),
    /// Copies all users' data, the directory and the keystore into a new folder
    Backup(whole::Copy),
    /// Makes a data folder or a database, and its keystore, from such a copy; needs the key
    Restore(whole::Restore),
    /// Seals a data folder that is not sealed
    Seal(whole::Change),
    /// Takes the seal off a data folder
    Unseal(whole::Change),
    /// Prepares a PostgreSQL database
    #[command(subcommand)]
    Postgres(postgres::Command),
    /// Checks the data folder or database, its keys, and how both are kept
    Doctor,
    /// Drives many users on data of its own, and shows throughput, latency, memory and fairness
    Bench(bench::Bench),
}

impl Command {
    /// Whether it can be done beside a process that holds the data folder.
    const fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::Get(_)
                | Self::List(_)
                | Self::Topics(_)
                | Self::Stats(_)
                | Self::Export(_)
                | Self::History(history::Command::List { .. } | history::Command::Show { .. })
                | Self::User(
                    users::Command::List
                        | users::Command::Show { .. }
                        | users::Command::Backup { .. }
                        | users::Command::UnlockTest { .. }
                )
                | Self::Keys(keys::Command::Status { .. })
                | Self::Backup(_)
                | Self::Audit(
                    audit::Command::Show(_)
                        | audit::Command::Verify(_)
                        | audit::Command::Export(_)
                        | audit::Command::Keys
                )
        )
    }

    /// The user whose data it is about.
    fn user(&self) -> Option<&str> {
        match self {
            Self::User(command) => command.user(),
            Self::Permissions(command) => Some(command.user()),
            Self::Undo(command) => Some(command.user()),
            Self::Push(push) => push.user(),
            Self::Get(get) => get.user(),
            Self::List(list) => list.user(),
            Self::Topics(of) => of.user(),
            Self::Stats(stats) => stats.user(),
            Self::History(command) => command.user(),
            Self::Export(export) => export.user(),
            Self::Import(import) => import.user(),
            Self::Keys(command) => command.user(),
            Self::Audit(command) => command.user(),
            Self::Quickstart
            | Self::Account(_)
            | Self::Token(_)
            | Self::Login(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::Seal(_)
            | Self::Unseal(_)
            | Self::Postgres(_)
            | Self::Doctor
            | Self::Bench(_) => None,
        }
    }

    /// Whether it is done with a token as well, which opens one user's data.
    const fn takes_token(&self) -> bool {
        matches!(
            self,
            Self::Push(_)
                | Self::Get(_)
                | Self::List(_)
                | Self::Topics(_)
                | Self::Stats(_)
                | Self::History(_)
                | Self::Export(_)
        )
    }

    /// Whether it takes a passphrase for something else than to unlock the user's keys.
    const fn keeps_passphrase(&self) -> bool {
        matches!(self, Self::User(users::Command::HoldKey { .. } | users::Command::UnlockTest { .. }))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // A core file would hold keys.
    if let Err(error) = syntha::keys::harden_process() {
        eprintln!("syntha: {error}");
    }
    let matches = Arguments::command().get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let json = arguments.json;
    match run(arguments, &matches).await {
        Ok((answer, is_right)) => {
            if json {
                println!("{}", shown::line(&answer.value.to_string()));
            } else {
                answer.lines.iter().for_each(|line| println!("{}", shown::line(line)));
            }
            if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            if json {
                let value = failure(&*error);
                println!("{}", shown::line(&value.to_string()));
            }
            eprintln!("syntha: {}", shown::line(&error.to_string()));
            let mut source = std::error::Error::source(&*error);
            let mut said = error.to_string();
            while let Some(cause) = source {
                // A layer that adds nothing says what the one below it says.
                let says = cause.to_string();
                if says != said {
                    eprintln!("  because: {}", shown::line(&says));
                }
                said = says;
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// An error as a program reads it: its text, which limit stands against it, and when a retry can succeed.
fn failure(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Value {
    let numbers =
        error.downcast_ref::<syntha::Error>().map(|error| (error.exceeded(), error.retry_after())).or_else(
            || error.downcast_ref::<syntha::MeshError>().map(|error| (error.exceeded(), error.retry_after())),
        );
    let mut value = serde_json::json!({ "error": error.to_string() });
    if let (Some((exceeded, after)), Value::Object(fields)) = (numbers, &mut value) {
        if let Some(exceeded) = exceeded {
            let limit = serde_json::json!({ "name": exceeded.limit.name(), "unit": exceeded.limit.unit(),
                "most": exceeded.most, "used": exceeded.used });
            fields.insert("limit".to_owned(), limit);
        }
        if let Some(after) = after {
            fields.insert("retry_after_seconds".to_owned(), after.as_secs_f64().into());
        }
    }
    value
}

/// What the command answers, and whether what it found is right.
async fn run(arguments: Arguments, matches: &clap::ArgMatches) -> Result<(Answer, bool)> {
    let Arguments { settings, shared, command, .. } = arguments;
    let access = if shared { Access::Shared } else { Access::Alone };
    if let Command::Keys(keys::Command::NewKeyFile { file }) = &command {
        return keys::new_key_file(file).map(right);
    }
    if let Command::Audit(command) = &command
        && let Some(verify) = command.file()
    {
        return audit::verify_file(verify);
    }
    let settings = settings::settle(settings, matches)?;
    if let Command::Postgres(postgres::Command::Roles { database, owner }) = &command {
        return postgres::roles(database, owner, settings.app_role.as_deref()).map(right);
    }
    let opening = Opening::new(settings)?;
    let command = match command {
        Command::Postgres(postgres::Command::Install) => return postgres::install(&opening).await.map(right),
        Command::Doctor => return doctor::run(&opening, shared).await,
        Command::Bench(bench) => return bench::run(bench, &opening).await,
        Command::Keys(keys::Command::Rewrap(new)) => {
            return keys::rewrap(new, opening, access).await.map(right);
        }
        Command::Audit(audit::Command::ReplaceSigner(replace)) => {
            return audit::replace_signer(&replace, opening, access).await.map(right);
        }
        Command::Restore(copy) => return whole::restore(copy, &opening).await.map(right),
        Command::Seal(change) => return whole::seal(change, &opening).await.map(right),
        Command::Unseal(change) => return whole::unseal(change, &opening).await.map(right),
        command => command,
    };
    let passphrase = opening.settings.user_passphrase.as_deref().map(passphrase::read).transpose()?;
    let (users, host) = match opening.open(access).await {
        Err(error) if command.only_reads() && kind_of(&*error) == Some(ErrorKind::Locked) => {
            eprintln!("syntha: {error}; reading beside it");
            opening.open(Access::Beside).await?
        }
        opened => opened?,
    };
    let answer = match door::Door::new(&host, opening.settings.token.as_deref()) {
        Ok(door) => answer(command, &opening, passphrase, &users, &door).await,
        Err(error) => Err(error),
    };
    users.shutdown().await?;
    answer
}

const fn right(answer: Answer) -> (Answer, bool) {
    (answer, true)
}

/// What kind of an error of the library's it is.
fn kind_of(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<ErrorKind> {
    error.downcast_ref::<syntha::Error>().map(syntha::Error::kind)
}

async fn answer(
    command: Command,
    opening: &Opening,
    passphrase: Option<syntha::SecretBytes>,
    users: &UserManager,
    door: &Door<'_>,
) -> Result<(Answer, bool)> {
    if !command.takes_token() {
        door.host()?;
    }
    match (&passphrase, command.user()) {
        (None, _) => {}
        (Some(_), None) => {
            return Err("--user-passphrase-file is for a command about one user".into());
        }
        (Some(_), Some(_)) if command.keeps_passphrase() => {}
        (Some(passphrase), Some(user)) => users.unlock_user(user, passphrase).await?,
    }
    let answer = match command {
        Command::Audit(command) => return audit::run(command, users).await,
        Command::Quickstart => quickstart::run(opening, users, door.host()?).await,
        Command::Account(command) => accounts::run(command, users).await,
        Command::Token(command) => accounts::token(command, users).await,
        Command::Login(login) => accounts::login(login, users).await,
        Command::Undo(command) => undo::run(command, users, door).await,
        Command::Permissions(command) => permissions::run(command, users, door).await,
        Command::User(command) => users::run(command, passphrase.as_ref(), users).await,
        Command::Push(push) => data::push(push, users, door).await,
        Command::Get(get) => data::get(get, users, door).await,
        Command::List(list) => data::list(list, users, door).await,
        Command::Topics(of) => data::topics(of, users, door).await,
        Command::Stats(of) => data::stats(of, users, door).await,
        Command::History(command) => history::run(command, users, door).await,
        Command::Export(export) => transfer::export(export, users, door).await,
        Command::Import(import) => import::run(import, users, door.host()?).await,
        Command::Keys(command) => keys::run(command, users).await,
        Command::Backup(copy) => whole::backup(copy, users).await,
        // `run` has seen to these: they open the data otherwise.
        Command::Restore(_)
        | Command::Seal(_)
        | Command::Unseal(_)
        | Command::Postgres(_)
        | Command::Doctor
        | Command::Bench(_) => Err("the command opens the data itself".into()),
    };
    answer.map(right)
}
