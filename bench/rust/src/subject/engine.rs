//! The engine of ReadStates, through its public API: what the NIF calls.

use std::sync::Arc;

use read_states_engine::Policy;
use read_states_engine::batch::BatchBuilder;
use read_states_engine::engine::{self, Config, UserOperation};
use read_states_engine::id::Channel;
use read_states_engine::list::Query;
use read_states_engine::now::Now;
use read_states_engine::operation::{self, Operation};
use read_states_engine::read::Found;
use read_states_engine::read_state;

use super::{ByUser, Change, ReadState, Subject, Write};

/// See the module.
pub type Engine = EngineOf<false>;

/// The engine with `eviction: :lru`.
pub type LruEngine = EngineOf<true>;

/// With the default policy, or as an exact LRU.
pub struct EngineOf<const LRU: bool>(Arc<engine::Engine>);

/// Time stands still: nothing is due before it is flushed.
const NOW: Now = Now {
    monotonic: 1_000_000,
    unix: 1_700_000_000_000_000,
};

/// The engine's partitions: one, as there is one thread that commits.
const PARTITION: usize = 0;

impl<const LRU: bool> Subject for EngineOf<LRU> {
    const NAME: &str = if LRU {
        "ReadStates, :lru"
    } else {
        "ReadStates"
    };

    type Batch = Vec<UserOperation>;

    fn new(states: u64) -> Self {
        let config = Config {
            capacity: 2 * states as usize,
            policy: if LRU { Policy::Lru } else { Policy::Clock },
            ..Config::default()
        };
        EngineOf(Arc::new(engine::Engine::new(config)))
    }

    #[inline]
    fn write(&self, write: &Write) {
        let operation = write.operation();
        let wake = self.0.apply(write.user, &operation, NOW);
        wake.expect("no bound on what is not committed");
    }

    fn batch(writes: Vec<Write>) -> Self::Batch {
        let user_operation = |write: Write| UserOperation {
            user: write.user,
            operation: write.operation(),
        };
        writes.into_iter().map(user_operation).collect()
    }

    fn write_all(&self, batch: &Self::Batch) {
        let wake = self.0.apply_all(batch, NOW);
        wake.expect("no bound on what is not committed");
    }

    #[inline]
    fn get(&self, user: u64, channel: u64) -> ReadState {
        resident(self.0.get(user, channel_of(channel))).into()
    }

    fn admit(&self, user: u64) {
        self.0.want(user).expect("no bound on who waits");
    }

    /// Loads who is waited for, from a store that has nothing, and commits everything to it.
    fn settle(&self) {
        while let Some(mut load) = self.0.begin_load(PARTITION, 1_000).load {
            let nothing = BatchBuilder::new(self.0.counters()).finish();
            load.add(&nothing).expect("a batch");
            load.finish(NOW);
        }
        self.0.flush(PARTITION);
        while let Some(commit) = self.0.begin_commit(PARTITION, 10_000, NOW) {
            commit.succeed(NOW);
        }
    }
}

impl<const LRU: bool> ByUser for EngineOf<LRU> {
    type List = Vec<(Channel, read_state::ReadState)>;

    #[inline]
    fn list(&self, user: u64) -> Self::List {
        resident(self.0.list(user, Query::default(), true, NOW)).to_vec()
    }

    #[inline]
    fn total(&self, user: u64) -> u64 {
        resident(self.0.total(user, 0))
    }
}

impl Write {
    #[inline]
    fn operation(&self) -> Operation {
        let message = self.message;
        Operation::Change {
            channel: channel_of(self.channel),
            change: match self.change {
                Change::Ack => operation::Change::Ack { message },
                Change::Increment => operation::Change::Increment {
                    message,
                    counter: 0,
                    by: 1,
                },
            },
        }
    }
}

impl From<read_state::ReadState> for ReadState {
    fn from(state: read_state::ReadState) -> Self {
        ReadState {
            last_message_id: state.last_message_id,
            mention_count: state.counters[0],
        }
    }
}

fn channel_of(id: u64) -> Channel {
    Channel { kind: 0, id }
}

fn resident<T, E: std::fmt::Debug>(found: Result<Found<T>, E>) -> T {
    match found {
        Ok(Found::Resident(found)) => found,
        _ => panic!("every user is resident"),
    }
}
