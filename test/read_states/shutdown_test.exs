defmodule ReadStates.ShutdownTest do
  use ReadStates.InstanceCase, async: true

  import ExUnit.CaptureLog

  @moduletag :tmp_dir

  @operations for(user <- 1..100, channel <- 1..5, do: {:ack, user, channel, user + channel}) ++
                for(user <- 1..100//3, do: {:increment, user, 1, 1_000, 2}) ++
                for(user <- 1..100//5, do: {:delete, user, 2}) ++ [{:delete, 7}]
  @content Model.update(%Model{}, @operations).users

  defp local(tmp_dir), do: {Local, path: Path.join(tmp_dir, "store")}

  # Not started again by the supervisor of the test.
  defp start_temporary!(name, opts) do
    start_supervised!({ReadStates, options(name, opts)}, restart: :temporary)
  end

  # What is left of an instance that could not commit is for the next start: the last one of a test is to be clean.
  defp clean(name, opts) do
    FaultyStore.set(opts[:store] |> elem(1) |> Keyword.fetch!(:faults), :commit, nil)
    eventually(fn -> ReadStates.commit(name) == :ok end)
    stop!(name)
  end

  test "after a stop and a start on the same path everything is there", context do
    %{name: name, tmp_dir: tmp_dir} = context
    opts = [store: local(tmp_dir)]
    start!(name, opts)
    # Half resident, half pending.
    :ok = ReadStates.load(name, Enum.to_list(1..50))
    :ok = ReadStates.update(name, @operations)

    for _ <- 1..3 do
      restart!(name, opts)
      assert stored(name) == @content
      assert read(name, 1..100) == @content
    end
  end

  test "a stopped instance is gone, and its directory free", %{name: name, tmp_dir: tmp_dir} do
    start!(name, store: local(tmp_dir))
    :ok = ReadStates.ack(name, 1, 10, 100)
    stop!(name)

    for call <- [
          fn -> ReadStates.ack(name, 1, 10, 100) end,
          fn -> ReadStates.get(name, 1, 10) end,
          fn -> ReadStates.commit(name) end,
          fn -> ReadStates.stats(name) end
        ] do
      assert_raise ArgumentError, ~r/^name must be that of a running instance/, call
    end

    other = Module.concat(name, "other")
    start!(other, store: local(tmp_dir))
    assert {:ok, %{last_message_id: 100}} = ReadStates.get(other, 1, 10)
  end

  test "one that is killed while it closes leaves no closed store to the next", %{name: name} do
    faults = start_faults!()
    store = faulty(faults)
    start_temporary!(name, store: store)
    test = self()
    hang = fn -> send(test, {:closed, self()}) && Process.sleep(:infinity) end
    FaultyStore.set(faults, :close, {:then_do, hang})
    :ok = ReadStates.ack(name, 1, 10, 100)
    stop = Task.async(fn -> Supervisor.stop(name) end)
    assert_receive {:closed, keeper}, 60_000
    Process.exit(keeper, :kill)
    Task.await(stop)

    FaultyStore.set(faults, :close, nil)
    stop_supervised({ReadStates, name})
    start!(name, store: store)
    :ok = ReadStates.ack(name, 1, 10, 101)
    assert ReadStates.commit(name) == :ok
    assert stored(name) == Model.update(%Model{}, [{:ack, 1, 10, 101}]).users
  end

  test "while it shuts down writes are refused, and reads answered", %{name: name} do
    faults = start_faults!()
    start_temporary!(name, store: faulty(faults))
    :ok = ReadStates.load(name, [1])
    :ok = ReadStates.ack(name, 1, 10, 100)
    FaultyStore.set(faults, :commit, :hang)
    stop = Task.async(fn -> Supervisor.stop(name) end)
    eventually(fn -> FaultyStore.hanging(faults, :commit) == 1 end)

    assert ReadStates.ack(name, 1, 10, 101) == {:error, :closed}
    assert ReadStates.update(name, [{:ack, 1, 10, 101}]) == {:error, :closed}
    assert ReadStates.increment(name, [1, 2], 10, 101) == {:error, :closed}
    assert ReadStates.delete(name, 1) == {:error, :closed}
    assert {:ok, %{last_message_id: 100}} = ReadStates.get(name, 1, 10)
    assert {:ok, %{last_message_id: 0}} = ReadStates.get(name, 2, 10)
    commit = Task.async(fn -> ReadStates.commit(name) end)
    # And who stops it.
    eventually(fn -> 2 in flushes(name) end)
    assert Task.yield(stop, 50) == nil

    FaultyStore.set(faults, :commit, nil)
    assert Task.await(stop, :infinity) == :ok
    assert Task.await(commit, :infinity) in [:ok, {:error, :closed}]
    assert [[%{user: 1, last_message_id: 100}]] = FaultyStore.calls(faults, :commit)
  end

  test "who waits for a load when it stops is told so, and does not wait for :load_timeout", %{
    name: name
  } do
    faults = start_faults!()
    start_temporary!(name, store: faulty(faults), load_timeout: 600_000)
    FaultyStore.set(faults, :load, :hang)
    reads = [&ReadStates.get(&1, 1, 10), &ReadStates.list(&1, 2), &ReadStates.load(&1, [3, 4])]
    reads = for read <- reads, do: Task.async(fn -> read.(name) end)
    eventually(fn -> FaultyStore.hanging(faults, :load) > 0 end)
    :ok = Supervisor.stop(name)
    for read <- reads, do: assert(Task.await(read) == {:error, :closed})
  end

  test "writers at the time of the stop lose nothing that was accepted", context do
    %{name: name, tmp_dir: tmp_dir} = context
    opts = [store: local(tmp_dir)]
    start_temporary!(name, opts)
    test = self()

    writers =
      for user <- 1..8 do
        Task.async(fn ->
          Stream.iterate(1, &(&1 + 1))
          |> Enum.find(fn message ->
            if message == 100, do: send(test, :started)

            try do
              ReadStates.update(name, [{:ack, user, 1, message}, {:ack, user, 2, message}]) != :ok
            rescue
              ArgumentError -> true
            end
          end)
        end)
      end

    for _ <- writers, do: assert_receive(:started, 60_000)
    :ok = Supervisor.stop(name)
    refused = Task.await_many(writers, :infinity)
    start!(Module.concat(name, "again"), opts)

    for {message, user} <- Enum.with_index(refused, 1) do
      states = read(Module.concat(name, "again"), [user])
      state = {message - 1, %{mention_count: 0}}
      assert states == %{user => %{{0, 1} => state, {0, 2} => state}}
    end
  end

  describe "when the supervisor is killed" do
    for {what, store} <- [memory: Memory, local: Local] do
      test "the next one takes up the live engine (#{what})", context do
        %{name: name, tmp_dir: tmp_dir} = context
        store = if unquote(store) == Memory, do: Memory, else: local(tmp_dir)
        start!(name, store: store)
        :ok = ReadStates.load(name, Enum.to_list(1..50))
        :ok = ReadStates.update(name, Enum.take(@operations, 300))
        %{dirty_users: dirty, pending_operations: pending} = ReadStates.stats(name)
        assert dirty > 0 and pending > 0

        for operation <- Enum.drop(@operations, 300) do
          if :rand.uniform(40) == 1, do: kill(name)
          # Also while there is no supervisor.
          assert ReadStates.update(name, [operation]) == :ok
        end

        kill(name)
        eventually(fn -> Process.whereis(name) end)
        assert read(name, 1..100) == @content
        assert eventually(fn -> ReadStates.commit(name) == :ok end)
        assert stored(name) == @content
        stop!(name)
      end
    end

    defp kill(name) do
      if pid = Process.whereis(name) do
        monitor = Process.monitor(pid)
        Process.exit(pid, :kill)
        assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, 60_000
      end
    end

    test "residents are read and written without any process", %{name: name} do
      start_temporary!(name, [])
      :ok = ReadStates.load(name, [1])
      kill(name)
      assert ReadStates.ack(name, 1, 10, 100) == :ok
      assert ReadStates.increment(name, 2, 10, 100) == :ok
      assert {:ok, %{last_message_id: 100}} = ReadStates.get(name, 1, 10)
      start!(name)
      assert ReadStates.total(name, 2) == {:ok, 1}
      assert {:ok, %{last_message_id: 100}} = ReadStates.get(name, 1, 10)
    end

    test "a start with other bounds and timeouts takes the engine up too", %{name: name} do
      start_temporary!(name, capacity: 100)
      :ok = ReadStates.ack(name, 1, 10, 100)
      kill(name)
      start!(name, capacity: 50, load_timeout: 30_000)
      assert %{capacity: 50} = ReadStates.stats(name)
      assert {:ok, %{last_message_id: 100}} = ReadStates.get(name, 1, 10)
    end

    test "a start with another store or other counters waits until all is committed", %{
      name: name
    } do
      start_temporary!(name, [])
      :ok = ReadStates.ack(name, 1, 10, 100)
      kill(name)

      for other <- [
            [counters: [:replies]],
            [store: {Memory, data: Memory.new()}],
            [commit_after: 7]
          ] do
        assert {:error, {{:uncommitted, %{users: 1}}, _child}} =
                 start_supervised({ReadStates, options(name, other)})
      end

      start_temporary!(name, [])
      :ok = ReadStates.commit(name)
      kill(name)
      start!(name, counters: [:replies])
      assert {:ok, %{counters: %{replies: 0}, last_message_id: 0}} = ReadStates.get(name, 1, 10)
    end
  end

  describe "a stop while the store is away" do
    for {what, fault} <- [fails: {:return, {:error, :away}}, hangs: :hang] do
      test "(it #{what}) keeps what is uncommitted for the next start", %{name: name} do
        faults = start_faults!()
        opts = [store: faulty(faults), drain_timeout: 300]
        start!(name, opts)
        :ok = ReadStates.load(name, Enum.to_list(1..50))
        FaultyStore.set(faults, :load, unquote(Macro.escape(fault)))
        FaultyStore.set(faults, :commit, unquote(Macro.escape(fault)))
        :ok = ReadStates.update(name, @operations)

        log = capture_log(fn -> stop!(name) end)
        assert log =~ inspect(name) <> " has stopped with uncommitted read states of 100 users"
        assert log =~ "lost with the VM"
        assert log =~ inspect(name) <> " could not commit everything"
        assert_raise ArgumentError, fn -> ReadStates.stats(name) end
        assert length(FaultyStore.calls(faults, :close)) == 1

        # Another time.
        start!(name, opts)
        :ok = ReadStates.ack(name, 500, 10, 100)
        log = capture_log(fn -> stop!(name) end)
        assert log =~ inspect(name) <> " has stopped with uncommitted read states of 101 users"

        FaultyStore.set(faults, :load, nil)
        FaultyStore.set(faults, :commit, nil)
        start!(name, opts)
        assert read(name, 1..100) == @content
        :ok = ReadStates.commit(name)
        assert Map.delete(stored(name), 500) == @content
        refute capture_log(fn -> stop!(name) end) =~ inspect(name)
      end
    end

    test "says that they are in the journal, where there is one", context do
      %{name: name, tmp_dir: tmp_dir} = context
      faults = start_faults!()
      journal = Path.join(tmp_dir, "journal")
      opts = [store: faulty(faults), journal: [path: journal], drain_timeout: 50]
      start!(name, opts)
      FaultyStore.set(faults, :commit, {:return, {:error, :away}})
      :ok = ReadStates.ack(name, 1, 10, 100)
      log = capture_log(fn -> stop!(name) end)

      assert log =~
               "has stopped with uncommitted read states of 1 users. They are in its journal in"

      refute log =~ "lost with the VM"
      start!(name, opts)
      clean(name, opts)
    end

    test "does not mix with an instance that is started with other options", %{name: name} do
      faults = start_faults!()
      opts = [store: faulty(faults), drain_timeout: 50]
      start!(name, opts)
      FaultyStore.set(faults, :commit, {:return, {:error, :away}})
      :ok = ReadStates.delete(name, 1)
      :ok = ReadStates.ack(name, 1, 10, 100)
      stop!(name)

      assert {:error, {{:uncommitted, %{users: 1, options: %{name: ^name}}}, _child}} =
               start_supervised({ReadStates, options(name, counters: [:replies])})

      start!(name, opts)
      assert {:ok, %{last_message_id: 100}} = ReadStates.get(name, 1, 10)
      clean(name, opts)
      start!(name, counters: [:replies])
      assert ReadStates.list(name, 1) == {:ok, []}
    end

    test "that is back before :drain_timeout loses no time and nothing", %{name: name} do
      faults = start_faults!()
      opts = [store: faulty(faults)]
      start_temporary!(name, opts)
      FaultyStore.set(faults, :commit, {:return, {:error, :away}})
      :ok = ReadStates.update(name, @operations)
      stop = Task.async(fn -> Supervisor.stop(name) end)
      eventually(fn -> FaultyStore.calls(faults, :commit) != [] end)
      FaultyStore.set(faults, :commit, nil)
      assert Task.await(stop, :infinity) == :ok
      start!(name, opts)
      assert %{dirty_users: 0} = ReadStates.stats(name)
      assert stored(name) == @content
    end
  end

  test "a store that cannot be opened is an error, and leaves nothing behind", %{name: name} do
    faults = start_faults!()
    opts = [store: faulty(faults)]
    FaultyStore.set(faults, :open, {:return, {:error, :away}})
    assert {:error, {:away, _child}} = start_supervised({ReadStates, options(name, opts)})
    assert_raise ArgumentError, fn -> ReadStates.stats(name) end
    FaultyStore.set(faults, :open, nil)
    start!(name, opts)
    assert ReadStates.ack(name, 1, 10, 100) == :ok
  end
end
