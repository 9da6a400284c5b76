//! What the targets share: segments of a journal, written and read without the code under test.

use read_states_journal::{Journal, Options, Tag};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes before the first record of a segment.
pub const HEADER: usize = 128;

/// Most words of a record.
pub const MAX_WORDS: usize = 15;

/// The number of the segment that is read.
pub const SEQUENCE: u64 = 1;

/// A record of the segment, as the documentation of the format says.
pub fn record(tag: Tag, words: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, words.len() as u8];
    bytes.extend(tag);
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    let sum = (xxh3_64_with_seed(&bytes, SEQUENCE) as u32).max(1);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The record at the start of `bytes`, if there is one.
pub fn read_record(bytes: &[u8]) -> Option<(Tag, Vec<u64>)> {
    let count = usize::from(*bytes.get(4)?);
    let words = bytes.get(8..8 + 8 * count)?.chunks(8);
    let words: Vec<_> = words
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let tag = bytes[5..8].try_into().unwrap();
    let is_record = count <= MAX_WORDS && bytes.starts_with(&record(tag, &words));
    is_record.then_some((tag, words))
}

/// A directory with a journal of one segment, whose bytes are given anew each time.
pub struct Directory {
    root: TempDir,
    segment: PathBuf,
    header: Vec<u8>,
}

/// How the journals are opened.
pub const OPTIONS: Options = Options {
    segment: 1 << 16,
    most: 4,
    id_width: 8,
    owner: 1,
    exact: true,
};

impl Directory {
    /// Makes it.
    pub fn new() -> Self {
        let root = TempDir::new().unwrap();
        let journal = Journal::open(root.path(), OPTIONS).unwrap();
        journal.mark(7);
        journal.mark_stored(5);
        drop(journal);
        let segment = segments(root.path()).remove(0);
        let header = fs::read(&segment).unwrap()[..HEADER].to_vec();
        // Its name has the number.
        let segment = root.path().join(format!("{SEQUENCE:016}.journal"));
        Directory {
            root,
            segment,
            header,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// The header as it was written.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Leaves nothing but the segment, with these bytes after its header.
    pub fn write(&self, records: &[u8]) {
        self.write_with_header(&self.header, records);
    }

    /// Leaves nothing but the segment, with this header and these bytes after it.
    pub fn write_with_header(&self, header: &[u8], records: &[u8]) {
        for path in segments(self.path()) {
            fs::remove_file(path).unwrap();
        }
        let mut bytes = [header, records].concat();
        // As large as the header says, or larger: what is missing would be damage.
        bytes.resize(bytes.len().max(OPTIONS.segment), 0);
        fs::write(&self.segment, bytes).unwrap();
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

/// The segments in a directory, oldest first.
fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "journal")
        })
        .collect();
    paths.sort();
    paths
}
