//! How many writes are known to be on the disk, in a file of its own.
//!
//! The end of a log looks the same whether the machine stopped while it was written or somebody cut off what had been
//! written long ago. This number tells the two apart. It is noted after each write that was synced, but not synced itself: it is
//! never too high, and too low only after a loss of power.
//!
//! ```text
//! number | checksum        little-endian, 8 bytes each
//! ```

use crate::StoreError;
use read_states_directory::replace;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// Its name in the directory of a store.
pub const FILE: &str = "written";

/// The file, open.
#[derive(Debug)]
pub struct Written(File);

impl Written {
    /// The number that was noted in `directory`, if one ever was.
    pub fn read(directory: &Path) -> Result<Option<u64>, StoreError> {
        let path = directory.join(FILE);
        let mut bytes = vec![];
        let file = File::open(&path).and_then(|file| file.take(17).read_to_end(&mut bytes));
        match file {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(&path, error)),
            Ok(_) => {}
        }
        let number = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        match number {
            Some(number) if bytes == self::bytes(number) => Ok(Some(number)),
            _ => Err(StoreError::Damaged(
                path,
                "its checksum is wrong".to_owned(),
            )),
        }
    }

    /// Makes the file in `directory`, durably, with this number.
    pub fn open(directory: &Path, number: u64) -> Result<Self, StoreError> {
        // Whole or not at all: an empty one would look as if something had been cut off.
        replace(directory, FILE, &bytes(number))
            .map(Written)
            .map_err(|error| StoreError::io(&directory.join(FILE), error))
    }

    /// Notes the number of a write that is on the disk.
    pub fn note(&self, number: u64) {
        // If it fails, the number noted before is lower, and true.
        let _ = self.0.write_all_at(&bytes(number), 0);
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // As above.
        let _ = self.0.sync_data();
    }
}

fn bytes(number: u64) -> [u8; 16] {
    let number = number.to_le_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number);
    bytes[8..].copy_from_slice(&xxh3_64(&number).to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn one_that_could_not_be_made_leaves_the_one_before() {
        let root = tempfile::tempdir().unwrap();
        drop(Written::open(root.path(), 3).unwrap());
        // As on a full disk, or when the process died.
        fs::write(root.path().join("written.new"), []).unwrap();
        assert_eq!(Written::read(root.path()).unwrap(), Some(3));
        drop(Written::open(root.path(), 4).unwrap());
        assert_eq!(Written::read(root.path()).unwrap(), Some(4));
    }

    #[test]
    fn a_number_is_read_back_and_not_from_other_bytes() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Written::read(root.path()).unwrap(), None);
        Written::open(root.path(), 3).unwrap().note(7);
        assert_eq!(Written::read(root.path()).unwrap(), Some(7));
        let path = root.path().join(FILE);
        let bytes = fs::read(&path).unwrap();
        let flipped = |at: usize| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            bytes
        };
        let longer = [&bytes[..], &[0]].concat();
        for bytes in [vec![], bytes[..15].to_vec(), longer, flipped(0), flipped(9)] {
            fs::write(&path, bytes).unwrap();
            let error = Written::read(root.path()).unwrap_err();
            assert_eq!(error.reason(), "damaged");
            assert!(error.to_string().contains(FILE));
        }
    }
}
