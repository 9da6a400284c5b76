//! Loads.

use std::panic::RefUnwindSafe;

use parking_lot::Mutex;
use read_states_engine::id::Id;
use read_states_engine::load::{Begun, Load};
use rustler::{Binary, Encoder, Env, Resource, ResourceArc, Term};

use crate::clock::now;
use crate::disposal::Disposed;
use crate::engine::EngineResource;

mod atoms {
    rustler::atoms! { stale }
}

/// A load, until it is finished or failed. If its owner dies, it has failed.
pub struct LoadResource(Mutex<Option<Disposed<Load>>>);

#[rustler::resource_impl]
impl Resource for LoadResource {}

// A lock that is let go by a panic guards an engine that is whole: the engine checks what can
// fail before it changes anything.
impl RefUnwindSafe for LoadResource {}

impl LoadResource {
    fn take(&self) -> Option<Load> {
        self.0.lock().take().and_then(Disposed::into_inner)
    }
}

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
    let resource = |load| ResourceArc::new(LoadResource(Mutex::new(Some(Disposed::new(load)))));
    (load.map(resource), users, settled)
}

/// Adds a page of the store: `{:ok, entries}`, `{:error, what is wrong with it}` or `:stale`.
#[rustler::nif(schedule = "DirtyCpu")]
fn add_page<'a>(env: Env<'a>, load: Handle, page: Binary<'a>) -> Term<'a> {
    match &mut *load.0.lock() {
        Some(load) => {
            let added = load.add(&page).map_err(|error| error.to_string());
            added.encode(env)
        }
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
