//! A shard: the users whose id hashes to it, behind one lock, and how operations change them.
//!
//! Loading is in [`crate::load`], committing in [`crate::commit`], evicting in [`crate::evict`],
//! reading in [`crate::read`]; each adds its part to the shard.

use std::mem;

use crossbeam_epoch::Guard;
use read_states_sync::atomic::Ordering::Relaxed;
use read_states_sync::pin;

use crate::batch::Version;
use crate::directory::Sought;
use crate::engine::UserOperation;
use crate::evict::Policy;
use crate::garbage::Garbage;
use crate::id::{Channel, Id};
use crate::journaling::BatchLog;
use crate::ledger::{Ledger, Weight, deletes_growth};
use crate::load_queue::{LoadQueue, Wanted};
use crate::now::Now;
use crate::operation::{Change, Operation};
use crate::pending::{Pending, Stamped};
use crate::plan::{Hint, Plan};
use crate::prefetch::prefetch;
use crate::shared::Shared;
use crate::table::Table;
use crate::totals::{Reservation, adjust};
use crate::user::{Absent, Resident, Unsettled};

/// A user with more pending operations than this is loaded now.
pub(crate) const MAX_PENDING: usize = 64;

/// Users that [`Shard::fetch_ahead`] looks at.
const AHEAD: usize = 3;

/// Bytes that an insertion or a delete takes on average, with room to grow.
const LEAST_NEED: usize = 64;

/// Bytes that a pending operation takes on average, with room to grow.
const LEAST_PENDING: usize = 2 * size_of::<Stamped>();

/// Why a write was refused; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// It would take the dirty memory past its bound.
    Overloaded,
    /// The instance is shutting down.
    Closed,
    /// There is no room on the disk for the journal.
    NoSpace,
    /// The journal cannot be written for another reason.
    JournalFailed,
}

/// Whether a write still has to be admitted against the bound on dirty memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Needed,
    /// As part of a batch that was admitted as a whole.
    Granted,
}

/// What a user still owes for the operations of a batch on him, of dirty memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    /// What it takes that he becomes dirty.
    first: bool,
    /// What it takes that his read states become more.
    growth: bool,
}

impl Default for Owed {
    fn default() -> Self {
        Owed {
            first: true,
            growth: true,
        }
    }
}

/// An operation on its way to the user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write<'a> {
    /// Pinned since before the hint was found.
    pub guard: &'a Guard,
    pub user: Id,
    /// Of the user.
    pub hash: u64,
    pub operation: &'a Operation,
    /// The channel of a change.
    pub sought: Option<Sought>,
    pub near: Near,
    pub now: Now,
    pub admission: Admission,
    /// What it is written down with in the journal.
    pub batch: Option<&'a BatchLog<'a>>,
}

/// Where what an operation changes may be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Near {
    /// The user, in the table.
    pub place: Option<usize>,
    /// The read state, in his.
    pub hint: Option<Hint>,
}

/// What is left to do after a write, without the lock.
#[derive(Debug, Default)]
pub(crate) struct Aftermath<'a> {
    /// A load is wanted soon.
    pub attention: bool,
    /// The read states grew, so an eviction may be due.
    pub grown: bool,
    /// To be freed.
    pub garbage: Option<Garbage<'a>>,
    /// Nobody needs them any more.
    dropped: Option<Box<Pending>>,
}

