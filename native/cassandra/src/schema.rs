//! The two tables: what makes them, and whether those that are there are ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use read_states_remote::{Error, Reason};
use scylla::client::session::Session;
use scylla::response::query_result::QueryRowsResult;
use scylla::statement::Consistency;
use scylla::statement::unprepared::Statement;

use crate::consistency::Replication;
use crate::options::Options;
use crate::server::{failed, unexpected};

/// A column: its name, its kind in `system_schema.columns`, its position there and its type.
type Column = (&'static str, &'static str, i32, &'static str);

const STATES: &[Column] = &[
    ("user", "partition_key", 0, "bigint"),
    ("kind", "clustering", 0, "tinyint"),
    ("channel", "clustering", 1, "bigint"),
    ("state", "regular", -1, "blob"),
];

const NOTES: &[Column] = &[
    ("name", "partition_key", 0, "text"),
    ("value", "regular", -1, "blob"),
];

/// The statements that make what is not there: the keyspace, the table of the states and that of the notes.
pub fn statements(options: &Options) -> [String; 3] {
    let keyspace = format!(
        "CREATE KEYSPACE IF NOT EXISTS \"{}\" WITH replication = {{'class': 'NetworkTopologyStrategy', {}: {}}}",
        options.keyspace,
        match &options.datacentre {
            Some(datacentre) => format!("'{}'", datacentre.replace('\'', "''")),
            None => "'replication_factor'".to_owned(),
        },
        options.replication_factor,
    );
    // Ids and kinds are unsigned: here they are the signed numbers of the same bits.
    let states = format!(
        "CREATE TABLE IF NOT EXISTS {} (user bigint, kind tinyint, channel bigint, state blob, PRIMARY KEY (user, kind, channel)) \
         WITH compaction = {{'class': 'LeveledCompactionStrategy'}}",
        options.states()
    );
    let notes = format!(
        "CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, value blob)",
        options.notes()
    );
    [keyspace, states, notes]
}

/// Runs them, as often as one likes. What is there is not asked for: also with IF NOT EXISTS, that would take the right to make it.
pub async fn set_up(session: &Session, options: &Options) -> Result<(), Error> {
    check_datacentre(session, options)?;
    let [keyspace, states, notes] = statements(options);
    if find_replication(session, options).await?.is_none() {
        make(session, keyspace).await?;
    }
    for (table, statement) in [(&options.table, states), (&options.notes_table(), notes)] {
        let columns = of_table(session, options, table, COLUMNS).await?;
        if columns.rows_num() == 0 {
            make(session, statement).await?;
        }
    }
    session.await_schema_agreement().await.map_err(unexpected)?;
    Ok(())
}

async fn make(session: &Session, statement: String) -> Result<(), Error> {
    let made = session.query_unpaged(statement, ()).await;
    made.map_err(|error| failed(&error))?;
    Ok(())
}

/// Whether keyspace and tables are as they must be, and a load with these options misses no commit.
pub async fn check(session: &Session, options: &Options) -> Result<(), Error> {
    check_datacentre(session, options)?;
    let replication = replication(session, options).await?;
    check_consistency(&replication, options)?;
    for (table, columns) in [(&options.table, STATES), (&options.notes_table(), NOTES)] {
        check_table(session, options, table, columns).await?;
        check_lifetimes(session, options, table).await?;
    }
    Ok(())
}

/// Of one that is not there nobody is asked anything.
fn check_datacentre(session: &Session, options: &Options) -> Result<(), Error> {
    let Some(name) = &options.datacentre else {
        return Ok(());
    };
    let state = session.get_cluster_state();
    let nodes = state.get_nodes_info().iter();
    let there = nodes
        .filter_map(|node| node.datacenter.as_deref())
        .collect();
    one_of(name, there, &options.contact_points)
}

fn one_of(name: &str, there: BTreeSet<&str>, points: &[String]) -> Result<(), Error> {
    if there.contains(name) {
        return Ok(());
    }
    // The driver goes on with the addresses alone where it could connect, and had no answer then.
    if there.is_empty() {
        let points = points.join(", ");
        let text = format!("contact_points: none of {points} has said which datacentres there are");
        return Err(Error::new(Reason::Unreachable, text));
    }
    let there = Vec::from_iter(there).join(", ");
    let text = format!("datacentre: no node is in {name}, only in {there}");
    Err(Error::new(Reason::InvalidOption, text))
}

async fn replication(session: &Session, options: &Options) -> Result<Replication, Error> {
    let found = find_replication(session, options).await?;
    found.ok_or_else(|| {
        let text = format!(
            "keyspace: there is no keyspace {}; {MAKE}",
            options.keyspace
        );
        Error::new(Reason::Missing, text)
    })
}

/// How many replicas there are in the keyspace, if it is there.
async fn find_replication(
    session: &Session,
    options: &Options,
) -> Result<Option<Replication>, Error> {
    let statement = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let rows = session
        .query_unpaged(local(statement), (&options.keyspace,))
        .await
        .map_err(|error| failed(&error))?
        .into_rows_result()
        .map_err(unexpected)?;
    let row = rows
        .maybe_first_row::<(HashMap<String, String>,)>()
        .map_err(unexpected)?;
    Ok(row.map(|(replication,)| {
        Replication(
            replication
                .into_iter()
                .filter(|(name, _)| name != "class")
                // Transient replicas ("3/1") are not counted on.
                .filter_map(|(name, replicas)| Some((name, replicas.parse().ok()?)))
                .collect::<BTreeMap<_, _>>(),
        )
    }))
}

/// What to do where something is missing.
const MAKE: &str = "`mix read_states.cassandra.setup` makes it, or `ReadStates.Store.Cassandra.set_up/1` where there is no Mix";

/// Of this node's own tables, so there is nobody else to ask.
fn local(statement: &str) -> Statement {
    let mut statement = Statement::new(statement);
    statement.set_consistency(Consistency::LocalOne);
    statement
}

fn check_consistency(replication: &Replication, options: &Options) -> Result<(), Error> {
    let datacentres: Vec<_> = replication.0.keys().map(String::as_str).collect();
    let keyspace = &options.keyspace;
    // A strategy without datacentres has one number under this name.
    let simple = datacentres == ["replication_factor"];
    let datacentre = match &options.datacentre {
        Some(name) if simple || datacentres.contains(&name.as_str()) => name,
        Some(name) => {
            let text = format!(
                "datacentre: keyspace {keyspace} has no replicas in {name}, only in {}",
                datacentres.join(", ")
            );
            return Err(Error::new(Reason::InvalidOption, text));
        }
        None if datacentres.len() > 1 => {
            let text = format!(
                "datacentre: must be given, for keyspace {keyspace} is in more than one: {}",
                datacentres.join(", ")
            );
            return Err(Error::new(Reason::InvalidOption, text));
        }
        None => datacentres.first().copied().unwrap_or_default(),
    };
    let asked = [(options.read, "loads"), (options.write, "commits")];
    let impossible = asked
        .into_iter()
        .find(|(level, _)| !replication.can_satisfy(*level, datacentre));
    if impossible.is_none() && replication.overlap(options.read, options.write, datacentre) {
        return Ok(());
    }
    let replicas: Vec<_> = match simple {
        true => replication.0.values().map(u32::to_string).collect(),
        false => {
            let replicas = replication.0.iter();
            replicas.map(|(name, n)| format!("{name}: {n}")).collect()
        }
    };
    let wrong = match impossible {
        Some((level, what)) => format!("{} for {what} is more than can ever answer", level.name()),
        None => format!(
            "with {} for loads and {} for commits a load may miss what was committed",
            options.read.name(),
            options.write.name()
        ),
    };
    let replicas = replicas.join(", ");
    let text = format!("consistency: {wrong}, for keyspace {keyspace} has replicas {replicas}");
    Err(Error::new(Reason::Consistency, text))
}

async fn check_table(
    session: &Session,
    options: &Options,
    table: &str,
    expected: &[Column],
) -> Result<(), Error> {
    let rows = of_table(session, options, table, COLUMNS).await?;
    let mut found = Vec::new();
    for row in rows
        .rows::<(String, String, i32, String)>()
        .map_err(unexpected)?
    {
        found.push(row.map_err(unexpected)?);
    }
    let place = format!("{}.{table}", options.keyspace);
    if found.is_empty() {
        let text = format!("table: there is no table {place}; {MAKE}");
        return Err(Error::new(Reason::Missing, text));
    }
    for (name, kind, position, of_type) in expected {
        let as_expected = found.iter().any(|(a, b, c, d)| {
            (a.as_str(), b.as_str(), *c, d.as_str()) == (*name, *kind, *position, *of_type)
        });
        if !as_expected {
            let what = if *kind == "regular" {
                "column"
            } else {
                "part of the primary key"
            };
            let text = format!(
                "table: {place} is another table: there is no {what} {name} of type {of_type}"
            );
            return Err(Error::new(Reason::NotOurs, text));
        }
    }
    // A further column is somebody else's business, a further part of the key is not.
    let keys = |columns: usize| format!("{columns} columns in its primary key");
    let [found, expected] = [
        found
            .iter()
            .filter(|(_, kind, ..)| kind != "regular" && kind != "static")
            .count(),
        expected
            .iter()
            .filter(|(_, kind, ..)| *kind != "regular")
            .count(),
    ];
    if found != expected {
        let text = format!("table: {place} is another table: it has {}", keys(found));
        return Err(Error::new(Reason::NotOurs, text));
    }
    Ok(())
}

/// The columns of a table; none of one that is not there.
const COLUMNS: &str = "SELECT column_name, kind, position, type FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";

/// What the server says of a table, by its keyspace and its name.
async fn of_table(
    session: &Session,
    options: &Options,
    table: &str,
    statement: &str,
) -> Result<QueryRowsResult, Error> {
    session
        .query_unpaged(local(statement), (&options.keyspace, table))
        .await
        .map_err(|error| failed(&error))?
        .into_rows_result()
        .map_err(unexpected)
}

/// Seconds for which a delete must be remembered, so that a write which is older and comes late does not bring back what it deleted. A
/// commit is given up after a minute: an hour is what the contract of `ReadStates.Store` calls ample.
const REMEMBERED: i32 = 3_600;

/// A table must forget neither what is written nor, too soon, what is deleted.
async fn check_lifetimes(session: &Session, options: &Options, table: &str) -> Result<(), Error> {
    let statement = "SELECT default_time_to_live, gc_grace_seconds FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
    let rows = of_table(session, options, table, statement).await?;
    let row = rows
        .maybe_first_row::<(Option<i32>, Option<i32>)>()
        .map_err(unexpected)?;
    let (lifetime, grace) = row.unwrap_or_default();
    let why = match (lifetime, grace) {
        (Some(seconds), _) if seconds != 0 => {
            format!("default_time_to_live {seconds}, after which what was read is unread again")
        }
        (_, Some(seconds)) if seconds < REMEMBERED => format!(
            "gc_grace_seconds {seconds}, so that what is deleted can come back, and a replica that was away longer is not told what it \
             missed: at least {REMEMBERED} are needed"
        ),
        _ => return Ok(()),
    };
    let text = format!("table: {}.{table} has {why}", options.keyspace);
    Err(Error::new(Reason::NotOurs, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datacentre_is_wrong_only_where_the_nodes_have_said_theirs() {
        let points = ["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
        let one_of =
            |name, there: &[&'static str]| one_of(name, there.iter().copied().collect(), &points);
        assert_eq!(one_of("dc1", &["dc1", "dc2"]), Ok(()));
        let wrong = one_of("dc3", &["dc1", "dc2"]).unwrap_err();
        assert_eq!(wrong.reason(), Reason::InvalidOption);
        let text = "datacentre: no node is in dc3, only in dc1, dc2";
        assert_eq!(wrong.to_string(), text);
        let unknown = one_of("dc1", &[]).unwrap_err();
        assert_eq!(unknown.reason(), Reason::Unreachable);
        let text =
            "contact_points: none of 10.0.0.1, 10.0.0.2 has said which datacentres there are";
        assert_eq!(unknown.to_string(), text);
    }
}
