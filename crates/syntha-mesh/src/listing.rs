use std::collections::BTreeMap;
use std::sync::Arc;

use syntha_store::Timestamp;

use crate::entry::Entry;
use crate::index::Index;

/// What to list.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Filter {
    prefix: String,
    topic: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

impl Filter {
    /// Everything that the agent can see.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only keys that start so.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Only entries on a topic.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Only keys after this one, in order of their bytes: the next page.
    pub fn after(mut self, key: impl Into<String>) -> Self {
        self.after = Some(key.into());
        self
    }

    /// At most so many.
    pub const fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// What a mesh holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Stored entries, expired ones included.
    pub entries: u64,
    /// Entries that somebody could see now.
    pub active: u64,
    /// Entries that expired and are not swept yet.
    pub expired: u64,
    /// Active entries for every agent.
    pub global: u64,
    /// Active entries for named agents only.
    pub private: u64,
    /// Topics with a subscriber or an active entry.
    pub topics: u64,
    /// Registered agents.
    pub agents: u64,
    /// Agents with a subscription.
    pub agents_with_topics: u64,
    /// Bytes of keys and values, as usage counts them: of `entries` and `kept`.
    pub bytes: u64,
    /// Removed entries that are kept, so that it can be undone.
    pub kept: u64,
}

/// A topic, and how many agents hear it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// The topic.
    pub topic: Arc<str>,
    /// Agents that are subscribed, in order of their names.
    pub subscribers: Vec<Arc<str>>,
}

/// Entries that pass, in order of keys, from a filter's page.
pub(crate) fn filtered(index: &Index, filter: &Filter, passes: impl Fn(&Entry) -> bool) -> Vec<Arc<Entry>> {
    index
        .ordered(filter.after.as_deref(), &filter.prefix)
        .filter(|entry| {
            filter.topic.as_ref().is_none_or(|topic| entry.audience.topics.iter().any(|on| **on == **topic))
        })
        .filter(|entry| passes(entry))
        .take(filter.limit.unwrap_or(usize::MAX))
        .cloned()
        .collect()
}

/// Topics with a subscriber or an active entry that passes, the most popular first, then by name.
pub(crate) fn topics(index: &Index, now: Timestamp, shown: impl Fn(&str) -> bool) -> Vec<TopicInfo> {
    let mut found: BTreeMap<&Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
    for entry in index.entries().filter(|entry| entry.is_live(|| now)) {
        for topic in &entry.audience.topics {
            found.entry(topic).or_default();
        }
    }
    for (agent, state) in &index.roster {
        for topic in &state.topics {
            found.entry(topic).or_default().push(Arc::clone(agent));
        }
    }
    let mut infos: Vec<_> = found
        .into_iter()
        .filter(|(topic, _)| shown(topic))
        .map(|(topic, mut subscribers)| {
            subscribers.sort_unstable();
            TopicInfo { topic: Arc::clone(topic), subscribers }
        })
        .collect();
    infos.sort_by_key(|info| std::cmp::Reverse(info.subscribers.len()));
    infos
}
