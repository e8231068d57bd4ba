use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use syntha_store::{Error as StoreError, ErrorKind as StoreErrorKind, Head, Timestamp};

use crate::entry::Member;
use crate::error::{Error, ErrorKind, Result};
use crate::json::{self, Unwritten};
use crate::names::MessageId;
use crate::readable;

/// Who speaks in a message, as OpenAI's Chat Completions API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MessageRole {
    /// Instructions of the application.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl MessageRole {
    /// The role's name: `system`, `user`, `assistant` or `tool`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The role of a name.
    ///
    /// # Errors
    ///
    /// `Invalid` for another name.
    pub fn from_name(name: &str) -> Result<Self> {
        [Self::System, Self::User, Self::Assistant, Self::Tool]
            .into_iter()
            .find(|role| role.name() == name)
            .ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "a message's role is system, user, assistant or tool")
            })
    }
}

/// A message to append to a thread.
#[derive(Clone, Debug)]
#[must_use = "a message is in no thread until it is appended"]
pub struct Message {
    pub(crate) content: Result<NewMessage, Unmade>,
}

/// A message that is well-formed.
#[derive(Clone)]
pub(crate) struct NewMessage {
    pub(crate) role: MessageRole,
    pub(crate) id: Option<MessageId>,
    /// The stored body.
    pub(crate) body: Bytes,
    content: Box<RawValue>,
    metadata: Map<String, Value>,
}

/// What a record's body holds, as JSON.
#[derive(Serialize, Deserialize)]
struct StoredBody {
    content: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    metadata: Map<String, Value>,
}

/// What a record's head holds, as JSON. Version 1.
#[derive(Serialize, Deserialize)]
struct StoredHead {
    v: u8,
    role: MessageRole,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<Member>,
    at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Arc<str>>,
    size: u32,
}

impl Message {
    /// A message with text, or with any structure that the application's model takes as content.
    pub fn new(role: MessageRole, content: impl Serialize) -> Self {
        // What its user may append, the thread knows. More than a commit takes is not even written.
        let content = text(&content)
            .and_then(|text| RawValue::from_string(text).map_err(|_| Unmade::UNREADABLE))
            .and_then(|content| {
                NewMessage { role, id: None, body: Bytes::new(), content, metadata: Map::new() }.encoded()
            });
        Self { content }
    }

    /// Instructions of the application.
    pub fn system(content: impl Serialize) -> Self {
        Self::new(MessageRole::System, content)
    }

    /// What the person says.
    pub fn user(content: impl Serialize) -> Self {
        Self::new(MessageRole::User, content)
    }

    /// What the model says.
    pub fn assistant(content: impl Serialize) -> Self {
        Self::new(MessageRole::Assistant, content)
    }

    /// The result of a tool call.
    pub fn tool(content: impl Serialize) -> Self {
        Self::new(MessageRole::Tool, content)
    }

    /// An id of the caller's, 1 to 128 bytes: the same message again is not appended twice, as long as the thread is there.
    pub fn id<I>(mut self, id: I) -> Self
    where
        I: TryInto<MessageId>,
        Error: From<I::Error>,
    {
        let id = id.try_into().map_err(|error| Unmade(ErrorKind::Invalid, Error::from(error).message()));
        self.content = self.content.and_then(|mut message| {
            message.id = Some(id?);
            Ok(message)
        });
        self
    }

    /// Something about the message, such as a tool call's id. Again for more.
    pub fn metadata(self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.with_metadata([(name.into(), value.into())])
    }

    /// Takes all in one go: each call writes the whole message.
    pub(crate) fn with_metadata(mut self, more: impl IntoIterator<Item = (String, Value)>) -> Self {
        self.content = self.content.and_then(|mut message| {
            message.metadata.extend(more);
            message.encoded()
        });
        self
    }
}

/// Why there is no message; what `append` fails with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unmade(ErrorKind, &'static str);

impl Unmade {
    const UNREADABLE: Self = Self(ErrorKind::Invalid, readable::UNREADABLE);
    const NO_JSON: Self = Self(ErrorKind::Invalid, "the message can't be written as JSON");
    const TOO_LARGE: Self = Self(ErrorKind::LimitExceeded, "a message has at most 64 MiB, shorten it");

    pub(crate) const fn error(self) -> Error {
        Error::new(self.0, self.1)
    }
}

/// JSON text of no more than a commit takes.
fn text(value: &impl Serialize) -> Result<String, Unmade> {
    json::text(value, syntha_store::BATCH_BYTES as u64).map_err(|error| match error {
        Unwritten::TooLarge(_) => Unmade::TOO_LARGE,
        Unwritten::NoJson => Unmade::NO_JSON,
    })
}

