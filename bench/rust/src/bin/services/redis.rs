//! Redis, with a hash for each user: the message read last under the channel, and beside it, once there
//! was one, the number of mentions.
//!
//! Hashes of this size are what Redis keeps packed. It does less: it compares no message ids, for which a
//! script would have to run, and keeps nothing on disk.

use std::collections::BTreeMap;
use std::process::Command;

use read_states_bench::subject::{Change, ReadState, Write};
use read_states_bench::world::World;
use redis::{Cmd, Connection, Pipeline, cmd};
use tempfile::TempDir;

use crate::Result;
use crate::figures::{FIRST_MESSAGE, channels};
use crate::server::{Server, find, free_port};
use crate::service::Service;

/// Users in a pipeline of the fill.
const USERS: u64 = 20;

pub struct Redis {
    connection: Connection,
    before: u64,
    server: Server,
    _directory: TempDir,
}

impl Redis {
    pub fn start() -> Result<Self> {
        let program = find("redis-server", &[])?;
        let directory = tempfile::tempdir()?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]);
        let server = Server::start(command.arg(directory.path()), port)?;
        let client = redis::Client::open(("127.0.0.1", port))?;
        Ok(Redis {
            connection: client.get_connection()?,
            before: server.resident()?,
            server,
            _directory: directory,
        })
    }
}

impl Service for Redis {
    fn name(&self) -> &str {
        "Redis"
    }

    fn fill(&mut self, world: &World) -> Result<()> {
        for some in 0..world.users.div_ceil(USERS) {
            let mut pipeline = redis::pipe();
            for user in some * USERS..world.users.min((some + 1) * USERS) {
                let command = pipeline.cmd("HSET").arg(world.user(user));
                for channel in channels(world, user) {
                    command.arg(channel).arg(FIRST_MESSAGE);
                }
                command.ignore();
            }
            pipeline.exec(&mut self.connection)?;
        }
        Ok(())
    }

    fn taken(&mut self) -> Result<(u64, &'static str)> {
        Ok((self.server.resident()? - self.before, "bytes/state"))
    }

    fn write(&mut self, write: &Write) -> Result<()> {
        Ok(command(write).exec(&mut self.connection)?)
    }

    type Batch = Vec<Write>;

    fn batch(&self, writes: Vec<Write>) -> Self::Batch {
        writes
    }

    fn write_all(&mut self, batch: &Self::Batch) -> Result<()> {
        let mut pipeline = Pipeline::with_capacity(batch.len());
        for write in batch {
            pipeline.add_command(command(write)).ignore();
        }
        Ok(pipeline.exec(&mut self.connection)?)
    }

    fn get(&mut self, user: u64, channel: u64) -> Result<ReadState> {
        let mut command = cmd("HMGET");
        command.arg(user).arg(channel).arg(mentions(channel));
        let (last, mentions): (Option<u64>, Option<u32>) = command.query(&mut self.connection)?;
        Ok(ReadState {
            last_message_id: last.unwrap_or(0),
            mention_count: mentions.unwrap_or(0),
        })
    }

    fn list(&mut self, user: u64, _channels: &[u64]) -> Result<Vec<(u64, ReadState)>> {
        let fields: Vec<(String, u64)> = cmd("HGETALL").arg(user).query(&mut self.connection)?;
        let mut list: BTreeMap<u64, ReadState> = BTreeMap::new();
        for (field, value) in fields {
            match field.strip_suffix('m') {
                Some(channel) => {
                    list.entry(channel.parse()?).or_default().mention_count = value as u32;
                }
                None => list.entry(field.parse()?).or_default().last_message_id = value,
            }
        }
        Ok(list.into_iter().collect())
    }
}

fn command(write: &Write) -> Cmd {
    let (channel, mentions) = (write.channel, mentions(write.channel));
    let mut command = match write.change {
        Change::Ack => cmd("HSET"),
        Change::Increment => cmd("HINCRBY"),
    };
    command.arg(write.user);
    match write.change {
        Change::Ack => command.arg(channel).arg(write.message).arg(mentions).arg(0),
        Change::Increment => command.arg(mentions).arg(1),
    };
    command
}

/// The field of a channel's mentions.
fn mentions(channel: u64) -> String {
    format!("{channel}m")
}
