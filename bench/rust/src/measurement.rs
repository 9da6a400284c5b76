//! One figure that was measured, as a line of JSON.
//!
//! What is not written in Rust writes such lines too, so the names of the fields are a format.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::stamp::Stamp;

/// A figure, and what it is of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measurement {
    /// Which benchmark: `beam`, `rust`, `services`, `latency`, …
    pub part: String,
    /// What was done: `ack`, `get`, `update of 1,000`, …
    pub work: String,
    /// By whom: `ReadStates`, `ETS set`, …
    pub subject: String,
    /// Read states there were.
    pub states: u64,
    /// Read states of a user.
    pub per_user: u64,
    /// Users of a channel.
    pub shared_by: u64,
    /// Threads, or schedulers, that did it.
    pub threads: u64,
    /// Of what the value is, with its unit: `ns/operation`, `bytes/state`, `p99.99 us`, …
    pub metric: String,
    /// The figure.
    pub value: f64,
    /// Seconds since the start, of a figure that is one of a row over time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<f64>,
}

/// A measurement as it is in a file of lines.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// What was measured, and when.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The figure.
    #[serde(flatten)]
    pub measurement: Measurement,
}

/// Appends measurements of this program to a file of lines.
pub fn append(path: &Path, measurements: &[Measurement]) -> io::Result<()> {
    let mut lines = String::new();
    for measurement in measurements {
        let line = Line {
            stamp: Stamp::now().clone(),
            measurement: measurement.clone(),
        };
        lines.push_str(&serde_json::to_string(&line)?);
        lines.push('\n');
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(lines.as_bytes())
}

/// Reads a file of lines.
pub fn read(path: &Path) -> io::Result<Vec<Line>> {
    let lines = std::fs::read_to_string(path)?;
    let parse = |line| Ok(serde_json::from_str(line)?);
    lines.lines().map(parse).collect()
}
