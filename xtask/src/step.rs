//! Running other programs, with a heading and the time that each took.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The result of a step; its text says what failed.
pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Whether everything is built once, and never again after a change.
static ONCE: AtomicBool = AtomicBool::new(false);

/// Nothing is kept for a next build that does only what changed: writing that down takes time.
pub(crate) fn build_once() {
    ONCE.store(true, Ordering::Relaxed);
}

/// A cargo command in the workspace's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    if ONCE.load(Ordering::Relaxed) {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// Runs a command and fails with its name if it does.
pub(crate) fn run(heading: &str, command: &mut Command) -> Result {
    timed(heading, || status(heading, command))
}

/// Runs a command whose own last line is to be the last one printed.
pub(crate) fn run_last(heading: &str, command: &mut Command) -> Result {
    println!("\n== {heading}");
    status(heading, command)
}

/// Runs a program of the workspace with arguments that it understands itself, and prints nothing of its own.
pub(crate) fn pass_on(program: &[&str], arguments: &[String]) -> Result {
    let mut command = cargo(&["run", "--quiet"]);
    status(program.last().unwrap_or(&"program"), command.args(program).arg("--").args(arguments))
}

fn status(heading: &str, command: &mut Command) -> Result {
    let status = command.status().map_err(|error| format!("{heading}: can't start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{heading}: failed ({status})").into()) }
}

/// Runs a command and gives what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Prints a heading before and the time after.
pub(crate) fn timed(heading: &str, work: impl FnOnce() -> Result) -> Result {
    println!("\n== {heading}");
    let start = Instant::now();
    work()?;
    println!("== {heading}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}
