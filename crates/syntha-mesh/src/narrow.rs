//! Less than an agent may do, for one handle of it.

use std::fmt;
use std::sync::Arc;

use crate::decision::{Act, On};
use crate::error::{Error, ErrorKind, Result};
use crate::names::{KeyPrefix, ThreadId, Topic};

/// How often a handle is narrowed, and how many names each time has.
const DEPTH: usize = 16;
const NAMES: usize = 64;

/// To what a handle is narrowed by [`Agent::narrow`](crate::Agent::narrow). What is not named stays as it was; each call takes the place
/// of an earlier one of the same name.
///
/// A handle that is narrowed to keys or topics reaches threads only if they are named too, and one that is narrowed to keys deletes no topic.
/// Narrowed to topics, it posts to these and hears these; entries for everyone and for the agent by name stay.
#[derive(Clone, Default)]
#[must_use = "it narrows nothing until a handle is narrowed to it"]
pub struct Narrow {
    /// A bit for each act.
    acts: Option<u16>,
    prefixes: Option<Vec<KeyPrefix>>,
    topics: Option<Vec<Topic>>,
    threads: Option<Vec<ThreadId>>,
}

impl Narrow {
    /// To what it was.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only to do these.
    pub fn acts(mut self, acts: impl IntoIterator<Item = Act>) -> Self {
        self.acts = Some(acts.into_iter().fold(0, |bits, act| bits | act.bit()));
        self
    }

    /// Only to keys that start with one of these.
    pub fn prefixes(mut self, prefixes: impl IntoIterator<Item = KeyPrefix>) -> Self {
        self.prefixes = Some(prefixes.into_iter().collect());
        self
    }

    /// Only to these topics.
    pub fn topics(mut self, topics: impl IntoIterator<Item = Topic>) -> Self {
        self.topics = Some(topics.into_iter().collect());
        self
    }

    /// Only to these threads.
    pub fn threads(mut self, threads: impl IntoIterator<Item = ThreadId>) -> Self {
        self.threads = Some(threads.into_iter().collect());
        self
    }
}

/// What a handle is narrowed to, and what it was narrowed to before.
#[derive(Debug)]
pub(crate) struct Narrowed {
    to: Narrow,
    outer: Option<Arc<Self>>,
}

impl Narrowed {
    pub(crate) fn new(to: Narrow, outer: Option<Arc<Self>>) -> Result<Arc<Self>> {
        let lists = [
            to.prefixes.as_ref().map_or(0, Vec::len),
            to.topics.as_ref().map_or(0, Vec::len),
            to.threads.as_ref().map_or(0, Vec::len),
        ];
        if lists.iter().any(|len| *len > NAMES) {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "a handle is narrowed to at most 64 names of a kind",
            ));
        }
        let depth = std::iter::successors(outer.as_deref(), |one| one.outer.as_deref()).count();
        if depth >= DEPTH {
            return Err(Error::new(ErrorKind::LimitExceeded, "a handle is narrowed at most 16 times"));
        }
        Ok(Arc::new(Self { to, outer }))
    }

    /// INVARIANT: each one that the handle was ever narrowed to has to leave it, so that narrowing never widens.
    pub(crate) fn leaves(&self, act: Act, on: On<'_>) -> bool {
        self.to.leaves(act, on) && self.outer.as_ref().is_none_or(|outer| outer.leaves(act, on))
    }
}

impl Narrow {
    fn leaves(&self, act: Act, on: On<'_>) -> bool {
        if self.acts.is_some_and(|acts| acts & act.bit() == 0) {
            return false;
        }
        let key = |key: &str| {
            self.prefixes
                .as_ref()
                .is_none_or(|list| list.iter().any(|prefix| key.starts_with(prefix.as_str())))
        };
        let elsewhere = self.prefixes.is_none() && self.topics.is_none();
        match on {
            On::Mesh => true,
            On::Key(name) => key(name),
            On::Entry(entry) => key(&entry.key),
            On::Topic(_) if act == Act::Delete && self.prefixes.is_some() => false,
            On::Topic(name) => {
                self.topics.as_ref().is_none_or(|list| list.iter().any(|topic| topic.as_str() == name))
            }
            On::Threads => elsewhere || self.threads.is_some(),
            On::Thread(name, _) => match &self.threads {
                Some(list) => list.iter().any(|thread| thread.as_str() == name),
                None => elsewhere,
            },
        }
    }
}

/// Shows no name.
impl fmt::Debug for Narrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Narrow")
            .field("acts", &self.acts.map(u16::count_ones))
            .field("prefixes", &self.prefixes.as_ref().map(Vec::len))
            .field("topics", &self.topics.as_ref().map(Vec::len))
            .field("threads", &self.threads.as_ref().map(Vec::len))
            .finish()
    }
}
