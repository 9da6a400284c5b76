defmodule ReadStates.Soak do
  @moduledoc """
  A long run at full load, with users who come and go, on the Local store with its journal and with room for a fifth of
  the read states: nothing may grow, and in the end every count has to be what was written.
  """

  alias ReadStates.Soak.{Load, Sample, Trend}
  alias ReadStates.Store.Local

  @mib 1024 * 1024
  @processes 16
  @users 100_000

  @options [
    capacity: 200_000,
    memory: 128 * @mib,
    dirty_memory: 32 * @mib,
    commit_after: 5_000,
    load_timeout: 60_000
  ]
  @journal_size 64 * @mib

  # The first samples are of filling up: the store, its caches, the heaps of the processes.
  @settling 1 / 3

  @doc """
  Runs for so many seconds with a sample every so many, and calls `say` with each line of the report. Returns whether
  nothing grew; raises if something is lost or an error is returned that may not be.
  """
  def run(directory, seconds, every, say, users \\ @users) do
    {store, journal} = {Path.join(directory, "store"), Path.join(directory, "journal")}

    options = [
      name: __MODULE__,
      store: {Local, path: store},
      journal: [path: journal, max_size: @journal_size]
    ]

    {:ok, instance} = ReadStates.start_link(options ++ @options)
    # A second more, so that the last sample is of full load too.
    load = Load.new(__MODULE__, @processes, users, seconds + 1)
    tasks = Load.start(load)
    say.(heading())

    samples =
      for number <- 1..div(seconds, every), reduce: [] do
        samples ->
          sleep_until(load.begun + number * every * 1_000_000_000)
          sample = sample(load, store)
          say.(line(number * every, every, sample, List.first(samples)))
          [sample | samples]
      end

    Task.await_many(tasks, :infinity)
    samples = Enum.reverse(samples)
    worst(samples, every, say)
    :ok = ReadStates.commit(__MODULE__)
    verify(load, say)
    Supervisor.stop(instance)
    {:ok, instance} = ReadStates.start_link(options ++ @options)
    say.("And after a restart:")
    verify(load, say)
    Supervisor.stop(instance)
    flat?(Enum.drop(samples, round(length(samples) * @settling)), say)
  end

  defp sleep_until(time),
    do: Process.sleep(max(div(time - System.monotonic_time(:nanosecond), 1_000_000), 0))

  defp sample(load, store) do
    {operations, calls} = Load.done(load)
    {slowest, call} = Load.slowest(load)

    __MODULE__
    |> Sample.take(store)
    |> Map.merge(%{operations: operations, calls: calls, slowest: slowest, slowest_call: call})
  end

  defp verify(load, say) do
    {users, sum} = Load.verify(load)
    say.("#{users} users have what was written, #{sum} mentions in all")
  end

  defp worst(samples, every, say) do
    {worst, at} =
      samples |> Enum.with_index(1) |> Enum.max_by(fn {sample, _at} -> sample.slowest end)

    say.(
      "The worst call was #{worst.slowest_call}, with #{decimal(worst.slowest / 1.0e6)} ms, in the #{every} s before #{at * every} s"
    )
  end

  @doc """
  Says of each figure of the samples how it went, and returns whether none grew by more than it may, as far as that can
  be told from its ups and downs.
  """
  def flat?(samples, say) do
    mean = Map.new(Sample.figures(), fn figure -> {figure, mean(samples, figure)} end)
    {first, second} = Enum.split(samples, div(length(samples), 2))

    say.(
      "The last #{length(samples)} samples: means of their halves, rise of the line through them and its standard error"
    )

    say.(row(["", "", "first", "second", "rise", "error", "at most"]))

    verdicts =
      for {figure, tolerance} <- Sample.tolerances(mean) do
        {rise, error} = Trend.rise(for sample <- samples, do: Map.fetch!(sample, figure))
        flat? = rise - 2 * error <= tolerance
        values = [mean(first, figure), mean(second, figure), rise, error, tolerance]
        shown = Enum.map(values, &Sample.show(figure, &1))
        say.(row([if(flat?, do: "ok", else: "GROWS"), figure | shown]))
        flat?
      end

    Enum.all?(verdicts)
  end

  defp mean(samples, figure),
    do: Enum.sum(Enum.map(samples, &Map.fetch!(&1, figure))) / length(samples)

  defp heading do
    row(["s", "operations", "op/s", "calls/s", "worst ms", "of"] ++ Sample.figures())
  end

  defp line(seconds, every, sample, before) do
    before = before || %{operations: 0, calls: 0}
    rate = &div(sample[&1] - before[&1], every)
    worst = [decimal(sample.slowest / 1.0e6), sample.slowest_call]
    figures = for figure <- Sample.figures(), do: Sample.show(figure, sample[figure])
    row([seconds, sample.operations, rate.(:operations), rate.(:calls)] ++ worst ++ figures)
  end

  defp row(values), do: Enum.map_join(values, " ", &String.pad_leading(to_string(&1), 10))

  defp decimal(value), do: :erlang.float_to_binary(value, decimals: 1)
end
