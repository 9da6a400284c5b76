//! What a store on a server can do.

use std::future::Future;

use read_states_engine::batch::Version;
use read_states_engine::id::Id;
use serde::de::DeserializeOwned;

use crate::Error;

/// One page of a load or a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// A [batch](read_states_engine::batch).
    pub batch: Vec<u8>,
    /// Where the next page starts; `None` if this is the last.
    pub next: Option<Vec<u8>>,
}

/// A place on a server where read states are kept, open.
///
/// It is under the version rule of `ReadStates.Store`, as all stores are. Calls come several at a time. Each is dropped in
/// the middle when its caller dies or when it takes longer than [`call::LONGEST`](crate::call::LONGEST).
pub trait Database: Send + Sync + Sized + 'static {
    /// What it is opened with: the fields of the map that Elixir hands over. There is a password in it, so it must not
    /// be shown.
    type Options: DeserializeOwned + Send + 'static;

    /// Opens it for rows of these counters (1 to 4), after a look whether everything is as it must be. With its floor: the
    /// highest version it has ever seen.
    fn open(
        options: Self::Options,
        counters: Vec<String>,
    ) -> impl Future<Output = Result<(Self, Version), Error>> + Send;

    /// The statements that make what [`open`](Self::open) expects, each of which changes nothing if it has been run before.
    fn schema(options: &Self::Options) -> Result<Vec<String>, Error>;

    /// Runs these statements.
    fn set_up(options: Self::Options) -> impl Future<Output = Result<(), Error>> + Send;

    /// A page of the rows, and the remembered deletes, of `users`. It may have up to twice `limit` entries.
    fn load(
        &self,
        users: Vec<Id>,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, Error>> + Send;

    /// Writes a [batch](read_states_engine::batch).
    fn commit(&self, batch: Vec<u8>) -> impl Future<Output = Result<(), Error>> + Send;

    /// A page of everything; what there is of a user comes together.
    fn scan(
        &self,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, Error>> + Send;

    /// Lets go of the connections. No call is under way.
    fn close(&self) -> impl Future<Output = ()> + Send;
}
