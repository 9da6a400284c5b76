defmodule ReadStates.Bench.ReadStatesSubject do
  @moduledoc false
  # An instance of this library. Everything is resident; committers go on in the background as in an application.

  @behaviour ReadStates.Bench.Subject

  alias ReadStates.Bench.{DiscardingStore, ResidentMemory, World}

  @impl true
  def name, do: "ReadStates"

  @impl true
  def most, do: :infinity

  @impl true
  def calls, do: [:ack, :increment, :update, :get, :mention, :list, :total]

  @impl true
  def start(world) do
    # Code is not what the read states take.
    {:ok, modules} = :application.get_key(:read_states, :modules)
    Enum.each([:crypto | modules], &Code.ensure_loaded/1)

    # So much that nothing is evicted and no write refused, even with every state dirty.
    states = World.states(world)
    memory = max(200 * states, 512 * 1024 * 1024)

    {:ok, _pid} =
      ReadStates.start_link(
        name: __MODULE__,
        store: DiscardingStore,
        capacity: 2 * states,
        memory: memory,
        dirty_memory: memory
      )

    # Once in vain, so that what the VM itself needs to fill it is not taken for what the read states take.
    World.each_rows(world, &World.acks/1)
    before = ResidentMemory.bytes()

    World.each_rows(world, fn rows ->
      # As where users connect before they read; what is kept of operations on users who are not loaded yet would
      # leave the allocator with memory that it does not give back.
      :ok = ReadStates.load(__MODULE__, Enum.uniq(for {{user, _}, _, _} <- rows, do: user))
      :ok = ReadStates.update(__MODULE__, World.acks(rows))
    end)

    :ok = ReadStates.commit(__MODULE__)
    %{states: ^states, evictions: 0, overloads: 0} = ReadStates.stats(__MODULE__)
    %{grown: before && ResidentMemory.bytes() - before}
  end

  @impl true
  def bytes(%{grown: grown}) do
    resident = if grown, do: [{"bytes/state", grown}], else: []
    resident ++ [{"bytes/state by stats", ReadStates.stats(__MODULE__).memory}]
  end

  @impl true
  def runs(_instance, :ack) do
    [
      {"",
       &Enum.each(&1, fn {:ack, user, channel, message} ->
         ReadStates.ack(__MODULE__, user, channel, message)
       end)}
    ]
  end

  def runs(_instance, :increment) do
    [
      {"",
       &Enum.each(&1, fn {:increment, user, channel, message, 1} ->
         ReadStates.increment(__MODULE__, user, channel, message)
       end)}
    ]
  end

  def runs(_instance, :update),
    do: [{"", &Enum.each(&1, fn operations -> ReadStates.update(__MODULE__, operations) end)}]

  def runs(_instance, :get) do
    [
      {"", &Enum.each(&1, fn {user, channel} -> ReadStates.get(__MODULE__, user, channel) end)}
    ]
  end

  def runs(_instance, :mention) do
    [
      {"",
       &Enum.each(&1, fn {users, channel, message} ->
         ReadStates.increment(__MODULE__, users, channel, message)
       end)}
    ]
  end

  def runs(_instance, :list) do
    [{"", &Enum.each(&1, fn user -> ReadStates.list(__MODULE__, user) end)}]
  end

  def runs(_instance, :total) do
    [{"", &Enum.each(&1, fn user -> ReadStates.total(__MODULE__, user, :mention_count) end)}]
  end
end
