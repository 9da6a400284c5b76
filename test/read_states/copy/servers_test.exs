defmodule ReadStates.Copy.ServersTest do
  # Copies between real servers, of more than a page each. Not async: nobody may restart them meanwhile.
  use ExUnit.Case, async: false

  import ReadStates.StoreContents
  import ReadStates.StoreContract

  alias ReadStates.{CassandraCase, Copy, PostgresCase}
  alias ReadStates.Store.{Cassandra, Local, Memory, Postgres}

  @moduletag :postgres
  @moduletag :cassandra
  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  @max 0xFFFF_FFFF_FFFF_FFFF

  defmodule Full do
    @moduledoc false
    # A store that has no room for one of the entries, `:entry`, while `:full` is 1. It counts what it takes in `:taken`.

    @behaviour ReadStates.Store

    alias ReadStates.Store.Memory

    @impl true
    def open(opts, context) do
      with {:ok, store, floor} <- Memory.open([data: opts[:data]], context),
           do: {:ok, {store, Map.new(opts)}, floor}
    end

    @impl true
    def load({store, _opts}, users, cursor), do: Memory.load(store, users, cursor)

    @impl true
    def commit({store, opts}, batch) do
      if :atomics.get(opts.full, 1) == 1 and Enum.member?(batch, opts.entry) do
        {:error, {:full, "no room"}}
      else
        :ok = :counters.add(opts.taken, 1, Enum.count(batch))
        Memory.commit(store, batch)
      end
    end

    @impl true
    def scan({store, _opts}, cursor), do: Memory.scan(store, cursor)

    @impl true
    def close({store, _opts}), do: Memory.close(store)
  end

  setup do
    postgres = {Postgres, PostgresCase.emptied!(__MODULE__)}
    %{postgres: postgres, cassandra: {Cassandra, CassandraCase.emptied!(__MODULE__)}}
  end

  # Of one user more than a page, of many some, ids that are negative in a signed column, and deletes of what was there.
  defp some_entries do
    large = for channel <- 1..12_000, do: row(5, channel, channel)

    many =
      for user <- 1_000..1_599, channel <- 1..22 do
        row(user, {rem(channel, 3), channel}, user, counters: [channel])
      end

    wide = for kind <- [0, 255], channel <- [0, @max], do: row(@max, {kind, channel}, 7)
    large ++ many ++ wide ++ [{:delete, 1_001, 5_000}, {:delete, 1_002, {0, 3}, 5_000}]
  end

  test "everything comes over, from disk to one server, to the other, and back",
       %{postgres: postgres, cassandra: cassandra, tmp_dir: dir} do
    [first, last] = for name <- ["first", "last"], do: {Local, path: Path.join(dir, name)}
    fill(first, some_entries())
    expected = surviving(some_entries())
    assert length(expected) > 25_000

    steps = Enum.chunk_every([first, postgres, cassandra, last], 2, 1, :discard)

    digests =
      for [from, to] <- steps do
        assert {:ok, figures} = Copy.copy(from, to)
        assert figures[:rows] == length(expected)
        assert rows(entries(to)) == expected
        figures[:sha256]
      end

    assert [_all_the_same] = Enum.uniq(digests)
  end

  test "a copy from a server that was interrupted goes on where it was, and takes nothing twice",
       %{postgres: postgres, cassandra: cassandra, tmp_dir: dir} do
    expected = surviving(some_entries())

    for {module, _opts} = from <- [postgres, cassandra] do
      fill(from, some_entries())
      scanned = entries(from)
      assert rows(scanned) == expected

      # Only the last page is refused, whatever is committed at the same time.
      [full, taken, data] = [:atomics.new(1, []), :counters.new(1, []), Memory.new()]
      to = {Full, data: data, entry: List.last(scanned), full: full, taken: taken}
      resume = Path.join(dir, List.last(Module.split(module)))
      :ok = :atomics.put(full, 1, 1)
      assert Copy.copy(from, to, resume: resume) == {:error, {:write, "to: no room"}}
      assert File.exists?(resume)
      # Two pages at least.
      before = :counters.get(taken, 1)
      assert before > 10_000 and before < length(scanned)

      :ok = :atomics.put(full, 1, 0)
      assert {:ok, figures} = Copy.copy(from, to, resume: resume)
      assert figures[:rows] == length(expected)
      assert :counters.get(taken, 1) == length(scanned)
      assert rows(entries({Memory, data: data})) == expected
      refute File.exists?(resume)
    end
  end
end
