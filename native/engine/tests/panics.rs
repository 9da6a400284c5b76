//! Whatever panics, wherever: the engine goes on, with what was asked for done or not done, and its books are right.
//!
//!     cargo test -p read_states_engine --features fail_points --test panics

#![cfg(feature = "fail_points")]

#[path = "engine/model.rs"]
mod model;
#[path = "engine/store.rs"]
mod store;

use std::collections::BTreeMap;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Once};

use model::Model;
use proptest::prelude::*;
use read_states_engine::Policy;
use read_states_engine::engine::{Config, Engine, Resize, UserOperation};
use read_states_engine::id::{Channel, Id};
use read_states_engine::list::Query;
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read::Found;
use read_states_engine::read_state::ReadState;
use read_states_engine::recovery::Recovery;
use read_states_journal::{Journal, Options};
use read_states_sync::fail_point::{MESSAGE, panic_after};
use store::Store;
use tempfile::TempDir;

const USERS: Id = 6;
const COUNTERS: usize = 2;
const CHANNELS: u64 = 40;
/// Of an engine that recovers: so little that each shard has a turn of its own.
const DIRTY_MEMORY: usize = 2_000;

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<UserOperation>),
    Get(Id, Channel),
    List(Id),
    Total(Id),
    Load(Id),
    FailLoad(Id),
    DropLoad(Id),
    Commit {
        most: usize,
        end: End,
    },
    Flush,
    Resize(usize),
    Reclaim,
    Tend,
    Stats,
    Wait,
    /// Of the engine. If the next one panics while it takes up what is in the journal, it goes on, or one that is made
    /// anew begins again.
    Crash {
        anew: bool,
    },
}

fn operation() -> impl Strategy<Value = UserOperation> {
    let message = 0..20u64;
    let counted = (message.clone(), 0..COUNTERS as u8, 0..4u32);
    let change = prop_oneof![
        3 => message.clone().prop_map(|message| Change::Ack { message }),
        3 => counted.clone().prop_map(|(message, counter, by)| Change::Increment { message, counter, by }),
        1 => counted.prop_map(|(message, counter, by)| Change::Decrement { message, counter, by }),
        1 => message.prop_map(|last_message_id| Change::Put {
            state: ReadState { last_message_id, counters: [1, 2, 0, 0] }
        }),
        3 => Just(Change::Delete),
    ];
    let operation = prop_oneof![
        20 => (0..CHANNELS, change).prop_map(|(id, change)| Operation::Change {
            channel: Channel { kind: 0, id },
            change,
        }),
        1 => Just(Operation::DeleteUser),
    ];
    (0..USERS, operation).prop_map(|(user, operation)| UserOperation { user, operation })
}

