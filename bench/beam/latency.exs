# How long an operation takes at half of the throughput limit, while ReadStates loads, evicts and commits to the disk;
# bench/README.md says how to read it.
#
#     mix run bench/beam/latency.exs [--states N,N,...] [--seconds S] [--rate R] [--output FILE]
#
# Of several numbers of read states the largest is first, and half of its limit is the rate for all of them: what differs
# between them is then what the number does. A round whose p50 says that the machine was busy with something else, or could do less
# than when the limit was measured, is done once more.
#
# Beside it the same operations on a plain ETS table, which has no store and no bound: alone, which is in its favour, and
# while another process makes the same calls on ReadStates too, so that the machine has the same loads, evictions and
# commits to do. That process wakes up once a millisecond, for the calls that are due by then, on the core that is left to commits
# otherwise. Every run has users and channels of its own, drawn before its clock starts: else those who were in the runs
# before it are in memory, and how many that are differs from run to run.

files = ~w(world measurement table timing histogram)
for file <- files, do: Code.require_file("#{file}.ex", __DIR__)

defmodule ReadStates.Bench.Latency do
  @moduledoc false

  alias ReadStates.Bench.{Histogram, Measurement, Table, Timing, World}

  @rounds 5
  # Seconds of a run before its measured ones, after which commits, and the loads and evictions that come with them, go on evenly.
  @warm_up 1
  @commit_after_ms 500
  # Runs that are done again, of one subject.
  @most_repeats 5
  # Who waits that long every other time waits for the operations before him.
  @overloaded_us 10
  # Users and channels of the closed loop, which come again in the same order: a tenth of all read states, at least so many.
  @least_keys 1_000_000
  # Nanoseconds.
  @second 1_000_000_000
  @percentiles [50, 99, 99.9, 99.99]
  @activity [:loads, :evictions, :commits, :committed_entries, :overloads]

  def run(args) do
    strict = [states: :string, seconds: :integer, rate: :integer, output: :string]
    {opts, []} = OptionParser.parse!(args, strict: strict)
    sizes = for n <- String.split(opts[:states] || "1000000", ","), do: String.to_integer(n)
    run = %{seconds: opts[:seconds] || 10, output: opts[:output]}

    Enum.reduce(Enum.sort(sizes, :desc), opts[:rate], fn states, rate ->
      measure(World.new(states, 50, 50), run, rate)
    end)
  end

  # Returns the rate.
  defp measure(world, run, rate) do
    directory = Path.join(System.tmp_dir!(), "read_states_latency_#{System.pid()}")
    IO.puts("#{Table.grouped(World.states(world))} read states, half acks and half increments")

    try do
      instance = start_instance(world, directory)
      table = start_table(world)
      rate = rate || div(show_limit(world, run), 2)
      compare(world, run, rate, table)
      :ets.delete(table)
      Supervisor.stop(instance, :normal, :infinity)
      rate
    after
      File.rm_rf!(directory)
    end
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
        commit_after: @commit_after_ms
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
  defp keep_keys(world, count) do
    keys = for _ <- 1..count, do: World.draw(world)
    :persistent_term.put(__MODULE__, List.to_tuple(keys))
  end

  defp compare(world, %{seconds: seconds} = run, rate, table) do
    write_to_table = &write_to_table(table, &1, &2, &3, &4)

    subjects = [
      {"ReadStates", fn -> open_loop(&write/4, rate, seconds) end},
      {"ETS set", fn -> open_loop(write_to_table, rate, seconds) end},
      {"ETS set, commits beside it",
       fn -> beside(rate, seconds, fn -> open_loop(write_to_table, rate, seconds) end) end}
    ]

    measure = fn subject ->
      keep_keys(world, rate * (@warm_up + seconds))
      in_process(subject)
    end

    # In turn, so that what the machine does otherwise meets all.
    rounds = for _round <- 1..@rounds, {name, subject} <- subjects, do: {name, measure.(subject)}

    # Whoever it is, so that none is measured on a better machine than the others.
    rounds =
      for {name, subject} <- subjects do
        figures = for {^name, figures} <- rounds, do: figures
        {name, repeat(figures, fn -> measure.(subject) end, @most_repeats)}
      end

    show(world, run, rate, rounds)
  end

  # Runs an overloaded one again and again, until the median of all is not. Which are left out is not chosen by what is measured.
  defp repeat(figures, measure, most) do
    {overloaded, good} = Enum.split_with(figures, &overloaded?/1)

    if overloaded == [] or most == 0 do
      repeats = @most_repeats - most
      for run <- figures, do: run ++ [{"runs repeated", repeats}]
    else
      repeat(good ++ tl(overloaded) ++ [measure.()], measure, most - 1)
    end
  end

  defp overloaded?([{"p50 us", p50} | _]), do: p50 > @overloaded_us

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
  defp show_limit(world, %{seconds: seconds} = run) do
    # So many that they are of all users.
    keep_keys(world, max(@least_keys, div(World.states(world), 10)))
    began = now()
    until = began + seconds * @second
    count = Task.await(Task.async(fn -> closed_loop(&write/4, until) end), :infinity)
    :ok = World.commit(__MODULE__)
    limit = div(count * @second, now() - began)
    IO.puts("limit: #{Table.grouped(limit)} operations a second of one process, commits included")
    measured(world, run, "ReadStates", "limit operations/s", limit)
    limit
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
    histogram = Histogram.new()
    loop = %{write: write, rate: rate, keys: keys(), base: World.message(), histogram: histogram}
    {began, first} = {now() + 1_000_000, rate * @warm_up}
    open_loop(%{loop | histogram: Histogram.new()}, began, first, 0, 0)
    before = ReadStates.stats(__MODULE__)
    longest = open_loop(loop, began, first + rate * seconds, first, 0)
    activity = activity(before, ReadStates.stats(__MODULE__), seconds)
    percentiles(histogram) ++ [{"longest ack us", longest / 1_000} | activity]
  end

  defp open_loop(_loop, _began, count, count, longest), do: longest

  defp open_loop(%{write: write, base: base} = loop, began, count, i, longest) do
    {user, channel} = key(loop.keys, i)
    message = base + i
    due = began + div(i * @second, loop.rate)
    called = wait(due)
    write.(i, user, channel, message)
    returned = now()
    Histogram.record(loop.histogram, returned - due)
    longest = if rem(i, 2) == 0, do: max(longest, returned - called), else: longest
    open_loop(loop, began, count, i + 1, longest)
  end

  # Nothing that sleeps wakes up in time.
  defp wait(due) do
    now = now()
    if now < due, do: wait(due), else: now
  end

  # Calls `fun` while another process does the operations of an open loop on ReadStates.
  defp beside(rate, seconds, fun) do
    beside =
      Task.async(fn ->
        write_due(rate, keys(), World.message(), now(), 0, rate * (@warm_up + seconds))
      end)

    result = fun.()
    Task.await(beside, :infinity)
    result
  end

  defp write_due(_rate, _keys, _base, _began, count, count), do: :ok

  defp write_due(rate, keys, base, began, from, count) do
    Process.sleep(1)
    due = min(div((now() - began) * rate, @second), count)

    Enum.each(from..(due - 1)//1, fn i ->
      {user, channel} = key(keys, i)
      write(i, user, channel, base + i)
    end)

    write_due(rate, keys, base, began, due, count)
  end

  defp percentiles(histogram) do
    shares = for(p <- @percentiles, do: p / 100) ++ [1]
    metrics = for(p <- @percentiles, do: "p#{p} us") ++ ["max us"]
    Enum.zip(metrics, for(ns <- Histogram.percentiles(histogram, shares), do: ns / 1_000))
  end

  # What there was to disturb the callers, a second.
  defp activity(before, later, seconds) do
    for name <- @activity do
      metric = String.replace(to_string(name), "_", " ") <> "/s"
      {metric, (Map.fetch!(later, name) - Map.fetch!(before, name)) / seconds}
    end
  end

  # What it leaves on its heap goes with it, and what is left to do is not to disturb the next.
  defp in_process(fun) do
    figures = Task.await(Task.async(fun), :infinity)
    :ok = World.commit(__MODULE__)
    figures
  end

  defp keys, do: :persistent_term.get(__MODULE__)
  defp key(keys, i), do: elem(keys, rem(i, tuple_size(keys)))
  defp now, do: System.monotonic_time(:nanosecond)

  # Medians of the rounds, and the longest of all of them.
  defp show(world, run, rate, rounds) do
    names = Enum.map(rounds, &elem(&1, 0))
    Table.row("\nat #{Table.grouped(rate)} operations a second", names, 28)
    measured(world, run, "ReadStates", "rate operations/s", rate)
    {_name, [first | _]} = hd(rounds)

    for {metric, _value} <- first do
      show_row(world, run, metric, of_all(rounds, metric, &Timing.median/1))
    end

    show_row(world, run, "max us of all rounds", of_all(rounds, "max us", &Enum.max/1))
    IO.puts("")
  end

  defp of_all(rounds, metric, fun) do
    for {name, runs} <- rounds do
      {name, fun.(for run <- runs, {^metric, value} <- run, do: value)}
    end
  end

  defp show_row(world, run, metric, values) do
    Table.row(metric, for({_name, value} <- values, do: Table.decimal(value)), 28)
    for {name, value} <- values, do: measured(world, run, name, metric, value)
  end

  defp measured(_world, %{output: nil}, _name, _metric, _value), do: :ok

  defp measured(world, %{output: output}, name, metric, value) do
    threads = System.schedulers_online()
    Measurement.append(output, "beam", world, threads, "latency", name, metric, value)
  end
end

ReadStates.Bench.Latency.run(System.argv())
