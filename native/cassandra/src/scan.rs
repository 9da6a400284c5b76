//! A page of everything, in the order of the server, which has a user's rows together.

use read_states_engine::batch::{BatchBuilder, Entry};
use read_states_remote::{Error, Page};

use crate::Cassandra;
use crate::load::{Position, decode, next, start};
use crate::server::unexpected;

impl Cassandra {
    /// A page of at most `limit` rows. Where the next one starts is the server's own note of it.
    pub(crate) async fn scan_page(
        &self,
        cursor: Option<Position>,
        limit: usize,
    ) -> Result<Page, Error> {
        let mut statement = self.statements.scan.clone();
        statement.set_page_size(i32::try_from(limit).unwrap_or(i32::MAX));
        let scan = || {
            self.session
                .execute_single_page(&statement, (), start(cursor.as_ref()))
        };
        let (result, paging) = self.reads.run(scan).await?;
        let rows = result.into_rows_result().map_err(unexpected)?;
        let mut page = BatchBuilder::new(self.counters);
        for row in rows
            .rows::<(i64, i8, i64, Option<&[u8]>)>()
            .map_err(unexpected)?
        {
            let (user, kind, channel, state) = row.map_err(unexpected)?;
            page.push(&Entry::Row(decode(user, kind, channel, state)?));
        }
        Ok(Page {
            batch: page.finish(),
            next: next(paging),
        })
    }
}
