//! What an audit trail says of an operation: who, what, on which name, how it was decided. There is no field that could hold a value.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::state::{Timestamp, Version};

/// The most bytes of one event's text, before it is sealed: names are short, and nothing else in it is long.
pub const EVENT_BYTES: usize = 4 * 1024;
/// The most bytes of a batch's events, before they are sealed.
pub const EVENTS_BYTES: usize = 1024 * 1024;

/// What was done, or tried. The names are part of every trail and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// An entry was written.
    Push,
    /// An entry was removed.
    Remove,
    /// All entries were removed.
    Clear,
    /// Expired entries were deleted.
    Sweep,
    /// An entry was read.
    Read,
    /// Entries, keys, topics or agents were listed.
    List,
    /// Changes are being watched.
    Watch,
    /// An agent was registered.
    Register,
    /// An agent was unregistered.
    Unregister,
    /// An agent subscribed to topics.
    Subscribe,
    /// An agent unsubscribed from topics.
    Unsubscribe,
    /// What an agent may post to or read was set.
    Permit,
    /// A topic was deleted.
    DeleteTopic,
    /// A thread was made.
    CreateThread,
    /// Messages were appended to a thread.
    Append,
    /// A message was redacted.
    Redact,
    /// A thread was deleted.
    DeleteThread,
    /// Messages of a thread were read.
    ReadThread,
    /// The log of interactions was read.
    ReadInteractions,
    /// The user's data was exported.
    Export,
    /// Data was imported into the user's.
    Import,
    /// A session was opened.
    OpenSession,
    /// A session was ended.
    EndSession,
    /// A user was made.
    CreateUser,
    /// A user was made again after an erasure.
    RecreateUser,
    /// A user was erased.
    EraseUser,
    /// Users were listed or counted.
    ListUsers,
    /// An archive was made.
    Backup,
    /// An archive was put in the place of the data.
    Restore,
    /// The user's data key was rotated.
    RotateKey,
    /// The deployment's key was changed.
    RewrapKeys,
    /// The user's own key was set, changed, used or taken away.
    HoldKey,
    /// The trail was read or exported.
    ReadAudit,
    /// Old links of the trail were pruned.
    PruneAudit,
    /// The key that signs checkpoints was changed.
    RotateSigner,
    /// The key that signs checkpoints was lost, and another one took its place, for which nobody but the host vouches.
    ReplaceSigner,
    /// A process opened the deployment.
    OpenRun,
    /// A process closed the deployment in order.
    CloseRun,
    /// A process did not close the deployment in order. Of each user at most `count` different events, reads and refusals, are not in the
    /// trail: those of the last second, or those since the store stopped taking commits.
    Gap,
    /// What an agent removed was brought back.
    Undo,
    /// What an agent removed was deleted before its time.
    PurgeUndo,
    /// A login with a password.
    Login,
    /// A token or a session's id was shown.
    Authenticate,
    /// A session got another id.
    RotateSession,
    /// An access token was made.
    CreateToken,
    /// An access token was revoked.
    RevokeToken,
    /// All tokens and sessions of an account, or of everybody, were revoked.
    RevokeAll,
    /// An account was made.
    CreateAccount,
    /// An account was removed.
    RemoveAccount,
    /// An account was suspended.
    SuspendAccount,
    /// A suspension was lifted.
    ResumeAccount,
    /// An account's password was set.
    SetPassword,
    /// An account's password was taken away.
    RemovePassword,
    /// What an account may do was changed.
    SetRights,
    /// The count of an account's failed logins was put back.
    ForgiveLogins,
    /// Accounts, tokens or sessions were listed.
    ListAccounts,
    /// What a user may use at most was set.
    SetLimits,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verdict {
    /// It was done.
    #[default]
    Done,
    /// It was allowed, and there was nothing to do or to see: absent, hidden and expired are one answer.
    Nothing,
    /// It was refused.
    Denied,
    /// It was allowed and failed.
    Failed,
    /// It begins: something outside the data, whose end is told too.
    Begun,
}

