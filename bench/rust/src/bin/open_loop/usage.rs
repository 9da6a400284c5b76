//! What a process takes of the machine.

use std::io;
use std::time::{Duration, Instant};

use procfs::process::Process;
use procfs::{page_size, ticks_per_second};

/// Looks at a process again and again.
pub struct Usage {
    process: Process,
    cpu: Duration,
    at: Instant,
}

impl Usage {
    pub fn of(pid: i32) -> io::Result<Self> {
        let process = Process::new(pid).map_err(io::Error::other)?;
        Ok(Usage {
            cpu: cpu(&process)?,
            process,
            at: Instant::now(),
        })
    }

    /// Since the last look: the share of one core in percent, to which every thread adds.
    pub fn cpu(&mut self) -> io::Result<f64> {
        let (cpu, at) = (cpu(&self.process)?, Instant::now());
        let share = (cpu - self.cpu).as_secs_f64() / (at - self.at).as_secs_f64();
        (self.cpu, self.at) = (cpu, at);
        Ok(100.0 * share)
    }

    /// Megabytes that are in memory.
    pub fn resident(&self) -> io::Result<f64> {
        let memory = self.process.statm().map_err(io::Error::other)?;
        Ok((memory.resident * page_size()) as f64 / 1e6)
    }
}

fn cpu(process: &Process) -> io::Result<Duration> {
    let stat = process.stat().map_err(io::Error::other)?;
    let ticks = stat.utime + stat.stime;
    Ok(Duration::from_secs_f64(
        ticks as f64 / ticks_per_second() as f64,
    ))
}
