//! Sealing a data folder that was made plain, and the other way round. The one place that reads both.
//!
//! It works on folders that nobody has open, and builds a second one beside the first. `data` stands for the folder's name; the other way
//! round read `.unsealing` and `.sealed`:
//!
//! | state | `data` | `data.sealing` | `data.plain` | what is done |
//! |---|---|---|---|---|
//! | 1 | as before | not there | not there | the folder is built: every user, the directory, the ledger |
//! | 2 | as before | a part, or all | not there | what is missing or differs is built again, and everything is compared |
//! | 3 | not there | all | as before | it is given its name |
//! | 4 | sealed | not there | as before | done; the old folder is removed if that was asked for |
//!
//! From 2 to 3 and from 3 to 4 it is one rename each, under the old folder's lock. A stop in any state loses nothing, and the next call goes on
//! from there. Data with an audit trail is the exception: what an earlier call has built of it is built anew, so that each chain has all links that the
//! old folder's has. In state 3 the folder's name is free: opening it is refused, so that nobody begins anew in it.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syntha_encryption::{EncryptedStore, Keychain, Row};
use syntha_sqlite::{FolderLock, KeyPlace, SqliteConfig, SqliteStore, key_place};
use syntha_store::{
    Batch, CreateMode, DeploymentKey, ErrorKind as StoreErrorKind, ImportMode, Keyspace, Record, RecordId,
    Scan, Store, StoredRecord, Timestamp, UserStore, UserTag, Writer,
};

use crate::backup::UserProgress;
use crate::directory::{Directory, Standing};
use crate::encryption::Encryption;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::layers::unsigned;
use crate::old_trail::{KeyFile, OldTrail};
use crate::recovery::put_rows;

/// How a folder is sealed or unsealed.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Migration {
    remove_old: bool,
    audit_key: Option<PathBuf>,
}

impl Migration {
    /// The old folder stays, under another name.
    pub const fn new() -> Self {
        Self { remove_old: false, audit_key: None }
    }

    /// Where the key that signs the data's audit log is, if not beside the folder.
    pub fn audit_key(mut self, path: impl Into<PathBuf>) -> Self {
        self.audit_key = Some(path.into());
        self
    }

    /// The old folder is removed at the end. A disk may hold deleted files until it writes over them: only a disk that is destroyed, or was
    /// encrypted itself, certainly does not.
    pub const fn remove_old(mut self) -> Self {
        self.remove_old = true;
        self
    }
}

/// What was sealed or unsealed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationReport {
    /// Users whose data was carried over and compared; 0 if an earlier run had done that.
    pub users: u64,
    /// Records, each of which was compared byte by byte.
    pub records: u64,
    /// Where the old folder is now, if it was not removed.
    pub old: Option<PathBuf>,
    /// Where the audit trail of before is, if there was one; `None` also if an earlier run has carried everything over.
    pub trail: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Seal,
    Unseal,
}

/// Seals a plain data folder. Users keep their tags, their data and its versions; nobody may have the folder open. The keystore and the key are
/// where `encryption` says. A call that was stopped is ended by calling it again.
///
/// Data with an audit trail keeps it: every user's chain goes on in the new folder, with links that say what was carried over, and details stay as
/// they are, so that old ones and new ones differ in form. The log and the deployment's own trail begin anew. What they were is written beside the folder, with
/// `.audit.before-` and the time after its name and `.trail` at its end, for `syntha audit verify --file`; the key that signed is put aside, with `.before-` and
/// the time after its name, and the next opening makes a new one.
///
/// # Errors
///
/// `Locked` if the folder is open anywhere; `Invalid` if it is sealed already, or if the old folder of an earlier change is still there;
/// `NotFound`; `Corrupt` for a user whose data is damaged, or if a copy is not equal; `Denied` for a keystore of other data, for data with an
/// audit log whose key is neither beside the folder nor named, and in a build without the feature `audit` for data with a trail; `Tampered` for a trail that
/// is not as it was signed; `Storage`.
pub async fn seal_folder(
    folder: impl AsRef<Path> + Send,
    encryption: impl Into<Encryption> + Send,
    how: Migration,
    mut progress: impl FnMut(UserProgress) + Send,
) -> Result<MigrationReport> {
    let (folder, encryption) = (files::absolute(folder.as_ref())?, encryption.into());
    run(Way::Seal, folder, encryption, how, &mut progress).await
}

