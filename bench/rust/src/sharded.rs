//! What is not safe for threads by itself, cut into parts with a lock each.

use std::hash::Hash;
use std::num::NonZeroUsize;

use ahash::RandomState;
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};

/// As many as the engine has.
pub const SHARDS: usize = 256;

/// Parts, and which part a key is in.
pub struct Sharded<T> {
    shards: Box<[Mutex<T>]>,
    hasher: RandomState,
}

impl<K: Hash + Eq, V> Sharded<LruCache<K, V, RandomState>> {
    /// LRUs with so much room in each, which is not allocated ahead.
    pub fn lru(room: usize) -> Self {
        let room = NonZeroUsize::new(room).expect("room for one at least");
        Sharded::new(|| {
            let mut cache = LruCache::unbounded_with_hasher(RandomState::new());
            cache.resize(room);
            cache
        })
    }
}

impl<T> Sharded<T> {
    /// Parts made one by one.
    pub fn new(mut make: impl FnMut() -> T) -> Self {
        Sharded {
            shards: (0..SHARDS).map(|_| Mutex::new(make())).collect(),
            hasher: RandomState::new(),
        }
    }

    /// The part of a key, locked.
    #[inline]
    pub fn lock(&self, key: u64) -> MutexGuard<'_, T> {
        self.shards[self.hasher.hash_one(key) as usize % SHARDS].lock()
    }
}
