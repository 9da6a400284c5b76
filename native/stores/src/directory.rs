//! The directory of a store on disk: whose it is, and that it has one owner.
//!
//! ```text
//! lock               held by the instance that has it open
//! read_states.json   the header
//! rows/              the files of fjall
//! rows.new/          the same, while they are first made
//! ```

use crate::StoreError;
use crate::header::{self, Header};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const ROWS: &str = "rows";
const NEW_ROWS: &str = "rows.new";

/// What may lie in a directory that has no header yet: what a creation that
/// was interrupted leaves, and what file systems put at their root.
const HARMLESS: [&str; 4] = [LOCK, header::NEW_FILE, NEW_ROWS, "lost+found"];

/// A directory that this instance owns until it is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    lock: File,
}

impl Directory {
    /// Takes the directory, makes it if there is none, and checks that it is of
    /// a store with these counters. Leaves what is not ours as it is.
    pub fn open(path: &Path, counters: &[String]) -> Result<Self, StoreError> {
        create(path)?;
        if Header::read(path)?.is_none() {
            check_empty(path)?;
        }
        let directory = Directory::lock(path)?;
        // Again, for nobody else writes it now.
        let header = Header::read(path)?;
        if let Some(header) = &header {
            header.check_counters(path, counters)?;
        }
        let wanted = Header::new(counters);
        if header.as_ref() != Some(&wanted) {
            wanted.write(path)?;
        }
        Ok(directory)
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
            fs::rename(&new, &rows)
                .and_then(|()| sync(&self.path))
                .map_err(|error| StoreError::io(&rows, error))?;
        }
        Ok(rows)
    }

    fn lock(path: &Path) -> Result<Self, StoreError> {
        let file = path.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .map_err(|error| StoreError::io(&file, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Directory {
                path: path.to_owned(),
                lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(StoreError::io(&file, error)),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing the file is not enough while a child process that was just
        // forked shares it. An error leaves the lock to the closing.
        let _ = self.lock.unlock();
    }
}

/// Makes the directory and its parents, durably.
fn create(path: &Path) -> Result<(), StoreError> {
    if path.exists() && !path.is_dir() {
        let why = "it is no directory".to_owned();
        return Err(StoreError::NotOurs(path.to_owned(), why));
    }
    let missing = path.ancestors().take_while(|ancestor| !ancestor.exists());
    let missing: Vec<_> = missing.collect();
    fs::create_dir_all(path).map_err(|error| StoreError::NotWritable(path.to_owned(), error))?;
    for parent in missing.iter().filter_map(|made| made.parent()) {
        sync(parent).map_err(|error| StoreError::io(parent, error))?;
    }
    Ok(())
}

/// Refuses a directory in which somebody else has something.
fn check_empty(path: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(path).map_err(|error| StoreError::io(path, error))?;
    for entry in entries {
        let name = entry
            .map_err(|error| StoreError::io(path, error))?
            .file_name();
        if !HARMLESS.iter().any(|harmless| name == *harmless) {
            let why = format!("it has {name:?} in it, but no {}", header::FILE);
            return Err(StoreError::NotOurs(path.to_owned(), why));
        }
    }
    Ok(())
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
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
        assert_eq!(names(&path), [LOCK, header::FILE]);
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
        fs::remove_file(root.path().join(header::FILE)).unwrap();
        assert_eq!(open(root.path()).unwrap_err().reason(), "not_ours");
    }

    #[test]
    fn a_creation_that_was_interrupted_starts_anew() {
        let root = tempdir().unwrap();
        let new = root.path().join(NEW_ROWS);
        fs::create_dir(&new).unwrap();
        fs::write(new.join("half"), "").unwrap();
        fs::write(root.path().join(header::NEW_FILE), "{").unwrap();
        let directory = open(root.path()).unwrap();
        let rows = directory
            .rows(|path| {
                assert!(!path.exists());
                fs::create_dir(path).map_err(|error| StoreError::io(path, error))
            })
            .unwrap();
        assert_eq!(directory.rows(|_| unreachable!()).unwrap(), rows);
        assert_eq!(names(root.path()), [LOCK, header::FILE, "rows"]);
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
