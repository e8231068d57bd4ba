//! Folders, names, permissions, and how a file comes and goes.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use syntha_store::{DEPLOYMENT_OWNER, DeploymentKey, Error, ErrorKind, Incarnation, Result, UserTag};

use crate::bell::Bell;
use crate::config::{KeyPlace, Mode};
use crate::error::{corrupt, from_io};
use crate::lives::{Hold, Lives};

/// The folder of a deployment.
#[derive(Debug)]
pub(crate) struct Root {
    folder: PathBuf,
    /// Held until the store is closed. The lock goes with the descriptor, whatever becomes of the process.
    lock: Mutex<Option<File>>,
    mode: Mode,
    /// Tells this handle's temporary files from others'.
    own: u128,
    pub(crate) bell: Option<Arc<Bell>>,
    synced: Arc<Synced>,
}

/// The files of one user.
#[derive(Clone, Debug)]
pub(crate) struct UserFiles {
    folder: PathBuf,
    stem: String,
    synced: Arc<Synced>,
}

/// Folders whose own entries in their parents this process has synced: at most 1,024 + 1.
type Synced = Mutex<HashSet<PathBuf>>;

impl Root {
    /// Makes or opens the folder and takes its lock.
    pub(crate) fn open(
        folder: &Path,
        mode: Mode,
        given: Option<&DeploymentKey>,
    ) -> Result<(Self, DeploymentKey)> {
        if mode == Mode::Beside {
            return Self::open_beside(folder, given);
        }
        make_folder(folder)?;
        let folder = folder.canonicalize().map_err(from_io)?;
        check_folder(&folder)?;
        let (lock, alone) = take_lock(&folder, mode)?;
        if let Some(parent) = folder.parent() {
            // A folder above that this user may not read can't be synced by it.
            let _ = sync_folder(parent);
        }
        for name in ["users", "tmp"] {
            make_folder(&folder.join(name))?;
            check_folder(&folder.join(name))?;
        }
        if alone {
            // Snapshots and unfinished files of a process that ended early.
            for entry in std::fs::read_dir(folder.join("tmp")).map_err(from_io)? {
                remove(&entry.map_err(from_io)?.path())?;
            }
        }
        let key = match given {
            Some(key) => given_key(&folder, key)?,
            None => deployment_key(&folder)?,
        };
        let bell = if mode == Mode::Shared {
            Some(Arc::new(Bell::open(&folder.join("bell"), alone)?))
        } else {
            None
        };
        if mode == Mode::Shared && alone {
            // INVARIANT: everything that a second process expects is there before the lock is opened to it.
            share_lock(&lock)?;
        }
        let own = Incarnation::random()?.0;
        let lock = Mutex::new(Some(lock));
        Ok((Self { folder, lock, mode, own, bell, synced: Arc::default() }, key))
    }

    /// Looks into a folder that another process may hold. Makes nothing.
    fn open_beside(folder: &Path, given: Option<&DeploymentKey>) -> Result<(Self, DeploymentKey)> {
        let folder = folder
            .canonicalize()
            .map_err(|_| Error::new(ErrorKind::NotFound, "there is no data folder to look into"))?;
        check_folder(&folder)?;
        if key_place(&folder)? == KeyPlace::Nowhere {
            return Err(Error::new(ErrorKind::NotFound, "there is no data in this folder"));
        }
        let key = match given {
            Some(key) => given_key(&folder, key)?,
            None => deployment_key(&folder)?,
        };
        let own = Incarnation::random()?.0;
        let (lock, mode, bell) = (Mutex::default(), Mode::Beside, None);
        Ok((Self { folder, lock, mode, own, bell, synced: Arc::default() }, key))
    }

    /// The lock under which files come and go.
    pub(crate) async fn lives(&self, hold: Hold) -> Result<Lives> {
        Lives::take(&self.folder.join("lives"), hold, self.mode != Mode::Beside).await
    }

