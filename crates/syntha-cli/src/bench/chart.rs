//! The chart: calls a second and memory over the time, and how long calls took.

use plotters::prelude::*;

use crate::Result;
use crate::bench::figures::{Figures, Kind, Latency};
use crate::bench::load::Plan;

const SIZE: (u32, u32) = (960, 820);
const FONT: (&str, u32) = ("sans-serif", 15);

type Drawn = Result<()>;

/// The whole picture, as SVG.
pub(crate) fn svg(plan: &Plan, figures: &Figures) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let title = format!(
            "syntha bench: {} users, {} at a time, {} agents each, {}",
            plan.users, plan.active, plan.agents, plan.mix
        );
        let area = area.titled(&title, ("sans-serif", 20)).map_err(failed)?;
        let parts = area.split_evenly((3, 1));
        let [rates, memory, times] = &parts[..] else { return Err("the chart has no room".into()) };
        series(rates, "calls a second, by seconds since the start", figures.seconds, &rate(figures), &BLUE)?;
        let resident = figures.samples.iter().map(|sample| (sample.at, mebibytes(sample.resident)));
        series(
            memory,
            "resident memory in MiB, by seconds since the start",
            figures.seconds,
            &resident.collect::<Vec<_>>(),
            &GREEN,
        )?;
        latencies(times, figures)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

/// Between one sample and the next.
#[expect(clippy::cast_precision_loss, reason = "counts of calls, for a picture")]
fn rate(figures: &Figures) -> Vec<(f64, f64)> {
    let pairs = figures.samples.iter().zip(figures.samples.iter().skip(1));
    let rate = pairs.map(|(one, next)| {
        let time = (next.at - one.at).max(1e-9);
        (next.at, next.calls.saturating_sub(one.calls) as f64 / time)
    });
    rate.collect()
}

#[expect(clippy::cast_precision_loss, reason = "a size, for a picture")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn series(area: &Area<'_>, title: &str, seconds: f64, points: &[(f64, f64)], color: &RGBColor) -> Drawn {
    let top = points.iter().map(|(_, y)| *y).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(title, FONT)
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..seconds.max(1e-3), 0.0..top)
        .map_err(failed)?;
    chart.configure_mesh().light_line_style(TRANSPARENT).draw().map_err(failed)?;
    chart.draw_series(LineSeries::new(points.iter().copied(), color)).map_err(failed)?;
    Ok(())
}

/// A bar for the median, the 99th and the 99.9th percentile of each kind of call, on a logarithmic scale.
#[expect(clippy::cast_precision_loss, reason = "times, for a picture")]
fn latencies(area: &Area<'_>, figures: &Figures) -> Drawn {
    let kinds: Vec<(Kind, Latency)> = Kind::ALL
        .into_iter()
        .map(|kind| (kind, figures.latency(kind)))
        .filter(|(_, latency)| latency.count > 0)
        .collect();
    let micros = |nanoseconds: u64| (nanoseconds as f64 / 1e3).max(0.01);
    let top = kinds.iter().map(|(_, latency)| micros(latency.p999)).fold(1.0, f64::max) * 3.0;
    let names: Vec<_> = kinds.iter().map(|(kind, _)| kind.name()).collect();
    let mut chart = ChartBuilder::on(area)
        .caption("median, p99 and p99.9 of a call, µs", FONT)
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..kinds.len().max(1) as f64, (0.01..top).log_scale())
        .map_err(failed)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "places from 0 on")]
    let name = |place: &f64| names.get(place.floor() as usize).map_or(String::new(), |name| (*name).into());
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(kinds.len() + 1)
        .x_label_formatter(&name)
        .x_label_offset(100)
        .draw()
        .map_err(failed)?;
    for (place, (_, latency)) in kinds.iter().enumerate() {
        let bars = [(latency.median, BLUE), (latency.p99, GREEN), (latency.p999, RED)];
        for (number, (time, color)) in bars.into_iter().enumerate() {
            let left = place as f64 + 0.15 + 0.24 * number as f64;
            let bar = Rectangle::new([(left, 0.01), (left + 0.2, micros(time))], color.mix(0.8).filled());
            chart.draw_series([bar]).map_err(failed)?;
        }
    }
    Ok(())
}

fn failed<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> String {
    format!("the chart can't be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::figures::sample_figures;

    #[test]
    fn a_chart_names_what_it_shows() {
        let plan = Plan {
            users: 7,
            active: 2,
            agents: 3,
            time: Duration::from_secs(1),
            mix: "get=1,push=1".parse().unwrap(),
            value_bytes: 300,
            keys: 5,
            pause: None,
            flood: Some(8),
        };
        let svg = svg(&plan, &sample_figures()).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["7 users", "calls a second", "resident memory in MiB", "p99.9", "get", "push"] {
            assert!(svg.contains(text), "{text} is missing in {svg}");
        }
        assert!(!svg.contains("remove"));
    }
}
