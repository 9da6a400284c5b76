//! Reading: one read state, a list, a sum.

use crossbeam_epoch::Guard;
use read_states_sync::atomic::Ordering::Relaxed;
use read_states_sync::pin;

use crate::block::MAX_BLOCK;
use crate::directory::{Directory, Sought};
use crate::engine::Engine;
use crate::id::{Channel, Id};
use crate::load_queue::Wanted;
use crate::now::Now;
use crate::read_state::ReadState;
use crate::shard::{Shard, find_resident, find_resident_at};
use crate::shared::Shared;
use crate::user::Resident;

/// A list of a user with more read states is long.
const LONG: usize = 2_048;

/// Read states copied in one hold of the lock, and up to a block more.
const PAGE: usize = MAX_BLOCK;

/// The sum over more read states takes long, and so many are added up in one hold of the lock: a quarter of a millisecond where
/// they are in no cache.
const LONG_SUM: usize = 100_000;

/// What a read finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// The answer.
    Resident(T),
    /// The user has to be loaded first; he is queued for it, and will stay until read.
    Absent,
    /// The answer takes long; ask again with `long`, where that does no harm.
    Long,
}

/// Too many users are waiting to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadQueueFull;

/// Which read states of a user to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    /// Only those after this channel.
    pub after: Option<Channel>,
    /// At most so many.
    pub limit: Option<usize>,
    /// Only those whose counter of this index is above 0.
    pub nonzero: Option<usize>,
}

impl Engine {
    /// One read state; one that was never written is all zero.
    pub fn get(&self, user: Id, channel: Channel) -> Result<Found<ReadState>, LoadQueueFull> {
        let directory = &self.shared().directory;
        let guard = pin();
        let sought = directory.seek(channel);
        directory.prefetch(sought, &guard);
        self.read(user, Some(sought), |resident| {
            let number = directory.find(sought, &guard);
            let place = number.and_then(|number| resident.find(number));
            Found::Resident(place.map_or_else(ReadState::default, |place| resident.get(place)))
        })
    }

    /// The sum of one counter over the user's read states.
    pub fn total(&self, user: Id, counter: usize) -> Result<Found<u64>, LoadQueueFull> {
        self.read(user, None, |resident| {
            if resident.len() > LONG_SUM {
                return Found::Long;
            }
            Found::Resident(resident.total(counter, 0, LONG_SUM).0)
        })
    }

    /// The same for very many read states. Not isolated from concurrent writes: each of them is as it was at some
    /// moment of the call.
    pub fn total_long(
        &self,
        user: Id,
        counter: usize,
        now: Now,
    ) -> Result<Found<u64>, LoadQueueFull> {
        let (mut pages, mut sum) = (Pages::default(), 0);
        loop {
            let page = self.read(user, None, |resident| {
                pages.read(resident, now, |resident, from| {
                    let (some, next) = resident.total(counter, from, LONG_SUM);
                    sum += some;
                    next
                })
            })?;
            match page {
                Found::Resident(true) => {}
                Found::Resident(false) => return Ok(Found::Resident(sum)),
                Found::Absent | Found::Long => return Ok(Found::Absent),
            }
        }
    }

    /// Read states in ascending order of their channels. A long list is not isolated from
    /// concurrent writes: each of its read states is as it was at some moment of the call.
    pub fn list(
        &self,
        user: Id,
        query: Query,
        long: bool,
        now: Now,
    ) -> Result<Found<Vec<(Channel, ReadState)>>, LoadQueueFull> {
        let (mut pages, mut listing) = (Pages::default(), Listing::new(self, query));
        loop {
            let page = self.read(user, None, |resident| {
                if resident.len() > LONG && !long {
                    return Found::Long;
                }
                pages.read(resident, now, |resident, from| listing.copy(resident, from))
            })?;
            listing.translate();
            match page {
                Found::Resident(true) => {}
                Found::Resident(false) => return Ok(Found::Resident(listing.finish())),
                Found::Absent => return Ok(Found::Absent),
                Found::Long => return Ok(Found::Long),
            }
        }
    }

