//! Writing what an export holds: entries, agents and messages with the times and authors that they had.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};
use syntha_store::{Keyspace, Op, Timestamp};

use crate::change::Answer;
use crate::draft::{Draft, Pending};
use crate::entry::{Entry, Member, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::export::Exported;
use crate::history::MessageRef;
use crate::interactions::Interaction;
use crate::message::NewMessage;
use crate::names::{AgentName, EntryKey, ThreadId};
use crate::readable;
use crate::standing::Standing;
use crate::thread::message_record;

/// An agent that is named in an export; a former one has lost its name to nobody or another one.
#[derive(Clone)]
pub(crate) struct Mention {
    pub(crate) name: AgentName,
    pub(crate) former: bool,
}

/// A line of an export whose names were parsed.
#[derive(Clone)]
pub(crate) enum Loaded {
    Agent {
        name: AgentName,
        topics: Vec<Arc<str>>,
        post: Option<Vec<Arc<str>>>,
        read: Option<Vec<Arc<str>>>,
        standing: Option<Box<Standing>>,
    },
    Entry(LoadedEntry),
    Thread(LoadedThread),
    /// All messages of a thread came.
    ThreadDone(ThreadId),
    Message(LoadedMessage),
    Interaction(Interaction),
}

impl Loaded {
    /// Bytes that it adds to a batch, roughly.
    pub(crate) fn bytes(&self) -> usize {
        256 + match self {
            Self::Entry(entry) => entry.value.len(),
            Self::Message(message) => message.message.body.len(),
            _ => 0,
        }
    }
}

/// Shows nothing of the user's.
impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Loaded")
    }
}

#[derive(Clone)]
pub(crate) struct LoadedEntry {
    pub(crate) key: EntryKey,
    pub(crate) value: Arc<str>,
    pub(crate) by: Option<Mention>,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) expires: Option<Timestamp>,
    /// Whether its author was trusted.
    pub(crate) trusted: bool,
    /// `None` for everyone.
    pub(crate) audience: Option<(Vec<Mention>, Vec<Arc<str>>)>,
}

#[derive(Clone)]
pub(crate) struct LoadedThread {
    pub(crate) thread: ThreadId,
    pub(crate) by: Option<Mention>,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) last: u64,
    /// `None` for everyone.
    pub(crate) agents: Option<Vec<Mention>>,
}

#[derive(Clone)]
pub(crate) struct LoadedMessage {
    pub(crate) thread: ThreadId,
    pub(crate) seq: u64,
    pub(crate) by: Option<Mention>,
    pub(crate) at: Timestamp,
    pub(crate) message: NewMessage,
}

/// What became of the lines of one commit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoadReport {
    pub(crate) imported: Exported,
    pub(crate) present: Exported,
    pub(crate) expired: u64,
}

