//! What may be left when some operations are lost: of each read state, what some of them would have made of it, in
//! their order.
//!
//! That is decided for each read state by itself. That batches are whole beyond that is what the
//! [witnesses](super::step::WITNESSES) are for.

use std::collections::{BTreeMap, BTreeSet};

use read_states_engine::engine::UserOperation;
use read_states_engine::id::{Channel, Id};
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read_state::ReadState;

use super::model::Model;

/// Whether there is a read state, and which, in a form that has an order.
type Value = Option<(Id, [u32; 4])>;

/// What is certain, and the operations after it, each of which may be lost.
#[derive(Debug, Default)]
pub struct Uncertain {
    certain: Model,
    /// Of each call.
    calls: Vec<Vec<UserOperation>>,
}

fn value(state: Option<ReadState>) -> Value {
    state.map(|state| (state.last_message_id, state.counters))
}

fn state(value: Value) -> Option<ReadState> {
    value.map(|(last_message_id, counters)| ReadState {
        last_message_id,
        counters,
    })
}

impl Uncertain {
    /// Everything so far is certain.
    pub fn settle(&mut self, certain: &Model) {
        self.certain.clone_from(certain);
        self.calls.clear();
    }

    /// These may be lost.
    pub fn note(&mut self, operations: &[UserOperation]) {
        self.calls.push(operations.to_vec());
    }

    /// # Panics
    ///
    /// If a read state in `found` is none that can be left.
    pub fn check(&self, found: &Model) {
        let mut possible = self.possible();
        for (place, state) in &found.0 {
            let possible = possible.remove(place).unwrap_or_default();
            let state = value(Some(*state));
            assert!(
                possible.contains(&state),
                "{place:?} is {state:?}, which none of {possible:?} is"
            );
        }
        for (place, possible) in possible {
            assert!(
                possible.contains(&None),
                "{place:?} is gone, and not one of {possible:?}"
            );
        }
    }

    /// # Panics
    ///
    /// If more is lost than one of the calls.
    pub fn check_one_call(&self, before: &Model, found: &Model) {
        let places = before.0.keys().chain(found.0.keys());
        let lost = places.filter(|place| before.0.get(place) != found.0.get(place));
        let lost: BTreeSet<_> = lost.collect();
        let has = |call: &[UserOperation], place: &(Id, Channel)| {
            call.iter().any(|UserOperation { user, operation }| {
                *user == place.0
                    && match operation {
                        Operation::DeleteUser => true,
                        Operation::Change { channel, .. } => *channel == place.1,
                    }
            })
        };
        let mut calls = self.calls.iter();
        assert!(
            lost.is_empty() || calls.any(|call| lost.iter().all(|place| has(call, place))),
            "{lost:?} are others, of more than one call"
        );
    }

    /// What each read state can be, that was ever one.
    fn possible(&self) -> BTreeMap<(Id, Channel), BTreeSet<Value>> {
        let certain = self.certain.0.iter();
        let mut all: BTreeMap<_, _> = certain
            .map(|(place, state)| (*place, BTreeSet::from([value(Some(*state))])))
            .collect();
        for UserOperation { user, operation } in self.calls.iter().flatten() {
            match operation {
                Operation::DeleteUser => {
                    for (_, possible) in all.iter_mut().filter(|((owner, _), _)| owner == user) {
                        possible.insert(None);
                    }
                }
                Operation::Change { channel, change } => {
                    let possible = all.entry((*user, *channel));
                    add(possible.or_insert_with(|| BTreeSet::from([None])), change);
                }
            }
        }
        all
    }
}

/// What a change can make of each, beside what it was.
fn add(possible: &mut BTreeSet<Value>, change: &Change) {
    match change {
        // Whatever was there.
        Change::Put { .. } | Change::Delete => {
            possible.insert(value(change.apply(None)));
        }
        _ => {
            let changed = possible.iter().map(|before| change.apply(state(*before)));
            let changed: Vec<_> = changed.map(value).collect();
            possible.extend(changed);
        }
    }
}
