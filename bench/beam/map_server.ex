defmodule ReadStates.Bench.MapServer do
  @moduledoc false
  # What one writes first: a process with a map of users, each with a map of channels, and an LRU list of the users.

  use GenServer

  alias ReadStates.ReadState

  # `users` is %{user => {tick, %{channel => {last_message_id, mention_count}}}}, and `ticks` has the users by the
  # tick at which each was last used.
  defstruct [:capacity, users: %{}, ticks: :gb_trees.empty(), tick: 0, states: 0]

  def start_link(capacity), do: GenServer.start_link(__MODULE__, capacity)

  # Operations are those of ReadStates.update/2.
  def apply(server, operation), do: GenServer.call(server, operation)
  def update(server, operations), do: GenServer.call(server, {:update, operations})
  def get(server, user, channel), do: GenServer.call(server, {:get, user, channel})
  def list(server, user), do: GenServer.call(server, {:list, user})
  def total(server, user), do: GenServer.call(server, {:total, user})

  def mention(server, users, channel, message) do
    GenServer.call(server, {:mention, users, channel, message})
  end

  @impl true
  def init(capacity), do: {:ok, %__MODULE__{capacity: capacity}}

  @impl true
  def handle_call({:update, operations}, _from, state) do
    {:reply, :ok, evict(Enum.reduce(operations, state, &change/2))}
  end

  def handle_call({:mention, users, channel, message}, _from, state) do
    state = Enum.reduce(users, state, &change({:increment, &1, channel, message, 1}, &2))
    {:reply, :ok, evict(state)}
  end

  def handle_call({:get, user, channel}, _from, state) do
    {channels, state} = use_user(state, user)
    {last, mentions} = Map.get(channels, channel, {0, 0})
    {:reply, {:ok, read_state(channel, last, mentions)}, state}
  end

  def handle_call({:list, user}, _from, state) do
    {channels, state} = use_user(state, user)

    list =
      for {channel, {last, mentions}} <- Enum.sort(channels),
          do: read_state(channel, last, mentions)

    {:reply, {:ok, list}, state}
  end

  def handle_call({:total, user}, _from, state) do
    {channels, state} = use_user(state, user)
    total = for {_channel, {_last, mentions}} <- channels, reduce: 0, do: (sum -> sum + mentions)
    {:reply, {:ok, total}, state}
  end

  def handle_call(operation, _from, state), do: {:reply, :ok, evict(change(operation, state))}

  defp change({:ack, user, channel, message}, state) do
    change(state, user, channel, fn
      {last, _mentions} when message > last -> {message, 0}
      same -> same
    end)
  end

  defp change({:increment, user, channel, message, by}, state) do
    change(state, user, channel, fn
      {last, mentions} when message > last -> {last, mentions + by}
      same -> same
    end)
  end

  defp change(state, user, channel, fun) do
    {channels, state} = use_user(state, user)
    {tick, _channels} = Map.fetch!(state.users, user)
    changed = Map.put(channels, channel, fun.(Map.get(channels, channel, {0, 0})))
    states = state.states + map_size(changed) - map_size(channels)
    %{state | users: Map.put(state.users, user, {tick, changed}), states: states}
  end

  # The channels of a user, who is now the one used last.
  defp use_user(%{users: users, ticks: ticks, tick: tick} = state, user) do
    {channels, ticks} =
      case users do
        %{^user => {before, channels}} -> {channels, :gb_trees.delete(before, ticks)}
        _absent -> {%{}, ticks}
      end

    users = Map.put(users, user, {tick, channels})
    ticks = :gb_trees.insert(tick, user, ticks)
    {channels, %{state | users: users, ticks: ticks, tick: tick + 1}}
  end

  defp evict(%{states: states, capacity: capacity} = state) when states <= capacity, do: state

  defp evict(%{users: users} = state) do
    {_tick, user, ticks} = :gb_trees.take_smallest(state.ticks)
    {{_tick, channels}, users} = Map.pop!(users, user)
    evict(%{state | users: users, ticks: ticks, states: state.states - map_size(channels)})
  end

  defp read_state(channel, last, mentions) do
    %ReadState{
      kind: 0,
      channel: channel,
      last_message_id: last,
      counters: %{mention_count: mentions}
    }
  end
end
