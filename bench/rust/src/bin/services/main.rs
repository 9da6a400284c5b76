//! Services a user would run instead, on loopback, beside the engine in the process.
//!
//!     cargo run --release --bin services -- --states N --output FILE
//!
//! What takes an operation is what its caller waits for, and the round trip with it: not to have one
//! is the point of a library. The services are asked by one connection, one operation at a time, or
//! 1,000 of them in the form in which their clients send many. They are started here, and stopped; one that is
//! not installed is left out.

mod engine;
mod figures;
mod memcached;
mod postgresql;
mod redis;
mod server;
mod service;

use std::error::Error;

use read_states_bench::arguments::Arguments;
use read_states_bench::world::World;

use crate::engine::Engine;
use crate::figures::Figures;
use crate::memcached::Memcached;
use crate::postgresql::Postgresql;
use crate::redis::Redis;
use crate::server::NotInstalled;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let world = World::standard(arguments.states);
    let figures = Figures::new(world, arguments.output);
    figures.of(&mut Engine::new(&world))?;
    if let Some(mut redis) = installed(Redis::start())? {
        figures.of(&mut redis)?;
    }
    if let Some(mut memcached) = installed(Memcached::start())? {
        figures.of(&mut memcached)?;
    }
    if let Some(mut postgresql) = installed(Postgresql::start())? {
        figures.of(&mut postgresql)?;
        postgresql.commit_asynchronously()?;
        figures.of(&mut postgresql)?;
    }
    Ok(())
}

/// Nothing, and a word about it, where the service is not installed.
fn installed<T>(started: Result<T>) -> Result<Option<T>> {
    match started {
        Ok(service) => Ok(Some(service)),
        Err(error) if error.is::<NotInstalled>() => {
            eprintln!("{error} and is left out");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
