//! The chart: a panel for each row, a bar for each contestant, a logarithmic scale. Plain SVG, light or dark as the reader's system is.

use std::fmt::Write as _;

use super::figures::{Contestant, ROWS, Row, Run, Unit, figure};

const WIDTH: f64 = 880.0;
/// Where bars begin and where the scale ends; names stand before, values after.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 770.0;
const HEAD: f64 = 64.0;
const TITLE: f64 = 26.0;
const BAR: f64 = 16.0;
const STEP: f64 = 21.0;
const SCALE: f64 = 34.0;

const STYLE: &str = "\
text{font:12px system-ui,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}\
.back{fill:#fff}.h{font-size:16px;font-weight:600}.t{font-weight:600}.q{fill:#59636e}.s{font-size:10px;fill:#59636e}\
.us{fill:#0969da}.peer{fill:#a5afba}.grid{stroke:#d8dee4}.range{stroke:#1f2328;stroke-opacity:.55;stroke-width:1.5}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.back{fill:#0d1117}.q,.s{fill:#9198a1}\
.us{fill:#4493f8}.peer{fill:#57606a}.grid{stroke:#2a313c}.range{stroke:#e6edf3}}";

/// The chart of all rows that have a scale.
pub(crate) fn svg(run: &Run) -> String {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.unit != Unit::Count).collect();
    let panel = TITLE + STEP * run.contestants.len() as f64 + SCALE;
    let height = HEAD + panel * rows.len() as f64;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>Syntha beside its peers</title>\n<style>{STYLE}</style>\n\
         <rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\"/>"
    );
    let under = format!(
        "Medians (rounds: {}), the line from lowest to highest. Shorter is better; each mark of the scale is ten times the one before.",
        run.rounds
    );
    write_text(&mut svg, (16.0, 26.0), "h", "", "Syntha beside its peers");
    write_text(&mut svg, (16.0, 46.0), "q", "", &under);
    for (row, number) in rows.into_iter().zip(0_u32..) {
        draw_panel(&mut svg, run, row, HEAD + panel * f64::from(number));
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, run: &Run, row: &Row, top: f64) {
    let scale = Scale::of(run, row.unit);
    let first = top + TITLE;
    let end = first + STEP * run.contestants.len() as f64;
    write_text(svg, (16.0, top + 16.0), "t", "", row.title);
    for decade in scale.low..=scale.high {
        let x = scale.place(10_f64.powi(decade));
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{first:.1}\" y2=\"{end:.1}\"/>"
        );
        write_text(svg, (x, end + 12.0), "s", "middle", &mark(decade, row.unit));
    }
    for (contestant, number) in run.contestants.iter().zip(0_u32..) {
        draw_bar(svg, contestant, row, &scale, first + STEP * f64::from(number), number == 0);
    }
}

fn draw_bar(svg: &mut String, contestant: &Contestant, row: &Row, scale: &Scale, y: f64, ours: bool) {
    let line = y + 14.0;
    write_text(svg, (LEFT - 10.0, line), if ours { "t" } else { "" }, "end", &contestant.name);
    let Some(spread) = contestant.found(row) else {
        write_text(svg, (LEFT + 6.0, line), "q", "", &format!("– {}", contestant.absent(row)));
        return;
    };
    let (end, low, high) = (scale.place(spread.median), scale.place(spread.low), scale.place(spread.high));
    let (class, middle, width) = (if ours { "us" } else { "peer" }, y + 10.0, end - LEFT);
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>\n\
         <line class=\"range\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>",
        y + 2.0
    );
    let text = figure(spread.median, row.unit);
    write_text(svg, (end.max(high) + 6.0, line), if ours { "t" } else { "" }, "", &text);
}

fn write_text(svg: &mut String, (x, y): (f64, f64), class: &str, anchor: &str, text: &str) {
    let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\"");
    for (name, value) in [("class", class), ("text-anchor", anchor)] {
        if !value.is_empty() {
            let _ = write!(svg, " {name}=\"{value}\"");
        }
    }
    let _ = writeln!(svg, ">{}</text>", escaped(text));
}

