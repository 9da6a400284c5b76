defmodule ReadStates.Drainer do
  @moduledoc false
  # The first process of an instance to be stopped: refuses further writes and commits
  # everything, while all the others still work.

  use GenServer

  require Logger

  alias ReadStates.{Flush, Instance, Keeper, Native}

  def start_link(name) do
    GenServer.start_link(__MODULE__, name, name: Instance.drainer(name))
  end

  def child_spec(options) do
    %{
      id: __MODULE__,
      start: {__MODULE__, :start_link, [options.name]},
      shutdown: options.drain_timeout + 5_000
    }
  end

  @impl true
  def init(name) do
    Process.flag(:trap_exit, true)
    instance = Instance.fetch!(name)
    Native.close(instance.engine, false)
    {:ok, instance}
  end

  @impl true
  def handle_info(_message, instance), do: {:noreply, instance}

  @impl true
  def terminate(reason, instance) do
    if Keeper.orderly?(reason) do
      Native.close(instance.engine, true)
      deadline = System.monotonic_time(:millisecond) + instance.options.drain_timeout

      with {:error, reason} <- drain(instance, deadline) do
        Logger.error("#{inspect(instance.name)} could not commit everything: #{inspect(reason)}")
      end
    end
  end

  # A store or a disk that fails is tried again until the time is up.
  defp drain(instance, deadline) do
    with {:error, reason} = error <- Flush.run(instance, deadline) do
      if again?(reason, instance) and System.monotonic_time(:millisecond) < deadline do
        Process.sleep(50)
        drain(instance, deadline)
      else
        error
      end
    end
  end

  defp again?(:store_unavailable, _instance), do: true
  # It may be that what is left of an earlier life cannot be read: it stays in the journal.
  defp again?(:journal_failed, instance), do: not Native.is_recovering(instance.engine)
  defp again?(_reason, _instance), do: false
end
