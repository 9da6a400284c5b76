# What Cassandra loses of what it has acknowledged when it is killed (kill -9) under load, by how it syncs its log. Starts and
# kills the service cassandra, which must not run.
#
#     MIX_ENV=test mix run bench/beam/loss.exs [KILLS]

alias ReadStates.{Batch, CQL, Row, Services}
alias ReadStates.Store.Cassandra

defmodule Loss do
  @keyspace "read_states_loss"
  @writers 16
  # Each commit is of as many users, so that it is as many writes.
  @rows 50
  @load_ms 12_000

  def measure(sync, kills) do
    System.put_env("READ_STATES_COMMITLOG_SYNC", sync)

    for kill <- 1..kills do
      opts = start()
      {store, cql} = open(opts)
      CQL.run!(cql, "TRUNCATE #{@keyspace}.read_states")
      acknowledged = :ets.new(:acknowledged, [:public, write_concurrency: true])

      writers =
        for writer <- 1..@writers, do: spawn(fn -> write(store, writer, 0, acknowledged) end)

      Process.sleep(@load_ms)
      Services.run(["kill", "cassandra"])
      Enum.each(writers, &Process.exit(&1, :kill))
      Cassandra.close(store)

      opts = Keyword.merge(opts, start())
      {store, _cql} = open(opts)
      users = for {user} <- :ets.tab2list(acknowledged), do: user
      there = users |> Enum.chunk_every(256) |> Enum.map(&loaded(store, &1)) |> Enum.sum()
      Cassandra.close(store)
      lost = length(users) - there
      IO.puts("#{sync}, kill #{kill}: #{lost} of #{length(users)} acknowledged rows are lost")
      Services.run(["stop", "cassandra"])
    end
  end

  defp start do
    Services.run(["start", "cassandra"])
    [point | _] = String.split(Services.endpoints("cassandra")["contact_points"], ",")
    [contact_points: [point], keyspace: @keyspace, replication_factor: 1, timeout: 20_000]
  end

  defp open(opts) do
    :ok = Cassandra.set_up(opts)
    {:ok, store, _floor} = Cassandra.open(opts, %{name: __MODULE__, counters: [:mention_count]})
    {store, CQL.connect!(hd(opts[:contact_points]))}
  end

  # Each user is written once, so that what is not there is lost.
  defp write(store, writer, nth, acknowledged) do
    users = for n <- 1..@rows, do: (writer * 1_000_000 + nth) * @rows + n

    rows =
      for user <- users,
          do: %Row{
            user: user,
            kind: 0,
            channel: 1,
            version: nth + 1,
            writer: writer,
            last_message_id: 1,
            counters: [0]
          }

    if Cassandra.commit(store, Batch.new(rows, 1)) == :ok do
      :ets.insert(acknowledged, for(user <- users, do: {user}))
      write(store, writer, nth + 1, acknowledged)
    end
  end

  defp loaded(store, users), do: loaded(store, users, nil, 0)

  defp loaded(store, users, cursor, before) do
    {:ok, batch, next} = Cassandra.load(store, users, cursor)
    count = before + Enum.count(batch)
    if next == nil, do: count, else: loaded(store, users, next, count)
  end
end

kills = if System.argv() == [], do: 3, else: System.argv() |> hd() |> String.to_integer()
for sync <- ~w(periodic group batch), do: Loss.measure(sync, kills)