/// Takes the seal off a data folder. The keystore and the key stay: older archives and the old folder open with them alone, and so do details of
/// audit entries from before, which the plain folder shows as closed.
///
/// # Errors
///
/// As [`seal_folder`]; `KeyUnavailable` for a user who holds the key, which is the user's to give back.
pub async fn unseal_folder(
    folder: impl AsRef<Path> + Send,
    encryption: impl Into<Encryption> + Send,
    how: Migration,
    mut progress: impl FnMut(UserProgress) + Send,
) -> Result<MigrationReport> {
    let (folder, encryption) = (files::absolute(folder.as_ref())?, encryption.into());
    run(Way::Unseal, folder, encryption, how, &mut progress).await
}

/// Refuses to begin anew in a folder whose data waits under other names.
pub(crate) fn refuse_unfinished(folder: &Path) -> Result<()> {
    for way in [Way::Seal, Way::Unseal] {
        if files::is_there(&way.building(folder)) && files::is_there(&way.old(folder)) {
            return Err(Error::new(
                ErrorKind::Denied,
                "sealing or unsealing this folder was stopped, call it again to end it",
            ));
        }
    }
    Ok(())
}

impl Way {
    fn building(self, folder: &Path) -> PathBuf {
        files::beside(folder, if self == Self::Seal { ".sealing" } else { ".unsealing" })
    }

    fn old(self, folder: &Path) -> PathBuf {
        files::beside(folder, if self == Self::Seal { ".plain" } else { ".sealed" })
    }

    /// Where the key of the tags is before.
    const fn from(self) -> KeyPlace {
        match self {
            Self::Seal => KeyPlace::Here,
            Self::Unseal => KeyPlace::Elsewhere,
        }
    }
}

async fn run(
    way: Way,
    folder: PathBuf,
    encryption: Encryption,
    how: Migration,
    progress: &mut (dyn FnMut(UserProgress) + Send),
) -> Result<MigrationReport> {
    let (building, old) = (way.building(&folder), way.old(&folder));
    let pending = files::beside(&folder, ".audit.pending");
    let mut report = MigrationReport::default();
    let place = key_place(&folder)?;
    let (begun, kept) = (files::is_there(&building), files::is_there(&old));
    if place == way.from() {
        if kept {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the old folder of an earlier change is still there, remove it first",
            ));
        }
        let encryption = encryption.placed(&folder);
        let sides = Sides { way, folder: &folder, building: &building, how: &how };
        let (lock, key) = sides.build(&encryption, &mut report, progress).await?;
        match key {
            Some(key) => key.write(&pending)?,
            None => files::remove(&pending)?,
        }
        // INVARIANT: nobody has written since everything was compared, and nobody can before the new folder has its name.
        files::rename(&folder, &old)?;
        files::rename(&building, &folder)?;
        drop(lock);
    } else if place == KeyPlace::Nowhere {
        if !(begun && kept) {
            return Err(Error::new(ErrorKind::NotFound, "there is no data in this folder"));
        }
        check_same(way, &building, &old)?;
        files::rename(&building, &folder)?;
    } else if !kept {
        return Err(Error::new(
            ErrorKind::Invalid,
            if way == Way::Seal { "the folder is sealed already" } else { "the folder is not sealed" },
        ));
    } else {
        check_same(way, &folder, &old)?;
    }
    KeyFile::end(&pending)?;
    if how.remove_old {
        files::remove_folder(&old)?;
    } else {
        report.old = Some(old);
    }
    Ok(report)
}

