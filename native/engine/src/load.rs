//! Loading: a user becomes resident with what the store has of him, and the operations that
//! waited are merged in their order.

use std::cmp::Reverse;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use read_states_sync::atomic::Ordering::Relaxed;
use read_states_sync::{MutexGuard, pin};
use scopeguard::ScopeGuard;

use crate::batch::{Batch, BatchError, Entry, MAX_LOADED_VERSION, Row, Version};
use crate::engine::Engine;
use crate::garbage::{Loose, release};
use crate::id::{Channel, Id};
use crate::insist::insist;
use crate::load_queue::Wanted;
use crate::now::Now;
use crate::operation::{Change, Operation};
use crate::pending::{Pending, Stamped};
use crate::plan::{Hint, Plan};
use crate::read_state::{MAX_COUNTERS, ReadState};
use crate::shard::{MAX_PENDING, Shard};
use crate::shared::Shared;
use crate::user::{DeletedChannel, Resident, Unsettled};

/// Pending operations that are merged under the lock, of those that came while the others were merged outside it: to wait
/// until none come might be in vain.
const MERGED_UNDER_LOCK: usize = 64;
const MERGED_AT_ONCE: usize = 1_024;
/// Channels whose numbers are fetched at the same time, and with one epoch.
const ACQUIRED_AT_ONCE: usize = 64;
/// Users who are uncommitted, past the bound on dirty memory, beside whom others are loaded one by one.
const MOST_STUCK: usize = 500;

/// A load under way: give it the pages of the store with [`Load::add`], then [`Load::finish`] it.
/// Dropped unfinished, it has failed: operations that waited go on waiting.
#[derive(Debug)]
pub struct Load {
    engine: Arc<Engine>,
    token: u64,
    wanted: Wanted,
    users: Vec<Id>,
    staged: AHashMap<Id, Staged>,
}

/// What the store has of one user, as far as it is read.
#[derive(Debug, Default)]
struct Staged {
    rows: Vec<Row>,
    /// The highest of all.
    version: Version,
    /// Of the delete of the whole user, if the store remembers one; else 0.
    deleted: Version,
}

/// What a finished load brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Users who are resident now.
    pub users: usize,
    /// Their read states.
    pub states: usize,
    /// Whether some of them are to be committed now.
    pub due: bool,
}

/// What [`Engine::begin_load`] found.
#[derive(Debug, Default)]
pub struct Begun {
    /// Users who are to be loaded, unless there are none.
    pub load: Option<Load>,
    /// Users who were queued but need no load any more.
    pub settled: Vec<Id>,
    /// Whether it was not looked everywhere, so that there may be more to find.
    pub more: bool,
}

impl Engine {
    /// Starts the load of up to `most` users who are wanted in a partition: of those somebody waits
    /// for, or if there are none, of those who are due. So nobody waits for users he did not ask for.
    /// Each user is part of one load at a time. So many entries of the queue are looked at, and there
    /// may be nobody in them who is still to be loaded, see [`Begun::more`]. Users whose shard somebody else has for long
    /// are passed over, unless there are no others. For callers who do not let the two take turns.
    pub fn begin_load(self: &Arc<Self>, partition: usize, most: usize) -> Begun {
        let begun = self.begin_awaited_load(partition, most);
        if begun.load.is_some() || !begun.settled.is_empty() || begun.more {
            return begun;
        }
        self.begin_due_load(partition, most)
    }

    /// As [`Engine::begin_load`], but only of users who are due. The caller sees to it that they get their turn, however many
    /// others are waited for.
    pub fn begin_due_load(self: &Arc<Self>, partition: usize, most: usize) -> Begun {
        // A user who is brought in takes more dirty memory than his pending operations did.
        // Once that is past its bound, commits have to make room first, if there is anything to commit.
        if self.is_too_dirty() {
            let committable: usize = self.shards().map(|shard| shard.committable()).sum();
            if committable > 0 {
                return self.begin_load_beside(committable, partition);
            }
        }
        self.begin_load_of(Wanted::Due, partition, most)
    }

