//! Every check on every backend that must pass, each shown as a test of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use syntha_conformance::{Check, Harness, MemoryHarness, mesh_checks, run, store_checks};

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (table, checks) in [("store", store_checks()), ("mesh", mesh_checks())] {
        for check in checks {
            trials.push(trial(table, MemoryHarness, check));
            #[cfg(feature = "sqlite")]
            trials.push(trial(table, syntha_conformance::SqliteHarness { fault: None }, check));
            #[cfg(feature = "sqlite")]
            trials.push(trial(table, syntha_conformance::SharedSqliteHarness { fault: None }, check));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(table: &str, harness: impl Harness + 'static, check: Check) -> Trial {
    Trial::test(format!("{}::{table}::{}", harness.name(), check.name), move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let report = runtime.block_on(run(&harness, &[check]));
        match report.rows.into_iter().find_map(|row| row.failure) {
            Some(failure) => Err(Failed::from(failure)),
            None => Ok(()),
        }
    })
}
