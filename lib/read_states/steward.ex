defmodule ReadStates.Steward do
  @moduledoc false
  # Looks after the engine when a call has found something to do that is not for a caller's time,
  # and reports what the engine only counts.

  use GenServer

  alias ReadStates.{Instance, Native, Restart, Stats, Telemetry}

  @tick 1_000
  # Between two rounds: what cannot be evicted now is being committed, which takes a moment.
  @pause 20

  def start_link(name) do
    GenServer.start_link(__MODULE__, name, name: Instance.steward(name))
  end

  @impl true
  def init(name) do
    instance = Instance.fetch!(name)
    Process.send_after(self(), :tick, @tick)
    {:ok, %{instance: instance, reported: nil, attending: false}, {:continue, :begin}}
  end

  @impl true
  def handle_continue(:begin, %{instance: %{engine: engine}} = state) do
    {:noreply, attend(%{state | reported: Stats.of(engine)})}
  end

  # The engine says only once that it wants attention, until it gets it.
  @impl true
  def handle_info(:wake, %{attending: true} = state), do: {:noreply, state}

  def handle_info(:wake, state) do
    Process.send_after(self(), :attend, @pause)
    {:noreply, tend(%{state | attending: true})}
  end

  def handle_info(:attend, state), do: {:noreply, attend(%{state | attending: false})}

  # Attends to it too if nobody has said so, for who was to say it may have been killed.
  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, @tick)
    state = if state.attending, do: tend(state), else: attend(state)
    {:noreply, report(state)}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, _state), do: Restart.delay(reason)

  defp attend(%{instance: %{engine: engine}} = state) do
    Native.attend(engine)
    tend(state)
  end

  defp tend(%{instance: %{name: name, engine: engine}} = state) do
    # Not there without a journal. It may wait for the disk for long.
    Instance.wake_idle(Instance.archivist(name))

    # So that writes are refused only where the store does not keep up, not because nothing was due.
    if Native.wants_dirty_memory(engine), do: Native.make_due(engine)
    Instance.wake_all(name, &Instance.loader/2)
    Native.tidy(engine)

    # What could not be evicted has to be committed. Otherwise what falls due is committed with the next tick, all of it at once.
    if Native.wants_commits(engine), do: Instance.wake_all(name, &Instance.committer/2)
    state
  end

  defp report(%{instance: %{telemetry: false}} = state), do: state

  defp report(%{instance: instance, reported: before} = state) do
    stats = Stats.of(instance.engine)
    refused = stats.overloads - before.overloads
    users = stats.evictions - before.evictions

    if users > 0 do
      states = stats.evicted_states - before.evicted_states
      Telemetry.execute(instance, :evict, %{users: users, states: states}, %{})
    end

    if refused > 0 do
      measurements = %{refused: refused, dirty_memory: stats.dirty_memory}
      Telemetry.execute(instance, :overload, measurements, %{})
    end

    %{state | reported: stats}
  end
end
