//! What a shard knows of one user: its read states if it is resident, else the operations
//! that wait for them.

use std::collections::VecDeque;

use read_states_sync::fail_point;

use crate::batch::Version;
use crate::evict::MOST_USES;
use crate::flush::Epoch;
use crate::id::{Channel, Id};
use crate::load_queue::Ticket;
use crate::now::{Micros, Now};
use crate::pending::Pending;
use crate::read_state_set::ReadStateSet;

/// How long a user stays for those who waited for it, should they never read.
const PIN_SECONDS: u32 = 2;

fn seconds(now: Now) -> u32 {
    (now.monotonic / 1_000_000) as u32
}

/// A user whose read states are all in memory, in one allocation with them.
pub(crate) type Resident = ReadStateSet<Owner>;

/// Whose read states they are.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    pub id: Id,
    /// What the store does not have yet; none for a user who is clean.
    pub unsettled: Option<Box<Unsettled>>,
    /// Second of the monotonic clock at which the pins expire: a reader may have died.
    pub pinned_until: u32,
    /// Differs from that of the same user when he was resident before.
    pub arrival: u32,
    /// The lower half of the number of his last use, with [`Policy::Lru`](crate::evict::Policy).
    pub last_use: u32,
    /// Readers who waited for the load and have not read yet.
    pub pins: u16,
    /// How often the eviction hand passes before the user goes, at most [`MOST_USES`].
    pub uses: u8,
    /// Known to have a change that is in no snapshot, without a look at what is unsettled.
    pub changed: bool,
}

/// What of a resident user the store does not have yet. Which read states those are, each
/// read state says itself.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// When the commit is due; also tells a live entry of the due queue from a stale one.
    pub deadline: Micros,
    /// Whether the user was put into the queue of those to commit at once, and has been in no commit since.
    pub hurried: bool,
    /// Epoch of the oldest change that is in no snapshot.
    pub epoch: Option<Epoch>,
    pub flight: Option<Flight>,
    pub deletes: Deletes,
    /// Bytes counted as dirty memory for this user.
    pub charged: usize,
}

/// The one commit of the user that is under way.
#[derive(Debug)]
pub(crate) struct Flight {
    pub token: u64,
    /// Epoch of the oldest change in the snapshot, if it has all of them.
    pub epoch: Option<Epoch>,
    pub deletes: DeletesInFlight,
}

/// Deletes the store has not seen. Rows written after a delete have higher versions.
#[derive(Debug, Default)]
pub(crate) struct Deletes {
    /// Of the whole user.
    pub user: Option<Version>,
    /// Of single channels, oldest first, all after that of the user.
    pub channels: VecDeque<DeletedChannel>,
    /// Which of them a commit has written to the journal, once more.
    pub written: DeletesInFlight,
}

/// The delete of one channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeletedChannel {
    pub channel: Channel,
    /// When it was accepted: in the journal, what came after it is above that.
    pub accepted: Version,
    /// For the store. Later than that, if the row is of another writer whose clock is ahead.
    pub version: Version,
}

/// Which of them a snapshot has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DeletesInFlight {
    pub user: Option<Version>,
    /// The first so many of the channels.
    pub channels: usize,
}

/// A user whose read states are not in memory, but for whom something waits.
#[derive(Debug, Default)]
pub(crate) struct Absent {
    pub id: Id,
    /// In the order of their acceptance, but for those of an earlier life; never one that deletes the user, which
    /// makes him resident, unless he is [recovered](Absent::recovered).
    pub pending: Pending,
    /// Whether some of them were accepted in an earlier life, so that the store may have them, or while those were
    /// still to come.
    pub recovered: bool,
    /// As for [`Unsettled`]; only with operations that wait.
    pub deadline: Micros,
    /// As for [`Unsettled`]; with operations that wait.
    pub epoch: Option<Epoch>,
    /// Since which epoch the journal has all of them once more, see [`crate::stragglers`].
    pub carried: Option<Epoch>,
    pub charged: usize,
    /// Token of the load under way.
    pub load: Option<u64>,
    /// His entry in the queue of those to load, if he is in it; others of his are stale.
    pub ticket: Option<Ticket>,
    /// Whether to commit at once when loaded.
    pub hurried: bool,
    /// Readers who wait for the load.
    pub waiters: u16,
}

impl Unsettled {
    pub fn new(deadline: Micros, epoch: Epoch) -> Self {
        Unsettled {
            deadline,
            hurried: false,
            epoch: Some(epoch),
            flight: None,
            deletes: Deletes::default(),
            charged: 0,
        }
    }

