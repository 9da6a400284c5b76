//! Threads that make room for others.

use std::io;
use std::panic::resume_unwind;
use std::thread::{Builder, scope};

/// How much nicer than their caller the threads are, as far as it goes: one gets a quarter of a core that another one wants all of, and
/// all of a core that nobody wants.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// Calls `start` on a thread of lower priority. Threads that it starts have it from there, and keep it; the caller's stays. So on Linux:
/// elsewhere `nice` is for the whole process, and the priority stays as it is.
pub fn in_background<R: Send>(start: impl FnOnce() -> R + Send) -> io::Result<R> {
    scope(|scope| {
        let thread = Builder::new().spawn_scoped(scope, || {
            lower_priority();
            start()
        })?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

#[cfg(target_os = "linux")]
fn lower_priority() {
    // Where the system forbids it, the threads work as well, and callers wait for them longer.
    let _ = rustix::process::nice(NICENESS);
}

#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;
    use std::sync::mpsc::channel;
    use std::thread::spawn;

    fn niceness() -> i32 {
        getpriority_process(None).unwrap()
    }

    #[test]
    fn the_priority_is_lower_of_what_is_started_and_only_of_that() {
        let before = niceness();
        let (go_on, wait) = channel::<()>();
        let started = in_background(|| {
            spawn(move || {
                wait.recv().unwrap();
                niceness()
            })
        });
        go_on.send(()).unwrap();
        // More than 19 there is not.
        let lower = (before + NICENESS).min(19);
        assert_eq!(started.unwrap().join().unwrap(), lower);
        assert_eq!(niceness(), before);
    }

    #[test]
    #[should_panic(expected = "of its own")]
    fn a_panic_is_the_callers() {
        let _ = in_background(|| panic!("of its own"));
    }
}
