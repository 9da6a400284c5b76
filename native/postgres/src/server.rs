//! What the server says when something fails, and what is worth another try.

use std::error::Error as _;
use std::future::Future;
use std::io::ErrorKind;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use deadpool_postgres::{HookError, Object, Pool, PoolError, TimeoutType};
use read_states_remote::{Error, Reason, tls};
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;

use crate::options::Options;

/// Milliseconds between tries. Every call is idempotent: a write that was done already changes nothing.
const PAUSES: [u64; 4] = [50, 200, 800, 2_000];

/// Beyond the time a statement may take on the server: who has not heard by then hears no more.
const GRACE: Duration = Duration::from_secs(1);

/// The connections, and how they are used.
pub struct Server {
    pool: Pool,
    options: Options,
    /// How long a call may take on a connection.
    patience: Duration,
}

/// A connection of the pool, for one request. It goes back when the request came to an end. With one that took too long, or whose
/// caller was killed, it is closed: something may hang on it, and the pool would give it to the next.
pub struct Lease(Option<Object>);

impl Lease {
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.0.take().map(Object::take));
    }
}

impl Deref for Lease {
    type Target = Object;

    fn deref(&self) -> &Object {
        self.0.as_ref().expect("held until it is given back")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Object {
        self.0.as_mut().expect("held until it is given back")
    }
}

impl Server {
    /// With a pool that makes connections as the options say.
    pub fn new(pool: Pool, options: &Options) -> Self {
        Server {
            pool,
            options: options.clone(),
            patience: options.timeout() + GRACE,
        }
    }

    /// The result of `request` on a connection, tried again on another one when that may help.
    pub async fn run<A, F>(&self, request: impl Fn(Lease) -> F) -> Result<A, Error>
    where
        F: Future<Output = (Lease, Result<A, tokio_postgres::Error>)>,
    {
        let mut pauses = PAUSES.iter();
        loop {
            let (error, again) = match self.attempt(&request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match pauses.next() {
                Some(pause) if again => sleep(Duration::from_millis(*pause)).await,
                _ => return Err(error),
            }
        }
    }

    /// A connection; or an error, and whether another try may help.
    pub async fn client(&self) -> Result<Object, (Error, bool)> {
        let client = self.pool.get().await;
        client.map_err(|error| unconnected(&error, &self.options))
    }

    /// What `work` on a connection comes to, unless the server is silent for too long.
    pub async fn in_time<A>(&self, work: impl Future<Output = A>) -> Result<A, Error> {
        let late = |_| {
            let text = format!("no answer within {} ms", self.patience.as_millis());
            Error::new(Reason::Timeout, text)
        };
        timeout(self.patience, work).await.map_err(late)
    }

    /// An error, and whether another try may help.
    async fn attempt<A, F>(&self, request: &impl Fn(Lease) -> F) -> Result<A, (Error, bool)>
    where
        F: Future<Output = (Lease, Result<A, tokio_postgres::Error>)>,
    {
        let client = Lease(Some(self.client().await?));
        match self.in_time(request(client)).await {
            Ok((client, Ok(answer))) => {
                client.give_back();
                Ok(answer)
            }
            Ok((client, Err(error))) => {
                // Otherwise something is wrong with the connection, or it is to a server that takes no writes any more.
                if error.as_db_error().is_some() && !is_read_only(&error) {
                    client.give_back();
                }
                let again = is_transient(&error);
                Err((failed(&error), again))
            }
            // The connection went with the request.
            Err(late) => Err((late, false)),
        }
    }

    /// Closes the connections.
    pub fn close(&self) {
        self.pool.close();
    }
}

/// Whether the same may go well the next time: the server is away or on its way, or somebody was in the way.
fn is_transient(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => [
            &SqlState::ADMIN_SHUTDOWN,
            &SqlState::CRASH_SHUTDOWN,
            &SqlState::CANNOT_CONNECT_NOW,
            &SqlState::TOO_MANY_CONNECTIONS,
            &SqlState::T_R_DEADLOCK_DETECTED,
            &SqlState::T_R_SERIALIZATION_FAILURE,
            &SqlState::READ_ONLY_SQL_TRANSACTION,
        ]
        .contains(&code),
        None => error.is_closed() || io_error(error).is_some(),
    }
}

/// Whether the server takes no writes: it says so of a statement, or the driver has asked it when it connected, and has
/// no other name for it than one that the operating system has for something else.
fn is_read_only(error: &tokio_postgres::Error) -> bool {
    let denied = |error: &std::io::Error| {
        error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none()
    };
    error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
        || io_error(error).is_some_and(denied)
}

/// Why the pool gives no connection, and whether another try may help.
fn unconnected(error: &PoolError, options: &Options) -> (Error, bool) {
    match error {
        // In the second case there was one, and the first statement on it failed.
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            (refused(error, options), is_transient(error))
        }
        PoolError::PostCreateHook(_) | PoolError::Timeout(TimeoutType::Create) => {
            (Error::new(Reason::Unreachable, options.late()), false)
        }
        _ => (Error::new(Reason::Timeout, error), false),
    }
}

