//! PostgreSQL, with a row for each read state.
//!
//! It does more than the others where it commits with its default durability: every operation, or
//! batch, is on disk when it is answered.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use postgres::{Client, NoTls, Statement};
use read_states_bench::subject::{Change, ReadState, Write};
use read_states_bench::world::World;
use tempfile::TempDir;

use crate::Result;
use crate::figures::{FIRST_MESSAGE, channels};
use crate::server::{Server, find, free_port, is_root, patiently};
use crate::service::Service;

/// The user the server runs as where it would run as root, which it refuses.
const USER: &str = "postgres";

/// A read state, and what is added to it: an ack is one with a message and no mention, an increment one
/// with a mention and no message. As with the others, an increment compares no message ids.
const ON_CONFLICT: &str = "
    on conflict (user_id, channel_id) do update set
        last_message_id = greatest(old.last_message_id, excluded.last_message_id),
        mention_count = excluded.mention_count + case
            when excluded.last_message_id > old.last_message_id then 0
            else old.mention_count
        end";

pub struct Postgresql {
    name: &'static str,
    client: Client,
    statements: Statements,
    _server: Server,
    _directory: TempDir,
}

struct Statements {
    write: Statement,
    write_all: Statement,
    get: Statement,
    list: Statement,
}

impl Postgresql {
    pub fn start() -> Result<Self> {
        let folders = folders();
        let initdb = find("initdb", &folders)?;
        let program = find("postgres", &folders)?;
        let user = if is_root()? { Some(ids()?) } else { None };
        let directory = tempfile::tempdir()?;
        let as_user = |program: &Path| {
            let mut command = Command::new(program);
            command.current_dir(directory.path());
            if let Some((user, group)) = user {
                command.uid(user).gid(group);
            }
            command
        };
        if let Some((user, group)) = user {
            chown(directory.path(), Some(user), Some(group))?;
        }
        let data = directory.path().join("data");
        let mut create = as_user(&initdb);
        create
            .args(["--username", USER, "--auth", "trust", "--pgdata"])
            .arg(&data);
        if !create.stdout(Stdio::null()).status()?.success() {
            return Err("initdb has failed".into());
        }

        let port = free_port()?;
        let mut serve = as_user(&program);
        serve.arg("-D").arg(&data).arg("-k").arg(directory.path());
        serve.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        // All of it in memory, and no checkpoint meanwhile.
        serve.args(["-c", "shared_buffers=2GB", "-c", "max_wal_size=16GB"]);
        serve.args([
            "-c",
            "logging_collector=off",
            "-c",
            "log_min_messages=fatal",
        ]);
        let server = Server::start(&mut serve, port)?;
        let mut client = connect(port)?;
        client.batch_execute(
            "create table read_states (
                user_id bigint,
                channel_id bigint,
                last_message_id bigint not null,
                mention_count integer not null,
                primary key (user_id, channel_id)
            )",
        )?;
        Ok(Postgresql {
            name: "PostgreSQL",
            statements: Statements::prepare(&mut client)?,
            client,
            _server: server,
            _directory: directory,
        })
    }

    /// From now on, a commit is answered before it is on disk.
    pub fn commit_asynchronously(&mut self) -> Result<()> {
        self.name = "PostgreSQL, synchronous_commit=off";
        Ok(self.client.batch_execute("set synchronous_commit = off")?)
    }
}

impl Statements {
    fn prepare(client: &mut Client) -> Result<Self> {
        let into = "insert into read_states as old";
        let one = "values ($1, $2, $3, $4)";
        let many = "select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::integer[])";
        let found = "select channel_id, last_message_id, mention_count from read_states";
        Ok(Statements {
            write: client.prepare(&format!("{into} {one} {ON_CONFLICT}"))?,
            write_all: client.prepare(&format!("{into} {many} {ON_CONFLICT}"))?,
            get: client.prepare(&format!("{found} where user_id = $1 and channel_id = $2"))?,
            list: client.prepare(&format!("{found} where user_id = $1"))?,
        })
    }
}

impl Service for Postgresql {
    fn name(&self) -> &str {
        self.name
    }

