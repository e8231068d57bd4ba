//! Turns by time. One commit in flight for each user keeps the order fair; but a user with hundreds of writes waiting would still keep the processor and
//! the disk busy with each of them. So, as long as others write as well, its batches are smaller and it rests after each.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a user counts as being there after a write.
const PRESENCE: Duration = Duration::from_millis(250);
/// The most changes of a batch while others write.
pub(crate) const SHARED_OPS: usize = 64;
/// Who has fewer writes waiting than this is no burden, and never rests.
const LIGHT_OPS: usize = 16;
/// How much longer than a batch took its user rests: a quarter of the time is its own at most.
const REST: u32 = 3;
const REST_MOST: Duration = Duration::from_millis(20);

/// How long a user rests after a batch while others write.
pub(crate) fn rest(changes: usize, took: Duration) -> Option<Duration> {
    (changes >= LIGHT_OPS).then(|| (took * REST).min(REST_MOST))
}

/// Who wrote lately, of all meshes of one configuration.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    last: Mutex<Option<Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    who: usize,
    at: Instant,
    /// When somebody else wrote last.
    other: Option<Instant>,
}

impl Pacing {
    /// Somebody writes; says whether others do as well. `who` is a number that no other mesh has while this one is there.
    pub(crate) fn is_shared(&self, who: usize, now: Instant) -> bool {
        let mut last = self.last.lock();
        let other = match *last {
            Some(seen) if seen.who == who => seen.other,
            seen => seen.map(|seen| seen.at),
        };
        *last = Some(Seen { who, at: now, other });
        other.is_some_and(|other| now.saturating_duration_since(other) < PRESENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_others_count_and_only_for_a_while() {
        let (pacing, start) = (Pacing::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert!(!pacing.is_shared(1, at(0)), "nobody was there");
        assert!(!pacing.is_shared(1, at(1)), "nobody else was");
        assert!(pacing.is_shared(2, at(2)));
        assert!(pacing.is_shared(1, at(3)));
        assert!(pacing.is_shared(1, at(4)), "it is not forgotten by one's own writes");
        assert!(pacing.is_shared(1, at(251)));
        assert!(!pacing.is_shared(1, at(252)), "the other has gone");
        assert!(pacing.is_shared(2, at(300)));
    }

    #[test]
    fn who_writes_little_never_rests() {
        assert_eq!(rest(15, Duration::from_secs(1)), None);
        assert_eq!(rest(16, Duration::from_millis(2)), Some(Duration::from_millis(6)));
        assert_eq!(rest(64, Duration::from_secs(1)), Some(REST_MOST));
    }
}
