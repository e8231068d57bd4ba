//! `cargo xtask evidence`: runs the long tests and the benchmark, and writes what they found.

use std::time::Instant;

use crate::step::{Result, cargo, output, root};

/// A test with a count that CI does not have the time for. It prints its own result, on lines that begin with `evidence:`.
struct Run {
    what: &'static str,
    package: &'static str,
    filter: &'static str,
    variable: &'static str,
    count: &'static str,
}

const RUNS: &[Run] = &[
    Run {
        what: "leakage",
        package: "syntha-tests",
        filter: "test(leakage_under_random_operations)",
        variable: "SYNTHA_LEAKAGE_OPS",
        count: "100000",
    },
    Run {
        what: "model",
        package: "syntha-tests",
        filter: "test(model_says_what_syntha_says)",
        variable: "SYNTHA_MODEL_OPS",
        count: "60000",
    },
    Run {
        what: "loss",
        package: "syntha-tests",
        filter: "test(loss_after_a_kill)",
        variable: "SYNTHA_KILLS",
        count: "200",
    },
    Run {
        what: "lives",
        package: "syntha-tests",
        filter: "test(lives_after_a_kill_are_old_or_new)",
        variable: "SYNTHA_LIFE_KILLS",
        count: "200",
    },
    Run {
        what: "processes",
        package: "syntha-tests",
        filter: "test(processes_on_one_root_are_linearizable)",
        variable: "SYNTHA_PROCESS_OPS",
        count: "100000",
    },
    Run {
        what: "limits",
        package: "syntha-tests",
        filter: "test(limits_admit_one_of_a_hundred_in_two_processes)",
        variable: "SYNTHA_LIMIT_ROUNDS",
        count: "1000",
    },
    Run {
        what: "rivals",
        package: "syntha-tests",
        filter: "test(rivals_leave_one_whole_life_or_none)",
        variable: "SYNTHA_RIVAL_KILLS",
        count: "200",
    },
    Run {
        what: "cancellation",
        package: "syntha-tests",
        filter: "test(cancellation_tears_nothing_and_loses_no_permit)",
        variable: "SYNTHA_CANCELLATIONS",
        count: "20000",
    },
    Run {
        what: "sealed-scan",
        package: "syntha-tests",
        filter: "test(sealed_scan_finds_nothing)",
        variable: "SYNTHA_SCAN_OPS",
        count: "100000",
    },
    Run {
        what: "changed blobs",
        package: "syntha-encryption",
        filter: "test(changed_blobs_are_refused)",
        variable: "SYNTHA_MUTATIONS",
        count: "100000",
    },
    Run {
        what: "vectors",
        package: "syntha-tests",
        filter: "test(each_opens_what_the_other_sealed)",
        variable: "SYNTHA_VECTORS",
        count: "10000",
    },
    Run {
        what: "transfer",
        package: "syntha-tests",
        filter: "test(transfer_is_equal_to_the_byte)",
        variable: "SYNTHA_TRANSFER",
        count: "10000",
    },
    Run {
        what: "rotation",
        package: "syntha-tests",
        filter: "test(rotation_survives_kills_under_load)",
        variable: "SYNTHA_ROTATION_KILLS",
        count: "100",
    },
    Run {
        what: "tampering",
        package: "syntha-tests",
        filter: "binary(audit) & (test(every_kind_of_tampering_is_found) | test(clean_trails_raise_no_alarm) | test(a_changed_row_shows))",
        variable: "SYNTHA_TAMPER_PLACES",
        count: "500",
    },
    Run {
        what: "audit kills",
        package: "syntha-tests",
        filter: "test(audit_kills_leave_a_whole_trail)",
        variable: "SYNTHA_AUDIT_ENTRIES",
        count: "1000000",
    },
    Run {
        what: "audit blocked",
        package: "syntha-tests",
        filter: "test(audit_blocked_loses_nothing)",
        variable: "SYNTHA_BLOCKED_OPS",
        count: "100000",
    },
    Run {
        what: "second verifier",
        package: "syntha-tests",
        filter: "binary(audit) & test(both_say_the_same)",
        variable: "SYNTHA_TRAILS",
        count: "10000",
    },
    Run {
        what: "permissions",
        package: "syntha-mesh",
        filter: "test(decisions_are_the_models)",
        variable: "SYNTHA_PERMISSION_CASES",
        count: "1000000",
    },
    Run {
        what: "tool calls",
        package: "syntha-tools",
        filter: "test(the_bound_agent_acts_in_every_call)",
        variable: "SYNTHA_TOOL_CALLS",
        count: "100000",
    },
    Run {
        what: "time of refusals",
        package: "syntha-identity",
        filter: "test(no_refusal_is_told_by_its_time)",
        variable: "SYNTHA_TIMING",
        count: "2000",
    },
    Run {
        what: "logins at once",
        package: "syntha",
        filter: "test(a_flood_of_logins_refuses_nobody_who_is_in)",
        variable: "SYNTHA_LOGINS",
        count: "2000",
    },
    Run {
        what: "fairness",
        package: "syntha-tests",
        filter: "test(fairness_behind_a_flood_by_order_and_by_the_clock)",
        variable: "SYNTHA_FAIR_PUSHES",
        count: "10000",
    },
    Run {
        what: "scale",
        package: "syntha-tests",
        filter: "test(scale_keeps_users_apart_and_memory_flat)",
        variable: "SYNTHA_SCALE_SECONDS",
        count: "600",
    },
    Run {
        what: "postgres: cancellation, schemas",
        package: "syntha-postgres-tests",
        filter: "test(cancellation_of_a_schema_for_each_user)",
        variable: "SYNTHA_PG_CANCELLATIONS",
        count: "50000",
    },
    Run {
        what: "postgres: cancellation, shared tables",
        package: "syntha-postgres-tests",
        filter: "test(cancellation_of_shared_tables)",
        variable: "SYNTHA_PG_CANCELLATIONS",
        count: "50000",
    },
    Run {
        what: "postgres: cancellation, pgbouncer",
        package: "syntha-postgres-tests",
        filter: "test(cancellation_behind_a_pooler)",
        variable: "SYNTHA_PG_CANCELLATIONS",
        count: "50000",
    },
    Run {
        what: "postgres: kills of the process",
        package: "syntha-postgres-tests",
        filter: "test(killed_processes_lose_nothing_acknowledged)",
        variable: "SYNTHA_PG_KILLS",
        count: "200",
    },
    Run {
        what: "postgres: kills of the server",
        package: "syntha-postgres-tests",
        filter: "test(killed_servers_lose_nothing_acknowledged)",
        variable: "SYNTHA_PG_KILLS",
        count: "200",
    },
];

