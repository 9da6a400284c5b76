defmodule ReadStates.Syncer do
  @moduledoc false
  # Syncs the journal of an instance: now and then, or with `sync_every: 0` whenever somebody
  # waits for it, one sync for all who wait.

  use GenServer

  require Logger

  alias ReadStates.{Instance, Native, Restart}

  # Milliseconds that it may be away: it is restarted, unless its supervisor is gone.
  @patience 5_000
  @pause 10

  def start_link(name) do
    GenServer.start_link(__MODULE__, name, name: Instance.syncer(name))
  end

  # Returns when everything that was written before is on the disk.
  def await(%{name: name} = instance, patience \\ @patience) do
    GenServer.call(Instance.syncer(name), :sync, :infinity)
  catch
    :exit, _reason -> again(instance, patience)
  end

  # Nobody comes any more if the instance has stopped, or stops: who has written waits for the disk himself.
  defp again(%{name: name, engine: engine} = instance, patience) do
    if patience > 0 and match?(%{engine: ^engine}, Instance.find(name)) do
      Process.sleep(@pause)
      await(instance, patience - @pause)
    else
      with {:error, _text} <- Native.sync_journal(engine), do: {:error, :journal_failed}
    end
  end

  @impl true
  def init(name) do
    instance = Instance.fetch!(name)
    state = %{instance: instance, waiting: [], failing: false}
    {:ok, state, {:continue, :schedule}}
  end

  @impl true
  def handle_continue(:schedule, state) do
    schedule(state)
    {:noreply, state}
  end

  @impl true
  def handle_call(:sync, from, %{waiting: waiting} = state) do
    # Those whose messages are here already share the sync.
    if waiting == [], do: send(self(), :sync)
    {:noreply, %{state | waiting: [from | waiting]}}
  end

  @impl true
  def handle_info(:sync, state), do: {:noreply, sync(state)}

  def handle_info(:tick, state) do
    schedule(state)
    {:noreply, sync(state)}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, _state), do: Restart.delay(reason)

  defp schedule(%{instance: %{options: %{journal: %{sync_every: every}}}}) do
    if every > 0, do: Process.send_after(self(), :tick, every)
  end

  defp sync(%{instance: %{name: name, engine: engine}} = state) do
    result = Native.sync_journal(engine)

    answer =
      with {:error, text} <- result do
        # Once, not each time.
        unless state.failing,
          do: Logger.error("#{inspect(name)} cannot sync its journal: #{text}")

        {:error, :journal_failed}
      end

    Enum.each(state.waiting, &GenServer.reply(&1, answer))
    %{state | waiting: [], failing: result != :ok}
  end
end
