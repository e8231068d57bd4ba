//! A deployment out of its backup, on a machine that has nothing but the backup and the key.
//!
//! The data is built beside its place, with `.restoring` after the folder's name, and gets its name when all users are there. A file with
//! `.restoring.json` after the name says which backup it is of: written first, removed last, so that a restore that was stopped goes on and
//! no other one mixes with it.

use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syntha_encryption::stream::Content;
use syntha_encryption::{Kek, Keychain, Keystore, Row, RowReader, open_artefact};
use syntha_sqlite::{KeyPlace, SqliteConfig, SqliteStore, key_place};
#[cfg(feature = "postgres")]
use syntha_store::DeploymentKey;
use syntha_store::{Batch, ErrorKind as StoreErrorKind, ImportMode, Keyspace, Timestamp, UserStore, UserTag};

use crate::backup::{
    DEPLOYMENT, KEYSTORE, MANIFEST, Manifest, SkippedUser, TAGS_KEY, TRAIL, UserProgress, ending, hash,
};
use crate::deployment::Deployment;
use crate::directory::{self, Standing};
use crate::encryption::Encryption;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::incoming::{Expected, Incoming, LOCAL_LIMIT};
use crate::manager::{Builder, UserManager};
use crate::old_trail;

/// What a restore of everything did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Users whose data is there.
    pub restored: u64,
    /// Users who had not written.
    pub empty: u64,
    /// Users who were erased, whose archives were left where they are.
    pub erased: u64,
    /// Users who are in the directory and whose data the backup has not: the backup said so.
    pub skipped: Vec<SkippedUser>,
    /// Users who hold their keys: unlock each, and restore the archive that is named by the tag.
    pub locked: Vec<UserTag>,
    /// Users whose archives do not open, because they were erased and made again while the backup was made.
    pub lost: Vec<UserTag>,
    /// Whether the data is sealed.
    pub sealed: bool,
    /// Whether the data has an audit trail.
    pub audited: bool,
}

/// Builds a data folder, and its keystore, from a backup that [`UserManager::backup_all`] made. Nothing else is needed than the key that the
/// deployment was sealed with; `None` for a backup that is not sealed.
///
/// Every file is compared with the backup's list first. Users whom the backup's ledger calls erased stay erased. A restore that was
/// stopped goes on when it is called again.
///
/// Data that had an audit trail goes on with it: every user's chain is in the user's archive, and each gets links that say what was
/// restored. The log and the deployment's own trail begin anew, with a new signing key at the next opening; what they were is written beside
/// the folder, with `.audit.before-` and the time after its name and `.trail` at its end, for `syntha audit verify --file`. A signing key that lies beside the folder
/// already is put aside, with `.before-` and the time after its name.
///
/// # Errors
///
/// `AlreadyExists` if there is data in the folder, or there are keys in the keystore; `Invalid` for a backup that is not whole, or is sealed and
/// no key was given, or the other way round; `Denied` for another key; `Corrupt`, `Tampered` for a backup that is damaged; `Storage`.
pub async fn restore_all(
    backup: impl AsRef<Path> + Send,
    data: impl AsRef<Path> + Send,
    encryption: Option<Encryption>,
    mut progress: impl FnMut(UserProgress) + Send,
) -> Result<RestoreReport> {
    let (backup, data) = (files::absolute(backup.as_ref())?, files::absolute(data.as_ref())?);
    let encryption = encryption.map(|encryption| encryption.placed(&data));
    let (manifest, name) = manifest(&backup, encryption.as_ref()).await?;
    let marker = files::beside(&data, ".restoring.json");
    let building = files::beside(&data, ".restoring");
    let resumed = begin(&data, &marker, &name)?;
    let mut recovery = Recovery::of(backup, manifest, encryption.as_ref()).await?;
    if !resumed {
        recovery.keep_trail(&data)?;
        files::write(&marker, name.as_bytes())?;
    }
    recovery.built = resumed && files::is_there(&data) && !files::is_there(&building);
    let place = if recovery.built { &data } else { &building };
    if !recovery.built {
        files::make_folder(&building)?;
    }
    let encryption = match encryption {
        Some(encryption) => Some(recovery.keys(encryption, resumed).await?),
        None => {
            recovery.tags_key(place)?;
            None
        }
    };
    recovery.users(UserManager::builder().sqlite(place), encryption, &mut progress).await?;
    if !recovery.built {
        files::rename(&building, &data)?;
    }
    files::remove(&marker)?;
    Ok(recovery.report)
}

