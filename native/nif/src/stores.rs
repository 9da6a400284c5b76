//! The stores written in Rust. All calls may wait for a disk.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::RefUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use read_states_engine::id::Id;
use read_states_stores::{Local, MemoryData, Page, Store, StoreError};
use rustler::types::atom::{self, Atom};
use rustler::{Binary, Encoder, Env, NewBinary, Resource, ResourceArc, Term};

use crate::disposal::Disposed;

mod atoms {
    rustler::atoms! { busy }
}

/// Most calls under way on a store: one more than an instance makes. The VM has 10 threads for what waits for a disk, all its
/// file functions share them, and a call that hangs keeps its thread even if its process is killed.
const MOST_CALLS: usize = 9;

/// A store, open or closed, and the number of calls under way.
pub struct StoreResource(Disposed<Box<dyn Store>>, AtomicUsize);

/// A call under way.
struct Call<'a>(&'a AtomicUsize);

impl StoreResource {
    /// Calls the store, or answers `{:error, :busy}`.
    pub fn call<'a>(&self, env: Env<'a>, call: impl FnOnce(&dyn Store) -> Term<'a>) -> Term<'a> {
        let calls = self.1.fetch_add(1, Relaxed);
        let _call = Call(&self.1);
        if calls >= MOST_CALLS {
            return (atom::error(), atoms::busy()).encode(env);
        }
        call(&**self.0)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[rustler::resource_impl]
impl Resource for StoreResource {}

// A lock that is let go by a panic guards a store that is whole: what is in it changes in one
// step, after all that can fail.
impl RefUnwindSafe for StoreResource {}

/// What a store in memory keeps, open or not.
pub struct MemoryResource(Disposed<MemoryData>);

#[rustler::resource_impl]
impl Resource for MemoryResource {}

// As above.
impl RefUnwindSafe for MemoryResource {}

type Handle = ResourceArc<StoreResource>;

/// Empty data for `memory_open`.
#[rustler::nif]
fn memory_new() -> ResourceArc<MemoryResource> {
    ResourceArc::new(MemoryResource(Disposed::new(MemoryData::new())))
}

/// `{:ok, store, floor}`.
#[rustler::nif(schedule = "DirtyIo")]
fn memory_open(env: Env<'_>, data: ResourceArc<MemoryResource>, counters: usize) -> Term<'_> {
    opened(env, Ok(data.0.open(counters)))
}

/// `{:ok, store, floor}` or `{:error, reason}`.
#[rustler::nif(schedule = "DirtyIo")]
fn local_open<'a>(env: Env<'a>, path: Binary<'a>, counters: Vec<String>) -> Term<'a> {
    let path = Path::new(OsStr::from_bytes(path.as_slice()));
    opened(env, Local::open(path, &counters))
}

/// `{:ok, batch, next cursor or nil}` or `{:error, reason}`.
#[rustler::nif(schedule = "DirtyIo")]
fn store_load<'a>(
    env: Env<'a>,
    store: Handle,
    users: Vec<Id>,
    cursor: Option<Binary<'a>>,
    limit: usize,
) -> Term<'a> {
    store.call(env, |store| {
        page(env, store.load(&users, cursor.as_deref(), limit))
    })
}

/// As `store_load`, of all users.
#[rustler::nif(schedule = "DirtyIo")]
fn store_scan<'a>(
    env: Env<'a>,
    store: Handle,
    cursor: Option<Binary<'a>>,
    limit: usize,
) -> Term<'a> {
    store.call(env, |store| page(env, store.scan(cursor.as_deref(), limit)))
}

/// `:ok` or `{:error, reason}`.
#[rustler::nif(schedule = "DirtyIo")]
fn store_commit<'a>(env: Env<'a>, store: Handle, batch: Binary<'a>) -> Term<'a> {
    store.call(env, |store| match store.commit(&batch) {
        Ok(()) => atom::ok().encode(env),
        Err(error) => failed(env, &error),
    })
}

/// `:ok`, when everything is on disk and the directory is free.
#[rustler::nif(schedule = "DirtyIo")]
fn store_close(store: Handle) -> Atom {
    store.0.close();
    atom::ok()
}

fn opened<'a, S: Store + 'static>(env: Env<'a>, store: Result<S, StoreError>) -> Term<'a> {
    match store.and_then(|store| Ok((store.floor()?, store))) {
        Ok((floor, store)) => {
            let store = ResourceArc::new(StoreResource(
                Disposed::new(Box::new(store)),
                AtomicUsize::new(0),
            ));
            (atom::ok(), store, floor).encode(env)
        }
        Err(error) => failed(env, &error),
    }
}

fn page(env: Env<'_>, page: Result<Page, StoreError>) -> Term<'_> {
    let binary = |bytes: Vec<u8>| Term::from(NewBinary::from_slice(env, &bytes));
    match page {
        Ok(Page { batch, next }) => (atom::ok(), binary(batch), next.map(binary)).encode(env),
        Err(error) => failed(env, &error),
    }
}

/// `{:error, :closed}`, and for all that needs explaining `{:error, {reason, text}}`.
pub fn failed<'a>(env: Env<'a>, error: &StoreError) -> Term<'a> {
    let reason = Atom::from_str(env, error.reason()).expect("short and of ASCII");
    match error {
        StoreError::Closed => (atom::error(), reason).encode(env),
        _ => (atom::error(), (reason, error.to_string())).encode(env),
    }
}
