//! What can be done to a read state, and exactly what it means.

use crate::id::{Channel, Id};
use crate::read_state::ReadState;

/// One operation on the read states of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// One read state changes.
    Change {
        /// Which.
        channel: Channel,
        /// How.
        change: Change,
    },
    /// Every read state of the user goes.
    DeleteUser,
}

/// How one read state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The user has read up to `message`.
    Ack {
        /// The message read last.
        message: Id,
    },
    /// `message` concerns the user, for example mentions him.
    Increment {
        /// The message.
        message: Id,
        /// Index of the counter.
        counter: u8,
        /// By how much.
        by: u32,
    },
    /// `message` no longer concerns the user, for example was deleted.
    Decrement {
        /// The message.
        message: Id,
        /// Index of the counter.
        counter: u8,
        /// By how much.
        by: u32,
    },
    /// The read state becomes this one, also backwards.
    Put {
        /// The new values.
        state: ReadState,
    },
    /// The read state goes.
    Delete,
}

impl Change {
    /// The read state after the change, given the one before; `None` is no read state.
    ///
    /// ```
    /// use read_states_engine::operation::Change;
    ///
    /// let mention = Change::Increment { message: 5, counter: 0, by: 1 };
    /// let mentioned = mention.apply(None).unwrap();
    /// assert_eq!((mentioned.last_message_id, mentioned.counters[0]), (0, 1));
    ///
    /// let read = Change::Ack { message: 5 }.apply(Some(mentioned)).unwrap();
    /// assert_eq!((read.last_message_id, read.counters[0]), (5, 0));
    /// assert_eq!(mention.apply(Some(read)), Some(read), "the message is read already");
    /// ```
    #[inline]
    pub fn apply(&self, before: Option<ReadState>) -> Option<ReadState> {
        match *self {
            Change::Ack { message } => {
                let before = before.unwrap_or_default();
                if message > before.last_message_id {
                    Some(ReadState {
                        last_message_id: message,
                        ..ReadState::default()
                    })
                } else {
                    Some(before)
                }
            }
            Change::Increment {
                message,
                counter,
                by,
            } => {
                let mut state = before.unwrap_or_default();
                if message > state.last_message_id {
                    let count = &mut state.counters[usize::from(counter)];
                    *count = count.saturating_add(by);
                }
                Some(state)
            }
            Change::Decrement {
                message,
                counter,
                by,
            } => {
                let mut state = before?;
                if message > state.last_message_id {
                    let count = &mut state.counters[usize::from(counter)];
                    *count = count.saturating_sub(by);
                }
                Some(state)
            }
            Change::Put { state } => Some(state),
            Change::Delete => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(last_message_id: Id, counters: [u32; 4]) -> ReadState {
        ReadState {
            last_message_id,
            counters,
        }
    }

    fn increment(message: Id, counter: u8, by: u32) -> Change {
        Change::Increment {
            message,
            counter,
            by,
        }
    }

    fn decrement(message: Id, counter: u8, by: u32) -> Change {
        Change::Decrement {
            message,
            counter,
            by,
        }
    }

    #[test]
    fn an_ack_moves_only_forward_and_zeroes_every_counter() {
        let before = state(10, [1, 2, 3, 4]);
        assert_eq!(
            Change::Ack { message: 11 }.apply(Some(before)),
            Some(state(11, [0; 4]))
        );
        assert_eq!(
            Change::Ack { message: 10 }.apply(Some(before)),
            Some(before)
        );
        assert_eq!(Change::Ack { message: 9 }.apply(Some(before)), Some(before));
        assert_eq!(
            Change::Ack { message: 0 }.apply(None),
            Some(state(0, [0; 4]))
        );
    }

    #[test]
    fn counters_count_only_unread_messages_and_stop_at_their_ends() {
        let before = state(10, [1, u32::MAX - 1, 0, 0]);
        assert_eq!(increment(10, 0, 1).apply(Some(before)), Some(before));
        assert_eq!(
            increment(11, 1, 5).apply(Some(before)),
            Some(state(10, [1, u32::MAX, 0, 0]))
        );
        assert_eq!(increment(0, 0, 1).apply(None), Some(state(0, [0; 4])));
        assert_eq!(decrement(10, 0, 1).apply(Some(before)), Some(before));
        assert_eq!(
            decrement(11, 0, 7).apply(Some(before)),
            Some(state(10, [0, u32::MAX - 1, 0, 0]))
        );
        assert_eq!(decrement(11, 0, 7).apply(None), None);
    }

    #[test]
    fn a_put_is_as_given_and_a_delete_leaves_nothing() {
        let given = state(3, [9, 0, 0, 0]);
        let put = Change::Put { state: given };
        assert_eq!(put.apply(Some(state(10, [1; 4]))), Some(given));
        assert_eq!(put.apply(None), Some(given));
        assert_eq!(Change::Delete.apply(Some(given)), None);
    }
}
