# What the journal costs, how fast it is read after a crash, and the rate that can be sustained while commits to the
# disk keep up.
#
#     mix run bench/beam/journal.exs [--states N] [--seconds S] [--output FILE]

for file <- ~w(timing world measurement table discarding_store),
    do: Code.require_file("#{file}.ex", __DIR__)

defmodule ReadStates.Bench.Journal do
  @moduledoc false

  import ReadStates.Bench.Timing, only: [median: 1]

  alias ReadStates.Bench.{DiscardingStore, Measurement, Table, World}
  alias ReadStates.{Instance, Native}
  alias ReadStates.Store.Local

  @rounds 41
  # Operations of a round, and of a call of update/2.
  @operations 10_000
  @batch 1_000
  @large 8 * 1024 * 1024 * 1024

  def run(args) do
    strict = [states: :integer, seconds: :integer, output: :string, life: :string]
    {opts, rest} = OptionParser.parse!(args, strict: strict)
    world = World.new(opts[:states] || 1_000_000, 50, 50)
    report = &report(world, opts[:output], &1, &2, &3, &4, &5)

    case {opts[:life], rest} do
      {nil, []} -> run_all(args, world, opts, report)
      {"first", [directory]} -> write(world, directory)
      {"second", [directory]} -> recover(world, directory, report)
    end
  end

  defp run_all(args, world, opts, report) do
    directory = Path.join(System.tmp_dir!(), "read_states_journal_#{System.pid()}")

    try do
      cost(world, Path.join(directory, "cost"), report)
      recovery(args, Path.join(directory, "recovery"))
      sustained(world, Path.join(directory, "sustained"), opts[:seconds] || 30, report)
    after
      File.rm_rf!(directory)
    end
  end

  # The same calls on two instances in turn, which keep everything.
  defp cost(world, directory, report) do
    subjects = [
      {"without a journal", :plain, false},
      {"with", :journaled, [path: directory, max_size: @large]}
    ]

    instances = for {_subject, name, journal} <- subjects, do: start_full(world, name, journal)

    for {work, run} <- [{"ack", &acks/2}, {"update of 1,000", &updates/2}] do
      times =
        for _round <- 1..@rounds,
            keys = Enum.map(1..@operations, fn _ -> World.draw(world) end),
            {_subject, name, _journal} <- subjects do
          {name, run.(name, keys)}
        end

      [base | _] =
        medians =
        for {_subject, name, _journal} <- subjects do
          median(for {^name, time} <- times, do: time)
        end

      for {{subject, _name, _journal}, median} <- Enum.zip(subjects, medians) do
        report.(work, "ReadStates #{subject}", "ns/operation", median, base)
      end
    end

    Enum.each(instances, &Supervisor.stop(&1, :normal, :infinity))
  end

  defp start_full(world, name, journal) do
    memory = 400 * World.states(world) + 512 * 1024 * 1024

    {:ok, instance} =
      ReadStates.start_link(
        name: name,
        store: DiscardingStore,
        capacity: 2 * World.states(world),
        memory: memory,
        dirty_memory: memory,
        journal: journal
      )

    World.fill(world, name)

    for some <- Enum.chunk_every(World.members(world, world.users), 1_000) do
      :ok = ReadStates.load(name, some)
    end

    :ok = ReadStates.commit(name)
    instance
  end

  defp acks(name, keys) do
    base = World.message()

    timed(fn ->
      Enum.reduce(keys, base, fn {user, channel}, message ->
        :ok = ReadStates.ack(name, user, channel, message)
        message + 1
      end)
    end)
  end

  defp updates(name, keys) do
    message = World.message()

    batches =
      for some <- Enum.chunk_every(keys, @batch) do
        for {{user, channel}, i} <- Enum.with_index(some) do
          if rem(i, 2) == 0,
            do: {:ack, user, channel, message},
            else: {:increment, user, channel, message, 1}
        end
      end

    timed(fn -> for batch <- batches, do: :ok = ReadStates.update(name, batch) end)
  end

  # Nanoseconds an operation.
  defp timed(fun) do
    :erlang.garbage_collect()
    started = System.monotonic_time(:nanosecond)
    fun.()
    (System.monotonic_time(:nanosecond) - started) / @operations
  end

  # A VM writes and crashes, another one reads: so it has the memory of one that has just been started.
  defp recovery(args, directory) do
    for life <- ["first", "second"] do
      args = ["run", __ENV__.file, "--life", life, directory | args]
      {_said, 0} = System.cmd("mix", args, into: IO.stream())
    end
  end

  # Each read state is acked once, alone.
  defp write(world, directory) do
    engine = engine(Path.join(directory, "journal"))

    World.each_rows(world, fn rows ->
      for {{user, channel}, message, 0} <- rows, do: written(engine, user, channel, message)
    end)

    # Nothing is committed, so all of it stays.
    System.halt(0)
  end

  # Then it is read by an engine that has room for all of it, and by an instance with the default options, which commits
  # what it has taken up before it takes up more.
  defp recover(world, directory, report) do
    path = Path.join(directory, "journal")
    engine = engine(path)
    operations = World.states(world)

    {read, _done} =
      seconds(fn ->
        {:ok, {^operations, 0, 0, [], 0}} = Native.recover(engine)
        {:ok, :done} = Native.recover_more(engine)
      end)

    report.("recovery, read only", "ReadStates", "operations/s", operations / read, nil)
    :ok = Native.close_journal(engine)
    # All options are the default ones; the journal is only not where the store would look for it.
    options = [
      name: :recovered,
      store: {Local, path: Path.join(directory, "store")},
      journal: [path: path]
    ]

    {started, {:ok, instance}} = seconds(fn -> ReadStates.start_link(options) end)
    %{engine: engine} = Instance.fetch!(:recovered)
    {taken_up, :ok} = seconds(fn -> await_recovered(engine) end)
    {committed, :ok} = seconds(fn -> World.commit(:recovered) end)
    report.("recovery, start_link", "ReadStates Local", "s", started, nil)
    rate = operations / (started + taken_up)
    report.("recovery, taken up", "ReadStates Local", "operations/s", rate, nil)
    rate = operations / (started + taken_up + committed)
    report.("recovery, commits included", "ReadStates Local", "operations/s", rate, nil)
    Supervisor.stop(instance, :normal, :infinity)
  end

  defp await_recovered(engine) do
    if Native.is_recovering(engine) do
      Process.sleep(10)
      await_recovered(engine)
    else
      :ok
    end
  end

  defp seconds(fun) do
    {took, result} = :timer.tc(fun)
    {took / 1_000_000, result}
  end

  defp written(engine, user, channel, message) do
    case Native.ack(engine, user, channel, message) do
      :ok ->
        :ok

      # It is done, and the next segment is to be made.
      :wake ->
        Native.attend(engine)
        {:ok, _hurry} = Native.tend_journal(engine)
        :ok

      :overloaded ->
        {:ok, _hurry} = Native.tend_journal(engine)
        written(engine, user, channel, message)
    end
  end

  defp engine(directory) do
    {:ok, journal} = Native.journal_open(directory, 16 * 1024 * 1024, 512, 1, false)

    config = %{
      counters: 1,
      capacity: @large,
      memory: @large,
      dirty_memory: @large,
      load_queue: 1,
      policy: "clock",
      commit_after: 3_600_000_000,
      shards: 256,
      partitions: 1,
      writer: 1,
      floor: 0,
      seed: 1
    }

    Native.new(Native.fields(config), [:mention_count], journal, false)
  end

  # One process writes as fast as it is let, in batches, with the default options but room for all.
  defp sustained(world, directory, seconds, report) do
    memory = 400 * World.states(world) + 512 * 1024 * 1024

    {:ok, instance} =
      ReadStates.start_link(
        name: :sustained,
        store: {Local, path: directory},
        capacity: 2 * World.states(world),
        memory: memory,
        dirty_memory: memory
      )

    World.fill(world, :sustained)
    :ok = ReadStates.commit(:sustained)
    started = System.monotonic_time(:millisecond)
    operations = write_until(world, started + 1_000 * seconds, 0)
    # What is still to be committed counts too.
    :ok = ReadStates.commit(:sustained)
    took = (System.monotonic_time(:millisecond) - started) / 1_000

    report.(
      "sustained, commits included",
      "ReadStates Local",
      "operations/s",
      operations / took,
      nil
    )

    Supervisor.stop(instance, :normal, :infinity)
  end

  defp write_until(world, until, operations) do
    if System.monotonic_time(:millisecond) < until do
      message = World.message()

      acks =
        for _ <- 1..@batch do
          {user, channel} = World.draw(world)
          {:ack, user, channel, message}
        end

      World.accepted(fn -> ReadStates.update(:sustained, acks) end)
      write_until(world, until, operations + @batch)
    else
      operations
    end
  end

  defp report(world, output, work, subject, metric, value, base) do
    ratio = if base, do: Table.ratio(value, base), else: ""
    Table.row("#{work}: #{subject}, #{metric}", [Table.decimal(value), ratio])
    if output, do: Measurement.append(output, "journal", world, 1, work, subject, metric, value)
  end
end

ReadStates.Bench.Journal.run(System.argv())
