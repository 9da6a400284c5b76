//! What the engine does with its journal: operations are written down before they are carried out,
//! forgotten when they are committed, and after a crash [carried out again](crate::recovery), each once.
//!
//! # Once
//!
//! An operation is stamped with a version under the lock of its shard, written down, and only
//! then carried out; a commit stamps what it takes under the same lock. So a row that the store has
//! at a version contains exactly the operations on it with lower ones, and of those that are read
//! again, the others are carried out, in the order of their versions.
//!
//! The highest version of a commit is marked in the journal before the store sees it, so that later
//! ones are above it in the next life too, whatever the clock says then.
//!
//! A store forgets deletes, and then an operation from before one would bring back what it deleted. So a commit writes its
//! deletes down again, after all that was accepted before them: as long as the journal has any of that, it has them.
//!
//! # All or nothing
//!
//! The operations of a batch count only with the record that ends it. Until that is written, nothing
//! of the batch may reach the store, so a commit waits, after it took its snapshot, for the batches that had begun.
//!
//! # Forgetting
//!
//! When a segment is full, an epoch begins (see [`crate::flush`]), once the batches that may still write to
//! the segment have ended. Who changed before belongs to an earlier epoch, so the segment can go when no user of
//! an earlier epoch is left. Of those who cannot be loaded it is [carried over](crate::stragglers), or one of them would
//! keep all that is written after him.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;

use crossbeam_epoch::Guard;
use read_states_journal::{Journal, Refusal, Reservation};
use read_states_sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use read_states_sync::{Mutex, fail_point, pin};

use crate::batch::{Entry, Version};
use crate::engine::{Config, Engine, UserOperation};
use crate::flush::Epoch;
use crate::gate::{Gate, Inside};
use crate::id::Id;
use crate::journal_record::{self, END_WORDS, Encoded};
use crate::ledger::Ledger;
use crate::now::{Micros, Now};
use crate::operation::{Change, Operation};
use crate::recovery::Unread;
use crate::shard::WriteError;

/// See the module.
#[derive(Debug)]
pub(crate) struct Journaling {
    pub journal: Journal,
    batches: Gate,
    /// Commits that wait for the disk before the store is given them, and how many may.
    write_aheads: AtomicUsize,
    most_write_aheads: usize,
    /// The number of the next batch.
    pub next_batch: AtomicU64,
    upkeep: Mutex<Upkeep>,
    /// The highest version the store had at the start.
    pub floor: Version,
    /// Whether others write to the store too.
    pub shared: bool,
    /// Whether it is known what it has of an earlier life.
    recovered: AtomicBool,
    pub unread: Mutex<Option<Unread>>,
}

/// The least time between two segments, if they are not full.
const LEAST_SEGMENT: Micros = 5_000_000;

#[derive(Debug, Default)]
struct Upkeep {
    /// Segments up to which all can go when the epoch's flush is done, oldest first.
    checkpoints: VecDeque<(u64, Epoch)>,
    sealed_at: Micros,
}

/// A batch that is being written down.
#[derive(Debug)]
pub(crate) struct BatchLog<'a> {
    reservation: RefCell<Reservation>,
    batch: u64,
    records: std::cell::Cell<u64>,
    oldest: u64,
    _inside: Inside<'a>,
}

impl From<Refusal> for WriteError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full => WriteError::Overloaded,
            Refusal::NoSpace => WriteError::NoSpace,
            Refusal::Failed => WriteError::JournalFailed,
        }
    }
}

impl Journaling {
    /// For a store with the floor of the configuration.
    pub fn new(journal: Journal, config: &Config) -> Self {
        Journaling {
            journal,
            batches: Gate::default(),
            write_aheads: AtomicUsize::new(0),
            most_write_aheads: config.partitions,
            next_batch: AtomicU64::new(1),
            upkeep: Mutex::default(),
            floor: config.floor,
            shared: config.shared,
            recovered: AtomicBool::new(false),
            unread: Mutex::default(),
        }
    }

    /// It is known what the journal has of an earlier life.
    pub fn begin_upkeep(&self, now: Now) {
        let mut upkeep = self.upkeep.lock();
        fail_point!();
        upkeep.sealed_at = now.monotonic;
        self.recovered.store(true, Relaxed);
    }

