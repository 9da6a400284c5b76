//! Places at which a test makes the engine or the journal panic: with a lock, and before memory moves.
//!
//! What comes before such a place must leave them consistent, should nothing come after it. So what an operation
//! needs is made or reserved first, and nothing that can panic is between the changes that belong together. Before memory, or
//! the number of a channel, is given back there are none: that is the work of destructors, which nothing would do again.
//!
//! Without the feature `fail_points` there are none.
//!
//! A test of a crate says which one panics, by `panic_after`. A VM has threads that nobody tells apart: as long as the
//! file that `READ_STATES_FAIL_POINTS` names is there, with a number above 0 in it, one of so many panics in it.

#[cfg(feature = "fail_points")]
use std::cell::Cell;
#[cfg(feature = "fail_points")]
use std::num::NonZeroU64;
#[cfg(feature = "fail_points")]
use std::sync::LazyLock;
#[cfg(feature = "fail_points")]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

/// What a fail point does.
#[cfg(feature = "fail_points")]
pub fn pass() {
    match LEFT.get() {
        None if is_turn() => panic!("{MESSAGE}"),
        None => {}
        Some(0) => {
            LEFT.set(None);
            panic!("{MESSAGE}");
        }
        Some(left) => LEFT.set(Some(left - 1)),
    }
}

/// What a fail point says when it panics.
#[cfg(feature = "fail_points")]
pub const MESSAGE: &str = "at a fail point";

/// Whether the next one of all threads panics.
#[cfg(feature = "fail_points")]
fn is_turn() -> bool {
    static FILE: LazyLock<Option<std::ffi::OsString>> =
        LazyLock::new(|| std::env::var_os("READ_STATES_FAIL_POINTS"));
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Some(file) = FILE.as_ref() else {
        return false;
    };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // The destructor of what panicked must not panic too: that ends the process.
    is_turn_of(&text, || PASSED.fetch_add(1, Relaxed)) && !std::thread::panicking()
}

/// Whether the next one panics, if the file has this text and so many were passed.
#[cfg(feature = "fail_points")]
fn is_turn_of(text: &str, passed: impl FnOnce() -> u64) -> bool {
    let one_of = text.trim().parse().ok();
    one_of.is_some_and(|one_of: NonZeroU64| passed() % one_of == one_of.get() - 1)
}

/// A place as above.
#[cfg(feature = "fail_points")]
#[macro_export]
macro_rules! fail_point {
    () => {
        $crate::fail_point::pass()
    };
}

/// Nothing.
#[cfg(not(feature = "fail_points"))]
#[macro_export]
macro_rules! fail_point {
    () => {};
}

#[cfg(all(test, feature = "fail_points"))]
mod tests {
    use super::*;

    #[test]
    fn one_of_so_many_panics_and_none_of_what_is_no_count() {
        let turns = |text| {
            let turns = (0..6).filter(|passed| is_turn_of(text, || *passed));
            turns.collect::<Vec<_>>()
        };
        assert_eq!(turns("3\n"), [2, 5]);
        assert_eq!(turns("1"), [0, 1, 2, 3, 4, 5]);
        for text in ["0", "", "-1", "some"] {
            assert_eq!(turns(text), [0; 0], "{text:?}");
        }
    }
}
