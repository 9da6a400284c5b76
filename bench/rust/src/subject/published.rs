//! The design that a large chat service published for its service of read states in Rust: a map
//! from each user to an ordered map of channels, inside an LRU of users.
//!
//! It does less than the engine: nothing here knows what is not committed yet.

use std::collections::BTreeMap;

use ahash::RandomState;
use lru::LruCache;

use super::{ByUser, ReadState, Subject, Write};
use crate::sharded::{SHARDS, Sharded};

type Channels = BTreeMap<u64, ReadState>;

/// See the module.
pub struct Published(Sharded<LruCache<u64, Channels, RandomState>>);

impl Subject for Published {
    const NAME: &str = "published design";

    type Batch = Vec<Write>;

    fn new(states: u64) -> Self {
        // In users, of whom there are fewer.
        Published(Sharded::lru(2 * states as usize / SHARDS + 64))
    }

    #[inline]
    fn write(&self, write: &Write) {
        let mut users = self.0.lock(write.user);
        let channels = users.get_or_insert_mut(write.user, Channels::new);
        write.apply(channels.entry(write.channel).or_default());
    }

    fn batch(writes: Vec<Write>) -> Self::Batch {
        writes
    }

    fn write_all(&self, batch: &Self::Batch) {
        batch.iter().for_each(|write| self.write(write));
    }

    #[inline]
    fn get(&self, user: u64, channel: u64) -> ReadState {
        let mut users = self.0.lock(user);
        let state = users.get(&user).and_then(|channels| channels.get(&channel));
        state.copied().unwrap_or_default()
    }
}

impl ByUser for Published {
    type List = Vec<(u64, ReadState)>;

    #[inline]
    fn list(&self, user: u64) -> Self::List {
        let mut users = self.0.lock(user);
        let channels = users.get(&user).into_iter().flatten();
        channels
            .map(|(channel, state)| (*channel, *state))
            .collect()
    }

    #[inline]
    fn total(&self, user: u64) -> u64 {
        let mut users = self.0.lock(user);
        let states = users.get(&user).into_iter().flat_map(Channels::values);
        states.map(|state| u64::from(state.mention_count)).sum()
    }
}