    /// Whether some of that is still to be read again.
    pub fn is_recovering(&self) -> bool {
        // Who has the lock is at it.
        let unread = self.unread.try_lock();
        fail_point!();
        unread.is_none_or(|unread| unread.is_some())
    }

    /// Begins a batch: there is room for all of it.
    pub fn begin_batch(
        &self,
        operations: &[UserOperation],
        guard: &Guard,
    ) -> Result<BatchLog<'_>, Refusal> {
        let inside = self.batches.enter();
        fail_point!();
        let words = operations
            .iter()
            .map(|operation| journal_record::words_in_batch(&operation.operation))
            .chain([END_WORDS]);
        let oldest = self.journal.oldest_open(guard);
        let reservation = self.journal.reserve(words, guard)?;
        // The room says that there is nothing in it, when it is given up.
        fail_point!();
        Ok(BatchLog {
            reservation: RefCell::new(reservation),
            batch: self.next_batch.fetch_add(1, Relaxed),
            records: std::cell::Cell::new(0),
            oldest,
            _inside: inside,
        })
    }

    /// A commit with versions up to this one, and with these deletes, may be given to the store when this returns:
    /// the journal has all of it, on the disk. Refused while as many commits wait as there are partitions: where a disk hangs, each
    /// keeps a thread of who called it, though it was given up long ago.
    pub fn before_commit(&self, highest: Version, deletes: &[Entry]) -> io::Result<()> {
        fail_point!();
        let waiting = self.write_aheads.fetch_add(1, Relaxed);
        scopeguard::defer! {
            self.write_aheads.fetch_sub(1, Relaxed);
        }
        if waiting >= self.most_write_aheads {
            let why = "earlier commits still wait for the journal's disk";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        self.journal.mark(highest);
        self.await_batches();
        for delete in deletes {
            let (user, version, operation) = match *delete {
                Entry::DeleteUser { user, version } => (user, version, Operation::DeleteUser),
                Entry::DeleteChannel {
                    user,
                    channel,
                    version,
                } => {
                    let change = Change::Delete;
                    (user, version, Operation::Change { channel, change })
                }
                Entry::Row(_) => continue,
            };
            let record = Encoded::operation(version, user, &operation, None);
            self.journal
                .append_anyway(record.tag, record.words(), &pin())?;
        }
        self.journal.sync()
    }

    /// Returns when the batches that had begun are whole.
    pub fn await_batches(&self) {
        self.batches.wait();
    }

    /// Writes an operation down.
    #[inline]
    pub fn write(
        &self,
        version: Version,
        user: Id,
        operation: &Operation,
        batch: Option<&BatchLog>,
        guard: &Guard,
    ) -> Result<(), Refusal> {
        fail_point!();
        let number = batch.map(|log| log.batch);
        let record = Encoded::operation(version, user, operation, number);
        match batch {
            None => self.journal.append(record.tag, record.words(), guard),
            Some(log) => {
                log.append(&record);
                log.records.set(log.records.get() + 1);
                Ok(())
            }
        }
    }
}

impl BatchLog<'_> {
    fn append(&self, record: &Encoded) {
        self.reservation
            .borrow_mut()
            .append(record.tag, record.words());
    }

    /// All of it was carried out.
    pub fn finish(self) {
        fail_point!();
        let end = Encoded::batch_end(self.batch, self.records.get(), self.oldest);
        self.append(&end);
    }
}

