//! Why a store on a server refuses to open, or a call of it fails.

use std::fmt::{self, Display, Formatter};

use read_states_engine::batch::BatchError;

/// What an Elixir program matches on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The store was closed before the call.
    Closed,
    /// Too many calls are under way.
    Busy,
    /// The answer has not come in time.
    Timeout,
    /// Nobody answers at any of the addresses.
    Unreachable,
    /// The server takes no writes, as a standby.
    ReadOnly,
    /// The server does not take the user or the password.
    AccessDenied,
    /// A certificate does not fit, or a file of one cannot be read.
    Tls,
    /// The keyspace, the database or the table is not there.
    Missing,
    /// The table is another one, or one of a version that this one cannot read.
    NotOurs,
    /// The table was written with counters that do not start those configured now.
    CountersChanged,
    /// With these options a load could miss what was committed.
    Consistency,
    /// An option that only the server can judge is wrong.
    InvalidOption,
    /// The binary is no batch of this store.
    InvalidBatch,
    /// The cursor is none that this store handed out.
    InvalidCursor,
    /// The server answered something else than what was asked for.
    Server,
    /// A defect of the store: a panic.
    Panic,
}

impl Reason {
    /// As an atom.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Closed => "closed",
            Reason::Busy => "busy",
            Reason::Timeout => "timeout",
            Reason::Unreachable => "unreachable",
            Reason::ReadOnly => "read_only",
            Reason::AccessDenied => "access_denied",
            Reason::Tls => "tls",
            Reason::Missing => "missing",
            Reason::NotOurs => "not_ours",
            Reason::CountersChanged => "counters_changed",
            Reason::Consistency => "consistency",
            Reason::InvalidOption => "invalid_option",
            Reason::InvalidBatch => "invalid_batch",
            Reason::InvalidCursor => "invalid_cursor",
            Reason::Server => "server",
            Reason::Panic => "panic",
        }
    }
}

/// A reason for programs, and perhaps a sentence for people: which option it is about, never with the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    reason: Reason,
    text: Option<String>,
}

impl Error {
    /// With a sentence.
    pub fn new(reason: Reason, text: impl Display) -> Self {
        Error {
            reason,
            text: Some(text.to_string()),
        }
    }

    /// The reason.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The sentence, if the reason does not say it all.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

/// A reason that says it all.
impl From<Reason> for Error {
    fn from(reason: Reason) -> Self {
        Error { reason, text: None }
    }
}

impl From<BatchError> for Error {
    fn from(error: BatchError) -> Self {
        Error::new(Reason::InvalidBatch, error)
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().unwrap_or(self.reason.name()))
    }
}

impl std::error::Error for Error {}
