//! The NIF of read_states: decodes terms, calls the engine or a store, encodes the result.
//!
//! What may take more than a millisecond runs on a dirty scheduler: by its nature (loads,
//! commits, stores), or because the argument is long, in which case the function answers `long`
//! and its `_long` twin, on a dirty scheduler, is called instead.

mod allocator;
mod clock;
mod commit;
mod disposal;
mod engine;
mod journal;
mod load;
mod operations;
mod stores;

/// That the library is there.
#[rustler::nif]
fn available() -> rustler::Atom {
    rustler::types::atom::ok()
}

rustler::init!("Elixir.ReadStates.Native");
