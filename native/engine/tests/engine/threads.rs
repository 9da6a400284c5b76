//! Many threads at once: each works on users of its own and checks every read against its own
//! model, while others load, commit, fail to, and evict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::Model;
use crate::store::Store;
use parking_lot::Mutex;
use read_states_engine::Policy;
use read_states_engine::engine::{Config, Engine, UserOperation};
use read_states_engine::id::{Channel, Id};
use read_states_engine::list::Query;
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read::Found;

const WORKERS: u64 = 6;
const OPERATIONS: usize = 20_000;
const PARTITIONS: usize = 2;

/// Marsaglia's xorshift: enough to mix things up.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn operation(&mut self, worker: u64) -> UserOperation {
        let channel = Channel {
            kind: 0,
            id: self.below(40),
        };
        let message = self.below(30);
        let (counter, by) = (0, 1);
        let change = match self.below(10) {
            0..=3 => Change::Ack { message },
            4..=7 => Change::Increment {
                message,
                counter,
                by,
            },
            8 => Change::Decrement {
                message,
                counter,
                by,
            },
            _ => Change::Delete,
        };
        let operation = if self.below(100) == 0 {
            Operation::DeleteUser
        } else {
            Operation::Change { channel, change }
        };
        // Users of all workers share shards and channels.
        let user = self.below(30) * WORKERS + worker;
        UserOperation { user, operation }
    }
}

fn now(random: &mut Random) -> Now {
    Now {
        monotonic: random.below(3_000),
        unix: random.below(1_000_000),
    }
}

/// Loads and commits, one in eight of them in vain.
fn serve(engine: &Arc<Engine>, store: &Mutex<Store>, partition: usize, random: &mut Random) {
    if let Some(mut load) = engine.begin_load(partition, 5).load {
        for user in load.users().to_vec() {
            let page = store.lock().load(user, 1);
            load.add(&page).unwrap();
        }
        if random.below(8) > 0 {
            load.finish(now(random));
        }
    }
    if let Some(commit) = engine.begin_commit(
        partition,
        50,
        Now {
            monotonic: 4_000,
            unix: 0,
        },
    ) {
        let late = commit.batch().to_vec();
        match random.below(8) {
            0 => drop(commit),
            1 => {
                drop(commit);
                store.lock().commit(&late);
            }
            _ => {
                store.lock().commit(&late);
                commit.succeed(now(random));
            }
        }
    }
}

fn work(engine: &Engine, worker: u64) -> Model {
    let mut random = Random(worker + 1);
    let mut model = Model::default();
    for _ in 0..OPERATIONS {
        let UserOperation { user, operation } = random.operation(worker);
        if random.below(50) == 0 {
            // Some users in it several times, and some of its shards taken by another worker.
            let batch: Vec<_> = (0..random.below(100))
                .map(|_| random.operation(worker))
                .collect();
            engine.apply_all(&batch, now(&mut random)).unwrap();
            for UserOperation { user, operation } in &batch {
                model.apply(*user, operation);
            }
        } else if random.below(3) > 0 {
            engine.apply(user, &operation, now(&mut random)).unwrap();
            model.apply(user, &operation);
        } else if let Found::Resident(states) = engine
            .list(user, Query::default(), true, now(&mut random))
            .unwrap()
        {
            assert_eq!(states.to_vec(), model.list(user, Query::default()));
        }
    }
    model
}

#[test]
fn concurrent_histories_equal_their_models() {
    concurrent_histories(Policy::Clock);
}

#[test]
fn concurrent_histories_equal_their_models_with_an_lru() {
    concurrent_histories(Policy::Lru);
}

fn concurrent_histories(policy: Policy) {
    let engine = Arc::new(Engine::new(Config {
        policy,
        capacity: 300,
        commit_after: 1_000,
        shards: 8,
        partitions: PARTITIONS,
        ..Config::default()
    }));
    let store = Mutex::new(Store::default());
    let done = AtomicBool::new(false);
    let mut expected = Model::default();
    std::thread::scope(|scope| {
        for partition in 0..PARTITIONS {
            let (engine, store, done) = (&engine, &store, &done);
            scope.spawn(move || {
                let mut random = Random(partition as u64 + 77);
                while !done.load(Ordering::Relaxed) {
                    serve(engine, store, partition, &mut random);
                }
            });
        }
        let spawn = |worker| {
            let engine = &engine;
            scope.spawn(move || work(engine, worker))
        };
        let workers: Vec<_> = (0..WORKERS).map(spawn).collect();
        for worker in workers {
            expected.0.extend(worker.join().unwrap().0);
        }
        done.store(true, Ordering::Relaxed);
    });
    let mut random = Random(5);
    for partition in 0..PARTITIONS {
        let flush = engine.flush(partition);
        while !engine.is_flushed(partition, flush) {
            serve(&engine, &store, partition, &mut random);
        }
    }
    assert_eq!(store.lock().contents(), expected);
    let stats = engine.stats();
    assert!(
        stats.evictions > 0 && stats.loads > 0 && stats.commits > 0,
        "{stats:?}"
    );
    assert_eq!(
        (
            stats.dirty_users,
            stats.pending_operations,
            stats.dirty_memory
        ),
        (0, 0, 0)
    );
    let keys: std::collections::BTreeSet<(Id, Channel)> = expected.0.into_keys().collect();
    assert!(stats.states <= keys.len());
}
