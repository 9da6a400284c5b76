//! Eviction: which user leaves when there is no room, and freeing what he had.
//!
//! The policy is CLOCK over users, with counts. A hand goes round the shards, and in each shard round
//! its table; each time it passes a user it takes one of his uses, and who has none left goes. A hit
//! adds one, up to [`MOST_USES`], and writes nothing else. So who is used often outlives those who
//! are read once, for example by a job that goes through all users, which an LRU keeps longest. Who
//! has many more read states than others pays more uses, for in his room others would be found more often:
//! he has to be used up to three times as often. A
//! user who is dirty is committed first, and one who is waited for stays.
//!
//! [`Policy::Lru`] evicts who was used longest ago, of all shards, exactly. For that every use moves the
//! user in [`crate::recency`], which takes longer, and about 32 bytes a user.

use serde::Deserialize;

use crate::engine::Engine;
use crate::garbage::Garbage;
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

/// Uses that the hand takes of a user who counts `cost` where users count `mean`: one more each time
/// that he is twice as large, from 1.4 times the mean on.
fn price(cost: usize, mean: usize) -> u8 {
    let doubled = (10 * cost / (7 * mean.max(1))).checked_ilog2();
    (1 + doubled.unwrap_or(0)).min(MOST_USES.into()) as u8
}

/// Places of the table looked at in one hold of a shard's lock.
const PLACES_AT_ONCE: usize = 64;

/// How often the hand goes round until who has most uses, and is not used again, has none left.
const ROUNDS: usize = MOST_USES as usize + 1;

/// Visits in a row that found nobody who could go or come nearer to it, after which it is given up for now: nearly
/// everybody is dirty, and to look at all of them, again and again, would find as few.
const IN_VAIN: usize = 1_024;

/// What came of a visit to a shard.
enum Visit<'a> {
    /// Somebody has left.
    Evicted(Garbage<'a>),
    /// Somebody has a use less, and could go if he had none.
    Nearer,
    /// Neither.
    InVain,
}

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

impl Engine {
    /// Evicts until the bounds are kept, or until nobody seems to be left who can go now: every user has been looked at so
    /// often in a row that none has uses left, or very many who all have to stay.
    pub fn evict(&self, now: Now) {
        if !self.is_over() {
            return;
        }
        let (patience, in_vain) = match self.shared().policy {
            Policy::Clock => {
                let places = self.shards().map(|shard| shard.residents.places()).max();
                let visits_a_shard = places.unwrap_or(0).div_ceil(PLACES_AT_ONCE);
                (ROUNDS * visits_a_shard * self.shard_count(), IN_VAIN)
            }
            // Each visit passes another user.
            Policy::Lru => (PASSED, PASSED),
        };
        let mut left = (patience, in_vain);
        while left.0 > 0 && left.1 > 0 && self.is_over() {
            left = match self.visit(now) {
                Visit::Evicted(_garbage) => (patience, in_vain),
                Visit::Nearer => (left.0 - 1, in_vain),
                Visit::InVain => (left.0 - 1, left.1 - 1),
            };
        }
    }

    /// Evicts a little, so that an insertion makes its own room. Says whether the bounds are kept.
    pub(crate) fn evict_on_the_way(&self, budget: &mut Budget, now: Now) -> bool {
        while self.is_over() {
            if budget.visits == 0 {
                return false;
            }
            budget.visits -= 1;
            if let Visit::Evicted(garbage) = self.visit(now) {
                self.bury(garbage, budget);
            }
        }
        true
    }

    fn visit(&self, now: Now) -> Visit<'_> {
        let shared = self.shared();
        match shared.policy {
            Policy::Clock => {
                let mut shard = self.shard_at(self.next_to_evict_from());
                shard.evict_one(shared, now)
            }
            Policy::Lru => match shared.uses.oldest_shard() {
                Some(oldest) => self.shard_at(oldest).evict_oldest(shared, now),
                None => Visit::InVain,
            },
        }
    }

    /// Frees what is garbage, later if the budget does not allow it now.
    pub(crate) fn bury(&self, garbage: Garbage, budget: &mut Budget) {
        if garbage.len() <= budget.states {
            budget.states -= garbage.len();
        } else {
            self.graveyard().extend(garbage.into_set());
            self.call_attention();
        }
    }

    /// Frees what was left to be freed.
    pub fn reclaim(&self) {
        loop {
            let next = self.graveyard().pop();
            let Some(set) = next else { return };
            drop(Garbage::counted(self.shared(), set));
        }
    }
}

