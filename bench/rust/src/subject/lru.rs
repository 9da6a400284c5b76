//! The `lru` crate, with the user and the channel as its key.

use ahash::RandomState;
use lru::LruCache;

use super::{ReadState, Subject, Write};
use crate::sharded::{SHARDS, Sharded};

/// See the module.
pub struct Lru(Sharded<LruCache<(u64, u64), ReadState, RandomState>>);

impl Subject for Lru {
    const NAME: &str = "lru";

    type Batch = Vec<Write>;

    fn new(states: u64) -> Self {
        // All of a user are in one shard, so that shards differ.
        Lru(Sharded::lru(2 * states as usize / SHARDS + 4_096))
    }

    #[inline]
    fn write(&self, write: &Write) {
        let mut states = self.0.lock(write.user);
        write.apply(states.get_or_insert_mut((write.user, write.channel), ReadState::default));
    }

    fn batch(writes: Vec<Write>) -> Self::Batch {
        writes
    }

    fn write_all(&self, batch: &Self::Batch) {
        batch.iter().for_each(|write| self.write(write));
    }

    #[inline]
    fn get(&self, user: u64, channel: u64) -> ReadState {
        let mut states = self.0.lock(user);
        states.get(&(user, channel)).copied().unwrap_or_default()
    }
}
