//! Where entries and checkpoints are delivered to, outside the data.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::link::SALT_BYTES;

/// How long one delivery may take.
pub const DELIVERY_DEADLINE: Duration = Duration::from_secs(2);

/// Takes entries and checkpoints, in the order of the log, each at least once.
///
/// A sink that fails or takes longer than [`DELIVERY_DEADLINE`] is called again with the same, later. It holds up nobody, until every sink
/// of a store is past the store's bound: then the store takes no more operations.
#[async_trait]
pub trait AuditSink: fmt::Debug + Send + Sync + 'static {
    /// Its name: 1 to 64 letters, digits, `-`, `_` and `.`. What was delivered is remembered under it, so each place that is delivered to
    /// has its own, and keeps it.
    fn name(&self) -> &str;

    /// Takes entries. They count as delivered when it returns without an error, and only then: what must outlast a loss of power is on
    /// disk by then.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from that. The same entries come again, perhaps with others.
    async fn deliver(&self, entries: &[Delivery]) -> Result<(), SinkError>;

    /// The last checkpoint that it was given and still has, as a signed note; `None` if it has none, or can't tell. What is signed has to go on
    /// from it, so a signer whose memory was put back together with the data is noticed.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from looking. It counts as `None`.
    async fn last_checkpoint(&self) -> Result<Option<String>, SinkError> {
        Ok(None)
    }

    /// Whether what it takes lies where nobody who can write this host's files can change it. A deployment without such a sink has no anchor
    /// outside.
    fn is_outside(&self) -> bool {
        false
    }
}

/// Why a sink did not take entries. Its text holds no entry.
#[derive(Debug)]
pub struct SinkError {
    message: &'static str,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl SinkError {
    /// An error with a fixed text: lower-case, no final period.
    #[must_use]
    pub const fn new(message: &'static str) -> Self {
        Self { message, source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl std::error::Error for SinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// One thing that is delivered. The links of a chain come in their order, before the leaf that names their end, and leaves before the
/// checkpoint over them, so whoever has all of them can verify everything. Links of a user whose data can't be read come after that leaf, once
/// it can be, and those of other users don't wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// A link of a user's chain.
    Link {
        /// The user's tag; zeros for the deployment's own chain.
        owner: [u8; 32],
        /// The link's number.
        seq: u64,
        /// The text that is hashed.
        text: Bytes,
        /// The salt of its details.
        salt: Option<[u8; SALT_BYTES]>,
        /// Its details: sealed, or with keyed hashes for names.
        details: Option<Bytes>,
    },
    /// A leaf of the log.
    Leaf {
        /// Its number, from 0.
        index: u64,
        /// Its bytes. See [`Leaf`](crate::leaf::Leaf).
        leaf: Bytes,
    },
    /// A checkpoint of the log.
    Checkpoint {
        /// The signed note.
        note: Arc<str>,
        /// How many leaves it covers.
        size: u64,
    },
}

impl Delivery {
    /// One line of JSON, without the line's end, in the form of a trail's lines; a link names its owner.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut line = Map::new();
        let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
        match self {
            Self::Link { owner, seq, text, salt, details } => {
                put("t", "link".into());
                put("owner", HEXLOWER.encode(owner).into());
                put("seq", (*seq).into());
                put("text", BASE64.encode(text).into());
                if let (Some(salt), Some(details)) = (salt, details) {
                    put("salt", BASE64.encode(salt).into());
                    put("details", BASE64.encode(details).into());
                }
            }
            Self::Leaf { index, leaf } => {
                put("t", "leaf".into());
                put("index", (*index).into());
                put("leaf", BASE64.encode(leaf).into());
            }
            Self::Checkpoint { note, .. } => {
                put("t", "checkpoint".into());
                put("note", (**note).into());
            }
        }
        Value::Object(line).to_string()
    }

    /// About how many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Link { text, details, .. } => text.len() + details.as_ref().map_or(0, Bytes::len) + 64,
            Self::Leaf { leaf, .. } => leaf.len() + 16,
            Self::Checkpoint { note, .. } => note.len() + 16,
        }
    }
}

/// Whether a sink's name is one.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

/// What a [`MemorySink`] does when it is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Takes everything.
    #[default]
    Take,
    /// Refuses everything.
    Fail,
    /// Takes the entries and answers with an error: the answer was lost.
    TakeAndFail,
    /// Never answers.
    Block,
}

/// A sink in memory, for tests. Clones are one sink.
#[derive(Clone)]
pub struct MemorySink {
    name: Arc<str>,
    state: Arc<Mutex<MemoryState>>,
    changed: Arc<tokio::sync::Notify>,
}

#[derive(Default)]
struct MemoryState {
    taken: Vec<Delivery>,
    behaviour: Behaviour,
    next: VecDeque<Behaviour>,
    calls: u64,
}

impl fmt::Debug for MemorySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySink").field("name", &self.name).finish_non_exhaustive()
    }
}

impl MemorySink {
    /// An empty sink.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), state: Arc::default(), changed: Arc::default() }
    }

    /// What it does from now on. A call that blocks goes on by it.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state.lock().behaviour = behaviour;
        self.changed.notify_waiters();
    }

    /// What it does in the next calls, one by one, before it goes on as it does.
    pub fn next(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.state.lock().next.extend(behaviours);
    }

    /// Everything that it took, in order.
    #[must_use]
    pub fn taken(&self) -> Vec<Delivery> {
        self.state.lock().taken.clone()
    }

    /// How often it was called.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }
}

#[async_trait]
impl AuditSink for MemorySink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, entries: &[Delivery]) -> Result<(), SinkError> {
        let mut behaviour = {
            let mut state = self.state.lock();
            state.calls += 1;
            state.next.pop_front().unwrap_or(state.behaviour)
        };
        while behaviour == Behaviour::Block {
            let changed = self.changed.notified();
            behaviour = self.state.lock().behaviour;
            if behaviour == Behaviour::Block {
                changed.await;
            }
        }
        if behaviour != Behaviour::Fail {
            self.state.lock().taken.extend_from_slice(entries);
        }
        if behaviour == Behaviour::Take { Ok(()) } else { Err(SinkError::new("the sink was told to fail")) }
    }
}

/// A sink that hands links, leaves and checkpoints on as events of the `tracing` crate, under the target `syntha::audit`.
///
/// What a subscriber does with them is its own: nothing says that they were kept. It suits a second sink.
#[cfg(feature = "tracing")]
#[derive(Clone, Debug)]
pub struct TracingSink {
    name: Arc<str>,
}

#[cfg(feature = "tracing")]
impl TracingSink {
    /// A sink of a name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into() }
    }
}

#[cfg(feature = "tracing")]
#[async_trait]
impl AuditSink for TracingSink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, entries: &[Delivery]) -> Result<(), SinkError> {
        for entry in entries {
            tracing::info!(target: "syntha::audit", entry = entry.to_json(), "audit");
        }
        Ok(())
    }
}
