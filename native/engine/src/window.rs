//! Carrying out a batch: in windows of operations, whose memory is fetched at once.
//!
//! One operation waits for memory twice, for the table of users and for the user. Those of a
//! window wait together: each stage asks for what the next one reads, for all of them. The locks of
//! their shards are taken before, as a lock between two reads keeps the processor from making
//! them at once; and the operations are put into the order of their shards, so that few locks serve
//! a window. Those of a user stay in their order.
//!
//! Who holds several locks must not wait for another, or two batches would keep stopping each
//! other. The operations on a shard that somebody else has are carried out one by one, after
//! the others.

use read_states_sync::{MutexGuard, pin};

use crate::directory::Sought;
use crate::engine::{Engine, UserOperation};
use crate::evict::Budget;
use crate::journaling::BatchLog;
use crate::now::Now;
use crate::plan::Hint;
use crate::prefetch::prefetch;
use crate::shard::{Admission, Shard, Write, WriteError};

/// Operations that are put into order together.
const GROUP: usize = 1_024;

/// Operations of a window. Others wait for its locks as long as that takes: some microseconds.
const WINDOW: usize = 32;

/// Operations that are put into order together.
struct Group<'a> {
    operations: &'a [UserOperation],
    /// Of their users.
    hashes: &'a [u64],
    batch: Option<&'a BatchLog<'a>>,
}

/// An operation on its way through a window.
#[derive(Clone, Copy)]
struct Step {
    /// In the group.
    at: usize,
    /// Among the locks of the window; `None` if somebody else has it.
    held: Option<usize>,
    sought: Option<Sought>,
    /// Of the user in the table.
    place: Option<usize>,
    /// The number its channel seems to have.
    guess: Option<u32>,
    hint: Option<Hint>,
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
            for some in order.chunks(WINDOW) {
                window.apply(self, &group, some, budget, now)?;
            }
        }
        Ok(())
    }

    /// Where the operations of a group are, shard by shard.
    fn put_in_order(&self, hashes: &[u64], order: &mut Vec<u16>) {
        order.clear();
        order.extend(0..hashes.len() as u16);
        let shard = |at: u16| self.shard_index(hashes[usize::from(at)]);
        if hashes.len() < self.shard_count() {
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

struct Window<'a> {
    locks: Vec<Option<MutexGuard<'a, Shard>>>,
    steps: Vec<Step>,
}

impl<'a> Window<'a> {
    fn new() -> Self {
        Window {
            locks: Vec::with_capacity(WINDOW),
            steps: Vec::with_capacity(WINDOW),
        }
    }

    fn apply(
        &mut self,
        engine: &'a Engine,
        group: &Group,
        order: &[u16],
        budget: &mut Budget,
        now: Now,
    ) -> Result<(), WriteError> {
        let Group {
            operations,
            hashes,
            batch,
        } = *group;
        let guard = pin();
        let directory = &engine.shared().directory;
        let Window { locks, steps } = self;
        steps.clear();
        for at in order {
            let at = usize::from(*at);
            prefetch(engine.shard_address(engine.shard_index(hashes[at])));
            let sought = engine.seek(&operations[at].operation);
            if let Some(sought) = sought {
                directory.prefetch(sought, &guard);
            }
            steps.push(Step {
                at,
                held: None,
                sought,
                place: None,
                guess: None,
                hint: None,
            });
        }
        let mut last = None;
        for step in steps.iter_mut() {
            let index = engine.shard_index(hashes[step.at]);
            if last != Some(index) {
                last = Some(index);
                locks.push(engine.try_shard_at(index));
            }
            let held = locks.len() - 1;
            if let Some(shard) = &locks[held] {
                step.held = Some(held);
                shard.residents.prefetch(hashes[step.at]);
            }
        }
        for step in steps.iter_mut() {
            if let Some(shard) = step.shard(locks) {
                step.place = shard.residents.first(hashes[step.at]);
                if let Some(resident) = step.place.and_then(|place| shard.residents.at(place)) {
                    resident.prefetch_numbers();
                }
            }
            if let Some(sought) = step.sought {
                step.guess = directory.guess(sought, &guard);
            }
        }
        for step in steps.iter_mut() {
            if let Some(shard) = step.shard(locks)
                && let Some(sought) = step.sought
                && let Some(resident) = step.place.and_then(|place| shard.residents.at(place))
                && let Some(hint) = Hint::guessed(resident, directory, &guard, sought, step.guess)
            {
                hint.prefetch(resident);
                step.hint = Some(hint);
            }
        }
        let write = |step: &Step| Write {
            guard: &guard,
            user: operations[step.at].user,
            hash: hashes[step.at],
            operation: &operations[step.at].operation,
            sought: step.sought,
            place: step.place,
            hint: step.hint,
            now,
            admission: Admission::Granted,
            batch,
        };
        let mut left = Vec::new();
        for step in steps.iter() {
            let Some(held) = step.held else {
                continue;
            };
            let shard = locks[held].as_mut().expect("who holds it says so");
            let aftermath = shard.apply(engine.shared(), &write(step))?;
            if !aftermath.is_nothing() {
                left.push(aftermath);
            }
        }
        locks.clear();
        for step in steps.iter().filter(|step| step.held.is_none()) {
            let mut shard = engine.shard(hashes[step.at]);
            left.push(shard.apply(engine.shared(), &write(step))?);
        }
        for aftermath in left {
            engine.follow_up(aftermath, budget, now);
        }
        Ok(())
    }
}

impl Step {
    fn shard<'b>(&self, locks: &'b [Option<MutexGuard<'_, Shard>>]) -> Option<&'b Shard> {
        locks[self.held?].as_deref()
    }
}
