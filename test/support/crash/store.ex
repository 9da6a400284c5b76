defmodule ReadStates.Crash.Store do
  @moduledoc """
  The store Local, which says on the standard output when the VM is in the phase in which it is to be killed, waits a
  moment for it where the phase would be over too soon, and says when it is over.
  """

  @behaviour ReadStates.Store

  alias ReadStates.Store.Local

  @moment 50

  @doc "From now on it says so: the VM is under load."
  def begin, do: :persistent_term.put(__MODULE__, :load)

  @doc "The instance is about to stop."
  def stop, do: :persistent_term.put(__MODULE__, :stop)

  defp under?(state), do: :persistent_term.get(__MODULE__, nil) == state

  @impl true
  def open(opts, context) do
    {phase, opts} = Keyword.pop!(opts, :phase)

    with {:ok, store, floor} <- Local.open(opts, context), do: {:ok, {phase, store}, floor}
  end

  @impl true
  def load({_phase, store}, users, cursor), do: Local.load(store, users, cursor)

  @doc false
  def load_into({_phase, store}, load), do: Local.load_into(store, load)

  @impl true
  def commit({:full, _store}, _batch), do: {:error, :away}

  def commit({phase, store}, batch) do
    if phase == :commit_begun and under?(:load), do: within(phase, &wait/0)
    commit = fn -> Local.commit(store, batch) end

    result =
      cond do
        phase == :committing and under?(:load) ->
          within(phase, commit)

        phase == :draining and under?(:stop) ->
          within(phase, fn -> sometimes_wait() && commit.() end)

        true ->
          commit.()
      end

    if phase == :commit_written and under?(:load), do: within(phase, &wait/0)
    result
  end

  @impl true
  def scan({_phase, store}, cursor), do: Local.scan(store, cursor)

  @impl true
  def close({:closing, store}) do
    within(:closing, fn -> sometimes_wait() && Local.close(store) end)
  end

  def close({_phase, store}), do: Local.close(store)

  defp within(phase, fun) do
    IO.puts(to_string(phase))
    result = fun.()
    IO.puts("#{phase} is over")
    result
  end

  defp wait, do: Process.sleep(@moment)

  defp sometimes_wait, do: Process.sleep(:rand.uniform(2) * @moment - @moment)
end
