//! What a run found: who was measured, and a figure or a reason for each row.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pair::Spread;

/// What one contestant prints in one round.
#[derive(Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) rows: BTreeMap<String, f64>,
    /// By row, why there is no figure.
    pub(crate) absent: BTreeMap<String, String>,
    /// By row, what exactly was measured.
    pub(crate) notes: BTreeMap<String, String>,
    pub(crate) settings: String,
    pub(crate) versions: Vec<String>,
}

/// A whole run.
#[derive(Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) rounds: u32,
    /// Others had work for the machine when it began.
    #[serde(default)]
    pub(crate) busy: bool,
    /// Names and values of what it ran on.
    pub(crate) machine: Vec<(String, String)>,
    /// Syntha first.
    pub(crate) contestants: Vec<Contestant>,
}

/// One of those measured, over all rounds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Contestant {
    pub(crate) name: String,
    pub(crate) settings: String,
    pub(crate) versions: Vec<String>,
    /// System calls that sync a file, for each push, where they could be counted.
    pub(crate) syncs: Option<f64>,
    pub(crate) cells: BTreeMap<String, Cell>,
    pub(crate) notes: BTreeMap<String, String>,
}

/// A figure, or why there is none.
#[derive(Serialize, Deserialize)]
pub(crate) enum Cell {
    Found(Spread),
    Absent(String),
}

/// A line of the table, a panel of the chart.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    pub(crate) budget: Budget,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Microseconds,
    Kibibytes,
    Count,
}

/// What the design promises about a row beside the peers.
#[derive(Clone, Copy)]
pub(crate) enum Budget {
    /// At least so many times faster than the Python package of the same name.
    Times(f64),
    /// Faster than every peer that has a figure.
    Ahead,
    /// At most this, in the row's unit.
    Most(f64),
    /// Only what `cargo xtask bench` measures beside the bare engine.
    Elsewhere(&'static str),
    /// Nothing.
    None,
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        id: "cached_get",
        title: "get, value in the cache (of 1,000 keys)",
        unit: Unit::Microseconds,
        budget: Budget::Times(15.0),
    },
    Row {
        id: "cached_value",
        title: "get, value in the cache, decoded into a string",
        unit: Unit::Microseconds,
        budget: Budget::None,
    },
    Row { id: "get_all", title: "get all of 1,000", unit: Unit::Microseconds, budget: Budget::Times(40.0) },
    Row {
        id: "get_all_values",
        title: "get all of 1,000, decoded into strings",
        unit: Unit::Microseconds,
        budget: Budget::None,
    },
    Row {
        id: "uncached_get",
        title: "get, value not in the cache",
        unit: Unit::Microseconds,
        budget: Budget::Elsewhere("≤ 1.3× bare"),
    },
    Row { id: "push", title: "durable push, one by one", unit: Unit::Microseconds, budget: Budget::Ahead },
    Row {
        id: "crowd",
        title: "durable push, 64 writers at once, for each push",
        unit: Unit::Microseconds,
        budget: Budget::Elsewhere("≤ 1.5× the bare 64-row statement"),
    },
    Row {
        id: "new_user",
        title: "new user and first push",
        unit: Unit::Microseconds,
        budget: Budget::Elsewhere("≤ 2× publishing a bare file"),
    },
    Row {
        id: "idle_kib",
        title: "memory of an idle user with 10 entries",
        unit: Unit::Kibibytes,
        budget: Budget::Most(4.0),
    },
    Row {
        id: "idle_descriptors",
        title: "descriptors of an idle user",
        unit: Unit::Count,
        budget: Budget::Most(0.0),
    },
];

impl Contestant {
    /// Medians of what a contestant answered in each round; `None` if it never did.
    pub(crate) fn of(name: &str, syncs: Option<f64>, answers: &[Answer]) -> Option<Self> {
        let last = answers.last()?;
        let mut cells = BTreeMap::new();
        for row in ROWS {
            let samples: Vec<f64> =
                answers.iter().filter_map(|answer| answer.rows.get(row.id).copied()).collect();
            let cell = if samples.is_empty() {
                Cell::Absent(last.absent.get(row.id).map_or("not measured", String::as_str).to_owned())
            } else {
                Cell::Found(Spread::of(&samples))
            };
            cells.insert(row.id.to_owned(), cell);
        }
        Some(Self {
            name: name.to_owned(),
            settings: last.settings.clone(),
            versions: last.versions.clone(),
            syncs,
            cells,
            notes: last.notes.clone(),
        })
    }

    pub(crate) fn found(&self, row: &Row) -> Option<Spread> {
        match self.cells.get(row.id) {
            Some(Cell::Found(spread)) => Some(*spread),
            _ => None,
        }
    }

    /// Why a row has no figure.
    pub(crate) fn absent(&self, row: &Row) -> &str {
        match self.cells.get(row.id) {
            Some(Cell::Absent(reason)) => reason,
            _ => "not measured",
        }
    }
}

