//! Connecting, and what can go wrong with that, by option.

use std::fmt::Display;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use read_states_remote::{Error, Reason, tls};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    BrokenConnectionErrorKind, ConnectionError, ConnectionPoolError,
    ConnectionSetupRequestErrorKind, DbError, FrameHeaderParseError, MetadataError,
    NewSessionError,
};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use tokio::time::{sleep, timeout};

use crate::options::Options;

/// Connecting may take as long as this: a call as a whole has 55 seconds, after which nobody would know where it was.
const CONNECTING: Duration = Duration::from_secs(35);

/// A request that has no answer by then goes to a second node too, and the first answer counts. So a node that hangs costs
/// this and not a time-out, until [`KEEPALIVE`] has found out. One more and not two: where all nodes are slow, it is twice the work.
const SECOND_NODE_AFTER: Duration = Duration::from_millis(300);

/// How often a node is asked whether it is there, and how long it may take to say so. A connection without an answer is ended, and
/// requests go to other nodes. Much longer than a node pauses to collect garbage.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(5));

/// How often it is tried, and the pause in between, where a node ends the connection without a word.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// Connects. Requests go to a node that has the user, of our datacentre if one is named and then of no other.
pub async fn connect(options: &Options) -> Result<Session, Error> {
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if let Some(datacentre) = &options.datacentre {
        policy = policy.prefer_datacenter(datacentre.clone());
    }
    // Only for idempotent requests, and all of ours are.
    let second_node = SimpleSpeculativeExecutionPolicy {
        max_retry_count: 1,
        retry_interval: SECOND_NODE_AFTER,
    };
    let profile = ExecutionProfile::builder()
        .load_balancing_policy(policy.build())
        .consistency(options.read.consistency())
        .request_timeout(Some(options.timeout()))
        .speculative_execution_policy(Some(Arc::new(second_node)))
        .build();
    let mut builder = SessionBuilder::new()
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(options.timeout())
        .keepalive_interval(KEEPALIVE.0)
        .keepalive_timeout(KEEPALIVE.1)
        // What the tables are like we ask ourselves.
        .fetch_full_schema_metadata(false);
    if let (Some(user), Some(password)) = (&options.user, &options.password) {
        builder = builder.user(user, password);
    }
    if let Some(tls) = &options.tls {
        builder = builder.tls_context(Some(tls.config()?));
    }
    match timeout(CONNECTING, connect_to_any(&builder, options)).await {
        Ok(connected) => connected,
        Err(_) => Err(unreachable(
            options,
            format_args!("after {} seconds", CONNECTING.as_secs()),
        )),
    }
}

async fn connect_to_any(builder: &SessionBuilder, options: &Options) -> Result<Session, Error> {
    let points = &options.contact_points;
    let error = match connect_to(builder, points).await {
        Ok(session) => return Ok(session),
        Err(error) => refused(&error, options),
    };
    if error.reason() != Reason::Unreachable || points.len() == 1 {
        return Err(error);
    }
    // The driver asks them in any order, and says what was wrong with the last one: behind one that is away there may be one that
    // does not take the password.
    let mut alone = FuturesUnordered::new();
    for point in points {
        alone.push(connect_to(builder, slice::from_ref(point)));
    }
    while let Some(connected) = alone.next().await {
        match connected.map_err(|error| refused(&error, options)) {
            Err(error) if error.reason() == Reason::Unreachable => {}
            connected => return connected,
        }
    }
    Err(error)
}

async fn connect_to(
    builder: &SessionBuilder,
    points: &[String],
) -> Result<Session, NewSessionError> {
    let builder = builder.clone().known_nodes(points);
    let mut tries = TRIES;
    loop {
        let connected = builder.build().await;
        tries -= 1;
        match connected {
            Err(error) if tries > 0 && ended_silently(&error) => sleep(PAUSE).await,
            connected => return connected,
        }
    }
}

fn refused(error: &NewSessionError, options: &Options) -> Error {
    if let Some(last) = last_connection_error(error) {
        if let Some(error) = io_error(last).and_then(|error| tls::refused(error, "")) {
            return error;
        }
        if let ConnectionError::ConnectionSetupRequestError(error) = last {
            match error.get_error() {
                ConnectionSetupRequestErrorKind::MissingAuthentication => {
                    let text = "user, password: the server asks for them";
                    return Error::new(Reason::AccessDenied, text);
                }
                ConnectionSetupRequestErrorKind::DbError(
                    DbError::AuthenticationError | DbError::Unauthorized,
                    text,
                ) => {
                    let text = format!("user, password: {text}");
                    return Error::new(Reason::AccessDenied, text);
                }
                _ => {}
            }
        }
    }
    unreachable(options, error)
}

fn unreachable(options: &Options, error: impl Display) -> Error {
    let hint = match options.tls {
        None => " (or they speak TLS only)",
        Some(_) => "",
    };
    let text = format!(
        "contact_points: none of {} answers{hint}: {error}",
        options.contact_points.join(", ")
    );
    Error::new(Reason::Unreachable, text)
}

fn last_connection_error(error: &NewSessionError) -> Option<&ConnectionError> {
    match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
            ConnectionPoolError::Broken {
                last_connection_error,
            },
        )) => Some(last_connection_error),
        _ => None,
    }
}

/// Whether a node ended the connection, and the driver knows no more: where it notices that before it asks, what the node said
/// for a reason, for example that it wants a certificate, is lost.
fn ended_silently(error: &NewSessionError) -> bool {
    let broken = last_connection_error(error).and_then(broken);
    matches!(broken, Some(BrokenConnectionErrorKind::ChannelError))
}

/// Why a connection broke.
fn broken(error: &ConnectionError) -> Option<&BrokenConnectionErrorKind> {
    let broken = match error {
        ConnectionError::BrokenConnection(broken) => broken,
        ConnectionError::ConnectionSetupRequestError(error) => match error.get_error() {
            ConnectionSetupRequestErrorKind::BrokenConnection(broken) => broken,
            _ => return None,
        },
        _ => return None,
    };
    broken.downcast_ref()
}

/// What a connection has failed with: while it was made, or at the first request.
fn io_error(error: &ConnectionError) -> Option<&std::io::Error> {
    if let ConnectionError::IoError(error) = error {
        return Some(error);
    }
    match broken(error)? {
        BrokenConnectionErrorKind::FrameHeaderParseError(FrameHeaderParseError::HeaderIoError(
            error,
        )) => Some(error),
        BrokenConnectionErrorKind::WriteError(error) => Some(error),
        _ => None,
    }
}
