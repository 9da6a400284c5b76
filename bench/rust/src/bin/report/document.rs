//! The file of JSON: the machine, the versions, and everything that was measured.

use std::path::Path;
use std::{fs, io};

use read_states_bench::measurement::Measurement;
use serde_json::{Value, json};

use crate::environment::Environment;
use crate::timeline::series;

/// Writes it, indented, with a line for each figure, or for each row of figures over time: these
/// are too many for a line each.
pub fn write(
    path: &Path,
    mode: &str,
    single: &[Measurement],
    over_time: &[Measurement],
) -> io::Result<()> {
    let Environment {
        date,
        machine,
        versions,
    } = Environment::of_now();
    let mut lines = Vec::new();
    for measurement in single {
        lines.push(json!(measurement));
    }
    for figures in series(over_time) {
        let mut line = json!(figures[0]);
        line["second"] = figures.iter().map(|figure| figure.second).collect();
        line["value"] = figures.iter().map(|figure| figure.value).collect();
        lines.push(line);
    }
    let lines = Vec::from_iter(lines.iter().map(|line: &Value| format!("    {line}")));
    let head = json!({ "mode": mode, "date": date, "machine": machine, "versions": versions });
    let head = serde_json::to_string_pretty(&head)?;
    let head = head.trim_end_matches("\n}");
    let lines = lines.join(",\n");
    fs::write(
        path,
        format!("{head},\n  \"measurements\": [\n{lines}\n  ]\n}}\n"),
    )
}
