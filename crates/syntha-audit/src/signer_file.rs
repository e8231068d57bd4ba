//! A signing key in a file of its own, outside the data.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use data_encoding::{BASE64, HEXLOWER};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use syntha_store::{Error, ErrorKind, KeyFingerprint, Result};
use zeroize::Zeroizing;

use crate::cursor::SinkMemory;
use crate::link::Hash;
use crate::signer::{IndexKey, Kept, Signer, SigningTurn, TreeHead, origin};
use crate::signer_keys::SignerKeys;

/// The longest file: thousands of keys.
const LENGTH: u64 = 8 * 1024 * 1024;
/// How long a turn is waited for: as long as a slow disk takes for another process's checkpoint.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
/// How often a file with two names is looked at again.
const TRIES: u32 = 20;

/// A key in a file, with what it signed last. It must not lie in the data's folder: whoever puts the data back must not put it back too.
///
/// The file is JSON text, belongs to the effective user, and has rights 0600. It is replaced whole, by renaming, and beside it lies
/// `<name>.lock`, which whoever signs holds.
#[derive(Clone)]
pub struct FileSigner {
    path: Arc<Path>,
    origin: Arc<str>,
}

impl fmt::Debug for FileSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSigner").field("origin", &self.origin).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    v: u32,
    private: Zeroizing<String>,
    /// See [`SignerKeys::to_text`].
    keys: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed: Option<Head>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending: Option<Head>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sinks: Option<Sinks>,
    /// The key of the index that the data holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<Zeroizing<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sinks {
    key: Zeroizing<String>,
    names: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    size: u64,
    root: String,
}

impl FileSigner {
    /// Opens a key file, and makes a new key if there is none. Of several who make it at once, all get the one key.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for a file that is open to others, no key file, or the key of another log; `KeyUnavailable` if it can't be read;
    /// `Unavailable` and `StorageFull` from the file system.
    pub async fn open(path: impl Into<PathBuf>, deployment: &KeyFingerprint) -> Result<Self> {
        Self::opened(path.into(), deployment, None).await
    }

    /// Makes a new key for a log whose key was lost: it signs what follows a state that the operator vouches for, such as that of the last
    /// checkpoint in a sink. Who verifies has to be told the key anew.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if there is a file; as [`open`](Self::open).
    pub async fn replace(
        path: impl Into<PathBuf>,
        deployment: &KeyFingerprint,
        after: TreeHead,
    ) -> Result<Self> {
        Self::opened(path.into(), deployment, Some(after)).await
    }

    async fn opened(path: PathBuf, deployment: &KeyFingerprint, after: Option<TreeHead>) -> Result<Self> {
        let signer = Self { path: path.into(), origin: origin(deployment).into() };
        let made = signer.clone();
        blocking(move || made.make(after)).await?;
        Ok(signer)
    }

    fn make(&self, after: Option<TreeHead>) -> Result<()> {
        match self.path.symlink_metadata() {
            Ok(_) if after.is_some() => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    "there is a key of the audit log, put it aside first",
                ));
            }
            Ok(_) => return self.read().map(drop),
            Err(error) if error.kind() != IoKind::NotFound => return Err(from_io(error)),
            Err(_) => {}
        }
        let mut kept = Kept::generate(&self.origin, after.map_or(0, |after| after.size.saturating_add(1)))?;
        kept.signed = after;
        let folder = folder(&self.path);
        let new = Temporary::write(folder, &kept)?;
        let ours = place(&new.0, &self.path)?;
        drop(new);
        sync(folder)?;
        if !ours && after.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "another process made a key of the audit log"));
        }
        self.read().map(drop)
    }

    fn read(&self) -> Result<Kept> {
        for _ in 0..TRIES {
            if let Some(kept) = read(&self.path)? {
                if kept.keys.origin() != &*self.origin {
                    return Err(refused(
                        "the key file is of another deployment's audit log: put it aside if the data is meant to be new",
                    ));
                }
                return Ok(kept);
            }
            // Whoever made it on a file system that can only link has two names for it, for a moment.
            std::thread::park_timeout(PAUSE);
        }
        Err(refused("the key file has a second name, remove the other link to it"))
    }
}

#[async_trait]
impl Signer for FileSigner {
    fn origin(&self) -> &str {
        &self.origin
    }

    async fn keys(&self) -> Result<SignerKeys> {
        let signer = self.clone();
        blocking(move || Ok(signer.read()?.keys)).await
    }

