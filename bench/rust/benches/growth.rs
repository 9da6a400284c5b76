//! The longest call while the engine is filled: whoever calls when a table is full waits for a part of it to grow.
//!
//!     cargo bench --bench growth

mod harness;

use std::time::Instant;

use hdrhistogram::Histogram;
use read_states_bench::subject::{Change, Engine, Subject, Write};
use read_states_bench::world::World;

/// Users who come at once, and are loaded before their read states are filled in.
const AT_ONCE: usize = 1_000;

fn main() {
    harness::each_alone(&[Engine::NAME], |_| measure());
}

fn measure() {
    let world = World::standard(harness::states());
    let recorder = harness::recorder::<Engine>("rust growth", &world);
    // Tables grow from nothing: what there is to be room for is not known to them.
    let engine = Engine::new(world.states());
    let (mut comings, mut acks) = (histogram(), histogram());
    let users = Vec::from_iter(0..world.users);
    for some in users.chunks(AT_ONCE) {
        let mut last = Instant::now();
        for user in some {
            engine.admit(world.user(*user));
            lap(&mut last, &mut comings);
        }
        engine.settle();
        last = Instant::now();
        for i in 0..world.per_user {
            for user in some {
                engine.write(&Write {
                    user: world.user(*user),
                    channel: world.channel(*user, i),
                    message: 1 << 58,
                    change: Change::Ack,
                });
                lap(&mut last, &mut acks);
            }
        }
        engine.settle();
    }
    for (work, histogram) in [
        ("ack while filling", acks),
        ("a user who comes while filling", comings),
    ] {
        for (metric, quantile) in [("p50 us", 0.5), ("p99.99 us", 0.9999), ("longest us", 1.0)] {
            let value = histogram.value_at_quantile(quantile) as f64 / 1_000.0;
            println!("{work}, {metric}: {value:.1}");
            recorder.record(work, 1, metric, value);
        }
    }
}

fn lap(last: &mut Instant, histogram: &mut Histogram<u64>) {
    let now = Instant::now();
    histogram.saturating_record(now.duration_since(*last).as_nanos() as u64);
    *last = now;
}

/// Nanoseconds up to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that are possible")
}
