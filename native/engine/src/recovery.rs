//! What the journal has of an earlier life, carried out again: the operations wait for their users to be loaded.
//!
//! There can be many more than the memory should hold at once. So they are read again for some shards at a time, a
//! *portion*, which is kept as close together as they were in the journal: each reading goes through all of it. Of a portion one
//! shard after the other gets its operations, as there is room for them and for their users: when those are loaded and
//! their operations merged, the next. Until the turn of a shard comes, none of its users is loaded, as he would lack what he is to be given;
//! whoever asks for one waits, and what is written waits with the rest.

use std::{fmt, io};

use ahash::{AHashMap, AHashSet};
use read_states_journal::{Damage, Reader};
use read_states_sync::atomic::Ordering::Relaxed;
use read_states_sync::fail_point;

use crate::batch::Version;
use crate::engine::Engine;
use crate::id::Id;
use crate::journal_record::{self, Said};
use crate::journaling::Journaling;
use crate::now::Now;
use crate::pending::Stamped;
use crate::totals::adjust;
use crate::user::Absent;

/// Bytes that an operation takes if it is the only one of its user, with what tables and queues need.
const BYTES: usize = size_of::<Absent>() + 2 * size_of::<Stamped>();

/// Operations that are given to a shard in one hold of its lock.
const AT_ONCE: usize = 128;

/// An operation of a portion, with its user.
type Read = (Id, Stamped);

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

/// Why what the journal has cannot be carried out again. It stays as it is.
#[derive(Debug)]
pub enum RecoverError {
    /// Others have written to the store since, who may have changed what the journal has, or it is not its store.
    OtherStore,
    /// The operating system refused something.
    Io(io::Error),
}

impl RecoverError {
    /// Its name for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            RecoverError::OtherStore => "other_store",
            RecoverError::Io(_) => "io",
        }
    }
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::OtherStore => write!(
                f,
                "the store was written to without this journal since, or it is the journal of another store"
            ),
            RecoverError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RecoverError {}

impl From<io::Error> for RecoverError {
    fn from(error: io::Error) -> Self {
        RecoverError::Io(error)
    }
}

/// How far the recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Everything waits in the engine, or is in the store.
    Done,
    /// Some shards had their turn. What they brought is to be loaded and committed at once.
    Portion,
    /// There is no room: what the last shards brought has to be merged first.
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
    /// The first shard that is in no portion yet.
    from: usize,
    portion: Portion,
    /// Whether there is room for all of it at once.
    fits: bool,
}

/// What was read of some shards, which wait for their turn.
#[derive(Debug, Default)]
struct Portion {
    /// The first of them.
    from: usize,
    /// The operations of each, the first one's last.
    shards: Vec<Vec<Read>>,
    /// Segments that were read: some, if it had to be given up in the middle.
    segments: usize,
    /// Operations that were found in them, and how many there are in all.
    found: usize,
    expected: usize,
}

impl Engine {
    /// Reads what the journal has of an earlier life. [`Engine::recover_more`] carries it out, while everything else goes
    /// on. To be called once, before all else.
    pub fn recover(&self, now: Now) -> Result<Recovered, RecoverError> {
        let Some(journaling) = &self.shared().journaling else {
            return Ok(Recovered::default());
        };
        let mut reader = journaling.journal.reader();
        let mut known = Known::new(self.shard_count(), reader.oldest());
        reader.for_each(|tag, words| {
            known.note(journal_record::decode(tag, words), |user| {
                self.shard_index(self.hash(user))
            });
        })?;
        let mark = journaling.journal.highest_mark();
        // Where a header is damaged, which is reported, the mark was in it perhaps.
        let is_mark_lost = reader.damage().iter().any(Damage::is_of_header);
        if known.highest > 0 && journaling.floor > mark && !journaling.shared && !is_mark_lost {
            return Err(RecoverError::OtherStore);
        }
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
        let operations = known.operations.iter().sum::<usize>();
        if operations > 0 {
            let mut unread = journaling.unread.lock();
            fail_point!();
            *unread = Some(Unread {
                reader,
                operations: known.operations.clone(),
                partial: known.partial(),
                from: 0,
                portion: Portion::default(),
                fits: operations <= self.room() / BYTES,
            });
        }
        // Last, for from now on what is in no shard and not to be read again may be forgotten.
        journaling.begin_upkeep(now);
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
        let mut recovery = Recovery::Waits;
        loop {
            if !rest.is_read() {
                if recovery == Recovery::Portion {
                    // Which takes a while, and what was taken up can be loaded meanwhile.
                    return Ok(recovery);
                }
                rest.read(self)?;
            }
            let Some(next) = rest.portion.shards.last() else {
                *unread = None;
                return Ok(Recovery::Done);
            };
            if !rest.fits && !self.has_room_for(next.len(), rest.portion.from) {
                // What was written since is in the way too.
                (0..rest.portion.from).for_each(|at| self.shard_at(at).ledger.due.flush());
                return Ok(recovery);
            }
            self.take_up(rest, now);
            recovery = Recovery::Portion;
        }
    }

