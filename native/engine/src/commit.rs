//! Committing: a snapshot of what is dirty goes to the store, and is clean once the store has it.

use std::io;
use std::sync::Arc;

use crossbeam_epoch::Guard;
use read_states_sync::atomic::{AtomicBool, Ordering::Relaxed};
use read_states_sync::{fail_point, pin};

use crate::batch::{BatchBuilder, Entry, Row, Version};
use crate::due::Due;
use crate::engine::Engine;
use crate::evict::Policy;
use crate::id::Id;
use crate::insist::insist;
use crate::ledger::{Ledger, Weight};
use crate::load_queue::Wanted;
use crate::now::Now;
use crate::read_state::ReadState;
use crate::shard::{Shard, find_resident};
use crate::shared::Shared;
use crate::user::{DeletedChannel, Deletes, DeletesInFlight, Flight, Resident};

/// Entries of a snapshot taken in one hold of a shard's lock, and users looked at.
const AT_ONCE: usize = 64;

/// A commit under way: with a journal [write ahead](Commit::write_ahead), write [`Commit::batch`] to the store, then
/// say whether it [succeeded](Commit::succeed) or [failed](Commit::fail). Dropped before, it has failed.
#[derive(Debug)]
pub struct Commit {
    engine: Arc<Engine>,
    token: u64,
    users: Vec<Id>,
    entries: usize,
    batch: Vec<u8>,
    write_ahead: WriteAhead,
}

/// What the journal has to have before the store is given a commit.
#[derive(Clone, Debug)]
pub struct WriteAhead {
    engine: Arc<Engine>,
    /// The highest version in it, 0 if there is nothing in it.
    highest: Version,
    deletes: Vec<Entry>,
    done: Arc<AtomicBool>,
}

impl WriteAhead {
    /// Writes it down, and waits until all that the commit contains is on the disk. Does nothing without a
    /// journal.
    pub fn run(&self) -> io::Result<()> {
        if let Some(journaling) = &self.engine.shared().journaling {
            journaling.before_commit(self.highest, &self.deletes)?;
            self.done.store(true, Relaxed);
        }
        Ok(())
    }
}

impl Engine {
    /// Takes a snapshot of about `most` entries that are due in a partition, or `None` if none
    /// is. Users who are due and not resident are queued for loading instead.
    pub fn begin_commit(
        self: &Arc<Self>,
        partition: usize,
        most: usize,
        now: Now,
    ) -> Option<Commit> {
        // Made first: whatever happens on the way, who is in it is settled when it is dropped.
        let mut commit = Commit {
            engine: Arc::clone(self),
            token: self.next_token(),
            users: Vec::new(),
            entries: 0,
            batch: Vec::new(),
            write_ahead: WriteAhead {
                engine: Arc::clone(self),
                highest: 0,
                deletes: Vec::new(),
                done: Arc::default(),
            },
        };
        let mut snapshot = Snapshot::new(self.shared(), commit.token, &mut commit.users);
        let mut attention = false;
        for index in self.shards_in_turn(partition) {
            if snapshot.batch.len() >= most {
                break;
            }
            self.end_turn(partition, index);
            let mut more = true;
            while more && snapshot.batch.len() < most {
                snapshot.room = AT_ONCE.min(most - snapshot.batch.len());
                let mut shard = self.shard_at(index);
                more = shard.snapshot(self, &mut snapshot, now, &mut attention);
                drop(shard);
                snapshot.encode();
            }
        }
        if attention {
            self.call_attention();
        }
        let Snapshot {
            batch,
            highest,
            deletes,
            ..
        } = snapshot;
        commit.write_ahead.highest = highest;
        commit.write_ahead.deletes = deletes;
        commit.entries = batch.len();
        commit.batch = batch.finish();
        if commit.entries == 0 {
            // Of users with nothing dirty, after all: a change of theirs may have panicked.
            commit.settle(true, now);
            return None;
        }
        Some(commit)
    }

