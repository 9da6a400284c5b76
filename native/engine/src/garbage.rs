//! Read states that are in no table any more, and how they are freed.

use read_states_sync::pin;

use crate::shared::Shared;
use crate::totals::adjust;
use crate::user::Resident;

/// Channel references given back under one pin of the epoch.
const RELEASED_AT_ONCE: usize = 256;

/// Dropped, it is freed, and the references to its channels are given back. What is garbage still counts as memory
/// until then.
#[derive(Debug)]
pub(crate) struct Garbage<'a> {
    shared: &'a Shared,
    /// Until it is taken out.
    set: Option<Resident>,
}

impl<'a> Garbage<'a> {
    /// Of a set that was counted elsewhere before.
    pub fn new(shared: &'a Shared, set: Resident) -> Self {
        adjust(&shared.totals.garbage, 0, set.bytes());
        Self::counted(shared, set)
    }

    /// Of a set that is counted as garbage.
    pub fn counted(shared: &'a Shared, set: Resident) -> Self {
        Garbage {
            shared,
            set: Some(set),
        }
    }

    /// Read states in it.
    pub fn len(&self) -> usize {
        self.set.as_ref().map_or(0, Resident::len)
    }

    /// The set itself, to be freed later: it stays counted as garbage.
    pub fn into_set(mut self) -> Option<Resident> {
        self.set.take()
    }
}

impl Drop for Garbage<'_> {
    fn drop(&mut self) {
        if let Some(set) = self.set.take() {
            adjust(&self.shared.totals.garbage, set.bytes(), 0);
            release(self.shared, set.numbers());
        }
    }
}

/// Gives back a reference to each of these channels, also to those after one that panics.
pub(crate) fn release(shared: &Shared, numbers: impl Iterator<Item = u32>) {
    let directory = &shared.directory;
    let mut numbers = scopeguard::guard(numbers.peekable(), |left| {
        left.for_each(|number| directory.release(number, &pin()));
    });
    while numbers.peek().is_some() {
        let guard = pin();
        for number in numbers.by_ref().take(RELEASED_AT_ONCE) {
            directory.release(number, &guard);
        }
    }
}
