//! The suite on what it must reject, and the list of its checks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use syntha_conformance::broken::{BrokenHarness, memory_faults, mesh_faults};
use syntha_conformance::{Check, Harness, MemoryHarness, mesh_checks, run, run_with, store_checks};
use syntha_mesh::MeshConfig;

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

/// Every check there is, so that none vanishes unseen.
#[test]
fn no_check_has_vanished() {
    compare_text("checks.txt", &names(&[store_checks(), mesh_checks()]));
}

fn names(tables: &[Vec<Check>]) -> String {
    tables.iter().flatten().map(|check| format!("{}\n", check.name)).collect()
}

/// The same of the checks over a trail.
#[cfg(feature = "audit")]
#[test]
fn no_audit_check_has_vanished() {
    let found = names(&[syntha_conformance::audit_checks()]);
    compare_text("checks-audit.txt", &found);
    compare_bullets("audit", &found);
}

/// Each bullet of a table's module is a check, and each check a bullet.
#[cfg(any(feature = "audit", feature = "encryption"))]
fn compare_bullets(table: &str, found: &str) {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(table).join("mod.rs");
    let text = std::fs::read_to_string(module).unwrap();
    let bullets = text.split("//! - `").skip(1).filter_map(|rest| rest.split('`').next());
    let (mut bullets, mut checks): (Vec<_>, Vec<_>) = (bullets.collect(), found.lines().collect());
    bullets.sort_unstable();
    checks.sort_unstable();
    assert_eq!(bullets, checks, "each bullet is a check, and each check a bullet");
}

/// The same of the checks over what seals: what both modes have in common, and what each has of its own.
#[cfg(feature = "encryption")]
#[test]
fn no_sealed_check_has_vanished() {
    use syntha_conformance::{sealed_checks, syntha_encryption::Mode};
    let mut own = sealed_checks(Mode::Values);
    own.retain(|check| !sealed_checks(Mode::Sealed).iter().any(|other| other.name == check.name));
    let found = names(&[sealed_checks(Mode::Sealed), own]);
    compare_text("checks-sealed.txt", &found);
    compare_bullets("sealed", &found);
}

/// Both tables: a fault of a store shows in either, one of a mesh only in its own.
async fn failing(harness: &dyn Harness, list: &List) -> Vec<&'static str> {
    let checks = list.of(harness.name(), [store_checks(), mesh_checks()].concat());
    run_with(harness, harness.name(), &patient(), &checks).await.failed()
}

/// Set, every check is run on every fault, and the lists say what all of them found: some minutes more. Without it, those that a list names for a
/// fault are, and each of them must find it again.
const ALL: &str = "SYNTHA_BROKEN_ALL";
/// Set, the lists are written anew.
const BLESS: &str = "SYNTHA_BLESS";

/// A list of faults, and the checks that find each; `None` where all are to be run.
struct List(Option<BTreeMap<String, Vec<String>>>);

impl List {
    fn read(file: &str) -> Self {
        if [ALL, BLESS].into_iter().any(|variable| std::env::var_os(variable).is_some()) {
            return Self(None);
        }
        let line = |line: &str| {
            let (name, checks) = line.split_once(':').unwrap();
            (name.to_owned(), checks.split_whitespace().map(str::to_owned).collect())
        };
        Self(Some(std::fs::read_to_string(path(file)).unwrap().lines().map(line).collect()))
    }

    /// What is run on a fault. One that is in no list passes everything, which `compare` refuses.
    fn of(&self, fault: &str, mut checks: Vec<Check>) -> Vec<Check> {
        if let Self(Some(list)) = self {
            let known = list.get(fault).map(Vec::as_slice).unwrap_or_default();
            checks.retain(|check| known.iter().any(|known| known == check.name));
        }
        checks
    }
}

fn path(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file)
}

/// On a busy machine a write may wait long beside so much else: that is none of the faults.
fn patient() -> MeshConfig {
    let mut config = MeshConfig::default();
    config.deadline = Duration::from_secs(20);
    config
}

