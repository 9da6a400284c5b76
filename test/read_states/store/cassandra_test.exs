defmodule ReadStates.Store.CassandraTest do
  use ReadStates.CassandraCase

  @moduletag :cassandra

  use ReadStates.StoreContract, store: ReadStates.Store.Cassandra, opts: & &1.opts

  import ReadStates.Eventually

  alias ReadStates.{CQL, RemoteContract, Services}
  alias ReadStates.Store.Cassandra

  # The rows on the server: {channel, bytes of the state, its time stamp}.
  defp stored(cql, states, user) do
    statement = "SELECT channel, state, writetime(state) FROM #{states} WHERE user = #{user}"

    for [channel, state, time] <- CQL.run!(cql, statement),
        do: {CQL.integer(channel), state, CQL.integer(time)}
  end

  describe "on the server" do
    test "a read state is one cell under its version, and nothing beside it",
         %{store: store, cql: cql, states: states} do
      :ok = commit(store, [row(7, 9, 1_000, writer: 5, last_message_id: 6, counters: [8])])

      # As native/cassandra/src/cell.rs describes it.
      state = <<1, 8, 1_000::64, 5::64, 6::64, 8::32>>
      assert stored(cql, states, 7) == [{9, state, 1_000}]

      # Without the cell there is no row: an INSERT would have left a second one, that says there is.
      CQL.run!(
        cql,
        "DELETE state FROM #{states} USING TIMESTAMP 1000 WHERE user=7 AND kind=0 AND channel=9"
      )

      assert CQL.run!(cql, "SELECT channel FROM #{states} WHERE user = 7") == []
    end

    test "ids and kinds are the signed numbers of the same bits",
         %{store: store, cql: cql, states: states} do
      :ok = commit(store, [row(@max, {255, 0x8000_0000_0000_0000}, 1)])

      assert [[user, kind, channel]] = CQL.run!(cql, "SELECT user, kind, channel FROM #{states}")

      assert Enum.map([user, kind, channel], &CQL.integer/1) ==
               [-1, -1, -0x8000_0000_0000_0000]
    end

    test "of two owners' writes with the same version one stays, whole",
         %{opts: opts, store: one, cql: cql, states: states} do
      other = open(opts, 0)
      # Each has a field that is greater than the other's.
      first = row(1, 2, 50, writer: 2, last_message_id: 1, counters: [1])
      second = row(1, 2, 50, writer: 1, last_message_id: 9, counters: [9])
      :ok = commit(one, [first])
      :ok = commit(other, [second])
      assert load(other, [1]) == [first]
      assert [{2, _state, 50}] = stored(cql, states, 1)

      # Whoever comes first.
      :ok = commit(other, [%{second | user: 2}])
      :ok = commit(one, [%{first | user: 2}])
      assert load(one, [2]) == [%{first | user: 2}]
    end

    test "a late write of another owner does not come through either, nor back to life",
         %{opts: opts, store: one} do
      other = open(opts, 0)
      :ok = commit(one, [row(1, 2, 5), row(1, 3, 5), {:delete, 1, {0, 4}, 5}, {:delete, 2, 5}])
      :ok = commit(other, [row(1, 2, 4), {:delete, 1, {0, 3}, 4}, row(1, 4, 4), row(2, 1, 5)])
      assert rows(load(other, [1, 2])) == [row(1, 2, 5), row(1, 3, 5)]
    end

    test "a state of no known format is an error that says where it is",
         %{store: store, cql: cql, states: states} do
      :ok = commit(store, [row(1, 2, 3)])

      CQL.run!(
        cql,
        "UPDATE #{states} SET state = 0x02 WHERE user = 1 AND kind = 0 AND channel = 4"
      )

      assert {:error, {:not_ours, text}} = Cassandra.load(store, [1], nil)
      assert text =~ "table: the state of user 1, kind 0, channel 4 "
      assert {:error, {:not_ours, ^text}} = Cassandra.scan(store, nil)
    end
  end

  describe "a call" do
    test "with a cursor or a batch of another store is an error", %{store: store} do
      assert Cassandra.load(store, [1], "x") == {:error, :invalid_cursor}
      batch = Batch.new([row(1, 2, 3, counters: [1, 2])], 2)

      assert Cassandra.commit(store, batch) ==
               {:error, {:invalid_batch, "2 counters, expected 1"}}

      assert {:error, {:invalid_batch, _text}} = Cassandra.commit(store, %Batch{binary: "x"})
      assert scan(store) == []
    end

    test "ends with the process that made it, and the store goes on", %{store: store} do
      # While the server answers nobody a call ends with its process, or after longer than is waited here. 64 may be under
      # way, and one is refused if another that has ended is still among them.
      Services.paused("cassandra", fn ->
        for _ <- 1..100, do: eventually(fn -> killed_in_call?(store) end)
      end)

      eventually(fn -> commit(store, [row(1, 2, 3)]) == :ok end)
      assert row(1, 2, 3) in load(store, [1])
    end

    # Whether the process of a call could be killed before the call was over.
    defp killed_in_call?(store) do
      test = self()

      {pid, monitor} =
        spawn_monitor(fn ->
          send(test, :calling)
          commit(store, [row(1, 1, 1)])
        end)

      assert_receive :calling, 60_000
      Process.sleep(5)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, _, _, reason}, 60_000
      reason == :killed
    end

    test "is refused while too many are under way, and not afterwards", %{store: store} do
      batch = Batch.new(Enum.map(1..2_000, &row(&1, 1, 1)), 1)
      test = self()

      Services.paused("cassandra", fn ->
        for _ <- 1..200,
            do: spawn_link(fn -> send(test, {:result, Cassandra.commit(store, batch)}) end)

        for _ <- 1..(200 - 64), do: assert_receive({:result, {:error, :busy}}, 20_000)
        refute_received {:result, _other}
      end)

      for _ <- 1..64, do: assert_receive({:result, :ok}, 60_000)
      assert Cassandra.commit(store, batch) == :ok
      assert length(scan(store)) == 2_000
    end

    test "holds no scheduler", %{store: store} do
      RemoteContract.holds_no_scheduler(Cassandra, store, &Services.paused("cassandra", &1))
    end
  end
end
