//! The journal of an engine.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use read_states_engine::id::ID_WIDTH;
use read_states_engine::recovery::{Recovered, Recovery};
use read_states_journal::{Damage, Journal, Options};
use rustler::types::atom::{self, Atom};
use rustler::{Binary, Encoder, Env, Resource, ResourceArc, Term};

use crate::clock::now;
use crate::disposal::UntilTaken;
use crate::engine::EngineResource;

mod atoms {
    rustler::atoms! { done, portion, waits }
}

/// A journal, until an engine is made with it.
pub type JournalResource = UntilTaken<Journal>;

#[rustler::resource_impl]
impl Resource for JournalResource {}

type Engine = ResourceArc<EngineResource>;

/// `{:ok, journal}` or `{:error, {reason, text}}`. The sizes are those of [`Options`].
#[rustler::nif(schedule = "DirtyIo")]
fn journal_open<'a>(
    env: Env<'a>,
    path: Binary<'a>,
    segment: usize,
    most: usize,
    owner: u64,
    exact: bool,
) -> Term<'a> {
    let path = Path::new(OsStr::from_bytes(path.as_slice()));
    let options = Options {
        segment,
        most,
        id_width: ID_WIDTH,
        owner,
        exact,
    };
    match Journal::open(path, options) {
        Ok(journal) => {
            let journal = ResourceArc::new(JournalResource::new(journal));
            (atom::ok(), journal).encode(env)
        }
        Err(error) => {
            let reason = Atom::from_str(env, error.reason()).expect("short and of ASCII");
            (atom::error(), (reason, error.to_string())).encode(env)
        }
    }
}

/// Lets go of a journal that no engine was made with: `{:ok, records of an earlier life, whole or not}` or `{:error, text}`.
#[rustler::nif(schedule = "DirtyIo")]
fn journal_drop(env: Env<'_>, journal: ResourceArc<JournalResource>) -> Term<'_> {
    let count = |journal: Journal| {
        let mut records = 0;
        let mut reader = journal.reader();
        let read = reader.for_each(|_, _| records += 1);
        records += reader.damage().iter().filter(|damage| !damage.zero).count();
        journal.close(read.is_ok() && records == 0)?;
        read?;
        Ok(records)
    };
    let counted: std::io::Result<usize> = journal.take().map_or(Ok(0), count);
    counted.map_err(|error| error.to_string()).encode(env)
}

/// `{:ok, {operations, operations of batches that were cut, operations of batches that are damaged, damage, lost by the
/// store}}` or `{:error, {reason, text}}`; of damage the file, the place in it, and the bytes. See [`Recovered`].
#[rustler::nif(schedule = "DirtyIo")]
fn recover(env: Env<'_>, engine: Engine) -> Term<'_> {
    let recovered = engine.engine.recover(now());
    let recovered = recovered.map(|recovered| {
        let damage = recovered.damage.iter().map(|damage| {
            let Damage {
                path, at, bytes, ..
            } = damage;
            (path.display().to_string(), *at, *bytes)
        });
        let damage: Vec<_> = damage.collect();
        let Recovered {
            operations,
            cut,
            broken,
            lost_by_store,
            ..
        } = recovered;
        (operations, cut, broken, damage, lost_by_store)
    });
    let recovered = recovered.map_err(|error| {
        let reason = Atom::from_str(env, error.reason()).expect("short and of ASCII");
        (reason, error.to_string())
    });
    recovered.encode(env)
}

/// `{:ok, what remains to be recovered}` or `{:error, text}`: `:done`, `:portion` or `:waits`, see [`Recovery`].
#[rustler::nif(schedule = "DirtyIo")]
fn recover_more(env: Env<'_>, engine: Engine) -> Term<'_> {
    let recovery = engine.engine.recover_more(now());
    let recovery = recovery.map(|recovery| match recovery {
        Recovery::Done => atoms::done(),
        Recovery::Portion => atoms::portion(),
        Recovery::Waits => atoms::waits(),
    });
    recovery.map_err(|error| error.to_string()).encode(env)
}

/// Whether `recover_more` has more to do.
#[rustler::nif]
fn is_recovering(engine: Engine) -> bool {
    engine.engine.is_recovering()
}

/// `{:ok, whether commits should hurry}` or `{:error, text}`.
#[rustler::nif(schedule = "DirtyIo")]
fn tend_journal(env: Env<'_>, engine: Engine) -> Term<'_> {
    let hurry = engine.engine.tend_journal(now());
    hurry.map_err(|error| error.to_string()).encode(env)
}

/// `:ok`, when all that was answered is on the disk, or `{:error, text}`.
#[rustler::nif(schedule = "DirtyIo")]
fn sync_journal(env: Env<'_>, engine: Engine) -> Term<'_> {
    done(env, engine.engine.sync_journal())
}

/// `:ok`, when the directory is free, or `{:error, text}`.
#[rustler::nif(schedule = "DirtyIo")]
fn close_journal(env: Env<'_>, engine: Engine) -> Term<'_> {
    done(env, engine.engine.close_journal())
}

fn done(env: Env<'_>, result: std::io::Result<()>) -> Term<'_> {
    match result {
        Ok(()) => atom::ok().encode(env),
        Err(error) => (atom::error(), error.to_string()).encode(env),
    }
}