/// Checks that two folders are of the same tags, one after and one before: nothing else is put in a place or removed.
fn check_same(way: Way, after: &Path, before: &Path) -> Result<()> {
    let (key, print) = if way == Way::Seal { (before, after) } else { (after, before) };
    let key = std::fs::read(key.join("deployment.key")).ok().and_then(|key| key.try_into().ok());
    let print = std::fs::read(print.join("deployment.print")).ok();
    let same = key.is_some_and(|key| {
        let fingerprint = DeploymentKey::from_bytes(key).fingerprint();
        print.is_some_and(|print| print == fingerprint.as_bytes())
    });
    if same {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, "the folder beside this one is of other data, move it away"))
}

/// What is carried over, and where.
struct Sides<'a> {
    way: Way,
    folder: &'a Path,
    building: &'a Path,
    how: &'a Migration,
}

/// The folder that is read: its files, and what opens them.
struct Source {
    files: Arc<SqliteStore>,
    trail: OldTrail,
    store: Arc<dyn Store>,
}

impl Sides<'_> {
    /// Builds the second folder, compares it, and closes both. The first one's lock is kept. Gives the signing key that is to be put aside.
    async fn build(
        &self,
        encryption: &Encryption,
        report: &mut MigrationReport,
        progress: &mut (dyn FnMut(UserProgress) + Send),
    ) -> Result<(FolderLock, Option<KeyFile>)> {
        let (source, target) = match self.way {
            Way::Seal => self.to_seal(encryption).await?,
            Way::Unseal => self.to_unseal(encryption).await?,
        };
        let carried = self.carry(&source, &*target, report, progress).await;
        let closed = target.close().await;
        let lock = source.files.close_locked().await;
        // With the layer its keystore is closed.
        let layer = source.store.close().await;
        let key = carried?;
        closed?;
        layer?;
        Ok((lock?, key))
    }

    async fn to_seal(&self, encryption: &Encryption) -> Result<(Source, Arc<dyn Store>)> {
        let files = Arc::new(SqliteStore::open(SqliteConfig::new(self.folder)).await?);
        let key = files.deployment_key().clone();
        let trail = self.trail(&files).await?;
        let keychain = Keychain::create(
            encryption.open_keystore().await?,
            encryption.kek(),
            encryption.chosen_mode(),
            &key,
            encryption.chosen_cache(),
        );
        let keychain = keychain.await?;
        if keychain.deployment_key().fingerprint() != key.fingerprint() {
            return Err(Error::new(
                ErrorKind::Denied,
                "the keystore belongs to other data, name another place for it",
            ));
        }
        let target = SqliteStore::open(SqliteConfig::new(self.building).deployment_key(key.clone())).await?;
        let target = unsigned(Arc::new(target), &key, trail.is_there())?;
        let target: Arc<dyn Store> = Arc::new(EncryptedStore::new(target, &keychain)?);
        let store = trail.store(&files);
        forget_erased(&*store, &keychain).await?;
        Ok((Source { files, trail, store }, target))
    }

    async fn to_unseal(&self, encryption: &Encryption) -> Result<(Source, Arc<dyn Store>)> {
        let keystore = encryption.open_keystore().await?;
        let keychain = Keychain::open(keystore, encryption.kek(), encryption.chosen_cache()).await?;
        let key = keychain.deployment_key().clone();
        let files = SqliteConfig::new(self.folder).deployment_key(key.clone());
        let files = Arc::new(SqliteStore::open(files).await?);
        let trail = self.trail(&files).await?;
        let logins = crate::reserved::accounts(&key).map(|(_, tag)| tag);
        let store: Arc<dyn Store> =
            Arc::new(EncryptedStore::new(trail.store(&files), &keychain)?.logins(logins));
        files::make_folder(self.building)?;
        if key_place(self.building)? == KeyPlace::Nowhere {
            files::write(&self.building.join("deployment.key"), key.as_bytes())?;
        }
        let target = SqliteStore::open(SqliteConfig::new(self.building)).await?;
        let target = unsigned(Arc::new(target), &key, trail.is_there())?;
        Ok((Source { files, trail, store }, target))
    }

    /// Looks for a trail in the first folder. What an earlier call has built of data that has one goes.
    async fn trail(&self, files: &Arc<SqliteStore>) -> Result<OldTrail> {
        let key = self.how.audit_key.as_deref();
        let trail = OldTrail::open(Arc::clone(files) as _, files.deployment_key(), self.folder, key).await?;
        if trail.is_there() {
            files::remove_folder(self.building)?;
        }
        Ok(trail)
    }

    async fn carry(
        &self,
        source: &Source,
        target: &dyn Store,
        report: &mut MigrationReport,
        progress: &mut (dyn FnMut(UserProgress) + Send),
    ) -> Result<Option<KeyFile>> {
        carry(&*source.store, target, report, progress).await?;
        let Some((trail, key)) = source.trail.keep(self.folder).await? else { return Ok(None) };
        report.trail = Some(trail);
        Ok(Some(key))
    }
}

