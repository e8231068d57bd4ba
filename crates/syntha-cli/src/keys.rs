//! The keys that the data is sealed with.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use syntha::keys::{KekId, KeyStatus, Progress, Rewrap, make_key_file};
use syntha::{ErrorKind, HostAuthority, Kek, UserManager};

use crate::opening::{Access, Opening};
use crate::progress::Spinner;
use crate::{Answer, Result, passphrase};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Shows what wraps the keys, and the keys of every user: epochs, rotations, who holds them
    Status {
        /// Only this user
        #[arg(long)]
        user: Option<String>,
        /// Counts the records under each epoch, which reads all of them
        #[arg(long)]
        count: bool,
    },
    /// Seals data under new keys and destroys the former ones, while the data is in use
    Rotate(Rotate),
    /// Wraps all keys under another key, which is the one that opens from then on; no data is touched
    Rewrap(NewKey),
    /// Makes a key file
    NewKeyFile {
        /// The file; it must not exist
        file: PathBuf,
    },
}

impl Command {
    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            Self::Status { user, .. } => user.as_deref(),
            Self::Rotate(rotate) => rotate.whose.user.as_deref(),
            Self::Rewrap(_) | Self::NewKeyFile { .. } => None,
        }
    }
}

#[derive(Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    whose: Whose,
    /// Turns a rotation back that did not end
    #[arg(long, conflicts_with = "all")]
    back: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// This user's
    #[arg(long)]
    user: Option<String>,
    /// Every user's, one after the other; who holds the keys is passed over
    #[arg(long)]
    all: bool,
    /// The deployment's own: who there is, and who was erased
    #[arg(long)]
    deployment: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct NewKey {
    /// The new key's file; `syntha keys new-key-file` makes one
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
    /// The file whose first line is the new passphrase; `-` is the standard input, after the line of the present one
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// Under the newest version of the key that wraps now, in a key service; or ends a change that did not
    #[arg(long)]
    same_key: bool,
}

pub(crate) async fn run(command: Command, users: &UserManager) -> Result {
    match command {
        Command::Status { user, count } => status(user, count, users).await,
        Command::Rotate(rotate) => rotated(rotate, users).await,
        // `main` sends these elsewhere: they open the data otherwise, or not at all.
        Command::Rewrap(_) | Command::NewKeyFile { .. } => Err("the command opens no data".into()),
    }
}

pub(crate) fn new_key_file(file: &std::path::Path) -> Result {
    if file.symlink_metadata().is_ok() {
        return Err(format!("{} is there already", file.display()).into());
    }
    make_key_file(file).map_err(syntha::Error::from)?;
    let line = format!("made the key file {}: copy it to a place apart from the data", file.display());
    Ok(Answer { lines: vec![line], value: json!({ "key_file": file }) })
}

async fn status(user: Option<String>, count: bool, users: &UserManager) -> Result {
    let Some(mode) = users.sealing() else {
        return Ok(Answer {
            lines: vec!["the data is not sealed; `syntha seal` seals it".into()],
            value: json!({ "mode": "plain" }),
        });
    };
    let (census, wrapping) = (users.key_census().await?, users.wrapping_status().await?);
    let mut lines = vec![format!("mode: {mode}"), format!("key that wraps: {}", id(census.current))];
    for (kek, keys) in &wrapping.keys {
        let of = census.users.iter().find(|(one, _)| one == kek).map_or(0, |(_, users)| *users);
        lines.push(format!("under {}: {keys} keys of {of} users", id(*kek)));
    }
    if wrapping.under_way {
        lines.push("a change of the key has not ended: do it again, with the former key as well".into());
    }
    let keks = wrapping.keys.iter().map(|(kek, keys)| {
        let of = census.users.iter().find(|(one, _)| one == kek).map_or(0, |(_, users)| *users);
        json!({ "kek": id(*kek), "keys": keys, "users": of })
    });
    let keks: Value = keks.collect();
    lines.push(String::new());
    let mut table = Table::new(count);
    if let Some(user) = user {
        table.add(&user, users.key_status(user.as_str(), count).await)?;
    } else {
        table.add("(the deployment)", users.deployment_key_status(count).await)?;
        let mut after = None;
        loop {
            let page = users.list(after, 1_000).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.tag);
            for entry in page {
                let status = match users.key_status(entry.user.clone(), count).await {
                    // Counting needs the keys, which this user holds.
                    Err(error) if count && error.kind() == ErrorKind::KeyUnavailable => {
                        users.key_status(entry.user.clone(), false).await
                    }
                    status => status,
                };
                table.add(entry.user.as_str(), status)?;
            }
        }
    }
    lines.append(&mut table.lines());
    let value = json!({
        "mode": mode.name(), "current": id(census.current), "keks": keks, "change_under_way": wrapping.under_way,
        "holders": census.holders, "owners": table.values });
    Ok(Answer { lines, value })
}

