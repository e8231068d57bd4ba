//! `cargo xtask conformance-report`: runs the checks on backends and prints what they found.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use syntha_conformance::{
    Harness, MemoryHarness, Report, SharedSqliteHarness, SqliteHarness, mesh_checks, run, store_checks,
};

#[derive(Parser)]
#[command(name = "cargo xtask conformance-report", about = "Runs the conformance checks on backends")]
struct Arguments {
    /// The backends to check
    #[arg(long, value_enum, default_value = "all")]
    backend: Backend,
    /// How to print the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    Memory,
    Sqlite,
    SqliteShared,
    All,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    Markdown,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut harnesses: Vec<Box<dyn Harness>> = Vec::new();
    let wanted = |backend| [Backend::All, backend].contains(&arguments.backend);
    if wanted(Backend::Memory) {
        harnesses.push(Box::new(MemoryHarness));
    }
    if wanted(Backend::Sqlite) {
        harnesses.push(Box::new(SqliteHarness { fault: None }));
    }
    if wanted(Backend::SqliteShared) {
        harnesses.push(Box::new(SharedSqliteHarness { fault: None }));
    }
    let mut reports: Vec<Report> = Vec::new();
    for harness in &harnesses {
        reports.push(run(&**harness, &[store_checks(), mesh_checks()].concat()).await);
    }
    match arguments.format {
        Format::Text => reports.iter().for_each(|report| println!("{}", report.text())),
        Format::Json => println!("{}", reports.iter().map(Report::json).collect::<serde_json::Value>()),
        Format::Markdown => println!("{}", Report::markdown(&reports)),
    }
    if reports.iter().all(|report| report.failed().is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
