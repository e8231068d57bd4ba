//! What changes of the history make of a batch.

use std::sync::Arc;

use bytes::Bytes;
use syntha_store::{Batch, Keyspace, Op};

use crate::change::Answer;
use crate::decision::{Act, On};
use crate::draft::Draft;
use crate::entry::Parts;
use crate::error::{Error, ErrorKind, Result};
use crate::fault::Fault;
use crate::history::{MessageRef, id_record};
use crate::interactions::{self, Interaction, InteractionRange};
use crate::message::NewMessage;
use crate::names::{AgentName, ThreadId};
use crate::request::Doing;
use crate::thread::{Appended, ThreadState, message_record, record_id};

const AUDIENCE_AGENTS: usize = 64;
/// The most interactions that one commit takes out of the log.
const TRIMMED: u64 = 4_096;
/// How many interactions more than are kept the log may have, so that not every commit deletes.
const SLACK: u64 = 256;

/// What a batch makes of the history.
#[derive(Clone, Default)]
pub(crate) struct HistoryOverlay {
    /// `None` for deleted.
    pub(crate) threads: hashbrown::HashMap<Arc<str>, Option<ThreadState>>,
    /// Threads that this batch makes, whose records are written whole.
    made: hashbrown::HashSet<Arc<str>>,
    ids: hashbrown::HashMap<(Arc<str>, Arc<str>), MessageRef>,
    ops: Vec<Op>,
    events: Vec<Interaction>,
    /// Messages that an import puts in their places.
    loaded: hashbrown::HashSet<(Arc<str>, u64)>,
    /// Where the log stands afterwards.
    pub(crate) interactions: Option<InteractionRange>,
    /// Where the log begins is to be looked up again.
    pub(crate) sparse: bool,
}

impl HistoryOverlay {
    pub(crate) fn touches(&self, thread: &str) -> bool {
        self.threads.contains_key(thread)
    }

    pub(crate) fn has_deleted(&self, thread: &str) -> bool {
        self.threads.get(thread).is_some_and(Option::is_none)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.threads.is_empty() && self.ops.is_empty()
    }

    /// Puts an imported message in its place; says whether nothing of this batch was there.
    pub(crate) fn load_message(&mut self, place: (Arc<str>, u64), put: Op) -> bool {
        let new = self.loaded.insert(place);
        if new {
            self.ops.push(put);
        }
        new
    }

    /// Puts an imported interaction at the end of the log.
    pub(crate) fn load_interaction(&mut self, mut range: InteractionRange, one: &Interaction) -> Result<()> {
        if range.first == range.next {
            range.first = one.seq;
        }
        range.next = one.seq + 1;
        self.ops.push(Op::Put {
            space: Keyspace::Interactions,
            id: interactions::record_id(one.seq)?,
            head: Bytes::from_static(b"{\"v\":1}"),
            body: one.encode()?,
            expires: None,
        });
        self.interactions = Some(range);
        Ok(())
    }

    pub(crate) fn note(&mut self, events: impl IntoIterator<Item = Interaction>) {
        self.events.extend(events);
    }
}

