//! The engine's operations and reads.

use std::panic::RefUnwindSafe;
use std::sync::Arc;

use read_states_engine::WriteError;
use read_states_engine::engine::{Config, Engine, Resize, UserOperation, Wake};
use read_states_engine::id::{Channel, Id};
use read_states_engine::list::{List, Query};
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read::{Found, LoadQueueFull};
use read_states_engine::read_state::{MAX_COUNTERS, ReadState};
use rustler::types::atom::{self, Atom};
use rustler::{Encoder, Env, Error, NewBinary, NifResult, Resource, ResourceArc, SerdeTerm, Term};

use serde::Deserialize;

use crate::clock::now;
use crate::disposal::Disposed;
use crate::journal::JournalResource;
use crate::operations::{
    ListError, consume_timeslice, decode_channel, decode_counters, decode_operations, decode_users,
    short_length,
};

mod atoms {
    rustler::atoms! {
        __struct__, absent, closed, disk_full, element, invalid, journal_failed, long, not_a_list, overloaded,
        too_long, unsynced, wake
    }
}

/// An engine, and what the BEAM calls its counters.
pub struct EngineResource {
    pub engine: Disposed<Arc<Engine>>,
    names: Vec<Atom>,
    /// Whether a write is done only when the journal is synced, for which the caller waits.
    sync: bool,
}

#[rustler::resource_impl]
impl Resource for EngineResource {}

// A lock that is let go by a panic guards an engine that is whole: the engine checks what can
// fail before it changes anything.
impl RefUnwindSafe for EngineResource {}

/// The engine of a call, whose term holds it until the call returns. To hold it once more would be to write twice, with
/// each call, to a line of memory that all schedulers share.
type Handle<'a> = &'a EngineResource;

/// The fields of a Rust struct as a plain map with strings for keys: rustler takes a struct for
/// an Elixir struct of the same name.
#[derive(Deserialize)]
struct Fields<T> {
    #[serde(flatten)]
    fields: T,
}

impl EngineResource {
    /// What a write answers: `:ok`, or done as well `:unsynced`, for the journal is still to be synced, and
    /// `:wake`, for somebody should look after the engine; `:overloaded`, `:closed`, `:disk_full` or `:journal_failed`.
    fn answer(&self, done: Result<Wake, WriteError>) -> Atom {
        match done {
            Ok(Wake::No) if self.sync => atoms::unsynced(),
            Ok(Wake::No) => atom::ok(),
            Ok(Wake::Yes) => atoms::wake(),
            Err(WriteError::Overloaded) => atoms::overloaded(),
            Err(WriteError::Closed) => atoms::closed(),
            Err(WriteError::NoSpace) => atoms::disk_full(),
            Err(WriteError::JournalFailed) => atoms::journal_failed(),
        }
    }
}

/// An engine with the journal, if there is one; `sync` is whether writes wait until it is synced.
#[rustler::nif]
fn new(
    SerdeTerm(Fields { fields: config }): SerdeTerm<Fields<Config>>,
    names: Vec<Atom>,
    journal: Option<ResourceArc<JournalResource>>,
    sync: bool,
) -> NifResult<ResourceArc<EngineResource>> {
    let partitions = 1..=config.shards;
    if !(1..=MAX_COUNTERS).contains(&names.len())
        || names.len() != config.counters
        || !config.shards.is_power_of_two()
        || !partitions.contains(&config.partitions)
    {
        return Err(Error::BadArg);
    }
    let journal = match journal {
        Some(journal) => Some(journal.take().ok_or(Error::BadArg)?),
        None => None,
    };
    let engine = Engine::with_journal(config, journal);
    Ok(ResourceArc::new(EngineResource {
        engine: Disposed::new(Arc::new(engine)),
        names,
        sync,
    }))
}

fn change(handle: Handle, user: Id, channel: Channel, change: Change) -> Atom {
    let operation = Operation::Change { channel, change };
    handle.answer(handle.engine.apply(user, &operation, now()))
}

/// The ids of an operation, as they came; `ReadStates` finds what is wrong with them.
fn ids(user: Term, channel: Term, message: Term) -> Option<(Id, Channel, Id)> {
    let user = user.decode().ok()?;
    Some((user, decode_channel(channel)?, message.decode().ok()?))
}

