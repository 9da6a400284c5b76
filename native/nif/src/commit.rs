//! Commits and flushes.

use read_states_engine::commit::Commit;
use rustler::types::atom::{self, Atom};
use rustler::{Encoder, Env, NewBinary, Resource, ResourceArc, Term};

use crate::clock::now;
use crate::disposal::UntilTaken;
use crate::engine::EngineResource;

mod atoms {
    rustler::atoms! { stale }
}

/// A commit, until it has succeeded or failed. If its owner dies, it has failed.
type CommitResource = UntilTaken<Commit>;

#[rustler::resource_impl]
impl Resource for CommitResource {}

type Engine = ResourceArc<EngineResource>;
type Handle = ResourceArc<CommitResource>;

/// Takes a snapshot of what is due: `{commit, batch, users, entries}`, or nil if nothing is.
#[rustler::nif(schedule = "DirtyCpu")]
fn begin_commit(env: Env<'_>, engine: Engine, partition: usize, most: usize) -> Term<'_> {
    let Some(commit) = engine.engine.begin_commit(partition, most, now()) else {
        return atom::nil().encode(env);
    };
    let batch = NewBinary::from_slice(env, commit.batch());
    let (users, entries) = (commit.users(), commit.entries());
    let batch: Term = batch.into();
    (
        ResourceArc::new(CommitResource::new(commit)),
        batch,
        users,
        entries,
    )
        .encode(env)
}

/// Writes ahead what the store is about to be given: `:ok`, `:stale` or `{:error, text}`.
#[rustler::nif(schedule = "DirtyIo")]
fn write_ahead(env: Env<'_>, commit: Handle) -> Term<'_> {
    // Copied, so that who gives the commit up need not wait for the disk.
    let Some(write_ahead) = commit.with(|commit| commit.write_ahead().clone()) else {
        return atoms::stale().encode(env);
    };
    match write_ahead.run() {
        Ok(()) => atom::ok().encode(env),
        Err(error) => (atom::error(), error.to_string()).encode(env),
    }
}

/// The store has it: what did not change since is clean. `:ok` or `:stale`.
#[rustler::nif(schedule = "DirtyCpu")]
fn commit_succeeded(commit: Handle) -> Atom {
    match commit.take() {
        Some(commit) => {
            commit.succeed(now());
            atom::ok()
        }
        None => atoms::stale(),
    }
}

/// The store may not have it: it is dirty again.
#[rustler::nif(schedule = "DirtyCpu")]
fn commit_failed(commit: Handle) -> Atom {
    if let Some(commit) = commit.take() {
        commit.fail();
    }
    atom::ok()
}

/// Makes everything that was accepted in the partition due; names the flush.
#[rustler::nif]
fn flush(engine: Engine, partition: usize) -> u64 {
    engine.engine.flush(partition)
}

/// Whether the store has everything from before the flush.
#[rustler::nif]
fn is_flushed(engine: Engine, partition: usize, flush: u64) -> bool {
    engine.engine.is_flushed(partition, flush)
}