impl NewMessage {
    fn encoded(mut self) -> Result<Self, Unmade> {
        // INVARIANT: what was appended can be read, or its page and the user's export could not be. An export nests it once more.
        if !self.metadata.is_empty() && !readable::is_readable(&text(&[[&self.metadata]])?) {
            return Err(Unmade::UNREADABLE);
        }
        if !readable::is_readable(self.content.get()) {
            return Err(Unmade::UNREADABLE);
        }
        let body = StoredBody { content: self.content.clone(), metadata: self.metadata.clone() };
        self.body = text(&body)?.into();
        Ok(self)
    }

    /// Bytes that count as history.
    pub(crate) fn bytes(&self) -> u64 {
        (self.body.len() + self.id.as_ref().map_or(0, |id| id.as_str().len())) as u64
    }

    /// A digest of what the message says, to tell a retry from another message of the same id.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.role.name());
        hash.update([0]);
        hash.update(&self.body);
        hash.finalize().into()
    }

    pub(crate) fn encode_head(&self, by: Option<Member>, at: Timestamp) -> Result<Bytes> {
        encode_head(self.role, by, at, self.id.as_ref().map(|id| Arc::clone(id.shared())), self.bytes())
    }
}

fn encode_head(
    role: MessageRole,
    by: Option<Member>,
    at: Timestamp,
    id: Option<Arc<str>>,
    bytes: u64,
) -> Result<Bytes> {
    let size = u32::try_from(bytes).unwrap_or(u32::MAX);
    let head = StoredHead { v: 1, role, by, at: at.0, id, size };
    serde_json::to_vec(&head)
        .map(Bytes::from)
        .map_err(|_| Error::new(ErrorKind::Invalid, "the message's head can't be written as JSON"))
}

/// Shows sizes only: a message may land in a log.
impl fmt::Debug for NewMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewMessage")
            .field("role", &self.role)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A message of a thread.
#[derive(Clone)]
pub struct HistoryMessage {
    pub(crate) seq: u64,
    pub(crate) role: MessageRole,
    pub(crate) by: Option<Member>,
    pub(crate) at: Timestamp,
    pub(crate) id: Option<Arc<str>>,
    pub(crate) content: Box<RawValue>,
    pub(crate) metadata: Map<String, Value>,
}

/// What the head alone tells of a message.
pub(crate) struct MessageHead {
    pub(crate) role: MessageRole,
    pub(crate) by: Option<Member>,
    pub(crate) at: Timestamp,
    pub(crate) id: Option<Arc<str>>,
    /// Bytes that count as history.
    pub(crate) bytes: u64,
}

impl MessageHead {
    pub(crate) fn decode(head: &Head) -> Result<Self, StoreError> {
        let stored: StoredHead = serde_json::from_slice(&head.head).map_err(|_| corrupt())?;
        if stored.v != 1 {
            return Err(StoreError::new(
                StoreErrorKind::Unsupported,
                "a message has a newer format, upgrade",
            ));
        }
        Ok(Self {
            role: stored.role,
            by: stored.by,
            at: Timestamp(stored.at),
            id: stored.id,
            bytes: u64::from(stored.size),
        })
    }
}

impl HistoryMessage {
    pub(crate) fn decode(head: &Head, body: &[u8]) -> Result<Self, StoreError> {
        let MessageHead { role, by, at, id, .. } = MessageHead::decode(head)?;
        let StoredBody { content, metadata } = serde_json::from_slice(body).map_err(|_| corrupt())?;
        Ok(Self { seq: head.id.seq(), role, by, at, id, content, metadata })
    }

    /// The message's place in its thread, from 1. A number is never used twice; one that was redacted stays empty.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Who speaks.
    #[must_use]
    pub const fn role(&self) -> MessageRole {
        self.role
    }

    /// The agent that appended it; `None` for the user's host.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        self.by.as_ref().map(|by| &*by.name)
    }

    /// When it was appended.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// The id that it was appended with.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The content as JSON text: a string, or the structure that was appended.
    #[must_use]
    pub fn content_json(&self) -> &str {
        self.content.get()
    }

    /// The content.
    #[must_use]
    pub fn content(&self) -> Value {
        serde_json::from_str(self.content.get()).unwrap_or(Value::Null)
    }

    /// The content, if it is text.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        serde_json::from_str(self.content.get()).ok()
    }

    /// What was said about it.
    #[must_use]
    pub const fn metadata(&self) -> &Map<String, Value> {
        &self.metadata
    }
}

/// Shows no content, id or name.
impl fmt::Debug for HistoryMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HistoryMessage")
            .field("seq", &self.seq)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

const fn corrupt() -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, "a message is not as it was written")
}
