defmodule ReadStates.Supervisor do
  @moduledoc false
  # The processes of an instance, in the order in which they need each other; they stop in the
  # reverse order. None of them keeps anything that would be lost with it.

  use Supervisor

  alias ReadStates.{
    Archivist,
    Committer,
    Drainer,
    Instance,
    Keeper,
    Library,
    Loader,
    Native,
    Options,
    Recoverer,
    Steward,
    Syncer
  }

  # A store that is away crashes none of them, and those that raise wait before they die, see Restart; this is for
  # those who kill processes to see what happens.
  @max_restarts 1_000
  @max_seconds 1

  def start_link(%Options{} = options) do
    case Library.available(Native) do
      :ok -> start(options)
      {:error, text} -> {:error, {:not_loaded, "the library cannot be loaded: #{text}"}}
    end
  end

  defp start(%{name: name} = options) do
    await_orphans(name)

    case Supervisor.start_link(__MODULE__, options, name: name) do
      # What the store says of its options.
      {:error, {:shutdown, {:failed_to_start_child, Keeper, {%ArgumentError{} = error, _trace}}}} ->
        raise error

      {:error, {:shutdown, {:failed_to_start_child, Keeper, reason}}} ->
        {:error, reason}

      result ->
        result
    end
  end

  # The processes of a supervisor that was killed die with it, but a moment later.
  defp await_orphans(name) do
    if Process.whereis(name) == nil do
      for process <- Instance.processes(name), pid = Process.whereis(process) do
        monitor = Process.monitor(pid)

        receive do
          {:DOWN, ^monitor, :process, ^pid, _reason} -> :ok
        after
          5_000 -> Process.demonitor(monitor, [:flush])
        end
      end
    end
  end

  @impl true
  def init(%Options{name: name} = options) do
    partitions = 0..(Instance.partitions() - 1)

    children =
      [
        Supervisor.child_spec({Keeper, options}, shutdown: :infinity),
        {Task.Supervisor, name: Instance.tasks(name)}
      ] ++
        journal(options) ++
        for(partition <- partitions, do: part(Loader, name, partition)) ++
        for(partition <- partitions, do: part(Committer, name, partition)) ++
        [{Steward, name}, {Drainer, options}]

    Supervisor.init(children,
      strategy: :one_for_one,
      max_restarts: @max_restarts,
      max_seconds: @max_seconds
    )
  end

  defp journal(%{journal: nil}), do: []
  defp journal(%{name: name}), do: [{Archivist, name}, {Syncer, name}, {Recoverer, name}]

  defp part(module, name, partition) do
    Supervisor.child_spec({module, {name, partition}}, id: {module, partition})
  end
end
