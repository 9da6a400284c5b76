//! The tables: making them, and a look whether they are what is expected.

use read_states_remote::{Error, Reason};
use tokio_postgres::GenericClient;

use crate::options::Options;
use crate::server::failed;

const MAKE: &str = "`mix read_states.postgres.setup` makes it, or `ReadStates.Store.Postgres.set_up/1` where there is no Mix";

/// Name, type and whether it may be null.
type Column = (&'static str, &'static str, bool);

const STATES: [Column; 10] = [
    ("user", "bigint", false),
    ("channel", "bigint", false),
    ("version", "bigint", false),
    ("writer", "bigint", false),
    ("last_message_id", "bigint", false),
    ("counter_1", "integer", false),
    // Those that are not used take no room.
    ("counter_2", "integer", true),
    ("counter_3", "integer", true),
    ("counter_4", "integer", true),
    ("kind", "smallint", false),
];

/// The delete of a user has the kind -1, which comes before all others, and the channel 0.
const DELETES: [Column; 4] = [
    ("user", "bigint", false),
    ("channel", "bigint", false),
    ("version", "bigint", false),
    ("kind", "smallint", false),
];

const NOTES: [Column; 3] = [
    ("name", "text", false),
    ("number", "bigint", true),
    ("text", "text", true),
];

const PLACE: &str = "user, kind, channel";

/// The statements that make the tables.
pub fn statements(options: &Options) -> Vec<String> {
    let (states, deletes, notes) = (options.states(), options.deletes(), options.notes());
    let place = "\"user\", kind, channel";
    vec![
        // Room for the new version of a row beside the old one, so that no index has to change.
        table(&states, &STATES, place, " WITH (fillfactor = 80)"),
        table(&deletes, &DELETES, place, ""),
        // Deletes are forgotten by age.
        format!(
            "CREATE INDEX IF NOT EXISTS \"{}_version\" ON {deletes} (version)",
            options.deletes_table()
        ),
        table(&notes, &NOTES, "name", ""),
        format!(
            "INSERT INTO {notes} (name, number) VALUES ('floor', 0) ON CONFLICT (name) DO NOTHING"
        ),
    ]
}

fn table(name: &str, columns: &[Column], key: &str, with: &str) -> String {
    let columns: Vec<_> = columns
        .iter()
        .map(|(name, of_type, null)| {
            let null = if *null { "" } else { " NOT NULL" };
            format!("  \"{name}\" {of_type}{null}")
        })
        .collect();
    let columns = columns.join(",\n");
    format!("CREATE TABLE IF NOT EXISTS {name} (\n{columns},\n  PRIMARY KEY ({key})\n){with}")
}

/// Whether the tables are there, have the columns they must have, and may be written to.
pub async fn check(client: &impl GenericClient, options: &Options) -> Result<(), Error> {
    check_table(client, options, &options.table, &STATES, PLACE).await?;
    check_table(client, options, &options.deletes_table(), &DELETES, PLACE).await?;
    check_table(client, options, &options.notes_table(), &NOTES, "name").await
}

async fn check_table(
    client: &impl GenericClient,
    options: &Options,
    table: &str,
    expected: &[Column],
    key: &str,
) -> Result<(), Error> {
    let schema = &options.schema;
    let place = format!("{schema}.{table}");
    let statement = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, \
         a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped";
    let rows = client.query(statement, &[schema, &table]).await;
    let found: Vec<(String, String, bool, bool)> = rows
        .map_err(|error| failed(&error))?
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect();
    if found.is_empty() {
        let text = format!(
            "table: there is no table {place} in {}; {MAKE}",
            options.database
        );
        return Err(Error::new(Reason::Missing, text));
    }
    let not_ours = |why: String| {
        let text = format!("table: {place} is another table: {why}");
        Error::new(Reason::NotOurs, text)
    };
    for (name, of_type, null) in expected {
        let is_there = found
            .iter()
            .any(|(a, b, c, _)| (a.as_str(), b.as_str(), *c) == (*name, *of_type, *null));
        if !is_there {
            let null = if *null { "" } else { " that is not null" };
            return Err(not_ours(format!(
                "it has no column {name} of type {of_type}{null}"
            )));
        }
    }
    // A further column is somebody else's business, if nothing has to be written into it.
    let ours = |column: &str| expected.iter().any(|(name, ..)| *name == column);
    for (name, _, _, needed) in &found {
        if *needed && !ours(name) {
            return Err(not_ours(format!(
                "its column {name} may not be null and has no default"
            )));
        }
    }
    let statement = "SELECT string_agg(a.attname, ', ' ORDER BY k.at) FROM pg_index i \
         JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(number, at) \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number \
         WHERE n.nspname = $1 AND c.relname = $2 AND i.indisprimary";
    let row = client.query_one(statement, &[schema, &table]).await;
    let found: Option<String> = row.map_err(|error| failed(&error))?.get(0);
    if found.as_deref() != Some(key) {
        let found = found.unwrap_or("none".to_owned());
        return Err(not_ours(format!(
            "its primary key is ({found}), not ({key})"
        )));
    }
    let statement = "SELECT has_schema_privilege($1::text, 'USAGE') AND has_table_privilege(format('%I.%I', $1::text, $2::text), p) \
         FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p ORDER BY 1 LIMIT 1";
    let row = client.query_one(statement, &[schema, &table]).await;
    if !row.map_err(|error| failed(&error))?.get::<_, bool>(0) {
        let text = format!(
            "url: user {user} may not read and write {place}: GRANT SELECT, INSERT, UPDATE, DELETE ON {place} TO {user}",
            user = options.user
        );
        return Err(Error::new(Reason::AccessDenied, text));
    }
    Ok(())
}
