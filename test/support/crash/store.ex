defmodule ReadStates.Crash.Store do
  @moduledoc """
  The store Local, in which the VM is killed when it is in the phase in which it is to be; where that would be over too soon, it
  waits a moment.
  """

  @behaviour ReadStates.Store

  alias ReadStates.Crash.Killer
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
  def __load_into__({_phase, store}, load), do: Local.__load_into__(store, load)

  @impl true
  def commit({:full, _store}, _batch), do: {:error, :away}

  def commit({phase, store}, batch) do
    if phase == :commit_begun and under?(:load), do: Killer.within(phase, &wait/0)
    commit = fn -> Local.commit(store, batch) end

    result =
      cond do
        phase == :committing and under?(:load) ->
          Killer.within(phase, commit)

        phase == :draining and under?(:stop) ->
          Killer.within(phase, fn -> sometimes_wait() && commit.() end)

        true ->
          commit.()
      end

    if phase == :commit_written and under?(:load), do: Killer.within(phase, &wait/0)
    result
  end

  @impl true
  def scan({_phase, store}, cursor), do: Local.scan(store, cursor)

  @impl true
  def close({:closing, store}) do
    Killer.within(:closing, fn -> sometimes_wait() && Local.close(store) end)
  end

  def close({_phase, store}), do: Local.close(store)

  defp wait, do: Process.sleep(@moment)

  defp sometimes_wait, do: Process.sleep(:rand.uniform(2) * @moment - @moment)
end
