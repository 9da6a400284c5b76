//! What read_states is measured against, and with.
//!
//! Every benchmark does the same work, that of a [`world::World`], and writes what it measured as
//! [`measurement::Measurement`]s, from which `report` makes tables and pictures.

pub mod arguments;
pub mod bare;
pub mod lines;
pub mod measurement;
pub mod resident;
pub mod sharded;
pub mod stamp;
pub mod subject;
pub mod world;
