defmodule ReadStates.Bench.Database do
  @moduledoc false
  # A store on a server beside the driver it is written with (bench/rust/src/bare.rs), on the same server and in turns: commits, loads
  # of one user, and a connect storm, for which an instance loads many users at once while it commits.
  #
  # It is told by `run/2` how that is done with this server:
  #
  #   * `part` - which benchmark it is, and which program in bench/rust is the driver, with the arguments `args` and the environment `env`.
  #   * `module`, `options` - the store, and its options by the name of a table: "ours" or "bare".
  #   * `by`, `label` - what the driver can write by, and how that is said: so many requests at once, or rows a statement.
  #   * `empty` - removes everything from both tables.

  alias ReadStates.{Batch, Row}
  alias ReadStates.Bench.{Measurement, Table, World}

  # Rows of a commit, as the library makes them.
  @rows 10_000
  # Rows of a user who is loaded.
  @per_user 100
  @loads 2_000
  # Reads that the driver alone has under way in the storm.
  @at_once [64, 128, 256]
  # Rows of a user in the storm.
  @storm_rows 10

  def run(database, args) do
    strict = [users: :integer, rounds: :integer, output: :string]
    {opts, []} = OptionParser.parse!(args, strict: strict)
    users = opts[:users] || 100_000
    rounds = opts[:rounds] || 11
    report = &report(database.part, opts[:output], &1, &2, &3, &4, &5)
    for table <- ~w(ours bare), do: :ok = database.module.set_up(database.options.(table))
    bare = start_bare(database)

    try do
      database.empty.()
      commits(database, bare, rounds, report)

      # Both tables have the same rows in the same files then: what is left of the writes of one would make its reads slower.
      database.empty.()
      loads(database, bare, report)
      database.empty.()
      storm(database, bare, users, report)
    after
      Port.close(bare)
    end
  end

  defp open(%{module: module, options: options}, table \\ "ours") do
    context = %{name: __MODULE__, counters: [:mention_count]}
    {:ok, store, _floor} = module.open(options.(table), context)
    store
  end

  # Few users with many rows each, and many with one.
  defp commits(%{module: module, by: all} = database, bare, rounds, report) do
    store = open(database)

    # The second writes rows of the first again: above them, for below them the store would have a look first.
    for {per_user, above, work} <- [
          {100, 0, "commit of 10,000, 100 a user"},
          {1, 100_000, "commit of 10,000, 1 a user"}
        ] do
      users = div(@rows, per_user)

      # The first round is not counted. Each write is above all before it, for else nothing would be written.
      times =
        for round <- 0..rounds, {by, nth} <- Enum.with_index([:ours | all], 1) do
          version = above + round * 10 + nth

          seconds =
            case by do
              :ours ->
                batch = batch(0..(users - 1), per_user, version)
                timed(fn -> :ok = module.commit(store, batch) end)

              by ->
                ask(bare, "commit #{users} #{per_user} #{by} #{version}")
            end

          {round, by, seconds}
        end

      rate = fn who -> @rows / median(for {round, ^who, time} <- times, round > 0, do: time) end
      for by <- all, do: report.(work, alone(database.label.(by)), "rows/s", rate.(by), nil)
      best = all |> Enum.map(rate) |> Enum.max()
      report.(work, "ReadStates, beside the best", "rows/s", rate.(:ours), best)
    end

    :ok = module.close(store)
  end

  defp loads(%{module: module, by: [by | _]} = database, bare, report) do
    store = open(database)
    :ok = module.commit(store, batch(0..99, @per_user, 1_000_000))
    ask(bare, "commit 100 #{@per_user} #{by} 1000000")

    times =
      for n <- 0..@loads, user = rem(n, 100), who <- [:bare, :ours] do
        case who do
          :bare -> {who, ask(bare, "load #{user}")}
          :ours -> {who, timed(fn -> {:ok, _batch, nil} = module.load(store, [user], nil) end)}
        end
      end

    p50 = fn who -> 1_000_000 * median(for {^who, time} <- times, do: time) end
    work = "load of a user of #{@per_user}"
    report.(work, "driver alone", "p50 us", p50.(:bare), nil)
    report.(work, "ReadStates", "p50 us", p50.(:ours), p50.(:bare))
    :ok = module.close(store)
  end

  # Everybody connects at once, while one goes on acking and committing.
  defp storm(%{module: module} = database, bare, users, report) do
    # In turns, so that of both tables as much is in the server's memory, and the rest in files.
    stores = for table <- ~w(ours bare), do: open(database, table)

    for some <- Enum.chunk_every(0..(users - 1), 1_000), store <- stores do
      :ok = module.commit(store, batch(some, @storm_rows, 1))
    end

    for store <- stores, do: :ok = module.close(store)

    work = "storm of #{users} cold users of #{@storm_rows}"

    rates =
      for at_once <- @at_once do
        rate = users / ask(bare, "load_all #{users} #{at_once}")
        report.(work, alone("#{at_once} at once"), "users/s", rate, nil)
        rate
      end

    best = Enum.max(rates)
    for each <- [1, 100], do: connect_all(database, users, each, best, report)
  end

  defp alone(how), do: "driver alone, #{how}"

  # Everybody is loaded, by processes that want `each` users at a time.
  defp connect_all(database, users, each, best, report) do
    name = :storm
    work = "storm of #{users} cold users of #{@storm_rows}"

    {:ok, instance} =
      ReadStates.start_link(
        name: name,
        store: {database.module, database.options.("ours")},
        load_timeout: 600_000,
        commit_after: 1_000
      )

    test = self()
    # Commits that somebody waits for, of a user who is in memory.
    :ok = ReadStates.load(name, [users])
    committer = spawn_link(fn -> commit_on(name, users, [], test) end)
    watcher = spawn_link(fn -> watch(name, 0, 0, test) end)
    :erlang.statistics(:runtime)
    idle()

    seconds =
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

    {_total, cpu} = :erlang.statistics(:runtime)
    idle = 100 * idle() / seconds / System.schedulers_online()
    commits = stop(committer)
    {mailbox, memory} = stop(watcher)
    subject = "ReadStates, #{each} a process"
    report.(work, subject, "users/s", users / seconds, best)
    report.(work, subject, "us/user, CPU of the VM", 1_000 * cpu / users, nil)
    report.(work, subject, "% of the machine's time idle", idle, nil)
    report.(work, subject, "longest mailbox of a process", mailbox, nil)
    report.(work, subject, "MB at most, engine", memory / 1_000_000, nil)
    work = "commits during the storm"
    report.(work, subject, "commits", length(commits), nil)
    report.(work, subject, "p50 ms", 1_000 * median(commits), nil)
    report.(work, subject, "longest ms", 1_000 * Enum.max(commits), nil)
    Supervisor.stop(instance, :normal, :infinity)
  end

  # Seconds since the last call in which a processor had nothing to do.
  defp idle do
    ["cpu", _user, _nice, _system, idle | _] = "/proc/stat" |> File.read!() |> String.split()
    # In hundredths, on every Linux of today.
    idle = String.to_integer(idle) / 100
    idle - (Process.put(:idle, idle) || idle)
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

  defp batch(users, per_user, version) do
    rows =
      for user <- users, channel <- 0..(per_user - 1) do
        %Row{
          user: user,
          kind: 0,
          channel: channel,
          version: version,
          writer: 1,
          last_message_id: version,
          counters: [1]
        }
      end

    Batch.new(rows, 1)
  end

  defp start_bare(%{part: part, args: args, env: env}) do
    directory = Path.expand("../rust", __DIR__)
    cargo = System.find_executable("cargo")
    build = ["build", "--locked", "--quiet", "--release", "--bin", part]
    {_said, 0} = System.cmd(cargo, build, cd: directory, into: IO.stream())
    target = System.get_env("CARGO_TARGET_DIR", Path.join(directory, "target"))
    program = Path.join([target, "release", part])
    env = for {name, value} <- env, do: {to_charlist(name), to_charlist(value)}

    bare = Port.open({:spawn_executable, program}, [:binary, line: 1_000, args: args, env: env])

    receive do
      {^bare, {:data, {:eol, "ready"}}} -> bare
    end
  end

  defp ask(bare, line) do
    Port.command(bare, [line, ?\n])

    receive do
      {^bare, {:data, {:eol, seconds}}} -> String.to_float(seconds)
    end
  end

  defp timed(fun) do
    started = System.monotonic_time(:nanosecond)
    fun.()
    (System.monotonic_time(:nanosecond) - started) / 1_000_000_000
  end

  defp median(values), do: Enum.at(Enum.sort(values), div(length(values), 2))

  defp report(part, output, work, subject, metric, value, base) do
    ratio = if base, do: Table.ratio(value, base), else: ""
    Table.row("#{work}: #{subject}, #{metric}", [Table.decimal(value), ratio])
    world = World.new(1_000, @per_user, @per_user)
    if output, do: Measurement.append(output, part, world, 1, work, subject, metric, value)
  end
end