impl Aftermath<'_> {
    pub fn is_nothing(&self) -> bool {
        !self.attention && !self.grown && self.garbage.is_none() && self.dropped.is_none()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shard {
    /// By the id in them, which lies with their read states: the table itself stays small.
    pub residents: Table<Resident>,
    /// Users who are not resident, but for whom something waits.
    pub absents: Table<Box<Absent>>,
    pub ledger: Ledger,
    pub load_queue: LoadQueue,
    /// Users who became resident, so far.
    arrivals: u32,
    /// Place of the table at which the search for a user to evict goes on.
    pub hand: usize,
    /// Places it has passed since all users are dirty, and none of them came or was settled.
    pub passed_in_vain: usize,
    closed: bool,
    /// Whether operations of an earlier life are still to come, see [`crate::recovery`].
    pub unread: bool,
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
    /// The shard of this index, whose versions are above `floor`.
    pub fn new(index: usize, floor: Version) -> Self {
        Shard {
            residents: Table::new(),
            absents: Table::new(),
            ledger: Ledger::new(index, floor),
            load_queue: LoadQueue::new(index),
            arrivals: 0,
            hand: 0,
            passed_in_vain: 0,
            closed: false,
            unread: false,
            counted: 0,
        }
    }

    /// Refuses writes from now on, or accepts them again.
    pub fn close(&mut self, closed: bool) {
        self.closed = closed;
    }

    pub fn resident(&mut self, hash: u64, user: Id) -> Option<&mut Resident> {
        find_resident(&mut self.residents, hash, user)
    }

    pub fn absent(&mut self, hash: u64, user: Id) -> Option<&mut Absent> {
        find_absent(&mut self.absents, hash, user)
    }

    /// Adds a user who is in no table, with nothing waiting for him yet.
    pub fn add_absent(&mut self, shared: &Shared, hash: u64, user: Id) {
        let absent = Box::new(Absent::new(user));
        let bytes = absent.bytes();
        self.absents.insert(hash, absent);
        adjust(&shared.totals.memory, 0, bytes);
    }

    /// Takes out a user who is not resident.
    pub fn take_absent(&mut self, shared: &Shared, hash: u64, user: Id) -> Option<Absent> {
        let absent = self.absents.take(hash, |absent| absent.id == user)?;
        if let (Some(epoch), Some(carried)) = (absent.epoch, absent.carried) {
            // He holds the journal up again until he is committed, which may come to the same.
            self.ledger.epochs.carry_back(epoch, carried);
        }
        adjust(&shared.totals.memory, absent.bytes(), 0);
        self.ledger.counts.pending_operations -= absent.pending.len();
        self.ledger.counts.uncommitted_absents -= usize::from(absent.epoch.is_some());
        Some(*absent)
    }

    /// Makes room, so that nothing moves when a resident user is added and hurried next.
    pub fn reserve_resident(&mut self) {
        self.residents.reserve();
        self.ledger.due.reserve();
    }

    /// Adds a resident user who is in no table.
    pub fn add_resident(&mut self, shared: &Shared, hash: u64, mut resident: Resident) {
        self.ledger.counts.users += 1;
        adjust(&shared.totals.residents, 0, 1);
        self.arrivals = self.arrivals.wrapping_add(1);
        self.passed_in_vain = 0;
        resident.arrival = self.arrivals;
        let user = resident.id;
        Weight::NOTHING.settle(shared, &mut self.ledger.counts, &mut resident);
        self.residents.insert(hash, resident);
        if shared.policy == Policy::Lru
            && let Some(resident) = find_resident(&mut self.residents, hash, user)
        {
            self.ledger.used(shared, resident);
        }
        self.count_memory(shared);
    }

    /// Users whom commits can make clean without a load.
    pub fn committable(&self) -> usize {
        let counts = self.ledger.counts;
        counts.uncommitted_users - counts.uncommitted_absents
    }

    /// Queues a user who is not resident for loading, unless that is under way.
    pub fn want(&mut self, shared: &Shared, hash: u64, user: Id, wanted: Wanted) -> bool {
        self.load_queue.reserve();
        self.want_at_once(shared, hash, user, wanted)
    }

    /// The same where there is room in the queue.
    pub fn want_at_once(&mut self, shared: &Shared, hash: u64, user: Id, wanted: Wanted) -> bool {
        match find_absent(&mut self.absents, hash, user) {
            Some(absent)
                if absent.load.is_none()
                    && absent.ticket.is_none_or(|ticket| {
                        ticket.wanted != wanted && ticket.wanted != Wanted::Awaited
                    }) =>
            {
                absent.ticket = Some(self.load_queue.push(shared, user, wanted));
                true
            }
            _ => false,
        }
    }

    /// Drops the entries of users who need no load any more, or wait for it elsewhere in the queue, if they are the most.
    /// That the former need none is then not said by [`Begun::settled`](crate::load::Begun::settled): who waits has to ask.
    fn compact_load_queue(&mut self, shared: &Shared) {
        let absents = &self.absents;
        let live = absents.len();
        self.load_queue.compact(shared, live, |ticket, user| {
            let absent = absents.peek(shared.hasher.hash_one(user), |absent| absent.id == user);
            absent.is_some_and(|absent| absent.ticket == Some(ticket))
        });
    }

    /// Gives back what tables and queues have too much, and brings the count of the shard's own memory up to date.
    pub fn count_memory(&mut self, shared: &Shared) {
        self.compact_load_queue(shared);
        self.residents.shrink();
        self.absents.shrink();
        self.load_queue.shrink();
        self.ledger.due.shrink();
        let tables = self.residents.bytes() + self.absents.bytes();
        let queues = self.ledger.due.bytes() + self.ledger.recency.bytes();
        let bytes = tables + queues + self.load_queue.bytes();
        if bytes != self.counted {
            adjust(&shared.totals.memory, self.counted, bytes);
            self.counted = bytes;
        }
    }

    /// Bytes by which an operation of a batch grows the dirty memory: at most, together with the
    /// others of the batch on the same user, who is charged only once what he owes.
    pub fn need(
        &mut self,
        shared: &Shared,
        hash: u64,
        user: Id,
        operation: &Operation,
        owed: &mut Owed,
    ) -> usize {
        let first = mem::replace(&mut owed.first, false);
        if let Some(resident) = self.resident(hash, user) {
            let first_need = if first {
                first_need(shared, resident)
            } else {
                0
            };
            let Operation::Change { channel, change } = operation else {
                return first_need;
            };
            let guard = pin();
            let directory = &shared.directory;
            let sought = directory.seek(*channel);
            let hint = Hint::new(resident, directory, &guard, sought);
            let plan = Plan::new(resident, change, hint);
            let least = match (&plan, change) {
                (Plan::Insert(_), _) | (_, Change::Delete) => LEAST_NEED,
                _ => return first_need,
            };
            let growth = match mem::replace(&mut owed.growth, false) {
                true => resident.next_growth(),
                false => 0,
            };
            return first_need + growth + least;
        }
        if first {
            absent_need(self.absent(hash, user).as_deref()).max(LEAST_PENDING)
        } else {
            LEAST_PENDING
        }
    }

    /// Carries out an operation, or keeps it until the user is loaded.
    pub fn apply<'a>(
        &mut self,
        shared: &'a Shared,
        write: &Write,
    ) -> Result<Aftermath<'a>, WriteError> {
        if self.closed {
            return Err(WriteError::Closed);
        }
        let resident = find_resident_at(
            &mut self.residents,
            write.near.place,
            write.hash,
            write.user,
        );
        match (resident, write.operation) {
            (Some(resident), Operation::Change { channel, change }) => {
                change_resident(shared, &mut self.ledger, resident, *channel, change, write)
            }
            (Some(resident), Operation::DeleteUser) => {
                delete_resident(shared, &mut self.ledger, resident, write)
            }
            (None, Operation::Change { .. }) => self.postpone(shared, write),
            // What comes from the journal may be of a later time than what the store has of him, and is older than this.
            (None, Operation::DeleteUser) if self.unread => self.postpone(shared, write),
            (None, Operation::DeleteUser) => self.delete_absent(shared, write),
        }
    }

    /// What most operations of a batch are: other values for a read state, of a user who has changes already that are
    /// in no snapshot. The user and the read state may be where it says. False if it is something else, and nothing is
    /// done; `write` is asked for all of it only if that is needed.
    #[inline(always)]
    pub fn change_again<'a>(
        &mut self,
        shared: &Shared,
        near: Near,
        UserOperation { user, operation }: &UserOperation,
        now: Now,
        write: impl FnOnce() -> Write<'a>,
    ) -> Result<bool, WriteError> {
        let (Some(place), Some(hint), Operation::Change { change, .. }) =
            (near.place, near.hint, operation)
        else {
            return Ok(false);
        };
        let Some(resident) = self.residents.place(place) else {
            return Ok(false);
        };
        if self.closed || resident.id != *user || !resident.changed || *change == Change::Delete {
            return Ok(false);
        }
        let Some(hint) = hint.confirmed(resident) else {
            return Ok(false);
        };
        self.ledger.used(shared, resident);
        let note = |changes| self.ledger.note_change(shared, now, changes, write);
        hint.change(resident, change, note)?;
        Ok(true)
    }

    /// Has the processor fetch a user, if he seems to be resident, and says where he is: all of him, or what a read
    /// state needs whose channel is sought.
    #[inline]
    pub fn prefetch(&self, hash: u64, sought: Option<Sought>) -> Option<usize> {
        let (place, resident) = self.residents.first(hash)?;
        match sought {
            Some(sought) => resident.prefetch_about(sought.tag()),
            None => resident.prefetch(),
        }
        Some(place)
    }

    /// Has the processor fetch the users whose turn is next, by their hashes: of the nearest of [`AHEAD`] what is unsettled, of
    /// the one after him who he is, of the last where that is. Each needs what was fetched the time before.
    pub fn fetch_ahead(&self, next: impl Iterator<Item = u64>) {
        for (ahead, hash) in next.take(AHEAD).enumerate() {
            if ahead == AHEAD - 1 {
                self.residents.prefetch(hash);
            } else if let Some((_place, resident)) = self.residents.first(hash) {
                if ahead > 0 {
                    resident.prefetch_tags();
                } else if let Some(unsettled) = &resident.unsettled {
                    prefetch(&raw const **unsettled);
                }
            }
        }
    }

    /// Keeps an operation on a user who is not resident.
    fn postpone<'a>(
        &mut self,
        shared: &'a Shared,
        write: &Write,
    ) -> Result<Aftermath<'a>, WriteError> {
        let Write {
            user, hash, now, ..
        } = *write;
        let need = absent_need(self.absent(hash, user).as_deref());
        let _held = write.admission.check(shared, need)?;
        let version = self.ledger.note(shared, now, || *write)?;
        let unread = self.unread;
        let absent = self.keep(shared, hash, user, (version, *write.operation), now);
        let charge = size_of::<Box<Absent>>() + absent.bytes();
        adjust(&shared.totals.dirty_memory, absent.charged, charge);
        absent.charged = charge;
        absent.recovered |= unread;
        let many = absent.pending.len() > MAX_PENDING;
        let attention = many && self.want(shared, hash, user, Wanted::Due);
        self.compact_due(shared);
        self.count_memory(shared);
        Ok(Aftermath {
            attention,
            ..Aftermath::default()
        })
    }

    /// Keeps an operation that was accepted in an earlier life, for a user who is not resident. The memory is to be counted
    /// after some of them.
    pub fn recover(&mut self, shared: &Shared, hash: u64, user: Id, operation: Stamped, now: Now) {
        self.keep(shared, hash, user, operation, now).recovered = true;
        if let Some(absent) = find_absent(&mut self.absents, hash, user)
            && let Some(epoch @ 1..) = absent.epoch
        {
            // Whoever waits for a flush waits for him too.
            absent.epoch = Some(self.ledger.epochs.enter_first());
            self.ledger.epochs.leave(epoch);
        }
    }

    /// Adds an operation to those that wait for a user, who has something uncommitted from now on.
    fn keep(
        &mut self,
        shared: &Shared,
        hash: u64,
        user: Id,
        operation: Stamped,
        now: Now,
    ) -> &mut Absent {
        self.owe(shared, hash, user, now);
        let absent = find_absent(&mut self.absents, hash, user);
        let absent = absent.expect("he was found or added above");
        let before = absent.bytes();
        absent.pending.push(operation);
        adjust(&shared.totals.memory, before, absent.bytes());
        self.ledger.counts.pending_operations += 1;
        absent
    }

    /// A user who is not resident, and perhaps in no table, has something uncommitted from now on.
    fn owe(&mut self, shared: &Shared, hash: u64, user: Id, now: Now) {
        if self.absent(hash, user).is_none() {
            self.add_absent(shared, hash, user);
        }
        if let Some(absent) = find_absent(&mut self.absents, hash, user)
            && absent.epoch.is_none()
        {
            let (deadline, epoch) = self.ledger.first_change(shared, user, now);
            (absent.deadline, absent.epoch) = (deadline, Some(epoch));
            self.ledger.counts.uncommitted_absents += 1;
        }
    }

    /// Deletes a user who is not resident: everything of him is known now, so he is resident.
    fn delete_absent<'a>(
        &mut self,
        shared: &'a Shared,
        write: &Write,
    ) -> Result<Aftermath<'a>, WriteError> {
        let Write {
            user, hash, now, ..
        } = *write;
        let need = absent_need(self.absent(hash, user).as_deref());
        let _held = write.admission.check(shared, need)?;
        let version = self.ledger.note(shared, now, || *write)?;
        let set = Resident::new(shared.counters);
        let (unsettled, mut dropped) = (Box::default(), Box::<Pending>::default());
        self.owe(shared, hash, user, now);
        self.reserve_resident();
        // Nothing moves from here on, until he is in the other table.
        let absent = self.take_absent(shared, hash, user);
        let mut absent = absent.expect("he was found or added above");
        std::mem::swap(&mut *dropped, &mut absent.pending);
        let hurried = absent.hurried;
        let mut resident = absent.into_resident(set, unsettled, now);
        resident.changed = true;
        if let Some(unsettled) = &mut resident.unsettled {
            unsettled.delete_user(version);
            if hurried {
                self.ledger.hurry(user, unsettled);
            }
        }
        self.add_resident(shared, hash, resident);
        Ok(Aftermath {
            grown: true,
            dropped: Some(dropped),
            ..Aftermath::default()
        })
    }

    /// Drops the deadlines of users who were committed earlier, if they are the most.
    pub fn compact_due(&mut self, shared: &Shared) {
        let (residents, absents) = (&self.residents, &self.absents);
        let live = self.ledger.counts.uncommitted_users;
        self.ledger.due.compact(live, |deadline, user| {
            let hash = shared.hasher.hash_one(user);
            let resident = residents.peek(hash, |resident| resident.id == user);
            let now = match resident {
                Some(resident) => resident.deadline(),
                None => absents
                    .peek(hash, |absent| absent.id == user)
                    .and_then(|absent| absent.deadline()),
            };
            now == Some(deadline)
        });
    }
}

