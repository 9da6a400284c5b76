//! The bytes of a read state: one cell, so that of two writes with the same time stamp one stays, whole.
//!
//! ```text
//! format 1 | id width | version | writer | last message | n x u32
//! ```
//!
//! Numbers are big-endian: of two writes with the same version Cassandra keeps the greater bytes, which are those of the
//! greater writer. A row that was written when fewer counters were configured is shorter; the counters it lacks are 0.

use read_states_engine::batch::{Row, Version};
use read_states_engine::id::{Channel, ID_WIDTH, Id};
use read_states_engine::read_state::{MAX_COUNTERS, ReadState};

const FORMAT: u8 = 1;
const HEADER: usize = 2;
const FIXED: usize = HEADER + 24;

const LONGEST: usize = FIXED + 4 * MAX_COUNTERS;

/// The bytes of a read state, in place: a commit has ten thousand of them.
pub struct Cell {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Cell {
    /// Those of a row, with the first `counters` counters.
    pub fn encode(row: &Row, counters: usize) -> Self {
        let mut bytes = [0; LONGEST];
        bytes[..HEADER].copy_from_slice(&[FORMAT, ID_WIDTH]);
        let (fixed, _) = bytes[HEADER..].as_chunks_mut();
        let numbers = [row.version, row.writer, row.state.last_message_id];
        for (bytes, number) in fixed.iter_mut().zip(numbers) {
            *bytes = number.to_be_bytes();
        }
        let (last, _) = bytes[FIXED..].as_chunks_mut();
        for (bytes, counter) in last.iter_mut().zip(row.state.counters) {
            *bytes = counter.to_be_bytes();
        }
        Cell {
            bytes,
            length: FIXED + 4 * counters,
        }
    }

    /// As they are stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The row with these bytes; `None` if they are of another format.
pub fn decode(user: Id, channel: Channel, bytes: &[u8]) -> Option<Row> {
    let (&[FORMAT, ID_WIDTH], rest) = bytes.split_first_chunk()? else {
        return None;
    };
    let (version, rest) = number(rest)?;
    let (writer, rest) = number(rest)?;
    let (last_message_id, rest) = number(rest)?;
    let mut state = ReadState {
        last_message_id,
        ..ReadState::default()
    };
    let (counters, []) = rest.as_chunks() else {
        return None;
    };
    if counters.len() > MAX_COUNTERS {
        return None;
    }
    for (counter, bytes) in state.counters.iter_mut().zip(counters) {
        *counter = u32::from_be_bytes(*bytes);
    }
    Some(Row {
        user,
        channel,
        version,
        writer,
        state,
    })
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
}

/// The time stamp of a write: its version, in microseconds as Cassandra's are. Those that do not fit, some 292,000 years from
/// now, have the last one in common.
pub fn timestamp(version: Version) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(row: &Row, counters: usize) -> Vec<u8> {
        Cell::encode(row, counters).bytes().to_vec()
    }

    fn row() -> Row {
        Row {
            user: 1,
            channel: Channel {
                kind: 255,
                id: u64::MAX,
            },
            version: u64::MAX,
            writer: 7,
            state: ReadState {
                last_message_id: 1 << 63,
                counters: [u32::MAX, 2, 0, 0],
            },
        }
    }

    #[test]
    fn what_is_written_is_read_back_with_fewer_counters_too() {
        let mut row = row();
        let bytes = encode(&row, 4);
        assert_eq!(decode(row.user, row.channel, &bytes), Some(row));
        let bytes = encode(&row, 1);
        assert_eq!(bytes.len(), 30);
        row.state.counters[1] = 0;
        assert_eq!(decode(row.user, row.channel, &bytes), Some(row));
    }

    #[test]
    fn other_bytes_are_no_row() {
        let row = row();
        let bytes = encode(&row, 4);
        let decode = |bytes: &[u8]| decode(row.user, row.channel, bytes);
        for length in 0..bytes.len() {
            let whole = length >= FIXED && (length - FIXED).is_multiple_of(4);
            assert_eq!(decode(&bytes[..length]).is_some(), whole, "{length}");
        }
        for at in 0..HEADER {
            let mut other = bytes.clone();
            other[at] += 1;
            assert_eq!(decode(&other), None);
        }
        let long = [&bytes[..], &[0; 4]].concat();
        assert_eq!(decode(&long), None);
    }

    #[test]
    fn of_two_writes_with_one_version_the_greater_writer_has_the_greater_bytes() {
        let (mut one, mut other) = (row(), row());
        (one.writer, other.writer) = (0x0100, 0x00ff);
        one.state.last_message_id = 0;
        other.state.last_message_id = u64::MAX;
        assert!(encode(&one, 1) > encode(&other, 1));
    }

    #[test]
    fn time_stamps_are_versions_as_far_as_they_fit() {
        assert_eq!(timestamp(0), 0);
        assert_eq!(timestamp(i64::MAX as u64), i64::MAX);
        assert_eq!(timestamp(u64::MAX), i64::MAX);
    }
}
