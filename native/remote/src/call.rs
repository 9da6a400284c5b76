//! The runtime, and the calls under way on it.

use std::future::Future;
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::{Error, Reason};

/// What takes longer is given up: an instance gives its calls a minute.
pub const LONGEST: Duration = Duration::from_secs(55);

/// Threads that wait for servers, and read and write what they say. The rest of the machine belongs to the VM.
const MOST_THREADS: usize = 4;

/// The runtime of this library. It is there from the first call to the end of the VM.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let threads = available_parallelism().map_or(1, |threads| threads.get());
        Builder::new_multi_thread()
            .worker_threads(threads.min(MOST_THREADS))
            .thread_name("read_states_db")
            .enable_all()
            .build()
            .expect("the system has threads for the runtime")
    });
    &RUNTIME
}

/// A call under way, which ends when its caller dies.
#[derive(Clone, Debug, Default)]
pub struct Call(Arc<OnceLock<AbortHandle>>);

impl Call {
    /// Does `work`, but not for longer than [`LONGEST`], and gives the result to `answer`.
    pub fn start<A: Send + 'static>(
        &self,
        work: impl Future<Output = Result<A, Error>> + Send + 'static,
        answer: impl FnOnce(Result<A, Error>) + Send + 'static,
    ) {
        let task = runtime().spawn(async move {
            let result = timeout(LONGEST, work).await;
            let text = || format!("no answer within {} s", LONGEST.as_secs());
            let late = |_| Err(Error::new(Reason::Timeout, text()));
            answer(result.unwrap_or_else(late));
        });
        let _ = self.0.set(task.abort_handle());
    }

    /// Drops the work, wherever it is.
    pub fn abort(&self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{RecvTimeoutError, channel};

    #[test]
    fn what_is_done_is_answered() {
        let (sender, receiver) = channel();
        Call::default().start(async { Ok(7) }, move |result| sender.send(result).unwrap());
        assert_eq!(receiver.recv().unwrap(), Ok(7));
    }

    #[test]
    fn what_is_aborted_is_dropped_without_an_answer() {
        let (sender, receiver) = channel::<Result<(), Error>>();
        let call = Call::default();
        call.start(std::future::pending(), move |result| {
            sender.send(result).unwrap()
        });
        assert_eq!(
            receiver.recv_timeout(Duration::from_millis(20)),
            Err(RecvTimeoutError::Timeout)
        );
        call.abort();
        assert!(receiver.recv().is_err());
    }
}
