# The store on PostgreSQL beside the driver it is written with. Needs script/services start postgres.
#
#     MIX_ENV=test mix run bench/beam/postgres.exs [--users N] [--rounds N] [--output FILE]

for file <- ~w(timing world measurement table cores bare storm database),
    do: Code.require_file("#{file}.ex", __DIR__)

alias ReadStates.{PostgresCase, Services}

schema = "read_states_bench"
url = PostgresCase.url()
PostgresCase.sql!("DROP SCHEMA IF EXISTS #{schema} CASCADE; CREATE SCHEMA #{schema}")

ReadStates.Bench.Database.run(
  %{
    part: "postgres",
    module: ReadStates.Store.Postgres,
    options: &[url: url, schema: schema, table: &1],
    args: ["#{schema}.bare"],
    server: Services.pid("postgres"),
    env: [DATABASE_URL: url],
    # 0 stands for COPY into a table beside, from there in one statement.
    by: [1_000, 10_000, 0],
    label: &if(&1 == 0, do: "with COPY", else: "#{&1} rows a statement"),
    empty: fn ->
      tables = for table <- ~w(ours bare), do: "#{schema}.#{table}"
      PostgresCase.sql!("TRUNCATE #{Enum.join(tables, ", ")}")
    end
  },
  System.argv()
)

PostgresCase.sql!("DROP SCHEMA #{schema} CASCADE")
