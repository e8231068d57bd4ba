//! The document with the tables.

use std::fmt::Write as _;

use super::figures::{Contestant, ROWS, Row, Run, figure, ratio};

const INTRODUCTION: &str = "\
`cargo xtask bench --peers` wrote this page and the chart. It makes a virtual environment with the packages that
[`requirements.txt`](../benches/peers/requirements.txt) names, and measures in rounds: Syntha, then each peer, then Syntha again.
Each is a process of its own, in a fresh folder on the same file system, as an account that owns nothing else. A sample is the mean
of one batch in one round; the tables show the median of the rounds. Values have 300 bytes and change on every write. Everyone has the
settings that it has when nothing is set, but for Syntha, which is told to neither seal nor audit, as none of the peers does. `cargo xtask bench` measures Syntha
beside the bare engine, and what sealing and the audit trail cost.
";

const COMPARABLE: &str = "\
- **Languages.** The peers are called from Python, Syntha from Rust: each in the language it is made for. A Python call has a cost
  of its own and Areev's calls carry JSON text, so a part of each short figure is the binding's, not the store's.
- **What a user is.** For Syntha and Areev's own calls a user is a file. For the Python Syntha a user is a column in a file of all users;
  for LangGraph, also over Areev, a namespace that every caller names anew and may get wrong. A new user costs those little because nothing is set apart.
- **What a get gives.** Syntha and the Python Syntha check that the agent may see the entry. The others have no agents and check nothing.
  From memory each hands out what it holds: Syntha the shared entry with its JSON text, the Python Syntha and LangGraph's in-memory store the
  Python string itself. The decoded rows are for a caller in Rust who wants a string of their own, which the peers' callers have at once.
  LangGraph's SQLite store and Areev hold no values and decode at each get.
- **What a push keeps.** Areev's write adds a version to a history and updates more indexes; it does more than the others for its time.
  None of them encrypts here. Areev can, which is off unless a passphrase is given.
- **What durable means.** The table of settings says it. The Python Syntha asks SQLite for less than the others (`synchronous=1`), LangGraph's
  in-memory store keeps nothing and has no figure in the rows that write.
- **64 at once.** LangGraph's asynchronous SQLite store and Syntha put waiting writes together in one commit; the others take a lock and write one by one.
- **Memory.** A process of its own opens users who are there and reads a little; the figure is its resident memory beyond the first tenth of the users,
  by user. Where users are rows of one file there is nothing to hold, but page caches grow. The Python Syntha has a file for each user here, as that
  costs it less than its usual shared file.
";

/// The whole page.
pub(crate) fn markdown(run: &Run) -> String {
    let mut page = format!(
        "# Benchmarks beside the peers\n\n{INTRODUCTION}\n![Chart](benchmarks.svg)\n\n{}## Medians\n\n",
        warning(run)
    );
    write_medians(&mut page, run);
    page.push_str("\n## Settings and durability\n\n");
    write_settings(&mut page, run);
    page.push_str("\n## What is not comparable\n\n");
    page.push_str(COMPARABLE);
    page.push_str("\n## Each figure\n\n");
    write_figures(&mut page, run);
    page.push_str("\n## The machine\n\n");
    let _ = writeln!(page, "| | |\n|---|---|\n| rounds | {} |", run.rounds);
    for (name, value) in &run.machine {
        let _ = writeln!(page, "| {} | {} |", cell(name), cell(value));
    }
    page
}

fn write_medians(page: &mut String, run: &Run) {
    page.push_str("In brackets how many times Syntha's figure it is. A dash: it can't be measured there, and [below](#each-figure) is why.\n\n");
    let names = run.contestants.iter().map(|contestant| cell(&contestant.name));
    let _ = writeln!(page, "| work | {} | budget |", names.collect::<Vec<_>>().join(" | "));
    let _ = writeln!(page, "|---|{}---|", "--:|".repeat(run.contestants.len()));
    for row in ROWS {
        let _ = write!(page, "| {} |", row.title);
        for (contestant, number) in run.contestants.iter().zip(0..) {
            let text = contestant.found(row).map_or_else(
                || "–".to_owned(),
                |spread| match beside(run, row, contestant) {
                    _ if number == 0 => format!("**{}**", figure(spread.median, row.unit)),
                    Some(times) => format!("{} ({times})", figure(spread.median, row.unit)),
                    None => figure(spread.median, row.unit),
                },
            );
            let _ = write!(page, " {text} |");
        }
        let (words, kept) = row.budget.verdict(row, run);
        let kept = match kept {
            Some(true) => ": kept",
            Some(false) => ": **missed**",
            None => "",
        };
        let _ = writeln!(page, " {words}{kept} |");
    }
}

