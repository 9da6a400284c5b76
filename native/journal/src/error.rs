//! Why a journal cannot be opened, or cannot take a record now.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a journal cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another instance has it open.
    InUse(PathBuf),
    /// The directory, or a file in it, is somebody else's, or of another version of the library.
    NotOurs(PathBuf, String),
    /// The operating system refused something.
    Io(PathBuf, io::Error),
}

impl OpenError {
    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        OpenError::Io(path.to_owned(), error)
    }

    /// Its name for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            OpenError::InUse(_) => "in_use",
            OpenError::NotOurs(..) => "not_ours",
            OpenError::Io(_, error) if is_full(error) => "disk_full",
            OpenError::Io(..) => "io",
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse(path) => {
                write!(f, "the journal in {} is in use", path.display())
            }
            OpenError::NotOurs(path, why) => {
                write!(f, "{} is none of ours: {why}", path.display())
            }
            OpenError::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {}

/// Whether the operating system said that there is no room, or none for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Why a record cannot be taken now. Nothing of it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The journal has as many bytes as it may have, or the next segment is not prepared yet.
    Full,
    /// The next segment could not be made: there is no room on the disk.
    NoSpace,
    /// The next segment could not be made for another reason.
    Failed,
}