/// Which rule decided. An event names the one that refused; a decision that is asked for names the one that allowed, too.
///
/// The names are part of every trail and never change. New ones are added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Rule {
    /// The session has ended.
    Session,
    /// The agent is not registered any more.
    Agent,
    /// The entry or thread is not for this agent.
    Audience,
    /// The agent may not post to the topic.
    Post,
    /// The agent may not read the topic.
    Subscribe,
    /// A limit.
    Limit,
    /// Another version was expected.
    Version,
    /// The user was erased.
    Erased,
    /// The user's key is locked, or is not the one.
    Key,
    /// Only the host may.
    Host,
    /// The session was not given that.
    SessionGrants,
    /// The agent's handle was narrowed to less.
    Narrowed,
    /// It is denied to the agent.
    Denial,
    /// The agent's role.
    Role,
    /// A grant to the agent.
    Grant,
    /// Who wrote it.
    Author,
    /// It was written by an agent that was not trusted.
    Provenance,
    /// The agent deleted too much lately.
    Rate,
    /// The host did not confirm it.
    Confirmation,
}

impl Rule {
    /// The rule's name in a trail: its variant's, in kebab case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Agent => "agent",
            Self::Audience => "audience",
            Self::Post => "post",
            Self::Subscribe => "subscribe",
            Self::Limit => "limit",
            Self::Version => "version",
            Self::Erased => "erased",
            Self::Key => "key",
            Self::Host => "host",
            Self::SessionGrants => "session-grants",
            Self::Narrowed => "narrowed",
            Self::Denial => "denial",
            Self::Role => "role",
            Self::Grant => "grant",
            Self::Author => "author",
            Self::Provenance => "provenance",
            Self::Rate => "rate",
            Self::Confirmation => "confirmation",
        }
    }
}

/// A name in an event: as it is where the event is going to be sealed, else a keyed hash.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Subject {
    /// The name.
    Name(Arc<str>),
    /// What stands for it in a trail that is not sealed: 32 hexadecimal digits of a keyed hash.
    Tag(Arc<str>),
}

impl Subject {
    /// The text of either.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        match self {
            Self::Name(text) | Self::Tag(text) => text,
        }
    }
}

/// Shows no name.
impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(_) => f.write_str("Name"),
            Self::Tag(tag) => f.debug_tuple("Tag").field(tag).finish(),
        }
    }
}

/// One thing that was done, or tried. Its fields hold no value and no text of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Event {
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// What.
    #[serde(rename = "do")]
    pub action: Action,
    /// How it ended.
    #[serde(rename = "is")]
    pub verdict: Verdict,
    /// Which rule refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// The agent that did it; `None` for the host.
    #[serde(rename = "by", default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Subject>,
    /// To which entry, agent, topic or thread.
    #[serde(rename = "on", default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Subject>,
    /// The version that was read, or that was there before a write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// How often, or how many records.
    #[serde(rename = "n", default = "one", skip_serializing_if = "is_one")]
    pub count: u64,
    /// How many bytes of JSON text were read or written.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// Of which session: a random number of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
}

