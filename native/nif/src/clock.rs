//! The clocks the engine is given.

use read_states_engine::now::Now;

/// The time now, as of the last tick of the system's, some milliseconds ago at most: every call
/// asks, deadlines are far longer, and versions grow by themselves.
#[cfg(target_os = "linux")]
pub fn now() -> Now {
    use rustix::time::{ClockId, clock_gettime};
    let micros = |clock| {
        let time = clock_gettime(clock);
        // A clock before 1970 is as good as one that stands still.
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        seconds * 1_000_000 + time.tv_nsec as u64 / 1_000
    };
    Now {
        monotonic: micros(ClockId::MonotonicCoarse),
        unix: micros(ClockId::RealtimeCoarse),
    }
}

/// The time now.
#[cfg(not(target_os = "linux"))]
pub fn now() -> Now {
    use std::sync::OnceLock;
    use std::time::{Instant, SystemTime};
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Now {
        monotonic: start.elapsed().as_micros() as u64,
        unix: unix.as_micros() as u64,
    }
}
