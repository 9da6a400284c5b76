//! What all shards share.

use ahash::RandomState;

use crate::directory::Directory;
use crate::now::Micros;
use crate::totals::{Bounds, Totals};

#[derive(Debug)]
pub(crate) struct Shared {
    pub directory: Directory,
    pub totals: Totals,
    pub bounds: Bounds,
    pub hasher: RandomState,
    /// Counters of a read state.
    pub counters: usize,
    pub commit_after: Micros,
    /// Names this instance in the rows it commits.
    pub writer: u64,
}
