//! What several processes did to one key each after the other, and whether it can have happened in one order.
//!
//! Gibbons and Korach, "Testing shared memories" (1997): with the order of writes known, a register's history is linearizable if and
//! only if no operation began after a later state was already seen. The order is known here: a write answers its version, which
//! is the number of the commit; a removal names the version that it removes; a read answers the version that it found.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// An operation on one key. Times are of one clock.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) begin: i128,
    /// When its answer came; when its process was seen dead, if none came.
    pub(crate) end: i128,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// What was found: a value and its version.
    Read(Option<(u64, u64)>),
    /// A value, the version after it if it was acknowledged, and the version that it replaces (0: none) if it named one.
    Write { value: u64, version: Option<u64>, over: Option<u64> },
    /// The version that it removes, and whether it was acknowledged.
    Remove { of: u64, acknowledged: bool },
}

/// Says what is wrong with a key's history.
pub(crate) fn check(operations: &[Operation]) -> Result<(), String> {
    let states = States::new(operations)?;
    let mut seen = states.seen(operations, |_| None);
    // A read that found nothing stands at the first state that it can have been of, which is then a lower bound for others.
    let (mut absent, mut later) = (HashMap::new(), latest_first(&seen));
    for (n, operation) in operations.iter().enumerate() {
        if operation.what == What::Read(None) {
            let place =
                states.absent_at(operation, &later).ok_or("stale: it found nothing where something was")?;
            absent.insert(n, place);
        }
    }
    seen = states.seen(operations, |n| absent.get(&n).copied());
    later = latest_first(&seen);
    for (n, operation) in operations.iter().enumerate() {
        let place = states.place(&operation.what).or_else(|| absent.get(&n).copied());
        let Some(place) = place else { continue };
        if after(&later, place) < operation.begin {
            let kind = if matches!(operation.what, What::Read(_)) { "stale" } else { "lost" };
            return Err(format!("{kind}: a later state was seen before it began: {operation:?}"));
        }
        if states.begun.get(&place).is_some_and(|begun| *begun > operation.end) {
            return Err(format!("a read found what was not written yet: {operation:?}"));
        }
    }
    states.check_swaps(operations)
}

/// A state is a version (even places) or the absence after a version was removed (odd ones). Place 1 is "never written".
struct States {
    /// When the operation that makes the state began; 1 is there from the start.
    begun: BTreeMap<u64, i128>,
    /// States that are known to have been.
    certain: BTreeSet<u64>,
    versions: HashMap<u64, u64>,
}

impl States {
    fn new(operations: &[Operation]) -> Result<Self, String> {
        let (mut versions, mut writes) = (HashMap::new(), HashMap::new());
        for operation in operations {
            if let What::Write { value, version, .. } = operation.what {
                if writes.insert(value, operation.begin).is_some() {
                    return Err("a value was written twice".into());
                }
                versions.extend(version.map(|version| (value, version)));
            }
        }
        for operation in operations {
            let What::Read(Some((value, version))) = operation.what else { continue };
            if !writes.contains_key(&value) {
                return Err(format!("a read found what nobody wrote: {operation:?}"));
            }
            if *versions.entry(value).or_insert(version) != version {
                return Err(format!("a value has two versions: {operation:?}"));
            }
        }
        let (mut begun, mut certain) = (BTreeMap::from([(1, i128::MIN)]), BTreeSet::from([1]));
        for (value, version) in &versions {
            if begun.insert(version * 2, writes[value]).is_some() {
                return Err("two values have one version".into());
            }
            certain.insert(version * 2);
        }
        for operation in operations {
            let What::Remove { of, acknowledged } = operation.what else { continue };
            let begin = begun.entry(of * 2 + 1).or_insert(operation.begin);
            *begin = operation.begin.min(*begin);
            if acknowledged && !certain.insert(of * 2 + 1) {
                return Err("a version was removed twice".into());
            }
        }
        Ok(Self { begun, certain, versions })
    }

    fn place(&self, what: &What) -> Option<u64> {
        match what {
            What::Read(found) => found.map(|(_, version)| version * 2),
            What::Write { value, version, .. } => {
                version.or_else(|| self.versions.get(value).copied()).map(|version| version * 2)
            }
            What::Remove { of, acknowledged } => acknowledged.then_some(of * 2 + 1),
        }
    }

    /// By when each state is known to have been.
    fn seen(&self, operations: &[Operation], absent: impl Fn(usize) -> Option<u64>) -> BTreeMap<u64, i128> {
        let mut seen = BTreeMap::new();
        for (n, operation) in operations.iter().enumerate() {
            // A write without an answer happened when somebody read it, and not before.
            let unanswered = matches!(operation.what, What::Write { version: None, .. });
            let place = if unanswered { None } else { self.place(&operation.what).or_else(|| absent(n)) };
            let Some(place) = place else { continue };
            let by = seen.entry(place).or_insert(operation.end);
            *by = operation.end.min(*by);
        }
        seen
    }

    /// The first absence that a read which found nothing can have been of: no later state was seen before the read began.
    fn absent_at(&self, read: &Operation, later: &[(u64, i128)]) -> Option<u64> {
        let over = later.partition_point(|(_, by)| *by < read.begin);
        let from = over.checked_sub(1).and_then(|last| later.get(last)).map_or(0, |(place, _)| *place);
        let mut places = self.begun.range(from..);
        places.find(|(place, begun)| **place % 2 == 1 && **begun <= read.end).map(|(place, _)| *place)
    }

