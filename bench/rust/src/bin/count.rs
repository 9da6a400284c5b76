//! What an operation of the engine costs the processor, counted by valgrind: instructions, and
//! lines of memory that are in no cache. What is counted is the same on every machine, and on a busy one.
//!
//!     cargo run --release --bin count -- --states N --output FILE
//!
//! The cache that is simulated has 128 kB. A million read states take 19 MB, and of these the slots and cells of the
//! 20,000 channels and the table of the users some 0.2 to 0.3 MB each: little of any of them is in the cache,
//! as of many millions in a real one. Prefetches are nothing to valgrind: a line that was fetched ahead counts as missed
//! when it is used, and one that was fetched in vain does not count at all.
//!
//! Beside them, what a line takes on this machine, which is measured.

use std::hint::black_box;
use std::process::{Command, exit};

use read_states_bench::arguments::Arguments;
use read_states_bench::lines;
use read_states_bench::measurement::{Measurement, append};
use read_states_bench::subject::{ByUser, Change, Engine, Subject, Write, fill};
use read_states_bench::world::{World, random, snowflake};

const WORKS: [&str; 9] = [
    "ack",
    "ack of a dirty user",
    "get",
    "update of 1,000",
    "update of 1,000 dirty users",
    "mention of 1,000 users",
    "mention of 1,000 dirty users",
    "list of 50",
    "total",
];
/// Operations that are counted.
const COUNTED: usize = 20_000;
/// Operations of a batch.
const BATCH: usize = 1_000;
/// Bytes, ways and bytes of a line. The first level is one of today, whatever this machine has.
const CACHES: [&str; 3] = ["--I1=32768,8,64", "--D1=32768,8,64", "--LL=131072,16,64"];
/// Tells the program that it is the one whose instructions are counted.
const COUNTED_WORK: &str = "READ_STATES_COUNTED_WORK";

fn main() {
    let arguments = Arguments::parse();
    let world = World::standard(arguments.states);
    if let Ok(work) = std::env::var(COUNTED_WORK) {
        return carry_out(&work, &world);
    }
    let mut results = vec![];
    println!(
        "{:<30}{:>14}{:>10}",
        "an operation", "instructions", "misses"
    );
    for work in WORKS {
        let [instructions, misses] = count(work, arguments.states);
        println!("{work:<30}{instructions:>14.0}{misses:>10.1}");
        for (metric, value) in [("instructions", instructions), ("misses", misses)] {
            results.push(Measurement {
                part: "count".into(),
                work: work.into(),
                subject: "ReadStates engine".into(),
                states: world.states(),
                per_user: world.per_user,
                shared_by: world.per_user,
                threads: 1,
                metric: format!("{metric}/operation"),
                value,
                ..Measurement::default()
            });
        }
    }
    println!("{:<34}{:>10}{:>10}", "a line of memory", "threads", "ns");
    for (work, threads, value) in lines::measure() {
        println!("{work:<34}{threads:>10}{value:>10.1}");
        results.push(Measurement {
            part: "count".into(),
            work: work.into(),
            subject: "this machine".into(),
            threads: threads as u64,
            metric: "ns/line".into(),
            value,
            ..Measurement::default()
        });
    }
    if let Some(output) = arguments.output {
        append(&output, &results).expect("the output can be written");
    }
}

/// Instructions and misses of the last level of cache, an operation.
fn count(work: &str, states: u64) -> [f64; 2] {
    let program = std::env::current_exe().expect("a program knows its file");
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--cache-sim=yes"])
        .args(CACHES)
        .args(["--collect-atstart=no", "--toggle-collect=*count*measured*"])
        .arg("--callgrind-out-file=/dev/null")
        .arg(program)
        .args(["--states", &states.to_string()])
        .env(COUNTED_WORK, work)
        .output();
    let Ok(output) = valgrind else {
        eprintln!("valgrind is not installed, so nothing is counted");
        exit(1);
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let sums = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let (_, sums) = sums.unwrap_or_else(|| panic!("valgrind counted nothing:\n{said}"));
    // Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw
    let sums = sums.split_whitespace();
    let sums = Vec::from_iter(sums.map(|sum| sum.parse::<f64>().expect("a number")));
    [sums[0], sums[7] + sums[8]].map(|sum| sum / COUNTED as f64)
}

fn carry_out(work: &str, world: &World) {
    let engine = Engine::new(world.states());
    fill(&engine, world);
    let mut random = random(3);
    let mut write = |at: usize| {
        let (user, channel) = world.draw(&mut random);
        let change = if work.starts_with("ack") || at.is_multiple_of(2) {
            Change::Ack
        } else {
            Change::Increment
        };
        Write {
            user,
            channel,
            message: 1 << 59 | 1,
            change,
        }
    };
    let writes = Vec::from_iter((0..COUNTED).map(&mut write));
    let change_all = |message, channel: &dyn Fn(u64) -> u64, change| {
        let write = |user| Write {
            user: world.user(user),
            channel: channel(user),
            message,
            change,
        };
        engine.write_all(&Engine::batch((0..world.users).map(write).collect()));
    };
    let of_all = snowflake(world.channels);
    if work.starts_with("mention") {
        // Everybody has the channel before.
        change_all(1, &|_user| of_all, Change::Increment);
        engine.settle();
    }
    if work.contains("dirty") {
        change_all(1 << 59, &|user| world.channel(user, 0), Change::Ack);
    }
    match work {
        "ack" | "ack of a dirty user" => {
            measured(|| writes.iter().for_each(|write| engine.write(write)))
        }
        "get" => measured(|| {
            for Write { user, channel, .. } in &writes {
                black_box(engine.get(*user, *channel));
            }
        }),
        "list of 50" => measured(|| {
            for Write { user, .. } in &writes {
                black_box(engine.list(*user));
            }
        }),
        "total" => measured(|| {
            for Write { user, .. } in &writes {
                black_box(engine.total(*user));
            }
        }),
        "mention of 1,000 users" | "mention of 1,000 dirty users" => {
            let mention = |write: &Write| Write {
                channel: of_all,
                change: Change::Increment,
                ..*write
            };
            let batches = batches(&Vec::from_iter(writes.iter().map(mention)));
            measured(|| batches.iter().for_each(|batch| engine.write_all(batch)));
        }
        _ => {
            let batches = batches(&writes);
            measured(|| batches.iter().for_each(|batch| engine.write_all(batch)));
        }
    }
}

fn batches(writes: &[Write]) -> Vec<<Engine as Subject>::Batch> {
    let batches = writes.chunks(BATCH);
    batches
        .map(|writes| Engine::batch(writes.to_vec()))
        .collect()
}

/// By its name valgrind knows what to count.
#[inline(never)]
fn measured(work: impl FnOnce()) {
    work();
    black_box(());
}
