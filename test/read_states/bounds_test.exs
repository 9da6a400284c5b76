defmodule ReadStates.BoundsTest do
  use ReadStates.InstanceCase, async: true

  alias ReadStates.Instance

  @mib 1024 * 1024
  @moduletag timeout: 300_000

  describe "the capacity" do
    test "is kept by evicting whole users, who come back as they were", %{name: name} do
      start!(name, capacity: 100, commit_after: 0)
      operations = for user <- 1..200, channel <- 1..10, do: {:ack, user, channel, user + channel}
      # A batch of one user is not committed, nor he evicted, in the middle of it.
      for some <- Enum.chunk_every(operations, 10), do: :ok = ReadStates.update(name, some)
      :ok = ReadStates.commit(name)
      eventually(fn -> ReadStates.stats(name).states <= 100 end)
      expected = Model.update(%Model{}, operations).users
      assert read(name, 1..200) == expected
      stats = ReadStates.stats(name)
      assert stats.states == 10 * stats.users
      assert stats.evicted_states == 10 * stats.evictions
    end

    test "counts a user without read states as one", %{name: name} do
      start!(name, capacity: 50)
      for user <- 1..1_000, do: {:ok, []} = ReadStates.list(name, user)
      assert %{users: users, evictions: evictions} = ReadStates.stats(name)
      assert users <= 50
      assert users + evictions == 1_000
    end

    test "is kept by evicting who was used longest ago, with eviction: :lru", %{name: name} do
      start!(name, capacity: 100, eviction: :lru)
      use_each = fn users -> for user <- users, do: {:ok, []} = ReadStates.list(name, user) end
      Enum.each([1..100, 1..50, 101..150], use_each)
      %{misses: misses} = ReadStates.stats(name)
      Enum.each([1..50, 101..150], use_each)
      assert %{misses: ^misses, evictions: 50, users: 100} = ReadStates.stats(name)
    end

    test "may be exceeded by what is not committed", %{name: name} do
      faults = start_faults!()
      start!(name, capacity: 10, store: faulty(faults), commit_after: 0)
      FaultyStore.set(faults, :commit, {:return, {:error, :away}})
      for user <- 1..500, do: :ok = ReadStates.ack(name, user, 10, user)
      :ok = ReadStates.load(name, Enum.to_list(1..500))
      assert %{users: 500, dirty_users: 500, pending_operations: 0} = ReadStates.stats(name)

      for user <- 1..500,
          do: assert({:ok, %{last_message_id: ^user}} = ReadStates.get(name, user, 10))

      FaultyStore.set(faults, :commit, nil)
      eventually(fn -> ReadStates.stats(name).users <= 10 end)
    end
  end

  test "commits make room in the dirty memory, long before they are due", %{name: name} do
    start!(name, dirty_memory: @mib, commit_after: 3_600_000)

    # Many times what there is room for.
    for user <- 1..20_000 do
      eventually(fn -> ReadStates.ack(name, user, 10, user) == :ok end)
    end
  end

  test "commits make room for a call that finds none, however little is dirty", %{name: name} do
    start!(name, dirty_memory: @mib, commit_after: 3_600_000)
    :ok = ReadStates.increment(name, Enum.to_list(1..1_000), 10, 1)
    assert ReadStates.stats(name).dirty_memory < div(@mib, 2)
    # There is room for so many, if there is nobody else.
    many = Enum.to_list(10_001..13_700)
    assert ReadStates.increment(name, many, 10, 1) == {:error, :overloaded}
    eventually(fn -> ReadStates.increment(name, many, 10, 1) == :ok end)
  end

  describe "a million users who do not exist" do
    # What the bounds allow, for shards and tables that are there before anybody comes.
    @memory 4 * @mib

    test "do not take more memory than allowed, when they are loaded", %{name: name} do
      start!(name, memory: @memory, dirty_memory: @mib)

      for million <- 1..10 do
        :ok =
          ReadStates.load(name, Enum.to_list((million * 100_000)..(million * 100_000 + 99_999)))

        assert ReadStates.stats(name).memory <= @memory + div(@memory, 4)
      end

      assert %{loads: loads} = ReadStates.stats(name)
      assert loads >= 1_000_000
    end

    test "do not take more memory than allowed, when they are read", %{name: name} do
      start!(name, memory: @memory, dirty_memory: @mib, capacity: 1_000)

      1..100
      |> Enum.map(fn n ->
        Task.async(fn ->
          for user <- (n * 1_000)..(n * 1_000 + 999) do
            {:ok, %{last_message_id: 0}} = ReadStates.get(name, user, 10)
          end
        end)
      end)
      |> Task.await_many(:infinity)

      eventually(fn -> ReadStates.stats(name).users <= 1_000 end)
      assert ReadStates.stats(name).memory <= @memory
    end
  end

  describe "the dirty memory" do
    setup %{name: name} do
      faults = start_faults!()
      start!(name, store: faulty(faults), memory: 16 * @mib, dirty_memory: @mib)
      %{faults: faults}
    end

    defp away(faults, fault \\ {:return, {:error, :away}}) do
      FaultyStore.set(faults, :load, fault)
      FaultyStore.set(faults, :commit, fault)
    end

    # Writes until nothing is accepted any more; what was accepted.
    defp fill(name, model, operations) do
      Enum.reduce_while(operations, model, fn operation, model ->
        case ReadStates.update(name, [operation]) do
          :ok -> {:cont, Model.operation(model, operation)}
          {:error, :overloaded} -> {:halt, model}
        end
      end)
    end

    for {what, fault} <- [fails: {:return, {:error, :away}}, hangs: :hang] do
      test "ends the writes when the store #{what}, and loses nothing", context do
        %{name: name, faults: faults} = context
        residents = for user <- 1..100, do: {:ack, user, 10, 100}
        :ok = ReadStates.update(name, residents)
        :ok = ReadStates.load(name, Enum.to_list(1..100))
        away(faults, unquote(Macro.escape(fault)))
        model = Model.update(%Model{}, residents)

        # Pending ones, and those on residents.
        pending = for user <- 1_000..100_000, do: {:increment, user, 10, 7, 1}
        model = fill(name, model, pending)
        assert map_size(model.users) in 1_000..99_000
        more = for channel <- 1..100_000, do: {:increment, 1, channel, 200, 1}
        model = fill(name, model, more)

        assert ReadStates.increment(name, 7_000_000, 10, 7) == {:error, :overloaded}
        assert ReadStates.ack(name, 7_000_000, 10, 7) == {:error, :overloaded}
        assert ReadStates.put(name, 7_000_000, 10, 7, []) == {:error, :overloaded}
        assert ReadStates.delete(name, 7_000_000) == {:error, :overloaded}
        batch = [{:ack, 2, 10, 500}, {:ack, 7_000_000, 10, 7}]
        assert ReadStates.update(name, batch) == {:error, :overloaded}
        users = Enum.to_list(7_000_000..7_000_100)
        assert ReadStates.increment(name, users, 10, 7) == {:error, :overloaded}
        stats = ReadStates.stats(name)
        assert stats.dirty_memory <= @mib
        assert stats.overloads >= 8

        # Residents are read on, and written where that takes no memory.
        for user <- 1..100 do
          assert ReadStates.list(name, user) == {:ok, Model.list(model, user)}
        end

        again = {:ack, 1, 10, 201}
        assert ReadStates.update(name, [again]) == :ok
        model = Model.operation(model, again)
        assert {:ok, %{last_message_id: 201}} = ReadStates.get(name, 1, 10)

        away(faults, nil)
        eventually(fn -> ReadStates.commit(name) == :ok end)
        assert %{dirty_users: 0, dirty_memory: 0} = ReadStates.stats(name)
        assert stored(name) == model.users
        assert read(name, Map.keys(model.users)) == model.users
        assert ReadStates.increment(name, users, 10, 7) == :ok
      end
    end

    test "refuses a batch as a whole", %{name: name, faults: faults} do
      away(faults)
      operations = for user <- 1..100_000, do: {:ack, user, 10, 7}
      assert ReadStates.update(name, operations) == {:error, :overloaded}
      assert %{dirty_users: 0, pending_operations: 0, dirty_memory: 0} = ReadStates.stats(name)
      assert ReadStates.update(name, Enum.take(operations, 1_000)) == :ok
      assert %{pending_operations: 1_000} = ReadStates.stats(name)
      away(faults, nil)
    end

    test "is not passed by many writers at once", %{name: name, faults: faults} do
      away(faults)

      models =
        1..20
        |> Enum.map(fn n ->
          operations = for user <- (n * 10_000)..(n * 10_000 + 9_999), do: {:ack, user, 10, 7}
          Task.async(fn -> fill(name, %Model{}, operations) end)
        end)
        |> Task.await_many(:infinity)

      assert ReadStates.stats(name).dirty_memory <= @mib
      away(faults, nil)
      eventually(fn -> ReadStates.commit(name) == :ok end)
      assert stored(name) == models |> Enum.map(& &1.users) |> Enum.reduce(&Map.merge/2)
    end
  end

  describe "the mailboxes" do
    # Callers come and go: some give up, some are killed, some wait. Returns the longest mailbox that was seen.
    defp come_and_go(name, callers, at_once) do
      1..callers
      |> Task.async_stream(
        fn n ->
          call =
            Task.async(fn ->
              case rem(n, 4) do
                0 -> ReadStates.get(name, n, 10)
                1 -> ReadStates.load(name, Enum.to_list(n..(n + 5)))
                2 -> ReadStates.commit(name)
                3 -> ReadStates.update(name, [{:ack, n, 10, n}, {:increment, n + 1, 10, n, 1}])
              end
            end)

          Task.yield(call, :rand.uniform(20)) || Task.shutdown(call, :brutal_kill)
          longest_mailbox(name)
        end,
        max_concurrency: at_once,
        timeout: :infinity
      )
      |> Enum.reduce(0, fn {:ok, longest}, most -> max(longest, most) end)
    end

    for {what, fault} <- [hangs: :hang, fails: {:return, {:error, :away}}] do
      @tag :tmp_dir
      test "hold no more than callers who are there when the store #{what}", context do
        %{name: name, tmp_dir: tmp_dir} = context
        faults = start_faults!()

        start!(name,
          store: faulty(faults),
          commit_after: 0,
          journal: [path: Path.join(tmp_dir, "journal"), sync_every: 10]
        )

        away(faults, unquote(Macro.escape(fault)))
        # What logs the failure is loaded.
        come_and_go(name, 100, 10)

        # Of callers who are there, of some who were killed a moment ago, and of the processes among themselves: not of all
        # who ever were. On a machine that is busy a moment is long.
        assert come_and_go(name, 10_000, 50) <= 6_000
        eventually(fn -> longest_mailbox(name) == 0 end)

        # Nor are they kept in another place.
        eventually(fn ->
          Enum.all?(0..(Instance.partitions() - 1), fn partition ->
            loader = :sys.get_state(Instance.loader(name, partition), :infinity)
            committer = :sys.get_state(Instance.committer(name, partition), :infinity)
            {loader.callers, loader.waiting, :queue.len(committer.flushes)} == {%{}, %{}, 0}
          end)
        end)

        away(faults, nil)
        assert eventually(fn -> ReadStates.commit(name) == :ok end)
      end
    end

    @tag :tmp_dir
    test "hold no wakes that pile up while the disk hangs", %{name: name, tmp_dir: tmp_dir} do
      start!(name, journal: [path: Path.join(tmp_dir, "journal")])
      archivist = Instance.archivist(name)
      :ok = :sys.suspend(archivist)

      for _ <- 1..50 do
        Instance.wake(Instance.fetch!(name))
        Process.sleep(10)
      end

      {:message_queue_len, length} = Process.info(Process.whereis(archivist), :message_queue_len)
      assert length <= 3
      :ok = :sys.resume(archivist)
    end
  end

  describe "resize/2" do
    test "evicts at once, and lets more in", %{name: name} do
      start!(name)
      :ok = ReadStates.load(name, Enum.to_list(1..1_000))
      for user <- 1..1_000, do: {:ok, []} = ReadStates.list(name, user)
      assert ReadStates.resize(name, capacity: 100) == :ok
      assert %{users: users, capacity: 100} = ReadStates.stats(name)
      assert users <= 100

      assert ReadStates.resize(name, capacity: 500, memory: 32 * @mib, dirty_memory: 2 * @mib) ==
               :ok

      assert %{capacity: 500, max_memory: 33_554_432, max_dirty_memory: 2_097_152} =
               ReadStates.stats(name)

      for user <- 1..1_000, do: {:ok, []} = ReadStates.list(name, user)
      assert ReadStates.stats(name).users in 400..500
    end

    test "leaves what is not named", %{name: name} do
      start!(name, capacity: 10, memory: 8 * @mib, dirty_memory: 2 * @mib)

      for opts <- [[], [capacity: 20], [memory: 9 * @mib], [dirty_memory: 3 * @mib]] do
        assert ReadStates.resize(name, opts) == :ok
      end

      assert %{capacity: 20, max_memory: 9_437_184, max_dirty_memory: 3_145_728} =
               ReadStates.stats(name)
    end

    test "of the dirty memory lets writers go on", %{name: name} do
      faults = start_faults!()
      start!(name, store: faulty(faults), dirty_memory: @mib)
      FaultyStore.set(faults, :load, :hang)
      operations = for user <- 1..10_000, do: {:ack, user, 10, 7}
      assert ReadStates.update(name, operations) == {:error, :overloaded}
      :ok = ReadStates.resize(name, dirty_memory: 64 * @mib)
      assert ReadStates.update(name, operations) == :ok
      FaultyStore.set(faults, :load, nil)
      :ok = ReadStates.commit(name)
      assert map_size(stored(name)) == 10_000
    end
  end
end
