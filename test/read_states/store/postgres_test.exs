defmodule ReadStates.Store.PostgresTest do
  use ReadStates.PostgresCase, async: true

  @moduletag :postgres

  use ReadStates.StoreContract, store: ReadStates.Store.Postgres, opts: & &1.opts

  import ReadStates.PostgresCase, only: [locked: 2, sql!: 1]

  alias ReadStates.RemoteContract
  alias ReadStates.Store.Postgres

  defp count(opts, suffix), do: sql!("SELECT count(*) FROM #{opts[:table]}#{suffix}")

  test "what may be read in SQL is what was written", %{store: store, opts: opts} do
    :ok = commit(store, [row(7, {1, @max}, 10, counters: [0xFFFF_FFFF])])

    assert sql!("SELECT * FROM #{opts[:table]}") == "7|-1|10|7|110|-1||||1"
  end

  test "a late row below a delete is not read, and goes when the delete is forgotten",
       %{store: store, opts: opts} do
    hour = 3_600_000_000
    :ok = commit(store, [{:delete, 1, 10}, {:delete, 2, {0, 5}, 10}])
    :ok = commit(store, [row(1, 1, 9), row(1, 2, 11), row(2, 5, 9), row(2, 6, 9)])
    expected = [row(1, 2, 11), row(2, 6, 9)]
    assert rows(load(store, [1, 2])) == expected
    assert rows(scan(store)) == expected
    assert {count(opts, ""), count(opts, "_deletes")} == {"4", "2"}

    # Not yet, and then.
    :ok = commit(store, [{:delete, 3, 10 + hour}])
    assert {count(opts, ""), count(opts, "_deletes")} == {"4", "3"}
    :ok = commit(store, [{:delete, 3, 11 + hour}])
    assert {count(opts, ""), count(opts, "_deletes")} == {"2", "1"}
    assert rows(scan(store)) == expected
  end

  test "a delete is forgotten by itself where the table is partitioned, and rows have the same place as others",
       %{store: store, opts: opts} do
    deletes = "#{opts[:table]}_deletes"

    # Also the partitions that a run which was cut off has left.
    sql!("DROP TABLE #{deletes}")
    :ok = Postgres.set_up(opts)

    sql!("""
    CREATE TABLE parted (LIKE #{deletes} INCLUDING ALL) PARTITION BY LIST (kind);
    CREATE TABLE #{deletes}_users PARTITION OF parted FOR VALUES IN (-1);
    CREATE TABLE #{deletes}_channels PARTITION OF parted DEFAULT;
    DROP TABLE #{deletes};
    ALTER TABLE parted RENAME TO #{deletes}
    """)

    hour = 3_600_000_000
    # The first row of each partition.
    :ok = commit(store, [{:delete, 1, 10}])
    :ok = commit(store, [{:delete, 2, {0, 5}, 10 + hour}])
    # A commit with a delete forgets those that are old.
    :ok = commit(store, [{:delete, 3, 11 + hour}])
    assert count(opts, "_deletes") == "2"
    :ok = commit(store, [row(2, 5, 9 + hour)])
    assert rows(load(store, [2])) == []
    sql!("DROP TABLE #{deletes}")
    :ok = Postgres.set_up(opts)
  end

  test "deletes that are forgotten do not pile up, however many there are", %{
    store: store,
    opts: opts
  } do
    :ok = commit(store, for(channel <- 1..5_000, do: {:delete, 1, {0, channel}, channel}))

    # A commit forgets more than it brings.
    for n <- 1..5, do: :ok = commit(store, [{:delete, 2, 4_000_000_000 + n}])
    assert count(opts, "_deletes") == "1"
  end

  test "commits of the same rows in any order at the same time do not block each other for ever",
       %{store: store} do
    versions = Enum.chunk_every(Enum.shuffle(1..200), 10)

    commit_all = fn versions ->
      for version <- versions do
        entries = Enum.shuffle(for channel <- 1..100, do: row(rem(channel, 7), channel, version))

        deletes =
          if rem(version, 5) == 0, do: [{:delete, rem(version, 7), {0, 1}, version}], else: []

        :ok = commit(store, deletes ++ entries)
      end
    end

    versions |> Enum.map(&Task.async(fn -> commit_all.(&1) end)) |> Task.await_many(60_000)
    assert Enum.all?(rows(scan(store)), &(&1.version == 200))
  end

  test "a batch or a cursor that is none of its own is an error", %{store: store} do
    binary = <<Batch.new([row(1, 2, 3)], 1).binary::binary, 0>>
    assert {:error, {:invalid_batch, _}} = Postgres.commit(store, %Batch{binary: binary})
    assert {:error, {:invalid_batch, _}} = Postgres.commit(store, Batch.new([], 2))
    assert {:error, :invalid_cursor} = Postgres.load(store, [1], "1")
    assert scan(store) == []
  end

  test "reads no more of a table than it gives", %{opts: opts, store: store} do
    :ok = commit(store, for(user <- 1..3_000, channel <- 1..20, do: row(user, channel, 1)))
    sql!("ANALYZE #{opts[:table]}")
    :ok = Postgres.close(store)
    before = read(opts)

    # What a connection has read is counted when it is closed.
    {:ok, store, _floor} = Postgres.open(opts, %{name: __MODULE__, counters: [:mention_count]})
    for user <- 1..20, do: assert(length(load(store, [user, user + 1])) == 40)
    :ok = commit(store, [{:delete, 5, 2}, row(6, 1, 3)])
    assert length(rows(scan(store))) == 3_000 * 20 - 20
    :ok = Postgres.close(store)
    ReadStates.Eventually.eventually(fn -> elem(read(opts), 1) >= elem(before, 1) + 60_000 end)

    assert {0, entries} =
             {elem(read(opts), 0) - elem(before, 0), elem(read(opts), 1) - elem(before, 1)}

    assert entries < 65_000
  end

  test "a call holds no scheduler", %{store: store, opts: opts} do
    held = &locked("LOCK TABLE #{opts[:table]}", &1)
    RemoteContract.holds_no_scheduler(Postgres, store, held)
  end

  # Scans of the whole table, and entries of its index that were read.
  defp read(opts) do
    statement =
      "SELECT t.seq_scan, i.idx_tup_read FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid) " <>
        "WHERE t.relname = '#{opts[:table]}'"

    sql!(statement) |> String.split("|") |> Enum.map(&String.to_integer/1) |> List.to_tuple()
  end
end
