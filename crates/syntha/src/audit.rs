//! Whether a deployment keeps an audit trail, who signs it, and who is told of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use syntha_audit::verify::Checkpoint;
use syntha_audit::{AuditSink, AuditedStore, FileSigner, MemorySigner, Signer};
use syntha_mesh::AuditPolicy;
use syntha_store::{Action, DeploymentKey, ErrorKind as StoreErrorKind, Keyspace, Scan, Store, Verdict};

use crate::error::{Error, ErrorKind, Result};
use crate::layers::{Trailed, is_audited};

/// How a deployment is audited. The default is what a new folder gets when nothing is said: reads are written down within a second, the key
/// lies beside the folder, and nobody outside is told.
#[derive(Clone)]
#[must_use]
pub struct Audit {
    pub(crate) policy: AuditPolicy,
    signer: Signing,
    sinks: Vec<Arc<dyn AuditSink>>,
    replaces: Option<LostKey>,
    entries: u64,
    age: Duration,
    trail: u64,
}

#[derive(Clone)]
enum Signing {
    /// Nobody: chains go on, and no log is kept.
    #[cfg(all(feature = "encryption", feature = "sqlite"))]
    Nobody,
    Beside,
    File(PathBuf),
    Signer(Arc<dyn Signer>),
}

/// What a lost key is replaced with.
#[derive(Clone)]
struct LostKey {
    known: Option<Checkpoint>,
}

/// What a host asked for.
#[derive(Clone, Default)]
pub(crate) enum Auditing {
    /// A folder that is new gets a trail, data that has one goes on with it, and other data has none.
    #[default]
    Unsaid,
    /// Nothing is audited.
    Off,
    /// This.
    On(Audit),
}

impl Audit {
    /// Audited by a policy, with nobody told of it.
    pub const fn new(policy: AuditPolicy) -> Self {
        Self {
            policy,
            signer: Signing::Beside,
            sinks: Vec::new(),
            replaces: None,
            entries: 10_000,
            age: Duration::from_secs(10),
            trail: 1 << 30,
        }
    }

    /// The file of the key that signs checkpoints. Default: beside the data folder, with `.audit.key` after its name. Keep it where whoever
    /// can write the data can't: who has both can sign another past.
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.signer = Signing::File(path.into());
        self
    }

    /// A signer of one's own.
    pub fn signer(mut self, signer: Arc<dyn Signer>) -> Self {
        self.signer = Signing::Signer(signer);
        self
    }

    /// Makes a new key where the file of the one that signs is lost. It costs this: the new key signs from now on and vouches for the log as it lies
    /// in the data; what was signed before verifies with the old public key alone; and auditors have to be told the new one by a way of their
    /// own. `known`: a checkpoint that was kept elsewhere, which the log must go on from; without one, nothing shows whether the data was put
    /// back to an older state. The trail tells of it (`replace-signer`).
    ///
    /// Opening is refused as `Invalid` where nothing is lost: there is a key, or the log was never signed; and as `Tampered` where the log does not
    /// go on from what is known.
    pub fn replace_lost_key(mut self, known: Option<Checkpoint>) -> Self {
        self.replaces = Some(LostKey { known });
        self
    }

    #[cfg(all(feature = "encryption", feature = "sqlite"))]
    pub(crate) fn unsigned() -> Self {
        Self { signer: Signing::Nobody, ..Self::default() }
    }

    /// Tells somebody outside of every entry and checkpoint. Several may be told.
    pub fn sink(mut self, sink: Arc<dyn AuditSink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// How far every sink may be behind before operations are refused with `AuditUnavailable`: so many entries, 1 or more (default 10,000),
    /// or so long (default 10 s).
    pub const fn bounds(mut self, entries: u64, age: Duration) -> Self {
        (self.entries, self.age) = (entries, age);
        self
    }

    /// How many bytes each user's own trail may have, 64 KiB to 1 TiB (default 1 GiB). From nine tenths on, reads and refusals are told by
    /// agent and kind alone. What would take it past its limit is refused with `AuditUnavailable`, for this user and for nobody else,
    /// until the trail is [pruned](crate::AuditTrail::prune) or the limit is raised.
    pub const fn trail_limit(mut self, bytes: u64) -> Self {
        self.trail = bytes;
        self
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self::new(AuditPolicy::default())
    }
}