    /// Bytes for operations that wait, and as many for a portion.
    fn room(&self) -> usize {
        self.shared().bounds.dirty_memory.load(Relaxed) / 2
    }

    /// Whether there is room for so many operations if so many shards had their turn. For those of one shard there is when
    /// most of the room is free.
    fn has_room_for(&self, operations: usize, shards: usize) -> bool {
        let room = self.room() / BYTES;
        let waiting = (0..shards).map(|at| self.shard_at(at).ledger.counts.pending_operations);
        let waiting: usize = waiting.sum();
        waiting + operations <= room || waiting <= room / 2
    }

    /// Gives the next shard of the portion its operations.
    fn take_up(&self, rest: &mut Unread, now: Now) {
        let portion = &rest.portion;
        let flush = self.next_flush();
        let operations = portion.shards.last().map_or(&[][..], Vec::as_slice);
        for some in operations.chunks(AT_ONCE) {
            let mut shard = self.shard_at(portion.from);
            for (user, operation) in some {
                shard.recover(self.shared(), self.hash(*user), *user, *operation, now);
            }
            shard.count_memory(self.shared());
        }
        let mut shard = self.shard_at(portion.from);
        shard.unread = false;
        if !rest.fits || shard.ledger.epochs.is_awaited(0) {
            // Somebody waits for them, or perhaps for those after them.
            shard.ledger.epochs.start_awaited(flush);
            shard.ledger.due.flush();
        }
        drop(shard);
        // Last: after a panic it is done again for all of them, and who is in twice counts once.
        adjust(&self.shared().totals.memory, rest.bytes(portion.from), 0);
        rest.portion.shards.pop();
        rest.portion.from += 1;
    }
}

impl Unread {
    /// Whether the portion has all that it is to have: some shards, unless there are no more.
    fn is_read(&self) -> bool {
        let is_over = self.portion.shards.is_empty() && self.from < self.operations.len();
        self.portion.found == self.portion.expected && !is_over
    }

    /// Reads what is left of the portion, or the next. What was read stays read, should the disk fail.
    fn read(&mut self, engine: &Engine) -> io::Result<()> {
        if self.portion.shards.is_empty() {
            self.begin(engine.room() / size_of::<Read>());
            let bytes = (self.portion.from..self.from).map(|shard| self.bytes(shard));
            adjust(&engine.shared().totals.memory, 0, bytes.sum());
        }
        let Unread {
            reader,
            partial,
            portion,
            from: end,
            ..
        } = self;
        while portion.found != portion.expected && portion.segments < reader.len() {
            let mut found = 0;
            reader.for_each_of(portion.segments..portion.segments + 1, |tag, words| {
                if let Some(Said::Operation {
                    version,
                    user,
                    operation,
                    batch,
                }) = journal_record::decode(tag, words)
                {
                    let index = engine.shard_index(engine.hash(user));
                    if (portion.from..*end).contains(&index) {
                        found += 1;
                        if batch.is_none_or(|batch| !partial.contains(&batch)) {
                            portion.shards[*end - 1 - index].push((user, (version, operation)));
                        }
                    }
                }
            })?;
            portion.segments += 1;
            portion.found += found;
        }
        if portion.found != portion.expected {
            let why = "its files are not those that were read at first";
            return Err(io::Error::other(why));
        }
        Ok(())
    }

    /// Bytes of what is read of a shard.
    fn bytes(&self, shard: usize) -> usize {
        self.operations[shard] * size_of::<Read>()
    }

