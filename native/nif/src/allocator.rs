//! Where the memory of Rust in this library comes from: the VM's allocator.
//!
//! The store on disk is read and written by a dozen threads, and one of them frees what another has allocated. The malloc of
//! glibc has an arena for each of them, 16 on two cores, and keeps what is free in each, in pieces: under the load of
//! `script/soak` it held 261 MB of which 91 MB were in use, and went on growing. The VM has one for each scheduler and one
//! for all other threads, goes first to the lowest address that fits, and gives back what is empty: the process takes a
//! fifth less memory, and no more after a quarter of an hour than after five minutes. It is also there on every
//! system, and `:erlang.memory/0` and crash dumps count it.

/// Read states are not in it, but in memory of the engine's own.
#[global_allocator]
static ALLOCATOR: rustler::EnifAllocator = rustler::EnifAllocator;