    /// The lock that whoever makes, erases or restores users holds from the first look to the last write.
    pub(crate) async fn turn(&self) -> Result<Lives> {
        Lives::take(&self.folder.join("turn"), Hold::Changing, self.mode != Mode::Beside).await
    }

    /// A name for a temporary file. What a process that died left there is removed at the next start of one alone.
    pub(crate) fn temporary(&self, number: u64) -> PathBuf {
        // Process numbers are not unique across containers.
        self.folder.join("tmp").join(format!("{:032x}-{number}", self.own))
    }

    /// The files of a user.
    pub(crate) fn user(&self, tag: UserTag) -> UserFiles {
        self.user_by_stem(&tag.to_string())
    }

    pub(crate) fn user_by_stem(&self, stem: &str) -> UserFiles {
        let shard = |range| stem.get(range).unwrap_or("_");
        let folder = self.folder.join("users").join(shard(0..1)).join(shard(1..2));
        UserFiles { folder, stem: stem.to_owned(), synced: Arc::clone(&self.synced) }
    }

    /// The deployment's own file.
    pub(crate) fn deployment(&self) -> UserFiles {
        let synced = Arc::clone(&self.synced);
        UserFiles { folder: self.folder.clone(), stem: "deployment".to_owned(), synced }
    }

    /// The tags of all users that have a file and no mark of erasure, in order.
    pub(crate) fn users(&self) -> Result<Vec<UserTag>> {
        let mut tags = Vec::new();
        for first in folders(&self.folder.join("users"))? {
            for second in folders(&first)? {
                for entry in std::fs::read_dir(&second).map_err(from_io)? {
                    let path = entry.map_err(from_io)?.path();
                    let stem = path.file_stem().and_then(|stem| stem.to_str());
                    if path.extension().is_some_and(|extension| extension == "db")
                        && let Some(tag) = stem.and_then(|stem| stem.parse::<UserTag>().ok())
                        && !self.user(tag).is_marked_erased()
                    {
                        tags.push(tag);
                    }
                }
            }
        }
        tags.sort_unstable();
        Ok(tags)
    }

    /// Hands the lock over, so that a close does not give it up.
    pub(crate) fn take_over(&self) -> Option<File> {
        self.lock.lock().take()
    }

    /// Gives the folder up to the next process.
    pub(crate) fn release(&self) {
        drop(self.lock.lock().take());
    }

    /// Checks the folders and the lock once more.
    pub(crate) fn verify(&self) -> Result<()> {
        for folder in [self.folder.clone(), self.folder.join("users"), self.folder.join("tmp")] {
            check_folder(&folder)?;
        }
        check_file(&self.folder.join("deployment.key"))?;
        check_file(&self.folder.join("lock")).map(drop)
    }
}

impl UserFiles {
    pub(crate) fn database(&self) -> PathBuf {
        self.with(".db")
    }

    pub(crate) fn restore(&self) -> PathBuf {
        self.with(".restore")
    }

    pub(crate) fn is_marked_erased(&self) -> bool {
        self.with(".erased").symlink_metadata().is_ok()
    }

    pub(crate) fn is_corrupt(&self) -> bool {
        self.with(".corrupt").symlink_metadata().is_ok()
    }

    pub(crate) fn make_folder(&self) -> Result<()> {
        if let Some(first) = self.folder.parent()
            && self.stem != "deployment"
        {
            make_folder(first)?;
            make_folder(&self.folder)?;
        }
        Ok(())
    }