    /// Starts a flush of a partition: everything accepted before is due now. Returns what
    /// [`Engine::is_flushed`] takes.
    pub fn flush(&self, partition: usize) -> u64 {
        let flush = self.next_flush();
        for mut shard in self.partition(partition) {
            shard.ledger.epochs.start_awaited(flush);
            shard.ledger.due.flush();
        }
        flush
    }

    /// Whether everything accepted in the partition before the flush is committed.
    pub fn is_flushed(&self, partition: usize, flush: u64) -> bool {
        self.partition(partition)
            .all(|shard| !shard.unread && shard.ledger.epochs.is_flushed(flush))
    }
}

impl Commit {
    /// What the store is to write, see [`crate::batch`].
    pub fn batch(&self) -> &[u8] {
        &self.batch
    }

    /// What is to be done before the store is given the batch.
    pub fn write_ahead(&self) -> &WriteAhead {
        &self.write_ahead
    }

    /// Entries in the batch.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Users in the batch.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// The store has it all.
    pub fn succeed(mut self, now: Now) {
        let engine = Arc::clone(&self.engine);
        engine.shared().totals.committed(self.entries);
        if let Some(journaling) = &engine.shared().journaling {
            journaling.journal.mark_stored(self.write_ahead.highest);
        }
        self.settle(true, now);
        engine.evict(now);
    }

    /// The store does not have it, or nobody knows: what is in it is dirty again, and due.
    pub fn fail(mut self) {
        // The time plays no part.
        self.settle(false, Now::default());
    }

    fn settle(&mut self, done: bool, now: Now) {
        if !done && !self.users.is_empty() {
            let totals = &self.engine.shared().totals;
            totals.commit_failed.store(true, Relaxed);
        }
        let written = self.write_ahead.done.load(Relaxed);
        while let Some(user) = self.users.last().copied() {
            let hash = self.engine.hash(user);
            let mut shard = self.engine.shard(hash);
            shard.ledger.due.reserve();
            // One by one: should one of them panic, dropping goes on with the others.
            self.users.pop();
            let next = self.users.iter().rev();
            let next = next.map(|user| self.engine.hash(*user));
            shard.fetch_ahead(next.take_while(|next| self.engine.is_same_shard(*next, hash)));
            let outcome = Outcome { done, written };
            shard.settle(self.engine.shared(), hash, user, self.token, outcome, now);
        }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        insist(self.users.len(), || self.settle(false, Now::default()));
    }
}

/// How a commit ended.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// The store has it.
    done: bool,
    /// The journal has its deletes.
    written: bool,
}

/// A snapshot in the making: copied under the lock of a shard, and encoded without it, so that
/// those who wait for the lock come in between.
struct Snapshot<'a> {
    shared: &'a Shared,
    token: u64,
    users: &'a mut Vec<Id>,
    batch: BatchBuilder,
    highest: Version,
    deletes: Vec<Entry>,
    // Pinned before numbers are copied, so that they keep their meaning until they are encoded.
    guard: Guard,
    copied: Vec<Copied>,
    /// Entries that may still be copied in this hold of the lock.
    room: usize,
}

/// An entry of the batch before it is encoded.
enum Copied {
    Row {
        user: Id,
        number: u32,
        version: Version,
        state: ReadState,
    },
    DeleteUser {
        user: Id,
        version: Version,
        /// Whether a commit has written it ahead before.
        written: bool,
    },
    DeleteChannel {
        user: Id,
        deleted: DeletedChannel,
        /// Likewise.
        written: bool,
    },
}

impl<'a> Snapshot<'a> {
    fn new(shared: &'a Shared, token: u64, users: &'a mut Vec<Id>) -> Self {
        Snapshot {
            shared,
            token,
            users,
            batch: BatchBuilder::new(shared.counters),
            highest: 0,
            deletes: Vec::new(),
            guard: pin(),
            copied: Vec::new(),
            room: 0,
        }
    }

