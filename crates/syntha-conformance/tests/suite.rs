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
        #[cfg(feature = "postgres")]
        audited_postgres(check, &mut trials);
    }
    #[cfg(feature = "encryption")]
    for mode in [Mode::Sealed, Mode::Values] {
        let name = |sealed, values| if mode == Mode::Sealed { sealed } else { values };
        for check in sealed_checks(mode) {
            let memory = encrypted(name("memory-sealed", "memory-values"), MemoryHarness, mode);
            trials.push(trial("sealed", memory, check));
            #[cfg(feature = "postgres")]
            sealed_postgres(mode, check, &mut trials);
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
    #[cfg(all(feature = "postgres", feature = "encryption"))]
    rotation_postgres(&mut trials);
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Set, every check runs on PostgreSQL in both modes and all forms, as `cargo xtask conformance` sets it, and those of stores and meshes through
/// pgbouncer. Without it, the store's own run on a schema for each user, and through pgbouncer on shared tables.
#[cfg(feature = "postgres")]
const ALL_ON_POSTGRES: &str = "SYNTHA_POSTGRES_ALL";

#[cfg(feature = "postgres")]
fn all_on_postgres() -> bool {
    std::env::var_os(ALL_ON_POSTGRES).is_some()
}

/// PostgreSQL in a mode, and what it is called in each form.
#[cfg(feature = "postgres")]
struct Server {
    harness: syntha_conformance::PostgresHarness,
    #[cfg(feature = "audit")]
    audited: &'static str,
    #[cfg(feature = "encryption")]
    sealed: &'static str,
    #[cfg(feature = "encryption")]
    values: &'static str,
    #[cfg(all(feature = "encryption", feature = "audit"))]
    both: &'static str,
}

#[cfg(feature = "postgres")]
const SERVERS: [Server; 2] = {
    use syntha_conformance::PostgresHarness;
    use syntha_conformance::syntha_postgres::Mode as Walls;
    [
        Server {
            harness: PostgresHarness { mode: Walls::Schema, fault: None },
            #[cfg(feature = "audit")]
            audited: "postgres-schema-audited",
            #[cfg(feature = "encryption")]
            sealed: "postgres-schema-sealed",
            #[cfg(feature = "encryption")]
            values: "postgres-schema-values",
            #[cfg(all(feature = "encryption", feature = "audit"))]
            both: "postgres-schema-both",
        },
        Server {
            harness: PostgresHarness { mode: Walls::Rls, fault: None },
            #[cfg(feature = "audit")]
            audited: "postgres-rls-audited",
            #[cfg(feature = "encryption")]
            sealed: "postgres-rls-sealed",
            #[cfg(feature = "encryption")]
            values: "postgres-rls-values",
            #[cfg(all(feature = "encryption", feature = "audit"))]
            both: "postgres-rls-both",
        },
    ]
};

/// A check of stores or meshes on PostgreSQL.
#[cfg(feature = "postgres")]
fn postgres(table: &str, check: Check, trials: &mut Vec<Trial>) {
    use syntha_conformance::PooledPostgresHarness;
    use syntha_conformance::syntha_postgres::Mode as Walls;
    let all = all_on_postgres();
    if all || table == "store" {
        trials.push(trial(table, PooledPostgresHarness { mode: Walls::Rls }, check));
    }
    if all {
        trials.push(trial(table, PooledPostgresHarness { mode: Walls::Schema }, check));
    }
    for (number, server) in SERVERS.iter().enumerate() {
        if all || (table == "store" && number == 0) {
            trials.push(trial(table, server.harness, check));
        }
        if !all {
            continue;
        }
        #[cfg(feature = "encryption")]
        trials.push(trial(table, encrypted(server.sealed, server.harness, Mode::Sealed), check));
        #[cfg(feature = "audit")]
        trials.push(trial(table, audited(server.audited, server.harness), check));
        #[cfg(all(feature = "encryption", feature = "audit"))]
        {
            let audited = audited(server.audited, server.harness);
            trials.push(trial(table, encrypted(server.both, audited, Mode::Sealed), check));
        }
    }
}

/// A check of the trail on PostgreSQL, alone and sealed.
#[cfg(all(feature = "postgres", feature = "audit"))]
fn audited_postgres(check: Check, trials: &mut Vec<Trial>) {
    for server in SERVERS.iter().filter(|_| all_on_postgres()) {
        let audited = || audited(server.audited, server.harness);
        trials.push(trial("audit", audited(), check));
        #[cfg(feature = "encryption")]
        trials.push(trial("audit", encrypted(server.both, audited(), Mode::Sealed), check));
    }
}

/// A check of sealed data on PostgreSQL, with and without a trail.
#[cfg(all(feature = "postgres", feature = "encryption"))]
fn sealed_postgres(mode: Mode, check: Check, trials: &mut Vec<Trial>) {
    for server in SERVERS.iter().filter(|_| all_on_postgres()) {
        let name = if mode == Mode::Sealed { server.sealed } else { server.values };
        trials.push(trial("sealed", encrypted(name, server.harness, mode), check));
        #[cfg(feature = "audit")]
        if mode == Mode::Sealed {
            let audited = audited(server.audited, server.harness);
            trials.push(trial("sealed", encrypted(server.both, audited, mode), check));
        }
    }
}

/// The checks of rotation on PostgreSQL; on other backends they are tests of their own.
#[cfg(all(feature = "postgres", feature = "encryption"))]
fn rotation_postgres(trials: &mut Vec<Trial>) {
    use syntha_conformance::{rotation_checks, run_rotation};
    for server in SERVERS.iter().filter(|_| all_on_postgres()) {
        for check in rotation_checks() {
            let name = format!("{}::rotation::{}", server.sealed, check.name);
            let harness = server.harness;
            trials.push(Trial::test(name, move || {
                let run = async { run_rotation(&harness, Mode::Sealed, None, &[check]).await };
                judged(runtime().block_on(run))
            }));
        }
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
        judged(runtime().block_on(run(&harness, &[check])))
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn judged(report: syntha_conformance::Report) -> Result<(), Failed> {
    match report.rows.into_iter().find_map(|row| row.failure) {
        Some(failure) => Err(Failed::from(failure)),
        None => Ok(()),
    }
}
