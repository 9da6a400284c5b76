# What script/demo runs. Takes the directory for the data.

defmodule ReadStates.Demo do
  alias ReadStates.{Replay, Trace}
  alias ReadStates.Progress

  @trace Path.join(__DIR__, "demo.tsv.gz")
  # Of the read states that the slice must lead to, computed without this library.
  @sha256 "fa5ecf47701fefa65167cfea4b2d9f05fe8a0429af55e248bad3f03fbe00574e"
  @rows 5

  def run(path) do
    IO.puts("A slice of a real community's chat history, replayed on the embedded store\n")
    store = {ReadStates.Store.Local, path: path}

    instance = start(store)
    %{memory: empty} = ReadStates.stats(__MODULE__)
    figures = replay()
    show_user()
    show_memory(empty)
    Supervisor.stop(instance)

    instance = start(store)
    again = Replay.read_back(__MODULE__, Trace.stream!(@trace))
    Supervisor.stop(instance)

    compare(figures, again)
  end

  defp start(store) do
    {:ok, instance} = ReadStates.start_link(name: __MODULE__, store: store)
    instance
  end

  defp replay do
    times = :ets.new(:times, [:ordered_set])

    measure = fn operation, ns ->
      :ets.update_counter(times, {operation, ns}, 1, {{operation, ns}, 0})
    end

    figures =
      Replay.run(__MODULE__, Trace.stream!(@trace, on_read: Progress.bar()), measure: measure)

    Progress.clear()

    show_times(
      figures,
      for({{operation, ns}, calls} <- :ets.tab2list(times), do: {operation, ns, calls})
    )

    figures
  end

  # `times` are {operation, nanoseconds, calls} in ascending order.
  defp show_times(figures, times) do
    calls = times |> Enum.map(&elem(&1, 2)) |> Enum.sum()
    ns = times |> Enum.map(fn {_operation, ns, calls} -> ns * calls end) |> Enum.sum()

    IO.puts(
      "#{number(figures[:messages])} messages, #{number(calls)} operations in #{div(ns, 1_000_000)} ms"
    )

    IO.puts(
      "from one process, one after the other: #{number(div(calls * 1_000_000_000, ns))} operations/s\n"
    )

    row = fn cells -> table_row(cells, [-12, 10, 10, 10, 10]) end
    row.(["operation", "calls", "p50 µs", "p99 µs", "max µs"])

    for operation <- [:ack, :increment, :list] do
      times = for {^operation, ns, calls} <- times, do: {ns, calls}
      calls = times |> Enum.map(&elem(&1, 1)) |> Enum.sum()
      row.([operation, number(calls) | Enum.map([0.5, 0.99, 1.0], &percentile(times, calls, &1))])
    end
  end

  defp percentile(times, calls, share) do
    ns =
      Enum.reduce_while(times, ceil(calls * share), fn
        {ns, calls}, left when calls >= left -> {:halt, ns}
        {_ns, calls}, left -> {:cont, left - calls}
      end)

    :erlang.float_to_binary(ns / 1000, decimals: 1)
  end

  # The user with the most read states among those who have something to read.
  defp show_user do
    {user, badge, states} =
      @trace
      |> Trace.stream!()
      |> Stream.map(fn {_message, _seconds, _channel, sender, _mentioned} -> sender end)
      |> Stream.uniq()
      |> Stream.map(fn user ->
        {:ok, badge} = ReadStates.total(__MODULE__, user)
        {:ok, states} = ReadStates.list(__MODULE__, user)
        {user, badge, states}
      end)
      |> Stream.filter(fn {_user, badge, _states} -> badge > 0 end)
      |> Enum.max_by(fn {_user, _badge, states} -> length(states) end)

    IO.puts("\nUser #{user}: #{length(states)} read states, badge #{badge}\n")
    row = fn cells -> table_row(cells, [-20, -20, 9]) end
    row.(["channel", "last message read", "mentions"])

    states
    |> Enum.sort_by(&{&1.counters.mention_count, &1.last_message_id}, :desc)
    |> Enum.take(@rows)
    |> Enum.each(&row.([&1.channel, &1.last_message_id, &1.counters.mention_count]))
  end

  # An instance has tables before it has its first user: they are shown, but not shared out.
  defp show_memory(empty) do
    %{users: users, states: states, memory: memory} = ReadStates.stats(__MODULE__)
    each = Float.round((memory - empty) / states, 1)

    IO.puts("\nIn memory: #{number(states)} read states of #{users} users, #{each} bytes each")
    IO.puts("(#{number(memory)} bytes, #{number(empty)} of them those of an empty instance)\n")
  end

  defp compare(figures, again) do
    IO.puts("Stopped, and started again from disk: #{number(again[:states])} read states")
    IO.puts("SHA-256 before  #{figures[:sha256]}")
    IO.puts("        after   #{again[:sha256]}")

    if figures[:sha256] == @sha256 and again[:sha256] == @sha256 do
      IO.puts("Everything is still there.")
    else
      IO.puts("Wrong: it should be #{@sha256}")
      exit({:shutdown, 1})
    end
  end

  # A negative width is that of a column aligned to the left.
  defp table_row(cells, widths) do
    cells
    |> Enum.zip(widths)
    |> Enum.map_join(fn
      {cell, width} when width < 0 -> String.pad_trailing("#{cell}", -width)
      {cell, width} -> String.pad_leading("#{cell}", width)
    end)
    |> then(&IO.puts("  " <> &1))
  end

  defp number(n), do: Regex.replace(~r/\B(?=(\d{3})+$)/, "#{n}", ",")
end

case System.argv() do
  [path] -> ReadStates.Demo.run(path)
  _ -> Mix.raise("script/demo.exs takes the directory for the data; see script/demo")
end
