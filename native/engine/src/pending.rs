//! The operations that wait for a user to be loaded, in the order of their acceptance.
//!
//! ```text
//! full     | 512 operations | 512 operations | …
//! last     | up to 512 operations |
//! ```
//!
//! In chunks, so that one more never moves all the others, however many there are.

use crate::operation::Operation;

/// Operations in a chunk.
const CHUNK: usize = 512;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    full: Vec<Vec<Operation>>,
    last: Vec<Operation>,
}

impl Pending {
    pub fn len(&self) -> usize {
        self.full.len() * CHUNK + self.last.len()
    }

    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    pub fn push(&mut self, operation: Operation) {
        if self.last.len() == CHUNK {
            self.full.reserve_exact(self.list_growth());
            self.full.push(std::mem::take(&mut self.last));
        }
        self.last.reserve_exact(self.room() - self.last.len());
        self.last.push(operation);
    }

    /// Adds up to `most` operations to `to`, after having passed the first `from`.
    pub fn copy(&self, from: usize, most: usize, to: &mut Vec<Operation>) {
        let chunks = self.full.iter().chain([&self.last]);
        let operations = chunks.skip(from / CHUNK).flatten();
        to.extend(operations.skip(from % CHUNK).take(most));
    }

    /// Bytes allocated outside the struct itself.
    pub fn bytes(&self) -> usize {
        self.full.capacity() * size_of::<Vec<Operation>>()
            + (self.full.len() * CHUNK + self.last.capacity()) * size_of::<Operation>()
    }

    /// Bytes by which [`Pending::bytes`] grows with one more.
    pub fn growth(&self) -> usize {
        if self.last.len() < CHUNK {
            (self.room() - self.last.capacity()) * size_of::<Operation>()
        } else {
            self.list_growth() * size_of::<Vec<Operation>>() + 4 * size_of::<Operation>()
        }
    }

    /// Room of the last chunk after one more, if it is not full.
    fn room(&self) -> usize {
        let (len, room) = (self.last.len(), self.last.capacity());
        if len < room {
            room
        } else {
            CHUNK.min(len + (len / 2).max(4))
        }
    }

    /// Chunks for which the list needs more room if the last one is full.
    fn list_growth(&self) -> usize {
        let (len, room) = (self.full.len(), self.full.capacity());
        if len < room { 0 } else { len.max(4) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Channel;
    use crate::operation::Change;

    fn operation(message: u64) -> Operation {
        Operation::Change {
            channel: Channel { kind: 0, id: 1 },
            change: Change::Ack { message },
        }
    }

    #[test]
    fn operations_stay_in_order_and_grow_by_what_was_said() {
        let mut pending = Pending::default();
        assert!(pending.is_empty());
        for message in 0..5_000 {
            let expected = pending.bytes() + pending.growth();
            pending.push(operation(message));
            assert_eq!(pending.bytes(), expected);
            assert_eq!(pending.len() as u64, message + 1);
        }
        for (from, most) in [(0, 5_000), (511, 2), (512, 600), (4_999, 9), (5_000, 1)] {
            let mut copied = Vec::new();
            pending.copy(from, most, &mut copied);
            let to = 5_000.min(from + most);
            assert!(
                copied
                    .into_iter()
                    .eq((from as u64..to as u64).map(operation))
            );
        }
    }
}
