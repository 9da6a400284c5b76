//! The queue of a shard's users to load: those whom a reader waits for come before those whose
//! pending operations are to be committed.

use std::collections::VecDeque;

use crate::due::shrink;
use crate::fail_point::fail_point;
use crate::id::Id;
use crate::totals::{Totals, adjust};

/// Why a user is to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// His operations have waited long enough, or are many.
    Due,
    /// Somebody waits to read him.
    Awaited,
}

/// See the module. A user who was due and is awaited now is in both queues; the entry that does
/// not say what he is wanted for any more is stale.
#[derive(Debug, Default)]
pub(crate) struct LoadQueue {
    due: VecDeque<Id>,
    awaited: VecDeque<Id>,
}

impl LoadQueue {
    /// Makes room, so that nothing moves when a user is pushed next.
    pub fn reserve(&mut self) {
        fail_point!();
        self.due.reserve(1);
        self.awaited.reserve(1);
    }

    /// Gives memory back if there is much too much.
    pub fn shrink(&mut self) {
        shrink(&mut self.due);
        shrink(&mut self.awaited);
    }

    pub fn push(&mut self, totals: &Totals, user: Id, wanted: Wanted) {
        adjust(&totals.wanted, 0, 1);
        match wanted {
            Wanted::Due => self.due.push_back(user),
            Wanted::Awaited => {
                adjust(&totals.awaited, 0, 1);
                self.awaited.push_back(user);
            }
        }
    }

    pub fn pop(&mut self, totals: &Totals, wanted: Wanted) -> Option<Id> {
        let queue = match wanted {
            Wanted::Due => &mut self.due,
            Wanted::Awaited => &mut self.awaited,
        };
        let user = queue.pop_front()?;
        adjust(&totals.wanted, 1, 0);
        if wanted == Wanted::Awaited {
            adjust(&totals.awaited, 1, 0);
        }
        Some(user)
    }

    pub fn bytes(&self) -> usize {
        (self.due.capacity() + self.awaited.capacity()) * size_of::<Id>()
    }
}
