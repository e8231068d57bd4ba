use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The result of every call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for callers to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The user or record is not there.
    NotFound,
    /// The user is there already.
    AlreadyExists,
    /// An expectation of the batch does not hold any more: somebody else wrote. Nothing was written.
    Conflict,
    /// The handle's user was erased, moved or restored since the handle was opened. Open it again.
    Gone,
    /// The user was erased. Only an explicit recreate makes one of that name again.
    Erased,
    /// The request itself is wrong, and would be wrong again.
    Invalid,
    /// A size or count is over its limit.
    LimitExceeded,
    /// The stored data is not what was written. It was put aside and is served to nobody.
    Corrupt,
    /// The backend's files or settings are not as they must be (permissions, links, a foreign owner).
    Refused,
    /// Another process holds the root.
    Locked,
    /// The work did not start in time. Nothing was written.
    Busy,
    /// Whether the commit happened is not known; ask [`UserStore::outcome`](crate::UserStore::outcome).
    Unknown,
    /// The device is full. Nothing was written.
    StorageFull,
    /// The backend can't be reached or failed on input or output.
    Unavailable,
    /// The data has a format that this build does not know, or the backend lacks the feature.
    Unsupported,
    /// Sealed data does not open under its key: it was changed, moved, put back from an earlier version, or is not sealed.
    Tampered,
    /// The key of the data can't be had now: its keeper does not answer, or its user has to unlock it.
    KeyUnavailable,
    /// The key that was given is not the data's key, or is not kept as a key must be.
    KeyRefused,
    /// What is done could not be written into the audit trail, or nobody takes the trail's entries. Nothing was written.
    AuditUnavailable,
}

impl ErrorKind {
    /// A fixed, lower-case name for labels and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Erased => "erased",
            Self::Invalid => "invalid",
            Self::LimitExceeded => "limit_exceeded",
            Self::Corrupt => "corrupt",
            Self::Refused => "refused",
            Self::Locked => "locked",
            Self::Busy => "busy",
            Self::Unknown => "unknown",
            Self::StorageFull => "storage_full",
            Self::Unavailable => "unavailable",
            Self::Unsupported => "unsupported",
            Self::Tampered => "tampered",
            Self::KeyUnavailable => "key_unavailable",
            Self::KeyRefused => "key_refused",
            Self::AuditUnavailable => "audit_unavailable",
        }
    }

    /// Whether and how the same request can be tried again.
    #[must_use]
    pub const fn retry(self) -> Retry {
        match self {
            Self::Conflict => Retry::AfterReload,
            Self::Busy
            | Self::StorageFull
            | Self::Unavailable
            | Self::Locked
            | Self::KeyUnavailable
            | Self::AuditUnavailable => Retry::Later,
            Self::Unknown => Retry::AfterOutcome,
            _ => Retry::Never,
        }
    }
}

/// Whether and how a failed request can be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// The same request fails again.
    Never,
    /// Load what changed, build the batch again, then try.
    AfterReload,
    /// Try the same request after a pause.
    Later,
    /// Ask for the outcome first; a blind retry could write twice.
    AfterOutcome,
}

/// An error of the storage contract.
///
/// Its text holds no value, key, topic, agent or user, and neither do its sources.
pub struct Error {
    kind: ErrorKind,
    message: &'static str,
    source: Option<Box<dyn StdError + Send + Sync>>,
    after: Option<Duration>,
}

impl Error {
    /// An error of a kind with a fixed text: lower-case, no final period, says what to do next where there is
    /// something to do. The text is `'static` so that nobody formats user data into it.
    #[must_use]
    pub const fn new(kind: ErrorKind, message: &'static str) -> Self {
        Self { kind, message, source: None, after: None }
    }

    /// Adds the cause. The caller sees to it that the cause's text holds no user data.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub const fn after(mut self, after: Duration) -> Self {
        self.after = Some(after);
        self
    }

    /// How long to wait before a retry can succeed, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.after
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The fixed text.
    #[must_use]
    pub const fn message(&self) -> &'static str {
        self.message
    }

    /// Whether the user's audit trail has reached its limit: the cause of an `AuditUnavailable` that no waiting ends.
    #[must_use]
    pub fn is_full_trail(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.is::<TrailFull>())
    }

    /// Whether and how a retry can help.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        self.kind.retry()
    }

    /// Whether a retry, after what [`retry`](Self::retry) asks for, can succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retry() != Retry::Never
    }
}

/// A user's audit trail has as many bytes as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrailFull {
    /// How many it would have with what was refused.
    pub bytes: u64,
    /// How many it may have.
    pub limit: u64,
}

impl TrailFull {
    /// The error of what was refused for it.
    #[must_use]
    pub fn refused(bytes: u64, limit: u64) -> Error {
        let message =
            "the user's audit trail has reached its limit, nothing was written: prune it, or raise the limit";
        Error::new(ErrorKind::AuditUnavailable, message).with_source(Self { bytes, limit })
    }
}

impl fmt::Display for TrailFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of at most {}", self.bytes, self.limit)
    }
}

impl StdError for TrailFull {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .field("source", &self.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind, kind.name())
    }
}
