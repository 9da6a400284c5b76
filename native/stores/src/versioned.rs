//! The version rule: which of two writes to a place wins.
//!
//! An entry of a batch applies only if its version is above what is there: the
//! version of the row, of the delete of the channel and of the delete of the
//! user. An equal version is the same write come again and changes nothing, so
//! entries may come late, twice and in any order. For that a delete leaves a
//! record behind.
//!
//! # Forgetting deletes
//!
//! Remembered deletes would grow for ever. One is needed only as long as a
//! commit may still arrive that was stamped before it, and versions are the
//! microseconds at which a commit was stamped: a commit task is given up, and
//! stamped anew, within minutes. So a commit that brings deletes first forgets
//! some of those, oldest first, that are more than [`REMEMBERED`] below the
//! highest version, more of them than it brings. (A clock set forward by more
//! than that takes them early; only a commit under way at that moment could
//! notice.) Whoever opens files that nobody else has open may forget them all
//! ([`Versioned::forget_deletes`]): no commit of an earlier life can arrive.
//!
//! # Without reading first
//!
//! Most rows are newer than all that is in the store of their user. So for each
//! of [`SLOTS`] hashes of users the highest version committed is kept, at the
//! start the floor; an entry above it applies without a look at the table.

use crate::key::{Key, Place};
use crate::record::Record;
use crate::table::{Changes, KeyRange, Table};
use crate::{Page, StoreError};
use parking_lot::Mutex;
use read_states_engine::batch::{Batch, BatchBuilder, Entry, Row, Version};
use read_states_engine::id::Id;
use std::cmp::Reverse;
use std::ops::{Bound, ControlFlow};
use std::time::Duration;

/// How far below the highest version a delete must be to be forgotten: ten
/// minutes, in microseconds. Commits wait for each other here and nowhere else, and
/// who gives one up does so after a minute.
pub const REMEMBERED: Version = 600_000_000;

/// Hashes of users for which the highest version is kept: 2 MB, so many that
/// the users of batches under way at the same time share few of them.
pub const SLOTS: usize = 1 << 18;

/// Changes after which a write is cut between two users, so that a batch which
/// deletes many users needs no memory for all their rows. What is cut stays
/// whole for each user, and the batch can be committed again.
const PIECE: usize = 20_000;

/// Deletes looked at by one commit that brings deletes, beyond twice what it brings.
const FORGOTTEN: usize = 1_000;

/// How long a commit waits for the one before it: less than an instance waits for a commit, so that those who wait do
/// not take all threads that the loads need too.
const PATIENCE: Duration = Duration::from_secs(30);

/// A table under the version rule.
#[derive(Debug)]
pub struct Versioned<T> {
    table: T,
    patience: Duration,
    /// Held from the check of a version to the write.
    highest: Mutex<Highest>,
}

#[derive(Debug)]
struct Highest {
    overall: Version,
    of_users: Box<[Version]>,
    /// Every remembered delete is at or above it.
    oldest_delete: Version,
}

impl<T: Table> Versioned<T> {
    /// Puts a table, empty or written by this module, under the rule.
    pub fn new(table: T) -> Result<Self, StoreError> {
        let floor = table.get(Key::Floor)?.map_or(0, |floor| floor.version);
        let highest = Highest {
            overall: floor,
            of_users: vec![floor; SLOTS].into_boxed_slice(),
            oldest_delete: 0,
        };
        Ok(Versioned {
            table,
            patience: PATIENCE,
            highest: Mutex::new(highest),
        })
    }

    /// The highest version ever committed, 0 if none.
    pub fn floor(&self) -> Version {
        self.highest.lock().overall
    }

    /// Forgets every delete. Only for who knows that no commit is under way.
    pub fn forget_deletes(&self) -> Result<(), StoreError> {
        let mut highest = self.highest.lock();
        while !self.forget(&mut highest, Version::MAX, PIECE)? {}
        Ok(())
    }