    /// Whether the user is resident; if not, queues him for loading. Once loaded he can be evicted
    /// as any other: nobody is taken to be about to read.
    pub fn want(&self, user: Id) -> Result<bool, LoadQueueFull> {
        let hash = self.hash(user);
        let shard = &mut *self.shard(hash);
        if let Some(resident) = find_resident(&mut shard.residents, hash, user) {
            shard.ledger.used(self.shared(), resident);
            return Ok(true);
        }
        shard.queue(self.shared(), hash, user)?;
        Ok(false)
    }

    /// Whether the user is resident; if not, queues him for loading again should that have
    /// failed. Unlike [`Engine::want`], this is for one who was queued before, and never refused.
    pub fn queue_unless_resident(&self, user: Id) -> bool {
        let hash = self.hash(user);
        let mut shard = self.shard(hash);
        if shard.resident(hash, user).is_some() {
            return true;
        }
        if shard.absent(hash, user).is_none() {
            shard.add_absent(self.shared(), hash, user);
        }
        shard.want(self.shared(), hash, user, Wanted::Awaited);
        shard.count_memory(self.shared());
        false
    }

    /// Reads one read state, whose channel is sought, or all.
    fn read<T>(
        &self,
        user: Id,
        sought: Option<Sought>,
        read: impl FnOnce(&mut Resident) -> Found<T>,
    ) -> Result<Found<T>, LoadQueueFull> {
        let hash = self.hash(user);
        let shard = &mut *self.shard(hash);
        let place = shard.prefetch(hash, sought);
        let resident = find_resident_at(&mut shard.residents, place, hash, user);
        if let Some(resident) = resident {
            let pins = resident.pins;
            shard.ledger.used(self.shared(), resident);
            resident.unpin();
            let found = read(resident);
            if matches!(found, Found::Resident(_)) {
                shard.ledger.counts.hits += 1;
            } else {
                // He will be read once more.
                resident.pins = pins;
            }
            return Ok(found);
        }
        shard.ledger.counts.misses += 1;
        shard.wait_for(self.shared(), hash, user)?;
        Ok(Found::Absent)
    }
}

/// A user who is read page by page, with the lock for each, so that those who wait for it come in between.
#[derive(Debug, Default)]
struct Pages {
    /// The number to go on from.
    from: u32,
    /// Of the user, when the first was read.
    arrival: Option<u32>,
}

impl Pages {
    /// Reads the next one: `page` gets the number to begin at, and returns the one to go on from. Says whether there is more.
    fn read(
        &mut self,
        resident: &mut Resident,
        now: Now,
        page: impl FnOnce(&Resident, u32) -> Option<u32>,
    ) -> Found<bool> {
        // If evicted in the middle, after all, what was read is of no use: loaded again, his channels may have other
        // numbers.
        if *self.arrival.get_or_insert(resident.arrival) != resident.arrival {
            return Found::Absent;
        }
        let next = page(resident, self.from);
        if let Some(next) = next {
            self.from = next;
            // Reading takes a pin back, and there is more to read.
            resident.pin(now);
        }
        Found::Resident(next.is_some())
    }
}

/// A list in the making, page by page: copied under the lock of the user's shard, and given its
/// channels without it, so that those who wait for the lock come in between.
struct Listing<'a> {
    directory: &'a Directory,
    query: Query,
    // Pinned before the numbers are copied, so that they keep their meaning until they are
    // translated.
    guard: Guard,
    page: Vec<(u32, ReadState)>,
    states: Vec<(Channel, ReadState)>,
}

impl<'a> Listing<'a> {
    fn new(engine: &'a Engine, query: Query) -> Self {
        Listing {
            directory: &engine.shared().directory,
            query,
            guard: pin(),
            page: Vec::new(),
            states: Vec::new(),
        }
    }

    /// Returns the number to go on from.
    fn copy(&mut self, set: &Resident, from: u32) -> Option<u32> {
        set.page(from, PAGE, &mut self.page)
    }

    fn translate(&mut self) {
        let Query {
            after,
            limit,
            nonzero,
        } = self.query;
        if let Some(counter) = nonzero {
            self.page.retain(|(_, state)| state.counters[counter] > 0);
        }
        // All at once, not one after the other.
        for (number, _) in &self.page {
            self.directory.prefetch_number(*number);
        }
        let page = self.page.drain(..);
        let states = page.map(|(number, state)| (self.directory.channel(number), state));
        match after {
            Some(after) => self
                .states
                .extend(states.filter(|(channel, _)| *channel > after)),
            None => self.states.extend(states),
        }
        if let Some(limit) = limit
            && self.states.len() / 2 > limit.max(MAX_BLOCK)
        {
            self.sort();
        }
        self.guard.repin();
    }

