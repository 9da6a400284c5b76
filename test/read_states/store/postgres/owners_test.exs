defmodule ReadStates.Store.Postgres.OwnersTest do
  # As on Cassandra: two instances, in two VMs, that both own a user at the same time.

  use ReadStates.PostgresCase

  import ReadStates.Eventually
  import ReadStates.StoreContract, only: [row: 4, rows: 1]

  alias ReadStates.{OtherVM, RecordingStore, Row, StoreContract}
  alias ReadStates.Store.Postgres

  @moduletag :postgres
  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  @user 7
  @channels 20

  test "every row is one that some owner wrote, the highest version wins, and no commit is refused",
       %{opts: opts, tmp_dir: tmp_dir} do
    {:ok, store, 0} = Postgres.open(opts, %{name: __MODULE__, counters: [:mention_count]})
    # Somebody's clock was ahead by an hour.
    ahead = System.os_time(:microsecond) + 3_600_000_000
    first = row(@user, 1, ahead, counters: [1])
    :ok = Postgres.commit(store, ReadStates.Batch.new([first], 1))

    records = for n <- 0..1, do: Path.join(tmp_dir, "record-#{n}")

    vms =
      for {record, parity} <- Enum.with_index(records) do
        OtherVM.start("""
        {:ok, _apps} = Application.ensure_all_started(:read_states)
        ReadStates.Owner.run({ReadStates.Store.Postgres, #{inspect(opts)}}, #{inspect(record)}, #{@user}, #{@channels}, #{parity})
        IO.puts("done")
        Process.sleep(:infinity)
        """)
      end

    # What a third sees meanwhile. Both are at it from here on.
    eventually(fn -> Enum.all?(records, &File.exists?/1) end)

    seen =
      for _ <- 1..200 do
        Process.sleep(20)
        StoreContract.load(Postgres, store, [@user])
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

    final = rows(StoreContract.load(Postgres, store, [@user]))
    assert Enum.map(final, & &1.channel) == Enum.to_list(1..@channels)

    for row <- final do
      of_channel = for %Row{} = other <- possible, other.channel == row.channel, do: other
      assert row.version == of_channel |> Enum.map(& &1.version) |> Enum.max()
      assert row in of_channel
      # Nobody's commit was below what had been there when he started.
      assert row.version > ahead
    end

    :ok = Postgres.close(store)
  end

  for both? <- [false, true] do
    test "an instance#{if both?, do: " that moves"} that was killed takes up its journal, though others have written to the store since",
         %{opts: opts, tmp_dir: tmp_dir} do
      postgres = {Postgres, opts}
      local = {ReadStates.Store.Local, path: Path.join(tmp_dir, "local")}

      store =
        if unquote(both?), do: {ReadStates.Store.Both, from: local, to: postgres}, else: postgres

      journal = [path: Path.join(tmp_dir, "journal"), sync_every: 0]

      OtherVM.run_and_kill("""
      {:ok, _apps} = Application.ensure_all_started(:read_states)
      {:ok, _instance} = ReadStates.start_link(name: Killed, store: #{inspect(store)}, journal: #{inspect(journal)})
      :ok = ReadStates.ack(Killed, 1, 10, 100)
      :ok = ReadStates.commit(Killed)
      for _ <- 1..3, do: :ok = ReadStates.increment(Killed, 1, 10, 101)
      :ok = ReadStates.ack(Killed, 2, 20, 200)
      """)

      other = {ReadStates, name: __MODULE__.Other, store: postgres}
      start_supervised!(other)
      :ok = ReadStates.ack(__MODULE__.Other, 3, 30, 300)
      :ok = ReadStates.commit(__MODULE__.Other)

      start_supervised!({ReadStates, name: __MODULE__, store: store, journal: journal})

      for {user, channel, message, mentions} <- [
            {1, 10, 100, 3},
            {2, 20, 200, 0},
            {3, 30, 300, 0}
          ] do
        assert {:ok, state} = ReadStates.get(__MODULE__, user, channel)
        assert {state.last_message_id, state.counters} == {message, %{mention_count: mentions}}
      end
    end
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
