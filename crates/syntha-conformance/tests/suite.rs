//! The suite on the backends that must pass, and on the broken ones that it must reject.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use syntha_conformance::broken::{BrokenHarness, memory_faults};
use syntha_conformance::{Harness, MemoryHarness, run, store_checks};

async fn passes(harness: &dyn Harness) {
    let report = run(harness, &store_checks()).await;
    assert!(report.failed().is_empty(), "{}", report.text());
    assert_eq!(report.rows.len(), store_checks().len());
}

#[tokio::test]
async fn memory_passes() {
    passes(&MemoryHarness).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn sqlite_passes() {
    passes(&syntha_conformance::SqliteHarness { fault: None }).await;
}

/// Each bullet of the contract is a check, and each check but those of isolation and archives is a bullet.
#[test]
fn every_bullet_is_a_check() {
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../syntha-store/src/store.rs");
    let text = std::fs::read_to_string(contract).unwrap();
    let mut bullets: Vec<_> =
        text.split("/// - `").skip(1).filter_map(|rest| rest.split('`').next()).collect();
    let mut checks: Vec<_> = store_checks().iter().map(|check| check.name).collect();
    checks.retain(|name| !name.starts_with("isolation_") && !name.starts_with("archive_"));
    bullets.sort_unstable();
    checks.sort_unstable();
    assert_eq!(bullets, checks);
    assert!(bullets.len() > 60);
}

async fn failing(harness: &dyn Harness) -> Vec<String> {
    run(harness, &store_checks()).await.failed().into_iter().map(ToOwned::to_owned).collect()
}

fn compare(file: &str, found: &BTreeMap<&str, Vec<String>>) {
    for (name, checks) in found {
        assert!(!checks.is_empty(), "{name} passed every check");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    let mut text = String::new();
    for (name, checks) in found {
        text.push_str(&format!("{name}: {}\n", checks.join(" ")));
    }
    if std::env::var_os("SYNTHA_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(&path).unwrap(),
        "run with SYNTHA_BLESS=1 if the change is meant"
    );
}

#[tokio::test]
async fn broken_stores_fail_as_they_should() {
    let mut found = BTreeMap::new();
    for (name, fault) in memory_faults() {
        found.insert(name, failing(&BrokenHarness { name, fault }).await);
    }
    compare("broken-memory.txt", &found);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn broken_sqlite_fails_as_it_should() {
    let mut found = BTreeMap::new();
    for (name, fault) in syntha_conformance::broken::sqlite_faults() {
        found.insert(name, failing(&syntha_conformance::SqliteHarness { fault: Some((name, fault)) }).await);
    }
    compare("broken-sqlite.txt", &found);
}