    /// Makes room, so that nothing moves when a user is copied next.
    fn reserve(&mut self) {
        fail_point!();
        self.users.reserve(1);
        self.copied.reserve(self.room);
    }

    fn copy(&mut self, entry: Copied) {
        self.copied.push(entry);
        self.room -= 1;
    }

    fn encode(&mut self) {
        let (deletes, is_journaled) = (&mut self.deletes, self.shared.journaling.is_some());
        let mut write_ahead = |delete: Entry, written: bool| {
            if is_journaled && !written {
                deletes.push(delete);
            }
        };
        for copied in self.copied.drain(..) {
            let entry = match copied {
                Copied::DeleteUser {
                    user,
                    version,
                    written,
                } => {
                    let entry = Entry::DeleteUser { user, version };
                    write_ahead(entry, written);
                    entry
                }
                Copied::DeleteChannel {
                    user,
                    deleted,
                    written,
                } => {
                    let entry = |version| Entry::DeleteChannel {
                        user,
                        channel: deleted.channel,
                        version,
                    };
                    // Below what was accepted after it, which would else be deleted if it is read again.
                    write_ahead(entry(deleted.accepted), written);
                    entry(deleted.version)
                }
                Copied::Row {
                    user,
                    number,
                    version,
                    state,
                } => Entry::Row(Row {
                    user,
                    channel: self.shared.directory.channel(number),
                    version,
                    writer: self.shared.writer,
                    state,
                }),
            };
            self.highest = self.highest.max(entry.version());
            self.batch.push(&entry);
        }
        self.guard.repin();
    }
}

impl Shard {
    /// Adds what is due, as far as there is room; says whether more may be due.
    fn snapshot(
        &mut self,
        engine: &Engine,
        snapshot: &mut Snapshot,
        now: Now,
        attention: &mut bool,
    ) -> bool {
        for _user in 0..AT_ONCE {
            if snapshot.room == 0 {
                break;
            }
            // Who is taken from the queue must come to where he belongs.
            self.load_queue.reserve();
            self.ledger.due.reserve();
            snapshot.reserve();
            let Some(due) = self.ledger.due.pop(now.monotonic) else {
                return false;
            };
            let upcoming = self.ledger.due.upcoming();
            self.fetch_ahead(upcoming.map(|user| engine.hash(user)));
            let (user, queued_for) = match due {
                Due::Hurried(user) => (user, None),
                Due::Deadline(deadline, user) => (user, Some(deadline)),
            };
            let is_live = |deadline| queued_for.is_none_or(|queued| queued == deadline);
            let hash = engine.hash(user);
            if let Some(absent) = self.absent(hash, user) {
                if absent.deadline().is_some_and(is_live) {
                    absent.hurried = true;
                    *attention |= self.want_at_once(engine.shared(), hash, user, Wanted::Due);
                }
            } else if let Some(resident) = find_resident(&mut self.residents, hash, user)
                && resident.deadline().is_some_and(is_live)
            {
                snapshot_user(&mut self.ledger, resident, snapshot, now);
            }
        }
        true
    }

