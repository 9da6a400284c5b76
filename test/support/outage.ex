defmodule ReadStates.Outage do
  @moduledoc """
  An instance at full write load whose store goes away for a while and comes back.

  Each writer counts, for each of its read states, the increments that were acknowledged. While the store is away,
  residents are read, writes go on up to the bound and are refused then, and memory stays below it. When it is back, the
  store has exactly what was counted.
  """

  alias ReadStates.{FaultyStore, InstanceCase}
  alias ReadStates.Store.Memory

  @writers 8
  @users 4_000
  @channels 5
  @mib 1024 * 1024
  @memory 4 * @mib
  @dirty_memory 2 * @mib
  @journal_size 64 * @mib
  # What an outage may add to the memory of the VM, besides: two batches on their way, the retried tasks, the allocators' slack.
  @slack 24 * @mib
  # Residents whose changes wait, so they cannot be evicted.
  @hot Enum.to_list(1..100)
  # Places in what is counted.
  @accepted 1
  @refused 2
  @reads 3
  @paused 4
  @newest 0xFFFF_FFFF_FFFF_FFFF

  # In turn, while it is away.
  @kinds [
    {:return, {:error, :away}},
    :hang,
    {:then_return, {:error, :away}},
    {:late, 300},
    {:do, &__MODULE__.fall_over/0}
  ]

  def fall_over, do: raise("the store is away")

  @doc "Runs it in a VM of its own, whose memory is looked at too, and writes a line for each figure."
  def live(seconds, journal) do
    {:ok, _started} = Application.ensure_all_started(:logger)
    Logger.configure(level: :error)
    for {what, figure} <- run(seconds, journal), do: IO.puts("#{what}: #{figure}")
    IO.puts("the store has what was acknowledged")
  end

  @doc "Runs it for so many seconds, with a journal in this directory or none, and returns figures; raises if something is wrong."
  def run(seconds, journal) do
    {:ok, faults} = FaultyStore.start_link(self())
    store = {FaultyStore, faults: faults, store: {Memory, data: Memory.new()}, record: false}

    {:ok, instance} =
      ReadStates.start_link(
        name: __MODULE__,
        store: store,
        load_timeout: 60_000,
        memory: @memory,
        dirty_memory: @dirty_memory,
        commit_after: 100,
        journal: journal && [path: journal, max_size: @journal_size, sync_every: 20]
      )

    figures = :counters.new(4, [])
    writers = for writer <- 1..@writers, do: start_writer(writer, figures)
    await(fn -> look(figures).accepted >= 1_000 end)
    before = look(figures)

    # While there is room for them.
    :counters.put(figures, @paused, 1)
    :ok = ReadStates.commit(__MODULE__)
    :ok = FaultyStore.set(faults, :commit, {:return, {:error, :away}})
    :ok = ReadStates.load(__MODULE__, @hot)
    for user <- @hot, do: :ok = ReadStates.ack(__MODULE__, user, 1, 1)
    :counters.put(figures, @paused, 0)
    rss = rss()
    reader = Task.async(fn -> read_hot(figures) end)
    most = stay_away(faults, seconds * 1_000)
    during = look(figures)
    send(reader.pid, :stop)
    :ok = Task.await(reader, :infinity)
    check_bounds(most, rss)
    unless during.refused > 0, do: raise("the bound was not reached: #{inspect(during)}")

    unless during.accepted > before.accepted,
      do: raise("nothing was accepted: #{inspect(during)}")

    unless during.reads > 0, do: raise("nothing was read")

    for call <- [:load, :commit], do: FaultyStore.set(faults, call, nil)
    await(fn -> look(figures).accepted > during.accepted + 10_000 end)
    for {pid, _counts} <- writers, do: send(pid, :stop)
    await(fn -> not Enum.any?(writers, fn {pid, _counts} -> Process.alive?(pid) end) end)
    await(fn -> ReadStates.commit(__MODULE__) == :ok end)
    await(fn -> FaultyStore.late(faults) == 0 end)
    %{dirty_users: 0, pending_operations: 0, dirty_memory: 0} = ReadStates.stats(__MODULE__)
    check_store(Enum.map(writers, &elem(&1, 1)))
    :ok = Supervisor.stop(instance)
    Map.to_list(look(figures)) ++ Enum.sort(most) ++ [rss_before: rss]
  end

  # Away in one way after the other. Returns the most that was seen of what is bounded.
  defp stay_away(faults, ms) do
    slice = max(div(ms, 2 * length(@kinds)), 50)

    Stream.cycle(@kinds)
    |> Enum.take(max(div(ms, slice), 1))
    |> Enum.reduce(%{dirty_memory: 0, memory: 0, journal_size: 0, mailbox: 0, rss: 0}, fn kind,
                                                                                          most ->
      for call <- [:load, :commit], do: FaultyStore.set(faults, call, kind)
      watch(most, System.monotonic_time(:millisecond) + slice)
    end)
  end

  defp watch(most, until) do
    stats = ReadStates.stats(__MODULE__)
    now = Map.take(stats, [:dirty_memory, :memory, :journal_size])
    now = Map.merge(now, %{mailbox: InstanceCase.longest_mailbox(__MODULE__), rss: rss()})
    most = Map.merge(most, now, fn _figure, most, now -> max(most, now) end)
    Process.sleep(10)
    if System.monotonic_time(:millisecond) < until, do: watch(most, until), else: most
  end

  defp check_bounds(most, rss) do
    bounds = %{
      # Users who are loaded weigh more than the operations that waited for them: two calls of 256 users in each partition.
      dirty_memory: @dirty_memory + 4 * 256 * 400,
      # See ReadStates.BoundsTest.
      memory: @memory + div(@memory, 4),
      journal_size: @journal_size,
      # One message of each who waits, a tick and a wake of each process that sends some, and one of each user whom a loader gives up.
      mailbox: 2_000,
      rss: rss + @dirty_memory + @slack
    }

    for {figure, bound} <- bounds, most[figure] > bound do
      raise "#{figure} was #{most[figure]}, and the bound is #{bound}"
    end
  end

  # Of this VM, without the files of the journal.
  defp rss do
    [_, kilobytes] = Regex.run(~r/RssAnon:\s+(\d+) kB/, File.read!("/proc/self/status"))
    String.to_integer(kilobytes) * 1024
  end

  defp look(figures) do
    %{
      accepted: :counters.get(figures, @accepted),
      refused: :counters.get(figures, @refused),
      reads: :counters.get(figures, @reads)
    }
  end

  defp read_hot(figures) do
    for user <- @hot do
      {:ok, %{last_message_id: 1}} = ReadStates.get(__MODULE__, user, 1)
      {:ok, [_ | _]} = ReadStates.list(__MODULE__, user)
      :counters.add(figures, @reads, 2)
    end

    receive do
      :stop -> :ok
    after
      1 -> read_hot(figures)
    end
  end

  defp start_writer(writer, figures) do
    counts = :counters.new(@users * @channels, [:write_concurrency])

    pid =
      spawn_link(fn ->
        :rand.seed(:exsss, {writer, 5, 7})
        write(writer, counts, figures)
      end)

    {pid, counts}
  end

  defp write(writer, counts, figures) do
    if :counters.get(figures, @paused) == 1,
      do: Process.sleep(1),
      else: write_one(writer, counts, figures)

    receive do
      :stop -> :ok
    after
      0 -> write(writer, counts, figures)
    end
  end

  defp write_one(writer, counts, figures) do
    {places, call} = operation(writer)

    case call.() do
      :ok ->
        for place <- places, do: :counters.add(counts, place, 1)
        :counters.add(figures, @accepted, length(places))

      {:error, :overloaded} ->
        :counters.add(figures, @refused, 1)
        Process.sleep(1)
    end
  end

  # Increments by one, and the places where they are counted.
  defp operation(writer) do
    case :rand.uniform(10) do
      1 ->
        channel = :rand.uniform(@channels)
        users = for _ <- 1..20, do: :rand.uniform(@users)

        {Enum.map(users, &place(&1, channel)),
         fn ->
           ReadStates.increment(__MODULE__, Enum.map(users, &user(writer, &1)), channel, @newest)
         end}

      2 ->
        places = for _ <- 1..20, do: {:rand.uniform(@users), :rand.uniform(@channels)}

        operations =
          for {user, channel} <- places, do: {:increment, user(writer, user), channel, @newest, 1}

        {for({user, channel} <- places, do: place(user, channel)),
         fn -> ReadStates.update(__MODULE__, operations) end}

      _often ->
        {user, channel} = {:rand.uniform(@users), :rand.uniform(@channels)}

        {[place(user, channel)],
         fn -> ReadStates.increment(__MODULE__, user(writer, user), channel, @newest) end}
    end
  end

  defp user(writer, number), do: writer * 1_000_000 + number
  defp place(user, channel), do: (user - 1) * @channels + channel

  defp check_store(counts) do
    stored = InstanceCase.stored(__MODULE__)

    for {counts, writer} <- Enum.with_index(counts, 1),
        user <- 1..@users,
        channel <- 1..@channels do
      expected = :counters.get(counts, place(user, channel))
      found = stored[user(writer, user)][{0, channel}]

      unless found == if(expected > 0, do: {0, %{mention_count: expected}}) do
        raise "user #{user(writer, user)}, channel #{channel}: #{expected} acknowledged, the store has #{inspect(found)}"
      end
    end
  end

  defp await(fun), do: fun.() || (Process.sleep(10) && await(fun))
end
