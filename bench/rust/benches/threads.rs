//! The engine from one and from two threads: on any users, and where all want the same one, or the
//! same channel.
//!
//!     cargo bench --bench threads

mod harness;

use read_states_bench::subject::{Change, Engine, Subject, Write};
use read_states_bench::world::{World, snowflake};

use harness::{BATCH, Full};

/// Users whom a message mentions, if there are so many.
const MENTIONED: u64 = 100_000;

fn main() {
    harness::each_alone(&[Engine::NAME], |_| measure());
}

fn measure() {
    let world = World::standard(harness::states());
    let (full, mut recorder) = harness::start::<Engine>("rust threads", world);
    let engine = &full.subject;
    let write = |write: &Write| engine.write(write);
    let write_all = |batch: &_| engine.write_all(batch);

    for threads in [1, 2] {
        recorder.measure("ack", threads, 1, |runs| {
            full.time_on(threads, full.writes(runs, Change::Ack), write)
        });
    }
    for threads in [1, 2] {
        recorder.measure("one hot user", threads, 1, |runs| {
            full.time_on(threads, of_one_user(&full, runs), write)
        });
    }
    for threads in [1, 2] {
        recorder.measure("update of 1,000", threads, BATCH, |runs| {
            full.time_on(threads, full.batches(runs), write_all)
        });
    }
    let mentioned = MENTIONED.min(world.users);
    let batches = mentioned.div_ceil(BATCH);
    for threads in [1, 2] {
        recorder.measure("one hot channel", threads, batches * BATCH, |runs| {
            let mentions = (0..runs).flat_map(|_| mention(&full, batches));
            full.time_on(threads, mentions.collect(), write_all)
        });
    }
}

/// Acks of one user, each of a newer message.
fn of_one_user(full: &Full<Engine>, count: u64) -> Vec<Write> {
    let channels = full.channels_of_one(count);
    let write = |channel| Write {
        user: full.world.user(0),
        channel,
        message: full.next_message(),
        change: Change::Ack,
    };
    channels.into_iter().map(write).collect()
}

/// A message that mentions so many batches of users in one channel, which they get when they are
/// mentioned first: while criterion warms up.
fn mention(full: &Full<Engine>, batches: u64) -> Vec<<Engine as Subject>::Batch> {
    let message = full.next_message();
    let write = |user| Write {
        user: full.world.user(user % full.world.users),
        channel: snowflake(full.world.channels),
        message,
        change: Change::Increment,
    };
    let batch = |first| Engine::batch((first..first + BATCH).map(write).collect());
    (0..batches)
        .map(|batch_number| batch(batch_number * BATCH))
        .collect()
}
