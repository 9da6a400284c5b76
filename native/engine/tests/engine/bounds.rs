//! What happens at the bounds: capacity, memory, dirty memory, load queue.

use std::sync::Arc;

use crate::store::Store;
use read_states_engine::WriteError;
use read_states_engine::batch::Batch;
use read_states_engine::engine::{Config, Engine, Resize, UserOperation, Wake};
use read_states_engine::id::{Channel, Id};
use read_states_engine::list::Query;
use read_states_engine::load::Load;
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read::{Found, LoadQueueFull};

const LATER: Now = Now {
    monotonic: 60_000_000,
    unix: 60_000_000,
};

fn engine(config: Config) -> Arc<Engine> {
    Arc::new(Engine::new(config))
}

fn ack(channel: Id, message: Id) -> Operation {
    Operation::Change {
        channel: Channel {
            kind: 0,
            id: channel,
        },
        change: Change::Ack { message },
    }
}

fn load(engine: &Arc<Engine>, store: &Store, users: impl IntoIterator<Item = Id>) {
    for user in users {
        engine.want(user).unwrap();
    }
    while let Some(mut load) = engine.begin_load(0, 100).load {
        for user in load.users().to_vec() {
            load.add(&store.load(user, engine.counters())).unwrap();
        }
        load.finish(Now::default());
    }
}

fn commit(engine: &Arc<Engine>, store: &mut Store) {
    let flush = engine.flush(0);
    while !engine.is_flushed(0, flush) {
        while let Some(commit) = engine.begin_commit(0, 1_000, LATER) {
            store.commit(commit.batch());
            commit.succeed(LATER);
        }
        load(engine, store, []);
    }
}

#[test]
fn the_capacity_is_kept_by_evicting_whole_users_who_are_clean() {
    let engine = engine(Config {
        capacity: 1_000,
        ..Config::default()
    });
    let mut store = Store::default();
    for user in 0..300 {
        for channel in 0..10 {
            engine
                .apply(user, &ack(channel, 1), Now::default())
                .unwrap();
        }
    }
    load(&engine, &store, 0..300);
    assert_eq!(
        engine.stats().states,
        3_000,
        "nobody is evicted before he is committed"
    );
    commit(&engine, &mut store);
    let stats = engine.stats();
    assert!(stats.states <= 1_000, "{stats:?}");
    assert_eq!(stats.states % 10, 0, "{stats:?}");
    assert_eq!(stats.evictions as usize, 300 - stats.users);
    load(&engine, &store, 0..300);
    for user in 290..300 {
        engine.want(user).unwrap();
    }
    load(&engine, &store, []);
    let Found::Resident(states) = engine.list(299, Query::default(), false, LATER).unwrap() else {
        panic!("who was just loaded is resident")
    };
    assert_eq!(states.len(), 10, "what was evicted is loaded again");
}

#[test]
fn a_million_reads_of_unknown_users_stay_within_the_bounds() {
    let engine = engine(Config {
        capacity: 10_000,
        ..Config::default()
    });
    let store = Store::default();
    for users in 0..10_000 {
        let users = users * 100..(users + 1) * 100;
        for user in users.clone() {
            assert_eq!(engine.total(user, 0), Ok(Found::Absent));
        }
        load(&engine, &store, []);
        for user in users {
            assert_eq!(engine.total(user, 0), Ok(Found::Resident(0)));
        }
        assert!(engine.stats().users <= 10_100);
    }
    let stats = engine.stats();
    assert_eq!(stats.loads, 1_000_000);
    assert!(stats.memory < 4_000_000, "{stats:?}");
}

#[test]
fn who_is_loaded_for_no_reader_stays_within_the_bounds() {
    let engine = engine(Config {
        capacity: 1_000,
        ..Config::default()
    });
    let store = Store::default();
    for users in 0..100 {
        load(&engine, &store, users * 1_000..(users + 1) * 1_000);
        assert!(engine.stats().users <= 1_000);
    }
    assert_eq!(engine.stats().loads, 100_000);
}

#[test]
fn memory_that_is_freed_is_counted_out_to_the_last_byte() {
    let engine = engine(Config::default());
    let mut store = Store::default();
    let empty = engine.stats().memory;
    for user in 0..1_000 {
        for channel in 0..user % 70 {
            engine
                .apply(user, &ack(channel, 1), Now::default())
                .unwrap();
        }
        if user % 3 == 0 {
            engine
                .apply(user, &Operation::DeleteUser, Now::default())
                .unwrap();
        }
    }
    commit(&engine, &mut store);
    assert!(engine.stats().memory > empty);
    let bounds = Resize {
        capacity: Some(0),
        ..Resize::default()
    };
    engine.resize(bounds, LATER);
    let stats = engine.stats();
    assert_eq!((stats.users, stats.states, stats.dirty_memory), (0, 0, 0));
    // Tables and queues keep their smallest size.
    assert!(stats.memory < empty + 300_000, "{empty} before, {stats:?}");
}

