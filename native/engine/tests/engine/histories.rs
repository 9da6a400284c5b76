//! Random histories in one thread: whatever is resident, pending, evicted, committed, failed,
//! late or under way, every read equals a plain map, and so does the store in the end. With a
//! journal that also holds when the engine is dropped at any moment, and another one, perhaps with another
//! number of shards or a clock that is behind, goes on.

use std::sync::Arc;

use crate::model::{Model, Store};
use proptest::prelude::*;
use read_states_engine::Policy;
use read_states_engine::commit::Commit;
use read_states_engine::engine::{Config, Engine, Resize, UserOperation};
use read_states_engine::id::{Channel, Id};
use read_states_engine::load::Load;
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read::{Found, Query};
use read_states_engine::read_state::ReadState;
use read_states_journal::{Journal, Options};
use tempfile::TempDir;

const USERS: Id = 6;
const COUNTERS: usize = 2;
const PARTITIONS: usize = 2;
const COMMIT_AFTER: u64 = 1_000;

#[derive(Clone, Debug)]
enum Step {
    Apply(UserOperation),
    ApplyAll(Vec<UserOperation>),
    Get(Id, Channel),
    List(Id, Query),
    Total(Id),
    BeginLoad(usize),
    /// Reads the store, without finishing the load.
    ReadStore(usize),
    FinishLoad(usize),
    FailLoad(usize),
    BeginCommit(usize, usize),
    Write(usize),
    Succeed(usize),
    Fail(usize),
    /// Writes again a batch that was written or given up long ago.
    WriteLate(usize),
    Flush(usize),
    Wait(u64),
    ClockJumps(u64),
    Resize(usize),
    TendJournal,
    /// The engine dies. The next one has so many shards.
    Crash(usize),
}

fn channel() -> impl Strategy<Value = Channel> {
    (0..2u8, 0..9u64).prop_map(|(kind, id)| Channel { kind, id })
}

fn change() -> impl Strategy<Value = Change> {
    let message = 0..20u64;
    let counted = (
        message.clone(),
        0..COUNTERS as u8,
        prop_oneof![0..4u32, Just(u32::MAX)],
    );
    prop_oneof![
        4 => message.clone().prop_map(|message| Change::Ack { message }),
        4 => counted.clone().prop_map(|(message, counter, by)| Change::Increment { message, counter, by }),
        2 => counted.prop_map(|(message, counter, by)| Change::Decrement { message, counter, by }),
        2 => (message, any::<[u32; 2]>()).prop_map(|(last_message_id, [first, second])| Change::Put {
            state: ReadState { last_message_id, counters: [first, second, 0, 0] }
        }),
        2 => Just(Change::Delete),
    ]
}

fn operation() -> impl Strategy<Value = UserOperation> {
    let operation = prop_oneof![
        20 => (channel(), change()).prop_map(|(channel, change)| Operation::Change { channel, change }),
        1 => Just(Operation::DeleteUser),
    ];
    (0..USERS, operation).prop_map(|(user, operation)| UserOperation { user, operation })
}

