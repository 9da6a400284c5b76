//! What a change comes to for one set of read states: found out first, carried out after it
//! was admitted.

use crossbeam_epoch::Guard;

use crate::directory::{Directory, Sought};
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

/// Where a channel's read state was a moment ago.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hint {
    number: u32,
    place: Place,
}

impl Hint {
    /// Looks for it.
    pub fn new(
        set: &Resident,
        directory: &Directory,
        guard: &Guard,
        sought: Sought,
    ) -> Option<Self> {
        // A read state of the set holds a reference, so its channel has exactly this number.
        let number = directory.find(sought, guard)?;
        let place = set.find(number)?;
        Some(Hint { number, place })
    }

    /// Has the processor fetch the read state.
    pub fn prefetch(self, set: &Resident) {
        set.prefetch_state(self.place);
    }
}

impl Plan {
    /// What `change` does to the read state of the channel `sought` in `set`. A hint must have been found while
    /// `guard` was pinned.
    pub fn new(
        set: &Resident,
        directory: &Directory,
        guard: &Guard,
        sought: Sought,
        change: &Change,
        hint: Option<Hint>,
    ) -> Self {
        // A number that is still in the set still is the channel's.
        let found = hint
            .filter(|hint| set.is_at(hint.place, hint.number))
            .or_else(|| Hint::new(set, directory, guard, sought))
            .map(|Hint { number, place }| (number, place));
        let before = found.map(|(_, place)| set.get(place));
        let after = change.apply(before);
        if after == before {
            return Plan::Nothing;
        }
        match (found, after) {
            (Some((_, place)), Some(after)) => Plan::Replace(place, after),
            (Some((number, place)), None) => Plan::Remove(number, place),
            (None, Some(after)) => Plan::Insert(after),
            (None, None) => Plan::Nothing,
        }
    }

    /// Does it. The guard must be the one the plan was made with.
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
            Plan::Insert(state) => set.insert(directory.acquire(channel, guard), &state),
            Plan::Remove(number, place) => {
                set.remove(place);
                directory.release(number, guard);
            }
        }
    }
}
