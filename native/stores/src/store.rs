//! What every store written in Rust can do.

use crate::StoreError;
use read_states_engine::batch::Version;
use read_states_engine::id::Id;

/// One page of a load or a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// A [batch](read_states_engine::batch), its entries ordered by user, the
    /// user's own delete first, then by channel.
    pub batch: Vec<u8>,
    /// Where the next page starts; `None` if this is the last.
    pub next: Option<Vec<u8>>,
}

/// A place where read states are kept.
///
/// Calls may come from several threads at once. Users are independent of each
/// other; a load of a user sees each commit of that user whole or not at all.
pub trait Store: Send + Sync {
    /// At most `limit` rows and remembered deletes of `users`, from `cursor`
    /// on. Users that do not exist have none; duplicates count once.
    fn load(&self, users: &[Id], cursor: Option<&[u8]>, limit: usize) -> Result<Page, StoreError>;

    /// Writes a batch. When it returns, what applied is as durable as the
    /// store can make it; the same batch may be committed again.
    fn commit(&self, batch: &[u8]) -> Result<(), StoreError>;

    /// At most `limit` rows and remembered deletes of all users, from `cursor` on.
    fn scan(&self, cursor: Option<&[u8]>, limit: usize) -> Result<Page, StoreError>;

    /// The highest version ever committed, 0 if none.
    fn floor(&self) -> Result<Version, StoreError>;

    /// Waits for the calls under way and lets go of everything. Every later
    /// call is [`StoreError::Closed`]; closing again does nothing.
    fn close(&self);
}
