//! A list of a user's read states, sorted by channel.

use crossbeam_epoch::Guard;
use read_states_sync::pin;

use crate::block::MAX_BLOCK;
use crate::directory::Directory;
use crate::engine::Engine;
use crate::id::Channel;
use crate::read_state::ReadState;
use crate::user::Resident;

/// Read states copied in one hold of the lock, and up to a block more.
const PAGE: usize = MAX_BLOCK;

/// Which read states of a user to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    /// Only those after this channel.
    pub after: Option<Channel>,
    /// At most so many.
    pub limit: Option<usize>,
    /// Only those whose counter of this index is above 0.
    pub nonzero: Option<usize>,
}

impl Query {
    /// Whether the state is to be listed, wherever it is.
    fn wants(&self, state: &ReadState) -> bool {
        self.nonzero
            .is_none_or(|counter| state.counters[counter] > 0)
    }
}

/// Read states in the order of their channels.
#[derive(Debug)]
pub struct List {
    /// Places of the following: to move the states takes longer than to put them where they are needed.
    order: Vec<usize>,
    channels: Vec<Channel>,
    states: Vec<(u32, ReadState)>,
}

impl List {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All of them, in ascending order of their channels.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Channel, &ReadState)> {
        let state = |at: &usize| (self.channels[*at], &self.states[*at].1);
        self.order.iter().map(state)
    }

    /// The same as a copy.
    pub fn to_vec(&self) -> Vec<(Channel, ReadState)> {
        let copied = |(channel, state): (Channel, &ReadState)| (channel, *state);
        self.iter().map(copied).collect()
    }
}

/// A list in the making, page by page: copied under the lock of the user's shard, and given its
/// channels without it, so that those who wait for the lock come in between.
pub(crate) struct Listing<'a> {
    directory: &'a Directory,
    query: Query,
    // Pinned before the numbers are copied, so that they keep their meaning until they are
    // translated.
    guard: Guard,
    states: Vec<(u32, ReadState)>,
    /// Of the states that are translated, the first ones.
    channels: Vec<Channel>,
}

impl<'a> Listing<'a> {
    pub fn new(engine: &'a Engine, query: Query) -> Self {
        Listing {
            directory: &engine.shared().directory,
            query,
            guard: pin(),
            states: Vec::new(),
            channels: Vec::new(),
        }
    }

    /// Returns the number to go on from. The processor fetches what the channels are read from meanwhile, all of it at once.
    pub fn copy(&mut self, set: &Resident, from: u32) -> Option<u32> {
        let new = self.states.len();
        let next = set.page(from, PAGE, &mut self.states);
        for (number, state) in &self.states[new..] {
            if self.query.wants(state) {
                self.directory.prefetch_number(*number);
            }
        }
        next
    }

    pub fn translate(&mut self) {
        let Query { after, limit, .. } = self.query;
        let new = self.channels.len();
        let may_go_on = self.states.len() - new >= PAGE;
        self.channels.reserve(self.states.len() - new);
        for at in new..self.states.len() {
            let (number, state) = &self.states[at];
            if !self.query.wants(state) {
                continue;
            }
            let channel = self.directory.channel(*number);
            if after.is_none_or(|after| channel > after) {
                let kept = self.channels.len();
                self.channels.push(channel);
                if kept < at {
                    self.states[kept] = self.states[at];
                }
            }
        }
        self.states.truncate(self.channels.len());
        if let Some(limit) = limit
            && self.states.len() / 2 > limit.max(MAX_BLOCK)
        {
            let order = self.order();
            self.channels = order.iter().map(|at| self.channels[*at]).collect();
            self.states = order.iter().map(|at| self.states[*at]).collect();
        }
        if may_go_on {
            // Not where the next page is copied, under the lock.
            self.states.reserve(PAGE + MAX_BLOCK);
        }
        self.guard.repin();
    }

    /// The places of the states in ascending order of their channels, of the first `limit` if there is one.
    fn order(&self) -> Vec<usize> {
        let mut order = self.quick_order().unwrap_or_else(|| self.full_order());
        order.truncate(self.query.limit.unwrap_or(usize::MAX));
        order
    }

    /// The order, unless channels are too much alike for it, as small ids of several kinds are. Sorted are
    /// numbers of 64 bits: the first ones in which the channels differ, and the place. That takes a third of the
    /// time of whole channels.
    fn quick_order(&self) -> Option<Vec<usize>> {
        let numbers = || self.channels.iter().copied().map(number);
        let first = numbers().next()?;
        let differ = numbers().fold(0, |differ, number| differ | (number ^ first));
        // One less where they do not differ at all: so far numbers can be shifted.
        let common = differ.leading_zeros().min(u128::BITS - 1);
        let place = self.channels.len().next_power_of_two() - 1;
        let key = |(at, number): (usize, u128)| {
            let differing = (number << common >> u64::BITS) as u64;
            differing & !(place as u64) | at as u64
        };
        let mut keys: Vec<u64> = numbers().enumerate().map(key).collect();
        keys.sort_unstable();
        let order: Vec<usize> = keys.into_iter().map(|key| key as usize & place).collect();
        let is_sorted = order.is_sorted_by(|a, b| self.channels[*a] < self.channels[*b]);
        is_sorted.then_some(order)
    }

