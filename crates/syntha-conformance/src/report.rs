use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

/// What a run found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The backend.
    pub backend: &'static str,
    /// A row for each check, in order.
    pub rows: Vec<Row>,
}

/// One check's result.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Row {
    /// The check.
    pub check: &'static str,
    /// Why it failed; `None` if it passed. Nothing is ever skipped.
    pub failure: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    pub(crate) const fn new(backend: &'static str) -> Self {
        Self { backend, rows: Vec::new() }
    }

    /// The checks that failed.
    #[must_use]
    pub fn failed(&self) -> Vec<&'static str> {
        self.rows.iter().filter(|row| row.failure.is_some()).map(|row| row.check).collect()
    }

    /// Lines for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let result = row.failure.as_ref().map_or_else(|| "pass".to_owned(), |why| format!("FAIL: {why}"));
            let _ = writeln!(text, "{:8} {:40} {result}", self.backend, row.check);
        }
        let failed = self.failed().len();
        let _ =
            write!(text, "{}: {} passed, {failed} failed, 0 skipped", self.backend, self.rows.len() - failed);
        text
    }

    /// A value for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({ "check": row.check, "passed": row.failure.is_none(), "failure": row.failure,
                    "microseconds": u64::try_from(row.took.as_micros()).unwrap_or(u64::MAX) })
        });
        json!({ "backend": self.backend, "checks": rows.collect::<Value>() })
    }

    /// A table of several backends' results on the same checks.
    #[must_use]
    pub fn markdown(reports: &[Self]) -> String {
        let mut text = String::from("| check |");
        for report in reports {
            let _ = write!(text, " {} |", report.backend);
        }
        text.push_str("\n|---|");
        text.push_str(&"---|".repeat(reports.len()));
        let rows = reports.first().map_or(0, |report| report.rows.len());
        for row in 0..rows {
            let _ = write!(text, "\n| `{}` |", reports[0].rows[row].check);
            for report in reports {
                let _ = write!(
                    text,
                    " {} |",
                    if report.rows[row].failure.is_none() { "pass" } else { "**fail**" }
                );
            }
        }
        text
    }
}
