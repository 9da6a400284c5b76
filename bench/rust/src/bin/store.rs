//! The Local store beside the crate it is written with, and the engine with it: commits, and the
//! start of an instance that loads every user.
//!
//!     cargo run --release --bin store -- --states N --output FILE

use std::sync::Arc;
use std::time::Instant;

use fjall::{Database, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use rand::RngExt;
use rand::rngs::SmallRng;
use read_states_bench::arguments::Arguments;
use read_states_bench::measurement::{Measurement, append};
use read_states_bench::world::{World, random};
use read_states_engine::batch::{Batch, BatchBuilder, Entry, Row};
use read_states_engine::engine::{Config, Engine};
use read_states_engine::id::{Channel, Id};
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read_state::ReadState;
use read_states_stores::{Local, Store};

/// Rows of a commit.
const BATCH: usize = 10_000;
/// Rows of a commit that are taken in one hold of a shard's lock.
const AT_ONCE: usize = 64;
/// Rows that are dirty when these holds are timed: several holds of each shard.
const LEAST_DIRTY: u64 = 1 << 17;
/// Users of one load, as the library does it.
const LOADED: usize = 256;
/// Entries of a page, as the library asks for them.
const PAGE: usize = 10_000;

fn main() {
    let arguments = Arguments::parse();
    let world = World::standard(arguments.states);
    let mut results = vec![];
    let mut note = |work: &str, subject: &str, metric: &str, value: f64| {
        println!("{work:<34}{subject:<22}{value:>14.0} {metric}");
        results.push(Measurement {
            part: "store".into(),
            work: work.into(),
            subject: subject.into(),
            states: world.states(),
            per_user: world.per_user,
            shared_by: world.per_user,
            threads: 1,
            metric: metric.into(),
            value,
            ..Measurement::default()
        });
    };

    // In turns, so that what else the machine does hits both.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let bare = Bare::open(&directory.path().join("bare"));
    let local = open_local(&directory.path().join("local"));
    let batches = world.states().div_ceil(BATCH as u64);
    let mut random = random(1);
    let (mut bare_seconds, mut local_seconds) = (0.0, 0.0);
    for batch in 0..batches {
        let rows = rows(&world, &mut random, batch + 1);
        bare_seconds += seconds(|| bare.commit(&rows));
        let bytes = encode(&rows);
        local_seconds += seconds(|| local.commit(&bytes).expect("a commit"));
    }
    let written = (batches * BATCH as u64) as f64;
    note(
        "commit of 10,000",
        "fjall",
        "rows/s",
        written / bare_seconds,
    );
    note(
        "commit of 10,000",
        "ReadStates Local",
        "rows/s",
        written / local_seconds,
    );
    drop(bare);

    // Every user has every read state, as a start finds them.
    let users = BATCH as u64 / world.per_user;
    for some in 0..world.users.div_ceil(users) {
        let users = some * users..world.users.min((some + 1) * users);
        let rows: Vec<_> = users
            .flat_map(|user| (0..world.per_user).map(move |i| (user, i)))
            .map(|(user, i)| row(world.user(user), world.channel(user, i), batches + 1 + some))
            .collect();
        local.commit(&encode(&rows)).expect("a commit");
    }
    let mut scanned = 0;
    let scan = seconds(|| {
        let mut cursor = None;
        loop {
            let page = local.scan(cursor.as_deref(), PAGE).expect("a scan");
            scanned += Batch::parse(&page.batch).expect("a batch").count();
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
    });
    note(
        "scan of everything",
        "ReadStates Local",
        "rows/s",
        scanned as f64 / scan,
    );

    let engine = Arc::new(Engine::new(Config::default()));
    let mut users: Vec<Id> = (0..world.users).map(|user| world.user(user)).collect();
    for at in (1..users.len()).rev() {
        users.swap(at, random.random_range(0..=at));
    }
    let mut loaded = 0;
    let load = seconds(|| {
        for users in users.chunks(1_000) {
            for user in users {
                engine.want(*user).expect("no bound");
            }
            while let Some(mut load) = engine.begin_load(0, LOADED).load {
                let mut cursor = None;
                loop {
                    let page = local
                        .load(load.users(), cursor.as_deref(), PAGE)
                        .expect("a load");
                    load.add(&page.batch).expect("a batch");
                    cursor = page.next;
                    if cursor.is_none() {
                        break;
                    }
                }
                loaded += load.finish(NOW).states;
            }
        }
    });
    assert_eq!(loaded as u64, world.states());
    note(
        "load of every user",
        "ReadStates Local",
        "rows/s",
        loaded as f64 / load,
    );

    let (holds, batch) = holds(&engine, &world);
    let holds_of = |share: f64| holds[((holds.len() - 1) as f64 * share) as usize];
    for (metric, value) in [
        ("p50 us", holds_of(0.5)),
        ("p99 us", holds_of(0.99)),
        ("longest us", holds_of(1.0)),
        ("us for 64 rows, of 10,000 in one call", batch),
    ] {
        note(
            "hold of a lock for a batch",
            "ReadStates engine",
            metric,
            value,
        );
    }
    if let Some(output) = arguments.output {
        append(&output, &results).expect("the output can be written");
    }
}

/// How long locks are held while batches of 10,000 rows are built: what is taken in one hold after the other, until
/// there is a batch, in microseconds, ascending. Nobody outside of the engine sees the holds in one call, so each of
/// these is a call, and a bit more than the hold: encoding the rows, which is done without the lock, and going on to
/// the next shard are in it. Beside it, what as many rows take on average of batches that are built in one call.
fn holds(engine: &Arc<Engine>, world: &World) -> (Vec<f64>, f64) {
    let calls = build(engine, world, AT_ONCE, u64::MAX - 1);
    let mut holds = Vec::from_iter(calls.iter().map(|(microseconds, _)| *microseconds));
    holds.sort_by(f64::total_cmp);
    let calls = build(engine, world, BATCH, u64::MAX);
    let (microseconds, rows) = calls
        .iter()
        .fold((0.0, 0), |sum, call| (sum.0 + call.0, sum.1 + call.1));
    (holds, microseconds * AT_ONCE as f64 / rows as f64)
}

/// Builds batches, of calls that take so many rows, from changes of every user by a message. Returns the microseconds
/// and rows of each call.
fn build(engine: &Arc<Engine>, world: &World, at_once: usize, message: u64) -> Vec<(f64, usize)> {
    let each = LEAST_DIRTY.div_ceil(world.users).min(world.per_user);
    for (user, i) in (0..world.users).flat_map(|user| (0..each).map(move |i| (user, i))) {
        let id = world.channel(user, i);
        let operation = Operation::Change {
            channel: Channel { kind: 0, id },
            change: Change::Ack { message },
        };
        let done = engine.apply(world.user(user), &operation, NOW);
        done.expect("no bound");
    }
    engine.flush(0);
    // In the end a shard has less than is taken in one hold, so that a call has several.
    let most = (world.users * each) as usize * 4 / 5;
    let (mut calls, mut built, mut taken) = (vec![], vec![], 0);
    while taken < most {
        let begin = Instant::now();
        let commit = engine.begin_commit(0, at_once, NOW).expect("more is dirty");
        let microseconds = begin.elapsed().as_secs_f64() * 1e6;
        calls.push((microseconds, commit.entries()));
        taken += commit.entries();
        built.push(commit);
        if built.len() * at_once >= BATCH {
            built.drain(..).for_each(|commit| commit.succeed(NOW));
        }
    }
    built.into_iter().for_each(|commit| commit.succeed(NOW));
    while let Some(rest) = engine.begin_commit(0, BATCH, NOW) {
        rest.succeed(NOW);
    }
    calls
}

const NOW: Now = Now {
    monotonic: 1_000_000,
    unix: 1_700_000_000_000_000,
};

fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

fn row(user: Id, id: Id, version: u64) -> Row {
    Row {
        user,
        channel: Channel { kind: 0, id },
        version,
        writer: 1,
        state: ReadState {
            last_message_id: 1 << 59 | version,
            counters: [1, 0, 0, 0],
        },
    }
}

fn rows(world: &World, random: &mut SmallRng, version: u64) -> Vec<Row> {
    let draw = |_| {
        let (user, channel) = world.draw(random);
        row(user, channel, version)
    };
    (0..BATCH).map(draw).collect()
}

fn encode(rows: &[Row]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1);
    for row in rows {
        builder.push(&Entry::Row(*row));
    }
    builder.finish()
}

fn open_local(path: &std::path::Path) -> Local {
    Local::open(path, &["mention_count".to_owned()]).expect("a new store")
}

/// The crate with the options of the Local store, and with keys and values of the same size.
struct Bare {
    database: Database,
    keyspace: fjall::Keyspace,
}

impl Bare {
    fn open(path: &std::path::Path) -> Self {
        let database = Database::builder(path)
            .cache_size(16 << 20)
            .max_journaling_size(64 << 20)
            .worker_threads(3)
            .open()
            .expect("a new database");
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(16 << 20)
                .filter_policy(fjall::config::FilterPolicy::disabled())
        };
        let keyspace = database.keyspace("rows", options).expect("a new keyspace");
        Bare { database, keyspace }
    }

    fn commit(&self, rows: &[Row]) {
        let mut batch = OwnedWriteBatch::with_capacity(self.database.clone(), rows.len())
            .durability(Some(PersistMode::SyncData));
        for row in rows {
            let mut key = [0; 18];
            key[1..9].copy_from_slice(&row.user.to_be_bytes());
            key[10..].copy_from_slice(&row.channel.id.to_be_bytes());
            let mut value = [0; 28];
            value[..8].copy_from_slice(&row.version.to_le_bytes());
            value[16..24].copy_from_slice(&row.state.last_message_id.to_le_bytes());
            batch.insert(&self.keyspace, key, value);
        }
        batch.commit().expect("a commit");
    }
}
