//! The standard work: users with read states of channels, drawn at random.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Users, and the channels of each.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Number of users.
    pub users: u64,
    /// Read states of each.
    pub per_user: u64,
    /// Number of channels.
    pub channels: u64,
}

/// Coprime to every number of channels in use, so that a user has no channel twice.
const STRIDE: u64 = 15_485_863;

impl World {
    /// So many read states, `per_user` of each user, with each channel shared by `shared_by` users on
    /// average.
    pub fn new(states: u64, per_user: u64, shared_by: u64) -> Self {
        let users = (states / per_user).max(1);
        World {
            users,
            per_user,
            channels: (users * per_user / shared_by).max(per_user),
        }
    }

    /// The standard: 50 read states a user, as many channels as users.
    pub fn standard(states: u64) -> Self {
        World::new(states, 50, 50)
    }

    /// Number of read states.
    pub fn states(&self) -> u64 {
        self.users * self.per_user
    }

    /// The id of a user.
    pub fn user(&self, user: u64) -> u64 {
        snowflake(user)
    }

    /// The id of the `i`th channel of a user.
    pub fn channel(&self, user: u64, i: u64) -> u64 {
        let first = user.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        snowflake((first + i * STRIDE) % self.channels)
    }

    /// Any user's id.
    pub fn draw_user(&self, random: &mut SmallRng) -> u64 {
        self.user(random.random_range(0..self.users))
    }

    /// The ids of any user and of any channel of that user.
    pub fn draw(&self, random: &mut SmallRng) -> (u64, u64) {
        let user = random.random_range(0..self.users);
        let channel = self.channel(user, random.random_range(0..self.per_user));
        (self.user(user), channel)
    }
}

/// 60 bits, as those of today.
pub fn snowflake(n: u64) -> u64 {
    1 << 59 | n << 22 | (n.wrapping_mul(2_654_435_761) & 0x3F_FFFF)
}

/// A generator whose numbers are the same in every run.
pub fn random(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}