    /// Begins a portion of as many shards as there is room for, if it is for so many operations, but of one at least.
    fn begin(&mut self, room: usize) {
        let from = self.from;
        let mut left = room;
        let fits = |operations: &&usize| {
            let after = left.checked_sub(**operations);
            left = after.unwrap_or_default();
            after.is_some()
        };
        let shards = &self.operations[from..];
        let count = shards.iter().take_while(fits).count().max(1);
        let shards = &shards[..count];
        let room = shards.iter().rev();
        self.portion = Portion {
            from,
            shards: room.map(|count| Vec::with_capacity(*count)).collect(),
            segments: 0,
            found: 0,
            expected: shards.iter().sum(),
        };
        self.from = from + count;
    }
}

/// What has to be known of all records before the first is carried out. It is little, however many they are: of batches
/// only those that have begun, and those that are not whole.
#[derive(Debug)]
struct Known {
    highest: Version,
    highest_batch: u64,
    /// Operations of each shard.
    operations: Box<[usize]>,
    /// Those to be carried out, and those of batches that are damaged.
    whole: u64,
    broken: u64,
    /// Operations of each batch whose end, which comes after them, was not seen yet.
    open: AHashMap<u64, u64>,
    /// Batches that have ended and are not whole.
    partial: AHashSet<u64>,
    oldest_segment: u64,
}

impl Known {
    fn new(shards: usize, oldest_segment: u64) -> Self {
        Known {
            highest: 0,
            highest_batch: 0,
            operations: vec![0; shards].into(),
            whole: 0,
            broken: 0,
            open: AHashMap::new(),
            partial: AHashSet::new(),
            oldest_segment,
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
                        *self.open.entry(batch).or_default() += 1;
                    }
                    None => self.whole += 1,
                }
            }
            Some(Said::BatchEnd {
                batch,
                records,
                oldest,
            }) => {
                self.highest_batch = self.highest_batch.max(batch);
                let operations = self.open.remove(&batch).unwrap_or_default();
                // What was in segments that are gone already was committed.
                if operations == records || oldest < self.oldest_segment {
                    self.whole += operations;
                } else {
                    self.broken += operations;
                    self.partial.insert(batch);
                }
            }
            None => {}
        }
    }

    fn count(&self, damage: &[Damage]) -> Recovered {
        // Then nobody knows whether a batch without an end had one.
        let is_damaged = damage.iter().any(|damage| !damage.zero);
        let open: u64 = self.open.values().sum();
        let (cut, lost) = if is_damaged { (0, open) } else { (open, 0) };
        Recovered {
            operations: self.whole,
            cut,
            broken: self.broken + lost,
            ..Recovered::default()
        }
    }

    /// The batches of which something is missing.
    fn partial(self) -> AHashSet<u64> {
        let mut partial = self.partial;
        partial.extend(self.open.into_keys());
        partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Operation;

    #[test]
    fn of_batches_that_are_whole_nothing_is_kept() {
        let mut known = Known::new(1, 1);
        let operation = |batch| {
            Some(Said::Operation {
                version: batch,
                user: batch,
                operation: Operation::DeleteUser,
                batch: Some(batch),
            })
        };
        let end = |batch, records, oldest| {
            Some(Said::BatchEnd {
                batch,
                records,
                oldest,
            })
        };
        for batch in 1..=10_000 {
            known.note(operation(batch), |_| 0);
            known.note(operation(batch), |_| 0);
            known.note(end(batch, 2, 1), |_| 0);
        }
        assert!(known.open.capacity() + known.partial.capacity() < 10);
        // One that has lost a record, one whose others were committed, one that has not ended.
        known.note(operation(10_001), |_| 0);
        known.note(operation(10_003), |_| 0);
        known.note(end(10_001, 2, 1), |_| 0);
        known.note(operation(10_002), |_| 0);
        known.note(end(10_002, 2, 0), |_| 0);
        let expected = Recovered {
            operations: 20_001,
            cut: 1,
            broken: 1,
            ..Recovered::default()
        };
        assert_eq!(known.count(&[]), expected);
        // Where something is damaged it may be an end.
        let damage = Damage {
            path: Default::default(),
            at: 0,
            bytes: 1,
            zero: false,
        };
        let expected = Recovered {
            cut: 0,
            broken: 2,
            ..expected
        };
        assert_eq!(known.count(&[damage]), expected);
        assert_eq!(known.highest_batch, 10_003);
        assert_eq!(known.partial(), AHashSet::from_iter([10_001, 10_003]));
    }
}
