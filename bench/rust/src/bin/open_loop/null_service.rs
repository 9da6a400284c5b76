//! A service that answers and does nothing else.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::address;
use crate::protocol::{ANSWER, REQUEST};

#[derive(clap::Args)]
pub struct NullService {
    /// The port to listen on, 0 for any that is free. It is written to the standard output.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

impl NullService {
    /// Serves until it is killed.
    pub fn run(self) -> io::Result<()> {
        let listener = TcpListener::bind(address(self.port))?;
        println!("{}", listener.local_addr()?.port());
        for stream in listener.incoming() {
            let stream = stream?;
            thread::spawn(move || serve(stream));
        }
        Ok(())
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = vec![0; 64 * 1024];
    let mut length = 0;
    let mut answers = Vec::new();
    loop {
        match stream.read(&mut received[length..])? {
            0 => return Ok(()),
            read => length += read,
        }
        let (requests, rest) = received[..length].as_chunks::<REQUEST>();
        answers.clear();
        for request in requests {
            answers.extend(&request[REQUEST - 4..]);
            answers.extend([0; ANSWER - 4]);
        }
        stream.write_all(&answers)?;
        let rest = length - rest.len()..length;
        length = rest.len();
        received.copy_within(rest, 0);
    }
}
