//! Sends requests when they are due, and measures when they are answered.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use read_states_bench::measurement::{self, Measurement};
use read_states_bench::world::{World, random};

use crate::address;
use crate::latencies::Latencies;
use crate::protocol::{ANSWER, answered};
use crate::schedule::Schedule;
use crate::traffic::Traffic;
use crate::usage::Usage;

/// How long a service may answer nothing.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub struct Load {
    /// The service's port.
    #[arg(long)]
    port: u16,
    /// The service's process, whose processor time and memory are measured.
    #[arg(long)]
    pid: i32,
    /// The service's name in tables and pictures.
    #[arg(long)]
    subject: String,
    /// Number of read states the service was filled with.
    #[arg(long)]
    states: u64,
    /// Requests a second.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// How long to measure.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Seconds of load before the measurement.
    #[arg(long, default_value_t = 35)]
    warm_up: u64,
    /// Number of connections.
    #[arg(long, default_value_t = 8)]
    connections: u64,
    /// The file that measurements are appended to.
    #[arg(long)]
    output: PathBuf,
}

/// What the threads share.
struct Shared {
    start: Instant,
    warm_up: Duration,
    answers: AtomicU64,
    latencies: Mutex<Latencies>,
    /// A connection has failed, so that some answers will never come.
    failed: AtomicBool,
}

impl Shared {
    fn check(&self, result: io::Result<()>) -> io::Result<()> {
        self.failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    }
}

impl Load {
    pub fn run(self) -> io::Result<()> {
        // Threads inherit it: by default the system wakes them up to 50 us after the time.
        fs::write("/proc/self/timerslack_ns", "1")?;
        let world = World::standard(self.states);
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            let stream = TcpStream::connect(address(self.port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            connections.push(stream);
        }
        let shared = Shared {
            start: Instant::now(),
            warm_up: Duration::from_secs(self.warm_up),
            answers: AtomicU64::new(0),
            latencies: Mutex::new(Latencies::new(self.rate)),
            failed: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            let shared = &shared;
            let mut threads = Vec::new();
            for (connection, stream) in connections.iter().enumerate() {
                let schedule = self.schedule(connection as u64);
                let traffic = Traffic::new(world, random(connection as u64));
                threads.push(
                    scope.spawn(move || shared.check(send(stream, &schedule, traffic, shared))),
                );
                threads.push(scope.spawn(move || shared.check(receive(stream, &schedule, shared))));
            }
            let watched = self.watch(shared);
            for stream in connections.iter().filter(|_| watched.is_err()) {
                // So that nobody waits for it; it may be closed already.
                let _ = stream.shutdown(Shutdown::Both);
            }
            for thread in threads {
                thread.join().expect("no panic")?;
            }
            watched
        })
    }

    fn schedule(&self, connection: u64) -> Schedule {
        Schedule {
            rate: self.rate,
            requests: self.rate * (self.warm_up + self.seconds),
            connections: self.connections,
            connection,
        }
    }

