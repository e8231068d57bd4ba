use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use syntha::{Restore, SecretBytes, UserManager};

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
    /// Shows what a user uses and may use
    Show {
        /// The user's id
        user: String,
    },
    /// Sets what a user may use, and shows it; what is not named stays as it was
    Limits(Box<crate::limits::Set>),
    /// Erases a user: account, data, files and name. This can't be undone
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
        /// The archive is not sealed. Anybody can have changed such a one
        #[arg(long)]
        plain_archive: bool,
        /// Agents may do what they might when the archive was made, whatever was forbidden since
        #[arg(long)]
        archived_permissions: bool,
    },
    /// Suspends a user's account: no login, token or session of it holds until it is resumed
    Suspend {
        /// The user's id
        user: String,
    },
    /// Lifts a suspension
    Resume {
        /// The user's id
        user: String,
    },
    /// Lets a user hold the keys: from now on nothing of the user's opens without the passphrase in --user-passphrase-file. Who
    /// loses it has lost the data
    HoldKey {
        /// The user's id
        user: String,
    },
    /// Tries the passphrase in --user-passphrase-file
    UnlockTest {
        /// The user's id
        user: String,
    },
    /// Gives the keys back to the deployment; needs the passphrase in --user-passphrase-file
    GiveBackKey {
        /// The user's id
        user: String,
    },
}

impl Command {
    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            Self::List => None,
            Self::Limits(set) => Some(&set.user),
            Self::Add { user, .. }
            | Self::Show { user }
            | Self::Erase { user, .. }
            | Self::Backup { user, .. }
            | Self::Restore { user, .. }
            | Self::Suspend { user }
            | Self::Resume { user }
            | Self::HoldKey { user }
            | Self::UnlockTest { user }
            | Self::GiveBackKey { user } => Some(user),
        }
    }
}

pub(crate) async fn run(command: Command, passphrase: Option<&SecretBytes>, users: &UserManager) -> Result {
    let needed = || passphrase.ok_or("give the user's passphrase with --user-passphrase-file");
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
        Command::Show { user } => crate::limits::show(&user, users).await,
        Command::Limits(set) => crate::limits::set(*set, users).await,
        Command::Erase { yes: false, .. } | Command::Restore { yes: false, .. } => {
            Err("this can't be undone, add --yes if you mean it".into())
        }
        Command::Erase { user, .. } => {
            let receipt = users.erase(user.as_str()).await?;
            let mut lines = vec![
                if receipt.removed { "the user is erased" } else { "nothing was left of the user" }
                    .to_owned(),
                format!("destroyed: {} files of data, {} rows of keys", receipt.objects, receipt.keys),
                format!("at: {} (milliseconds since 1970)", receipt.at.0),
                "gone:".into(),
            ];
            lines.extend(receipt.covers().iter().map(|says| format!("  - {says}")));
            lines.push("not reached, may still be somewhere else:".into());
            lines.extend(receipt.does_not_cover().iter().map(|says| format!("  - {says}")));
            Ok(Answer { lines, value: json!(receipt) })
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
        Command::Restore { user, file, plain_archive, archived_permissions, .. } => {
            let source =
                File::open(&file).map_err(|error| format!("can't read {}: {error}", file.display()))?;
            let mut how = Restore::new();
            if plain_archive {
                how = how.plain();
            }
            if archived_permissions {
                how = how.archived_permissions();
            }
            users.restore_with(user.as_str(), std::io::BufReader::new(source), how).await?;
            Ok(Answer { lines: vec!["the user is restored".into()], value: json!({ "restored": true }) })
        }
        Command::Suspend { user } => crate::accounts::suspend(&user, true, users).await,
        Command::Resume { user } => crate::accounts::suspend(&user, false, users).await,
        Command::HoldKey { user } => {
            users.hold_key(user.as_str(), needed()?).await?;
            let lines = vec![
                "the user holds the keys: nothing of the user's opens without the passphrase".into(),
                "copies of the keystore that were made before still open without it".into(),
            ];
            Ok(Answer { lines, value: json!({ "held": true }) })
        }
        Command::UnlockTest { user } => {
            users.unlock_user(user.as_str(), needed()?).await?;
            Ok(Answer { lines: vec!["the passphrase is right".into()], value: json!({ "right": true }) })
        }
        Command::GiveBackKey { user } => {
            needed()?;
            users.give_back_key(user.as_str()).await?;
            Ok(Answer {
                lines: vec!["the deployment has the user's keys again".into()],
                value: json!({ "held": false }),
            })
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
