defmodule ReadStates.StoreContract do
  @moduledoc """
  The tests that every store must pass.

      defmodule MyApp.StoreTest do
        use ExUnit.Case, async: true
        use ReadStates.StoreContract, store: MyApp.Store, opts: fn context -> [path: context.tmp_dir] end
      end

  `opts` is called once a test, with its context, and returns the options of `c:ReadStates.Store.open/2`. The tests
  open the store with them, close it and open it again, and find the data there.
  """

  alias ReadStates.{Batch, Row}

  @doc "A row with values that depend on its version."
  def row(user, channel, version, fields \\ []) do
    {kind, channel} = if is_tuple(channel), do: channel, else: {0, channel}

    struct!(
      %Row{
        user: user,
        kind: kind,
        channel: channel,
        version: version,
        writer: 7,
        last_message_id: version + 100,
        counters: [version + 200]
      },
      fields
    )
  end

  @doc "Commits entries, whose rows have one counter."
  def commit(module, store, entries, counters \\ 1) do
    module.commit(store, Batch.new(entries, counters))
  end

  @doc "The entries of all pages of a load."
  def load(module, store, users), do: pages(&module.load(store, users, &1))

  @doc "The entries of all pages of a scan."
  def scan(module, store), do: pages(&module.scan(store, &1))

  @doc "The entries of all pages."
  def pages(page, cursor \\ nil) do
    {:ok, %Batch{} = batch, next} = page.(cursor)
    entries = Enum.to_list(batch)
    if length(entries) > 20_000, do: raise("a page of #{length(entries)} entries")
    if next == nil, do: entries, else: entries ++ pages(page, next)
  end

  @doc "Only the rows, by user and channel."
  def rows(entries) do
    Enum.sort_by(for(%Row{} = row <- entries, do: row), &{&1.user, &1.kind, &1.channel})
  end

  @doc """
  The rows that are left of `entries`, which were committed in this order, by the version rule: of each read state the
  newest, if it is a row and newer than the delete of the user.
  """
  def surviving(entries) do
    deleted =
      for {:delete, user, version} <- entries, reduce: %{} do
        deleted -> Map.update(deleted, user, version, &max(&1, version))
      end

    entries
    |> Enum.reject(&match?({:delete, _user, _version}, &1))
    |> Enum.group_by(fn
      %Row{} = row -> {row.user, {row.kind, row.channel}}
      {:delete, user, channel, _version} -> {user, channel}
    end)
    # Of equal versions the first.
    |> Enum.map(fn {_place, entries} -> Enum.max_by(entries, &version/1) end)
    |> Enum.filter(&(version(&1) > Map.get(deleted, elem_user(&1), -1)))
    |> rows()
  end

  defp elem_user(%Row{user: user}), do: user
  defp elem_user({:delete, user, _channel, _version}), do: user

  defp version(%Row{version: version}), do: version
  defp version({:delete, _user, _channel, version}), do: version

  @doc "Random entries of the users `base` to `base + 3`."
  def random_entries(base) do
    for _ <- 1..:rand.uniform(12)//1 do
      user = base + :rand.uniform(4) - 1
      channel = {Enum.random([0, 1, 255]), Enum.random([0, 3, 0xFFFF_FFFF_FFFF_FFFF])}
      version = :rand.uniform(40)

      case :rand.uniform(10) do
        1 -> {:delete, user, version}
        n when n in 2..3 -> {:delete, user, channel, version}
        _ -> row(user, channel, version, last_message_id: :rand.uniform(1_000))
      end
    end
  end

  @doc "Every order of the elements."
  def permutations([]), do: [[]]

  def permutations(list) do
    for one <- list, rest <- permutations(List.delete(list, one)), do: [one | rest]
  end

  defmacro __using__(store: module, opts: opts) do
    quote location: :keep do
      import ReadStates.StoreContract, except: [commit: 3, commit: 4, load: 3, scan: 2]

      alias ReadStates.{Batch, StoreContract}

      @store unquote(module)
      @max 0xFFFF_FFFF_FFFF_FFFF

      setup context do
        opts = unquote(opts).(context)
        [opts: opts, store: open(opts, 0)]
      end

      defp open(opts, floor, counters \\ [:mention_count]) do
        name = Module.concat(__MODULE__, "Store")
        {:ok, store, ^floor} = @store.open(opts, %{name: name, counters: counters})
        on_exit(fn -> @store.close(store) end)
        store
      end

      defp commit(store, entries, counters \\ 1) do
        StoreContract.commit(@store, store, entries, counters)
      end

      defp load(store, users), do: StoreContract.load(@store, store, users)
      defp scan(store), do: StoreContract.scan(@store, store)

      describe "the contract of a store:" do
        test "an empty store has nothing of anybody", %{store: store} do
          assert load(store, [0, 1, @max]) == []
          assert load(store, []) == []
          assert scan(store) == []
          assert commit(store, []) == :ok
        end

        test "rows come back as they were, over the whole range of every field", %{store: store} do
          ids = [0, 1, 0x07FF_FFFF_FFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0000, @max]
          kinds = Enum.map(0..255, &row(3, {&1, @max - &1}, 1))

          extremes =
            for user <- [2, 0x8000_0000_0000_0000, @max], channel <- ids, version <- [0, @max] do
              row(user, {rem(version, 2), channel}, version,
                writer: @max - channel,
                last_message_id: @max - channel,
                counters: [0xFFFF_FFFF]
              )
            end

          assert commit(store, extremes ++ kinds) == :ok
          assert rows(scan(store)) == rows(extremes ++ kinds)
          assert rows(load(store, [3])) == rows(kinds)

          assert rows(load(store, [@max])) ==
                   rows(for(%{user: @max} = row <- extremes, do: row))
        end

        test "deletes come back while they are remembered, or not at all", %{store: store} do
          deletes = [{:delete, @max, @max - 1}, {:delete, 4, {255, @max}, @max}]
          assert commit(store, deletes) == :ok
          assert load(store, [4, @max]) -- deletes == []
          assert scan(store) -- deletes == []
        end

        test "the later version wins, in whatever order and batches the writes come",
             %{store: store} do
          writes = [
            row(0, 5, 1),
            {:delete, 0, {0, 5}, 2},
            row(0, 6, 3),
            {:delete, 0, 4},
            row(0, 5, 5)
          ]

          for length <- 1..length(writes), first = Enum.take(writes, length) do
            for {order, index} <- Enum.with_index(permutations(first)) do
              [apart, together] = [2 * index, 2 * index + 1] |> Enum.map(&(&1 * 10 + length))
              of = fn user, entries -> Enum.map(entries, &of_user(&1, user)) end
              for entry <- of.(apart, order), do: :ok = commit(store, [entry])
              :ok = commit(store, of.(together, order))
              assert rows(load(store, [apart])) == surviving(of.(apart, first))
              assert rows(load(store, [together])) == surviving(of.(together, first))
            end
          end
        end

        test "a late write does not undo a delete", %{store: store} do
          :ok = commit(store, [row(1, 2, 1), row(1, 3, 1)])
          :ok = commit(store, [{:delete, 1, {0, 2}, 3}])
          :ok = commit(store, [row(1, 2, 2)])
          assert rows(load(store, [1])) == [row(1, 3, 1)]
          :ok = commit(store, [{:delete, 1, 5}])
          :ok = commit(store, [row(1, 2, 4), row(1, 9, 5)])
          assert rows(load(store, [1])) == []
          :ok = commit(store, [row(1, 2, 6)])
          assert rows(load(store, [1])) == [row(1, 2, 6)]
        end

        test "the same version again changes nothing, whatever comes with it", %{store: store} do
          batch = [row(1, 2, 3), {:delete, 1, {0, 4}, 3}, {:delete, 5, 3}]
          :ok = commit(store, batch)
          once = scan(store)
          :ok = commit(store, batch)
          :ok = commit(store, [row(1, 2, 3, last_message_id: 9), row(5, 1, 3)])
          :ok = commit(store, [{:delete, 1, {0, 2}, 3}, row(1, 4, 3)])
          assert scan(store) == once
          assert rows(once) == [row(1, 2, 3)]
        end

        test "1 to 4 counters, and those appended later are 0", %{opts: opts, store: store} do
          :ok = @store.close(store)
          names = [:mention_count, :b, :c, :d]

          for count <- 1..4 do
            store = open(opts, count - 1, Enum.take(names, count))
            values = Enum.take([0xFFFF_FFFF, 2, 3, 4], count)
            :ok = commit(store, [row(1, count, count, counters: values)], count)

            expected =
              for before <- 1..count do
                values = Enum.take([0xFFFF_FFFF, 2, 3, 4], before)
                zeros = List.duplicate(0, count - before)
                row(1, before, before, counters: values ++ zeros)
              end

            assert rows(load(store, [1])) == expected
            :ok = @store.close(store)
          end
        end

        test "a user with more rows than a page has", %{store: store} do
          many = Enum.map(1..25_000, &row(5, &1, &1))
          few = [row(4, 1, 1), row(6, 1, 1)]
          :ok = commit(store, many ++ few)
          assert rows(load(store, [5])) == many
          assert rows(load(store, [6, 5, 4])) == rows(many ++ few)
          assert rows(scan(store)) == rows(many ++ few)
          :ok = commit(store, [{:delete, 5, 24_999}])
          assert rows(load(store, [5])) == [row(5, 25_000, 25_000)]
          assert rows(load(store, [4, 6])) == few
        end

        test "loads have whom they are asked for once, and nobody else", %{store: store} do
          rows = for user <- 1..300, do: row(user, 1, 1)
          :ok = commit(store, rows)
          users = [250, 3, 3, 1_000, 0 | Enum.to_list(100..200)]
          expected = for user <- [3 | Enum.to_list(100..200)] ++ [250], do: row(user, 1, 1)
          assert rows(load(store, users)) == expected
        end

        test "a scan has everything once, a user's rows together", %{store: store} do
          rows =
            for user <- 1..3_000, channel <- 1..5, do: row(user * 0x100_0000_0001, channel, 1)

          for batch <- rows |> Enum.shuffle() |> Enum.chunk_every(2_500),
              do: :ok = commit(store, batch)

          scanned = for %ReadStates.Row{} = row <- scan(store), do: row
          assert rows(scanned) == rows
          assert length(Enum.dedup_by(scanned, & &1.user)) == 3_000
        end

        test "commits and loads of different users at once", %{store: store} do
          of_user = fn user ->
            histories = for version <- 1..20, do: Enum.map(1..50, &row(user, &1, version))

            for batch <- Enum.shuffle(histories) do
              :ok = commit(store, batch)
              # A try that was given up may still be under way when the next comes.
              Task.await(Task.async(fn -> :ok = commit(store, batch) end), 60_000)
            end

            assert rows(load(store, [user])) == Enum.map(1..50, &row(user, &1, 20))
          end

          1..8 |> Enum.map(&Task.async(fn -> of_user.(&1) end)) |> Task.await_many(60_000)
          assert length(rows(scan(store))) == 8 * 50
        end

        test "random histories leave what the version rule says", %{opts: opts, store: store} do
          :rand.seed(:exsss, {1, 2, 3})

          histories =
            for base <- 0..600//10 do
              for _ <- 1..15, do: random_entries(base)
            end

          for history <- histories do
            for batch <- history, do: :ok = commit(store, batch)
            users = history |> List.flatten() |> surviving() |> Enum.map(& &1.user)
            assert rows(load(store, users)) == surviving(List.flatten(history))
          end

          all = List.flatten(histories)
          assert rows(scan(store)) == surviving(all)
          :ok = @store.close(store)
          assert rows(scan(open(opts, 40))) == surviving(all)
        end

        test "what was committed is there when it is opened again, and its floor",
             %{opts: opts, store: store} do
          :ok = commit(store, [row(1, 2, 50), row(2, 2, 7)])
          :ok = commit(store, [row(3, 3, 20), {:delete, 2, 8}])
          :ok = @store.close(store)
          store = open(opts, 50)
          assert rows(scan(store)) == [row(1, 2, 50), row(3, 3, 20)]
          :ok = commit(store, [{:delete, 1, 60}])
          :ok = @store.close(store)
          assert rows(scan(open(opts, 60))) == [row(3, 3, 20)]
        end

        test "the process that opened it may be killed", %{opts: opts, store: store} do
          :ok = @store.close(store)
          test = self()

          opener =
            spawn(fn ->
              context = %{name: __MODULE__, counters: [:mention_count]}
              send(test, @store.open(opts, context))
              Process.sleep(:infinity)
            end)

          assert_receive {:ok, store, 0}, 60_000
          monitor = Process.monitor(opener)
          Process.exit(opener, :kill)
          assert_receive {:DOWN, ^monitor, _, _, :killed}, 60_000
          assert commit(store, [row(1, 2, 3)]) == :ok
          assert load(store, [1]) == [row(1, 2, 3)]
          :ok = @store.close(store)
        end

        test "after it was closed every call is an error", %{store: store} do
          :ok = commit(store, [row(1, 2, 3)])
          assert @store.close(store) == :ok
          assert {:error, _reason} = commit(store, [row(1, 2, 4)])
          assert {:error, _reason} = @store.load(store, [1], nil)
          assert {:error, _reason} = @store.scan(store, nil)
          assert @store.close(store) == :ok
        end
      end

      defp of_user(%ReadStates.Row{} = row, user), do: %{row | user: user}
      defp of_user(delete, user), do: put_elem(delete, 1, user)
    end
  end
end
