//! `cargo xtask bench --peers`: Syntha and Python packages for the same work, by turns, and the documents about it.

mod account;
mod chart;
mod figures;
pub(crate) mod ours;
mod page;
mod venv;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use self::account::Account;
use self::figures::{Answer, Contestant, Run};

pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const SHARED: &str = include_str!("../../peers/measure.py");

/// The peers, by name and script.
const PEERS: &[(&str, &str)] = &[
    ("Python Syntha", include_str!("../../peers/python_syntha.py")),
    ("LangGraph InMemoryStore", include_str!("../../peers/langgraph_memory.py")),
    ("LangGraph SqliteStore", include_str!("../../peers/langgraph_sqlite.py")),
    ("Areev", include_str!("../../peers/areev_native.py")),
    ("Areev for LangGraph", include_str!("../../peers/areev_store.py")),
];

/// One program that answers the calls which `measure.py` describes.
struct Entrant {
    name: &'static str,
    /// The program and its first arguments.
    words: Vec<String>,
    answers: Vec<Answer>,
}

/// Measures everyone, keeps the figures in `target/peers`, and writes the page and the chart.
pub(crate) fn run(rounds: u32, install: bool, rewrite: bool) -> Result {
    let program = std::env::current_exe()?;
    let folder = program.ancestors().nth(2).ok_or("the benchmark is not in a target folder")?.join("peers");
    let kept = folder.join("figures.json");
    if !rewrite {
        let run = measure(rounds, install, &program, &folder)?;
        std::fs::write(&kept, serde_json::to_string_pretty(&run)?)?;
    }
    let text = std::fs::read_to_string(&kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    let run: Run = serde_json::from_str(&text)?;
    let docs = root().join("docs");
    std::fs::write(docs.join("benchmarks.md"), page::markdown(&run))?;
    std::fs::write(docs.join("benchmarks.svg"), chart::svg(&run))?;
    println!("wrote docs/benchmarks.md and docs/benchmarks.svg");
    Ok(())
}

fn measure(rounds: u32, install: bool, program: &Path, folder: &Path) -> Result<Run> {
    let account = Account::new()?;
    let python = venv::ready(&account, folder, install)?;
    let mut entrants = entrants(&account, program, &python)?;
    let machine = machine(&account);
    // What compiled this program may still be in the average, so one task is no sign.
    let busy = load() > 1.5;
    for round in 1..=rounds {
        for (entrant, number) in entrants.iter_mut().zip(0..) {
            let start = Instant::now();
            let place = account.make_folder(&format!("round-{round}-{number}"))?;
            let text = account.output(&call(&entrant.words, "rows", &place, None))?;
            entrant.answers.push(
                serde_json::from_str(&text)
                    .map_err(|error| format!("{}: not an answer: {error}", entrant.name))?,
            );
            std::fs::remove_dir_all(&place)?;
            println!("round {round} of {rounds}: {}, {:.1} s", entrant.name, start.elapsed().as_secs_f64());
        }
    }
    let mut contestants = Vec::new();
    for (entrant, number) in entrants.iter().zip(0..) {
        let syncs = syncs(&account, entrant, number);
        if let Err(error) = &syncs {
            println!("{}: syncs are not counted: {error}", entrant.name);
        }
        contestants.extend(Contestant::of(entrant.name, syncs.ok(), &entrant.answers));
    }
    Ok(Run { rounds, busy, machine, contestants })
}

fn entrants(account: &Account, program: &Path, python: &Path) -> Result<Vec<Entrant>> {
    // A copy, because the account may not be able to reach the target folder.
    let ours = account.add_program("syntha-bench", &std::fs::read(program)?)?;
    account.add_program("measure.py", SHARED.as_bytes())?;
    let mut entrants =
        vec![Entrant { name: "Syntha", words: vec![text(&ours), "--as-peer".into()], answers: Vec::new() }];
    for ((name, source), number) in PEERS.iter().zip(0..) {
        let script = account.add_program(&format!("peer_{number}.py"), source.as_bytes())?;
        entrants.push(Entrant { name, words: vec![text(python), text(&script)], answers: Vec::new() });
    }
    Ok(entrants)
}

fn call(words: &[String], verb: &str, folder: &Path, count: Option<u32>) -> Vec<String> {
    let mut words = words.to_vec();
    words.extend([verb.to_owned(), text(folder)]);
    words.extend(count.map(|count| count.to_string()));
    words
}

/// How often a push makes the kernel sync: the difference between 20 pushes and none.
fn syncs(account: &Account, entrant: &Entrant, number: u32) -> Result<f64> {
    const PUSHES: u32 = 20;
    let mut counts = Vec::new();
    for pushes in [0, PUSHES] {
        let place = account.make_folder(&format!("syncs-{number}-{pushes}"))?;
        let log = place.join("strace");
        let trace = "trace=fsync,fdatasync,sync_file_range,msync,syncfs,sync";
        let mut words: Vec<String> =
            ["strace", "-f", "-qq", "-e", trace, "-e", "signal=none", "-o"].map(str::to_owned).into();
        words.push(text(&log));
        words.extend(call(&entrant.words, "syncs", &place, Some(pushes)));
        account.output(&words)?;
        let text = std::fs::read_to_string(&log)?;
        counts.push(text.lines().filter(|line| line.contains('(')).count() as f64);
    }
    Ok((counts[1] - counts[0]) / f64::from(PUSHES))
}

/// What it runs on, by name.
fn machine(account: &Account) -> Vec<(String, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let folder = text(account.path());
    let disk = said(&["df", "--output=fstype,source", &folder]);
    let load = read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    // The page itself and other documents do not change what was measured.
    let changed =
        said(&["git", "status", "--porcelain", "--", "crates", "benches", "Cargo.lock", "Cargo.toml"]);
    let changed = if changed.is_empty() { "" } else { ", with changes that are not committed" };
    [
        ("commit", format!("{}{changed}", said(&["git", "rev-parse", "HEAD"]))),
        ("date", said(&["date", "-u", "+%Y-%m-%d"])),
        ("processor", format!("{}, {cores} cores", model.trim_start_matches(['\t', ' ', ':']))),
        (
            "kernel",
            format!(
                "{} {}",
                read("/proc/sys/kernel/ostype").trim(),
                read("/proc/sys/kernel/osrelease").trim()
            ),
        ),
        (
            "file system",
            disk.lines().last().unwrap_or("unknown").split_whitespace().collect::<Vec<_>>().join(" on "),
        ),
        ("load before (1, 5, 15 minutes)", load),
        ("run as", account.name()),
        ("compiler", said(&["rustc", "--version"])),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Tasks that wanted to run in the last minute, 0 if the system does not say.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

fn said(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).current_dir(root()).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
