//! Connecting.

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use read_states_remote::{Error, Reason};
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::options::Options;

/// A pool of connections, none of which is made yet.
pub fn pool(options: &Options) -> Result<Pool, Error> {
    let mut config = Config::new();
    config
        .host(&options.host)
        .port(options.port)
        .dbname(&options.database)
        .user(&options.user)
        .application_name("read_states")
        .connect_timeout(options.timeout())
        // A server that is gone without a word is noticed, also in the middle of a statement.
        .tcp_user_timeout(options.timeout())
        // A standby lacks what was committed last: who is loaded from it is changed from there, and the rest is lost.
        .target_session_attrs(TargetSessionAttrs::ReadWrite)
        .ssl_mode(SslMode::Disable);
    if let Some(password) = &options.password {
        config.password(password);
    }
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = match &options.tls {
        None => Manager::from_config(config, NoTls, recycling),
        Some(tls) => {
            config.ssl_mode(SslMode::Require);
            let tls = MakeRustlsConnect::new((*tls.config()?).clone());
            Manager::from_config(config, tls, recycling)
        }
    };
    let (session, patience, late) = (session(options), options.timeout(), options.late());
    Pool::builder(manager)
        .max_size(options.pool)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(options.timeout()))
        .create_timeout(Some(options.timeout()))
        .post_create(Hook::async_fn(move |client, _| {
            let (session, late) = (session.clone(), late.clone());
            Box::pin(async move {
                // The pool does not bound it, and what lets one in may have nobody to ask, as a pooler has.
                match timeout(patience, client.batch_execute(&session)).await {
                    Ok(set) => set.map_err(HookError::Backend),
                    Err(_) => Err(HookError::message(late)),
                }
            })
        }))
        .build()
        .map_err(|error| Error::new(Reason::InvalidOption, format_args!("pool: {error}")))
}

/// What is set for each connection.
///
/// The plans are the same for whatever arguments, and all by index: the server must not plan each statement anew, nor come
/// to read whole tables because a table was small when it planned. What is committed must be on disk, whatever the
/// server's setting is. A transaction whose client is gone without a word must not keep its locks.
fn session(options: &Options) -> String {
    format!(
        "SET statement_timeout = {timeout}; SET idle_in_transaction_session_timeout = {timeout}; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
         SET client_min_messages = warning; SET default_transaction_isolation = 'read committed'; \
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
        timeout = options.timeout
    )
}
