//! Places at which a test makes the engine panic: with a lock, and before memory moves.
//!
//! What comes before such a place must leave the engine consistent, should nothing come after it. So what an operation
//! needs is made or reserved first, and nothing that can panic is between the changes that belong together.
//!
//! Without the feature `fail_points` there are none.

#[cfg(feature = "fail_points")]
use std::cell::Cell;

#[cfg(feature = "fail_points")]
thread_local! {
    /// How many are passed before the one that panics.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes this thread panic at the fail point after so many others, once; `None` for not at all. Returns what is left of
/// the last time: `None` if it panicked.
#[cfg(feature = "fail_points")]
pub fn panic_after(passed: Option<u64>) -> Option<u64> {
    LEFT.replace(passed)
}

#[cfg(feature = "fail_points")]
pub(crate) fn pass() {
    match LEFT.get() {
        None => {}
        Some(0) => {
            LEFT.set(None);
            panic!("at a fail point");
        }
        Some(left) => LEFT.set(Some(left - 1)),
    }
}

/// A place as above.
macro_rules! fail_point {
    () => {
        #[cfg(feature = "fail_points")]
        crate::fail_point::pass();
    };
}

pub(crate) use fail_point;
