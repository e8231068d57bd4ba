//! `syntha bench`: a load of many users on data of its own, and what came of it.

mod chart;
mod figures;
mod folder;
mod load;
mod mix;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::bench::figures::{Figures, Kind};
use crate::bench::folder::Folder;
use crate::bench::load::{Load, Plan};
use crate::bench::mix::Mix;
use crate::opening::{Access, Opening};
use crate::progress::Spinner;
use crate::settings::{Settings, Source};
use crate::{Answer, Result};

/// What is driven, and for how long. The data is a new folder of its own, which is removed afterwards.
#[derive(Args)]
pub(crate) struct Bench {
    /// How many users there are
    #[arg(long, default_value = "100", value_name = "N")]
    users: NonZeroUsize,
    /// How many of them work at a time; who has done a while's work makes room for the next. Default: all, at most 2000
    #[arg(long, value_name = "N")]
    active: Option<NonZeroUsize>,
    /// How many agents each has, which all work at once
    #[arg(long, default_value = "4", value_name = "N")]
    agents: NonZeroUsize,
    /// How long, in seconds
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// What share of the calls is what: weights of `get`, `push`, `list` and `remove`
    #[arg(long, default_value = "get=70,push=20,list=5,remove=5", value_name = "WEIGHTS")]
    mix: Mix,
    /// The bytes of a value's JSON text, 64 to 1000000
    #[arg(long, default_value = "300", value_name = "BYTES", value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    value_bytes: u32,
    /// How many keys each agent writes to
    #[arg(long, default_value = "25", value_name = "N")]
    keys: NonZeroUsize,
    /// How many calls each agent makes in a second. Without it, each makes the next as soon as the last is answered
    #[arg(long, value_name = "CALLS")]
    rate: Option<f64>,
    /// In every second eighth of the time, one more user writes as fast as it can, with so many writes waiting at all times: what that does to
    /// the others is shown. Best with --rate
    #[arg(long, value_name = "WRITES")]
    flood: Option<NonZeroUsize>,
    /// Where the data is made: a folder that is not there yet. Default: beside the data folder, which is not touched
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Writes a chart
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// The most users that work at a time, unless somebody says.
const ACTIVE: usize = 2_000;

pub(crate) async fn run(bench: Bench, opening: &Opening) -> Result<(Answer, bool)> {
    if bench.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e6)) {
        return Err("--rate is a number of calls above 0, at most 1000000".into());
    }
    if opening.settings.database.is_some() {
        return Err("bench drives data folders of its own: give it --data in the place of --postgres".into());
    }
    let folder = Folder::new(bench.folder.as_deref(), &opening.settings.data)?;
    let (users, host) = Opening::new(settings(opening, &folder))?.passing().open(Access::Alone).await?;
    let all = bench.users.get();
    let plan = Plan {
        users: all,
        active: bench.active.map_or(ACTIVE, NonZeroUsize::get).min(all),
        agents: bench.agents.get(),
        time: Duration::from_secs(bench.seconds),
        mix: bench.mix,
        value_bytes: usize::try_from(bench.value_bytes).unwrap_or(usize::MAX),
        keys: bench.keys.get(),
        pause: bench.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
        flood: bench.flood.map(NonZeroUsize::get),
    };
    let sealed = users.sealing().is_some();
    let audited = users.audit().is_some();
    let spinner = Spinner::new("working");
    let (users, figures) = Load::drive(plan, users, host, |done| spinner.say(done)).await?;
    drop(spinner);
    users.shutdown().await?;
    if let Some(path) = &bench.svg {
        std::fs::write(path, chart::svg(&plan, &figures)?)
            .map_err(|error| format!("can't write {}: {error}", path.display()))?;
    }
    let is_right = figures.errors() == 0 && figures.foreign == 0;
    Ok((answer(&plan, &figures, sealed, audited), is_right))
}

/// The settings of the data that is made: what the trail is told and whether it is sealed are the caller's; keys are new.
fn settings(opening: &Opening, folder: &Folder) -> Settings {
    let own = &opening.settings;
    Settings {
        data: folder.data(),
        database: None,
        walls: own.walls,
        state: folder.data(),
        owner: None,
        app_role: None,
        source: own.source.as_ref().filter(|source| matches!(source, Source::Plain)).map(|_| Source::Plain),
        keystore: None,
        values: own.values,
        user_passphrase: None,
        token: None,
        audit: own.audit,
        audit_key_file: None,
        audit_limit: own.audit_limit,
        limits: own.limits.clone(),
        plans: own.plans.clone(),
    }
}

