//! What the journal has of an earlier life, carried out again: the operations wait for their users to be loaded.
//!
//! There can be many more than the memory should hold at once. So they are read again for as many shards
//! as there is room for, and when users of those are loaded and their operations merged, for the next. Until the turn of a shard comes, none
//! of its users is loaded, as he would lack what he is to be given; whoever asks for one waits, and what is written waits
//! with the rest.

use std::io;
use std::ops::Range;

use ahash::{AHashMap, AHashSet};
use read_states_journal::{Damage, Reader};
use read_states_sync::atomic::Ordering::Relaxed;

use crate::batch::Version;
use crate::engine::Engine;
use crate::fail_point::fail_point;
use crate::journal_record::{self, Said};
use crate::journaling::Journaling;
use crate::now::Now;
use crate::pending::Stamped;
use crate::user::Absent;

/// Bytes that an operation takes if it is the only one of its user, with what tables and queues need.
const BYTES: usize = size_of::<Absent>() + 2 * size_of::<Stamped>();

/// What was found in the journal at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Operations to be merged when their users are loaded.
    pub operations: u64,
    /// Operations of batches that never ended: of calls that did not return.
    pub cut: u64,
    /// Operations of batches that did, of which others are damaged; or, where anything is damaged, perhaps their end.
    pub broken: u64,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// Up to which version the store had confirmed commits, if it is below that now: an older copy of it was brought
    /// back, or it has lost them, perhaps all. 0 if not. A store that does not know how far it is seems to be empty.
    pub lost_by_store: Version,
}

/// How far the recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Everything waits in the engine, or is in the store.
    Done,
    /// Some shards had their turn. What they brought is to be loaded and committed at once.
    Portion,
    /// There is no room: what the last portion brought has to be merged first.
    Waits,
}

/// What is still to be read again.
#[derive(Debug)]
pub(crate) struct Unread {
    reader: Reader,
    /// Operations of each shard.
    operations: Box<[usize]>,
    /// Batches of which something is missing.
    partial: AHashSet<u64>,
    /// The first shard whose turn has not come.
    from: usize,
    /// The shards whose turn it is, and how far that is, if it had to be given up in the middle.
    portion: Option<Portion>,
}

/// Some shards whose turn it is.
#[derive(Debug)]
struct Portion {
    shards: Range<usize>,
    /// Segments that were read.
    segments: usize,
    /// Operations that were found in them.
    found: usize,
}

impl Engine {
    /// Reads what the journal has of an earlier life, and begins to carry it out: there is more to do if
    /// [`Engine::recover_more`] says so. To be called once, before all else.
    pub fn recover(&self, now: Now) -> io::Result<Recovered> {
        let Some(journaling) = &self.shared().journaling else {
            return Ok(Recovered::default());
        };
        let mut reader = journaling.journal.reader();
        let mut known = Known::new(self.shard_count());
        reader.for_each(|tag, words| {
            known.note(journal_record::decode(tag, words), |user| {
                self.shard_index(self.hash(user))
            });
        })?;
        let mark = journaling.journal.highest_mark();
        // Where a header is damaged, which is reported, the mark was in it perhaps.
        let is_mark_lost = reader.damage().iter().any(Damage::is_of_header);
        if known.highest > 0 && journaling.floor > mark && !journaling.shared && !is_mark_lost {
            let why = "the store was written to without this journal since, or it is the journal of another store";
            return Err(io::Error::other(why));
        }
        known.oldest_segment = reader.oldest();
        let stored = journaling.journal.highest_stored();
        let is_older = journaling.floor < stored;
        let recovered = Recovered {
            damage: reader.damage().to_vec(),
            lost_by_store: if is_older { stored } else { 0 },
            ..known.count(reader.damage())
        };
        journaling
            .next_batch
            .store(known.highest_batch + 1, Relaxed);
        let highest = known.highest.max(mark);
        for (mut shard, operations) in self.shards().zip(&known.operations) {
            shard.ledger.stamp.raise(highest);
            shard.unread = *operations > 0;
        }
        journaling.journal.forget_empty(&mut reader)?;
        // From now on the store is this journal's, and what it has is older than all that will be written.
        journaling.journal.mark(highest.max(journaling.floor));
        journaling.journal.sync()?;
        journaling.begin_upkeep(now);
        *journaling.unread.lock() = Some(Unread {
            reader,
            partial: known.partial(),
            operations: known.operations,
            from: 0,
            portion: None,
        });
        self.recover_more(now)?;
        Ok(recovered)
    }

    /// Whether [`Engine::recover_more`] has more to do.
    pub fn is_recovering(&self) -> bool {
        let journaling = self.shared().journaling.as_ref();
        journaling.is_some_and(Journaling::is_recovering)
    }

    /// Goes on with the recovery as far as there is room. May take seconds.
    pub fn recover_more(&self, now: Now) -> io::Result<Recovery> {
        let Some(journaling) = &self.shared().journaling else {
            return Ok(Recovery::Done);
        };
        let mut unread = journaling.unread.lock();
        fail_point!();
        let Some(rest) = &mut *unread else {
            return Ok(Recovery::Done);
        };
        if rest.portion.is_none() {
            let waiting =
                (0..rest.from).map(|at| self.shard_at(at).ledger.counts.pending_operations);
            let bound = self.shared().bounds.dirty_memory.load(Relaxed);
            let Some(shards) = rest.next(bound / BYTES, waiting.sum()) else {
                return Ok(Recovery::Waits);
            };
            rest.portion = Some(Portion {
                shards,
                segments: 0,
                found: 0,
            });
        }
        let shards = self.recover_portion(rest, now)?;
        let is_last = shards.end == rest.operations.len();
        let flush = self.next_flush();
        for index in shards.clone() {
            let mut shard = self.shard_at(index);
            shard.unread = false;
            if !is_last || shards.start > 0 {
                // Somebody may wait for them, or for those after them.
                shard.ledger.epochs.start_awaited(flush);
                shard.ledger.due.flush();
            }
        }
        // Last: after a panic it is done again for all of them.
        rest.portion = None;
        rest.from = shards.end;
        if is_last {
            *unread = None;
            return Ok(Recovery::Done);
        }
        Ok(Recovery::Portion)
    }

