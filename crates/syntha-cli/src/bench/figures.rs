//! What a run found.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Get,
    Push,
    List,
    Remove,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Get, Self::Push, Self::List, Self::Remove];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Push => "push",
            Self::List => "list",
            Self::Remove => "remove",
        }
    }
}

/// How long calls of a kind took, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) median: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) most: u64,
}

impl Latency {
    pub(crate) fn value(&self) -> Value {
        json!({
            "count": self.count, "median_ns": self.median, "p99_ns": self.p99, "p99.9_ns": self.p999, "max_ns": self.most,
        })
    }
}

/// The state of the process at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Seconds since the start.
    pub(crate) at: f64,
    /// Calls done so far.
    pub(crate) calls: u64,
    /// Bytes of memory that are resident; 0 where the system does not tell.
    pub(crate) resident: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

/// The two halves of a run with a flood: calls are told apart by when they began.
const HALVES: usize = 2;
/// The longest time that is told apart from longer ones: 10 minutes, in nanoseconds.
const LONGEST: u64 = 600_000_000_000;

/// What a run writes down while it goes on.
pub(crate) struct Recorder {
    started: Instant,
    times: [[Mutex<Histogram<u64>>; Kind::ALL.len()]; HALVES],
    /// Calls of each place at which a user works.
    places: Vec<AtomicU64>,
    pub(crate) flooded: AtomicU64,
    shed: AtomicU64,
    foreign: AtomicU64,
    failures: Mutex<BTreeMap<&'static str, u64>>,
    samples: Mutex<Vec<Sample>>,
}