    /// Those who are to be committed first may be the ones the store never takes. So for each commit that failed one user is let in.
    fn begin_load_beside(self: &Arc<Self>, committable: usize, partition: usize) -> Begun {
        let failed = &self.shared().totals.commit_failed;
        if committable > MOST_STUCK || !failed.load(Relaxed) {
            return Begun::default();
        }
        let begun = self.begin_load_of(Wanted::Due, partition, 1);
        if begun.load.is_some() {
            failed.store(false, Relaxed);
        }
        begun
    }

    /// Whether the dirty memory is past its bound.
    fn is_too_dirty(&self) -> bool {
        let Shared { totals, bounds, .. } = self.shared();
        totals.is_too_dirty(bounds)
    }

    /// As [`Engine::begin_load`], of users somebody waits for only.
    pub fn begin_awaited_load(self: &Arc<Self>, partition: usize, most: usize) -> Begun {
        self.begin_load_of(Wanted::Awaited, partition, most)
    }

    fn begin_load_of(self: &Arc<Self>, wanted: Wanted, partition: usize, most: usize) -> Begun {
        let mut load = Load {
            engine: Arc::clone(self),
            token: self.next_token(),
            wanted,
            users: Vec::new(),
            staged: AHashMap::new(),
        };
        let (mut settled, mut taken) = (Vec::new(), Vec::new());
        let mut left = most;
        let queued = &self.shared().queued;
        let shards = self.partition_shards(partition);
        let mut shards = shards.filter(|index| queued.is_any(*index, wanted));
        while left > 0
            && let Some(index) = shards.next()
        {
            match self.shard_soon(index) {
                Some(mut shard) => load.fill(&mut shard, &mut left, &mut settled),
                None => taken.push(index),
            }
        }
        // The caller, and all who have their turn on his core after him, wait for who has one of these only if they must.
        while load.users.is_empty()
            && let Some(index) = taken.pop()
        {
            load.fill(&mut self.shard_at(index), &mut left, &mut settled);
        }
        Begun {
            load: (!load.users.is_empty()).then_some(load),
            settled,
            more: left == 0 || !taken.is_empty(),
        }
    }
}

impl Load {
    /// The users to load.
    pub fn users(&self) -> &[Id] {
        &self.users
    }

    /// Whether somebody waits for the users.
    pub fn is_awaited(&self) -> bool {
        self.wanted == Wanted::Awaited
    }

    /// Takes users from the queue of a shard, of which `left` more are to be looked at. Those who need no load are `settled`.
    fn fill(&mut self, shard: &mut Shard, left: &mut usize, settled: &mut Vec<Id>) {
        let engine = &self.engine;
        while !shard.unread
            && *left > 0
            && let Some((ticket, user)) = shard.load_queue.pop(engine.shared(), self.wanted)
        {
            *left -= 1;
            match shard.absent(engine.hash(user), user) {
                Some(absent) => {
                    if absent.ticket == Some(ticket) {
                        // Before anything that can panic: then dropping it has him wait again.
                        absent.ticket = None;
                        absent.load = Some(self.token);
                        self.users.push(user);
                    }
                }
                None => settled.push(user),
            }
        }
    }

    /// Takes a user out, into a load of his own that begins anew. `None` if he is no part of this one.
    pub fn part(&mut self, user: Id) -> Option<Load> {
        let at = self.users.iter().position(|it| *it == user)?;
        self.staged.remove(&user);
        let mut alone = Load {
            engine: Arc::clone(&self.engine),
            // It tells this load from an earlier one of the same user, so others may have it too.
            token: self.token,
            wanted: self.wanted,
            users: Vec::with_capacity(1),
            staged: AHashMap::new(),
        };
        alone.users.push(self.users.swap_remove(at));
        Some(alone)
    }