    /// The store has the snapshot, or not.
    fn settle(
        &mut self,
        shared: &Shared,
        hash: u64,
        user: Id,
        token: u64,
        outcome: Outcome,
        now: Now,
    ) {
        let Outcome { done, written } = outcome;
        self.passed_in_vain = 0;
        let Some(resident) = find_resident(&mut self.residents, hash, user) else {
            return;
        };
        let weight = Weight::of(resident);
        let ledger = &mut self.ledger;
        let Some(unsettled) = &mut resident.unsettled else {
            return;
        };
        let Some(flight) = unsettled.flight.take_if(|flight| flight.token == token) else {
            return;
        };
        resident.settle(done);
        let clean = !resident.is_dirty();
        let Some(unsettled) = &mut resident.unsettled else {
            unreachable!("it was there under the same lock");
        };
        if done {
            unsettled.deletes.settle(flight.deletes);
            if let Some(epoch) = flight.epoch {
                ledger.epochs.leave(epoch);
            }
        } else if written {
            unsettled.deletes.written = flight.deletes;
        }
        if !done
            && let Some(epoch) = flight.epoch
            && let Some(later) = unsettled.epoch.replace(epoch)
        {
            ledger.epochs.leave(later);
        }
        if let Some(epoch) = unsettled.epoch {
            // Something is dirty still or again. What failed, or did not fit, or is awaited by a
            // flush is due at once, the rest after the usual delay.
            if !done || flight.epoch.is_none() || ledger.epochs.is_awaited(epoch) {
                ledger.hurry(user, unsettled);
                if !done {
                    ledger.due.put_last(user);
                }
            } else {
                unsettled.deadline = now.monotonic.saturating_add(shared.commit_after);
                ledger.due.push(unsettled.deadline, user);
            }
        } else {
            debug_assert!(clean && unsettled.deletes.is_empty());
            ledger.clean(shared, unsettled);
            resident.unsettled = None;
            resident.changed = false;
        }
        weight.settle(shared, &mut ledger.counts, resident);
        if shared.policy == Policy::Lru && !resident.is_uncommitted() {
            ledger.recency.put_back(&shared.uses, resident);
        }
        self.compact_due(shared);
        self.count_memory(shared);
    }
}

/// Adds what is dirty of a user, as far as there is room.
fn snapshot_user(ledger: &mut Ledger, resident: &mut Resident, snapshot: &mut Snapshot, now: Now) {
    let user = resident.id;
    let Some(unsettled) = &mut resident.unsettled else {
        return;
    };
    unsettled.hurried = false;
    let mut flight = match unsettled.flight.take() {
        None => {
            snapshot.users.push(user);
            Flight::new(snapshot.token)
        }
        Some(flight) if flight.token == snapshot.token => flight,
        other => {
            // Queued again when that commit is settled.
            unsettled.flight = other;
            return;
        }
    };
    let version = ledger.stamp.next(now);
    add_deletes(user, &unsettled.deletes, &mut flight.deletes, snapshot);
    let deleted = flight.deletes.are_all(&unsettled.deletes);
    resident.snapshot(snapshot.room, |number, state| {
        snapshot.copy(Copied::Row {
            user,
            number,
            version,
            state,
        });
    });
    let done = deleted && !resident.is_dirty();
    resident.changed &= !done;
    let Some(unsettled) = &mut resident.unsettled else {
        unreachable!("it was there under the same lock");
    };
    if !done {
        if snapshot.room == 0 {
            // Goes on in this commit, if that has room.
            ledger.hurry_on(user, unsettled);
        }
    } else if let Some(epoch) = unsettled.epoch.take() {
        match flight.epoch {
            None => flight.epoch = Some(epoch),
            Some(_) => ledger.epochs.leave(epoch),
        }
    }
    unsettled.flight = Some(flight);
}

/// Adds the deletes that are not in flight yet, as far as there is room.
fn add_deletes(
    user: Id,
    deletes: &Deletes,
    in_flight: &mut DeletesInFlight,
    snapshot: &mut Snapshot,
) {
    if let Some(version) = deletes.user
        && in_flight.user != deletes.user
    {
        let written = deletes.written.user == deletes.user;
        snapshot.copy(Copied::DeleteUser {
            user,
            version,
            written,
        });
        in_flight.user = deletes.user;
    }
    for deleted in deletes.channels.range(in_flight.channels..) {
        if snapshot.room == 0 {
            break;
        }
        let written = in_flight.channels < deletes.written.channels;
        in_flight.channels += 1;
        snapshot.copy(Copied::DeleteChannel {
            user,
            deleted: *deleted,
            written,
        });
    }
}
