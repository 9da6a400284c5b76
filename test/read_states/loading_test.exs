defmodule ReadStates.LoadingTest do
  use ReadStates.InstanceCase, async: true

  import ExUnit.CaptureLog

  alias ReadStates.{Batch, Instance, Loader}

  defmodule WideStore do
    # One that is slow, and not busy.
    @behaviour ReadStates.Store
    defdelegate open(opts, context), to: FaultyStore
    defdelegate load(store, users, cursor), to: FaultyStore
    defdelegate commit(store, batch), to: FaultyStore
    defdelegate scan(store, cursor), to: FaultyStore
    defdelegate close(store), to: FaultyStore
    def loads_at_once, do: 4
  end

  setup %{name: name} do
    faults = start_faults!()
    store = faulty(faults)
    %{faults: faults, opts: [name: name, store: store]}
  end

  # An instance that finds `operations` in its store, and nothing in memory.
  defp start_with!(name, opts, operations) do
    start!(name, opts)
    :ok = ReadStates.update(name, operations)
    restart!(name, opts)
    FaultyStore.forget(opts[:store] |> elem(1) |> Keyword.fetch!(:faults))
  end

  defp loads_of(faults, user) do
    faults |> FaultyStore.calls(:load) |> List.flatten() |> Enum.count(&(&1 == user))
  end

  defp await_hanging(faults, calls \\ 1) do
    eventually(fn -> FaultyStore.hanging(faults, :load) >= calls end)
  end

  defp async_get(name, user), do: Task.async(fn -> ReadStates.get(name, user, 10) end)

  test "a reader of a user who is not resident waits for one load", context do
    %{name: name, faults: faults, opts: opts} = context
    start_with!(name, opts, [{:ack, 1, 10, 100}])

    FaultyStore.set(faults, :load, :hang)
    reader = async_get(name, 1)
    await_hanging(faults)
    assert Task.yield(reader, 50) == nil
    FaultyStore.set(faults, :load, nil)

    assert {:ok, %{last_message_id: 100}} = Task.await(reader, :infinity)
    assert {:ok, %{last_message_id: 100}} = ReadStates.get(name, 1, 10)
    assert {:ok, [_]} = ReadStates.list(name, 1)
    assert ReadStates.total(name, 1) == {:ok, 0}
    assert ReadStates.load(name, [1]) == :ok
    assert loads_of(faults, 1) == 1
  end

  test "1,000 readers of a user cause one load", context do
    %{name: name, faults: faults, opts: opts} = context
    start_with!(name, opts, [{:ack, 1, 10, 100}, {:increment, 1, 11, 1, 5}])

    FaultyStore.set(faults, :load, :hang)

    readers =
      for n <- 1..1_000 do
        Task.async(fn ->
          case rem(n, 4) do
            0 -> ReadStates.get(name, 1, 10)
            1 -> ReadStates.list(name, 1)
            2 -> ReadStates.total(name, 1)
            3 -> ReadStates.load(name, [1])
          end
        end)
      end

    # A load is not a read, so it is no miss.
    eventually(fn -> ReadStates.stats(name).misses == 750 end)
    await_hanging(faults)
    FaultyStore.set(faults, :load, nil)

    results = Task.await_many(readers, :infinity)
    assert Enum.count(results, &match?({:ok, %{last_message_id: 100}}, &1)) == 250
    assert Enum.count(results, &match?({:ok, [_, _]}, &1)) == 250
    assert Enum.count(results, &(&1 == {:ok, 5})) == 250
    assert Enum.count(results, &(&1 == :ok)) == 250
    assert loads_of(faults, 1) == 1
  end

  test "users who are wanted meanwhile are loaded together", context do
    %{name: name, faults: faults, opts: opts} = context
    start!(name, opts)

    FaultyStore.set(faults, :load, :hang)
    readers = for user <- 1..1_000, do: async_get(name, user)
    eventually(fn -> ReadStates.stats(name).misses == 1_000 end)
    FaultyStore.set(faults, :load, nil)

    for result <- Task.await_many(readers, :infinity), do: assert({:ok, _} = result)
    loads = FaultyStore.calls(faults, :load)
    assert loads |> List.flatten() |> Enum.sort() == Enum.to_list(1..1_000)
    # The first few go alone, four at a time in each of the two partitions.
    assert length(loads) < 50
  end

  test "load/2 makes many users resident in few calls", context do
    %{name: name, faults: faults, opts: opts} = context
    start_with!(name, opts, for(user <- 1..5_000, do: {:ack, user, 10, user}))

    assert ReadStates.load(name, Enum.to_list(1..5_000) ++ [1, 1]) == :ok
    assert ReadStates.load(name, []) == :ok
    assert ReadStates.stats(name).users == 5_000
    loads = FaultyStore.calls(faults, :load)
    assert length(List.flatten(loads)) == 5_000
    assert length(loads) < 100

    for user <- [1, 77, 5_000] do
      assert {:ok, %{last_message_id: ^user}} = ReadStates.get(name, user, 10)
    end

    assert length(FaultyStore.calls(faults, :load)) == length(loads)
  end

  test "a writer never waits for the store, and its operations are merged when it is back",
       context do
    %{name: name, faults: faults, opts: opts} = context

    start_with!(name, opts, [
      {:ack, 1, 10, 100},
      {:increment, 1, 10, 101, 1},
      {:ack, 1, 11, 100},
      {:ack, 2, 10, 100}
    ])

    FaultyStore.set(faults, :load, :hang)
    FaultyStore.set(faults, :commit, :hang)
    reader = async_get(name, 1)
    await_hanging(faults)

    assert ReadStates.increment(name, 1, 10, 100) == :ok
    assert ReadStates.increment(name, [1, 2, 3], 10, 105, by: 2) == :ok
    assert ReadStates.decrement(name, 1, 10, 105) == :ok
    assert ReadStates.delete(name, 1, 11) == :ok
    assert ReadStates.put(name, 1, 12, 7, mention_count: 9) == :ok
    assert ReadStates.ack(name, 1, 12, 8) == :ok
    assert ReadStates.update(name, [{:ack, 4, 10, 1}, {:delete, 4, 10}, {:ack, 4, 11, 1}]) == :ok
    assert ReadStates.delete(name, 2) == :ok
    assert Task.yield(reader, 0) == nil

    FaultyStore.set(faults, :load, nil)
    FaultyStore.set(faults, :commit, nil)

    expected = %{
      1 => %{{0, 10} => {100, %{mention_count: 2}}, {0, 12} => {8, %{mention_count: 0}}},
      3 => %{{0, 10} => {0, %{mention_count: 2}}},
      4 => %{{0, 11} => {1, %{mention_count: 0}}}
    }

    assert {:ok, %{last_message_id: 100, counters: %{mention_count: 2}}} =
             Task.await(reader, :infinity)

    assert read(name, 1..4) == expected
    :ok = ReadStates.commit(name)
    assert stored(name) == expected
  end

  test "residents are read and written while the store hangs", context do
    %{name: name, faults: faults, opts: opts} = context
    start_with!(name, opts, [{:ack, 1, 10, 100}])
    :ok = ReadStates.load(name, [1])
    FaultyStore.set(faults, :load, :hang)
    FaultyStore.set(faults, :commit, :hang)
    reader = async_get(name, 2)
    await_hanging(faults)

    for message <- 101..200 do
      :ok = ReadStates.ack(name, 1, 10, message)
      assert {:ok, %{last_message_id: ^message}} = ReadStates.get(name, 1, 10)
      assert {:ok, [%{last_message_id: ^message}]} = ReadStates.list(name, 1)
    end

    FaultyStore.set(faults, :load, nil)
    FaultyStore.set(faults, :commit, nil)
    assert {:ok, %{last_message_id: 0}} = Task.await(reader, :infinity)
  end

  test "the delete of a user makes him known, without a load", context do
    %{name: name, faults: faults, opts: opts} = context
    start_with!(name, opts, [{:ack, 1, 10, 100}])
    FaultyStore.set(faults, :load, {:return, {:error, :away}})
    :ok = ReadStates.increment(name, 1, 10, 200)
    :ok = ReadStates.delete(name, 1)
    assert ReadStates.list(name, 1) == {:ok, []}
    :ok = ReadStates.ack(name, 1, 11, 5)
    assert {:ok, [%{channel: 11}]} = ReadStates.list(name, 1)
    assert FaultyStore.calls(faults, :load) == []
    :ok = ReadStates.commit(name)
    assert stored(name) == %{1 => %{{0, 11} => {5, %{mention_count: 0}}}}
  end

  test "more than 64 pending operations call for a load", context do
    %{name: name, faults: faults, opts: opts} = context
    start!(name, opts)
    for message <- 1..64, do: :ok = ReadStates.increment(name, 1, 10, message)
    assert %{users: 0, pending_operations: 64} = ReadStates.stats(name)
    :ok = ReadStates.increment(name, 1, 10, 65)
    eventually(fn -> match?(%{users: 1, pending_operations: 0}, ReadStates.stats(name)) end)
    assert ReadStates.total(name, 1) == {:ok, 65}
    assert loads_of(faults, 1) == 1
  end

  test "very many pending operations are merged in their order", context do
    %{name: name, faults: faults, opts: opts} = context
    start!(name, opts)
    FaultyStore.set(faults, :load, :hang)
    model = %Model{}

    model =
      for n <- 1..20_000, reduce: model do
        model ->
          operation =
            case rem(n, 10) do
              0 -> {:delete, 1, rem(n, 7)}
              1 -> {:put, 1, rem(n, 7), n, mention_count: n}
              2 -> {:ack, 1, rem(n, 7), div(n, 2)}
              3 -> {:decrement, 1, rem(n, 7), n, 2}
              _ -> {:increment, 1, rem(n, 7), n, 1}
            end

          :ok = ReadStates.update(name, [operation])
          Model.operation(model, operation)
      end

    assert ReadStates.stats(name).pending_operations == 20_000
    FaultyStore.set(faults, :load, nil)
    assert ReadStates.list(name, 1) == {:ok, Model.list(model, 1)}
  end

  test "who read of an instance that is gone is not told that the next one of its name has the user",
       context do
    %{name: name, opts: opts} = context
    start!(name, opts)
    before = Instance.fetch!(name)
    restart!(name, opts)
    :ok = ReadStates.load(name, [1])

    for partition <- 0..1 do
      await = &Loader.await(&1, partition, [1], Loader.now() + 60_000)
      assert await.(Instance.fetch!(name)) == :ok
      assert await.(before) == {:error, :closed}
    end
  end

  describe "a load that takes longer than :load_timeout" do
    setup %{name: name, opts: opts} do
      opts = [load_timeout: 50] ++ opts
      start_with!(name, opts, [{:ack, 1, 10, 100}])
      :ok
    end

    test "is an error for who waits, and tried again", %{name: name, faults: faults} do
      FaultyStore.set(faults, :load, :hang)
      assert ReadStates.get(name, 1, 10) == {:error, :timeout}
      assert ReadStates.list(name, 1) == {:error, :timeout}
      assert ReadStates.total(name, 2) == {:error, :timeout}
      assert ReadStates.load(name, [1, 2, 3]) == {:error, :timeout}
      :ok = ReadStates.increment(name, 1, 10, 101)
      FaultyStore.set(faults, :load, nil)

      eventually(fn -> match?({:ok, %{last_message_id: 100}}, ReadStates.get(name, 1, 10)) end)
      assert eventually(fn -> ReadStates.load(name, [1, 2, 3]) == :ok end)
      assert ReadStates.total(name, 1) == {:ok, 1}
    end

    test "at the store's, is the same error, and of one of two stores too", context do
      %{name: name, faults: faults} = context

      for reason <- [{:timeout, "no answer"}, {:to, {:timeout, "no answer"}}] do
        FaultyStore.set(faults, :load, {:return, {:error, reason}})
        assert ReadStates.get(name, 2, 10) == {:error, :timeout}
      end
    end

    test "does not pile up calls at the store", %{name: name, faults: faults} do
      FaultyStore.set(faults, :load, :hang)
      readers = for user <- 1..5_000, do: async_get(name, user)

      # Two of each of the two partitions, those whose readers have given up included.
      await_hanging(faults, 4)

      for _ <- 1..50 do
        assert FaultyStore.hanging(faults, :load) == 4
        Process.sleep(5)
      end

      assert readers |> Task.await_many(:infinity) |> Enum.uniq() == [{:error, :timeout}]
      FaultyStore.set(faults, :load, nil)
      eventually(fn -> ReadStates.load(name, Enum.to_list(1..20)) == :ok end)
    end
  end

  test "readers who died while the store hangs are forgotten", context do
    %{name: name, faults: faults, opts: opts} = context
    start!(name, opts)
    FaultyStore.set(faults, :load, :hang)
    readers = for user <- 1..1_000, do: async_get(name, user)
    eventually(fn -> waiting(name) == {1_000, 1_000} end)
    {dead, [alive]} = Enum.split(readers, 999)
    Enum.each(dead, &Task.shutdown(&1, :brutal_kill))
    eventually(fn -> waiting(name) == {1, 1} end)
    FaultyStore.set(faults, :load, nil)
    assert {:ok, %{last_message_id: 0}} = Task.await(alive, :infinity)
    assert waiting(name) == {0, 0}
  end

  # How many callers wait, and for how many users.
  defp waiting(name) do
    for partition <- 0..(Instance.partitions() - 1), reduce: {0, 0} do
      {callers, users} ->
        state = :sys.get_state(Instance.loader(name, partition), :infinity)
        alone = for {_user, waiters} <- state.waiting, {_from, _deadline} <- waiters, do: :one
        {callers + length(alone) + map_size(state.callers), users + map_size(state.waiting)}
    end
  end

  describe "a store that fails:" do
    setup %{name: name, opts: opts} do
      start_with!(name, opts, [{:ack, 1, 10, 100}])
      :ok
    end

    for {what, fault} <- [
          {"with an error", quote(do: {:return, {:error, :away}})},
          {"with an exception", quote(do: {:do, fn -> raise "away" end})},
          {"with an exit", quote(do: {:do, fn -> exit(:away) end})},
          {"with a throw", quote(do: {:do, fn -> throw(:away) end})},
          {"by killing its caller", quote(do: {:do, fn -> Process.exit(self(), :kill) end})},
          {"with an answer that is none", quote(do: {:return, :nonsense})},
          {"with no batch", quote(do: {:return, {:ok, nil, nil}})},
          {"with a damaged batch", quote(do: {:return, {:ok, %Batch{binary: "RSB"}, nil}})}
        ] do
      test what, %{name: name, faults: faults} do
        fault = unquote(fault)
        FaultyStore.set(faults, :load, fault)
        :ok = ReadStates.increment(name, [1, 2], 10, 101)
        assert ReadStates.get(name, 1, 10) == {:error, :store_unavailable}
        assert ReadStates.load(name, [1, 2]) == {:error, :store_unavailable}
        :ok = ReadStates.increment(name, [1, 2], 10, 101)
        FaultyStore.set(faults, :load, nil)

        eventually(fn -> ReadStates.load(name, [1, 2]) == :ok end)
        assert ReadStates.total(name, 1) == {:ok, 2}
        assert ReadStates.total(name, 2) == {:ok, 2}
        assert {:ok, %{last_message_id: 100}} = ReadStates.get(name, 1, 10)
      end
    end

    test "whoever waited is told, and the next reader is served", %{name: name, faults: faults} do
      FaultyStore.set(faults, :load, :hang)
      readers = for user <- 1..100, do: async_get(name, user)
      eventually(fn -> ReadStates.stats(name).misses == 100 end)
      await_hanging(faults, 2)
      FaultyStore.set(faults, :load, {:return, {:error, :away}})
      results = Task.await_many(readers, :infinity)
      assert Enum.uniq(results) == [{:error, :store_unavailable}]
      FaultyStore.set(faults, :load, nil)
      assert {:ok, %{last_message_id: 100}} = ReadStates.get(name, 1, 10)
    end

    test "in the middle of a user's pages", %{name: name, faults: faults, opts: opts} do
      operations = for channel <- 1..25_000, do: {:ack, 5, channel, channel}
      :ok = ReadStates.update(name, operations)
      restart!(name, opts)
      test = self()

      # The third page fails.
      pages = :counters.new(1, [])

      FaultyStore.set(
        faults,
        :load,
        {:do,
         fn ->
           :counters.add(pages, 1, 1)
           send(test, {:page, :counters.get(pages, 1)})
           if :counters.get(pages, 1) == 3, do: raise("away")
         end}
      )

      assert ReadStates.list(name, 5) == {:error, :store_unavailable}
      assert_received {:page, 3}
      assert {:ok, states} = ReadStates.list(name, 5)
      assert Enum.map(states, & &1.channel) == Enum.to_list(1..25_000)
      assert Enum.map(states, & &1.last_message_id) == Enum.to_list(1..25_000)
    end
  end

  describe "users who cannot be loaded" do
    # All are written to, so that they are in one call to the store for each partition.
    defp start_all_due!(%{name: name, opts: opts}) do
      start_with!(name, opts, for(user <- 1..100, do: {:ack, user, 10, user}))
      for user <- 1..100, do: :ok = ReadStates.increment(name, user, 10, 1_000 + user)
    end

    defp away(users), do: {:of, users, {:return, {:error, :away}}}

    defp suspects(name) do
      for partition <- 0..(Instance.partitions() - 1), reduce: 0 do
        suspects ->
          state = :sys.get_state(Instance.loader(name, partition), :infinity)
          suspects + MapSet.size(state.suspects.users)
      end
    end

    defp users_in_memory(name), do: ReadStates.stats(name).users

    test "hold up nobody else whose operations are to be committed", context do
      %{name: name, faults: faults} = context
      start_all_due!(context)
      bad = [7, 8, 50, 51, 99]
      FaultyStore.set(faults, :load, away(bad))

      # What cannot be committed is an error still.
      assert ReadStates.commit(name) == {:error, :store_unavailable}
      eventually(fn -> users_in_memory(name) == 95 end)

      eventually(fn ->
        ReadStates.commit(name) != :ok and ReadStates.stats(name).dirty_users == 5
      end)

      # From now on they are tried alone, with pauses.
      FaultyStore.forget(faults)
      Process.sleep(1_000)
      loads = eventually(fn -> with [] <- FaultyStore.calls(faults, :load), do: nil end)
      assert Enum.all?(loads, &match?([_], &1)) and length(loads) < 50

      # And others who come are loaded in one call.
      FaultyStore.forget(faults)
      assert ReadStates.load(name, Enum.to_list(201..300)) == :ok
      assert Enum.count(FaultyStore.calls(faults, :load), &match?([_, _ | _], &1)) <= 10

      FaultyStore.set(faults, :load, nil)
      eventually(fn -> ReadStates.commit(name) == :ok end)
      for user <- bad, do: assert(ReadStates.total(name, user) == {:ok, 1})
    end

    test "are an error for who reads them, and for nobody else", context do
      %{name: name, faults: faults, opts: opts} = context
      start_with!(name, opts, for(user <- 1..100, do: {:ack, user, 10, user}))
      FaultyStore.set(faults, :load, :hang)
      readers = for user <- 1..100, do: {user, async_get(name, user)}
      eventually(fn -> ReadStates.stats(name).misses == 100 end)
      await_hanging(faults, 2)
      FaultyStore.set(faults, :load, away([7, 50]))

      for {user, reader} <- readers do
        case Task.await(reader, :infinity) do
          {:ok, %{last_message_id: ^user}} -> assert user not in [7, 50]
          {:error, :store_unavailable} -> assert user in [7, 50]
        end
      end

      assert ReadStates.load(name, [7]) == {:error, :store_unavailable}
      assert ReadStates.load(name, Enum.to_list(101..120)) == :ok
      FaultyStore.set(faults, :load, nil)
      assert {:ok, %{last_message_id: 7}} = ReadStates.get(name, 7, 10)
    end

    test "while one takes long, others are loaded", context do
      %{name: name, faults: faults} = context
      start_all_due!(context)
      FaultyStore.set(faults, :load, away([7]))
      assert ReadStates.commit(name) == {:error, :store_unavailable}
      eventually(fn -> users_in_memory(name) == 99 end)
      tried = fn -> Enum.count(FaultyStore.calls(faults, :load), &(&1 == [7])) end
      before = tried.()
      FaultyStore.set(faults, :load, {:of, [7], {:slow, 60_000}})
      eventually(fn -> tried.() > before end)

      for user <- 201..300, do: :ok = ReadStates.increment(name, user, 10, 1)
      commit = Task.async(fn -> ReadStates.commit(name) end)
      eventually(fn -> users_in_memory(name) == 199 end)
      assert ReadStates.load(name, Enum.to_list(301..400)) == :ok
      Task.shutdown(commit, :brutal_kill)
    end

    test "have pauses of their own, also if they were never loaded with others", context do
      %{name: name, faults: faults, opts: opts} = context
      start_with!(name, opts, [{:ack, 7, 10, 7}])
      :ok = ReadStates.increment(name, 7, 10, 1_007)
      FaultyStore.set(faults, :load, away([7]))
      assert ReadStates.commit(name) == {:error, :store_unavailable}
      eventually(fn -> suspects(name) == 1 end)
      FaultyStore.set(faults, :load, nil)
      eventually(fn -> ReadStates.commit(name) == :ok end)
      eventually(fn -> suspects(name) == 0 end)
    end

    test "are not suspected for an outage", context do
      %{name: name, faults: faults} = context
      start_all_due!(context)
      FaultyStore.set(faults, :load, {:return, {:error, :away}})
      assert ReadStates.commit(name) == {:error, :store_unavailable}
      assert ReadStates.load(name, Enum.to_list(1..100)) == {:error, :store_unavailable}
      FaultyStore.forget(faults)
      Process.sleep(1_000)
      # Of both partitions, and with growing pauses.
      assert length(FaultyStore.calls(faults, :load)) < 50
      FaultyStore.set(faults, :load, nil)
      eventually(fn -> ReadStates.commit(name) == :ok end)
      eventually(fn -> suspects(name) == 0 end)
    end
  end

  for {module, calls} <- [{FaultyStore, 4}, {WideStore, 8}] do
    test "#{calls} loads are under way at a time with #{inspect(module)}", context do
      %{name: name, faults: faults} = context
      {_module, opts} = faulty(faults)
      start!(name, store: {unquote(module), opts})
      FaultyStore.set(faults, :load, :hang)
      loads = for user <- 1..5_000, do: Task.async(fn -> ReadStates.load(name, [user]) end)
      eventually(fn -> length(FaultyStore.calls(faults, :load)) == unquote(calls) end)
      eventually(fn -> ReadStates.stats(name).load_queue > 2_000 end)
      assert length(FaultyStore.calls(faults, :load)) == unquote(calls)
      FaultyStore.set(faults, :load, nil)
      assert loads |> Task.await_many(:infinity) |> Enum.uniq() == [:ok]
    end
  end

  test "a store that fails every second time is not in the log each time", context do
    %{name: name, faults: faults, opts: opts} = context
    start!(name, opts)
    calls = :counters.new(1, [])

    every_second = fn ->
      :counters.add(calls, 1, 1)
      if rem(:counters.get(calls, 1), 2) == 1, do: raise("away")
    end

    FaultyStore.set(faults, :load, {:do, every_second})
    begun = System.monotonic_time(:millisecond)
    log = capture_log(fn -> for user <- 1..60, do: ReadStates.load(name, [user]) end)
    assert :counters.get(calls, 1) > 40
    lines = for line <- String.split(log, "\n"), line =~ inspect(name), do: line
    # Of two partitions, of who is loaded with others and alone.
    tens = div(System.monotonic_time(:millisecond) - begun, 10_000)
    assert length(lines) in 1..(4 * (tens + 1))
  end

  test "readers, however many, do not keep users from being loaded whose operations are to be committed",
       context do
    %{name: name, faults: faults, opts: opts} = context
    start!(name, opts)
    FaultyStore.set(faults, :load, :hang)
    loads = for user <- 1..5_000, do: Task.async(fn -> ReadStates.load(name, [user]) end)
    eventually(fn -> ReadStates.stats(name).load_queue > 3_500 end)
    # Of both partitions.
    due = Enum.to_list(10_001..10_020)
    :ok = ReadStates.increment(name, due, 10, 1)
    commit = Task.async(fn -> ReadStates.commit(name) end)
    eventually(fn -> flushes(name) == [1, 1] end)
    FaultyStore.set(faults, :load, nil)
    assert [commit | loads] |> Task.await_many(:infinity) |> Enum.uniq() == [:ok]

    # The queue was never empty, and their turn came all the same.
    last = faults |> FaultyStore.calls(:load) |> List.last()
    assert Enum.filter(last, &(&1 in due)) == []
  end

  test "users are answered who have come together, and alone, and twice", context do
    %{name: name, faults: faults, opts: opts} = context
    start!(name, opts)
    FaultyStore.set(faults, :load, :hang)

    lists =
      for(user <- 1..100, do: [user]) ++ for(user <- 1..99, do: [user, user + 1]) ++ [[1, 1]]

    loads = for users <- lists ++ lists, do: Task.async(fn -> ReadStates.load(name, users) end)
    await_hanging(faults)
    # Those who have died, and those who wait beside them.
    {dead, alive} = Enum.split(Enum.shuffle(loads), 50)
    for load <- dead, do: Task.shutdown(load, :brutal_kill)
    eventually(fn -> elem(waiting(name), 0) == length(alive) end)
    FaultyStore.set(faults, :load, nil)
    assert alive |> Task.await_many(:infinity) |> Enum.uniq() == [:ok]
    eventually(fn -> waiting(name) == {0, 0} end)
  end

  test "what the lists of very many who waited took is given back", context do
    %{name: name, faults: faults, opts: opts} = context
    start!(name, opts)
    loaders = for partition <- 0..1, do: Process.whereis(Instance.loader(name, partition))
    memory = fn -> loaders |> Enum.map(&elem(Process.info(&1, :memory), 1)) |> Enum.sum() end
    FaultyStore.set(faults, :load, :hang)
    loads = for user <- 1..40_000, do: Task.async(fn -> ReadStates.load(name, [user]) end)
    eventually(fn -> memory.() > 5_000_000 end)
    FaultyStore.set(faults, :load, nil)
    assert loads |> Task.await_many(:infinity) |> Enum.uniq() == [:ok]
    eventually(fn -> memory.() < 2_000_000 end)
  end

  test "past 100,000 users who wait, reads are refused, and writes are not", context do
    %{name: name, faults: faults, opts: opts} = context
    start!(name, opts)
    FaultyStore.set(faults, :load, :hang)

    load = fn n ->
      Task.async(fn -> ReadStates.load(name, Enum.to_list((n * 1_000)..(n * 1_000 + 999))) end)
    end

    # Those in a call to the store wait no longer in the queue.
    first = Enum.map(1..4, load)
    await_hanging(faults, 4)
    rest = Enum.map(5..105, load)
    eventually(fn -> ReadStates.stats(name).load_queue >= 100_000 end)
    assert ReadStates.get(name, 1, 10) == {:error, :overloaded}
    assert ReadStates.list(name, 1) == {:error, :overloaded}
    assert ReadStates.total(name, 1) == {:error, :overloaded}
    assert ReadStates.load(name, [1]) == {:error, :overloaded}
    assert ReadStates.increment(name, 1, 10, 5) == :ok

    FaultyStore.set(faults, :load, nil)
    results = (first ++ rest) |> Task.await_many(:infinity) |> Enum.frequencies()
    assert Map.keys(results) -- [:ok, {:error, :overloaded}] == []
    assert results[:ok] >= 50
    assert ReadStates.total(name, 1) == {:ok, 1}
    eventually(fn -> ReadStates.stats(name).load_queue == 0 end)
  end
end
