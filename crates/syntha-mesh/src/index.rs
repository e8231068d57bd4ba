use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use syntha_store::{
    Changes, Error as StoreError, ErrorKind as StoreErrorKind, Head, Keyspace, RecordId, Scan, Stamp,
    Timestamp, Usage, UserStore, Version,
};

use crate::entry::{ByKey, Entry, Member};
use crate::interactions::InteractionRange;
use crate::limits::{self, UserLimits};
use crate::memory::{Account, CacheBudget};
use crate::roster::{AgentState, Roster};
use crate::thread::ThreadState;
use crate::topic_uses::{Of, TopicUses};
use crate::watchers::Touched;

const PAGE: usize = 1_000;
/// How often a load starts again, and how many pages of changes it catches up with before it does.
const LOADS: usize = 16;
const DELTAS: usize = 16;
/// The most authors that are remembered for sharing.
const AUTHORS: usize = 64;
/// The most bytes of keys and values that are read in one call.
const WHOLE_BYTES: u64 = 64 << 20;

/// What a mesh knows of its user's data: all heads, all agents, and some values.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) stamp: Stamp,
    pub(crate) usage: Usage,
    pub(crate) time: Timestamp,
    pub(crate) roster: Roster,
    /// What the user was given to use, if anything was said.
    pub(crate) limits: Option<Arc<UserLimits>>,
    pub(crate) topics: TopicUses,
    pub(crate) operations: HashMap<Arc<str>, Operation>,
    /// Threads that were used lately.
    pub(crate) threads: HashMap<Arc<str>, ThreadState>,
    /// Where the log of interactions stands, once it was looked up.
    pub(crate) interactions: Option<InteractionRange>,
    entries: HashSet<ByKey>,
    /// The same entries in order of their keys.
    order: BTreeSet<ByKey>,
    /// Authors that entries share: few, and not for ever.
    authors: VecDeque<Arc<Member>>,
    cache: Cache,
}

/// An operation that was done, so that its retry is not done again. Stored as JSON, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) v: u8,
    /// SHA-256 of the arguments, as hexadecimal text.
    pub(crate) digest: String,
    #[serde(skip, default)]
    pub(crate) version: Version,
    #[serde(skip, default)]
    pub(crate) expires: Option<Timestamp>,
}

/// Values in memory, within a byte cap, evicted by the CLOCK algorithm (Corbató 1968).
#[derive(Debug)]
struct Cache {
    hand: VecDeque<Arc<str>>,
    bytes: usize,
    cap: usize,
    account: Account,
}

impl Index {
    /// Reads a user's heads and agents.
    pub(crate) async fn load(store: &dyn UserStore, cache_bytes: usize) -> Result<Self, StoreError> {
        // What is committed in between is caught up with; a delete may be in no list of changes, and then the whole is
        // read again.
        for _ in 0..LOADS {
            let mut index = Self::new(&store.state().await?, cache_bytes);
            if index.load_all(store).await? {
                return Ok(index);
            }
            let refresh = Self::refresh(index.stamp, store).await?;
            if index.apply_refresh(refresh)? {
                return Ok(index);
            }
        }
        Err(StoreError::new(
            StoreErrorKind::Busy,
            "the user's data is written faster than it can be read, try again",
        ))
    }

    /// Every entry with its value as of one commit, with the agents as they are known; `None` if it is too much to read
    /// in one call.
    pub(crate) async fn load_whole(
        store: &dyn UserStore,
        roster: Roster,
    ) -> Result<Option<Self>, StoreError> {
        let state = store.state().await?;
        if state.usage.context_bytes > WHOLE_BYTES {
            return Ok(None);
        }
        let page = store.scan(Scan::records(Keyspace::Context, syntha_store::BATCH_OPS)).await?;
        let mut index = Self::new(&state, usize::MAX);
        (index.stamp, index.roster) = (page.stamp, roster);
        for (head, body) in page.value.records.iter().filter_map(|(head, body)| Some((head, body.as_ref()?)))
        {
            let text = std::str::from_utf8(body)
                .map_err(|_| StoreError::new(StoreErrorKind::Corrupt, "a value is not as it was written"))?;
            index.insert(Arc::new(Entry::decode(head)?.with_value(Some(text.into()))));
        }
        Ok((!page.value.more).then_some(index))
    }

