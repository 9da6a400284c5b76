//! What a change comes to for one set of read states: found out first, carried out after it
//! was admitted.

use crossbeam_epoch::Guard;
use scopeguard::ScopeGuard;

use crate::directory::{Directory, Guess, Sought};
use crate::id::Channel;
use crate::operation::Change;
use crate::read_state::ReadState;
use crate::read_state_set::Place;
use crate::user::Resident;

/// See the module. Valid until the set changes.
#[derive(Debug)]
pub(crate) enum Plan {
    /// The read state stays as it is.
    Nothing,
    /// It gets other values.
    Replace(Place, ReadState),
    /// It is created.
    Insert(ReadState),
    /// It goes. The number is its channel's.
    Remove(u32, Place),
}

/// Where a channel's read state was a moment ago, or may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hint {
    number: u32,
    place: Place,
}

impl Hint {
    /// Looks for it.
    #[inline]
    pub fn new(
        set: &Resident,
        directory: &Directory,
        guard: &Guard,
        sought: Sought,
    ) -> Option<Self> {
        let number = directory.find(sought, guard)?;
        Self::of_number(set, number)
    }

    /// Where it may be, by what was guessed of the channel. Has the processor fetch what is there.
    #[inline]
    pub fn guessed(set: &Resident, sought: Sought, guess: Option<Guess>) -> Option<Self> {
        let number = guess?.number(sought)?;
        let place = set.guess(number)?;
        Some(Hint { number, place })
    }

    #[inline]
    fn of_number(set: &Resident, number: u32) -> Option<Self> {
        // A read state of the set holds a reference, so its channel has exactly this number.
        let place = set.find(number)?;
        Some(Hint { number, place })
    }

    /// Where the read state is, if it is still in the set. The guard must be pinned since the hint was made.
    #[inline]
    pub fn confirmed(self, set: &Resident) -> Option<Self> {
        // A number that is still in the set still is the channel's.
        if set.is_at(self.place, self.number) {
            Some(self)
        } else {
            Self::of_number(set, self.number)
        }
    }

    /// Gives the read state the values that a change makes of it, after `note` was called with whether they are others.
    /// The hint holds, and the change deletes nothing.
    #[inline(always)]
    pub fn change<E>(
        self,
        set: &mut Resident,
        change: &Change,
        note: impl FnOnce(bool) -> Result<(), E>,
    ) -> Result<(), E> {
        set.revise(self.place, |before| {
            let after = change.apply(Some(before));
            let changes = after != Some(before);
            note(changes)?;
            Ok(after.filter(|_| changes))
        })
    }
}

impl Plan {
    /// What `change` does to a read state of `set`, which is at `found` if there is one.
    pub fn new(set: &Resident, change: &Change, found: Option<Hint>) -> Self {
        let before = found.map(|hint| set.get(hint.place));
        let after = change.apply(before);
        if after == before {
            return Plan::Nothing;
        }
        match (found, after) {
            (Some(hint), Some(after)) => Plan::Replace(hint.place, after),
            (Some(hint), None) => Plan::Remove(hint.number, hint.place),
            (None, Some(after)) => Plan::Insert(after),
            (None, None) => Plan::Nothing,
        }
    }

    /// Does it. The guard must be the one the plan was made with.
    #[inline]
    pub fn carry_out(
        self,
        set: &mut Resident,
        directory: &Directory,
        guard: &Guard,
        channel: Channel,
    ) {
        match self {
            Plan::Nothing => {}
            Plan::Replace(place, state) => set.change(place, &state),
            Plan::Insert(state) => {
                let number = directory.acquire(directory.seek(channel), guard);
                // Given back unless it comes into the set.
                let number = scopeguard::guard(number, |number| directory.release(number, guard));
                set.insert(*number, &state);
                ScopeGuard::into_inner(number);
            }
            Plan::Remove(number, place) => {
                // Before anything that can panic, for the delete is noted already.
                set.remove(place);
                directory.release(number, guard);
                set.compact(place);
            }
        }
    }
}
