defmodule ReadStates.Instance do
  @moduledoc false
  # What a call on an instance needs, in :persistent_term: so the death of any process loses
  # nothing, and a restarted supervisor finds the live engine again.

  require Logger

  alias ReadStates.{Argument, Journal, Native, Options, Secret, Stats}

  # `zeros` are the counters of a read state that has none above 0.
  @enforce_keys [:name, :options, :engine, :store, :counters, :zeros, :load_timeout, :telemetry]
  defstruct @enforce_keys

  # Parts of an instance that load and commit independently of each other.
  @partitions 2
  @shards 256
  @load_queue 100_000

  def partitions, do: @partitions

  # Process names. There are as many as there are names of instances, so the atoms are bounded.
  def loader(name, partition), do: Module.concat(name, "Loader#{partition}")
  def committer(name, partition), do: Module.concat(name, "Committer#{partition}")
  def steward(name), do: Module.concat(name, Steward)
  def tasks(name), do: Module.concat(name, Tasks)
  def keeper(name), do: Module.concat(name, Keeper)
  def drainer(name), do: Module.concat(name, Drainer)
  def syncer(name), do: Module.concat(name, Syncer)
  def archivist(name), do: Module.concat(name, Archivist)
  def recoverer(name), do: Module.concat(name, Recoverer)

  def processes(name) do
    [
      keeper(name),
      tasks(name),
      steward(name),
      drainer(name),
      recoverer(name),
      syncer(name),
      archivist(name)
    ] ++
      for(
        partition <- 0..(@partitions - 1),
        role <- [&loader/2, &committer/2],
        do: role.(name, partition)
      )
  end

  def fetch!(name) when is_atom(name) do
    find(name) ||
      raise ArgumentError, "name must be that of a running instance, got: #{inspect(name)}"
  end

  def fetch!(name), do: Argument.invalid!(:name, name, "the name of an instance, an atom")

  def find(name), do: :persistent_term.get(key(name), nil)

  # Nobody else's, as a name alone may be: many keep something under the name of their module. A pair takes half as
  # long to look for as a tuple.
  def key(name), do: [ReadStates | name]

  # Opens the store and makes an engine, or takes up those that a supervisor which was killed, or
  # a shutdown which could not commit everything, has left.
  def open(%Options{name: name} = options) do
    case find(name) || left(name) do
      nil -> open_new(options)
      instance -> adopt(instance, options)
    end
  end

  defp open_new(options) do
    with {:ok, store, floor} <- open_store(options) do
      case open_engine(options, store, floor) do
        {:ok, engine} ->
          # Looking for it in vain takes the code server a while.
          telemetry = Code.ensure_loaded?(:telemetry)
          {:ok, put(build(options, engine, store, telemetry))}

        {:error, reason} ->
          close_store(%{name: options.name, options: options, store: store})
          {:error, reason}
      end
    end
  end

  defp open_engine(options, store, floor) do
    <<writer::64, seed::64>> = :crypto.strong_rand_bytes(16)

    with {:ok, journal} <- Journal.open(options, writer) do
      engine = new_engine(options, store, floor, writer, seed, journal)

      with {:error, reason} <- Journal.recover(options, engine) do
        close_journal(options.name, engine)
        {:error, reason}
      else
        :ok -> {:ok, engine}
      end
    end
  end

  # What an engine and its store cannot change while they live.
  @fixed [:store, :counters, :eviction, :commit_after, :journal]

  defp adopt(%{options: before, engine: engine} = instance, options) do
    if fixed(before) == fixed(options) do
      with {:ok, store} <- reopen_store(instance) do
        # Bounds that were changed at run time stay, unless the options are new.
        if Options.bounds(before) != Options.bounds(options), do: resize(engine, options)
        Native.close(engine, false)
        {:ok, put(build(options, engine, store, instance.telemetry))}
      end
    else
      replace(instance, options)
    end
  end

  defp fixed(options), do: %{Map.take(options, @fixed) | store: Options.store(options)}

  # Other options: nothing of the old engine may be lost, so it must be clean.
  defp replace(instance, options) do
    Native.close(instance.engine, true)

    case uncommitted(instance.engine) do
      0 ->
        forget(instance)
        close_store(instance)
        close_journal(instance.name, instance.engine)
        open_new(options)

      users ->
        Native.close(instance.engine, false)
        {:error, {:uncommitted, %{users: users, options: instance.options}}}
    end
  end

  defp build(options, engine, store, telemetry) do
    %__MODULE__{
      name: options.name,
      options: options,
      engine: engine,
      store: store,
      counters: options.counters,
      zeros: Map.new(options.counters, &{&1, 0}),
      load_timeout: options.load_timeout,
      telemetry: telemetry
    }
  end

  defp new_engine(options, store, floor, writer, seed, journal) do
    config = %{
      counters: length(options.counters),
      capacity: options.capacity,
      memory: options.memory,
      dirty_memory: options.dirty_memory,
      load_queue: @load_queue,
      policy: Atom.to_string(options.eviction),
      commit_after: options.commit_after * 1_000,
      shards: @shards,
      partitions: @partitions,
      writer: writer,
      floor: floor,
      shared: shared?(store),
      seed: seed
    }

    sync = match?(%{sync_every: 0}, options.journal)
    Native.new(Native.fields(config), options.counters, journal, sync)
  end

  defp open_store(%{store: {module, opts}} = options) do
    context = Map.take(options, [:name, :counters])

    case Secret.guard(opts, fn -> module.open(Secret.unseal(opts), context) end) do
      {:ok, store, floor} -> check_floor({module, Secret.seal(store)}, floor, options)
      {:error, reason} -> {:error, reason}
      other -> {:error, {:bad_return, Secret.hide(other, opts)}}
    end
  end

  # Above a higher one no version could be given, see `MAX_LOADED_VERSION` in native/engine/src/batch.rs.
  defp check_floor(store, floor, _options) when floor in 0..0x2000_0000_0000_0000,
    do: {:ok, store, floor}

  defp check_floor(store, floor, options) do
    close_store(%{name: options.name, options: options, store: store})
    {_module, opts} = options.store
    {:error, {:bad_floor, Secret.hide(floor, opts)}}
  end

  defp shared?({module, sealed}) do
    function_exported?(module, :shared?, 1) and module.shared?(Secret.unseal(sealed))
  end

  # The store's module, and what it knows itself by.
  def store(%{store: {module, sealed}}), do: {module, Secret.unseal(sealed)}

  defp reopen_store(%{store: nil, options: options}) do
    with {:ok, store, _floor} <- open_store(options), do: {:ok, store}
  end

  defp reopen_store(%{store: store}), do: {:ok, store}

  defp resize(engine, options) do
    Native.resize(engine, Native.fields(Options.bounds(options)))
  end

  defp put(instance) do
    :persistent_term.erase(left_key(instance.name))
    :persistent_term.put(key(instance.name), instance)
    instance
  end

  # Stops an instance that refuses writes already: closes its store. What could not be committed
  # stays in memory, for the next start. The engine is left to that before the store is closed: should this process be
  # killed, the next start finds the engine, and opens the store again.
  def close(instance) do
    :persistent_term.put(left_key(instance.name), %{instance | store: nil})
    :persistent_term.erase(key(instance.name))
    close_store(instance)

    case uncommitted(instance.engine) do
      0 ->
        forget(instance)
        close_journal(instance.name, instance.engine)
        :ok

      users ->
        with {:error, text} <- Native.sync_journal(instance.engine) do
          Logger.error("#{inspect(instance.name)} cannot sync its journal: #{text}")
        end

        {:error, {:uncommitted, users}}
    end
  end

  # Then there may be something left in it, which the next start finds.
  defp close_journal(name, engine) do
    with {:error, text} <- Native.close_journal(engine) do
      Logger.error("#{inspect(name)} could not close its journal: #{text}")
    end
  end

  # Users with something uncommitted, at least.
  defp uncommitted(engine) do
    %{dirty_users: users} = Stats.of(engine)
    # Of whom the journal still has something is not counted yet.
    if Native.is_recovering(engine), do: max(users, 1), else: users
  end

  defp forget(%{name: name}) do
    :persistent_term.erase(key(name))
    :persistent_term.erase(left_key(name))
  end

  defp left(name), do: :persistent_term.get(left_key(name), nil)

  defp left_key(name), do: {ReadStates, :left, name}

  defp close_store(%{store: nil}), do: :ok

  # One that fails at this is gone all the same.
  defp close_store(%{name: name, options: %{store: {_module, opts}}} = instance) do
    {module, store} = store(instance)

    with {:error, reason} <- Secret.guard(opts, fn -> module.close(store) end) do
      Logger.warning("#{inspect(name)} could not close its store: #{inspect(reason)}")
    end
  end

  # Somebody has to look after the engine.
  def wake(%{name: name}), do: wake(steward(name))

  def wake(process) when is_atom(process), do: tell(process, :wake)

  # For one that looks at the engine whatever message it gets: those it has not read yet will do, and
  # however often it is woken while it is busy, they do not pile up.
  def wake_idle(process) do
    with pid when is_pid(pid) <- Process.whereis(process),
         {:message_queue_len, 0} <- Process.info(pid, :message_queue_len) do
      wake(process)
    end

    :ok
  end

  # Those of a role in all partitions: `&committer/2` or `&loader/2`.
  def wake_all(name, role) do
    for partition <- 0..(@partitions - 1), do: wake(role.(name, partition))
    :ok
  end

  def tell(process, message) do
    case Process.whereis(process) do
      # It looks after the engine as soon as it is restarted.
      nil -> :ok
      pid -> send(pid, message)
    end

    :ok
  end
end