/// Why a connection could not be made, by option.
fn refused(error: &tokio_postgres::Error, options: &Options) -> Error {
    let place = format!("{}:{}", options.host, options.port);
    if let Some(error) = error.as_db_error() {
        let (code, text) = (error.code(), error.message());
        return if *code == SqlState::INVALID_CATALOG_NAME {
            Error::new(Reason::Missing, format_args!("url: {place}: {text}"))
        } else if code.code().starts_with("28") {
            Error::new(Reason::AccessDenied, format_args!("url: {place}: {text}"))
        } else if *code == SqlState::QUERY_CANCELED {
            Error::new(Reason::Timeout, format_args!("url: {place}: {text}"))
        } else if code.code().starts_with("57P0") {
            Error::new(Reason::Unreachable, format_args!("url: {place}: {text}"))
        } else {
            Error::new(Reason::Server, format_args!("url: {place}: {text}"))
        };
    }
    if is_read_only(error) {
        let text = format!("url: {place} takes no writes: it is a standby, or was told so");
        return Error::new(Reason::ReadOnly, text);
    }
    if let Some(error) = tls::refused(error, &format!("{place}: ")) {
        return error;
    }
    if io_error(error).is_some() || error.is_closed() {
        let text = format!("url: nobody answers at {place}: {}", chain(error));
        return Error::new(Reason::Unreachable, text);
    }
    let text = chain(error);
    // The driver has no names for these.
    if text.contains("password missing") {
        let text = format!("url: {place} asks for a password");
        return Error::new(Reason::AccessDenied, text);
    }
    if text.contains("TLS") {
        return Error::new(Reason::Tls, format_args!("tls: {place}: {text}"));
    }
    let reason = match text.contains("timed out") || text.contains("timeout") {
        true => Reason::Unreachable,
        false => Reason::Server,
    };
    Error::new(reason, format_args!("url: {place}: {text}"))
}

/// What a statement failed with.
pub fn failed(error: &tokio_postgres::Error) -> Error {
    let reason = match error.code() {
        Some(code) if *code == SqlState::QUERY_CANCELED => Reason::Timeout,
        Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Reason::ReadOnly,
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Reason::AccessDenied,
        Some(code) if *code == SqlState::UNDEFINED_TABLE => Reason::Missing,
        Some(code) if *code == SqlState::UNDEFINED_COLUMN => Reason::NotOurs,
        Some(code) if code.code().starts_with("57P0") => Reason::Unreachable,
        Some(_) => Reason::Server,
        None if error.is_closed() || io_error(error).is_some() => Reason::Unreachable,
        None => Reason::Server,
    };
    match error.as_db_error() {
        Some(error) => Error::new(reason, error.message()),
        None => Error::new(reason, chain(error)),
    }
}

fn io_error(error: &tokio_postgres::Error) -> Option<&std::io::Error> {
    error.source()?.downcast_ref()
}

/// The error with what it comes from.
fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use read_states_remote::call::runtime;
    use tokio_postgres::{Config, NoTls};

    fn options() -> Options {
        Options {
            host: "127.0.0.1".to_owned(),
            port: 1,
            database: "d".to_owned(),
            user: "u".to_owned(),
            password: None,
            schema: "public".to_owned(),
            table: "read_states".to_owned(),
            pool: 1,
            tls: None,
            timeout: 1_000,
        }
    }

    fn nobody_answers() -> tokio_postgres::Error {
        let mut config = Config::new();
        config.host("127.0.0.1").port(1).user("u");
        let connecting = config.connect(NoTls);
        runtime()
            .block_on(connecting)
            .err()
            .expect("nobody is at port 1")
    }

    #[test]
    fn what_fails_on_a_new_connection_is_what_it_would_be_on_an_old_one() {
        let lost = [
            PoolError::Backend(nobody_answers()),
            PoolError::PostCreateHook(HookError::Backend(nobody_answers())),
        ];
        for error in lost {
            let (error, again) = unconnected(&error, &options());
            assert_eq!((error.reason(), again), (Reason::Unreachable, true));
        }
        let (error, again) = unconnected(&PoolError::Timeout(TimeoutType::Create), &options());
        assert_eq!((error.reason(), again), (Reason::Unreachable, false));
        assert!(error.to_string().starts_with("url: 127.0.0.1:1 "));
        let hook = PoolError::PostCreateHook(HookError::message(options().late()));
        assert_eq!(unconnected(&hook, &options()).0, error);
        // What is not the server's doing is not tried again.
        let (error, again) = unconnected(&PoolError::Closed, &options());
        assert_eq!((error.reason(), again), (Reason::Timeout, false));
    }
}
