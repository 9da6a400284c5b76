//! Recency: a shard's users in the order in which they were last used, for an exact LRU.
//!
//! Uses are numbered across all shards. A user is not searched for when he is used again: his entry
//! becomes stale, which the number of his last use tells, and is passed over.

use std::collections::VecDeque;

use crate::id::Id;

/// Number of a use.
pub(crate) type Use = u64;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Recency {
    /// Oldest first.
    uses: VecDeque<(Use, Id)>,
}

impl Recency {
    pub fn push(&mut self, number: Use, user: Id) {
        self.uses.push_back((number, user));
    }

    /// Drops what is stale at the front.
    pub fn skip(&mut self, mut is_live: impl FnMut(Use, Id) -> bool) {
        while let Some((number, user)) = self.uses.front()
            && !is_live(*number, *user)
        {
            self.uses.pop_front();
        }
    }

    /// From the oldest on, stale ones among them.
    pub fn iter(&self) -> impl Iterator<Item = (Use, Id)> {
        self.uses.iter().copied()
    }

    /// Drops what is stale if that is the most.
    pub fn compact(&mut self, users: usize, mut is_live: impl FnMut(Use, Id) -> bool) {
        if self.uses.len() > 2 * users + 64 {
            self.uses.retain(|(number, user)| is_live(*number, *user));
            self.uses.shrink_to(2 * self.uses.len());
        }
    }

    pub fn bytes(&self) -> usize {
        self.uses.capacity() * size_of::<(Use, Id)>()
    }
}