fn query() -> impl Strategy<Value = Query> {
    let after = prop::option::of(channel());
    let limit = prop::option::of(0..5usize);
    let nonzero = prop::option::of(0..COUNTERS);
    (after, limit, nonzero).prop_map(|(after, limit, nonzero)| Query {
        after,
        limit,
        nonzero,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let any_one = 0..8usize;
    let partition = 0..PARTITIONS;
    prop_oneof![
        20 => operation().prop_map(Step::Apply),
        3 => prop::collection::vec(operation(), 0..90).prop_map(Step::ApplyAll),
        6 => (0..USERS, channel()).prop_map(|(user, channel)| Step::Get(user, channel)),
        4 => (0..USERS, query()).prop_map(|(user, query)| Step::List(user, query)),
        2 => (0..USERS).prop_map(Step::Total),
        5 => partition.clone().prop_map(Step::BeginLoad),
        3 => any_one.clone().prop_map(Step::ReadStore),
        5 => any_one.clone().prop_map(Step::FinishLoad),
        1 => any_one.clone().prop_map(Step::FailLoad),
        5 => (partition.clone(), 1..30usize).prop_map(|(partition, most)| Step::BeginCommit(partition, most)),
        3 => any_one.clone().prop_map(Step::Write),
        4 => any_one.clone().prop_map(Step::Succeed),
        1 => any_one.clone().prop_map(Step::Fail),
        1 => any_one.prop_map(Step::WriteLate),
        1 => partition.prop_map(Step::Flush),
        3 => (0..2 * COMMIT_AFTER).prop_map(Step::Wait),
        1 => Just(Step::Wait(6_000_000)),
        1 => (0..1_000_000u64).prop_map(Step::ClockJumps),
        1 => (0..40usize).prop_map(Step::Resize),
    ]
}

fn step_with_journal() -> impl Strategy<Value = Step> {
    prop_oneof![
        50 => step(),
        3 => Just(Step::TendJournal),
        1 => (1..5u32).prop_map(|shards| Step::Crash(1 << shards)),
    ]
}

/// A load, and whether it has read the store.
struct Loading {
    load: Load,
    read: bool,
}

/// A commit, and whether the store has it.
struct Committing {
    commit: Commit,
    written: bool,
}

struct World {
    engine: Arc<Engine>,
    model: Model,
    store: Store,
    loads: Vec<Loading>,
    commits: Vec<Committing>,
    late: Vec<Vec<u8>>,
    now: Now,
    config: Config,
    journal: Option<TempDir>,
}

/// Takes one of several, if there is any.
fn pick<T>(items: &mut Vec<T>, which: usize) -> Option<T> {
    (!items.is_empty()).then(|| items.swap_remove(which % items.len()))
}

impl World {
    fn new(policy: Policy, journal: Option<TempDir>) -> Self {
        let config = Config {
            policy,
            counters: COUNTERS,
            capacity: 20,
            commit_after: COMMIT_AFTER,
            shards: 4,
            partitions: PARTITIONS,
            ..Config::default()
        };
        World {
            engine: start(config, journal.as_ref()),
            model: Model::default(),
            store: Store::default(),
            loads: Vec::new(),
            commits: Vec::new(),
            late: Vec::new(),
            now: Now {
                monotonic: 0,
                unix: 500_000,
            },
            config,
            journal,
        }
    }

    fn crash(&mut self, shards: usize) {
        // What was under way is gone, but what was given to the store may still arrive.
        while let Some(committing) = self.commits.pop() {
            self.lose(&committing);
        }
        self.loads.clear();
        if shards > 4 {
            // A store on the same machine, which was opened anew.
            self.late.clear();
            self.store.forget_deletes();
        }
        self.config.shards = shards;
        // Before the next one starts, as its files are locked.
        self.engine = Arc::new(Engine::new(self.config));
        self.engine = start(self.config, self.journal.as_ref());
        let recovered = self.engine.recover(self.now).unwrap();
        assert_eq!(recovered.damage, []);
        assert_eq!(recovered.cut, 0);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(UserOperation { user, operation }) => {
                self.engine.apply(user, &operation, self.now).unwrap();
                self.model.apply(user, &operation);
            }
            Step::ApplyAll(operations) => {
                self.engine.apply_all(&operations, self.now).unwrap();
                for UserOperation { user, operation } in operations {
                    self.model.apply(user, &operation);
                }
            }
            Step::Get(user, channel) => {
                if let Found::Resident(state) = self.engine.get(user, channel).unwrap() {
                    assert_eq!(state, self.model.get(user, channel));
                }
            }
            Step::List(user, query) => self.check_list(user, query),
            Step::Total(user) => {
                if let Found::Resident(total) = self.engine.total(user, 1).unwrap() {
                    assert_eq!(total, self.model.total(user, 1));
                }
            }
            Step::BeginLoad(partition) => {
                let begun = self.engine.begin_load(partition, 3);
                self.loads
                    .extend(begun.load.map(|load| Loading { load, read: false }));
            }
            Step::ReadStore(which) => {
                if let Some(mut loading) = pick(&mut self.loads, which) {
                    self.read_store(&mut loading);
                    self.loads.push(loading);
                }
            }
            Step::FinishLoad(which) => {
                if let Some(mut loading) = pick(&mut self.loads, which) {
                    self.read_store(&mut loading);
                    loading.load.finish(self.now);
                }
            }
            Step::FailLoad(which) => drop(pick(&mut self.loads, which)),
            Step::BeginCommit(partition, most) => {
                let begun = self.engine.begin_commit(partition, most, self.now);
                self.commits.extend(begun.map(|commit| Committing {
                    commit,
                    written: false,
                }));
            }
            Step::Write(which) => {
                if let Some(mut committing) = pick(&mut self.commits, which) {
                    self.write(&mut committing);
                    self.commits.push(committing);
                }
            }
            Step::Succeed(which) => {
                if let Some(mut committing) = pick(&mut self.commits, which) {
                    self.write(&mut committing);
                    committing.commit.succeed(self.now);
                }
            }
            Step::Fail(which) => {
                if let Some(committing) = pick(&mut self.commits, which) {
                    self.lose(&committing);
                }
            }
            Step::WriteLate(which) => {
                if let Some(batch) = pick(&mut self.late, which) {
                    self.store.commit(&batch);
                }
            }
            Step::Flush(partition) => {
                self.engine.flush(partition);
            }
            Step::Wait(micros) => {
                self.now.monotonic += micros;
                self.now.unix += micros;
            }
            Step::ClockJumps(unix) => self.now.unix = unix,
            Step::Resize(capacity) => self.resize(capacity),
            Step::TendJournal => {
                self.engine.tend_journal(self.now).unwrap();
                self.engine.sync_journal().unwrap();
            }
            Step::Crash(shards) => self.crash(shards),
        }
    }

    fn check_list(&self, user: Id, query: Query) {
        if let Found::Resident(states) = self.engine.list(user, query, false, self.now).unwrap() {
            assert_eq!(states, self.model.list(user, query));
        }
    }

    fn read_store(&self, loading: &mut Loading) {
        if !std::mem::replace(&mut loading.read, true) {
            for user in loading.load.users().to_vec() {
                let page = self.store.load(user, COUNTERS);
                loading.load.add(&page).unwrap();
            }
        }
    }

    fn write(&mut self, committing: &mut Committing) {
        if !std::mem::replace(&mut committing.written, true) {
            committing.commit.write_ahead().run().unwrap();
            self.store.commit(committing.commit.batch());
            self.late.push(committing.commit.batch().to_vec());
        }
    }

    /// Nobody knows whether the store has it, or will have it.
    fn lose(&mut self, committing: &Committing) {
        committing.commit.write_ahead().run().unwrap();
        self.late.push(committing.commit.batch().to_vec());
    }

    fn resize(&self, capacity: usize) {
        let bounds = Resize {
            capacity: Some(capacity),
            ..Resize::default()
        };
        self.engine.resize(bounds, self.now);
    }

    /// Loads and commits everything, as at shutdown.
    fn drain(&mut self) {
        self.loads.clear();
        self.commits.clear();
        let flushes: Vec<u64> = (0..PARTITIONS).map(|p| self.engine.flush(p)).collect();
        for round in 0.. {
            assert!(round < 10_000, "a flush must come to an end");
            for partition in 0..PARTITIONS {
                self.step(Step::BeginCommit(partition, 7));
                self.step(Step::BeginLoad(partition));
            }
            while !self.commits.is_empty() {
                self.step(Step::Succeed(0));
            }
            while !self.loads.is_empty() {
                self.step(Step::FinishLoad(0));
            }
            if (0..PARTITIONS).all(|p| self.engine.is_flushed(p, flushes[p])) {
                return;
            }
        }
    }

    /// Everything is in the store, nothing is left over in the engine.
    fn check_end(&mut self) {
        self.drain();
        assert_eq!(self.store.contents(), self.model);
        for batch in std::mem::take(&mut self.late) {
            self.store.commit(&batch);
        }
        assert_eq!(
            self.store.contents(),
            self.model,
            "late batches change nothing"
        );
        let stats = self.engine.stats();
        assert_eq!((stats.dirty_users, stats.pending_operations), (0, 0));
        assert_eq!(stats.dirty_memory, 0);
        // Pins of readers who never came back expire.
        self.now.monotonic += 10_000_000;
        self.resize(0);
        self.engine.reclaim();
        // Those who only waited for a load.
        while (0..PARTITIONS).any(|p| self.engine.begin_load(p, 100).load.is_some()) {}
        let stats = self.engine.stats();
        assert_eq!((stats.users, stats.states, stats.channels), (0, 0, 0));
    }
}

/// In memory if the system has such a place, for this is not about the disk.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn start(config: Config, journal: Option<&TempDir>) -> Arc<Engine> {
    let options = Options {
        segment: 1 << 16,
        most: 8,
        id_width: 8,
        owner: 7,
        exact: false,
    };
    let journal = journal.map(|directory| Journal::open(directory.path(), options).unwrap());
    Arc::new(Engine::with_journal(config, journal))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]
    #[test]
    fn every_history_with_crashes_equals_the_model(
        steps in prop::collection::vec(step_with_journal(), 1..300),
    ) {
        let mut world = World::new(Policy::Clock, Some(directory()));
        for step in steps {
            world.step(step);
        }
        world.crash(8);
        world.check_end();
    }

    #[test]
    fn every_history_equals_the_model(
        steps in prop::collection::vec(step(), 1..300),
        policy in prop::sample::select(vec![Policy::Clock, Policy::Lru]),
    ) {
        let mut world = World::new(policy, None);
        for step in steps {
            world.step(step);
        }
        world.check_end();
    }
}
