defmodule ReadStates.Linearizability do
  @moduledoc """
  Whether the results of concurrent calls can be explained by an order in which they happened one after the other,
  and in which a call that had returned when another began comes before it.

  It is searched for as by Wing and Gong: of the steps that may come next one is carried out, and taken back if no
  order goes on from there. As by Lowe, where the same steps have led to the same state before, nothing is tried again.

  A call is a map:

    * `:start` and `:end` - when it began and when it had returned, by a clock that never gives a number twice. The end
      is nil for a call that never returned: its steps happened at any time after its start, or never;
    * `:steps` - what it does, in this order. Steps of others may come in between.
  """

  import Bitwise

  @doc """
  `step` returns the state after a step in a state, or nil if the step cannot have had its result there.

  Returns `:ok`; `{:error, {steps, state}}` with the most steps that can be explained, in their order, and the state
  after them; or `:undecided` if it has come to so many pairs of steps and state without finding out.
  """
  def check(calls, state, step, most \\ 1_000_000) do
    {waiting, _bits} =
      calls
      |> Enum.reject(&(&1.steps == []))
      |> Enum.sort_by(& &1.start)
      |> Enum.map_reduce(0, &{Map.put(&1, :bit, &2), &2 + length(&1.steps)})

    search = %{step: step, most: most, seen: MapSet.new(), longest: {0, [], state}}

    case search(waiting, 0, [], state, search) do
      %{longest: {_length, order, state}} -> {:error, {Enum.reverse(order), state}}
      verdict -> verdict
    end
  end

  # `done` has a bit for each step that has been carried out, in `order`, and `waiting` the others.
  defp search(waiting, done, order, state, search) do
    cond do
      Enum.all?(waiting, &(&1.end == nil)) -> :ok
      MapSet.member?(search.seen, {done, state}) -> search
      MapSet.size(search.seen) >= search.most -> :undecided
      true -> go_on(waiting, done, order, state, note(search, done, order, state))
    end
  end

  defp go_on(waiting, done, order, state, search) do
    waiting
    |> next()
    |> Enum.reduce_while(search, fn call, search ->
      [first | _later] = call.steps

      with after_it when after_it != nil <- search.step.(state, first),
           done = done ||| 1 <<< call.bit,
           %{} = search <- search(take(waiting, call), done, [first | order], after_it, search) do
        {:cont, search}
      else
        nil -> {:cont, search}
        verdict -> {:halt, verdict}
      end
    end)
  end

  defp note(search, done, order, state) do
    search = %{search | seen: MapSet.put(search.seen, {done, state})}

    case search.longest do
      {longest, _order, _state} when longest >= length(order) and order != [] -> search
      _shorter -> %{search | longest: {length(order), order, state}}
    end
  end

  # Those that began before any of the others had returned. They are in the order of their starts.
  defp next(waiting, first_end \\ nil)
  # nil, an atom, is more than any number.
  defp next([call | later], first_end) when call.start < first_end,
    do: [call | next(later, min(first_end, call.end))]

  defp next(_later, _first_end), do: []

  defp take([%{bit: bit} = call | later], %{bit: bit}) do
    case call.steps do
      [_last] -> later
      [_first | rest] -> [%{call | steps: rest, bit: bit + 1} | later]
    end
  end

  defp take([call | later], taken), do: [call | take(later, taken)]
end
