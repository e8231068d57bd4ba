use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::state::Timestamp;

/// Where the time comes from. A test passes a [`ManualClock`].
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The wall time. It may jump.
    fn wall(&self) -> Timestamp;

    /// Time since some fixed moment, counted also while the machine sleeps. It never jumps.
    fn boot(&self) -> Duration;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn boot(&self) -> Duration {
        #[cfg(target_os = "linux")]
        let id = rustix::time::ClockId::Boottime;
        // On macOS the monotonic clock goes on while the machine sleeps.
        #[cfg(not(target_os = "linux"))]
        let id = rustix::time::ClockId::Monotonic;
        let now = rustix::time::clock_gettime(id);
        Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}

/// A clock that moves when it is told to.
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicU64,
    boot: AtomicU64,
}

impl ManualClock {
    /// A clock that shows a wall time.
    #[must_use]
    pub const fn new(wall: Timestamp) -> Self {
        Self { wall: AtomicU64::new(wall.0), boot: AtomicU64::new(0) }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.wall.fetch_add(by, Ordering::AcqRel);
        self.boot.fetch_add(by, Ordering::AcqRel);
    }

    /// Makes the wall clock jump, as an administrator or a time server does.
    pub fn jump(&self, wall: Timestamp) {
        self.wall.store(wall.0, Ordering::Release);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::Acquire))
    }

    fn boot(&self) -> Duration {
        Duration::from_millis(self.boot.load(Ordering::Acquire))
    }
}