    /// Writes down what is known of each second, and then of all.
    fn watch(&self, shared: &Shared) -> io::Result<()> {
        sleep_until(shared.start + shared.warm_up);
        let mut usage = Usage::of(self.pid)?;
        let mut run = Usage::of(self.pid)?;
        let mut answers = shared.answers.load(Ordering::Relaxed);
        let first_answers = answers;
        let mut resident = 0.0_f64;
        let begin = Instant::now();
        let mut known = 0;
        for second in 0.. {
            sleep_until(shared.start + shared.warm_up + Duration::from_secs(second + 1));
            if shared.failed.load(Ordering::Relaxed) {
                return Err(io::Error::other("a connection has failed"));
            }
            let mut lines = Vec::new();
            if second < self.seconds {
                let now = shared.answers.load(Ordering::Relaxed);
                let memory = usage.resident()?;
                resident = resident.max(memory);
                for (metric, value) in [
                    ("requests/s", (now - answers) as f64),
                    ("cpu %", usage.cpu()?),
                    ("rss MB", memory),
                ] {
                    lines.push(self.measurement(metric, value, Some(second)));
                }
                answers = now;
            }
            if second + 1 == self.seconds {
                let rate = (answers - first_answers) as f64 / begin.elapsed().as_secs_f64();
                for (metric, value) in [
                    ("requests/s", rate),
                    ("cpu %", run.cpu()?),
                    ("rss MB", resident),
                ] {
                    lines.push(self.measurement(metric, value, None));
                }
            }
            let mut latencies = shared.latencies.lock().expect("no panic");
            while let Some((second, histogram)) = latencies.take_complete() {
                lines.extend(self.percentiles(&histogram, Some(second as u64)));
                known += 1;
            }
            if known == self.seconds {
                lines.extend(self.percentiles(latencies.whole(), None));
            }
            drop(latencies);
            measurement::append(&self.output, &lines)?;
            if known == self.seconds {
                return Ok(());
            }
        }
        Ok(())
    }

    fn percentiles(&self, of: &Histogram<u64>, second: Option<u64>) -> Vec<Measurement> {
        let percentiles = [
            ("p50 us", 0.5),
            ("p99 us", 0.99),
            ("p99.9 us", 0.999),
            ("p99.99 us", 0.9999),
            ("max us", 1.0),
        ];
        let figure = |(metric, quantile)| {
            let microseconds = of.value_at_quantile(quantile) as f64 / 1_000.0;
            self.measurement(metric, microseconds, second)
        };
        percentiles.map(figure).into()
    }

    fn measurement(&self, metric: &str, value: f64, second: Option<u64>) -> Measurement {
        let world = World::standard(self.states);
        Measurement {
            part: "latency".into(),
            work: format!("open loop, {} requests/s", self.rate),
            subject: self.subject.clone(),
            states: world.states(),
            per_user: world.per_user,
            shared_by: world.states() / world.channels,
            threads: thread::available_parallelism().map_or(1, |threads| threads.get()) as u64,
            metric: metric.into(),
            value,
            second: second.map(|second| second as f64),
        }
    }
}

/// Sends what is due with one write, and sleeps until the next is.
fn send(
    mut stream: &TcpStream,
    schedule: &Schedule,
    mut traffic: Traffic,
    shared: &Shared,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut next = 0;
    while next < schedule.len() {
        sleep_until(shared.start + schedule.due(next));
        let now = shared.start.elapsed();
        bytes.clear();
        while next < schedule.len() && schedule.due(next) <= now {
            let message = schedule.due(next).as_nanos() as u64;
            traffic.draw(message).encode(next as u32, &mut bytes);
            next += 1;
        }
        stream.write_all(&bytes)?;
    }
    Ok(())
}

/// Takes the time of every answer.
fn receive(mut stream: &TcpStream, schedule: &Schedule, shared: &Shared) -> io::Result<()> {
    let mut received = vec![0; 64 * 1024];
    let mut length = 0;
    let mut left = schedule.len();
    while left > 0 {
        match stream.read(&mut received[length..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => length += read,
        }
        let now = shared.start.elapsed();
        let (answers, rest) = received[..length].as_chunks::<ANSWER>();
        left -= answers.len() as u64;
        let number = answers.len() as u64;
        shared.answers.fetch_add(number, Ordering::Relaxed);
        let mut latencies = shared.latencies.lock().expect("no panic");
        for answer in answers {
            let due = schedule.due(answered(answer).into());
            if due >= shared.warm_up {
                latencies.record(due - shared.warm_up, now - due);
            }
        }
        drop(latencies);
        let rest = length - rest.len()..length;
        length = rest.len();
        received.copy_within(rest, 0);
    }
    Ok(())
}

fn sleep_until(time: Instant) {
    thread::sleep(time.saturating_duration_since(Instant::now()));
}
