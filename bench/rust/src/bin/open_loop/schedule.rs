//! When requests are due: in a bunch for each millisecond, as from a gateway with many users behind
//! each connection, and the connections taking turns.

use std::time::Duration;

const BUNCH: Duration = Duration::from_millis(1);

/// The requests of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Requests a second, over all connections.
    pub rate: u64,
    /// Requests, over all connections.
    pub requests: u64,
    /// Number of connections.
    pub connections: u64,
    /// Which of them this is.
    pub connection: u64,
}

impl Schedule {
    /// Number of requests of this connection.
    pub fn len(&self) -> u64 {
        (self.requests + self.connections - 1 - self.connection) / self.connections
    }

    /// When a request is due, from the start. Nobody has to keep it until the answer comes.
    pub fn due(&self, number: u64) -> Duration {
        let turn = number * self.connections + self.connection;
        let bunch = Duration::from_millis(turn * 1_000 / self.rate);
        bunch + BUNCH / self.connections as u32 * self.connection as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_has_as_many_requests() {
        let connections = 7;
        let mut seconds = [0; 3];
        for connection in 0..connections {
            let schedule = Schedule {
                rate: 1_234,
                requests: 3 * 1_234,
                connections,
                connection,
            };
            for number in 0..schedule.len() {
                seconds[schedule.due(number).as_secs() as usize] += 1;
            }
        }
        assert_eq!(seconds, [1_234; 3]);
    }
}
