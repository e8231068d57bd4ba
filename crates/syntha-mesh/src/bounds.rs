//! Limits that hold for one user in this process, outside of commits: how fast calls come, and how many are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use syntha_store::Clock;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{Effective, Exceeded, Limit};

const SECOND: u64 = 1_000_000_000;
/// When a call is asked for again that found too many under way: a few commits later.
pub(crate) const RETRY: Duration = Duration::from_millis(50);

/// What the index last said of the user's limits, for calls that don't look at the index.
#[derive(Debug)]
pub(crate) struct Bounds {
    value: AtomicU64,
    in_flight: AtomicU64,
    sessions: AtomicU64,
    /// Calls a second; `u64::MAX` for any number.
    per_second: AtomicU64,
    /// When the next call would come if calls came evenly, in nanoseconds of the machine's clock.
    due: AtomicU64,
    under_way: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
}

impl Bounds {
    pub(crate) fn new(effective: &Effective) -> Self {
        let bounds = Self {
            value: AtomicU64::default(),
            in_flight: AtomicU64::default(),
            sessions: AtomicU64::default(),
            per_second: AtomicU64::default(),
            due: AtomicU64::default(),
            under_way: Arc::default(),
            open: Arc::default(),
        };
        bounds.set(effective);
        bounds
    }

    pub(crate) fn set(&self, effective: &Effective) {
        for (place, limit) in [
            (&self.value, Limit::Value),
            (&self.in_flight, Limit::InFlight),
            (&self.sessions, Limit::Sessions),
            (&self.per_second, Limit::Operations),
        ] {
            let most = if limit == Limit::Value { effective.value() } else { effective.number(limit) };
            place.store(most, Ordering::Relaxed);
        }
    }

    /// The most bytes of a value.
    pub(crate) fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    /// How many calls are under way, and how many sessions are open.
    pub(crate) fn used(&self) -> (u64, u64) {
        (self.under_way.load(Ordering::Acquire), self.open.load(Ordering::Acquire))
    }

    /// Counts a call, by the generic cell rate algorithm (ITU-T I.371, annex A) with a second's worth of burst.
    #[inline]
    pub(crate) fn ask(&self, clock: &dyn Clock) -> Result<()> {
        match self.per_second.load(Ordering::Relaxed) {
            u64::MAX => Ok(()),
            most => self.ask_clock(most, clock),
        }
    }

    #[cold]
    fn ask_clock(&self, most: u64, clock: &dyn Clock) -> Result<()> {
        let exceeded = Exceeded { limit: Limit::Operations, most, used: most };
        if most == 0 {
            return Err(Error::limit(ErrorKind::Busy, exceeded).final_());
        }
        let each = SECOND.div_ceil(most);
        let now = u64::try_from(clock.boot().as_nanos()).unwrap_or(u64::MAX);
        let burst = each.saturating_mul(most - 1);
        let mut wait = 0;
        let asked = self.due.fetch_update(Ordering::AcqRel, Ordering::Acquire, |due| {
            let due = due.max(now);
            wait = (due - now).saturating_sub(burst);
            (wait == 0).then(|| due.saturating_add(each))
        });
        asked.map(drop).map_err(|_| Error::limit(ErrorKind::Busy, exceeded).after(Duration::from_nanos(wait)))
    }

    /// A call is under way as long as what is given back.
    pub(crate) fn enter(&self) -> Result<UnderWay> {
        let most = self.in_flight.load(Ordering::Relaxed);
        UnderWay::of(&self.under_way, most).map_err(|used| {
            Error::limit(ErrorKind::Busy, Exceeded { limit: Limit::InFlight, most, used }).after(RETRY)
        })
    }

    /// A session is open as long as what is given back.
    pub(crate) fn sit(&self) -> Result<Seat> {
        let most = self.sessions.load(Ordering::Relaxed);
        UnderWay::of(&self.open, most).map(|place| Seat(Mutex::new(Some(place)))).map_err(|used| {
            Error::limit(ErrorKind::LimitExceeded, Exceeded { limit: Limit::Sessions, most, used })
        })
    }
}

