//! The driver of a server alone, as bench/beam/database.ex asks for it: what a store on that server is measured beside.
//!
//! It reads one line after the other, and answers each with a line, the seconds it took:
//!
//! ```text
//! commit USERS ROWS BY ROUND   writes ROWS rows of each of USERS users, with versions of ROUND
//! load USER                    reads the rows of a user
//! load_all USERS AT_ONCE       reads those of users 0 to USERS - 1, so many at a time
//! ```

use std::future::Future;
use std::io::{BufRead, Write, stdin, stdout};
use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, stream};
use tokio::runtime::Builder;

/// A driver.
pub trait Bare: Send + Sync + 'static {
    /// Writes `rows` rows of each of so many users. Each round writes the same rows with a later version. What `by` is, of
    /// which there are several to choose from, is the driver's own matter.
    fn commit(
        &self,
        users: i64,
        rows: i64,
        by: usize,
        round: i64,
    ) -> impl Future<Output = ()> + Send;

    /// Reads the rows of a user, each of which is looked at; returns how many there are.
    fn load(&self, user: i64) -> impl Future<Output = usize> + Send;
}

/// Answers to the end of the input.
pub fn serve<B: Bare>(open: impl Future<Output = B>) {
    // As many threads as the store has.
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let bare = Arc::new(runtime.block_on(open));
    println!("ready");
    for line in stdin().lock().lines() {
        let line = line.expect("a line");
        let started = Instant::now();
        // A task of the runtime, as a call of the store is. What `block_on` has itself is on this thread, outside of the runtime.
        let work = runtime.spawn(answer(bare.clone(), line));
        runtime.block_on(work).expect("an answer");
        println!("{}", started.elapsed().as_secs_f64());
        stdout().flush().expect("a reader");
    }
}

async fn answer(bare: Arc<impl Bare>, line: String) {
    let words: Vec<_> = line.split(' ').collect();
    let number = |at: usize| -> i64 { words[at].parse().expect("a number") };
    match words[0] {
        "commit" => {
            bare.commit(number(1), number(2), number(3) as usize, number(4))
                .await;
        }
        "load" => {
            bare.load(number(1)).await;
        }
        "load_all" => {
            let mut reads = stream::iter(0..number(1))
                .map(|user| bare.load(user))
                .buffer_unordered(number(2) as usize);
            while let Some(_rows) = reads.next().await {}
        }
        other => panic!("what is {other}?"),
    }
}
