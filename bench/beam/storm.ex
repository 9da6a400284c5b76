defmodule ReadStates.Bench.Storm do
  @moduledoc false
  # A connect storm: everybody connects at once while somebody goes on acking and committing, beside the driver alone, which reads the
  # same rows and does nothing else. In turns, for a server gets faster the longer it runs.
  #
  # Once with the server on the cores of those who ask it, and once on one of its own: that shows whether it is the server that they
  # wait for.

  import ReadStates.Bench.Timing

  alias ReadStates.Bench.{Bare, Cores, World}

  # Reads that the driver alone has under way.
  @at_once [64, 128, 256]
  # Users that a process wants.
  @each [1, 100]
  # The first round is not counted.
  @rounds 5

  # The rows are there, of users 0 to users - 1 and of one more. `server` is the id of the server's process.
  def run(work, store, bare, server, users, report) do
    idle = {"% of the machine's time idle", &(Enum.sum(&1) / length(&1))}
    rounds(work, store, bare, users, idle, report)
    {:os_pid, driver} = Port.info(bare, :os_pid)

    Cores.apart(server, [driver], fn ->
      idle = {"% of the server's core idle", &hd/1}
      rounds(work <> ", server apart", store, bare, users, idle, report)
    end)
  end

  defp rounds(work, store, bare, users, {idle_name, idle_of}, report) do
    alone =
      for at_once <- @at_once do
        load = fn ->
          {idle_during(fn -> Bare.ask(bare, "load_all #{users} #{at_once}") end), []}
        end

        {"driver alone, #{at_once} at once", load}
      end

    ours =
      for each <- @each,
          do: {"ReadStates, #{each} a process", fn -> connect_all(store, users, each) end}

    figures =
      for round <- 0..@rounds,
          {subject, load} <- alone ++ ours,
          {{seconds, idle}, more} = load.(),
          round > 0,
          {metric, value} <- [{"users/s", users / seconds}, {idle_name, idle_of.(idle)} | more],
          do: {{subject, metric}, value}

    summary = fn subject, metric ->
      summary(metric, for({{^subject, ^metric}, value} <- figures, do: value))
    end

    best = Enum.max(for {subject, _load} <- alone, do: summary.(subject, "users/s"))

    for {subject, metric} <- Enum.uniq(for {key, _value} <- figures, do: key) do
      base = if metric == "users/s" and List.keymember?(ours, subject, 0), do: best
      report.(work, subject, metric, summary.(subject, metric), base)
    end
  end

  defp summary("longest" <> _metric, values), do: Enum.max(values)
  defp summary("most" <> _metric, values), do: Enum.max(values)
  defp summary(_metric, values), do: median(values)

  # Everybody is loaded, by processes that want `each` users at a time.
  defp connect_all(store, users, each) do
    name = :storm

    {:ok, instance} =
      ReadStates.start_link(
        name: name,
        store: store,
        load_timeout: 600_000,
        commit_after: 1_000
      )

    test = self()
    # Commits that somebody waits for, of a user who is in memory.
    :ok = ReadStates.load(name, [users])
    committer = spawn_link(fn -> commit_on(name, users, [], test) end)
    watcher = spawn_link(fn -> watch(name, 0, 0, test) end)
    :erlang.statistics(:runtime)

    times =
      idle_during(fn ->
        timed(fn ->
          # Not linked: to end many processes that are linked to one is work of its own.
          callers =
            for users <- Enum.chunk_every(0..(users - 1), each) do
              spawn(fn -> send(test, connect(name, users)) end)
            end

          for _caller <- callers do
            receive do
              :ok -> :ok
            after
              60_000 -> raise "nobody was loaded for a minute"
            end
          end
        end)
      end)

    {_total, cpu} = :erlang.statistics(:runtime)
    commits = stop(committer)
    {mailbox, memory} = stop(watcher)
    Supervisor.stop(instance, :normal, :infinity)

    {times,
     [
       {"us/user, CPU of the VM", 1_000 * cpu / users},
       {"longest mailbox of a process", mailbox},
       {"most MB of the engine", memory / 1_000_000},
       {"commits meanwhile", length(commits)},
       {"commits' p50 ms", 1_000 * median(commits)},
       {"longest commit, ms", 1_000 * Enum.max(commits)}
     ]}
  end

  # What `fun` returns, which are seconds, and for how much of them each core had nothing to do, in percent.
  defp idle_during(fun) do
    before = Cores.idle()
    seconds = fun.()

    {seconds,
     for({before, now} <- Enum.zip(before, Cores.idle()), do: 100 * (now - before) / seconds)}
  end

  # Past the bound on users who wait to be loaded it is refused, and a client would come again in a while.
  defp connect(name, users) do
    with {:error, :overloaded} <- ReadStates.load(name, users) do
      Process.sleep(500 + :rand.uniform(1_000))
      connect(name, users)
    end
  end

  defp commit_on(name, user, times, test) do
    receive do
      :stop -> send(test, {self(), times})
    after
      0 ->
        :ok = ReadStates.ack(name, user, 1, World.message())
        time = timed(fn -> :ok = ReadStates.commit(name) end)
        commit_on(name, user, [time | times], test)
    end
  end

  defp watch(name, mailbox, memory, test) do
    receive do
      :stop -> send(test, {self(), {mailbox, memory}})
    after
      10 ->
        lengths =
          for process <- ReadStates.Instance.processes(name),
              pid = Process.whereis(process),
              {:message_queue_len, length} <- [Process.info(pid, :message_queue_len)],
              do: length

        mailbox = Enum.max([mailbox | lengths])
        watch(name, mailbox, max(memory, ReadStates.stats(name).memory), test)
    end
  end

  defp stop(pid) do
    send(pid, :stop)

    receive do
      {^pid, result} -> result
    end
  end
end