    /// Adds a page of what the store has; returns the number of its entries. Entries of users
    /// who are not part of the load are kept until its end, and not looked at; counters the engine has not are passed over.
    pub fn add(&mut self, page: &[u8]) -> Result<usize, BatchError> {
        let counters = self.engine.shared().counters;
        let mut entries = 0;
        for entry in Batch::check(page)? {
            let entry = entry?;
            entries += 1;
            if entry.version() > MAX_LOADED_VERSION {
                return Err(BatchError::Version(entry.version()));
            }
            let staged = self.staged.entry(entry.user()).or_default();
            staged.version = staged.version.max(entry.version());
            match entry {
                Entry::Row(mut row) => {
                    row.state.counters[counters..MAX_COUNTERS].fill(0);
                    staged.rows.push(row);
                }
                // Its version is all that counts, see `Merge::contains`.
                Entry::DeleteChannel { .. } => {}
                Entry::DeleteUser { version, .. } => {
                    staged.deleted = staged.deleted.max(version);
                }
            }
        }
        Ok(entries)
    }

    /// Gives the load up. Says whether operations of its users go on waiting.
    pub fn fail(mut self) -> bool {
        self.give_up()
    }

    fn give_up(&mut self) -> bool {
        let mut pending = false;
        while let Some(user) = self.users.last().copied() {
            let hash = self.engine.hash(user);
            let mut shard = self.engine.shard(hash);
            pending |= shard.fail_load(self.engine.shared(), hash, user, self.token);
            // Only now: should it panic, dropping goes on with him.
            self.users.pop();
        }
        pending
    }

    /// Makes the users resident, except those who became so in another way meanwhile.
    pub fn finish(mut self, now: Now) -> Loaded {
        let engine = Arc::clone(&self.engine);
        let (mut loaded, mut some) = (Loaded::default(), Vec::new());
        while let Some(user) = self.users.last().copied() {
            let staged = self.staged.remove(&user).unwrap_or_default();
            let merge = engine.merge(user, self.token, staged, &mut some);
            if let Some((states, due)) = engine.install(user, self.token, merge, &mut some, now) {
                loaded.users += 1;
                loaded.states += states;
                loaded.due |= due;
            }
            // Only now: should it panic, dropping gives him up with the others.
            self.users.pop();
        }
        engine.shared().totals.loaded(loaded.users);
        engine.evict(now);
        loaded
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        insist(self.users.len(), || {
            self.give_up();
        });
    }
}

impl Engine {
    /// A user as the store has him, with the operations that have waited so far. `some` is room for operations, here and
    /// below.
    fn merge(&self, user: Id, token: u64, staged: Staged, some: &mut Vec<Stamped>) -> Merge<'_> {
        let mut merge = Merge::new(self.shared(), staged);
        if let Some(shard) = self.catch_up(user, token, &mut merge, some) {
            // Where he goes next.
            shard.residents.prefetch(self.hash(user));
            drop(shard);
            merge.apply(some);
        }
        merge
    }

    /// Puts a user in the table. Says how many read states he has, and whether he is to be committed now; `None` if the
    /// load is stale.
    fn install(
        &self,
        user: Id,
        token: u64,
        mut merge: Merge<'_>,
        some: &mut Vec<Stamped>,
        now: Now,
    ) -> Option<(usize, bool)> {
        let mut shard = self.catch_up(user, token, &mut merge, some)?;
        // It takes as long as he has read states, and waits only for who is recovered: that was merged before.
        debug_assert!(some.iter().all(|(_, it)| *it != Operation::DeleteUser));
        merge.apply(some);
        let states = merge.set.len();
        let (due, left) = shard.install(self.shared(), self.hash(user), user, merge, now);
        drop(shard);
        // It may be much to free.
        drop(left);
        Some((states, due))
    }

    /// Merges operations that wait for a user, without the lock of his shard, until those that came meanwhile are few:
    /// the shard, and in `some` those. `None` if the load is stale.
    fn catch_up(
        &self,
        user: Id,
        token: u64,
        merge: &mut Merge,
        some: &mut Vec<Stamped>,
    ) -> Option<MutexGuard<'_, Shard>> {
        let hash = self.hash(user);
        let mut unordered = 0;
        some.clear();
        loop {
            // Not under the lock.
            some.reserve(MERGED_AT_ONCE);
            let mut shard = self.shard(hash);
            let absent = shard.absent(hash, user)?;
            if absent.load != Some(token) {
                return None;
            }
            let pending = &absent.pending;
            if absent.recovered && !merge.recovered {
                debug_assert_eq!(merge.applied, 0, "none is loaded before he is recovered");
                merge.recovered = true;
                unordered = pending.len();
            }
            if merge.applied < unordered {
                // Those of an earlier life lie as their room in the journal was taken, perhaps twice. Whatever came since
                // is later than all of them.
                let left = unordered - some.len();
                pending.copy(some.len(), left.min(MERGED_AT_ONCE), some);
                drop(shard);
                if some.len() == unordered {
                    some.sort_unstable_by_key(|(version, _)| *version);
                    some.dedup_by_key(|(version, _)| *version);
                    merge.apply(some);
                    merge.applied = unordered;
                    some.clear();
                }
                continue;
            }
            pending.copy(merge.applied, MERGED_AT_ONCE, some);
            if pending.len() - merge.applied <= MERGED_UNDER_LOCK {
                return Some(shard);
            }
            drop(shard);
            merge.apply(some);
            some.clear();
        }
    }
}