    /// What named a version replaced just that one.
    fn check_swaps(&self, operations: &[Operation]) -> Result<(), String> {
        for operation in operations {
            let What::Write { version: Some(version), over: Some(over), .. } = operation.what else {
                continue;
            };
            // A version between may be of somebody who died and whom nobody read; such a one is not certain.
            let before = self.certain.range(..version * 2).next_back().copied().unwrap_or(1);
            let fits = if over == 0 {
                before % 2 == 1 || self.begun.range(before..version * 2).any(|(place, _)| place % 2 == 1)
            } else {
                before <= over * 2
            };
            if !fits {
                return Err(format!("lost: a compare-and-set went over another write: {operation:?}"));
            }
        }
        Ok(())
    }
}

/// For each state in order, by when it or a later one was seen: the times do not fall.
fn latest_first(seen: &BTreeMap<u64, i128>) -> Vec<(u64, i128)> {
    let mut least = i128::MAX;
    let mut later: Vec<_> = seen
        .iter()
        .rev()
        .map(|(place, by)| {
            least = least.min(*by);
            (*place, least)
        })
        .collect();
    later.reverse();
    later
}

/// By when a state after a place was seen.
fn after(later: &[(u64, i128)], place: u64) -> i128 {
    let next = later.partition_point(|(seen, _)| *seen <= place);
    later.get(next).map_or(i128::MAX, |(_, by)| *by)
}

mod tests {
    use super::*;

    fn write(times: (i128, i128), value: u64, version: u64) -> Operation {
        let what = What::Write { value, version: Some(version).filter(|version| *version > 0), over: None };
        Operation { begin: times.0, end: times.1, what }
    }

    fn swap(times: (i128, i128), value: u64, version: u64, over: u64) -> Operation {
        let what = What::Write { value, version: Some(version), over: Some(over) };
        Operation { begin: times.0, end: times.1, what }
    }

    fn read(times: (i128, i128), found: Option<(u64, u64)>) -> Operation {
        Operation { begin: times.0, end: times.1, what: What::Read(found) }
    }

    fn remove(times: (i128, i128), of: u64, acknowledged: bool) -> Operation {
        Operation { begin: times.0, end: times.1, what: What::Remove { of, acknowledged } }
    }

    fn refused(history: &[Operation], word: &str) {
        let found = check(history).unwrap_err();
        assert!(found.contains(word), "{found}");
    }

    #[test]
    fn what_can_have_happened_passes() {
        let concurrent = [
            read((0, 1), None),
            write((2, 9), 10, 1),
            read((3, 4), None),
            read((5, 6), Some((10, 1))),
            read((5, 7), None),
            swap((10, 11), 20, 2, 1),
            remove((12, 20), 2, true),
            read((13, 14), Some((20, 2))),
            read((13, 15), None),
            swap((21, 22), 30, 3, 0),
        ];
        check(&concurrent).unwrap();
        // Whoever died may have written, or not.
        let died = [write((0, 1), 10, 1), write((2, 5), 20, 0), read((6, 7), Some((10, 1)))];
        check(&died).unwrap();
        let died = [write((0, 1), 10, 1), write((2, 5), 20, 0), read((6, 7), Some((20, 2)))];
        check(&died).unwrap();
        let died = [write((0, 5), 20, 0), swap((2, 7), 30, 3, 2)];
        check(&died).unwrap();
        let died = [write((0, 1), 10, 1), remove((2, 5), 1, false), read((6, 7), None)];
        check(&died).unwrap();
    }

    #[test]
    fn a_stale_read_is_found() {
        let old = [write((0, 1), 10, 1), write((2, 3), 20, 2), read((4, 5), Some((10, 1)))];
        refused(&old, "stale");
        let back = [
            write((0, 1), 10, 1),
            write((2, 9), 20, 2),
            read((3, 4), Some((20, 2))),
            read((5, 6), Some((10, 1))),
        ];
        refused(&back, "stale");
        refused(&[write((0, 1), 10, 1), read((2, 3), None)], "stale");
        let removed = [write((0, 1), 10, 1), remove((2, 3), 1, true), read((4, 5), Some((10, 1)))];
        refused(&removed, "stale");
        // Once nothing was found, what was there before is not found again.
        let again =
            [write((0, 1), 10, 1), remove((2, 9), 1, true), read((3, 4), None), read((5, 6), Some((10, 1)))];
        refused(&again, "stale");
        let unanswered = [write((0, 9), 10, 0), read((1, 2), Some((10, 1))), read((3, 4), None)];
        refused(&unanswered, "stale");
    }

    #[test]
    fn a_lost_write_is_found() {
        let last = [write((0, 1), 10, 1), write((2, 3), 20, 2), write((4, 5), 30, 1)];
        refused(&last, "one version");
        let order = [write((0, 1), 10, 5), write((2, 3), 20, 4)];
        refused(&order, "lost");
        let over = [write((0, 1), 10, 1), write((2, 3), 20, 2), swap((2, 9), 30, 3, 1)];
        refused(&over, "lost");
        refused(&[write((0, 1), 10, 1), swap((0, 9), 20, 2, 0)], "lost");
        refused(&[write((0, 1), 10, 1), remove((0, 2), 1, true), remove((0, 3), 1, true)], "twice");
    }

    #[test]
    fn what_nobody_wrote_is_found() {
        refused(&[read((0, 1), Some((10, 1)))], "nobody");
        refused(&[write((5, 6), 10, 1), read((0, 1), Some((10, 1)))], "not written yet");
        refused(&[write((0, 1), 10, 1), read((2, 3), Some((10, 2)))], "two versions");
    }
}