    fn new(state: &syntha_store::UserState, cache_bytes: usize) -> Self {
        Self {
            stamp: state.stamp,
            usage: state.usage,
            time: state.time,
            roster: Roster::new(),
            limits: None,
            topics: TopicUses::default(),
            operations: HashMap::new(),
            threads: HashMap::new(),
            interactions: None,
            entries: HashSet::new(),
            order: BTreeSet::new(),
            authors: VecDeque::new(),
            cache: Cache { hand: VecDeque::new(), bytes: 0, cap: cache_bytes, account: Account::default() },
        }
    }

    /// Reads everything; says whether it was all of one moment.
    async fn load_all(&mut self, store: &dyn UserStore) -> Result<bool, StoreError> {
        let mut one_moment = true;
        for space in [Keyspace::Agents, Keyspace::Operations, Keyspace::Context] {
            let mut from: Option<RecordId> = None;
            loop {
                let scan = if space == Keyspace::Agents {
                    Scan::records(space, PAGE)
                } else {
                    Scan::heads(space, PAGE)
                };
                let page = store.scan(match from.take() {
                    Some(id) => scan.from(id),
                    None => scan,
                });
                let page = page.await?;
                one_moment &= page.stamp == self.stamp;
                from = page.value.next();
                for (head, body) in page.value.records {
                    self.insert_stored(space, &head, body.as_deref())?;
                }
                if from.is_none() {
                    break;
                }
            }
        }
        Ok(one_moment)
    }

    /// Asks what another handle committed since a stamp.
    pub(crate) async fn refresh(since: Stamp, store: &dyn UserStore) -> Result<Refresh, StoreError> {
        let (mut pages, mut at) = (Vec::new(), since);
        for _ in 0..DELTAS {
            let Changes::Delta(delta) = store.changes(at, PAGE).await? else { return Ok(Refresh::Reload) };
            at = delta.at;
            let agents = |(space, _): &&(Keyspace, Head)| *space == Keyspace::Agents;
            let ids: Vec<_> = delta.heads.iter().filter(agents).map(|(_, head)| head.id.clone()).collect();
            let read =
                if ids.is_empty() { Vec::new() } else { store.read(Keyspace::Agents, &ids).await?.value };
            let mut bodies = read.into_iter();
            let (mut changed, mut moved) = (Vec::with_capacity(delta.heads.len()), false);
            for (space, head) in delta.heads {
                let body = if space == Keyspace::Agents { bodies.next().flatten() } else { None };
                match body {
                    Some(record) if record.head.version == head.version => {
                        changed.push((space, head, Some(record.body)));
                    }
                    None if space != Keyspace::Agents => changed.push((space, head, None)),
                    // Written again since, so it is in the next changes.
                    _ => moved = true,
                }
            }
            pages.push((delta.deleted, changed));
            if !delta.more && !moved {
                // The usage may be of a later commit; a write that builds on it loses its compare-and-set.
                let state = store.state().await?;
                return Ok(Refresh::Pages { pages, at, usage: state.usage, time: state.time });
            }
        }
        Ok(Refresh::Reload)
    }

    pub(crate) fn apply_refresh(&mut self, refresh: Refresh) -> Result<bool, StoreError> {
        let Refresh::Pages { pages, at, usage, time } = refresh else { return Ok(false) };
        for (deleted, changed) in pages {
            for (space, id) in deleted {
                let Ok(name) = std::str::from_utf8(id.name()) else { continue };
                match space {
                    Keyspace::Context => self.remove(name),
                    Keyspace::Agents if name == limits::RECORD => self.limits = None,
                    Keyspace::Agents => self.set_agent(name.into(), None),
                    Keyspace::Operations => drop(self.operations.remove(name)),
                    Keyspace::Threads => drop(self.threads.remove(name)),
                    _ => {}
                }
            }
            for (space, head, body) in changed {
                self.insert_stored(space, &head, body.as_ref().map(|body| &body[..]))?;
            }
        }
        (self.stamp, self.usage, self.time) = (at, usage, self.time.max(time));
        // Others write the log too.
        self.interactions = None;
        Ok(true)
    }

