//! What an operation of the engine costs the processor, counted by valgrind: instructions, and
//! lines of memory that are in no cache. What is counted is the same on every machine, and on a busy one.
//!
//!     cargo run --release --bin count -- --states N --output FILE
//!
//! The cache that is simulated has 1 MB, so that of a million read states, which take 19, almost
//! nothing is in it, as of many millions in a real one. What is fetched ahead counts as missed.
//!
//! Beside them, what a line takes on this machine, which is measured.

use std::hint::black_box;
use std::process::{Command, exit};

use read_states_bench::arguments::Arguments;
use read_states_bench::lines;
use read_states_bench::measurement::{Measurement, append};
use read_states_bench::subject::{ByUser, Change, Engine, Subject, Write, fill};
use read_states_bench::world::{World, random};

const WORKS: [&str; 5] = ["ack", "get", "update of 1,000", "list of 50", "total"];
/// Operations that are counted.
const COUNTED: usize = 20_000;
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
        "{:<20}{:>14}{:>10}",
        "an operation", "instructions", "misses"
    );
    for work in WORKS {
        let [instructions, misses] = count(work, arguments.states);
        println!("{work:<20}{instructions:>14.0}{misses:>10.1}");
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
    println!("{:<34}{:>10}", "a line of memory", "ns");
    for (work, value) in lines::measure() {
        println!("{work:<34}{value:>10.1}");
        results.push(Measurement {
            part: "count".into(),
            work: work.into(),
            subject: "this machine".into(),
            threads: 1,
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
        .args(["--tool=callgrind", "--cache-sim=yes", "--LL=1048576,16,64"])
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
        let change = if work == "ack" || at.is_multiple_of(2) {
            Change::Ack
        } else {
            Change::Increment
        };
        Write {
            user,
            channel,
            message: 1 << 59,
            change,
        }
    };
    let writes = Vec::from_iter((0..COUNTED).map(&mut write));
    match work {
        "ack" => measured(|| writes.iter().for_each(|write| engine.write(write))),
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
        _ => {
            let batches = writes
                .chunks(1_000)
                .map(|writes| Engine::batch(writes.to_vec()));
            let batches = Vec::from_iter(batches);
            measured(|| batches.iter().for_each(|batch| engine.write_all(batch)));
        }
    }
}

/// By its name valgrind knows what to count.
#[inline(never)]
fn measured(work: impl FnOnce()) {
    work();
    black_box(());
}
