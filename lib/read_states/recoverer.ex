defmodule ReadStates.Recoverer do
  @moduledoc false
  # Takes up what the journal has of an earlier life, as the commits make room for it, and stops
  # when there is no more.

  use GenServer, restart: :transient

  require Logger

  alias ReadStates.{Instance, Native, Restart}

  @tick 20
  # After a failure, for example of a disk.
  @pause 1_000

  def start_link(name) do
    GenServer.start_link(__MODULE__, name, name: Instance.recoverer(name))
  end

  @impl true
  def init(name) do
    {:ok, %{instance: Instance.fetch!(name), failing: false}, {:continue, :recover}}
  end

  @impl true
  def handle_continue(:recover, state), do: recover(state)

  @impl true
  def handle_info(:recover, state), do: recover(state)

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, _state), do: Restart.delay(reason)

  defp recover(%{instance: %{name: name, engine: engine}} = state) do
    case Native.recover_more(engine) do
      {:ok, :done} ->
        wake(name)
        {:stop, :normal, state}

      {:ok, :portion} ->
        wake(name)
        later(%{state | failing: false}, @tick)

      {:ok, :waits} ->
        later(%{state | failing: false}, @tick)

      {:error, text} ->
        # Once, not each time.
        unless state.failing,
          do: Logger.error("#{inspect(name)} cannot read its journal again: #{text}")

        for partition <- 0..(Instance.partitions() - 1),
            do: Instance.tell(Instance.committer(name, partition), :recovery_failed)

        later(%{state | failing: true}, @pause)
    end
  end

  # Users who had to wait can be loaded, and those of a portion are to be committed.
  defp wake(name) do
    Instance.wake_all(name, &Instance.committer/2)
    Instance.wake_all(name, &Instance.loader/2)
  end

  defp later(state, pause) do
    Process.send_after(self(), :recover, pause)
    {:noreply, state}
  end
end