    /// Whether the database is there, as a file that may be opened.
    ///
    /// A write-ahead log or its index without a database, a link, a second name, a foreign owner, or rights for others
    /// are refused: SQLite would replay or share what this user never wrote.
    ///
    /// `mend`: a quarantine that ended early is ended. Without it the file is called corrupt.
    pub(crate) fn check(&self, mend: bool) -> Result<Present> {
        let there = check_file(&self.database())?;
        let log = check_file(&self.with(".db-wal"))?;
        let index = check_file(&self.with(".db-shm"))?;
        if there.is_none() && (log.is_some() || index.is_some()) && self.is_corrupt() {
            if !mend {
                return Err(corrupt());
            }
            self.quarantine()?;
        } else if there.is_none() && (log.is_some() || index.is_some()) {
            return Err(Error::new(
                ErrorKind::Refused,
                "a write-ahead log lies here without its database, put the database back or remove the log",
            ));
        }
        Ok(Present { database: there.is_some(), unclean: log.is_some_and(|bytes| bytes > 0) })
    }

    /// Which file lies under the database's name, if one does. No two files have the same while one of them is open.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        self.database().symlink_metadata().ok().map(|found| (found.dev(), found.ino()))
    }

    /// Publishes a finished file under the database's name; it must be free.
    pub(crate) fn publish(&self, from: &Path) -> Result<()> {
        make_durable(from)?;
        if !place(from, &self.database())? {
            remove(from)?;
            return Err(crate::error::present());
        }
        // The file stands under its name now, so nobody may take a failure for "it is not there".
        self.sync_folders().map_err(|error| {
            Error::new(ErrorKind::Unknown, "whether the file is durable is not known, ask for the outcome")
                .with_source(error)
        })
    }

    /// Puts a finished file in the place of a closed database.
    pub(crate) fn replace(&self, from: &Path) -> Result<()> {
        for name in [".db-wal", ".db-shm", ".db-journal"] {
            remove(&self.with(name))?;
        }
        std::fs::rename(from, self.database()).map_err(from_io)?;
        self.sync_folders()
    }

    /// Puts a damaged, closed database aside.
    pub(crate) fn quarantine(&self) -> Result<()> {
        // INVARIANT: the database goes first. Without its log it would open, short of the commits that the log holds.
        for (from, to) in [(".db", ".corrupt"), (".db-wal", ".corrupt-wal"), (".db-shm", ".corrupt-shm")] {
            match std::fs::rename(self.with(from), self.with(to)) {
                Err(error) if error.kind() != IoKind::NotFound => return Err(from_io(error)),
                _ => {}
            }
        }
        self.sync_folders()
    }

    /// Leaves a durable mark that the user was erased.
    pub(crate) fn mark_erased(&self) -> Result<()> {
        private_file().write(true).create(true).truncate(true).open(self.with(".erased")).map_err(from_io)?;
        self.sync_folders()
    }

    pub(crate) fn unmark_erased(&self) -> Result<()> {
        remove(&self.with(".erased"))?;
        self.sync_folders()
    }

    /// Removes every file of the user but the mark; says how many there were.
    pub(crate) fn remove_all(&self) -> Result<u64> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == IoKind::NotFound => return Ok(0),
            Err(error) => return Err(from_io(error)),
        };
        let mut removed = 0;
        for entry in entries {
            let entry = entry.map_err(from_io)?;
            let name = entry.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(&self.stem));
            if rest.is_some_and(|rest| rest.starts_with('.') && rest != ".erased") {
                remove(&entry.path())?;
                removed += 1;
            }
        }
        self.sync_folders()?;
        Ok(removed)
    }

    fn with(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}{ending}", self.stem))
    }

    fn sync_folders(&self) -> Result<()> {
        sync_folder(&self.folder)?;
        if self.stem == "deployment" || self.synced.lock().contains(&self.folder) {
            return Ok(());
        }
        for parent in self.folder.ancestors().skip(1).take(2) {
            sync_folder(parent)?;
        }
        self.synced.lock().insert(self.folder.clone());
        Ok(())
    }
}

/// What is there of a user's database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Present {
    pub(crate) database: bool,
    /// The last one who had it open did not close it.
    pub(crate) unclean: bool,
}

