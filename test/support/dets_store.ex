defmodule ReadStates.DetsStore do
  @behaviour ReadStates.Store

  alias ReadStates.{Batch, Row}

  @page 10_000

  # A table of DETS is closed when its owner dies, and the process that calls open/2 may be killed
  # while the instance lives on. So the table gets an owner of its own.
  @impl true
  def open(opts, %{counters: counters}) do
    path = opts[:path] || raise ArgumentError, "path must be given"
    file = String.to_charlist(path)
    {:ok, owner} = Agent.start(fn -> :dets.open_file(make_ref(), file: file) end)

    case Agent.get(owner, & &1, :infinity) do
      {:ok, table} ->
        {:ok, %{owner: owner, table: table, counters: length(counters)}, highest(table)}

      {:error, reason} ->
        Agent.stop(owner)
        {:error, reason}
    end
  end

  @impl true
  def load(store, users, cursor) do
    if closed?(store) do
      {:error, :closed}
    else
      page =
        Enum.sort(Enum.uniq(users))
        |> Stream.flat_map(&entries(store.table, &1))
        |> Stream.reject(&(cursor != nil and place(&1) <= cursor))
        |> Stream.map(&pad(&1, store.counters))
        |> Enum.take(@page)

      next = if length(page) == @page, do: place(List.last(page))
      {:ok, Batch.new(page, store.counters), next}
    end
  end

  # In the owner, one after the other: no write to a user comes between the reading and the
  # writing of another.
  @impl true
  def commit(store, batch) do
    if closed?(store) do
      {:error, :closed}
    else
      Agent.get(store.owner, fn _ -> write(store.table, batch) end, :infinity)
    end
  end

  @impl true
  def scan(store, cursor) do
    load(store, :dets.select(store.table, [{{:"$1", :_, :_}, [], [:"$1"]}]), cursor)
  catch
    :error, :badarg -> {:error, :closed}
  end

  @impl true
  def close(store) do
    unless closed?(store), do: Agent.stop(store.owner, :normal, :infinity)
    :ok
  end

  defp closed?(store), do: not Process.alive?(store.owner)

  # An object is {user, version of the delete of the user, %{channel => the newest entry}}.
  defp write(table, batch) do
    objects =
      for {user, entries} <- Enum.group_by(batch, &user/1) do
        Enum.reduce(entries, lookup(table, user), &apply_entry/2)
      end

    with :ok <- :dets.insert(table, objects), do: :dets.sync(table)
  end

  defp lookup(table, user) do
    case :dets.lookup(table, user) do
      [object] -> object
      # Below every version.
      [] -> {user, -1, %{}}
    end
  end

  # The version rule.
  defp apply_entry({:delete, user, version}, {user, deleted, states}) when version > deleted do
    {user, version, Map.filter(states, fn {_channel, entry} -> version(entry) > version end)}
  end

  defp apply_entry({:delete, user, _version}, {user, _, _} = object), do: object

  defp apply_entry(entry, {user, deleted, states} = object) do
    # What is there of a channel is newer than the delete of the user.
    known = if state = states[channel(entry)], do: version(state), else: deleted

    if version(entry) > known do
      {user, deleted, Map.put(states, channel(entry), entry)}
    else
      object
    end
  end

  # The delete of the user first, then by channel.
  defp entries(table, user) do
    {user, deleted, states} = lookup(table, user)
    states = states |> Enum.sort() |> Enum.map(fn {_channel, entry} -> entry end)
    if deleted >= 0, do: [{:delete, user, deleted} | states], else: states
  end

  defp highest(table) do
    :dets.foldl(
      fn {_user, deleted, states}, floor ->
        Enum.max([floor, deleted | Enum.map(Map.values(states), &version/1)])
      end,
      0,
      table
    )
  end

  # An instance may be given further counters, which are 0 in the rows from before.
  defp pad(%Row{counters: counters} = row, count) do
    %{row | counters: counters ++ List.duplicate(0, count - length(counters))}
  end

  defp pad(delete, _count), do: delete

  defp place(entry), do: {user(entry), channel(entry)}

  defp user(%Row{user: user}), do: user
  defp user(delete), do: elem(delete, 1)

  defp channel(%Row{kind: kind, channel: channel}), do: {kind, channel}
  defp channel({:delete, _user, channel, _version}), do: channel
  # Before every channel.
  defp channel({:delete, _user, _version}), do: {-1, 0}

  defp version(%Row{version: version}), do: version
  defp version({:delete, _user, _channel, version}), do: version
  defp version({:delete, _user, version}), do: version
end
