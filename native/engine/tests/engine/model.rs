//! What the engine is checked against: a plain map.

use std::collections::BTreeMap;

use read_states_engine::id::{Channel, Id};
use read_states_engine::list::Query;
use read_states_engine::operation::Operation;
use read_states_engine::read_state::ReadState;

/// Read states by user and channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model(pub BTreeMap<(Id, Channel), ReadState>);

impl Model {
    pub fn apply(&mut self, user: Id, operation: &Operation) {
        match operation {
            Operation::DeleteUser => self.0.retain(|(owner, _), _| *owner != user),
            Operation::Change { channel, change } => {
                let key = (user, *channel);
                match change.apply(self.0.get(&key).copied()) {
                    Some(state) => self.0.insert(key, state),
                    None => self.0.remove(&key),
                };
            }
        }
    }

    #[allow(dead_code, reason = "not all tests that share this need it")]
    pub fn get(&self, user: Id, channel: Channel) -> ReadState {
        self.0.get(&(user, channel)).copied().unwrap_or_default()
    }

    pub fn list(&self, user: Id, query: Query) -> Vec<(Channel, ReadState)> {
        let states = self.0.iter().filter(|((owner, _), _)| *owner == user);
        states
            .map(|((_, channel), state)| (*channel, *state))
            .filter(|(channel, _)| query.after.is_none_or(|after| *channel > after))
            .filter(|(_, state)| {
                query
                    .nonzero
                    .is_none_or(|counter| state.counters[counter] > 0)
            })
            .take(query.limit.unwrap_or(usize::MAX))
            .collect()
    }
}