pub(crate) fn find_resident(
    residents: &mut Table<Resident>,
    hash: u64,
    user: Id,
) -> Option<&mut Resident> {
    residents.find(hash, |resident| resident.id == user)
}

/// The same, if he may be at a place that is known.
#[inline]
pub(crate) fn find_resident_at(
    residents: &mut Table<Resident>,
    place: Option<usize>,
    hash: u64,
    user: Id,
) -> Option<&mut Resident> {
    let is_there = |place: &usize| {
        let resident = residents.at(*place);
        resident.is_some_and(|resident| resident.id == user)
    };
    match place.filter(is_there) {
        Some(place) => residents.place(place),
        None => find_resident(residents, hash, user),
    }
}

fn find_absent(absents: &mut Table<Box<Absent>>, hash: u64, user: Id) -> Option<&mut Absent> {
    let found = absents.find(hash, |absent| absent.id == user)?;
    Some(found)
}

fn change_resident<'a>(
    shared: &'a Shared,
    ledger: &mut Ledger,
    resident: &mut Resident,
    channel: Channel,
    change: &Change,
    write: &Write,
) -> Result<Aftermath<'a>, WriteError> {
    let Write {
        guard,
        near,
        now,
        admission,
        ..
    } = *write;
    ledger.used(shared, resident);
    let directory = &shared.directory;
    let hint = near
        .hint
        .and_then(|hint| hint.confirmed(resident))
        .or_else(|| {
            let sought = write.sought.unwrap_or_else(|| directory.seek(channel));
            Hint::new(resident, directory, guard, sought)
        });
    // The hot path: a read state of a dirty user gets other values, and nothing grows.
    if resident.changed
        && *change != Change::Delete
        && let Some(hint) = hint
    {
        let note = |changes| ledger.note_change(shared, now, changes, || *write);
        hint.change(resident, change, note)?;
        return Ok(Aftermath::default());
    }
    let plan = Plan::new(resident, change, hint);
    if matches!(plan, Plan::Nothing) {
        if resident.is_uncommitted() {
            ledger.note_change(shared, now, false, || *write)?;
        }
        return Ok(Aftermath::default());
    }
    let grown = matches!(plan, Plan::Insert(_));
    let removes = matches!(plan, Plan::Remove(..));
    let _held = admission.check(shared, change_need(shared, resident, &plan))?;
    let version = ledger.note(shared, now, || *write)?;
    let weight = Weight::of(resident);
    let mut weighed = weight.settled_after(shared, ledger, resident);
    let unsettled = weighed.unsettled(now);
    if removes {
        unsettled.deletes.reserve();
        // What it deletes goes next, before anything can panic.
        unsettled.deletes.push(channel, version);
    }
    plan.carry_out(weighed.resident, &shared.directory, guard, channel);
    drop(weighed);
    Ok(Aftermath {
        grown,
        ..Aftermath::default()
    })
}

