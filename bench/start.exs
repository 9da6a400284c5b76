# The start of an instance on a full store: how fast load/2 brings every user in, beside how fast the store
# alone is read from one end to the other, and how others are served meanwhile.
#
#     mix run bench/start.exs [--states N] [--output FILE]

defmodule ReadStates.Bench.Start do
  import Bitwise

  alias ReadStates.Store.Local

  @name __MODULE__
  @per_user 50
  # A prime, so that the stride below never leads a user to the same channel twice.
  @channels 1_000_003
  # Users of one load/2, and of one update/2 that fills.
  @users 200

  def run(args) do
    {opts, []} = OptionParser.parse!(args, strict: [states: :integer, output: :string])
    users = max(div(opts[:states] || 1_000_000, @per_user), 1)
    path = Path.join(System.tmp_dir!(), "read_states_start_#{System.unique_integer([:positive])}")

    try do
      fill(path, users)
      scan = scan(path)
      show("scan of the store alone", scan, "")
      {load, served} = load(path, users)
      show("load/2 of every user", load, "x #{decimal(load / scan)} of the scan")
      show_served(served)
      write(opts[:output], users * @per_user, scan, load, served)
    after
      File.rm_rf!(path)
    end
  end

  defp fill(path, users) do
    instance = start(path, users)

    for {users, n} <- Enum.with_index(Enum.chunk_every(1..users, @users)) do
      acks = for u <- users, i <- 1..@per_user, do: {:ack, user(u), channel(u, i), snowflake(1)}
      :ok = ReadStates.update(@name, acks)
      if rem(n, 50) == 0, do: :ok = ReadStates.commit(@name)
    end

    :ok = ReadStates.commit(@name)
    Supervisor.stop(instance, :normal, :infinity)
  end

  defp start(path, users) do
    memory = max(100 * users * @per_user, 512 * 1024 * 1024)

    {:ok, instance} =
      ReadStates.start_link(
        name: @name,
        store: {Local, path: path},
        capacity: 2 * users * @per_user,
        memory: memory,
        dirty_memory: div(memory, 2)
      )

    instance
  end

  # Rows a second.
  defp scan(path) do
    {:ok, store, _floor} = Local.open([path: path], %{name: @name, counters: [:mention_count]})

    started = now()
    bytes = scan(store, nil, 0)
    seconds = (now() - started) / 1_000_000
    :ok = Local.close(store)
    # A row of one counter takes 46 bytes.
    bytes / 46 / seconds
  end

  defp scan(store, cursor, bytes) do
    case Local.scan(store, cursor) do
      {:ok, batch, nil} -> bytes + byte_size(batch.binary)
      {:ok, batch, next} -> scan(store, next, bytes + byte_size(batch.binary))
    end
  end

  # Read states a second; and of who else is served meanwhile the microseconds of each call.
  defp load(path, users) do
    instance = start(path, users)
    other = Task.async(fn -> serve(users, []) end)
    ids = 1..users |> Enum.shuffle() |> Enum.map(&user/1)
    started = now()
    chunks = Enum.chunk_every(ids, 10_000)
    Enum.each(chunks, fn ids -> :ok = ReadStates.load(@name, ids) end)
    seconds = (now() - started) / 1_000_000
    send(other.pid, :stop)
    served = Task.await(other, :infinity)
    %{states: states} = ReadStates.stats(@name)
    ^states = users * @per_user
    Supervisor.stop(instance, :normal, :infinity)
    {states / seconds, served}
  end

  # A user connects, whoever he is, every few milliseconds.
  defp serve(users, times) do
    receive do
      :stop -> times
    after
      5 ->
        started = now()
        {:ok, [_ | _]} = ReadStates.list(@name, user(:rand.uniform(users)))
        serve(users, [now() - started | times])
    end
  end

  defp show_served([]), do: :ok

  defp show_served(times) do
    [median, p99, max] = percentiles(times)

    IO.puts(
      "list/2 of others meanwhile: #{length(times)} calls, median #{median} us, p99 #{p99} us, most #{max} us"
    )
  end

  defp percentiles(times) do
    sorted = Enum.sort(times)
    count = length(sorted)
    Enum.map([0.5, 0.99, 1.0], &Enum.at(sorted, max(ceil(count * &1) - 1, 0)))
  end

  defp write(nil, _states, _scan, _load, _served), do: :ok

  defp write(path, states, scan, load, served) do
    figures =
      [{"Local, scan", "rows/s", scan}, {"load/2", "rows/s", load}] ++
        if served == [] do
          []
        else
          Enum.zip_with(["p50 us", "p99 us", "max us"], percentiles(served), fn metric, value ->
            {"list/2 meanwhile", metric, value}
          end)
        end

    lines =
      for {subject, metric, value} <- figures do
        ~s({"part":"start","work":"load of every user","subject":"#{subject}","states":#{states},) <>
          ~s("per_user":#{@per_user},"metric":"#{metric}","value":#{value / 1}}\n)
      end

    File.write!(path, lines, [:append])
  end

  defp user(u), do: snowflake(u)
  defp channel(u, i), do: snowflake(rem(u * 7_919 + i * 15_485_863, @channels))
  defp snowflake(n), do: 1 <<< 59 ||| n <<< 22 ||| (n * 2_654_435_761 &&& 0x3FFFFF)

  defp now, do: System.monotonic_time(:microsecond)

  defp show(name, rate, note) do
    IO.puts(
      String.pad_trailing(name, 26) <>
        String.pad_leading(decimal(rate / 1_000_000), 8) <> " million rows/s  " <> note
    )
  end

  defp decimal(number), do: :erlang.float_to_binary(number / 1, decimals: 2)
end

ReadStates.Bench.Start.run(System.argv())
