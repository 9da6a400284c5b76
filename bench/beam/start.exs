# The start of an instance on a full store: how fast load/2 brings every user in, beside how fast the store
# alone is read from one end to the other, and how others are served meanwhile.
#
#     mix run bench/beam/start.exs [--states N] [--output FILE]

for file <- ~w(world measurement table), do: Code.require_file("#{file}.ex", __DIR__)

defmodule ReadStates.Bench.Start do
  @moduledoc false

  alias ReadStates.Bench.{Measurement, Table, World}
  alias ReadStates.Store.Local

  @work "load of every user"
  # Users of one load/2.
  @loaded 10_000
  # Rows of one commit of the store that is filled.
  @committed 10_000
  # Bytes of a row in a batch, and of what is before the first.
  @row 46
  @header 8
  # Between two who connect meanwhile.
  @pause_ms 5

  def run(args) do
    {opts, []} = OptionParser.parse!(args, strict: [states: :integer, output: :string])
    world = World.new(opts[:states] || 1_000_000, 50, 50)
    path = Path.join(System.tmp_dir!(), "read_states_start_#{System.pid()}")

    try do
      fill(path, world)
      scan = scan(path)
      {load, served} = load(path, world)
      [p50, p99, most] = Enum.map([0.5, 0.99, 1.0], &percentile(Enum.sort(served), &1))

      Table.row("#{Table.grouped(World.states(world))} read states", ["value", ""])

      for {subject, metric, value, base} <- [
            {"ReadStates Local, scan", "rows/s", scan, scan},
            {"ReadStates.load/2", "rows/s", load, scan},
            {"ReadStates.list/2 meanwhile", "p50 us", p50, nil},
            {"ReadStates.list/2 meanwhile", "p99 us", p99, nil},
            {"ReadStates.list/2 meanwhile", "max us", most, nil}
          ] do
        ratio = if base, do: Table.ratio(value, base), else: ""
        Table.row("#{subject}, #{metric}", [Table.decimal(value), ratio])

        if opts[:output] do
          Measurement.append(opts[:output], "start", world, 1, @work, subject, metric, value)
        end
      end
    after
      File.rm_rf!(path)
    end
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

  # Read states a second, and the microseconds of each call of others.
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
    other = Task.async(fn -> serve(world, []) end)
    started = now()

    for some <- Enum.chunk_every(users, @loaded) do
      :ok = ReadStates.load(__MODULE__, some)
    end

    rate = states / seconds_since(started)
    send(other.pid, :stop)
    served = Task.await(other, :infinity)
    %{states: ^states} = ReadStates.stats(__MODULE__)
    Supervisor.stop(instance, :normal, :infinity)
    {rate, served}
  end

  # Users connect, one after the other.
  defp serve(world, times) do
    started = now()
    {:ok, [_ | _]} = ReadStates.list(__MODULE__, World.draw_user(world))
    times = [now() - started | times]

    receive do
      :stop -> times
    after
      @pause_ms -> serve(world, times)
    end
  end

  defp percentile(sorted, share), do: Enum.at(sorted, ceil(length(sorted) * share) - 1)

  defp now, do: System.monotonic_time(:microsecond)
  defp seconds_since(started), do: (now() - started) / 1_000_000
end

ReadStates.Bench.Start.run(System.argv())
