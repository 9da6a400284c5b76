//! A user who cannot be loaded, while others write many times what the journal may have.

use std::sync::Arc;

use fastrand::Rng;
use read_states_engine::WriteError;
use read_states_engine::engine::{Config, Engine, UserOperation};
use read_states_engine::id::{Channel, Id};
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_journal::{Journal, Options};
use tempfile::TempDir;

use crate::model::Model;
use crate::store::Store;

const SEGMENT: usize = 1 << 16;
const MOST: usize = 8;
/// Whom the store cannot load.
const STRAGGLER: Id = 0;
const OTHERS: std::ops::Range<Id> = 1..8;
/// Bytes of the record of an ack.
const ACK: usize = 40;

struct World {
    directory: TempDir,
    engine: Arc<Engine>,
    store: Store,
    model: Model,
    now: Now,
    rng: Rng,
}

fn start(directory: &TempDir, now: Now) -> Arc<Engine> {
    let options = Options {
        segment: SEGMENT,
        most: MOST,
        id_width: 8,
        owner: 7,
        exact: false,
    };
    let config = Config {
        shards: 4,
        commit_after: 1_000,
        ..Config::default()
    };
    let journal = Journal::open(directory.path(), options).unwrap();
    let engine = Arc::new(Engine::with_journal(config, Some(journal)));
    engine.recover(now).unwrap();
    engine
}

fn on(user: Id, id: u64, change: Change) -> UserOperation {
    let channel = Channel { kind: 0, id };
    UserOperation {
        user,
        operation: Operation::Change { channel, change },
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let directory = TempDir::new_in("/dev/shm")
            .or_else(|_| TempDir::new())
            .unwrap();
        let now = Now {
            monotonic: 0,
            unix: 1_000,
        };
        World {
            engine: start(&directory, now),
            directory,
            store: Store::default(),
            model: Model::default(),
            now,
            rng: Rng::with_seed(seed),
        }
    }

    /// Whether it is accepted.
    fn write(&mut self, operations: &[UserOperation]) -> bool {
        let done = match operations {
            [UserOperation { user, operation }] => self.engine.apply(*user, operation, self.now),
            _ => self.engine.apply_all(operations, self.now),
        };
        if done.is_ok() {
            for UserOperation { user, operation } in operations {
                self.model.apply(*user, operation);
            }
        }
        assert!(
            matches!(done, Ok(_) | Err(WriteError::Overloaded)),
            "{done:?}"
        );
        done.is_ok()
    }

    /// It is accepted as soon as there is room, and there soon is.
    fn write_at_last(&mut self, operation: UserOperation) {
        let mut tries = 0..5;
        while !self.write(&[operation]) {
            assert!(tries.next().is_some(), "refused for ever");
            self.work(false);
        }
    }

    /// What cannot be carried out twice.
    fn on_straggler(&mut self) -> UserOperation {
        let counted = Change::Increment {
            message: self.rng.u64(0..20),
            counter: 0,
            by: self.rng.u32(1..4),
        };
        let change = match self.rng.u8(0..20) {
            0 => Change::Delete,
            1 => Change::Ack {
                message: self.rng.u64(0..20),
            },
            _ => counted,
        };
        on(STRAGGLER, self.rng.u64(0..4), change)
    }

    /// Takes up an earlier life, loads and commits what is due, and tends the journal, with everybody or without the one.
    fn work(&mut self, with_straggler: bool) {
        self.now.monotonic += 1_000;
        self.now.unix += 1_000;
        self.engine.recover_more(self.now).unwrap();
        let mut failed = false;
        while !failed && let Some(mut load) = self.engine.begin_load(0, 100).load {
            if !with_straggler && let Some(alone) = load.part(STRAGGLER) {
                alone.fail();
                failed = true;
            }
            for user in load.users().to_vec() {
                load.add(&self.store.load(user, 1)).unwrap();
            }
            load.finish(self.now);
        }
        while let Some(commit) = self.engine.begin_commit(0, 100, self.now) {
            commit.write_ahead().run().unwrap();
            self.store.commit(commit.batch());
            commit.succeed(self.now);
        }
        self.engine.tend_journal(self.now).unwrap();
    }

    /// Another life.
    fn crash(&mut self) {
        // Nobody has it any more, so that its files are free.
        self.engine = Arc::new(Engine::new(Config::default()));
        self.engine = start(&self.directory, self.now);
    }

    fn size(&self) -> usize {
        self.engine.stats().journal_size / SEGMENT
    }
}

#[test]
fn who_cannot_be_loaded_does_not_keep_others_from_writing_and_loses_nothing() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let mut written = 0;
        let mut message = 1;
        while written < 6 * MOST * SEGMENT {
            let straggler = [world.on_straggler(), world.on_straggler()];
            world.write(&straggler[..1]);
            let user = world.rng.u64(OTHERS);
            let mut batch = straggler.to_vec();
            batch.push(on(user, 1, Change::Ack { message }));
            world.write(&batch);
            for _ in 0..world.rng.usize(0..1_500) {
                message += 1;
                let user = world.rng.u64(OTHERS);
                let ack = on(user, message % 3, Change::Ack { message });
                world.write_at_last(ack);
                written += ACK;
            }
            world.work(false);
            assert!(world.size() <= MOST + 2, "{} segments", world.size());
            if world.rng.u8(0..8) == 0 {
                world.crash();
            }
        }
        // Should it have just crashed, what waits is taken up first.
        world.work(false);
        assert!(world.engine.stats().pending_operations > 50);
        // Also where what is there twice is all that is left.
        world.crash();
        for _ in 0..3 {
            world.engine.flush(0);
            world.work(true);
        }
        assert_eq!(world.store.contents(), world.model, "seed {seed}");
        world.now.monotonic += 10_000_000;
        world.work(true);
        world.work(true);
        assert!(world.size() <= 4, "{} segments", world.size());
    }
}

#[test]
fn a_flush_still_waits_for_who_was_carried_over() {
    let mut world = World::new(1);
    let operation = world.on_straggler();
    assert!(world.write(&[operation]));
    let flush = world.engine.flush(0);
    for message in 0..(MOST * SEGMENT / ACK) as u64 {
        world.write_at_last(on(1, 1, Change::Ack { message }));
        if message % 500 == 0 {
            world.work(false);
        }
    }
    assert!(!world.engine.is_flushed(0, flush));
    world.engine.flush(0);
    world.work(true);
    world.work(true);
    assert!(world.engine.is_flushed(0, flush));
}

/// Then copies would take the room of those who write.
#[test]
fn where_very_much_waits_the_journal_is_full_at_its_bound() {
    let mut world = World::new(1);
    for user in 100..1_200 {
        assert!(world.write(&[on(user, 1, Change::Ack { message: 1 })]));
    }
    world.engine.tend_journal(world.now).unwrap();
    // Nobody is loaded.
    let mut refused = 0;
    for message in 0..2 * (MOST * SEGMENT / ACK) as u64 {
        refused += usize::from(!world.write(&[on(STRAGGLER, 1, Change::Ack { message })]));
        if message % 100 == 0 {
            world.engine.tend_journal(world.now).unwrap();
        }
    }
    assert!(refused > 0 && world.size() == MOST);
}
