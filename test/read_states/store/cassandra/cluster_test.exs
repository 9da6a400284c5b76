defmodule ReadStates.Store.Cassandra.ClusterTest do
  # Three nodes, of which one after the other goes away under load. Not async: nobody else may need them.
  use ExUnit.Case, async: false

  import ReadStates.Eventually
  import ReadStates.InstanceCase, only: [read: 2, stored: 1]

  alias ReadStates.{Batch, CassandraCase, CQL, Model, Services, StoreContract, TelemetryStandIn}
  alias ReadStates.Store.Cassandra

  @compile {:no_warn_undefined, :telemetry}

  @moduletag :cassandra_3
  @moduletag :tmp_dir
  @moduletag :capture_log
  @moduletag timeout: 1_800_000

  @keyspace "read_states_test"
  @workers 4
  # Of each worker.
  @users 40
  @channels 5

  setup do
    points = String.split(Services.endpoints("cassandra-3")["contact_points"], ",")
    opts = [contact_points: points, keyspace: @keyspace, table: "cluster", replication_factor: 3]
    :ok = Cassandra.set_up(opts ++ [timeout: 30_000])
    cql = CQL.connect!(hd(points))
    CassandraCase.empty!(cql, opts)
    CQL.close(cql)

    if TelemetryStandIn.install(), do: on_exit(&TelemetryStandIn.remove/0)
    events = for event <- [:load, :commit], do: [:read_states, event]
    :telemetry.attach_many(__MODULE__, events, &__MODULE__.handle/4, self())
    on_exit(fn -> :telemetry.detach(__MODULE__) end)
    [opts: opts]
  end

  def handle(_event, _measurements, %{name: __MODULE__, result: {:error, reason}}, test) do
    send(test, {:failed, reason})
  end

  def handle(_event, _measurements, _metadata, _test), do: :ok

  test "a node that is killed, one that is restarted and one that hangs cost time, and nothing else",
       %{opts: opts, tmp_dir: tmp_dir} do
    instance = [
      name: __MODULE__,
      store: {Cassandra, opts},
      # Users come and go all the time.
      capacity: div(@workers * @users * @channels, 4),
      commit_after: 500,
      load_timeout: 60_000,
      journal: [path: Path.join(tmp_dir, "journal")]
    ]

    start_supervised!({ReadStates, instance})
    stop = :atomics.new(1, [])
    workers = for n <- 1..@workers, do: Task.async(fn -> work(stop, n, %Model{}, 0, 0) end)
    faults()
    :atomics.put(stop, 1, 1)
    results = Task.await_many(workers, 300_000)

    model = for {model, _done, _late} <- results, user <- model.users, into: %{}, do: user
    done = results |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    late = results |> Enum.map(&elem(&1, 2)) |> Enum.sum()

    IO.puts(
      "#{done} operations and reads, of which #{late} reads came too late and were tried again"
    )

    assert map_size(model) == @workers * @users
    assert ReadStates.stats(__MODULE__).evictions > 0

    commit()
    assert stored(__MODULE__) == model
    stop_supervised!({ReadStates, __MODULE__})
    # What is read is what all replicas agree on by now.
    start_supervised!({ReadStates, Keyword.drop(instance, [:capacity])})
    assert read(__MODULE__, Map.keys(model)) == model

    for reason <- failed([]), do: assert(away?(reason), inspect(reason))
  end

  test "of a commit all users are written whose node is there", %{opts: opts} do
    # One replica, so that some users are away with a node, and the others are not.
    opts = Keyword.merge(opts, keyspace: "read_states_test_1", replication_factor: 1)
    :ok = Cassandra.set_up(opts ++ [timeout: 30_000])
    cql = CQL.connect!(hd(opts[:contact_points]))
    CassandraCase.empty!(cql, opts)
    CQL.close(cql)
    {:ok, store, _floor} = Cassandra.open(opts, %{name: __MODULE__, counters: [:mention_count]})
    on_exit(fn -> Services.run(["start", "cassandra-3/2"]) end)
    Services.run(["kill", "cassandra-3/2"])

    # Several times as many as are written at a time.
    users = 1..5_000
    version = System.os_time(:microsecond)
    rows = for user <- users, do: StoreContract.row(user, 1, version, counters: [1])
    assert {:error, {reason, _text}} = Cassandra.commit(store, Batch.new(rows, 1))
    assert reason in [:server, :timeout, :unreachable]

    loads =
      users
      |> Enum.take_every(10)
      |> Task.async_stream(&Cassandra.load(store, [&1], nil),
        max_concurrency: 50,
        timeout: 60_000
      )
      |> Enum.map(fn {:ok, load} -> load end)

    {there, away} = Enum.split_with(loads, &match?({:ok, _batch, nil}, &1))
    assert length(there) > 100 and length(away) > 50
    for {:ok, batch, nil} <- there, do: assert([_row] = Enum.to_list(batch))
    :ok = Cassandra.close(store)
  end

  test "a load goes to a node that has the user", %{opts: opts} do
    # With one replica any other node has to ask that one, and be answered.
    opts = Keyword.merge(opts, keyspace: "read_states_test_1", replication_factor: 1)
    :ok = Cassandra.set_up(opts ++ [timeout: 30_000])
    {:ok, store, _floor} = Cassandra.open(opts, %{name: __MODULE__, counters: [:mention_count]})
    users = 1..1_000
    table = "#{opts[:keyspace]}.#{opts[:table]}"

    # However the users are shared out, two of the three nodes have to ask for each, and are answered.
    through_each_node =
      between_nodes(opts, fn ->
        for point <- opts[:contact_points] do
          cql = CQL.connect!(point)
          for user <- users, do: CQL.run!(cql, "SELECT state FROM #{table} WHERE user = #{user}")
          CQL.close(cql)
        end
      end)

    assert through_each_node > 3 * Enum.count(users)

    # They also tell each other that they are there, and what a node missed that was away in another test.
    loads = fn ->
      for user <- users, do: {:ok, _batch, nil} = Cassandra.load(store, [user], nil)
    end

    eventually(fn -> between_nodes(opts, loads) < div(Enum.count(users), 5) end, 120_000)

    :ok = Cassandra.close(store)
  end

  # How many messages the nodes send to each other meanwhile, as they count them themselves.
  defp between_nodes(opts, fun) do
    before = sent(opts)
    fun.()
    sent(opts) - before
  end

  defp sent(opts) do
    counts =
      for point <- opts[:contact_points] do
        cql = CQL.connect!(point)
        rows = CQL.run!(cql, "SELECT sent_count FROM system_views.internode_outbound")
        CQL.close(cql)
        Enum.sum(for [count] <- rows, do: CQL.integer(count))
      end

    Enum.sum(counts)
  end

  # The reasons of loads and commits that failed.
  defp failed(reasons) do
    receive do
      {:failed, reason} -> failed([reason | reasons])
    after
      0 -> Enum.uniq(reasons)
    end
  end

  # Whether it is for a node that is away or comes back: what native/cassandra/src/server.rs tries again.
  defp away?(reason) when reason in [:timeout, :unreachable], do: true
  defp away?({reason, _text}) when reason in [:timeout, :unreachable], do: true

  defp away?({:server, text}) do
    text =~ ~r/Not enough nodes|overloaded|bootstrapping|non-timeout error|Connection broken/ or
      text =~ ~r/Internal server error|Unable to allocate stream id/
  end

  defp away?(_other), do: false

  # Each as it says, and some load before and after it.
  defp faults do
    Process.sleep(5_000)
    Services.run(["kill", "cassandra-3/2"])
    Process.sleep(10_000)
    Services.run(["start", "cassandra-3/2"])
    Process.sleep(10_000)
    Services.run(["stop", "cassandra-3/3"])
    Services.run(["start", "cassandra-3/3"])
    Process.sleep(10_000)
    Services.run(["pause", "cassandra-3/1"])
    Process.sleep(20_000)
    Services.run(["cont", "cassandra-3/1"])
    Process.sleep(10_000)
  end

  # Writes to users of its own, and reads each now and then: what is read must be all that was written.
  defp work(stop, worker, model, done, late) do
    if :atomics.get(stop, 1) == 1 do
      {model, done, late}
    else
      user = worker * 1_000 + :rand.uniform(@users)
      operation = operation(user, :rand.uniform(@channels), done + 1)
      :ok = ReadStates.update(__MODULE__, [operation])
      model = Model.operation(model, operation)
      late = if rem(done, 10) == 0, do: late + check(model, user), else: late
      Process.sleep(2)
      work(stop, worker, model, done + 1, late)
    end
  end

  defp operation(user, channel, message) do
    case :rand.uniform(3) do
      1 -> {:ack, user, channel, message}
      _ -> {:increment, user, channel, message, 1}
    end
  end

  # Returns how often the read was too late, which it may be; other errors there are none.
  defp check(model, user, late \\ 0) do
    case ReadStates.list(__MODULE__, user) do
      {:ok, states} ->
        assert states == Model.list(model, user)
        late

      {:error, :timeout} when late < 100 ->
        check(model, user, late + 1)
    end
  end

  defp commit(tries \\ 100) do
    with {:error, :store_unavailable} when tries > 0 <- ReadStates.commit(__MODULE__) do
      Process.sleep(1_000)
      commit(tries - 1)
    end
  end
end
