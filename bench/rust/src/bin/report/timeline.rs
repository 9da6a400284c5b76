//! Pictures of response times over time, with what CPU and memory that took.

use std::error::Error;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use read_states_bench::measurement::Measurement;

use crate::number::{count, grouped};
use crate::style::{FAINT, LINES, TEXT, anchored, color, file_name, text};

const WIDTH: u32 = 1_100;
const HEAD: u32 = 84;
/// Height of the response times of each kind.
const PANEL: u32 = 150;
/// Height of CPU and memory.
const USAGE: u32 = 270;
/// Height of what is under the last panel.
const SECONDS: u32 = 48;

/// Kinds of response times, each in a panel of its own: in one, nobody could tell the lines apart. All
/// who are compared are in each of them, on one axis.
const RESPONSE_TIMES: [(&str, &str); 5] = [
    ("p50 us", "p50"),
    ("p99 us", "p99"),
    ("p99.9 us", "p99.9"),
    ("p99.99 us", "p99.99"),
    ("max us", "longest"),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Figures of one kind over time.
pub type Series<'a> = Vec<&'a Measurement>;

/// Figures over time, in a series for each metric of each subject.
pub fn series(measurements: &[Measurement]) -> Vec<Series<'_>> {
    let key = |m: &Measurement| Measurement {
        value: 0.0,
        second: None,
        ..m.clone()
    };
    let mut all: Vec<(Measurement, Series)> = Vec::new();
    for measurement in measurements {
        let of = key(measurement);
        match all.iter_mut().find(|(other, _)| *other == of) {
            Some((_, series)) => series.push(measurement),
            None => all.push((of, vec![measurement])),
        }
    }
    let mut all = Vec::from_iter(all.into_iter().map(|(_, series)| series));
    for series in &mut all {
        series.sort_by(|a, b| f64::total_cmp(&second(a), &second(b)));
    }
    all
}

/// Draws one for each work, and returns the files.
pub fn draw_all(
    measurements: &[Measurement],
    results: &Path,
) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut all = series(measurements);
    let work = |series: &Series| {
        (
            series[0].part.clone(),
            series[0].work.clone(),
            series[0].states,
        )
    };
    all.sort_by_key(work);
    let mut files = Vec::new();
    for of_work in all.chunk_by(|a, b| work(a) == work(b)) {
        let Measurement {
            part, work, states, ..
        } = of_work[0][0];
        let file = results.join(file_name(&[part, work, &states.to_string()]));
        draw(of_work, &file)?;
        files.push(file);
    }
    Ok(files)
}

fn draw(of_work: &[Series], path: &Path) -> Result<(), Box<dyn Error>> {
    let mut subjects = Vec::new();
    for series in of_work {
        if !subjects.contains(&series[0].subject.as_str()) {
            subjects.push(&series[0].subject);
        }
    }
    let panels = RESPONSE_TIMES.len() as u32 * PANEL + SECONDS;
    let size = (WIDTH, HEAD + panels + USAGE);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, charts) = root.split_vertically(HEAD);
    draw_head(&head, of_work[0][0], &subjects)?;
    let (mut panels, usage) = charts.split_vertically(panels);
    let (cpu, memory) = usage.split_horizontally(WIDTH / 2);
    for (number, (metric, name)) in RESPONSE_TIMES.into_iter().enumerate() {
        let last = number + 1 == RESPONSE_TIMES.len();
        let seconds = if last { SECONDS } else { 0 };
        let (panel, rest) = panels.split_vertically(PANEL + seconds);
        draw_response_times(&panel, of_work, &subjects, metric, name, seconds)?;
        panels = rest;
    }
    draw_usage(&cpu, of_work, &subjects, "cpu %", "CPU, % of one core")?;
    draw_usage(&memory, of_work, &subjects, "rss MB", "memory, MB")?;
    root.present()?;
    Ok(())
}

