//! The binary in which rows travel between the engine and a store, both ways.
//!
//! ```text
//! header   "RSB" | format 1 | id width | counters n | 0 0                          8 bytes
//! row      0 | kind | user | channel | version | writer | last message | n x u32   42 + 4n bytes
//! delete   1 | kind | user | channel | version            (of one channel)         26 bytes
//! delete   2 | 0    | user | version                      (of the whole user)      18 bytes
//! ```
//!
//! All numbers are little-endian. Entries are independent of each other's order:
//! the version alone says which of two wins.

use crate::id::{Channel, ID_WIDTH, Id};
use crate::read_state::{MAX_COUNTERS, ReadState};

/// The stamp under which something was written, in microseconds; see [`crate::stamp`].
pub type Version = u64;

/// No clock gives a version above this. One would leave no room for later ones.
pub(crate) const MAX_VERSION: Version = 1 << 62;

/// A store with higher ones is damaged. Those that the engine gives after what it has loaded stay below [`MAX_VERSION`].
pub(crate) const MAX_LOADED_VERSION: Version = MAX_VERSION / 2;

const MAGIC: [u8; 4] = *b"RSB\x01";
const HEADER: usize = 8;
const ROW: u8 = 0;
const DELETE_CHANNEL: u8 = 1;
const DELETE_USER: u8 = 2;

/// One read state as a store keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose.
    pub user: Id,
    /// Of what.
    pub channel: Channel,
    /// When the snapshot was taken; a store keeps the row with the highest.
    pub version: Version,
    /// The instance that wrote it.
    pub writer: u64,
    /// The values.
    pub state: ReadState,
}

/// One entry of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A read state with its values at `version`.
    Row(Row),
    /// The read state is gone, unless it was written above `version`.
    DeleteChannel {
        /// Whose.
        user: Id,
        /// Of what.
        channel: Channel,
        /// When.
        version: Version,
    },
    /// Every read state of the user that is not above `version` is gone.
    DeleteUser {
        /// Whose.
        user: Id,
        /// When.
        version: Version,
    },
}

impl Entry {
    /// The user the entry is of.
    pub fn user(&self) -> Id {
        match *self {
            Entry::Row(Row { user, .. })
            | Entry::DeleteChannel { user, .. }
            | Entry::DeleteUser { user, .. } => user,
        }
    }

    /// The version of the entry.
    pub fn version(&self) -> Version {
        match *self {
            Entry::Row(Row { version, .. })
            | Entry::DeleteChannel { version, .. }
            | Entry::DeleteUser { version, .. } => version,
        }
    }
}

/// Why a binary is not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// It does not start with the header of a batch.
    NotABatch,
    /// Its ids have another width, in bytes, than this build.
    IdWidth(u8),
    /// It says it has this many counters a row; 1 to 4 are possible.
    Counters(u8),
    /// It ends within an entry, or has an entry of no known form, at this byte.
    Damaged(usize),
    /// It has an entry with a version that no clock can have given.
    Version(Version),
}

impl std::fmt::Display for BatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BatchError::NotABatch => write!(f, "not a batch"),
            BatchError::IdWidth(n) => write!(f, "ids of {n} bytes, expected {ID_WIDTH}"),
            BatchError::Counters(n) => write!(f, "{n} counters, expected 1 to {MAX_COUNTERS}"),
            BatchError::Damaged(at) => write!(f, "damaged at byte {at}"),
            BatchError::Version(version) => write!(f, "version {version} is of no time"),
        }
    }
}

impl std::error::Error for BatchError {}

/// Writes a batch, entry by entry.
///
/// ```
/// use read_states_engine::batch::{Batch, BatchBuilder, Entry};
///
/// let mut builder = BatchBuilder::new(1);
/// builder.push(&Entry::DeleteUser { user: 7, version: 3 });
/// let bytes = builder.finish();
/// let entries: Vec<Entry> = Batch::parse(&bytes).unwrap().collect::<Result<_, _>>().unwrap();
/// assert_eq!(entries, [Entry::DeleteUser { user: 7, version: 3 }]);
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    counters: usize,
    entries: usize,
}

impl BatchBuilder {
    /// A batch without entries, for rows of `counters` counters (1 to 4).
    pub fn new(counters: usize) -> Self {
        assert!((1..=MAX_COUNTERS).contains(&counters));
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[ID_WIDTH, counters as u8, 0, 0]);
        BatchBuilder {
            bytes,
            counters,
            entries: 0,
        }
    }

    /// Number of entries so far.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there is no entry yet.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Adds one entry.
    pub fn push(&mut self, entry: &Entry) {
        self.entries += 1;
        match entry {
            Entry::Row(row) => {
                self.bytes.extend_from_slice(&[ROW, row.channel.kind]);
                self.u64s(&[
                    row.user,
                    row.channel.id,
                    row.version,
                    row.writer,
                    row.state.last_message_id,
                ]);
                for counter in &row.state.counters[..self.counters] {
                    self.bytes.extend_from_slice(&counter.to_le_bytes());
                }
            }
            Entry::DeleteChannel {
                user,
                channel,
                version,
            } => {
                self.bytes
                    .extend_from_slice(&[DELETE_CHANNEL, channel.kind]);
                self.u64s(&[*user, channel.id, *version]);
            }
            Entry::DeleteUser { user, version } => {
                self.bytes.extend_from_slice(&[DELETE_USER, 0]);
                self.u64s(&[*user, *version]);
            }
        }
    }

    /// The finished binary.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn u64s(&mut self, values: &[u64]) {
        for value in values {
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// Reads a batch: an iterator over its entries that ends after the first error.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    bytes: &'a [u8],
    at: usize,
    counters: usize,
}

