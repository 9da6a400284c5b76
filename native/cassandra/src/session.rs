//! Connecting, and what can go wrong with that, by option.

use std::sync::Arc;

use read_states_remote::{Error, Reason};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, MetadataError,
    NewSessionError,
};
use scylla::policies::load_balancing::DefaultPolicy;

use crate::options::Options;

/// Connects. Requests go to a node that has the user, of our datacentre if one is named and then of no other.
pub async fn connect(options: &Options) -> Result<Session, Error> {
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if let Some(datacentre) = &options.datacentre {
        policy = policy.prefer_datacenter(datacentre.clone());
    }
    let profile = ExecutionProfile::builder()
        .load_balancing_policy(policy.build())
        .consistency(options.read.consistency())
        .request_timeout(Some(options.timeout()))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&options.contact_points)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(options.timeout())
        // What the tables are like we ask ourselves.
        .fetch_full_schema_metadata(false);
    if let (Some(user), Some(password)) = (&options.user, &options.password) {
        builder = builder.user(user, password);
    }
    if let Some(tls) = &options.tls {
        builder = builder.tls_context(Some(tls.config()?));
    }
    builder
        .build()
        .await
        .map_err(|error| refused(&error, options))
}

fn refused(error: &NewSessionError, options: &Options) -> Error {
    if let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
        ConnectionPoolError::Broken {
            last_connection_error,
        },
    )) = error
    {
        match last_connection_error {
            ConnectionError::IoError(error) => {
                if let Some(error) = tls_error(error) {
                    return Error::new(Reason::Tls, format_args!("tls: {error}"));
                }
            }
            ConnectionError::ConnectionSetupRequestError(error) => match error.get_error() {
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
            },
            _ => {}
        }
    }
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

fn tls_error(error: &Arc<std::io::Error>) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner
        .downcast_ref()
        .or_else(|| inner.source()?.downcast_ref())
}
