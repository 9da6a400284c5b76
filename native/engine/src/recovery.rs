//! What the journal has of an earlier life, carried out again: the operations wait for their users to be loaded.
//!
//! There can be many more than the memory should hold at once. So they are read again for as many shards
//! as there is room for, and when the store has what those brought, for the next. Until the turn of a shard comes, none
//! of its users is loaded, as he would lack what he is to be given; whoever asks for one waits, and what is written waits
//! with the rest.

use std::io;
use std::ops::Range;

use ahash::AHashMap;
use read_states_journal::{Damage, Reader};
use read_states_sync::atomic::Ordering::Relaxed;

use crate::batch::Version;
use crate::engine::Engine;
use crate::flush::Epoch;
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
    /// Operations of batches that did, of which others are damaged.
    pub broken: u64,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

/// How far the recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Everything waits in the engine, or is in the store.
    Done,
    /// Some shards had their turn. What they brought is to be loaded and committed at once.
    Portion,
    /// What the last portion brought is not all committed yet.
    Waits,
}

/// What is still to be read again.
#[derive(Debug)]
pub(crate) struct Unread {
    reader: Reader,
    known: Known,
    /// The first shard whose turn has not come.
    from: usize,
    /// The shards before it whose turn was the last, and what tells that all of theirs is committed.
    last: (Range<usize>, Epoch),
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
        if known.highest > 0 && journaling.floor > mark {
            let why = "the store was written to without this journal since, or it is the journal of another store";
            return Err(io::Error::other(why));
        }
        known.oldest_segment = reader.oldest();
        let recovered = Recovered {
            damage: reader.damage().to_vec(),
            ..known.count()
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
            known,
            from: 0,
            last: (0..0, 0),
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
        let Some(rest) = &mut *unread else {
            return Ok(Recovery::Done);
        };
        let (last, flush) = &rest.last;
        let is_flushed = |index| self.shard_at(index).ledger.epochs.is_flushed(*flush);
        if !last.clone().all(is_flushed) {
            return Ok(Recovery::Waits);
        }
        let bound = self.shared().bounds.dirty_memory.load(Relaxed);
        let portion = rest.known.portion(rest.from, bound);
        self.recover_shards(rest, portion.clone(), now)?;
        let is_last = portion.end == self.shard_count();
        if !is_last || portion.start > 0 {
            // Somebody may wait for them, or for those after them.
            let flush = self.next_flush();
            for index in portion.clone() {
                let mut shard = self.shard_at(index);
                shard.ledger.epochs.start_awaited(flush);
                shard.ledger.due.flush();
            }
            rest.from = portion.end;
            rest.last = (portion, flush);
        }
        if is_last {
            *unread = None;
            return Ok(Recovery::Done);
        }
        Ok(Recovery::Portion)
    }

    fn recover_shards(&self, rest: &mut Unread, portion: Range<usize>, now: Now) -> io::Result<()> {
        let Unread { reader, known, .. } = rest;
        if known.operations[portion.clone()]
            .iter()
            .any(|count| *count > 0)
        {
            reader.for_each(|tag, words| {
                if let Some(Said::Operation {
                    version,
                    user,
                    operation,
                    batch,
                }) = journal_record::decode(tag, words)
                {
                    let hash = self.hash(user);
                    let index = self.shard_index(hash);
                    if portion.contains(&index) && batch.is_none_or(|batch| known.is_whole(batch)) {
                        let mut shard = self.shard_at(index);
                        shard.recover(self.shared(), hash, user, (version, operation), now);
                    }
                }
            })?;
        }
        for index in portion {
            self.shard_at(index).unread = false;
        }
        Ok(())
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

    fn count(&self) -> Recovered {
        let mut recovered = Recovered {
            operations: self.singles,
            ..Recovered::default()
        };
        for (batch, operations) in &self.batches {
            let count = if self.is_whole(*batch) {
                &mut recovered.operations
            } else if self.ends.contains_key(batch) {
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

    /// As many shards as `bytes` have room for, from one on, but one at least.
    fn portion(&self, from: usize, bytes: usize) -> Range<usize> {
        let mut room = bytes / BYTES;
        let fits = |operations: &&usize| {
            let left = room.checked_sub(**operations);
            room = left.unwrap_or_default();
            left.is_some()
        };
        let left = &self.operations[from..];
        let count = left.iter().take_while(fits).count().max(1);
        let after = left.iter().skip(count);
        let empty = after.take_while(|operations| **operations == 0).count();
        from..from + (count + empty).min(left.len())
    }
}
