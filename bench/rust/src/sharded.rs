//! What is not safe for threads by itself, cut into parts with a lock each.

use ahash::RandomState;
use parking_lot::{Mutex, MutexGuard};

/// As many as the engine has.
pub const SHARDS: usize = 256;

/// Parts, and which part a key is in.
pub struct Sharded<T> {
    shards: Box<[Mutex<T>]>,
    hasher: RandomState,
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
