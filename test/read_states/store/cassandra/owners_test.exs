defmodule ReadStates.Store.Cassandra.OwnersTest do
  # Two instances, in two VMs, that both own a user at the same time, which a cluster of an application must not let happen and
  # will: after a partition, or while users move.

  use ReadStates.CassandraCase

  import ReadStates.Eventually
  import ReadStates.StoreContract, only: [row: 4, rows: 1]

  alias ReadStates.{OtherVM, RecordingStore, Row, StoreContract}
  alias ReadStates.Store.Cassandra

  @moduletag :cassandra
  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  @user 7
  @channels 20

  test "every row is one that some owner wrote, the highest version wins, and no commit is refused",
       %{opts: opts, tmp_dir: tmp_dir} do
    {:ok, store, 0} = Cassandra.open(opts, %{name: __MODULE__, counters: [:mention_count]})
    # Somebody's clock was ahead by an hour.
    ahead = System.os_time(:microsecond) + 3_600_000_000
    first = row(@user, 1, ahead, counters: [1])
    :ok = Cassandra.commit(store, ReadStates.Batch.new([first], 1))

    records = for n <- 0..1, do: Path.join(tmp_dir, "record-#{n}")

    vms =
      for {record, parity} <- Enum.with_index(records) do
        OtherVM.start("""
        {:ok, _apps} = Application.ensure_all_started(:read_states)
        ReadStates.Owner.run({ReadStates.Store.Cassandra, #{inspect(opts)}}, #{inspect(record)}, #{@user}, #{@channels}, #{parity})
        IO.puts("done")
        Process.sleep(:infinity)
        """)
      end

    # What a third sees meanwhile. Both are at it from here on.
    eventually(fn -> Enum.all?(records, &File.exists?/1) end)

    seen =
      for _ <- 1..200 do
        Process.sleep(20)
        StoreContract.load(Cassandra, store, [@user])
      end

    for vm <- vms do
      OtherVM.await(vm, "done")
      OtherVM.kill(vm)
    end

    written = Enum.map(records, &RecordingStore.entries/1)
    for {entries, parity} <- Enum.with_index(written), do: assert_of(entries, parity)

    # Each row that was ever there is, whole, one that was committed.
    possible = MapSet.new([first | List.flatten(written)])
    for rows <- seen, row <- rows, do: assert(row in possible)
    assert length(Enum.uniq(seen)) > 10

    final = rows(StoreContract.load(Cassandra, store, [@user]))
    assert Enum.map(final, & &1.channel) == Enum.to_list(1..@channels)

    for row <- final do
      of_channel = for %Row{} = other <- possible, other.channel == row.channel, do: other
      assert row.version == of_channel |> Enum.map(& &1.version) |> Enum.max()
      assert row in of_channel
      # Nobody's commit was below what had been there when he started.
      assert row.version > ahead
    end

    :ok = Cassandra.close(store)
  end

  test "an instance that was killed takes up its journal, though others have written to the store since",
       %{opts: opts, tmp_dir: tmp_dir} do
    journal = [path: Path.join(tmp_dir, "journal"), sync_every: 0]

    OtherVM.run_and_kill("""
    {:ok, _apps} = Application.ensure_all_started(:read_states)
    store = {ReadStates.Store.Cassandra, #{inspect(opts)}}
    {:ok, _instance} = ReadStates.start_link(name: Killed, store: store, journal: #{inspect(journal)})
    :ok = ReadStates.ack(Killed, 1, 10, 100)
    :ok = ReadStates.commit(Killed)
    for _ <- 1..3, do: :ok = ReadStates.increment(Killed, 1, 10, 101)
    :ok = ReadStates.ack(Killed, 2, 20, 200)
    """)

    other = {ReadStates, name: __MODULE__.Other, store: {Cassandra, opts}}
    start_supervised!(other)
    :ok = ReadStates.ack(__MODULE__.Other, 3, 30, 300)
    :ok = ReadStates.commit(__MODULE__.Other)

    start_supervised!({ReadStates, name: __MODULE__, store: {Cassandra, opts}, journal: journal})

    for {user, channel, message, mentions} <- [{1, 10, 100, 3}, {2, 20, 200, 0}, {3, 30, 300, 0}] do
      assert {:ok, state} = ReadStates.get(__MODULE__, user, channel)
      assert {state.last_message_id, state.counters} == {message, %{mention_count: mentions}}
    end
  end

  test "a journal that comes back after another owner took its users is carried out above what that one wrote",
       %{opts: opts, tmp_dir: tmp_dir} do
    journal = [path: Path.join(tmp_dir, "journal"), sync_every: 0]

    OtherVM.run_and_kill("""
    {:ok, _apps} = Application.ensure_all_started(:read_states)
    store = {ReadStates.Store.Cassandra, #{inspect(opts)}}
    {:ok, _instance} = ReadStates.start_link(name: Killed, store: store, journal: #{inspect(journal)})
    :ok = ReadStates.put(Killed, 1, 10, 100, %{mention_count: 0})
    for _ <- 1..3, do: :ok = ReadStates.increment(Killed, 1, 11, 101)
    :ok = ReadStates.ack(Killed, 1, 12, 100)
    :ok = ReadStates.ack(Killed, 1, 13, 100)
    :ok = ReadStates.ack(Killed, 1, 14, 100)
    :ok = ReadStates.delete(Killed, 1, 14)
    :ok = ReadStates.ack(Killed, 1, 15, 100)
    :ok = ReadStates.increment(Killed, 1, 16, 101, by: 5)
    :ok = ReadStates.decrement(Killed, 1, 16, 101)
    for channel <- 20..21, do: :ok = ReadStates.ack(Killed, 2, channel, 100)
    :ok = ReadStates.delete(Killed, 2)
    :ok = ReadStates.commit(Killed)
    """)

    other = __MODULE__.Other
    start_supervised!({ReadStates, name: other, store: {Cassandra, opts}}, id: other)
    for channel <- [10, 12, 14], do: :ok = ReadStates.ack(other, 1, channel, 200)
    for channel <- [11, 16], do: :ok = ReadStates.increment(other, 1, channel, 102)
    :ok = ReadStates.ack(other, 2, 20, 200)
    :ok = ReadStates.delete(other, 1, 13)
    :ok = ReadStates.commit(other)

    assert all(other, 1) == [
             {10, 200, 0},
             {11, 0, 4},
             {12, 200, 0},
             {14, 200, 0},
             {15, 100, 0},
             {16, 0, 5}
           ]

    assert all(other, 2) == [{20, 200, 0}]
    stop_supervised!(other)

    start_supervised!({ReadStates, name: __MODULE__, store: {Cassandra, opts}, journal: journal})

    # guides/cassandra.md says all of this. The row that nobody else has written, 15, is as it was.
    assert all(__MODULE__, 1) == [
             {10, 100, 0},
             {11, 0, 7},
             {12, 200, 0},
             {13, 100, 0},
             {15, 100, 0},
             {16, 0, 9}
           ]

    assert all(__MODULE__, 2) == [{20, 200, 0}]
  end

  defp all(name, user) do
    {:ok, states} = ReadStates.list(name, user)

    for %{counters: %{mention_count: mentions}} = state <- states,
        do: {state.channel, state.last_message_id, mentions}
  end

  # As each owner has put them.
  defp assert_of(entries, parity) do
    assert length(entries) > @channels
    assert [_writer] = entries |> Enum.map(& &1.writer) |> Enum.uniq()

    for row <- entries do
      assert rem(row.last_message_id, 2) == parity
      assert row.counters == [rem(row.last_message_id, 1_000)]
    end
  end
end
