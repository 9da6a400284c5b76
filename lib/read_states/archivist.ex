defmodule ReadStates.Archivist do
  @moduledoc false
  # Looks after the files of an instance's journal: the next one is ready before it is needed, and
  # those go whose operations are all committed.

  use GenServer

  require Logger

  alias ReadStates.{Committer, Instance, Native}

  @tick 50

  def start_link(name) do
    GenServer.start_link(__MODULE__, name, name: Instance.archivist(name))
  end

  @impl true
  def init(name) do
    {:ok, %{instance: Instance.fetch!(name), failing: false}, {:continue, :tend}}
  end

  @impl true
  def handle_continue(:tend, state), do: {:noreply, tend(state)}

  @impl true
  def handle_info(:tend, state), do: {:noreply, tend(state)}

  def handle_info(_other, state), do: {:noreply, state}

  defp tend(%{instance: %{name: name, engine: engine}} = state) do
    Process.send_after(self(), :tend, @tick)

    case Native.tend_journal(engine) do
      {:ok, hurry} ->
        # It is more than half full, and everything is due.
        if hurry, do: Committer.wake_all(name)
        %{state | failing: false}

      {:error, text} ->
        # Once, not each time.
        unless state.failing, do: Logger.error("#{inspect(name)}: its journal: #{text}")
        %{state | failing: true}
    end
  end
end
