//! What goes to a service and comes back. All is big-endian, and of a fixed size:
//!
//! ```text
//! request   operation u8 | user u64 | channel u64 | message u64 | number u32
//! answer                       number u32 | last message u64 | mention count u32
//! ```
//!
//! Requests are numbered by connection, and may be answered in another order. The answer to a write
//! has zeros after its number.

/// Bytes of a request.
pub const REQUEST: usize = 29;
/// Bytes of an answer.
pub const ANSWER: usize = 16;

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    Ack = 0,
    Increment = 1,
    Get = 2,
}

/// A request, but for its number.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub operation: Operation,
    pub user: u64,
    pub channel: u64,
    pub message: u64,
}

impl Request {
    /// Appends the request to what is sent.
    pub fn encode(&self, number: u32, bytes: &mut Vec<u8>) {
        bytes.push(self.operation as u8);
        bytes.extend(self.user.to_be_bytes());
        bytes.extend(self.channel.to_be_bytes());
        bytes.extend(self.message.to_be_bytes());
        bytes.extend(number.to_be_bytes());
    }
}

/// The number of the request that is answered.
pub fn answered(answer: &[u8]) -> u32 {
    u32::from_be_bytes(answer[..4].try_into().expect("four bytes"))
}
