//! What read states take of the process's memory, by the engine's own books and by the system's.
//!
//! One test in a process of its own: the system counts the memory of a process as a whole.

use std::sync::Arc;

use read_states_engine::batch::{BatchBuilder, Entry, Row};
use read_states_engine::engine::{Config, Engine, Resize};
use read_states_engine::id::{Channel, Id};
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read_state::ReadState;

const USERS: Id = 40_000;
const CHANNELS: Id = 40_000;
/// A megabyte for what is not the engine's: the batches that the test builds, for example.
const SLACK: usize = 1 << 20;

/// Loads users with so many read states each.
fn load(engine: &Arc<Engine>, users: impl Iterator<Item = Id>, states: Id) {
    let users: Vec<Id> = users.collect();
    for some in users.chunks(100) {
        let mut page = BatchBuilder::new(1);
        for user in some {
            engine.want(*user).unwrap();
            for at in 0..states {
                page.push(&Entry::Row(Row {
                    user: *user,
                    channel: channel(*user, at),
                    version: 1,
                    writer: 0,
                    state: ReadState {
                        last_message_id: user + at,
                        ..ReadState::default()
                    },
                }));
            }
        }
        let mut load = engine.begin_load(0, some.len()).load.unwrap();
        load.add(&page.finish()).unwrap();
        assert_eq!(load.finish(Now::default()).users, some.len());
    }
}

fn resident_bytes() -> usize {
    // What is made ready for what is to come, by a thread that the engine does not wait for, is to be there.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

#[test]
#[cfg(target_os = "linux")]
fn read_states_take_what_the_books_say_and_leave_it_to_others() {
    let engine = Arc::new(Engine::new(Config::default()));
    let keep = |states: usize| {
        for capacity in [states, usize::MAX] {
            let bounds = Resize {
                capacity: Some(capacity),
                ..Resize::default()
            };
            engine.resize(bounds, Now::default());
        }
    };
    // What threads and tables take once is not measured.
    load(&engine, 0..100, 50);
    let (base, before) = (resident_bytes(), engine.stats());
    load(&engine, 100..USERS, 50);
    let (full, stats) = (resident_bytes(), engine.stats());
    let states = stats.states - before.states;
    let booked = stats.memory - before.memory;
    assert!(booked <= 20 * states, "{booked} bytes for {states}");
    let held = stats.reusable_memory as isize - before.reusable_memory as isize;
    let (grown, books) = (full - base, booked.strict_add_signed(held));
    let apart = grown.abs_diff(books);
    assert!(
        apart <= books / 20 + SLACK,
        "{grown} bytes, by the books {books}"
    );

    // What nine users in ten leave serves as many others.
    keep(stats.states / 10);
    let left = engine.stats();
    assert!(left.states <= stats.states / 10 && left.users * 11 > USERS as usize);
    load(&engine, USERS..USERS + USERS * 9 / 10, 50);
    let (again, refilled) = (resident_bytes(), engine.stats());
    assert!(refilled.states * 100 > stats.states * 99);
    assert!(
        again <= full + full / 50 + SLACK,
        "{full} bytes, then {again}"
    );
    assert!(refilled.memory <= stats.memory + stats.memory / 50);

    // And users of another size, who take slabs of their own, and some more of the last ones.
    keep(0);
    load(&engine, 0..USERS, 10);
    let small = engine.stats();
    assert!(small.memory <= 32 * small.states, "{} bytes", small.memory);
    keep(0);
    load(&engine, 0..USERS, 50);
    let mixed = resident_bytes();
    assert!(
        mixed <= full + full / 20 + SLACK,
        "{full} bytes, then {mixed}"
    );

    // Users who grow leave what they had to those who have not grown so far.
    keep(0);
    load(&engine, 0..USERS, 10);
    act(&engine, 10..50);
    commit(&engine);
    let grown = resident_bytes();
    assert!(
        grown <= full + full / 5 + SLACK,
        "{full} bytes, then {grown}"
    );

    // And operations that waited for their users leave what is held for reuse.
    keep(0);
    act(&engine, 0..50);
    while let Some(load) = engine.begin_load(0, 100).load {
        load.finish(Now::default());
    }
    commit(&engine);
    let waited = resident_bytes();
    let stats = engine.stats();
    assert_eq!(stats.states, USERS as usize * 50);
    let held = stats.reusable_memory as isize - before.reusable_memory as isize;
    let books = (base + stats.memory - before.memory).strict_add_signed(held);
    // What else was known of who waited lay in no slab.
    assert!(
        waited <= books + books / 6 + SLACK,
        "{waited} bytes, by the books {books}"
    );
}

/// So many channels of each user are read.
fn act(engine: &Arc<Engine>, channels: std::ops::Range<Id>) {
    for user in 0..USERS {
        for at in channels.clone() {
            let operation = Operation::Change {
                channel: channel(user, at),
                change: Change::Ack { message: 1 },
            };
            engine.apply(user, &operation, Now::default()).unwrap();
        }
        engine.want(user).unwrap();
    }
}

fn commit(engine: &Arc<Engine>) {
    engine.flush(0);
    while let Some(commit) = engine.begin_commit(0, 10_000, Now::default()) {
        commit.succeed(Now::default());
    }
}

/// The channel of a read state of a user.
fn channel(user: Id, at: Id) -> Channel {
    Channel {
        kind: 0,
        id: ((user * 7_919 + at * 104_729) % CHANNELS) << 22,
    }
}