/// Of one user, who has more read states then than a block holds, or few again.
fn many() -> impl Strategy<Value = Vec<UserOperation>> {
    (0..USERS, 0..800u64, any::<bool>()).prop_map(|(user, first, grows)| {
        let change = match grows {
            true => Change::Ack { message: 1 },
            false => Change::Delete,
        };
        let operation = |id| Operation::Change {
            channel: Channel { kind: 0, id },
            change,
        };
        let operations = (first..first + 700).map(operation);
        operations
            .map(|operation| UserOperation { user, operation })
            .collect()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let channel = (0..CHANNELS).prop_map(|id| Channel { kind: 0, id });
    let end = prop::sample::select(vec![End::Succeeds, End::Fails, End::Dropped]);
    prop_oneof![
        12 => operation().prop_map(|operation| Step::Write(vec![operation])),
        4 => prop::collection::vec(operation(), 2..60).prop_map(Step::Write),
        1 => many().prop_map(Step::Write),
        2 => (0..USERS, channel).prop_map(|(user, channel)| Step::Get(user, channel)),
        1 => (0..USERS).prop_map(Step::List),
        1 => (0..USERS).prop_map(Step::Total),
        4 => (0..USERS).prop_map(Step::Load),
        1 => (0..USERS).prop_map(Step::FailLoad),
        1 => (0..USERS).prop_map(Step::DropLoad),
        4 => (1..60usize, end).prop_map(|(most, end)| Step::Commit { most, end }),
        1 => Just(Step::Flush),
        2 => (0..150usize).prop_map(Step::Resize),
        1 => Just(Step::Reclaim),
        1 => Just(Step::Tend),
        1 => Just(Step::Stats),
        1 => Just(Step::Wait),
        1 => any::<bool>().prop_map(|anew| Step::Crash { anew }),
    ]
}

#[derive(Clone, Copy, Debug)]
enum End {
    Succeeds,
    Fails,
    Dropped,
}

struct World {
    config: Config,
    engine: Arc<Engine>,
    model: Model,
    store: Store,
    now: Now,
    panics: usize,
    journal: Option<TempDir>,
    /// Whether a write has panicked: the journal may have more of it than was carried out, or less.
    torn: bool,
}

/// An engine on the files in this directory, which has not recovered yet.
fn open(config: Config, directory: Option<&TempDir>) -> Arc<Engine> {
    let journal = directory.map(|directory| {
        let options = Options {
            segment: 1 << 16,
            most: 64,
            id_width: 8,
            owner: 7,
            exact: false,
        };
        Journal::open(directory.path(), options).unwrap()
    });
    Arc::new(Engine::with_journal(config, journal))
}

impl World {
    fn new(policy: Policy, with_journal: bool) -> Self {
        let config = Config {
            policy,
            counters: COUNTERS,
            capacity: 100,
            commit_after: 1_000,
            shards: 2,
            ..Config::default()
        };
        let directory = with_journal.then(|| {
            tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .unwrap()
        });
        let engine = open(config, directory.as_ref());
        let now = Now {
            monotonic: 0,
            unix: 500_000,
        };
        engine.recover(now).unwrap();
        World {
            config,
            engine,
            model: Model::default(),
            store: Store::default(),
            now,
            panics: 0,
            journal: directory,
            torn: false,
        }
    }

    /// Takes a step that panics after so many fail points, or not at all if it passes fewer.
    fn step(&mut self, step: &Step, passed: Option<u64>) {
        if let Step::Crash { anew } = step {
            return self.crash(*anew, passed);
        }
        panic_after(passed);
        let result = catch_unwind(AssertUnwindSafe(|| self.take(step)));
        let panicked = passed.is_some() && panic_after(None).is_none();
        if let Err(cause) = result {
            if !panicked {
                std::panic::resume_unwind(cause);
            }
            self.panics += 1;
            if let Step::Write(operations) = step {
                self.torn = true;
                self.find_out(operations);
            }
            for user in 0..USERS {
                self.check(user);
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Write(operations) => {
                if let [UserOperation { user, operation }] = &operations[..] {
                    self.engine.apply(*user, operation, self.now).unwrap();
                } else {
                    self.engine.apply_all(operations, self.now).unwrap();
                }
                for UserOperation { user, operation } in operations {
                    self.model.apply(*user, operation);
                }
            }
            Step::Get(user, channel) => {
                if let Found::Resident(state) = self.engine.get(*user, *channel).unwrap() {
                    assert_eq!(state, self.model.get(*user, *channel));
                }
            }
            Step::List(user) => {
                let found = self.engine.list(*user, Query::default(), true, self.now);
                if let Found::Resident(states) = found.unwrap() {
                    assert_eq!(states.to_vec(), self.model.list(*user, Query::default()));
                }
            }
            Step::Total(user) => {
                if let Found::Resident(total) = self.engine.total(*user, 1).unwrap() {
                    let states = self.model.list(*user, Query::default()).into_iter();
                    let counts = states.map(|(_, state)| u64::from(state.counters[1]));
                    assert_eq!(total, counts.sum::<u64>());
                }
            }
            Step::Load(user) => {
                self.engine.want(*user).unwrap();
                self.load();
            }
            Step::FailLoad(user) => {
                self.engine.want(*user).unwrap();
                if let Some(load) = self.engine.begin_load(0, 3).load {
                    load.fail();
                }
            }
            Step::DropLoad(user) => {
                self.engine.want(*user).unwrap();
                drop(self.engine.begin_load(0, 3));
            }
            Step::Commit { most, end } => self.commit(*most, *end),
            Step::Flush => {
                self.engine.flush(0);
            }
            Step::Resize(capacity) => self.resize(*capacity),
            Step::Reclaim => self.engine.reclaim(),
            Step::Tend => {
                self.engine.tend_journal(self.now).unwrap();
                self.engine.sync_journal().unwrap();
            }
            Step::Stats => {
                self.engine.stats();
            }
            Step::Wait => {
                self.now.monotonic += 6_000_000;
                self.now.unix += 6_000_000;
            }
            Step::Crash { anew } => self.crash(*anew, None),
        }
    }

    /// See [`Step::Crash`]. The recovery panics after so many fail points.
    fn crash(&mut self, anew: bool, passed: Option<u64>) {
        if self.journal.is_none() {
            // What is not committed would be lost.
            return;
        }
        if mem::take(&mut self.torn) {
            // Which of it is carried out again does not follow from what was found.
            self.engine.close(true);
            self.drain();
            self.engine.close_journal().unwrap();
        }
        self.open_again();
        panic_after(passed);
        let result = catch_unwind(AssertUnwindSafe(|| {
            self.engine.recover(self.now).unwrap();
            self.take_up();
        }));
        let panicked = passed.is_some() && panic_after(None).is_none();
        if let Err(cause) = result {
            if !panicked {
                std::panic::resume_unwind(cause);
            }
            self.panics += 1;
            // It may have got no further than to read what there is.
            if anew || !self.engine.is_recovering() {
                self.open_again();
                self.engine.recover(self.now).unwrap();
            }
            self.take_up();
        }
        let bounds = Resize {
            dirty_memory: Some(self.config.dirty_memory),
            ..Resize::default()
        };
        self.engine.resize(bounds, self.now);
        for user in 0..USERS {
            self.check(user);
        }
    }

    fn open_again(&mut self) {
        // Nobody has the one before any more, so that its files are free.
        self.engine = Arc::new(Engine::new(self.config));
        let config = Config {
            dirty_memory: DIRTY_MEMORY,
            ..self.config
        };
        self.engine = open(config, self.journal.as_ref());
    }

    /// Goes on with the recovery to its end.
    fn take_up(&mut self) {
        for round in 0.. {
            assert!(round < 1_000, "a recovery must come to an end");
            if self.engine.recover_more(self.now).unwrap() == Recovery::Done {
                break;
            }
            // Then there is room for the next portion.
            self.commit(60, End::Succeeds);
            self.load();
        }
    }

    fn resize(&self, capacity: usize) {
        let bounds = Resize {
            capacity: Some(capacity),
            ..Resize::default()
        };
        self.engine.resize(bounds, self.now);
    }

    fn load(&mut self) {
        if let Some(mut load) = self.engine.begin_load(0, 3).load {
            for user in load.users().to_vec() {
                let page = self.store.load(user, COUNTERS);
                load.add(&page).unwrap();
            }
            load.finish(self.now);
        }
    }

    fn commit(&mut self, most: usize, end: End) {
        if let Some(commit) = self.engine.begin_commit(0, most, self.now) {
            commit.write_ahead().run().unwrap();
            self.store.commit(commit.batch());
            match end {
                End::Succeeds => commit.succeed(self.now),
                End::Fails => commit.fail(),
                // As where its owner is killed.
                End::Dropped => drop(commit),
            }
        }
    }

    /// What the engine has of a user, who is loaded for it.
    fn states(&mut self, user: Id) -> Vec<(Channel, ReadState)> {
        for _try in 0..100 {
            let found = self.engine.list(user, Query::default(), true, self.now);
            match found.unwrap() {
                Found::Resident(states) => return states.to_vec(),
                _ => self.load(),
            }
        }
        panic!("a load must come to an end");
    }

    fn check(&mut self, user: Id) {
        assert_eq!(self.states(user), self.model.list(user, Query::default()));
    }

    /// A write has panicked: of each user, some of the operations may have been carried out, from the first on.
    fn find_out(&mut self, operations: &[UserOperation]) {
        let mut of_users = BTreeMap::<Id, Vec<&Operation>>::new();
        for UserOperation { user, operation } in operations {
            of_users.entry(*user).or_default().push(operation);
        }
        for (user, operations) in of_users {
            let states = self.states(user);
            let mut left = operations.into_iter();
            while self.model.list(user, Query::default()) != states {
                let operation = left.next().expect("what it has comes from its operations");
                self.model.apply(user, operation);
            }
        }
    }

    /// Loads and commits everything.
    fn drain(&mut self) {
        let flush = self.engine.flush(0);
        for round in 0.. {
            assert!(round < 1_000, "a flush must come to an end");
            self.commit(7, End::Succeeds);
            self.load();
            if self.engine.is_flushed(0, flush) {
                break;
            }
        }
    }

    /// Everything can be committed and freed, and the books say so.
    fn check_end(&mut self) {
        self.engine.close(true);
        self.engine.close(false);
        self.drain();
        assert_eq!(self.store.contents(), self.model);
        self.now.monotonic += 10_000_000;
        self.resize(0);
        self.engine.reclaim();
        loop {
            let begun = self.engine.begin_load(0, 100);
            if begun.load.is_none() && !begun.more {
                break;
            }
        }
        let stats = self.engine.stats();
        assert_eq!((stats.users, stats.states, stats.channels), (0, 0, 0));
        let uncommitted = (
            stats.dirty_users,
            stats.pending_operations,
            stats.dirty_memory,
        );
        assert_eq!(uncommitted, (0, 0, 0));
        assert_eq!(stats.load_queue, 0);
        let empty = Engine::new(Config {
            shards: 2,
            ..Config::default()
        })
        .stats();
        let left = stats.memory - empty.memory;
        assert!(left < 100_000, "{left} bytes are left");
    }
}

/// Histories to try.
fn cases() -> u32 {
    let cases = std::env::var("PROPTEST_CASES");
    cases.map_or(300, |cases| cases.parse().unwrap())
}

/// Fail points to pass before the one that panics.
fn passed() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..60u64, 1 => 0..2_000u64]
}

/// The panics of fail points are not to be told: there are thousands.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = take_hook();
        set_hook(Box::new(move |panic| {
            if panic.payload_as_str() != Some(MESSAGE) {
                tell(panic);
            }
        }));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]
    #[test]
    fn the_engine_goes_on_after_a_panic_anywhere(
        steps in prop::collection::vec((step(), prop::option::of(passed())), 1..200),
        policy in prop::sample::select(vec![Policy::Clock, Policy::Lru]),
        with_journal in any::<bool>(),
    ) {
        hush();
        let mut world = World::new(policy, with_journal);
        for (step, passed) in &steps {
            world.step(step, *passed);
        }
        world.check_end();
    }
}