/// Puts a copy of a keystore that [`UserManager::backup_keys`] made into an empty keystore: for data that is there and whose keystore was lost.
/// The data of users who were made, recreated or restored since the copy was made does not open with it; that of users who were erased since is
/// gone, and so are their keys, at the next erasure of the name or the next backup of the keystore.
///
/// # Errors
///
/// `AlreadyExists` if there are keys in the keystore; `Denied` for another key; `Corrupt`, `Tampered`, `Storage`.
pub async fn restore_keys<R: Read + Send>(
    source: R,
    keystore: impl AsRef<Path> + Send,
    kek: &Kek,
) -> Result<u64> {
    let store = SqliteStore::open(SqliteConfig::new(keystore.as_ref()).connections(1)).await?;
    let keystore = Keystore::open(Arc::new(store) as _).await?;
    let restored = syntha_encryption::restore_keys(&keystore, source, kek, |_, _| true).await;
    keystore.close().await?;
    Ok(restored?)
}

/// The backup's list, and a name for exactly this backup.
pub(crate) async fn manifest(backup: &Path, encryption: Option<&Encryption>) -> Result<(Manifest, String)> {
    if files::is_there(&backup.join("unfinished")) {
        return Err(Error::new(ErrorKind::Invalid, "the backup was not finished, make it again"));
    }
    let sealed = files::is_there(&backup.join(MANIFEST.sealed));
    if sealed != encryption.is_some() {
        return Err(Error::new(
            ErrorKind::Invalid,
            if sealed {
                "the backup is sealed, give the key that the data was sealed with"
            } else {
                "the backup is not sealed or not there: restore it as a plain one, and seal the folder then"
            },
        ));
    }
    let path = backup.join(MANIFEST.of(sealed));
    let mut text = Vec::new();
    match encryption {
        None => drop(files::open(&path)?.read_to_end(&mut text).map_err(files::failed)?),
        Some(encryption) => {
            let mut stream = open_artefact(files::open(&path)?, encryption.kek(), Content::Manifest).await?;
            stream.read_to_end(&mut text).map_err(syntha_encryption::stream::into_error)?;
        }
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|_| damaged())?;
    if manifest.version != 1 || manifest.sealed != sealed {
        return Err(Error::new(ErrorKind::Invalid, "the backup has a format that this build does not know"));
    }
    if manifest.files.iter().any(|file| !is_name(&file.name)) {
        return Err(damaged());
    }
    Ok((manifest, hash(path).await?.1))
}

/// A name of a file in a folder, and not of another place.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
}

/// Looks whether there is room, or a restore of the same backup under way. Says which.
fn begin(data: &Path, marker: &Path, name: &str) -> Result<bool> {
    if files::is_there(marker) {
        let mut found = String::new();
        files::open(marker)?.read_to_string(&mut found).map_err(files::failed)?;
        if found == name {
            return Ok(true);
        }
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            "a restore of another backup was stopped here: end it, or remove what it left",
        ));
    }
    let building = files::beside(data, ".restoring");
    if !files::names(data)?.is_empty() || files::is_there(&building) {
        return Err(Error::new(ErrorKind::AlreadyExists, "there is data in the folder, name a new one"));
    }
    Ok(false)
}

/// The deployment's rows.
struct Rows {
    rows: Vec<Row>,
    standing: HashMap<UserTag, Standing>,
    /// The key of the tags, in a plain backup.
    key: Option<[u8; 32]>,
}

async fn rows(backup: &Path, encryption: Option<&Encryption>) -> Result<Rows> {
    let path = backup.join(DEPLOYMENT.of(encryption.is_some()));
    let source: Box<dyn Read + Send> = match encryption {
        None => Box::new(files::open(&path)?),
        Some(encryption) => {
            Box::new(open_artefact(files::open(&path)?, encryption.kek(), Content::Deployment).await?)
        }
    };
    let mut reader = RowReader::open(source)?;
    let mut found = Rows { rows: Vec::new(), standing: HashMap::new(), key: None };
    let mut erasures = HashMap::new();
    while let Some(row) = reader.next_row()? {
        if row.space == Keyspace::Meta && row.id.name()[..] == *TAGS_KEY {
            found.key = Some(<[u8; 32]>::try_from(&row.body[..]).map_err(|_| damaged())?);
            continue;
        }
        let tag = <[u8; 32]>::try_from(&row.id.name()[..]).map_err(|_| damaged())?;
        let tag = UserTag::from_bytes(tag)?;
        match row.space {
            Keyspace::Directory => drop(found.standing.insert(tag, Standing::There)),
            Keyspace::Ledger => drop(erasures.insert(tag, directory::is_done(&row.body)?)),
            _ => return Err(damaged()),
        }
        found.rows.push(row);
    }
    for (tag, done) in erasures {
        // A user who was erased and made again has a row of each.
        if !done || !found.standing.contains_key(&tag) {
            found.standing.insert(tag, Standing::Erased);
        }
    }
    Ok(found)
}

