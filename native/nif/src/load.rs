//! Loads.

use read_states_engine::id::Id;
use read_states_engine::load::{Begun, Load};
use rustler::types::atom::{self, Atom};
use rustler::{Binary, Encoder, Env, Resource, ResourceArc, Term};

use crate::clock::now;
use crate::disposal::UntilTaken;
use crate::engine::EngineResource;
use crate::stores::{StoreResource, failed};

mod atoms {
    rustler::atoms! { stale }
}

/// A load, until it is finished or failed. If its owner dies, it has failed.
type LoadResource = UntilTaken<Load>;

#[rustler::resource_impl]
impl Resource for LoadResource {}

type Handle = ResourceArc<LoadResource>;

/// Of those somebody waits for, or of those who are due: `{load | nil, users to load, users who need none any more, whether
/// there may be more to find}`.
#[rustler::nif]
fn begin_load(
    engine: ResourceArc<EngineResource>,
    partition: usize,
    most: usize,
    awaited: bool,
) -> (Option<Handle>, Vec<Id>, Vec<Id>, bool) {
    let engine = &engine.engine;
    let Begun {
        load,
        settled,
        more,
    } = if awaited {
        engine.begin_awaited_load(partition, most)
    } else {
        engine.begin_due_load(partition, most)
    };
    let Some(load) = load else {
        return (None, Vec::new(), settled, more);
    };
    let users = load.users().to_vec();
    let load = ResourceArc::new(LoadResource::new(load));
    (Some(load), users, settled, more)
}

/// Adds a page of the store: `{:ok, entries}`, `{:error, what is wrong with it}` or `{:error, :stale}`.
#[rustler::nif(schedule = "DirtyCpu")]
fn add_page<'a>(env: Env<'a>, load: Handle, page: Binary<'a>) -> Term<'a> {
    match load.with(|load| load.add(&page)) {
        Some(added) => added.map_err(|error| error.to_string()).encode(env),
        None => Err::<(), _>(atoms::stale()).encode(env),
    }
}

/// Makes the users resident: `{:ok, whether some are to be committed now}`, or `{:error, :stale}`.
#[rustler::nif(schedule = "DirtyCpu")]
fn finish_load(load: Handle) -> Result<bool, Atom> {
    finish(&load)
}

fn finish(load: &LoadResource) -> Result<bool, Atom> {
    let load = load.take().ok_or_else(atoms::stale)?;
    Ok(load.finish(now()).due)
}

/// All of a load from a store written in Rust, whose pages have at most `limit` entries:
/// `{:ok, entries, whether some users are to be committed now}` or `{:error, reason}`.
#[rustler::nif(schedule = "DirtyIo")]
fn load_from<'a>(
    env: Env<'a>,
    load: Handle,
    store: ResourceArc<StoreResource>,
    limit: usize,
) -> Term<'a> {
    store.call(env, |store| {
        // Copied, so that who gives the load up need not wait for the store.
        let Some(users) = load.with(|load| load.users().to_vec()) else {
            return Err::<(), _>(atoms::stale()).encode(env);
        };
        let (mut entries, mut cursor) = (0, None);
        loop {
            let page = match store.load(&users, cursor.as_deref(), limit) {
                Ok(page) => page,
                Err(error) => return failed(env, &error),
            };
            match load.with(|load| load.add(&page.batch)) {
                Some(Ok(added)) => entries += added,
                Some(Err(error)) => return Err::<(), _>(error.to_string()).encode(env),
                None => return Err::<(), _>(atoms::stale()).encode(env),
            }
            cursor = page.next;
            if cursor.is_none() {
                return match finish(&load) {
                    Ok(due) => (atom::ok(), entries, due).encode(env),
                    stale => stale.encode(env),
                };
            }
        }
    })
}

/// Takes users out of a load, each into one of his own: `[{user, load}]`, of those who are part of it. A call
/// that was given up may still be adding a page to it.
#[rustler::nif(schedule = "DirtyCpu")]
fn part_load(load: Handle, users: Vec<Id>) -> Vec<(Id, Handle)> {
    let part = |load: &mut Load| {
        let alone = users.into_iter().filter_map(|user| {
            let alone = ResourceArc::new(LoadResource::new(load.part(user)?));
            Some((user, alone))
        });
        alone.collect()
    };
    let parted = load.with(part).unwrap_or_default();
    // Not left to the collector, which would drop it on a thread of its own.
    if load.with(|load| load.users().is_empty()) == Some(true) {
        drop(load.take());
    }
    parted
}

/// Gives a load up. Whether operations of its users go on waiting.
#[rustler::nif(schedule = "DirtyCpu")]
fn fail_load(load: Handle) -> bool {
    load.take().is_some_and(Load::fail)
}
