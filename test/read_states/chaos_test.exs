defmodule ReadStates.ChaosTest do
  use ReadStates.InstanceCase, async: true

  # 200,000 calls from 50 processes while the processes of the instance are killed at random, or the store
  # fails at random, with room for a tenth of the read states. Each process has users of its own, so it knows what every
  # read has to return.

  alias ReadStates.Instance

  @moduletag timeout: 600_000
  @moduletag :tmp_dir

  @processes 50
  @calls 4_000
  @users 8
  @channels 50
  @capacity div(@processes * @users * @channels, 10)

  for store <- [Memory, Local] do
    test "nothing is lost with processes that are killed, on #{inspect(store)}", context do
      %{name: name, tmp_dir: tmp_dir} = context

      opts =
        case unquote(store) do
          Memory -> [data: Memory.new()]
          Local -> [path: Path.join(tmp_dir, "store")]
        end

      killed = run(name, {unquote(store), opts}, &kill(name, &1, %{}))
      for process <- [name, :task | Instance.processes(name)], do: assert(killed[process] > 0)
    end
  end

  test "nothing is lost with a store that fails", %{name: name} do
    faults = start_faults!()
    run(name, faulty(faults), &fail(faults, &1))
  end

  # `disturb` is called with the counter of the calls.
  defp run(name, store, disturb) do
    opts = [
      store: store,
      capacity: @capacity,
      commit_after: 200,
      counters: [:mention_count, :replies]
    ]

    start!(name, opts)
    calls = :counters.new(1, [])
    disturber = Task.async(fn -> disturb.(calls) end)

    models =
      1..@processes
      |> Enum.map(&Task.async(fn -> work(name, &1, calls) end))
      |> Task.await_many(:infinity)

    assert :counters.get(calls, 1) == 200_000
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
  defp kill(name, calls, killed) do
    if stop?(calls, 400) do
      killed
    else
      process = Enum.random([name, :task | Instance.processes(name)])
      killed? = if pid = find(name, process), do: Process.exit(pid, :kill)
      kill(name, calls, if(killed?, do: Map.update(killed, process, 1, &(&1 + 1)), else: killed))
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

  defp users, do: for(process <- 1..@processes, number <- 1..@users, do: user(process, number))

  # Half of them are bignums.
  defp user(process, number) when rem(number, 2) == 0, do: process * 1_000 + number
  defp user(process, number), do: @max - process * 1_000 - number

  # The model of the process's users after all its calls.
  defp work(name, process, calls) do
    :rand.seed(:exsss, {ExUnit.configuration()[:seed], process, 0})

    for n <- 1..@calls, reduce: %Model{names: [:mention_count, :replies]} do
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

  defp call(_n, name, process, model) do
    operation = operation(process)
    assert carry_out(name, operation) == :ok
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

  defp carry_out(name, {tag, user, channel, message, by, counter}) do
    apply(ReadStates, tag, [name, user, channel, message, [by: by, counter: counter]])
  end

  defp carry_out(name, operation) do
    [tag | arguments] = Tuple.to_list(operation)
    apply(ReadStates, tag, [name | arguments])
  end

  defp user(process), do: user(process, :rand.uniform(@users))
  defp channel, do: {Enum.random([0, 0, 0, 1, 255]), @max - :rand.uniform(@channels)}
  defp counter, do: Enum.random([:mention_count, :replies])
end
