//! What is done to a whole deployment: copies of it, and sealing data that was not.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use syntha::keys::make_key_file;
use syntha::sqlite::{KeyPlace, key_place};
use syntha::{Encryption, Migration, MigrationReport, SkippedUser, UserManager, UserProgress, UserTag};

use crate::opening::{Opening, Sealing};
use crate::postgres::NO_OWNER;
use crate::progress::Spinner;
use crate::{Answer, Result};

#[derive(Args)]
pub(crate) struct Copy {
    /// The folder of the copy. Beside it only the key is needed, which is not in it
    #[arg(long, value_name = "FOLDER", required = true)]
    all: PathBuf,
}

#[derive(Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    copy: Copy,
    /// Into a database: the copy is not sealed, and what is made of it is
    #[arg(long)]
    seal: bool,
}

#[derive(Args)]
pub(crate) struct Change {
    /// Removes the old folder at the end; without it, it stays under another name
    #[arg(long)]
    remove_old: bool,
    /// Really
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn backup(copy: Copy, users: &UserManager) -> Result {
    let spinner = Spinner::new("copying");
    let report = users.backup_all(&copy.all, |at| spinner.say(words(at))).await?;
    let mut lines = vec![format!(
        "copied {} users, {} of them with data, {} bytes",
        report.users, report.archives, report.bytes
    )];
    lines.extend(skipped_lines(&report.skipped));
    lines.push(
        if report.sealed {
            "the copy is sealed with the deployment's key, which is not in it: keep it apart"
        } else {
            "the copy is not sealed: whoever has it reads it"
        }
        .into(),
    );
    let value = json!({
        "users": report.users, "archives": report.archives, "bytes": report.bytes, "sealed": report.sealed,
        "skipped": skipped(&report.skipped) });
    Ok(Answer { lines, value })
}

pub(crate) async fn restore(restore: Restore, opening: &Opening) -> Result {
    let Restore { copy, seal } = restore;
    let encryption = match &opening.sealing {
        // As the copy is.
        Sealing::Unsaid if !seal && !is_sealed(&copy.all) => None,
        _ => opening.kek().map(|kek| opening.encryption(kek)),
    };
    let spinner = Spinner::new("restoring");
    let data = &opening.settings.data;
    let say = |at| spinner.say(words(at));
    let report = match &opening.settings.database {
        None if seal => return Err("--seal is for a database: a folder is sealed with `syntha seal`".into()),
        None => syntha::restore_all(&copy.all, data, encryption, say).await?,
        Some(database) => {
            let owner = opening.settings.owner.as_ref().ok_or(NO_OWNER)?.postgres();
            let postgres = database.postgres(&opening.settings.state);
            if seal {
                let encryption =
                    encryption.ok_or("this takes the key that is to seal the data, and not --plain")?;
                if matches!(opening.sealing, Sealing::Unsaid) {
                    opening.make_key_file()?;
                }
                syntha::seal_backup_into_postgres(&copy.all, postgres, &owner, encryption, say).await?
            } else {
                syntha::restore_all_postgres(&copy.all, postgres, &owner, encryption, say).await?
            }
        }
    };
    let mut lines =
        vec![format!("restored {} users with data and {} without", report.restored, report.empty)];
    if report.audited {
        lines.push(
            "the audit trails of users go on; the log begins anew with a new key, and what it was lies beside the folder"
                .into(),
        );
    }
    if report.erased > 0 {
        lines.push(format!("{} users were erased: their archives were left where they are", report.erased));
    }
    lines.extend(skipped_lines(&report.skipped));
    lines.extend(report.locked.iter().map(|tag| {
        format!("{tag} holds the keys: `syntha user restore` with --user-passphrase-file takes the archive")
    }));
    lines.extend(
        report.lost.iter().map(|tag| format!("{tag} was erased meanwhile: the archive opens for nobody")),
    );
    let value = json!({
        "restored": report.restored, "empty": report.empty, "erased": report.erased, "sealed": report.sealed,
        "audited": report.audited,
        "skipped": skipped(&report.skipped), "locked": tags(&report.locked), "lost": tags(&report.lost) });
    Ok(Answer { lines, value })
}

/// Whether a copy's list of files is a sealed one.
fn is_sealed(copy: &Path) -> bool {
    copy.join("manifest.sealed").symlink_metadata().is_ok()
}

pub(crate) async fn seal(change: Change, opening: &Opening) -> Result {
    let encryption = ready(&change, opening)?;
    let data = &opening.settings.data;
    if let (Sealing::Unsaid, Some(key_file)) = (&opening.sealing, opening.key_file())
        && key_place(data).map_err(syntha::Error::from)? == KeyPlace::Here
    {
        make_key_file(&key_file).map_err(syntha::Error::from)?;
    }
    let spinner = Spinner::new("sealing");
    let how = how(&change, opening);
    let report = syntha::seal_folder(data, encryption, how, |at| spinner.say(words(at))).await?;
    drop(spinner);
    let mut lines = changed(&report, "sealed");
    lines.push(match opening.key_file() {
        Some(key_file) => format!(
            "key file: {}, keystore: {}: copy both to a place apart from the data, nothing opens without them",
            key_file.display(),
            opening.keystore().display()
        ),
        None => format!(
            "keystore: {}: copy it, and keep the key: nothing opens without both",
            opening.keystore().display()
        ),
    });
    let remark = "deleted files may stay on a disk until it is written over, and older copies are not sealed";
    lines.push(remark.into());
    let value = json!({
        "users": report.users, "records": report.records, "old": report.old, "trail": report.trail, "key_file": opening.key_file(),
        "keystore": opening.keystore() });
    Ok(Answer { lines, value })
}

pub(crate) async fn unseal(change: Change, opening: &Opening) -> Result {
    let encryption = ready(&change, opening)?;
    let spinner = Spinner::new("taking the seal off");
    let data = &opening.settings.data;
    let how = how(&change, opening);
    let report = syntha::unseal_folder(data, encryption, how, |at| spinner.say(words(at))).await?;
    drop(spinner);
    let mut lines = changed(&report, "no longer sealed");
    lines.push("keep the key and the keystore: older archives open with them alone".into());
    lines.push(
        "as long as they lie beside the folder, open it with --plain, to say that it is meant so".into(),
    );
    let value =
        json!({ "users": report.users, "records": report.records, "old": report.old, "trail": report.trail });
    Ok(Answer { lines, value })
}

fn ready(change: &Change, opening: &Opening) -> Result<Encryption> {
    let Some(kek) = opening.kek() else {
        return Err("this takes the key that seals the data, and not --plain".into());
    };
    if opening.settings.database.is_some() {
        return Err("a database is not sealed in its place: restore a backup of it into a new one, with `syntha restore --seal`".into());
    }
    if !change.yes {
        return Err("this makes the whole data folder anew, add --yes if you mean it".into());
    }
    Ok(opening.encryption(kek))
}

fn how(change: &Change, opening: &Opening) -> Migration {
    let how = Migration::new();
    let how = match &opening.settings.audit_key_file {
        Some(path) => how.audit_key(path),
        None => how,
    };
    if change.remove_old { how.remove_old() } else { how }
}

fn changed(report: &MigrationReport, what: &str) -> Vec<String> {
    let mut lines =
        vec![format!("the data is {what}: {} users, {} records compared", report.users, report.records)];
    lines.push(match &report.old {
        Some(old) => format!("the old folder is {}, remove it when you no longer need it", old.display()),
        None => "the old folder is removed".into(),
    });
    if let Some(trail) = &report.trail {
        lines.push(format!(
            "the audit trails of users go on; the log begins anew with a new key, and what it was is in {}",
            trail.display()
        ));
    }
    lines
}

fn words(at: UserProgress) -> String {
    format!("{} of {} users", at.done, at.total)
}

fn skipped_lines(skipped: &[SkippedUser]) -> impl Iterator<Item = String> {
    skipped.iter().map(|user| format!("not in the copy: {}, {}", user.tag, why(user)))
}

fn skipped(skipped: &[SkippedUser]) -> Value {
    skipped.iter().map(|user| json!({ "tag": user.tag.to_string(), "why": user.why })).collect()
}

const fn why(user: &SkippedUser) -> &'static str {
    match user.why {
        syntha::SkipReason::Locked => "who holds the keys and did not unlock them",
        syntha::SkipReason::Damaged => "whose data can't be read",
        _ => "for another reason",
    }
}

fn tags(tags: &[UserTag]) -> Value {
    tags.iter().map(|tag| Value::from(tag.to_string())).collect()
}
