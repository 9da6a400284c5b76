//! The engine beside what else keeps read states in memory in Rust, on the standard work.
//!
//!     cargo bench --bench peers

mod harness;

use std::hint::black_box;

use read_states_bench::subject::{
    ByUser, Change, Engine, Lru, Moka, Published, QuickCache, Subject,
};
use read_states_bench::world::World;

use harness::{BATCH, Full, Recorder};

fn main() {
    let names = [
        Engine::NAME,
        Published::NAME,
        Lru::NAME,
        QuickCache::NAME,
        Moka::NAME,
    ];
    harness::each_alone(&names, |name| match name {
        Engine::NAME => with_lists(single_keys::<Engine>()),
        Published::NAME => with_lists(single_keys::<Published>()),
        Lru::NAME => drop(single_keys::<Lru>()),
        QuickCache::NAME => drop(single_keys::<QuickCache>()),
        Moka::NAME => drop(single_keys::<Moka>()),
        _ => unreachable!("these are all"),
    });
}

fn single_keys<S: Subject>() -> (Full<S>, Recorder) {
    let (full, mut recorder) = harness::start::<S>("rust", World::standard(harness::states()));
    let subject = &full.subject;
    for (work, change) in [("ack", Change::Ack), ("increment", Change::Increment)] {
        recorder.measure(work, 1, 1, |runs| {
            let draw = |count| full.writes(count, change);
            full.time(runs, 1, draw, |write| subject.write(write))
        });
    }
    recorder.measure("get", 1, 1, |runs| {
        let draw = |count| full.keys(count);
        full.time(runs, 1, draw, |(user, channel)| {
            black_box(subject.get(*user, *channel));
        })
    });
    recorder.measure("update of 1,000", 1, BATCH, |runs| {
        let draw = |count| full.batches(count);
        full.time(runs, BATCH, draw, |batch| subject.write_all(batch))
    });
    (full, recorder)
}

fn with_lists<S: ByUser>((full, mut recorder): (Full<S>, Recorder)) {
    let subject = &full.subject;
    let draw = |count| full.keys(count);
    recorder.measure("list of 50", 1, 1, |runs| {
        full.time(runs, 1, draw, |(user, _)| {
            black_box(subject.list(*user));
        })
    });
    recorder.measure("total", 1, 1, |runs| {
        full.time(runs, 1, draw, |(user, _)| {
            black_box(subject.total(*user));
        })
    });
}