fn change(user: Id, id: Id, change: Change) -> UserOperation {
    UserOperation {
        user,
        operation: Operation::Change {
            channel: Channel { kind: 0, id },
            change,
        },
    }
}

#[test]
fn each_place_on_the_way_of_a_history_may_panic() {
    hush();
    let ack = |user, id| change(user, id, Change::Ack { message: 1 });
    let delete = |user, id| change(user, id, Change::Delete);
    let channel = Channel { kind: 0, id: 1 };
    let history = [
        Step::Write(vec![ack(1, 1)]),
        Step::FailLoad(1),
        Step::DropLoad(1),
        Step::Load(1),
        Step::Write((0..40).map(|id| ack(1, id)).collect()),
        Step::Write(vec![delete(1, 3)]),
        Step::Get(1, channel),
        Step::List(1),
        Step::Total(1),
        Step::Wait,
        Step::Commit {
            most: 10,
            end: End::Succeeds,
        },
        Step::Commit {
            most: 60,
            end: End::Fails,
        },
        Step::Commit {
            most: 60,
            end: End::Dropped,
        },
        Step::Tend,
        Step::Write((0..70).map(|id| ack(2, id)).collect()),
        Step::Load(2),
        Step::Write(vec![UserOperation {
            user: 2,
            operation: Operation::DeleteUser,
        }]),
        Step::Flush,
        Step::Resize(10),
        Step::Reclaim,
        Step::Stats,
    ];
    for policy in [Policy::Clock, Policy::Lru] {
        for passed in 0.. {
            let mut world = World::new(policy, true);
            for step in &history {
                world.step(step, Some(passed));
            }
            world.check_end();
            if world.panics == 0 {
                assert!(passed > 100, "all were passed after {passed}");
                break;
            }
        }
    }
}