    /// Sorts, and keeps the first `limit` if there is one.
    fn sort(&mut self) {
        // Whole read states would be much to move about: numbers that say where they are.
        let number = |(at, (channel, _)): (usize, &(Channel, ReadState))| {
            u128::from(channel.kind) << 96 | u128::from(channel.id) << 32 | at as u128
        };
        let mut order: Vec<u128> = self.states.iter().enumerate().map(number).collect();
        order.sort_unstable();
        // A channel that was deleted and created meanwhile has another number, and may have been
        // copied under both; the later copy counts.
        order.dedup_by(|later, earlier| {
            let twice = *later >> 32 == *earlier >> 32;
            if twice {
                *earlier = *later;
            }
            twice
        });
        order.truncate(self.query.limit.unwrap_or(usize::MAX));
        let in_order = order
            .into_iter()
            .map(|number| self.states[number as u32 as usize]);
        self.states = in_order.collect();
    }

    fn finish(mut self) -> Vec<(Channel, ReadState)> {
        self.sort();
        self.states
    }
}

impl Shard {
    /// Counts one reader more who waits for the user, and queues the user for loading.
    fn wait_for(&mut self, shared: &Shared, hash: u64, user: Id) -> Result<(), LoadQueueFull> {
        self.queue(shared, hash, user)?;
        if let Some(absent) = self.absent(hash, user) {
            absent.waiters = absent.waiters.saturating_add(1);
        }
        Ok(())
    }

    /// Queues a user who is not resident for loading, unless too many are.
    fn queue(&mut self, shared: &Shared, hash: u64, user: Id) -> Result<(), LoadQueueFull> {
        if self.absent(hash, user).is_none() {
            if shared.totals.awaited.load(Relaxed) >= shared.bounds.load_queue {
                return Err(LoadQueueFull);
            }
            self.add_absent(shared, hash, user);
        }
        self.want(shared, hash, user, Wanted::Awaited);
        self.count_memory(shared);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Config, UserOperation};
    use crate::operation::{Change, Operation};

    const USER: Id = 1;
    const CHANNELS: Id = 2_000;

    fn on(channel: Channel, change: Change) -> UserOperation {
        UserOperation {
            user: USER,
            operation: Operation::Change { channel, change },
        }
    }

    /// What a list with this limit is, if a channel of its first page is deleted and created
    /// again, which gives it another number, before the second page.
    fn list_beside_a_change(limit: Option<usize>) -> Vec<(Channel, ReadState)> {
        let engine = Engine::new(Config::default());
        let channel = |id| Channel { kind: 0, id };
        let delete_user = UserOperation {
            user: USER,
            operation: Operation::DeleteUser,
        };
        let acks = (0..CHANNELS).map(|id| on(channel(id), Change::Ack { message: 1 }));
        let fill: Vec<_> = std::iter::once(delete_user).chain(acks).collect();
        engine.apply_all(&fill, Now::default()).unwrap();
        let query = Query {
            limit,
            ..Query::default()
        };
        let mut listing = Listing::new(&engine, query);
        let mut next = Some(0);
        while let Some(from) = next {
            let page = engine.read(USER, None, |resident| {
                Found::Resident(listing.copy(resident, from))
            });
            let Ok(Found::Resident(after)) = page else {
                unreachable!("the user is resident");
            };
            next = after;
            listing.translate();
            if from == 0 {
                let (moved, _) = listing.states[0];
                let again = [
                    on(moved, Change::Delete),
                    on(moved, Change::Ack { message: 2 }),
                ];
                engine.apply_all(&again, Now::default()).unwrap();
            }
        }
        listing.finish()
    }

    #[test]
    fn a_channel_that_is_created_again_meanwhile_is_listed_once() {
        for limit in [None, Some(CHANNELS as usize), Some(700), Some(5)] {
            let states = list_beside_a_change(limit);
            let ids: Vec<Id> = states.iter().map(|(channel, _)| channel.id).collect();
            let expected = limit.map_or(CHANNELS, |limit| limit as Id);
            assert!(ids.iter().copied().eq(0..expected), "{limit:?}: {ids:?}");
        }
    }
}
