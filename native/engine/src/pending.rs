//! The operations that wait for a user to be loaded, in the order of their acceptance.
//!
//! ```text
//! full     | 256 operations | 256 operations | …
//! last     | up to 256 operations |
//! ```
//!
//! In chunks, so that one more never moves all the others, however many there are. They lie in
//! slabs, which read states use next: the global allocator would keep what they leave.

use allocator_api2::vec::Vec;
use read_states_sync::fail_point;

use crate::batch::Version;
use crate::operation::Operation;
use crate::slabs::{LARGEST, Slabs};

/// Operations in a chunk, which is an object of a slab.
const CHUNK: usize = 256;
const _: () = assert!(CHUNK * size_of::<Stamped>() <= LARGEST);

/// An operation with the version at which it was accepted.
pub(crate) type Stamped = (Version, Operation);

type Chunk = Vec<Stamped, Slabs>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pending {
    full: std::vec::Vec<Chunk>,
    last: Chunk,
}

impl Default for Pending {
    fn default() -> Self {
        Pending {
            full: vec![],
            last: Vec::new_in(Slabs),
        }
    }
}

/// Bytes of a chunk with room for so many operations.
fn chunk_bytes(room: usize) -> usize {
    Slabs::size(room * size_of::<Stamped>())
}

impl Pending {
    pub fn len(&self) -> usize {
        self.full.len() * CHUNK + self.last.len()
    }

    pub fn push(&mut self, operation: Stamped) {
        fail_point!();
        if self.last.len() == CHUNK {
            self.full.reserve_exact(self.list_growth());
            let next = Vec::with_capacity_in(4, Slabs);
            self.full.push(std::mem::replace(&mut self.last, next));
        }
        self.last.reserve_exact(self.room() - self.last.len());
        self.last.push(operation);
    }

    /// Adds up to `most` operations to `to`, after having passed the first `from`.
    pub fn copy(&self, from: usize, most: usize, to: &mut std::vec::Vec<Stamped>) {
        let chunks = self.full.iter().chain([&self.last]);
        let operations = chunks.skip(from / CHUNK).flatten();
        to.extend(operations.skip(from % CHUNK).take(most));
    }

    /// Bytes allocated outside the struct itself.
    pub fn bytes(&self) -> usize {
        self.full.capacity() * size_of::<Chunk>()
            + self.full.len() * chunk_bytes(CHUNK)
            + chunk_bytes(self.last.capacity())
    }

    /// Bytes by which [`Pending::bytes`] grows with one more.
    pub fn growth(&self) -> usize {
        if self.last.len() < CHUNK {
            chunk_bytes(self.room()) - chunk_bytes(self.last.capacity())
        } else {
            self.list_growth() * size_of::<Chunk>() + chunk_bytes(4)
        }
    }

    /// Room of the last chunk after one more, if it is not full.
    fn room(&self) -> usize {
        let (len, room) = (self.last.len(), self.last.capacity());
        if len < room {
            room
        } else {
            // Most who are not resident have one.
            CHUNK.min(len + (len / 2).max(if self.len() == 0 { 1 } else { 4 }))
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

    fn operation(message: u64) -> Stamped {
        let operation = Operation::Change {
            channel: Channel { kind: 0, id: 1 },
            change: Change::Ack { message },
        };
        (message, operation)
    }

    #[test]
    fn operations_stay_in_order_and_grow_by_what_was_said() {
        let mut pending = Pending::default();
        assert_eq!(pending.len(), 0);
        for message in 0..5_000 {
            let expected = pending.bytes() + pending.growth();
            pending.push(operation(message));
            assert_eq!(pending.bytes(), expected);
            assert_eq!(pending.len() as u64, message + 1);
        }
        for (from, most) in [(0, 5_000), (255, 2), (256, 600), (4_999, 9), (5_000, 1)] {
            let mut copied = vec![];
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