/// Powers of ten from the least to the most of all rows of a unit, so that their panels can be compared.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    fn of(run: &Run, unit: Unit) -> Self {
        let spreads = ROWS
            .iter()
            .filter(|row| row.unit == unit)
            .flat_map(|row| run.contestants.iter().filter_map(|contestant| contestant.found(row)));
        let (low, high) = spreads
            .filter(|spread| spread.median > 0.0)
            .fold((f64::INFINITY, 0.0_f64), |(low, high), spread| {
                (low.min(spread.median), high.max(spread.high))
            });
        if high == 0.0 {
            return Self { low: 0, high: 1 };
        }
        // A bar of the least figure has some length too.
        #[expect(clippy::cast_possible_truncation, reason = "exponents of figures that were measured")]
        let (low, high) = ((low / 1.5).log10().floor() as i32, high.log10().ceil() as i32);
        Self { low, high: high.max(low + 1) }
    }

    /// What is below the scale, as 0 is, stands at its beginning.
    fn place(&self, number: f64) -> f64 {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let part = (number.max(f64::MIN_POSITIVE).log10() - low) / (high - low);
        LEFT + (RIGHT - LEFT) * part.clamp(0.0, 1.0)
    }
}

fn mark(decade: i32, unit: Unit) -> String {
    let (number, name) = match (unit, decade) {
        (Unit::Microseconds, ..0) => (decade + 3, "ns"),
        (Unit::Microseconds, 0..3) => (decade, "µs"),
        (Unit::Microseconds, 3..6) => (decade - 3, "ms"),
        (Unit::Microseconds, 6..) => (decade - 6, "s"),
        (Unit::Kibibytes, _) => (decade, "KiB"),
        (Unit::Count, _) => (decade, ""),
    };
    let number = 10_f64.powi(number).to_string();
    // Groups of three, for a scale that goes past a thousand.
    let number = match number.as_str() {
        "1000" => "1,000",
        "10000" => "10,000",
        "100000" => "100,000",
        short => short,
    };
    format!("{number} {name}").trim_end().to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::figures::sample_run;

    #[test]
    fn names_and_reasons_are_escaped() {
        let svg = svg(&sample_run());
        assert!(svg.contains(">&lt;b&gt;&amp;&quot;x&quot;|</text>"), "{svg}");
        assert!(svg.contains(">– no &lt;disk&gt; | &quot;none&quot;</text>"), "{svg}");
        assert!(!svg.contains("<b>") && !svg.contains("<disk>"));
    }

    #[test]
    fn a_bar_is_as_long_as_the_logarithm_of_its_median() {
        // Times reach from 2 to 50 µs, so that the scale has the marks 1, 10 and 100.
        let svg = svg(&sample_run());
        let (part, all) = (2_f64.log10() / 2.0, RIGHT - LEFT);
        assert!(
            svg.contains(&format!("class=\"us\" x=\"190\" y=\"92.0\" width=\"{:.1}\"", part * all)),
            "{svg}"
        );
        for text in [">1 µs<", ">10 µs<", ">100 µs<", ">2.00 µs<", ">40.0 µs<", ">2.00 KiB<"] {
            assert!(svg.contains(text), "{text} is missing in {svg}");
        }
        assert_eq!(svg.matches("class=\"t\">get all of 1,000<").count(), 1);
        assert!(!svg.contains("descriptors"));
    }

    #[test]
    fn nothing_leaves_the_picture() {
        let scale = Scale { low: -1, high: 3 };
        for number in [0.0, -1.0, 0.01, 0.1, 5.0, 1e3, 1e9, f64::INFINITY] {
            assert!((LEFT..=RIGHT).contains(&scale.place(number)), "{number}");
        }
        assert_eq!(mark(-2, Unit::Microseconds), "10 ns");
        assert_eq!(mark(4, Unit::Microseconds), "10 ms");
        assert_eq!(mark(4, Unit::Kibibytes), "10,000 KiB");
        assert_eq!(mark(3, Unit::Kibibytes), "1,000 KiB");
        assert_eq!(mark(-1, Unit::Kibibytes), "0.1 KiB");
    }

    #[test]
    fn the_same_numbers_give_the_same_chart() {
        assert_eq!(svg(&sample_run()), svg(&sample_run()));
    }
}