#[rustler::nif]
fn ack(handle: Handle, user: Term, channel: Term, message: Term) -> Atom {
    let Some((user, channel, message)) = ids(user, channel, message) else {
        return atoms::invalid();
    };
    change(handle, user, channel, Change::Ack { message })
}

/// A counter goes up by `by`, or `down`.
fn count(handle: Handle, message: Id, counter: u8, by: u32, down: bool) -> NifResult<Change> {
    if usize::from(counter) >= handle.names.len() {
        return Err(Error::BadArg);
    }
    Ok(if down {
        Change::Decrement {
            message,
            counter,
            by,
        }
    } else {
        Change::Increment {
            message,
            counter,
            by,
        }
    })
}

#[rustler::nif]
fn add(
    handle: Handle,
    user: Term,
    channel: Term,
    message: Term,
    counter: u8,
    by: u32,
    down: bool,
) -> NifResult<Atom> {
    let Some((user, channel, message)) = ids(user, channel, message) else {
        return Ok(atoms::invalid());
    };
    let counted = count(handle, message, counter, by, down)?;
    Ok(change(handle, user, channel, counted))
}

#[rustler::nif]
fn put(handle: Handle, user: Id, kind: u8, id: Id, message: Id, counters: Term) -> NifResult<Atom> {
    let counters = decode_counters(counters, &handle.names).ok_or(Error::BadArg)?;
    let state = ReadState {
        last_message_id: message,
        counters,
    };
    Ok(change(
        handle,
        user,
        Channel { kind, id },
        Change::Put { state },
    ))
}

#[rustler::nif]
fn delete(handle: Handle, user: Id, kind: u8, id: Id) -> Atom {
    change(handle, user, Channel { kind, id }, Change::Delete)
}

#[rustler::nif]
fn delete_user(handle: Handle, user: Id) -> Atom {
    handle.answer(handle.engine.apply(user, &Operation::DeleteUser, now()))
}

/// `:not_a_list`, `:too_long` or `{:element, index}`.
fn list_error<'a>(env: Env<'a>, error: ListError) -> Term<'a> {
    match error {
        ListError::NotAList => atoms::not_a_list().encode(env),
        ListError::TooLong => atoms::too_long().encode(env),
        ListError::Element(index) => (atoms::element(), index).encode(env),
    }
}

/// Runs a batch, or answers `long` if that would hold a normal scheduler for too long.
fn batch<'a>(
    env: Env<'a>,
    handle: Handle,
    list: Term<'a>,
    dirty: bool,
    decode: impl FnOnce(Option<usize>) -> Result<Vec<UserOperation>, ListError>,
) -> Term<'a> {
    let mut length = None;
    if !dirty {
        match short_length(list) {
            Ok(Some(short)) => {
                consume_timeslice(env, short);
                length = Some(short);
            }
            Ok(None) => return atoms::long().encode(env),
            Err(error) => return list_error(env, error),
        }
    }
    match decode(length) {
        Ok(operations) => {
            let done = handle.engine.apply_all(&operations, now());
            handle.answer(done).encode(env)
        }
        Err(error) => list_error(env, error),
    }
}

fn update_batch<'a>(env: Env<'a>, handle: Handle, list: Term<'a>, dirty: bool) -> Term<'a> {
    batch(env, handle, list, dirty, |length| {
        decode_operations(list, length, &handle.names)
    })
}

#[rustler::nif]
fn update<'a>(env: Env<'a>, handle: Handle, operations: Term<'a>) -> Term<'a> {
    update_batch(env, handle, operations, false)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn update_long<'a>(env: Env<'a>, handle: Handle, operations: Term<'a>) -> Term<'a> {
    update_batch(env, handle, operations, true)
}

/// One change for many users.
fn add_batch<'a>(
    env: Env<'a>,
    handle: Handle,
    users: Term<'a>,
    channel: Channel,
    change: Change,
    dirty: bool,
) -> Term<'a> {
    let operation = Operation::Change { channel, change };
    batch(env, handle, users, dirty, |length| {
        decode_users(users, length, |user| UserOperation { user, operation })
    })
}

#[rustler::nif]
#[expect(
    clippy::too_many_arguments,
    reason = "the arguments of the Elixir function"
)]
fn add_many<'a>(
    env: Env<'a>,
    handle: Handle,
    users: Term<'a>,
    kind: u8,
    id: Id,
    message: Id,
    counter: u8,
    by: u32,
    down: bool,
) -> NifResult<Term<'a>> {
    let counted = count(handle, message, counter, by, down)?;
    Ok(add_batch(
        env,
        handle,
        users,
        Channel { kind, id },
        counted,
        false,
    ))
}

