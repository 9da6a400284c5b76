//! Recovery: in portions, with a disk that fails in the middle; beside another writer's rows; of an older copy of the store.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use read_states_engine::batch::{Batch, BatchBuilder, Entry, Row};
use read_states_engine::engine::{Config, Engine, UserOperation};
use read_states_engine::id::{Channel, Id};
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read::Found;
use read_states_engine::read_state::ReadState;
use read_states_engine::recovery::{Recovered, Recovery};
use read_states_journal::{Journal, Options};
use tempfile::TempDir;

use crate::store::Store;

const CHANNEL: Channel = Channel { kind: 0, id: 1 };
const USERS: Id = 3_000;
/// Of each user.
const MENTIONS: u32 = 3;

fn open(directory: &TempDir, dirty_memory: usize) -> Arc<Engine> {
    let config = Config {
        dirty_memory,
        ..Config::default()
    };
    open_with(directory, config)
}

fn open_with(directory: &TempDir, config: Config) -> Arc<Engine> {
    let options = Options {
        segment: 1 << 16,
        most: 64,
        id_width: 8,
        owner: 7,
        exact: false,
    };
    let journal = Journal::open(directory.path(), options).unwrap();
    Arc::new(Engine::with_journal(config, Some(journal)))
}

fn segments(directory: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|it| it == "journal"))
        .collect();
    segments.sort();
    segments
}

/// Loads whoever is due, from a store that has nothing.
fn load(engine: &Arc<Engine>, now: Now) {
    assert!(engine.begin_commit(0, 1_000_000, now).is_none_or(|commit| {
        commit.write_ahead().run().unwrap();
        commit.succeed(now);
        true
    }));
    while let Some(load) = engine.begin_load(0, 1_000).load {
        load.finish(now);
    }
}

/// Reads the journal, and takes up what there is room for.
fn recover(engine: &Engine, now: Now) -> Recovered {
    let recovered = engine.recover(now).unwrap();
    engine.recover_more(now).unwrap();
    recovered
}

/// A journal with one mention of each user after the other, several times.
fn mentioned(directory: &TempDir, now: Now) {
    let mention = Change::Increment {
        message: 1,
        counter: 0,
        by: 1,
    };
    let engine = open(directory, usize::MAX);
    engine.recover(now).unwrap();
    for _ in 0..MENTIONS {
        for user in 0..USERS {
            engine.apply(user, &on(mention), now).unwrap();
            engine.tend_journal(now).unwrap();
        }
    }
}

/// Takes up what is left, and has all of it merged.
fn finish(engine: &Arc<Engine>, now: Now) {
    for round in 0.. {
        assert!(round < 1_000, "the recovery must come to an end");
        load(engine, now);
        if engine.recover_more(now).unwrap() == Recovery::Done {
            break;
        }
    }
    engine.flush(0);
    load(engine, now);
}

fn assert_mentioned(engine: &Arc<Engine>, now: Now) {
    for user in 0..USERS {
        engine.want(user).unwrap();
        load(engine, now);
        let Ok(Found::Resident(state)) = engine.get(user, CHANNEL) else {
            panic!("he was loaded");
        };
        assert_eq!(state.counters[0], MENTIONS);
    }
}

#[test]
fn the_journal_is_not_read_again_for_each_shard() {
    let directory = tempfile::tempdir().unwrap();
    let now = Now::default();
    mentioned(&directory, now);
    // All can be kept, and a fourth of it be merged at the same time.
    let engine = open(&directory, 1_300_000);
    let recovered = engine.recover(now).unwrap();
    assert_eq!(recovered.operations, USERS * u64::from(MENTIONS));
    assert_eq!(engine.recover_more(now).unwrap(), Recovery::Portion);
    for segment in segments(&directory) {
        let name = segment.file_name().unwrap();
        let hidden = format!("{}.hidden", name.to_str().unwrap());
        fs::rename(&segment, directory.path().join(hidden)).unwrap();
    }
    assert_eq!(engine.recover_more(now).unwrap(), Recovery::Waits);
    finish(&engine, now);
    assert_mentioned(&engine, now);
}

