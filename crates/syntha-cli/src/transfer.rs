//! Exports, and imports of exports and of conversations.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use syntha::{Exported, HostAuthority, Session, UserManager};

use crate::door::Door;
use crate::{Answer, Result, passphrase};

#[derive(Args)]
pub(crate) struct Export {
    /// The user's id; not with a token, which says whose data it opens
    #[arg(long)]
    user: Option<String>,
    /// The file; it must not exist, unless an export to it was stopped
    file: PathBuf,
    /// Goes on with an export that was stopped: what is right in its unfinished file stays
    #[arg(long)]
    resume: bool,
    /// Seals the export with the passphrase in this file's first line; `-` is the standard input. Who loses it has lost the export
    #[arg(long, value_name = "FILE")]
    export_passphrase_file: Option<PathBuf>,
}

impl Export {
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

/// How many lines pass between two words about them.
const WORD: u64 = 10_000;

pub(crate) async fn export(export: Export, users: &UserManager, door: &Door<'_>) -> Result {
    let passphrase = export.export_passphrase_file.as_deref().map(passphrase::read).transpose()?;
    let session = door.open(users, export.user.as_deref()).await?;
    if export.file.symlink_metadata().is_ok() {
        return Err(format!("{} is there already", export.file.display()).into());
    }
    let mut unfinished = export.file.clone().into_os_string();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .create_new(!export.resume)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&unfinished)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                format!("{} is there from an export that was stopped: add --resume", unfinished.display())
            }
            _ => format!("can't make {}: {error}", unfinished.display()),
        })?;
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() != 1 || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(format!(
            "{} is not a file of this account's with one name: remove it",
            unfinished.display()
        )
        .into());
    }
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    let mut sink = BufWriter::with_capacity(1 << 16, Resumed { file, compare: true });
    let mut said = 0;
    let progress = |so_far: &Exported| {
        if so_far.lines() / WORD > said {
            said = so_far.lines() / WORD;
            eprintln!("exported {} lines", so_far.lines());
        }
    };
    let exported = match &passphrase {
        Some(passphrase) => session.export_sealed(passphrase, &mut sink, progress).await?,
        None => session.export(&mut sink, progress).await?,
    };
    let mut sink = sink.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    sink.finish()?;
    publish(&unfinished, &export.file)?;
    let how = if passphrase.is_some() { ", sealed with the passphrase" } else { "" };
    Ok(Answer { lines: vec![format!("exported {}{how}", words(&exported))], value: json!(exported) })
}

/// Gives the file its name, unless another one has got it meanwhile.
fn publish(unfinished: &Path, file: &Path) -> std::io::Result<()> {
    match std::fs::hard_link(unfinished, file) {
        Ok(()) => std::fs::remove_file(unfinished),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(error),
        // A file system without links.
        Err(_) => std::fs::rename(unfinished, file),
    }
}

/// Writes what is not in the file yet: as long as what is written equals what is there, it only reads.
struct Resumed {
    file: File,
    compare: bool,
}

