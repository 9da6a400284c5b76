//! The clocks the engine is given.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use read_states_engine::now::Now;

/// The time now.
pub fn now() -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    // A clock before 1970 is as good as one that stands still.
    let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Now {
        monotonic: start.elapsed().as_micros() as u64,
        unix: unix.as_micros() as u64,
    }
}
