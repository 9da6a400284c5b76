//! What all shards share.

use ahash::RandomState;

use crate::directory::Directory;
use crate::evict::Policy;
use crate::journaling::Journaling;
use crate::load_queue::Queued;
use crate::now::Micros;
use crate::recency::Uses;
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
    pub queued: Queued,
    pub policy: Policy,
    /// With [`Policy::Lru`].
    pub uses: Uses,
    /// Names this instance in the rows it commits.
    pub writer: u64,
    pub journaling: Option<Journaling>,
}
