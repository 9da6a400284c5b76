defmodule ReadStates.Call do
  @moduledoc """
  A call of the public API as a term: its function and its arguments but the instance's name.

  An operation of `ReadStates.update/2` is the call of the function it is named after, for one user or, as only
  `:increment` and `:decrement` can be, for a list of them. The others are `{:update, operations}`, `{:get, user, channel}`,
  `{:list, user}`, `{:total, user, counter}`, `{:load, users}` and `{:commit}`.
  """

  @doc "Makes the call, and returns what it returns."
  def carry_out(name, {tag, user, channel, message, by, counter}) do
    apply(ReadStates, tag, [name, user, channel, message, [by: by, counter: counter]])
  end

  def carry_out(name, {tag, user, channel, message, by}) when tag in [:increment, :decrement] do
    apply(ReadStates, tag, [name, user, channel, message, [by: by]])
  end

  def carry_out(name, call) do
    [tag | arguments] = Tuple.to_list(call)
    apply(ReadStates, tag, [name | arguments])
  end

  @doc "The operations that it carries out, each on one user; none if it only reads."
  def operations({:update, operations}), do: operations

  def operations(call) when elem(call, 0) in [:get, :list, :total, :load, :commit], do: []

  def operations(call) do
    case elem(call, 1) do
      users when is_list(users) -> for user <- users, do: put_elem(call, 1, user)
      _user -> [call]
    end
  end
end