impl<'a> Batch<'a> {
    /// Checks the header.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        if bytes.len() < HEADER || bytes[..4] != MAGIC {
            return Err(BatchError::NotABatch);
        }
        if bytes[4] != ID_WIDTH {
            return Err(BatchError::IdWidth(bytes[4]));
        }
        let counters = bytes[5];
        if !(1..=MAX_COUNTERS).contains(&(counters as usize)) {
            return Err(BatchError::Counters(counters));
        }
        Ok(Batch {
            bytes,
            at: HEADER,
            counters: counters as usize,
        })
    }

    /// Checks the header and every entry, so that what follows can trust them all.
    pub fn check(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let batch = Self::parse(bytes)?;
        for entry in batch.clone() {
            entry?;
        }
        Ok(batch)
    }

    /// Counters a row of this batch has.
    pub fn counters(&self) -> usize {
        self.counters
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        let from = self.at + offset;
        let bytes = self.bytes.get(from..from + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    fn entry(&self) -> Option<(Entry, usize)> {
        let tag = *self.bytes.get(self.at)?;
        let kind = *self.bytes.get(self.at + 1)?;
        let user = self.u64(2)?;
        match tag {
            ROW => {
                let mut state = ReadState {
                    last_message_id: self.u64(34)?,
                    ..ReadState::default()
                };
                for (index, counter) in state.counters[..self.counters].iter_mut().enumerate() {
                    let from = self.at + 42 + 4 * index;
                    let bytes = self.bytes.get(from..from + 4)?;
                    *counter = u32::from_le_bytes(bytes.try_into().ok()?);
                }
                let channel = Channel {
                    kind,
                    id: self.u64(10)?,
                };
                let row = Row {
                    user,
                    channel,
                    version: self.u64(18)?,
                    writer: self.u64(26)?,
                    state,
                };
                Some((Entry::Row(row), 42 + 4 * self.counters))
            }
            DELETE_CHANNEL => {
                let channel = Channel {
                    kind,
                    id: self.u64(10)?,
                };
                let version = self.u64(18)?;
                let entry = Entry::DeleteChannel {
                    user,
                    channel,
                    version,
                };
                Some((entry, 26))
            }
            DELETE_USER => {
                let version = self.u64(10)?;
                Some((Entry::DeleteUser { user, version }, 18))
            }
            _ => None,
        }
    }
}

impl Iterator for Batch<'_> {
    type Item = Result<Entry, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        match self.entry() {
            Some((entry, size)) => {
                self.at += size;
                Some(Ok(entry))
            }
            None => {
                let at = self.at;
                self.at = self.bytes.len();
                Some(Err(BatchError::Damaged(at)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let channel = Channel {
            kind: 255,
            id: u64::MAX,
        };
        let state = ReadState {
            last_message_id: u64::MAX - 1,
            counters: [1, u32::MAX, 0, 0],
        };
        vec![
            Entry::DeleteUser {
                user: 0,
                version: 1,
            },
            Entry::Row(Row {
                user: u64::MAX,
                channel,
                version: 2,
                writer: 3,
                state,
            }),
            Entry::DeleteChannel {
                user: 1 << 60,
                channel,
                version: 4,
            },
        ]
    }

    fn bytes() -> Vec<u8> {
        let mut builder = BatchBuilder::new(2);
        assert!(builder.is_empty());
        for entry in entries() {
            builder.push(&entry);
        }
        assert_eq!(builder.len(), 3);
        builder.finish()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = bytes();
        let batch = Batch::check(&bytes).unwrap();
        assert_eq!(batch.counters(), 2);
        assert_eq!(batch.collect::<Result<Vec<_>, _>>().unwrap(), entries());
    }

    #[test]
    fn a_batch_cut_anywhere_is_an_error_or_has_fewer_entries() {
        let whole = bytes();
        for length in 0..whole.len() {
            if let Ok(batch) = Batch::check(&whole[..length]) {
                let read: Vec<_> = batch.map(Result::unwrap).collect();
                assert!(read.len() < 3);
                assert_eq!(read, entries()[..read.len()]);
            }
        }
    }

    #[test]
    fn foreign_bytes_are_refused_by_name() {
        let mut other_width = bytes();
        other_width[4] = 16;
        let mut other_counters = bytes();
        other_counters[5] = 5;
        let mut other_tag = bytes();
        other_tag[8] = 9;
        assert_eq!(Batch::check(b"").unwrap_err(), BatchError::NotABatch);
        assert_eq!(
            Batch::check(&other_width).unwrap_err(),
            BatchError::IdWidth(16)
        );
        assert_eq!(
            Batch::check(&other_counters).unwrap_err(),
            BatchError::Counters(5)
        );
        assert_eq!(
            Batch::check(&other_tag).unwrap_err(),
            BatchError::Damaged(8)
        );
    }
}
