//! What one operation takes, and what one read state takes, without a VM around the engine.
//!
//!     cargo run --release -p read_states_engine --example speed [STATES [PER_USER [SHARED_BY [ROW]]]]
//!
//! Users and channels are drawn at random, ids have 60 bits; each channel is shared by as many users
//! as each user has channels, unless told otherwise.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use read_states_engine::batch::BatchBuilder;
use read_states_engine::engine::{Config, Engine, UserOperation};
use read_states_engine::id::{Channel, Id};
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read::Query;

const NOW: Now = Now {
    monotonic: 1_000_000,
    unix: 1_700_000_000_000_000,
};
const RUNS: usize = 9;

fn main() {
    let mut numbers = std::env::args()
        .skip(1)
        .take(3)
        .map(|arg| arg.parse::<u64>());
    let mut number = |default| numbers.next().map_or(default, |n| n.expect("a number"));
    let states = number(10_000_000);
    let per_user = number(50);
    let shared_by = number(per_user);
    let world = World {
        users: states / per_user,
        per_user,
        channels: states / shared_by,
    };
    let before = resident_bytes();
    let engine = Arc::new(Engine::new(Config::default()));
    world.fill(&engine);
    let grown = resident_bytes() - before;
    let stats = engine.stats();
    let each = |bytes: usize| bytes as f64 / stats.states as f64;
    println!(
        "{} read states of {} users in {} channels",
        stats.states, stats.users, stats.channels
    );
    println!(
        "bytes each: {:.2} accounted for, {:.2} resident",
        each(stats.memory),
        each(grown)
    );
    println!("{:<34}{:>8}", "median of runs", "ns");

    let mut random = Random(7);
    let mut newest = 1 << 59;
    let singles = 500_000;
    row("ack", || {
        let keys: Vec<_> = (0..singles).map(|_| world.draw(&mut random)).collect();
        newest += 1;
        per(singles, || ack_all(&engine, &keys, newest))
    });
    row("ack, two threads", || {
        newest += 1;
        let mut keys = || -> Vec<_> { (0..singles / 2).map(|_| world.draw(&mut random)).collect() };
        let halves = [keys(), keys()];
        per(singles, || {
            both(&halves, |keys| ack_all(&engine, keys, newest))
        })
    });
    row("ack, two threads, one user", || {
        newest += 1;
        let user = world.user_id(1);
        let mut key = || (user, world.channel(1, random.next() % world.per_user));
        let mut keys = || -> Vec<_> { (0..singles / 2).map(|_| key()).collect() };
        let halves = [keys(), keys()];
        per(singles, || {
            both(&halves, |keys| ack_all(&engine, keys, newest))
        })
    });
    row("get", || {
        let keys: Vec<_> = (0..singles).map(|_| world.draw(&mut random)).collect();
        per(singles, || {
            for (user, channel) in &keys {
                let _ = black_box(engine.get(*user, *channel));
            }
        })
    });
    row("1,000 operations, each", || {
        let mut batches = vec![];
        newest += 1;
        for _ in 0..singles / 1_000 {
            batches.push(world.batch(&mut random, newest));
        }
        per(singles, || {
            for batch in &batches {
                engine.apply_all(batch, NOW).expect("no bound");
            }
        })
    });
    row("1,000 operations, two threads", || {
        newest += 1;
        let mut batches = || -> Vec<_> {
            let batches = 0..singles / 2_000;
            batches.map(|_| world.batch(&mut random, newest)).collect()
        };
        let halves: [Vec<_>; 2] = [batches(), batches()];
        per(singles, || {
            both(&halves, |batches| {
                for batch in batches {
                    engine.apply_all(batch, NOW).expect("no bound");
                }
            });
        })
    });
    row("one message, 1,000 users, each", || {
        let mut batches = vec![];
        newest += 1;
        for _ in 0..singles / 1_000 {
            batches.push(world.mention(&mut random, newest));
        }
        per(singles, || {
            for batch in &batches {
                engine.apply_all(batch, NOW).expect("no bound");
            }
        })
    });
    row("list", || {
        let users: Vec<_> = (0..singles / 10).map(|_| world.user(&mut random)).collect();
        per(users.len(), || {
            for user in &users {
                let _ = black_box(engine.list(*user, Query::default(), false, NOW));
            }
        })
    });
    row("total", || {
        let users: Vec<_> = (0..singles / 10).map(|_| world.user(&mut random)).collect();
        per(users.len(), || {
            for user in &users {
                let _ = black_box(engine.total(*user, 0));
            }
        })
    });
}

