//! Copies of a whole deployment: its keystore, its directory, and an archive of each user, in one folder.
//!
//! The order in a backup: archives, then the directory and the ledger, then the keystore, then the list of files. An archive's key is there
//! before the archive is, so the keystore that is copied after all archives has the keys of all of them, also of users who were made
//! meanwhile. Who is erased meanwhile is in the ledger or has no key in the keystore, or both: such an archive is not restored, and sealed ones
//! open for nobody. The list comes last and says that the backup is whole.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use syntha_encryption::RowWriter;
use syntha_encryption::stream::{Content, into_error};
use syntha_store::{Keyspace, RecordId, Stamp, UserTag};

use crate::deployment::Deployment;
use crate::directory::Standing;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::manager::UserManager;
use crate::reserved::is_reserved;

/// How far a work on all users is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserProgress {
    /// Users that are done.
    pub done: u64,
    /// All users, as they were counted at the start.
    pub total: u64,
}

/// What a backup holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// Users in the directory.
    pub users: u64,
    /// Archives: users who have data.
    pub archives: u64,
    /// Users whose data is not in the backup.
    pub skipped: Vec<SkippedUser>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Whether the backup is sealed. One that is not can be read by whoever gets it.
    pub sealed: bool,
}

/// A user whose data is not in a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedUser {
    /// The user's tag.
    pub tag: UserTag,
    /// Why.
    pub why: SkipReason,
}

/// Why a user's data is not in a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SkipReason {
    /// The user holds the key, and it is locked.
    Locked,
    /// The data can't be read.
    Damaged,
}

/// The list of a backup's files, the last one written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    #[serde(rename = "syntha-backup")]
    pub(crate) version: u32,
    pub(crate) sealed: bool,
    /// Whether the data has an audit trail. What is restored goes on with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) audited: bool,
    /// Milliseconds since the Unix epoch.
    pub(crate) made: u64,
    pub(crate) users: u64,
    pub(crate) files: Vec<Listed>,
    pub(crate) skipped: Vec<ListedSkip>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// In lower-case hexadecimal digits.
    pub(crate) sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListedSkip {
    pub(crate) tag: String,
    pub(crate) why: SkipReason,
}

/// What a folder holds while its backup is not whole: whose it is.
const UNFINISHED: &str = "unfinished";
/// The names of a backup's files, sealed and plain.
pub(crate) const MANIFEST: Names = Names { sealed: "manifest.sealed", plain: "manifest.json" };
pub(crate) const DEPLOYMENT: Names = Names { sealed: "deployment.sealed", plain: "deployment.plain" };
pub(crate) const KEYSTORE: &str = "keystore.sealed";
/// Everybody's trail and the deployment's own, with the log as it was: see docs/audit-v1.md.
pub(crate) const TRAIL: &str = "audit.trail";
/// The row of a plain backup that holds the key of the tags.
pub(crate) const TAGS_KEY: &[u8] = b"deployment-key";

#[derive(Clone, Copy)]
pub(crate) struct Names {
    pub(crate) sealed: &'static str,
    pub(crate) plain: &'static str,
}

impl Names {
    pub(crate) const fn of(self, sealed: bool) -> &'static str {
        if sealed { self.sealed } else { self.plain }
    }
}

impl UserManager {
    /// Writes a sealed copy of the keystore, which the deployment's key opens on an empty machine. Says how many rows it has. The caller makes
    /// it durable.
    ///
    /// Keep such copies apart from the data, few and short: with one from before an erasure, older archives of the erased user open.
    ///
    /// # Errors
    ///
    /// `Invalid` where the data is not sealed; `KeyUnavailable`, `Storage`.
    pub async fn backup_keys<W: Write + Send>(&self, sink: W) -> Result<u64> {
        let Some(sealed) = &self.deployment.sealed else {
            return Err(Error::new(ErrorKind::Invalid, "the data is not sealed, it has no keystore"));
        };
        Ok(sealed.keychain.backup_keys(sink).await?)
    }

    /// Writes a copy of the directory and the ledger of erasures, sealed where the data is. One that is not holds the users' ids and the key of
    /// their tags. Says how many rows it has. The caller makes it durable.
    ///
    /// # Errors
    ///
    /// `KeyUnavailable`, `Storage`.
    pub async fn backup_deployment<W: Write + Send>(&self, sink: W) -> Result<u64> {
        self.deployment.backup_rows(sink).await
    }

