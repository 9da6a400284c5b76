//! The engine of the library in the process, without the VM.

use read_states_bench::resident;
use read_states_bench::subject::{self, ByUser, ReadState, Subject, Write};
use read_states_bench::world::World;

use crate::Result;
use crate::service::Service;

pub struct Engine {
    engine: subject::Engine,
    before: u64,
}

impl Engine {
    pub fn new(world: &World) -> Self {
        Engine {
            before: resident::bytes(),
            engine: subject::Engine::new(world.states()),
        }
    }
}

impl Service for Engine {
    fn name(&self) -> &str {
        "ReadStates engine"
    }

    fn fill(&mut self, world: &World) -> Result<()> {
        subject::fill(&self.engine, world);
        Ok(())
    }

    fn taken(&mut self) -> Result<(u64, &'static str)> {
        Ok((resident::bytes() - self.before, "bytes/state"))
    }

    fn write(&mut self, write: &Write) -> Result<()> {
        self.engine.write(write);
        Ok(())
    }

    type Batch = <subject::Engine as Subject>::Batch;

    fn batch(&self, writes: Vec<Write>) -> Self::Batch {
        subject::Engine::batch(writes)
    }

    fn write_all(&mut self, batch: &Self::Batch) -> Result<()> {
        self.engine.write_all(batch);
        Ok(())
    }

    fn get(&mut self, user: u64, channel: u64) -> Result<ReadState> {
        Ok(self.engine.get(user, channel))
    }

    fn list(&mut self, user: u64, _channels: &[u64]) -> Result<Vec<(u64, ReadState)>> {
        let list = self.engine.list(user).into_iter();
        Ok(list
            .map(|(channel, state)| (channel.id, state.into()))
            .collect())
    }
}
