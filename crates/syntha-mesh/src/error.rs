use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use syntha_store::Rule;

use crate::limits::Exceeded;

/// The result of every call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for callers to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong: a name, a value that is not JSON, an empty list.
    Invalid,
    /// The thing to change is not there, or this agent can't see it; the two are one answer.
    NotFound,
    /// This agent may not do that.
    Denied,
    /// The entry has another version than the caller named. Read it again.
    Conflict,
    /// A size or count is over its limit.
    LimitExceeded,
    /// The work did not start in time, or came faster than the user's calls may, or while too many of them were under way. Nothing was
    /// written; try again, after [`Error::retry_after`] where it is known.
    Busy,
    /// Whether the write happened is not known. Try again with the same operation id.
    Unknown,
    /// The user was erased, moved or restored. Open the mesh again.
    Gone,
    /// The session that this handle belongs to has ended.
    SessionEnded,
    /// What was asked for could not be written into the audit trail in time. A write did not happen, a read is not given; try again.
    AuditUnavailable,
    /// The storage failed; its error is the source.
    Storage,
}

/// An error of a mesh. Its text holds no value, key, topic, agent or user.
pub struct Error {
    kind: ErrorKind,
    message: &'static str,
    source: Option<Box<dyn StdError + Send + Sync>>,
    retryable: bool,
    /// Which rule the audit trail is told.
    rule: Option<Rule>,
    /// Boxed, since most errors have none and every result has room for one.
    detail: Option<Box<Detail>>,
}

/// What an error says in numbers.
#[derive(Clone, Copy, Default)]
struct Detail {
    exceeded: Option<Exceeded>,
    after: Option<Duration>,
}

impl Error {
    pub(crate) const fn new(kind: ErrorKind, message: &'static str) -> Self {
        let retryable = matches!(
            kind,
            ErrorKind::Busy | ErrorKind::Unknown | ErrorKind::Conflict | ErrorKind::AuditUnavailable
        );
        Self { kind, message, source: None, retryable, rule: None, detail: None }
    }

    /// One of a user's limits stands against it.
    pub(crate) fn limit(kind: ErrorKind, exceeded: Exceeded) -> Self {
        let detail = Detail { exceeded: Some(exceeded), after: None };
        Self::new(kind, exceeded.limit.message()).by(Rule::Limit).detailed(detail)
    }

    /// A retry can succeed after so long.
    pub(crate) fn after(mut self, after: Duration) -> Self {
        let exceeded = self.exceeded();
        self.retryable = true;
        self.detailed(Detail { exceeded, after: Some(after) })
    }

    fn detailed(mut self, detail: Detail) -> Self {
        self.detail = Some(Box::new(detail));
        self
    }

    /// Refused by a rule.
    pub(crate) const fn by(mut self, rule: Rule) -> Self {
        self.rule = Some(rule);
        self
    }

    /// One that a retry does not get past, whatever its kind.
    pub(crate) const fn final_(mut self) -> Self {
        self.retryable = false;
        self
    }

    pub(crate) const fn rule(&self) -> Option<Rule> {
        match (self.rule, self.kind) {
            (None, ErrorKind::Conflict) => Some(Rule::Version),
            (None, ErrorKind::LimitExceeded) => Some(Rule::Limit),
            (None, ErrorKind::SessionEnded) => Some(Rule::Session),
            (rule, _) => rule,
        }
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

    /// Whether a retry can succeed: after a pause for `Busy` and `AuditUnavailable`, with the same operation id for `Unknown`, after
    /// reading again for `Conflict`.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// Which of the user's limits stands against it, if one does.
    #[must_use]
    pub fn exceeded(&self) -> Option<Exceeded> {
        self.detail.as_ref().and_then(|detail| detail.exceeded)
    }

    /// How long to wait before a retry can succeed, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.detail.as_ref().and_then(|detail| detail.after)
    }

    /// The same error for another of the operations that one commit failed for.
    pub(crate) fn again(&self) -> Self {
        let Self { kind, message, retryable, rule, .. } = *self;
        Self { kind, message, source: None, retryable, rule, detail: self.detail.clone() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)?;
        self.exceeded().map_or(Ok(()), |exceeded| write!(f, " ({exceeded})"))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .field("exceeded", &self.exceeded())
            .field("source", &self.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<syntha_store::Error> for Error {
    fn from(error: syntha_store::Error) -> Self {
        use syntha_store::ErrorKind as Kind;
        let kind = match error.kind() {
            Kind::Gone | Kind::Erased => ErrorKind::Gone,
            Kind::Busy => ErrorKind::Busy,
            Kind::Unknown => ErrorKind::Unknown,
            Kind::LimitExceeded => ErrorKind::LimitExceeded,
            Kind::AuditUnavailable => ErrorKind::AuditUnavailable,
            _ => ErrorKind::Storage,
        };
        let rule = match error.kind() {
            Kind::Erased => Some(Rule::Erased),
            Kind::KeyUnavailable | Kind::KeyRefused => Some(Rule::Key),
            _ => None,
        };
        let (retryable, after) = (error.is_retryable(), error.retry_after());
        let message = error.message();
        let made = Self { kind, message, source: Some(Box::new(error)), retryable, rule, detail: None };
        match after {
            Some(after) => made.after(after),
            None => made,
        }
    }
}
