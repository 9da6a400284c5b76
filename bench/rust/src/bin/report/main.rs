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

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Parser;
use read_states_bench::measurement::{self, Line, Measurement};
use read_states_bench::stamp::Stamp;

/// By the part's name.
type Stamps = BTreeMap<String, BTreeSet<Stamp>>;

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
    let (measurements, stamps) = read_all(&results)?;
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
    document::write(&document, &mode, &stamps, &comparisons, &single, &over_time)?;

    println!("\n{}", document.display());
    for picture in pictures {
        println!("{}", picture.display());
    }
    Ok(())
}

/// What all parts measured, in the order of the parts' names, and what each part measured it on: one
/// commit, on one day, unless somebody has put files together.
fn read_all(results: &Path) -> Result<(Vec<Measurement>, Stamps), Box<dyn Error>> {
    let entries = results.read_dir()?.collect::<Result<Vec<_>, _>>()?;
    let mut paths = Vec::from_iter(entries.into_iter().map(|entry| entry.path()));
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "jsonl")
    });
    paths.sort();
    let mut measurements = Vec::new();
    let mut stamps = Stamps::new();
    for path in paths {
        let lines = measurement::read(&path);
        let lines = lines.map_err(|error| format!("{}: {error}", path.display()))?;
        let part = path.file_stem().unwrap_or_default().to_string_lossy();
        let of_part = stamps.entry(part.into_owned()).or_default();
        for Line { stamp, measurement } in lines {
            of_part.insert(stamp);
            measurements.push(measurement);
        }
    }
    Ok((measurements, stamps))
}
