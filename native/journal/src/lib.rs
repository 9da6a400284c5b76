//! A journal: records that survive the death of the process as soon as they are appended, and that
//! of the machine as soon as they are synced.
//!
//! ```text
//! directory      lock | 0000000000000007.journal | 0000000000000008.journal | …    segments, oldest first
//! segment        header: 128 bytes | record | record | … | zeros
//! record         checksum: 4 bytes | words: 1 | tag: 3 | words of 8 bytes
//! ```
//!
//! A [segment](Journal) is a file of a fixed size that is mapped into memory. A record is stored
//! there, by whoever appends it, with ordinary writes to memory: the pages belong to the system, so
//! they reach the file whatever becomes of the process. There is no end mark. What lies after the
//! last record is zero, and a record is whole if its checksum is right, which also depends on the
//! segment's number. Readers look for the next whole record at every 8 bytes, so that
//! neither a place which was taken and not written, nor one that is damaged, hides what follows.
//!
//! Appending never creates a file: that is [`Journal::prepare`]'s, for a thread that may wait.
//! What the records mean is the caller's: a tag of three bytes, and up to 15 words.

mod error;
mod journal;
mod map;
mod reader;
mod record;
mod segment;

pub use error::{OpenError, Refusal};
pub use journal::{Figures, Journal, Options, Reservation};
pub use reader::{Damage, Reader};
pub use record::{FILLER, MAX_WORDS, Tag};
