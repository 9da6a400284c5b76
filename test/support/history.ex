defmodule ReadStates.History do
  @moduledoc """
  A record of calls from many processes: when each began and ended, and what it returned.
  """

  alias ReadStates.{Call, Linearizability, Model}

  @enforce_keys [:clock, :calls]
  defstruct @enforce_keys

  @doc "An empty one, that goes with the calling process."
  def new do
    calls = :ets.new(__MODULE__, [:public, write_concurrency: true])
    %__MODULE__{clock: :atomics.new(1, []), calls: calls}
  end

  @doc "Makes the call on the instance and returns its result. A process that is killed leaves a call without a result."
  def call(history, name, call) do
    start = tick(history)
    :ets.insert(history.calls, {start, call, nil, nil})
    result = Call.carry_out(name, call)
    # Before anything is done with the result.
    finish = tick(history)
    :ets.insert(history.calls, {start, call, finish, result})
    result
  end

  defp tick(history), do: :atomics.add_get(history.clock, 1, 1)

  @doc "How many calls have no result."
  def unfinished(history), do: :ets.select_count(history.calls, [{{:_, :_, nil, :_}, [], [true]}])

  @doc """
  Whether the results are those of an instance that had nothing of these users: `:ok`, or `{:error, text}`.

  Users have nothing to do with each other, so each is looked at alone. A batch is not promised to be seen as a whole:
  each of its operations is a step.
  """
  def check(history, names) do
    calls = history.calls |> :ets.tab2list() |> Enum.sort() |> Enum.map(&call/1)
    users = for %{steps: steps} <- calls, step <- steps, uniq: true, do: user(step)
    Enum.find_value(users, :ok, &check_user(&1, calls, names))
  end

  defp check_user(user, calls, names) do
    calls =
      for call <- calls,
          steps = Enum.filter(call.steps, &(user(&1) == user)),
          steps != [],
          do: %{call | steps: steps}

    case Linearizability.check(calls, %Model{names: names}, &step/2) do
      :ok ->
        nil

      verdict ->
        {:error,
         "user #{user}: #{inspect(verdict, limit: :infinity)}, of these calls:\n#{lines(calls)}"}
    end
  end

  defp lines(calls) do
    Enum.map_join(
      calls,
      "\n",
      &"#{&1.start} to #{&1.end || "?"}: #{inspect(&1.steps, limit: :infinity)}"
    )
  end

  # As a call of ReadStates.Linearizability: the steps are operations, or a read and its answer.
  defp call({start, call, finish, result}) do
    case result do
      {:ok, answer} -> %{start: start, end: finish, steps: [{call, answer}]}
      :ok -> %{start: start, end: finish, steps: Call.operations(call)}
      # Killed, or not synced: it may have been carried out all the same.
      nil -> %{start: start, end: nil, steps: Call.operations(call)}
      {:error, :journal_failed} -> %{start: start, end: nil, steps: Call.operations(call)}
      {:error, _reason} -> %{start: start, end: finish, steps: []}
    end
  end

  defp user({read, _answer}) when is_tuple(read), do: elem(read, 1)
  defp user(operation), do: elem(operation, 1)

  defp step(model, {read, answer}) when is_tuple(read) do
    if Model.answer(model, read) == answer, do: model
  end

  defp step(model, operation), do: Model.operation(model, operation)
end