    /// The delete of the whole user takes the place of those of single channels.
    pub fn delete_user(&mut self, version: Version) {
        self.deletes = Deletes {
            user: Some(version),
            ..Deletes::default()
        };
        if let Some(flight) = &mut self.flight {
            // Its snapshot had deletes of channels that are no longer in the list.
            flight.deletes.channels = 0;
        }
    }
}

impl Flight {
    /// Of a commit that has nothing of the user yet.
    pub fn new(token: u64) -> Self {
        Flight {
            token,
            epoch: None,
            deletes: DeletesInFlight::default(),
        }
    }
}

impl DeletesInFlight {
    /// Whether no delete is left for a later commit.
    pub fn are_all(&self, deletes: &Deletes) -> bool {
        self.user == deletes.user && self.channels == deletes.channels.len()
    }
}

impl Deletes {
    /// Makes room, so that nothing moves when a delete is pushed next.
    pub fn reserve(&mut self) {
        fail_point!();
        self.channels.reserve(1);
    }

    pub fn push(&mut self, channel: Channel, version: Version) {
        self.channels.push_back(DeletedChannel {
            channel,
            accepted: version,
            version,
        });
    }

    pub fn is_empty(&self) -> bool {
        self.user.is_none() && self.channels.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.channels.capacity() * size_of::<DeletedChannel>()
    }

    /// Forgets what a finished commit had.
    pub fn settle(&mut self, in_flight: DeletesInFlight) {
        if self.user == in_flight.user {
            self.user = None;
        }
        self.channels.drain(..in_flight.channels);
        self.written.channels = self.written.channels.saturating_sub(in_flight.channels);
        if self.channels.is_empty() {
            self.channels = VecDeque::new();
        }
    }
}

impl Owner {
    /// Whether somebody who waited for the load still has to read.
    pub fn is_pinned(&self, now: Now) -> bool {
        self.pins > 0 && seconds(now) <= self.pinned_until
    }

    /// Keeps the user from being evicted until [`Owner::unpin`], for a while.
    pub fn pin(&mut self, now: Now) {
        self.pins = self.pins.saturating_add(1);
        self.pinned_until = seconds(now) + PIN_SECONDS;
    }

    /// He is used.
    pub fn note_use(&mut self) {
        self.uses = (self.uses + 1).min(MOST_USES);
    }

    /// Somebody has read.
    pub fn unpin(&mut self) {
        self.pins = self.pins.saturating_sub(1);
    }

    /// Whether the store lacks something of the user.
    pub fn is_uncommitted(&self) -> bool {
        self.unsettled.is_some()
    }

    /// When the commit of what is uncommitted is due.
    pub fn deadline(&self) -> Option<Micros> {
        let unsettled = self.unsettled.as_ref();
        unsettled.map(|unsettled| unsettled.deadline)
    }
}

impl Resident {
    /// What the user counts against the capacity: one read state at least, so that users
    /// without any cannot fill the memory.
    pub fn cost(&self) -> usize {
        self.len().max(1)
    }

    /// Bytes of the user, apart from the table.
    pub fn footprint(&self) -> usize {
        let unsettled = self.unsettled.as_ref();
        let uncommitted = unsettled.map_or(0, |unsettled| {
            size_of::<Unsettled>() + unsettled.deletes.bytes()
        });
        self.bytes() + uncommitted
    }
}

impl Absent {
    pub fn new(id: Id) -> Self {
        Absent {
            id,
            ..Absent::default()
        }
    }

    /// Bytes outside the table.
    pub fn bytes(&self) -> usize {
        size_of::<Absent>() + self.pending.bytes()
    }

    /// The user with the read states that were loaded. Whoever waited has time to read them.
    /// If operations were pending, the user is taken to have uncommitted changes, for which there is `room`.
    pub fn into_resident(self, mut set: Resident, mut room: Box<Unsettled>, now: Now) -> Resident {
        *set = Owner {
            id: self.id,
            unsettled: self.epoch.map(|epoch| {
                *room = Unsettled::new(self.deadline, epoch);
                room.charged = self.charged;
                room
            }),
            pinned_until: seconds(now) + PIN_SECONDS,
            arrival: 0,
            last_use: 0,
            pins: self.waiters,
            // Who waited will use him.
            uses: u8::from(self.waiters == 0),
            changed: false,
        };
        set
    }

    /// The epoch from which on the journal has to keep what it has of the pending operations.
    pub fn kept(&self) -> Option<Epoch> {
        self.carried.or(self.epoch)
    }

    /// When the pending operations are to be committed, if there are any.
    pub fn deadline(&self) -> Option<Micros> {
        self.epoch.map(|_| self.deadline)
    }
}
