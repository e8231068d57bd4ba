//! Pairs of measurements, and the rows that they make.

use std::fmt::Write as _;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Everything that was measured.
pub(crate) struct Report {
    pub(crate) pairs: u32,
    only: String,
    side: Option<Side>,
    rows: Vec<Row>,
}

/// Half of a pair, to profile it without the other.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Side {
    Bare,
    Ours,
}

/// One line.
#[derive(Serialize)]
pub(crate) struct Row {
    name: &'static str,
    /// Microseconds for one operation, or what the unit says.
    unit: &'static str,
    ours: Spread,
    bare: Option<Spread>,
    /// Ours by bare, of the medians.
    ratio: Option<f64>,
    budget: &'static str,
    note: String,
}

/// Median, lowest and highest.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Report {
    pub(crate) fn new(pairs: u32, only: &str, side: Option<Side>) -> Self {
        Self { pairs, only: only.to_owned(), side, rows: Vec::new() }
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    /// Measures two things by turns: each closure does its work once and gives how many operations that was.
    pub(crate) async fn pair<B, O>(
        &mut self,
        name: &'static str,
        budget: &'static str,
        bare: impl FnMut(u64) -> B,
        ours: impl FnMut(u64) -> O,
    ) where
        B: Future<Output = u64> + Send,
        O: Future<Output = u64> + Send,
    {
        self.pair_of(1, name, budget, bare, ours).await;
    }

    /// The same, where each half of a pair is the mean of so many turns, which alternate with those of the other half: what else the machine
    /// does meanwhile meets both.
    pub(crate) async fn pair_of<B, O>(
        &mut self,
        turns: u64,
        name: &'static str,
        budget: &'static str,
        mut bare: impl FnMut(u64) -> B,
        mut ours: impl FnMut(u64) -> O,
    ) where
        B: Future<Output = u64> + Send,
        O: Future<Output = u64> + Send,
    {
        if !self.wants(name) {
            return;
        }
        let (mut bares, mut mine) = (Vec::new(), Vec::new());
        // The first pair warms up and does not count.
        for round in 0..=u64::from(self.pairs) {
            let (mut one, mut two) = (0.0, 0.0);
            for turn in round * turns..(round + 1) * turns {
                one += if self.side == Some(Side::Ours) { 1.0 } else { timed(bare(turn)).await };
                two += if self.side == Some(Side::Bare) { 1.0 } else { timed(ours(turn)).await };
            }
            if round > 0 {
                bares.push(one / turns as f64);
                mine.push(two / turns as f64);
            }
        }
        self.add(name, "µs", &mine, Some(&bares), budget, String::new());
    }

    pub(crate) fn add(
        &mut self,
        name: &'static str,
        unit: &'static str,
        ours: &[f64],
        bare: Option<&[f64]>,
        budget: &'static str,
        note: String,
    ) {
        let (ours, bare) = (Spread::of(ours), bare.map(Spread::of));
        let ratio = bare.map(|bare| ours.median / bare.median);
        self.rows.push(Row { name, unit, ours, bare, ratio, budget, note });
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "pairs": self.pairs, "rows": self.rows })
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("medians of {} interleaved pairs (lowest to highest)\n", self.pairs);
        let _ = writeln!(text, "{:32} {:>30} {:>30} {:>8}  budget", "work", "syntha", "bare", "ratio");
        for row in &self.rows {
            let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}×"));
            let bare = row.bare.map_or_else(String::new, |bare| bare.text(row.unit));
            let ours = row.ours.text(row.unit);
            let _ = write!(text, "{:32} {ours:>30} {bare:>30} {ratio:>8}  {}", row.name, row.budget);
            let _ = writeln!(text, "{}{}", if row.note.is_empty() { "" } else { "; " }, row.note);
        }
        text
    }
}

impl Spread {
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self { median: sorted[sorted.len() / 2], low: sorted[0], high: sorted[sorted.len() - 1] }
    }

    fn text(&self, unit: &str) -> String {
        format!("{} {unit} ({}–{})", short(self.median), short(self.low), short(self.high))
    }
}

fn short(number: f64) -> String {
    if number < 10.0 { format!("{number:.3}") } else { format!("{number:.0}") }
}

async fn timed(work: impl Future<Output = u64>) -> f64 {
    let start = Instant::now();
    let count = work.await;
    start.elapsed().as_secs_f64() * 1e6 / count as f64
}
