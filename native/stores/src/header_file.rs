//! The header of a store on disk, in a file of its directory.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use read_states_directory::replace;
use read_states_header::Header;

use crate::StoreError;

/// Its name in the directory.
pub const FILE: &str = "read_states.json";
/// What [`replace`] may leave of it.
pub const NEW_FILE: &str = "read_states.json.new";

/// The header in `directory`, if there is one.
pub fn read(directory: &Path) -> Result<Option<Header>, StoreError> {
    let path = directory.join(FILE);
    match fs::read(&path) {
        Ok(text) => match Header::parse(&text) {
            Ok(header) => Ok(Some(header)),
            Err(misfit) => Err(StoreError::Header(path, misfit)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io(&path, error)),
    }
}

/// Replaces the header in `directory`, whole or not at all, and durably.
pub fn write(directory: &Path, header: &Header) -> Result<(), StoreError> {
    replace(directory, FILE, header.to_text().as_bytes())
        .map(drop)
        .map_err(|error| StoreError::io(directory, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap(), None);
        let header = Header::new(&["mentions".to_owned()]);
        write(directory.path(), &header).unwrap();
        assert_eq!(read(directory.path()).unwrap(), Some(header));
        assert!(!directory.path().join(NEW_FILE).exists());
    }

    #[test]
    fn one_that_does_not_fit_is_refused_with_the_reason() {
        let header = Header::new(&[]).to_text();
        let directory = tempfile::tempdir().unwrap();
        let texts = [
            ("damaged_header", String::new()),
            ("not_ours", header.replace("store", "other")),
        ];
        for (reason, text) in texts {
            fs::write(directory.path().join(FILE), text).unwrap();
            let error = read(directory.path()).unwrap_err();
            assert_eq!(error.reason(), reason);
            assert!(error.to_string().contains(FILE), "{error}");
        }
    }
}