    /// Copies everything into a new folder: an archive for each user, the directory, the keystore, and a list of the files. Sealed where the
    /// data is; then the deployment's key alone opens it, which is not in it. Users work on meanwhile: each one's data is as of one commit of
    /// the user's own.
    ///
    /// A backup that was stopped goes on when it is called again with the same folder.
    ///
    /// # Errors
    ///
    /// `Invalid` for a folder that holds something else; `KeyUnavailable` if what wraps keys does not answer; `Storage`.
    pub async fn backup_all(
        &self,
        folder: impl AsRef<Path> + Send,
        mut progress: impl FnMut(UserProgress) + Send,
    ) -> Result<BackupReport> {
        let folder = files::absolute(folder.as_ref())?;
        let deployment = &*self.deployment;
        begin(&folder, deployment)?;
        let mut backup = Backup {
            deployment,
            folder,
            sealed: deployment.is_sealed(),
            archives: Vec::new(),
            skipped: Vec::new(),
        };
        let users = backup.users(&mut progress).await?;
        backup.look_again().await?;
        backup.finish(users).await
    }
}

impl Deployment {
    /// Whether the data has an audit trail, which this process may only read.
    #[cfg(feature = "audit")]
    const fn has_trail(&self) -> bool {
        self.trailed.audited.is_some()
    }

    #[cfg(not(feature = "audit"))]
    const fn has_trail(&self) -> bool {
        self.audited
    }

    pub(crate) async fn backup_rows<W: Write + Send>(&self, sink: W) -> Result<u64> {
        let Some(sealed) = &self.sealed else {
            let mut rows = RowWriter::new(sink)?;
            rows.row(Keyspace::Meta, &RecordId::new(TAGS_KEY, 0)?, self.deployment_key().as_bytes())?;
            return Ok(self.write_rows(rows).await?.1);
        };
        let stream = sealed.keychain.artefact(Content::Deployment, sink).await?;
        let (stream, count) = self.write_rows(RowWriter::new(stream)?).await?;
        stream.finish()?;
        Ok(count)
    }

    async fn write_rows<W: Write + Send>(&self, mut rows: RowWriter<W>) -> Result<(W, u64)> {
        // The ledger first: who is erased in between is in neither, and nobody is taken for one who was made again.
        for space in [Keyspace::Ledger, Keyspace::Directory] {
            rows.space(self.directory.space(), space).await?;
        }
        let (mut sink, count) = rows.finish()?;
        sink.flush().map_err(into_error)?;
        Ok((sink, count))
    }
}

/// Makes the folder, or finds the unfinished backup of the same deployment in it.
fn begin(folder: &Path, deployment: &Deployment) -> Result<()> {
    let print = HEXLOWER.encode(deployment.deployment_key().fingerprint().as_bytes());
    let marker = folder.join(UNFINISHED);
    files::make_folder(folder)?;
    if files::is_there(&marker) {
        let mut found = String::new();
        files::open(&marker)?.read_to_string(&mut found).map_err(files::failed)?;
        if found == print {
            return Ok(());
        }
        return Err(Error::new(
            ErrorKind::Invalid,
            "the folder holds an unfinished backup of another deployment, name a new folder",
        ));
    }
    // What a process that died at its very start left is no backup yet.
    if files::names(folder)?.iter().any(|name| *name != format!("{UNFINISHED}.part")) {
        return Err(Error::new(ErrorKind::Invalid, "the folder holds something already, name a new folder"));
    }
    Ok(files::write(&marker, print.as_bytes())?)
}

/// A backup that is being written.
struct Backup<'d> {
    deployment: &'d Deployment,
    folder: PathBuf,
    sealed: bool,
    archives: Vec<Archived>,
    skipped: Vec<SkippedUser>,
}

/// An archive that is written.
struct Archived {
    tag: UserTag,
    /// The life that it is of.
    stamp: Stamp,
    file: Listed,
}

