//! Flushes: knowing when everything that was accepted before a moment is committed.
//!
//! A flush starts a new epoch. Each user with something uncommitted belongs to the epoch of
//! its oldest uncommitted change; the flush is done when no user of an earlier epoch is left.

use std::collections::VecDeque;

use read_states_sync::fail_point;

/// Number of an epoch; a flush is named by the epoch it starts.
pub type Epoch = u64;

/// How many users of one shard have uncommitted changes, by the epoch of the oldest.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    current: Epoch,
    /// Of the last flush that somebody waits for.
    awaited: Epoch,
    /// Of the epochs that count somebody, ascending.
    counts: VecDeque<Counted>,
}

/// An epoch and what it counts.
#[derive(Clone, Copy, Debug)]
struct Counted {
    epoch: Epoch,
    /// Users whose oldest uncommitted change is of it.
    users: usize,
    /// Users whose oldest record that the journal has to keep is of it: the same, but for those who were carried over.
    kept: usize,
}

impl Epochs {
    /// Starts the epoch of a flush.
    pub fn start(&mut self, epoch: Epoch) {
        self.current = self.current.max(epoch);
    }

    /// The same, and what is of earlier epochs is to be committed at once.
    pub fn start_awaited(&mut self, epoch: Epoch) {
        self.start(epoch);
        self.awaited = self.awaited.max(epoch);
    }

    /// A user has its first uncommitted change now: its epoch.
    pub fn enter(&mut self) -> Epoch {
        fail_point!();
        self.count(self.current, |counted| {
            counted.users += 1;
            counted.kept += 1;
        });
        self.current
    }

    /// The same with a change that is older than every flush: its epoch.
    pub fn enter_first(&mut self) -> Epoch {
        self.count(0, |counted| {
            counted.users += 1;
            counted.kept += 1;
        });
        0
    }

    /// The changes of a user who had entered are committed, or belong to an older epoch after all.
    pub fn leave(&mut self, epoch: Epoch) {
        self.count(epoch, |counted| {
            counted.users -= 1;
            counted.kept -= 1;
        });
    }

    /// The journal has all that is uncommitted of a user once more now, for whom it kept what is of this epoch: the epoch
    /// since which.
    pub fn carry_over(&mut self, kept: Epoch) -> Epoch {
        self.count(kept, |counted| counted.kept -= 1);
        self.count(self.current, |counted| counted.kept += 1);
        self.current
    }

    /// A user of this epoch who was carried over counts as if he had not been.
    pub fn carry_back(&mut self, epoch: Epoch, carried: Epoch) {
        self.count(carried, |counted| counted.kept -= 1);
        self.count(epoch, |counted| counted.kept += 1);
    }

    fn count(&mut self, epoch: Epoch, change: impl FnOnce(&mut Counted)) {
        let at = match self.counts.back() {
            // Mostly it is the current one, or a new one.
            Some(last) if last.epoch == epoch => Ok(self.counts.len() - 1),
            Some(last) if last.epoch < epoch => Err(self.counts.len()),
            _ => self
                .counts
                .binary_search_by_key(&epoch, |counted| counted.epoch),
        };
        let at = at.unwrap_or_else(|at| {
            let nobody = Counted {
                epoch,
                users: 0,
                kept: 0,
            };
            self.counts.insert(at, nobody);
            at
        });
        let counted = &mut self.counts[at];
        change(counted);
        // Wherever it is: while one user is never committed, epochs come and go behind his.
        if counted.users == 0 && counted.kept == 0 {
            self.counts.remove(at);
        }
    }

    /// Whether nothing from before the epoch `flush` is left.
    pub fn is_flushed(&self, flush: Epoch) -> bool {
        let mut counts = self.counts.iter();
        let oldest = counts.find(|counted| counted.users > 0);
        oldest.is_none_or(|counted| counted.epoch >= flush)
    }

    /// For how many users the journal has to keep what is from before the epoch `flush`.
    pub fn kept_before(&self, flush: Epoch) -> usize {
        let counts = self.counts.iter();
        let before = counts.take_while(|counted| counted.epoch < flush);
        before.map(|counted| counted.kept).sum()
    }

    /// Whether a flush waits for the changes of this epoch.
    pub fn is_awaited(&self, epoch: Epoch) -> bool {
        epoch < self.awaited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_done_when_the_users_from_before_it_have_left() {
        let mut epochs = Epochs::default();
        let first = epochs.enter();
        assert_eq!(epochs.enter(), first);
        epochs.start_awaited(1);
        assert!(!epochs.is_flushed(1));
        assert!(epochs.is_awaited(first));
        let later = epochs.enter();
        assert!(!epochs.is_awaited(later));
        epochs.leave(first);
        epochs.start(2);
        assert!(!epochs.is_flushed(1));
        epochs.leave(first);
        assert!(epochs.is_flushed(1));
        assert!(!epochs.is_flushed(2));
        epochs.leave(later);
        assert!(epochs.is_flushed(2));
        assert!(epochs.counts.is_empty());
    }

    #[test]
    fn an_epoch_that_emptied_between_others_is_forgotten() {
        let mut epochs = Epochs::default();
        let first = epochs.enter();
        epochs.start(1);
        let second = epochs.enter();
        epochs.start(2);
        epochs.leave(second);
        let third = epochs.enter();
        epochs.leave(first);
        assert!(epochs.is_flushed(2));
        epochs.leave(third);
        assert!(epochs.counts.is_empty());
    }

    #[test]
    fn epochs_that_come_and_go_behind_a_straggler_leave_nothing() {
        let mut epochs = Epochs::default();
        let straggler = epochs.enter();
        for flush in 1..100 {
            epochs.start(flush);
            let epoch = epochs.enter();
            epochs.leave(epoch);
            assert_eq!(epochs.counts.len(), 1);
        }
        epochs.leave(straggler);
        assert!(epochs.counts.is_empty());
    }

    #[test]
    fn who_is_carried_over_holds_up_flushes_and_not_the_journal() {
        let mut epochs = Epochs::default();
        let first = epochs.enter();
        epochs.start(1);
        assert_eq!(epochs.kept_before(1), 1);
        let carried = epochs.carry_over(first);
        assert!(epochs.kept_before(1) == 0 && !epochs.is_flushed(1));
        epochs.start(2);
        assert_eq!(epochs.kept_before(2), 1);
        let carried = epochs.carry_over(carried);
        assert!(epochs.kept_before(2) == 0 && !epochs.is_flushed(1));
        epochs.carry_back(first, carried);
        assert_eq!(epochs.kept_before(1), 1);
        epochs.leave(first);
        assert!(epochs.is_flushed(2) && epochs.counts.is_empty());
    }
}