    /// Writes a batch whose rows have `counters` counters.
    pub fn commit(&self, batch: &[u8], counters: usize) -> Result<(), StoreError> {
        let batch = Batch::check(batch)?;
        if batch.counters() != counters {
            let why = format!("{} counters, expected {counters}", batch.counters());
            return Err(StoreError::InvalidBatch(why));
        }
        let entries = batch
            .map(|entry| Ok(place_and_record(&entry?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let Some(version) = entries.iter().map(|(_, record)| record.version).max() else {
            return Ok(());
        };
        let deletes = entries.iter().filter(|(_, record)| record.row.is_none());
        let deletes = deletes.count();
        let entries = newest_of_each_place(entries);

        let highest = self.highest.try_lock_for(self.patience);
        let mut highest = highest.ok_or(StoreError::Timeout(self.patience))?;
        highest.overall = highest.overall.max(version);
        if deletes > 0
            && let Some(horizon) = highest.overall.checked_sub(REMEMBERED)
        {
            self.forget(&mut highest, horizon, FORGOTTEN + 2 * deletes)?;
        }
        let mut changes = Changes::new();
        for entries in entries.chunk_by(|(a, _), (b, _)| a.user == b.user) {
            if changes.len() >= PIECE {
                self.write(std::mem::take(&mut changes), &highest)?;
            }
            self.commit_user(&mut highest, entries, &mut changes)?;
        }
        self.write(changes, &highest)
    }

    /// A page of what is kept of `users`.
    pub fn load(
        &self,
        users: &[Id],
        cursor: Option<&[u8]>,
        limit: usize,
        counters: usize,
    ) -> Result<Page, StoreError> {
        let after = after(cursor)?;
        let mut users = users.to_vec();
        users.sort_unstable();
        users.dedup();
        users.retain(|user| after.is_none_or(|after| *user >= after.user));
        let mut ranges = users.into_iter().map(|user| {
            let start = match after {
                Some(after) if after.user == user => Bound::Excluded(after),
                _ => Bound::Included(Place::first(user)),
            };
            records(start, Place::last(user))
        });
        self.page(&mut ranges, limit, counters)
    }

    /// A page of everything.
    pub fn scan(
        &self,
        cursor: Option<&[u8]>,
        limit: usize,
        counters: usize,
    ) -> Result<Page, StoreError> {
        let start = after(cursor)?.map_or(Bound::Included(Place::FIRST), Bound::Excluded);
        let range = records(start, Place::LAST);
        self.page(&mut std::iter::once(range), limit, counters)
    }

    fn page(
        &self,
        ranges: &mut dyn Iterator<Item = KeyRange>,
        limit: usize,
        counters: usize,
    ) -> Result<Page, StoreError> {
        let mut builder = BatchBuilder::new(counters);
        let mut last = None;
        let mut more = false;
        self.table.visit(ranges, &mut |key, record| {
            let Key::Record(place) = key else {
                return ControlFlow::Continue(());
            };
            if builder.len() >= limit.max(1) {
                more = true;
                return ControlFlow::Break(());
            }
            builder.push(&entry(place, record));
            last = Some(place);
            ControlFlow::Continue(())
        })?;
        Ok(Page {
            batch: builder.finish(),
            next: last.filter(|_| more).map(Place::to_bytes),
        })
    }

    /// Adds to `changes` what the entries of one user, sorted by place and one
    /// for each, change in the table.
    fn commit_user(
        &self,
        highest: &mut Highest,
        entries: &[(Place, Record)],
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let user = entries[0].0.user;
        let known = &mut highest.of_users[slot(user)];
        let is_new = |record: &Record| record.version > *known;
        // Some(0) is above None: nothing there.
        let mut deleted = None;
        if !entries.iter().all(|(_, record)| is_new(record)) {
            deleted = self.version(Place::first(user))?;
        }
        for &(place, record) in entries {
            let version = Some(record.version);
            if version <= deleted {
                continue;
            }
            if place.channel.is_none() {
                deleted = version;
                self.remove_user(user, record.version, changes)?;
            } else if !is_new(&record) && version <= self.version(place)? {
                continue;
            }
            if record.row.is_none() {
                let key = Key::Deleted(record.version, place);
                changes.insert(key, Some(record));
                highest.oldest_delete = highest.oldest_delete.min(record.version);
            }
            changes.insert(Key::Record(place), Some(record));
        }
        // Even if the write fails: an unknown part of it may have happened.
        let newest = entries.iter().map(|(_, record)| record.version);
        *known = newest.fold(*known, Version::max);
        Ok(())
    }

    /// Removes what the user has that is not above `version`. All in one
    /// write, however many rows that are (a removal takes some 100 bytes of
    /// memory), so that a crash leaves no user half deleted.
    fn remove_user(
        &self,
        user: Id,
        version: Version,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let range = records(Bound::Included(Place::first(user)), Place::last(user));
        self.table
            .visit(&mut std::iter::once(range), &mut |key, record| {
                if record.version <= version {
                    changes.insert(key, None);
                }
                ControlFlow::Continue(())
            })
    }

    fn version(&self, place: Place) -> Result<Option<Version>, StoreError> {
        let record = self.table.get(Key::Record(place))?;
        Ok(record.map(|record| record.version))
    }

    fn write(&self, mut changes: Changes, highest: &Highest) -> Result<(), StoreError> {
        changes.insert(Key::Floor, Some(Record::deleted(highest.overall)));
        self.table.write(changes, true)
    }

    /// Forgets up to `limit` deletes below `horizon`, oldest first; whether there are no more.
    fn forget(
        &self,
        highest: &mut Highest,
        horizon: Version,
        limit: usize,
    ) -> Result<bool, StoreError> {
        if highest.oldest_delete > horizon {
            return Ok(true);
        }
        let range = (
            Bound::Included(Key::Deleted(highest.oldest_delete, Place::FIRST)),
            Bound::Included(Key::Deleted(horizon, Place::LAST)),
        );
        let mut found = Vec::new();
        let mut more = false;
        self.table
            .visit(&mut std::iter::once(range), &mut |key, _| {
                if found.len() == limit {
                    more = true;
                    return ControlFlow::Break(());
                }
                if let Key::Deleted(version, place) = key {
                    found.push((version, place));
                }
                ControlFlow::Continue(())
            })?;
        let mut changes = Changes::new();
        for &(version, place) in &found {
            changes.insert(Key::Deleted(version, place), None);
            // A newer write may have taken the place since.
            let key = Key::Record(place);
            if self.table.get(key)? == Some(Record::deleted(version)) {
                changes.insert(key, None);
            }
        }
        if !changes.is_empty() {
            self.table.write(changes, false)?;
        }
        highest.oldest_delete = match found.last() {
            Some(&(version, _)) if more => version,
            _ => horizon,
        };
        Ok(!more)
    }
}

/// Sorted by place, and of the entries of a place only the one that wins: the
/// highest version, of equal ones the first.
fn newest_of_each_place(mut entries: Vec<(Place, Record)>) -> Vec<(Place, Record)> {
    entries.sort_by_key(|(place, record)| (*place, Reverse(record.version)));
    entries.dedup_by_key(|(place, _)| *place);
    entries
}

fn place_and_record(entry: &Entry) -> (Place, Record) {
    match *entry {
        Entry::Row(row) => {
            let place = Place {
                user: row.user,
                channel: Some(row.channel),
            };
            let record = Record {
                version: row.version,
                row: Some((row.writer, row.state)),
            };
            (place, record)
        }
        Entry::DeleteChannel {
            user,
            channel,
            version,
        } => {
            let channel = Some(channel);
            (Place { user, channel }, Record::deleted(version))
        }
        Entry::DeleteUser { user, version } => (Place::first(user), Record::deleted(version)),
    }
}

fn entry(place: Place, record: Record) -> Entry {
    let user = place.user;
    let version = record.version;
    match (place.channel, record.row) {
        (None, _) => Entry::DeleteUser { user, version },
        (Some(channel), None) => Entry::DeleteChannel {
            user,
            channel,
            version,
        },
        (Some(channel), Some((writer, state))) => Entry::Row(Row {
            user,
            channel,
            version,
            writer,
            state,
        }),
    }
}

fn after(cursor: Option<&[u8]>) -> Result<Option<Place>, StoreError> {
    let place = |bytes| Place::from_bytes(bytes).ok_or(StoreError::InvalidCursor);
    cursor.map(place).transpose()
}

fn records(start: Bound<Place>, end: Place) -> KeyRange {
    (start.map(Key::Record), Bound::Included(Key::Record(end)))
}

/// Fibonacci hashing: the top bits depend on all bits of the user.
fn slot(user: Id) -> usize {
    let bits = SLOTS.trailing_zeros();
    (user.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - bits)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryTable;
    use crate::model::{batch, entries, pages, row};
    use read_states_engine::id::Channel;

    fn empty() -> Versioned<MemoryTable> {
        Versioned::new(MemoryTable::default()).unwrap()
    }

    fn commit<T: Table>(store: &Versioned<T>, entries: &[Entry]) {
        store.commit(&batch(entries), 1).unwrap();
    }

    fn scan<T: Table>(store: &Versioned<T>) -> Vec<Entry> {
        pages(7, |cursor| store.scan(cursor, 7, 1))
    }

    fn delete(user: Id, id: Id, version: Version) -> Entry {
        let channel = Channel { kind: 0, id };
        Entry::DeleteChannel {
            user,
            channel,
            version,
        }
    }

    fn keys(store: &Versioned<MemoryTable>) -> Vec<Key> {
        let mut keys = Vec::new();
        let all = (Bound::Unbounded, Bound::Unbounded);
        let mut each = |key, _| {
            keys.push(key);
            ControlFlow::Continue(())
        };
        store
            .table
            .visit(&mut std::iter::once(all), &mut each)
            .unwrap();
        keys
    }

    #[test]
    fn a_late_write_does_not_undo_a_delete() {
        let store = empty();
        commit(&store, &[row(1, 2, 1)]);
        commit(&store, &[delete(1, 2, 3)]);
        commit(&store, &[row(1, 2, 2)]);
        assert_eq!(scan(&store), [delete(1, 2, 3)]);
        commit(&store, &[row(1, 2, 4)]);
        assert_eq!(scan(&store), [row(1, 2, 4)]);
    }

    #[test]
    fn a_delete_of_a_user_leaves_newer_rows_of_the_same_batch_in_any_order() {
        let user = Entry::DeleteUser {
            user: 1,
            version: 10,
        };
        let mut given = [row(1, 3, 11), user, row(1, 2, 10), row(1, 4, 12)];
        for _ in 0..given.len() {
            given.rotate_left(1);
            let store = empty();
            commit(&store, &[row(1, 2, 5), row(1, 3, 4), row(1, 9, 9)]);
            commit(&store, &given);
            assert_eq!(scan(&store), [user, row(1, 3, 11), row(1, 4, 12)]);
        }
    }

    #[test]
    fn deletes_are_forgotten_once_newer_ones_come_and_take_no_newer_row_with_them() {
        let store = empty();
        let old = [delete(1, 1, 1), delete(1, 2, 2), delete(2, 1, 3)];
        commit(&store, &old);
        commit(&store, &[row(1, 2, 4)]);
        let new = delete(9, 9, 10 + REMEMBERED);
        commit(&store, &[new]);
        assert_eq!(scan(&store), [row(1, 2, 4), new]);
        let place = |user, id| Place {
            user,
            channel: Some(Channel { kind: 0, id }),
        };
        let left = [
            Key::Floor,
            Key::Deleted(new.version(), place(9, 9)),
            Key::Record(place(1, 2)),
            Key::Record(place(9, 9)),
        ];
        assert_eq!(keys(&store), left);
        assert_eq!(store.floor(), 10 + REMEMBERED);
    }

    #[test]
    fn deletes_of_the_last_minutes_are_remembered() {
        let store = empty();
        commit(&store, &[delete(1, 1, 5)]);
        commit(&store, &[delete(1, 2, 4 + REMEMBERED)]);
        commit(&store, &[row(1, 1, 3)]);
        assert_eq!(
            scan(&store),
            [delete(1, 1, 5), delete(1, 2, 4 + REMEMBERED)]
        );
    }

    #[test]
    fn one_commit_forgets_a_bounded_number_but_more_than_it_brings() {
        let store = empty();
        let many: Vec<_> = (0..10_000).map(|n| delete(1, n, n)).collect();
        commit(&store, &many);
        for n in 0..10 {
            let remembered = scan(&store).len();
            commit(&store, &[delete(2, n, n + 1_000_000 + REMEMBERED)]);
            let forgotten = remembered + 1 - scan(&store).len();
            assert_eq!(forgotten, if n < 9 { FORGOTTEN + 2 } else { 982 });
        }
        // One that comes late is remembered, and forgotten with the next.
        commit(&store, &[delete(1, 3, 7)]);
        assert!(scan(&store).contains(&delete(1, 3, 7)));
        commit(&store, &[delete(2, 10, 2_000_000 + REMEMBERED)]);
        assert_eq!(scan(&store).len(), 11);
    }

    #[test]
    fn all_deletes_can_be_forgotten() {
        let store = empty();
        let user = |version| Entry::DeleteUser { user: 2, version };
        let many: Vec<_> = (0..50_000).map(|n| delete(1, n, n)).collect();
        commit(&store, &many);
        commit(&store, &[row(1, 7, 8), user(3), row(2, 1, 4)]);
        store.forget_deletes().unwrap();
        assert_eq!(scan(&store), [row(1, 7, 8), row(2, 1, 4)]);
        assert_eq!(keys(&store).len(), 3);
    }

    #[test]
    fn a_user_of_100_000_rows_is_read_in_pages_and_deleted() {
        let store = empty();
        let rows: Vec<_> = (0..100_000).map(|n| row(5, n, n + 1)).collect();
        commit(&store, &rows);
        commit(&store, &[row(4, 1, 1), row(6, 1, 1)]);
        let read = pages(10_000, |cursor| store.load(&[5], cursor, 10_000, 1));
        assert_eq!(read, rows);
        let user = Entry::DeleteUser {
            user: 5,
            version: 99_999,
        };
        commit(&store, &[user]);
        let left = [row(4, 1, 1), user, rows[99_999], row(6, 1, 1)];
        assert_eq!(scan(&store), left);
    }

    /// Counts the writes.
    #[derive(Debug, Default)]
    struct Counted {
        table: MemoryTable,
        largest: Mutex<Vec<usize>>,
    }

    impl Table for Counted {
        fn get(&self, key: Key) -> Result<Option<Record>, StoreError> {
            self.table.get(key)
        }

        fn visit(
            &self,
            ranges: &mut dyn Iterator<Item = KeyRange>,
            each: &mut dyn FnMut(Key, Record) -> ControlFlow<()>,
        ) -> Result<(), StoreError> {
            self.table.visit(ranges, each)
        }

        fn write(&self, changes: Changes, durable: bool) -> Result<(), StoreError> {
            self.largest.lock().push(changes.len());
            self.table.write(changes, durable)
        }
    }

    #[test]
    fn a_batch_that_deletes_many_rows_is_written_in_pieces_of_whole_users() {
        let store = Versioned::new(Counted::default()).unwrap();
        for user in 0..10 {
            let rows: Vec<_> = (0..9_000).map(|n| row(user, n, n)).collect();
            commit(&store, &rows);
        }
        store.table.largest.lock().clear();
        let users = (0..10).map(|user| Entry::DeleteUser {
            user,
            version: 9_000,
        });
        let users: Vec<_> = users.collect();
        commit(&store, &users);
        assert_eq!(scan(&store), users);
        // Of each user the rows, the delete and its index; of each write the floor.
        let user = 9_002;
        let sizes = [3 * user + 1, 3 * user + 1, 3 * user + 1, user + 1];
        assert_eq!(*store.table.largest.lock(), sizes);
    }

    /// A table whose writes wait as long as somebody else has the lock.
    #[derive(Default)]
    struct Held {
        table: MemoryTable,
        held: Mutex<()>,
    }

    impl Table for Held {
        fn get(&self, key: Key) -> Result<Option<Record>, StoreError> {
            self.table.get(key)
        }

        fn visit(
            &self,
            ranges: &mut dyn Iterator<Item = KeyRange>,
            each: &mut dyn FnMut(Key, Record) -> ControlFlow<()>,
        ) -> Result<(), StoreError> {
            self.table.visit(ranges, each)
        }

        fn write(&self, changes: Changes, durable: bool) -> Result<(), StoreError> {
            let _held = self.held.lock();
            self.table.write(changes, durable)
        }
    }

    #[test]
    fn a_commit_waits_for_another_one_for_a_while_and_a_load_for_none() {
        let mut store = Versioned::new(Held::default()).unwrap();
        store.patience = Duration::from_millis(50);
        let held = store.table.held.lock();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| store.commit(&batch(&[row(1, 1, 1)]), 1));
            while !store.highest.is_locked() {
                std::thread::yield_now();
            }
            let late = store.commit(&batch(&[row(2, 1, 2)]), 1).unwrap_err();
            assert_eq!(late.reason(), "timeout");
            assert_eq!(scan(&store), []);
            drop(held);
            first.join().unwrap().unwrap();
        });
        commit(&store, &[row(2, 1, 2)]);
        assert_eq!(scan(&store), [row(1, 1, 1), row(2, 1, 2)]);
    }

    #[test]
    fn what_is_no_batch_or_cursor_of_this_store_is_refused() {
        let store = empty();
        let reason = |result: Result<(), StoreError>| result.unwrap_err().reason();
        assert_eq!(reason(store.commit(b"no", 1)), "invalid_batch");
        let mut cut = batch(&[row(1, 1, 1), row(1, 2, 1)]);
        cut.pop();
        assert_eq!(reason(store.commit(&cut, 1)), "invalid_batch");
        let other = BatchBuilder::new(2).finish();
        assert_eq!(reason(store.commit(&other, 1)), "invalid_batch");
        assert_eq!(scan(&store), []);
        let page = store.scan(Some(b"no"), 1, 1);
        assert_eq!(page.unwrap_err().reason(), "invalid_cursor");
        let page = store.scan(None, 0, 1).unwrap();
        assert_eq!(entries(&page.batch), []);
    }
}
