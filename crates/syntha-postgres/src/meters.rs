//! What a store tells of itself, through the `metrics` crate. Labels come from closed sets: no user or tag is ever one.

use std::fmt;
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::statement::Kind;

/// The handles of one store, taken from the recorder that is installed when the store is opened.
pub(crate) struct Meters {
    in_use: Gauge,
    idle: Gauge,
    waits: Counter,
    wait_seconds: Histogram,
    pub(crate) opened: Counter,
    pub(crate) lost: Counter,
    pub(crate) unclean: Counter,
    statements: [Histogram; Kind::NAMES.len()],
    pub(crate) notices_sent: Counter,
    pub(crate) notices_heard: Counter,
    pub(crate) deaf: Counter,
}

impl Default for Meters {
    fn default() -> Self {
        let closed = |reason| counter!("syntha_postgres_connections_closed_total", "reason" => reason);
        let notices = |way| counter!("syntha_postgres_notices_total", "way" => way);
        Self {
            in_use: gauge!("syntha_postgres_connections", "state" => "in_use"),
            idle: gauge!("syntha_postgres_connections", "state" => "idle"),
            waits: counter!("syntha_postgres_connection_waits_total"),
            wait_seconds: histogram!("syntha_postgres_connection_wait_seconds"),
            opened: counter!("syntha_postgres_connections_opened_total"),
            lost: closed("lost"),
            unclean: closed("unclean"),
            statements: Kind::NAMES
                .map(|kind| histogram!("syntha_postgres_statement_seconds", "statement" => kind)),
            notices_sent: notices("sent"),
            notices_heard: notices("heard"),
            deaf: counter!("syntha_postgres_listener_losses_total"),
        }
    }
}

impl Meters {
    /// Counts a connection that is lent, until what is given is dropped.
    pub(crate) fn in_use(&self) -> InUse {
        self.in_use.increment(1.0);
        InUse(self.in_use.clone())
    }

    /// Counts connections that rest, more or less.
    pub(crate) fn idle(&self, more: f64) {
        self.idle.increment(more);
    }

    /// Counts somebody who waits for a connection, until what is given is dropped.
    pub(crate) fn waiting(&self) -> Waiting {
        self.waits.increment(1);
        Waiting { since: Instant::now(), seconds: self.wait_seconds.clone() }
    }

    pub(crate) fn statement(&self, kind: Kind, since: Instant) {
        if let Some(histogram) = self.statements.get(kind as usize) {
            histogram.record(since.elapsed());
        }
    }
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meters")
    }
}

pub(crate) struct InUse(Gauge);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

pub(crate) struct Waiting {
    since: Instant,
    seconds: Histogram,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.seconds.record(self.since.elapsed());
    }
}
