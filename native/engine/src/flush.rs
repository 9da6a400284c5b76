//! Flushes: knowing when everything that was accepted before a moment is committed.
//!
//! A flush starts a new epoch. Each user with something uncommitted belongs to the epoch of
//! its oldest uncommitted change; the flush is done when no user of an earlier epoch is left.

use std::collections::VecDeque;

use crate::fail_point::fail_point;

/// Number of an epoch; a flush is named by the epoch it starts.
pub type Epoch = u64;

/// How many users of one shard have uncommitted changes, by the epoch of the oldest.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    current: Epoch,
    /// Of the last flush that somebody waits for.
    awaited: Epoch,
    /// Epochs, ascending, with the number of their users; none with 0 at the front.
    users: VecDeque<(Epoch, usize)>,
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
        match self.users.back_mut() {
            Some((epoch, users)) if *epoch == self.current => *users += 1,
            _ => self.users.push_back((self.current, 1)),
        }
        self.current
    }

    /// The same with a change that is older than every flush: its epoch.
    pub fn enter_first(&mut self) -> Epoch {
        match self.users.front_mut() {
            Some((0, users)) => *users += 1,
            _ => self.users.push_front((0, 1)),
        }
        0
    }

    /// The changes of a user who had entered are committed, or belong to an older epoch after all.
    pub fn leave(&mut self, epoch: Epoch) {
        let index = self.users.binary_search_by_key(&epoch, |(epoch, _)| *epoch);
        let index = index.expect("only what entered leaves");
        self.users[index].1 -= 1;
        while self.users.front().is_some_and(|(_, users)| *users == 0) {
            self.users.pop_front();
        }
    }

    /// Whether nothing from before the epoch `flush` is left.
    pub fn is_flushed(&self, flush: Epoch) -> bool {
        self.users.front().is_none_or(|(epoch, _)| *epoch >= flush)
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
        assert!(epochs.users.is_empty());
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
        assert!(epochs.users.is_empty());
    }
}