impl Engine {
    /// Sees to it that there is a next segment, and that those which are committed go. May wait for the
    /// disk. Says whether the journal is so full that commits should hurry.
    pub fn tend_journal(&self, now: Now) -> io::Result<bool> {
        let Some(journaling) = &self.shared().journaling else {
            return Ok(false);
        };
        let journal = &journaling.journal;
        let prepared = journal.prepare();
        let Some(mut upkeep) = journaling.upkeep.try_lock() else {
            // Somebody is at it.
            return Ok(false);
        };
        fail_point!();
        // So that it is not much that is read again after a crash, even if little is written.
        let interval = self.shared().commit_after.max(LEAST_SEGMENT);
        // Before it is known what the journal has of an earlier life, all of it may be needed.
        let is_recovering = !journaling.recovered.load(Relaxed) || journaling.is_recovering();
        // While nothing can be forgotten, each would only take the room of a full one.
        let is_free = upkeep.checkpoints.is_empty() && !is_recovering;
        let guard = pin();
        let is_time = now.monotonic.saturating_sub(upkeep.sealed_at) >= interval;
        if is_free && (is_time || journal.is_full(&guard)) {
            upkeep.sealed_at = now.monotonic;
            journal.seal(&guard);
        }
        drop(guard);
        if !is_recovering {
            self.checkpoint(journaling, &mut upkeep);
        }
        let mut carried = Ok(());
        if let Some(&(_, flush)) = upkeep.checkpoints.front()
            && !is_recovering
            && self.is_kept_before(flush)
        {
            carried = self.carry_over(journaling, flush);
        }
        while let Some(&(segment, flush)) = upkeep.checkpoints.front() {
            if self.is_kept_before(flush) {
                break;
            }
            // What the header has that counts is in a later one, and has to be on the disk.
            journal.sync()?;
            journal.forget(segment)?;
            upkeep.checkpoints.pop_front();
        }
        prepared.and_then(|()| journal.prepare())?;
        carried?;
        let figures = journal.figures();
        let hurry = figures.bytes > figures.most / 2 && !upkeep.checkpoints.is_empty();
        if hurry {
            self.make_due();
        }
        Ok(hurry)
    }

    /// Begins an epoch if a segment is sealed that belongs to none.
    fn checkpoint(&self, journaling: &Journaling, upkeep: &mut Upkeep) {
        let sealed = journaling.journal.newest_sealed();
        let known = upkeep.checkpoints.back().map(|(segment, _)| *segment);
        if let Some(sealed) = sealed.filter(|sealed| known.is_none_or(|known| *sealed > known)) {
            journaling.await_batches();
            let flush = self.next_flush();
            for mut shard in self.shards() {
                shard.ledger.epochs.start(flush);
            }
            upkeep.checkpoints.push_back((sealed, flush));
        }
    }

    /// Whether what is from before this epoch has to be kept.
    fn is_kept_before(&self, flush: Epoch) -> bool {
        let mut shards = self.shards();
        shards.any(|shard| shard.ledger.epochs.kept_before(flush) > 0)
    }

    /// Waits until every operation that was answered is on the disk.
    pub fn sync_journal(&self) -> io::Result<()> {
        match &self.shared().journaling {
            Some(journaling) => journaling.journal.sync(),
            None => Ok(()),
        }
    }

    /// Lets go of the journal, for whoever opens it next. If everything is committed, nothing is left of it.
    pub fn close_journal(&self) -> io::Result<()> {
        let Some(journaling) = &self.shared().journaling else {
            return Ok(());
        };
        let clean = journaling.recovered.load(Relaxed)
            && !journaling.is_recovering()
            && self
                .shards()
                .all(|shard| shard.ledger.counts.uncommitted_users == 0);
        journaling.journal.close(clean)
    }
}

