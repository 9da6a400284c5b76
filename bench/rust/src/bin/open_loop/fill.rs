//! Gives a service the read states of all users, and time to commit them.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use read_states_bench::world::World;

use crate::address;
use crate::protocol::{ANSWER, Operation, REQUEST, Request};
use crate::traffic::FIRST_MESSAGE;
use crate::usage::Usage;

/// Users whose channels are written in turns, as read states of one user do not come one after the
/// other.
const USERS: u64 = 1_000;

/// When all commits have begun: they wait for 30 seconds.
const COMMITS_BEGUN: Duration = Duration::from_secs(35);
/// A service that takes so little of a core, in percent and for so long, has nothing left to do.
const IDLE: f64 = 5.0;
const IDLE_FOR: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct Fill {
    /// The service's port.
    #[arg(long)]
    port: u16,
    /// The service's process.
    #[arg(long)]
    pid: i32,
    /// Number of read states.
    #[arg(long)]
    states: u64,
    /// Number of connections.
    #[arg(long, default_value_t = 4)]
    connections: u64,
}

impl Fill {
    /// In the order of the users, so that the last ones are in memory: those who are there when the
    /// [traffic](crate::traffic) starts.
    pub fn run(self) -> io::Result<()> {
        self.fill()?;
        thread::sleep(COMMITS_BEGUN);
        let mut usage = Usage::of(self.pid)?;
        loop {
            thread::sleep(IDLE_FOR);
            if usage.cpu()? < IDLE {
                return Ok(());
            }
        }
    }

    fn fill(&self) -> io::Result<()> {
        let world = World::standard(self.states);
        thread::scope(|scope| {
            let connections = Vec::from_iter((0..self.connections).map(|connection| {
                let users = (0..world.users.div_ceil(USERS))
                    .filter(move |some| some % self.connections == connection);
                let users =
                    users.map(move |some| some * USERS..world.users.min((some + 1) * USERS));
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(address(self.port))?;
                    users.into_iter().try_for_each(|users| {
                        (0..world.per_user).try_for_each(|i| {
                            let keys = users.clone().map(|user| (user, i));
                            ack_all(&mut stream, &world, keys)
                        })
                    })
                })
            }));
            connections
                .into_iter()
                .try_for_each(|connection| connection.join().expect("no panic"))
        })
    }
}

/// Sends all and waits for the answers.
fn ack_all(
    stream: &mut TcpStream,
    world: &World,
    keys: impl Iterator<Item = (u64, u64)>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (user, i) in keys {
        let request = Request {
            operation: Operation::Ack,
            user: world.user(user),
            channel: world.channel(user, i),
            message: FIRST_MESSAGE,
        };
        request.encode(0, &mut bytes);
    }
    stream.write_all(&bytes)?;
    stream.read_exact(&mut vec![0; bytes.len() / REQUEST * ANSWER])
}