const IMPORT: Run = Run {
    what: "import",
    package: "syntha-cli",
    filter: "test(a_python_syntha_database_becomes_users_of_their_own)",
    variable: "SYNTHA_IMPORT",
    count: "",
};

const BENCHMARK: &str = "\n## Benchmark\n";

/// Runs everything whose name holds a text, and writes its rows into `docs/evidence.md` as they come. Other rows stay.
pub(crate) fn run(only: &str, import: Option<&str>, bench: bool) -> Result {
    for run in RUNS.iter().filter(|run| run.what.contains(only)) {
        write_row(run.what, &row(run, run.count)?)?;
    }
    if let Some(database) = import.filter(|_| IMPORT.what.contains(only)) {
        write_row(IMPORT.what, &row(&IMPORT, database)?)?;
    }
    if bench {
        println!("\n== benchmark");
        let table = output(&mut cargo(&["run", "--quiet", "--release", "-p", "syntha-benches"]))?;
        println!("{table}");
        let text = format!(
            "{BENCHMARK}\n`cargo xtask bench` at commit {}, the budgets of the design beside it.\n\n```text\n{}\n```\n",
            commit()?,
            table.trim_end()
        );
        let (rows, _) = read()?;
        write(&rows, &text)?;
    }
    Ok(())
}

fn path() -> std::path::PathBuf {
    root().join("docs/evidence.md")
}

/// The page as it stands: the rows, and the benchmark.
fn read() -> Result<(Vec<String>, String)> {
    let text = std::fs::read_to_string(path())?;
    let (table, bench) = match text.split_once(BENCHMARK) {
        Some((table, bench)) => (table, format!("{BENCHMARK}{bench}")),
        None => (text.as_str(), String::new()),
    };
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| what ");
    let rows = table.lines().filter(is_row).map(str::to_owned).collect();
    Ok((rows, bench))
}

/// Puts a row in the place of the one of that name.
fn write_row(what: &str, row: &str) -> Result {
    let (rows, bench) = read()?;
    let name = |line: &str| line.split('|').nth(1).map(|cell| cell.trim().to_owned()).unwrap_or_default();
    let place = |line: &String| {
        let name = name(line);
        RUNS.iter().chain([&IMPORT]).position(|run| run.what == name).unwrap_or(RUNS.len())
    };
    let mut rows: Vec<_> = rows.into_iter().filter(|line| name(line) != what).collect();
    rows.push(row.trim_end().to_owned());
    rows.sort_by_key(place);
    write(&rows, &bench)
}

fn write(rows: &[String], bench: &str) -> Result {
    let text = format!(
        "# Evidence\n\nWritten by `cargo xtask evidence` on {} with {} cores, each row at the commit that it names. CI runs each test at a small count.\n\n\
         | what | commit | command | count | time | result |\n|---|---|---|---|---|---|\n{}\n{bench}",
        std::env::consts::OS,
        std::thread::available_parallelism()?,
        rows.join("\n"),
    );
    std::fs::write(path(), text)?;
    Ok(())
}

fn row(run: &Run, count: &str) -> Result<String> {
    println!("\n== {}: {}={count}", run.what, run.variable);
    // The whole workspace, so that what was built for other tests is used.
    let filter = format!("package({}) & ({})", run.package, run.filter);
    let arguments = [
        "nextest",
        "run",
        "--workspace",
        "--all-features",
        "-E",
        &filter,
        "--no-capture",
        "--profile",
        "evidence",
    ];
    let start = Instant::now();
    let printed = output(cargo(&arguments).env(run.variable, count))?;
    let took = start.elapsed().as_secs();
    let found: Vec<_> = printed.lines().filter_map(|line| line.trim().strip_prefix("evidence: ")).collect();
    let found =
        found.last().ok_or_else(|| format!("{}: the test said nothing of what it found", run.what))?;
    println!("{found} ({took} s)");
    let command =
        format!("{}={count} cargo nextest run --workspace --all-features -E '{filter}'", run.variable);
    Ok(format!("| {} | {} | `{command}` | {count} | {took} s | {found} |\n", run.what, commit()?))
}

/// The commit, and whether the tree differs from it.
fn commit() -> Result<String> {
    let git =
        |arguments: &[&str]| output(std::process::Command::new("git").args(arguments).current_dir(root()));
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let note =
        if changed.lines().all(|line| line.ends_with("docs/evidence.md")) { "" } else { ", with changes" };
    Ok(format!("{}{note}", git(&["rev-parse", "--short", "HEAD"])?.trim()))
}
