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
