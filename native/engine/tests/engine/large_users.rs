//! A user with 100,000 channels works at every operation.

use std::sync::Arc;

use crate::model::Model;
use crate::store::Store;
use read_states_engine::batch::{Batch, Entry};
use read_states_engine::engine::{Config, Engine, Resize, UserOperation};
use read_states_engine::id::{Channel, Id};
use read_states_engine::list::Query;
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read::Found;

const USER: Id = 7;
const CHANNELS: Id = 100_000;
const LATER: Now = Now {
    monotonic: 60_000_000,
    unix: 60_000_000,
};

fn on(channel: Id, change: Change) -> UserOperation {
    UserOperation {
        user: USER,
        operation: Operation::Change {
            channel: Channel {
                kind: (channel % 3) as u8,
                id: channel * 7919 % CHANNELS,
            },
            change,
        },
    }
}

fn list(engine: &Engine, query: Query, long: bool) -> Found<usize> {
    match engine.list(USER, query, long, LATER).unwrap() {
        Found::Resident(states) => Found::Resident(states.len()),
        Found::Absent => Found::Absent,
        Found::Long => Found::Long,
    }
}

#[test]
fn a_user_with_100_000_channels_works_at_every_operation() {
    let engine = Arc::new(Engine::new(Config::default()));
    let (mut model, mut store) = (Model::default(), Store::default());
    let apply = |model: &mut Model, operations: &[UserOperation]| {
        engine.apply_all(operations, Now::default()).unwrap();
        for UserOperation { user, operation } in operations {
            model.apply(*user, operation);
        }
    };
    let load = |store: &Store| {
        let _ = engine.want(USER);
        let mut load = engine.begin_load(0, 1).load.expect("he is wanted");
        load.add(&store.load(USER, 1)).unwrap();
        load.finish(LATER);
    };
    let commit = |store: &mut Store| {
        while let Some(commit) = engine.begin_commit(0, 10_000, LATER) {
            assert!(commit.entries() <= 10_000);
            let mut seen = std::collections::HashSet::new();
            for entry in Batch::check(commit.batch()).unwrap() {
                if let Entry::Row(row) = entry.unwrap() {
                    assert!(seen.insert(row.channel), "a row once a batch");
                }
            }
            store.commit(commit.batch());
            commit.succeed(LATER);
        }
    };

    // Pending, all of them; then loaded, listed, counted, committed, evicted and loaded again.
    let acks: Vec<_> = (0..CHANNELS)
        .map(|c| on(c, Change::Ack { message: c }))
        .collect();
    apply(&mut model, &acks);
    load(&store);
    let mention = |c| {
        on(
            c,
            Change::Increment {
                message: u64::MAX,
                counter: 0,
                by: 1,
            },
        )
    };
    let mentions: Vec<_> = (0..CHANNELS).step_by(5).map(mention).collect();
    apply(&mut model, &mentions);
    assert_eq!(engine.total(USER, 0), Ok(Found::Resident(CHANNELS / 5)));
    assert_eq!(list(&engine, Query::default(), false), Found::Long);
    let one_more = on(CHANNELS, Change::Ack { message: 1 });
    apply(&mut model, &[one_more]);
    assert_eq!(engine.total(USER, 0), Ok(Found::Long));
    let sum = Ok(Found::Resident(CHANNELS / 5));
    assert_eq!(engine.total_long(USER, 0, LATER), sum);
    apply(&mut model, &[on(CHANNELS, Change::Delete)]);
    let query = Query {
        after: Some(Channel { kind: 1, id: 5_000 }),
        limit: Some(777),
        nonzero: Some(0),
    };
    let listed = engine.list(USER, query, true, LATER).unwrap();
    let Found::Resident(listed) = listed else {
        panic!("he is resident")
    };
    assert_eq!(listed.to_vec(), model.list(USER, query));
    commit(&mut store);
    assert_eq!(store.contents(), model);

    engine.resize(
        Resize {
            capacity: Some(1),
            ..Resize::default()
        },
        LATER,
    );
    assert_eq!(engine.stats().users, 0);
    engine.reclaim();
    assert_eq!(engine.stats().channels, 0);
    engine.resize(
        Resize {
            capacity: Some(usize::MAX),
            ..Resize::default()
        },
        LATER,
    );
    load(&store);
    assert_eq!(
        list(&engine, Query::default(), true),
        Found::Resident(CHANNELS as usize)
    );

    // Deleted one by one, then written again, then deleted as a whole.
    let deletes: Vec<_> = (0..CHANNELS / 2).map(|c| on(c, Change::Delete)).collect();
    apply(&mut model, &deletes);
    commit(&mut store);
    assert_eq!(store.contents(), model);
    apply(&mut model, &acks[..100]);
    engine.apply(USER, &Operation::DeleteUser, LATER).unwrap();
    model.apply(USER, &Operation::DeleteUser);
    apply(&mut model, &acks[..3]);
    commit(&mut store);
    assert_eq!(store.contents(), model);
    engine.reclaim();
    let stats = engine.stats();
    assert_eq!((stats.states, stats.channels, stats.dirty_users), (3, 3, 0));
}
