//! A shard: the users whose id hashes to it, behind one lock, and how operations change them.
//!
//! Loading is in [`crate::load`], committing in [`crate::commit`], evicting in [`crate::evict`],
//! reading in [`crate::read`]; each adds its part to the shard.

use crossbeam_epoch::pin;
use hashbrown::HashTable;

use crate::batch::Version;
use crate::id::{Channel, Id};
use crate::ledger::{Ledger, Weight, deletes_growth};
use crate::load_queue::{LoadQueue, Wanted};
use crate::now::Now;
use crate::operation::{Change, Operation};
use crate::pending::Pending;
use crate::plan::Plan;
use crate::read_state_set::ReadStateSet;
use crate::shared::Shared;
use crate::totals::{Reservation, adjust};
use crate::user::{Absent, Presence, Resident, Unsettled, User};

/// A user with more pending operations than this is loaded now.
pub(crate) const MAX_PENDING: usize = 64;

/// Bytes that an insertion or a delete takes on average, with room to grow.
const LEAST_NEED: usize = 64;

/// Bytes that a pending operation takes on average, with room to grow.
const LEAST_PENDING: usize = 2 * size_of::<Operation>();

/// Why a write was refused; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// It would take the dirty memory past its bound.
    Overloaded,
    /// The instance is shutting down.
    Closed,
}

/// Whether a write still has to be admitted against the bound on dirty memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Needed,
    /// As part of a batch that was admitted as a whole.
    Granted,
}

/// What is left to do after a write, without the lock.
#[derive(Debug, Default)]
pub(crate) struct Aftermath {
    /// A load is wanted soon.
    pub attention: bool,
    /// The read states grew, so an eviction may be due.
    pub grown: bool,
    /// To be freed.
    pub garbage: Option<ReadStateSet>,
    /// Nobody needs them any more.
    _dropped: Pending,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shard {
    pub users: HashTable<User>,
    pub ledger: Ledger,
    pub load_queue: LoadQueue,
    /// Bucket of the table at which the search for a user to evict goes on.
    pub hand: usize,
    closed: bool,
    /// Bytes of the queues and the table as counted in `Totals::memory`.
    counted: usize,
}

impl Admission {
    /// Refuses unless `bytes` more of dirty memory are within the bound. They are held until
    /// what is returned is dropped, which is when the change has counted what it really takes.
    fn check(self, shared: &Shared, bytes: usize) -> Result<Reservation<'_>, WriteError> {
        let bytes = if self == Admission::Granted { 0 } else { bytes };
        let reservation = shared.totals.reserve(&shared.bounds, bytes);
        reservation.ok_or(WriteError::Overloaded)
    }
}

impl Shard {
    pub fn new(floor: Version) -> Self {
        Shard {
            users: HashTable::new(),
            ledger: Ledger::new(floor),
            load_queue: LoadQueue::default(),
            hand: 0,
            closed: false,
            counted: 0,
        }
    }

    /// Refuses writes from now on, or accepts them again.
    pub fn close(&mut self, closed: bool) {
        self.closed = closed;
    }

    pub fn find(&mut self, hash: u64, user: Id) -> Option<&mut Presence> {
        let found = self.users.find_mut(hash, |entry| entry.id == user)?;
        Some(&mut found.presence)
    }

    /// Adds a user that is not in the table.
    pub fn add(&mut self, shared: &Shared, hash: u64, id: Id, presence: Presence) {
        let rehash = |entry: &User| shared.hasher.hash_one(entry.id);
        self.users
            .insert_unique(hash, User { id, presence }, rehash);
    }

    /// Adds a user who is not in the table, with nothing waiting for him yet.
    pub fn add_absent(&mut self, shared: &Shared, hash: u64, user: Id) {
        let absent = Box::<Absent>::default();
        adjust(&shared.totals.memory, 0, absent.bytes());
        self.add(shared, hash, user, Presence::Absent(absent));
    }

    /// Takes out a user who is not resident.
    pub fn take_absent(&mut self, shared: &Shared, hash: u64, user: Id) -> Option<Absent> {
        let Some(Presence::Absent(_)) = self.find(hash, user) else {
            return None;
        };
        match self.take(shared, hash, user) {
            Some(Presence::Absent(absent)) => {
                adjust(&shared.totals.memory, absent.bytes(), 0);
                self.ledger.counts.pending_operations -= absent.pending.len();
                Some(*absent)
            }
            _ => unreachable!("the user was found absent under the same lock"),
        }
    }

    /// Adds a resident user who is not in the table.
    pub fn add_resident(&mut self, shared: &Shared, hash: u64, user: Id, mut resident: Resident) {
        self.ledger.counts.users += 1;
        Weight::NOTHING.settle(shared, &mut self.ledger.counts, &mut resident);
        self.add(shared, hash, user, Presence::Resident(resident));
        self.count_memory(shared);
    }

