//! Starts a server of its own on a free port of the loopback interface, with its files in a temporary
//! directory, and stops it.

use std::fmt;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use procfs::process::Process;

use crate::Result;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// There is no such program.
#[derive(Debug)]
pub struct NotInstalled(pub &'static str);

impl fmt::Display for NotInstalled {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{} is not installed", self.0)
    }
}

impl std::error::Error for NotInstalled {}

/// A running server. It is told to stop when this is dropped.
pub struct Server(Child);

impl Server {
    /// Starts it and waits until it takes connections. Ctrl-C in a terminal stops it too.
    pub fn start(command: &mut Command, port: u16) -> Result<Self> {
        let server = Server(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        patiently(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)))?;
        Ok(server)
    }

    /// Bytes of the server that are in memory.
    pub fn resident(&self) -> Result<u64> {
        let memory = Process::new(self.0.id() as i32)?.statm()?;
        Ok(memory.resident * procfs::page_size())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // All of them shut down on this signal, and PostgreSQL its processes with it. What has no such
        // program has no such servers.
        let stop = Command::new("kill").arg(self.0.id().to_string()).status();
        if stop.is_ok_and(|status| status.success()) {
            let _ = self.0.wait();
        }
    }
}

/// Tries until it succeeds.
pub fn patiently<T, E>(mut attempt: impl FnMut() -> std::result::Result<T, E>) -> Result<T>
where
    E: std::error::Error + 'static,
{
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Where a program is, of those in the path and in some folders more.
pub fn find(program: &'static str, folders: &[PathBuf]) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = folders.iter().cloned().chain(std::env::split_paths(&path));
    let mut files = folders.map(|folder| folder.join(program));
    let found = files.find(|file| Path::is_file(file));
    Ok(found.ok_or(NotInstalled(program))?)
}

/// A port nobody listens on.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Whether this runs as the user who may do all, as some servers refuse to.
pub fn is_root() -> Result<bool> {
    Ok(Process::myself()?.uid()? == 0)
}
