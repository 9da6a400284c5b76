//! Carrying out a batch: in windows of operations, whose memory is fetched at once.
//!
//! One operation waits for memory twice, for the table of users and for the user. In a window it does so three times, as
//! only the row that is needed is fetched once the tags are there, but all of the window wait together: each stage asks for what the next one reads, for all of them. The locks of
//! their shards are taken before, as a lock between two reads keeps the processor from making
//! them at once; and the operations are put into the order of their shards, so that few locks serve
//! a window. Those of a user stay in their order.
//!
//! Who holds several locks must not wait for another, or two batches would keep stopping each
//! other. The operations on shards that somebody else has are carried out after the others, shard by
//! shard.

use read_states_sync::{MutexGuard, pin};

use crate::directory::Sought;
use crate::engine::{Engine, UserOperation};
use crate::evict::Budget;
use crate::journaling::BatchLog;
use crate::now::Now;
use crate::operation::Operation;
use crate::plan::Hint;
use crate::shard::{Admission, Near, Shard, Write, WriteError};

/// Operations that are put into order together.
const GROUP: usize = 1_024;

/// Operations of a window. Others wait for its locks as long as that takes: some microseconds.
const WINDOW: usize = 32;

/// Some of a batch.
struct Group<'a, 'b> {
    operations: &'a [UserOperation],
    /// Of their users.
    hashes: &'b [u64],
    batch: Option<&'b BatchLog<'b>>,
}

/// An operation on its way through a window.
#[derive(Clone, Copy)]
struct Step<'a> {
    operation: &'a UserOperation,
    /// Of the user.
    hash: u64,
    sought: Option<Sought>,
    /// Among the locks of the window.
    lock: usize,
    near: Near,
}

impl Engine {
    /// Carries out operations that were admitted, those of each user in their order.
    pub(crate) fn apply_admitted(
        &self,
        operations: &[UserOperation],
        batch: Option<&BatchLog>,
        budget: &mut Budget,
        now: Now,
    ) -> Result<(), WriteError> {
        let mut hashes = Vec::with_capacity(operations.len().min(GROUP));
        let mut order = Vec::with_capacity(operations.len().min(GROUP));
        let mut window = Window::new();
        for group in operations.chunks(GROUP) {
            hashes.clear();
            hashes.extend(group.iter().map(|operation| self.hash(operation.user)));
            self.put_in_order(&hashes, &mut order);
            let group = Group {
                operations: group,
                hashes: &hashes,
                batch,
            };
            let mut windows = order.chunks(WINDOW).peekable();
            while let Some(some) = windows.next() {
                let next = windows.peek().copied().unwrap_or_default();
                window.apply(self, &group, some, next, budget, now)?;
            }
        }
        Ok(())
    }

    /// Where the operations of a group are, shard by shard.
    fn put_in_order(&self, hashes: &[u64], order: &mut Vec<u16>) {
        order.clear();
        order.extend(0..hashes.len() as u16);
        let shard = |at: u16| self.shard_index(hashes[usize::from(at)]);
        if hashes.len() < self.shard_count() / 8 {
            order.sort_by_key(|at| shard(*at));
            return;
        }
        // Many: those of each shard are counted, and so it is known where they begin.
        let mut next = vec![0; self.shard_count() + 1];
        for at in order.iter() {
            next[shard(*at) + 1] += 1;
        }
        for index in 1..next.len() {
            next[index] += next[index - 1];
        }
        for at in 0..hashes.len() as u16 {
            let next = &mut next[shard(at)];
            order[*next] = at;
            *next += 1;
        }
    }
}

struct Window<'a, 'b> {
    /// One that somebody else has is `None`.
    locks: Vec<Option<MutexGuard<'a, Shard>>>,
    steps: Vec<Step<'b>>,
}

impl<'a, 'b> Window<'a, 'b> {
    fn new() -> Self {
        Window {
            locks: Vec::with_capacity(WINDOW),
            steps: Vec::with_capacity(WINDOW),
        }
    }

