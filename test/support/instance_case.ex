defmodule ReadStates.InstanceCase do
  @moduledoc """
  Tests of instances. Each has a `name` of its own in its context, and starts instances with `start!/2`.
  """

  use ExUnit.CaseTemplate

  alias ReadStates.{FaultyStore, Instance, Model, StoreContract}
  alias ReadStates.Store.Memory

  using do
    quote do
      import ReadStates.Eventually
      import ReadStates.InstanceCase

      alias ReadStates.{FaultyStore, Model, ReadState}
      alias ReadStates.Store.{Local, Memory}

      @moduletag :capture_log
      @max 0xFFFF_FFFF_FFFF_FFFF
    end
  end

  setup context do
    %{name: Module.concat(context.module, context.test)}
  end

  @doc "Starts an instance with the store Memory, if `opts` name no other. Returns its supervisor."
  def start!(name, opts \\ []), do: start_supervised!({ReadStates, options(name, opts)})

  @doc "The options of `start!/2`: machines that run tests may be slow."
  def options(name, opts) do
    Keyword.merge([name: name, store: Memory, load_timeout: 60_000], opts)
  end

  @doc "Stops an instance."
  def stop!(name), do: stop_supervised!({ReadStates, name})

  @doc "Stops and starts an instance whose store keeps its data."
  def restart!(name, opts) do
    stop!(name)
    start!(name, opts)
  end

  @doc "Starts the process that a `ReadStates.FaultyStore` asks for its faults."
  def start_faults! do
    start_supervised!(%{id: make_ref(), start: {FaultyStore, :start_link, [self()]}})
  end

  @doc "The options of a store with these faults in front of a new Memory, which keeps its data."
  def faulty(faults), do: {FaultyStore, faults: faults, store: {Memory, data: Memory.new()}}

  @doc "What the store of a running instance has, see `ReadStates.Model`."
  def stored(name) do
    instance = Instance.fetch!(name)
    {module, store} = Instance.store(instance)
    Model.of_entries(StoreContract.scan(module, store), instance.counters).users
  end

  @doc "What the instance has of these users, see `ReadStates.Model`."
  def read(name, users) do
    for user <- users, states = states(name, user), states != %{}, into: %{}, do: {user, states}
  end

  defp states(name, user) do
    {:ok, states} = ReadStates.list(name, user)
    Map.new(states, &{{&1.kind, &1.channel}, {&1.last_message_id, &1.counters}})
  end

  @doc "The length of the longest mailbox of the instance's processes."
  def longest_mailbox(name) do
    Enum.max(
      for process <- [name | Instance.processes(name)],
          pid = Process.whereis(process),
          {:message_queue_len, length} <- [Process.info(pid, :message_queue_len)],
          do: length
    )
  end

  @doc "How many wait for a commit of each partition."
  def flushes(name) do
    for partition <- 0..(Instance.partitions() - 1) do
      %{flushes: flushes} = :sys.get_state(Instance.committer(name, partition), :infinity)
      :queue.len(flushes)
    end
  end

  @doc "Evicts whoever is clean, by capacity."
  def evict(name) do
    %{capacity: capacity} = ReadStates.stats(name)
    :ok = ReadStates.resize(name, capacity: 1)
    :ok = ReadStates.resize(name, capacity: capacity)
  end

  @doc "Commits everything and evicts everybody but one."
  def commit_and_evict!(name) do
    :ok = ReadStates.commit(name)
    ReadStates.Eventually.eventually(fn -> evict(name) && ReadStates.stats(name).users <= 1 end)
  end
end