impl Ledger {
    /// The version of an operation, which is written down with it where there is a journal.
    #[inline]
    pub fn note<'a>(
        &mut self,
        shared: &crate::shared::Shared,
        now: Now,
        write: impl FnOnce() -> crate::shard::Write<'a>,
    ) -> Result<Version, WriteError> {
        let version = self.stamp.next(now);
        if let Some(journaling) = &shared.journaling {
            let crate::shard::Write {
                user,
                operation,
                batch,
                guard,
                ..
            } = write();
            journaling.write(version, user, operation, batch, guard)?;
        }
        Ok(version)
    }

    /// The same with a change of a read state that may leave it as it is. That is written down too while a batch is under way,
    /// as it may be the batch that has made it so: if the process dies before that is whole, it never was.
    #[inline]
    pub fn note_change<'a>(
        &mut self,
        shared: &crate::shared::Shared,
        now: Now,
        changes: bool,
        write: impl FnOnce() -> crate::shard::Write<'a>,
    ) -> Result<(), WriteError> {
        let batches = shared
            .journaling
            .as_ref()
            .map(|journaling| &journaling.batches);
        if changes || batches.is_some_and(|batches| !batches.is_empty()) {
            self.note(shared, now, write)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use read_states_journal::Options;
    use read_states_sync::thread;

    use super::*;
    use crate::evict::Budget;
    use crate::id::{Channel, ID_WIDTH};
    use crate::read::Found;
    use crate::read_state::{MAX_COUNTERS, ReadState};

    fn journal(directory: &Path) -> Journal {
        let options = Options {
            segment: 1 << 20,
            most: 4,
            id_width: ID_WIDTH,
            owner: 1,
            exact: false,
        };
        Journal::open(directory, options).unwrap()
    }

    /// What is left of a read state after a crash in the middle of a batch that changes it, beside which another change was accepted.
    fn after_crash(stored: ReadState, of_batch: Change, accepted: Change) -> ReadState {
        const USER: Id = 1;
        let (channel, now) = (Channel { kind: 0, id: 10 }, Now::default());
        let on = |change| UserOperation {
            user: USER,
            operation: Operation::Change { channel, change },
        };
        let directory = tempfile::tempdir().unwrap();
        let live = directory.path().join("live");
        let engine = Engine::with_journal(Config::default(), Some(journal(&live)));
        engine.recover(now).unwrap();
        // He is resident from then on.
        engine.apply(USER, &Operation::DeleteUser, now).unwrap();
        let apply = |change| engine.apply(USER, &on(change).operation, now).unwrap();
        apply(Change::Put { state: stored });
        let batch = [on(of_batch); 2];
        let journaling = engine.shared().journaling.as_ref().unwrap();
        let log = journaling.begin_batch(&batch, &pin()).unwrap();
        let mut budget = Budget::CALL;
        engine
            .apply_admitted(&batch, Some(&log), &mut budget, now)
            .unwrap();
        apply(accepted);
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&live).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        drop(log);
        let journal = Some(journal(copy.path()));
        let next = Arc::new(Engine::with_journal(Config::default(), journal));
        next.recover(now).unwrap();
        next.recover_more(now).unwrap();
        next.want(USER).unwrap();
        while let Some(load) = next.begin_load(0, 1).load {
            load.finish(now);
        }
        match next.get(USER, channel) {
            Ok(Found::Resident(state)) => state,
            other => panic!("he was loaded: {other:?}"),
        }
    }

    #[test]
    fn what_was_accepted_survives_though_it_changed_nothing_beside_a_batch_that_does_not() {
        let state = |last_message_id, count| {
            let mut counters = [0; MAX_COUNTERS];
            counters[0] = count;
            ReadState {
                last_message_id,
                counters,
            }
        };
        let stored = state(50, 3);
        let ack = Change::Ack { message: 100 };
        let increment = Change::Increment {
            message: 90,
            counter: 0,
            by: 1,
        };
        let put = Change::Put { state: state(7, 7) };
        let deleted = ReadState::default();
        for (of_batch, accepted, left) in [
            (ack, ack, state(100, 0)),
            (ack, increment, state(50, 4)),
            (put, put, state(7, 7)),
            (Change::Delete, Change::Delete, deleted),
        ] {
            assert_eq!(
                after_crash(stored, of_batch, accepted),
                left,
                "{accepted:?}"
            );
        }
    }

    #[test]
    fn no_more_commits_wait_for_the_disk_than_there_are_partitions() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path());
        let config = Config {
            partitions: 2,
            ..Config::default()
        };
        let journaling = Journaling::new(journal, &config);
        // They wait for a batch, as they would for the disk.
        let batch = journaling.batches.enter();
        thread::scope(|scope| {
            let commit = || journaling.before_commit(1, &[]);
            let waiting = [scope.spawn(commit), scope.spawn(commit)];
            while journaling.write_aheads.load(Relaxed) < waiting.len() {
                thread::yield_now();
            }
            let refused = commit().unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
            drop(batch);
            for commit in waiting {
                commit.join().unwrap().unwrap();
            }
            commit().unwrap();
        });
    }
}