#[test]
fn writes_past_the_dirty_memory_are_refused_and_nothing_accepted_is_lost() {
    let bound = 300_000;
    let engine = engine(Config {
        dirty_memory: bound,
        ..Config::default()
    });
    let mut accepted = Vec::new();
    for user in 0.. {
        match engine.apply(user, &ack(1, 1), Now::default()) {
            Ok(_) => accepted.push(user),
            Err(error) => {
                assert_eq!(error, WriteError::Overloaded);
                break;
            }
        }
        assert!(engine.stats().dirty_memory <= bound);
    }
    assert!(accepted.len() > 100);
    let before = engine.stats();

    // A batch is refused as a whole, though some of it is on users who would not cost more.
    let batch: Vec<UserOperation> = (0..10_000)
        .map(|user| UserOperation {
            user,
            operation: ack(2, 1),
        })
        .collect();
    assert_eq!(engine.apply_all(&batch, LATER), Err(WriteError::Overloaded));
    let after = engine.stats();
    assert_eq!(after.pending_operations, before.pending_operations);
    assert_eq!(after.dirty_memory, before.dirty_memory);
    assert_eq!(after.overloads, 2);

    let mut store = Store::default();
    commit(&engine, &mut store);
    assert_eq!(store.contents().0.len(), accepted.len());
    engine.apply(1_000_000, &ack(1, 1), LATER).unwrap();
}

#[test]
fn what_waits_is_committed_though_the_bound_was_set_below_it() {
    let engine = engine(Config::default());
    for user in 0..100 {
        engine.apply(user, &ack(1, 1), Now::default()).unwrap();
    }
    let bounds = Resize {
        dirty_memory: Some(1),
        ..Resize::default()
    };
    engine.resize(bounds, LATER);
    engine.flush(0);
    assert!(engine.begin_commit(0, 100, LATER).is_none());
    let load = engine.begin_load(0, 10).load.unwrap();
    load.finish(LATER);
    // These first.
    assert!(engine.begin_load(0, 10).load.is_none());
    let mut store = Store::default();
    commit(&engine, &mut store);
    assert_eq!(store.contents().0.len(), 100);
    assert_eq!(engine.stats().dirty_memory, 0);
}

#[test]
fn who_cannot_be_committed_keeps_nobody_else_from_it() {
    // All in one shard, and some in each of several.
    for shards in [1, 16] {
        let engine = engine(Config {
            shards,
            ..Config::default()
        });
        let mut store = Store::default();
        load(&engine, &store, 0..50);
        for user in 0..50 {
            for channel in 0..3 {
                engine
                    .apply(user, &ack(channel, 5), Now::default())
                    .unwrap();
            }
        }
        let commit_without = |refused: &[Id], most: usize, store: &mut Store| {
            let commit = engine.begin_commit(0, most, LATER).expect("some are due");
            let mut users = Batch::check(commit.batch())
                .unwrap()
                .map(|entry| entry.unwrap().user());
            let done = !users.any(|user| refused.contains(&user));
            if done {
                store.commit(commit.batch());
                commit.succeed(LATER);
            } else {
                commit.fail();
            }
            done
        };
        // As the VM does it: one entry after a failure, and more after each success. Each entry has its turn.
        let mut most = 10_000;
        for _ in 0..200 {
            let done = commit_without(&[2, 7], most, &mut store);
            most = if done { most * 4 } else { 1 };
        }
        assert_eq!(engine.stats().dirty_users, 2);
        while engine.stats().dirty_users > 0 {
            assert!(commit_without(&[], 10_000, &mut store));
        }
    }
}

#[test]
fn a_user_with_many_pending_operations_is_wanted_at_once() {
    let engine = engine(Config::default());
    for message in 1..=64 {
        let wake = engine.apply(7, &ack(1, message), Now::default());
        assert_eq!(wake, Ok(Wake::No));
        assert_eq!(engine.load_queue(), 0);
    }
    assert_eq!(engine.apply(7, &ack(1, 65), Now::default()), Ok(Wake::Yes));
    assert_eq!(engine.load_queue(), 1);
    assert_eq!(engine.apply(7, &ack(1, 66), Now::default()), Ok(Wake::No));
    let load = engine.begin_load(0, 10).load.unwrap();
    assert_eq!(load.users(), [7]);
    drop(load);
    assert_eq!(engine.load_queue(), 1, "a load that failed is wanted again");
}

