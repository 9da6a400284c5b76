# What a read state takes on the disk of a server: 50 of each user, committed one by one over 30 days, and all at once. Ids of
# users and channels are random numbers of 60 bits; those of messages have the time above 22 random bits, some days back at
# most. Needs script/services start cassandra, or postgres.
#
#     MIX_ENV=test mix run bench/beam/on_disk.exs cassandra|postgres [STATES]

alias ReadStates.{Batch, CQL, PostgresCase, Row, Services}
alias ReadStates.Store.{Cassandra, Postgres}

defmodule OnDisk do
  @per_user 50
  @day 86_400_000_000
  @counters 1

  def measure(server, module, opts, states) do
    users = for _ <- 1..div(states, @per_user), do: id()
    :ok = module.set_up(opts)

    for {what, commits} <- [
          {"one by one, over 30 days", &one_by_one/1},
          {"all of a user at once", &at_once/1}
        ] do
      server.empty.()
      {:ok, store, _floor} = module.open(opts, %{name: __MODULE__, counters: [:mention_count]})

      for rows <- commits.(users), rows <- Enum.chunk_every(rows, 10_000) do
        :ok = module.commit(store, Batch.new(rows, @counters))
      end

      bytes = server.bytes.()
      rows = length(users) * @per_user

      IO.puts(
        "#{what}: #{rows} read states, #{bytes} bytes, #{Float.round(bytes / rows, 1)} each"
      )

      :ok = module.close(store)
    end
  end

  defp one_by_one(users) do
    Stream.map(1..@per_user, fn nth ->
      from = div(30 * @day * nth, @per_user)
      for user <- users, do: row(user, from + :rand.uniform(@day))
    end)
  end

  defp at_once(users) do
    users
    |> Stream.map(fn user ->
      version = 30 * @day + :rand.uniform(@day)
      for _ <- 1..@per_user, do: row(user, version)
    end)
    |> Stream.chunk_every(200)
    |> Stream.map(&List.flatten/1)
  end

  defp row(user, version) do
    %Row{
      user: user,
      kind: 0,
      channel: id(),
      version: version + 1_700_000_000_000_000,
      writer: 7,
      last_message_id: message(version),
      counters: [:rand.uniform(3) - 1]
    }
  end

  # Milliseconds since some years.
  defp message(version) do
    read = version - :rand.uniform(5 * @day) + 250_000_000_000_000
    div(read, 1_000) * 0x400000 + :rand.uniform(0x400000) - 1
  end

  defp id, do: :rand.uniform(0x0FFF_FFFF_FFFF_FFFF)

  def await_still(size, before \\ nil, times \\ 0) do
    Process.sleep(1_000)
    now = size.()
    times = if now == before, do: times + 1, else: 0
    if times >= 10, do: now, else: await_still(size, now, times)
  end
end

:rand.seed(:exsss, 1)
[which | rest] = System.argv()
states = if rest == [], do: 1_000_000, else: rest |> hd() |> String.to_integer()

case which do
  "cassandra" ->
    keyspace = "read_states_on_disk"
    [point | _] = String.split(Services.endpoints("cassandra")["contact_points"], ",")
    cql = CQL.connect!(point)
    home = System.get_env("READ_STATES_SERVICES", "target/services")
    files = Path.join([home, "cassandra", "data", keyspace, "read_states-*", "*"])

    # Older files are gone some seconds after compaction.
    size = fn ->
      files
      |> Path.wildcard()
      |> Enum.map(&File.stat!/1)
      |> Enum.filter(&(&1.type == :regular))
      |> Enum.map(& &1.size)
      |> Enum.sum()
    end

    server = %{
      empty: fn ->
        CQL.run!(cql, "TRUNCATE #{keyspace}.read_states")
        CQL.run!(cql, "TRUNCATE #{keyspace}.read_states_notes")
      end,
      # It is flushed each second from here on.
      bytes: fn ->
        CQL.run!(
          cql,
          "ALTER TABLE #{keyspace}.read_states WITH memtable_flush_period_in_ms = 1000"
        )

        bytes = OnDisk.await_still(size)
        CQL.run!(cql, "ALTER TABLE #{keyspace}.read_states WITH memtable_flush_period_in_ms = 0")
        bytes
      end
    }

    opts = [contact_points: [point], keyspace: keyspace, replication_factor: 1, timeout: 20_000]
    OnDisk.measure(server, Cassandra, opts, states)
    CQL.run!(cql, "DROP KEYSPACE #{keyspace}")

  "postgres" ->
    schema = "read_states_on_disk"
    PostgresCase.sql!("DROP SCHEMA IF EXISTS #{schema} CASCADE; CREATE SCHEMA #{schema}")
    table = "#{schema}.read_states"

    server = %{
      empty: fn -> PostgresCase.sql!("TRUNCATE #{table}, #{table}_deletes") end,
      # With the index.
      bytes: fn ->
        PostgresCase.sql!("VACUUM ANALYZE #{table}")
        PostgresCase.sql!("CHECKPOINT")
        String.to_integer(PostgresCase.sql!("SELECT pg_total_relation_size('#{table}')"))
      end
    }

    opts = [url: Services.endpoints("postgres")["url"], schema: schema]
    OnDisk.measure(server, Postgres, opts, states)
    PostgresCase.sql!("DROP SCHEMA #{schema} CASCADE")
end
