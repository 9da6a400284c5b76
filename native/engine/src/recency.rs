//! Recency: users in the order in which they were last used, for an exact LRU.
//!
//! Uses are numbered across all shards. Each shard has its users by the number of their last use,
//! and says outside its lock which is the lowest, so that who was used longest ago of all is found
//! with a look at one number a shard.
//!
//! A user who cannot be evicted because something of him is uncommitted is taken out when it is his
//! turn, and comes back with his number when he is clean.

use std::collections::BTreeMap;

use read_states_sync::atomic::{AtomicU64, Ordering::Relaxed};
use read_states_sync::fail_point;

use crate::id::Id;
use crate::user::Owner;

/// Number of a use.
type Use = u64;

/// Of a shard without users in order.
const NONE: Use = Use::MAX;

/// About what an entry takes in the nodes of the tree.
const ENTRY: usize = 32;

/// What the shards share.
#[derive(Debug)]
pub(crate) struct Uses {
    next: AtomicU64,
    /// The lowest number of each shard.
    oldest: Box<[AtomicU64]>,
}

impl Uses {
    pub fn new(shards: usize) -> Self {
        Uses {
            next: AtomicU64::new(0),
            oldest: (0..shards).map(|_| AtomicU64::new(NONE)).collect(),
        }
    }

    /// The shard of who was used longest ago.
    pub fn oldest_shard(&self) -> Option<usize> {
        let numbers = self.oldest.iter().map(|number| number.load(Relaxed));
        let (oldest, shard) = numbers.zip(0..).min()?;
        (oldest != NONE).then_some(shard)
    }
}

/// The users of a shard.
#[derive(Debug)]
pub(crate) struct Recency {
    shard: usize,
    users: BTreeMap<Use, Id>,
}

impl Recency {
    /// Of this shard.
    pub fn new(shard: usize) -> Self {
        Recency {
            shard,
            users: BTreeMap::new(),
        }
    }

    /// The user is used.
    pub fn used(&mut self, uses: &Uses, owner: &mut Owner) {
        fail_point!();
        self.remove(uses, owner);
        let number = uses.next.fetch_add(1, Relaxed);
        owner.last_use = number as u32;
        self.users.insert(number, owner.id);
        self.publish(uses);
    }

    /// The user comes back with the number of his last use.
    pub fn put_back(&mut self, uses: &Uses, owner: &Owner) {
        self.users.insert(last_use(uses, owner), owner.id);
        self.publish(uses);
    }

    /// Takes the user out.
    fn remove(&mut self, uses: &Uses, owner: &Owner) {
        let number = last_use(uses, owner);
        if self.users.get(&number) == Some(&owner.id) {
            self.users.remove(&number);
            self.publish(uses);
        }
    }

    /// Who was used longest ago, with the lower half of the number of that use: not his last one
    /// if more uses were made since than that can tell.
    pub fn oldest(&self) -> Option<(u32, Id)> {
        let (number, user) = self.users.first_key_value()?;
        Some((*number as u32, *user))
    }

    /// Takes out who was used longest ago.
    pub fn skip_oldest(&mut self, uses: &Uses) {
        self.users.pop_first();
        self.publish(uses);
    }

    pub fn bytes(&self) -> usize {
        self.users.len() * ENTRY
    }

    fn publish(&self, uses: &Uses) {
        let oldest = self.users.first_key_value();
        let number = oldest.map_or(NONE, |(number, _user)| *number);
        uses.oldest[self.shard].store(number, Relaxed);
    }
}

/// The whole number of a user's last use, of which he has the lower half: the highest one so far.
fn last_use(uses: &Uses, owner: &Owner) -> Use {
    let next = uses.next.load(Relaxed);
    let ago = (next as u32).wrapping_sub(owner.last_use);
    next.wrapping_sub(Use::from(ago))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: Id) -> Owner {
        Owner {
            id,
            ..Owner::default()
        }
    }

    #[test]
    fn the_oldest_of_all_shards_is_found() {
        let uses = Uses::new(2);
        let mut shards = [Recency::new(0), Recency::new(1)];
        assert_eq!(uses.oldest_shard(), None);
        let (mut first, mut second) = (owner(7), owner(8));
        shards[1].used(&uses, &mut first);
        shards[0].used(&uses, &mut second);
        assert_eq!(uses.oldest_shard(), Some(1));
        shards[1].used(&uses, &mut first);
        assert_eq!(uses.oldest_shard(), Some(0));
        assert_eq!(shards[1].oldest(), Some((2, 7)));

        shards[0].skip_oldest(&uses);
        assert_eq!(uses.oldest_shard(), Some(1));
        shards[0].put_back(&uses, &second);
        assert_eq!(uses.oldest_shard(), Some(0));
        shards[0].remove(&uses, &second);
        shards[1].remove(&uses, &first);
        assert_eq!(uses.oldest_shard(), None);
    }

    #[test]
    fn what_is_left_of_a_use_too_long_ago_is_told_from_the_last_one() {
        let uses = Uses::new(1);
        let mut recency = Recency::new(0);
        let mut user = owner(7);
        recency.used(&uses, &mut user);
        uses.next.store((1 << 32) + 5, Relaxed);
        recency.used(&uses, &mut user);
        assert_eq!((recency.oldest(), user.last_use), (Some((0, 7)), 5));
        recency.skip_oldest(&uses);
        assert_eq!(recency.oldest(), Some((5, 7)));
    }
}
