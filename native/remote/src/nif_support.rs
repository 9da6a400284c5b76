//! What crosses between Elixir and a library, and the macro that makes one.

use rustler::env::SavedTerm;
use rustler::types::atom::{self, Atom};
use rustler::{Encoder, Env, LocalPid, NewBinary, OwnedEnv, Resource, ResourceArc, Term};
use serde::Deserialize;
use std::future::Future;

use crate::call::Call;
use crate::{Error, Page, Reason};

/// The fields of a Rust struct as a plain map with strings for keys: rustler takes a struct for an Elixir struct of the same
/// name.
#[derive(Deserialize)]
pub struct Fields<T> {
    /// The struct.
    #[serde(flatten)]
    pub fields: T,
}

/// What a call that went well answers.
pub trait Answer: Send + 'static {
    /// As a term.
    fn encode(self, env: Env<'_>) -> Term<'_>;
}

/// `:ok`
impl Answer for () {
    fn encode(self, env: Env<'_>) -> Term<'_> {
        atom::ok().encode(env)
    }
}

/// `{:ok, batch, next cursor or nil}`
impl Answer for Page {
    fn encode(self, env: Env<'_>) -> Term<'_> {
        let binary = |bytes: Vec<u8>| Term::from(NewBinary::from_slice(env, &bytes));
        (atom::ok(), binary(self.batch), self.next.map(binary)).encode(env)
    }
}

/// `{:ok, store, floor}`
pub struct Opened<R: Resource>(pub ResourceArc<R>, pub u64);

impl<R: Resource> Answer for Opened<R> {
    fn encode(self, env: Env<'_>) -> Term<'_> {
        (atom::ok(), self.0, self.1).encode(env)
    }
}

/// `{:error, reason}`, and for all that needs explaining `{:error, {reason, text}}`.
pub fn failed<'a>(env: Env<'a>, error: &Error) -> Term<'a> {
    let reason = Atom::from_str(env, error.reason().name()).expect("short and of ASCII");
    match error.text() {
        None => (atom::error(), reason).encode(env),
        Some(text) => (atom::error(), (reason, text)).encode(env),
    }
}

/// The message `{reference, answer}` that is owed to a caller.
struct Reply {
    caller: LocalPid,
    reference: SavedTerm,
    env: Option<OwnedEnv>,
}

impl Reply {
    fn new(caller: LocalPid, reference: Term<'_>) -> Self {
        let env = OwnedEnv::new();
        let reference = env.save(reference);
        Reply {
            caller,
            reference,
            env: Some(env),
        }
    }

