//! Every check on every backend that must pass, each shown as a test of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
#[cfg(feature = "encryption")]
use syntha_conformance::sealed_checks;
#[cfg(feature = "encryption")]
use syntha_conformance::syntha_encryption::Mode;
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
            #[cfg(feature = "postgres")]
            postgres(table, check, &mut trials);
            #[cfg(feature = "encryption")]
            trials.push(trial(table, encrypted("memory-sealed", MemoryHarness, Mode::Sealed), check));
            #[cfg(feature = "encryption")]
            trials.push(trial(table, encrypted("memory-values", MemoryHarness, Mode::Values), check));
            #[cfg(all(feature = "encryption", feature = "sqlite"))]
            {
                let sqlite = syntha_conformance::SqliteHarness { fault: None };
                trials.push(trial(table, encrypted("sqlite-sealed", sqlite, Mode::Sealed), check));
                let shared = syntha_conformance::SharedSqliteHarness { fault: None };
                trials.push(trial(table, encrypted("shared-sealed", shared, Mode::Sealed), check));
            }
            #[cfg(feature = "audit")]
            audited_trials(table, check, false, &mut trials);
        }
    }
    #[cfg(feature = "audit")]
    for check in syntha_conformance::audit_checks() {
        audited_trials("audit", check, true, &mut trials);
    }
    #[cfg(feature = "encryption")]
    for mode in [Mode::Sealed, Mode::Values] {
        let name = |sealed, values| if mode == Mode::Sealed { sealed } else { values };
        for check in sealed_checks(mode) {
            let memory = encrypted(name("memory-sealed", "memory-values"), MemoryHarness, mode);
            trials.push(trial("sealed", memory, check));
            #[cfg(feature = "audit")]
            {
                let memory = audited("memory-audited", MemoryHarness);
                let both = encrypted(name("memory-both", "memory-both-values"), memory, mode);
                trials.push(trial("sealed", both, check));
            }
            #[cfg(feature = "sqlite")]
            {
                let sqlite = syntha_conformance::SqliteHarness { fault: None };
                let sqlite = encrypted(name("sqlite-sealed", "sqlite-values"), sqlite, mode);
                trials.push(trial("sealed", sqlite, check));
                let shared = syntha_conformance::SharedSqliteHarness { fault: None };
                let shared = encrypted(name("shared-sealed", "shared-values"), shared, mode);
                trials.push(trial("sealed", shared, check));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Set, every check runs on PostgreSQL in both modes, and over the layers above it: ten minutes more. Without it, the store's own run on a schema for
/// each user, and through pgbouncer in both modes.
#[cfg(feature = "postgres")]
const ALL_ON_POSTGRES: &str = "SYNTHA_POSTGRES_ALL";

/// A check on PostgreSQL. The modes have one text of functions, so each layer is over one of them, and both over the default.
#[cfg(feature = "postgres")]
fn postgres(table: &str, check: Check, trials: &mut Vec<Trial>) {
    use syntha_conformance::syntha_postgres::Mode as Walls;
    use syntha_conformance::{PooledPostgresHarness, PostgresHarness};
    let harness = |mode| PostgresHarness { mode, fault: None };
    let pooled = |mode| PooledPostgresHarness { mode };
    let all = std::env::var_os(ALL_ON_POSTGRES).is_some();
    if all || table == "store" {
        trials.push(trial(table, harness(Walls::Schema), check));
        trials.push(trial(table, pooled(Walls::Rls), check));
    }
    if table == "store" {
        trials.push(trial(table, pooled(Walls::Schema), check));
    }
    if !all {
        return;
    }
    trials.push(trial(table, harness(Walls::Rls), check));
    #[cfg(feature = "encryption")]
    trials.push(trial(table, encrypted("postgres-sealed", harness(Walls::Rls), Mode::Sealed), check));
    #[cfg(feature = "audit")]
    trials.push(trial(table, audited("postgres-audited", harness(Walls::Rls)), check));
    #[cfg(all(feature = "encryption", feature = "audit"))]
    {
        let schema = audited("postgres-audited", harness(Walls::Schema));
        trials.push(trial(table, encrypted("postgres-both", schema, Mode::Sealed), check));
    }
}

#[cfg(feature = "encryption")]
fn encrypted<H: Harness>(
    name: &'static str,
    inner: H,
    mode: Mode,
) -> syntha_conformance::EncryptedHarness<H> {
    syntha_conformance::EncryptedHarness { name, inner, mode, fault: None }
}

/// A check over the audit layer, and over that and the one that seals: of the mode `values` and of shared files, what is of the trail
/// alone.
#[cfg(feature = "audit")]
fn audited_trials(table: &str, check: Check, is_own: bool, trials: &mut Vec<Trial>) {
    #[cfg(not(any(feature = "encryption", feature = "sqlite")))]
    let _ = is_own;
    trials.push(trial(table, audited("memory-audited", MemoryHarness), check));
    #[cfg(feature = "encryption")]
    {
        let memory = || audited("memory-audited", MemoryHarness);
        trials.push(trial(table, encrypted("memory-both", memory(), Mode::Sealed), check));
        if is_own {
            trials.push(trial(table, encrypted("memory-both-values", memory(), Mode::Values), check));
        }
    }
    #[cfg(feature = "sqlite")]
    {
        let sqlite = || audited("sqlite-audited", syntha_conformance::SqliteHarness { fault: None });
        let shared = || audited("shared-audited", syntha_conformance::SharedSqliteHarness { fault: None });
        trials.push(trial(table, sqlite(), check));
        if is_own {
            trials.push(trial(table, shared(), check));
        }
        #[cfg(feature = "encryption")]
        {
            trials.push(trial(table, encrypted("sqlite-both", sqlite(), Mode::Sealed), check));
            if is_own {
                trials.push(trial(table, encrypted("shared-both", shared(), Mode::Sealed), check));
            }
        }
    }
}

#[cfg(feature = "audit")]
fn audited<H: Harness>(name: &'static str, inner: H) -> syntha_conformance::AuditedHarness<H> {
    syntha_conformance::AuditedHarness { name, inner, fault: None }
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
