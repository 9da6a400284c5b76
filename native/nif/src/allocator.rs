//! Where the memory of Rust in this library comes from: jemalloc, of the library's own.
//!
//! The store on disk is read and written by a dozen threads, and one of them frees what another has allocated. The malloc of
//! glibc has an arena for each of them, 16 on two cores, and keeps what is free in each, in pieces: under the load of
//! `script/soak` it held 261 MB of which 91 MB were in use, and went on growing. The VM's allocator does not grow, but all
//! threads that are not schedulers share one, with a lock: loads took half as long again. jemalloc has a cache for each
//! thread, and gives back what is free after ten seconds: on Linux on threads of its own (`background_threads`), for else only
//! who allocates does so, and what a commit of 400,000 users had left, 76 MB, was still there when nobody called any more.
//!
//! Only this library uses it. What it keeps for each thread is found through the dynamic linker, as in a library that is
//! loaded late it must be (`disable_initial_exec_tls`).

use tikv_jemallocator::Jemalloc;

/// Read states are not in it, but in memory of the engine's own.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;
