//! Sums over all shards, and the bounds they are held against.

use read_states_sync::atomic::Ordering::{Relaxed, SeqCst};
use read_states_sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};

use crate::sizes::Sizes;

/// Bounds that can change while the engine runs.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// Read states.
    pub capacity: AtomicUsize,
    /// Bytes of everything.
    pub memory: AtomicUsize,
    /// Bytes of users with something uncommitted.
    pub dirty_memory: AtomicUsize,
    /// Users waiting to be loaded.
    pub load_queue: usize,
}

/// Sums that more than one shard needs. Only what changes the size of something touches them,
/// so the hot path does not.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// What the resident users count against the capacity.
    pub cost: AtomicUsize,
    /// Resident users.
    pub residents: AtomicUsize,
    /// Bytes of everything but the directory and garbage.
    pub memory: AtomicUsize,
    /// Bytes of what has left the tables and is not freed yet.
    pub garbage: AtomicUsize,
    /// Bytes of users with something uncommitted, and what batches under way reserve of it.
    pub dirty_memory: AtomicUsize,
    /// Of these, what is reserved.
    reserved: AtomicUsize,
    /// Whether a change was refused that there is room for once others are committed.
    refused: AtomicBool,
    /// Whether a commit has failed, until somebody was loaded for it.
    pub commit_failed: AtomicBool,
    /// Of resident users, by their bytes.
    pub sizes: Sizes,
    /// Users waiting to be loaded.
    pub wanted: AtomicUsize,
    /// Those of them whom a reader waits for.
    pub awaited: AtomicUsize,
    /// Whether somebody should load, commit or free something soon.
    attention: AtomicU8,
    pub loads: AtomicU64,
    pub evicted_users: AtomicU64,
    pub evicted_states: AtomicU64,
    pub commits: AtomicU64,
    pub committed_entries: AtomicU64,
    pub overloads: AtomicU64,
}

/// Nothing needs attention.
const CALM: u8 = 0;
/// Something does, and nobody has been told.
const CALLED: u8 = 1;
/// Somebody has been told.
const ANNOUNCED: u8 = 2;

/// Moves a sum from `before` to `after` of one of its parts.
pub(crate) fn adjust(sum: &AtomicUsize, before: usize, after: usize) {
    if after > before {
        sum.fetch_add(after - before, Relaxed);
    } else if after < before {
        sum.fetch_sub(before - after, Relaxed);
    }
}

/// Dirty memory that is held for changes under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    totals: &'a Totals,
    bytes: usize,
}

impl Totals {
    /// Holds `bytes` of dirty memory, unless that would pass the bound. The changes count what
    /// they really take themselves.
    pub fn reserve(&self, bounds: &Bounds, bytes: usize) -> Option<Reservation<'_>> {
        if bytes > 0 {
            let bound = bounds.dirty_memory.load(Relaxed);
            // Never more than that, even for a moment: another change might be refused for what is not held after all.
            let held = self.dirty_memory.fetch_update(Relaxed, Relaxed, |held| {
                held.checked_add(bytes).filter(|after| *after <= bound)
            });
            if held.is_err() {
                if bytes <= bound {
                    self.refused.store(true, Relaxed);
                    self.call_attention();
                }
                return None;
            }
            self.reserved.fetch_add(bytes, Relaxed);
            // Commits are to make room before there is none.
            if self.wants_room(bounds) {
                self.call_attention();
            }
        }
        Some(Reservation {
            totals: self,
            bytes,
        })
    }

    /// Something waits for a load, a commit or to be freed. Why it is sequentially consistent is said at
    /// [`Queued`](crate::load_queue::Queued).
    pub fn call_attention(&self) {
        let _ = self
            .attention
            .compare_exchange(CALM, CALLED, SeqCst, SeqCst);
    }

    /// Whether attention was called for; true only once until [`Totals::attend`].
    pub fn announce(&self) -> bool {
        self.attention.load(Relaxed) == CALLED
            && self
                .attention
                .compare_exchange(CALLED, ANNOUNCED, Relaxed, Relaxed)
                .is_ok()
    }

    pub fn attend(&self) {
        self.attention.store(CALM, SeqCst);
    }

    /// Counts a finished load.
    pub fn loaded(&self, users: usize) {
        self.loads.fetch_add(users as u64, Relaxed);
    }

    /// Counts a finished commit.
    pub fn committed(&self, entries: usize) {
        self.commits.fetch_add(1, Relaxed);
        self.committed_entries.fetch_add(entries as u64, Relaxed);
    }

    /// Counts an evicted user.
    pub fn evicted(&self, states: usize) {
        self.evicted_users.fetch_add(1, Relaxed);
        self.evicted_states.fetch_add(states as u64, Relaxed);
    }

    /// What a resident user counts against the capacity, on average.
    pub fn mean_cost(&self) -> usize {
        self.cost.load(Relaxed) / self.residents.load(Relaxed).max(1)
    }

    /// Whether commits are to make room in the dirty memory: more than half of it is taken, apart from what is only reserved, or
    /// a change was refused since [`Totals::make_room`].
    pub fn wants_room(&self, bounds: &Bounds) -> bool {
        let reserved = self.reserved.load(Relaxed);
        let taken = self.dirty_memory.load(Relaxed).saturating_sub(reserved);
        taken > bounds.dirty_memory.load(Relaxed) / 2 || self.refused.load(Relaxed)
    }

    /// Somebody sees to it that commits make room.
    pub fn make_room(&self) {
        self.refused.store(false, Relaxed);
    }

    /// Whether the dirty memory has passed its bound.
    pub fn is_too_dirty(&self, bounds: &Bounds) -> bool {
        self.dirty_memory.load(Relaxed) > bounds.dirty_memory.load(Relaxed)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        adjust(&self.totals.dirty_memory, self.bytes, 0);
        adjust(&self.totals.reserved, self.bytes, 0);
    }
}
