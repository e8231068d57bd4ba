//! `cargo xtask bench`: what Syntha costs beside the bare engine, in one run on one machine.
//!
//! Each row is the median of interleaved pairs with its minimum and maximum. *Bare* is the same rows, pragmas and durability in
//! hand-written statements of the same driver, or for reads a `RwLock<HashMap>`. Values have 300 bytes and change on every write.
//! Nothing is sealed or audited but in the rows that say so, and there *bare* is what the row says.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what it is for")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that can't run stops")]

mod audited;
mod bare;
mod crowd;
mod large;
mod pair;
mod peers;
mod postgres;
mod reads;
mod sealed;
mod writes;

use clap::Parser;

use crate::pair::Report;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measures Syntha beside the bare engine")]
struct Arguments {
    /// Prints JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Pairs of each row
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Users of the rows with many users
    #[arg(long, default_value_t = 10_000)]
    users: usize,
    /// Only rows whose name holds this text
    #[arg(long, default_value = "")]
    only: String,
    /// Measures one half of each pair, for a profiler; its ratios mean nothing
    #[arg(long, hide = true)]
    side: Option<pair::Side>,
    /// What a process of its own does for the row of idle users
    #[arg(long, hide = true)]
    idle_in: Option<std::path::PathBuf>,
    /// Measures beside the Python packages instead, and writes docs/benchmarks.md and docs/benchmarks.svg (some minutes)
    #[arg(long)]
    peers: bool,
    /// Rounds of `--peers`
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// With `--peers`: installs what the machine lacks, where it may
    #[arg(long, requires = "peers")]
    install: bool,
    /// With `--peers`: measures nothing and writes the documents again from the last run's figures
    #[arg(long, requires = "peers")]
    rewrite: bool,
    /// What a process of its own does in a round of `--peers`
    #[arg(long, hide = true, num_args = 2..=3)]
    as_peer: Option<Vec<String>>,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    if let Some(data) = &arguments.idle_in {
        crowd::idle_child(data, arguments.users).await;
        return;
    }
    if let Some(call) = arguments.as_peer {
        // A task of its own: callers run on a worker of the runtime, as in a server.
        tokio::spawn(peers::ours::answer(call)).await.unwrap();
        return;
    }
    if arguments.peers {
        if let Err(error) = peers::run(arguments.rounds, arguments.install, arguments.rewrite) {
            eprintln!("\nbench --peers: {error}");
            std::process::exit(1);
        }
        return;
    }
    if std::env::var_os(postgres::FSYNC).is_none() {
        let again = std::process::Command::new(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .env(postgres::FSYNC, "1")
            .status();
        std::process::exit(again.unwrap().code().unwrap_or(1));
    }
    let mut report = Report::new(arguments.pairs, &arguments.only, arguments.side);
    // A task of its own: callers run on a worker of the runtime, as in a server.
    let run = tokio::spawn(async move {
        reads::run(&mut report).await;
        writes::run(&mut report).await;
        sealed::run(&mut report).await;
        audited::run(&mut report).await;
        crowd::run(&mut report, arguments.users).await;
        large::run(&mut report).await;
        postgres::run(&mut report).await;
        report
    });
    let report = run.await.unwrap();
    if arguments.json {
        println!("{}", report.json());
    } else {
        println!("{}", report.text());
    }
}
