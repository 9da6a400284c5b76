defmodule ReadStates.CommittingTest do
  use ReadStates.InstanceCase, async: true

  setup %{name: name} do
    faults = start_faults!()
    store = faulty(faults)
    %{faults: faults, opts: [name: name, store: store]}
  end

  defp row(last, count), do: {last, %{mention_count: count}}

  defp await_hanging(faults, call \\ :commit) do
    eventually(fn -> FaultyStore.hanging(faults, call) > 0 end)
  end

  defp await_clean(name), do: eventually(fn -> ReadStates.stats(name).dirty_users == 0 end)

  defp async_commit(name), do: Task.async(fn -> ReadStates.commit(name) end)

  # How often rows of this user went to the store.
  defp writes_of(faults, user) do
    faults
    |> FaultyStore.calls(:commit)
    |> List.flatten()
    |> Enum.count(&match?(%{user: ^user}, &1))
  end

  describe "what changed" do
    test "is committed :commit_after the first change, once", context do
      %{name: name, faults: faults, opts: opts} = context
      start!(name, [commit_after: 100] ++ opts)
      for channel <- 1..10, do: :ok = ReadStates.ack(name, 1, channel, 100)
      # Not resident, so it has to be loaded first.
      :ok = ReadStates.increment(name, 2, 10, 5)
      await_clean(name)
      assert stored(name)[1] == Map.new(1..10, &{{0, &1}, row(100, 0)})
      assert stored(name)[2] == %{{0, 10} => row(0, 1)}
      assert writes_of(faults, 1) == 10
      assert writes_of(faults, 2) == 1
    end

    test "is not committed before, and not again if nothing changed since", context do
      %{name: name, faults: faults, opts: opts} = context
      start!(name, opts)
      :ok = ReadStates.load(name, [1])
      :ok = ReadStates.ack(name, 1, 10, 100)
      assert stored(name) == %{}
      assert %{dirty_users: 1} = ReadStates.stats(name)
      :ok = ReadStates.commit(name)
      :ok = ReadStates.ack(name, 1, 10, 100)
      :ok = ReadStates.increment(name, 1, 10, 100)
      :ok = ReadStates.decrement(name, 1, 99, 100)
      :ok = ReadStates.delete(name, 1, 99)
      assert %{dirty_users: 0, commits: 1, committed_entries: 1} = ReadStates.stats(name)
      :ok = ReadStates.commit(name)
      assert writes_of(faults, 1) == 1
    end

    test "is committed alone, not the user's other read states", context do
      %{name: name, faults: faults, opts: opts} = context
      start!(name, opts)
      for channel <- 1..100, do: :ok = ReadStates.ack(name, 1, channel, 100)
      :ok = ReadStates.commit(name)
      FaultyStore.forget(faults)
      :ok = ReadStates.increment(name, 1, 50, 101)
      :ok = ReadStates.commit(name)
      assert [[%{user: 1, channel: 50, counters: [1]}]] = FaultyStore.calls(faults, :commit)
    end

    test "is committed together with what falls due in the same tenth of :commit_after",
         context do
      %{name: name, faults: faults, opts: opts} = context
      start!(name, [commit_after: 500] ++ opts)
      # So that something falls due during each commit.
      FaultyStore.set(faults, :commit, {:slow, 10})
      # The others have to be loaded.
      :ok = ReadStates.load(name, Enum.to_list(1..500))
      began = System.monotonic_time(:millisecond)

      for user <- Enum.shuffle(1..1_000) do
        :ok = ReadStates.ack(name, user, 10, 100)
        Process.sleep(1)
      end

      await_clean(name)
      tenths = div(System.monotonic_time(:millisecond) - began, 50) + 1
      assert ReadStates.stats(name).commits <= tenths * ReadStates.Instance.partitions()
    end

    test "is committed before it is evicted", %{name: name, opts: opts} do
      start!(name, [capacity: 20] ++ opts)

      for user <- 1..500 do
        :ok = ReadStates.ack(name, user, 10, user)
        :ok = ReadStates.load(name, [user])
      end

      # Long before :commit_after.
      eventually(fn -> ReadStates.stats(name).states <= 20 end)
      assert map_size(stored(name)) >= 480

      for user <- 1..500,
          do: assert({:ok, %{last_message_id: ^user}} = ReadStates.get(name, user, 10))
    end

    test "is committed at shutdown", %{name: name, opts: opts} do
      start!(name, opts)
      :ok = ReadStates.load(name, [1, 2, 3])
      :ok = ReadStates.ack(name, 1, 10, 100)
      :ok = ReadStates.ack(name, 2, 10, 100)
      :ok = ReadStates.delete(name, 2, 10)
      :ok = ReadStates.increment(name, [3, 4], 10, 100)
      :ok = ReadStates.delete(name, 5)
      restart!(name, opts)

      assert stored(name) == %{
               1 => %{{0, 10} => row(100, 0)},
               3 => %{{0, 10} => row(0, 1)},
               4 => %{{0, 10} => row(0, 1)}
             }
    end
  end

  describe "commit/1" do
    test "of nothing", %{name: name, faults: faults, opts: opts} do
      start!(name, opts)
      assert ReadStates.commit(name) == :ok
      {:ok, _} = ReadStates.get(name, 1, 10)
      assert ReadStates.commit(name) == :ok
      assert FaultyStore.calls(faults, :commit) == []
    end

    test "takes residents, pending operations and deletes, until all is durable", context do
      %{name: name, faults: faults, opts: opts} = context
      start!(name, opts)
      :ok = ReadStates.update(name, for(user <- 1..4, do: {:ack, user, 10, 100}))
      :ok = ReadStates.update(name, for(user <- 1..4, do: {:ack, user, 11, 100}))
      restart!(name, opts)

      :ok = ReadStates.load(name, [1])
      :ok = ReadStates.ack(name, 1, 10, 200)
      :ok = ReadStates.delete(name, 1, 11)
      :ok = ReadStates.delete(name, 2, 10)
      :ok = ReadStates.increment(name, 2, 11, 200)
      :ok = ReadStates.delete(name, 3)
      :ok = ReadStates.delete(name, 4)
      :ok = ReadStates.ack(name, 4, 12, 300)

      FaultyStore.set(faults, :commit, :hang)
      commit = async_commit(name)
      await_hanging(faults)
      assert Task.yield(commit, 50) == nil
      FaultyStore.set(faults, :commit, nil)
      assert Task.await(commit, :infinity) == :ok

      assert %{dirty_users: 0, pending_operations: 0} = ReadStates.stats(name)

      assert stored(name) == %{
               1 => %{{0, 10} => row(200, 0)},
               2 => %{{0, 11} => row(100, 1)},
               4 => %{{0, 12} => row(300, 0)}
             }
    end

    test "of many read states goes in several batches", %{name: name, faults: faults, opts: opts} do
      start!(name, opts)
      operations = for user <- 1..1_000, channel <- 1..50, do: {:ack, user, channel, user}
      :ok = ReadStates.update(name, operations)
      assert ReadStates.commit(name) == :ok
      assert stored(name) == Model.update(%Model{}, operations).users
      batches = FaultyStore.calls(faults, :commit)
      assert Enum.sum(Enum.map(batches, &length/1)) == 50_000
      # Of 10,000 entries or little more.
      assert Enum.all?(batches, &(length(&1) < 20_000))
    end

    test "of several callers at once", %{name: name, opts: opts} do
      start!(name, opts)

      # One scan after the other: a store refuses those that are too many at once.
      scans = start_supervised!({Agent, fn -> nil end})
      scan = fn -> Agent.get(scans, fn _state -> stored(name) end, :infinity) end

      1..50
      |> Enum.map(fn user ->
        Task.async(fn ->
          :ok = ReadStates.ack(name, user, 10, 100)
          :ok = ReadStates.commit(name)
          assert scan.()[user] == %{{0, 10} => row(100, 0)}
        end)
      end)
      |> Task.await_many(:infinity)
    end

    test "forgets callers who died while the store hangs", context do
      %{name: name, faults: faults, opts: opts} = context
      start!(name, opts)
      FaultyStore.set(faults, :load, :hang)
      # So many that there are some of each partition.
      :ok = ReadStates.update(name, for(user <- 1..100, do: {:ack, user, 10, 100}))
      commits = for _ <- 1..1_000, do: async_commit(name)
      eventually(fn -> flushes(name) == [1_000, 1_000] end)
      Enum.each(commits, &Task.shutdown(&1, :brutal_kill))
      eventually(fn -> flushes(name) == [0, 0] end)
      # Who lives is not.
      commit = async_commit(name)
      eventually(fn -> flushes(name) == [1, 1] end)
      FaultyStore.set(faults, :load, nil)
      assert Task.await(commit, :infinity) == :ok
    end

    test "of very many callers at once", %{name: name, faults: faults, opts: opts} do
      start!(name, opts)
      FaultyStore.set(faults, :load, :hang)
      # So many that each partition has some from the start.
      :ok = ReadStates.update(name, for(user <- 2_001..2_100, do: {:ack, user, 10, user}))

      commits =
        for user <- 1..2_000 do
          Task.async(fn ->
            :ok = ReadStates.ack(name, user, 10, user)
            ReadStates.commit(name)
          end)
        end

      eventually(fn -> flushes(name) == [2_000, 2_000] end)
      FaultyStore.set(faults, :load, nil)
      assert commits |> Task.await_many(:infinity) |> Enum.uniq() == [:ok]
      assert stored(name) == Map.new(1..2_100, &{&1, %{{0, 10} => row(&1, 0)}})
    end

    test "waits for a commit that is under way", %{name: name, faults: faults, opts: opts} do
      start!(name, [commit_after: 0] ++ opts)
      FaultyStore.set(faults, :commit, :hang)
      :ok = ReadStates.ack(name, 1, 10, 100)
      await_hanging(faults)
      commit = async_commit(name)
      assert Task.yield(commit, 50) == nil
      FaultyStore.set(faults, :commit, nil)
      assert Task.await(commit, :infinity) == :ok
      assert stored(name) == %{1 => %{{0, 10} => row(100, 0)}}
    end

    test "does not wait for what comes after it", %{name: name, faults: faults, opts: opts} do
      start!(name, opts)
      :ok = ReadStates.ack(name, 1, 10, 100)
      FaultyStore.set(faults, :commit, :hang)
      commit = async_commit(name)
      await_hanging(faults)
      for user <- 2..100, do: :ok = ReadStates.ack(name, user, 10, 100)
      FaultyStore.set(faults, :commit, nil)
      assert Task.await(commit, :infinity) == :ok
      assert stored(name) == %{1 => %{{0, 10} => row(100, 0)}}
      assert %{dirty_users: 99} = ReadStates.stats(name)
    end
  end

  describe "an operation during a commit" do
    setup %{name: name, faults: faults, opts: opts} do
      start!(name, opts)
      :ok = ReadStates.load(name, [1])
      :ok = ReadStates.put(name, 1, 10, 100, mention_count: 1)
      :ok = ReadStates.put(name, 1, 11, 100, mention_count: 1)
      FaultyStore.set(faults, :commit, :hang)
      commit = async_commit(name)
      await_hanging(faults)
      %{commit: commit}
    end

    # Lets the commit end well, and then commits what came during it.
    defp finish(name, faults, commit, result \\ nil) do
      FaultyStore.set(faults, :commit, result)
      assert Task.await(commit, :infinity) in [:ok, {:error, :store_unavailable}]
      assert %{dirty_users: 1} = ReadStates.stats(name)
      FaultyStore.set(faults, :commit, nil)
      before = stored(name)
      eventually(fn -> ReadStates.commit(name) == :ok end)
      assert %{dirty_users: 0} = ReadStates.stats(name)
      before
    end

    test "stays dirty, and what it did not touch does not", context do
      %{name: name, faults: faults, commit: commit} = context
      :ok = ReadStates.increment(name, 1, 10, 101)
      before = finish(name, faults, commit)
      assert before == %{1 => %{{0, 10} => row(100, 1), {0, 11} => row(100, 1)}}
      assert stored(name) == %{1 => %{{0, 10} => row(100, 2), {0, 11} => row(100, 1)}}
      assert writes_of(faults, 1) == 3
    end

    test "may delete what is being written", context do
      %{name: name, faults: faults, commit: commit} = context
      :ok = ReadStates.delete(name, 1, 10)
      finish(name, faults, commit)
      assert stored(name) == %{1 => %{{0, 11} => row(100, 1)}}
      commit_and_evict!(name)
      assert {:ok, [%{channel: 11}]} = ReadStates.list(name, 1)
    end

    test "may delete the user, and begin anew", context do
      %{name: name, faults: faults, commit: commit} = context
      :ok = ReadStates.delete(name, 1)
      :ok = ReadStates.increment(name, 1, 10, 7)
      finish(name, faults, commit)
      assert stored(name) == %{1 => %{{0, 10} => row(0, 1)}}
    end

    test "is not lost when the commit fails", context do
      %{name: name, faults: faults, commit: commit} = context
      :ok = ReadStates.increment(name, 1, 10, 101)
      :ok = ReadStates.delete(name, 1, 11)
      before = finish(name, faults, commit, {:return, {:error, :away}})
      assert before == %{}
      assert stored(name) == %{1 => %{{0, 10} => row(100, 2)}}
    end

    test "is not counted twice when the commit came through, and then failed", context do
      %{name: name, faults: faults, commit: commit} = context
      :ok = ReadStates.increment(name, 1, 10, 101)
      before = finish(name, faults, commit, {:then_return, {:error, :away}})
      assert before == %{1 => %{{0, 10} => row(100, 1), {0, 11} => row(100, 1)}}
      assert stored(name) == %{1 => %{{0, 10} => row(100, 2), {0, 11} => row(100, 1)}}
    end
  end

  describe "a commit that fails" do
    for {what, fault} <- [
          {"with an error", quote(do: {:return, {:error, :away}})},
          {"after it wrote all", quote(do: {:then_return, {:error, :away}})},
          {"with an exception", quote(do: {:do, fn -> raise "away" end})},
          {"with an exit", quote(do: {:do, fn -> exit(:away) end})},
          {"with a throw", quote(do: {:do, fn -> throw(:away) end})},
          {"by killing its caller", quote(do: {:do, fn -> Process.exit(self(), :kill) end})},
          {"because it took too long, and comes late", quote(do: {:late, 20})},
          {"with an answer that is none", quote(do: {:return, {:ok, 1}})}
        ] do
      test "#{what} is tried again, and nothing counted twice", context do
        %{name: name, faults: faults, opts: opts} = context
        # So soon that an increment which comes during a second try does not wait for long.
        start!(name, [commit_after: 500] ++ opts)
        :ok = ReadStates.load(name, [1])
        :ok = ReadStates.ack(name, 1, 11, 100)
        :ok = ReadStates.commit(name)

        FaultyStore.set(faults, :commit, unquote(fault))
        :ok = ReadStates.increment(name, [1, 2], 10, 5)
        :ok = ReadStates.delete(name, 1, 11)
        assert ReadStates.commit(name) == {:error, :store_unavailable}
        :ok = ReadStates.increment(name, [1, 2], 10, 6)
        assert ReadStates.total(name, 1) == {:ok, 2}
        FaultyStore.set(faults, :commit, nil)

        # Nobody asks for it.
        await_clean(name)
        expected = %{1 => %{{0, 10} => row(0, 2)}, 2 => %{{0, 10} => row(0, 2)}}
        assert stored(name) == expected
        commit_and_evict!(name)
        assert read(name, [1, 2]) == expected
      end
    end

    test "of one user keeps nobody else's from being committed", context do
      %{name: name, faults: faults, opts: opts} = context
      start!(name, [commit_after: 100] ++ opts)
      :ok = ReadStates.load(name, Enum.to_list(1..1_000))
      FaultyStore.set(faults, :commit, {:of, [7, 700], {:return, {:error, :too_large}}})
      :ok = ReadStates.increment(name, Enum.to_list(1..1_000), 10, 5)
      eventually(fn -> map_size(stored(name)) == 998 end)
      eventually(fn -> ReadStates.stats(name).dirty_users == 2 end)

      # And so it goes on.
      :ok = ReadStates.increment(name, Enum.to_list(1..1_000), 10, 6)

      eventually(fn ->
        Enum.count(stored(name), &match?({_, %{{0, 10} => {0, %{mention_count: 2}}}}, &1)) == 998
      end)

      FaultyStore.set(faults, :commit, nil)
      await_clean(name)
      assert stored(name) == Map.new(1..1_000, &{&1, %{{0, 10} => row(0, 2)}})
    end

    test "because users with pending operations cannot be loaded", context do
      %{name: name, faults: faults, opts: opts} = context
      start!(name, opts)
      FaultyStore.set(faults, :load, {:return, {:error, :away}})
      :ok = ReadStates.increment(name, 1, 10, 5)
      assert ReadStates.commit(name) == {:error, :store_unavailable}
      assert %{pending_operations: 1} = ReadStates.stats(name)
      FaultyStore.set(faults, :load, nil)
      await_clean(name)
      assert stored(name) == %{1 => %{{0, 10} => row(0, 1)}}
    end

    test "leaves reads of residents and writes alone", context do
      %{name: name, faults: faults, opts: opts} = context
      start!(name, [commit_after: 0] ++ opts)
      FaultyStore.set(faults, :commit, {:return, {:error, :away}})

      for message <- 1..1_000 do
        :ok = ReadStates.ack(name, 1, 10, message)
        assert {:ok, %{last_message_id: ^message}} = ReadStates.get(name, 1, 10)
      end

      FaultyStore.set(faults, :commit, nil)
      await_clean(name)
      assert stored(name) == %{1 => %{{0, 10} => row(1_000, 0)}}
    end

    test "is tried with pauses", %{name: name, faults: faults, opts: opts} do
      start!(name, [commit_after: 0] ++ opts)
      FaultyStore.set(faults, :commit, {:return, {:error, :away}})
      :ok = ReadStates.ack(name, 1, 10, 100)
      eventually(fn -> length(FaultyStore.calls(faults, :commit)) >= 3 end)
      FaultyStore.set(faults, :commit, nil)
      await_clean(name)
      assert length(FaultyStore.calls(faults, :commit)) < 50
    end
  end

  describe "a commit that" do
    for {what, fault} <- [
          {"comes twice", quote(do: :twice)},
          {"comes again after the next", quote(do: {:again, 200})},
          {"was given up and comes after the next", quote(do: {:late, 200})},
          {"takes a while", quote(do: {:slow, 50})}
        ] do
      test "#{what} changes nothing that is newer, and counts nothing twice", context do
        %{name: name, faults: faults, opts: opts} = context
        start!(name, opts)

        :ok =
          ReadStates.update(name, [{:ack, 1, 11, 100}, {:ack, 2, 11, 100}, {:ack, 3, 11, 100}])

        :ok = ReadStates.increment(name, [1, 2, 3], 10, 5)
        FaultyStore.set(faults, :commit, {:script, [unquote(fault), unquote(fault)]})
        assert ReadStates.commit(name) in [:ok, {:error, :store_unavailable}]
        assert ReadStates.increment(name, [1, 2], 10, 6) == :ok
        assert ReadStates.delete(name, 1, 11) == :ok
        assert ReadStates.delete(name, 3) == :ok
        assert eventually(fn -> ReadStates.commit(name) == :ok end)
        eventually(fn -> FaultyStore.late(faults) == 0 end)

        expected = %{
          1 => %{{0, 10} => row(0, 2)},
          2 => %{{0, 10} => row(0, 2), {0, 11} => row(100, 0)}
        }

        assert stored(name) == expected
        commit_and_evict!(name)
        assert read(name, 1..3) == expected
      end
    end
  end

  test "versions grow, and are above those of the store", %{
    name: name,
    faults: faults,
    opts: opts
  } do
    start!(name, opts)

    versions =
      for message <- 1..20 do
        FaultyStore.forget(faults)
        :ok = ReadStates.ack(name, 1, 10, message)
        if rem(message, 5) == 0, do: restart!(name, opts), else: :ok = ReadStates.commit(name)
        [[%{version: version}]] = FaultyStore.calls(faults, :commit)
        version
      end

    assert versions == Enum.sort(Enum.uniq(versions))

    # A store written by a machine whose clock is far ahead.
    ahead = List.last(versions) + 1_000_000_000_000
    {FaultyStore, faults: _, store: {Memory, data: data}} = opts[:store]
    {:ok, store, _floor} = Memory.open([data: data], %{name: name, counters: [:mention_count]})
    :ok = Memory.commit(store, ReadStates.Batch.new([{:delete, 1, {0, 10}, ahead}], 1))
    FaultyStore.forget(faults)
    restart!(name, opts)
    :ok = ReadStates.ack(name, 1, 10, 5)
    :ok = ReadStates.commit(name)
    assert [[%{version: version}]] = FaultyStore.calls(faults, :commit)
    assert version > ahead
    assert stored(name) == %{1 => %{{0, 10} => row(5, 0)}}
  end
end