#[rustler::nif(schedule = "DirtyCpu")]
#[expect(
    clippy::too_many_arguments,
    reason = "the arguments of the Elixir function"
)]
fn add_many_long<'a>(
    env: Env<'a>,
    handle: Handle,
    users: Term<'a>,
    kind: u8,
    id: Id,
    message: Id,
    counter: u8,
    by: u32,
    down: bool,
) -> NifResult<Term<'a>> {
    let counted = count(handle, message, counter, by, down)?;
    Ok(add_batch(
        env,
        handle,
        users,
        Channel { kind, id },
        counted,
        true,
    ))
}

/// `value`, `{:absent, partition}`, `:long` or `:overloaded`.
fn found<'a, T>(
    env: Env<'a>,
    handle: Handle,
    user: Id,
    found: Result<Found<T>, LoadQueueFull>,
    encode: impl FnOnce(T) -> Term<'a>,
) -> Term<'a> {
    match found {
        Ok(Found::Resident(value)) => encode(value),
        Ok(Found::Absent) => (atoms::absent(), handle.engine.partition_of(user)).encode(env),
        Ok(Found::Long) => atoms::long().encode(env),
        Err(LoadQueueFull) => atoms::overloaded().encode(env),
    }
}

/// Reads one read state: its last message alone if all counters are 0, which most are, else
/// `{last_message_id, counters by name}`; `:invalid`, or as in [`found`].
#[rustler::nif]
fn get<'a>(env: Env<'a>, handle: Handle, user: Term, channel: Term) -> Term<'a> {
    let (Ok(user), Some(channel)) = (user.decode(), decode_channel(channel)) else {
        return atoms::invalid().encode(env);
    };
    let state = handle.engine.get(user, channel);
    let encode = |state: ReadState| {
        let last = state.last_message_id.encode(env);
        if state.counters.iter().all(|&count| count == 0) {
            return last;
        }
        let counters = handle.names.iter().zip(state.counters);
        // One after the other: to make a map of them all at once takes longer, for up to four.
        let map = counters.fold(Term::map_new(env), |map, (name, count)| {
            map.map_put(name, count).unwrap_or(map)
        });
        (last, map).encode(env)
    };
    found(env, handle, user, state, encode)
}

fn sum<'a>(
    env: Env<'a>,
    handle: Handle,
    user: Id,
    counter: usize,
    sum: impl FnOnce() -> Result<Found<u64>, LoadQueueFull>,
) -> NifResult<Term<'a>> {
    if counter >= handle.names.len() {
        return Err(Error::BadArg);
    }
    Ok(found(env, handle, user, sum(), |sum| sum.encode(env)))
}

#[rustler::nif]
fn total<'a>(env: Env<'a>, handle: Handle, user: Id, counter: usize) -> NifResult<Term<'a>> {
    sum(env, handle, user, counter, || {
        handle.engine.total(user, counter)
    })
}

#[rustler::nif(schedule = "DirtyCpu")]
fn total_long<'a>(env: Env<'a>, handle: Handle, user: Id, counter: usize) -> NifResult<Term<'a>> {
    sum(env, handle, user, counter, || {
        handle.engine.total_long(user, counter, now())
    })
}

/// Read states as one binary, which Elixir takes apart faster than it gets structs from here:
/// for each `kind: 8, channel: 64, last message: 64, counters: 32 each`, in the machine's order. The last comes first, as it is
/// put into a list first.
fn list_binary<'a>(
    env: Env<'a>,
    handle: Handle,
    user: Id,
    after: Option<(u8, Id)>,
    limit: Option<usize>,
    nonzero: Option<usize>,
    long: bool,
) -> NifResult<Term<'a>> {
    let counters = handle.names.len();
    if nonzero.is_some_and(|counter| counter >= counters) {
        return Err(Error::BadArg);
    }
    let query = Query {
        after: after.map(|(kind, id)| Channel { kind, id }),
        limit,
        nonzero,
    };
    let states = handle.engine.list(user, query, long, now());
    let encode = |list: List| {
        let size = 17 + 4 * counters;
        let mut binary = NewBinary::new(env, size * list.len());
        let last_first = list.iter().rev();
        for (chunk, (channel, state)) in binary.chunks_exact_mut(size).zip(last_first) {
            chunk[0] = channel.kind;
            chunk[1..9].copy_from_slice(&channel.id.to_ne_bytes());
            chunk[9..17].copy_from_slice(&state.last_message_id.to_ne_bytes());
            for (bytes, counter) in chunk[17..].chunks_exact_mut(4).zip(state.counters) {
                bytes.copy_from_slice(&counter.to_ne_bytes());
            }
        }
        binary.into()
    };
    Ok(found(env, handle, user, states, encode))
}

