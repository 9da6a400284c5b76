# ReadStates beside ETS, on the same read states; bench/README.md says how to read it.
#
#     mix run bench/read_states.exs [--states N] [--seconds N]

defmodule ReadStates.Bench do
  import Bitwise

  @per_user 50
  # A prime, so that the stride below never leads a user to the same channel twice.
  @channels 100_003
  # Calls, or operations of one update/2, in a measured run.
  @calls 1_000

  def run(args) do
    {opts, []} = OptionParser.parse!(args, strict: [states: :integer, seconds: :integer])
    users = max(div(opts[:states] || 1_000_000, @per_user), 1)
    states = users * @per_user
    # So much that nothing is evicted and no write refused, even with every state dirty.
    memory = max(200 * states, 512 * 1024 * 1024)

    {:ok, instance} =
      ReadStates.start_link(
        name: __MODULE__,
        store: ReadStates.Store.Memory,
        capacity: 2 * states,
        memory: memory,
        dirty_memory: memory
      )

    set = :ets.new(:set, [:public])
    ordered_set = :ets.new(:ordered_set, [:public, :ordered_set])
    fill(users, [set, ordered_set])

    IO.puts("#{states} read states of #{users} users\n")
    show_memory(set)

    for {title, prepare, jobs} <- comparisons(set, ordered_set) do
      IO.puts("\n#{title}")
      compare(jobs, fn -> prepare.(users) end, opts[:seconds] || 5)
    end

    %{evictions: 0, overloads: 0} = ReadStates.stats(__MODULE__)
    Supervisor.stop(instance)
  end

  defp fill(users, tables) do
    for u <- 1..users do
      rows = for i <- 1..@per_user, do: {{user(u), channel(u, i)}, message(), 0}
      acks = for {{user, channel}, message, 0} <- rows, do: {:ack, user, channel, message}
      :ok = ReadStates.update(__MODULE__, acks)
      Enum.each(tables, &:ets.insert(&1, rows))
    end

    :ok = ReadStates.commit(__MODULE__)
  end

  # {title, what prepares the argument of a run, [{name, run}]}; ReadStates comes first.
  defp comparisons(set, ordered_set) do
    [
      {"ack/4, #{@calls} calls a run", &random_acks/1,
       [
         {"ReadStates.ack/4",
          each(fn {:ack, user, channel, message} ->
            ReadStates.ack(__MODULE__, user, channel, message)
          end)},
         {":ets.update_counter/3",
          each(fn {:ack, user, channel, _message} ->
            :ets.update_counter(set, {user, channel}, {3, 1})
          end)},
         {":ets.update_element/3",
          each(fn {:ack, user, channel, message} ->
            :ets.update_element(set, {user, channel}, [{2, message}, {3, 0}])
          end)}
       ]},
      {"update/2, one call with #{@calls} operations a run", &random_operations/1,
       [
         {"ReadStates.update/2", &ReadStates.update(__MODULE__, &1)},
         {":ets.update_*/3",
          each(fn
            {:ack, user, channel, message} ->
              :ets.update_element(set, {user, channel}, [{2, message}, {3, 0}])

            {:increment, user, channel, _message, by} ->
              :ets.update_counter(set, {user, channel}, {3, by})
          end)}
       ]},
      {"get/3, #{@calls} calls a run", &random_keys/1,
       [
         {"ReadStates.get/3",
          each(fn {user, channel} -> ReadStates.get(__MODULE__, user, channel) end)},
         {":ets.lookup/2", each(fn key -> :ets.lookup(set, key) end)}
       ]},
      {"list/2, #{@calls} calls a run, #{@per_user} read states each", &random_keys/1,
       [
         {"ReadStates.list/2",
          each(fn {user, _channel} -> ReadStates.list(__MODULE__, user) end)},
         {":ets.select/2, ordered_set",
          each(fn {user, _channel} ->
            :ets.select(ordered_set, [
              {{{user, :"$1"}, :"$2", :"$3"}, [], [{{:"$1", :"$2", :"$3"}}]}
            ])
          end)}
       ]}
    ]
  end

  defp each(fun), do: &Enum.each(&1, fun)

  defp random_keys(users), do: for(_ <- 1..@calls, do: random_key(users))

  defp random_acks(users), do: for(key <- random_keys(users), do: ack(key))

  # Half of each, as where every other message read was one with a mention.
  defp random_operations(users) do
    for key <- random_keys(users),
        do: if(:rand.uniform(2) == 1, do: ack(key), else: increment(key))
  end

  defp ack({user, channel}), do: {:ack, user, channel, message()}
  defp increment({user, channel}), do: {:increment, user, channel, message(), 1}

  defp random_key(users) do
    u = :rand.uniform(users)
    {user(u), channel(u, :rand.uniform(@per_user))}
  end

  defp user(u), do: snowflake(u)
  defp channel(u, i), do: snowflake(rem(u * 7_919 + i * 15_485_863, @channels))

  # Newer than any before, so that no operation is one that changes nothing.
  defp message, do: snowflake(System.unique_integer([:positive, :monotonic]))

  # 60 bits, as those of today: bignums on the BEAM.
  defp snowflake(n), do: 1 <<< 59 ||| n <<< 22 ||| (n * 2_654_435_761 &&& 0x3FFFFF)

  defp show_memory(set) do
    %{memory: memory, states: states} = ReadStates.stats(__MODULE__)
    ets = :ets.info(set, :memory) * :erlang.system_info(:wordsize) / :ets.info(set, :size)
    show_row(["memory", "bytes/state", ""])
    show_row(["ReadStates", decimal(memory / states), ""])
    show_row([":ets set", decimal(ets), "x #{decimal(ets * states / memory)}"])
  end

  if Code.ensure_loaded?(Benchee) do
    defp compare(jobs, prepare, seconds) do
      Benchee.run(Map.new(jobs),
        inputs: %{"random access" => nil},
        before_each: fn _input -> prepare.() end,
        time: seconds,
        print: [benchmarking: false, configuration: false]
      )
    end
  else
    defp compare([{_name, first} | _] = jobs, prepare, seconds) do
      show_row(["median", "ns/operation", ""])
      base = median(first, prepare, seconds)

      for {{name, run}, index} <- Enum.with_index(jobs) do
        ns = if index == 0, do: base, else: median(run, prepare, seconds)
        show_row([name, decimal(ns), if(index == 0, do: "", else: "x #{decimal(ns / base)}")])
      end
    end

    # Of as many runs as fit into the time, the first tenth of them left out; nanoseconds an operation.
    defp median(run, prepare, seconds) do
      until = System.monotonic_time(:millisecond) + seconds * 1_000

      times =
        Stream.repeatedly(fn -> time(run, prepare.()) end)
        |> Enum.take_while(fn _time -> System.monotonic_time(:millisecond) < until end)

      # A run longer than the time leaves nothing.
      times = if times == [], do: [time(run, prepare.())], else: times
      times = times |> Enum.drop(div(length(times), 10)) |> Enum.sort()
      Enum.at(times, div(length(times), 2)) / @calls
    end

    defp time(run, argument) do
      started = System.monotonic_time()
      run.(argument)
      System.convert_time_unit(System.monotonic_time() - started, :native, :nanosecond)
    end
  end

  defp show_row([name, value, ratio]) do
    IO.puts(
      String.pad_trailing(name, 30) <>
        String.pad_leading(value, 14) <> String.pad_leading(ratio, 10)
    )
  end

  defp decimal(number), do: :erlang.float_to_binary(number / 1, decimals: 1)
end

ReadStates.Bench.run(System.argv())
