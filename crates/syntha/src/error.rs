use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use syntha_mesh::Exceeded;

/// The result of every call of this crate's own.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for callers to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong.
    Invalid,
    /// There is no such user.
    NotFound,
    /// The user is there already.
    AlreadyExists,
    /// The user was erased. Only an explicit recreate makes one of that name again.
    Erased,
    /// The caller may not do that.
    Denied,
    /// The data folder is in use: by another process, or by a manager of this one.
    Locked,
    /// The user's data or an archive is damaged.
    Corrupt,
    /// Sealed data does not open under its key: it was changed, moved, put back, or is not sealed.
    Tampered,
    /// The key of the data can't be had now: its keeper does not answer, or its user has to unlock it.
    KeyUnavailable,
    /// What was asked for could not be written into the audit trail in time. It was not done; try again.
    AuditUnavailable,
    /// Too many logins failed: of the user, or from the source. [`Error::retry_after`] says when the next one is looked at.
    Throttled,
    /// More is asked for than is done at a time. Try again later.
    Busy,
    /// A size or count is over its limit: [`Error::exceeded`] says which one, if it is one of the user's.
    LimitExceeded,
    /// The user was erased, moved or restored since the handle was made.
    Gone,
    /// The storage failed otherwise; its error is the source.
    Storage,
}

/// An error of the facade. Its text holds no value, key, topic, agent or user.
pub struct Error {
    kind: ErrorKind,
    message: &'static str,
    source: Option<Box<dyn StdError + Send + Sync>>,
    retryable: bool,
    after: Option<Duration>,
    exceeded: Option<Exceeded>,
}

impl Error {
    pub(crate) const fn new(kind: ErrorKind, message: &'static str) -> Self {
        Self { kind, message, source: None, retryable: false, after: None, exceeded: None }
    }

    #[cfg(feature = "audit")]
    pub(crate) fn with_source(mut self, source: syntha_store::Error) -> Self {
        self.retryable = source.is_retryable();
        self.source = Some(Box::new(source));
        self
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// How long to wait before a retry can succeed, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.after
    }

    /// Which of the user's limits stands against it, if one does.
    #[must_use]
    pub const fn exceeded(&self) -> Option<Exceeded> {
        self.exceeded
    }

    /// Whether a retry can succeed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.retryable
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)?;
        self.exceeded.map_or(Ok(()), |exceeded| write!(f, " ({exceeded})"))
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

impl From<syntha_store::Error> for Error {
    fn from(error: syntha_store::Error) -> Self {
        use syntha_store::ErrorKind as Kind;
        let kind = match error.kind() {
            Kind::Invalid | Kind::LimitExceeded => ErrorKind::Invalid,
            Kind::NotFound => ErrorKind::NotFound,
            Kind::AlreadyExists => ErrorKind::AlreadyExists,
            Kind::Erased => ErrorKind::Erased,
            Kind::Refused | Kind::KeyRefused => ErrorKind::Denied,
            Kind::Tampered => ErrorKind::Tampered,
            Kind::KeyUnavailable => ErrorKind::KeyUnavailable,
            Kind::Locked => ErrorKind::Locked,
            Kind::Corrupt => ErrorKind::Corrupt,
            Kind::Gone => ErrorKind::Gone,
            Kind::AuditUnavailable => ErrorKind::AuditUnavailable,
            Kind::Busy => ErrorKind::Busy,
            _ => ErrorKind::Storage,
        };
        let (retryable, after) = (error.is_retryable(), error.retry_after());
        Self {
            kind,
            message: error.message(),
            source: Some(Box::new(error)),
            retryable,
            after,
            exceeded: None,
        }
    }
}

impl From<syntha_mesh::Error> for Error {
    fn from(error: syntha_mesh::Error) -> Self {
        let kind = match error.kind() {
            syntha_mesh::ErrorKind::Gone => ErrorKind::Gone,
            syntha_mesh::ErrorKind::AuditUnavailable => ErrorKind::AuditUnavailable,
            syntha_mesh::ErrorKind::Invalid => ErrorKind::Invalid,
            syntha_mesh::ErrorKind::Denied | syntha_mesh::ErrorKind::SessionEnded => ErrorKind::Denied,
            syntha_mesh::ErrorKind::LimitExceeded => ErrorKind::LimitExceeded,
            syntha_mesh::ErrorKind::Busy => ErrorKind::Busy,
            _ => ErrorKind::Storage,
        };
        let (message, retryable) = (error.message(), error.is_retryable());
        let (after, exceeded) = (error.retry_after(), error.exceeded());
        Self { kind, message, source: Some(Box::new(error)), retryable, after, exceeded }
    }
}

#[cfg(feature = "identity")]
impl From<syntha_identity::Error> for Error {
    fn from(error: syntha_identity::Error) -> Self {
        use syntha_identity::ErrorKind as Kind;
        // What the store answered says more than what was made of it.
        let stored = StdError::source(&error).and_then(|source| source.downcast_ref::<syntha_store::Error>());
        let kind = match error.kind() {
            Kind::Denied | Kind::Stale | Kind::Refused => ErrorKind::Denied,
            Kind::Throttled => ErrorKind::Throttled,
            Kind::Busy => ErrorKind::Busy,
            Kind::NotFound => ErrorKind::NotFound,
            Kind::AlreadyExists => ErrorKind::AlreadyExists,
            Kind::Invalid | Kind::LimitExceeded | Kind::WeakPassword => ErrorKind::Invalid,
            Kind::Corrupt => match stored.map(syntha_store::Error::kind) {
                Some(syntha_store::ErrorKind::Tampered) => ErrorKind::Tampered,
                _ => ErrorKind::Corrupt,
            },
            _ => match stored.map(syntha_store::Error::kind) {
                Some(syntha_store::ErrorKind::KeyUnavailable) => ErrorKind::KeyUnavailable,
                Some(syntha_store::ErrorKind::Gone) => ErrorKind::Gone,
                _ => ErrorKind::Storage,
            },
        };
        let (message, retryable, after) = (error.message(), error.is_retryable(), error.retry_after());
        Self { kind, message, source: Some(Box::new(error)), retryable, after, exceeded: None }
    }
}

impl From<syntha_store::name::NameError> for Error {
    fn from(rule: syntha_store::name::NameError) -> Self {
        Self {
            kind: ErrorKind::Invalid,
            message: rule.message(),
            source: Some(Box::new(rule)),
            retryable: false,
            after: None,
            exceeded: None,
        }
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}
