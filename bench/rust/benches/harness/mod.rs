//! What the benches have in common: a subject that is full, criterion, and a line of JSON for each
//! figure. The environment says how much and what:
//!
//! | variable | |
//! |---|---|
//! | `READ_STATES_BENCH_STATES` | read states, 1,000,000 if it is not set |
//! | `READ_STATES_BENCH_SECONDS` | how long each work is measured, 3 if it is not set |
//! | `READ_STATES_BENCH_ONLY` | only this subject, or shape; else each in a process of its own |
//! | `READ_STATES_BENCH_OUTPUT` | a file the figures are appended to; `CRITERION_HOME` must be set too |

// Each bench uses some of it.
#![allow(dead_code)]

use std::cell::{Cell, RefCell};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use rand::RngExt;
use rand::rngs::SmallRng;
use read_states_bench::measurement::{self, Measurement};
use read_states_bench::resident;
use read_states_bench::subject::{Change, Subject, Write, fill};
use read_states_bench::world::{World, random};

/// Operations of a batch.
pub const BATCH: u64 = 1_000;

/// Operations that are drawn at once, while the clock stands still.
const AT_ONCE: u64 = 10_000;

/// As many read states as are asked for.
pub fn states() -> u64 {
    number("READ_STATES_BENCH_STATES", 1_000_000)
}

/// Runs what is called by one of the names, each in a process of its own: memory is what a process
/// takes, and what one leaves behind is not the next one's.
pub fn each_alone(names: &[&str], run: impl FnOnce(&str)) {
    const ONLY: &str = "READ_STATES_BENCH_ONLY";
    if let Ok(only) = env::var(ONLY) {
        assert!(names.contains(&only.as_str()), "{ONLY} is one of {names:?}");
        return run(&only);
    }
    for name in names {
        let mut command = Command::new(env::current_exe().expect("a program knows its file"));
        command.args(env::args_os().skip(1)).env(ONLY, name);
        let status = command.status().expect("it ran a moment ago");
        assert!(status.success(), "{name} failed");
    }
}

/// A subject full of read states, and what is drawn from them.
pub struct Full<S> {
    /// What is measured.
    pub subject: S,
    /// What is in it.
    pub world: World,
    random: RefCell<SmallRng>,
    newest: Cell<u64>,
}

impl<S: Subject> Full<S> {
    /// Operations on any read states, with a message newer than any before: each changes something.
    pub fn writes(&self, count: u64, change: Change) -> Vec<Write> {
        let message = self.next_message();
        let mut random = self.random.borrow_mut();
        let mut write = |_| {
            let (user, channel) = self.world.draw(&mut random);
            Write {
                user,
                channel,
                message,
                change,
            }
        };
        (0..count).map(&mut write).collect()
    }

    /// A message newer than any before.
    pub fn next_message(&self) -> u64 {
        self.newest.update(|newest| newest + 1);
        self.newest.get()
    }

    /// Batches of operations on any read states, half of each kind.
    pub fn batches(&self, count: u64) -> Vec<S::Batch> {
        let batch = |_| {
            let mut writes = self.writes(BATCH, Change::Ack);
            writes
                .iter_mut()
                .step_by(2)
                .for_each(|write| write.change = Change::Increment);
            S::batch(writes)
        };
        (0..count).map(batch).collect()
    }

    /// Any users and a channel of each.
    pub fn keys(&self, count: u64) -> Vec<(u64, u64)> {
        let mut random = self.random.borrow_mut();
        (0..count).map(|_| self.world.draw(&mut random)).collect()
    }

    /// Any of the channels of the first user.
    pub fn channels_of_one(&self, count: u64) -> Vec<u64> {
        let mut random = self.random.borrow_mut();
        let mut channel = |_| {
            self.world
                .channel(0, random.random_range(0..self.world.per_user))
        };
        (0..count).map(&mut channel).collect()
    }

    /// Runs so often, and says how long it took without drawing what it runs on.
    pub fn time<T>(
        &self,
        runs: u64,
        operations: u64,
        draw: impl Fn(u64) -> Vec<T>,
        run: impl Fn(&T),
    ) -> Duration {
        let mut took = Duration::ZERO;
        let mut left = runs;
        while left > 0 {
            let count = left.min(AT_ONCE / operations);
            let drawn = draw(count);
            let start = Instant::now();
            drawn.iter().for_each(&run);
            took += start.elapsed();
            left -= count;
        }
        self.subject.settle();
        took
    }

