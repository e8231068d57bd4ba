use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use syntha::UserManager;

use crate::{Answer, Result};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Makes a user
    Add {
        /// The user's id
        user: String,
        /// Also if a user of that id was erased: a new life, with none of the old data
        #[arg(long)]
        recreate: bool,
    },
    /// Lists users and the tags that name their files
    List,
    /// Erases a user: data, files and name. This can't be undone
    Erase {
        /// The user's id
        user: String,
        /// Really
        #[arg(long)]
        yes: bool,
    },
    /// Writes a user's data to a new file
    Backup {
        /// The user's id
        user: String,
        /// The file; it must not exist
        file: PathBuf,
    },
    /// Puts an archive in the place of the same user's data
    Restore {
        /// The user's id
        user: String,
        /// The file
        file: PathBuf,
        /// Really: what the user has now is lost
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(command: Command, users: &UserManager) -> Result {
    match command {
        Command::Add { user, recreate } => {
            if recreate {
                users.recreate(user.as_str()).await?;
            } else {
                users.create(user.as_str()).await?;
            }
            let tag = users.tag(user.as_str())?.to_string();
            Ok(Answer {
                lines: vec![format!("made the user; the file is {tag}.db")],
                value: json!({ "tag": tag }),
            })
        }
        Command::List => list(users).await,
        Command::Erase { yes: false, .. } | Command::Restore { yes: false, .. } => {
            Err("this can't be undone, add --yes if you mean it".into())
        }
        Command::Erase { user, .. } => {
            let removed = users.erase(user.as_str()).await?.removed;
            let line = if removed { "the user is erased" } else { "nothing was left of the user" };
            Ok(Answer { lines: vec![line.into()], value: json!({ "removed": removed }) })
        }
        Command::Backup { user, file } => {
            let mut sink = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&file)
                .map_err(|error| format!("can't make {}: {error}", file.display()))?;
            let info = match users.backup(user.as_str(), &mut sink).await {
                Ok(info) => info,
                Err(error) => {
                    std::fs::remove_file(&file)?;
                    return Err(error.into());
                }
            };
            sink.sync_all()?;
            Ok(Answer {
                lines: vec![format!("wrote {} records, {} bytes", info.records, info.bytes)],
                value: json!({ "records": info.records, "bytes": info.bytes }),
            })
        }
        Command::Restore { user, file, .. } => {
            let source =
                File::open(&file).map_err(|error| format!("can't read {}: {error}", file.display()))?;
            users.restore(user.as_str(), std::io::BufReader::new(source)).await?;
            Ok(Answer { lines: vec!["the user is restored".into()], value: json!({ "restored": true }) })
        }
    }
}

async fn list(users: &UserManager) -> Result {
    let (mut lines, mut values, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let page = users.list(after, 1_000).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.tag);
        for entry in &page {
            lines.push(format!("{}  {}", entry.tag, entry.user.as_str()));
            values.push(json!({ "user": entry.user.as_str(), "tag": entry.tag.to_string() }));
        }
    }
    if lines.is_empty() {
        lines.push("there are no users; make one with `syntha user add NAME`".into());
    }
    Ok(Answer { lines, value: values.into() })
}
