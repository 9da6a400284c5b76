//! One read state, outside its packed form.

use crate::id::Id;

/// Most counters a read state can have.
pub const MAX_COUNTERS: usize = 4;

/// What one user has read of one channel.
///
/// A state that was never written equals [`ReadState::default`]: nothing read,
/// every counter 0. Counters past the number the instance is configured with
/// stay 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadState {
    /// The message read last; 0 if none.
    pub last_message_id: Id,
    /// For example the number of unread mentions.
    pub counters: [u32; MAX_COUNTERS],
}