impl Backup<'_> {
    /// Writes every user's archive.
    async fn users(&mut self, progress: &mut (dyn FnMut(UserProgress) + Send)) -> Result<u64> {
        let directory = &self.deployment.directory;
        let (mut at, mut after) = (UserProgress { done: 0, total: directory.count().await? }, None);
        let mut users = 0;
        loop {
            let page = directory.all(after, 1_000).await?;
            let Some(last) = page.last() else { return Ok(users) };
            after = Some(last.tag);
            for user in page {
                self.user(user.tag).await?;
                users += u64::from(!is_reserved(&user.user));
                at.done += 1;
                at.total = at.total.max(at.done);
                progress(at);
            }
        }
    }

    /// Writes a user's archive, unless an earlier run has.
    async fn user(&mut self, tag: UserTag) -> Result<()> {
        let result = match self.written(tag).await {
            Ok(Some(archived)) => Ok(Some(archived)),
            _ => self.write(tag).await,
        };
        match result {
            Ok(archived) => self.archives.extend(archived),
            Err(error) => {
                let why = self.why(tag, error).await?;
                self.skipped.extend(why.map(|why| SkippedUser { tag, why }));
            }
        }
        Ok(())
    }

    /// Why a user is left out: `None` for one who was erased meanwhile. What concerns more than the user ends the backup.
    async fn why(&self, tag: UserTag, error: Error) -> Result<Option<SkipReason>> {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::Erased | ErrorKind::Gone => Ok(None),
            ErrorKind::Corrupt | ErrorKind::Tampered | ErrorKind::Denied => {
                // Or the keys went while they were asked for.
                let there = self.deployment.directory.standing(tag).await? == Standing::There;
                Ok(there.then_some(SkipReason::Damaged))
            }
            ErrorKind::KeyUnavailable => match &self.deployment.sealed {
                Some(sealed) if sealed.keychain.is_locked(tag).await? => Ok(Some(SkipReason::Locked)),
                _ => Err(error),
            },
            _ => Err(error),
        }
    }

    /// The archive that an earlier run wrote, if it opens with the key that there is now. Whether it is of the present life is looked at with
    /// the others.
    async fn written(&self, tag: UserTag) -> Result<Option<Archived>> {
        let name = self.name(tag);
        let path = self.folder.join(&name);
        // Accounts change without a new life: who was erased or suspended since would be in an archive of before.
        if !files::is_there(&path) || self.deployment.is_own(tag) {
            return Ok(None);
        }
        let source = BufReader::new(files::open(&path)?);
        let source: Box<dyn Read + Send> = match &self.deployment.sealed {
            Some(sealed) => Box::new(sealed.keychain.archives(tag).await.reader(source)?),
            None => Box::new(source),
        };
        let stamp = syntha_store::Snapshot::state(&syntha_store::archive::Reader::open(source)?).stamp;
        let (bytes, sha256) = hash(path).await?;
        Ok(Some(Archived { tag, stamp, file: Listed { name, bytes, sha256 } }))
    }

    /// The user's present life, if there is data.
    async fn life(&self, tag: UserTag) -> Result<Option<syntha_store::Incarnation>> {
        use syntha_store::ErrorKind as Kind;
        match self.deployment.store.open(tag).await {
            Ok(user) => Ok(Some(user.state().await?.stamp.incarnation)),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Erased) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a user's archive; none for one who has not written.
    async fn write(&self, tag: UserTag) -> Result<Option<Archived>> {
        if self.life(tag).await?.is_none() {
            return Ok(None);
        }
        let backup = self.deployment.snapshot_of(tag).await?;
        let (stamp, name) = (backup.snapshot.state().stamp, self.name(tag));
        let mut new = NewFile::create(&self.folder, &name)?;
        let written = backup.write(&mut new).await;
        if let Err(error) = written {
            new.discard()?;
            return Err(error.into());
        }
        Ok(Some(Archived { tag, stamp, file: new.publish()? }))
    }

    /// Looks at every user once more: an archive of a life that ended meanwhile is taken out or written again.
    async fn look_again(&mut self) -> Result<()> {
        for archived in std::mem::take(&mut self.archives) {
            let there = self.deployment.directory.standing(archived.tag).await? == Standing::There;
            let life = match self.life(archived.tag).await {
                // It was readable a moment ago, and what was read is in the archive.
                Err(error) if there && error.kind() != ErrorKind::Busy => Some(archived.stamp.incarnation),
                life => life?,
            };
            if there && life == Some(archived.stamp.incarnation) && !self.deployment.is_own(archived.tag) {
                self.archives.push(archived);
                continue;
            }
            files::remove(&self.folder.join(&archived.file.name))?;
            if there {
                self.user(archived.tag).await?;
            }
        }
        Ok(())
    }

    async fn finish(self, users: u64) -> Result<BackupReport> {
        let mut listed: Vec<_> = self.archives.iter().map(|archived| archived.file.clone()).collect();
        let archives = listed.len() as u64;
        let mut new = NewFile::create(&self.folder, DEPLOYMENT.of(self.sealed))?;
        self.deployment.backup_rows(&mut new).await?;
        listed.push(new.publish()?);
        #[cfg(feature = "audit")]
        if let Some(audited) = &self.deployment.trailed.audited {
            let begin = || NewFile::create(&self.folder, TRAIL).map_err(std::io::Error::other);
            let (_, new) = audited.export_retried(&syntha_audit::Whose::All, false, begin).await?;
            listed.push(new.publish()?);
        }
        // INVARIANT: the keystore comes after everything that its keys open.
        if let Some(sealed) = &self.deployment.sealed {
            let mut new = NewFile::create(&self.folder, KEYSTORE)?;
            sealed.keychain.backup_keys(&mut new).await?;
            listed.push(new.publish()?);
        }
        let known: HashSet<&str> = listed.iter().map(|file| &*file.name).collect();
        for name in files::names(&self.folder)? {
            // Of users who were erased since an earlier run.
            if name != UNFINISHED && !known.contains(&*name) {
                files::remove(&self.folder.join(name))?;
            }
        }
        let bytes = listed.iter().map(|file| file.bytes).sum();
        let skip = |skip: &SkippedUser| ListedSkip { tag: skip.tag.to_string(), why: skip.why };
        let manifest = Manifest {
            version: 1,
            sealed: self.sealed,
            audited: self.deployment.has_trail(),
            made: self.deployment.wall().0,
            users,
            files: listed,
            skipped: self.skipped.iter().map(skip).collect(),
        };
        let mut new = NewFile::create(&self.folder, MANIFEST.of(self.sealed))?;
        match &self.deployment.sealed {
            None => write_json(&mut new, &manifest)?,
            Some(sealed) => {
                let mut stream = sealed.keychain.artefact(Content::Manifest, &mut new).await?;
                write_json(&mut stream, &manifest)?;
                stream.finish()?;
            }
        }
        new.publish()?;
        files::remove(&self.folder.join(UNFINISHED))?;
        Ok(BackupReport { users, archives, skipped: self.skipped, bytes, sealed: self.sealed })
    }

    fn name(&self, tag: UserTag) -> String {
        format!("{tag}{}", ending(self.sealed))
    }
}

