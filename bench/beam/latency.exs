# How long an operation takes at half of the throughput limit, while ReadStates loads, evicts and commits to the disk;
# bench/README.md says how to read it.
#
#     mix run bench/beam/latency.exs [--states N] [--seconds S] [--output FILE]
#
# Beside it the same operations on a plain ETS table, which has no store and no bound: alone, which is in its favour, and
# while another process does them on ReadStates too, in batches, so that the machine has the same loads, evictions and
# commits to do.

for file <- ~w(world measurement table), do: Code.require_file("#{file}.ex", __DIR__)

defmodule ReadStates.Bench.Latency do
  @moduledoc false

  alias ReadStates.Bench.{Measurement, Table, World}

  @rounds 5
  # Users and channels of at least so many operations are drawn beforehand, and come again in the same order.
  @least_keys 1_000_000
  # Operations of a call of update/2.
  @batch 1_000
  # Of an operation that is refused until something has been committed, or before there is one to do.
  @pause_ms 1
  @percentiles [50, 99, 99.9, 99.99]

  def run(args) do
    strict = [states: :integer, seconds: :integer, output: :string]
    {opts, []} = OptionParser.parse!(args, strict: strict)
    world = World.new(opts[:states] || 1_000_000, 50, 50)
    seconds = opts[:seconds] || 10
    directory = Path.join(System.tmp_dir!(), "read_states_latency_#{System.pid()}")

    try do
      measure(world, seconds, directory, opts[:output])
    after
      File.rm_rf!(directory)
    end
  end

  defp measure(world, seconds, directory, output) do
    IO.puts("#{Table.grouped(World.states(world))} read states, half acks and half increments")
    instance = start_instance(world, directory)
    table = start_table(world)
    keep_keys(world)
    write_to_table = &write_to_table(table, &1, &2, &3, &4)
    limit = limit(seconds)
    rate = div(limit, 2)

    subjects = [
      {"ReadStates", fn -> open_loop(&write/4, rate, seconds) end},
      {"ETS set", fn -> open_loop(write_to_table, rate, seconds) end},
      {"ETS set, commits beside it",
       fn ->
         beside = Task.async(fn -> update_all(rate, seconds) end)
         result = open_loop(write_to_table, rate, seconds)
         Task.await(beside, :infinity)
         result
       end}
    ]

    before = ReadStates.stats(__MODULE__)

    # In turn, so that what the machine does otherwise meets all.
    rounds =
      for _round <- 1..@rounds, {name, run} <- subjects do
        result = in_process(run)
        # What is left to do is not to disturb the next.
        :ok = World.commit(__MODULE__)
        {name, result}
      end

    show_activity(before, ReadStates.stats(__MODULE__))
    show(world, rounds, Enum.map(subjects, &elem(&1, 0)), limit, rate, output)
    Supervisor.stop(instance)
  end

  defp start_instance(world, directory) do
    states = World.states(world)
    memory = max(200 * states, 512 * 1024 * 1024)

    {:ok, instance} =
      ReadStates.start_link(
        name: __MODULE__,
        store: {ReadStates.Store.Local, path: directory},
        capacity: div(states * 8, 10),
        memory: memory,
        dirty_memory: memory,
        # Beside an ETS that has none.
        journal: false,
        commit_after: 1_000
      )

    World.fill(world, __MODULE__)
    :ok = World.commit(__MODULE__)
    instance
  end

  defp start_table(world) do
    table = :ets.new(:latency, [:set, :public])
    World.each_rows(world, &:ets.insert(table, &1))
    table
  end

  # As a constant of the VM, so that no garbage collector copies them and nothing is drawn while time is measured.
  defp keep_keys(world) do
    # So many that they are of all users.
    count = max(@least_keys, div(World.states(world), 10))
    keys = for _ <- 1..count, do: World.draw(world)
    :persistent_term.put(__MODULE__, List.to_tuple(keys))
  end

  # Every other operation is an increment.
  defp write(i, user, channel, message) when rem(i, 2) == 0 do
    World.accepted(fn -> ReadStates.ack(__MODULE__, user, channel, message) end)
  end

  defp write(_i, user, channel, message) do
    World.accepted(fn -> ReadStates.increment(__MODULE__, user, channel, message) end)
  end

  defp write_to_table(table, i, user, channel, message) when rem(i, 2) == 0 do
    :ets.update_element(table, {user, channel}, [{2, message}, {3, 0}])
  end

  defp write_to_table(table, _i, user, channel, _message) do
    :ets.update_counter(table, {user, channel}, {3, 1})
  end

  # Operations a second on ReadStates, one after the other, and with the time it takes to commit them all.
  defp limit(seconds) do
    began = now()
    count = in_process(fn -> closed_loop(&write/4, began + seconds * 1_000_000_000) end)
    :ok = World.commit(__MODULE__)
    div(count * 1_000_000_000, now() - began)
  end

  defp closed_loop(write, until), do: closed_loop(write, keys(), World.message(), until, 0)

  defp closed_loop(write, keys, base, until, i) do
    if now() < until do
      {user, channel} = key(keys, i)
      write.(i, user, channel, base + i)
      closed_loop(write, keys, base, until, i + 1)
    else
      i
    end
  end

  # Every operation is due at its time, whatever became of those before: what it takes counts from then.
  defp open_loop(write, rate, seconds) do
    count = rate * seconds
    latencies = :atomics.new(count, signed: false)
    loop = %{write: write, rate: rate, keys: keys(), base: World.message(), latencies: latencies}
    longest = open_loop(loop, now() + 1_000_000, count, 0, 0)
    sorted = Enum.sort(for i <- 1..count, do: :atomics.get(latencies, i))
    [{"longest ack us", longest / 1_000} | percentiles(List.to_tuple(sorted))]
  end

  defp open_loop(_loop, _began, count, count, longest), do: longest

  defp open_loop(%{write: write, base: base} = loop, began, count, i, longest) do
    {user, channel} = key(loop.keys, i)
    message = base + i
    due = began + div(i * 1_000_000_000, loop.rate)
    called = wait(due)
    write.(i, user, channel, message)
    returned = now()
    :atomics.put(loop.latencies, i + 1, returned - due)
    longest = if rem(i, 2) == 0, do: max(longest, returned - called), else: longest
    open_loop(loop, began, count, i + 1, longest)
  end

  # The operations of an open loop, as many as are due at a time.
  defp update_all(rate, seconds),
    do: update_all(keys(), World.message(), now(), rate, rate * seconds, 0)

  defp update_all(_keys, _base, _began, _rate, count, count), do: :ok

  defp update_all(keys, base, began, rate, count, i) do
    due = div((now() - began) * rate, 1_000_000_000)
    next = Enum.min([count, due, i + @batch])

    if next > i do
      operations = for i <- i..(next - 1), do: operation(i, key(keys, i), base + i)
      World.accepted(fn -> ReadStates.update(__MODULE__, operations) end)
    end

    if next == due, do: Process.sleep(@pause_ms)
    update_all(keys, base, began, rate, count, next)
  end

  defp operation(i, {user, channel}, message) when rem(i, 2) == 0 do
    {:ack, user, channel, message}
  end

  defp operation(_i, {user, channel}, message), do: {:increment, user, channel, message, 1}

  # Nothing that sleeps wakes up in time.
  defp wait(due) do
    now = now()
    if now < due, do: wait(due), else: now
  end

  defp percentiles(sorted) do
    size = tuple_size(sorted)

    for(p <- @percentiles, do: {"p#{p} us", elem(sorted, ceil(size * p / 100) - 1) / 1_000}) ++
      [{"max us", elem(sorted, size - 1) / 1_000}]
  end

  # What it leaves on its heap goes with it.
  defp in_process(fun), do: Task.await(Task.async(fun), :infinity)

  # From anywhere, else those at the beginning would stay in memory.
  defp keys do
    keys = :persistent_term.get(__MODULE__)
    {keys, :rand.uniform(tuple_size(keys))}
  end

  defp key({keys, from}, i), do: elem(keys, rem(from + i, tuple_size(keys)))
  defp now, do: System.monotonic_time(:nanosecond)

  # That there was something to disturb the callers.
  defp show_activity(before, later) do
    counts =
      for name <- [:evictions, :loads, :commits, :committed_entries, :overloads] do
        count = Map.fetch!(later, name) - Map.fetch!(before, name)
        "#{Table.grouped(count)} #{String.replace(to_string(name), "_", " ")}"
      end

    IO.puts("meanwhile: " <> Enum.join(counts, ", "))
  end

  # Medians of the rounds.
  defp show(world, rounds, names, limit, rate, output) do
    IO.puts("limit: #{Table.grouped(limit)} operations a second of one process, commits included")
    Table.row("\nat #{Table.grouped(rate)} operations a second", names, 28)
    by_name = Enum.group_by(rounds, &elem(&1, 0), &elem(&1, 1))
    [{_name, first} | _] = rounds

    for {{metric, _value}, index} <- Enum.with_index(first) do
      values =
        for name <- names do
          values = for round <- by_name[name], do: elem(Enum.at(round, index), 1)
          {name, Enum.at(Enum.sort(values), div(@rounds, 2))}
        end

      show_row(world, metric, values, output)
    end
  end

  defp show_row(world, metric, values, output) do
    Table.row(metric, for({_name, value} <- values, do: Table.decimal(value)), 28)
    threads = System.schedulers_online()

    for {name, value} <- values, output != nil do
      Measurement.append(output, "beam", world, threads, "latency", name, metric, value)
    end
  end
end

ReadStates.Bench.Latency.run(System.argv())
