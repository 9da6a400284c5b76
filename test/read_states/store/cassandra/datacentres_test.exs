defmodule ReadStates.Store.Cassandra.DatacentresTest do
  # Two nodes, each in a datacentre of its own, east and west. Not async: one of them hangs for a while.
  use ExUnit.Case, async: false

  import ReadStates.Eventually
  import ReadStates.InstanceCase, only: [read: 2]

  alias ReadStates.{Batch, CassandraCase, CQL, Services, StoreContract}
  alias ReadStates.Store.Cassandra

  @moduletag :cassandra_2dc
  @moduletag :tmp_dir
  @moduletag :capture_log
  @moduletag timeout: 600_000

  @keyspace "read_states_test"
  @context %{name: __MODULE__, counters: [:mention_count]}

  setup do
    points = String.split(Services.endpoints("cassandra-2dc")["contact_points"], ",")

    opts = [
      contact_points: points,
      keyspace: @keyspace,
      table: "datacentres",
      replication_factor: 1
    ]

    :ok = Cassandra.set_up(opts ++ [timeout: 30_000])
    cql = CQL.connect!(hd(points))

    CassandraCase.empty!(cql, opts)
    CQL.close(cql)
    [opts: opts, points: points]
  end

  test "one must be named, and be there", %{opts: opts} do
    assert {:error, {:invalid_option, text}} = Cassandra.open(opts, @context)
    assert text =~ "datacentre: must be given" and text =~ "east, west"

    assert {:error, {:invalid_option, text}} =
             Cassandra.open(in_datacentre(opts, "north"), @context)

    assert text =~ "datacentre: no node is in north, only in east, west"
  end

  test "levels with which a load may miss a commit are refused, and of others both hear", %{
    opts: opts
  } do
    one = [consistency: :one] ++ in_datacentre(opts, "west")
    assert {:error, {:consistency, text}} = Cassandra.open(one, @context)
    assert text =~ "east: 1, west: 1"

    # What is written to each is read in either.
    each = [consistency: [read: :local_quorum, write: :each_quorum]]
    {:ok, west, _floor} = Cassandra.open(each ++ in_datacentre(opts, "west"), @context)
    :ok = Cassandra.commit(west, Batch.new([row(1)], 1))
    {:ok, east, _floor} = Cassandra.open(each ++ in_datacentre(opts, "east"), @context)
    assert {:ok, batch, nil} = Cassandra.load(east, [1], nil)
    assert [_row] = Enum.to_list(batch)
    for store <- [east, west], do: :ok = Cassandra.close(store)
  end

  test "only nodes of the one that is named are asked", %{opts: opts, points: [east, west]} do
    {:ok, store, _floor} = Cassandra.open(in_datacentre(opts, "west"), @context)

    for user <- 1..500 do
      :ok = Cassandra.commit(store, Batch.new([row(user)], 1))
      assert {:ok, _batch, nil} = Cassandra.load(store, [user], nil)
    end

    # A few are about nodes and tables, and go to either.
    assert requests(west) >= 1_000
    assert requests(east) < 100
    :ok = Cassandra.close(store)
  end

  test "one that hangs costs no error in the other, and has everything when it is back",
       %{opts: opts, tmp_dir: tmp_dir} do
    instance = [
      name: __MODULE__,
      capacity: 500,
      commit_after: 200,
      load_timeout: 60_000,
      journal: [path: Path.join(tmp_dir, "journal")]
    ]

    store = &[store: {Cassandra, in_datacentre(opts, &1)}]
    start_supervised!({ReadStates, store.("west") ++ instance})
    users = Enum.to_list(1..1_000)

    write = fn message ->
      for user <- users, do: :ok = ReadStates.ack(__MODULE__, user, 1, message)
    end

    write.(1)

    written =
      Services.paused("cassandra-2dc/1", fn ->
        for message <- 2..20 do
          write.(message)
          # Of those who are written, half were evicted before and are loaded again.
          assert :ok = ReadStates.commit(__MODULE__)
        end

        written = read(__MODULE__, users)
        stop_supervised!({ReadStates, __MODULE__})
        written
      end)

    # By what the node in the west has kept for it. It takes a moment until each knows again that the other is there.
    eventually(fn -> same?(opts, users) end, 300_000)
    instance = Keyword.drop(instance, [:capacity, :journal])
    start_supervised!({ReadStates, store.("east") ++ instance})
    assert read(__MODULE__, users) == written
  end

  defp in_datacentre(opts, name), do: [datacentre: name] ++ opts

  defp row(user), do: StoreContract.row(user, 1, System.os_time(:microsecond), counters: [1])

  # Requests of the driver that this node took from connections that are open.
  defp requests(point) do
    cql = CQL.connect!(point)
    rows = CQL.run!(cql, "SELECT driver_name, request_count FROM system_views.clients")
    CQL.close(cql)
    Enum.sum(for [driver, count] <- rows, driver != nil, do: CQL.integer(count))
  end

  defp same?(opts, users) do
    with {:ok, west} <- loaded("west", opts, users),
         {:ok, east} <- loaded("east", opts, users),
         do: west == east,
         else: (_error -> false)
  end

  defp loaded(datacentre, opts, users) do
    with {:ok, store, _floor} <- Cassandra.open(in_datacentre(opts, datacentre), @context) do
      loaded = Cassandra.load(store, users, nil)
      :ok = Cassandra.close(store)
      with {:ok, batch, nil} <- loaded, do: {:ok, batch |> Enum.to_list() |> Enum.sort()}
    end
  end
end
