//! Carrying out a batch: in windows of operations, whose memory is fetched at once.
//!
//! One operation waits for memory twice, for the table of users and for the user. Those of a
//! window wait together: each stage asks for what the next one reads, for all of them. The locks of
//! their shards are taken before, as a lock between two reads keeps the processor from making
//! them at once.
//!
//! Who holds so many locks must not wait for another, or two batches would keep stopping each
//! other. The operations on a shard that somebody else has are carried out one by one, after
//! the others.

use crossbeam_epoch::pin;
use parking_lot::MutexGuard;

use crate::engine::{Engine, UserOperation};
use crate::evict::Budget;
use crate::now::Now;
use crate::plan::Hint;
use crate::prefetch::prefetch;
use crate::shard::{Admission, Shard, Write, WriteError};

/// Operations of a window. Others wait for its locks as long as that takes: some microseconds.
pub(crate) const WINDOW: usize = 32;

impl Engine {
    /// Carries out operations that were admitted, those of each user in their order.
    pub(crate) fn apply_window(
        &self,
        operations: &[UserOperation],
        budget: &mut Budget,
        now: Now,
    ) -> Result<(), WriteError> {
        let guard = pin();
        let directory = &self.shared().directory;
        let mut hashes = [0; WINDOW];
        let mut sought = [None; WINDOW];
        // Shard and, in the lowest bits, position in the window.
        let mut order = [0; WINDOW];
        let order = &mut order[..operations.len()];
        for (at, UserOperation { user, operation }) in operations.iter().enumerate() {
            hashes[at] = self.hash(*user);
            let shard = self.shard_index(hashes[at]);
            prefetch(self.shard_address(shard));
            order[at] = shard * WINDOW + at;
            sought[at] = self.seek(operation);
            if let Some(sought) = sought[at] {
                directory.prefetch(sought, &guard);
            }
        }
        order.sort_unstable();
        let mut shards: [Option<MutexGuard<'_, Shard>>; WINDOW] = [const { None }; WINDOW];
        // Where in `shards` that of each operation is.
        let mut held = [0; WINDOW];
        let (mut last, mut count) = (None, 0);
        for both in &*order {
            let (index, at) = (both / WINDOW, both % WINDOW);
            if last != Some(index) {
                last = Some(index);
                shards[count] = self.try_shard_at(index);
                count += 1;
            }
            held[at] = count - 1;
        }
        for at in 0..operations.len() {
            if let Some(shard) = &shards[held[at]] {
                shard.residents.prefetch(hashes[at]);
            }
        }
        for at in 0..operations.len() {
            if let Some(shard) = &shards[held[at]]
                && let Some(resident) = shard.residents.likely(hashes[at])
            {
                resident.prefetch_numbers();
            }
            if let Some(sought) = sought[at] {
                directory.prefetch_slot(sought, &guard);
            }
        }
        let mut hints = [None; WINDOW];
        for at in 0..operations.len() {
            if let Some(sought) = sought[at]
                && let Some(shard) = &shards[held[at]]
                && let Some(resident) = shard.residents.likely(hashes[at])
                && let Some(hint) = Hint::new(resident, directory, &guard, sought)
            {
                hint.prefetch(resident);
                hints[at] = Some(hint);
            }
        }
        let write = |at: usize| Write {
            guard: &guard,
            user: operations[at].user,
            hash: hashes[at],
            operation: &operations[at].operation,
            sought: sought[at],
            hint: hints[at],
            now,
            admission: Admission::Granted,
        };
        let mut left = Vec::new();
        let mut late = Vec::new();
        for at in 0..operations.len() {
            let Some(shard) = &mut shards[held[at]] else {
                late.push(at);
                continue;
            };
            let aftermath = shard.apply(self.shared(), &write(at))?;
            if !aftermath.is_nothing() {
                left.push(aftermath);
            }
        }
        drop(shards);
        for at in late {
            left.push(self.shard(hashes[at]).apply(self.shared(), &write(at))?);
        }
        for aftermath in left {
            self.follow_up(aftermath, budget, now);
        }
        Ok(())
    }
}
