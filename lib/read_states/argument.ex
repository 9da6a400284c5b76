defmodule ReadStates.Argument do
  @moduledoc false
  # Checks of the public functions' arguments: each returns the argument or raises an
  # ArgumentError that names it.

  @max_id 0xFFFF_FFFF_FFFF_FFFF
  @max_count 0xFFFF_FFFF
  @id "an integer from 0 to 2^64 - 1"
  @count "an integer from 0 to 2^32 - 1"
  @max_list 1_000_000

  defguardp is_id(value) when is_integer(value) and value >= 0 and value <= @max_id
  defguardp is_count(value) when is_integer(value) and value >= 0 and value <= @max_count

  def id!(_name, value) when is_id(value), do: value
  def id!(name, value), do: invalid!(name, value, @id)

  def channel!(name \\ :channel, value)
  def channel!(_name, id) when is_id(id), do: {0, id}
  def channel!(_name, {kind, id} = channel) when kind in 0..255 and is_id(id), do: channel

  def channel!(name, value),
    do: invalid!(name, value, "#{@id}, or {kind, id} with kind in 0..255")

  # Raises for the first of them that is not possible, as the engine has said of one.
  @spec invalid_ids!(term, term, term) :: no_return
  def invalid_ids!(user, channel, message \\ 0) do
    id!(:user, user)
    channel!(channel)
    id!(:message, message)
    raise "the engine refused #{inspect({user, channel, message})}"
  end

  def limit!(value) when is_integer(value) and value >= 0, do: value
  def limit!(value), do: invalid!(:limit, value, "a non-negative integer")

  def users!(users) do
    cond do
      not is_list(users) or List.improper?(users) -> invalid_users!(users, :not_a_list)
      length(users) > @max_list -> invalid_users!(users, :too_long)
      index = Enum.find_index(users, &(not is_id(&1))) -> invalid_users!(users, {:element, index})
      true -> users
    end
  end

  def by!(value) when is_count(value), do: value
  def by!(value), do: invalid!(:by, value, @count)

  # The index of a counter.
  def counter!(name \\ :counter, value, names)
  def counter!(_name, value, [value | _names]), do: 0

  def counter!(name, value, names) do
    Enum.find_index(names, &(&1 == value)) ||
      invalid!(name, value, "one of the instance's counters, #{inspect(names)}")
  end

  def counters!(value, names) do
    if counters?(value, names) do
      value
    else
      invalid!(
        :counters,
        value,
        "a map or keyword list of #{inspect(names)}, each once and #{@count}"
      )
    end
  end

  defp counters?(%{} = counters, names) when not is_struct(counters) do
    Enum.all?(counters, &counter?(&1, names))
  end

  defp counters?(counters, names) do
    Keyword.keyword?(counters) and
      Enum.all?(counters, &counter?(&1, names)) and
      Enum.uniq_by(counters, &elem(&1, 0)) == counters
  end

  defp counter?({name, count}, names), do: is_count(count) and name in names
  defp counter?(_other, _names), do: false

  # Whether it is a string that Rust takes.
  def text?(value), do: is_binary(value) and String.valid?(value)

  def integer!(name, value, least, most) do
    unless is_integer(value) and value >= least and value <= most do
      invalid!(name, value, "an integer from #{least} to #{most}")
    end
  end

  def options!(value, allowed, name \\ :opts) do
    unless Keyword.keyword?(value), do: invalid!(name, value, "a keyword list")

    names = Keyword.keys(value)

    case Enum.reject(names, &(&1 in allowed)) do
      [] -> once!(name, names)
      [unknown | _] -> invalid!(name, unknown, "one of #{inspect(allowed)}")
    end

    value
  end

  # One of two would be checked, and perhaps the other one used.
  defp once!(_name, []), do: :ok

  defp once!(name, [option | others]) do
    if option in others, do: raise(ArgumentError, "#{name} must have #{inspect(option)} once")
    once!(name, others)
  end

  # What the engine says of a list, in words.
  def invalid_list!(name, value, :not_a_list), do: invalid!(name, value, "a proper list")

  def invalid_list!(name, value, :too_long) do
    raise ArgumentError,
          "#{name} has #{length(value)} elements, at most #{@max_list} can be given at once"
  end

  def invalid_users!(users, {:element, index}) do
    invalid!("users[#{index}]", Enum.at(users, index), @id)
  end

  def invalid_users!(users, error), do: invalid_list!(:users, users, error)

  def invalid_operations!(operations, {:element, index}, names) do
    operation = Enum.at(operations, index)
    reason = operation_fault(operation, names)
    raise ArgumentError, "operations[#{index}], #{inspect(operation)}: #{reason}"
  end

  def invalid_operations!(operations, error, _names) do
    invalid_list!(:operations, operations, error)
  end

  # The engine has refused the operation; this says why.
  defp operation_fault(operation, names) do
    case operation do
      {:ack, user, channel, message} ->
        fault(user, channel, message)

      {tag, user, channel, message, by} when tag in [:increment, :decrement] ->
        fault(user, channel, message) || fault(fn -> by!(by) end)

      {tag, user, channel, message, by, counter} when tag in [:increment, :decrement] ->
        fault(user, channel, message) || fault(fn -> by!(by) end) ||
          fault(fn -> counter!(counter, names) end)

      {:put, user, channel, message, counters} ->
        fault(user, channel, message) || fault(fn -> counters!(counters, names) end)

      {:delete, user, channel} ->
        fault(user, channel, 0)

      {:delete, user} ->
        fault(user, 0, 0)

      _other ->
        "not one of the operations listed at ReadStates.update/2"
    end
  end

  defp fault(user, channel, message) do
    fault(fn ->
      id!(:user, user)
      channel!(channel)
      id!(:message, message)
    end)
  end

  defp fault(check) do
    check.()
    nil
  rescue
    error in ArgumentError -> error.message
  end

  def invalid!(name, value, allowed) do
    raise ArgumentError, "#{name} must be #{allowed}, got: #{inspect(value, limit: 5)}"
  end
end
