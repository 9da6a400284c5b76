//! Read states that are in no table, on the way in or no more, and how they are freed.

use std::ops::{Deref, DerefMut};

use read_states_sync::pin;

use crate::shared::Shared;
use crate::totals::adjust;
use crate::user::Resident;

/// Channel references given back under one pin of the epoch.
const RELEASED_AT_ONCE: usize = 256;

/// Read states in no table. Dropped, the references to their channels are given back.
#[derive(Debug)]
pub(crate) struct Loose<'a> {
    shared: &'a Shared,
    /// Until it is taken out.
    set: Option<Resident>,
}

/// Those that were in one. They count as memory until they are freed.
#[derive(Debug)]
pub(crate) struct Garbage<'a>(Loose<'a>);

impl<'a> Loose<'a> {
    pub fn new(shared: &'a Shared, set: Resident) -> Self {
        Loose {
            shared,
            set: Some(set),
        }
    }

    /// The set itself, which keeps its references.
    pub fn into_set(mut self) -> Resident {
        self.set.take().expect(PRESENT)
    }
}

/// Why there is a set in what is loose.
const PRESENT: &str = "whoever takes it out takes the rest as well";

impl Deref for Loose<'_> {
    type Target = Resident;

    fn deref(&self) -> &Resident {
        self.set.as_ref().expect(PRESENT)
    }
}

impl DerefMut for Loose<'_> {
    fn deref_mut(&mut self) -> &mut Resident {
        self.set.as_mut().expect(PRESENT)
    }
}

impl Drop for Loose<'_> {
    fn drop(&mut self) {
        if let Some(set) = self.set.take() {
            release(self.shared, set.numbers());
        }
    }
}

impl<'a> Garbage<'a> {
    /// Of a set that was counted elsewhere before.
    pub fn new(shared: &'a Shared, set: Resident) -> Self {
        adjust(&shared.totals.garbage, 0, set.bytes());
        Self::counted(shared, set)
    }

    /// Of a set that is counted as garbage.
    pub fn counted(shared: &'a Shared, set: Resident) -> Self {
        Garbage(Loose::new(shared, set))
    }

    /// Read states in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The set itself, to be freed later: it stays counted as garbage.
    pub fn into_set(mut self) -> Option<Resident> {
        self.0.set.take()
    }
}

impl Drop for Garbage<'_> {
    fn drop(&mut self) {
        if let Some(set) = &self.0.set {
            adjust(&self.0.shared.totals.garbage, set.bytes(), 0);
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
