//! Lists of operations and of users, as terms.

use read_states_engine::engine::UserOperation;
use read_states_engine::id::{Channel, Id};
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read_state::{MAX_COUNTERS, ReadState};
use rustler::types::atom::Atom;
use rustler::types::list::ListIterator;
use rustler::types::map::MapIterator;
use rustler::{Env, Term};

/// Longest list taken in one call.
pub const MAX_LIST: usize = 1_000_000;

/// Longer lists are handled on a dirty scheduler: an element takes up to a microsecond.
pub const LONG_LIST: usize = 1_000;

mod atoms {
    rustler::atoms! { ack, increment, decrement, put, delete }
}

/// What is wrong with a list; `ReadStates` finds the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListError {
    /// Not a proper list.
    NotAList,
    /// Longer than [`MAX_LIST`].
    TooLong,
    /// The element at this index is not possible.
    Element(usize),
}

/// The number of elements of a list that is not long, else `None`: without looking at its end,
/// for already counting a very long list takes a scheduler's time.
pub fn short_length(list: Term) -> Result<Option<usize>, ListError> {
    let mut rest = list;
    for length in 0..=LONG_LIST {
        match rest.list_get_cell() {
            Ok((_first, others)) => rest = others,
            Err(_) if rest.is_empty_list() => return Ok(Some(length)),
            Err(_) => return Err(ListError::NotAList),
        }
    }
    Ok(None)
}

fn decode_list<T>(
    list: Term,
    length: Option<usize>,
    decode: impl Fn(Term) -> Option<T>,
) -> Result<Vec<T>, ListError> {
    let length = match length {
        Some(length) => length,
        None => list.list_length().map_err(|_| ListError::NotAList)?,
    };
    if length > MAX_LIST {
        return Err(ListError::TooLong);
    }
    let mut decoded = Vec::with_capacity(length);
    let elements: ListIterator = list.decode().map_err(|_| ListError::NotAList)?;
    for (index, element) in elements.enumerate() {
        decoded.push(decode(element).ok_or(ListError::Element(index))?);
    }
    Ok(decoded)
}

/// A list of user ids, of this length if that is known, and what is made of each.
pub fn decode_users<T>(
    list: Term,
    length: Option<usize>,
    each: impl Fn(Id) -> T,
) -> Result<Vec<T>, ListError> {
    decode_list(list, length, |user| user.decode().ok().map(&each))
}

/// The operations of `ReadStates.update/2`; `names` are those of the counters.
pub fn decode_operations(
    list: Term,
    length: Option<usize>,
    names: &[Atom],
) -> Result<Vec<UserOperation>, ListError> {
    decode_list(list, length, |operation| decode_operation(operation, names))
}

/// Each arity on its own, as a tuple that is decoded as a Rust tuple needs no list of its elements.
fn decode_operation(term: Term, names: &[Atom]) -> Option<UserOperation> {
    if let Ok((tag, user, channel, message)) = term.decode::<(Term, Term, Term, Term)>() {
        let change = Change::Ack {
            message: message.decode().ok()?,
        };
        return (atoms::ack() == tag).then(|| on(user, channel, change))?;
    }
    if let Ok((tag, user, channel, message, last)) = term.decode::<(Term, Term, Term, Term, Term)>()
    {
        if atoms::put() == tag {
            let state = ReadState {
                last_message_id: message.decode().ok()?,
                counters: decode_counters(last, names)?,
            };
            return on(user, channel, Change::Put { state });
        }
        return on(user, channel, counted(tag, message, last, 0)?);
    }
    type Counted<'a> = (Term<'a>, Term<'a>, Term<'a>, Term<'a>, Term<'a>, Term<'a>);
    if let Ok((tag, user, channel, message, by, name)) = term.decode::<Counted>() {
        let counter = counter_index(name, names)?;
        return on(user, channel, counted(tag, message, by, counter)?);
    }
    if let Ok((tag, user, channel)) = term.decode::<(Term, Term, Term)>() {
        return (atoms::delete() == tag).then(|| on(user, channel, Change::Delete))?;
    }
    let (tag, user) = term.decode::<(Term, Term)>().ok()?;
    let user = user.decode().ok()?;
    let operation = Operation::DeleteUser;
    (atoms::delete() == tag).then_some(UserOperation { user, operation })
}

fn on(user: Term, channel: Term, change: Change) -> Option<UserOperation> {
    let user = user.decode().ok()?;
    let channel = decode_channel(channel)?;
    let operation = Operation::Change { channel, change };
    Some(UserOperation { user, operation })
}

fn counted(tag: Term, message: Term, by: Term, counter: u8) -> Option<Change> {
    let (message, by) = (message.decode().ok()?, by.decode().ok()?);
    if atoms::increment() == tag {
        Some(Change::Increment {
            message,
            counter,
            by,
        })
    } else {
        (atoms::decrement() == tag).then_some(Change::Decrement {
            message,
            counter,
            by,
        })
    }
}

/// A channel: its id, or `{kind, id}`.
pub fn decode_channel(term: Term) -> Option<Channel> {
    if let Ok(id) = term.decode() {
        return Some(Channel { kind: 0, id });
    }
    // A number that is decoded as an u8 is cut off.
    let (kind, id): (u32, Id) = term.decode().ok()?;
    let kind = kind.try_into().ok()?;
    Some(Channel { kind, id })
}

fn counter_index(name: Term, names: &[Atom]) -> Option<u8> {
    let name: Atom = name.decode().ok()?;
    Some(names.iter().position(|known| *known == name)? as u8)
}

/// Counters by name, as a map or a keyword list; what is not named is 0.
pub fn decode_counters(term: Term, names: &[Atom]) -> Option<[u32; MAX_COUNTERS]> {
    let mut counters = [0; MAX_COUNTERS];
    let mut is_set = [false; MAX_COUNTERS];
    let mut set = |name: Term, value: Term| {
        let counter = usize::from(counter_index(name, names)?);
        counters[counter] = value.decode().ok()?;
        // A list may have a name twice.
        (!std::mem::replace(&mut is_set[counter], true)).then_some(())
    };
    if let Ok(entries) = term.decode::<MapIterator>() {
        for (name, value) in entries {
            set(name, value)?;
        }
    } else {
        // An improper list is refused, and so is a list longer than there are counters.
        if term.list_length().ok()? > names.len() {
            return None;
        }
        for entry in term.decode::<ListIterator>().ok()? {
            let (name, value) = entry.decode().ok()?;
            set(name, value)?;
        }
    }
    Some(counters)
}

/// Tells the scheduler that a list took its time: a microsecond an element, of a
/// millisecond a turn.
pub fn consume_timeslice(env: Env, elements: usize) {
    let percent = (elements / 10).clamp(1, 100);
    rustler::schedule::consume_timeslice(env, percent as i32);
}