/// Says in the header that the file uses a write-ahead log, so that the first open need not write it.
/// <https://www.sqlite.org/fileformat2.html#file_format_version_numbers>
pub(crate) fn set_write_ahead(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = OpenOptions::new().write(true).open(path).map_err(from_io)?;
    file.write_all_at(&[2, 2], 18).map_err(from_io)
}

/// Gives a file its final name, if that is free; says whether it was. In one step, so that a process that dies leaves one name.
fn place(from: &Path, to: &Path) -> Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        // A file system without that step has links; both names are one file then, until the old one is removed.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            match std::fs::hard_link(from, to) {
                Ok(()) => remove(from).map(|()| true),
                Err(error) if error.kind() == IoKind::AlreadyExists => Ok(false),
                Err(error) => Err(from_io(error)),
            }
        }
        Err(error) => Err(from_io(error.into())),
    }
}

/// Writes a new file that only this user can read. It is not synced.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = private_file().write(true).create_new(true).open(path).map_err(from_io)?;
    file.write_all(bytes).map_err(from_io)
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(from_io)
}

pub(crate) fn make_durable(path: &Path) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path).map_err(from_io)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(from_io)?;
    file.sync_all().map_err(from_io)
}

pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != IoKind::NotFound => Err(from_io(error)),
        _ => Ok(()),
    }
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn make_folder(folder: &Path) -> Result<()> {
    match DirBuilder::new().recursive(false).mode(0o700).create(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == IoKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == IoKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(from_io)
        }
        Err(error) => Err(from_io(error)),
    }
}

fn folders(of: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(of).map_err(from_io)? {
        let entry = entry.map_err(from_io)?;
        if entry.file_type().map_err(from_io)?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn check_folder(folder: &Path) -> Result<()> {
    let found = folder.symlink_metadata().map_err(from_io)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(Error::new(
            ErrorKind::Refused,
            "the data folder must be a real folder of this user with rights 0700, use `chmod 700`",
        ));
    }
    Ok(())
}

/// The size of a file that may be opened, `None` if there is none.
fn check_file(path: &Path) -> Result<Option<u64>> {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
        Err(error) => return Err(from_io(error)),
    };
    // It was removed while it was looked at: a connection that ends in the background takes its log with it.
    if found.nlink() == 0 {
        return Ok(None);
    }
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_file() || found.nlink() != 1 || !own || found.mode() & 0o077 != 0 {
        return Err(Error::new(
            ErrorKind::Refused,
            "a data file must be a plain file of this user with one name and rights 0600, not a link",
        ));
    }
    Ok(Some(found.len()))
}

/// Opens a file of the store's own, which holds nobody's data.
pub(crate) fn open_private(path: &Path, make: bool) -> Result<File> {
    let mut options = private_file();
    options.read(true).write(make).create(make).truncate(false).open(path).map_err(from_io)
}

/// The folder's lock, and whether no other process has the folder open.
///
/// Who shares the folder takes the lock alone first, if it can, and opens it to others when all is in order.
fn take_lock(folder: &Path, mode: Mode) -> Result<(File, bool)> {
    let mut file = open_private(&folder.join("lock"), true)?;
    let alone = match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => match file.try_lock_shared() {
            Ok(()) if mode == Mode::Shared => false,
            Ok(()) => {
                return Err(locked(
                    &mut file,
                    "the data folder is shared by other processes, open it shared too",
                ));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(locked(&mut file, "the data folder is in use by another process"));
            }
            Err(TryLockError::Error(error)) => return Err(from_io(error)),
        },
        Err(TryLockError::Error(error)) => return Err(from_io(error)),
    };
    file.set_len(0).map_err(from_io)?;
    writeln!(file, "{}", std::process::id()).map_err(from_io)?;
    Ok((file, alone))
}

fn locked(file: &mut File, message: &'static str) -> Error {
    let mut holder = String::new();
    // The refusal stands whether the holder's number can be read or not.
    let _ = file.read_to_string(&mut holder);
    Error::new(ErrorKind::Locked, message)
        .with_source(format!("process {}", holder.trim().parse::<u32>().unwrap_or_default()))
}

