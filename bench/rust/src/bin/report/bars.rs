//! Pictures of bars: the time of an operation, and the memory of a read state.

use std::error::Error;
use std::path::{Path, PathBuf};

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::comparison::Comparison;
use crate::number::{count, grouped, readable};
use crate::style::{FAINT, LINES, TEXT, anchored, color, file_name, text};

/// The metrics of which there are pictures.
const METRICS: [&str; 2] = ["ns/operation", "bytes/state"];

const WIDTH: u32 = 960;
const ROW: u32 = 20;
/// Above each work, for its name.
const HEADING: u32 = 34;
const TITLE: u32 = 56;
const AXIS: u32 = 48;
/// Left of the bars, for the subjects.
const NAMES: u32 = 300;
/// Right of the bars, for the value of the longest.
const VALUES: u32 = 110;

/// How many times the smallest value the largest is at most: above it short bars cannot be compared.
const LINEAR_UP_TO: f64 = 25.0;

/// A picture in the making.
struct Picture {
    file: String,
    title: String,
    metric: String,
    sections: Vec<Section>,
}

/// The bars of a work.
struct Section {
    work: String,
    bars: Vec<Bar>,
}

struct Bar {
    name: String,
    color: RGBColor,
    value: f64,
    ratio: Option<f64>,
}

/// Draws what there is, and returns the files.
pub fn draw_all(
    comparisons: &[Comparison],
    results: &Path,
) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for picture in pictures(comparisons) {
        let file = results.join(&picture.file);
        picture.draw(&file)?;
        files.push(file);
    }
    Ok(files)
}

/// One for each part, metric, number of read states and of threads; of a part in which there is only
/// ReadStates, the threads and the shapes are what is compared.
fn pictures(comparisons: &[Comparison]) -> Vec<Picture> {
    let mut pictures: Vec<Picture> = Vec::new();
    for comparison in comparisons {
        let of = &comparison.of;
        if !METRICS.contains(&of.metric.as_str()) {
            continue;
        }
        let part = || comparisons.iter().filter(|other| other.of.part == of.part);
        let rows = || part().flat_map(|comparison| &comparison.rows);
        let mut subjects = Vec::new();
        for row in rows() {
            if !subjects.contains(&row.subject.as_str()) {
                subjects.push(&row.subject);
            }
        }
        let peers = subjects.len() > 1;
        let mut of_work = comparison.rows.iter().map(|row| &row.subject);
        if peers && of_work.all(|subject| *subject == comparison.rows[0].subject) {
            // Nobody to compare with, as where one peer has fewer read states than the others.
            continue;
        }
        let several_threads = rows().any(|row| row.threads != comparison.rows[0].threads);
        let several_shapes = part()
            .any(|other| (other.of.per_user, other.of.shared_by) != (of.per_user, of.shared_by));
        for row in &comparison.rows {
            let states = format!("{} read states", grouped(of.states));
            let threads = count(row.threads, "thread", "threads");
            let shape = format!(
                "{} a user, {} a channel",
                grouped(of.per_user),
                count(of.shared_by, "user", "users")
            );
            let mut title = vec![of.part.as_str(), &states];
            let mut file = vec![of.part.as_str(), &of.metric];
            let of_states = of.states.to_string();
            file.push(&of_states);
            let mut name = Vec::new();
            if peers {
                name.push(row.subject.as_str());
                title.push(&shape);
                if several_threads {
                    title.push(&threads);
                    file.push(&threads);
                }
            } else {
                title.push(&row.subject);
                if several_shapes || !several_threads {
                    name.push(&shape);
                }
                if several_threads {
                    name.push(&threads);
                }
            }
            let bar = Bar {
                name: name.join(", "),
                color: color(&row.subject, &subjects),
                value: row.value,
                ratio: row.ratio,
            };
            let file = file_name(&file);
            let picture = match pictures.iter_mut().position(|picture| picture.file == file) {
                Some(place) => &mut pictures[place],
                None => {
                    let title = title.join(", ");
                    pictures.push(Picture {
                        file,
                        title,
                        metric: of.metric.clone(),
                        sections: Vec::new(),
                    });
                    pictures.last_mut().expect("it was pushed")
                }
            };
            picture.add(&of.work, bar);
        }
    }
    pictures
}