/// What a reader must know before the figures, where they are not to be relied on.
fn warning(run: &Run) -> &'static str {
    if run.busy || run.rounds < 3 {
        "**These figures are not to be relied on**: the run had fewer than three rounds, or the machine did other work (see its load [below](#the-machine)).\n\n"
    } else {
        ""
    }
}

/// How many times Syntha's median a contestant's is.
fn beside(run: &Run, row: &Row, contestant: &Contestant) -> Option<String> {
    let ours = run.contestants.first()?.found(row)?;
    ratio(contestant.found(row)?.median, ours.median)
}

fn write_settings(page: &mut String, run: &Run) {
    page.push_str("The Python Syntha's and LangGraph's SQLite settings are PRAGMAs asked of the open store. The others' are what their source or documentation says and what\nfiles they make: Areev's engine can't be asked. Syncs are counted by `strace` for everyone, over 20 pushes, one by one, to a key that is there.\n\n");
    page.push_str("| who | versions | settings | syncs of a push |\n|---|---|---|--:|\n");
    for contestant in &run.contestants {
        let syncs = contestant.syncs.map_or_else(|| "not counted".into(), |syncs| format!("{syncs:.1}"));
        let versions = cell(&contestant.versions.join(", "));
        let _ = writeln!(
            page,
            "| {} | {versions} | {} | {syncs} |",
            cell(&contestant.name),
            cell(&contestant.settings)
        );
    }
}

fn write_figures(page: &mut String, run: &Run) {
    page.push_str("| work | who | median | lowest to highest | beside Syntha | what was measured |\n|---|---|--:|--:|--:|---|\n");
    for row in ROWS {
        for (contestant, number) in run.contestants.iter().zip(0..) {
            let title = if number == 0 { row.title } else { "" };
            let name = cell(&contestant.name);
            let Some(spread) = contestant.found(row) else {
                let _ = writeln!(page, "| {title} | {name} | – | – | – | {} |", cell(contestant.absent(row)));
                continue;
            };
            let [median, low, high] =
                [spread.median, spread.low, spread.high].map(|number| figure(number, row.unit));
            let times = beside(run, row, contestant).filter(|_| number > 0).unwrap_or_default();
            let note = contestant.notes.get(row.id).map_or("", String::as_str);
            let _ =
                writeln!(page, "| {title} | {name} | {median} | {low} – {high} | {times} | {} |", cell(note));
        }
    }
}

/// Text that can't end a cell, begin a line or become markup.
fn cell(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::figures::sample_run;

    #[test]
    fn the_table_has_ratios_and_budgets() {
        let page = markdown(&sample_run());
        for line in [
            "| work | Syntha | Python Syntha | &lt;b>&amp;\"x\"\\| | budget |",
            "|---|--:|--:|--:|---|",
            "| get all of 1,000 | **2.00 µs** | 40.0 µs (20.0×) | 40.0 µs (20.0×) | ≥ 40× faster than Python Syntha: **missed** |",
            "| durable push, one by one | **2.00 µs** | – | – | ahead of every peer: kept |",
            "| descriptors of an idle user | **0** | 0 | 0 | ≤ 0: kept |",
            "| durable push, one by one | Syntha | 2.00 µs | 1.00 µs – 3.00 µs |  | a\\|b |",
            "|  | Python Syntha | – | – | – | no &lt;disk> \\| \"none\" |",
            "| Syntha | p 1 | WAL &amp; &lt;more> | 1.0 |",
            "| Python Syntha | p 1 | WAL &amp; &lt;more> | not counted |",
            "| processor | A &amp; B &lt;c>\\| |",
            "| rounds | 3 |",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\nis missing in\n{page}");
        }
        assert_eq!(page, markdown(&sample_run()));
    }

    #[test]
    fn a_busy_or_short_run_is_marked() {
        let mut run = sample_run();
        assert!(!markdown(&run).contains("not to be relied on"));
        run.busy = true;
        assert!(markdown(&run).contains("not to be relied on"));
        (run.busy, run.rounds) = (false, 2);
        assert!(markdown(&run).contains("not to be relied on"));
    }

    #[test]
    fn no_text_leaves_its_cell() {
        assert_eq!(cell("a|b\nc<d>&"), "a\\|b c&lt;d>&amp;");
    }
}
