//! Eviction: which user leaves when there is no room, and freeing what he had.
//!
//! The policy is CLOCK over users, with counts. A hand goes round the shards, and in each shard round
//! its table; each time it passes a user it takes one of his uses, and who has none left goes. A hit
//! adds one, up to [`MOST_USES`], and writes nothing else. So who is used often outlives those who
//! are read once, for example by a job that goes through all users, which an LRU keeps longest. A
//! user who is dirty is committed first, and one who is waited for stays.
//!
//! [`Policy::Lru`] evicts who was used longest ago, of all shards, exactly. For that every use moves the
//! user in [`crate::recency`], which takes longer, and about 32 bytes a user.

use read_states_sync::pin;
use serde::Deserialize;

use crate::engine::Engine;
use crate::now::Now;
use crate::shard::{Shard, find_resident};
use crate::shared::Shared;
use crate::totals::adjust;
use crate::user::{Owner, Resident};

/// Who is evicted first; see the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Who is not used often.
    #[default]
    Clock,
    /// Who was used longest ago.
    Lru,
}

/// Users in a row who cannot be evicted, after whom an LRU gives up for now.
const PASSED: usize = 1_024;

/// Uses of a user that count. More keep those longer who were used often, but are no longer.
pub(crate) const MOST_USES: u8 = 3;

/// Places of the table looked at in one hold of a shard's lock.
const PLACES_AT_ONCE: usize = 64;

/// What a call may do on the way for the room it takes: the rest is left to who attends.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Visits to a shard to evict somebody. An insertion needs one, on average.
    visits: usize,
    /// Read states to free, each of which gives a channel reference back.
    states: usize,
}

impl Budget {
    /// For one operation, or for a batch: some tens of microseconds.
    pub const CALL: Budget = Budget {
        visits: 16,
        states: 1_024,
    };
}

/// Channel references given back under one pin of the epoch.
const RELEASED_AT_ONCE: usize = 256;

impl Engine {
    /// Evicts until the bounds are kept, or until every user has been looked at so often in a row
    /// that none has uses left, and still had to stay.
    pub fn evict(&self, now: Now) {
        if !self.is_over() {
            return;
        }
        let patience = match self.shared().policy {
            Policy::Clock => {
                let places = self.shards().map(|shard| shard.residents.places()).max();
                let visits_a_shard = places.unwrap_or(0).div_ceil(PLACES_AT_ONCE);
                let rounds = usize::from(MOST_USES) + 1;
                rounds * visits_a_shard * self.shard_count()
            }
            // Each visit passes another user.
            Policy::Lru => PASSED,
        };
        let mut in_vain = 0;
        while in_vain < patience && self.is_over() {
            match self.evict_one(now) {
                Some(set) => {
                    self.free_now(set);
                    in_vain = 0;
                }
                None => in_vain += 1,
            }
        }
    }

    /// Evicts a little, so that an insertion makes its own room. Says whether the bounds are kept.
    pub(crate) fn evict_on_the_way(&self, budget: &mut Budget, now: Now) -> bool {
        while self.is_over() {
            if budget.visits == 0 {
                return false;
            }
            budget.visits -= 1;
            if let Some(set) = self.evict_one(now) {
                self.bury(set, budget);
            }
        }
        true
    }

    fn evict_one(&self, now: Now) -> Option<Resident> {
        let shared = self.shared();
        match shared.policy {
            Policy::Clock => {
                let mut shard = self.shard_at(self.next_to_evict_from());
                shard.evict_one(shared, now)
            }
            Policy::Lru => {
                let mut shard = self.shard_at(shared.uses.oldest_shard()?);
                shard.evict_oldest(shared, now)
            }
        }
    }

    /// Frees a set that is in no table any more, later if the budget does not allow it now.
    pub(crate) fn bury(&self, set: Resident, budget: &mut Budget) {
        if set.len() <= budget.states {
            budget.states -= set.len();
            self.free_now(set);
        } else {
            self.graveyard().push(set);
            self.call_attention();
        }
    }

    /// Frees what was left to be freed.
    pub fn reclaim(&self) {
        loop {
            let next = self.graveyard().pop();
            let Some(set) = next else { return };
            self.free_now(set);
        }
    }

    /// Frees a set that is in no table any more, and counted as garbage.
    pub(crate) fn free_now(&self, set: Resident) {
        let directory = &self.shared().directory;
        let mut numbers = set.numbers().peekable();
        while numbers.peek().is_some() {
            let guard = pin();
            for number in numbers.by_ref().take(RELEASED_AT_ONCE) {
                directory.release(number, &guard);
            }
        }
        drop(numbers);
        adjust(&self.shared().totals.garbage, set.bytes(), 0);
    }
}

impl Shard {
    /// Moves the hand on until a user is evicted, or has passed many places. Only where it passed
    /// nobody who is clean are those committed early who would have gone.
    fn evict_one(&mut self, shared: &Shared, now: Now) -> Option<Resident> {
        let places = self.residents.places();
        let passed = PLACES_AT_ONCE.min(places);
        let start = self.hand;
        for place in (start..start + passed).map(|place| place % places) {
            self.hand = place + 1;
            let Some(owner) = self.residents.place(place) else {
                continue;
            };
            let owner: &mut Owner = owner;
            if owner.is_pinned(now) {
                continue;
            }
            if owner.uses > 0 {
                owner.uses -= 1;
                continue;
            }
            if owner.unsettled.is_some() {
                continue;
            }
            let resident = self.residents.take_at(place)?;
            // Another may have moved up to the place.
            self.hand = place;
            self.evicted(shared, &resident);
            return Some(resident);
        }
        for place in (start..start + passed).map(|place| place % places) {
            if let Some(owner) = self.residents.place(place)
                && owner.uses == 0
                && !owner.is_pinned(now)
            {
                let owner: &mut Owner = owner;
                if let Some(unsettled) = &mut owner.unsettled {
                    self.ledger.hurry(owner.id, unsettled);
                }
            }
        }
        None
    }

