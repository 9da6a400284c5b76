//! memcached, with an item for each read state.
//!
//! It knows nothing of users: who lists has to know the channels. A counter of its own cannot be set to
//! zero together with the message, so an increment compares and swaps, which takes two round trips.
//! Its client sends no writes together. It does less: an ack compares no message ids, and nothing is on disk.

use std::process::Command;

use memcache::{Client, ConnectionManager, Pool};
use read_states_bench::subject::{Change, ReadState, Write};
use read_states_bench::world::World;
use tempfile::TempDir;

use crate::Result;
use crate::figures::{FIRST_MESSAGE, channels};
use crate::server::{Server, find, free_port, is_root};
use crate::service::Service;

/// An item, its flags, and what it is compared by.
type Item = (Vec<u8>, u32, Option<u64>);

pub struct Memcached {
    client: Client,
    before: u64,
    server: Server,
    _directory: TempDir,
}

impl Memcached {
    pub fn start() -> Result<Self> {
        let program = find("memcached", &[])?;
        let directory = tempfile::tempdir()?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command.args(["-l", "127.0.0.1", "-p", &port.to_string()]);
        // So much that nothing is evicted.
        command.args(["-m", "65536"]).current_dir(directory.path());
        if is_root()? {
            command.args(["-u", "nobody"]);
        }
        let server = Server::start(&mut command, port)?;
        Ok(Memcached {
            client: connect(port)?,
            before: server.resident()?,
            server,
            _directory: directory,
        })
    }

    fn set(&self, user: u64, channel: u64, state: ReadState) -> Result<()> {
        Ok(self
            .client
            .set(&key(user, channel), &encode(state)[..], 0)?)
    }
}

impl Service for Memcached {
    fn name(&self) -> &str {
        "memcached"
    }

    fn fill(&mut self, world: &World) -> Result<()> {
        let state = ReadState {
            last_message_id: FIRST_MESSAGE,
            mention_count: 0,
        };
        for user in 0..world.users {
            for channel in channels(world, user) {
                self.set(world.user(user), channel, state)?;
            }
        }
        Ok(())
    }

    fn taken(&mut self) -> Result<(u64, &'static str)> {
        Ok((self.server.resident()? - self.before, "bytes/state"))
    }

    fn write(&mut self, write: &Write) -> Result<()> {
        let key = key(write.user, write.channel);
        match write.change {
            Change::Ack => {
                let mut state = ReadState::default();
                write.apply(&mut state);
                self.set(write.user, write.channel, state)
            }
            Change::Increment => loop {
                let Some((bytes, _, Some(version))) = self.client.get::<Item>(&key)? else {
                    return Err("every read state is there".into());
                };
                let mut state = decode(&bytes)?;
                write.apply(&mut state);
                if self.client.cas(&key, &encode(state)[..], 0, version)? {
                    return Ok(());
                }
            },
        }
    }

    const BATCHES: bool = false;

    type Batch = ();

    fn batch(&self, _writes: Vec<Write>) -> Self::Batch {}

    fn write_all(&mut self, _batch: &Self::Batch) -> Result<()> {
        Err("its client sends no writes together".into())
    }

    fn get(&mut self, user: u64, channel: u64) -> Result<ReadState> {
        match self.client.get::<Item>(&key(user, channel))? {
            Some((bytes, ..)) => decode(&bytes),
            None => Ok(ReadState::default()),
        }
    }

    fn list(&mut self, user: u64, channels: &[u64]) -> Result<Vec<(u64, ReadState)>> {
        let keys = Vec::from_iter(channels.iter().map(|channel| key(user, *channel)));
        let keys = Vec::from_iter(keys.iter().map(String::as_str));
        let items = self.client.gets::<Item>(&keys)?;
        let found = keys.iter().zip(channels);
        let found = found.filter_map(|(key, channel)| Some((*channel, items.get(*key)?)));
        found
            .map(|(channel, item)| Ok((channel, decode(&item.0)?)))
            .collect()
    }
}

/// A pool of one connection, as the client wants one, but that it is not tried before each use: that
/// would be a round trip more.
fn connect(port: u16) -> Result<Client> {
    let url = format!("memcache://127.0.0.1:{port}?protocol=ascii").parse()?;
    let pool = Pool::builder().max_size(1).test_on_check_out(false);
    Ok(Client::with_pool(pool.build(ConnectionManager::new(url))?)?)
}

/// Short, as an item has it with it.
fn key(user: u64, channel: u64) -> String {
    format!("{user:x}:{channel:x}")
}

fn encode(state: ReadState) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&state.last_message_id.to_be_bytes());
    bytes[8..].copy_from_slice(&state.mention_count.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<ReadState> {
    let (last, mentions) = bytes
        .split_at_checked(8)
        .ok_or("an item that is too short")?;
    Ok(ReadState {
        last_message_id: u64::from_be_bytes(last.try_into()?),
        mention_count: u32::from_be_bytes(mentions.try_into()?),
    })
}
