# A user with 100,000 channels: how long does an operation on him take, does any hold a normal
# scheduler for a millisecond (`:erlang.system_monitor/2` tells), and how long does another process
# that acks for the same user, and so wants the same lock, have to wait meanwhile?
#
#     mix run bench/large_user.exs [CHANNELS]

defmodule LargeUser do
  @name __MODULE__
  @user 7

  def run(channels) do
    {:ok, instance} = ReadStates.start_link(name: @name, store: ReadStates.Store.Memory)
    :erlang.system_monitor(self(), long_schedule: 1)
    acks = for channel <- 1..channels, do: {:ack, @user, channel, 1}

    IO.puts("#{channels} channels, ms\n")
    IO.puts("operation                  alone   with a writer   the writer's longest ack")

    measure("update, user not resident", fn -> :ok = ReadStates.update(@name, acks) end)
    measure("load, merging all of them", fn -> :ok = ReadStates.load(@name, [@user]) end)
    measure("get", fn -> {:ok, _} = ReadStates.get(@name, @user, 5) end)
    measure("ack, new channel", fn -> :ok = ReadStates.ack(@name, @user, channels + 1, 2) end)
    measure("increment", fn -> :ok = ReadStates.increment(@name, @user, 5, 3) end)
    measure("total", fn -> {:ok, _} = ReadStates.total(@name, @user) end)
    measure("list", fn -> {:ok, _} = ReadStates.list(@name, @user) end)
    measure("list, limit: 50", fn -> {:ok, _} = ReadStates.list(@name, @user, limit: 50) end)
    measure("update of all", fn -> :ok = ReadStates.update(@name, acks) end)
    measure("commit", fn -> :ok = ReadStates.commit(@name) end)
    measure("evict", fn -> :ok = ReadStates.resize(@name, capacity: 1) end)
    :ok = ReadStates.resize(@name, capacity: 10 * channels)
    measure("load from the store", fn -> :ok = ReadStates.load(@name, [@user]) end)
    measure("delete", fn -> :ok = ReadStates.delete(@name, @user) end)

    IO.puts(
      "\nprocesses on a scheduler for a millisecond or more: #{inspect(long_schedules([]))}"
    )

    Supervisor.stop(instance)
  end

  # Each operation once alone and once beside a writer.
  defp measure(label, operation) do
    alone = time(operation)
    writer = Task.async(fn -> write(0, 0) end)
    beside = time(operation)
    send(writer.pid, :stop)
    longest = Task.await(writer)
    row = [String.pad_trailing(label, 26) | Enum.map([alone, beside, longest], &cell/1)]
    IO.puts(row)
  end

  defp write(count, longest) do
    receive do
      :stop -> longest
    after
      0 -> write(count + 1, max(longest, time(fn -> ReadStates.ack(@name, @user, 1, count) end)))
    end
  end

  defp time(operation) do
    start = System.monotonic_time()
    operation.()
    System.monotonic_time() - start
  end

  defp cell(native) do
    ms = System.convert_time_unit(native, :native, :microsecond) / 1_000
    ms |> :erlang.float_to_binary(decimals: 3) |> String.pad_leading(12)
  end

  defp long_schedules(seen) do
    receive do
      {:monitor, _pid, :long_schedule, info} ->
        long_schedules([{info[:timeout], info[:in], info[:out]} | seen])
    after
      0 -> seen
    end
  end
end

channels =
  case System.argv() do
    [count] -> String.to_integer(count)
    [] -> 100_000
  end

LargeUser.run(channels)