#[test]
fn calls_are_answered_before_the_first_operation_is_taken_up() {
    let directory = tempfile::tempdir().unwrap();
    let now = Now::default();
    mentioned(&directory, now);
    let engine = open(&directory, usize::MAX);
    engine.recover(now).unwrap();
    assert!(engine.is_recovering());
    assert_eq!(engine.stats().pending_operations, 0);
    assert_eq!(engine.get(1, CHANNEL), Ok(Found::Absent));
    engine.apply(1, &Operation::DeleteUser, now).unwrap();
    engine
        .apply(1, &on(Change::Ack { message: 7 }), now)
        .unwrap();
    // Who asks for a commit now waits for what is still to be taken up, and not for its deadline.
    let flush = engine.flush(0);
    load(&engine, now);
    assert!(!engine.is_flushed(0, flush));
    assert_eq!(engine.get(1, CHANNEL), Ok(Found::Absent));
    assert_eq!(engine.recover_more(now).unwrap(), Recovery::Done);
    load(&engine, now);
    load(&engine, now);
    assert!(engine.is_flushed(0, flush));
    let acked = ReadState {
        last_message_id: 7,
        ..ReadState::default()
    };
    engine.want(1).unwrap();
    load(&engine, now);
    assert_eq!(engine.get(1, CHANNEL), Ok(Found::Resident(acked)));
}

#[test]
fn a_disk_that_fails_in_the_middle_has_nothing_taken_up_twice() {
    let directory = tempfile::tempdir().unwrap();
    let now = Now::default();
    mentioned(&directory, now);
    let engine = open(&directory, 200_000);
    let recovered = engine.recover(now).unwrap();
    assert_eq!(recovered.operations, USERS * u64::from(MENTIONS));
    // A user whose turn has not come is not loaded, and one that was written to is not either.
    load(&engine, now);
    let hidden = segments(&directory).swap_remove(3);
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&hidden, &elsewhere).unwrap();
    engine.recover_more(now).unwrap_err();
    let taken_up = engine.stats().pending_operations;
    for _ in 0..5 {
        engine.recover_more(now).unwrap_err();
        assert_eq!(engine.stats().pending_operations, taken_up);
    }
    fs::rename(&elsewhere, &hidden).unwrap();
    finish(&engine, now);
    assert_mentioned(&engine, now);
}

fn on(change: Change) -> Operation {
    Operation::Change {
        channel: CHANNEL,
        change,
    }
}

/// Loads the user from the store.
fn load_from(engine: &Arc<Engine>, store: &Store, user: Id, now: Now) -> ReadState {
    engine.want(user).unwrap();
    let mut load = engine.begin_load(0, 1).load.unwrap();
    load.add(&store.load(user, 1)).unwrap();
    load.finish(now);
    match engine.get(user, CHANNEL) {
        Ok(Found::Resident(state)) => state,
        other => panic!("he was loaded: {other:?}"),
    }
}

#[test]
fn an_ack_after_the_delete_of_another_writers_row_survives_a_crash_before_its_commit() {
    let directory = tempfile::tempdir().unwrap();
    let now = Now {
        monotonic: 0,
        unix: 1_000,
    };
    // His clock is an hour ahead.
    let mut store = Store::default();
    let mut page = BatchBuilder::new(1);
    page.push(&Entry::Row(Row {
        user: 1,
        channel: CHANNEL,
        version: 3_600_000_000,
        writer: 8,
        state: ReadState {
            last_message_id: 5,
            counters: [3, 0, 0, 0],
        },
    }));
    store.commit(&page.finish());

    let engine = open(&directory, usize::MAX);
    engine.recover(now).unwrap();
    engine.apply(1, &on(Change::Delete), now).unwrap();
    engine
        .apply(1, &on(Change::Ack { message: 2 }), now)
        .unwrap();
    let acked = ReadState {
        last_message_id: 2,
        ..ReadState::default()
    };
    assert_eq!(load_from(&engine, &store, 1, now), acked);
    engine.flush(0);
    let commit = engine.begin_commit(0, 100, now).unwrap();
    // The delete is written down once more, and then the process dies.
    commit.write_ahead().run().unwrap();
    let batch = commit.batch().to_vec();
    drop(commit);
    drop(engine);

    // A commit may have the delete only: the row had no room in it, or the store has written half of it.
    let mut delete = BatchBuilder::new(1);
    for entry in Batch::check(&batch).unwrap().map(Result::unwrap) {
        if matches!(entry, Entry::DeleteChannel { .. }) {
            delete.push(&entry);
        }
    }
    let nothing = BatchBuilder::new(1).finish();
    let committed = [
        ("nothing", nothing),
        ("the delete", delete.finish()),
        ("all", batch),
    ];
    for (what, part) in committed {
        store.commit(&part);
        let engine = open(&directory, usize::MAX);
        recover(&engine, now);
        assert_eq!(
            load_from(&engine, &store, 1, now),
            acked,
            "committed: {what}"
        );
    }
}

