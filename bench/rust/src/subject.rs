//! What is measured: the engine, and what keeps read states in its place.

mod engine;
mod lru;
mod moka;
mod published;
mod quick_cache;

pub use engine::{Engine, LruEngine};
pub use lru::Lru;
pub use moka::Moka;
pub use published::Published;
pub use quick_cache::QuickCache;

use crate::world::World;

/// A read state, where the subject has no type of its own for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadState {
    /// The message read last.
    pub last_message_id: u64,
    /// Mentions since.
    pub mention_count: u32,
}

/// An operation that writes.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// Whose read state.
    pub user: u64,
    /// Of which channel.
    pub channel: u64,
    /// The message that was read, or has the mention.
    pub message: u64,
    /// What happens to the read state.
    pub change: Change,
}

/// What an operation does to a read state, and creates it for.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// A newer message moves the pointer, and no mention is left.
    Ack,
    /// A mention in a message that was not read yet counts.
    Increment,
}

impl Write {
    /// The meaning of the operation, for a subject that does not bring it along.
    #[inline]
    pub fn apply(&self, state: &mut ReadState) {
        if self.message <= state.last_message_id {
            return;
        }
        match self.change {
            Change::Ack => {
                *state = ReadState {
                    last_message_id: self.message,
                    mention_count: 0,
                };
            }
            Change::Increment => state.mention_count = state.mention_count.saturating_add(1),
        }
    }
}

/// Keeps read states, and is safe to use from several threads.
pub trait Subject: Sync {
    /// Its name in tables and pictures.
    const NAME: &str;

    /// Many operations, in the form it takes them.
    type Batch: Send + Sync;

    /// One with room for twice as many read states, so that nothing is evicted: what is measured is
    /// how they are kept.
    fn new(states: u64) -> Self;

    /// Carries out an operation.
    fn write(&self, write: &Write);

    /// Prepares a batch, which is not measured.
    fn batch(writes: Vec<Write>) -> Self::Batch;

    /// Carries out a batch.
    fn write_all(&self, batch: &Self::Batch);

    /// A read state.
    fn get(&self, user: u64, channel: u64) -> ReadState;

    /// Says that the user is about to come, where that has to be said.
    fn admit(&self, _user: u64) {}

    /// Does what happens in the background otherwise. It is not measured.
    fn settle(&self) {}
}

/// Knows which read states are a user's, which a cache with the user and the channel as its key
/// does not.
pub trait ByUser: Subject {
    /// Read states with their channels.
    type List;

    /// All of a user, in the order of the channels.
    fn list(&self, user: u64) -> Self::List;

    /// The mentions of a user.
    fn total(&self, user: u64) -> u64;
}

/// Gives every user read states, whose channels come in any order.
pub fn fill(subject: &impl Subject, world: &World) {
    let users = Vec::from_iter(0..world.users);
    for some in users.chunks(1_000) {
        for user in some {
            subject.admit(world.user(*user));
        }
        subject.settle();
        for i in 0..world.per_user {
            for user in some {
                subject.write(&Write {
                    user: world.user(*user),
                    channel: world.channel(*user, i),
                    message: 1 << 58,
                    change: Change::Ack,
                });
            }
        }
        subject.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::random;
    use rand::RngExt;

    #[test]
    fn all_mean_the_same() {
        let published = agrees_with_a_plain_map::<Published>();
        let engine = agrees_with_a_plain_map::<Engine>();
        agrees_with_a_plain_map::<Lru>();
        agrees_with_a_plain_map::<Moka>();
        agrees_with_a_plain_map::<QuickCache>();
        for user in (0..WORLD.users).map(|user| WORLD.user(user)) {
            let list = engine.list(user).into_iter();
            let list = Vec::from_iter(list.map(|(channel, state)| (channel.id, state.into())));
            assert_eq!(list.len() as u64, WORLD.per_user);
            assert_eq!(list, published.list(user));
            assert_eq!(engine.total(user), published.total(user));
        }
    }

    const WORLD: World = World {
        users: 20,
        per_user: 5,
        channels: 20,
    };

    fn agrees_with_a_plain_map<S: Subject>() -> S {
        let subject = S::new(WORLD.states());
        fill(&subject, &WORLD);
        let mut model = std::collections::HashMap::new();
        let mut random = random(1);
        let mut writes = Vec::new();
        for _ in 0..10_000 {
            let (user, channel) = WORLD.draw(&mut random);
            let filled = ReadState {
                last_message_id: 1 << 58,
                mention_count: 0,
            };
            let state = model.entry((user, channel)).or_insert(filled);
            let write = Write {
                user,
                channel,
                message: (1 << 58) + random.random_range(0..100),
                change: if random.random() {
                    Change::Ack
                } else {
                    Change::Increment
                },
            };
            write.apply(state);
            writes.push(write);
        }
        let batches = writes.split_off(5_000);
        for write in &writes {
            subject.write(write);
        }
        for batch in batches.chunks(1_000) {
            subject.write_all(&S::batch(batch.to_vec()));
        }
        for ((user, channel), state) in model {
            assert_eq!(subject.get(user, channel), state, "{}", S::NAME);
        }
        subject
    }
}
