//! Lists of operations and of users, as terms.

use read_states_engine::engine::UserOperation;
use read_states_engine::id::{Channel, Id};
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read_state::{MAX_COUNTERS, ReadState};
use rustler::types::atom::Atom;
use rustler::types::list::ListIterator;
use rustler::types::map::MapIterator;
use rustler::types::tuple::get_tuple;
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

/// The number of elements of a list of acceptable length.
fn length(list: Term) -> Result<usize, ListError> {
    let length = list.list_length().map_err(|_| ListError::NotAList)?;
    if length > MAX_LIST {
        return Err(ListError::TooLong);
    }
    Ok(length)
}

fn decode_list<T>(list: Term, decode: impl Fn(Term) -> Option<T>) -> Result<Vec<T>, ListError> {
    let mut decoded = Vec::with_capacity(length(list)?);
    let elements: ListIterator = list.decode().map_err(|_| ListError::NotAList)?;
    for (index, element) in elements.enumerate() {
        decoded.push(decode(element).ok_or(ListError::Element(index))?);
    }
    Ok(decoded)
}

/// A list of user ids.
pub fn decode_users(list: Term) -> Result<Vec<Id>, ListError> {
    decode_list(list, |user| user.decode().ok())
}

/// The operations of `ReadStates.update/2`; `names` are those of the counters.
pub fn decode_operations(list: Term, names: &[Atom]) -> Result<Vec<UserOperation>, ListError> {
    decode_list(list, |operation| decode_operation(operation, names))
}

fn decode_operation(term: Term, names: &[Atom]) -> Option<UserOperation> {
    let elements = get_tuple(term).ok()?;
    let tag: Atom = elements.first()?.decode().ok()?;
    let user = elements.get(1)?.decode().ok()?;
    if tag == atoms::delete() && elements.len() == 2 {
        let operation = Operation::DeleteUser;
        return Some(UserOperation { user, operation });
    }
    let channel = decode_channel(*elements.get(2)?)?;
    let id = |index: usize| elements.get(index)?.decode::<Id>().ok();
    let counted = || {
        let counter = match elements.get(5) {
            Some(name) => counter_index(*name, names)?,
            None => 0,
        };
        Some((id(3)?, counter, elements.get(4)?.decode::<u32>().ok()?))
    };
    let change = match elements.len() {
        4 if tag == atoms::ack() => Change::Ack { message: id(3)? },
        5 | 6 if tag == atoms::increment() => {
            let (message, counter, by) = counted()?;
            Change::Increment {
                message,
                counter,
                by,
            }
        }
        5 | 6 if tag == atoms::decrement() => {
            let (message, counter, by) = counted()?;
            Change::Decrement {
                message,
                counter,
                by,
            }
        }
        5 if tag == atoms::put() => Change::Put {
            state: ReadState {
                last_message_id: id(3)?,
                counters: decode_counters(elements[4], names)?,
            },
        },
        3 if tag == atoms::delete() => Change::Delete,
        _ => return None,
    };
    let operation = Operation::Change { channel, change };
    Some(UserOperation { user, operation })
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
    let mut set = |name: Term, value: Term| {
        let counter = counter_index(name, names)?;
        counters[usize::from(counter)] = value.decode().ok()?;
        Some(())
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