#[test]
fn a_store_that_is_older_than_what_it_confirmed_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let at = |unix| Now { monotonic: 0, unix };
    let engine = open(&directory, usize::MAX);
    engine.recover(at(0)).unwrap();
    // From now on he is resident.
    engine.apply(1, &Operation::DeleteUser, at(500)).unwrap();
    for time in [1_000, 2_000] {
        let ack = Change::Ack { message: time };
        engine.apply(1, &on(ack), at(time)).unwrap();
        engine.flush(0);
        let commit = engine.begin_commit(0, 100, at(time)).unwrap();
        // Above that of the ack.
        let entries = Batch::check(commit.batch()).unwrap();
        let versions = entries.map(|entry| entry.unwrap().version());
        assert_eq!(versions.max(), Some(time + 1));
        commit.write_ahead().run().unwrap();
        commit.succeed(at(time));
    }
    // Accepted, and not confirmed by the store.
    engine
        .apply(1, &on(Change::Ack { message: 3_000 }), at(3_000))
        .unwrap();
    engine.flush(0);
    let commit = engine.begin_commit(0, 100, at(4_000)).unwrap();
    commit.write_ahead().run().unwrap();
    drop(commit);
    drop(engine);

    let lost_of = |floor, shared| {
        let config = Config {
            floor,
            shared,
            ..Config::default()
        };
        let engine = open_with(&directory, config);
        let Recovered { lost_by_store, .. } = engine.recover(at(5_000)).unwrap();
        lost_by_store
    };
    let lost = |floor| {
        let lost = lost_of(floor, false);
        assert_eq!(
            lost_of(floor, true),
            lost,
            "whoever else writes to the store"
        );
        lost
    };
    // What the first life has left, and what a life leaves that does nothing.
    for _life in 0..2 {
        assert_eq!(lost(1_001), 2_001, "it has the first commit only");
        assert_eq!(lost(2_001), 0, "it has what it confirmed");
        assert_eq!(lost(4_000), 0, "and it may have what it did not");
        assert_eq!(lost(0), 2_001, "it is empty, or does not know");
    }
}

#[test]
fn a_clock_that_was_set_back_an_hour_before_the_restart_changes_nothing() {
    const HOUR: u64 = 3_600_000_000;
    let at = |unix| Now { monotonic: 0, unix };
    let (before, after) = (at(10 * HOUR), at(9 * HOUR));
    let mention = Change::Increment {
        message: 9,
        counter: 0,
        by: 1,
    };
    // Also with a store that does not know how far it is.
    for knows_floor in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::default();
        let engine = open(&directory, usize::MAX);
        engine.recover(before).unwrap();
        for user in 1..=3 {
            engine.apply(user, &on(mention), before).unwrap();
            load_from(&engine, &store, user, before);
        }
        engine.apply(3, &on(Change::Delete), before).unwrap();
        engine.flush(0);
        let commit = engine.begin_commit(0, 100, before).unwrap();
        commit.write_ahead().run().unwrap();
        store.commit(commit.batch());
        let entries = Batch::check(commit.batch()).unwrap();
        let floor = entries.map(|entry| entry.unwrap().version()).max().unwrap();
        commit.succeed(before);
        // What is not committed, and what is deleted after it was.
        engine.apply(1, &on(mention), before).unwrap();
        engine.apply(2, &on(Change::Delete), before).unwrap();
        drop(engine);

        // And with fewer shards.
        let config = Config {
            floor: if knows_floor { floor } else { 0 },
            shards: 4,
            ..Config::default()
        };
        let engine = open_with(&directory, config);
        recover(&engine, after);
        for user in 1..=3 {
            engine.apply(user, &on(mention), after).unwrap();
        }
        for (user, mentions) in [(1, 3), (2, 1), (3, 1)] {
            let state = load_from(&engine, &store, user, after);
            assert_eq!(state.counters[0], mentions, "of {user}");
        }
        engine.flush(0);
        let commit = engine.begin_commit(0, 100, after).unwrap();
        commit.write_ahead().run().unwrap();
        store.commit(commit.batch());
        commit.succeed(after);
        for (user, mentions) in [(1, 3), (2, 1), (3, 1)] {
            let channel = CHANNEL;
            assert_eq!(store.contents().get(user, channel).counters[0], mentions);
        }
    }
}