    fn fill(&mut self, world: &World) -> Result<()> {
        self.client.batch_execute("truncate read_states")?;
        let mut copy = self.client.copy_in("copy read_states from stdin")?;
        let mut rows = String::new();
        for user in 0..world.users {
            rows.clear();
            for channel in channels(world, user) {
                let user = world.user(user);
                writeln!(rows, "{user}\t{channel}\t{FIRST_MESSAGE}\t0")?;
            }
            copy.write_all(rows.as_bytes())?;
        }
        copy.finish()?;
        // Each by itself, as the first of them is not for a transaction.
        self.client.batch_execute("vacuum analyze read_states")?;
        Ok(self.client.batch_execute("checkpoint")?)
    }

    /// The table with its index. Of memory it takes what it is given.
    fn taken(&mut self) -> Result<(u64, &'static str)> {
        let size = "select pg_total_relation_size('read_states')";
        let bytes: i64 = self.client.query_one(size, &[])?.get(0);
        Ok((bytes as u64, "bytes on disk/state"))
    }

    fn write(&mut self, write: &Write) -> Result<()> {
        let Write {
            user,
            channel,
            message,
            change,
        } = *write;
        let (message, mentions) = match change {
            Change::Ack => (message as i64, 0),
            Change::Increment => (0, 1),
        };
        let write = &self.statements.write;
        self.client.execute(
            write,
            &[&(user as i64), &(channel as i64), &message, &mentions],
        )?;
        Ok(())
    }

    type Batch = Vec<Write>;

    fn batch(&self, writes: Vec<Write>) -> Self::Batch {
        writes
    }

    /// One statement changes a row once, so what concerns one read state is put together first.
    fn write_all(&mut self, batch: &Self::Batch) -> Result<()> {
        let mut states: BTreeMap<(u64, u64), ReadState> = BTreeMap::new();
        for write in batch {
            write.apply(states.entry((write.user, write.channel)).or_default());
        }
        let mut rows = (vec![], vec![], vec![], vec![]);
        for ((user, channel), state) in states {
            rows.0.push(user as i64);
            rows.1.push(channel as i64);
            rows.2.push(state.last_message_id as i64);
            rows.3.push(state.mention_count as i32);
        }
        let write_all = &self.statements.write_all;
        self.client
            .execute(write_all, &[&rows.0, &rows.1, &rows.2, &rows.3])?;
        Ok(())
    }

    fn get(&mut self, user: u64, channel: u64) -> Result<ReadState> {
        let get = &self.statements.get;
        let row = self
            .client
            .query_opt(get, &[&(user as i64), &(channel as i64)])?;
        Ok(row.map_or(ReadState::default(), |row| read_state(&row)))
    }

    fn list(&mut self, user: u64, _channels: &[u64]) -> Result<Vec<(u64, ReadState)>> {
        let rows = self
            .client
            .query(&self.statements.list, &[&(user as i64)])?;
        let entry = |row| (postgres::Row::get::<_, i64>(row, 0) as u64, read_state(row));
        Ok(rows.iter().map(entry).collect())
    }
}

fn read_state(row: &postgres::Row) -> ReadState {
    ReadState {
        last_message_id: row.get::<_, i64>(1) as u64,
        mention_count: row.get::<_, i32>(2) as u32,
    }
}

fn connect(port: u16) -> Result<Client> {
    let mut config = Client::configure();
    config
        .host("127.0.0.1")
        .port(port)
        .user(USER)
        .dbname("postgres");
    // It takes connections before it has started up, and refuses what is asked.
    patiently(|| config.connect(NoTls))
}

/// Where Debian has the programs, the newest first: they are not in the path.
fn folders() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut folders = Vec::from_iter(versions.map(|version| version.path().join("bin")));
    folders.sort();
    folders.reverse();
    folders
}

/// The numbers of the user and his group.
fn ids() -> Result<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd")?;
    let user = users
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{USER}:")));
    let mut fields = user.ok_or("no user postgres")?.split(':').skip(1);
    let mut id = || fields.next().unwrap_or_default().parse();
    Ok((id()?, id()?))
}
