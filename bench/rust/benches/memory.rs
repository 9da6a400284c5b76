//! What the engine takes where it takes more: with `eviction: :lru`, and with everybody changed and nothing committed.
//!
//!     cargo bench --bench memory

mod harness;

use read_states_bench::subject::{Change, Engine, LruEngine, Subject, Write};
use read_states_bench::world::World;

fn main() {
    let names = [Engine::NAME, LruEngine::NAME];
    harness::each_alone(&names, |name| match name {
        Engine::NAME => measure::<Engine>(),
        LruEngine::NAME => measure::<LruEngine>(),
        _ => unreachable!("these are all"),
    });
}

fn measure<S: Subject>() {
    let world = World::standard(harness::states());
    let (full, recorder) = harness::start::<S>("rust memory", world);
    // Newer than what it was filled with, and the second time than the first.
    for (work, each, message) in [
        ("memory, a change of each user", 1, 1 << 59),
        ("memory, every read state changed", world.per_user, 1 << 60),
    ] {
        for user in 0..world.users {
            for i in 0..each {
                full.subject.write(&Write {
                    user: world.user(user),
                    channel: world.channel(user, i),
                    message,
                    change: Change::Ack,
                });
            }
        }
        recorder.memory(work);
    }
}