    /// Reads what is left of the portion. What was read stays read, should the disk fail.
    fn recover_portion(&self, rest: &mut Unread, now: Now) -> io::Result<Range<usize>> {
        let Unread {
            reader,
            operations,
            partial,
            portion,
            ..
        } = rest;
        let portion = portion.as_mut().expect("its turn has come");
        let expected: usize = operations[portion.shards.clone()].iter().sum();
        while expected > 0 && portion.segments < reader.len() {
            let mut found = 0;
            reader.for_each_of(portion.segments..portion.segments + 1, |tag, words| {
                if let Some(Said::Operation {
                    version,
                    user,
                    operation,
                    batch,
                }) = journal_record::decode(tag, words)
                {
                    let hash = self.hash(user);
                    let index = self.shard_index(hash);
                    if portion.shards.contains(&index) {
                        found += 1;
                        if batch.is_none_or(|batch| !partial.contains(&batch)) {
                            let mut shard = self.shard_at(index);
                            shard.recover(self.shared(), hash, user, (version, operation), now);
                        }
                    }
                }
            })?;
            portion.segments += 1;
            portion.found += found;
        }
        if portion.found != expected {
            let why = "its files are not those that were read at first";
            return Err(io::Error::other(why));
        }
        Ok(portion.shards.clone())
    }
}

impl Unread {
    /// The shards whose turn is next: as many as there is room for, if `room` is for so many operations and so
    /// many of earlier shards still wait, but one at least when most of the room is free.
    fn next(&self, room: usize, waiting: usize) -> Option<Range<usize>> {
        let mut left = room.saturating_sub(waiting);
        let fits = |operations: &&usize| {
            let after = left.checked_sub(**operations);
            left = after.unwrap_or_default();
            after.is_some()
        };
        let least = usize::from(waiting <= room / 2);
        let shards = &self.operations[self.from..];
        let count = shards.iter().take_while(fits).count().max(least);
        let after = shards.iter().skip(count);
        let empty = after.take_while(|operations| **operations == 0).count();
        let end = self.from + (count + empty).min(shards.len());
        (end > self.from).then_some(self.from..end)
    }
}

/// What has to be known of all records before the first is carried out.
#[derive(Debug)]
struct Known {
    highest: Version,
    highest_batch: u64,
    /// Operations that are no part of a batch.
    singles: u64,
    /// Operations of each shard.
    operations: Box<[usize]>,
    /// Operations of each batch.
    batches: AHashMap<u64, u64>,
    /// How many it had, and the number of the oldest segment when it began.
    ends: AHashMap<u64, (u64, u64)>,
    oldest_segment: u64,
}

impl Known {
    fn new(shards: usize) -> Self {
        Known {
            highest: 0,
            highest_batch: 0,
            singles: 0,
            operations: vec![0; shards].into(),
            batches: AHashMap::new(),
            ends: AHashMap::new(),
            oldest_segment: 0,
        }
    }

    fn note(&mut self, said: Option<Said>, shard_of: impl Fn(u64) -> usize) {
        match said {
            Some(Said::Operation {
                version,
                user,
                batch,
                ..
            }) => {
                self.highest = self.highest.max(version);
                self.operations[shard_of(user)] += 1;
                match batch {
                    Some(batch) => {
                        self.highest_batch = self.highest_batch.max(batch);
                        *self.batches.entry(batch).or_default() += 1;
                    }
                    None => self.singles += 1,
                }
            }
            Some(Said::BatchEnd {
                batch,
                records,
                oldest,
            }) => {
                self.highest_batch = self.highest_batch.max(batch);
                self.ends.insert(batch, (records, oldest));
            }
            None => {}
        }
    }

    fn count(&self, damage: &[Damage]) -> Recovered {
        // Then nobody knows whether a batch without an end had one.
        let is_damaged = damage.iter().any(|damage| !damage.zero);
        let mut recovered = Recovered {
            operations: self.singles,
            ..Recovered::default()
        };
        for (batch, operations) in &self.batches {
            let count = if self.is_whole(*batch) {
                &mut recovered.operations
            } else if is_damaged || self.ends.contains_key(batch) {
                &mut recovered.broken
            } else {
                &mut recovered.cut
            };
            *count += operations;
        }
        recovered
    }

    /// Whether all of a batch was written. What is in segments that are gone already was committed.
    fn is_whole(&self, batch: u64) -> bool {
        let end = self.ends.get(&batch);
        end.is_some_and(|(operations, oldest)| {
            *oldest < self.oldest_segment || self.batches.get(&batch) == Some(operations)
        })
    }

    /// The batches that are not whole.
    fn partial(&self) -> AHashSet<u64> {
        let batches = self.batches.keys().copied();
        batches.filter(|batch| !self.is_whole(*batch)).collect()
    }
}