    fn apply(
        &mut self,
        engine: &'a Engine,
        group: &Group<'b, '_>,
        order: &[u16],
        next: &[u16],
        budget: &mut Budget,
        now: Now,
    ) -> Result<(), WriteError> {
        let guard = pin();
        let directory = &engine.shared().directory;
        let Window { locks, steps } = self;
        steps.clear();
        let mut last = None;
        for at in order {
            let at = usize::from(*at);
            let (operation, hash) = (&group.operations[at], group.hashes[at]);
            let index = engine.shard_index(hash);
            if last.replace(index) != Some(index) {
                locks.push(engine.try_shard_at(index));
            }
            steps.push(Step {
                operation,
                hash,
                sought: None,
                lock: locks.len() - 1,
                near: Near::default(),
            });
        }
        for step in steps.iter() {
            if let Some(shard) = &locks[step.lock] {
                shard.residents.prefetch(step.hash);
            }
        }
        // A mention is on one channel, which is looked for once.
        let mut last: Option<Sought> = None;
        for step in steps.iter_mut() {
            let Operation::Change { channel, .. } = step.operation.operation else {
                continue;
            };
            if last.is_none_or(|last| !last.is_of(channel)) {
                let sought = directory.seek(channel);
                directory.prefetch(sought, &guard);
                last = Some(sought);
            }
            step.sought = last;
        }
        // For the next window: locks lie apart as users do.
        let mut last = None;
        for at in next {
            let index = engine.shard_index(group.hashes[usize::from(*at)]);
            if last.replace(index) != Some(index) {
                engine.prefetch_shard(index);
            }
        }
        // Who seems to be the user, where he is, and what his channel's number seems to be.
        let mut residents = [None; WINDOW];
        for (step, resident) in steps.iter_mut().zip(&mut residents) {
            if let Some(shard) = &locks[step.lock]
                && let Some((place, first)) = shard.residents.first(step.hash)
            {
                step.near.place = Some(place);
                *resident = Some(first);
            }
        }
        for resident in residents.iter().flatten() {
            resident.prefetch_tags();
        }
        // What is taken for another's by its hash is a wrong guess, no more.
        let mut last = (0, None);
        let mut guesses = [None; WINDOW];
        for (step, guess) in steps.iter().zip(&mut guesses) {
            if let Some(sought) = step.sought {
                if last.0 != sought.hash() {
                    last = (sought.hash(), directory.guess(sought, &guard));
                }
                *guess = last.1;
            }
        }
        for ((step, resident), guess) in steps.iter_mut().zip(residents).zip(guesses) {
            if let (Some(resident), Some(sought)) = (resident, step.sought) {
                step.near.hint = Hint::guessed(resident, sought, guess);
            }
        }
        let (mut left, mut later) = (Vec::new(), Vec::new());
        for step in steps.iter() {
            let write = || Write {
                guard: &guard,
                user: step.operation.user,
                hash: step.hash,
                operation: &step.operation.operation,
                sought: step.sought,
                near: step.near,
                now,
                admission: Admission::Granted,
                batch: group.batch,
            };
            let Some(shard) = &mut locks[step.lock] else {
                later.push(write());
                continue;
            };
            if shard.change_again(engine.shared(), step.near, step.operation, now, write)? {
                continue;
            }
            let aftermath = shard.apply(engine.shared(), &write())?;
            if !aftermath.is_nothing() {
                left.push(aftermath);
            }
        }
        locks.clear();
        // Waits once for each of these shards, not for each operation on it.
        let index = |write: &Write| engine.shard_index(write.hash);
        for same in later.chunk_by(|a, b| index(a) == index(b)) {
            let mut shard = engine.shard(same[0].hash);
            for write in same {
                left.push(shard.apply(engine.shared(), write)?);
            }
        }
        for aftermath in left {
            engine.follow_up(aftermath, budget, now);
        }
        Ok(())
    }
}
