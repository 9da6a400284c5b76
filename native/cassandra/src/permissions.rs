//! Whether our user may do what loads and commits do. The server says so when it is asked for it, and not before: without a look at the
//! start, an instance would go on in memory, and fail at each commit.

use futures_util::future::join3;
use read_states_remote::{Error, Reason};
use scylla::response::PagingState;
use scylla::value::Unset;

use crate::Cassandra;
use crate::cassandra::HEADER;
use crate::server::failed;

impl Cassandra {
    /// Reads and writes both tables, and changes nothing. (That the notes may be read is seen when they are.)
    pub(crate) async fn check_permissions(&self) -> Result<(), Error> {
        let statements = &self.statements;
        let (load, write, note) = join3(
            self.session
                .execute_single_page(&statements.load, (0_i64,), PagingState::start()),
            // An update that sets nothing writes nothing, and needs the right to do so.
            self.session
                .execute_unpaged(&statements.write, (0_i64, Unset, 0_i64, 0_i8, 0_i64)),
            self.session
                .execute_unpaged(&statements.note, (0_i64, Unset, HEADER)),
        )
        .await;
        let errors = [load.err(), write.err(), note.err()];
        // Whatever else is wrong, for example that a replica is away, is no matter of rights: loads and commits meet it, and try again.
        let denied = |error: &Error| error.reason() == Reason::AccessDenied;
        match errors.iter().flatten().map(failed).find(denied) {
            Some(denied) => Err(denied),
            None => Ok(()),
        }
    }
}
