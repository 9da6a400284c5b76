# A user with 100,000 channels: how long does an operation on him take, and how long does another
# process that acks for the same user, and so wants the same lock, have to wait meanwhile?
#
#     mix run bench/large_user.exs [CHANNELS]
#
# The first two rows are what the machine itself makes a writer wait, with one core busy beside it
# and with two: the operating system takes a core away for some milliseconds at a time. Compare the
# others with them.

defmodule LargeUser do
  @name __MODULE__
  @user 7

  def run(channels) do
    {:ok, instance} = ReadStates.start_link(name: @name, store: ReadStates.Store.Memory)
    acks = for channel <- 1..channels, do: {:ack, @user, channel, 1}

    IO.puts("#{channels} channels, ms\n")
    IO.puts("operation                          alone  with a writer  the writer's longest ack")

    measure("(a busy core)", fn -> busy(1) end)
    measure("(two busy cores)", fn -> busy(2) end)
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

    Supervisor.stop(instance)
  end

  # Each operation once alone and once beside a writer.
  defp measure(label, operation) do
    alone = time(operation)
    writer = Task.async(fn -> write(0, 0) end)
    beside = time(operation)
    send(writer.pid, :stop)
    longest = Task.await(writer)

    IO.puts([String.pad_trailing(label, 27), cell(alone, 12), cell(beside, 15), cell(longest, 26)])
  end

  defp write(count, longest) do
    receive do
      :stop -> longest
    after
      0 -> write(count + 1, max(longest, time(fn -> ReadStates.ack(@name, @user, 1, count) end)))
    end
  end

  defp busy(cores) do
    stop = System.monotonic_time(:millisecond) + 100
    spinning = for _core <- 1..cores, do: Task.async(fn -> spin(stop) end)
    Task.await_many(spinning)
  end

  defp spin(stop), do: if(System.monotonic_time(:millisecond) < stop, do: spin(stop))

  defp time(operation) do
    start = System.monotonic_time()
    operation.()
    System.monotonic_time() - start
  end

  defp cell(native, width) do
    ms = System.convert_time_unit(native, :native, :microsecond) / 1_000
    ms |> :erlang.float_to_binary(decimals: 3) |> String.pad_leading(width)
  end
end

channels =
  case System.argv() do
    [count] -> String.to_integer(count)
    [] -> 100_000
  end

LargeUser.run(channels)