impl Budget {
    /// The budget in words, and whether the run's medians keep it.
    pub(crate) fn verdict(self, row: &Row, run: &Run) -> (String, Option<bool>) {
        let median = |contestant: &Contestant| contestant.found(row).map(|spread| spread.median);
        let ours = run.contestants.first().and_then(median);
        let mut peers = run.contestants.iter().skip(1);
        match self {
            Self::Times(times) => {
                let peer = peers.find(|peer| peer.name == "Python Syntha").and_then(median);
                let kept = ours.zip(peer).map(|(ours, peer)| peer >= ours * times);
                (format!("≥ {times:.0}× faster than Python Syntha"), kept)
            }
            Self::Ahead => {
                let kept = ours.map(|ours| peers.filter_map(median).all(|peer| ours < peer));
                ("ahead of every peer".into(), kept)
            }
            Self::Most(most) => (format!("≤ {}", figure(most, row.unit)), ours.map(|ours| ours <= most)),
            Self::None => (String::new(), None),
            Self::Elsewhere(words) => (format!("{words} (`cargo xtask bench`)"), None),
        }
    }
}

/// A number with three digits that say something, and its unit.
pub(crate) fn figure(number: f64, unit: Unit) -> String {
    let (number, name) = match unit {
        Unit::Microseconds if number < 0.9995 => (number * 1e3, " ns"),
        Unit::Microseconds if number < 999.5 => (number, " µs"),
        Unit::Microseconds => (number / 1e3, " ms"),
        Unit::Kibibytes if number < 1023.5 => (number, " KiB"),
        Unit::Kibibytes => (number / 1024.0, " MiB"),
        Unit::Count => (number, ""),
    };
    format!("{}{name}", digits(number))
}

/// How many times as much a peer's figure is.
pub(crate) fn ratio(peer: f64, ours: f64) -> Option<String> {
    (ours > 0.0 && peer > 0.0).then(|| format!("{}×", digits(peer / ours)))
}

fn digits(number: f64) -> String {
    match number {
        0.0 => "0".into(),
        n if n < 0.01 => "0.00".into(),
        n if n < 9.995 => format!("{n:.2}"),
        n if n < 99.95 => format!("{n:.1}"),
        n => {
            let text = format!("{n:.0}");
            let (head, tail) = text.split_at(text.len().saturating_sub(3));
            if head.is_empty() { tail.to_owned() } else { format!("{head},{tail}") }
        }
    }
}

#[cfg(test)]
pub(crate) fn sample_run() -> Run {
    let answer = |scale: f64, absent: &[&str]| Answer {
        rows: ROWS
            .iter()
            .filter(|row| !absent.contains(&row.id))
            .map(|row| (row.id.to_owned(), scale * if row.unit == Unit::Count { 0.0 } else { 1.0 }))
            .collect(),
        absent: absent.iter().map(|row| ((*row).to_owned(), "no <disk> | \"none\"".to_owned())).collect(),
        notes: BTreeMap::from([("push".to_owned(), "a|b".to_owned())]),
        settings: "WAL & <more>".to_owned(),
        versions: vec!["p 1".to_owned()],
    };
    let ours = [answer(2.0, &[]), answer(1.0, &[]), answer(3.0, &[])];
    let peers = [answer(40.0, &["push", "crowd"]), answer(40.0, &["push"]), answer(50.0, &["push"])];
    Run {
        rounds: 3,
        busy: false,
        machine: vec![("processor".to_owned(), "A & B <c>|".to_owned())],
        contestants: [
            Contestant::of("Syntha", Some(1.0), &ours),
            Contestant::of("Python Syntha", None, &peers),
            Contestant::of("<b>&\"x\"|", Some(3.2), &peers),
        ]
        .into_iter()
        .flatten()
        .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_their_unit() {
        for (number, unit, text) in [
            (0.1234, Unit::Microseconds, "123 ns"),
            (0.9996, Unit::Microseconds, "1.00 µs"),
            (45.67, Unit::Microseconds, "45.7 µs"),
            (68_831.5, Unit::Microseconds, "68.8 ms"),
            (3_000_000.0, Unit::Microseconds, "3,000 ms"),
            (0.0, Unit::Kibibytes, "0 KiB"),
            (4_463.8, Unit::Kibibytes, "4.36 MiB"),
            (10.0, Unit::Count, "10.0"),
        ] {
            assert_eq!(figure(number, unit), text);
        }
        assert_eq!(ratio(3_000.0, 2.0).as_deref(), Some("1,500×"));
        assert_eq!(ratio(1.0, 0.0), None);
    }

    #[test]
    fn a_budget_is_missed_when_the_median_misses_it() {
        let mut run = sample_run();
        let verdict = |run: &Run| ROWS.iter().map(|row| row.budget.verdict(row, run).1).collect::<Vec<_>>();
        let (kept, missed, open) = (Some(true), Some(false), None);
        // The peer takes 40, Syntha 2 of each: 20 times, and 2 KiB.
        assert_eq!(verdict(&run), [kept, open, missed, open, open, kept, open, open, kept, kept]);
        let faster = Cell::Found(Spread::of(&[1.9]));
        run.contestants[2].cells.insert("push".into(), faster);
        assert_eq!(verdict(&run), [kept, open, missed, open, open, missed, open, open, kept, kept]);
    }

    #[test]
    fn a_row_without_a_figure_says_why() {
        let run = sample_run();
        let push = ROWS.iter().find(|row| row.id == "push").unwrap();
        assert!(run.contestants[1].found(push).is_none());
        assert_eq!(run.contestants[1].absent(push), "no <disk> | \"none\"");
        assert!(Contestant::of("silent", None, &[]).is_none());
    }
}
