//! Makes tables, pictures and one file of JSON of what the benchmarks measured.
//!
//!     cargo run --release --bin report -- --results DIRECTORY --mode quick|full

mod bars;
mod comparison;
mod document;
mod environment;
mod number;
mod style;
mod table;
mod timeline;

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Parser;
use read_states_bench::measurement::{self, Measurement};

/// Makes tables, pictures and one file of JSON of what the benchmarks measured.
#[derive(Parser)]
struct Arguments {
    /// Where the files of lines are, PART.jsonl, and where the results go.
    #[arg(long)]
    results: PathBuf,
    /// How the benchmarks ran, which is the name of the file of JSON.
    #[arg(long)]
    mode: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { results, mode } = Arguments::parse();
    let measurements = read_all(&results)?;
    if measurements.is_empty() {
        return Err(format!("nothing was measured: no lines in {}", results.display()).into());
    }
    let (over_time, single): (Vec<_>, Vec<_>) = measurements
        .into_iter()
        .partition(|measurement| measurement.second.is_some());
    let comparisons = comparison::compare(&single);

    table::print(&comparisons);
    let mut pictures = bars::draw_all(&comparisons, &results)?;
    pictures.extend(timeline::draw_all(&over_time, &results)?);
    let document = results.join(format!("{mode}.json"));
    document::write(&document, &mode, &single, &over_time)?;

    println!("\n{}", document.display());
    for picture in pictures {
        println!("{}", picture.display());
    }
    Ok(())
}

/// What all parts measured, in the order of the parts' names.
fn read_all(results: &Path) -> Result<Vec<Measurement>, Box<dyn Error>> {
    let entries = results.read_dir()?.collect::<Result<Vec<_>, _>>()?;
    let mut paths = Vec::from_iter(entries.into_iter().map(|entry| entry.path()));
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "jsonl")
    });
    paths.sort();
    let mut measurements = Vec::new();
    for path in paths {
        let lines = measurement::read(&path);
        measurements.extend(lines.map_err(|error| format!("{}: {error}", path.display()))?);
    }
    Ok(measurements)
}