#[test]
fn each_place_on_the_way_of_a_recovery_may_panic_and_nothing_is_carried_out_twice() {
    hush();
    let count = |user, id| {
        let count = Change::Increment {
            message: 9,
            counter: 0,
            by: 1,
        };
        change(user, id, count)
    };
    let history = [
        Step::Write(vec![count(1, 1)]),
        Step::Load(1),
        Step::Write((0..12).map(|n| count(n % 4, n % 3)).collect()),
        Step::Flush,
        Step::Commit {
            most: 3,
            end: End::Succeeds,
        },
        Step::Write(vec![change(1, 1, Change::Delete)]),
        Step::Write(vec![count(1, 1)]),
        Step::Commit {
            most: 60,
            end: End::Dropped,
        },
        Step::Write(vec![UserOperation {
            user: 3,
            operation: Operation::DeleteUser,
        }]),
        Step::Write((0..12).map(|n| count(n % 5, 2)).collect()),
        Step::Write(vec![count(4, 1)]),
    ];
    for anew in [false, true] {
        for passed in 0.. {
            let mut world = World::new(Policy::Clock, true);
            for step in &history {
                world.step(step, None);
            }
            world.step(&Step::Crash { anew }, Some(passed));
            // And what it leaves in the journal is taken up as well.
            world.step(&Step::Crash { anew }, None);
            world.check_end();
            if world.panics == 0 {
                assert!(passed > 50, "all were passed after {passed}");
                break;
            }
        }
    }
}