/// How the names of archives end, after the tag.
pub(crate) const fn ending(sealed: bool) -> &'static str {
    if sealed { ".sealed" } else { ".archive" }
}

/// A file that is hashed while it is written, and has its name only when it is whole and durable.
struct NewFile {
    file: BufWriter<File>,
    name: String,
    path: PathBuf,
    part: PathBuf,
    hash: Sha256,
    bytes: u64,
}

impl NewFile {
    fn create(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let part = files::beside(&path, ".part");
        let file = BufWriter::with_capacity(64 * 1024, files::create(&part)?);
        Ok(Self { file, name: name.to_owned(), path, part, hash: Sha256::new(), bytes: 0 })
    }

    fn publish(self) -> Result<Listed> {
        let file = self.file.into_inner().map_err(|error| files::failed(error.into_error()))?;
        files::publish(file, &self.part, &self.path)?;
        let sha256 = HEXLOWER.encode(&self.hash.finalize());
        Ok(Listed { name: self.name, bytes: self.bytes, sha256 })
    }

    fn discard(self) -> Result<()> {
        Ok(files::remove(&self.part)?)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// The size and the hash of a file, read beside the runtime.
pub(crate) async fn hash(path: PathBuf) -> Result<(u64, String)> {
    let read = tokio::task::spawn_blocking(move || {
        let (mut file, mut hash) = (files::open(&path)?, Sha256::new());
        let mut buffer = vec![0; 256 * 1024];
        let mut bytes = 0;
        loop {
            let read = file.read(&mut buffer).map_err(files::failed)?;
            let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
            hash.update(part);
            bytes += read as u64;
        }
        Ok((bytes, HEXLOWER.encode(&hash.finalize())))
    });
    read.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Storage, "the runtime ended, try again")))
}

fn write_json(sink: &mut impl Write, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *sink, value).map_err(|error| into_error(error.into()))?;
    Ok(sink.flush().map_err(into_error)?)
}
