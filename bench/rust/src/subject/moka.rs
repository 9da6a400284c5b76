//! The `moka` crate, with the user and the channel as its key.
//!
//! Its values are cloned out and cannot be changed in place, so a value is one that is shared and
//! has a lock: putting a changed clone back costs more.

use std::sync::Arc;

use ahash::RandomState;
use moka::policy::EvictionPolicy;
use moka::sync::{Cache, CacheBuilder};
use parking_lot::Mutex;

use super::{ReadState, Subject, Write};

/// See the module.
pub struct Moka(Cache<(u64, u64), Arc<Mutex<ReadState>>, RandomState>);

impl Subject for Moka {
    const NAME: &str = "moka";

    type Batch = Vec<Write>;

    fn new(states: u64) -> Self {
        // The LRU policy takes no sketch of frequencies, so less memory and time than the default.
        let builder = CacheBuilder::new(2 * states).eviction_policy(EvictionPolicy::lru());
        Moka(builder.build_with_hasher(RandomState::new()))
    }

    #[inline]
    fn write(&self, write: &Write) {
        let key = (write.user, write.channel);
        let state = match self.0.get(&key) {
            Some(state) => state,
            None => self.0.get_with(key, Arc::default),
        };
        write.apply(&mut state.lock());
    }

    fn batch(writes: Vec<Write>) -> Self::Batch {
        writes
    }

    fn write_all(&self, batch: &Self::Batch) {
        batch.iter().for_each(|write| self.write(write));
    }

    #[inline]
    fn get(&self, user: u64, channel: u64) -> ReadState {
        let state = self.0.get(&(user, channel));
        state.map_or_else(ReadState::default, |state| *state.lock())
    }

    fn settle(&self) {
        self.0.run_pending_tasks();
    }
}
