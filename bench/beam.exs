# ReadStates beside what one would use instead in the BEAM, on the same read states; bench/README.md says how to read it.
#
#     mix run bench/beam.exs [--states N] [--seconds S] [--per-user N] [--shared-by N] [--only WORK] [--output FILE]
#
# Benchee measures where its package is there (`mix deps.get`), and Cachex takes part where it was added to the dependencies
# in mix.exs (`{:cachex, "~> 4.0", only: :dev, runtime: false}`). As many processes call as there are schedulers, so for one core, on which
# what is committed meanwhile is committed too:
#
#     ELIXIR_ERL_OPTIONS="+S 1:1" taskset -c 0 mix run bench/beam.exs

files =
  ~w(world measurement table resident_memory subject discarding_store read_states_subject ets_subject
  ets_set_subject ets_ordered_set_subject map_server map_server_subject work callers)

for file <- files, do: Code.require_file("beam/#{file}.ex", __DIR__)
if Code.ensure_loaded?(Cachex), do: Code.require_file("beam/cachex_subject.ex", __DIR__)

defmodule ReadStates.Bench.Beam do
  @moduledoc false

  alias ReadStates.Bench.{Measurement, Table, Work, World}

  # ReadStates first: what it takes of the process's memory is then not what others have left.
  @subjects [
    ReadStates.Bench.ReadStatesSubject,
    ReadStates.Bench.ETSSetSubject,
    ReadStates.Bench.ETSOrderedSetSubject,
    ReadStates.Bench.MapServerSubject,
    ReadStates.Bench.CachexSubject
  ]

  @options [
    states: :integer,
    seconds: :integer,
    per_user: :integer,
    shared_by: :integer,
    only: :string,
    output: :string
  ]

  def run(args) do
    {opts, []} = OptionParser.parse!(args, strict: @options)
    per_user = opts[:per_user] || 50
    shared_by = opts[:shared_by] || 50
    world = World.new(opts[:states] || 1_000_000, per_user, shared_by)
    works = works(world, opts[:only])
    run = %{world: world, threads: System.schedulers_online(), output: opts[:output]}

    IO.puts(
      "#{Table.grouped(World.states(world))} read states of #{Table.grouped(world.users)} users " <>
        "in #{Table.grouped(world.channels)} channels; schedulers: #{run.threads}, " <>
        "Elixir #{System.version()}, OTP #{System.otp_release()}"
    )

    subjects = start(works, world)
    show_memory(run, subjects)
    callers = callers()
    {mentions, others} = Enum.split_with(works, &(&1.call == :mention))
    seconds = opts[:seconds] || 5
    Enum.each(others, &compare(run, &1, subjects, callers, seconds))
    # They need a channel that everybody has, which changes what the others are measured on.
    if mentions != [], do: announce(subjects)
    Enum.each(mentions, &compare(run, &1, subjects, callers, seconds))
    stop(callers)
  end

  defp works(world, only) do
    works = Enum.filter(Work.all(world), &String.starts_with?(&1.name, only || ""))

    if works == [] do
      names = Enum.map_join(Work.all(world), ", ", & &1.name)
      raise ArgumentError, "--only must be the beginning of one of: #{names}"
    end

    works
  end

  # [{module, world, state}]
  defp start(works, world) do
    for module <- @subjects,
        Code.ensure_loaded?(module),
        Enum.any?(works, &(&1.call in module.calls())) do
      # An atom is above every number.
      states = min(World.states(world), module.most())
      world = World.new(states, world.per_user, world.shared_by)
      {module, world, module.start(world)}
    end
  end

  defp show_memory(run, subjects) do
    Table.row("\nmemory", ["", "bytes/state", ""])

    rows =
      for {module, world, state} <- subjects, {metric, bytes} <- module.bytes(state) do
        {module.name(), world, metric, bytes / World.states(world)}
      end

    [{_name, _world, _metric, base} | _] = rows

    for {name, world, metric, value} <- rows do
      label = name <> String.replace_prefix(metric, "bytes/state", "")
      show(run, label, world, value, base)
      measured(run, world, "memory", name, metric, value)
    end
  end

  defp announce(subjects) do
    for {module, world, state} <- subjects, :mention in module.calls() do
      [{_suffix, mention} | _] = module.runs(state, :mention)
      Task.await(Task.async(fn -> mention.(Work.announcement(world)) end), :infinity)
    end
  end

  defp compare(run, work, subjects, callers, seconds) do
    jobs =
      for {module, world, state} <- subjects,
          work.call in module.calls(),
          {{suffix, job}, way} <- Enum.with_index(module.runs(state, work.call)),
          do: %{name: module.name() <> suffix, world: world, run: job, way: way}

    [base | _] = medians = medians(jobs, work, callers, seconds)
    Table.row("\n" <> work.name, ["", "ns/operation", ""])

    for {job, value} <- Enum.zip(jobs, medians) do
      show(run, job.name, job.world, value, base)
      measured(run, job.world, work.name, job.name, "ns/operation", value)
    end
  end

  if Code.ensure_loaded?(Benchee) do
    # Benchee shows what a run took, and here nanoseconds an operation are shown once more.
    defp medians(jobs, work, callers, seconds) do
      scenarios =
        for %{name: name, run: run, world: world} <- jobs, into: %{} do
          {name, {run, before_each: fn _input -> work.draw.(world) end}}
        end

      suite =
        Benchee.run(scenarios,
          title: work.name,
          inputs: %{"random access" => nil},
          time: seconds,
          warmup: 1,
          parallel: length(callers),
          print: [benchmarking: false, configuration: false]
        )

      medians = Map.new(suite.scenarios, &{&1.job_name, &1.run_time_data.statistics.median})
      operations = work.operations * length(callers)
      for job <- jobs, do: Map.fetch!(medians, job.name) / operations
    end

    # Benchee has its own.
    defp callers, do: List.duplicate(:a_process_of_benchee, System.schedulers_online())
    defp stop(_callers), do: :ok
  else
    # A run of each in turn, so that what the machine does otherwise meets all alike.
    defp medians(jobs, work, callers, seconds) do
      until = System.monotonic_time(:millisecond) + 1_000 * seconds * length(jobs)

      rounds =
        Stream.repeatedly(fn -> round(jobs, work, callers) end)
        |> Stream.take_while(fn _times -> System.monotonic_time(:millisecond) < until end)
        |> Enum.to_list()

      # A round longer than the time leaves nothing.
      rounds = if rounds == [], do: [round(jobs, work, callers)], else: rounds
      # The first are those of a machine that has to find out what it is about.
      rounds = Enum.drop(rounds, div(length(rounds), 10))
      operations = work.operations * length(callers)
      for times <- Enum.zip_with(rounds, & &1), do: median(times) / operations
    end

    # The same arguments for all subjects, but others for another way with the same subject: what the first way has
    # brought into the caches would be there for the second.
    defp round(jobs, work, callers) do
      times =
        jobs
        |> Enum.group_by(&{&1.world, &1.way})
        |> Enum.flat_map(fn {{world, _way}, jobs} ->
          ReadStates.Bench.Callers.prepare(callers, fn -> work.draw.(world) end)
          for job <- jobs, do: {job.name, ReadStates.Bench.Callers.run(callers, job.run)}
        end)
        |> Map.new()

      for job <- jobs, do: Map.fetch!(times, job.name)
    end

    defp median(times), do: Enum.at(Enum.sort(times), div(length(times), 2))

    defp callers, do: ReadStates.Bench.Callers.start(System.schedulers_online())
    defp stop(callers), do: ReadStates.Bench.Callers.stop(callers)
  end

  defp show(run, name, world, value, base) do
    states = if world != run.world, do: "#{Table.grouped(World.states(world))} states", else: ""
    ratio = if value == base, do: "", else: Table.ratio(value, base)
    Table.row(name, [states, Table.decimal(value), ratio], 18)
  end

  defp measured(%{output: nil}, _world, _work, _subject, _metric, _value), do: :ok

  defp measured(%{output: path, threads: threads}, world, work, subject, metric, value) do
    Measurement.append(path, "beam", world, threads, work, subject, metric, value)
  end
end

ReadStates.Bench.Beam.run(System.argv())