/// A key's public name: what wraps, not the key.
fn id(kek: KekId) -> String {
    use std::fmt::Write as _;
    let mut text = kek.name().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    if kek.version() != 1 {
        let _ = write!(text, " version {}", kek.version());
    }
    text
}

struct Table {
    rows: Vec<Vec<String>>,
    values: Vec<Value>,
}

impl Table {
    fn new(count: bool) -> Self {
        let mut head = vec!["user", "epochs", "seals under", "rotates to", "held"];
        if count {
            head.push("records");
        }
        Self { rows: vec![head.into_iter().map(str::to_owned).collect()], values: Vec::new() }
    }

    fn add(&mut self, name: &str, status: syntha::Result<KeyStatus>) -> Result<()> {
        match status {
            Ok(status) => {
                let epochs: Vec<_> = status.epochs.iter().map(ToString::to_string).collect();
                let mut row = vec![
                    name.to_owned(),
                    epochs.join(" "),
                    status.sealing.to_string(),
                    status.target.map_or_else(|| "-".into(), |target| target.to_string()),
                    if status.held { "by the user" } else { "-" }.into(),
                ];
                if let Some(records) = &status.records {
                    let of: Vec<_> =
                        records.iter().map(|(epoch, records)| format!("{epoch}: {records}")).collect();
                    row.push(of.join(", "));
                }
                self.rows.push(row);
                self.values.push(json!({
                    "user": name, "epochs": status.epochs, "target": status.target, "sealing": status.sealing,
                    "held": status.held, "records": status.records }));
            }
            Err(error) => {
                let says = match error.kind() {
                    ErrorKind::NotFound | ErrorKind::Erased => "has not written yet".to_owned(),
                    ErrorKind::Denied | ErrorKind::Tampered | ErrorKind::Corrupt => error.to_string(),
                    _ => return Err(error.into()),
                };
                self.rows.push(vec![name.to_owned(), says.clone()]);
                self.values.push(json!({ "user": name, "says": says }));
            }
        }
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        table(&self.rows)
    }
}

/// Columns under each other. A row with fewer cells than the first is a remark, which makes no column wider.
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| column == 0 || row.len() == columns);
        cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

async fn rotated(rotate: Rotate, users: &UserManager) -> Result {
    let spinner = Spinner::new("rotating");
    let Whose { user, all, .. } = rotate.whose;
    if all {
        return rotated_all(users, &spinner).await;
    }
    let progress = |at: Progress| spinner.say(words(at));
    let done = match (user, rotate.back) {
        (Some(user), false) => users.rotate_keys(user, progress).await?,
        (Some(user), true) => users.rotate_keys_back(user, progress).await?,
        (None, false) => users.rotate_deployment_keys(progress).await?,
        (None, true) => users.rotate_deployment_keys_back(progress).await?,
    };
    let line = format!("everything is under epoch {}, {} records were sealed again", done.epoch, done.sealed);
    let gone = if rotate.back { "the new key is destroyed" } else { "the former key is destroyed" };
    Ok(Answer {
        lines: vec![line, gone.into()],
        value: json!({ "epoch": done.epoch, "sealed": done.sealed, "passes": done.passes }),
    })
}

fn words(at: Progress) -> String {
    format!("pass {}: {} records looked at, {} sealed again", at.pass, at.seen, at.sealed)
}