#[test]
fn what_others_have_written_since_keeps_the_journal_from_being_taken_up_unless_the_store_is_shared()
{
    let directory = tempfile::tempdir().unwrap();
    let now = Now {
        monotonic: 0,
        unix: 1_000,
    };
    let ack = Operation::Change {
        channel: CHANNEL,
        change: Change::Ack { message: 5 },
    };
    let engine = open(&directory, usize::MAX);
    engine.recover(now).unwrap();
    engine.apply(1, &ack, now).unwrap();
    drop(engine);

    let config = Config {
        floor: 2_000,
        ..Config::default()
    };
    let engine = open_with(&directory, config);
    let error = engine.recover(now).unwrap_err();
    assert_eq!(error.reason(), "other_store");
    drop(engine);

    let shared = Config {
        shared: true,
        ..config
    };
    let engine = open_with(&directory, shared);
    assert_eq!(recover(&engine, now).operations, 1);
    engine.want(1).unwrap();
    load(&engine, now);
    let Ok(Found::Resident(state)) = engine.get(1, CHANNEL) else {
        panic!("he was loaded");
    };
    assert_eq!(state.last_message_id, 5);
    // What is written now is above all that the others have.
    engine.flush(0);
    let commit = engine.begin_commit(0, 10, now).unwrap();
    let rows = Batch::parse(commit.batch()).unwrap();
    assert!(rows.map(Result::unwrap).all(|row| row.version() > 2_000));
}

/// The header has the mark, by which a journal of another store is told.
#[test]
fn a_damaged_header_is_reported_and_keeps_nothing_from_being_taken_up() {
    let config = Config {
        floor: 2_000,
        ..Config::default()
    };
    let now = Now {
        monotonic: 0,
        unix: 3_000,
    };
    let ack = Operation::Change {
        channel: CHANNEL,
        change: Change::Ack { message: 5 },
    };
    let directory = tempfile::tempdir().unwrap();
    let engine = open_with(&directory, config);
    engine.recover(now).unwrap();
    engine.apply(1, &ack, now).unwrap();
    drop(engine);
    let written: Vec<_> = segments(&directory)
        .into_iter()
        .map(|path| {
            (
                path.file_name().unwrap().to_owned(),
                fs::read(path).unwrap(),
            )
        })
        .collect();

    // Behind its last value there is nothing.
    for at in 0..120 {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in &written {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        let engine = open_with(&directory, config);
        let recovered = engine.recover(now).unwrap();
        assert_eq!(recovered.operations, 1, "at {at}");
        assert!(!recovered.damage.is_empty(), "at {at}");
        for damage in recovered.damage {
            assert!(
                (damage.at..damage.at + damage.bytes).contains(&at),
                "at {at}"
            );
        }
    }
}

#[test]
fn a_batch_whose_end_is_damaged_is_not_taken_for_one_of_a_call_that_never_returned() {
    let now = Now::default();
    let batch: Vec<_> = (0..3)
        .map(|user| UserOperation {
            user,
            operation: on(Change::Ack { message: 5 }),
        })
        .collect();
    // The end follows three records of an operation, version, user, channel, message and batch.
    const END: usize = 128 + 3 * 48;
    type Damage = fn(&mut Vec<u8>);
    let cases: [(Damage, _); 3] = [
        (|bytes| bytes[END + 9] ^= 1, (0, 3)),
        // As the death of the process in the middle of the call leaves it.
        (|bytes| bytes[END..END + 32].fill(0), (3, 0)),
        (|bytes| bytes.truncate(END), (0, 3)),
    ];
    for (damage, (cut, broken)) in cases {
        let directory = tempfile::tempdir().unwrap();
        let engine = open(&directory, usize::MAX);
        engine.recover(now).unwrap();
        engine.apply_all(&batch, now).unwrap();
        drop(engine);
        let first = segments(&directory).swap_remove(0);
        let mut bytes = fs::read(&first).unwrap();
        damage(&mut bytes);
        fs::write(&first, bytes).unwrap();
        let recovered = open(&directory, usize::MAX).recover(now).unwrap();
        assert_eq!(recovered.operations, 0);
        assert_eq!((recovered.cut, recovered.broken), (cut, broken));
    }
}
