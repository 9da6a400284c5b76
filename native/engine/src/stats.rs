//! Figures at a glance.

use serde::Serialize;

/// What [`crate::engine::Engine::stats`] returns. Counts are since the engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Resident users.
    pub users: usize,
    /// Resident read states.
    pub states: usize,
    /// Channels of resident read states.
    pub channels: usize,
    /// Users with something uncommitted, resident or not.
    pub dirty_users: usize,
    /// Operations on users who are not resident.
    pub pending_operations: usize,
    /// Users waiting to be loaded.
    pub load_queue: usize,
    /// Bytes of everything.
    pub memory: usize,
    /// Bytes of users with something uncommitted.
    pub dirty_memory: usize,
    /// Bytes held for users to come, of all engines of the process together; not part of `memory`.
    pub reusable_memory: usize,
    /// Bytes of the journal's files.
    pub journal_size: usize,
    /// Bound on the read states.
    pub capacity: usize,
    /// Bound on `memory`.
    pub max_memory: usize,
    /// Bound on `dirty_memory`.
    pub max_dirty_memory: usize,
    /// Bound on `journal_size`.
    pub max_journal_size: usize,
    /// Reads of users who were resident.
    pub hits: u64,
    /// Reads that had to wait for a load.
    pub misses: u64,
    /// Users loaded.
    pub loads: u64,
    /// Users evicted.
    pub evictions: u64,
    /// Read states evicted with them.
    pub evicted_states: u64,
    /// Batches committed.
    pub commits: u64,
    /// Rows and deletes in them.
    pub committed_entries: u64,
    /// Writes refused because of the bound on dirty memory or on the journal.
    pub overloads: u64,
}