impl Draft<'_> {
    pub(crate) fn load(&mut self, loaded: &[Loaded]) -> Result<Answer> {
        let mut report = LoadReport::default();
        for one in loaded {
            match one {
                Loaded::Agent { name, topics, post, read, standing } => {
                    if self.agent(name.as_str()).is_some() {
                        report.present.agents += 1;
                        continue;
                    }
                    self.member(name)?;
                    let mut state = self.agent(name.as_str()).cloned().ok_or_else(defect)?;
                    state.topics.clone_from(topics);
                    state.topics.sort_unstable();
                    state.topics.dedup();
                    if state.topics.len() > crate::draft::AGENT_TOPICS {
                        return Err(Error::new(
                            ErrorKind::LimitExceeded,
                            "an agent has at most 4,096 topics",
                        ));
                    }
                    (state.post, state.read) = (post.clone(), read.clone());
                    state.set_standing(standing.as_deref().cloned().unwrap_or_default());
                    self.set_agent(name.shared(), Some(state));
                    report.imported.agents += 1;
                }
                Loaded::Entry(entry) => self.load_entry(entry, &mut report)?,
                Loaded::Thread(thread) => self.load_thread(thread, &mut report)?,
                Loaded::ThreadDone(thread) => {
                    if let Some(mut state) = self.thread(thread)?.filter(|state| state.filled.is_some()) {
                        state.filled = None;
                        self.overlay.history.threads.insert(Arc::clone(thread.shared()), Some(state));
                    }
                }
                Loaded::Message(message) => self.load_message(message, &mut report)?,
                Loaded::Interaction(one) => {
                    let Some(range) = self.overlay.history.interactions.or(self.lookup.interactions) else {
                        return Err(defect());
                    };
                    if one.seq < range.next {
                        report.present.interactions += 1;
                    } else {
                        self.overlay.history.load_interaction(range, one)?;
                        report.imported.interactions += 1;
                    }
                }
            }
        }
        Ok(Answer::Loaded(report))
    }

    fn load_entry(&mut self, loaded: &LoadedEntry, report: &mut LoadReport) -> Result<()> {
        if !readable::is_readable(&loaded.value) {
            return Err(Error::new(ErrorKind::Invalid, readable::UNREADABLE));
        }
        if loaded.expires.is_some_and(|at| at <= self.now || i64::try_from(at.0).is_err()) {
            report.expired += 1;
            return Ok(());
        }
        if self.live(loaded.key.shared()).is_some() {
            report.present.entries += 1;
            return Ok(());
        }
        self.limits.check_value(loaded.value.len() as u64)?;
        let audience = match &loaded.audience {
            None => Parts { everyone: true, ..Parts::default() },
            Some((agents, topics)) => Parts {
                everyone: false,
                agents: self.members(agents)?,
                topics: {
                    let mut topics = topics.clone();
                    topics.sort_unstable();
                    topics.dedup();
                    topics
                },
            },
        };
        if audience.agents.len() + audience.topics.len() > crate::draft::AUDIENCE_NAMES {
            return Err(Error::new(ErrorKind::LimitExceeded, "an audience has at most 64 names"));
        }
        let entry = Entry {
            key: Arc::clone(loaded.key.shared()),
            version: self.version,
            created: loaded.created,
            updated: loaded.updated,
            expires: loaded.expires,
            author: loaded.by.as_ref().map(|by| self.mentioned(by)).transpose()?.map(Arc::new),
            audience: audience.into(),
            size: u32::try_from(loaded.value.len()).unwrap_or(u32::MAX),
            value: Some(Arc::clone(&loaded.value)),
            used: AtomicBool::new(false),
            trusted: loaded.trusted && loaded.by.is_some(),
        };
        let head = Some(entry.encode_head()?);
        self.put(Pending { entry: Arc::new(entry), head, head_only: false });
        report.imported.entries += 1;
        Ok(())
    }

    fn load_thread(&mut self, loaded: &LoadedThread, report: &mut LoadReport) -> Result<()> {
        if let Some(present) = self.thread(&loaded.thread)? {
            if present.created != loaded.created {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "another thread of that name is there, delete it or import into another mesh",
                ));
            }
            report.present.threads += 1;
            return Ok(());
        }
        let mut state = self.new_thread(None, None)?;
        state.by = loaded.by.as_ref().map(|by| self.mentioned(by)).transpose()?;
        if let Some(agents) = &loaded.agents {
            if agents.len() > crate::draft::AUDIENCE_NAMES {
                return Err(Error::new(ErrorKind::LimitExceeded, "a thread is for at most 64 agents"));
            }
            state.audience = Parts { everyone: false, agents: self.members(agents)?, topics: Vec::new() };
        }
        state.check_names()?;
        (state.created, state.updated) = (loaded.created, loaded.updated);
        // The last messages may have been redacted: their places stay used.
        state.last = loaded.last.min(i64::MAX.unsigned_abs());
        state.filled = Some(0);
        self.make_thread(&loaded.thread, state);
        report.imported.threads += 1;
        Ok(())
    }

    fn load_message(&mut self, loaded: &LoadedMessage, report: &mut LoadReport) -> Result<()> {
        let LoadedMessage { thread, seq, message, .. } = loaded;
        let Some(mut state) = self.thread(thread)? else { return Err(defect()) };
        if *seq == 0 || *seq > state.last {
            return Err(Error::new(ErrorKind::Invalid, "a message's place is not in its thread"));
        }
        let key = (Arc::clone(thread.shared()), *seq);
        // What is missing in a complete thread, and before the place up to which this one was filled, was redacted.
        if state.filled.is_none_or(|filled| *seq <= filled) || self.lookup.messages.contains_key(&key) {
            report.present.messages += 1;
            return Ok(());
        }
        self.limits.check_value(message.body.len() as u64)?;
        state.filled = Some(*seq);
        let by = loaded.by.as_ref().map(|by| self.mentioned(by)).transpose()?;
        let put = Op::Put {
            space: Keyspace::History,
            id: message_record(thread.as_str(), *seq)?,
            head: message.encode_head(by, loaded.at)?,
            body: message.body.clone(),
            expires: None,
        };
        if !self.overlay.history.load_message(key, put) {
            return Err(Error::new(ErrorKind::Invalid, "a message's place stands twice in the export"));
        }
        if let Some(id) = &message.id {
            let known = MessageRef::new(&state, id.as_str(), *seq, Some(message.digest()));
            self.put_id(thread, &state, id.as_str(), &known)?;
        }
        state.messages += 1;
        state.bytes += message.bytes();
        self.overlay.usage.history_bytes += message.bytes();
        self.overlay.history.threads.insert(Arc::clone(thread.shared()), Some(state));
        report.imported.messages += 1;
        Ok(())
    }

    fn members(&mut self, mentions: &[Mention]) -> Result<Vec<Member>> {
        mentions.iter().map(|mention| self.mentioned(mention)).collect()
    }

    fn mentioned(&mut self, mention: &Mention) -> Result<Member> {
        if !mention.former {
            return self.member(&mention.name);
        }
        // A life that no agent has: the same one when the import is run again, another one in each life of the user.
        let mut hash = Sha256::new();
        hash.update(b"syntha/v1/former-agent\0");
        hash.update(self.index.stamp.incarnation.0.to_be_bytes());
        hash.update(mention.name.as_str());
        let digest = hash.finalize();
        let incarnation = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Ok(Member { name: Arc::clone(mention.name.shared()), incarnation })
    }
}

const fn defect() -> Error {
    Error::new(ErrorKind::Storage, "something was not looked up, this is a defect in Syntha")
}
