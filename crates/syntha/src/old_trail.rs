//! What becomes of a trail's log and its signing key when a whole deployment is built anew.
//!
//! Users' chains go along, and go on. The log does not: it says in which order chains grew in the old folder, and its key has signed that the
//! log has so many leaves, so it can't sign a shorter one. The whole old trail is written into a file beside the data, which verifies with
//! the old key, and the key is put aside. The next opening makes a new one.

use std::ffi::OsString;
use std::io::ErrorKind as IoKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, ErrorKind, Result};
use crate::files;

/// Milliseconds since the Unix epoch, for names of files.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Where the trail of before is kept.
pub(crate) fn trail_file(folder: &Path, stamp: u64) -> PathBuf {
    files::beside(folder, &format!(".audit.before-{stamp}.trail"))
}

/// Copies a trail to its place.
pub(crate) fn keep(from: &Path, to: &Path) -> Result<()> {
    let part = files::beside(to, ".part");
    let mut file = files::create(&part)?;
    std::io::copy(&mut files::open(from)?, &mut file).map_err(files::failed)?;
    Ok(files::publish(file, &part, to)?)
}

/// A signing key that signs no more, and where it goes.
pub(crate) struct KeyFile {
    key: PathBuf,
    aside: PathBuf,
}

impl KeyFile {
    pub(crate) fn new(key: PathBuf, stamp: u64) -> Self {
        let aside = files::beside(&key, &format!(".before-{stamp}"));
        Self { key, aside }
    }

    pub(crate) fn beside(folder: &Path, stamp: u64) -> Self {
        Self::new(files::beside(folder, ".audit.key"), stamp)
    }

    /// Puts the key aside, if it is there and was not put aside yet.
    pub(crate) fn put_aside(&self) -> Result<()> {
        if files::is_there(&self.aside) || !files::is_there(&self.key) {
            return Ok(());
        }
        Ok(files::rename(&self.key, &self.aside)?)
    }

    /// Writes down that this is to be done once the new folder has its name.
    pub(crate) fn write(&self, marker: &Path) -> Result<()> {
        let text = [self.key.as_os_str().as_bytes(), self.aside.as_os_str().as_bytes()].join(&0);
        Ok(files::write(marker, &text)?)
    }

    /// Does what was written down, if anything was.
    pub(crate) fn end(marker: &Path) -> Result<()> {
        let text = match std::fs::read(marker) {
            Ok(text) => text,
            Err(error) if error.kind() == IoKind::NotFound => return Ok(()),
            Err(error) => return Err(files::failed(error).into()),
        };
        let mut paths =
            text.split(|byte| *byte == 0).map(|path| PathBuf::from(OsString::from_vec(path.to_vec())));
        let (Some(key), Some(aside), None) = (paths.next(), paths.next(), paths.next()) else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the file that names the old signing key is damaged: put that key aside, and remove the file",
            ));
        };
        Self { key, aside }.put_aside()?;
        Ok(files::remove(marker)?)
    }
}

/// The trail of a folder that is built anew, if it has one.
pub(crate) struct OldTrail {
    #[cfg(feature = "audit")]
    audited: Option<std::sync::Arc<syntha_audit::AuditedStore>>,
    #[cfg(feature = "audit")]
    key: PathBuf,
}

#[cfg(feature = "audit")]
mod audited {
    use std::sync::Arc;

    use syntha_audit::{AuditedStore, FileSigner, Whose};
    use syntha_store::{DeploymentKey, Keyspace, Scan, Store};

    use super::{KeyFile, OldTrail, Path, PathBuf, now, trail_file};
    use crate::audit::default_audit_key_file;
    use crate::error::{Error, ErrorKind, Result};
    use crate::files;
    use crate::layers::is_audited;

    impl OldTrail {
        /// Looks for it, and compares its log with what was signed.
        pub(crate) async fn open(
            store: Arc<dyn Store>,
            key: &DeploymentKey,
            folder: &Path,
            named: Option<&Path>,
        ) -> Result<Self> {
            let path = named.map_or_else(|| default_audit_key_file(folder), Path::to_path_buf);
            if !is_audited(&*store).await? {
                return Ok(Self { audited: None, key: path });
            }
            let log = Scan::heads(Keyspace::Audit, 1).name(bytes::Bytes::from_static(b"checkpoint"));
            let has_log = !store.deployment().await?.scan(log).await?.value.records.is_empty();
            if has_log && !files::is_there(&path) {
                // INVARIANT: a log that nobody can compare with what was signed is not left behind as if it were whole.
                return Err(Error::new(
                    ErrorKind::Denied,
                    "the key that signs the data's audit log is not beside the folder: name its file, or put it there",
                ));
            }
            // The old folder stays as it is.
            let mut audited = AuditedStore::new(store, key.fingerprint())?
                .unchained(crate::reserved::accounts(key).map(|(_, tag)| tag))
                .reading();
            if has_log {
                audited = audited.signer(Arc::new(FileSigner::open(&path, &key.fingerprint()).await?));
            }
            Ok(Self { audited: Some(Arc::new(audited)), key: path })
        }

        pub(crate) const fn is_there(&self) -> bool {
            self.audited.is_some()
        }

        /// The bare store under its trail.
        pub(crate) fn store<S: Store + 'static>(&self, files: &Arc<S>) -> Arc<dyn Store> {
            match &self.audited {
                Some(audited) => Arc::clone(audited) as _,
                None => Arc::clone(files) as _,
            }
        }

        /// Writes the whole trail beside the folder. Says where, and which key is to be put aside.
        pub(crate) async fn keep(&self, folder: &Path) -> Result<Option<(PathBuf, KeyFile)>> {
            let Some(audited) = &self.audited else { return Ok(None) };
            let stamp = now();
            let path = trail_file(folder, stamp);
            let part = files::beside(&path, ".part");
            let mut file = std::io::BufWriter::new(files::create(&part)?);
            audited.export(&Whose::All, false, &mut file).await?;
            let file = file.into_inner().map_err(|error| files::failed(error.into_error()))?;
            files::publish(file, &part, &path)?;
            Ok(Some((path, KeyFile::new(self.key.clone(), stamp))))
        }
    }
}

#[cfg(not(feature = "audit"))]
#[allow(clippy::unused_async, clippy::unused_self, reason = "as in a build with the layer")]
mod without {
    use std::sync::Arc;

    use syntha_store::{DeploymentKey, Store};

    use super::{KeyFile, OldTrail, Path, PathBuf};
    use crate::error::Result;

    impl OldTrail {
        pub(crate) async fn open(
            store: Arc<dyn Store>,
            _: &DeploymentKey,
            _: &Path,
            _: Option<&Path>,
        ) -> Result<Self> {
            crate::layers::refuse_audited(&*store).await?;
            Ok(Self {})
        }

        pub(crate) const fn is_there(&self) -> bool {
            false
        }

        pub(crate) fn store<S: Store + 'static>(&self, files: &Arc<S>) -> Arc<dyn Store> {
            Arc::clone(files) as _
        }

        pub(crate) async fn keep(&self, _: &Path) -> Result<Option<(PathBuf, KeyFile)>> {
            Ok(None)
        }
    }
}
