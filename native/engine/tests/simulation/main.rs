//! Thousands of seeds of the simulation. What it is, [`simulation`] says; for one seed and for many more there is
//! `examples/simulation.rs`.

#[path = "simulation.rs"]
mod simulation;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use simulation::play_seed;
use simulation::world::Tally;

const SEEDS: u64 = 2_000;

#[test]
fn whatever_happens_nothing_acknowledged_is_lost() {
    let (next, total) = (AtomicU64::new(0), Mutex::new(Tally::default()));
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= SEEDS {
                        break;
                    }
                    match play_seed(seed) {
                        Ok(tally) => *total.lock().unwrap() += tally,
                        Err(step) => {
                            // The other threads need not go on.
                            next.store(SEEDS, Relaxed);
                            panic!(
                            "seed {seed} went wrong in step {step}. To have it again, with fewer steps:\n    \
                            cargo run -p read_states_engine --example simulation -- --seed {seed}"
                            )
                        }
                    }
                }
            });
        }
    });
    println!("{:?}", total.into_inner().unwrap());
}
