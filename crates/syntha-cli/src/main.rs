//! The `syntha` program.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its terminal")]

mod data;
mod history;
mod import;
mod quickstart;
mod settings;
mod shown;
mod transfer;
mod users;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;
use syntha::{ErrorKind, HostAuthority, UserManager};

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
    /// The data folder. Default: `data`
    #[arg(long, global = true, env = "SYNTHA_DATA", value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// A settings file. Default: `syntha.toml` in the working folder, if it is there
    #[arg(long, global = true, env = "SYNTHA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
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
                | Self::User(users::Command::List | users::Command::Backup { .. })
        )
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    match run(arguments).await {
        Ok(answer) if json => println!("{}", shown::line(&answer.value.to_string())),
        Ok(answer) => answer.lines.iter().for_each(|line| println!("{}", shown::line(line))),
        Err(error) => {
            if json {
                let value = serde_json::json!({ "error": error.to_string() });
                println!("{}", shown::line(&value.to_string()));
            }
            eprintln!("syntha: {}", shown::line(&error.to_string()));
            let mut source = std::error::Error::source(&*error);
            while let Some(cause) = source {
                eprintln!("  because: {}", shown::line(&cause.to_string()));
                source = cause.source();
            }
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn run(arguments: Arguments) -> Result {
    let folder = settings::data(arguments.data, arguments.config)?;
    let builder = UserManager::builder();
    let opened =
        if arguments.shared { builder.sqlite_shared(&folder) } else { builder.sqlite(&folder) }.open().await;
    let (users, host) = match opened {
        Err(error) if error.kind() == ErrorKind::Locked && arguments.command.only_reads() => {
            eprintln!("syntha: {error}; reading beside it");
            UserManager::builder().sqlite_beside(&folder).open().await?
        }
        opened => opened?,
    };
    let answer = command(arguments.command, &folder, &users, &host).await;
    users.shutdown().await?;
    answer
}

async fn command(
    command: Command,
    folder: &std::path::Path,
    users: &UserManager,
    host: &HostAuthority,
) -> Result {
    match command {
        Command::Quickstart => quickstart::run(folder, users, host).await,
        Command::User(command) => users::run(command, users).await,
        Command::Push(push) => data::push(push, users, host).await,
        Command::Get(get) => data::get(get, users, host).await,
        Command::List(list) => data::list(list, users, host).await,
        Command::Topics(of) => data::topics(of, users, host).await,
        Command::Stats(of) => data::stats(of, users, host).await,
        Command::History(command) => history::run(command, users, host).await,
        Command::Export(export) => transfer::export(export, users, host).await,
        Command::Import(import) => import::run(import, users, host).await,
    }
}
