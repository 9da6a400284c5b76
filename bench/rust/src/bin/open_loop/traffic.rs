//! Which requests there are.

use rand::RngExt;
use rand::rngs::SmallRng;
use read_states_bench::world::World;

use crate::protocol::{Operation, Request};

/// The message that everything has been read up to when the load starts.
pub const FIRST_MESSAGE: u64 = 1 << 59;

/// One half of the users is there now and makes nine of ten requests; any of the others may turn
/// up with the rest. With room for 80 % of all this makes a miss of one request in twenty to
/// thirty.
pub struct Traffic {
    world: World,
    random: SmallRng,
}

impl Traffic {
    pub fn new(world: World, random: SmallRng) -> Self {
        Traffic { world, random }
    }

    /// The next request. Of five, two read a channel, two mention a user and one asks for a read
    /// state. Messages are to be newer with each, so that every write changes something.
    pub fn draw(&mut self, message: u64) -> Request {
        let half = self.world.users / 2;
        let user = if self.random.random_ratio(9, 10) {
            self.random.random_range(half..self.world.users)
        } else {
            self.random.random_range(0..half.max(1))
        };
        let channel = self.random.random_range(0..self.world.per_user);
        Request {
            operation: match self.random.random_range(0..5) {
                0 | 1 => Operation::Ack,
                2 | 3 => Operation::Increment,
                _ => Operation::Get,
            },
            user: self.world.user(user),
            channel: self.world.channel(user, channel),
            message: FIRST_MESSAGE + message,
        }
    }
}
