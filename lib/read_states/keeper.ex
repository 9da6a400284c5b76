defmodule ReadStates.Keeper do
  @moduledoc false
  # Opens the instance before all other processes of it, and closes it after them. Only an
  # orderly stop closes, which the drainer has begun: when the supervisor is killed, or gives up
  # because one of its children could not start, the next one takes the engine up.

  use GenServer

  require Logger

  alias ReadStates.{Instance, Native}

  def start_link(options) do
    GenServer.start_link(__MODULE__, options, name: Instance.keeper(options.name))
  end

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)

    case Instance.open(options) do
      {:ok, instance} -> {:ok, instance}
      {:error, reason} -> {:stop, reason}
    end
  end

  @impl true
  def handle_info(_message, instance), do: {:noreply, instance}

  @impl true
  def terminate(reason, instance) do
    if orderly?(reason) and Native.is_closed(instance.engine) do
      with {:error, {:uncommitted, users}} <- Instance.close(instance) do
        Logger.error(
          "#{inspect(instance.name)} has stopped with uncommitted read states of #{users} users. " <>
            kept(instance.options.journal)
        )
      end
    end
  end

  defp kept(nil),
    do: "They are kept in memory until it is started again in this VM, and lost with the VM."

  defp kept(%{path: path}),
    do: "They are in its journal in #{path}, and it commits them when it is started again."

  # As a supervisor stops. One that is stopped in another way is restarted.
  def orderly?(:shutdown), do: true
  def orderly?({:shutdown, _reason}), do: true
  def orderly?(_reason), do: false
end