impl Shard {
    /// Moves the hand on until a user is evicted, or has passed many places. Only where it passed
    /// nobody who is clean are those committed early who would have gone.
    fn evict_one<'a>(&mut self, shared: &'a Shared, now: Now) -> Visit<'a> {
        if !self.has_nobody_clean() {
            self.passed_in_vain = 0;
        } else if self.passed_in_vain >= ROUNDS * self.residents.places() {
            // All who would go are being committed.
            return Visit::InVain;
        }
        self.count_memory(shared);
        let places = self.residents.places();
        let passed = PLACES_AT_ONCE.min(places);
        let start = self.hand;
        let mean = shared.totals.mean_cost();
        let mut nearer = false;
        for place in (start..start + passed).map(|place| place % places) {
            self.hand = place + 1;
            let Some(owner) = self.residents.place(place) else {
                continue;
            };
            if owner.is_pinned(now) {
                continue;
            }
            let price = price(owner.cost(), mean);
            let owner: &mut Owner = owner;
            let left = owner.uses.checked_sub(price);
            owner.uses = left.unwrap_or(0);
            if owner.unsettled.is_some() {
                continue;
            }
            if left.is_some() {
                nearer = true;
                continue;
            }
            let Some(resident) = self.residents.take_at(place) else {
                continue;
            };
            // Another may have moved up to the place.
            self.hand = place;
            return Visit::Evicted(self.evicted(shared, resident));
        }
        for place in (start..start + passed).map(|place| place % places) {
            if let Some(owner) = self.residents.place(place)
                && owner.uses == 0
                && !owner.is_pinned(now)
            {
                let owner: &mut Owner = owner;
                if let Some(unsettled) = &mut owner.unsettled {
                    self.ledger.due.reserve();
                    self.ledger.hurry(owner.id, unsettled);
                }
            }
        }
        if nearer {
            return Visit::Nearer;
        }
        self.passed_in_vain += passed;
        Visit::InVain
    }

    /// Evicts who was used longest ago, or sees to it that another one is next.
    fn evict_oldest<'a>(&mut self, shared: &'a Shared, now: Now) -> Visit<'a> {
        self.count_memory(shared);
        let Some((number, user)) = self.ledger.recency.oldest() else {
            return Visit::InVain;
        };
        let hash = shared.hasher.hash_one(user);
        let resident = find_resident(&mut self.residents, hash, user);
        let Some(resident) = resident.filter(|resident| resident.last_use == number) else {
            self.ledger.recency.skip_oldest(&shared.uses);
            return Visit::InVain;
        };
        if resident.is_pinned(now) {
            // Who waits for him is about to use him.
            self.ledger.used(shared, resident);
            return Visit::InVain;
        }
        self.ledger.due.reserve();
        self.ledger.recency.skip_oldest(&shared.uses);
        if let Some(unsettled) = &mut resident.unsettled {
            self.ledger.hurry(user, unsettled);
            return Visit::InVain;
        }
        match self.residents.take(hash, |resident| resident.id == user) {
            Some(resident) => Visit::Evicted(self.evicted(shared, resident)),
            None => Visit::InVain,
        }
    }

    /// Whether all who are resident have something uncommitted.
    fn has_nobody_clean(&self) -> bool {
        let counts = self.ledger.counts;
        counts.users == counts.uncommitted_users - counts.uncommitted_absents
    }

    /// Books a user out. What he had is garbage until it is freed.
    fn evicted<'a>(&mut self, shared: &'a Shared, resident: Resident) -> Garbage<'a> {
        let counts = &mut self.ledger.counts;
        counts.users -= 1;
        counts.states -= resident.len();
        adjust(&shared.totals.residents, 1, 0);
        adjust(&shared.totals.cost, resident.cost(), 0);
        adjust(&shared.totals.memory, resident.bytes(), 0);
        shared.totals.sizes.moved(resident.bytes(), 0);
        shared.totals.evicted(resident.len());
        Garbage::new(shared, resident)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::batch::{BatchBuilder, Entry, Row};
    use crate::engine::{Config, Resize};
    use crate::id::{Channel, Id};
    use crate::operation::{Change, Operation};
    use crate::read::Found;
    use crate::read_state::ReadState;

    const CHANNEL: Channel = Channel { kind: 0, id: 1 };

    fn is_resident(engine: &Arc<Engine>, user: Id) -> bool {
        engine.get(user, CHANNEL).expect("no bound on the queue") != Found::Absent
    }

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
    fn who_is_dirty_is_not_looked_at_again_and_again_until_something_is_committed() {
        const CAPACITY: usize = 100;
        const USERS: Id = 2_000;
        let config = Config {
            capacity: CAPACITY,
            shards: 1,
            ..Config::default()
        };
        let engine = Arc::new(Engine::new(config));
        let change = Change::Ack { message: 1 };
        let ack = Operation::Change {
            channel: CHANNEL,
            change,
        };
        let now = Now::default();
        for user in 0..USERS {
            // So that each is dirty from the first moment on.
            engine.apply(user, &ack, now).unwrap();
            read(&engine, user);
        }
        let hand = || engine.shard_at(0).hand;
        (0..200).for_each(|_| engine.evict(now));
        assert_eq!(engine.stats().users, USERS as usize);
        let before = hand();
        engine.evict(now);
        read(&engine, 0);
        assert_eq!(hand(), before, "it looks at nobody");

        // Whom it has hurried, and nobody else is due.
        let commit = engine.begin_commit(0, 500, now).expect("they are hurried");
        let committed = commit.users();
        assert!(committed >= 500);
        commit.succeed(now);
        assert_eq!(engine.stats().users, USERS as usize - committed);
        while let Some(commit) = engine.begin_commit(0, 500, now) {
            commit.succeed(now);
        }
        assert_eq!(engine.stats().users, CAPACITY);
    }

    #[test]
    fn how_large_somebody_was_is_forgotten_when_he_leaves_or_loses_it() {
        let engine = Arc::new(Engine::new(Config::default()));
        let now = Now::default();
        let most = || engine.shared().totals.sizes.most_of(1);
        let change = |id, change| Operation::Change {
            channel: Channel { kind: 0, id },
            change,
        };
        let nobody = most();
        for leaves in [true, false] {
            read(&engine, 1);
            for id in 0..1_000 {
                let ack = change(id, Change::Ack { message: 1 });
                engine.apply(1, &ack, now).unwrap();
            }
            assert!(most() > 16_000);
            if leaves {
                engine.flush(0);
                engine.begin_commit(0, 10_000, now).unwrap().succeed(now);
                let none = Resize {
                    capacity: Some(0),
                    ..Resize::default()
                };
                engine.resize(none, now);
                assert_eq!(engine.stats().users, 0);
            } else {
                engine.apply(1, &Operation::DeleteUser, now).unwrap();
            }
            assert_eq!(most(), nobody);
        }
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

    #[test]
    fn who_takes_the_room_of_many_leaves_before_them() {
        let config = Config {
            capacity: 1_000,
            ..Config::default()
        };
        let engine = Arc::new(Engine::new(config));
        const LARGE: Id = 1_000_000;
        let mut page = BatchBuilder::new(1);
        for id in 0..100 {
            page.push(&Entry::Row(Row {
                user: LARGE,
                channel: Channel { kind: 0, id },
                version: 1,
                writer: 0,
                state: ReadState::default(),
            }));
        }
        engine.want(LARGE).unwrap();
        let mut load = engine.begin_load(0, 1).load.unwrap();
        load.add(&page.finish()).unwrap();
        assert_eq!(load.finish(Now::default()).states, 100);
        (0..500).for_each(|user| assert!(!read(&engine, user)));
        // All are used twice: who is wanted and not waited for is taken to be used once.
        (0..500).for_each(|user| assert!(read(&engine, user)));
        assert!(read(&engine, LARGE));
        for user in 1_000..1_500 {
            read(&engine, user);
        }
        let stayed = (0..500).filter(|user| is_resident(&engine, *user)).count();
        assert!(!is_resident(&engine, LARGE));
        assert_eq!(stayed, 500);
    }

    #[test]
    fn the_price_of_a_user_grows_with_his_room() {
        let prices =
            [0, 50, 69, 70, 139, 140, 279, 280, usize::MAX / 10].map(|cost| price(cost, 50));
        assert_eq!(prices, [1, 1, 1, 2, 2, 3, 3, 3, 3]);
        assert_eq!(price(1, 0), 1);
    }
}
