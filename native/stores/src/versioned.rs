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

/// How far below the highest version a delete must be to be forgotten: an
/// hour, in microseconds.
pub const REMEMBERED: Version = 3_600_000_000;

/// Hashes of users for which the highest version is kept.
pub const SLOTS: usize = 4_096;

/// Changes after which a write is cut between two users, so that a batch which
/// deletes many users needs no memory for all their rows. What is cut stays
/// whole for each user, and the batch can be committed again.
const PIECE: usize = 20_000;

/// Deletes looked at by one commit that brings deletes, beyond twice what it brings.
const FORGOTTEN: usize = 1_000;

/// A table under the version rule.
#[derive(Debug)]
pub struct Versioned<T> {
    table: T,
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

        let mut highest = self.highest.lock();
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
