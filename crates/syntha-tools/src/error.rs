use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use syntha_mesh::Exceeded;

/// The result of every call in this crate that is not a model's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for callers to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong: a configuration, a name, a schema, a template.
    Invalid,
    /// A list names a tool that there is not.
    UnknownTool,
    /// The name is another tool's or another agent's already.
    NameTaken,
    /// What was asked for does not fit into the budget that was given.
    LimitExceeded,
    /// The entries change faster than they are read. Try again.
    Busy,
    /// What was asked for could not be written into the audit trail in time. Try again.
    AuditUnavailable,
    /// The mesh refused or failed; its error is the source.
    Mesh,
}

/// An error of this crate. Its text holds no value, key, topic, agent or user.
pub struct Error {
    kind: ErrorKind,
    message: &'static str,
    source: Option<Box<dyn StdError + Send + Sync>>,
    retryable: bool,
    exceeded: Option<Exceeded>,
    after: Option<Duration>,
}

impl Error {
    pub(crate) const fn new(kind: ErrorKind, message: &'static str) -> Self {
        let retryable = matches!(kind, ErrorKind::Busy);
        Self { kind, message, source: None, retryable, exceeded: None, after: None }
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

    /// Which of the user's limits stands against it, if one does.
    #[must_use]
    pub const fn exceeded(&self) -> Option<Exceeded> {
        self.exceeded
    }

    /// How long to wait before a retry can succeed, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.after
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

impl From<syntha_mesh::Error> for Error {
    fn from(error: syntha_mesh::Error) -> Self {
        let (message, retryable) = (error.message(), error.is_retryable());
        let kind = match error.kind() {
            syntha_mesh::ErrorKind::AuditUnavailable => ErrorKind::AuditUnavailable,
            _ => ErrorKind::Mesh,
        };
        let (exceeded, after) = (error.exceeded(), error.retry_after());
        Self { kind, message, source: Some(Box::new(error)), retryable, exceeded, after }
    }
}
