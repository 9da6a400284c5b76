//! Response times, by the second in which the request was due.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;

/// What is known so far.
pub struct Latencies {
    /// Requests due in each second.
    rate: u64,
    /// The first second that is not complete, and those after it.
    seconds: VecDeque<Histogram<u64>>,
    first: usize,
    whole: Histogram<u64>,
}

impl Latencies {
    pub fn new(rate: u64) -> Self {
        Latencies {
            rate,
            seconds: VecDeque::new(),
            first: 0,
            whole: histogram(),
        }
    }

    /// A request has been answered that was due so long after the start.
    pub fn record(&mut self, due: Duration, latency: Duration) {
        let second = due.as_secs() as usize - self.first;
        if second >= self.seconds.len() {
            self.seconds.resize_with(second + 1, histogram);
        }
        let nanoseconds = latency.as_nanos() as u64;
        self.seconds[second].saturating_record(nanoseconds.max(1));
    }

    /// The next second of which every request has been answered.
    pub fn take_complete(&mut self) -> Option<(usize, Histogram<u64>)> {
        let complete = self.seconds.front()?.len() == self.rate;
        let second = complete.then(|| self.seconds.pop_front()).flatten()?;
        self.whole.add(&second).expect("both have the same bounds");
        self.first += 1;
        Some((self.first - 1, second))
    }

    /// All seconds that were taken.
    pub fn whole(&self) -> &Histogram<u64> {
        &self.whole
    }
}

/// Nanoseconds up to ten minutes, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds that are possible")
}
