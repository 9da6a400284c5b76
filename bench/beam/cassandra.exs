# The store on Cassandra beside the driver it is written with. Needs script/services start cassandra.
#
#     MIX_ENV=test mix run bench/beam/cassandra.exs [--users N] [--rounds N] [--output FILE]

for file <- ~w(timing world measurement table cores bare storm database),
    do: Code.require_file("#{file}.ex", __DIR__)

alias ReadStates.{CQL, Services}

keyspace = "read_states_bench"
[point | _] = String.split(Services.endpoints("cassandra")["contact_points"], ",")
cql = CQL.connect!(point)
CQL.run!(cql, "DROP KEYSPACE IF EXISTS #{keyspace}")

ReadStates.Bench.Database.run(
  %{
    part: "cassandra",
    module: ReadStates.Store.Cassandra,
    options:
      &[
        contact_points: [point],
        keyspace: keyspace,
        table: &1,
        replication_factor: 1,
        timeout: 20_000
      ],
    args: [point, "#{keyspace}.bare"],
    server: Services.pid("cassandra"),
    env: [],
    by: [64, 128, 256],
    label: &"#{&1} at once",
    empty: fn ->
      for table <- ~w(ours ours_notes bare), do: CQL.run!(cql, "TRUNCATE #{keyspace}.#{table}")
    end
  },
  System.argv()
)

CQL.run!(cql, "DROP KEYSPACE #{keyspace}")
