//! How large users are, roughly: few are large, and a bound on what some users take must not reckon with the largest
//! for each of them.

use read_states_sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes from which on a user is counted: twice what one with 50 read states takes.
const LARGE: usize = 2_048;

/// Each for users up to twice as large as those of the one before.
const CLASSES: usize = 24;

/// How many large users there are, by their size: of the class `i` are those from `LARGE << i` bytes on.
#[derive(Debug, Default)]
pub(crate) struct Sizes([AtomicUsize; CLASSES]);

fn class(bytes: usize) -> Option<usize> {
    let class = (bytes / LARGE).checked_ilog2()?;
    Some((class as usize).min(CLASSES - 1))
}

impl Sizes {
    /// A user who had `before` bytes has `after`; 0 is nobody.
    #[inline]
    pub fn moved(&self, before: usize, after: usize) {
        if before.max(after) >= LARGE && class(before) != class(after) {
            self.count(class(before), class(after));
        }
    }

    #[cold]
    fn count(&self, before: Option<usize>, after: Option<usize>) {
        // Into the new one first: meanwhile he is counted twice, and not missing.
        if let Some(class) = after {
            self.0[class].fetch_add(1, Relaxed);
        }
        if let Some(class) = before {
            self.0[class].fetch_sub(1, Relaxed);
        }
    }

    /// Bytes that no `users` have more of, whoever they are.
    pub fn most_of(&self, users: usize) -> usize {
        let (mut left, mut bytes) = (users, 0_usize);
        for (class, count) in self.0.iter().enumerate().rev() {
            let count = count.load(Relaxed).min(left);
            left -= count;
            bytes = bytes.saturating_add(count.saturating_mul(LARGE << (class + 1)));
        }
        bytes.saturating_add(left.saturating_mul(LARGE))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_users_have_more_and_twice_as_much_is_not_said(
            sizes in proptest::collection::vec((0..100_000_000_usize, 0..100_000_000_usize), 0..40),
            users in 0..50_usize,
        ) {
            let counted = Sizes::default();
            for (before, after) in &sizes {
                counted.moved(0, *before);
                counted.moved(*before, *after);
            }
            let mut real: Vec<_> = sizes.iter().map(|(_, after)| *after).collect();
            real.sort_unstable_by(|a, b| b.cmp(a));
            let real: usize = real.iter().take(users).sum();
            let most = counted.most_of(users);
            prop_assert!(most >= real);
            prop_assert!(most <= 2 * real + users * LARGE, "{most} for {real}");
            for (_, after) in &sizes {
                counted.moved(*after, 0);
            }
            prop_assert_eq!(counted.most_of(users), users * LARGE);
        }
    }
}