/// A place among those that are counted, given up when it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<AtomicU64>);

impl UnderWay {
    /// Takes a place if fewer than so many are taken; says how many were.
    fn of(count: &Arc<AtomicU64>, most: u64) -> Result<Self, u64> {
        count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| (taken < most).then_some(taken + 1))
            .map(|_| Self(Arc::clone(count)))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An open session's place among those that its user may have: see [`Guard::seated`](crate::Guard::seated).
#[derive(Debug)]
#[must_use = "the session counts as long as it is kept"]
pub struct Seat(Mutex<Option<UnderWay>>);

impl Seat {
    /// The session has ended, whoever holds a handle of it.
    pub(crate) fn give_up(&self) {
        *self.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use syntha_store::Timestamp;

    use super::*;
    use crate::config::MeshConfig;
    use crate::limits::ResourceLimits;

    /// A clock that is moved by the nanosecond.
    #[derive(Debug, Default)]
    struct Nanos(AtomicU64);

    impl Nanos {
        fn advance(&self, by: Duration) {
            self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::Relaxed);
        }
    }

    impl Clock for Nanos {
        fn wall(&self) -> Timestamp {
            Timestamp(1)
        }

        fn boot(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::Relaxed))
        }
    }

    fn bounds(limits: ResourceLimits) -> Bounds {
        let config = MeshConfig { limits, ..MeshConfig::default() };
        Bounds::new(&Effective::of(&config, None))
    }

    fn admitted(bounds: &Bounds, clock: &Nanos) -> u64 {
        (0..10_000).take_while(|_| bounds.ask(clock).is_ok()).count() as u64
    }

    #[test]
    fn a_second_takes_as_many_calls_as_are_allowed() {
        let clock = Nanos::default();
        for most in [1, 3, 7, 1_000] {
            let bounds = bounds(ResourceLimits::new().max_operations_per_second(most));
            assert_eq!(admitted(&bounds, &clock), most, "a burst of a second");
            let error = bounds.ask(&clock).unwrap_err();
            let after = error.retry_after().unwrap();
            assert!(error.is_retryable() && after <= Duration::from_secs(1));
            assert_eq!(error.exceeded().unwrap().most, most);
            clock.advance(after - Duration::from_nanos(1));
            assert_eq!(admitted(&bounds, &clock), 0, "not before its time");
            clock.advance(Duration::from_nanos(1));
            assert_eq!(admitted(&bounds, &clock), 1);
            clock.advance(Duration::from_secs(3_600));
            assert_eq!(admitted(&bounds, &clock), most, "rest adds up to no more");
        }
        let none = bounds(ResourceLimits::new().max_operations_per_second(0));
        assert!(!none.ask(&clock).unwrap_err().is_retryable());
        for any in [u64::MAX - 1, u64::MAX] {
            let bounds = bounds(ResourceLimits::new().max_operations_per_second(any));
            assert_eq!(admitted(&bounds, &clock), 10_000);
        }
        assert_eq!(admitted(&bounds(ResourceLimits::new()), &clock), 10_000);
    }

    #[test]
    fn places_are_given_up() {
        let bounds = bounds(ResourceLimits::new().max_in_flight(2).max_sessions(1));
        let (one, two) = (bounds.enter().unwrap(), bounds.enter().unwrap());
        let error = bounds.enter().unwrap_err();
        assert_eq!(error.exceeded(), Some(Exceeded { limit: Limit::InFlight, most: 2, used: 2 }));
        assert!(error.is_retryable() && error.retry_after().is_some());
        drop(one);
        let three = bounds.enter().unwrap();
        drop((two, three));
        let seat = bounds.sit().unwrap();
        assert_eq!(bounds.sit().unwrap_err().kind(), ErrorKind::LimitExceeded);
        assert_eq!(bounds.used(), (0, 1));
        drop(seat);
        drop(bounds.sit().unwrap());
    }
}
