//! The options all of the programs take.

use std::path::PathBuf;

/// `--states N --output FILE`.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Read states there are to be.
    pub states: u64,
    /// Where to append the measurements.
    pub output: Option<PathBuf>,
}

impl Arguments {
    /// From the command line. Ends the program if it is not understood.
    pub fn parse() -> Self {
        let mut parsed = Arguments {
            states: 1_000_000,
            output: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(option) = arguments.next() {
            let value = arguments.next();
            match (option.as_str(), value) {
                ("--states", Some(value)) if value.parse::<u64>().is_ok_and(|n| n > 0) => {
                    parsed.states = value.parse().expect("checked above");
                }
                ("--output", Some(value)) => parsed.output = Some(value.into()),
                _ => {
                    eprintln!("options: --states N, --output FILE");
                    std::process::exit(2);
                }
            }
        }
        parsed
    }
}
