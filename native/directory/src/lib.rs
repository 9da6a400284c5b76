//! A directory that belongs to one process: made for its owner only, and locked.
//!
//! ```
//! use read_states_directory::{Lock, Refused, create, sync};
//!
//! let root = tempfile::tempdir().unwrap();
//! let path = root.path().join("a/b");
//! create(&path).unwrap();
//! let lock = Lock::take(&path).unwrap();
//! assert!(matches!(Lock::take(&path), Err(Refused::InUse)));
//! drop(lock);
//! Lock::take(&path).unwrap();
//! sync(&path).unwrap();
//! ```

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file that is locked.
pub const LOCK: &str = "lock";

/// Why a directory cannot be had.
#[derive(Debug)]
pub enum Refused {
    /// Another process, or somebody else in this one, has it.
    InUse,
    /// What is there is none of ours, and why.
    NotOurs(String),
    /// It cannot be made.
    NotWritable(io::Error),
    /// The operating system refused something else, at this path.
    Io(PathBuf, io::Error),
}

/// A directory that nobody else can lock until this is dropped.
#[derive(Debug)]
pub struct Lock(File);

/// Makes the directory, readable for its owner only, and its parents; durably. Refuses one that is there and is a
/// symbolic link, or to which everybody may write, or belongs to another user: they could change what is written to it, or put
/// something there that is taken for ours. A group may write to it, for that may be how a volume is mounted.
pub fn create(path: &Path) -> Result<(), Refused> {
    // Without a slash at the end, which would have the system follow a link.
    let path = path.components().as_path();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Refused::NotWritable(error)),
        Ok(found) if found.is_symlink() => {
            return Err(Refused::NotOurs("it is a symbolic link".to_owned()));
        }
        Ok(found) if !found.is_dir() => {
            return Err(Refused::NotOurs("it is no directory".to_owned()));
        }
        Ok(found) if found.uid() != rustix::process::geteuid().as_raw() => {
            let why = format!("it belongs to another user, {}", found.uid());
            return Err(Refused::NotOurs(why));
        }
        Ok(found) if found.mode() & 0o002 != 0 => {
            let mode = found.mode() & 0o777;
            let why = format!("everybody may write to it, its mode is {mode:o}: make it 700");
            return Err(Refused::NotOurs(why));
        }
        Ok(_) => return Ok(()),
    }
    let missing = path.ancestors().take_while(|ancestor| !ancestor.exists());
    let missing: Vec<_> = missing.collect();
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    parent
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| DirBuilder::new().mode(0o700).create(path))
        .map_err(Refused::NotWritable)?;
    for parent in missing.iter().filter_map(|made| made.parent()) {
        sync(parent).map_err(|error| Refused::Io(parent.to_owned(), error))?;
    }
    Ok(())
}

/// Waits until the names in a directory are on the disk.
pub fn sync(directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    File::open(directory)?.sync_all()
}

/// Puts a file in place of the one with this name, if there is one: whole or not at all, for its owner only, and durably.
/// It may leave one behind with `.new` added to the name. The file is open for writing.
pub fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<File> {
    let new = directory.join(format!("{name}.new"));
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    sync(directory)?;
    Ok(file)
}

impl Lock {
    /// Takes the lock, unless somebody has it.
    pub fn take(directory: &Path) -> Result<Self, Refused> {
        let path = directory.join(LOCK);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Refused::Io(path.clone(), error))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(Refused::InUse),
            Err(TryLockError::Error(error)) => Err(Refused::Io(path, error)),
        }
    }

    /// Gives it back, before it is dropped.
    pub fn release(&self) -> io::Result<()> {
        self.0.unlock()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough while a child process that was just forked shares it. An error
        // leaves the lock to the closing.
        let _ = self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use tempfile::tempdir;

    #[test]
    fn what_is_made_is_for_its_owner_only() {
        let root = tempdir().unwrap();
        let path = root.path().join("a/b");
        create(&path).unwrap();
        let _lock = Lock::take(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(LOCK)), 0o600);
        create(&path).unwrap();
    }

    #[test]
    fn a_file_is_replaced_by_one_for_its_owner_only() {
        let root = tempdir().unwrap();
        let path = root.path().join("file");
        // Of one who died in the middle.
        fs::write(root.path().join("file.new"), "longer than what comes").unwrap();
        for bytes in ["first", "second"] {
            replace(root.path(), "file", bytes.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), bytes);
        }
        let permissions = fs::metadata(&path).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_a_file_and_what_belongs_to_or_is_open_to_somebody_else_are_refused() {
        let root = tempdir().unwrap();
        let (link, file) = (root.path().join("link"), root.path().join("file"));
        symlink(root.path(), &link).unwrap();
        fs::write(&file, "").unwrap();
        for path in [&link, &file, &link.join(""), &link.join(".")] {
            assert!(matches!(create(path), Err(Refused::NotOurs(_))), "{path:?}");
        }
        assert!(matches!(
            create(&file.join("below")),
            Err(Refused::NotWritable(_))
        ));
        let open = root.path().join("open");
        fs::create_dir(&open).unwrap();
        for (mode, is_refused) in [
            (0o755, false),
            (0o775, false),
            (0o757, true),
            (0o700, false),
        ] {
            fs::set_permissions(&open, Permissions::from_mode(mode)).unwrap();
            match create(&open) {
                Err(Refused::NotOurs(why)) => assert!(is_refused && why.contains("write")),
                other => assert!(!is_refused && other.is_ok(), "{mode:o}: {other:?}"),
            }
        }
        // Only root can give something away.
        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        if std::os::unix::fs::chown(&other, Some(12_345), None).is_ok() {
            let Err(Refused::NotOurs(why)) = create(&other) else {
                panic!("a directory of another user was accepted");
            };
            assert!(why.contains("12345"));
        }
    }
}
