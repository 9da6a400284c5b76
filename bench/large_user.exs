# A user with 100,000 channels: how long does an operation on him take, and how often did any
# process meanwhile hold a scheduler for more than a millisecond, as the VM itself reports it?
#
#     mix run bench/large_user.exs [CHANNELS]
#
# How long he holds a lock is measured without a VM around it, in native/engine/examples/large_user.rs.

defmodule LargeUser do
  @name __MODULE__
  @user 7
  @rounds 9

  def run(channels) do
    monitor = spawn_link(fn -> count_held(0) end)
    :erlang.system_monitor(monitor, [{:long_schedule, 1}])
    {:ok, instance} = ReadStates.start_link(name: @name, store: ReadStates.Store.Memory)
    acks = for channel <- 1..channels, do: {:ack, @user, channel, 1}
    changes = for channel <- 1..channels, do: {:increment, @user, channel, 2, 1}
    :ok = ReadStates.update(@name, acks)

    IO.puts("#{channels} channels, #{@rounds} rounds\n")
    IO.puts("operation                ms, median   schedulers held")

    resident = fn -> :ok = ReadStates.load(@name, [@user]) end
    clean = fn -> :ok = ReadStates.commit(@name) end
    nothing = fn -> :ok = ReadStates.delete(@name, @user) end

    absent = fn ->
      clean.()
      :ok = ReadStates.resize(@name, capacity: 1)
      :ok = ReadStates.resize(@name, capacity: 10 * channels)
    end

    changed = fn prepare ->
      fn ->
        prepare.()
        :ok = ReadStates.update(@name, changes)
      end
    end

    measure("get", resident, fn -> {:ok, _} = ReadStates.get(@name, @user, 5) end)
    measure("ack", resident, fn -> :ok = ReadStates.ack(@name, @user, 5, 3) end)
    measure("total", resident, fn -> {:ok, _} = ReadStates.total(@name, @user) end)
    measure("list", resident, fn -> {:ok, _} = ReadStates.list(@name, @user) end)
    measure("list, limit: 50", resident, fn -> ReadStates.list(@name, @user, limit: 50) end)
    measure("update of all", resident, changed.(resident))
    measure("update, creating all", nothing, fn -> :ok = ReadStates.update(@name, acks) end)
    measure("update, not resident", absent, changed.(fn -> :ok end))
    measure("load", absent, resident)
    measure("commit", changed.(resident), clean)
    measure("evict", resident, absent)
    measure("delete", changed.(resident), nothing)

    Supervisor.stop(instance)
  end

  defp measure(label, prepare, operation) do
    {times, held} =
      Enum.unzip(
        for _round <- 1..@rounds do
          prepare.()
          # What that leaves to do in the background is not what is measured.
          Process.sleep(50)
          held()
          {microseconds, _result} = :timer.tc(operation)
          {microseconds / 1_000, held()}
        end
      )

    median = times |> Enum.sort() |> Enum.at(div(@rounds, 2))
    ms = median |> :erlang.float_to_binary(decimals: 3) |> String.pad_leading(11)
    times = held |> Enum.sum() |> to_string() |> String.pad_leading(18)
    IO.puts([String.pad_trailing(label, 24), ms, times])
  end

  # How often a scheduler was held since the last call.
  defp held do
    {monitor, _events} = :erlang.system_monitor()
    send(monitor, {:count, self()})
    receive do: ({:held, count} -> count)
  end

  defp count_held(count) do
    receive do
      {:monitor, _process, :long_schedule, _info} ->
        count_held(count + 1)

      {:count, from} ->
        send(from, {:held, count})
        count_held(0)
    end
  end
end

channels =
  case System.argv() do
    [count] -> String.to_integer(count)
    [] -> 100_000
  end

LargeUser.run(channels)
