//! Loads.

use read_states_engine::id::Id;
use read_states_engine::load::{Begun, Load};
use rustler::{Binary, Encoder, Env, Resource, ResourceArc, Term};

use crate::clock::now;
use crate::disposal::UntilTaken;
use crate::engine::EngineResource;

mod atoms {
    rustler::atoms! { stale }
}

/// A load, until it is finished or failed. If its owner dies, it has failed.
type LoadResource = UntilTaken<Load>;

#[rustler::resource_impl]
impl Resource for LoadResource {}

type Handle = ResourceArc<LoadResource>;

/// `{load | nil, users to load, users who need none any more}`.
#[rustler::nif]
fn begin_load(
    engine: ResourceArc<EngineResource>,
    partition: usize,
    most: usize,
) -> (Option<Handle>, Vec<Id>, Vec<Id>) {
    let Begun { load, settled } = engine.engine.begin_load(partition, most);
    let users = load
        .as_ref()
        .map_or_else(Vec::new, |load| load.users().to_vec());
    let resource = load.map(|load| ResourceArc::new(LoadResource::new(load)));
    (resource, users, settled)
}

/// Adds a page of the store: `{:ok, entries}`, `{:error, what is wrong with it}` or `:stale`.
#[rustler::nif(schedule = "DirtyCpu")]
fn add_page<'a>(env: Env<'a>, load: Handle, page: Binary<'a>) -> Term<'a> {
    match load.with(|load| load.add(&page)) {
        Some(added) => added.map_err(|error| error.to_string()).encode(env),
        None => atoms::stale().encode(env),
    }
}

/// Makes the users resident: `{users, states}` that are new, or `:stale`.
#[rustler::nif(schedule = "DirtyCpu")]
fn finish_load(env: Env<'_>, load: Handle) -> Term<'_> {
    match load.take() {
        Some(load) => {
            let loaded = load.finish(now());
            (loaded.users, loaded.states).encode(env)
        }
        None => atoms::stale().encode(env),
    }
}

/// Gives a load up. Whether operations of its users go on waiting.
#[rustler::nif(schedule = "DirtyCpu")]
fn fail_load(load: Handle) -> bool {
    load.take().is_some_and(Load::fail)
}