async fn rotated_all(users: &UserManager, spinner: &Spinner) -> Result {
    let all = users
        .rotate_all_keys(|user, at| spinner.say(format!("{}: {}", user.user.as_str(), words(at))))
        .await?;
    let mut lines =
        vec![format!("{} users are under new keys, {} records were sealed again", all.rotated, all.sealed)];
    if all.empty > 0 {
        lines.push(format!("{} users have not written and have no keys", all.empty));
    }
    for user in &all.locked {
        lines.push(format!(
            "not rotated: {} holds the keys; use --user with --user-passphrase-file",
            user.user.as_str()
        ));
    }
    for (user, error) in &all.failed {
        lines.push(format!("not rotated: {}: {error}", user.user.as_str()));
    }
    if !all.failed.is_empty() {
        return Err(lines.join("; ").into());
    }
    let locked: Vec<_> = all.locked.iter().map(|user| user.user.as_str()).collect();
    let value =
        json!({ "rotated": all.rotated, "sealed": all.sealed, "without_data": all.empty, "locked": locked });
    Ok(Answer { lines, value })
}

/// Opens the data with the present key and the new one, in whatever state the last call has left it, and ends in the new one alone.
pub(crate) async fn rewrap(new: NewKey, opening: Opening, access: Access) -> Result {
    let Some(present) = opening.kek() else { return Err("the data is not sealed, it has no keys".into()) };
    let (kek, flag) = match (&new.new_key_file, &new.new_passphrase_file) {
        (Some(file), _) => {
            if file.symlink_metadata().is_err() {
                return Err(format!(
                    "there is no key file {0}, make it with `syntha keys new-key-file {0}`",
                    file.display()
                )
                .into());
            }
            (Some(Kek::file(file)), format!("--key-file {}", file.display()))
        }
        (None, Some(file)) => {
            (Some(Kek::passphrase(passphrase::read(file)?)), "the new passphrase".to_owned())
        }
        (None, None) => (None, String::new()),
    };
    let (users, _host) = open(kek.as_ref(), present, opening, access).await?;
    let done = rewrapped(kek.as_ref(), &flag, &users).await;
    users.shutdown().await?;
    done
}

/// Opens the data with the present key; if that is not (or not all) what it takes any more, with both, and with the new one alone. Where one
/// of the two is a passphrase, both together do not open what is not kept under a passphrase yet, or no longer.
async fn open(
    new: Option<&Kek>,
    present: Kek,
    mut opening: Opening,
    access: Access,
) -> Result<(UserManager, HostAuthority)> {
    let first = match opening.open(access).await {
        Err(error) if crate::kind_of(&*error) == Some(ErrorKind::Denied) => error,
        opened => return opened,
    };
    let Some(new) = new else { return Err(first) };
    for kek in [new.clone().formerly(present), new.clone()] {
        opening = opening.with_kek(kek);
        match opening.open(access).await {
            Err(error) if crate::kind_of(&*error) == Some(ErrorKind::Denied) => {}
            opened => return opened,
        }
    }
    // What the key that was called the present one was refused for.
    Err(first)
}

async fn rewrapped(kek: Option<&Kek>, flag: &str, users: &UserManager) -> Result {
    let spinner = Spinner::new("wrapping keys");
    let progress =
        |at: Rewrap| spinner.say(format!("{} users looked at, {} keys wrapped again", at.owners, at.keys));
    let done = match kek {
        Some(kek) => users.change_key(kek, progress).await?,
        None => users.rewrap_keys(progress).await?,
    };
    let status = users.wrapping_status().await?;
    if !status.is_finished() {
        return Err("some keys are still under the former key, which is needed: do the same again".into());
    }
    let mut lines = vec![format!("{} keys were wrapped again, all are under {}", done.keys, id(done.kek))];
    if kek.is_some() {
        lines.push(format!("from now on the data opens with {flag}; the former key may go"));
    }
    Ok(Answer {
        lines,
        value: json!({ "keys": done.keys, "kek": id(done.kek), "finished": status.is_finished() }),
    })
}
