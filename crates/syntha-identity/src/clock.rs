use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use syntha_store::Timestamp;

/// Where the time comes from. A test passes a [`ManualClock`]; a host that has a clock of its own (such as a mesh's) passes that one on.
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
        Timestamp(millis(since))
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
        self.wall.fetch_add(millis(by), Ordering::AcqRel);
        self.boot.fetch_add(millis(by), Ordering::AcqRel);
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

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time that everything here is decided by: it never goes back, whatever the wall clock does.
#[derive(Debug)]
pub(crate) struct Time {
    clock: Arc<dyn Clock>,
    /// The highest time that was seen: on the wall, or in what is stored.
    highest: AtomicU64,
    /// For a test: the wall clock alone counts.
    floorless: bool,
    /// Wall and boot time at the start, in milliseconds.
    opened: (u64, u64),
}

impl Time {
    pub(crate) fn new(clock: Arc<dyn Clock>, floorless: bool) -> Self {
        let opened = (clock.wall().0, millis(clock.boot()));
        Self { clock, highest: AtomicU64::new(0), floorless, opened }
    }

    /// Whether the wall clock has jumped by more than a minute since the start.
    pub(crate) fn is_off(&self) -> bool {
        let (wall, boot) = self.opened;
        let walled = i128::from(self.clock.wall().0) - i128::from(wall);
        let booted = i128::from(self.boot()) - i128::from(boot);
        (walled - booted).abs() > 60_000
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now(&self) -> u64 {
        let wall = self.clock.wall().0;
        if self.floorless {
            return wall;
        }
        self.highest.fetch_max(wall, Ordering::AcqRel).max(wall)
    }

    /// The time of a commit that was seen.
    pub(crate) fn saw(&self, stored: Timestamp) {
        self.highest.fetch_max(stored.0, Ordering::AcqRel);
    }

    pub(crate) fn boot(&self) -> u64 {
        millis(self.clock.boot())
    }
}