#[test]
fn one_load_serves_all_who_wait() {
    let engine = engine(Config::default());
    for _ in 0..1_000 {
        assert_eq!(engine.total(7, 0), Ok(Found::Absent));
    }
    let load = engine.begin_load(0, 10).load.unwrap();
    assert_eq!(engine.total(7, 0), Ok(Found::Absent));
    assert!(engine.begin_load(0, 10).load.is_none());
    load.finish(Now::default());
    assert_eq!(engine.total(7, 0), Ok(Found::Resident(0)));
}

#[test]
fn who_was_waited_for_stays_until_he_is_read() {
    let engine = engine(Config {
        capacity: 1,
        ..Config::default()
    });
    let now = Now::default();
    for user in 0..10 {
        assert_eq!(engine.total(user, 0), Ok(Found::Absent));
    }
    load(&engine, &Store::default(), []);
    assert_eq!(engine.stats().users, 10);
    for user in 0..5 {
        assert_eq!(engine.total(user, 0), Ok(Found::Resident(0)));
    }
    engine.evict(now);
    assert_eq!(engine.stats().users, 5, "those who were not read stay");
    // Their readers have died.
    engine.evict(LATER);
    assert_eq!(engine.stats().users, 1);
}

#[test]
fn the_load_queue_is_bounded_for_readers_and_not_for_writers() {
    let engine = engine(Config {
        load_queue: 100,
        ..Config::default()
    });
    for user in 0..100 {
        assert_eq!(engine.total(user, 0), Ok(Found::Absent));
    }
    assert_eq!(engine.total(100, 0), Err(LoadQueueFull));
    assert_eq!(
        engine.total(99, 0),
        Ok(Found::Absent),
        "he is queued already"
    );
    for message in 0..65 {
        engine.apply(100, &ack(1, message), Now::default()).unwrap();
    }
    assert_eq!(engine.load_queue(), 101);
}

#[test]
fn the_load_queue_does_not_grow_by_loads_that_fail_again_and_again() {
    let engine = engine(Config::default());
    engine.apply(1, &ack(1, 1), Now::default()).unwrap();
    engine.flush(0);
    assert!(engine.begin_commit(0, 100, LATER).is_none());
    for _ in 0..1_000 {
        // He is due as well each time, and awaited before his turn comes.
        assert_eq!(engine.total(1, 0), Ok(Found::Absent));
        let load = engine.begin_load(0, 100).load.expect("he is awaited");
        assert!(load.is_awaited());
        load.fail();
    }
    assert!(engine.load_queue() < 100, "{}", engine.load_queue());
    let load = load_within(&engine, 100).expect("he is due");
    assert_eq!(load.users(), [1]);
    assert!(load_within(&engine, 100).is_none());
    assert_eq!(engine.load_queue(), 0);
}

#[test]
fn the_load_queue_does_not_grow_by_users_who_need_no_load_any_more() {
    let engine = engine(Config {
        capacity: 0,
        ..Config::default()
    });
    for _ in 0..1_000 {
        for message in 0..65 {
            engine.apply(1, &ack(1, message), LATER).unwrap();
        }
        // Everything is known of him now, without a load.
        engine.apply(1, &Operation::DeleteUser, LATER).unwrap();
        engine.flush(0);
        let commit = engine.begin_commit(0, 100, LATER).unwrap();
        commit.succeed(LATER);
        assert_eq!(engine.stats().users, 0, "and he is evicted again");
    }
    assert!(engine.load_queue() < 100, "{}", engine.load_queue());
}

#[test]
fn one_look_for_users_to_load_looks_at_no_more_than_it_may_load() {
    let engine = engine(Config::default());
    for user in 0..1_000 {
        engine.apply(user, &ack(1, 1), Now::default()).unwrap();
    }
    engine.flush(0);
    assert!(engine.begin_commit(0, 1, LATER).is_none());
    // Their entries of users who are due say nothing any more.
    for user in 0..1_000 {
        engine.want(user).unwrap();
    }
    while let Some(load) = engine.begin_awaited_load(0, 100).load {
        load.finish(LATER);
    }
    for user in 1_000..1_010 {
        engine.apply(user, &ack(1, 1), Now::default()).unwrap();
    }
    engine.flush(0);
    engine.begin_commit(0, 1_000_000, LATER).unwrap();
    while engine.load_queue() > 0 {
        let queued = engine.load_queue();
        let begun = engine.begin_load(0, 10);
        assert!(queued - engine.load_queue() <= 10);
        assert!(begun.more || engine.load_queue() == 0);
        begun.load.map(|load| load.finish(LATER));
    }
}

/// The next load, after looks in which there is none.
fn load_within(engine: &Arc<Engine>, looks: usize) -> Option<Load> {
    let mut begun = (0..looks).map(|_| engine.begin_load(0, 10));
    begun.find_map(|begun| begun.load)
}

