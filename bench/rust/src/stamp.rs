//! What was measured, and when.

use std::process::Command;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Says it.
const COMMIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../commit");

/// Of a figure. Empty where nobody knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Stamp {
    /// The commit, with `-dirty` if the tree had something else.
    pub commit: String,
    /// The day, in UTC.
    pub date: String,
}

impl Stamp {
    /// Of this program, as of when it is asked first: nobody edits the tree for it while it runs.
    pub fn now() -> &'static Self {
        static NOW: OnceLock<Stamp> = OnceLock::new();
        NOW.get_or_init(|| Stamp {
            commit: said(&mut Command::new(COMMIT)),
            date: said(Command::new("date").args(["--utc", "+%Y-%m-%d"])),
        })
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output();
    let output = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}
