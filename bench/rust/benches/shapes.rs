//! The engine where users have fewer channels, and where few or very many users share one.
//!
//!     cargo bench --bench shapes

mod harness;

use std::hint::black_box;

use read_states_bench::subject::{Change, Engine, Subject};
use read_states_bench::world::World;

use harness::BATCH;

/// Read states of a user, and users of a channel.
const SHAPES: [(&str, u64, u64); 4] = [
    ("10 a user", 10, 10),
    ("shared by 2", 50, 2),
    ("shared by 10", 50, 10),
    ("shared by 1,000", 50, 1_000),
];

fn main() {
    harness::each_alone(&SHAPES.map(|(name, ..)| name), |name| {
        for (shape, per_user, shared_by) in SHAPES {
            if shape == name {
                measure(World::new(harness::states(), per_user, shared_by));
            }
        }
    });
}

fn measure(world: World) {
    let (full, mut recorder) = harness::start::<Engine>("rust shapes", world);
    let engine = &full.subject;
    recorder.measure("ack", 1, 1, |runs| {
        let draw = |count| full.writes(count, Change::Ack);
        full.time(runs, 1, draw, |write| engine.write(write))
    });
    recorder.measure("get", 1, 1, |runs| {
        let draw = |count| full.keys(count);
        full.time(runs, 1, draw, |(user, channel)| {
            black_box(engine.get(*user, *channel));
        })
    });
    recorder.measure("update of 1,000", 1, BATCH, |runs| {
        let draw = |count| full.batches(count);
        full.time(runs, BATCH, draw, |batch| engine.write_all(batch))
    });
}
