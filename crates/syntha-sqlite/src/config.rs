use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use syntha_store::{DeploymentKey, OwnerGroups};

/// Where and how a [`SqliteStore`](crate::SqliteStore) keeps its data.
#[derive(Clone, Debug)]
#[must_use]
pub struct SqliteConfig {
    pub(crate) root: PathBuf,
    pub(crate) connections: usize,
    pub(crate) synchronous: Synchronous,
    pub(crate) mode: Mode,
    pub(crate) key: Option<GivenKey>,
    pub(crate) groups: OwnerGroups,
    #[cfg(feature = "faults")]
    pub(crate) fault: Option<Fault>,
}

/// A key that is kept elsewhere, out of `Debug`.
#[derive(Clone)]
pub(crate) struct GivenKey(pub(crate) Arc<DeploymentKey>);

impl fmt::Debug for GivenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenKey")
    }
}

/// Where the key of a folder's tags is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyPlace {
    /// There is no data yet.
    Nowhere,
    /// In the folder itself.
    Here,
    /// With whoever opens the folder, see [`SqliteConfig::deployment_key`].
    Elsewhere,
}

/// Who else may have the folder open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nobody who writes. The default: reads may come from memory alone.
    Exclusive,
    /// Other processes, if they open it so as well. A cached read looks at the folder's bell file first.
    Shared,
    /// Whoever holds it in whatever mode: for administrative reads only. It takes no lock that keeps a holder out and every
    /// write is `Unsupported`.
    Beside,
}

/// When a commit reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// Before it is acknowledged. The default.
    Full,
    /// At the next checkpoint: a power loss can take acknowledged commits. Such a store is not called durable. The deployment's own space
    /// commits as with [`Full`](Self::Full) all the same: what a signer outside remembers of it must not be newer.
    Normal,
}

/// A fault that the conformance suite must find. For tests of the suite only.
#[cfg(feature = "faults")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file's name is a few letters of the tag, so users share files and nobody looks whose one it is.
    TagTruncated,
    /// The expected stamp is not compared.
    StampIgnored,
    /// A file is left behind when its user is erased.
    EraseKeepsFile,
    /// A failed batch keeps what it did before it failed.
    BatchTorn,
    /// Commits are not synced.
    SyncSkipped,
    /// A scan's page starts at the last record of the page before.
    PageOverlaps,
    /// In a shared folder: what was verified once is believed for ever, whatever the bell says.
    StaleBell,
    /// In a shared folder: commits do not ring.
    RingForgotten,
    /// The least recently used file is closed, whoever's it is.
    EvictionIgnoresGroups,
    /// The right to one more open file goes to who came first, whoever it is.
    FilesFirstCome,
}

impl SqliteConfig {
    /// A store in a folder, which is made at the first open.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            connections: 512,
            synchronous: Synchronous::Full,
            mode: Mode::Exclusive,
            key: None,
            groups: OwnerGroups::new(),
            #[cfg(feature = "faults")]
            fault: None,
        }
    }

    /// The same, in another folder.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        &self.root
    }

    /// The key that users' tags are derived with, kept by the caller and not in the folder. A folder is made with such a key or with one
    /// of its own, and is opened so ever after.
    pub fn deployment_key(mut self, key: DeploymentKey) -> Self {
        self.key = Some(GivenKey(Arc::new(key)));
        self
    }

    /// The most users whose files are open at a time, 1 or more. Default 512. Each costs a thread and 3 descriptors.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// Which users stand in line together: open files are given out by these groups first, and the group that has most gives one up first.
    pub fn owner_groups(mut self, groups: OwnerGroups) -> Self {
        self.groups = groups;
        self
    }

    /// When a commit reaches the disk.
    pub const fn synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// Who else may have the folder open.
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Who else may have the folder open.
    #[must_use]
    pub const fn chosen_mode(&self) -> Mode {
        self.mode
    }

    /// When a commit reaches the disk.
    #[must_use]
    pub const fn chosen_synchronous(&self) -> Synchronous {
        self.synchronous
    }

    /// Plants a fault.
    #[cfg(feature = "faults")]
    pub const fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    #[cfg(feature = "faults")]
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }
}
