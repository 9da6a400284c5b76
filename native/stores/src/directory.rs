//! The directory of a store on disk: whose it is, and that it has one owner.
//!
//! ```text
//! lock               held by the instance that has it open
//! read_states.json   the header
//! rows/              the files of fjall
//! rows.new/          the same, while they are first made
//! written            how many writes are in them
//! ```

use crate::StoreError;
use crate::header_file;
use read_states_directory::{LOCK, Lock, Refused, create, sync};
use read_states_header::Header;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const ROWS: &str = "rows";
const NEW_ROWS: &str = "rows.new";

/// What may lie in a directory that has no header yet: what a creation that
/// was interrupted leaves, and what file systems put at their root.
const HARMLESS: [&str; 4] = [LOCK, header_file::NEW_FILE, NEW_ROWS, "lost+found"];

/// A directory that this instance owns until it is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: Lock,
}

impl Directory {
    /// Takes the directory, makes it if there is none, and checks that it is of
    /// a store with these counters. Leaves what is not ours as it is.
    pub fn open(path: &Path, counters: &[String]) -> Result<Self, StoreError> {
        let refused = |refused| match refused {
            Refused::InUse => StoreError::InUse(path.to_owned()),
            Refused::NotOurs(why) => StoreError::NotOurs(path.to_owned(), why),
            Refused::NotWritable(error) => StoreError::NotWritable(path.to_owned(), error),
            Refused::Io(path, error) => StoreError::io(&path, error),
        };
        create(path).map_err(refused)?;
        if header_file::read(path)?.is_none() {
            check_empty(path)?;
        }
        let directory = Directory {
            path: path.to_owned(),
            _lock: Lock::take(path).map_err(refused)?,
        };
        // Again, for nobody else writes it now.
        let noted = header_file::read(path)?;
        let header = match &noted {
            Some(noted) => noted
                .with_counters(counters)
                .map_err(|misfit| StoreError::Header(path.to_owned(), misfit))?,
            None => Header::new(counters),
        };
        if noted.as_ref() != Some(&header) {
            header_file::write(path, &header)?;
        }
        Ok(directory)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where fjall has its files. If there are none yet, `create` makes them;
    /// they get their place only when it is done, because fjall cannot open
    /// files whose creation was interrupted.
    pub fn rows(
        &self,
        create: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<PathBuf, StoreError> {
        let rows = self.path.join(ROWS);
        let exists = rows.try_exists();
        if !exists.map_err(|error| StoreError::io(&rows, error))? {
            let new = self.path.join(NEW_ROWS);
            match fs::remove_dir_all(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io(&new, error));
                }
                _ => create(&new)?,
            }
            // fjall makes its files for everybody.
            fs::set_permissions(&new, Permissions::from_mode(0o700))
                .and_then(|()| fs::rename(&new, &rows))
                .and_then(|()| sync(&self.path))
                .map_err(|error| StoreError::io(&rows, error))?;
        }
        Ok(rows)
    }
}

/// Refuses a directory in which somebody else has something.
fn check_empty(path: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(path).map_err(|error| StoreError::io(path, error))?;
    for entry in entries {
        let name = entry
            .map_err(|error| StoreError::io(path, error))?
            .file_name();
        if !HARMLESS.iter().any(|harmless| name == *harmless) {
            let why = format!("it has {name:?} in it, but no {}", header_file::FILE);
            return Err(StoreError::NotOurs(path.to_owned(), why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    fn open(path: &Path) -> Result<Directory, StoreError> {
        Directory::open(path, &["count".to_owned()])
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_is_made_with_its_parents_and_has_one_owner_at_a_time() {
        let root = tempdir().unwrap();
        let path = root.path().join("a/b/c");
        let directory = open(&path).unwrap();
        assert_eq!(open(&path).unwrap_err().reason(), "in_use");
        drop(directory);
        open(&path).unwrap();
        assert_eq!(names(&path), [LOCK, header_file::FILE]);
    }

    #[test]
    fn what_somebody_else_has_there_is_refused_and_left_alone() {
        let root = tempdir().unwrap();
        fs::create_dir(root.path().join("lost+found")).unwrap();
        fs::write(root.path().join("notes.txt"), "mine").unwrap();
        let error = open(root.path()).unwrap_err();
        assert_eq!(error.reason(), "not_ours");
        assert!(error.to_string().contains("notes.txt"));
        assert_eq!(names(root.path()), ["lost+found", "notes.txt"]);
        let file = root.path().join("notes.txt");
        assert_eq!(open(&file).unwrap_err().reason(), "not_ours");
        fs::remove_file(&file).unwrap();
        open(root.path()).unwrap();
    }

    #[test]
    fn rows_without_their_header_are_refused() {
        let root = tempdir().unwrap();
        let directory = open(root.path()).unwrap();
        directory
            .rows(|path| fs::create_dir(path).map_err(|error| StoreError::io(path, error)))
            .unwrap();
        drop(directory);
        fs::remove_file(root.path().join(header_file::FILE)).unwrap();
        assert_eq!(open(root.path()).unwrap_err().reason(), "not_ours");
    }

    #[test]
    fn a_creation_that_was_interrupted_starts_anew() {
        let root = tempdir().unwrap();
        let new = root.path().join(NEW_ROWS);
        fs::create_dir(&new).unwrap();
        fs::write(new.join("half"), "").unwrap();
        fs::write(root.path().join(header_file::NEW_FILE), "{").unwrap();
        let directory = open(root.path()).unwrap();
        let rows = directory
            .rows(|path| {
                assert!(!path.exists());
                fs::create_dir(path).map_err(|error| StoreError::io(path, error))
            })
            .unwrap();
        assert_eq!(directory.rows(|_| unreachable!()).unwrap(), rows);
        assert_eq!(names(root.path()), [LOCK, header_file::FILE, "rows"]);
        assert_eq!(names(&rows), [""; 0]);
    }

    #[test]
    fn where_nothing_can_be_written_it_says_so() {
        let root = tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [&file.join("below"), Path::new("/proc/read_states")] {
            assert_eq!(open(path).unwrap_err().reason(), "not_writable");
        }
    }

    #[test]
    fn refused_counters_leave_the_header_and_accepted_ones_are_written() {
        let root = tempdir().unwrap();
        let open = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
            Directory::open(root.path(), &names).map(drop)
        };
        open(&["a"]).unwrap();
        let reason = |names: &[&str]| open(names).unwrap_err().reason();
        assert_eq!(reason(&["b"]), "counters_changed");
        open(&["a", "b"]).unwrap();
        assert_eq!(reason(&["a"]), "counters_changed");
        open(&["a", "b"]).unwrap();
    }
}