/// The title, and which line is whose.
fn draw_head(area: &Area, of: &Measurement, subjects: &[&str]) -> Result<(), Box<dyn Error>> {
    let cores = count(of.threads, "core", "cores");
    let title = format!(
        "Response time: {}, {} read states, {cores}",
        of.work,
        grouped(of.states)
    );
    area.draw(&Text::new(
        title,
        (16, 26),
        anchored(text(20, TEXT), HPos::Left),
    ))?;
    let mut x = 16;
    for subject in subjects {
        let color = color(subject, subjects);
        area.draw(&PathElement::new(
            [(x, 62), (x + 28, 62)],
            color.stroke_width(3),
        ))?;
        let label = anchored(text(14, TEXT), HPos::Left);
        area.draw(&Text::new(*subject, (x + 36, 62), label))?;
        // About as wide as the text is going to be.
        x += 36 + 8 * subject.len() as i32 + 24;
    }
    let right = (WIDTH as i32 - 24, 62);
    area.draw(&Text::new(
        "of the requests of each second, logarithmic",
        right,
        anchored(text(14, FAINT), HPos::Right),
    ))?;
    Ok(())
}

/// The response times of a kind. `seconds` is the height of the axis under them, which only the last has.
fn draw_response_times(
    area: &Area,
    of_work: &[Series],
    subjects: &[&str],
    metric: &str,
    name: &str,
    seconds: u32,
) -> Result<(), Box<dyn Error>> {
    let values = || {
        of_kind(of_work, metric)
            .flatten()
            .map(|figure| figure.value)
    };
    let most = values().fold(1.0, f64::max);
    let least = values().filter(|value| *value > 0.0).fold(most, f64::min);
    let decade = |value: f64, exponent: fn(f64) -> f64| 10_f64.powf(exponent(value.log10()));
    let range = decade(least, f64::floor)..decade(most * 1.001, f64::ceil);

    let mut chart = ChartBuilder::on(area)
        .margin_top(10)
        .margin_left(16)
        .margin_right(24)
        .x_label_area_size(seconds)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..last_second(of_work), range.log_scale())?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .x_label_formatter(&|second| grouped(*second as u64))
        .y_desc(name)
        .y_labels(5)
        .y_label_formatter(&|us| duration(*us))
        .label_style(text(13, FAINT))
        .axis_desc_style(text(14, TEXT))
        .bold_line_style(LINES)
        .light_line_style(TRANSPARENT)
        .axis_style(FAINT)
        .draw()?;
    for series in of_kind(of_work, metric) {
        let points = series
            .iter()
            .map(|figure| (second(figure), figure.value.max(least)));
        let style = color(&series[0].subject, subjects).stroke_width(1);
        chart.draw_series(LineSeries::new(points, style))?;
    }
    Ok(())
}

fn draw_usage(
    area: &Area,
    of_work: &[Series],
    subjects: &[&str],
    kind: &str,
    name: &str,
) -> Result<(), Box<dyn Error>> {
    let most = of_kind(of_work, kind)
        .flatten()
        .map(|figure| figure.value)
        .fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin_top(12)
        .margin_left(16)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..last_second(of_work), 0.0..most * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .x_label_formatter(&|second| grouped(*second as u64))
        .y_desc(name)
        .x_labels(6)
        .y_labels(5)
        .y_label_formatter(&|value| grouped(*value as u64))
        .label_style(text(13, FAINT))
        .axis_desc_style(text(14, TEXT))
        .bold_line_style(LINES)
        .light_line_style(TRANSPARENT)
        .axis_style(FAINT)
        .draw()?;
    for series in of_kind(of_work, kind) {
        let points = series.iter().map(|figure| (second(figure), figure.value));
        let style = color(&series[0].subject, subjects).stroke_width(2);
        chart.draw_series(LineSeries::new(points, style))?;
    }
    Ok(())
}

fn of_kind<'a>(of_work: &'a [Series<'a>], kind: &str) -> impl Iterator<Item = &'a Series<'a>> {
    of_work
        .iter()
        .filter(move |series| series[0].metric == kind)
}

fn second(figure: &Measurement) -> f64 {
    figure.second.unwrap_or_default()
}

fn last_second(of_work: &[Series]) -> f64 {
    of_work
        .iter()
        .flatten()
        .map(|figure| second(figure))
        .fold(1.0, f64::max)
}

/// Of microseconds, in the unit that suits it.
fn duration(us: f64) -> String {
    match us {
        ..1_000.0 => format!("{us} µs"),
        ..1_000_000.0 => format!("{} ms", us / 1_000.0),
        _ => format!("{} s", us / 1_000_000.0),
    }
}
