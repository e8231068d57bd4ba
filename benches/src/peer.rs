//! The Python package, run by its own interpreter in the same minutes.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::pair::Report;

/// Measures the peer with the script that `tests/python-syntha` keeps.
pub(crate) fn run(report: &mut Report, python: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/python-syntha/bench_peer.py");
    let output = Command::new(python).arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, row, field, budget) in [
        ("Python Syntha: cached get", "cached get", "cached_get_us", "Syntha ≥ 15× faster"),
        ("Python Syntha: get all of 1,000", "get all of 1,000", "get_all_1000_us", "Syntha ≥ 40× faster"),
        ("Python Syntha: push", "durable push", "push_us", "Syntha ahead"),
    ] {
        let peer = found[field].as_f64().unwrap();
        let note =
            report.ours(row).map_or_else(String::new, |ours| format!("Syntha is {:.0}× faster", peer / ours));
        report.add(name, "µs", &[peer], None, budget, note);
    }
}
