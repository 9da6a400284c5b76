//! A user with 100,000 channels: how long does a thread that acks for the same user, and so wants
//! the same lock, have to wait while another carries out an operation on him?
//!
//!     cargo run --release -p read_states_engine --example large_user
//!
//! The operating system takes a core away now and then, which a second writer shows, for a user
//! in another shard. What a lock makes the first one wait shows in every round.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use read_states_engine::batch::{Batch, BatchBuilder, Entry};
use read_states_engine::engine::{Config, Engine, Resize, UserOperation};
use read_states_engine::id::{Channel, Id};
use read_states_engine::list::Query;
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};

const USER: Id = 7;
const OTHER: Id = 8;
const CHANNELS: Id = 100_000;
const ROUNDS: usize = 15;
const LATER: Now = Now {
    monotonic: 60_000_000,
    unix: 60_000_000,
};

fn main() {
    println!("{CHANNELS} channels, {ROUNDS} rounds, ms\n");
    println!("                         the operation    longest ack for him    for another user");
    println!("                                median       least     median       least  median");
    measure("get", resident, |user| {
        let channel = Channel { kind: 0, id: 5 };
        black_box(user.engine.get(USER, channel)).is_ok()
    });
    measure("total", resident, |user| user.engine.total(USER, 0).is_ok());
    measure("list", resident, |user| user.list(Query::default()));
    measure("list, limit: 50", resident, |user| {
        user.list(Query {
            limit: Some(50),
            ..Query::default()
        })
    });
    measure("update of all", resident, |user| user.update(2));
    measure("update, creating all", |_| (), |user| user.update(1));
    measure("update, not resident", stored, |user| user.update(2));
    measure("load", stored, User::load);
    let pending = |user: &mut User| {
        stored(user);
        user.update(2);
    };
    measure("load, merging into all", pending, User::load);
    let dirty = |user: &mut User| {
        user.update(1);
    };
    measure("commit", dirty, User::commit);
    measure("evict", resident, |user| user.evict());
    measure("delete", resident, |user| {
        let deleted = user.engine.apply(USER, &Operation::DeleteUser, LATER);
        user.engine.reclaim();
        deleted.is_ok()
    });
}

fn resident(user: &mut User) {
    user.update(1);
    user.commit();
}

fn stored(user: &mut User) {
    resident(user);
    user.evict();
}

/// The engine, and all that the store has of the user.
struct User {
    engine: Arc<Engine>,
    rows: Vec<u8>,
}

impl User {
    /// Resident, with no read states.
    fn new() -> Self {
        let engine = Arc::new(Engine::new(Config::default()));
        for user in [USER, OTHER] {
            engine.want(user).expect("there is room");
        }
        let load = engine.begin_load(0, 2).load.expect("both are wanted");
        load.finish(LATER);
        let rows = BatchBuilder::new(1).finish();
        User { engine, rows }
    }

    fn update(&self, message: Id) -> bool {
        let ack = |id| UserOperation {
            user: USER,
            operation: Operation::Change {
                channel: Channel { kind: 0, id },
                change: Change::Ack { message },
            },
        };
        let acks: Vec<_> = (0..CHANNELS).map(ack).collect();
        self.engine.apply_all(&acks, LATER).is_ok()
    }

    fn list(&self, query: Query) -> bool {
        black_box(self.engine.list(USER, query, true, LATER)).is_ok()
    }

    fn commit(&mut self) -> bool {
        let mut rows = BatchBuilder::new(1);
        self.engine.flush(0);
        while let Some(commit) = self.engine.begin_commit(0, 10_000, LATER) {
            for entry in Batch::check(commit.batch()).expect("the engine wrote it") {
                let entry = entry.expect("the engine wrote it");
                if entry.user() == USER && matches!(entry, Entry::Row(_)) {
                    rows.push(&entry);
                }
            }
            commit.succeed(LATER);
        }
        self.rows = rows.finish();
        true
    }

    fn evict(&mut self) -> bool {
        for capacity in [1, usize::MAX] {
            let bounds = Resize {
                capacity: Some(capacity),
                ..Resize::default()
            };
            self.engine.resize(bounds, LATER);
        }
        true
    }

    fn load(&mut self) -> bool {
        self.engine.want(USER).expect("there is room");
        let Some(mut load) = self.engine.begin_load(0, 1).load else {
            return true;
        };
        load.add(&self.rows).expect("the engine wrote it");
        load.finish(LATER).users == 1
    }
}

fn measure(name: &str, prepare: impl Fn(&mut User), operation: impl Fn(&mut User) -> bool) {
    let (mut alone, mut same, mut other) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let mut user = User::new();
        prepare(&mut user);
        let start = Instant::now();
        assert!(operation(&mut user));
        alone.push(start.elapsed());
        for (writes_for, longest) in [(USER, &mut same), (OTHER, &mut other)] {
            let mut user = User::new();
            prepare(&mut user);
            let writer = Writer::start(&user.engine, writes_for);
            operation(&mut user);
            longest.push(writer.stop());
        }
    }
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let mut figures = [alone, same, other].map(|mut durations| {
        durations.sort_unstable();
        (ms(durations[0]), ms(durations[ROUNDS / 2]))
    });
    let [(_, alone), same, other] = &mut figures;
    println!(
        "{name:<26}{alone:>12.3}{:>12.3}{:>11.3}{:>12.3}{:>8.3}",
        same.0, same.1, other.0, other.1
    );
}

/// A thread that acks all the time.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Duration>,
}

impl Writer {
    /// Returns when it writes.
    fn start(engine: &Arc<Engine>, user: Id) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(AtomicBool::new(false));
        let (engine, stopped, started) = (engine.clone(), stop.clone(), writes.clone());
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            let channel = Channel { kind: 0, id: 1 };
            for message in 3.. {
                let change = Change::Ack { message };
                let start = Instant::now();
                let ack = engine.apply(user, &Operation::Change { channel, change }, LATER);
                longest = longest.max(start.elapsed());
                ack.expect("there is no bound");
                if message == 1_000 {
                    longest = Duration::ZERO;
                    started.store(true, Relaxed);
                }
                if stopped.load(Relaxed) {
                    break;
                }
            }
            longest
        });
        while !writes.load(Relaxed) {
            thread::yield_now();
        }
        Writer { stop, thread }
    }

    fn stop(self) -> Duration {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("the writer does not panic")
    }
}
