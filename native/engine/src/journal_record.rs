//! Operations as records of a journal.
//!
//! ```text
//! tag     kind of operation, 128 added in a batch | kind of channel | counter
//! words   version | user | channel | message | by, or counters two a word | batch
//! ```
//!
//! with those words only that the operation has. The last record of a batch says that it is whole:
//!
//! ```text
//! words   batch | records | number of the oldest segment when it began
//! ```

use read_states_journal::Tag;

use crate::batch::{MAX_VERSION, Version};
use crate::id::{Channel, Id};
use crate::operation::{Change, Operation};
use crate::read_state::{MAX_COUNTERS, ReadState};

/// Most words of a record, with those of a put and the batch.
const MOST: usize = 4 + MAX_COUNTERS / 2 + 1;

/// Most bytes of a record.
pub(crate) const MOST_BYTES: usize = 8 + 8 * MOST;

const ACK: u8 = 1;
const INCREMENT: u8 = 2;
const DECREMENT: u8 = 3;
const PUT: u8 = 4;
const DELETE: u8 = 5;
const DELETE_USER: u8 = 6;
const BATCH_END: u8 = 7;
const IN_BATCH: u8 = 128;

/// Nobody counts batches up to this; as with versions, there is room for later ones.
const MAX_BATCH: u64 = 1 << 62;

/// Words of the record that says that a batch is whole.
pub(crate) const END_WORDS: usize = 3;

/// A record, ready to be appended.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub tag: Tag,
    words: [u64; MOST],
    count: usize,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Operation {
        version: Version,
        user: Id,
        operation: Operation,
        batch: Option<u64>,
    },
    BatchEnd {
        batch: u64,
        records: u64,
        /// Number of the oldest segment that can have one of them.
        oldest: u64,
    },
}

impl Encoded {
    fn new(tag: Tag) -> Self {
        Encoded {
            tag,
            words: [0; MOST],
            count: 0,
        }
    }

    fn push(&mut self, word: u64) {
        self.words[self.count] = word;
        self.count += 1;
    }

    pub fn words(&self) -> &[u64] {
        &self.words[..self.count]
    }

    pub fn operation(
        version: Version,
        user: Id,
        operation: &Operation,
        batch: Option<u64>,
    ) -> Self {
        let (what, channel, counter) = match operation {
            Operation::DeleteUser => (DELETE_USER, None, 0),
            Operation::Change { channel, change } => {
                let (what, counter) = match *change {
                    Change::Ack { .. } => (ACK, 0),
                    Change::Increment { counter, .. } => (INCREMENT, counter),
                    Change::Decrement { counter, .. } => (DECREMENT, counter),
                    Change::Put { .. } => (PUT, 0),
                    Change::Delete => (DELETE, 0),
                };
                (what, Some((channel, change)), counter)
            }
        };
        let kind = channel.map_or(0, |(channel, _)| channel.kind);
        let what = if batch.is_some() {
            what | IN_BATCH
        } else {
            what
        };
        let mut encoded = Encoded::new([what, kind, counter]);
        encoded.push(version);
        encoded.push(user);
        if let Some((channel, change)) = channel {
            encoded.push(channel.id);
            match *change {
                Change::Ack { message } => encoded.push(message),
                Change::Increment { message, by, .. } | Change::Decrement { message, by, .. } => {
                    encoded.push(message);
                    encoded.push(u64::from(by));
                }
                Change::Put { state } => {
                    encoded.push(state.last_message_id);
                    for pair in state.counters.as_chunks::<2>().0 {
                        encoded.push(u64::from(pair[0]) | u64::from(pair[1]) << 32);
                    }
                }
                Change::Delete => {}
            }
        }
        if let Some(batch) = batch {
            encoded.push(batch);
        }
        encoded
    }

    pub fn batch_end(batch: u64, records: u64, oldest: u64) -> Self {
        let mut encoded = Encoded::new([BATCH_END, 0, 0]);
        for word in [batch, records, oldest] {
            encoded.push(word);
        }
        encoded
    }
}

/// Words of the record of an operation of a batch.
pub(crate) fn words_in_batch(operation: &Operation) -> usize {
    let own = match operation {
        Operation::DeleteUser => 0,
        Operation::Change { change, .. } => match change {
            Change::Delete => 1,
            Change::Ack { .. } => 2,
            Change::Increment { .. } | Change::Decrement { .. } => 3,
            Change::Put { .. } => 2 + MAX_COUNTERS / 2,
        },
    };
    2 + own + 1
}

