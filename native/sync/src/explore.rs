//! Running a test under many schedules, and one of them again.

use std::env;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam_epoch::{Collector, Guard, LocalHandle};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, Runner};

pub use shuttle::sync::atomic;

/// A schedule that failed, or a file with it: only that one is run.
const SCHEDULE: &str = "READ_STATES_SCHEDULE";

/// How many schedules are run of each test, instead of what it says.
const SCHEDULES: &str = "READ_STATES_SCHEDULES";

/// Preemptions that a fault needs, at most, to be found soon.
const DEPTH: usize = 3;

/// Bytes of a thread's stack.
const STACK: usize = 256 << 10;

/// How much a test explores where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Schedules that go on with a random thread at each step, and as many that preempt a thread at a few random steps (PCT).
    pub schedules: usize,
}

/// Runs a test under random schedules, half of them drawn at each step, half with few preemptions. One that
/// fails is printed by shuttle.
pub fn explore(effort: Effort, test: impl Fn() + Clone + Send + Sync + 'static) {
    if let Ok(schedule) = env::var(SCHEDULE) {
        let schedule = fs::read_to_string(&schedule).unwrap_or(schedule);
        return run(ReplayScheduler::new_from_encoded(schedule.trim()), test);
    }
    let schedules = env::var(SCHEDULES).map(|said| said.parse().expect("a number of schedules"));
    let each = schedules.unwrap_or(effort.schedules).div_ceil(2);
    run(RandomScheduler::new(each), test.clone());
    run(PctScheduler::new(DEPTH, each), test);
}

fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK;
    config.silence_warnings = true;
    let begun = Begun::default();
    let count = Arc::clone(&begun.0);
    Runner::new(scheduler, config).run(move || {
        count.fetch_add(1, Relaxed);
        test();
    });
}

/// Schedules that were begun. Should one fail, it says how many.
#[derive(Default)]
struct Begun(Arc<AtomicUsize>);

impl Drop for Begun {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("schedule {} failed", self.0.load(Relaxed));
        }
    }
}

/// Shuttle's threads.
pub mod thread {
    use std::time::Duration;

    pub use shuttle::thread::{JoinHandle, scope, spawn, yield_now};

    /// Lets all others go first: who sleeps waits for one of them.
    pub fn sleep(_: Duration) {
        yield_now();
    }
}

/// Begins a thread of a test, which shares something with the others.
pub fn spawn<T: Send + Sync + 'static>(
    shared: &Arc<T>,
    body: impl FnOnce(&T) + Send + 'static,
) -> thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || body(&shared))
}

/// Waits for threads.
pub fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for thread in threads {
        thread
            .join()
            .expect("shuttle ends the test where a thread panics");
    }
}

shuttle::lazy_static! {
    /// Of one run: what other runs and tests pin keeps nothing of this one alive.
    static ref COLLECTOR: Collector = Collector::new();
}

shuttle::thread_local! {
    static PARTICIPANT: LocalHandle = COLLECTOR.register();
}

/// As [`crossbeam_epoch::pin`], for a thread of shuttle. What is within crossbeam is no place to go on with another.
pub fn pin() -> Guard {
    PARTICIPANT.with(LocalHandle::pin)
}

/// A place to go on with another thread, where memory is written that is no atomic of shuttle's.
pub fn step() {
    atomic::AtomicBool::new(false).load(atomic::Ordering::SeqCst);
}
