//! The workspace's own commands: `cargo xtask ci` is what CI runs and what a laptop runs.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its terminal")]

mod ci;
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
    /// Checks the house rules that no other tool knows.
    Tidy,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Ci { install } => ci::run_ci(install),
        Verb::Tidy => tidy::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error}");
            ExitCode::FAILURE
        }
    }
}
