//! Runs the simulation, see `tests/simulation`:
//!
//! ```text
//! cargo run --release -p read_states_engine --example simulation -- --seed 17
//! cargo run --release -p read_states_engine --example simulation -- --seeds 5000 --from 1000
//! cargo run --release -p read_states_engine --example simulation -- --hours 2
//! ```
//!
//! For hours it begins where the clock says. What goes wrong is shown with as few steps as are found to do. Without
//! `--release` the engine checks its own invariants on the way.

#[path = "../tests/simulation/simulation.rs"]
mod simulation;

use std::panic;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use lexopt::{Arg, ValueExt};
use simulation::step::{Settings, Step, draw};
use simulation::world::Tally;
use simulation::{play, play_seed};

/// Between two lines that say how far it is.
const REPORT: Duration = Duration::from_secs(60);

/// Which seeds, and for how long.
#[derive(Clone, Copy, Debug)]
struct Plan {
    from: u64,
    seeds: u64,
    time: Duration,
}

fn plan() -> Result<Plan, lexopt::Error> {
    let mut plan = Plan {
        from: 0,
        seeds: 1_000,
        time: Duration::MAX,
    };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("seed") => (plan.from, plan.seeds) = (arguments.value()?.parse()?, 1),
            Arg::Long("seeds") => plan.seeds = arguments.value()?.parse()?,
            Arg::Long("from") => plan.from = arguments.value()?.parse()?,
            Arg::Long("hours") => {
                let hours: f64 = arguments.value()?.parse()?;
                let since = SystemTime::UNIX_EPOCH.elapsed();
                plan = Plan {
                    from: since.map_or(0, |since| since.as_secs() << 20),
                    seeds: u64::MAX,
                    time: Duration::from_secs_f64(3_600.0 * hours),
                };
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(plan)
}

fn main() -> ExitCode {
    let plan = match plan() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("{error}; there are --seed N, --seeds N, --from N and --hours N");
            return ExitCode::from(2);
        }
    };
    // What a panic says is for the end, when there is nothing left to shorten.
    let said = Arc::new(Mutex::new(String::new()));
    let says = Arc::clone(&said);
    panic::set_hook(Box::new(move |info| {
        *says.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = info.to_string();
    }));
    let (begun, mut reported, mut total) = (Instant::now(), Instant::now(), Tally::default());
    let mut seeds = 0;
    while seeds < plan.seeds && begun.elapsed() < plan.time {
        let seed = plan.from.wrapping_add(seeds);
        match play_seed(seed) {
            Ok(tally) => total += tally,
            Err(_) => {
                let (settings, steps) = draw(seed);
                let steps = shorten(settings, steps);
                println!("seed {seed}, the seed number {}: {settings:#?}", seeds + 1);
                for step in &steps {
                    println!("{step:?}");
                }
                match play(settings, &steps) {
                    Err(at) => println!("After {at} of these {} steps:", steps.len()),
                    Ok(_) => println!("It does not go wrong each time. The last time it did:"),
                }
                println!("{}", said.lock().expect("nobody panics with it"));
                return ExitCode::FAILURE;
            }
        }
        seeds += 1;
        if reported.elapsed() > REPORT {
            reported = Instant::now();
            println!("{seeds} seeds, the last was {seed}: {total:?}");
        }
    }
    println!("{seeds} seeds, nothing wrong: {total:?}");
    ExitCode::SUCCESS
}

/// Leaves out steps, first many and then few at a time, as long as it goes wrong without them.
fn shorten(settings: Settings, mut steps: Vec<Step>) -> Vec<Step> {
    if let Err(at) = play(settings, &steps) {
        steps.truncate(at + 1);
    }
    let mut size = steps.len();
    while size > 0 {
        let mut from = 0;
        while from < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(from..steps.len().min(from + size));
            if play(settings, &fewer).is_err() {
                steps = fewer;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    steps
}
