//! Reading the history, which no index holds: pages of messages, lists of threads, and what a batch must know beforehand.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use syntha_store::{Error as StoreError, ErrorKind as StoreErrorKind, Head, Keyspace, RecordId, Scan, Stamp};

use crate::change::Change;
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::fault::Fault;
use crate::index::Index;
use crate::interactions::{self, InteractionRange};
use crate::load::Loaded;
use crate::message::{HistoryMessage, MessageHead};
use crate::names::{MessageId, ThreadId};
use crate::thread::{ThreadInfo, ThreadState, message_record, record_id};
use crate::undo_lookup::{self, UndoLookup};

/// The most messages or threads of a page.
pub(crate) const PAGE_MOST: usize = 1_000;
/// The most bytes of messages of a page, but for one message that is larger.
const PAGE_BYTES: u64 = 4 << 20;
/// How many threads are scanned at a time for those that an agent may see.
const SCAN: usize = 1_000;
const TRIES: usize = 3;

/// Messages of one thread.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct MessagePage {
    /// The messages, oldest first.
    pub messages: Vec<HistoryMessage>,
    /// Whether there are more beyond the page, in the direction that was asked for.
    pub more: bool,
}

/// A thread's state: from the index if it is kept there, else from the store. The caller made the index fresh.
pub(crate) async fn state(core: &Core, thread: &ThreadId) -> Result<Option<ThreadState>> {
    Ok(state_at(core, thread).await?.1)
}

async fn state_at(core: &Core, thread: &ThreadId) -> Result<(Stamp, Option<ThreadState>), StoreError> {
    {
        let index = core.index.read();
        if let Some(state) = index.threads.get(thread.as_str()) {
            return Ok((index.stamp, Some(state.clone())));
        }
    }
    let (stamp, state) = stored_state(core, thread).await?;
    if let Some(state) = &state {
        let mut index = core.index.write();
        if index.stamp == stamp {
            index.keep_thread(thread.shared(), state);
        }
    }
    Ok((stamp, state))
}

async fn stored_state(core: &Core, thread: &ThreadId) -> Result<(Stamp, Option<ThreadState>), StoreError> {
    let read = core.store.read(Keyspace::Threads, &[record_id(thread.as_str())?]).await?;
    let record = read.value.into_iter().next().flatten();
    let state = record.map(|record| ThreadState::decode(&record.head, &record.body)).transpose()?;
    Ok((read.stamp, state))
}

/// A page of a thread's messages, if `sees` says yes to the thread at the moment of the read.
pub(crate) async fn page(
    core: &Core,
    thread: &ThreadId,
    from: Option<u64>,
    reverse: bool,
    count: usize,
    sees: impl Fn(&ThreadState) -> bool + Send + Sync,
) -> Result<MessagePage> {
    check_limit(count)?;
    let _under_way = core.enter()?;
    for attempt in 1.. {
        let (stamp, state) = state_at(core, thread).await?;
        let Some(state) = state.filter(|state| sees(state)) else { return Ok(MessagePage::default()) };
        let (read, page) = scan(core, thread, &state, from, reverse, count).await?;
        if read == stamp {
            return Ok(page);
        }
        // Somebody wrote in between. The page counts if the thread is still the same one and still for this reader.
        if attempt >= TRIES {
            let now = stored_state(core, thread).await?.1.filter(|now| now.salt == state.salt && sees(now));
            return Ok(now.map_or_else(MessagePage::default, |_| page));
        }
        if !core.exclusive {
            core.refresh().await?;
        }
    }
    Ok(MessagePage::default())
}

async fn scan(
    core: &Core,
    thread: &ThreadId,
    state: &ThreadState,
    from: Option<u64>,
    reverse: bool,
    count: usize,
) -> Result<(Stamp, MessagePage), StoreError> {
    let across = core.config.has(Fault::HistoryAcrossThreads);
    let from = if across { from.or(Some(if reverse { u64::MAX } else { 0 })) } else { from };
    let page = |scan: Scan| {
        let name = Bytes::copy_from_slice(thread.as_str().as_bytes());
        let scan = if across { scan } else { scan.name(name) };
        let scan = if reverse { scan.reverse() } else { scan };
        let id =
            from.map(|seq| message_record(thread.as_str(), seq.min(i64::MAX.unsigned_abs()))).transpose();
        id.map(|id| match id {
            Some(id) => scan.from(id),
            None => scan,
        })
    };
    // Sizes stand in the heads, so that no more is read than a page holds.
    let mut count = count;
    if state.bytes > PAGE_BYTES && count > 1 {
        count = fitting(core, page(Scan::heads(Keyspace::History, count))?).await?;
    }
    let read = core.store.scan(page(Scan::records(Keyspace::History, count))?).await?;
    let more = read.value.more;
    let mut messages = Vec::with_capacity(read.value.records.len());
    for (head, body) in &read.value.records {
        messages.push(HistoryMessage::decode(head, body.as_deref().unwrap_or_default())?);
    }
    if reverse {
        messages.reverse();
    }
    Ok((read.stamp, MessagePage { messages, more }))
}