    /// Runs on all that was drawn, from so many threads that start together, and says how long it
    /// took until the last had done its part.
    pub fn time_on<T: Sync>(
        &self,
        threads: u64,
        drawn: Vec<T>,
        run: impl Fn(&T) + Sync,
    ) -> Duration {
        let ready = Barrier::new(threads as usize + 1);
        let part = drawn.len().div_ceil(threads as usize);
        let took = thread::scope(|scope| {
            let mut parts = drawn.chunks(part);
            // A thread without a part starts too: the others wait for it.
            let threads = Vec::from_iter((0..threads).map(|_| {
                let (part, ready, run) = (parts.next().unwrap_or_default(), &ready, &run);
                scope.spawn(move || {
                    ready.wait();
                    part.iter().for_each(run);
                })
            }));
            ready.wait();
            let start = Instant::now();
            for thread in threads {
                thread.join().expect("no panic");
            }
            start.elapsed()
        });
        self.subject.settle();
        took
    }
}

/// Where figures go to.
pub struct Recorder {
    criterion: Criterion,
    output: Option<PathBuf>,
    /// What all figures have in common.
    of: Measurement,
    /// Bytes the process had before the subject.
    before: u64,
}

/// Where figures of a subject that is about to be filled go to.
pub fn recorder<S: Subject>(part: &str, world: &World) -> Recorder {
    let seconds = number("READ_STATES_BENCH_SECONDS", 3.0);
    let of = Measurement {
        part: part.into(),
        subject: S::NAME.into(),
        states: world.states(),
        per_user: world.per_user,
        shared_by: (world.states() as f64 / world.channels as f64).round() as u64,
        threads: 1,
        ..Measurement::default()
    };
    println!(
        "\n{}: {} read states, {} a user, {} users a channel",
        of.subject, of.states, of.per_user, of.shared_by
    );
    Recorder {
        criterion: Criterion::default()
            .sample_size(20)
            .warm_up_time(Duration::from_secs_f64(seconds / 3.0))
            .measurement_time(Duration::from_secs_f64(seconds))
            .without_plots()
            .configure_from_args(),
        output: env::var_os("READ_STATES_BENCH_OUTPUT").map(PathBuf::from),
        of,
        before: resident::bytes(),
    }
}

/// Fills a subject, and records what memory that took.
pub fn start<S: Subject>(part: &str, world: World) -> (Full<S>, Recorder) {
    let recorder = recorder::<S>(part, &world);
    let start = Instant::now();
    let subject = S::new(world.states());
    fill(&subject, &world);
    println!("filled in {:.1} s", start.elapsed().as_secs_f64());
    recorder.memory("memory");
    println!();
    let full = Full {
        subject,
        world,
        random: RefCell::new(random(7)),
        newest: Cell::new(1 << 59),
    };
    (full, recorder)
}

impl Recorder {
    /// Records the median time of an operation, of which a run has some. It is given how often to
    /// run, and says how long that took.
    pub fn measure(
        &mut self,
        work: &str,
        threads: u64,
        operations: u64,
        mut run: impl FnMut(u64) -> Duration,
    ) {
        let Measurement {
            part,
            subject,
            states,
            per_user,
            shared_by,
            ..
        } = &self.of;
        let name = format!("{part}, {subject}, {states} {per_user} {shared_by}");
        let function = format!("{work}, {threads}");
        let mut group = self.criterion.benchmark_group(&name);
        // Otherwise the runs of a sample grow, and what is committed between them too.
        group.sampling_mode(SamplingMode::Flat);
        group.bench_function(&function, |bencher| bencher.iter_custom(&mut run));
        group.finish();
        if self.output.is_some() {
            // Not there if the work is filtered out on the command line.
            if let Some(ns) = median_ns(&name, &function) {
                self.record(work, threads, "ns/operation", ns / operations as f64);
            }
        }
    }

    /// Records what memory the process has taken since before the subject.
    pub fn memory(&self, work: &str) {
        let bytes = (resident::bytes() - self.before) as f64 / self.of.states as f64;
        println!("{work}: {bytes:.1} bytes a read state");
        self.record(work, 1, "bytes/state", bytes);
    }

    /// Records a figure.
    pub fn record(&self, work: &str, threads: u64, metric: &str, value: f64) {
        let measurement = Measurement {
            work: work.into(),
            threads,
            metric: metric.into(),
            value,
            ..self.of.clone()
        };
        if let Some(output) = &self.output {
            measurement::append(output, &[measurement]).expect("a file that can be written");
        }
    }
}

/// What criterion found the median of a run to be.
fn median_ns(group: &str, function: &str) -> Option<f64> {
    let home = env::var_os("CRITERION_HOME").expect("CRITERION_HOME is set with the output");
    let path = Path::new(&home)
        .join(group)
        .join(function)
        .join("new/estimates.json");
    let estimates = std::fs::read_to_string(path).ok()?;
    let estimates: serde_json::Value = serde_json::from_str(&estimates).expect("JSON");
    estimates["median"]["point_estimate"].as_f64()
}

fn number<T: FromStr>(variable: &str, default: T) -> T {
    let value = env::var(variable).ok();
    value.map_or(default, |value| value.parse().ok().expect(variable))
}
