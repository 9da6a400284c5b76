//! Going on after a panic where nobody else would: in a destructor, which runs once.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Settles so many users one by one, which `settle` does from where it was: should it panic, it goes on with the others.
pub(crate) fn insist(users: usize, mut settle: impl FnMut()) {
    // Each of them may panic twice, before he is taken from the list and after, and a last time it ends.
    for _ in 0..=users.saturating_mul(2) {
        if catch_unwind(AssertUnwindSafe(&mut settle)).is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::resume_unwind;

    #[test]
    fn everybody_is_settled_though_each_panics_before_and_after_he_is_taken() {
        let mut users = vec![3, 2, 1];
        let mut settled = Vec::new();
        let mut panicked = false;
        insist(users.len(), || {
            if !users.is_empty() {
                panicked = !panicked;
                if panicked {
                    resume_unwind(Box::new("before"));
                }
                settled.extend(users.pop());
                resume_unwind(Box::new("after"));
            }
        });
        assert_eq!(settled, [1, 2, 3]);
    }
}
