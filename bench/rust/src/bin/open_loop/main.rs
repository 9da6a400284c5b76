//! Puts a service under an open-loop load, and measures its response times.
//!
//! Requests are due at fixed times, whatever the service does, and a response time begins when its
//! request was due: one that had to wait because the service was busy counts the wait.
//! `bench/open_loop/run` starts the services and calls this.

mod fill;
mod latencies;
mod load;
mod null_service;
mod protocol;
mod schedule;
mod traffic;
mod usage;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use clap::Parser;

/// Puts a service under an open-loop load, and measures its response times.
#[derive(Parser)]
enum Command {
    /// Gives a service the read states of all users.
    Fill(fill::Fill),
    /// Sends requests at a fixed rate.
    Load(load::Load),
    /// A service that answers and does nothing else: what is measured of it is the load's own.
    Null(null_service::NullService),
}

fn main() -> io::Result<()> {
    match Command::parse() {
        Command::Fill(fill) => fill.run(),
        Command::Load(load) => load.run(),
        Command::Null(null) => null.run(),
    }
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
