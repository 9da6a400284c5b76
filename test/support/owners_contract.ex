defmodule ReadStates.OwnersContract do
  @moduledoc """
  What a store on a server must show where two instances own a user at the same time, which a cluster of an application must not let
  happen and will: after a partition, or while users move.

  Each function is a test on a store that is empty, and takes its module, its options and a directory.
  """

  import ExUnit.Assertions
  import ExUnit.Callbacks
  import ReadStates.Eventually
  import ReadStates.StoreContract, only: [row: 4, rows: 1]

  alias ReadStates.{Batch, OtherVM, RecordingStore, Row, StoreContract}

  @user 7
  @channels 20

  @doc """
  Two VMs write to the same read states, and a third reads them meanwhile. Every row is one that one of them wrote, the highest
  version wins, and no commit is refused.
  """
  def at_once(module, opts, directory) do
    {:ok, store, 0} = module.open(opts, %{name: __MODULE__, counters: [:mention_count]})
    # Somebody's clock was ahead by an hour.
    ahead = System.os_time(:microsecond) + 3_600_000_000
    first = row(@user, 1, ahead, counters: [1])
    :ok = module.commit(store, Batch.new([first], 1))

    records = for n <- 0..1, do: Path.join(directory, "record-#{n}")

    vms =
      for {record, parity} <- Enum.with_index(records) do
        OtherVM.start("""
        {:ok, _apps} = Application.ensure_all_started(:read_states)
        ReadStates.Owner.run(#{inspect({module, opts})}, #{inspect(record)}, #{@user}, #{@channels}, #{parity})
        IO.puts("done")
        Process.sleep(:infinity)
        """)
      end

    # Both are at it from here on, until they are told.
    eventually(fn -> Enum.all?(records, &File.exists?/1) end, 120_000)
    seen = look(module, store, [])

    for vm <- vms do
      OtherVM.tell(vm, "stop")
      OtherVM.await(vm, "done")
      OtherVM.kill(vm)
    end

    written = Enum.map(records, &RecordingStore.entries/1)
    for {entries, parity} <- Enum.with_index(written), do: assert_of(entries, parity)
    assert_at_once(written)

    # Each row that was ever there is, whole, one that was committed.
    possible = MapSet.new([first | List.flatten(written)])
    for rows <- seen, row <- rows, do: assert(row in possible)

    final = rows(StoreContract.load(module, store, [@user]))
    assert Enum.map(final, & &1.channel) == Enum.to_list(1..@channels)

    for row <- final do
      of_channel = for %Row{} = other <- possible, other.channel == row.channel, do: other
      assert row.version == of_channel |> Enum.map(& &1.version) |> Enum.max()
      assert row in of_channel
      # Nobody's commit was below what had been there when he started.
      assert row.version > ahead
    end

    :ok = module.close(store)
  end

  @doc """
  Who goes on with the counters as they were before one was appended, as while an application is deployed node by node, leaves
  nothing of the others' in a row.
  """
  def appended(module, opts) do
    names = [:mention_count, :unread_count]

    [one, both] =
      for counters <- 1..2 do
        context = %{name: __MODULE__, counters: Enum.take(names, counters)}
        {:ok, store, 0} = module.open(opts, context)
        store
      end

    :ok = module.commit(both, Batch.new([row(@user, 1, 5, counters: [1, 7])], 2))
    :ok = module.commit(one, Batch.new([row(@user, 1, 6, counters: [0])], 1))
    assert StoreContract.load(module, both, [@user]) == [row(@user, 1, 6, counters: [0, 0])]
    for store <- [one, both], do: :ok = module.close(store)
  end

  # What a third sees: so often, and until it was different things.
  defp look(module, store, seen) do
    if length(seen) >= 200 and length(Enum.uniq(seen)) > 10 do
      seen
    else
      Process.sleep(20)
      look(module, store, [StoreContract.load(module, store, [@user]) | seen])
    end
  end

  @doc """
  An instance that was killed takes up its journal, though others have written to the store since: on `shared`, which is the store of the
  instance or one that it writes to.
  """
  def journal_taken_up({module, opts}, shared, directory) do
    journal = [path: Path.join(directory, "journal"), sync_every: 0]

    run_and_kill({module, opts}, journal, """
    :ok = ReadStates.ack(Killed, 1, 10, 100)
    :ok = ReadStates.commit(Killed)
    for _ <- 1..3, do: :ok = ReadStates.increment(Killed, 1, 10, 101)
    :ok = ReadStates.ack(Killed, 2, 20, 200)
    """)

    other = __MODULE__.Other
    start_supervised!({ReadStates, name: other, store: shared, load_timeout: 60_000})
    :ok = ReadStates.ack(other, 3, 30, 300)
    :ok = ReadStates.commit(other)

    start!({module, opts}, journal)
    assert all(__MODULE__, 1) == [{10, 100, 3}]
    assert all(__MODULE__, 2) == [{20, 200, 0}]
    assert all(__MODULE__, 3) == [{30, 300, 0}]
  end

  @doc "A journal that comes back after another owner took its users is carried out above what that one wrote, as the guides say."
  def journal_above(module, opts, directory) do
    store = {module, opts}
    journal = [path: Path.join(directory, "journal"), sync_every: 0]

    run_and_kill(store, journal, """
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
    start_supervised!({ReadStates, name: other, store: store, load_timeout: 60_000}, id: other)
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

    start!(store, journal)

    # The row that nobody else has written, 15, is as it was.
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

  defp start!(store, journal) do
    opts = [name: __MODULE__, store: store, journal: journal, load_timeout: 60_000]
    start_supervised!({ReadStates, opts})
  end

  defp run_and_kill(store, journal, code) do
    OtherVM.run_and_kill("""
    {:ok, _apps} = Application.ensure_all_started(:read_states)
    opts = [name: Killed, store: #{inspect(store)}, journal: #{inspect(journal)}]
    {:ok, _instance} = ReadStates.start_link(opts)
    #{code}
    """)
  end

  defp all(name, user) do
    {:ok, states} = ReadStates.list(name, user)

    for %{counters: %{mention_count: mentions}} = state <- states,
        do: {state.channel, state.last_message_id, mentions}
  end

  # Had one come after the other, all its versions would be above the other's, which it found in the store.
  defp assert_at_once(written) do
    [{first, last}, {other_first, other_last}] =
      for entries <- written, do: entries |> Enum.map(& &1.version) |> Enum.min_max()

    assert first < other_last and other_first < last
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