impl From<AuditPolicy> for Audit {
    fn from(policy: AuditPolicy) -> Self {
        Self::new(policy)
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("policy", &self.policy)
            .field("sinks", &self.sinks)
            .finish_non_exhaustive()
    }
}

/// Where the key that signs a folder's audit log lies unless another place is named: beside the folder, with `.audit.key` after its name.
#[must_use]
pub fn default_audit_key_file(data: &Path) -> PathBuf {
    let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    crate::files::beside(&data.canonicalize().unwrap_or(data), ".audit.key")
}

impl Auditing {
    /// What the meshes tell the trail; `None` for what their configuration says.
    pub(crate) const fn policy(&self) -> Option<AuditPolicy> {
        match self {
            Self::On(audit) => Some(audit.policy),
            _ => None,
        }
    }

    /// Puts the trail over a backend.
    pub(crate) async fn over(
        self,
        store: Arc<dyn Store>,
        key: &DeploymentKey,
        place: crate::layers::Place<'_>,
    ) -> Result<Trailed> {
        // INVARIANT: asked before the trail is: data that another process begins in between has a trail by then.
        let is_new = match (&self, place.folder) {
            (Self::Unsaid, Some(_)) if !place.reads => is_empty(&*store).await?,
            _ => false,
        };
        let is_audited = is_audited(&*store).await?;
        let audit = match self {
            Self::On(audit) => audit,
            // Also one whose key is there already: a process made it, and died before it wrote anything else.
            Self::Unsaid if is_audited || is_new => Audit::default(),
            // INVARIANT: whoever can write the data folder alone can't take its trail off.
            Self::Unsaid
                if place
                    .folder
                    .is_some_and(|folder| crate::files::is_there(&default_audit_key_file(folder))) =>
            {
                return Err(was_audited());
            }
            _ => return Trailed::without(store).await,
        };
        // Whoever only reads neither begins a trail nor goes on with one.
        if place.reads && !is_audited {
            return Trailed::without(store).await;
        }
        let (durable, has_log) = (store.capabilities().durable, has_log(&*store).await?);
        let bare = Arc::clone(&store);
        let mut audited = AuditedStore::new(store, key.fingerprint())?
            .unchained(crate::reserved::accounts(key).map(|(_, tag)| tag))
            .trail_limit(audit.trail);
        let of_file = match (&audit.signer, place.folder) {
            (Signing::File(path), _) => Some(path.clone()),
            (Signing::Beside, Some(folder)) => Some(default_audit_key_file(folder)),
            _ => None,
        };
        let replaced = audit.replaces.is_some();
        if let Some(lost) = audit.replaces {
            let path =
                of_file.as_ref().filter(|path| has_log && !place.reads && !crate::files::is_there(path));
            let path = path.ok_or_else(nothing_lost)?;
            FileSigner::replace_lost(&*bare, path, &key.fingerprint(), lost.known.as_ref()).await?;
        }
        let signer: Option<Arc<dyn Signer>> = match (audit.signer, of_file) {
            #[cfg(all(feature = "encryption", feature = "sqlite"))]
            (Signing::Nobody, _) => None,
            (Signing::Signer(signer), _) => Some(signer),
            // Who only reads makes none.
            (_, Some(path)) if place.reads && !crate::files::is_there(&path) => None,
            // INVARIANT: a new key would sign another log over the one that is there.
            (_, Some(path)) if has_log && !crate::files::is_there(&path) => return Err(no_key()),
            (_, Some(path)) => {
                Some(Arc::new(FileSigner::open(path, &key.fingerprint()).await.map_err(no_key_file)?))
            }
            (_, None) if place.reads => None,
            // Its key would go with the process, and the log could not go on.
            (_, None) if durable => return Err(no_signer()),
            (_, None) => Some(Arc::new(MemorySigner::new(&key.fingerprint())?)),
        };
        if is_new
            && let Some(signer) = &signer
            && signer.signed().await?.is_some()
            // Another process that begins it at the same time has written before it signs.
            && is_empty(&*bare).await?
        {
            return Err(emptied());
        }
        if place.reads {
            audited = audited.reading();
        } else if signer.is_some() {
            audited = audited.bounds(audit.entries, audit.age);
            for sink in audit.sinks {
                audited = audited.sink(sink);
            }
        }
        if let Some(signer) = signer {
            audited = audited.signer(signer);
        }
        let audited = Arc::new(audited);
        let store = Arc::clone(&audited) as _;
        Ok(Trailed { store, audited: Some(audited), beside: place.reads, replaced })
    }
}

