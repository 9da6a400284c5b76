//! A shard's books: what is due, what a flush waits for, which version comes next.
//!
//! Apart from the table of users, so that a user and the books can be changed together.

use crate::batch::Version;
use crate::due::DueQueue;
use crate::evict::Policy;
use crate::flush::{Epoch, Epochs};
use crate::id::Id;
use crate::now::{Micros, Now};
use crate::recency::Recency;
use crate::shared::Shared;
use crate::stamp::Stamp;
use crate::totals::adjust;
use crate::user::{DeletedChannel, Deletes, Owner, Resident, Unsettled};

/// What a shard counts without atomics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub users: usize,
    pub states: usize,
    pub uncommitted_users: usize,
    /// Those of them who are not resident: they have to be loaded before they can be committed.
    pub uncommitted_absents: usize,
    pub pending_operations: usize,
    pub hits: u64,
    pub misses: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub due: DueQueue,
    pub epochs: Epochs,
    pub stamp: Stamp,
    pub recency: Recency,
    pub counts: Counts,
}

impl Ledger {
    /// Of this shard.
    pub fn new(shard: usize, floor: Version) -> Self {
        Ledger {
            due: DueQueue::default(),
            epochs: Epochs::default(),
            stamp: Stamp::new(floor),
            recency: Recency::new(shard),
            counts: Counts::default(),
        }
    }

    /// A user who was clean has something uncommitted.
    pub fn first_change(&mut self, shared: &Shared, user: Id, now: Now) -> (Micros, Epoch) {
        let deadline = now.monotonic.saturating_add(shared.commit_after);
        self.due.reserve();
        let epoch = self.epochs.enter();
        self.due.push(deadline, user);
        self.counts.uncommitted_users += 1;
        (deadline, epoch)
    }

    /// The user is used.
    #[inline]
    pub fn used(&mut self, shared: &Shared, owner: &mut Owner) {
        match shared.policy {
            Policy::Clock => owner.note_use(),
            Policy::Lru => self.recency.used(&shared.uses, owner),
        }
    }

    /// A change was made that is in no snapshot: what is unsettled of the user.
    pub fn unsettled<'a>(
        &mut self,
        shared: &Shared,
        resident: &'a mut Resident,
        now: Now,
    ) -> &'a mut Unsettled {
        let owner: &mut Owner = resident;
        let unsettled = owner.unsettled.get_or_insert_with(|| {
            let mut unsettled = Box::<Unsettled>::default();
            let (deadline, epoch) = self.first_change(shared, owner.id, now);
            *unsettled = Unsettled::new(deadline, epoch);
            unsettled
        });
        unsettled.epoch.get_or_insert_with(|| self.epochs.enter());
        owner.changed = true;
        unsettled
    }

    /// The user is clean again.
    pub fn clean(&mut self, shared: &Shared, unsettled: &Unsettled) {
        if let Some(epoch) = unsettled.epoch {
            self.epochs.leave(epoch);
        }
        self.counts.uncommitted_users -= 1;
        adjust(&shared.totals.dirty_memory, unsettled.charged, 0);
    }

    /// Puts the user among those to commit at once, which take turns with who is due. There must be room in the queue.
    pub fn hurry(&mut self, user: Id, unsettled: &mut Unsettled) {
        if !std::mem::replace(&mut unsettled.hurried, true) {
            self.due.hurry(user);
        }
    }

    /// Goes on with the user next.
    pub fn hurry_on(&mut self, user: Id, unsettled: &mut Unsettled) {
        unsettled.hurried = true;
        self.due.hurry_first(user);
    }
}

/// What a resident user weighs, to be taken before a change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    cost: usize,
    states: usize,
    bytes: usize,
}

impl Weight {
    /// Of no user at all.
    pub const NOTHING: Weight = Weight {
        cost: 0,
        states: 0,
        bytes: 0,
    };

    pub fn of(resident: &Resident) -> Self {
        Weight {
            cost: resident.cost(),
            states: resident.len(),
            bytes: resident.footprint(),
        }
    }

    /// The same as [`Weight::settle`], when what is returned is dropped: also should something panic before.
    pub fn settled_after<'a>(
        self,
        shared: &'a Shared,
        ledger: &'a mut Ledger,
        resident: &'a mut Resident,
    ) -> Weighed<'a> {
        Weighed {
            before: self,
            shared,
            ledger,
            resident,
        }
    }

    /// Moves every sum from this weight to the one the user has now.
    pub fn settle(self, shared: &Shared, counts: &mut Counts, resident: &mut Resident) {
        let now = Weight::of(resident);
        adjust(&shared.totals.cost, self.cost, now.cost);
        adjust(&shared.totals.memory, self.bytes, now.bytes);
        counts.states = counts.states + now.states - self.states;
        shared.totals.sizes.moved(self.bytes, now.bytes);
        let charge = size_of::<Resident>() + now.bytes;
        if let Some(unsettled) = &mut resident.unsettled {
            adjust(&shared.totals.dirty_memory, unsettled.charged, charge);
            unsettled.charged = charge;
        }
    }
}

/// A user who is being changed.
pub(crate) struct Weighed<'a> {
    before: Weight,
    shared: &'a Shared,
    ledger: &'a mut Ledger,
    pub resident: &'a mut Resident,
}

impl Weighed<'_> {
    /// As [`Ledger::unsettled`], of this user.
    pub fn unsettled(&mut self, now: Now) -> &mut Unsettled {
        self.ledger.unsettled(self.shared, self.resident, now)
    }
}

impl Drop for Weighed<'_> {
    fn drop(&mut self) {
        let counts = &mut self.ledger.counts;
        self.before.settle(self.shared, counts, self.resident);
    }
}

/// Most bytes by which the list of deletes grows with one more.
pub(crate) fn deletes_growth(deletes: Option<&Deletes>) -> usize {
    let (len, room) = deletes.map_or((0, 0), |deletes| {
        (deletes.channels.len(), deletes.channels.capacity())
    });
    if len < room {
        0
    } else {
        len.max(4) * size_of::<DeletedChannel>()
    }
}
