//! Stragglers: users who cannot be loaded, while the journal fills.
//!
//! What waits for such a user is never committed, and the journal would keep all that was written after him, until it is full
//! and nobody can write any more. So once it is fuller than [`NEARLY_FULL`], what waits for those who alone hold its oldest
//! segments is written down again, with the versions it has, and the segments go. A flush still waits for them.
//!
//! Only what waits is carried over, for that is operations. A resident user holds values that may be in the snapshot of a
//! commit; he is committed as soon as the store takes commits, and if it takes none of his, for whatever reason, the journal
//! is full in the end.
//!
//! It is carried over once, as it is after a crash in between, too:
//!
//! - A user's operations are told by their versions where he is loaded after a crash, so that one which is there twice is
//!   carried out once, see [`crate::load`].
//! - The copy of a part of a batch is no part of it, and counts by itself. So it is made when the batch is whole: of what
//!   was accepted before the batches were waited for. What came later lies in later segments.
//! - It is made under the lock of the shard, as long as it waits. So a delete that is committed later is written down after it.
//! - The user is carried over when the last of it is copied, and the segments go when that is on the disk.
//!
//! Where so much waits that copies would fill more than a [share](SHARE) of the journal, nothing is copied: they would take
//! the room of those who write. That much they may take the journal past its bound, if it is there already after a start.

use std::io;

use ahash::AHashSet;
use read_states_journal::{Figures, Refusal};
use read_states_sync::pin;

use crate::batch::Version;
use crate::engine::Engine;
use crate::flush::Epoch;
use crate::id::Id;
use crate::journal_record::{Encoded, MOST_BYTES};
use crate::journaling::Journaling;
use crate::operation::{Change, Operation};

/// Of what the journal may become, in quarters. From half on commits hurry, and most who are old go by themselves.
const NEARLY_FULL: usize = 3;

/// One part of so many of the journal may be copies.
const SHARE: usize = 8;

/// Users who are looked at, and operations that are copied, in one hold of a shard's lock.
const AT_ONCE: usize = 256;

/// A user, and up to which version what waits for him may have to be copied.
type Straggler = (Id, Version);

impl Engine {
    /// Carries over whoever belongs to an epoch before `flush`, if the journal is nearly full and they alone do. To be called
    /// where no epoch begins meanwhile by which the journal goes.
    pub(crate) fn carry_over(&self, journaling: &Journaling, flush: Epoch) -> io::Result<()> {
        let Figures { bytes, most } = journaling.journal.figures();
        let waiting = || {
            self.shards()
                .map(|shard| shard.ledger.counts.pending_operations)
        };
        if bytes <= most / 4 * NEARLY_FULL || waiting().sum::<usize>() * MOST_BYTES > most / SHARE {
            return Ok(());
        }
        let Some(stragglers) = self.stragglers(flush) else {
            return Ok(());
        };
        // The batches they are of are whole then, and so they are on the disk before a copy of a part can be.
        journaling.await_batches();
        journaling.journal.sync()?;
        for straggler in stragglers {
            self.carry_over_one(journaling, flush, straggler)?;
        }
        Ok(())
    }

    /// Who is not resident and belongs to an epoch before `flush`, or `None` if residents do too.
    fn stragglers(&self, flush: Epoch) -> Option<Vec<Straggler>> {
        let mut stragglers = vec![];
        for index in 0..self.shard_count() {
            let mut shard = self.shard_at(index);
            let up_to = shard.ledger.stamp.last();
            let (mut place, before) = (0, stragglers.len());
            while shard.ledger.epochs.kept_before(flush) > 0 && place < shard.absents.places() {
                let places = (place..shard.absents.places()).take(AT_ONCE);
                let absents = places.filter_map(|place| shard.absents.at(place));
                let old = absents.filter(|absent| absent.kept().is_some_and(|kept| kept < flush));
                stragglers.extend(old.map(|absent| (absent.id, up_to)));
                place += AT_ONCE;
                drop(shard);
                // Should users move meanwhile, one may be missed, or found twice, which does no harm.
                shard = self.shard_at(index);
            }
            if stragglers.len() - before < shard.ledger.epochs.kept_before(flush) {
                return None;
            }
        }
        Some(stragglers)
    }

    fn carry_over_one(
        &self,
        journaling: &Journaling,
        flush: Epoch,
        (user, up_to): Straggler,
    ) -> io::Result<()> {
        let (journal, hash) = (&journaling.journal, self.hash(user));
        let (mut done, mut some) = (0, Vec::with_capacity(AT_ONCE));
        // What comes from an earlier life may wait twice.
        let mut copied = AHashSet::new();
        loop {
            let mut shard = self.shard(hash);
            let Some(absent) = shard.absent(hash, user) else {
                return Ok(());
            };
            // Who was loaded and waits again belongs to a later one.
            let Some(kept) = absent.kept().filter(|kept| *kept < flush) else {
                return Ok(());
            };
            some.clear();
            absent.pending.copy(done, AT_ONCE, &mut some);
            let mut refused = None;
            for (version, operation) in &some {
                // A delete keeps its place, behind what it deletes.
                let is_new = !absent.recovered || is_delete(operation) || !copied.contains(version);
                if *version <= up_to && is_new {
                    let record = Encoded::operation(*version, user, operation, None);
                    let appended = journal.append_again(record.tag, record.words(), &pin());
                    refused = appended.err();
                    if refused.is_some() {
                        break;
                    }
                    if absent.recovered {
                        copied.insert(*version);
                    }
                }
                done += 1;
            }
            match refused {
                None if done == absent.pending.len() => {
                    let carried = shard.ledger.epochs.carry_over(kept);
                    if let Some(absent) = shard.absent(hash, user) {
                        absent.carried = Some(carried);
                    }
                    return Ok(());
                }
                None => {}
                Some(Refusal::Full) => {
                    drop(shard);
                    journal.make_anyway()?;
                }
                // Why, says who prepares the next segment.
                Some(_) => return Ok(()),
            }
        }
    }
}

fn is_delete(operation: &Operation) -> bool {
    match operation {
        Operation::DeleteUser => true,
        Operation::Change { change, .. } => *change == Change::Delete,
    }
}