fn compare(file: &str, found: &BTreeMap<&str, Vec<&'static str>>) {
    // Writers that race meet a fault by luck. Such a check counts where it must pass; what must fail is seen by the others.
    let certain = |checks: &[&'static str]| -> Vec<_> {
        checks.iter().copied().filter(|check| !check.contains("racing")).collect()
    };
    for (name, checks) in found {
        assert!(!certain(checks).is_empty(), "{name} passed every check");
    }
    let line =
        |(name, checks): (&&str, &Vec<&'static str>)| format!("{name}: {}\n", certain(checks).join(" "));
    compare_text(file, &found.iter().map(line).collect::<String>());
}

fn compare_text(file: &str, text: &str) {
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(path(file), text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(path(file)).unwrap(),
        "run with SYNTHA_BLESS=1 if the change is meant"
    );
}

#[tokio::test]
async fn broken_stores_fail_as_they_should() {
    let (mut found, list) = (BTreeMap::new(), List::read("broken-memory.txt"));
    for (name, fault) in memory_faults() {
        found.insert(name, failing(&BrokenHarness { name, fault }, &list).await);
    }
    compare("broken-memory.txt", &found);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn broken_sqlite_fails_as_it_should() {
    let (mut found, list) = (BTreeMap::new(), List::read("broken-sqlite.txt"));
    for (name, fault) in syntha_conformance::broken::sqlite_faults() {
        let harness = syntha_conformance::SqliteHarness { fault: Some((name, fault)) };
        found.insert(name, failing(&harness, &list).await);
    }
    compare("broken-sqlite.txt", &found);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn broken_shared_sqlite_fails_as_it_should() {
    let (mut found, list) = (BTreeMap::new(), List::read("broken-sqlite-shared.txt"));
    for (name, fault) in syntha_conformance::broken::shared_sqlite_faults() {
        let harness = syntha_conformance::SharedSqliteHarness { fault: Some((name, fault)) };
        found.insert(name, failing(&harness, &list).await);
    }
    compare("broken-sqlite-shared.txt", &found);
}

/// The table of stores alone: a database for each of a mesh's checks takes minutes. `verify` refuses every one of them by the text of its functions,
/// so it is left out: what they do must show as well.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_postgres_fails_as_it_should() {
    let mut checks = store_checks();
    checks.retain(|check| !check.name.starts_with("verify_"));
    let (mut found, list) = (BTreeMap::new(), List::read("broken-postgres.txt"));
    for some in syntha_conformance::broken::postgres_faults().chunks(3) {
        let run = |fault: &syntha_conformance::PostgresFault| {
            let harness = syntha_conformance::PostgresHarness { mode: fault.mode, fault: Some(*fault) };
            let checks = list.of(fault.name, checks.clone());
            (fault.name, tokio::spawn(async move { run(&harness, &checks).await.failed() }))
        };
        for (name, failed) in some.iter().map(run).collect::<Vec<_>>() {
            found.insert(name, failed.await.unwrap());
        }
    }
    compare("broken-postgres.txt", &found);
}

#[tokio::test]
async fn broken_meshes_fail_as_they_should() {
    let (mut found, list) = (BTreeMap::new(), List::read("broken-mesh.txt"));
    // A check that waits for what never comes takes seconds, so a few faults run beside each other.
    for some in mesh_faults().chunks(8) {
        let run = |(name, fault): &(&'static str, _)| {
            let (name, config) = (*name, patient().fault(*fault));
            let checks = list.of(name, mesh_checks());
            let failed = async move { run_with(&MemoryHarness, name, &config, &checks).await.failed() };
            (name, tokio::spawn(failed))
        };
        for (name, failed) in some.iter().map(run).collect::<Vec<_>>() {
            found.insert(name, failed.await.unwrap());
        }
    }
    compare("broken-mesh.txt", &found);
}

/// A fault of the audit layer shows in its own table.
#[cfg(feature = "audit")]
#[tokio::test]
async fn broken_audit_fails_as_it_should() {
    let (mut found, list) = (BTreeMap::new(), List::read("broken-audit.txt"));
    let checks = |name| list.of(name, syntha_conformance::audit_checks());
    for (name, fault) in syntha_conformance::broken::audit_faults() {
        let harness = syntha_conformance::AuditedHarness { name, inner: MemoryHarness, fault: Some(fault) };
        found.insert(name, run(&harness, &checks(name)).await.failed());
    }
    // Details are sealed by the layer above, which has faults of its own.
    #[cfg(feature = "encryption")]
    {
        use syntha_conformance::syntha_encryption::{Fault, Mode};
        for (name, fault) in [
            ("sealed-details-in-clear", Fault::DetailsInClear),
            ("sealed-details-under-data-key", Fault::DetailsUnderDataKey),
        ] {
            let inner = syntha_conformance::AuditedHarness { name, inner: MemoryHarness, fault: None };
            let both =
                syntha_conformance::EncryptedHarness { name, inner, mode: Mode::Sealed, fault: Some(fault) };
            found.insert(name, run(&both, &checks(name)).await.failed());
        }
    }
    compare("broken-audit.txt", &found);
}

#[cfg(feature = "encryption")]
mod encryption {
    use syntha_conformance::broken::encryption_faults;
    use syntha_conformance::syntha_encryption::{Fault, Mode};
    use syntha_conformance::{EncryptedHarness, sealed_checks};

    use super::*;

    /// A fault of the layer shows in its own table, or in that of stores.
    async fn failing<H: Harness>(
        name: &'static str,
        inner: H,
        mode: Mode,
        fault: Fault,
        list: &List,
    ) -> Vec<&'static str> {
        let harness = EncryptedHarness { name, inner, mode, fault: Some(fault) };
        let checks = list.of(name, [store_checks(), sealed_checks(mode)].concat());
        // Many checks fail here, and a backtrace of each costs more than the checks do.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let failed = run(&harness, &checks).await.failed();
        std::panic::set_hook(hook);
        failed
    }

    async fn compare_all_of(mode: Mode, file: &str) {
        let mut faults = encryption_faults();
        faults.retain(|(_, of, _)| *of == mode);
        let (mut found, list) = (BTreeMap::new(), List::read(file));
        for (name, _, fault) in faults {
            found.insert(name, failing(name, MemoryHarness, mode, fault, &list).await);
        }
        compare(file, &found);
    }

    #[tokio::test]
    async fn broken_encryption_fails_as_it_should() {
        compare_all_of(Mode::Sealed, "broken-encryption.txt").await;
    }

    #[tokio::test]
    async fn broken_encryption_of_values_fails_as_it_should() {
        compare_all_of(Mode::Values, "broken-encryption-values.txt").await;
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn broken_encryption_over_sqlite_fails_as_it_should() {
        let (mut found, list) = (BTreeMap::new(), List::read("broken-encryption-sqlite.txt"));
        for (name, fault) in
            [("sealed-keys-kept", Fault::KeysKept), ("sealed-names-in-clear", Fault::NamesInClear)]
        {
            let sqlite = syntha_conformance::SqliteHarness { fault: None };
            found.insert(name, failing(name, sqlite, Mode::Sealed, fault, &list).await);
        }
        compare("broken-encryption-sqlite.txt", &found);
    }
}
