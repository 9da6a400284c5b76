//! Requests: a bounded number at a time, each tried again when something on the way may be better the next time.

use std::future::Future;
use std::time::Duration;

use read_states_remote::{Error, Reason};
use scylla::errors::{DbError, ExecutionError, PrepareError, RequestAttemptError};
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// Requests under way of each kind. More than that a node does not do at a time either; those that wait here can still be
/// dropped.
const MOST: usize = 256;

/// Milliseconds between tries. All requests are idempotent: a write that was done already changes nothing.
const PAUSES: [u64; 3] = [50, 200, 800];

/// The requests of one kind, reads or writes, so that neither waits for the other.
pub struct Requests(Semaphore);

impl Requests {
    /// None under way.
    pub fn new() -> Self {
        Requests(Semaphore::new(MOST))
    }

    /// The result of `request`.
    pub async fn run<A, F>(&self, request: impl Fn() -> F) -> Result<A, Error>
    where
        F: Future<Output = Result<A, ExecutionError>>,
    {
        let mut pauses = PAUSES.iter();
        loop {
            let result = {
                let _room = self.0.acquire().await;
                request().await
            };
            match result {
                Ok(answer) => return Ok(answer),
                Err(error) => match pauses.next() {
                    Some(pause) if is_transient(&error) => {
                        sleep(Duration::from_millis(*pause)).await;
                    }
                    _ => return Err(failed(&error)),
                },
            }
        }
    }
}

fn is_transient(error: &ExecutionError) -> bool {
    use RequestAttemptError as Attempt;
    match error {
        ExecutionError::EmptyPlan
        | ExecutionError::ConnectionPoolError(_)
        | ExecutionError::RequestTimeout(_) => true,
        ExecutionError::LastAttemptError(error) => match error {
            Attempt::BrokenConnectionError(_) | Attempt::UnableToAllocStreamId => true,
            Attempt::DbError(error, _) => matches!(
                error,
                DbError::Unavailable { .. }
                    | DbError::Overloaded
                    | DbError::IsBootstrapping
                    | DbError::ReadTimeout { .. }
                    | DbError::WriteTimeout { .. }
                    | DbError::ReadFailure { .. }
                    | DbError::WriteFailure { .. }
                    | DbError::ServerError
                    | DbError::RateLimitReached { .. }
            ),
            _ => false,
        },
        _ => false,
    }
}

/// What a request failed with.
pub fn failed(error: &ExecutionError) -> Error {
    use RequestAttemptError::DbError as Answer;
    let reason = match error {
        ExecutionError::LastAttemptError(Answer(
            DbError::Unauthorized | DbError::AuthenticationError,
            text,
        )) => return denied(text),
        ExecutionError::RequestTimeout(_)
        | ExecutionError::LastAttemptError(Answer(
            DbError::ReadTimeout { .. } | DbError::WriteTimeout { .. },
            _,
        )) => Reason::Timeout,
        ExecutionError::EmptyPlan | ExecutionError::ConnectionPoolError(_) => Reason::Unreachable,
        _ => Reason::Server,
    };
    Error::new(reason, error)
}

/// What a statement could not be prepared for.
pub fn unprepared(error: &PrepareError) -> Error {
    match error {
        PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(DbError::Unauthorized, text),
        } => denied(text),
        _ => Error::new(Reason::Server, error),
    }
}

/// What the server does not let our user do, in its words: they name him, the right he lacks and the table.
fn denied(text: &str) -> Error {
    Error::new(Reason::AccessDenied, format_args!("user: {text}"))
}

/// An answer of a form that was not asked for.
pub fn unexpected(error: impl std::fmt::Display) -> Error {
    Error::new(Reason::Server, error)
}
