//! What a store tells of itself, through the `metrics` crate. Labels come from closed sets: no user or tag is ever one.

use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use syntha_store::{ErrorKind, Result};

/// How opening a file can end, as a label.
const OUTCOMES: [&str; 16] = [
    "ok",
    "not_found",
    "already_exists",
    "conflict",
    "gone",
    "erased",
    "invalid",
    "limit_exceeded",
    "corrupt",
    "refused",
    "locked",
    "busy",
    "unknown",
    "storage_full",
    "unavailable",
    "unsupported",
];

/// The handles of one store, taken from the recorder that is installed when the store is opened.
pub(crate) struct Meters {
    open_files: Gauge,
    opens: [Counter; OUTCOMES.len()],
    open_seconds: Histogram,
    pub(crate) evictions: Counter,
    pub(crate) quarantines: Counter,
    pub(crate) checkpoints_due: Counter,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            open_files: gauge!("syntha_open_files"),
            opens: OUTCOMES.map(|outcome| counter!("syntha_file_opens_total", "outcome" => outcome)),
            open_seconds: histogram!("syntha_file_open_seconds"),
            evictions: counter!("syntha_file_evictions_total"),
            quarantines: counter!("syntha_file_quarantines_total"),
            checkpoints_due: counter!("syntha_checkpoints_put_off_total"),
        }
    }
}

impl Meters {
    /// Counts a file that is open, until what is given is dropped.
    pub(crate) fn count_open(&self) -> OpenFile {
        self.open_files.increment(1.0);
        OpenFile(self.open_files.clone())
    }

    /// Counts an attempt to open a file.
    pub(crate) fn opened<T>(&self, since: Instant, result: &Result<T>) {
        self.open_seconds.record(since.elapsed());
        let outcome = result.as_ref().err().map(syntha_store::Error::kind).map_or("ok", ErrorKind::name);
        let place = OUTCOMES.iter().position(|known| *known == outcome);
        if let Some(counter) = place.and_then(|place| self.opens.get(place)) {
            counter.increment(1);
        }
    }
}

/// One open file.
pub(crate) struct OpenFile(Gauge);

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenFile")
    }
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}
