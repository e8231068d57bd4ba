//! How many topics there are: those that a stored entry is for, and those that an agent is subscribed to. Counted as they change.

use std::sync::Arc;

use hashbrown::HashMap;

/// How often one topic is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Uses {
    entries: i64,
    agents: i64,
}

impl Uses {
    const fn any(self) -> bool {
        self.entries > 0 || self.agents > 0
    }

    const fn add(&mut self, of: Of, by: i64) {
        match of {
            Of::Entries => self.entries += by,
            Of::Agents => self.agents += by,
        }
    }
}

/// Whose topics change.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Of {
    Entries,
    Agents,
}

/// The topics of what is stored.
#[derive(Debug, Default)]
pub(crate) struct TopicUses(HashMap<Arc<str>, Uses>);

impl TopicUses {
    pub(crate) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// An entry or agent had these topics, and has those now.
    pub(crate) fn change(&mut self, of: Of, from: &[Arc<str>], to: &[Arc<str>]) {
        each_change(from, to, |topic, by| {
            let uses = self.0.entry(Arc::clone(topic)).or_default();
            uses.add(of, by);
            if *uses == Uses::default() {
                self.0.remove(topic);
            }
        });
    }

    /// There are no entries any more.
    pub(crate) fn clear_entries(&mut self) {
        self.0.retain(|_, uses| {
            uses.entries = 0;
            uses.any()
        });
    }
}

/// What a batch in the making changes of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicChanges {
    changed: HashMap<Arc<str>, Uses>,
    /// How many more topics there are than stored.
    more: i64,
    cleared: bool,
}

impl TopicChanges {
    /// How many topics there are with these changes.
    pub(crate) fn count(&self, stored: &TopicUses) -> u64 {
        stored.count().saturating_add_signed(self.more)
    }

    /// An entry or agent had these topics, and has those now.
    pub(crate) fn change(&mut self, stored: &TopicUses, of: Of, from: &[Arc<str>], to: &[Arc<str>]) {
        each_change(from, to, |topic, by| {
            let before = self.stored(stored, topic);
            let change = self.changed.entry(Arc::clone(topic)).or_default();
            let was = sum(before, *change).any();
            change.add(of, by);
            self.more += i64::from(sum(before, *change).any()) - i64::from(was);
        });
    }

    /// Whether there is a topic with these changes.
    pub(crate) fn has(&self, stored: &TopicUses, topic: &Arc<str>) -> bool {
        let change = self.changed.get(topic).copied().unwrap_or_default();
        sum(self.stored(stored, topic), change).any()
    }

    /// There are no entries any more, and none of the batch's so far.
    pub(crate) fn clear_entries(&mut self, stored: &TopicUses) {
        self.cleared = true;
        self.changed.retain(|_, uses| {
            uses.entries = 0;
            uses.agents != 0
        });
        let mut count = stored.0.values().filter(|uses| uses.agents > 0).count() as u64;
        for (topic, change) in &self.changed {
            let before = self.stored(stored, topic);
            count =
                count.saturating_add_signed(i64::from(sum(before, *change).any()) - i64::from(before.any()));
        }
        self.more = count.cast_signed() - stored.count().cast_signed();
    }

    fn stored(&self, stored: &TopicUses, topic: &Arc<str>) -> Uses {
        let uses = stored.0.get(topic).copied().unwrap_or_default();
        if self.cleared { Uses { entries: 0, ..uses } } else { uses }
    }
}

const fn sum(one: Uses, other: Uses) -> Uses {
    Uses { entries: one.entries + other.entries, agents: one.agents + other.agents }
}

/// Calls for each topic that is in one list alone. Lists are in order, as everything here writes them; others are taken whole.
fn each_change(from: &[Arc<str>], to: &[Arc<str>], mut change: impl FnMut(&Arc<str>, i64)) {
    if from.is_empty() && to.is_empty() {
        return;
    }
    if !from.is_sorted() || !to.is_sorted() {
        to.iter().for_each(|topic| change(topic, 1));
        from.iter().for_each(|topic| change(topic, -1));
        return;
    }
    let (mut from, mut to) = (from.iter().peekable(), to.iter().peekable());
    loop {
        match (from.peek(), to.peek()) {
            (None, None) => return,
            (Some(old), Some(new)) if old == new => drop((from.next(), to.next())),
            (Some(old), new) if new.is_none_or(|new| old < new) => {
                change(old, -1);
                from.next();
            }
            (_, Some(new)) => {
                change(new, 1);
                to.next();
            }
            (Some(_), None) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    type Lists = Vec<BTreeSet<u8>>;

    fn texts(of: &BTreeSet<u8>) -> Vec<Arc<str>> {
        let mut texts: Vec<Arc<str>> = of.iter().map(|n| n.to_string().into()).collect();
        texts.sort_unstable();
        texts
    }

    fn recount(entries: &Lists, agents: &Lists) -> u64 {
        entries.iter().chain(agents).flatten().collect::<BTreeSet<_>>().len() as u64
    }

    proptest! {
        #[test]
        fn it_is_what_a_recount_gives(
            steps in prop::collection::vec(
                (0..3_usize, any::<bool>(), prop::collection::btree_set(0..6_u8, 0..4), 0..12_u8), 0..60),
        ) {
            let mut lists: [Lists; 2] = [vec![BTreeSet::new(); 3], vec![BTreeSet::new(); 3]];
            let (mut stored, mut changes) = (TopicUses::default(), TopicChanges::default());
            let mut committed: [Lists; 2] = lists.clone();
            for (place, entries, topics, what) in steps {
                if what == 0 {
                    changes.clear_entries(&stored);
                    lists[0] = vec![BTreeSet::new(); 3];
                } else if what == 1 {
                    // A commit: the stored counts follow each list by itself.
                    for (of, at) in [(Of::Entries, 0), (Of::Agents, 1)] {
                        for (old, new) in committed[at].iter().zip(&lists[at]) {
                            stored.change(of, &texts(old), &texts(new));
                        }
                    }
                    committed = lists.clone();
                    changes = TopicChanges::default();
                    prop_assert_eq!(stored.count(), recount(&lists[0], &lists[1]));
                } else {
                    let (of, at) = if entries { (Of::Entries, 0) } else { (Of::Agents, 1) };
                    changes.change(&stored, of, &texts(&lists[at][place]), &texts(&topics));
                    lists[at][place] = topics;
                }
                prop_assert_eq!(changes.count(&stored), recount(&lists[0], &lists[1]));
            }
            stored.clear_entries();
            prop_assert_eq!(stored.count(), recount(&vec![], &committed[1]));
        }
    }
}
