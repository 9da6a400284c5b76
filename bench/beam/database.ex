defmodule ReadStates.Bench.Database do
  @moduledoc false
  # A store on a server beside the driver it is written with (bench/rust/src/bare.rs), on the same server and in turns: commits, loads
  # of one user, and a connect storm (storm.ex).
  #
  # It is told by `run/2` how that is done with this server:
  #
  #   * `part` - which benchmark it is, and which program in bench/rust is the driver, with the arguments `args` and the environment `env`.
  #   * `module`, `options` - the store, and its options by the name of a table: "ours" or "bare".
  #   * `by`, `label` - what the driver can write by, and how that is said: so many requests at once, or rows a statement.
  #   * `server` - the id of the server's process.
  #   * `empty` - removes everything from both tables.

  import ReadStates.Bench.Timing

  alias ReadStates.{Batch, Row}
  alias ReadStates.Bench.{Bare, Measurement, Storm, Table, World}

  # Rows of a commit, as the library makes them.
  @rows 10_000
  # Rows of a user who is loaded.
  @per_user 100
  @loads 2_000
  # Rows of a user in the storm.
  @storm_rows 10

  def run(database, args) do
    strict = [users: :integer, rounds: :integer, output: :string]
    {opts, []} = OptionParser.parse!(args, strict: strict)
    users = opts[:users] || 100_000
    rounds = opts[:rounds] || 11
    report = &report(database.part, opts[:output], &1, &2, &3, &4, &5)
    for table <- ~w(ours bare), do: :ok = database.module.set_up(database.options.(table))
    bare = Bare.start(database.part, database.args, database.env)

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
                Bare.ask(bare, "commit #{users} #{per_user} #{by} #{version}")
            end

          {round, by, seconds}
        end

      rate = fn who -> @rows / median(for {round, ^who, time} <- times, round > 0, do: time) end

      for by <- all,
          do: report.(work, "driver alone, #{database.label.(by)}", "rows/s", rate.(by), nil)

      best = all |> Enum.map(rate) |> Enum.max()
      report.(work, "ReadStates, beside the best", "rows/s", rate.(:ours), best)
    end

    :ok = module.close(store)
  end

  defp loads(%{module: module, by: [by | _]} = database, bare, report) do
    store = open(database)
    :ok = module.commit(store, batch(0..99, @per_user, 1_000_000))
    Bare.ask(bare, "commit 100 #{@per_user} #{by} 1000000")

    times =
      for n <- 0..@loads, user = rem(n, 100), who <- [:bare, :ours] do
        case who do
          :bare -> {who, Bare.ask(bare, "load #{user}")}
          :ours -> {who, timed(fn -> {:ok, _batch, nil} = module.load(store, [user], nil) end)}
        end
      end

    p50 = fn who -> 1_000_000 * median(for {^who, time} <- times, do: time) end
    work = "load of a user of #{@per_user}"
    report.(work, "driver alone", "p50 us", p50.(:bare), nil)
    report.(work, "ReadStates", "p50 us", p50.(:ours), p50.(:bare))
    :ok = module.close(store)
  end

  defp storm(%{module: module, options: options} = database, bare, users, report) do
    # In turns, so that of both tables as much is in the server's memory, and the rest in files.
    stores = for table <- ~w(ours bare), do: open(database, table)

    for some <- Enum.chunk_every(0..users, 1_000), store <- stores do
      :ok = module.commit(store, batch(some, @storm_rows, 1))
    end

    for store <- stores, do: :ok = module.close(store)
    work = "storm of #{users} cold users of #{@storm_rows}"
    Storm.run(work, {module, options.("ours")}, bare, database.server, users, report)
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

  defp report(part, output, work, subject, metric, value, base) do
    ratio = if base, do: Table.ratio(value, base), else: ""
    Table.row("#{work}: #{subject}, #{metric}", [Table.decimal(value), ratio])
    world = World.new(1_000, @per_user, @per_user)
    if output, do: Measurement.append(output, part, world, 1, work, subject, metric, value)
  end
end
