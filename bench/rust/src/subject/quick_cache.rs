//! The `quick_cache` crate, with the user and the channel as its key.

use ahash::RandomState;
use quick_cache::sync::{Cache, DefaultLifecycle, EntryAction, EntryResult};
use quick_cache::{OptionsBuilder, UnitWeighter};

use super::{ReadState, Subject, Write};
use crate::sharded::SHARDS;

/// See the module.
pub struct QuickCache(Cache<(u64, u64), ReadState, UnitWeighter, RandomState>);

impl Subject for QuickCache {
    const NAME: &str = "quick_cache";

    type Batch = Vec<Write>;

    fn new(states: u64) -> Self {
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(states as usize)
            // Shards differ, and each has a bound of its own.
            .weight_capacity(2 * states + 64 * SHARDS as u64)
            .build()
            .expect("the options that have to be given");
        let lifecycle = DefaultLifecycle::default();
        QuickCache(Cache::with_options(
            options,
            UnitWeighter,
            RandomState::new(),
            lifecycle,
        ))
    }

    #[inline]
    fn write(&self, write: &Write) {
        let entry = self
            .0
            .entry(&(write.user, write.channel), None, |_, state| {
                write.apply(state);
                EntryAction::Retain(())
            });
        if let EntryResult::Vacant(guard) = entry {
            let mut state = ReadState::default();
            write.apply(&mut state);
            // It fails if the entry was removed meanwhile, which nobody does.
            let _ = guard.insert(state);
        }
    }

    fn batch(writes: Vec<Write>) -> Self::Batch {
        writes
    }

    fn write_all(&self, batch: &Self::Batch) {
        batch.iter().for_each(|write| self.write(write));
    }

    #[inline]
    fn get(&self, user: u64, channel: u64) -> ReadState {
        self.0.get(&(user, channel)).unwrap_or_default()
    }
}