    async fn signed(&self) -> Result<Option<TreeHead>> {
        let signer = self.clone();
        blocking(move || Ok(signer.read()?.signed)).await
    }

    async fn sinks(&self) -> Result<Option<SinkMemory>> {
        let signer = self.clone();
        blocking(move || Ok(signer.read()?.sinks)).await
    }

    async fn index_key(&self) -> Result<Option<IndexKey>> {
        let signer = self.clone();
        blocking(move || Ok(signer.read()?.index_key)).await
    }

    async fn turn(&self) -> Result<Box<dyn SigningTurn>> {
        let mut waited = Duration::ZERO;
        loop {
            let signer = self.clone();
            let turn = blocking(move || {
                let Some(lock) = lock(&signer.path)? else { return Ok(None) };
                let kept = signer.read()?;
                Ok(Some(FileTurn { path: Arc::clone(&signer.path), kept, lock: Arc::new(lock) }))
            });
            match turn.await? {
                Some(turn) => return Ok(Box::new(turn)),
                None if waited >= PATIENCE => {
                    return Err(Error::new(ErrorKind::Busy, "another process signs the audit log"));
                }
                None => {
                    tokio::time::sleep(PAUSE).await;
                    waited += PAUSE;
                }
            }
        }
    }
}

struct FileTurn {
    path: Arc<Path>,
    kept: Kept,
    /// Held to the end of the turn, and of what it writes if the caller goes.
    lock: Arc<File>,
}

impl FileTurn {
    /// Changes what is kept, on disk first.
    async fn change<T: Send + 'static>(
        &mut self,
        change: impl FnOnce(&mut Kept) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (path, lock, mut kept) = (Arc::clone(&self.path), Arc::clone(&self.lock), self.kept.clone());
        let (kept, value) = blocking(move || {
            let _lock = lock;
            let value = change(&mut kept)?;
            let folder = folder(&path);
            let new = Temporary::write(folder, &kept)?;
            std::fs::rename(&new.0, &path).map_err(from_io)?;
            sync(folder)?;
            Ok((kept, value))
        })
        .await?;
        self.kept = kept;
        Ok(value)
    }
}

#[async_trait]
impl SigningTurn for FileTurn {
    fn signed(&self) -> Option<TreeHead> {
        self.kept.signed
    }

    fn pending(&self) -> Option<TreeHead> {
        self.kept.pending
    }

    async fn sign(&mut self, head: TreeHead, consistency: &[Hash]) -> Result<String> {
        let proof = consistency.to_vec();
        self.change(move |kept| kept.sign(head, &proof)).await
    }

    async fn settle(&mut self, published: TreeHead) -> Result<()> {
        if self.kept.signed == Some(published) && self.kept.pending.is_none() {
            return Ok(());
        }
        self.change(move |kept| kept.settle(published)).await
    }

    async fn begin_sink(&mut self, name: &str) -> Result<Option<SinkMemory>> {
        let name = name.to_owned();
        self.change(move |kept| kept.begin_sink(&name)).await.map(Some)
    }

    async fn make_index_key(&mut self) -> Result<Option<IndexKey>> {
        self.change(Kept::make_index_key).await.map(Some)
    }

    async fn rotate(&mut self) -> Result<String> {
        self.change(Kept::rotate).await
    }
}

/// Runs work that waits for the disk where it holds up no task.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Unavailable, "the runtime ended while the key of the audit log was used"))
    })
}

/// Nothing if another one has it.
fn lock(path: &Path) -> Result<Option<File>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    let file = options.open(name).map_err(from_io)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(from_io(error)),
    }
}