    /// The order. A channel that was deleted and created meanwhile has another number, and may have been copied under
    /// both; the later copy counts.
    fn full_order(&self) -> Vec<usize> {
        let key = |(at, channel): (usize, &Channel)| number(*channel) << u32::BITS | at as u128;
        let mut keys: Vec<u128> = self.channels.iter().enumerate().map(key).collect();
        keys.sort_unstable();
        keys.dedup_by(|later, earlier| {
            let twice = *later >> u32::BITS == *earlier >> u32::BITS;
            if twice {
                *earlier = *later;
            }
            twice
        });
        keys.into_iter().map(|key| key as u32 as usize).collect()
    }

    pub fn finish(self) -> List {
        List {
            order: self.order(),
            channels: self.channels,
            states: self.states,
        }
    }
}

/// A number for a channel, in the order of channels.
fn number(channel: Channel) -> u128 {
    u128::from(channel.kind) << u64::BITS | u128::from(channel.id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::{Config, UserOperation};
    use crate::id::Id;
    use crate::now::Now;
    use crate::operation::{Change, Operation};
    use crate::read::Found;

    const USER: Id = 1;
    const CHANNELS: Id = 2_000;

    fn on(channel: Channel, change: Change) -> UserOperation {
        UserOperation {
            user: USER,
            operation: Operation::Change { channel, change },
        }
    }

    /// What a list with this limit is, if a channel of its first page is deleted and created
    /// again, which gives it another number, before the second page.
    fn list_beside_a_change(limit: Option<usize>) -> Vec<(Channel, ReadState)> {
        let engine = Engine::new(Config::default());
        let channel = |id| Channel { kind: 0, id };
        let delete_user = UserOperation {
            user: USER,
            operation: Operation::DeleteUser,
        };
        let acks = (0..CHANNELS).map(|id| on(channel(id), Change::Ack { message: 1 }));
        let fill: Vec<_> = std::iter::once(delete_user).chain(acks).collect();
        engine.apply_all(&fill, Now::default()).unwrap();
        let query = Query {
            limit,
            ..Query::default()
        };
        let mut listing = Listing::new(&engine, query);
        let mut next = Some(0);
        while let Some(from) = next {
            let page = engine.read(USER, None, |resident| {
                Found::Resident(listing.copy(resident, from))
            });
            let Ok(Found::Resident(after)) = page else {
                unreachable!("the user is resident");
            };
            next = after;
            listing.translate();
            if from == 0 {
                let moved = listing.channels[0];
                let again = [
                    on(moved, Change::Delete),
                    on(moved, Change::Ack { message: 2 }),
                ];
                engine.apply_all(&again, Now::default()).unwrap();
            }
        }
        listing.finish().to_vec()
    }

    #[test]
    fn a_channel_that_is_created_again_meanwhile_is_listed_once() {
        for limit in [None, Some(CHANNELS as usize), Some(700), Some(5)] {
            let states = list_beside_a_change(limit);
            let ids: Vec<Id> = states.iter().map(|(channel, _)| channel.id).collect();
            let expected = limit.map_or(CHANNELS, |limit| limit as Id);
            assert!(ids.iter().copied().eq(0..expected), "{limit:?}: {ids:?}");
        }
    }

    #[test]
    fn channels_that_differ_in_few_bits_are_sorted_quickly() {
        let engine = Engine::new(Config::default());
        for (kind, first) in [(0, 0), (1, 1 << 60), (255, Id::MAX - 500)] {
            let mut listing = Listing::new(&engine, Query::default());
            let channel = |at: Id| Channel {
                kind,
                id: first + at * 77 % 500,
            };
            listing.channels.extend((0..500).map(channel));
            assert!(listing.quick_order().is_some(), "{kind}, {first}");
        }
    }

    /// Ids that are equal but for few bits at either end, or in the middle.
    fn channels() -> impl Strategy<Value = Vec<Channel>> {
        let id = (0..8u64, 0..4u64, 0..8u64)
            .prop_map(|(high, middle, low)| high << 61 | middle << 30 | low);
        let channel = (0..3u8, id).prop_map(|(kind, id)| Channel { kind, id });
        prop::collection::vec(channel, 0..100)
    }

    proptest! {
        #[test]
        fn a_list_is_in_the_order_of_the_channels(channels in channels(), limit in prop::option::of(0..120usize)) {
            // Of those that are there twice, the last counts.
            let mut expected = BTreeMap::new();
            let state = |at| ReadState { last_message_id: at as Id, ..ReadState::default() };
            expected.extend(channels.iter().enumerate().map(|(at, channel)| (*channel, state(at))));
            let engine = Engine::new(Config::default());
            let mut listing = Listing::new(&engine, Query { limit, ..Query::default() });
            listing.states.extend((0..channels.len()).map(|at| (0, state(at))));
            listing.channels = channels;
            let expected = expected.into_iter().take(limit.unwrap_or(usize::MAX));
            prop_assert!(listing.finish().to_vec().into_iter().eq(expected));
        }
    }
}