#[test]
fn a_closed_engine_refuses_writes_and_answers_reads() {
    let engine = engine(Config::default());
    engine.apply(1, &Operation::DeleteUser, LATER).unwrap();
    engine.close(true);
    let batch = [UserOperation {
        user: 1,
        operation: ack(1, 1),
    }];
    assert_eq!(engine.apply(1, &ack(1, 1), LATER), Err(WriteError::Closed));
    assert_eq!(engine.apply_all(&batch, LATER), Err(WriteError::Closed));
    assert_eq!(engine.total(1, 0), Ok(Found::Resident(0)));
    engine.close(false);
    engine.apply_all(&batch, LATER).unwrap();
}

#[test]
fn room_is_wanted_in_the_dirty_memory_for_what_was_refused_unless_there_can_be_none() {
    let engine = engine(Config {
        dirty_memory: 1 << 20,
        ..Config::default()
    });
    let mention = |users: std::ops::Range<Id>| {
        let operation = ack(1, 1);
        let batch: Vec<_> = users
            .map(|user| UserOperation { user, operation })
            .collect();
        engine.apply_all(&batch, Now::default())
    };
    mention(0..1_000).unwrap();
    assert!(!engine.wants_dirty_memory());
    assert_eq!(mention(10_000..30_000), Err(WriteError::Overloaded));
    assert!(!engine.wants_dirty_memory(), "nothing would be enough");
    assert_eq!(mention(10_000..13_700), Err(WriteError::Overloaded));
    assert!(engine.wants_dirty_memory());
    engine.make_due();
    assert!(!engine.wants_dirty_memory(), "they are told once");
    commit(&engine, &mut Store::default());
    mention(10_000..13_700).unwrap();
}

#[test]
fn who_is_due_has_his_turn_beside_those_who_are_awaited() {
    let engine = engine(Config::default());
    engine.apply(1, &ack(1, 1), Now::default()).unwrap();
    engine.flush(0);
    assert!(engine.begin_commit(0, 1, LATER).is_none());
    engine.want(2).unwrap();
    let due = engine.begin_due_load(0, 10).load.unwrap();
    assert_eq!(due.users(), [1]);
    let awaited = engine.begin_awaited_load(0, 10).load.unwrap();
    assert_eq!(awaited.users(), [2]);
    assert!(engine.begin_load(0, 10).load.is_none());
}

/// A store in which a user has very many read states.
fn store_with_a_large_user(user: Id) -> Store {
    let engine = engine(Config::default());
    for channel in 0..20_000 {
        let acked = engine.apply(user, &ack(channel, 1), Now::default());
        acked.unwrap();
    }
    let mut store = Store::default();
    commit(&engine, &mut store);
    store
}

#[test]
fn who_can_never_be_committed_does_not_keep_those_from_it_who_are_not_in_memory() {
    let mut store = store_with_a_large_user(1);
    let engine = engine(Config {
        dirty_memory: 300_000,
        ..Config::default()
    });
    for user in 1..=100 {
        engine.apply(user, &ack(1, 5), Now::default()).unwrap();
    }
    load(&engine, &store, [1]);
    assert!(engine.stats().dirty_memory > 300_000);
    engine.flush(0);
    for _ in 0..500 {
        if let Some(commit) = engine.begin_commit(0, 1, LATER) {
            let mut entries = Batch::check(commit.batch()).unwrap();
            if entries.any(|entry| entry.unwrap().user() == 1) {
                commit.fail();
            } else {
                store.commit(commit.batch());
                commit.succeed(LATER);
            }
        }
        if let Some(load) = engine.begin_due_load(0, 100).load {
            assert_eq!(load.users().len(), 1);
            load.finish(LATER);
        }
    }
    assert_eq!(engine.stats().dirty_users, 1);
    assert_eq!(store.contents().0.len(), 20_000 + 99);
}

#[test]
fn who_is_larger_than_the_dirty_memory_can_be_written_to_where_nothing_else_is_dirty() {
    let mut store = store_with_a_large_user(1);
    let engine = engine(Config {
        dirty_memory: 300_000,
        ..Config::default()
    });
    load(&engine, &store, [1, 2]);
    let batch = [1, 2].map(|user| UserOperation {
        user,
        operation: ack(1, 5),
    });
    engine.apply_all(&batch, Now::default()).unwrap();
    assert!(engine.stats().dirty_memory > 300_000);
    assert_eq!(
        engine.apply(3, &ack(1, 5), LATER),
        Err(WriteError::Overloaded)
    );
    commit(&engine, &mut store);
    engine.apply(1, &ack(1, 6), LATER).unwrap();
    commit(&engine, &mut store);
    engine.apply(1, &Operation::DeleteUser, LATER).unwrap();
}
