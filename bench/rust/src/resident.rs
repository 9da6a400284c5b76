//! What the process takes, as the system sees it.

use procfs::process::Process;

/// Bytes of the process that are in memory.
pub fn bytes() -> u64 {
    let memory = Process::myself().and_then(|process| process.statm());
    memory.expect("a Linux machine").resident * procfs::page_size()
}