/// A user on the way in: the rows of the store and, on top, what waited.
struct Merge<'a> {
    shared: &'a Shared,
    /// Given up unless it arrives.
    set: Loose<'a>,
    /// What the store has, its rows by channel.
    stored: Staged,
    /// Whether some operations are of an earlier life.
    recovered: bool,
    /// Then, the channels of the operations that were carried out since the last delete of the user.
    touched: AHashSet<Channel>,
    /// Pending operations that are applied.
    applied: usize,
    changed: bool,
    deleted: Vec<DeletedChannel>,
    deleted_user: Option<Version>,
}

impl<'a> Merge<'a> {
    fn new(shared: &'a Shared, mut stored: Staged) -> Self {
        let rows = &mut stored.rows;
        // A store that returns a row twice must not break the order; the later one counts.
        rows.sort_unstable_by_key(|row| (row.channel, Reverse(row.version)));
        rows.dedup_by_key(|row| row.channel);
        let numbered: Vec<(u32, ReadState)> = Vec::with_capacity(rows.len());
        // Given back unless they come into the set.
        let mut numbered = scopeguard::guard(numbered, |numbered| {
            release(shared, numbered.iter().map(|(number, _)| *number));
        });
        let mut sought = Vec::with_capacity(rows.len().min(ACQUIRED_AT_ONCE));
        for rows in rows.chunks(ACQUIRED_AT_ONCE) {
            let guard = pin();
            let directory = &shared.directory;
            sought.extend(rows.iter().map(|row| directory.seek(row.channel)));
            directory.prefetch_all(&sought, &guard);
            for (sought, row) in sought.drain(..).zip(rows) {
                numbered.push((directory.acquire(sought, &guard), row.state));
            }
        }
        numbered.sort_unstable_by_key(|(number, _)| *number);
        let set = Resident::from_sorted(shared.counters, &numbered);
        ScopeGuard::into_inner(numbered);
        Merge {
            shared,
            set: Loose::new(shared, set),
            stored,
            recovered: false,
            touched: AHashSet::new(),
            applied: 0,
            changed: false,
            deleted: Vec::new(),
            deleted_user: None,
        }
    }

    fn apply(&mut self, operations: &[Stamped]) {
        self.applied += operations.len();
        for (version, operation) in operations {
            match operation {
                _ if self.recovered && self.contains(*version, operation) => {}
                Operation::Change { channel, change } => {
                    self.change(*version, *channel, change);
                }
                Operation::DeleteUser => self.delete_user(*version),
            }
        }
    }

    /// Whether the store has the operation already: in a row whose version is above it, for a commit
    /// takes all that was accepted before. Rows of other writers were stamped by other clocks.
    ///
    /// The delete of a channel says nothing: it may have a version above what was accepted after it, see
    /// [`DeletedChannel`]. What it deleted is carried out again, and so is the delete, which the journal has for as long.
    fn contains(&self, version: Version, operation: &Operation) -> bool {
        if version <= self.stored.deleted {
            return true;
        }
        let Operation::Change { channel, .. } = operation else {
            return false;
        };
        let row = self.stored.row(*channel);
        let row = row.filter(|row| row.writer == self.shared.writer);
        row.is_some_and(|row| version <= row.version)
    }