/// How many of a scan's messages a page holds.
pub(crate) async fn fitting(core: &Core, heads: Scan) -> Result<usize, StoreError> {
    let heads = core.store.scan(heads).await?;
    let (mut bytes, mut fits) = (0_u64, 0);
    for (head, _) in &heads.value.records {
        bytes = bytes.saturating_add(MessageHead::decode(head)?.bytes);
        if fits > 0 && bytes > PAGE_BYTES {
            break;
        }
        fits += 1;
    }
    Ok(fits.max(1))
}

/// Threads that pass, in the store's order of names.
pub(crate) async fn threads(
    core: &Core,
    after: Option<&str>,
    limit: usize,
    sees: impl Fn(&str, &ThreadState) -> bool + Send + Sync,
) -> Result<Vec<ThreadInfo>> {
    check_limit(limit)?;
    let mut from = after.map(record_id).transpose()?;
    let mut found = Vec::new();
    loop {
        let scan = Scan::heads(Keyspace::Threads, SCAN);
        let page = core.store.scan(match from.take() {
            Some(id) => scan.from(id),
            None => scan,
        });
        let page = page.await?.value;
        for (head, _) in &page.records {
            let state = ThreadState::decode_head(head)?;
            let name = name(head)?;
            if sees(&name, &state) {
                found.push(state.info(&name));
                if found.len() == limit {
                    return Ok(found);
                }
            }
        }
        from = page.next();
        if from.is_none() {
            return Ok(found);
        }
    }
}

fn name(head: &Head) -> Result<Arc<str>, StoreError> {
    std::str::from_utf8(head.id.name()).map(Arc::from).map_err(|_| corrupt())
}

pub(crate) const fn check_limit(limit: usize) -> Result<()> {
    if limit == 0 || limit > PAGE_MOST {
        return Err(Error::new(ErrorKind::Invalid, "a page has 1 to 1,000 of them"));
    }
    Ok(())
}

/// What is stored of a message id, as JSON in the record's head. Version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MessageRef {
    v: u8,
    /// SHA-256 of the thread's salt and the id.
    id: String,
    /// The message's place.
    pub(crate) seq: u64,
    /// SHA-256 of the thread's salt and the message's digest; nothing once the message was redacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl MessageRef {
    pub(crate) fn new(state: &ThreadState, id: &str, seq: u64, content: Option<[u8; 32]>) -> Self {
        let content = content.map(|content| salted(state.salt, &content));
        Self { v: 1, id: salted(state.salt, id.as_bytes()), seq, content }
    }

    /// Whether it is the same message; a redacted one is taken for it.
    pub(crate) fn is(&self, state: &ThreadState, content: &[u8; 32]) -> bool {
        self.content.as_ref().is_none_or(|known| *known == salted(state.salt, content))
    }

    pub(crate) fn encode(&self) -> Result<Bytes> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the message's id can't be written as JSON"))
    }
}

/// The record of a message id: the thread's name, and 63 bits of a keyed digest as the sequence number.
pub(crate) fn id_record(thread: &str, state: &ThreadState, id: &str) -> Result<RecordId, StoreError> {
    let digest = digest(state.salt, id.as_bytes());
    let seq = digest.iter().take(8).fold(0_u64, |seq, byte| seq << 8 | u64::from(*byte)) >> 1;
    message_record(thread, seq)
}

fn digest(salt: u128, bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(salt.to_be_bytes());
    hash.update(bytes);
    hash.finalize().into()
}

fn salted(salt: u128, bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&digest(salt, bytes))
}

/// What the store knows of what a batch names, all as of the commit that the batch is drafted on.
#[derive(Default)]
pub(crate) struct Lookup {
    /// The commit that it is of; `None` if nothing was looked up.
    pub(crate) at: Option<Stamp>,
    /// Threads; `None` for an absent one.
    pub(crate) threads: HashMap<Arc<str>, Option<ThreadState>>,
    /// Message ids that were used.
    pub(crate) ids: HashMap<(Arc<str>, Arc<str>), MessageRef>,
    /// Messages to redact that are there.
    pub(crate) messages: HashMap<(Arc<str>, u64), MessageHead>,
    /// The log of interactions, if it is written.
    pub(crate) interactions: Option<InteractionRange>,
    /// What may be undone, and what is.
    pub(crate) undo: UndoLookup,
}