/// Destroys keys that a keystore of before has of users who were erased since the data was unsealed.
async fn forget_erased(source: &dyn Store, keychain: &Keychain) -> Result<()> {
    let directory = source.deployment().await?;
    let mut present = HashSet::new();
    for row in rows(&*directory).await?.into_values().filter(|row| row.space == Keyspace::Directory) {
        let tag = <[u8; 32]>::try_from(&row.id.name()[..]).map_err(|_| unequal())?;
        present.insert(UserTag::from_bytes(tag)?);
    }
    Ok(keychain.keep_keys(|tag| present.contains(&tag)).await?)
}

/// Carries everything over that is not there already as it should be.
async fn carry(
    source: &dyn Store,
    target: &dyn Store,
    report: &mut MigrationReport,
    progress: &mut (dyn FnMut(UserProgress) + Send),
) -> Result<()> {
    let directory = Directory::new(source.deployment().await?);
    let own = directory.own().await?;
    let users = users(source).await?;
    let mut at = UserProgress { done: 0, total: users.len() as u64 };
    let mut carried = HashSet::new();
    for tag in users {
        // An erasure that was begun goes on with what is left, which is nothing here.
        if directory.standing(tag).await? != Standing::Erased {
            report.records += user(source, target, tag).await?;
            report.users += u64::from(!own.contains(&tag));
            carried.insert(tag);
        }
        at.done += 1;
        progress(at);
    }
    // An earlier run may have carried over who was erased since.
    for tag in self::users(target).await? {
        if !carried.contains(&tag) {
            target.erase(tag).await?;
        }
    }
    deployment(directory.space(), &*target.deployment().await?).await
}

async fn users(store: &dyn Store) -> Result<Vec<UserTag>> {
    let mut users = Vec::new();
    loop {
        let page = store.list(users.last().copied(), 1_000).await?;
        if page.is_empty() {
            return Ok(users);
        }
        users.extend(page);
    }
}

/// Carries one user over, and says how many records were compared.
async fn user(source: &dyn Store, target: &dyn Store, tag: UserTag) -> Result<u64> {
    let from = source.open(tag).await?;
    // An earlier run may have done it; what it left is compared like all.
    match target.open(tag).await {
        Ok(to) => {
            if let Some(records) = compare(&*from, &*to).await? {
                return Ok(records);
            }
        }
        Err(error) if error.kind() == StoreErrorKind::Erased => {
            target.create(tag, Batch::new(Timestamp(0))?, CreateMode::Recreate).await?;
        }
        Err(_) => {}
    }
    let mut snapshot = from.snapshot().await?;
    target.import(tag, &mut *snapshot, ImportMode::Replace).await?;
    compare(&*from, &*target.open(tag).await?).await?.ok_or_else(unequal)
}