    fn change(&mut self, version: Version, channel: Channel, change: &Change) {
        let guard = pin();
        let directory = &self.shared.directory;
        let sought = directory.seek(channel);
        let hint = Hint::new(&self.set, directory, &guard, sought);
        let plan = Plan::new(&self.set, change, hint);
        self.changed |= !matches!(plan, Plan::Nothing);
        if matches!(plan, Plan::Remove(..)) {
            // Above the row, even one that another writer's clock has stamped.
            let row = self.stored.row(channel).map_or(0, |row| row.version + 1);
            self.deleted.push(DeletedChannel {
                channel,
                accepted: version,
                version: version.max(row),
            });
        }
        plan.carry_out(&mut self.set, directory, &guard, channel);
        if self.recovered {
            self.touched.insert(channel);
        }
    }

    /// Of an earlier life. What the store has of a later time stays.
    fn delete_user(&mut self, version: Version) {
        // What is below the delete before is gone, unless something was carried out on it since.
        let before = self.deleted_user.unwrap_or(0);
        let stored = self.stored.rows.iter();
        let stored = stored.filter(|row| (before..version).contains(&row.version));
        let mut older: Vec<Channel> = stored.map(|row| row.channel).collect();
        older.extend(&self.touched);
        for channel in older {
            // Of a row that the store has of a later time, what was carried out is in it.
            if self
                .stored
                .row(channel)
                .is_none_or(|row| row.version < version)
            {
                self.change(version, channel, &Change::Delete);
            }
        }
        self.touched.clear();
        self.changed = true;
        self.deleted_user = Some(version);
        // It says the same of those that were deleted before.
        self.deleted.clear();
    }
}

impl Staged {
    fn row(&self, channel: Channel) -> Option<&Row> {
        let at = self.rows.binary_search_by_key(&channel, |row| row.channel);
        Some(&self.rows[at.ok()?])
    }
}

impl Shard {
    /// Says whether the user is to be committed now, and returns what is left of the operations that were merged, and of
    /// what the store has.
    fn install(
        &mut self,
        shared: &Shared,
        hash: u64,
        user: Id,
        merge: Merge,
        now: Now,
    ) -> (bool, (Box<Pending>, Staged)) {
        let unsettled = Box::<Unsettled>::default();
        let mut merged = Box::<Pending>::default();
        self.reserve_resident();
        // Nothing moves from here on, until he is in the other table.
        let absent = self.take_absent(shared, hash, user);
        let mut absent = absent.expect("the caller found the user absent under the same lock");
        std::mem::swap(&mut *merged, &mut absent.pending);
        // A delete that was merged may have the version after that.
        self.ledger.stamp.raise(merge.stored.version + 1);
        let hurried = absent.hurried;
        let mut due = false;
        let mut resident = absent.into_resident(merge.set.into_set(), unsettled, now);
        if let Some(mut unsettled) = resident.unsettled.take() {
            if merge.changed {
                if let Some(version) = merge.deleted_user {
                    unsettled.delete_user(version);
                }
                unsettled.deletes.channels = merge.deleted.into();
                let awaited = unsettled
                    .epoch
                    .is_some_and(|epoch| self.ledger.epochs.is_awaited(epoch));
                due = hurried || awaited;
                if due {
                    self.ledger.hurry(user, &mut unsettled);
                }
                resident.unsettled = Some(unsettled);
            } else {
                self.ledger.clean(shared, &unsettled);
            }
        }
        self.add_resident(shared, hash, resident);
        (due, (merged, merge.stored))
    }

