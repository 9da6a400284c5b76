//! What is asked of a service.

use read_states_bench::subject::{ReadState, Write};
use read_states_bench::world::World;

use crate::Result;

/// Keeps read states.
pub trait Service {
    /// Its name in tables and pictures.
    fn name(&self) -> &str;

    /// Gives every user his read states, in the fastest way there is: it is not measured.
    fn fill(&mut self, world: &World) -> Result<()>;

    /// What the filled service takes, and the unit of that.
    fn taken(&mut self) -> Result<(u64, &'static str)>;

    /// Carries out one operation.
    fn write(&mut self, write: &Write) -> Result<()>;

    /// Whether its client sends many operations at once.
    const BATCHES: bool = true;

    /// Many operations, in the form it takes them.
    type Batch;

    /// Prepares a batch, which is not measured.
    fn batch(&self, writes: Vec<Write>) -> Self::Batch;

    /// Carries out many operations.
    fn write_all(&mut self, batch: &Self::Batch) -> Result<()>;

    /// A read state.
    fn get(&mut self, user: u64, channel: u64) -> Result<ReadState>;

    /// All read states of a user, who has these channels.
    fn list(&mut self, user: u64, channels: &[u64]) -> Result<Vec<(u64, ReadState)>>;
}