    /// Evicts who was used longest ago, or sees to it that another one is next.
    fn evict_oldest(&mut self, shared: &Shared, now: Now) -> Option<Resident> {
        let (number, user) = self.ledger.recency.oldest()?;
        let hash = shared.hasher.hash_one(user);
        let resident = find_resident(&mut self.residents, hash, user);
        let Some(resident) = resident.filter(|resident| resident.last_use == number) else {
            self.ledger.recency.skip_oldest(&shared.uses);
            return None;
        };
        if resident.is_pinned(now) {
            // Who waits for him is about to use him.
            self.ledger.used(shared, resident);
            return None;
        }
        self.ledger.recency.skip_oldest(&shared.uses);
        if let Some(unsettled) = &mut resident.unsettled {
            self.ledger.hurry(user, unsettled);
            return None;
        }
        let resident = self.residents.take(hash, |resident| resident.id == user)?;
        self.evicted(shared, &resident);
        Some(resident)
    }

    /// Books a user out. What he had is garbage until it is freed.
    fn evicted(&mut self, shared: &Shared, resident: &Resident) {
        let counts = &mut self.ledger.counts;
        counts.users -= 1;
        counts.states -= resident.len();
        adjust(&shared.totals.cost, resident.cost(), 0);
        adjust(&shared.totals.memory, resident.bytes(), 0);
        adjust(&shared.totals.garbage, 0, resident.bytes());
        shared.totals.evicted(resident.len());
        self.count_memory(shared);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::Config;
    use crate::id::{Channel, Id};
    use crate::operation::{Change, Operation};
    use crate::read::Found;

    const CHANNEL: Channel = Channel { kind: 0, id: 1 };

    /// Reads, and loads whom that needs; says whether the user was resident.
    fn read(engine: &Arc<Engine>, user: Id) -> bool {
        let read = || engine.get(user, CHANNEL).expect("no bound on the queue");
        if read() != Found::Absent {
            return true;
        }
        let load = engine.begin_load(0, 1).load.expect("he is wanted");
        load.finish(Now::default());
        assert_ne!(read(), Found::Absent, "he stays for who waited");
        false
    }

    #[test]
    fn an_lru_keeps_exactly_those_who_were_used_last() {
        const CAPACITY: usize = 50;
        let config = Config {
            capacity: CAPACITY,
            policy: Policy::Lru,
            shards: 16,
            ..Config::default()
        };
        let engine = Arc::new(Engine::new(config));
        let mut model: Vec<Id> = vec![];
        let mut random = 1u64;
        for _ in 0..20_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // Some often, and some rarely.
            let user = (random >> 40) % if random >> 63 == 0 { 40 } else { 200 };
            let known = model.iter().position(|known| *known == user);
            assert_eq!(read(&engine, user), known.is_some());
            if let Some(at) = known {
                model.remove(at);
            } else if model.len() == CAPACITY {
                model.remove(0);
            }
            model.push(user);
        }
        assert_eq!(engine.stats().users, CAPACITY);
    }

    #[test]
    fn an_lru_evicts_others_while_the_oldest_cannot_be_committed() {
        const CAPACITY: usize = 100;
        let config = Config {
            capacity: CAPACITY,
            policy: Policy::Lru,
            shards: 1,
            ..Config::default()
        };
        let engine = Arc::new(Engine::new(config));
        let change = Change::Ack { message: 1 };
        let ack = Operation::Change {
            channel: CHANNEL,
            change,
        };
        for user in 0..70 {
            read(&engine, user);
            engine.apply(user, &ack, Now::default()).unwrap();
        }
        for user in 1_000..11_000 {
            read(&engine, user);
            assert!(engine.stats().users <= CAPACITY);
        }
        let dirty = (0..70).filter(|user| read(&engine, *user)).count();
        assert_eq!(dirty, 70);
        // Once they are committed, they are the oldest but for the last use just now.
        engine.flush(0);
        engine
            .begin_commit(0, 1_000, Now::default())
            .unwrap()
            .succeed(Now::default());
        for user in 20_000..20_000 + CAPACITY as Id {
            read(&engine, user);
        }
        let left = engine.stats();
        assert_eq!((left.users, left.dirty_users), (CAPACITY, 0));
        assert!(!read(&engine, 0));
    }

    #[test]
    fn who_is_used_often_outlives_who_is_read_once() {
        let config = Config {
            capacity: 1_000,
            shards: 16,
            ..Config::default()
        };
        let engine = Arc::new(Engine::new(config));
        for _ in 0..5 {
            for user in 0..300 {
                read(&engine, user);
            }
        }
        // As many that an LRU would have nobody left of those.
        for user in 1_000..2_000 {
            assert!(!read(&engine, user));
        }
        let stayed = (0..300).filter(|user| read(&engine, *user)).count();
        assert!(stayed > 250, "{stayed} of 300");
        assert!(engine.stats().users <= 1_000);
    }
}