impl Recorder {
    pub(crate) fn new(places: usize) -> crate::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, LONGEST, 3).map(Mutex::new);
        let half = || -> Result<_, hdrhistogram::CreationError> {
            Ok([histogram()?, histogram()?, histogram()?, histogram()?])
        };
        Ok(Self {
            started: Instant::now(),
            times: [half()?, half()?],
            places: (0..places).map(|_| AtomicU64::new(0)).collect(),
            flooded: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            failures: Mutex::default(),
            samples: Mutex::default(),
        })
    }

    /// A call that was answered.
    pub(crate) fn did(&self, place: usize, half: usize, kind: Kind, nanoseconds: u64) {
        if let Some(times) = self.times.get(half).and_then(|times| times.get(kind as usize)) {
            times.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanoseconds);
        }
        if let Some(place) = self.places.get(place) {
            place.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call that failed. One that was turned away is no error: the caller may come again.
    pub(crate) fn failed(&self, error: &syntha::MeshError) {
        use syntha::mesh::ErrorKind as Kind;
        let name = match error.kind() {
            Kind::Busy => {
                self.shed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Kind::LimitExceeded => "limit exceeded",
            Kind::Conflict => "conflict",
            Kind::Denied => "denied",
            Kind::Gone => "gone",
            Kind::Unknown => "unknown outcome",
            Kind::AuditUnavailable => "audit unavailable",
            Kind::Storage => "storage",
            _ => "other",
        };
        self.count(name);
    }

    pub(crate) fn count(&self, name: &'static str) {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    }

    /// A value that is not the user's own.
    pub(crate) fn foreign(&self) {
        self.foreign.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.places.iter().map(|calls| calls.load(Ordering::Relaxed)).sum()
    }

    /// Looks how the process stands.
    pub(crate) fn sample(&self) {
        let (descriptors, threads) = (entries("/proc/self/fd"), entries("/proc/self/task"));
        let at = self.started.elapsed().as_secs_f64();
        let sample = Sample { at, calls: self.calls(), resident: resident(), descriptors, threads };
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }

    pub(crate) fn finish(self, flood: Option<usize>) -> Figures {
        let seconds = self.started.elapsed().as_secs_f64();
        let inner =
            |histogram: Mutex<Histogram<u64>>| histogram.into_inner().unwrap_or_else(PoisonError::into_inner);
        Figures {
            seconds,
            times: self.times.map(|half| half.map(inner)),
            places: self.places.into_iter().map(AtomicU64::into_inner).collect(),
            flooded: flood.map(|writes| (writes, self.flooded.into_inner())),
            shed: self.shed.into_inner(),
            foreign: self.foreign.into_inner(),
            failures: self.failures.into_inner().unwrap_or_else(PoisonError::into_inner),
            samples: self.samples.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// What a run found.
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    times: [[Histogram<u64>; Kind::ALL.len()]; HALVES],
    places: Vec<u64>,
    flooded: Option<(usize, u64)>,
    /// Calls that were turned away.
    pub(crate) shed: u64,
    /// Values that were not the user's own.
    pub(crate) foreign: u64,
    pub(crate) failures: BTreeMap<&'static str, u64>,
    pub(crate) samples: Vec<Sample>,
}

/// How equal the work of those at work was.
pub(crate) struct Fairness {
    pub(crate) index: f64,
    pub(crate) least: u64,
    pub(crate) most: u64,
}

/// What a run did to the machine.
pub(crate) struct Machine {
    pub(crate) start: u64,
    pub(crate) half: u64,
    pub(crate) end: u64,
    pub(crate) most: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

impl Machine {
    pub(crate) fn value(&self) -> Value {
        json!({
            "resident_bytes": { "start": self.start, "half": self.half, "end": self.end, "most": self.most },
            "descriptors": self.descriptors, "threads": self.threads,
        })
    }
}

/// What a flood of one user did to the others.
pub(crate) struct Flood {
    pub(crate) writes: usize,
    /// Writes a second of the flooding user.
    pub(crate) rate: f64,
    pub(crate) calls: Vec<(Kind, Latency, Latency)>,
}

impl Flood {
    pub(crate) fn value(&self) -> Value {
        let mut calls = json!({});
        for (kind, alone, beside) in &self.calls {
            let both = json!({ "alone": alone.value(), "beside": beside.value() });
            crate::quickstart::insert(&mut calls, kind.name(), both);
        }
        json!({ "writes": self.writes, "rate": self.rate, "calls": calls })
    }
}

impl Figures {
    /// Of both halves.
    pub(crate) fn latency(&self, kind: Kind) -> Latency {
        let [first, second] = &self.times;
        let (Some(first), Some(second)) = (first.get(kind as usize), second.get(kind as usize)) else {
            return Latency::default();
        };
        let mut both = first.clone();
        // The two have the same bounds.
        let _ = both.add(second);
        latency(&both)
    }

    pub(crate) fn total(&self) -> u64 {
        self.places.iter().sum()
    }

    pub(crate) fn errors(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Jain's index (Jain, Chiu and Hawe, 1984): from 1/n, where one has everything, to 1, where all have the same.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of calls, for an index that is shown with four digits"
    )]
    pub(crate) fn fairness(&self) -> Fairness {
        let (mut sum, mut squares) = (0.0, 0.0);
        for calls in &self.places {
            let calls = *calls as f64;
            (sum, squares) = (sum + calls, calls.mul_add(calls, squares));
        }
        let index = if squares > 0.0 { sum * sum / (squares * self.places.len() as f64) } else { 1.0 };
        let (least, most) = (self.places.iter().min(), self.places.iter().max());
        Fairness { index, least: least.copied().unwrap_or(0), most: most.copied().unwrap_or(0) }
    }

    /// `None` where the system tells nothing.
    pub(crate) fn machine(&self) -> Option<Machine> {
        let (first, last) = (self.samples.first()?, self.samples.last()?);
        let half = self.samples.get(self.samples.len() / 2)?;
        let most = |of: fn(&Sample) -> u64| self.samples.iter().map(of).max().unwrap_or(0);
        (last.resident > 0).then(|| Machine {
            start: first.resident,
            half: half.resident,
            end: last.resident,
            most: most(|sample| sample.resident),
            descriptors: most(|sample| sample.descriptors),
            threads: most(|sample| sample.threads),
        })
    }

    pub(crate) fn flood(&self) -> Option<Flood> {
        let (writes, flooded) = self.flooded?;
        let [alone, beside] = &self.times;
        let both = Kind::ALL.into_iter().zip(alone.iter().zip(beside));
        let calls = both.map(|(kind, (alone, beside))| (kind, latency(alone), latency(beside)));
        let calls = calls.filter(|(_, alone, beside)| alone.count > 0 && beside.count > 0).collect();
        #[expect(clippy::cast_precision_loss, reason = "a rate to be shown")]
        let rate = flooded as f64 / (self.seconds / 2.0).max(f64::MIN_POSITIVE);
        Some(Flood { writes, rate, calls })
    }

    pub(crate) fn series_value(&self) -> Value {
        let sample = |sample: &Sample| {
            json!({ "at": sample.at, "calls": sample.calls, "resident_bytes": sample.resident,
                "descriptors": sample.descriptors, "threads": sample.threads })
        };
        self.samples.iter().map(sample).collect()
    }
}

fn latency(times: &Histogram<u64>) -> Latency {
    if times.is_empty() {
        return Latency::default();
    }
    Latency {
        count: times.len(),
        median: times.value_at_quantile(0.5),
        p99: times.value_at_quantile(0.99),
        p999: times.value_at_quantile(0.999),
        most: times.max(),
    }
}

/// How many entries a folder of the kernel's has; 0 where there is none.
fn entries(folder: &str) -> u64 {
    std::fs::read_dir(folder).map_or(0, |entries| entries.count() as u64)
}

/// Bytes of memory that are resident, from `/proc/self/statm` (proc(5)); 0 where there is none.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
pub(crate) fn sample_figures() -> Figures {
    let recorder = Recorder::new(2).unwrap();
    for (place, half, kind, time) in [
        (0, 0, Kind::Get, 1_000),
        (0, 1, Kind::Get, 2_000),
        (1, 0, Kind::Push, 300_000),
        (1, 1, Kind::Push, 330_000),
        (1, 1, Kind::Push, 330_000),
    ] {
        recorder.did(place, half, kind, time);
    }
    recorder.flooded.store(9, Ordering::Relaxed);
    for _ in 0..3 {
        recorder.sample();
    }
    recorder.finish(Some(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_what_was_recorded() {
        let figures = sample_figures();
        assert_eq!((figures.total(), figures.errors(), figures.foreign), (5, 0, 0));
        let get = figures.latency(Kind::Get);
        assert_eq!((get.count, figures.latency(Kind::List).count), (2, 0));
        assert!((1_999..=2_001).contains(&get.most), "{get:?}");
        // 2 and 3 calls: 25 / (2 * 13).
        let fairness = figures.fairness();
        assert!((fairness.index - 25.0 / 26.0).abs() < 1e-9, "{}", fairness.index);
        assert_eq!((fairness.least, fairness.most), (2, 3));
        let flood = figures.flood().unwrap();
        assert_eq!((flood.writes, flood.calls.len()), (8, 2));
        let machine = figures.machine().unwrap();
        assert!(machine.end > 1 << 20 && machine.descriptors > 2 && machine.threads > 0);
    }
}
