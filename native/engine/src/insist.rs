//! Going on after a panic where nobody else would: in a destructor, which runs once.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Settles so many users one by one, which `settle` does from where it was: should it panic, it goes on with the others.
pub(crate) fn insist(users: usize, mut settle: impl FnMut()) {
    // As often as there are users, should each of them panic, and a last time.
    for _ in 0..=users {
        if catch_unwind(AssertUnwindSafe(&mut settle)).is_ok() {
            return;
        }
    }
}
