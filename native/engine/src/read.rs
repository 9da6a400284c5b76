//! Reading: one read state, a list, a sum.

use read_states_sync::atomic::Ordering::Relaxed;
use read_states_sync::pin;

use crate::directory::Sought;
use crate::engine::Engine;
use crate::id::{Channel, Id};
use crate::list::{List, Listing, Query};
use crate::load_queue::Wanted;
use crate::now::Now;
use crate::read_state::ReadState;
use crate::shard::{Shard, find_resident, find_resident_at};
use crate::shared::Shared;
use crate::user::Resident;

/// A list of a user with more read states is long.
const LONG: usize = 2_048;

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
    ) -> Result<Found<List>, LoadQueueFull> {
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
    pub(crate) fn read<T>(
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
                // Who has waited was a miss.
                shard.ledger.counts.hits += u64::from(pins == 0);
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