fn delete_resident<'a>(
    shared: &'a Shared,
    ledger: &mut Ledger,
    resident: &mut Resident,
    write: &Write,
) -> Result<Aftermath<'a>, WriteError> {
    ledger.used(shared, resident);
    if resident.is_empty() && !resident.is_uncommitted() {
        // Nothing here and, as nothing is uncommitted, nothing in the store.
        return Ok(Aftermath::default());
    }
    let _held = write
        .admission
        .check(shared, first_need(shared, resident))?;
    let version = ledger.note(shared, write.now, || *write)?;
    let weight = Weight::of(resident);
    let mut weighed = weight.settled_after(shared, ledger, resident);
    weighed.unsettled(write.now);
    let garbage = weighed.resident.take_states();
    weighed.unsettled(write.now).delete_user(version);
    drop(weighed);
    Ok(Aftermath {
        garbage: Some(Garbage::new(shared, garbage)),
        ..Aftermath::default()
    })
}

/// Bytes by which the dirty memory grows when a resident user becomes dirty. Of one who is larger than half of what there may be, only
/// so many: else nothing could be written for him while he is in memory, where there is room before he is.
fn first_need(shared: &Shared, resident: &Resident) -> usize {
    if resident.is_uncommitted() {
        0
    } else {
        let bytes = size_of::<Resident>() + resident.footprint() + size_of::<Unsettled>();
        bytes.min(shared.bounds.dirty_memory.load(Relaxed) / 2)
    }
}

fn change_need(shared: &Shared, resident: &Resident, plan: &Plan) -> usize {
    let unsettled = resident.unsettled.as_ref();
    first_need(shared, resident)
        + match plan {
            Plan::Nothing | Plan::Replace(..) => 0,
            Plan::Insert(_) => resident.growth(),
            Plan::Remove(..) => deletes_growth(unsettled.map(|unsettled| &unsettled.deletes)),
        }
}

/// Bytes by which the dirty memory grows with one operation more on a user who is not resident, and
/// perhaps in no table yet.
fn absent_need(known: Option<&Absent>) -> usize {
    let unknown = Absent::default();
    let absent = known.unwrap_or(&unknown);
    let first = if absent.charged > 0 {
        0
    } else {
        size_of::<Box<Absent>>() + absent.bytes().max(size_of::<Unsettled>())
    };
    first + absent.pending.growth()
}