/// What a record says, or `None` if no version of the library writes such a record.
pub(crate) fn decode(tag: Tag, words: &[u64]) -> Option<Said> {
    let [what, kind, counter] = tag;
    if what == BATCH_END {
        let [batch, records, oldest] = *words else {
            return None;
        };
        return (batch <= MAX_BATCH).then_some(Said::BatchEnd {
            batch,
            records,
            oldest,
        });
    }
    let (batch, words) = if what & IN_BATCH == 0 {
        (None, words)
    } else {
        let (batch, words) = words.split_last()?;
        (Some(*batch), words)
    };
    let [version, user, rest @ ..] = words else {
        return None;
    };
    if usize::from(counter) >= MAX_COUNTERS
        || *version > MAX_VERSION
        || batch.is_some_and(|batch| batch > MAX_BATCH)
    {
        return None;
    }
    let operation = match (what & !IN_BATCH, rest) {
        (DELETE_USER, []) => Operation::DeleteUser,
        (what, [id, rest @ ..]) => Operation::Change {
            channel: Channel { kind, id: *id },
            change: decode_change(what, counter, rest)?,
        },
        _ => return None,
    };
    Some(Said::Operation {
        version: *version,
        user: *user,
        operation,
        batch,
    })
}

fn decode_change(what: u8, counter: u8, words: &[u64]) -> Option<Change> {
    Some(match (what, words) {
        (ACK, [message]) => Change::Ack { message: *message },
        (INCREMENT, [message, by]) => Change::Increment {
            message: *message,
            counter,
            by: u32::try_from(*by).ok()?,
        },
        (DECREMENT, [message, by]) => Change::Decrement {
            message: *message,
            counter,
            by: u32::try_from(*by).ok()?,
        },
        (PUT, [message, first, second]) => Change::Put {
            state: ReadState {
                last_message_id: *message,
                counters: [
                    *first as u32,
                    (*first >> 32) as u32,
                    *second as u32,
                    (*second >> 32) as u32,
                ],
            },
        },
        (DELETE, []) => Change::Delete,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change() -> impl Strategy<Value = Change> {
        let counted = || (any::<u64>(), 0..MAX_COUNTERS as u8, any::<u32>());
        prop_oneof![
            any::<u64>().prop_map(|message| Change::Ack { message }),
            counted().prop_map(|(message, counter, by)| Change::Increment {
                message,
                counter,
                by
            }),
            counted().prop_map(|(message, counter, by)| Change::Decrement {
                message,
                counter,
                by
            }),
            (any::<u64>(), any::<[u32; MAX_COUNTERS]>()).prop_map(|(last_message_id, counters)| {
                let state = ReadState {
                    last_message_id,
                    counters,
                };
                Change::Put { state }
            }),
            Just(Change::Delete),
        ]
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            Just(Operation::DeleteUser),
            (any::<u8>(), any::<u64>(), change()).prop_map(|(kind, id, change)| {
                let channel = Channel { kind, id };
                Operation::Change { channel, change }
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_said_is_read(
            version in 0..=MAX_VERSION,
            user in any::<u64>(),
            operation in operation(),
            batch in prop::option::of(0..=MAX_BATCH),
        ) {
            let encoded = Encoded::operation(version, user, &operation, batch);
            let said = Said::Operation { version, user, operation, batch };
            prop_assert_eq!(decode(encoded.tag, encoded.words()), Some(said));
            if batch.is_some() {
                prop_assert_eq!(encoded.words().len(), words_in_batch(&operation));
            }
        }

        #[test]
        fn whatever_comes_is_read_without_a_panic(
            tag in any::<[u8; 3]>(),
            words in prop::collection::vec(any::<u64>(), 0..15),
        ) {
            let _ = decode(tag, &words);
        }
    }

    #[test]
    fn numbers_that_leave_no_room_for_later_ones_are_not_read() {
        let decoded = |version, batch| {
            let encoded = Encoded::operation(version, 1, &Operation::DeleteUser, batch);
            decode(encoded.tag, encoded.words())
        };
        assert!(decoded(MAX_VERSION, Some(MAX_BATCH)).is_some());
        assert_eq!(decoded(MAX_VERSION + 1, None), None);
        assert_eq!(decoded(1, Some(MAX_BATCH + 1)), None);
        let end = Encoded::batch_end(u64::MAX, 1, 0);
        assert_eq!(decode(end.tag, end.words()), None);
    }

    #[test]
    fn the_end_of_a_batch_is_read() {
        let encoded = Encoded::batch_end(1, 2, 3);
        assert_eq!(encoded.words().len(), END_WORDS);
        let said = Said::BatchEnd {
            batch: 1,
            records: 2,
            oldest: 3,
        };
        assert_eq!(decode(encoded.tag, encoded.words()), Some(said));
    }
}
