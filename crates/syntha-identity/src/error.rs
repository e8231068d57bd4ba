use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use syntha_store::{Error as StoreError, ErrorKind as StoreErrorKind};

/// The result of every call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for callers to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The login, token or session does not hold. Why is told to the [listener](crate::IdentityConfig::listener) alone.
    Denied,
    /// Too many attempts failed. [`Error::retry_after`] says when the next one is looked at.
    Throttled,
    /// There is more work of this kind than is done at a time. Try again later.
    Busy,
    /// The lease was not confirmed for longer than its bound. [`Identity::confirm`](crate::Identity::confirm) it.
    Stale,
    /// There is no such account, token or session.
    NotFound,
    /// The account is there already.
    AlreadyExists,
    /// The request itself is wrong, and would be wrong again.
    Invalid,
    /// A size or count is over its limit.
    LimitExceeded,
    /// The password may not be used: too short, too common, or with characters that nobody can type.
    WeakPassword,
    /// The spaces, the key or the settings are not those that the accounts were made with.
    Refused,
    /// What is stored is not what was written.
    Corrupt,
    /// It was written by a newer build.
    Unsupported,
    /// The store, its key, the system's random source or memory can't be had now.
    Unavailable,
}

impl ErrorKind {
    /// A fixed, lower-case name for labels and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Throttled => "throttled",
            Self::Busy => "busy",
            Self::Stale => "stale",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Invalid => "invalid",
            Self::LimitExceeded => "limit_exceeded",
            Self::WeakPassword => "weak_password",
            Self::Refused => "refused",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
        }
    }
}

/// An error of this crate. Its text holds no user, password, token or id, and neither do its sources.
pub struct Error {
    kind: ErrorKind,
    message: &'static str,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) const fn new(kind: ErrorKind, message: &'static str) -> Self {
        Self { kind, message, retry_after: None, source: None }
    }

    /// One answer for every login that is refused.
    pub(crate) const fn login() -> Self {
        Self::new(ErrorKind::Denied, "the login is refused: the user or the password is wrong")
    }

    /// One answer for every token or session that does not hold.
    pub(crate) const fn secret() -> Self {
        Self::new(ErrorKind::Denied, "the token or session does not hold, sign in again")
    }

    pub(crate) const fn throttled(after: Duration) -> Self {
        let message = "too many logins failed, wait before the next one";
        Self { kind: ErrorKind::Throttled, message, retry_after: Some(after), source: None }
    }

    pub(crate) const fn busy(after: Duration) -> Self {
        let message = "more is asked for than can be done now, try again later";
        Self { kind: ErrorKind::Busy, message, retry_after: Some(after), source: None }
    }

    pub(crate) const fn no_account() -> Self {
        Self::new(ErrorKind::NotFound, "there is no such account, create it first")
    }

    pub(crate) const fn corrupt() -> Self {
        Self::new(ErrorKind::Corrupt, "a record of the accounts is not as it was written")
    }

    pub(crate) const fn unsupported() -> Self {
        Self::new(ErrorKind::Unsupported, "a record of the accounts is of a newer build, upgrade")
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
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

    /// How long to wait before the same request can succeed, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the same request can succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Throttled | ErrorKind::Busy | ErrorKind::Stale | ErrorKind::Unavailable
        )
    }
}

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
            .field("retry_after", &self.retry_after)
            .field("source", &self.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let (kind, message) = match error.kind() {
            StoreErrorKind::Corrupt | StoreErrorKind::Tampered => {
                (ErrorKind::Corrupt, "the accounts' store is not as it was written")
            }
            StoreErrorKind::Unsupported => {
                (ErrorKind::Unsupported, "the accounts' store lacks what is needed")
            }
            StoreErrorKind::Busy | StoreErrorKind::Conflict => {
                (ErrorKind::Busy, "the accounts' store is busy, try again later")
            }
            StoreErrorKind::Invalid | StoreErrorKind::Refused | StoreErrorKind::KeyRefused => {
                (ErrorKind::Refused, "the space is none that accounts can be kept in")
            }
            _ => (ErrorKind::Unavailable, "the accounts' store can't be had now, try again later"),
        };
        Self::new(kind, message).with_source(error)
    }
}
