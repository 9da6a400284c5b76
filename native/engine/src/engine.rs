//! The engine: shards, and what goes across them.

use std::cell::Cell;
use std::{hint, ptr};

use ahash::{AHashMap, RandomState};
use read_states_journal::Journal;
use read_states_sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use read_states_sync::{Mutex, MutexGuard, RwLock, fail_point, pin};
use serde::Deserialize;

use crate::batch::Version;
use crate::directory::{Directory, Sought};
use crate::evict::{Budget, Policy};
use crate::id::Id;
use crate::journaling::Journaling;
use crate::load_queue::Queued;
use crate::now::{Micros, Now};
use crate::operation::Operation;
use crate::prefetch::prefetch;
use crate::read_state::MAX_COUNTERS;
use crate::recency::Uses;
use crate::shard::{Admission, Aftermath, Near, Owed, Shard, Write, WriteError};
use crate::shared::Shared;
use crate::slabs::{LINE, Slabs};
use crate::stats::Stats;
use crate::totals::{Bounds, Reservation, Totals};
use crate::user::Resident;

/// How often a shard that is taken is tried again before the thread sleeps until it is free: after 45 us in all by
/// chance, after 160 us where it was found taken before. To sleep and to be woken takes longer than most have the shard.
const TRIES: usize = 8;
/// Pauses of the processor before the first of these tries. Where it was measured they are 20 ns each, and together
/// as long as an operation takes.
const SHORT_WAIT: usize = 10;
/// Most pauses before a try, in which who has the shard gets more than a hundred operations done.
const LONG_WAIT: usize = 1_000;

/// What an engine is made with.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Config {
    /// Counters of a read state, 1 to 4.
    pub counters: usize,
    /// Bound on resident read states; a user counts as one at least. Users with something
    /// uncommitted, or waited for, may exceed it.
    pub capacity: usize,
    /// Bound on the bytes of everything, likewise.
    pub memory: usize,
    /// Bound on the bytes of users with something uncommitted. Writes are held to it; a load can
    /// pass it by the users it brings in, whose pending operations had less weight than they have.
    pub dirty_memory: usize,
    /// Bound on the users waiting to be loaded.
    pub load_queue: usize,
    /// Who is evicted first.
    pub policy: Policy,
    /// From the first change of a user to its commit.
    pub commit_after: Micros,
    /// Shards, a power of two.
    pub shards: usize,
    /// Parts of the shards that are loaded and committed independently.
    pub partitions: usize,
    /// Names this instance in the rows it commits.
    pub writer: u64,
    /// Highest version the store has.
    pub floor: Version,
    /// Whether other instances write to the same store, so that a journal need not know of all that is in it.
    #[serde(default)]
    pub shared: bool,
    /// Makes the hashes unpredictable to who chooses the ids.
    pub seed: u64,
}

impl Default for Config {
    /// One counter, no bounds to speak of, commits after 30 s.
    fn default() -> Self {
        Config {
            counters: 1,
            capacity: usize::MAX,
            memory: usize::MAX,
            dirty_memory: usize::MAX,
            load_queue: usize::MAX,
            policy: Policy::Clock,
            commit_after: 30_000_000,
            shards: 256,
            partitions: 1,
            writer: 0,
            floor: 0,
            shared: false,
            seed: 0,
        }
    }
}

/// New bounds; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Resize {
    /// See [`Config::capacity`].
    pub capacity: Option<usize>,
    /// See [`Config::memory`].
    pub memory: Option<usize>,
    /// See [`Config::dirty_memory`].
    pub dirty_memory: Option<usize>,
}

/// What a write that was carried out asks of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Nothing.
    No,
    /// Loads, commits or [`Engine::reclaim`] have something to do now. Said once until
    /// [`Engine::attend`].
    Yes,
}

/// An operation and whose read states it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserOperation {
    /// Whose.
    pub user: Id,
    /// What.
    pub operation: Operation,
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    shards: Box<[Mutex<Shard>]>,
    shared: Shared,
    partitions: usize,
    tokens: AtomicU64,
    flushes: AtomicU64,
    hand: AtomicUsize,
    rotation: AtomicUsize,
    /// Where the next commit of each partition begins: after the shard where the last one ended.
    turns: Box<[AtomicUsize]>,
    graveyard: Mutex<Vec<Resident>>,
    /// Whether writes are refused. A batch holds it shared, so that it is not cut in two.
    closed: RwLock<bool>,
}

