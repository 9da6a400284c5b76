//! The header file of a store directory: what is needed to read the rest.

use crate::StoreError;
use read_states_directory::replace;
use read_states_engine::id::ID_WIDTH;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Its name in the directory.
pub const FILE: &str = "read_states.json";
/// What [`replace`] may leave of it.
pub const NEW_FILE: &str = "read_states.json.new";

const FORMAT: &str = "read_states store";
const VERSION: u32 = 1;

/// What the header says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: String,
    version: u32,
    id_width: u8,
    counters: Vec<String>,
}

impl Header {
    /// The header of a store for these counters.
    pub fn new(counters: &[String]) -> Self {
        Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            id_width: ID_WIDTH,
            counters: counters.to_vec(),
        }
    }

    /// The header in `directory`, if there is one, checked to be readable by this version.
    pub fn read(directory: &Path) -> Result<Option<Self>, StoreError> {
        let path = directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(&path, error)),
        };
        let header: Header = serde_json::from_slice(&bytes)
            .map_err(|error| StoreError::DamagedHeader(path, error.to_string()))?;
        let not_ours = |why| Err(StoreError::NotOurs(directory.to_owned(), why));
        if header.format != FORMAT {
            return not_ours(format!("its format is {:?}", header.format));
        }
        if header.version != VERSION {
            return not_ours(format!("its format has version {}", header.version));
        }
        if header.id_width != ID_WIDTH {
            return not_ours(format!("its ids have {} bytes", header.id_width));
        }
        Ok(Some(header))
    }

    /// Whether a store with this header can be opened with `counters`: those
    /// that it has, in their order, and maybe more.
    pub fn check_counters(&self, directory: &Path, counters: &[String]) -> Result<(), StoreError> {
        if counters.starts_with(&self.counters) {
            return Ok(());
        }
        Err(StoreError::CountersChanged {
            path: directory.to_owned(),
            stored: self.counters.clone(),
            configured: counters.to_vec(),
        })
    }

    /// Replaces the header in `directory`, whole or not at all, and durably.
    pub fn write(&self, directory: &Path) -> Result<(), StoreError> {
        let write = || replace(directory, FILE, &serde_json::to_vec_pretty(self)?);
        write()
            .map(drop)
            .map_err(|error| StoreError::io(directory, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn read(text: &str) -> Result<Option<Header>, StoreError> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), text).unwrap();
        Header::read(directory.path())
    }

    #[test]
    fn a_header_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Header::read(directory.path()).unwrap(), None);
        let header = Header::new(&names(&["mentions", "unread"]));
        header.write(directory.path()).unwrap();
        assert_eq!(Header::read(directory.path()).unwrap(), Some(header));
        assert!(!directory.path().join(NEW_FILE).exists());
    }

    #[test]
    fn what_another_version_wrote_is_not_ours_and_what_nobody_wrote_is_damaged() {
        let header = serde_json::to_string(&Header::new(&names(&["a"]))).unwrap();
        assert!(read(&header).unwrap().is_some());
        let reason = |text: &str| read(text).unwrap_err().reason();
        assert_eq!(reason(&header.replace(FORMAT, "else")), "not_ours");
        assert_eq!(
            reason(&header.replace("version\":1", "version\":2")),
            "not_ours"
        );
        assert_eq!(
            reason(&header.replace("width\":8", "width\":16")),
            "not_ours"
        );
        assert_eq!(reason(&header[..header.len() - 1]), "damaged_header");
        assert_eq!(reason(""), "damaged_header");
        assert_eq!(reason("{}"), "damaged_header");
    }

    #[test]
    fn counters_may_be_appended_but_not_change() {
        let header = Header::new(&names(&["a", "b"]));
        let check = |given: &[&str]| header.check_counters(Path::new("x"), &names(given));
        assert!(check(&["a", "b"]).is_ok());
        assert!(check(&["a", "b", "c"]).is_ok());
        for other in [&["a"][..], &["b", "a"], &["a", "c"], &["c", "a", "b"], &[]] {
            assert_eq!(check(other).unwrap_err().reason(), "counters_changed");
        }
    }
}