/// Compares every record of two users, and what else their rows say. Says how many records there are, `None` if anything differs. Where
/// both have a trail, the second one's has all of the first one's, and more: links that say what was carried over.
async fn compare(one: &dyn UserStore, other: &dyn UserStore) -> Result<Option<u64>> {
    let (ours, theirs) = (one.state().await?, other.state().await?);
    let trailed = ours.chain.seq < theirs.chain.seq;
    let same = (trailed || ours.chain == theirs.chain)
        && ours.usage == theirs.usage
        && ours.time == theirs.time
        && ours.note == theirs.note;
    if !same {
        return Ok(None);
    }
    let (mut snapshot, mut records) = (one.snapshot().await?, 0);
    while let Some(chunk) = snapshot.next().await? {
        let mut chunk = chunk.into_iter().peekable();
        while let Some(first) = chunk.next() {
            let space = first.space;
            let mut part = vec![first.record];
            while part.len() < PART
                && let Some(next) = chunk.next_if(|next| next.space == space)
            {
                part.push(next.record);
            }
            let ids: Vec<RecordId> = part.iter().map(|record| record.head.id.clone()).collect();
            let found = other.read(space, &ids).await?.value;
            let same = found.iter().zip(&part).all(|(theirs, ours)| is_same(space, theirs.as_ref(), ours));
            if found.len() != part.len() || !same {
                return Ok(None);
            }
            records += part.len() as u64;
        }
    }
    let (mut snapshot, mut others) = (other.snapshot().await?, 0);
    while let Some(chunk) = snapshot.next().await? {
        let is_new = |stored: &&StoredRecord| {
            let id = &stored.record.head.id;
            let begins = ours.chain.seq == 0;
            stored.space == Keyspace::Audit && (begins || id.name().is_empty() && id.seq() > ours.chain.seq)
        };
        let new = if trailed { chunk.iter().filter(is_new).count() } else { 0 };
        others += (chunk.len() - new) as u64;
    }
    Ok((records == others).then_some(records))
}

/// Whether a record is the same. Beside a link stands how many bytes the chain has, which is counted anew.
fn is_same(space: Keyspace, theirs: Option<&Record>, ours: &Record) -> bool {
    let is_link = space == Keyspace::Audit && ours.head.id.name().is_empty();
    let same = |theirs: &Record| {
        if is_link { theirs.head.id == ours.head.id && theirs.body == ours.body } else { theirs == ours }
    };
    theirs.is_some_and(same)
}

/// How many records are read at a time.
const PART: usize = 256;

/// Makes the deployment's own rows the same.
async fn deployment(source: &dyn UserStore, target: &dyn UserStore) -> Result<()> {
    let (ours, theirs) = (rows(source).await?, rows(target).await?);
    let mut surplus = Batch::new(Timestamp(0))?;
    for (key, row) in &theirs {
        if !ours.contains_key(key) {
            surplus = surplus.delete(row.space, row.id.clone());
        }
        if surplus.ops.len() == 1_000 {
            target.commit(std::mem::replace(&mut surplus, Batch::new(Timestamp(0))?)).await?;
        }
    }
    if !surplus.is_empty() {
        target.commit(surplus).await?;
    }
    put_rows(target, ours.values()).await?;
    if rows(target).await? == ours { Ok(()) } else { Err(unequal()) }
}

type Rows = BTreeMap<(Keyspace, RecordId), Row>;

async fn rows(space: &dyn UserStore) -> Result<Rows> {
    let mut found = Rows::new();
    let ours = Keyspace::all().filter(|space| {
        matches!(space.writer(), Writer::Manager | Writer::Identity) && *space != Keyspace::Keys
    });
    for keyspace in [Keyspace::Meta].into_iter().chain(ours) {
        let mut from: Option<RecordId> = None;
        loop {
            let scan = Scan::records(keyspace, 1_000);
            let page = space.scan(match from.take() {
                Some(from) => scan.from(from),
                None => scan,
            });
            let page = page.await?.value;
            from = page.next();
            for (head, body) in page.records {
                let row = Row { space: keyspace, id: head.id, body: body.unwrap_or_default() };
                found.insert((keyspace, row.id.clone()), row);
            }
            if from.is_none() {
                break;
            }
        }
    }
    Ok(found)
}

const fn unequal() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "what was built is not equal to what was there, nothing was changed: look for a disk that fails",
    )
}
