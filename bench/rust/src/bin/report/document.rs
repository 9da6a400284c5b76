//! The file of JSON: the machine, the versions, the commit and the day of each part, and everything that was measured.

use std::path::Path;
use std::{fs, io};

use read_states_bench::measurement::Measurement;
use serde_json::{Value, json};

use crate::Stamps;
use crate::comparison::Comparison;
use crate::environment::Environment;
use crate::timeline::series;

/// Writes it, indented, with a line for each figure, or for each row of figures over time: these
/// are too many for a line each.
pub fn write(
    path: &Path,
    mode: &str,
    stamps: &Stamps,
    comparisons: &[Comparison],
    single: &[Measurement],
    over_time: &[Measurement],
) -> io::Result<()> {
    let Environment { machine, versions } = Environment::of_now();
    let mut lines = Vec::new();
    for measurement in single {
        lines.push(json!(measurement));
    }
    // Of two runs, so none of them could write it.
    for Comparison { of, rows } in comparisons {
        for row in rows {
            let Some(speedup) = row.speedup else { continue };
            lines.push(json!(Measurement {
                subject: row.subject.clone(),
                threads: row.threads,
                metric: "times the rate of one thread".into(),
                value: speedup,
                ..of.clone()
            }));
        }
    }
    for figures in series(over_time) {
        let mut line = json!(figures[0]);
        line["second"] = figures.iter().map(|figure| figure.second).collect();
        line["value"] = figures.iter().map(|figure| figure.value).collect();
        lines.push(line);
    }
    let lines = Vec::from_iter(lines.iter().map(|line: &Value| format!("    {line}")));
    let head = json!({ "mode": mode, "machine": machine, "parts": stamps, "versions": versions });
    let head = serde_json::to_string_pretty(&head)?;
    let head = head.trim_end_matches("\n}");
    let lines = lines.join(",\n");
    fs::write(
        path,
        format!("{head},\n  \"measurements\": [\n{lines}\n  ]\n}}\n"),
    )
}
