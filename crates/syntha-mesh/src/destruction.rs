//! What agents delete that is not their own: how much, and who is asked first.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use hashbrown::HashMap;
use syntha_store::Timestamp;

/// In milliseconds.
const WINDOW: u64 = 60_000;

/// What an agent is about to delete.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destruction {
    /// A topic, with the entries that are on it alone.
    Topic {
        /// The agent.
        agent: Arc<str>,
        /// The topic.
        topic: Arc<str>,
    },
    /// An entry that another wrote.
    Entry {
        /// The agent.
        agent: Arc<str>,
        /// The entry's key.
        key: Arc<str>,
    },
}

/// Shows no name.
impl fmt::Debug for Destruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic { .. } => "Topic",
            Self::Entry { .. } => "Entry",
        })
    }
}

/// Whom the host lets decide before an agent deletes what is not its own: a person, a rule of the application.
///
/// It is asked once a call has passed every other rule, and the rules are asked again in the commit. No lock is held meanwhile. How
/// long the call may wait is its own to bound.
pub trait Confirmation: fmt::Debug + Send + Sync {
    /// Whether it may be done.
    fn confirm(&self, what: &Destruction) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// When agents did something destructive lately.
#[derive(Debug, Default)]
pub(crate) struct Spent(HashMap<Arc<str>, VecDeque<u64>>);

impl Spent {
    /// How often an agent did within the last minute.
    pub(crate) fn count(&self, agent: &str, now: Timestamp) -> usize {
        self.0.get(agent).map_or(0, |times| times.iter().filter(|at| is_recent(**at, now)).count())
    }

    pub(crate) fn add(&mut self, agents: &[Arc<str>], now: Timestamp) {
        if agents.is_empty() {
            return;
        }
        self.0.retain(|_, times| {
            times.retain(|at| is_recent(*at, now));
            !times.is_empty()
        });
        for agent in agents {
            self.0.entry(Arc::clone(agent)).or_default().push_back(now.0);
        }
    }
}

const fn is_recent(at: u64, now: Timestamp) -> bool {
    now.0.saturating_sub(at) < WINDOW
}