impl Engine {
    /// An engine without read states.
    ///
    /// # Panics
    ///
    /// If the number of counters, shards or partitions is not possible.
    pub fn new(config: Config) -> Self {
        Self::with_journal(config, None)
    }

    /// The same, which writes all operations down. What the journal has already is read by [`Engine::recover`].
    pub fn with_journal(config: Config, journal: Option<Journal>) -> Self {
        assert!((1..=MAX_COUNTERS).contains(&config.counters));
        assert!(config.shards.is_power_of_two());
        assert!((1..=config.shards).contains(&config.partitions));
        let seed = config.seed;
        let bounds = Bounds {
            capacity: AtomicUsize::new(config.capacity),
            memory: AtomicUsize::new(config.memory),
            dirty_memory: AtomicUsize::new(config.dirty_memory),
            load_queue: config.load_queue,
        };
        let totals = Totals::default();
        let shards: Box<[_]> = (0..config.shards)
            .map(|index| Mutex::new(Shard::new(index, config.floor)))
            .collect();
        totals.memory.store(size_of_val(&*shards), Relaxed);
        Engine {
            shards,
            shared: Shared {
                directory: Directory::new(seed),
                totals,
                bounds,
                hasher: RandomState::with_seeds(seed, seed.rotate_left(16), !seed, 0xD1CE),
                counters: config.counters,
                commit_after: config.commit_after,
                queued: Queued::new(config.shards),
                policy: config.policy,
                uses: Uses::new(config.shards),
                writer: journal.as_ref().map_or(config.writer, Journal::owner),
                journaling: journal.map(|journal| Journaling::new(journal, &config)),
            },
            partitions: config.partitions,
            tokens: AtomicU64::new(1),
            flushes: AtomicU64::new(1),
            hand: AtomicUsize::new(0),
            rotation: AtomicUsize::new(0),
            turns: (0..config.partitions)
                .map(|_| AtomicUsize::new(0))
                .collect(),
            graveyard: Mutex::default(),
            closed: RwLock::new(false),
        }
    }

    /// Counters of a read state.
    pub fn counters(&self) -> usize {
        self.shared.counters
    }

    /// Carries out one operation, or keeps it until the user is loaded. Never waits for the store.
    pub fn apply(&self, user: Id, operation: &Operation, now: Now) -> Result<Wake, WriteError> {
        let hash = self.hash(user);
        // Pinned here, for the fence in it keeps the processor from reading ahead.
        let guard = pin();
        let sought = self.seek(operation);
        if let Some(sought) = sought {
            self.shared.directory.prefetch(sought, &guard);
        }
        let mut shard = self.shard(hash);
        let place = shard.prefetch(hash, sought);
        let write = Write {
            guard: &guard,
            user,
            hash,
            operation,
            sought,
            near: Near { place, hint: None },
            now,
            admission: Admission::Needed,
            batch: None,
        };
        let done = shard.apply(&self.shared, &write);
        drop(shard);
        let aftermath = done.inspect_err(|error| self.refused(*error))?;
        let mut budget = Budget::CALL;
        self.follow_up(aftermath, &mut budget, now);
        Ok(self.wake())
    }

    /// The channel of a change, for the directory.
    pub(crate) fn seek(&self, operation: &Operation) -> Option<Sought> {
        match operation {
            Operation::Change { channel, .. } => Some(self.shared.directory.seek(*channel)),
            Operation::DeleteUser => None,
        }
    }