const fn one() -> u64 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
const fn is_one(number: &u64) -> bool {
    *number == 1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Event {
    /// Something that was done once, by the host, to nothing in particular.
    #[must_use]
    pub const fn new(at: Timestamp, action: Action) -> Self {
        Self {
            at: at.0,
            action,
            verdict: Verdict::Done,
            rule: None,
            agent: None,
            target: None,
            version: None,
            count: 1,
            bytes: 0,
            session: None,
        }
    }

    /// By an agent.
    #[must_use]
    pub fn by(mut self, agent: Option<Arc<str>>) -> Self {
        self.agent = agent.map(Subject::Name);
        self
    }

    /// To something with a name.
    #[must_use]
    pub fn on(mut self, target: Arc<str>) -> Self {
        self.target = Some(Subject::Name(target));
        self
    }

    /// With another end than "done".
    #[must_use]
    pub const fn ended(mut self, verdict: Verdict, rule: Option<Rule>) -> Self {
        (self.verdict, self.rule) = (verdict, rule);
        self
    }

    /// Of a version.
    #[must_use]
    pub const fn version(mut self, version: Option<Version>) -> Self {
        self.version = match version {
            Some(version) => Some(version.0),
            None => None,
        };
        self
    }

    /// So often, or so many.
    #[must_use]
    pub const fn count(mut self, count: u64) -> Self {
        self.count = count;
        self
    }

    /// Of so many bytes.
    #[must_use]
    pub const fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// In a session.
    #[must_use]
    pub const fn session(mut self, session: Option<u64>) -> Self {
        self.session = session;
        self
    }

    /// Whether two differ in nothing but when and how often, so that they can be written down as one.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.action == other.action
            && self.verdict == other.verdict
            && self.rule == other.rule
            && self.version == other.version
            && self.session == other.session
            && self.agent == other.agent
            && self.target == other.target
    }
}

/// The events of a batch, on their way down through the layers.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Events {
    /// None.
    #[default]
    None,
    /// As they are.
    Clear(Vec<Event>),
    /// Sealed by a layer, which alone can open them.
    Sealed {
        /// The sealed bytes.
        bytes: Bytes,
        /// How many there are.
        count: u32,
    },
}

/// Shows how many, no name.
impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Events({})", self.count())
    }
}

impl Events {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::Clear(events) => u32::try_from(events.len()).unwrap_or(u32::MAX),
            Self::Sealed { count, .. } => *count,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Adds one. What is sealed takes no more.
    pub fn push(&mut self, event: Event) {
        match self {
            Self::Clear(events) => events.push(event),
            Self::None => *self = Self::Clear(vec![event]),
            Self::Sealed { .. } => {}
        }
    }
}

/// Events as JSON (RFC 8259), the form in which a trail holds them: an array of objects.
///
/// # Errors
///
/// `LimitExceeded` over [`EVENTS_BYTES`].
pub fn encode_events(events: &[Event]) -> Result<Vec<u8>> {
    let text = serde_json::to_vec(events)
        .map_err(|_| Error::new(ErrorKind::Invalid, "an event of the audit trail has no JSON form"))?;
    if text.len() > EVENTS_BYTES {
        return Err(Error::new(ErrorKind::LimitExceeded, "the events of a batch have at most 1 MiB"));
    }
    Ok(text)
}

/// Reads what [`encode_events`] wrote.
///
/// # Errors
///
/// `Corrupt` for anything else.
pub fn decode_events(text: &[u8]) -> Result<Vec<Event>> {
    serde_json::from_slice(text).map_err(|_| {
        Error::new(ErrorKind::Corrupt, "the events of an audit entry are not as they were written")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_their_text() {
        let event = Event::new(Timestamp(7), Action::Push).by(Some("a".into())).on("k".into()).bytes(3);
        let text = encode_events(std::slice::from_ref(&event)).unwrap();
        let expected = r#"[{"at":7,"do":"push","is":"done","by":{"name":"a"},"on":{"name":"k"},"bytes":3}]"#;
        assert_eq!(std::str::from_utf8(&text).unwrap(), expected);
        assert_eq!(decode_events(&text).unwrap(), [event]);
        assert_eq!(decode_events(b"[{\"at\":7,\"value\":1}]").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn debug_shows_no_name() {
        let event = Event::new(Timestamp(7), Action::Read).by(Some("agent-x".into())).on("key-x".into());
        assert!(!format!("{event:?}").contains("-x"));
        assert!(!format!("{:?}", Events::Clear(vec![event])).contains("-x"));
    }
}
