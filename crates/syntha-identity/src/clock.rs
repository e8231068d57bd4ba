use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use syntha_store::{Clock, Timestamp};

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
