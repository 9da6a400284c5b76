//! Takes the figures of one service after the other.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::RngExt;
use read_states_bench::measurement::{Measurement, append};
use read_states_bench::subject::{Change, ReadState, Write};
use read_states_bench::world::{World, random, snowflake};

use crate::Result;
use crate::service::Service;

/// Runs, of which the median counts.
const RUNS: usize = 5;
/// The time of a run: some operations take a microsecond, and some wait for a disk.
const RUN: Duration = Duration::from_millis(500);
/// Operations between two looks at the clock.
const CHUNK: u64 = 20;
/// Operations of a batch.
const BATCH: u64 = 1_000;

/// The message everything has been read up to at first.
pub const FIRST_MESSAGE: u64 = 1 << 58;

pub struct Figures {
    world: World,
    output: Option<PathBuf>,
}

impl Figures {
    pub fn new(world: World, output: Option<PathBuf>) -> Self {
        Figures { world, output }
    }

    /// Takes those of one service, and shows and appends them.
    pub fn of<S: Service>(&self, service: &mut S) -> Result<()> {
        let world = &self.world;
        service.fill(world)?;
        let (bytes, unit) = service.taken()?;
        self.note(
            service,
            "memory",
            unit,
            bytes as f64 / world.states() as f64,
        )?;
        check(service, world)?;

        let mut random = random(1);
        let mut newest = 0;
        let mut draw = |change| {
            newest += 1;
            let (user, channel) = world.draw(&mut random);
            let message = snowflake(newest);
            Write {
                user,
                channel,
                message,
                change,
            }
        };
        let mut draw_chunk = |change| Vec::from_iter((0..CHUNK).map(|_| draw(change)));
        for (work, change) in [("ack", Change::Ack), ("increment", Change::Increment)] {
            let time = median(|| {
                let writes = draw_chunk(change);
                time(CHUNK, || {
                    writes.iter().try_for_each(|write| service.write(write))
                })
            })?;
            self.note(service, work, "ns/operation", time)?;
        }
        let time_of_get = median(|| {
            let writes = draw_chunk(Change::Ack);
            time(CHUNK, || {
                writes
                    .iter()
                    .try_for_each(|of| service.get(of.user, of.channel).map(drop))
            })
        })?;
        self.note(service, "get", "ns/operation", time_of_get)?;
        if S::BATCHES {
            let time = median(|| {
                let half = BATCH / 2;
                let writes = (0..half).flat_map(|_| [draw(Change::Ack), draw(Change::Increment)]);
                let batch = service.batch(writes.collect());
                time(BATCH, || service.write_all(&batch))
            })?;
            self.note(service, "update of 1,000", "ns/operation", time)?;
        }
        let mut random = read_states_bench::world::random(2);
        let time_of_list = median(|| {
            let user = random.random_range(0..world.users);
            let channels = channels(world, user);
            time(1, || service.list(world.user(user), &channels).map(drop))
        })?;
        let work = format!("list of {}", world.per_user);
        self.note(service, &work, "ns/operation", time_of_list)
    }

    fn note(&self, of: &impl Service, work: &str, metric: &str, value: f64) -> Result<()> {
        let subject = of.name();
        println!("{work:<18}{subject:<38}{value:>14.1} {metric}");
        let measurement = Measurement {
            part: "services".into(),
            work: work.into(),
            subject: subject.into(),
            states: self.world.states(),
            per_user: self.world.per_user,
            shared_by: self.world.states() / self.world.channels,
            threads: 1,
            metric: metric.into(),
            value,
            second: None,
        };
        match &self.output {
            Some(output) => Ok(append(output, &[measurement])?),
            None => Ok(()),
        }
    }
}

/// That it does what is measured.
fn check(service: &mut impl Service, world: &World) -> Result<()> {
    let (user, channels) = (world.user(1), channels(world, 1));
    let channel = channels[0];
    let writes = [
        (FIRST_MESSAGE + 1, Change::Increment),
        (FIRST_MESSAGE + 2, Change::Ack),
        (FIRST_MESSAGE + 3, Change::Increment),
    ];
    for (message, change) in writes {
        service.write(&Write {
            user,
            channel,
            message,
            change,
        })?;
    }
    let expected = ReadState {
        last_message_id: FIRST_MESSAGE + 2,
        mention_count: 1,
    };
    assert_eq!(service.get(user, channel)?, expected);
    let mut list = service.list(user, &channels)?;
    list.sort_by_key(|(channel, _)| *channel);
    let filled = ReadState {
        last_message_id: FIRST_MESSAGE,
        mention_count: 0,
    };
    let state = |other| if other == channel { expected } else { filled };
    let mut all = Vec::from_iter(channels.iter().map(|other| (*other, state(*other))));
    all.sort_by_key(|(channel, _)| *channel);
    assert_eq!(list, all);
    Ok(())
}

/// The channels of a user, by his number.
pub fn channels(world: &World, user: u64) -> Vec<u64> {
    Vec::from_iter((0..world.per_user).map(|i| world.channel(user, i)))
}

/// How long so many operations take.
fn time(operations: u64, run: impl FnOnce() -> Result<()>) -> Result<(u64, Duration)> {
    let start = Instant::now();
    run()?;
    Ok((operations, start.elapsed()))
}

/// Nanoseconds an operation takes: the median of the runs, each of as many chunks as it takes.
fn median(mut chunk: impl FnMut() -> Result<(u64, Duration)>) -> Result<f64> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let (mut operations, mut time) = (0, Duration::ZERO);
        while time < RUN {
            let (more, longer) = chunk()?;
            operations += more;
            time += longer;
        }
        runs.push(time.as_nanos() as f64 / operations as f64);
    }
    runs.sort_by(f64::total_cmp);
    Ok(runs[RUNS / 2])
}