#[rustler::nif]
fn list<'a>(
    env: Env<'a>,
    handle: Handle,
    user: Id,
    after: Option<(u8, Id)>,
    limit: Option<usize>,
    nonzero: Option<usize>,
) -> NifResult<Term<'a>> {
    list_binary(env, handle, user, after, limit, nonzero, false)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn list_long<'a>(
    env: Env<'a>,
    handle: Handle,
    user: Id,
    after: Option<(u8, Id)>,
    limit: Option<usize>,
    nonzero: Option<usize>,
) -> NifResult<Term<'a>> {
    list_binary(env, handle, user, after, limit, nonzero, true)
}

/// Queues those of the users who are not resident for loading: `{:ok, [{user, partition}]}`,
/// `:overloaded`, or what is wrong with the list.
#[rustler::nif]
fn want<'a>(env: Env<'a>, handle: Handle, users: Term<'a>) -> Term<'a> {
    let users = match decode_users(users, None, |user| user) {
        Ok(users) => users,
        Err(error) => return list_error(env, error),
    };
    consume_timeslice(env, users.len());
    let mut absent = Vec::new();
    for user in users {
        match handle.engine.want(user) {
            Ok(true) => {}
            Ok(false) => absent.push((user, handle.engine.partition_of(user))),
            Err(LoadQueueFull) => return atoms::overloaded().encode(env),
        }
    }
    (atom::ok(), absent).encode(env)
}

/// Those of the users who are not resident; sees to it that they are queued or being loaded.
#[rustler::nif]
fn absent(env: Env<'_>, handle: Handle, users: Vec<Id>) -> Vec<Id> {
    consume_timeslice(env, users.len());
    let mut users = users;
    users.retain(|user| !handle.engine.queue_unless_resident(*user));
    users
}

/// Users waiting to be loaded.
#[rustler::nif]
fn load_queue(handle: Handle) -> usize {
    handle.engine.load_queue()
}

#[rustler::nif]
fn attend(handle: Handle) -> Atom {
    handle.engine.attend();
    atom::ok()
}

#[rustler::nif]
fn wants_dirty_memory(handle: Handle) -> bool {
    handle.engine.wants_dirty_memory()
}

#[rustler::nif]
fn wants_commits(handle: Handle) -> bool {
    handle.engine.wants_commits()
}

/// All that is uncommitted is to be committed now.
#[rustler::nif(schedule = "DirtyCpu")]
fn make_due(handle: Handle) -> Atom {
    handle.engine.make_due();
    atom::ok()
}

/// Evicts until the bounds are kept and frees what was too large to be freed on the way.
#[rustler::nif(schedule = "DirtyCpu")]
fn tidy(handle: Handle) -> Atom {
    handle.engine.reclaim();
    handle.engine.evict(now());
    atom::ok()
}

/// Waits for batches under way.
#[rustler::nif(schedule = "DirtyCpu")]
fn close(handle: Handle, closed: bool) -> Atom {
    handle.engine.close(closed);
    atom::ok()
}

#[rustler::nif(schedule = "DirtyCpu")]
fn is_closed(handle: Handle) -> bool {
    handle.engine.is_closed()
}

#[rustler::nif(schedule = "DirtyCpu")]
fn resize(handle: Handle, SerdeTerm(Fields { fields: bounds }): SerdeTerm<Fields<Resize>>) -> Atom {
    handle.engine.resize(bounds, now());
    atom::ok()
}

/// Fills in the figures of `template`, an Elixir struct.
#[rustler::nif(schedule = "DirtyCpu")]
fn stats<'a>(env: Env<'a>, handle: Handle, template: Term<'a>) -> NifResult<Term<'a>> {
    let module = template.map_get(atoms::__struct__())?;
    let figures = SerdeTerm(handle.engine.stats()).encode(env);
    figures.map_put(atoms::__struct__(), module)
}