    /// Carries out operations, those of each user in their order, all or none of them.
    pub fn apply_all(&self, operations: &[UserOperation], now: Now) -> Result<Wake, WriteError> {
        // Who cannot have the lock at once meets an engine that is being closed.
        let closed = self.closed.try_read();
        if closed.as_deref() != Some(&false) {
            return Err(WriteError::Closed);
        }
        let mut budget = Budget::CALL;
        let held = self.admit(operations);
        let _held = held.inspect_err(|error| self.refused(*error))?;
        let log = match &self.shared.journaling {
            // One is whole by itself.
            Some(journaling) if operations.len() > 1 => Some(
                journaling
                    .begin_batch(operations, &pin())
                    .map_err(WriteError::from)
                    .inspect_err(|error| self.refused(*error))?,
            ),
            _ => None,
        };
        self.apply_admitted(operations, log.as_ref(), &mut budget, now)
            .inspect_err(|error| self.refused(*error))?;
        if let Some(log) = log {
            log.finish();
        }
        Ok(self.wake())
    }

    /// Admits a batch against the bound on dirty memory, as a whole.
    fn admit(&self, operations: &[UserOperation]) -> Result<Reservation<'_>, WriteError> {
        let Shared { totals, bounds, .. } = &self.shared;
        // Mostly the bound is far away, and a rough guess shows it: no operation needs more than its user's weight, a copy
        // of his largest block and 1 KB, and the users are no larger than as many of the largest.
        let users = totals.sizes.most_of(operations.len());
        let others = operations.len().saturating_mul(1_024);
        let guess = users.saturating_mul(3).saturating_add(others);
        let used = totals.dirty_memory.load(Relaxed);
        if used.saturating_add(guess.saturating_mul(2)) <= bounds.dirty_memory.load(Relaxed)
            && let Some(held) = totals.reserve(bounds, guess)
        {
            return Ok(held);
        }
        let mut users = AHashMap::<Id, Owed>::new();
        let needs = operations.iter().map(|UserOperation { user, operation }| {
            let (hash, owed) = (self.hash(*user), users.entry(*user).or_default());
            let mut shard = self.shard(hash);
            shard.need(&self.shared, hash, *user, operation, owed)
        });
        let held = totals.reserve(bounds, needs.sum());
        held.ok_or(WriteError::Overloaded)
    }

    pub(crate) fn follow_up(&self, aftermath: Aftermath, budget: &mut Budget, now: Now) {
        fail_point!();
        if let Some(garbage) = aftermath.garbage {
            self.bury(garbage, budget);
        }
        // What is over and cannot be evicted on the way is dirty, and has to be committed first.
        if aftermath.attention || aftermath.grown && !self.evict_on_the_way(budget, now) {
            self.call_attention();
        }
    }

    fn refused(&self, error: WriteError) {
        if error == WriteError::Overloaded {
            self.shared.totals.overloads.fetch_add(1, Relaxed);
        }
    }

    /// Something waits for a load, a commit or to be freed.
    pub(crate) fn call_attention(&self) {
        self.shared.totals.call_attention();
    }

    fn wake(&self) -> Wake {
        if let Some(journaling) = &self.shared.journaling
            && journaling.journal.wants_next()
        {
            self.call_attention();
        }
        if self.shared.totals.announce() {
            Wake::Yes
        } else {
            Wake::No
        }
    }

    /// Whether more than half of the dirty memory is taken, or a change that found no room in it could find some: then all that is
    /// uncommitted should be [due](Engine::make_due), so that writes are refused only where the store does not keep up.
    pub fn wants_dirty_memory(&self) -> bool {
        let Shared { totals, bounds, .. } = &self.shared;
        totals.wants_room(bounds)
    }

    /// Whether room has to be made, by eviction or in the dirty memory: what is due should be committed at once.
    pub fn wants_commits(&self) -> bool {
        self.is_over() || self.wants_dirty_memory()
    }

    /// Everything that is uncommitted is to be committed now.
    pub fn make_due(&self) {
        // Who is refused after this asks for it again.
        self.shared.totals.make_room();
        for mut shard in self.shards() {
            shard.ledger.due.flush();
        }
    }

    /// Whoever was woken attends to it now; the next [`Wake::Yes`] will be said again.
    pub fn attend(&self) {
        self.shared.totals.attend();
    }

    /// Refuses writes from now on, or accepts them again. When it returns, every write that was
    /// accepted is done.
    pub fn close(&self, close: bool) {
        // Who looks for the lock in vain takes the engine for closed, so it is not taken for nothing.
        if !close && !self.is_closed() {
            return;
        }
        let mut closed = self.closed.write();
        fail_point!();
        // Closed as long as any shard is, should one of them panic.
        *closed = true;
        for mut shard in self.shards() {
            shard.close(close);
        }
        *closed = close;
    }

    /// Whether writes are refused.
    pub fn is_closed(&self) -> bool {
        let closed = self.closed.read();
        fail_point!();
        *closed
    }

    /// Sets new bounds and evicts until they are kept.
    pub fn resize(&self, bounds: Resize, now: Now) {
        let Bounds {
            capacity,
            memory,
            dirty_memory,
            ..
        } = &self.shared.bounds;
        for (bound, new) in [
            (capacity, bounds.capacity),
            (memory, bounds.memory),
            (dirty_memory, bounds.dirty_memory),
        ] {
            if let Some(new) = new {
                bound.store(new, Relaxed);
            }
        }
        self.evict(now);
    }

    /// Figures at a glance.
    pub fn stats(&self) -> Stats {
        let Shared { totals, bounds, .. } = &self.shared;
        let mut stats = Stats {
            channels: self.shared.directory.len(),
            load_queue: totals.wanted.load(Relaxed),
            memory: self.memory() + totals.garbage.load(Relaxed),
            dirty_memory: totals.dirty_memory.load(Relaxed),
            reusable_memory: Slabs::held(),
            capacity: bounds.capacity.load(Relaxed),
            max_memory: bounds.memory.load(Relaxed),
            max_dirty_memory: bounds.dirty_memory.load(Relaxed),
            loads: totals.loads.load(Relaxed),
            evictions: totals.evicted_users.load(Relaxed),
            evicted_states: totals.evicted_states.load(Relaxed),
            commits: totals.commits.load(Relaxed),
            committed_entries: totals.committed_entries.load(Relaxed),
            overloads: totals.overloads.load(Relaxed),
            ..Stats::default()
        };
        if let Some(journaling) = &self.shared.journaling {
            let figures = journaling.journal.figures();
            stats.journal_size = figures.bytes;
            stats.max_journal_size = figures.most;
        }
        for shard in self.shards() {
            let counts = shard.ledger.counts;
            stats.users += counts.users;
            stats.states += counts.states;
            stats.dirty_users += counts.uncommitted_users;
            stats.pending_operations += counts.pending_operations;
            stats.hits += counts.hits;
            stats.misses += counts.misses;
        }
        stats
    }

    fn memory(&self) -> usize {
        self.shared.totals.memory.load(Relaxed) + self.shared.directory.bytes()
    }

    pub(crate) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    pub(crate) fn is_over(&self) -> bool {
        let Shared { totals, bounds, .. } = &self.shared;
        totals.cost.load(Relaxed) > bounds.capacity.load(Relaxed)
            || self.memory() > bounds.memory.load(Relaxed)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn graveyard(&self) -> MutexGuard<'_, Vec<Resident>> {
        let graveyard = self.graveyard.lock();
        fail_point!();
        graveyard
    }

    pub(crate) fn next_token(&self) -> u64 {
        self.tokens.fetch_add(1, Relaxed)
    }

    pub(crate) fn next_flush(&self) -> u64 {
        self.flushes.fetch_add(1, Relaxed)
    }

    /// Users waiting to be loaded.
    pub fn load_queue(&self) -> usize {
        self.shared.totals.wanted.load(Relaxed)
    }

    pub(crate) fn hash(&self, user: Id) -> u64 {
        self.shared.hasher.hash_one(user)
    }

    pub(crate) fn shard_index(&self, hash: u64) -> usize {
        // The table in the shard uses the highest bits.
        hash as usize & (self.shards.len() - 1)
    }

    pub(crate) fn is_same_shard(&self, one: u64, other: u64) -> bool {
        self.shard_index(one) == self.shard_index(other)
    }

    pub(crate) fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        self.shard_at(self.shard_index(hash))
    }

    pub(crate) fn shard_at(&self, index: usize) -> MutexGuard<'_, Shard> {
        let shard = patiently(&self.shards[index]);
        fail_point!();
        shard
    }

    /// A shard, unless somebody else has it for so long that he may have lost his core.
    pub(crate) fn shard_soon(&self, index: usize) -> Option<MutexGuard<'_, Shard>> {
        let shard = soon(&self.shards[index]);
        fail_point!();
        shard
    }

    /// A shard, unless somebody else has it.
    pub(crate) fn try_shard_at(&self, index: usize) -> Option<MutexGuard<'_, Shard>> {
        let shard = self.shards[index].try_lock();
        fail_point!();
        shard
    }

    /// Has the processor fetch a shard before it is locked.
    pub(crate) fn prefetch_shard(&self, index: usize) {
        let shard = &raw const self.shards[index];
        for line in 0..size_of_val(&self.shards[index]).div_ceil(LINE) {
            prefetch(shard.wrapping_byte_add(line * LINE));
        }
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        (0..self.shards.len()).map(|index| self.shard_at(index))
    }

    /// The shard at which eviction goes on.
    pub(crate) fn next_to_evict_from(&self) -> usize {
        self.hand.fetch_add(1, Relaxed) & (self.shards.len() - 1)
    }

    /// The partition by which the user is loaded and committed.
    pub fn partition_of(&self, user: Id) -> usize {
        self.shard_index(self.hash(user)) % self.partitions
    }

    /// The shards of a partition, from another one on each time, so that none is always last.
    pub(crate) fn partition_shards(&self, partition: usize) -> impl Iterator<Item = usize> + use<> {
        self.partition_shards_from(partition, self.rotation.fetch_add(1, Relaxed))
    }

    fn partition_shards_from(
        &self,
        partition: usize,
        start: usize,
    ) -> impl Iterator<Item = usize> + use<> {
        let members = (partition..self.shards.len()).step_by(self.partitions);
        let start = start % members.len().max(1);
        members.clone().skip(start).chain(members.take(start))
    }

    /// The shards of a partition, for a commit. It says after each shard that it is [done](Self::end_turn) with it.
    pub(crate) fn shards_in_turn(&self, partition: usize) -> impl Iterator<Item = usize> + use<> {
        self.partition_shards_from(partition, self.turns[partition].load(Relaxed))
    }

    /// The next commit of the partition begins after this shard: whatever becomes of this one, all have their turn.
    pub(crate) fn end_turn(&self, partition: usize, shard: usize) {
        self.turns[partition].store(shard / self.partitions + 1, Relaxed);
    }

    /// Locks the shards of a partition one after the other.
    pub(crate) fn partition(
        &self,
        partition: usize,
    ) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        let shards = self.partition_shards(partition);
        shards.map(|index| self.shard_at(index))
    }
}

