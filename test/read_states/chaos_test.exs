defmodule ReadStates.ChaosTest do
  use ReadStates.InstanceCase, async: true

  # Calls from 50 processes while the processes of the instance are killed in turn, or the store fails at random, with
  # room for a tenth of the read states. Each process has users of its own, so it knows what every read has to return.

  alias ReadStates.{Call, Instance}

  @moduletag timeout: 600_000
  @moduletag :tmp_dir

  @processes 50
  @users 8
  @channels 50
  @capacity div(@processes * @users * @channels, 10)

  # With what, how many calls of each process, and how many calls at most between two kills.
  for {what, journal, calls, pause} <- [
        {"without a journal", false, 4_000, 400},
        {"with a journal", [], 4_000, 400},
        {"with a journal whose sync each write waits for", [sync_every: 0], 800, 100}
      ],
      store <- [Memory, Local],
      # A journal is of any store, and here of the one that has it by default.
      journal == false == (store == Memory) do
    test "nothing is lost with processes that are killed, on #{inspect(store)} #{what}",
         %{name: name, tmp_dir: tmp_dir} do
      opts =
        case unquote(store) do
          Memory -> [data: Memory.new()]
          Local -> [path: Path.join(tmp_dir, "store")]
        end

      opts = [store: {unquote(store), opts}, journal: unquote(journal)]

      killed =
        run(name, opts, unquote(calls), fn calls ->
          victims = [name, :task | Map.keys(processes(name))]
          kill(name, Stream.cycle(victims), calls, unquote(pause))
        end)

      journaling = if unquote(journal), do: [:syncer, :archivist], else: []
      roles = [:keeper, :steward, :drainer, :tasks | journaling]
      parts = for partition <- 0..1, role <- [:loader, :committer], do: {role, partition}

      expected =
        for(role <- roles, do: apply(Instance, role, [name])) ++
          for {role, partition} <- parts, do: apply(Instance, role, [name, partition])

      # Of each as often as of the others.
      assert Enum.sort(Map.keys(killed)) == Enum.sort([name, :task | expected])
      assert Enum.filter(killed, fn {_process, times} -> times < 5 end) == []
    end
  end

  test "nothing is lost with a store that fails, and no process dies of it", %{name: name} do
    faults = start_faults!()

    {before, afterwards} =
      run(name, [store: faulty(faults)], 4_000, fn calls ->
        before = processes(name)
        fail(faults, calls)
        {before, processes(name)}
      end)

    assert before == afterwards
  end

  # `disturb` is called with the counter of the calls.
  defp run(name, opts, calls_each, disturb) do
    opts = [capacity: @capacity, commit_after: 200, counters: [:mention_count, :replies]] ++ opts
    start!(name, opts)
    calls = :counters.new(1, [])
    disturber = Task.async(fn -> disturb.(calls) end)

    models =
      1..@processes
      |> Enum.map(&Task.async(fn -> work(name, &1, calls, calls_each) end))
      |> Task.await_many(:infinity)

    assert :counters.get(calls, 1) == @processes * calls_each
    send(disturber.pid, :stop)
    disturbed = Task.await(disturber, :infinity)
    assert ReadStates.stats(name).evictions > 100

    expected = models |> Enum.map(& &1.users) |> Enum.reduce(&Map.merge/2)
    assert eventually(fn -> ReadStates.commit(name) == :ok end)
    assert stored(name) == expected
    assert read(name, users()) == expected

    restart!(name, opts)
    assert read(name, users()) == expected
    disturbed
  end

  # Those below the supervisor, by name, but who takes the journal up, and ends some time.
  defp processes(name) do
    for {_id, pid, _type, _modules} <- Supervisor.which_children(name),
        is_pid(pid),
        {:registered_name, process} <- [Process.info(pid, :registered_name)],
        process != Instance.recoverer(name),
        into: %{},
        do: {process, pid}
  end

  # Until told to stop: calls fail at random, and now and then they hang.
  defp fail(faults, calls) do
    for call <- [:load, :commit] do
      FaultyStore.set(
        faults,
        call,
        {:random, {ExUnit.configuration()[:seed], :counters.get(calls, 1), 0}}
      )
    end

    stop? = stop?(calls, 1_000)
    for call <- [:load, :commit], do: FaultyStore.set(faults, call, Enum.random([nil, :hang]))
    Process.sleep(:rand.uniform(5))
    for call <- [:load, :commit], do: FaultyStore.set(faults, call, nil)
    unless stop?, do: fail(faults, calls)
  end

  # Until told to stop; returns how often each was killed.
  defp kill(name, victims, calls, pause) do
    Enum.reduce_while(victims, %{}, fn process, killed ->
      with false <- stop?(calls, pause),
           pid when is_pid(pid) <- await_victim(name, process) do
        Process.exit(pid, :kill)
        {:cont, Map.update(killed, process, 1, &(&1 + 1))}
      else
        _told_to_stop -> {:halt, killed}
      end
    end)
  end

  # Calls to the store are short, and few where a machine has much else to do. Nil if told to stop before there is one.
  defp await_victim(name, process) do
    with nil <- find(name, process) do
      receive do
        :stop -> nil
      after
        1 -> await_victim(name, process)
      end
    end
  end

  # Waits until up to so many calls more have returned, so that on a slow machine too there is time to recover.
  defp stop?(calls, most), do: await(calls, :counters.get(calls, 1) + :rand.uniform(most))

  defp await(calls, target) do
    receive do
      :stop -> true
    after
      1 -> if :counters.get(calls, 1) < target, do: await(calls, target), else: false
    end
  end

  # A call to the store.
  defp find(name, :task) do
    case Task.Supervisor.children(Instance.tasks(name)) do
      [] -> nil
      tasks -> Enum.random(tasks)
    end
  catch
    :exit, _reason -> nil
  end

  defp find(_name, process), do: Process.whereis(process)

  defp users, do: Enum.flat_map(1..@processes, &users/1)
  defp users(process), do: Enum.map(1..@users, &user(process, &1))

  # Half of them are bignums.
  defp user(process, number) when rem(number, 2) == 0, do: process * 1_000 + number
  defp user(process, number), do: @max - process * 1_000 - number

  # The model of the process's users after all its calls.
  defp work(name, process, calls, calls_each) do
    :rand.seed(:exsss, {ExUnit.configuration()[:seed], process, 0})

    for n <- 1..calls_each, reduce: %Model{names: [:mention_count, :replies]} do
      model ->
        # Gives others a turn.
        if rem(n, 50) == 0, do: Process.sleep(:rand.uniform(20))
        model = call(:rand.uniform(20), name, process, model)
        :counters.add(calls, 1, 1)
        model
    end
  end

  defp call(1, name, process, model) do
    user = user(process)
    assert answer(fn -> ReadStates.list(name, user) end) == Model.list(model, user)
    model
  end

  defp call(2, name, process, model) do
    {user, counter} = {user(process), counter()}

    assert answer(fn -> ReadStates.total(name, user, counter) end) ==
             Model.total(model, user, counter)

    model
  end

  defp call(n, name, process, model) when n in 3..5 do
    {user, channel} = {user(process), channel()}

    assert answer(fn -> ReadStates.get(name, user, channel) end) ==
             Model.get(model, user, channel)

    model
  end

  defp call(6, name, process, model) do
    operations = for _ <- 1..:rand.uniform(20), do: operation(process)
    assert ReadStates.update(name, operations) == :ok
    Model.update(model, operations)
  end

  defp call(7, name, process, model) do
    users = for _ <- 1..3, do: user(process)
    {channel, message} = {channel(), :rand.uniform(1_000)}
    assert ReadStates.increment(name, users, channel, message) == :ok
    Model.update(model, for(user <- users, do: {:increment, user, channel, message, 1}))
  end

  defp call(8, name, process, model) do
    # Documented are these answers, and no others.
    case :rand.uniform(20) do
      1 ->
        failed = for reason <- [:store_unavailable, :journal_failed], do: {:error, reason}
        assert ReadStates.commit(name) in [:ok | failed]

      _ ->
        assert answer(fn -> with :ok <- ReadStates.load(name, users(process)), do: {:ok, :ok} end) ==
                 :ok
    end

    model
  end

  defp call(_n, name, process, model) do
    operation = operation(process)
    assert Call.carry_out(name, operation) == :ok
    Model.operation(model, operation)
  end

  # Who kills a call to the store makes it fail.
  defp answer(read) do
    case read.() do
      {:ok, answer} -> answer
      {:error, :store_unavailable} -> answer(read)
      # On a machine that is busy with something else.
      {:error, :timeout} -> answer(read)
    end
  end

  defp operation(process) do
    {user, channel, message} = {user(process), channel(), :rand.uniform(1_000)}

    case :rand.uniform(200) do
      1 -> {:delete, user}
      n when n < 20 -> {:delete, user, channel}
      n when n < 60 -> {:ack, user, channel, message}
      n when n < 80 -> {:put, user, channel, message, %{counter() => n}}
      n when n < 100 -> {:decrement, user, channel, message, 1, counter()}
      _ -> {:increment, user, channel, message, 1, counter()}
    end
  end

  defp user(process), do: user(process, :rand.uniform(@users))
  defp channel, do: {Enum.random([0, 0, 0, 1, 255]), @max - :rand.uniform(@channels)}
  defp counter, do: Enum.random([:mention_count, :replies])
end