fn answer(plan: &Plan, figures: &Figures, sealed: bool, audited: bool) -> Answer {
    let mut lines = vec![format!(
        "{} users, {} at a time, {} agents each, {} s of {}; values of {} bytes; {}, {}",
        plan.users,
        plan.active,
        plan.agents,
        plan.time.as_secs(),
        plan.mix,
        plan.value_bytes,
        if sealed { "sealed" } else { "not sealed" },
        if audited { "audited" } else { "no trail" },
    )];
    lines.push(String::new());
    let seconds = figures.seconds.max(f64::MIN_POSITIVE);
    #[expect(clippy::cast_precision_loss, reason = "a rate to be shown")]
    let rate = |count: u64| count as f64 / seconds;
    lines.push(format!(
        "{:8} {:>11} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "call", "count", "a second", "median", "p99", "p99.9", "most"
    ));
    let mut calls = json!({});
    for kind in Kind::ALL {
        let latency = figures.latency(kind);
        if latency.count == 0 {
            continue;
        }
        lines.push(format!(
            "{:8} {:>11} {:>10.0} {:>10} {:>10} {:>10} {:>10}",
            kind.name(),
            latency.count,
            rate(latency.count),
            time(latency.median),
            time(latency.p99),
            time(latency.p999),
            time(latency.most)
        ));
        crate::quickstart::insert(&mut calls, kind.name(), latency.value());
    }
    let total = figures.total();
    lines.push(format!("{:8} {total:>11} {:>10.0}", "all", rate(total)));
    lines.push(String::new());
    lines.push(format!(
        "errors {}, turned away {}, values of another user {}",
        figures.errors(),
        figures.shed,
        figures.foreign
    ));
    lines.extend(figures.failures.iter().map(|(kind, count)| format!("  {kind}: {count}")));
    let fairness = figures.fairness();
    lines.push(format!(
        "fairness {:.4} (Jain's index of the calls of those at work: 1 is equal), least {} and most {} calls",
        fairness.index, fairness.least, fairness.most
    ));
    let machine = figures.machine();
    match &machine {
        Some(machine) => {
            lines.push(format!(
                "memory {} at the start, {} at half time, {} at the end, {} most",
                mebibytes(machine.start),
                mebibytes(machine.half),
                mebibytes(machine.end),
                mebibytes(machine.most)
            ));
            lines.push(format!("descriptors {} most, threads {} most", machine.descriptors, machine.threads));
        }
        None => lines.push("memory, descriptors and threads: this system does not tell".into()),
    }
    let flood = figures.flood();
    if let Some(flood) = &flood {
        lines.push(String::new());
        lines.push(format!(
            "beside a user with {} writes waiting, who did {} a second:",
            flood.writes,
            flood.rate.round()
        ));
        for (kind, alone, beside) in &flood.calls {
            lines.push(format!(
                "  {:8} median {} alone, {} beside ({:.2}×); p99 {}, {} ({:.2}×)",
                kind.name(),
                time(alone.median),
                time(beside.median),
                ratio(beside.median, alone.median),
                time(alone.p99),
                time(beside.p99),
                ratio(beside.p99, alone.p99),
            ));
        }
    }
    let value = json!({
        "users": plan.users, "active": plan.active, "agents": plan.agents, "seconds": figures.seconds,
        "value_bytes": plan.value_bytes, "mix": plan.mix.to_string(), "sealed": sealed, "audited": audited,
        "calls": calls, "total": total, "rate": rate(total),
        "errors": figures.errors(), "failures": figures.failures, "shed": figures.shed, "foreign": figures.foreign,
        "fairness": { "jain": fairness.index, "least": fairness.least, "most": fairness.most },
        "machine": machine.map(|machine| machine.value()),
        "flood": flood.map(|flood| flood.value()),
        "series": figures.series_value(),
    });
    Answer { lines, value }
}

/// A time in the unit in which it has up to three digits before the point.
fn time(nanoseconds: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a time to be shown")]
    let number = nanoseconds as f64;
    match nanoseconds {
        ..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} µs", number / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", number / 1e6),
        _ => format!("{:.2} s", number / 1e9),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio to be shown")]
fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / (to.max(1)) as f64
}

#[expect(clippy::cast_precision_loss, reason = "a size to be shown")]
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_their_unit() {
        let shown = [950, 1_500, 999_900, 12_340_000, 2_500_000_000].map(time);
        assert_eq!(shown, ["950 ns", "1.5 µs", "999.9 µs", "12.3 ms", "2.50 s"]);
    }
}
