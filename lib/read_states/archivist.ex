defmodule ReadStates.Archivist do
  @moduledoc false
  # Looks after the files of an instance's journal: the next one is ready before it is needed, and
  # those go whose operations are all committed.

  use GenServer

  require Logger

  alias ReadStates.{Instance, Native, Restart}

  @tick 50
  # After a failure, for example of a full disk.
  @pause 1_000

  def start_link(name) do
    GenServer.start_link(__MODULE__, name, name: Instance.archivist(name))
  end

  @impl true
  def init(name) do
    {:ok, %{instance: Instance.fetch!(name), failing: false}, {:continue, :tick}}
  end

  @impl true
  def handle_continue(:tick, state), do: handle_info(:tick, state)

  @impl true
  def handle_info(:tick, state) do
    state = tend(state)
    Process.send_after(self(), :tick, if(state.failing, do: @pause, else: @tick))
    {:noreply, state}
  end

  def handle_info(:wake, %{failing: false} = state), do: {:noreply, tend(state)}

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, _state), do: Restart.delay(reason)

  defp tend(%{instance: %{name: name, engine: engine}} = state) do
    case Native.tend_journal(engine) do
      {:ok, hurry} ->
        # It is more than half full, and everything is due.
        if hurry, do: Instance.wake_all(name, &Instance.committer/2)
        %{state | failing: false}

      {:error, text} ->
        # Once, not each time.
        unless state.failing, do: Logger.error("#{inspect(name)}: its journal: #{text}")
        %{state | failing: true}
    end
  end
end
