//! Why a store refuses to open, or a call of it fails.

use read_states_engine::batch::BatchError;
use read_states_header::Misfit;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An error of a store. [`StoreError::reason`] is its name for programs,
/// `Display` the sentence for people.
#[derive(Debug)]
pub enum StoreError {
    /// The store was closed before the call.
    Closed,
    /// The binary is no batch of this store.
    InvalidBatch(String),
    /// The cursor is none that this store handed out.
    InvalidCursor,
    /// Another instance, of this VM or of another, has the directory open.
    InUse(PathBuf),
    /// The directory cannot be made, or not be written to.
    NotWritable(PathBuf, std::io::Error),
    /// What is at the path is not a store.
    NotOurs(PathBuf, String),
    /// The header does not fit.
    Header(PathBuf, Misfit),
    /// The files below the directory cannot be understood.
    Damaged(PathBuf, String),
    /// The operating system refused a read or a write.
    Io(PathBuf, std::io::Error),
    /// Another commit has not ended for so long.
    Timeout(Duration),
}

impl StoreError {
    /// The name of the variant, as an Elixir program matches on it; a full disk has one of its own.
    pub fn reason(&self) -> &'static str {
        match self {
            StoreError::Closed => "closed",
            StoreError::InvalidBatch(_) => "invalid_batch",
            StoreError::InvalidCursor => "invalid_cursor",
            StoreError::InUse(_) => "in_use",
            StoreError::NotWritable(_, error) | StoreError::Io(_, error) if is_full(error) => {
                "disk_full"
            }
            StoreError::NotWritable(..) => "not_writable",
            StoreError::NotOurs(..) | StoreError::Header(_, Misfit::NotOurs(_)) => "not_ours",
            StoreError::Header(_, Misfit::CountersChanged { .. }) => "counters_changed",
            StoreError::Header(_, Misfit::Damaged(_)) => "damaged_header",
            StoreError::Damaged(..) => "damaged",
            StoreError::Io(..) => "io",
            StoreError::Timeout(_) => "timeout",
        }
    }

    /// What the operating system said about `path`.
    pub(crate) fn io(path: &Path, error: std::io::Error) -> Self {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        match error.kind() {
            PermissionDenied | ReadOnlyFilesystem => {
                StoreError::NotWritable(path.to_owned(), error)
            }
            _ => StoreError::Io(path.to_owned(), error),
        }
    }

    /// What fjall said about its files below `path`.
    pub(crate) fn fjall(path: &Path, error: fjall::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                match error.kind() {
                    // What fjall asks for is not in the file, or cannot be in any.
                    InvalidData | InvalidInput | NotFound | UnexpectedEof => {
                        StoreError::Damaged(path.to_owned(), error.to_string())
                    }
                    _ => StoreError::io(path, error),
                }
            }
            fjall::Error::InvalidVersion(_) => {
                let why = "it names another version".to_owned();
                StoreError::Damaged(path.join("version"), why)
            }
            fjall::Error::Locked => StoreError::InUse(path.to_owned()),
            fjall::Error::Poisoned => {
                let text = "a write or a merge of files failed, and they could not be opened again and written to";
                StoreError::Io(path.to_owned(), std::io::Error::other(text))
            }
            error => StoreError::Damaged(path.to_owned(), error.to_string()),
        }
    }
}

/// Whether the operating system said that there is no room, or none for this user.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

impl From<BatchError> for StoreError {
    fn from(error: BatchError) -> Self {
        StoreError::InvalidBatch(error.to_string())
    }
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreError::Closed => write!(f, "the store is closed"),
            StoreError::InvalidBatch(why) => write!(f, "invalid batch: {why}"),
            StoreError::InvalidCursor => write!(f, "not a cursor of this store"),
            StoreError::InUse(path) => {
                write!(f, "{}: in use by another instance", path.display())
            }
            StoreError::NotWritable(path, error) => {
                write!(f, "{}: not writable: {error}", path.display())
            }
            StoreError::NotOurs(path, why) => {
                write!(f, "{}: not a store of this version: {why}", path.display())
            }
            StoreError::Header(path, misfit) => write!(f, "{}: {misfit}", path.display()),
            StoreError::Damaged(path, why) => {
                write!(f, "{}: damaged: {why}", path.display())
            }
            StoreError::Io(path, error) => write!(f, "{}: {error}", path.display()),
            StoreError::Timeout(waited) => {
                let why = "has not ended: perhaps it merges the files of earlier ones";
                write!(f, "the commit before this one {why}; waited for {waited:?}")
            }
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::NotWritable(_, error) | StoreError::Io(_, error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn a_full_disk_is_one_wherever_it_is_noticed() {
        let path = PathBuf::from("data");
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            let errors = [StoreError::Io, StoreError::NotWritable]
                .map(|error| error(path.clone(), kind.into()));
            assert!(errors.iter().all(|error| error.reason() == "disk_full"));
        }
        let denied = Error::from(ErrorKind::PermissionDenied);
        assert_eq!(StoreError::io(&path, denied).reason(), "not_writable");
    }
}