fn ack_all(engine: &Engine, keys: &[(Id, Channel)], message: Id) {
    for (user, channel) in keys {
        let operation = Operation::Change {
            channel: *channel,
            change: Change::Ack { message },
        };
        engine.apply(*user, &operation, NOW).expect("no bound");
    }
}

/// Each half on a thread of its own.
fn both<T: Sync>(halves: &[Vec<T>; 2], run: impl Fn(&[T]) + Sync) {
    thread::scope(|scope| {
        for half in halves {
            let run = &run;
            scope.spawn(move || run(half));
        }
    });
}

/// Only the named row, if one is named.
fn row(name: &str, mut run: impl FnMut() -> f64) {
    if std::env::args()
        .nth(4)
        .is_some_and(|only| !name.starts_with(&only))
    {
        return;
    }
    let mut runs: Vec<_> = (0..RUNS).map(|_| run()).collect();
    runs.sort_by(f64::total_cmp);
    println!("{name:<34}{:>8.1}", runs[RUNS / 2]);
}

fn per(operations: usize, run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_nanos() as f64 / operations as f64
}

struct World {
    users: u64,
    per_user: u64,
    channels: u64,
}

impl World {
    fn user_id(&self, user: u64) -> Id {
        snowflake(user)
    }

    /// The `i`th channel of a user. The stride is a prime, so that all are different.
    fn channel(&self, user: u64, i: u64) -> Channel {
        let first = Random(user).next() % self.channels;
        let id = snowflake((first + i * 15_485_863) % self.channels);
        Channel { kind: 0, id }
    }

    fn user(&self, random: &mut Random) -> Id {
        self.user_id(random.next() % self.users)
    }

    fn draw(&self, random: &mut Random) -> (Id, Channel) {
        let user = random.next() % self.users;
        let channel = self.channel(user, random.next() % self.per_user);
        (self.user_id(user), channel)
    }

    fn batch(&self, random: &mut Random, message: Id) -> Vec<UserOperation> {
        let mut operation = |i| {
            let (user, channel) = self.draw(random);
            let change = if i % 2 == 0 {
                Change::Ack { message }
            } else {
                Change::Increment {
                    message,
                    counter: 0,
                    by: 1,
                }
            };
            let operation = Operation::Change { channel, change };
            UserOperation { user, operation }
        };
        (0..1_000).map(&mut operation).collect()
    }

    /// Users who have the channel would be drawn from a list of its members; any will do, who then
    /// have a read state more.
    fn mention(&self, random: &mut Random, message: Id) -> Vec<UserOperation> {
        let channel = Channel {
            kind: 0,
            id: snowflake(0),
        };
        let change = Change::Increment {
            message,
            counter: 0,
            by: 1,
        };
        let operation = Operation::Change { channel, change };
        let mut one = |_| UserOperation {
            user: self.user(random),
            operation,
        };
        (0..1_000).map(&mut one).collect()
    }

    /// Every user resident, clean and with his read states, which come in any order.
    fn fill(&self, engine: &Arc<Engine>) {
        for some in 0..self.users.div_ceil(1_000) {
            let users = some * 1_000..self.users.min((some + 1) * 1_000);
            for user in users.clone() {
                engine.want(self.user_id(user)).expect("no bound");
            }
            let load = engine.begin_load(0, 1_000).load.expect("they are wanted");
            let mut load = load;
            load.add(&BatchBuilder::new(1).finish()).expect("it is one");
            load.finish(NOW);
            for i in 0..self.per_user {
                for user in users.clone() {
                    let change = Change::Ack { message: 1 << 58 };
                    let channel = self.channel(user, i);
                    let operation = Operation::Change { channel, change };
                    let user = self.user_id(user);
                    engine.apply(user, &operation, NOW).expect("no bound");
                }
            }
            engine.flush(0);
            while let Some(commit) = engine.begin_commit(0, 10_000, NOW) {
                commit.succeed(NOW);
            }
        }
    }
}

/// 60 bits, as those of today.
fn snowflake(n: u64) -> Id {
    1 << 59 | n << 22 | (n.wrapping_mul(2_654_435_761) & 0x3F_FFFF)
}

struct Random(u64);

impl Random {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split_whitespace().nth(1).expect("the second is it");
    pages.parse::<usize>().expect("a number") * 4_096
}