/// Locks a shard.
fn patiently(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Shuttle has the waits, and all that can happen in them.
    if cfg!(feature = "shuttle") {
        return shard.lock();
    }
    soon(shard).unwrap_or_else(|| shard.lock())
}

/// The same, without going to sleep over it.
fn soon(shard: &Mutex<Shard>) -> Option<MutexGuard<'_, Shard>> {
    shard.try_lock().or_else(|| after_a_wait(shard))
}

thread_local! {
    /// Where the shard is that this thread has last waited for. Only ever compared.
    static TAKEN: Cell<*const Mutex<Shard>> = const { Cell::new(ptr::null()) };
}

/// Tries a shard that was found taken, after a wait each.
///
/// Who finds one taken by chance waits as long as an operation takes, and each time twice as long, up to the long wait. Who has
/// last waited for the same shard most likely wants the same user as somebody else, and waits long at once: so one of them
/// gets many of its operations done while the user is in its core's cache, instead of sending him to and fro with each.
#[cold]
fn after_a_wait(shard: &Mutex<Shard>) -> Option<MutexGuard<'_, Shard>> {
    let again = TAKEN.replace(shard) == ptr::from_ref(shard);
    let mut pauses = if again { LONG_WAIT } else { SHORT_WAIT };
    for _ in 0..TRIES {
        (0..pauses).for_each(|_| hint::spin_loop());
        if let Some(shard) = shard.try_lock() {
            return Some(shard);
        }
        pauses = (2 * pauses).min(LONG_WAIT);
    }
    None
}
