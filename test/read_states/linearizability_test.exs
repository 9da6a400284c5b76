defmodule ReadStates.LinearizabilityTest do
  use ReadStates.InstanceCase, async: true

  # Many processes at a few users, with room for hardly any of them, so that they are evicted, loaded and committed all
  # the time: what the calls return has to be explained by an order in which they happened one after the other.

  alias ReadStates.{History, Instance}

  @moduletag timeout: 300_000
  @moduletag :tmp_dir

  @histories 200
  # At the same time: they get in each other's way.
  @at_once 4
  @capacity 4
  @users 3
  @messages 20
  @names [:mention_count, :replies]

  test "of an instance", %{name: name} do
    run(name, store: Memory)
  end

  test "with a store that takes its time", %{name: name} do
    faults = start_faults!()
    pause = {:do, fn -> Process.sleep(:rand.uniform(3) - 1) end}
    for call <- [:load, :commit], do: FaultyStore.set(faults, call, pause)
    run(name, store: faulty(faults))
  end

  test "with callers that are killed", %{name: name} do
    run(name, [store: Memory], [:caller])
  end

  test "with a journal, whose sync each write waits for, and callers that are killed", context do
    store = {Local, path: Path.join(context.tmp_dir, "store")}
    journal = [path: Path.join(context.tmp_dir, "journal"), sync_every: 0]
    run(context.name, [store: store, journal: journal], [:caller])
  end

  test "with a journal, and callers and processes of the instance that are killed", context do
    store = {Local, path: Path.join(context.tmp_dir, "store")}
    run(context.name, [store: store], [:caller, :instance])
  end

  # Who makes the calls also kills now and then: another who does, or a process of the instance.
  defp run(name, opts, victims \\ []) do
    start!(name, [capacity: @capacity, commit_after: 0, counters: @names] ++ opts)
    seed = ExUnit.configuration()[:seed]

    unfinished =
      1..@histories
      |> Task.async_stream(&{&1, history(name, {seed, &1}, victims)},
        max_concurrency: @at_once,
        timeout: :infinity
      )
      |> Enum.map(fn {:ok, {number, {verdict, unfinished}}} ->
        with {:error, text} <- verdict, do: flunk("history #{number} of seed #{seed}: #{text}")
        unfinished
      end)

    # Everything did happen.
    stats = ReadStates.stats(name)
    assert stats.loads > 100 and stats.evictions > 100 and stats.commits > 100
    assert Enum.sum(unfinished) > 10 == :caller in victims
  end

  # Nobody else has its users. Returns what is to be said of it, and how many calls never returned.
  defp history(name, {seed, number}, victims) do
    history = History.new()
    :rand.seed(:exsss, {seed, number, 0})
    users = for user <- 1..@users, do: number * 10 + user
    # One of them comes and goes in the directory of channels, as nobody else has it.
    channels = [{1, 10}, number]
    calls = 5 + :rand.uniform(10)

    processes =
      for process <- 1..(7 + :rand.uniform(13)) do
        spawn_monitor(fn ->
          :rand.seed(:exsss, {seed, number, process})
          others = receive(do: ({:others, others} -> others))

          for _call <- 1..calls do
            kill(Enum.random([nil | victims]), name, others)
            if :rand.uniform(3) == 1, do: Process.sleep(:rand.uniform(2) - 1)
            History.call(history, name, random_call(users, channels))
          end
        end)
      end

    pids = for {pid, _monitor} <- processes, do: pid
    for pid <- pids, do: send(pid, {:others, pids -- [pid]})

    for {pid, monitor} <- processes do
      assert_receive {:DOWN, ^monitor, :process, ^pid, reason}, 60_000
      assert reason == :normal or (reason == :killed and :caller in victims)
    end

    for user <- users, do: {:ok, _states} = last_read(history, name, user)
    {History.check(history, @names), History.unfinished(history)}
  end

  # A load that is killed fails.
  defp last_read(history, name, user) do
    with {:error, :store_unavailable} <- History.call(history, name, {:list, user}),
         do: last_read(history, name, user)
  end

  defp kill(nil, _name, _others), do: :ok

  defp kill(:caller, _name, others) do
    if :rand.uniform(20) == 1, do: Process.exit(Enum.random(others), :kill)
  end

  defp kill(:instance, name, _others) do
    with 1 <- :rand.uniform(50),
         pid when pid != nil <- Process.whereis(Enum.random([name | Instance.processes(name)])),
         do: Process.exit(pid, :kill)
  end

  defp random_call(users, channels) do
    case :rand.uniform(100) do
      n when n <= 15 -> {:get, Enum.random(users), Enum.random(channels)}
      n when n <= 25 -> {:list, Enum.random(users)}
      n when n <= 30 -> {:total, Enum.random(users), Enum.random(@names)}
      n when n <= 33 -> {:commit}
      n when n <= 35 -> {:load, users}
      n when n <= 42 -> {:update, for(_ <- 1..:rand.uniform(6), do: operation(users, channels))}
      n when n <= 50 -> many(users, channels)
      _ -> operation(users, channels)
    end
  end

  defp many(users, channels) do
    users = Enum.take_random(users, :rand.uniform(@users))

    {Enum.random([:increment, :decrement]), users, Enum.random(channels), message(),
     :rand.uniform(3)}
  end

  defp operation(users, channels) do
    {user, channel, message} = {Enum.random(users), Enum.random(channels), message()}
    {counter, by} = {Enum.random(@names), :rand.uniform(3)}

    case :rand.uniform(20) do
      n when n <= 5 -> {:ack, user, channel, message}
      n when n <= 12 -> {:increment, user, channel, message, by, counter}
      n when n <= 15 -> {:decrement, user, channel, message, by, counter}
      n when n <= 17 -> {:put, user, channel, message, %{counter => by}}
      n when n <= 19 -> {:delete, user, channel}
      _ -> {:delete, user}
    end
  end

  defp message, do: :rand.uniform(@messages)
end