    /// Queues a user who is not resident for loading, unless that is under way.
    pub fn want(&mut self, shared: &Shared, hash: u64, user: Id, wanted: Wanted) -> bool {
        let found = self.users.find_mut(hash, |entry| entry.id == user);
        match found.map(|found| &mut found.presence) {
            Some(Presence::Absent(absent))
                if absent.load.is_none()
                    && absent.wanted != Some(wanted)
                    && absent.wanted != Some(Wanted::Awaited) =>
            {
                absent.wanted = Some(wanted);
                self.load_queue.push(&shared.totals, user, wanted);
                true
            }
            _ => false,
        }
    }

    /// Takes a user out of the table, which gives memory back when it is mostly empty.
    pub fn take(&mut self, shared: &Shared, hash: u64, user: Id) -> Option<Presence> {
        let found = self.users.find_entry(hash, |entry| entry.id == user).ok()?;
        let (taken, _) = found.remove();
        self.shrink(shared);
        Some(taken.presence)
    }

    pub fn shrink(&mut self, shared: &Shared) {
        if self.users.len() * 3 < self.users.capacity() && self.users.capacity() > 64 {
            let rehash = |entry: &User| shared.hasher.hash_one(entry.id);
            self.users.shrink_to(self.users.len(), rehash);
        }
    }

    /// Brings the count of the shard's own memory up to date.
    pub fn count_memory(&mut self, shared: &Shared) {
        let bytes =
            self.users.allocation_size() + self.ledger.due.bytes() + self.load_queue.bytes();
        if bytes != self.counted {
            adjust(&shared.totals.memory, self.counted, bytes);
            self.counted = bytes;
        }
    }

    /// Bytes by which an operation of a batch grows the dirty memory: at most, together with the
    /// others of the batch on the same user, of which the `first` is charged what they share.
    pub fn need(
        &mut self,
        shared: &Shared,
        hash: u64,
        user: Id,
        operation: &Operation,
        first: bool,
    ) -> usize {
        match (self.find(hash, user), operation) {
            (Some(Presence::Resident(resident)), Operation::Change { channel, change }) => {
                let guard = pin();
                let plan = Plan::new(&resident.set, &shared.directory, &guard, *channel, change);
                let least = match (&plan, change) {
                    (Plan::Insert(_), _) | (_, Change::Delete) => LEAST_NEED,
                    _ => 0,
                };
                let growth = if first {
                    first_need(resident) + resident.set.next_growth()
                } else {
                    0
                };
                growth + least
            }
            (Some(Presence::Resident(_)), Operation::DeleteUser) if !first => 0,
            (Some(Presence::Resident(resident)), Operation::DeleteUser) => first_need(resident),
            (_, _) if !first => LEAST_PENDING,
            (Some(Presence::Absent(absent)), _) => absent_need(absent).max(LEAST_PENDING),
            (None, _) => absent_need(&Absent::default()),
        }
    }

    /// Carries out an operation, or keeps it until the user is loaded.
    pub fn apply(
        &mut self,
        shared: &Shared,
        hash: u64,
        user: Id,
        operation: &Operation,
        now: Now,
        admission: Admission,
    ) -> Result<Aftermath, WriteError> {
        if self.closed {
            return Err(WriteError::Closed);
        }
        let found = self.users.find_mut(hash, |entry| entry.id == user);
        let ledger = &mut self.ledger;
        match (found.map(|found| &mut found.presence), operation) {
            (Some(Presence::Resident(resident)), Operation::Change { channel, change }) => {
                change_resident(
                    shared, ledger, user, resident, *channel, change, now, admission,
                )
            }
            (Some(Presence::Resident(resident)), Operation::DeleteUser) => {
                delete_resident(shared, ledger, user, resident, now, admission)
            }
            (_, Operation::Change { .. }) => {
                self.postpone(shared, hash, user, operation, now, admission)
            }
            (_, Operation::DeleteUser) => self.delete_absent(shared, hash, user, now, admission),
        }
    }

    /// Keeps an operation on a user who is not resident.
    fn postpone(
        &mut self,
        shared: &Shared,
        hash: u64,
        user: Id,
        operation: &Operation,
        now: Now,
        admission: Admission,
    ) -> Result<Aftermath, WriteError> {
        let _held = if let Some(Presence::Absent(absent)) = self.find(hash, user) {
            admission.check(shared, absent_need(absent))?
        } else {
            let held = admission.check(shared, absent_need(&Absent::default()))?;
            self.add_absent(shared, hash, user);
            held
        };
        let found = self.users.find_mut(hash, |entry| entry.id == user);
        let Some(Presence::Absent(absent)) = found.map(|found| &mut found.presence) else {
            unreachable!("a user who is not resident was found or added above");
        };
        let before = absent.bytes();
        absent.pending.push(*operation);
        adjust(&shared.totals.memory, before, absent.bytes());
        let charge = size_of::<User>() + absent.bytes();
        adjust(&shared.totals.dirty_memory, absent.charged, charge);
        absent.charged = charge;
        self.ledger.counts.pending_operations += 1;
        if absent.pending.len() == 1 {
            let (deadline, epoch) = self.ledger.first_change(shared, user, now);
            (absent.deadline, absent.epoch) = (deadline, Some(epoch));
        }
        let many = absent.pending.len() > MAX_PENDING;
        let attention = many && self.want(shared, hash, user, Wanted::Due);
        self.compact_due(shared);
        self.count_memory(shared);
        Ok(Aftermath {
            attention,
            ..Aftermath::default()
        })
    }

