//! The queue of a shard's users to load: those whom a reader waits for come before those whose
//! pending operations are to be committed.

use std::collections::VecDeque;

use read_states_sync::atomic::{AtomicBool, Ordering::SeqCst};
use read_states_sync::fail_point;

use crate::due::shrink;
use crate::id::Id;
use crate::shared::Shared;
use crate::totals::adjust;

/// Why a user is to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// His operations have waited long enough, or are many.
    Due,
    /// Somebody waits to read him.
    Awaited,
}

/// The entry of a user in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub wanted: Wanted,
    /// Differs from that of every other in the queue.
    number: u32,
}

/// Which shards have entries in their queues, for who has not locked them.
///
/// Whoever adds one calls for attention after it, and who attends looks here after he has said so. So that one of them sees what
/// the other did, without a lock between them, both are sequentially consistent.
#[derive(Debug)]
pub(crate) struct Queued {
    due: Box<[AtomicBool]>,
    awaited: Box<[AtomicBool]>,
}

impl Queued {
    pub fn new(shards: usize) -> Self {
        let nobody = || (0..shards).map(|_| AtomicBool::new(false)).collect();
        Queued {
            due: nobody(),
            awaited: nobody(),
        }
    }

    pub fn is_any(&self, shard: usize, wanted: Wanted) -> bool {
        self.of(wanted)[shard].load(SeqCst)
    }

    fn of(&self, wanted: Wanted) -> &[AtomicBool] {
        match wanted {
            Wanted::Due => &self.due,
            Wanted::Awaited => &self.awaited,
        }
    }
}

/// See the module. Nobody is searched for when he is wanted for something else, or needs no load any more: his entry
/// becomes stale, which the [ticket](crate::user::Absent::ticket) of the user tells, and is passed over.
#[derive(Debug)]
pub(crate) struct LoadQueue {
    shard: usize,
    due: VecDeque<(u32, Id)>,
    awaited: VecDeque<(u32, Id)>,
    /// Entries so far.
    pushed: u32,
}

impl LoadQueue {
    /// Of this shard.
    pub fn new(shard: usize) -> Self {
        LoadQueue {
            shard,
            due: VecDeque::new(),
            awaited: VecDeque::new(),
            pushed: 0,
        }
    }

    /// Makes room, so that nothing moves when a user is pushed next.
    pub fn reserve(&mut self) {
        fail_point!();
        self.due.reserve(1);
        self.awaited.reserve(1);
    }

    /// Gives memory back if there is much too much.
    pub fn shrink(&mut self) {
        shrink(&mut self.due);
        shrink(&mut self.awaited);
    }

    pub fn push(&mut self, shared: &Shared, user: Id, wanted: Wanted) -> Ticket {
        adjust(&shared.totals.wanted, 0, 1);
        if wanted == Wanted::Awaited {
            adjust(&shared.totals.awaited, 0, 1);
        }
        self.pushed = self.pushed.wrapping_add(1);
        let number = self.pushed;
        self.entries(wanted).push_back((number, user));
        self.publish(shared, wanted);
        Ticket { wanted, number }
    }

    pub fn pop(&mut self, shared: &Shared, wanted: Wanted) -> Option<(Ticket, Id)> {
        let (number, user) = self.entries(wanted).pop_front()?;
        adjust(&shared.totals.wanted, 1, 0);
        if wanted == Wanted::Awaited {
            adjust(&shared.totals.awaited, 1, 0);
        }
        self.publish(shared, wanted);
        Some((Ticket { wanted, number }, user))
    }

    /// Drops stale entries if they are the most. At most so many are `live`.
    pub fn compact(&mut self, shared: &Shared, live: usize, is_live: impl Fn(Ticket, Id) -> bool) {
        let before = self.len();
        if before <= 2 * live + 64 {
            return;
        }
        let awaited = self.awaited.len();
        for wanted in [Wanted::Due, Wanted::Awaited] {
            let entries = self.entries(wanted);
            entries.retain(|&(number, user)| is_live(Ticket { wanted, number }, user));
            self.publish(shared, wanted);
        }
        adjust(&shared.totals.wanted, before, self.len());
        adjust(&shared.totals.awaited, awaited, self.awaited.len());
        debug_assert!(self.len() <= live, "nobody has two tickets");
    }

    fn publish(&mut self, shared: &Shared, wanted: Wanted) {
        let any = !self.entries(wanted).is_empty();
        let published = &shared.queued.of(wanted)[self.shard];
        // Mostly it stays, and others read what lies next to it.
        if published.load(SeqCst) != any {
            published.store(any, SeqCst);
        }
    }

    fn len(&self) -> usize {
        self.due.len() + self.awaited.len()
    }

    pub fn bytes(&self) -> usize {
        (self.due.capacity() + self.awaited.capacity()) * size_of::<(u32, Id)>()
    }

    fn entries(&mut self, wanted: Wanted) -> &mut VecDeque<(u32, Id)> {
        match wanted {
            Wanted::Due => &mut self.due,
            Wanted::Awaited => &mut self.awaited,
        }
    }
}
