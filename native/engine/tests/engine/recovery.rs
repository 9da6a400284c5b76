//! Recovery in portions, with a disk that fails in the middle.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use read_states_engine::batch::Batch;
use read_states_engine::engine::{Config, Engine};
use read_states_engine::id::{Channel, Id};
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read::Found;
use read_states_engine::recovery::Recovery;
use read_states_journal::{Journal, Options};
use tempfile::TempDir;

const CHANNEL: Channel = Channel { kind: 0, id: 1 };
const USERS: Id = 3_000;
/// Of each user.
const MENTIONS: u32 = 3;

fn open(directory: &TempDir, dirty_memory: usize) -> Arc<Engine> {
    open_with(
        directory,
        Config {
            dirty_memory,
            ..Config::default()
        },
    )
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

#[test]
fn a_disk_that_fails_in_the_middle_has_nothing_taken_up_twice() {
    let directory = tempfile::tempdir().unwrap();
    let now = Now::default();
    let mention = Change::Increment {
        message: 1,
        counter: 0,
        by: 1,
    };
    let mention = Operation::Change {
        channel: CHANNEL,
        change: mention,
    };
    let engine = open(&directory, usize::MAX);
    engine.recover(now).unwrap();
    for _ in 0..MENTIONS {
        for user in 0..USERS {
            engine.apply(user, &mention, now).unwrap();
            engine.tend_journal(now).unwrap();
        }
    }
    drop(engine);

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
    for round in 0.. {
        assert!(round < 1_000, "the recovery must come to an end");
        load(&engine, now);
        if engine.recover_more(now).unwrap() == Recovery::Done {
            break;
        }
    }
    engine.flush(0);
    load(&engine, now);
    for user in 0..USERS {
        engine.want(user).unwrap();
        load(&engine, now);
        let Ok(Found::Resident(state)) = engine.get(user, CHANNEL) else {
            panic!("he was loaded");
        };
        assert_eq!(state.counters[0], MENTIONS);
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
    assert!(error.to_string().contains("without this journal"));
    drop(engine);

    let shared = Config {
        shared: true,
        ..config
    };
    let engine = open_with(&directory, shared);
    assert_eq!(engine.recover(now).unwrap().operations, 1);
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