    fn send<A: Answer>(&mut self, result: Result<A, Error>) {
        let Some(mut env) = self.env.take() else {
            return;
        };
        let reference = self.reference.clone();
        // It fails if the caller is dead.
        let _ = env.send_and_clear(&self.caller, |env| {
            let answer = match result {
                Ok(answer) => answer.encode(env),
                Err(error) => failed(env, &error),
            };
            (reference.load(env), answer)
        });
    }
}

/// The caller waits for as long as it takes, so it must not wait for what a panic has ended.
impl Drop for Reply {
    fn drop(&mut self) {
        let why = "the store has a defect; what it said is in the output of the VM";
        self.send::<()>(Err(Error::new(Reason::Panic, why)));
    }
}

/// Starts `work`, whose result will come to the calling process as `{reference, answer}`. `call`, made into a resource by
/// `resource`, ends it when that process dies.
pub fn start<R, A>(
    env: Env<'_>,
    reference: Term<'_>,
    resource: impl FnOnce(Call) -> R,
    work: impl Future<Output = Result<A, Error>> + Send + 'static,
) -> Atom
where
    R: Resource,
    A: Answer,
{
    let (caller, call) = (env.pid(), Call::default());
    let mut reply = Reply::new(caller, reference);
    let monitored = ResourceArc::new(resource(call.clone()));
    // It cannot fail: the caller is alive, for it is here.
    let _ = env.monitor(&monitored, &caller);
    call.start(work, move |result| {
        reply.send(result);
        drop(monitored);
    });
    atom::ok()
}

/// Makes the NIF library of a [`Database`](crate::Database) for an Elixir module, one that `use`s
/// `ReadStates.Store.Remote`. The crate needs `rustler` among its dependencies.
#[macro_export]
macro_rules! nif {
    ($module:literal, $database:ty) => {
        // In tests of the crate there is no BEAM to link with.
        #[cfg(not(test))]
        mod nif {
            use std::future::Future;
            use std::sync::Arc;

            use super::*;
            use rustler::types::atom::Atom;
            use rustler::{
                Binary, Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, SerdeTerm, Term,
            };
            use $crate::Database;
            use $crate::call::Call;
            use $crate::nif_support::{Answer, Fields, Opened, failed};
            use $crate::open::Open;

            type Options = <$database as Database>::Options;

            struct StoreResource(Open<$database>);

            #[rustler::resource_impl]
            impl Resource for StoreResource {}

            struct CallResource(Call);

            #[rustler::resource_impl]
            impl Resource for CallResource {
                fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
                    self.0.abort();
                }
            }

            type Handle = ResourceArc<StoreResource>;

            fn start<A: Answer>(
                env: Env<'_>,
                reference: Term<'_>,
                work: impl Future<Output = Result<A, $crate::Error>> + Send + 'static,
            ) -> Atom {
                $crate::nif_support::start(env, reference, CallResource, work)
            }

            /// Whether the library is there.
            #[rustler::nif]
            fn available() -> bool {
                true
            }

            /// `{:ok, statements}` or `{:error, reason}`, at once.
            #[rustler::nif]
            fn schema<'a>(
                env: Env<'a>,
                SerdeTerm(Fields { fields }): SerdeTerm<Fields<Options>>,
            ) -> Term<'a> {
                match <$database>::schema(&fields) {
                    Ok(statements) => (rustler::types::atom::ok(), statements).encode(env),
                    Err(error) => failed(env, &error),
                }
            }

            #[rustler::nif]
            fn set_up<'a>(
                env: Env<'a>,
                reference: Term<'a>,
                SerdeTerm(Fields { fields }): SerdeTerm<Fields<Options>>,
            ) -> Atom {
                start(env, reference, <$database>::set_up(fields))
            }

            #[rustler::nif]
            fn open<'a>(
                env: Env<'a>,
                reference: Term<'a>,
                SerdeTerm(Fields { fields }): SerdeTerm<Fields<Options>>,
                counters: Vec<String>,
            ) -> Atom {
                start(env, reference, async move {
                    let (database, floor) = <$database>::open(fields, counters).await?;
                    let store = ResourceArc::new(StoreResource(Open::new(database)));
                    Ok(Opened(store, floor))
                })
            }

            #[rustler::nif]
            fn load<'a>(
                env: Env<'a>,
                reference: Term<'a>,
                store: Handle,
                users: Vec<u64>,
                cursor: Option<Binary<'a>>,
                limit: usize,
            ) -> Atom {
                let cursor = cursor.map(|cursor| cursor.to_vec());
                let work = move |database: Arc<$database>| async move {
                    database.load(users, cursor, limit).await
                };
                start(env, reference, store.0.call(work))
            }

            #[rustler::nif]
            fn scan<'a>(
                env: Env<'a>,
                reference: Term<'a>,
                store: Handle,
                cursor: Option<Binary<'a>>,
                limit: usize,
            ) -> Atom {
                let cursor = cursor.map(|cursor| cursor.to_vec());
                let work = move |database: Arc<$database>| async move {
                    database.scan(cursor, limit).await
                };
                start(env, reference, store.0.call(work))
            }

            #[rustler::nif]
            fn commit<'a>(
                env: Env<'a>,
                reference: Term<'a>,
                store: Handle,
                batch: Binary<'a>,
            ) -> Atom {
                let batch = batch.to_vec();
                let work =
                    move |database: Arc<$database>| async move { database.commit(batch).await };
                start(env, reference, store.0.call(work))
            }

            #[rustler::nif]
            fn close<'a>(env: Env<'a>, reference: Term<'a>, store: Handle) -> Atom {
                start(env, reference, store.0.close())
            }

            rustler::init!($module);
        }
    };
}