pub(crate) struct Recovery {
    backup: PathBuf,
    manifest: Manifest,
    rows: Rows,
    pub(crate) report: RestoreReport,
    /// An earlier run has built everything and put it in its place: it is only counted.
    built: bool,
    /// The backup is plain, and what is built of it is sealed.
    seals: bool,
}

impl Recovery {
    /// Compares every file of a backup with its list, and reads whose archives it has.
    pub(crate) async fn of(
        backup: PathBuf,
        manifest: Manifest,
        encryption: Option<&Encryption>,
    ) -> Result<Self> {
        for file in &manifest.files {
            if hash(backup.join(&file.name)).await? != (file.bytes, file.sha256.clone()) {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "a file of the backup is not as it was written, use another copy",
                ));
            }
        }
        let rows = rows(&backup, encryption).await?;
        if manifest.audited && !manifest.files.iter().any(|file| file.name == TRAIL) {
            return Err(damaged());
        }
        if manifest.audited && !cfg!(feature = "audit") {
            return Err(Error::new(
                ErrorKind::Denied,
                "the backup has an audit trail: restore it with a build that has the feature `audit`",
            ));
        }
        let report = RestoreReport {
            sealed: encryption.is_some(),
            audited: manifest.audited,
            ..RestoreReport::default()
        };
        Ok(Self { backup, manifest, rows, report, built: false, seals: false })
    }

    /// What is built of a plain backup is to be sealed.
    #[cfg(feature = "postgres")]
    pub(crate) const fn sealing(mut self) -> Self {
        (self.seals, self.report.sealed) = (true, true);
        self
    }

    /// Puts what the trail was beside the place of the data, and aside the key that signed there.
    pub(crate) fn keep_trail(&self, data: &Path) -> Result<()> {
        if !self.manifest.audited {
            return Ok(());
        }
        let stamp = old_trail::now();
        old_trail::keep(&self.backup.join(TRAIL), &old_trail::trail_file(data, stamp))?;
        old_trail::KeyFile::beside(data, stamp).put_aside()
    }

    /// Builds the keystore: what archives need, of users who are there.
    pub(crate) async fn keys(&self, encryption: Encryption, resumed: bool) -> Result<Encryption> {
        let keystore = encryption.open_keystore().await?;
        let restored = self.keys_into(&keystore, &encryption, resumed).await;
        keystore.close().await?;
        Ok(encryption.mode(restored?))
    }

    async fn keys_into(
        &self,
        keystore: &Keystore,
        encryption: &Encryption,
        resumed: bool,
    ) -> Result<syntha_encryption::Mode> {
        let source = files::open(&self.backup.join(KEYSTORE))?;
        let wanted = |owner: &[u8; 32], root: bool| {
            let tag = UserTag::from_bytes(*owner).ok();
            root && tag.is_none_or(|tag| self.rows.standing.get(&tag) == Some(&Standing::There))
        };
        if !resumed && !keystore.is_empty().await? {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "there are keys in the keystore already, name another place for it",
            ));
        }
        match syntha_encryption::restore_keys(keystore, source, encryption.kek(), wanted).await {
            // An earlier run has put all of them there.
            Err(error) if error.kind() == StoreErrorKind::AlreadyExists && resumed => {}
            restored => drop(restored?),
        }
        let opened = Keychain::open(keystore.clone(), encryption.kek(), encryption.chosen_cache()).await?;
        Ok(opened.mode())
    }

    /// The key of the tags, in a plain backup.
    #[cfg(feature = "postgres")]
    pub(crate) fn plain_key(&self) -> Result<DeploymentKey> {
        Ok(DeploymentKey::from_bytes(self.rows.key.ok_or_else(damaged)?))
    }

    /// Puts the key of the tags into a plain folder.
    fn tags_key(&self, folder: &Path) -> Result<()> {
        let key = self.rows.key.ok_or_else(damaged)?;
        if key_place(folder)? == KeyPlace::Nowhere {
            files::write(&folder.join("deployment.key"), &key)?;
        }
        Ok(())
    }

    pub(crate) async fn users(
        &mut self,
        builder: Builder,
        encryption: Option<Encryption>,
        progress: &mut (dyn FnMut(UserProgress) + Send),
    ) -> Result<()> {
        let builder = match encryption {
            Some(encryption) => builder.encryption(encryption),
            None => builder.plain(),
        };
        #[cfg(feature = "audit")]
        let builder =
            if self.manifest.audited { builder.audit(crate::Audit::unsigned()) } else { builder.no_audit() };
        let (users, _host) = builder.open().await?;
        let restored = self.users_into(&users.deployment, progress).await;
        users.shutdown().await?;
        restored
    }

    async fn users_into(
        &mut self,
        deployment: &Deployment,
        progress: &mut (dyn FnMut(UserProgress) + Send),
    ) -> Result<()> {
        // INVARIANT: who is erased is erased before any data is there.
        for space in [Keyspace::Ledger, Keyspace::Directory] {
            if !self.built {
                let rows = self.rows.rows.iter().filter(|row| row.space == space);
                put_rows(deployment.directory.space(), rows).await?;
            }
        }
        let sealed = self.manifest.sealed;
        let archives: Vec<_> = self.manifest.files.iter().map(|file| file.name.clone()).collect();
        let archives: Vec<_> = archives
            .iter()
            .filter_map(|name| Some((name, name.strip_suffix(ending(sealed))?.parse::<UserTag>().ok()?)))
            .collect();
        let mut at = UserProgress { done: 0, total: archives.len() as u64 };
        for (name, tag) in archives {
            self.user(deployment, name, tag).await?;
            at.done += 1;
            progress(at);
        }
        for skipped in &self.manifest.skipped {
            let tag = skipped.tag.parse().map_err(|_| damaged())?;
            if self.rows.standing.get(&tag) == Some(&Standing::There) {
                self.report.skipped.push(SkippedUser { tag, why: skipped.why });
            }
        }
        let is_there = |(tag, standing): &(&UserTag, &Standing)| {
            **standing == Standing::There && !deployment.is_own(**tag)
        };
        let there = self.rows.standing.iter().filter(is_there).count();
        let report = &self.report;
        let known = report.restored + (report.skipped.len() + report.locked.len() + report.lost.len()) as u64;
        self.report.empty = (there as u64).saturating_sub(known);
        let own = self.rows.standing.keys().filter(|tag| deployment.is_own(**tag)).count();
        self.report.erased = (self.rows.standing.len() - there - own) as u64;
        Ok(())
    }

    async fn user(&mut self, deployment: &Deployment, name: &str, tag: UserTag) -> Result<()> {
        if self.rows.standing.get(&tag) != Some(&Standing::There) {
            return Ok(());
        }
        if self.built {
            let is_there = match deployment.store.open(tag).await {
                Ok(_) => true,
                // It says nothing of what is there.
                Err(error) if error.kind() == StoreErrorKind::Busy => return Err(error.into()),
                Err(_) => false,
            };
            self.report.restored += u64::from(is_there && !deployment.is_own(tag));
            return Ok(());
        }
        let source = BufReader::new(files::open(&self.backup.join(name))?);
        let expected = if self.seals { Expected::Plain } else { deployment.expected_of(tag).await };
        let archive = match Incoming::read(source, expected, LOCAL_LIMIT).await {
            Ok(archive) => archive,
            Err(error) if error.kind() == StoreErrorKind::KeyUnavailable => {
                return match &deployment.sealed {
                    Some(sealed) if sealed.keychain.is_locked(tag).await? => {
                        self.report.locked.push(tag);
                        Ok(())
                    }
                    _ => Err(error.into()),
                };
            }
            // Everything that is damaged was found before: what does not open now is of a life that was over when the keystore was copied.
            Err(error) if error.kind() == StoreErrorKind::KeyRefused => {
                self.report.lost.push(tag);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let mut archive = archive;
        match deployment.store.import(tag, &mut archive, ImportMode::New).await {
            Ok(_) => {}
            // An earlier run has restored it: an import is whole or not at all.
            Err(error) if error.kind() == StoreErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        self.report.restored += u64::from(!deployment.is_own(tag));
        Ok(())
    }
}

/// Writes rows of a deployment's own space, over those that are there.
pub(crate) async fn put_rows(space: &dyn UserStore, rows: impl Iterator<Item = &Row> + Send) -> Result<()> {
    let mut batch = Batch::new(Timestamp(0))?;
    for row in rows {
        batch = batch.put(row.space, row.id.clone(), "", row.body.clone());
        if batch.ops.len() == BATCH {
            space.commit(std::mem::replace(&mut batch, Batch::new(Timestamp(0))?)).await?;
        }
    }
    if !batch.is_empty() {
        space.commit(batch).await?;
    }
    Ok(())
}

/// How many rows a commit has.
const BATCH: usize = 1_000;

const fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "the backup is damaged, use another copy")
}