impl Write for Resumed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.compare {
            let at = self.file.stream_position()?;
            let mut there = vec![0; bytes.len()];
            let mut read = 0;
            while read < there.len() {
                match self.file.read(there.get_mut(read..).unwrap_or_default())? {
                    0 => break,
                    more => read += more,
                }
            }
            let same = there.iter().take(read).zip(bytes).take_while(|(one, other)| one == other).count();
            if same == bytes.len() {
                return Ok(same);
            }
            self.compare = false;
            let end = at + same as u64;
            self.file.set_len(end)?;
            self.file.seek(SeekFrom::Start(end))?;
            if same > 0 {
                return Ok(same);
            }
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Resumed {
    /// Drops what an earlier, longer export left behind, and makes the file durable.
    fn finish(&mut self) -> std::io::Result<()> {
        let end = self.file.stream_position()?;
        self.file.set_len(end)?;
        self.file.sync_all()
    }
}

/// Fills a user's mesh from an export.
pub(crate) async fn import(
    file: &Path,
    user: Option<&str>,
    into_existing: bool,
    passphrase: Option<&Path>,
    users: &UserManager,
    host: &HostAuthority,
) -> Result {
    let passphrase = passphrase.map(passphrase::read).transpose()?;
    let mut source = BufReader::with_capacity(1 << 16, open(file)?);
    let is_sealed = syntha::keys::stream::is_sealed(source.fill_buf()?);
    let source: Box<dyn BufRead + Send> = match passphrase {
        // The passphrase is tried before anybody is made.
        Some(passphrase) if is_sealed => Box::new(syntha::open_export(&passphrase, source).await?),
        Some(_) => return Err("the export is not sealed: leave --export-passphrase-file away".into()),
        None if is_sealed => {
            return Err("the export is sealed: give its passphrase with --export-passphrase-file".into());
        }
        None => Box::new(source),
    };
    let session = target(user, into_existing, users, host).await?;
    let mut said = 0;
    let report = session
        .import(source, |so_far| {
            if so_far.lines / WORD > said {
                said = so_far.lines / WORD;
                eprintln!("read {} lines", so_far.lines);
            }
        })
        .await
        .map_err(|error| format!("{error}; what was imported before it stays: mend the file and import it again with --into-existing"))?;
    let mut lines = vec![format!("imported {}", words(&report.imported))];
    if report.present.lines() > 0 {
        lines.push(format!("{} were there already and stayed as they are", words(&report.present)));
    }
    if report.expired > 0 {
        lines.push(format!("{} entries have expired since", report.expired));
    }
    let value = json!({ "imported": report.imported, "present": report.present, "expired": report.expired });
    Ok(Answer { lines, value })
}

/// Appends a file's messages to a thread.
pub(crate) async fn import_chat(
    file: &Path,
    thread: &str,
    user: Option<&str>,
    into_existing: bool,
    users: &UserManager,
    host: &HostAuthority,
) -> Result {
    let session = target(user, into_existing, users, host).await?;
    let source = BufReader::with_capacity(1 << 16, open(file)?);
    let mut said = 0;
    let report = session
        .thread(thread)?
        .import_chat(source, |so_far| {
            if so_far.lines / WORD > said {
                said = so_far.lines / WORD;
                eprintln!("read {} lines", so_far.lines);
            }
        })
        .await
        .map_err(|error| format!("{error}; what was imported before it stays: mend the file and import it again with --into-existing"))?;
    let mut lines = vec![format!("appended {} messages", report.appended)];
    if report.present > 0 {
        lines.push(format!("{} were there already", report.present));
    }
    Ok(Answer { lines, value: json!({ "appended": report.appended, "present": report.present }) })
}

async fn target(
    user: Option<&str>,
    into_existing: bool,
    users: &UserManager,
    host: &HostAuthority,
) -> Result<Session> {
    let user = user.ok_or("name the user to import into with --user")?;
    match users.open(host, user).await {
        Ok(session) if into_existing => Ok(session),
        Ok(_) => Err("the user is there already: add --into-existing to add to the user's data, or to go on after a stop".into()),
        Err(error) if error.kind() == syntha::ErrorKind::NotFound => {
            Ok(users.create_user_session(host, user).await?)
        }
        Err(error) => Err(error.into()),
    }
}

fn open(file: &Path) -> Result<File> {
    let can_not = |error| format!("can't read {}: {error}", file.display());
    let found = file.symlink_metadata().map_err(can_not)?;
    if !found.is_file() {
        return Err(format!("{} is not a plain file", file.display()).into());
    }
    Ok(File::open(file).map_err(can_not)?)
}

fn words(of: &Exported) -> String {
    format!(
        "{} entries, {} agents, {} threads with {} messages, {} interactions",
        of.entries, of.agents, of.threads, of.messages, of.interactions
    )
}