    fn insert_stored(&mut self, space: Keyspace, head: &Head, body: Option<&[u8]>) -> Result<(), StoreError> {
        let corrupt = || StoreError::new(StoreErrorKind::Corrupt, "a record's name is not as it was written");
        let name = || std::str::from_utf8(head.id.name()).map(Arc::<str>::from).map_err(|_| corrupt());
        match space {
            Keyspace::Context => {
                let mut entry = Entry::decode(head)?;
                entry.author = entry.author.map(|author| self.share(author));
                self.insert(Arc::new(entry));
            }
            Keyspace::Agents if head.id.name() == limits::RECORD.as_bytes() => {
                self.limits = Some(Arc::new(UserLimits::decode(body.unwrap_or_default())?));
            }
            Keyspace::Agents => {
                let state = AgentState::decode(body.unwrap_or_default())?;
                self.set_agent(name()?, Some(state));
            }
            Keyspace::Operations => {
                let mut operation: Operation = serde_json::from_slice(&head.head).map_err(|_| corrupt())?;
                operation.version = head.version;
                operation.expires = head.expires;
                self.operations.insert(name()?, operation);
            }
            // Its salt is not in its head: it is read again when it is used.
            Keyspace::Threads => drop(self.threads.remove(&name()?)),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.entries.get(key).map(|found| &found.0)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter().map(|entry| &entry.0)
    }

    /// The author that an entry has in memory already, if one has.
    pub(crate) fn author(&self, name: &str, incarnation: u64) -> Option<&Arc<Member>> {
        self.authors.iter().find(|author| author.incarnation == incarnation && *author.name == *name)
    }

    /// One author's entries share it in memory.
    fn share(&mut self, author: Arc<Member>) -> Arc<Member> {
        if let Some(known) = self.author(&author.name, author.incarnation) {
            return Arc::clone(known);
        }
        if self.authors.len() >= AUTHORS {
            self.authors.pop_front();
        }
        self.authors.push_back(Arc::clone(&author));
        author
    }

    /// Entries in order of their keys, after a key.
    pub(crate) fn ordered<'a>(
        &'a self,
        after: Option<&str>,
        prefix: &str,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        use std::ops::Bound;
        let low = match after {
            Some(after) if *after >= *prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let prefix: Arc<str> = prefix.into();
        self.order
            .range::<str, _>((low, Bound::Unbounded))
            .map(|entry| &entry.0)
            .take_while(move |entry| entry.key.starts_with(&*prefix))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Puts an agent's state in the place of the one that it has; `None` for an agent that is no longer registered.
    pub(crate) fn set_agent(&mut self, name: Arc<str>, state: Option<AgentState>) {
        let old = match state {
            None => self.roster.remove(&name),
            Some(state) => self.roster.insert(Arc::clone(&name), Box::new(state)),
        };
        let new = self.roster.get(&name).map_or(&[][..], |state| &state.topics);
        self.topics.change(Of::Agents, old.as_ref().map_or(&[][..], |state| &state.topics), new);
    }

    pub(crate) fn insert(&mut self, entry: Arc<Entry>) {
        let key = Arc::clone(&entry.key);
        let value_bytes = entry.value.as_ref().map_or(0, |value| value.len());
        let before = self.cache.bytes;
        if let Some(author) = &entry.author {
            self.share(Arc::clone(author));
        }
        self.order.replace(ByKey(Arc::clone(&entry)));
        let new = Arc::clone(&entry);
        let old = self.entries.replace(ByKey(entry));
        let former = old.as_ref().map_or(&[][..], |old| &old.0.audience.topics);
        self.topics.change(Of::Entries, former, &new.audience.topics);
        let old_bytes = old.as_ref().and_then(|old| old.0.value.as_ref()).map_or(0, |value| value.len());
        self.cache.bytes = (self.cache.bytes + value_bytes).saturating_sub(old_bytes);
        if value_bytes > 0 && old_bytes == 0 {
            self.cache.hand.push_back(key);
        }
        let most = self.cache.account.most(self.cache.cap, before);
        self.evict(most);
    }

    /// The same, as a part of a budget.
    pub(crate) fn within(mut self, budget: Option<&Arc<CacheBudget>>) -> Self {
        self.cache.account = Account::new(budget.cloned());
        self.cache.account.tell(self.cache.bytes);
        self
    }

    pub(crate) const fn cached_bytes(&self) -> usize {
        self.cache.bytes
    }

    /// Keeps at most so many bytes of values for now.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        self.evict(bytes);
        self.cache.hand.shrink_to(self.cache.hand.len().saturating_mul(2));
    }

    pub(crate) fn remove(&mut self, key: &str) {
        if let Some(old) = self.entries.take(key) {
            self.order.remove(key);
            self.topics.change(Of::Entries, &old.0.audience.topics, &[]);
            self.cache.bytes =
                self.cache.bytes.saturating_sub(old.0.value.as_ref().map_or(0, |value| value.len()));
            self.cache.account.tell(self.cache.bytes);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
        self.topics.clear_entries();
        self.authors.clear();
        self.cache.hand.clear();
        self.cache.bytes = 0;
        self.cache.account.tell(0);
    }

    /// Drops everything but where the data stands.
    pub(crate) fn forget(&mut self) {
        self.clear();
        (self.roster, self.operations) = (Roster::new(), HashMap::new());
        (self.threads, self.interactions) = (HashMap::new(), None);
        (self.limits, self.topics) = (None, TopicUses::default());
        self.usage = Usage::default();
    }

    /// Keeps a value that was read, if the entry is still the one that it was read for.
    pub(crate) fn keep(&mut self, key: &str, version: Version, value: &Arc<str>) -> Option<Arc<Entry>> {
        let entry = self.get(key)?;
        if entry.version != version {
            return None;
        }
        let full = Arc::new(entry.with_value(Some(Arc::clone(value))));
        self.insert(Arc::clone(&full));
        Some(full)
    }

    /// INVARIANT: the hand holds each key with a cached value at least once; keys without one are dropped as it passes.
    fn evict(&mut self, most: usize) {
        let mut turns = self.cache.hand.len().saturating_mul(2);
        while self.cache.bytes > most && turns > 0 {
            turns -= 1;
            let Some(key) = self.cache.hand.pop_front() else { break };
            let Some(entry) = self.entries.get(&*key).map(|found| &found.0) else { continue };
            let Some(value) = &entry.value else { continue };
            if entry.used.swap(false, Ordering::Relaxed) {
                self.cache.hand.push_back(key);
            } else {
                self.cache.bytes = self.cache.bytes.saturating_sub(value.len());
                let bare = Arc::new(entry.with_value(None));
                self.order.replace(ByKey(Arc::clone(&bare)));
                self.entries.replace(ByKey(bare));
            }
        }
        self.cache.account.tell(self.cache.bytes);
    }
}

/// How to bring an index up to date.
pub(crate) enum Refresh {
    Reload,
    /// What each page of changes deleted and wrote, in order.
    Pages {
        pages: Vec<ChangedPage>,
        at: Stamp,
        usage: Usage,
        time: Timestamp,
    },
}

impl Refresh {
    /// What a watch has to look at again.
    pub(crate) fn touched(&self) -> Touched {
        let mut touched = Touched { foreign: true, ..Touched::default() };
        let Self::Pages { pages, .. } = self else { return touched };
        let deleted = pages.iter().flat_map(|(deleted, _)| deleted.iter().map(|(space, id)| (*space, id)));
        let changed =
            pages.iter().flat_map(|(_, changed)| changed.iter().map(|(space, head, _)| (*space, &head.id)));
        for (space, id) in deleted.chain(changed) {
            let Ok(name) = std::str::from_utf8(id.name()) else { continue };
            match space {
                Keyspace::Context => touched.keys.push(name.into()),
                Keyspace::Agents if name != limits::RECORD => touched.agents.push(name.into()),
                _ => {}
            }
        }
        touched.keys.sort_unstable();
        touched.keys.dedup();
        touched
    }
}

type ChangedPage = (Vec<(Keyspace, RecordId)>, Vec<Written>);

/// A record that was written, with its body if the index keeps it.
type Written = (Keyspace, Head, Option<syntha_store::Body>);
