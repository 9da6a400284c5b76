//! What a table keeps under a key, and its bytes.
//!
//! ```text
//! version                                              a delete
//! version | writer | last message | n x u32            a read state
//! ```
//!
//! Numbers are little-endian. A row that was written when fewer counters were
//! configured is shorter; the counters it lacks are 0.

use read_states_engine::batch::Version;
use read_states_engine::read_state::{MAX_COUNTERS, ReadState};

const ROW: usize = 24;

/// The newest that was committed at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Of the write; only a higher one replaces it.
    pub version: Version,
    /// The writer and the values; `None` if the write was a delete.
    pub row: Option<(u64, ReadState)>,
}

impl Record {
    /// A remembered delete.
    pub const fn deleted(version: Version) -> Record {
        Record { version, row: None }
    }

    /// The bytes, with the first `counters` counters.
    pub fn to_bytes(self, counters: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ROW + 4 * counters);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        if let Some((writer, state)) = self.row {
            bytes.extend_from_slice(&writer.to_le_bytes());
            bytes.extend_from_slice(&state.last_message_id.to_le_bytes());
            for counter in &state.counters[..counters] {
                bytes.extend_from_slice(&counter.to_le_bytes());
            }
        }
        bytes
    }

    /// The record that has these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Record> {
        let (version, rest) = bytes.split_first_chunk()?;
        let version = Version::from_le_bytes(*version);
        if rest.is_empty() {
            return Some(Record::deleted(version));
        }
        let (writer, rest) = rest.split_first_chunk()?;
        let (last_message_id, rest) = rest.split_first_chunk()?;
        let mut state = ReadState {
            last_message_id: u64::from_le_bytes(*last_message_id),
            ..ReadState::default()
        };
        let (stored, odd) = rest.as_chunks();
        if stored.len() > MAX_COUNTERS || !odd.is_empty() {
            return None;
        }
        for (counter, bytes) in state.counters.iter_mut().zip(stored) {
            *counter = u32::from_le_bytes(*bytes);
        }
        let row = Some((u64::from_le_bytes(*writer), state));
        Some(Record { version, row })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_missing_counters_are_zero() {
        let state = ReadState {
            last_message_id: u64::MAX,
            counters: [1, 2, u32::MAX, 4],
        };
        let record = Record {
            version: 5,
            row: Some((u64::MAX - 1, state)),
        };
        assert_eq!(Record::from_bytes(&record.to_bytes(4)), Some(record));
        let (_, read) = Record::from_bytes(&record.to_bytes(2))
            .unwrap()
            .row
            .unwrap();
        assert_eq!(read.counters, [1, 2, 0, 0]);
        let delete = Record::deleted(7);
        assert_eq!(Record::from_bytes(&delete.to_bytes(4)), Some(delete));
    }

    #[test]
    fn bytes_of_another_length_are_no_record() {
        let bytes = [0; 50];
        let lengths = (0..50).filter(|&length| Record::from_bytes(&bytes[..length]).is_some());
        assert_eq!(lengths.collect::<Vec<_>>(), [8, 24, 28, 32, 36, 40]);
    }
}
