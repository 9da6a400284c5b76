# The start of an instance on a full store: how fast load/2 brings every user in, beside how fast the store
# alone is read from one end to the other, and how others are served meanwhile. These come at their times, a thousand a second,
# whatever became of those before, and what each waits counts from then.
#
#     mix run bench/beam/start.exs [--states N] [--output FILE]

for file <- ~w(world measurement table histogram), do: Code.require_file("#{file}.ex", __DIR__)

defmodule ReadStates.Bench.Start do
  @moduledoc false

  alias ReadStates.Bench.{Histogram, Measurement, Table, World}
  alias ReadStates.Store.Local

  @work "load of every user"
  # Users of one load/2.
  @loaded 10_000
  # Rows of one commit of the store that is filled.
  @committed 10_000
  # Bytes of a row in a batch, and of what is before the first.
  @row 46
  @header 8
  # Between two who connect meanwhile, of whom those of the first second are counted apart.
  @pause_ms 1
  @first_ms 1_000
  @percentiles [{"p50 us", 0.5}, {"p99 us", 0.99}, {"p99.99 us", 0.9999}, {"longest us", 1}]

  def run(args) do
    {opts, []} = OptionParser.parse!(args, strict: [states: :integer, output: :string])
    world = World.new(opts[:states] || 1_000_000, 50, 50)
    path = Path.join(System.tmp_dir!(), "read_states_start_#{System.pid()}")

    try do
      fill(path, world)
      before = scan(path)
      {load, served} = load(path, world)
      # The better of two, so that it is not a busy moment that load/2 is compared with.
      scan = max(before, scan(path))
      Table.row("#{Table.grouped(World.states(world))} read states", ["value", ""])
      show(world, opts, "ReadStates Local, scan", "rows/s", scan, scan)
      show(world, opts, "ReadStates.load/2", "rows/s", load, scan)

      for {subject, histogram} <- served,
          Histogram.count(histogram) > 0,
          {metric, value} <- figures(histogram),
          do: show(world, opts, subject, metric, value)
    after
      File.rm_rf!(path)
    end
  end

  defp show(world, opts, subject, metric, value, base \\ nil) do
    ratio = if base, do: Table.ratio(value, base), else: ""
    Table.row("#{subject}, #{metric}", [Table.decimal(value), ratio])

    if opts[:output] do
      Measurement.append(opts[:output], "start", world, 1, @work, subject, metric, value)
    end
  end

  defp figures(histogram) do
    {metrics, shares} = Enum.unzip(@percentiles)
    values = for ns <- Histogram.percentiles(histogram, shares), do: ns / 1_000
    [{"reads", Histogram.count(histogram)} | Enum.zip(metrics, values)]
  end

  defp fill(path, world) do
    store = open(path)
    users = div(@committed, world.per_user)

    for some <- Enum.chunk_every(0..(world.users - 1), users) do
      rows =
        for user <- some, i <- 0..(world.per_user - 1) do
          %ReadStates.Row{
            user: World.user(user),
            kind: 0,
            channel: World.channel(world, user, i),
            version: 1,
            writer: 1,
            last_message_id: World.message(),
            counters: [0]
          }
        end

      :ok = Local.commit(store, ReadStates.Batch.new(rows, 1))
    end

    :ok = Local.close(store)
  end

  defp open(path) do
    context = %{name: __MODULE__, counters: [:mention_count]}
    {:ok, store, _floor} = Local.open([path: path], context)
    store
  end

  # Rows a second.
  defp scan(path) do
    store = open(path)
    started = now()
    rows = scan(store, nil, 0)
    rate = rows / seconds_since(started)
    :ok = Local.close(store)
    rate
  end

  defp scan(store, cursor, rows) do
    {:ok, batch, next} = Local.scan(store, cursor)
    rows = rows + div(byte_size(batch.binary) - @header, @row)
    if next, do: scan(store, next, rows), else: rows
  end

  # Read states a second, and how long the calls of others took.
  defp load(path, world) do
    states = World.states(world)
    memory = max(100 * states, 512 * 1024 * 1024)

    {:ok, instance} =
      ReadStates.start_link(
        name: __MODULE__,
        store: {Local, path: path},
        capacity: 2 * states,
        memory: memory
      )

    users = 0..(world.users - 1) |> Enum.shuffle() |> Enum.map(&World.user/1)
    # Whole milliseconds are when the VM's timers fire.
    due = System.monotonic_time(:millisecond) + 1
    first = %{histogram: Histogram.new(), until: due + @first_ms}
    later = %{histogram: Histogram.new(), until: :infinity}
    other = Task.async(fn -> serve(world, due, [first, later], 0) end)
    started = now()

    for some <- Enum.chunk_every(users, @loaded) do
      :ok = ReadStates.load(__MODULE__, some)
    end

    rate = states / seconds_since(started)
    send(other.pid, :stop)
    count = Task.await(other, :infinity)
    await_reads([first, later], count)
    %{states: ^states} = ReadStates.stats(__MODULE__)
    Supervisor.stop(instance, :normal, :infinity)

    {rate,
     [
       {"ReadStates.list/2 in the first second", first.histogram},
       {"ReadStates.list/2 after it", later.histogram}
     ]}
  end

  # Users connect, each in a process of his own. Returns how many.
  defp serve(world, due, [%{until: until} | later], count) when due >= until,
    do: serve(world, due, later, count)

  defp serve(world, due, [%{histogram: histogram} | _] = times, count) do
    :erlang.start_timer(due, self(), :due, abs: true)

    receive do
      :stop ->
        count

      {:timeout, _timer, :due} ->
        user = World.draw_user(world)
        spawn_link(fn -> read(user, due, histogram) end)
        serve(world, due + @pause_ms, times, count + 1)
    end
  end

  defp read(user, due, histogram) do
    {:ok, [_ | _]} = ReadStates.list(__MODULE__, user)
    due = System.convert_time_unit(due, :millisecond, :nanosecond)
    Histogram.record(histogram, System.monotonic_time(:nanosecond) - due)
  end

  # The last may still wait for their answers.
  defp await_reads(times, count) do
    if Enum.sum(for %{histogram: histogram} <- times, do: Histogram.count(histogram)) < count do
      Process.sleep(1)
      await_reads(times, count)
    end
  end

  defp now, do: System.monotonic_time(:microsecond)
  defp seconds_since(started), do: (now() - started) / 1_000_000
end

ReadStates.Bench.Start.run(System.argv())