/// Bytes, and those of them that are uncommitted, when everything is committed and evicted.
fn left(world: &mut World) -> (usize, usize) {
    world.engine.flush(0);
    world.commit(60, End::Succeeds);
    world.now.monotonic += 10_000_000;
    world.resize(0);
    let stats = world.engine.stats();
    assert_eq!(stats.users, 0);
    (stats.memory, stats.dirty_memory)
}

#[test]
fn what_panics_is_counted_in_the_memory_as_if_it_had_not() {
    hush();
    let channel = Channel { kind: 0, id: 1 };
    let change = |change| Operation::Change { channel, change };
    let state = ReadState {
        last_message_id: 9,
        counters: [1; 4],
    };
    let operations = [
        change(Change::Delete),
        change(Change::Put { state }),
        change(Change::Ack { message: 7 }),
        Operation::DeleteUser,
    ];
    // Of a user who is clean before, so that his change takes memory for what is unsettled too.
    let world = |policy| {
        let mut world = World::new(policy, false);
        world.take(&Step::Write(vec![UserOperation {
            user: 1,
            operation: change(Change::Ack { message: 1 }),
        }]));
        world.take(&Step::Load(1));
        world.take(&Step::Flush);
        world.commit(60, End::Succeeds);
        assert_eq!(world.engine.stats().dirty_users, 0);
        world
    };
    for policy in [Policy::Clock, Policy::Lru] {
        for operation in operations {
            let step = Step::Write(vec![UserOperation { user: 1, operation }]);
            let mut calm = world(policy);
            calm.take(&step);
            let left = left(&mut calm);
            for passed in 0.. {
                let mut world = world(policy);
                panic_after(Some(passed));
                let result = catch_unwind(AssertUnwindSafe(|| world.take(&step)));
                if panic_after(None).is_some() {
                    assert!(passed > 0);
                    break;
                }
                assert!(result.is_err());
                // Once more, to its end.
                world.take(&step);
                let found = self::left(&mut world);
                assert_eq!(found, left, "{operation:?} after {passed}");
            }
        }
    }
}