impl Draft<'_> {
    pub(crate) fn create_thread(
        &mut self,
        who: Option<Doing<'_>>,
        thread: &ThreadId,
        agents: Option<&[AgentName]>,
    ) -> Result<Answer> {
        if let Some(state) = self.thread(thread)? {
            self.require(who, Act::Write, On::Thread(thread.as_str(), Some(&state)))?;
            return Ok(Answer::Flag(false));
        }
        let state = self.new_thread(who.map(|who| who.agent), agents)?;
        self.make_thread(thread, state);
        Ok(Answer::Flag(true))
    }

    pub(crate) fn append(
        &mut self,
        who: Option<Doing<'_>>,
        thread: &ThreadId,
        messages: &[NewMessage],
    ) -> Result<Answer> {
        let by = who.map(|who| who.agent);
        let mut state = match self.thread(thread)? {
            // Existence is visible here, as where a hidden entry's key is pushed.
            Some(state) => {
                if !self.config.has(Fault::HiddenOverwritten) {
                    self.require(who, Act::Write, On::Thread(thread.as_str(), Some(&state)))?;
                }
                state
            }
            None => {
                let state = self.new_thread(by, None)?;
                self.make_thread(thread, state)
            }
        };
        let mut appended = Vec::with_capacity(messages.len());
        for message in messages {
            if let Some(id) = &message.id {
                let key = (Arc::clone(thread.shared()), Arc::clone(id.shared()));
                let known = self.overlay.history.ids.get(&key).or_else(|| self.lookup.ids.get(&key));
                if let Some(known) = known.filter(|_| !self.config.has(Fault::OperationForgotten)) {
                    if !known.is(&state, &message.digest()) {
                        return Err(Error::new(
                            ErrorKind::Invalid,
                            "the message id was used for another message, take a new one",
                        ));
                    }
                    appended.push(Appended { seq: known.seq, duplicate: true });
                    continue;
                }
            }
            // Here and not before: what was appended already is no new message, and an append of duplicates alone registers nobody.
            self.limits.check_value(message.body.len() as u64)?;
            let author = by.map(|by| self.member(by)).transpose()?;
            state.last += 1;
            state.messages += 1;
            state.bytes += message.bytes();
            state.updated = self.now;
            self.overlay.usage.history_bytes += message.bytes();
            self.overlay.history.ops.push(Op::Put {
                space: Keyspace::History,
                id: message_record(thread.as_str(), state.last)?,
                head: message.encode_head(author, self.now)?,
                body: message.body.clone(),
                expires: None,
            });
            if let Some(id) = &message.id {
                let known = MessageRef::new(&state, id.as_str(), state.last, Some(message.digest()));
                self.put_id(thread, &state, id.as_str(), &known)?;
                self.overlay
                    .history
                    .ids
                    .insert((Arc::clone(thread.shared()), Arc::clone(id.shared())), known);
            }
            appended.push(Appended { seq: state.last, duplicate: false });
        }
        if appended.iter().any(|one| !one.duplicate) {
            self.overlay.history.threads.insert(Arc::clone(thread.shared()), Some(state));
        }
        Ok(Answer::Appended(appended))
    }

    pub(crate) fn redact(&mut self, thread: &ThreadId, seq: u64) -> Result<Answer> {
        let Some(mut state) = self.thread(thread)? else { return Ok(Answer::Flag(false)) };
        let Some(message) = self.lookup.messages.get(&(Arc::clone(thread.shared()), seq)) else {
            return Ok(Answer::Flag(false));
        };
        if !self.config.has(Fault::RedactedShown) {
            let id = message_record(thread.as_str(), seq)?;
            self.overlay.history.ops.push(Op::Delete { space: Keyspace::History, id });
        }
        // The id stays used, without a trace of what was said: a retry does not bring the message back.
        if let Some(id) = &message.id {
            self.put_id(thread, &state, id, &MessageRef::new(&state, id, seq, None))?;
        }
        state.messages = state.messages.saturating_sub(1);
        state.bytes = state.bytes.saturating_sub(message.bytes);
        state.updated = self.now;
        let usage = &mut self.overlay.usage;
        usage.history_bytes = usage.history_bytes.saturating_sub(message.bytes);
        self.overlay.history.threads.insert(Arc::clone(thread.shared()), Some(state));
        Ok(Answer::Flag(true))
    }

    pub(crate) fn delete_thread(&mut self, thread: &ThreadId) -> Result<Answer> {
        let Some(state) = self.thread(thread)? else { return Ok(Answer::Flag(false)) };
        let name = || Bytes::copy_from_slice(thread.as_str().as_bytes());
        for space in [Keyspace::History, Keyspace::MessageIds] {
            self.overlay.history.ops.push(Op::DeleteName { space, name: name() });
        }
        let usage = &mut self.overlay.usage;
        usage.history_bytes = usage.history_bytes.saturating_sub(state.bytes);
        self.overlay.history.threads.insert(Arc::clone(thread.shared()), None);
        Ok(Answer::Flag(true))
    }

    /// Adds what was done to the batch. Takes the log's oldest entries out when it has grown.
    pub(crate) fn finish_history(&mut self, mut batch: Batch) -> Result<Batch> {
        let history = &mut self.overlay.history;
        for (thread, state) in &history.threads {
            let (space, id) = (Keyspace::Threads, record_id(thread)?);
            batch = batch.op(match state {
                None => Op::Delete { space, id },
                Some(state) if history.made.contains(thread) => {
                    let (head, body) = (state.encode_head()?, state.encode_body()?);
                    Op::Put { space, id, head, body, expires: None }
                }
                Some(state) => Op::PutHead { space, id, head: state.encode_head()?, expires: None },
            });
        }
        batch.ops.append(&mut history.ops);
        let Some(mut range) = history.interactions.or(self.lookup.interactions) else { return Ok(batch) };
        let (space, stored) = (Keyspace::Interactions, range.next);
        for event in history.events.drain(..) {
            let head = Bytes::from_static(b"{\"v\":1}");
            batch = batch.put(space, interactions::record_id(range.next)?, head, event.encode()?);
            range.next += 1;
        }
        let kept = self.config.interactions_kept.max(1);
        if range.next - range.first > kept.saturating_add(SLACK) {
            let until = (range.next - kept).min(range.first.saturating_add(TRIMMED)).min(stored);
            for seq in range.first..until {
                batch = batch.delete(space, interactions::record_id(seq)?);
            }
            // An import may have left a gap behind the log's first entries, and nobody deletes what is not there for long.
            history.sparse = until - range.first == TRIMMED;
            range.first = until;
        }
        history.interactions = Some(range);
        Ok(batch)
    }

    /// The thread's state as the batch so far leaves it.
    pub(crate) fn thread(&self, thread: &ThreadId) -> Result<Option<ThreadState>> {
        if let Some(pending) = self.overlay.history.threads.get(thread.as_str()) {
            return Ok(pending.clone());
        }
        match self.lookup.threads.get(thread.as_str()) {
            Some(known) => Ok(known.clone()),
            None => {
                Err(Error::new(ErrorKind::Storage, "a thread was not looked up, this is a defect in Syntha"))
            }
        }
    }

    pub(crate) fn new_thread(
        &mut self,
        by: Option<&AgentName>,
        agents: Option<&[AgentName]>,
    ) -> Result<ThreadState> {
        if agents.is_some_and(|agents| agents.len() > AUDIENCE_AGENTS) {
            return Err(Error::new(ErrorKind::LimitExceeded, "a thread is for at most 64 agents"));
        }
        let by = by.map(|by| self.member(by)).transpose()?;
        let members: Result<Vec<_>> =
            agents.unwrap_or_default().iter().map(|agent| self.member(agent)).collect();
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|source| {
            Error::new(ErrorKind::Storage, "the system's random source failed").with_source(source)
        })?;
        let state = ThreadState {
            audience: Parts { everyone: agents.is_none(), agents: members?, topics: Vec::new() },
            by,
            created: self.now,
            updated: self.now,
            messages: 0,
            bytes: 0,
            last: 0,
            filled: None,
            salt: u128::from_be_bytes(salt),
        };
        state.check_names()?;
        Ok(state)
    }

    pub(crate) fn make_thread(&mut self, thread: &ThreadId, mut state: ThreadState) -> ThreadState {
        // The name counts as history.
        state.bytes += thread.as_str().len() as u64;
        self.overlay.usage.history_bytes += thread.as_str().len() as u64;
        self.overlay.history.made.insert(Arc::clone(thread.shared()));
        self.overlay.history.threads.insert(Arc::clone(thread.shared()), Some(state.clone()));
        state
    }

    pub(crate) fn put_id(
        &mut self,
        thread: &ThreadId,
        state: &ThreadState,
        id: &str,
        known: &MessageRef,
    ) -> Result<()> {
        let place = id_record(thread.as_str(), state, id)?;
        self.overlay.history.ops.push(Op::Put {
            space: Keyspace::MessageIds,
            id: place,
            head: known.encode()?,
            body: Bytes::new(),
            expires: None,
        });
        Ok(())
    }
}
