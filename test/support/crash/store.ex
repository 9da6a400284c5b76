defmodule ReadStates.Crash.Store do
  @moduledoc """
  The store Local, which says on the standard output when the VM is in the phase in which it is to be killed, and
  waits a moment for it where the phase would be over too soon.
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

    with {:ok, store, floor} <- Local.open(opts, context) do
      # The journal is read next.
      if phase == :recovering, do: IO.puts("recovering")
      {:ok, {phase, store}, floor}
    end
  end

  @impl true
  def load({_phase, store}, users, cursor), do: Local.load(store, users, cursor)

  @doc false
  def load_into({_phase, store}, load), do: Local.load_into(store, load)

  @impl true
  def commit({:full, _store}, _batch), do: {:error, :away}

  def commit({phase, store}, batch) do
    cond do
      phase == :commit_begun and under?(:load) -> say(phase, @moment)
      phase == :committing and under?(:load) -> say(phase, 0)
      phase == :draining and under?(:stop) -> say(phase, :rand.uniform(2) * @moment - @moment)
      true -> :ok
    end

    result = Local.commit(store, batch)
    if phase == :commit_written and under?(:load), do: say(phase, @moment)
    result
  end

  @impl true
  def scan({_phase, store}, cursor), do: Local.scan(store, cursor)

  @impl true
  def close({phase, store}) do
    if phase == :closing, do: say(phase, :rand.uniform(2) * @moment - @moment)
    Local.close(store)
  end

  defp say(phase, wait) do
    IO.puts(to_string(phase))
    Process.sleep(wait)
  end
end