/// Reads what the changes name. A conflict if somebody else committed meanwhile.
pub(crate) async fn look_up<'a>(
    core: &Core,
    changes: impl Iterator<Item = &'a Change> + Clone + Send,
) -> Result<Lookup, StoreError> {
    let mut lookup = Lookup::default();
    let mut wanted = Wanted::default();
    changes.clone().for_each(|change| wanted.add(change));
    wanted.interactions |= core.config.interactions.is_on();
    let undo = undo_lookup::Wanted::of(core, changes);
    if wanted.threads.is_empty() && !wanted.interactions && undo.is_empty() {
        return Ok(lookup);
    }
    let stamp = core.index.read().stamp;
    lookup.at = Some(stamp);
    if !undo.is_empty() {
        lookup.undo = undo.look_up(core, stamp).await?;
    }
    if wanted.interactions {
        lookup.interactions = Some(interactions::range(core, stamp).await?);
    }
    let mut missing = Vec::new();
    {
        let index = core.index.read();
        same(stamp, index.stamp)?;
        for thread in wanted.threads {
            match index.threads.get(thread.as_str()) {
                Some(state) => drop(lookup.threads.insert(Arc::clone(thread.shared()), Some(state.clone()))),
                None => missing.push(thread),
            }
        }
    }
    if !missing.is_empty() {
        let ids = missing.iter().map(|thread| record_id(thread.as_str())).collect::<Result<Vec<_>, _>>()?;
        let read = core.store.read(Keyspace::Threads, &ids).await?;
        same(stamp, read.stamp)?;
        for (thread, record) in missing.iter().zip(read.value) {
            let state = record.map(|record| ThreadState::decode(&record.head, &record.body)).transpose()?;
            lookup.threads.insert(Arc::clone(thread.shared()), state);
        }
    }
    let mut ids = Vec::new();
    let mut places = Vec::new();
    for (thread, id) in wanted.ids {
        if let Some(Some(state)) = lookup.threads.get(thread.as_str()) {
            places.push(id_record(thread.as_str(), state, id.as_str())?);
            ids.push((thread, id, state.salt));
        }
    }
    if !places.is_empty() {
        let read = core.store.read(Keyspace::MessageIds, &places).await?;
        same(stamp, read.stamp)?;
        for ((thread, id, salt), record) in ids.into_iter().zip(read.value) {
            let Some(record) = record else { continue };
            let found: MessageRef = serde_json::from_slice(&record.head.head).map_err(|_| corrupt())?;
            if found.v != 1 {
                return Err(StoreError::new(
                    StoreErrorKind::Unsupported,
                    "a message id has a newer format, upgrade",
                ));
            }
            // Another id in the same place: of 2^63 places, keyed by a salt that nobody sees.
            if found.id != salted(salt, id.as_str().as_bytes()) {
                return Err(corrupt());
            }
            lookup.ids.insert((Arc::clone(thread.shared()), Arc::clone(id.shared())), found);
        }
    }
    let mut messages = Vec::new();
    let mut places = Vec::new();
    for (thread, seq) in wanted.messages {
        let there = lookup.threads.get(thread.as_str()).is_some_and(Option::is_some);
        if let Ok(place) = message_record(thread.as_str(), seq)
            && there
        {
            places.push(place);
            messages.push((Arc::clone(thread.shared()), seq));
        }
    }
    if !places.is_empty() {
        let read = core.store.read(Keyspace::History, &places).await?;
        same(stamp, read.stamp)?;
        for (message, record) in messages.into_iter().zip(read.value) {
            if let Some(record) = record {
                lookup.messages.insert(message, MessageHead::decode(&record.head)?);
            }
        }
    }
    Ok(lookup)
}

fn same(stamp: Stamp, read: Stamp) -> Result<(), StoreError> {
    if stamp == read {
        return Ok(());
    }
    Err(StoreError::new(StoreErrorKind::Conflict, "the user's data moved on, reload and try again"))
}

/// What a batch's changes name of the history.
#[derive(Default)]
struct Wanted<'a> {
    threads: HashSet<&'a ThreadId>,
    ids: HashSet<(&'a ThreadId, &'a MessageId)>,
    messages: HashSet<(&'a ThreadId, u64)>,
    interactions: bool,
}

impl<'a> Wanted<'a> {
    fn add(&mut self, change: &'a Change) {
        match change {
            Change::By { change, .. } => self.add(change),
            Change::CreateThread { thread, .. } | Change::DeleteThread { thread } => {
                self.threads.insert(thread);
            }
            Change::Append { thread, messages, .. } => {
                self.threads.insert(thread);
                let ids = messages.iter().filter_map(|message| message.id.as_ref());
                self.ids.extend(ids.map(|id| (thread, id)));
            }
            Change::Redact { thread, seq } => {
                self.threads.insert(thread);
                self.messages.insert((thread, *seq));
            }
            Change::Load(loaded) => {
                for one in loaded {
                    match one {
                        Loaded::Thread(one) => drop(self.threads.insert(&one.thread)),
                        Loaded::ThreadDone(thread) => drop(self.threads.insert(thread)),
                        Loaded::Message(one) => {
                            self.threads.insert(&one.thread);
                            self.messages.insert((&one.thread, one.seq));
                        }
                        Loaded::Interaction(_) => self.interactions = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

/// How many threads' states an index keeps.
const THREADS_KEPT: usize = 64;

impl Index {
    /// Keeps a thread's state; another one goes if there are too many.
    pub(crate) fn keep_thread(&mut self, thread: &Arc<str>, state: &ThreadState) {
        if self.threads.len() >= THREADS_KEPT && !self.threads.contains_key(thread) {
            let other = self.threads.keys().next().cloned();
            other.and_then(|other| self.threads.remove(&other));
        }
        self.threads.insert(Arc::clone(thread), state.clone());
    }
}

const fn corrupt() -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, "the history is not as it was written")
}