/// Opens a lock that was held alone to those who share.
fn share_lock(file: &File) -> Result<()> {
    match file.try_lock_shared() {
        Ok(()) => Ok(()),
        // The change is not one step: somebody took it alone in between.
        Err(TryLockError::WouldBlock) => {
            Err(Error::new(ErrorKind::Locked, "the data folder is in use by another process"))
        }
        Err(TryLockError::Error(error)) => Err(from_io(error)),
    }
}

/// Where the key of a folder's tags is kept.
///
/// # Errors
///
/// `Refused` for a file that is not as it must be; `Unavailable` from the file system.
pub fn key_place(folder: &Path) -> Result<KeyPlace> {
    if check_file(&folder.join(PRINT))?.is_some() {
        return Ok(KeyPlace::Elsewhere);
    }
    if check_file(&folder.join("deployment.key"))?.is_some() || is_used(folder)? {
        return Ok(KeyPlace::Here);
    }
    Ok(KeyPlace::Nowhere)
}

/// What a folder whose key is kept elsewhere holds in the key's place: its fingerprint.
const PRINT: &str = "deployment.print";

fn is_used(folder: &Path) -> Result<bool> {
    let users = folder.join("users");
    let named = users.symlink_metadata().is_ok() && !folders(&users)?.is_empty();
    Ok(named || folder.join("deployment.db").symlink_metadata().is_ok())
}

/// Checks that a key which is kept elsewhere is the folder's, and makes a new folder one of it.
fn given_key(folder: &Path, key: &DeploymentKey) -> Result<DeploymentKey> {
    let path = folder.join(PRINT);
    if key_place(folder)? == KeyPlace::Here {
        return Err(Error::new(
            ErrorKind::Refused,
            "the data in this folder was made with a key of its own and is not sealed, open it so or seal it",
        ));
    }
    if check_file(&path)?.is_none() {
        publish_bytes(folder, PRINT, key.fingerprint().as_bytes())?;
    }
    if std::fs::read(&path).map_err(from_io)? == key.fingerprint().as_bytes() {
        Ok(key.clone())
    } else {
        Err(Error::new(
            ErrorKind::Refused,
            "the data in this folder belongs to another key: with this one no user is found",
        ))
    }
}

fn deployment_key(folder: &Path) -> Result<DeploymentKey> {
    let path = folder.join("deployment.key");
    if check_file(&folder.join(PRINT))?.is_some() {
        return Err(Error::new(
            ErrorKind::Refused,
            "the data in this folder is sealed and its key is kept elsewhere, open it with that key",
        ));
    }
    if check_file(&path)?.is_none() {
        if is_used(folder)? {
            return Err(Error::new(
                ErrorKind::Refused,
                "there is data here but no deployment.key, put the key's copy back: without it no user is found",
            ));
        }
        publish_bytes(folder, "deployment.key", DeploymentKey::generate()?.as_bytes())?;
    }
    let bytes = std::fs::read(&path).map_err(from_io)?;
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| wrong_key())?;
    if bytes == DEPLOYMENT_OWNER { Err(wrong_key()) } else { Ok(DeploymentKey::from_bytes(bytes)) }
}

/// Makes a small file in one step, unless there is one.
fn publish_bytes(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let new = folder.join(format!("{name}.{}", std::process::id()));
    let mut file = private_file().write(true).create(true).truncate(true).open(&new).map_err(from_io)?;
    file.write_all(bytes).map_err(from_io)?;
    file.sync_all().map_err(from_io)?;
    place(&new, &folder.join(name))?;
    remove(&new)?;
    sync_folder(folder)?;
    check_file(&folder.join(name)).map(drop)
}

const fn wrong_key() -> Error {
    Error::new(ErrorKind::Refused, "deployment.key does not hold 32 bytes of a key, put its copy back")
}
