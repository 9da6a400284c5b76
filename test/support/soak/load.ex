defmodule ReadStates.Soak.Load do
  @moduledoc """
  Processes that write and read as fast as they can. Each has users of its own, who come and go: most calls are about
  some of them, who are others a little later. Channels are left for new ones, and users deleted. What a read returns has
  to be what was written before.
  """

  import Bitwise

  alias ReadStates.Call

  @enforce_keys [
    :name,
    :processes,
    :users_each,
    :begun,
    :until,
    :operations,
    :calls,
    :states,
    :slowest
  ]
  defstruct @enforce_keys

  # Read states of a user. The first is of a channel that everybody has, the others of some that are shared by a few.
  @slots 10
  @slot_bits 4
  @channels 1_000
  # One user in ten is there at a time, and all have been after a while.
  @present 10
  @turn_s 60
  # How long a channel lives; somewhere in this time it begins. Users leave it for the next one when they see that.
  @channel_s 120
  # So many read states are written first of all, in each call.
  @filled 1_000
  @most_at_once 100
  @retry_ms 1

  # What a call was is in the lowest bits of its time.
  @calls ~w(ack increment decrement put delete update get list total)a
  @call_bits 4

  @doc "Of so many users, at least; the processes go on for so many seconds from now."
  def new(name, processes, users, seconds) do
    users_each = div(users - 1, processes) + 1
    now = now()

    %__MODULE__{
      name: name,
      processes: processes,
      users_each: users_each,
      begun: now,
      until: now + seconds * 1_000_000_000,
      # Of each process.
      operations: :atomics.new(processes, []),
      calls: :atomics.new(processes, []),
      slowest: :atomics.new(processes, []),
      # Of each read state, of the how manieth channel in its place it is, and what its counter has to be.
      states: :atomics.new(processes * users_each * @slots, signed: false)
    }
  end

  @doc "Starts the processes, linked to the caller. Returns tasks."
  def start(load) do
    for process <- 1..load.processes do
      Task.async(fn ->
        fill(load, process)
        work(load, process, 2 * @most_at_once)
      end)
    end
  end

  @doc "Operations accepted and read states read, and calls for them, so far."
  def done(load), do: {sum(load, load.operations), sum(load, load.calls)}

  defp sum(load, counts), do: Enum.sum(for at <- 1..load.processes, do: :atomics.get(counts, at))

  @doc "The slowest call since this was asked last: its nanoseconds, and what it was."
  def slowest(load) do
    slowest = Enum.max(for at <- 1..load.processes, do: :atomics.exchange(load.slowest, at, 0))
    {slowest >>> @call_bits, Enum.at(@calls, slowest &&& (1 <<< @call_bits) - 1)}
  end

  @doc "Reads what every user has. Raises if that is not what was written, and returns the number of users and the sum of all counters."
  def verify(load) do
    1..load.processes
    |> Task.async_stream(
      fn process ->
        for user <- users(load, process), reduce: 0 do
          sum ->
            read(load, process, {:list, user})
            sum + read(load, process, {:total, user, :mention_count})
        end
      end,
      timeout: :infinity
    )
    |> Enum.reduce({load.processes * load.users_each, 0}, fn {:ok, sum}, {users, all} ->
      {users, all + sum}
    end)
  end

  # All users are there from the beginning, so that none of what follows is only that there are more of them.
  defp fill(load, process) do
    for some <- Enum.chunk_every(users(load, process), div(@filled, @slots)) do
      acks =
        for user <- some, slot <- 0..(@slots - 1), do: {:ack, user, channel(load, user, slot), 1}

      write(load, process, {:update, acks})
    end
  end

  # Each message is newer than all before.
  defp work(load, process, message) do
    if now() < load.until do
      case :rand.uniform(100) do
        n when n <= 15 -> read(load, process, get(load, process))
        n when n <= 20 -> read(load, process, {:list, present(load, process)})
        n when n <= 25 -> read(load, process, {:total, present(load, process), :mention_count})
        n when n <= 35 -> write(load, process, update(load, process, message))
        n when n <= 40 -> write(load, process, mention(load, process, message))
        _ -> write(load, process, operation(load, process, message))
      end

      work(load, process, message + 2 * @most_at_once)
    end
  end

  defp get(load, process) do
    user = present(load, process)
    {:get, user, channel(load, user, :rand.uniform(@slots) - 1)}
  end

  defp update(load, process, message) do
    operations =
      for at <- 1..:rand.uniform(@most_at_once), do: operation(load, process, message + at)

    {:update, operations}
  end

  # Of everybody's channel.
  defp mention(load, process, message) do
    users = for _ <- 1..@most_at_once, do: present(load, process)
    for user <- users, do: change(load, user, 0, &(&1 + 1))
    {:increment, users, channel(load, hd(users), 0), message, 1}
  end

  # An operation that will be accepted, with what it changes.
  defp operation(load, process, message) do
    {user, slot, by} = {present(load, process), :rand.uniform(@slots) - 1, :rand.uniform(3)}
    channel = channel(load, user, slot)

    what = if ended?(load, user, slot), do: :leave, else: :rand.uniform(1_000)

    case what do
      :leave ->
        :atomics.put(load.states, at(user, slot), newest(load, user, slot) <<< 32)
        {:delete, user, channel}

      n when n <= 150 ->
        change(load, user, slot, fn _count -> 0 end)
        {:ack, user, channel, message}

      n when n <= 200 ->
        change(load, user, slot, fn _count -> by end)
        {:put, user, channel, message, mention_count: by}

      n when n <= 250 ->
        change(load, user, slot, &max(&1 - by, 0))
        {:decrement, user, channel, message, by}

      # Few of them: the store remembers each for ten minutes, and would have little else.
      n when n <= 255 ->
        change(load, user, slot, fn _count -> 0 end)
        {:delete, user, channel}

      n when n <= 257 ->
        for slot <- 0..(@slots - 1), do: change(load, user, slot, fn _count -> 0 end)
        {:delete, user}

      _ ->
        change(load, user, slot, &(&1 + by))
        {:increment, user, channel, message, by}
    end
  end

  defp write(load, process, call) do
    case timed(load, process, call) do
      :ok ->
        :atomics.add(load.operations, process, length(Call.operations(call)))

      {:error, :overloaded} ->
        Process.sleep(@retry_ms)
        write(load, process, call)
    end
  end

  # Returns the answer.
  defp read(load, process, call) do
    {:ok, answer} = timed(load, process, call)
    :atomics.add(load.operations, process, 1)

    unless right?(load, call, answer) do
      user = elem(call, 1)

      counts =
        for slot <- 0..(@slots - 1), do: {channel(load, user, slot), count(load, user, slot)}

      raise "#{inspect(call)} returned #{inspect(answer)}, and what was written is #{inspect(counts)}"
    end

    answer
  end

  defp right?(load, {:get, user, channel}, answer) do
    answer.counters.mention_count == count(load, user, channel &&& (1 <<< @slot_bits) - 1)
  end

  defp right?(load, {:list, user}, states) do
    found = Map.new(states, &{&1.channel, &1.counters.mention_count})
    counts = Map.new(0..(@slots - 1), &{channel(load, user, &1), count(load, user, &1)})
    # Those that were deleted, and not written since, are not there.
    Enum.all?(counts, fn {channel, count} -> Map.get(found, channel, 0) == count end) and
      Enum.all?(found, fn {channel, _count} -> is_map_key(counts, channel) end)
  end

  defp right?(load, {:total, user, _counter}, total) do
    total == Enum.sum(for slot <- 0..(@slots - 1), do: count(load, user, slot))
  end

  defp timed(load, process, call) do
    began = now()
    result = Call.carry_out(load.name, call)
    time = now() - began
    :atomics.add(load.calls, process, 1)
    slow = time <<< @call_bits ||| Enum.find_index(@calls, &(&1 == elem(call, 0)))
    if slow > :atomics.get(load.slowest, process), do: :atomics.put(load.slowest, process, slow)
    result
  end

  defp users(load, process),
    do: for(number <- 0..(load.users_each - 1), do: user(load, process, number))

  defp user(load, process, number), do: number * load.processes + process - 1

  # One of those who are there now.
  defp present(load, process) do
    turn = div((now() - load.begun) * load.users_each, @turn_s * 1_000_000_000)

    user(
      load,
      process,
      rem(turn + :rand.uniform(div(load.users_each, @present) + 1), load.users_each)
    )
  end

  defp channel(_load, _user, 0), do: 0

  defp channel(load, user, slot) do
    number = :atomics.get(load.states, at(user, slot)) >>> 32
    (number * @channels + rem(user, @channels)) <<< @slot_bits ||| slot
  end

  defp ended?(_load, _user, 0), do: false

  defp ended?(load, user, slot),
    do: :atomics.get(load.states, at(user, slot)) >>> 32 < newest(load, user, slot)

  # The number of the channel that is there now. Not all end at the same time.
  defp newest(load, user, slot) do
    begins = rem(rem(user, @channels) * @slots + slot, @channel_s)
    div(div(now() - load.begun, 1_000_000_000) + begins, @channel_s)
  end

  defp count(load, user, slot), do: :atomics.get(load.states, at(user, slot)) &&& 0xFFFF_FFFF

  defp change(load, user, slot, fun) do
    count = count(load, user, slot)
    :atomics.add(load.states, at(user, slot), fun.(count) - count)
  end

  defp at(user, slot), do: user * @slots + slot + 1

  defp now, do: System.monotonic_time(:nanosecond)
end