    /// Says whether operations of the user go on waiting.
    fn fail_load(&mut self, shared: &Shared, hash: u64, user: Id, token: u64) -> bool {
        self.load_queue.reserve();
        let Some(absent) = self.absent(hash, user) else {
            return false;
        };
        if absent.load != Some(token) {
            return false;
        }
        absent.load = None;
        absent.waiters = 0;
        let pending = absent.epoch.is_some();
        if !pending {
            self.take_absent(shared, hash, user);
        } else if absent.hurried || absent.pending.len() > MAX_PENDING {
            self.want_at_once(shared, hash, user, Wanted::Due);
        }
        self.count_memory(shared);
        pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchBuilder;
    use crate::engine::Config;
    use crate::read::Found;

    #[test]
    fn a_user_who_is_taken_out_is_loaded_or_fails_on_his_own() {
        let engine = Arc::new(Engine::new(Config::default()));
        let channel = Channel { kind: 0, id: 3 };
        let users = [1, 2, 3];
        for user in users {
            engine.want(user).unwrap();
        }
        let mut load = engine.begin_load(0, 3).load.unwrap();
        let mut page = BatchBuilder::new(1);
        for user in users {
            let state = ReadState {
                last_message_id: 5,
                ..ReadState::default()
            };
            page.push(&Entry::Row(Row {
                user,
                channel,
                version: 10,
                writer: 0,
                state,
            }));
        }
        let page = page.finish();
        load.add(&page).unwrap();
        let mut second = load.part(2).unwrap();
        let third = load.part(3).unwrap();
        assert!(load.part(2).is_none());
        assert!(load.part(4).is_none());
        assert_eq!(load.finish(Now::default()).users, 1);
        assert!(matches!(engine.get(1, channel), Ok(Found::Resident(_))));
        assert_eq!(engine.stats().users, 1);

        assert!(second.users() == [2] && second.is_awaited());
        second.add(&page).unwrap();
        let loaded = Loaded {
            users: 1,
            states: 1,
            due: false,
        };
        assert_eq!(second.finish(Now::default()), loaded);
        assert!(matches!(engine.get(2, channel), Ok(Found::Resident(_))));

        third.fail();
        engine.want(3).unwrap();
        let again = engine.begin_load(0, 3).load.unwrap();
        assert_eq!(again.users(), [3]);
    }

    fn engine_of_four_shards() -> Arc<Engine> {
        Arc::new(Engine::new(Config {
            shards: 4,
            ..Config::default()
        }))
    }

    fn shard_of(engine: &Engine, user: Id) -> usize {
        engine.shard_index(engine.hash(user))
    }

    fn queued(engine: &Engine) -> usize {
        let queued = &engine.shared().queued;
        let shards = 0..engine.shard_count();
        shards
            .filter(|shard| queued.is_any(*shard, Wanted::Awaited))
            .count()
    }

    #[test]
    fn who_is_in_a_shard_that_is_taken_is_loaded_after_the_others() {
        let engine = engine_of_four_shards();
        for user in 0..100 {
            engine.want(user).unwrap();
        }
        assert_eq!(queued(&engine), 4);
        let is_first = |user: &Id| shard_of(&engine, *user) == 0;

        let taken = engine.shard_at(0);
        let begun = engine.begin_load(0, 100);
        let others = begun.load.unwrap();
        drop(taken);
        assert!(begun.more && !others.users().iter().any(is_first));
        assert_eq!(queued(&engine), 1);
        let begun = engine.begin_load(0, 100);
        let rest = begun.load.unwrap();
        assert!(!begun.more && rest.users().iter().all(is_first));
        assert_eq!(others.users().len() + rest.users().len(), 100);
        assert_eq!(queued(&engine), 0);
        assert!(engine.begin_load(0, 100).load.is_none());

        assert!(!others.fail() && !rest.fail());
        engine.want(1).unwrap();
        assert_eq!(queued(&engine), 1);
    }

    #[test]
    fn a_shard_that_is_taken_is_waited_for_if_nobody_else_is_to_be_loaded() {
        let engine = engine_of_four_shards();
        let mut first = (0..).filter(|user| shard_of(&engine, *user) == 0);
        let mut others = (0..).filter(|user| shard_of(&engine, *user) != 0);
        let (wanted, stale) = (first.next().unwrap(), others.next().unwrap());
        for user in [wanted, stale] {
            engine.want(user).unwrap();
        }
        // Now he is known.
        let deleted = engine.apply(stale, &Operation::DeleteUser, Now::default());
        deleted.unwrap();

        let (take, taken) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _shard = engine.shard_at(0);
                take.send(()).unwrap();
                // Somewhat longer than it is tried without going to sleep.
                std::thread::sleep(std::time::Duration::from_millis(20));
            });
            taken.recv().unwrap();
            let begun = engine.begin_load(0, 100);
            assert_eq!(begun.load.unwrap().users(), [wanted]);
            assert_eq!(begun.settled, [stale]);
            assert!(!begun.more);
        });
    }

    #[test]
    fn what_comes_while_a_user_is_merged_is_merged_once_and_in_order() {
        let [counted, put] = [3, 4].map(|id| Channel { kind: 0, id });
        for came in [0, 1, MERGED_UNDER_LOCK, MERGED_UNDER_LOCK + 1, 3_000] {
            let engine = Arc::new(Engine::new(Config::default()));
            let write = |message| {
                let increment = Change::Increment {
                    message,
                    counter: 0,
                    by: 1,
                };
                let state = ReadState {
                    last_message_id: message,
                    ..ReadState::default()
                };
                for (channel, change) in [(counted, increment), (put, Change::Put { state })] {
                    let operation = Operation::Change { channel, change };
                    engine.apply(1, &operation, Now::default()).unwrap();
                }
            };
            (1..=3).for_each(write);
            engine.want(1).unwrap();
            let mut load = engine.begin_load(0, 1).load.unwrap();
            let mut some = Vec::new();
            let merge = engine.merge(1, load.token, Staged::default(), &mut some);
            let last = 3 + came as u32;
            (4..=last.into()).for_each(write);
            let installed = engine.install(1, load.token, merge, &mut some, Now::default());
            assert_eq!(installed, Some((2, false)));
            load.users.clear();
            let get = |channel| match engine.get(1, channel) {
                Ok(Found::Resident(state)) => state,
                other => panic!("{other:?}"),
            };
            assert_eq!(get(counted).counters[0], last);
            assert_eq!(get(put).last_message_id, last.into());
            assert_eq!(engine.stats().pending_operations, 0);
        }
    }

    #[test]
    fn who_is_deleted_while_he_is_merged_is_not_installed() {
        let engine = Arc::new(Engine::new(Config::default()));
        let channel = Channel { kind: 0, id: 3 };
        let change = Change::Ack { message: 5 };
        let ack = Operation::Change { channel, change };
        engine.apply(1, &ack, Now::default()).unwrap();
        engine.want(1).unwrap();
        let load = engine.begin_load(0, 1).load.unwrap();
        let mut some = Vec::new();
        let merge = engine.merge(1, load.token, Staged::default(), &mut some);
        let delete = Operation::DeleteUser;
        engine.apply(1, &delete, Now::default()).unwrap();
        let installed = engine.install(1, load.token, merge, &mut some, Now::default());
        assert_eq!(installed, None);
        let stats = engine.stats();
        assert_eq!((stats.users, stats.states, stats.channels), (1, 0, 0));
    }

    #[test]
    fn of_a_row_that_comes_twice_the_later_counts() {
        let engine = Arc::new(Engine::new(Config::default()));
        let channel = Channel { kind: 0, id: 3 };
        let state = |last_message_id| ReadState {
            last_message_id,
            ..ReadState::default()
        };
        engine.want(1).unwrap();
        let mut load = engine.begin_load(0, 1).load.unwrap();
        for (version, message) in [(10, 5), (12, 7), (11, 6)] {
            let mut page = BatchBuilder::new(1);
            page.push(&Entry::Row(Row {
                user: 1,
                channel,
                version,
                writer: 0,
                state: state(message),
            }));
            load.add(&page.finish()).unwrap();
        }
        let loaded = Loaded {
            users: 1,
            states: 1,
            due: false,
        };
        assert_eq!(load.finish(Now::default()), loaded);
        assert_eq!(engine.get(1, channel), Ok(Found::Resident(state(7))));
        assert_eq!(engine.stats().channels, 1);
    }
}
