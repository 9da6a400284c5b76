//! The commit-deadline queue: which users of a shard are to be committed, and when.

use std::collections::VecDeque;

use read_states_sync::fail_point;

use crate::id::Id;
use crate::now::Micros;

/// The delay until a commit is the same for all, so a queue keeps the deadlines in order.
///
/// Entries are not searched for when a user is committed earlier or evicted: they become stale,
/// which the user's own deadline tells, and are passed over.
#[derive(Debug, Default)]
pub(crate) struct DueQueue {
    deadlines: VecDeque<(Micros, Id)>,
    /// To commit at once. In turns with deadlines that are due, so that commits of these that fail again and again keep no
    /// others back.
    hurried: VecDeque<Id>,
    /// Whether a deadline has its turn next.
    turn_of_deadline: bool,
    /// The first so many deadlines are due, whatever the time.
    flushed: usize,
}

/// A user taken from the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Hurried(Id),
    /// Live only if the user's deadline is this one.
    Deadline(Micros, Id),
}

impl DueQueue {
    /// Makes room, so that nothing moves when a user is pushed or hurried next.
    pub fn reserve(&mut self) {
        fail_point!();
        self.deadlines.reserve(1);
        self.hurried.reserve(1);
    }

    /// Deadlines must not decrease.
    pub fn push(&mut self, deadline: Micros, user: Id) {
        self.deadlines.push_back((deadline, user));
    }

    pub fn hurry(&mut self, user: Id) {
        self.hurried.push_back(user);
    }

    pub fn hurry_first(&mut self, user: Id) {
        self.hurried.push_front(user);
    }

    /// Should the user be the first of the hurried, he is the last from here on.
    pub fn put_last(&mut self, user: Id) {
        if self.hurried.front() == Some(&user) {
            self.hurried.rotate_left(1);
        }
    }

    /// Everything in the queue is due now.
    pub fn flush(&mut self) {
        self.flushed = self.deadlines.len();
    }

    /// Who comes first, as far as deadlines tell.
    pub fn upcoming(&self) -> impl Iterator<Item = Id> {
        self.deadlines.iter().map(|(_, user)| *user)
    }

    pub fn pop(&mut self, now: Micros) -> Option<Due> {
        let first = self.deadlines.front();
        let is_due = first.is_some_and(|(deadline, _)| self.flushed > 0 || *deadline <= now);
        let turn_of_deadline = std::mem::replace(&mut self.turn_of_deadline, false);
        if !(is_due && turn_of_deadline)
            && let Some(user) = self.hurried.pop_front()
        {
            self.turn_of_deadline = true;
            return Some(Due::Hurried(user));
        }
        if !is_due {
            return None;
        }
        self.flushed = self.flushed.saturating_sub(1);
        let (deadline, user) = self.deadlines.pop_front()?;
        Some(Due::Deadline(deadline, user))
    }

    /// Drops stale deadlines if they are the most.
    pub fn compact(&mut self, live: usize, is_live: impl Fn(Micros, Id) -> bool) {
        if self.deadlines.len() <= 2 * live + 64 {
            return;
        }
        let mut position = 0;
        let mut flushed = 0;
        self.deadlines.retain(|(deadline, user)| {
            let keep = is_live(*deadline, *user);
            flushed += usize::from(keep && position < self.flushed);
            position += 1;
            keep
        });
        self.flushed = flushed;
    }

    /// Gives memory back if there is much too much.
    pub fn shrink(&mut self) {
        shrink(&mut self.deadlines);
        shrink(&mut self.hurried);
    }

    pub fn bytes(&self) -> usize {
        self.deadlines.capacity() * size_of::<(Micros, Id)>()
            + self.hurried.capacity() * size_of::<Id>()
    }
}

/// Gives memory back when a queue is mostly empty.
pub(crate) fn shrink<T>(queue: &mut VecDeque<T>) {
    if queue.len() * 4 < queue.capacity() && queue.capacity() > 64 {
        fail_point!();
        queue.shrink_to(queue.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hurried_users_come_at_once_and_the_others_at_their_deadline() {
        let mut queue = DueQueue::default();
        queue.push(10, 1);
        queue.push(20, 2);
        queue.hurry(3);
        queue.hurry(4);
        assert_eq!(queue.pop(0), Some(Due::Hurried(3)));
        assert_eq!(queue.pop(0), Some(Due::Hurried(4)));
        assert_eq!(queue.pop(9), None);
        assert_eq!(queue.pop(10), Some(Due::Deadline(10, 1)));
        assert_eq!(queue.pop(10), None);
        queue.flush();
        queue.push(30, 4);
        assert_eq!(queue.pop(10), Some(Due::Deadline(20, 2)));
        assert_eq!(queue.pop(10), None);
    }

    #[test]
    fn those_who_come_again_and_again_keep_nobody_back() {
        let mut queue = DueQueue::default();
        queue.hurry(1);
        queue.hurry(2);
        (3..5).for_each(|user| queue.push(10, user));
        let mut popped = Vec::new();
        for _ in 0..5 {
            // As a user of whom a part was committed, and whose commit failed.
            match queue.pop(10) {
                Some(Due::Hurried(user)) => {
                    popped.push(user);
                    queue.hurry_first(user);
                    queue.put_last(user);
                }
                Some(Due::Deadline(_, user)) => popped.push(user),
                None => unreachable!("the hurried ones are due all the time"),
            }
        }
        assert_eq!(popped, [1, 3, 2, 4, 1]);
    }

    #[test]
    fn stale_deadlines_do_not_pile_up() {
        let mut queue = DueQueue::default();
        for deadline in 0..1_000 {
            queue.push(deadline, deadline % 7);
            queue.compact(7, |deadline, _| deadline >= 900);
        }
        assert!(queue.deadlines.len() < 200);
        queue.flush();
        queue.compact(0, |deadline, _| deadline % 2 == 0);
        queue.push(2_000, 1);
        let mut flushed = 0;
        while let Some(due) = queue.pop(0) {
            assert!(matches!(due, Due::Deadline(deadline, _) if deadline < 2_000));
            flushed += 1;
        }
        assert_eq!((flushed, queue.deadlines.len()), (50, 1));
    }
}
