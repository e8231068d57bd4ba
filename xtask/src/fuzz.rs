//! `cargo xtask fuzz`: gives the targets of `fuzz/` arbitrary bytes for a while. Needs a nightly toolchain, so it is not part of `ci`.
//!
//! It calls libFuzzer as `cargo fuzz run` does, which works in that folder too where it is installed.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::step::{Result, cargo, output, root, run};

const TARGETS: &[&str] = &["envelope", "wrap", "stream", "archive", "image", "rows", "keystore", "trail"];
/// What makes a build tell libFuzzer where an input led.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Ccodegen-units=1";

/// Builds every target, or one, and runs each for so many seconds. Fails if one found something.
pub(crate) fn run_all(seconds: u32, only: Option<&str>) -> Result {
    if let Some(only) = only.filter(|only| !TARGETS.contains(only)) {
        return Err(format!("there is no target `{only}`, only {}", TARGETS.join(", ")).into());
    }
    let chosen: Vec<_> =
        TARGETS.iter().copied().filter(|target| only.is_none_or(|only| only == *target)).collect();
    let folder = root().join("fuzz");
    let mut probe = nightly(&folder);
    if output(probe.arg("--version")).is_err() {
        return Err("a nightly toolchain is missing: run `rustup toolchain install nightly`".into());
    }
    let host = host()?;
    let mut seeds = cargo(&["run", "--quiet", "--bin", "seeds", "--", "corpus"]);
    run("seeds", seeds.current_dir(&folder))?;
    let mut build = nightly(&folder);
    build.args(["build", "--quiet", "--release", "--features", "fuzzer", "--target", &host]);
    chosen.iter().for_each(|target| {
        build.args(["--bin", target]);
    });
    run("building the targets", build.env("RUSTFLAGS", FLAGS))?;
    let (mut lines, mut failed) = (Vec::new(), Vec::new());
    for target in chosen {
        println!("\n== {target}: {seconds} s");
        let artifacts = folder.join("artifacts").join(target);
        std::fs::create_dir_all(&artifacts)?;
        let mut fuzzer = Command::new(folder.join("target").join(&host).join("release").join(target));
        fuzzer
            .current_dir(&folder)
            .arg(format!("corpus/{target}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-max_total_time={seconds}"))
            // The longest that some target looks at.
            .args(["-max_len=8192", "-timeout=10", "-print_final_stats=1", "-verbosity=0"])
            .stdin(Stdio::null());
        let ended = fuzzer.output()?;
        let told = String::from_utf8_lossy(&ended.stderr);
        let executions = told.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        let executions = executions.unwrap_or("an unknown number of").trim();
        let found = if ended.status.success() { "nothing found" } else { "FOUND something" };
        lines.push(format!("{target:10} {executions:>10} executions in {seconds} s, {found}"));
        if !ended.status.success() {
            println!("{told}");
            failed.push(target);
        }
    }
    println!("\n{}", lines.join("\n"));
    if failed.is_empty() { Ok(()) } else { Err(format!("found something: {}", failed.join(", ")).into()) }
}

/// The nightly toolchain's cargo, in a folder. The one that runs this has set its own toolchain for its children.
fn nightly(folder: &Path) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).current_dir(folder);
    for variable in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command
}

fn host() -> Result<String> {
    let told = output(Command::new("rustc").arg("-vV"))?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("rustc does not say what it builds for")?.to_owned())
}