    /// Deletes a user who is not resident: everything of him is known now, so he is resident.
    fn delete_absent(
        &mut self,
        shared: &Shared,
        hash: u64,
        user: Id,
        now: Now,
        admission: Admission,
    ) -> Result<Aftermath, WriteError> {
        let need = match self.find(hash, user) {
            Some(Presence::Absent(absent)) => absent_need(absent),
            _ => absent_need(&Absent::default()),
        };
        let _held = admission.check(shared, need)?;
        let mut absent = self.take_absent(shared, hash, user).unwrap_or_default();
        let dropped = std::mem::take(&mut absent.pending);
        let hurried = absent.hurried;
        let set = ReadStateSet::new(shared.counters);
        let mut resident = absent.into_resident(set, now);
        let unsettled = self.ledger.changed(shared, user, &mut resident, now);
        unsettled.delete_user(self.ledger.stamp.next(now));
        if hurried {
            self.ledger.hurry(user, unsettled);
        }
        self.add_resident(shared, hash, user, resident);
        Ok(Aftermath {
            grown: true,
            _dropped: dropped,
            ..Aftermath::default()
        })
    }

    /// Drops the deadlines of users who were committed earlier, if they are the most.
    pub fn compact_due(&mut self, shared: &Shared) {
        let users = &self.users;
        let live = self.ledger.counts.uncommitted_users;
        self.ledger.due.compact(live, |deadline, user| {
            let hash = shared.hasher.hash_one(user);
            let found = users.find(hash, |entry| entry.id == user);
            found.is_some_and(|found| found.presence.deadline() == Some(deadline))
        });
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a shard, borrowed apart"
)]
fn change_resident(
    shared: &Shared,
    ledger: &mut Ledger,
    user: Id,
    resident: &mut Resident,
    channel: Channel,
    change: &Change,
    now: Now,
    admission: Admission,
) -> Result<Aftermath, WriteError> {
    resident.used = true;
    let guard = pin();
    let plan = Plan::new(&resident.set, &shared.directory, &guard, channel, change);
    if matches!(plan, Plan::Nothing) {
        return Ok(Aftermath::default());
    }
    let grown = matches!(plan, Plan::Insert(_));
    let removes = matches!(plan, Plan::Remove(..));
    // Nothing grows when a read state of a dirty user gets other values: the hot path.
    let resizes = grown || removes || !resident.is_uncommitted();
    let held = if resizes {
        let held = admission.check(shared, change_need(resident, &plan))?;
        Some((held, Weight::of(resident)))
    } else {
        None
    };
    plan.carry_out(&mut resident.set, &shared.directory, &guard, channel);
    let unsettled = ledger.changed(shared, user, resident, now);
    if removes {
        unsettled.deletes.push(channel, ledger.stamp.next(now));
    }
    if let Some((_held, weight)) = held {
        weight.settle(shared, &mut ledger.counts, resident);
    }
    Ok(Aftermath {
        grown,
        ..Aftermath::default()
    })
}

fn delete_resident(
    shared: &Shared,
    ledger: &mut Ledger,
    user: Id,
    resident: &mut Resident,
    now: Now,
    admission: Admission,
) -> Result<Aftermath, WriteError> {
    resident.used = true;
    if resident.set.is_empty() && !resident.is_uncommitted() {
        // Nothing here and, as nothing is uncommitted, nothing in the store.
        return Ok(Aftermath::default());
    }
    let _held = admission.check(shared, first_need(resident))?;
    let weight = Weight::of(resident);
    let empty = ReadStateSet::new(shared.counters);
    let garbage = std::mem::replace(&mut resident.set, empty);
    let unsettled = ledger.changed(shared, user, resident, now);
    unsettled.delete_user(ledger.stamp.next(now));
    // What is garbage still takes its memory until it is freed.
    adjust(&shared.totals.garbage, 0, garbage.bytes());
    weight.settle(shared, &mut ledger.counts, resident);
    Ok(Aftermath {
        garbage: Some(garbage),
        ..Aftermath::default()
    })
}

/// Bytes by which the dirty memory grows when a resident user becomes dirty.
fn first_need(resident: &Resident) -> usize {
    if resident.is_uncommitted() {
        0
    } else {
        size_of::<User>() + resident.bytes() + size_of::<Unsettled>()
    }
}

fn change_need(resident: &Resident, plan: &Plan) -> usize {
    let unsettled = resident.unsettled.as_ref();
    first_need(resident)
        + match plan {
            Plan::Nothing | Plan::Replace(..) => 0,
            Plan::Insert(_) => resident.set.growth(),
            Plan::Remove(..) => deletes_growth(unsettled.map(|unsettled| &unsettled.deletes)),
        }
}

fn absent_need(absent: &Absent) -> usize {
    let first = if absent.charged > 0 {
        0
    } else {
        size_of::<User>() + absent.bytes().max(size_of::<Unsettled>())
    };
    first + absent.pending.growth()
}