/// Whether a bare store holds nothing: nobody's data, and of its own not even whose tags it has. What the trail's layer keeps beside that does
/// not count: it is compared with what was signed.
async fn is_empty(store: &dyn Store) -> Result<bool> {
    let own = store.deployment().await?;
    for space in [Keyspace::Meta, Keyspace::Directory, Keyspace::Ledger] {
        if !own.scan(Scan::heads(space, 1)).await?.value.records.is_empty() {
            return Ok(false);
        }
    }
    // Last, for it looks at all users' files.
    Ok(store.list(None, 1).await?.is_empty())
}

/// Whether a bare store has a log that somebody signed.
async fn has_log(store: &dyn Store) -> Result<bool> {
    let scan = Scan::heads(Keyspace::Audit, 1).name(&b"checkpoint"[..]);
    Ok(!store.deployment().await?.scan(scan).await?.value.records.is_empty())
}

const fn no_key() -> Error {
    Error::new(
        ErrorKind::Denied,
        "the key that signs the audit log is not where it is looked for: put it back, name its file, or replace it if it is lost",
    )
}

/// A key that can't be made: who said nothing of a trail is told how to say it.
fn no_key_file(error: syntha_store::Error) -> Error {
    if error.kind() != StoreErrorKind::Unavailable {
        return error.into();
    }
    let says = "the key that signs the audit log can't be made there: name another place for its file, or open the data without a trail";
    Error::new(ErrorKind::Storage, says).with_source(error)
}

const fn was_audited() -> Error {
    Error::new(
        ErrorKind::Denied,
        "the data has no audit trail although the key of one lies beside it: if that is meant, open it without a trail",
    )
}

const fn emptied() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "the folder holds nothing, and the key beside it has signed an audit log: put the data back, or put the key aside to begin anew",
    )
}

const fn nothing_lost() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "no key of an audit log is missing here: one that is there is rotated, and a log that was never signed needs none",
    )
}

const fn no_signer() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "an audited store of your own needs a signer, name one with `Audit::signer`",
    )
}

/// How long sinks are waited for that were behind when the deployment was closed.
const SHIPPING: Duration = Duration::from_secs(5);

impl crate::deployment::Deployment {
    /// Says in the trail that this process has opened the deployment, and whether one before did not close it in order; and starts what
    /// signs and delivers.
    pub(crate) async fn begin_run(&self) -> Result<()> {
        let Some(audited) = self.trailed.audited.as_ref().filter(|_| self.tells()) else { return Ok(()) };
        if audited.is_signed() {
            // What waits from before may fill the bound, and then nothing could be told.
            let _ = tokio::time::timeout(SHIPPING, audited.shipped()).await;
        }
        if audited.was_unclean().await? {
            // Chains may be left to look at of one that the trail was told of.
            if audited.has_untold().await? {
                self.note_gap().await?;
                audited.told_unclean().await?;
            }
            let behind = Arc::downgrade(audited);
            tokio::spawn(async move {
                if let Some(audited) = behind.upgrade() {
                    // Chains that nobody looked at are looked at when they are opened, too.
                    let _ = audited.catch_up().await;
                }
            });
        }
        self.note(Action::OpenRun, None, Verdict::Done).await?;
        if self.trailed.replaced {
            self.note(Action::ReplaceSigner, None, Verdict::Done).await?;
        }
        if !audited.is_signed() {
            return Ok(());
        }
        // A log that begins over chains that are there has all of them: one that it does not name could be taken away unseen.
        if audited.last_checkpoint().await?.is_none() {
            match audited.catch_up().await {
                // It is told of where its user is opened, and by a verification.
                Err(error) if matches!(error.kind(), StoreErrorKind::Tampered | StoreErrorKind::Corrupt) => {}
                looked => drop(looked?),
            }
        }
        *self.background.lock() = Some(audited.spawn_background());
        Ok(())
    }

    /// Says that it was closed in order, and ends what signs and delivers.
    pub(crate) async fn end_run(&self) -> Result<()> {
        let background = self.background.lock().take();
        let told = self.note(Action::CloseRun, None, Verdict::Done).await;
        if let Some(background) = background {
            background.stop();
            background.ended().await;
        }
        told
    }
}
