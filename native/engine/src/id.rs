//! Identifiers: the one place that knows how wide they are.

use std::hash::{Hash, Hasher};

/// A user, a channel or a message: an unsigned 64-bit number over its whole range.
///
/// Message ids of one channel grow with time (snowflakes, `bigserial`); nothing
/// else is assumed of them.
pub type Id = u64;

/// Width of [`Id`] in bytes, written into every header (batch, store) so that
/// data with ids of another width is refused instead of misread.
pub const ID_WIDTH: u8 = size_of::<Id>() as u8;

/// What a read state belongs to, apart from its user.
///
/// `kind` is 0 for channels and 1..=255 for what is read like one (pins,
/// events, a notification centre). Ordered by kind, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Channel {
    /// 0 for a plain channel.
    pub kind: u8,
    /// The id within the kind.
    pub id: Id,
}

impl Hash for Channel {
    /// In one step, as every operation does it.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.id ^ u64::from(self.kind) << 56);
    }
}
