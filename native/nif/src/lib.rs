//! The NIF of read_states: decodes terms, calls the engine or a store, encodes the result.

rustler::init!("Elixir.ReadStates.Native");
