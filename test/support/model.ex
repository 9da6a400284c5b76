defmodule ReadStates.Model do
  @moduledoc """
  What the operations mean, on plain maps: `users` is
  `%{user => %{{kind, channel} => {last_message_id, %{counter => count}}}}`, without users who have no read state.
  """

  alias ReadStates.{ReadState, Row}

  defstruct names: [:mention_count], users: %{}

  @max_count 0xFFFF_FFFF

  @doc "Carries out the operations of `ReadStates.update/2`, in their order."
  def update(model, operations), do: Enum.reduce(operations, model, &operation(&2, &1))

  @doc "Carries out one operation."
  def operation(model, {:delete, user}), do: put_states(model, user, %{})

  def operation(model, operation) do
    [_tag, user, channel | arguments] = Tuple.to_list(operation)
    channel = channel(channel)
    states = Map.get(model.users, user, %{})

    case changed(elem(operation, 0), arguments, states[channel], model.names) do
      nil -> put_states(model, user, Map.delete(states, channel))
      state -> put_states(model, user, Map.put(states, channel, state))
    end
  end

  @doc "As `ReadStates.get/3`."
  def get(model, user, channel) do
    channel = channel(channel)
    read_state({channel, model.users[user][channel] || unread(model.names)})
  end

  @doc "As `ReadStates.list/3`."
  def list(model, user, opts \\ []) do
    states = model.users |> Map.get(user, %{}) |> Enum.sort() |> Enum.map(&read_state/1)

    Enum.reduce([:after, :nonzero, :limit], states, fn option, states ->
      case {option, opts[option]} do
        {_option, nil} -> states
        {:after, channel} -> Enum.filter(states, &({&1.kind, &1.channel} > channel(channel)))
        {:nonzero, counter} -> Enum.filter(states, &(&1.counters[counter] > 0))
        {:limit, limit} -> Enum.take(states, limit)
      end
    end)
  end

  @doc "As `ReadStates.total/3`."
  def total(model, user, counter) do
    Enum.sum(for state <- list(model, user), do: state.counters[counter])
  end

  @doc "As the call of `ReadStates.Call`, which reads, returns it behind `:ok`."
  def answer(model, {:get, user, channel}), do: get(model, user, channel)
  def answer(model, {:list, user}), do: list(model, user)
  def answer(model, {:total, user, counter}), do: total(model, user, counter)

  @doc "What the rows among a store's entries amount to."
  def of_entries(entries, names) do
    for %Row{} = row <- entries, reduce: %__MODULE__{names: names} do
      model ->
        states = Map.get(model.users, row.user, %{})
        channel = {row.kind, row.channel}
        false = Map.has_key?(states, channel)
        state = {row.last_message_id, Map.new(Enum.zip(names, row.counters))}
        put_states(model, row.user, Map.put(states, channel, state))
    end
  end

  defp changed(:ack, [message], before, names) do
    {last, _counters} = before = before || unread(names)
    if message > last, do: {message, zeros(names)}, else: before
  end

  defp changed(tag, [message, by], before, names) when tag in [:increment, :decrement] do
    changed(tag, [message, by, hd(names)], before, names)
  end

  defp changed(:increment, [message, by, counter], before, names) do
    count(before || unread(names), message, counter, &min(&1 + by, @max_count))
  end

  defp changed(:decrement, [_message, _by, _counter], nil, _names), do: nil

  defp changed(:decrement, [message, by, counter], before, _names) do
    count(before, message, counter, &max(&1 - by, 0))
  end

  defp changed(:put, [message, counters], _before, names) do
    {message, Enum.into(counters, zeros(names))}
  end

  defp changed(:delete, [], _before, _names), do: nil

  defp count({last, counters}, message, counter, fun) when message > last do
    {last, Map.update!(counters, counter, fun)}
  end

  defp count(before, _message, _counter, _fun), do: before

  defp put_states(model, user, states) when states == %{} do
    %{model | users: Map.delete(model.users, user)}
  end

  defp put_states(model, user, states), do: %{model | users: Map.put(model.users, user, states)}

  defp unread(names), do: {0, zeros(names)}
  defp zeros(names), do: Map.new(names, &{&1, 0})

  defp channel({kind, id}), do: {kind, id}
  defp channel(id), do: {0, id}

  defp read_state({{kind, channel}, {last, counters}}) do
    %ReadState{kind: kind, channel: channel, last_message_id: last, counters: counters}
  end
end