impl Picture {
    fn add(&mut self, work: &str, bar: Bar) {
        match self
            .sections
            .iter_mut()
            .find(|section| section.work == work)
        {
            Some(section) => section.bars.push(bar),
            None => self.sections.push(Section {
                work: work.into(),
                bars: vec![bar],
            }),
        }
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let values = || {
            self.sections
                .iter()
                .flat_map(|section| &section.bars)
                .map(|bar| bar.value)
        };
        let most = values().fold(f64::MIN, f64::max);
        let least = values().fold(f64::MAX, f64::min);
        if most / least <= LINEAR_UP_TO {
            self.draw_on(path, 0.0..most * 1.05, 0.0, "")
        } else {
            let (from, to) = (
                10_f64.powf(least.log10().floor()),
                10_f64.powf(most.log10().ceil()),
            );
            // A bar for the smallest value has to have a length.
            let from = if least / from < 1.5 {
                from / 10.0
            } else {
                from
            };
            self.draw_on(path, (from..to).log_scale(), from, ", logarithmic")
        }
    }

    fn draw_on<X>(
        &self,
        path: &Path,
        range: X,
        from: f64,
        scale: &str,
    ) -> Result<(), Box<dyn Error>>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let height_of = |section: &Section| HEADING + ROW * section.bars.len() as u32;
        let rows = self.sections.iter().map(height_of).sum::<u32>();
        let root = SVGBackend::new(path, (WIDTH, TITLE + rows + AXIS)).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw(&Text::new(
            self.title.clone(),
            (16, 26),
            anchored(text(20, TEXT), HPos::Left),
        ))?;

        // The vertical axis counts pixels from the top.
        let mut chart = ChartBuilder::on(&root)
            .margin_top(TITLE)
            .margin_right(VALUES)
            .x_label_area_size(AXIS)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(range, f64::from(rows)..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_desc(format!("{}{scale}; shorter is better", self.metric))
            .x_labels(10)
            .x_label_formatter(&|value| readable_axis(*value))
            .x_label_style(text(13, FAINT))
            .axis_desc_style(text(14, TEXT))
            .bold_line_style(LINES)
            .light_line_style(TRANSPARENT)
            .axis_style(FAINT)
            .draw()?;

        let mut top = 0;
        for section in &self.sections {
            let (_, y) = chart.backend_coord(&(from, f64::from(top + HEADING) - 12.0));
            root.draw(&Text::new(
                section.work.clone(),
                (16, y),
                anchored(text(15, TEXT), HPos::Left),
            ))?;
            top += HEADING;
            for bar in &section.bars {
                let corners = [
                    (from, f64::from(top) + 3.0),
                    (bar.value, f64::from(top + ROW) - 3.0),
                ];
                chart.draw_series([Rectangle::new(corners, bar.color.filled())])?;
                let middle = f64::from(top) + f64::from(ROW) / 2.0;
                let (left, y) = chart.backend_coord(&(from, middle));
                let (right, _) = chart.backend_coord(&(bar.value, middle));
                root.draw(&Text::new(
                    bar.name.clone(),
                    (left - 8, y),
                    anchored(text(13, TEXT), HPos::Right),
                ))?;
                let ratio = bar
                    .ratio
                    .map_or(String::new(), |ratio| format!("  (x {})", readable(ratio)));
                let value = format!("{}{ratio}", readable(bar.value));
                root.draw(&Text::new(
                    value,
                    (right + 6, y),
                    anchored(text(13, TEXT), HPos::Left),
                ))?;
                top += ROW;
            }
        }
        root.present()?;
        Ok(())
    }
}

/// Without digits that say nothing.
fn readable_axis(value: f64) -> String {
    if value.fract() == 0.0 {
        grouped(value as u64)
    } else {
        value.to_string()
    }
}