/// Nothing if it has two names now.
fn read(path: &Path) -> Result<Option<Kept>> {
    // INVARIANT: nothing here blocks, such as the opening of a pipe, and no link is followed in the last step.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match error.kind() {
        IoKind::PermissionDenied => {
            refused("the key file is not this user's, use `chown`").with_source(error)
        }
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            refused("the key file is a link, name the file itself").with_source(error)
        }
        _ => unreadable(error),
    })?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err(refused("the key file is not a plain file"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() && found.uid() != 0 {
        return Err(refused("the key file is not this user's, use `chown`"));
    }
    if found.mode() & 0o7777 != 0o600 {
        return Err(refused("the key file is open to others, use `chmod 600`"));
    }
    if found.nlink() > 1 {
        return Ok(None);
    }
    let mut text =
        Zeroizing::new(Vec::with_capacity(usize::try_from(found.len().min(LENGTH)).unwrap_or(0) + 1));
    file.take(LENGTH).read_to_end(&mut text).map_err(unreadable)?;
    decode(&text).map(Some)
}

fn encode(kept: &Kept) -> Result<Zeroizing<Vec<u8>>> {
    let head = |head: TreeHead| Head { size: head.size, root: BASE64.encode(&head.root) };
    let sinks = kept.sinks.as_ref().map(|sinks| Sinks {
        key: Zeroizing::new(BASE64.encode(sinks.key())),
        names: sinks.names().cloned().collect(),
    });
    let names: usize = sinks.iter().flat_map(|sinks| &sinks.names).map(|name| name.len() + 8).sum();
    let text = Text {
        v: 1,
        private: kept.private.clone(),
        keys: kept.keys.to_text()?,
        signed: kept.signed.map(head),
        pending: kept.pending.map(head),
        sinks,
        index: kept.index_key.as_ref().map(|key| Zeroizing::new(BASE64.encode(key.as_bytes()))),
    };
    // As large as it gets, so that no copy of the key is left where it grew.
    let mut out =
        Zeroizing::new(Vec::with_capacity(2 * (text.private.len() + text.keys.len()) + names + 1024));
    serde_json::to_writer(&mut *out, &text)
        .map_err(|_| refused("the key of the audit log can't be written"))?;
    out.push(b'\n');
    Ok(out)
}

fn decode(text: &[u8]) -> Result<Kept> {
    let damaged = || refused("the key file is not a key of an audit log, put its copy back");
    // The library's error names a byte of the text.
    let text: Text = serde_json::from_slice(text).map_err(|_| damaged())?;
    let head = |head: Head| -> Result<TreeHead> {
        let root = BASE64.decode(head.root.as_bytes()).map_err(|_| damaged())?;
        Ok(TreeHead { size: head.size, root: root.try_into().map_err(|_| damaged())? })
    };
    if text.v != 1 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the key file has a format that this build does not know, upgrade",
        ));
    }
    let key = |text: &str| -> Result<[u8; 32]> {
        let key = Zeroizing::new(BASE64.decode(text.as_bytes()).map_err(|_| damaged())?);
        key.as_slice().try_into().map_err(|_| damaged())
    };
    let sinks = |sinks: Sinks| -> Result<SinkMemory> { Ok(SinkMemory::new(key(&sinks.key)?, sinks.names)) };
    Ok(Kept {
        sinks: text.sinks.map(sinks).transpose()?,
        index_key: text.index.map(|text| key(&text).map(IndexKey::from_bytes)).transpose()?,
        keys: SignerKeys::parse(&text.keys)?,
        private: text.private,
        signed: text.signed.map(head).transpose()?,
        pending: text.pending.map(head).transpose()?,
    })
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(from_io)
}

/// A file that goes if it was not given its name.
struct Temporary(PathBuf);

impl Temporary {
    fn write(folder: &Path, kept: &Kept) -> Result<Self> {
        let mut number = [0; 16];
        getrandom::fill(&mut number).map_err(|source| {
            Error::new(ErrorKind::Unavailable, "the system's random source failed").with_source(source)
        })?;
        let path = folder.join(format!(".syntha-audit-key-{}.new", HEXLOWER.encode(&number)));
        let text = encode(kept)?;
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(flags);
        let mut file = options.open(&path).map_err(from_io)?;
        let temporary = Self(path);
        // The process's mask may have taken the owner's own rights.
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(from_io)?;
        file.write_all(&text).map_err(from_io)?;
        file.sync_all().map_err(from_io)?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is gone if it has its name; what can't be removed holds a key that nothing uses.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Gives a file its name if that is free; says whether it was.
fn place(from: &Path, to: &Path) -> Result<bool> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match std::fs::hard_link(from, to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == IoKind::AlreadyExists => Ok(false),
            Err(error) => Err(from_io(error)),
        },
        Err(error) => Err(from_io(error.into())),
    }
}

const fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::KeyRefused, message)
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(ErrorKind::KeyUnavailable, "the key file of the audit log can't be read").with_source(error)
}

fn from_io(error: std::io::Error) -> Error {
    match error.kind() {
        IoKind::StorageFull | IoKind::QuotaExceeded => Error::new(
            ErrorKind::StorageFull,
            "the device is full, the key file of the audit log was not written",
        ),
        _ => Error::new(ErrorKind::Unavailable, "the key file of the audit log can't be written")
            .with_source(error),
    }
}
