//! The workspace's own commands: `cargo xtask ci` is what CI runs and what a laptop runs.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its terminal")]

mod ci;
mod conformance;
mod consumers;
mod evidence;
mod fuzz;
mod step;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The workspace's own commands")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs every check: formatting, lints, documents, feature sets, dependency rules, house rules, tests.
    Ci {
        /// Installs what the machine lacks, where it may.
        #[arg(long)]
        install: bool,
    },
    /// Measures Syntha beside the bare engine, or beside its peers; see `--help` after it
    #[command(disable_help_flag = true)]
    Bench {
        /// `--json`, `--pairs N`, `--users N`, `--only TEXT`; or `--peers`, `--rounds N`, `--install`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs the long tests and the benchmark and writes `docs/evidence.md` (about ten minutes)
    Evidence {
        /// Only tests whose name holds this text
        #[arg(long, default_value = "")]
        only: String,
        /// A database of the Python package to import, made as tests/python-syntha/README.md says
        #[arg(long)]
        import: Option<String>,
        /// Leaves the benchmark out
        #[arg(long)]
        no_bench: bool,
    },
    /// Runs the conformance checks on backends, each as a test of its own
    Conformance {
        /// The backend
        #[arg(long, value_enum, default_value = "all")]
        backend: conformance::Backend,
        /// Which layers lie over it
        #[arg(long, value_enum, default_value = "all")]
        form: conformance::Form,
        /// Only checks whose name holds this text
        #[arg(long, value_name = "TEXT")]
        check: Option<String>,
    },
    /// The same without layers on memory and SQLite, as one report; see `--help` after it
    #[command(disable_help_flag = true)]
    ConformanceReport {
        /// `--backend memory|sqlite|all`, `--format text|json|markdown`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Checks the house rules that no other tool knows.
    Tidy,
    /// Gives arbitrary bytes to everything that reads sealed or foreign files (needs a nightly toolchain)
    Fuzz {
        /// Of each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Only this one
        #[arg(long)]
        target: Option<String>,
    },
    /// Packages the published crates, and builds and runs a consumer of each
    Consumers,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Ci { install } => ci::run_ci(install),
        Verb::Bench { arguments } => {
            step::pass_on(&["--release", "-p", "syntha-benches", "--bin", "syntha-bench"], &arguments)
        }
        Verb::Evidence { only, import, no_bench } => evidence::run(&only, import.as_deref(), !no_bench),
        Verb::Conformance { backend, form, check } => conformance::run(backend, form, check.as_deref()),
        Verb::ConformanceReport { arguments } => {
            step::pass_on(&["-p", "syntha-tests", "--bin", "syntha-conformance-report"], &arguments)
        }
        Verb::Fuzz { seconds, target } => fuzz::run_all(seconds, target.as_deref()),
        Verb::Tidy => tidy::run(),
        Verb::Consumers => consumers::package().and_then(|()| consumers::check()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error}");
            ExitCode::FAILURE
        }
    }
}
